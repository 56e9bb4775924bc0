//! What workers write, kept in files: one for each worker, in a directory for each run of a controller or agent.
//!
//! A line of a file is: when, which stream, the task's id and its name if that is known, and what was written, with tabs in
//! between. A stream with a `+` goes on where its next line begins. Nothing is remembered here from one piece to the
//! next, so there is nothing to close, or to lose. Whoever calls this may wait for the disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kumi_core::marks::Piece;

/// A file that is longer, in bytes, makes room for a new one; the one before that goes. Arbitrary: a million lines.
const FILE_MAX: u64 = 64 << 20;
/// How many directories of earlier runs are kept where nobody has chosen the place, and for how long.
const RUNS_MAX: usize = 100;
const AGE_MAX: Duration = Duration::from_secs(14 * 24 * 3600);
/// File systems take names of 255 bytes.
const NAME_MAX: usize = 200;

/// The directory of one run. It is made when there is something to put into it.
#[derive(Clone, Debug)]
pub struct Shelf {
    /// Where it is.
    pub directory: PathBuf,
    /// Those of earlier runs beside it are removed some time.
    pub tidy: bool,
}

impl Shelf {
    /// Adds to a worker's file what it has written: whether to stderr, and what.
    pub(crate) fn keep<'a>(&self, worker: &str, written: impl Iterator<Item = (bool, &'a Piece)>) -> io::Result<()> {
        let (date, mut made) = (date(SystemTime::now()), Vec::new());
        written.for_each(|(stderr, piece)| add_lines(&mut made, &date, stderr, piece));
        self.append(worker, &made, FILE_MAX).map_err(|error| {
            let directory = self.directory.display();
            io::Error::new(error.kind(), format!("the output of worker '{worker}' is not kept in {directory}: {error}"))
        })
    }

    fn append(&self, worker: &str, lines: &[u8], most: u64) -> io::Result<()> {
        let path = self.directory.join(file_name(worker));
        let mut file = match open(&path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make()?;
                open(&path, true)?
            }
            file => file?,
        };
        if file.metadata()?.len() >= most {
            fs::rename(&path, path.with_extension("log.1"))?;
            file = open(&path, true)?;
        }
        file.write_all(lines)
    }

    fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        if let Some(place) = self.directory.parent().filter(|_| self.tidy) {
            // What cannot be removed now can be next time.
            let _ = tidy(place, SystemTime::now());
        }
        Ok(())
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().append(true).create(create).mode(0o600).open(path)
}

/// A worker's name may hold anything, and a host on another machine may have chosen it.
fn file_name(worker: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let mut name: String = worker.chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect();
    while name.len() > NAME_MAX {
        name.remove(0); // the number, which tells workers apart, is at the end
    }
    if name.starts_with('.') {
        name.insert(0, '_');
    }
    name + ".log"
}

fn add_lines(made: &mut Vec<u8>, date: &str, stderr: bool, piece: &Piece) {
    let stream = if stderr { "stderr" } else { "stdout" };
    let writer = piece.writer.as_ref().map_or_else(
        || String::from("\t"),
        |writer| format!("{}\t{}", writer.task, writer.name.replace(['\t', '\n'], " ")),
    );
    for line in piece.bytes.split_inclusive(|byte| *byte == b'\n') {
        let (text, goes_on) = line.strip_suffix(b"\n").map_or((line, "+"), |text| (text, ""));
        made.extend_from_slice(format!("{date}\t{stream}{goes_on}\t{writer}\t").as_bytes());
        made.extend_from_slice(text);
        made.push(b'\n');
    }
}

/// As ISO 8601 writes it, in UTC.
fn date(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Years begin in March here, so that the day that is sometimes missing is the last; 146,097 days are 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// Removes what earlier runs have left in a place that holds nothing else, but for the newest, and for runs that go on.
fn tidy(place: &Path, now: SystemTime) -> io::Result<()> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        let is_over = entry.file_name().to_str().and_then(process).is_some_and(|process| !lives(process));
        if is_over && entry.file_type()?.is_dir() {
            runs.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    runs.sort_by(|one, other| other.cmp(one));
    for (place, (modified, path)) in runs.iter().enumerate() {
        if place >= RUNS_MAX || now.duration_since(*modified).is_ok_and(|age| age > AGE_MAX) {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// The process whose run a directory is of: the last number but one of its name.
fn process(name: &str) -> Option<u32> {
    let mut parts = name.rsplit('-');
    parts.next()?.parse::<u32>().ok()?;
    parts.next()?.parse().ok()
}

fn lives(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kumi_core::marks::Writer;

    use super::*;

    /// A directory of this test's own, removed at its end.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> io::Result<Self> {
            let path = std::env::temp_dir().join(format!("kumi-log-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).map(|()| Self(path))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_764_289_113, "2025-11-28T00:18:33.000Z"),
            (4_102_444_799, "2099-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(date(at(seconds)), text);
        }
    }

    #[test]
    fn a_line_says_when_and_whose_it_is() {
        let writer = Some(Arc::new(Writer { task: 7, name: "fit\tone".into() }));
        let piece = Piece { writer, bytes: b"one\n\nthr".to_vec() };
        let mut made = Vec::new();
        add_lines(&mut made, "then", true, &piece);
        let begin = "then\tstderr";
        assert_eq!(
            String::from_utf8(made).unwrap(),
            format!("{begin}\t7\tfit one\tone\n{begin}\t7\tfit one\t\n{begin}+\t7\tfit one\tthr\n")
        );
        let piece = Piece { writer: None, bytes: b"?\n".to_vec() };
        let mut made = Vec::new();
        add_lines(&mut made, "then", false, &piece);
        assert_eq!(made, b"then\tstdout\t\t\t?\n");
    }

    #[test]
    fn a_name_leads_to_no_other_directory() {
        assert_eq!(file_name("crew-1"), "crew-1.log");
        assert_eq!(file_name("../../etc/passwd"), "_.._.._etc_passwd.log");
        assert!(file_name(&format!("{}-12", "ü".repeat(300))).ends_with("-12.log"));
        assert!(file_name(&"x".repeat(1000)).len() < 255);
    }

    #[test]
    fn a_full_file_makes_room() {
        let place = Place::new("full").unwrap();
        let shelf = Shelf { directory: place.0.join("run"), tidy: false };
        for line in ["one\n", "two\n", "three\n"] {
            shelf.append("w", line.as_bytes(), 4).unwrap();
        }
        assert_eq!(fs::read_to_string(shelf.directory.join("w.log.1")).unwrap(), "two\n");
        assert_eq!(fs::read_to_string(shelf.directory.join("w.log")).unwrap(), "three\n");
    }

    #[test]
    fn old_runs_are_removed_and_nothing_else() {
        let place = Place::new("old").unwrap();
        let ended = u32::MAX; // no process has this number
        let (lives, other) = (format!("crew-20250101-000000-{}-1", std::process::id()), "of-the-user");
        for run in 0..RUNS_MAX + 3 {
            fs::create_dir(place.0.join(format!("crew-20250101-000000-{ended}-{run}"))).unwrap();
        }
        fs::create_dir(place.0.join(&lives)).unwrap();
        fs::create_dir(place.0.join(other)).unwrap();
        tidy(&place.0, SystemTime::now()).unwrap();
        assert_eq!(fs::read_dir(&place.0).unwrap().count(), RUNS_MAX + 2);
        tidy(&place.0, SystemTime::now() + 2 * AGE_MAX).unwrap();
        let left: Vec<_> = fs::read_dir(&place.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2);
        assert!(left.contains(&lives.as_str().into()) && left.contains(&other.into()));
    }
}
