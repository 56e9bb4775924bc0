//! The desk: where other terminals ask a controller who is at what (`kumi ps`), and have a worker ended (`kumi kill`).
//!
//! A socket in a directory that nobody but the user may enter; whoever is not the user is turned away besides. The I/O
//! thread answers, so it costs nothing as long as nobody asks, and Python may be busy. A question is one line, the answer
//! is one line of JSON: see docs/monitor.md. Nothing that comes in is more than a word and a number.
//! Given up: guests wait as long as they like, but the oldest has to go when there are too many.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kumi_core::{Condition, Counts, Entry, LaunchId, Link};

use crate::epoll::{EDGE, Epoll, READ, Ready, WRITE};
use crate::pool::{Pool, Shared, State};
use crate::sys::check;

/// At the same time. Arbitrary: a person has a few terminals.
const GUESTS_MAX: usize = 16;
/// No question is longer, in bytes.
const QUESTION_MAX: usize = 64;
/// The listening socket; guests count from 1.
const DOOR: u64 = 0;

/// How many desks this process has had: they need names.
static OPENED: AtomicU64 = AtomicU64::new(0);

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Desk {
    launcher: String,
    directory: OwnedFd,
    name: String,
    pid: u32,
    listener: UnixListener,
    epoll: Epoll,
    guests: BTreeMap<u64, Guest>,
    last: u64,
}

#[derive(Debug)]
struct Guest {
    stream: UnixStream,
    question: Vec<u8>,
    answer: Vec<u8>,
    sent: usize,
}

impl Pool {
    /// Opens the pool's desk in this directory, from the pool's start to its end. `launcher`: what is said of it.
    ///
    /// # Errors
    /// Nothing can be written there, or there are no descriptors left.
    pub fn open_desk(&self, directory: &Path, launcher: String) -> io::Result<()> {
        let desk = Desk::open(File::open(directory)?.into(), launcher)?;
        *self.shared.desk.lock().unwrap_or_else(PoisonError::into_inner) = Some(desk);
        Ok(())
    }
}

impl Desk {
    fn open(directory: OwnedFd, launcher: String) -> io::Result<Self> {
        let pid = std::process::id();
        let name = format!("{pid}-{}.sock", OPENED.fetch_add(1, Ordering::Relaxed));
        let (new, path) = (path(&directory, &format!(".{name}")), path(&directory, &name));
        let _ = fs::remove_file(&new);
        let listener = UnixListener::bind(&new)?;
        listener.set_nonblocking(true)?;
        // A socket by this name answers, or its process is gone.
        fs::rename(&new, &path)?;
        let epoll = Epoll::new()?;
        // Where a guest cannot be let in, for want of descriptors, the socket would be ready for ever.
        epoll.add(listener.as_fd(), DOOR, READ | EDGE)?;
        Ok(Self { launcher, directory, name, pid, listener, epoll, guests: BTreeMap::new(), last: DOOR })
    }

    /// Readable when [`Desk::attend`] has something to do.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.fd()
    }

    /// Lets guests in and answers them, as far as that takes no waiting.
    pub fn attend(&mut self, shared: &Shared) {
        let mut ready = Ready::default();
        if self.epoll.wait(&mut ready, Some(Duration::ZERO)).is_err() {
            return;
        }
        for (key, _) in ready.iter() {
            if key == DOOR {
                self.admit();
            } else {
                self.serve(shared, key);
            }
        }
    }

    fn admit(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.guests.len() == GUESTS_MAX {
                if let Some((_, oldest)) = self.guests.pop_first() {
                    self.dismiss(&oldest);
                }
            }
            self.last += 1;
            let watched = stream.set_nonblocking(true).and_then(|()| self.epoll.add(stream.as_fd(), self.last, READ));
            if is_of_our_user(&stream) && watched.is_ok() {
                let guest = Guest { stream, question: Vec::new(), answer: Vec::new(), sent: 0 };
                self.guests.insert(self.last, guest);
            }
        }
    }

    /// By hand: closing does not suffice where a forked child of the host has copies.
    fn dismiss(&self, guest: &Guest) {
        let _ = self.epoll.remove(guest.stream.as_fd());
        let _ = guest.stream.shutdown(std::net::Shutdown::Both);
    }

    fn serve(&mut self, shared: &Shared, key: u64) {
        let Some(guest) = self.guests.get_mut(&key) else { return };
        let more = match guest.ask() {
            Ok(None) => return,
            Ok(Some(question)) => {
                if guest.answer.is_empty() {
                    guest.answer = answer(shared, &self.launcher, &question).into_bytes();
                }
                guest.tell()
            }
            Err(_) => false,
        };
        if more {
            let _ = self.epoll.set(guest.stream.as_fd(), key, WRITE);
        } else if let Some(guest) = self.guests.remove(&key) {
            self.dismiss(&guest);
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if self.pid == std::process::id() {
            let _ = fs::remove_file(path(&self.directory, &self.name));
        }
    }
}

impl Guest {
    /// The question, once it is whole.
    fn ask(&mut self) -> io::Result<Option<String>> {
        let mut bytes = [0; QUESTION_MAX];
        while !self.question.contains(&b'\n') {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.question.extend(bytes.iter().take(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.question.len() > QUESTION_MAX {
                return Err(ErrorKind::InvalidData.into());
            }
        }
        let line = self.question.split(|byte| *byte == b'\n').next().unwrap_or_default();
        Ok(Some(String::from_utf8_lossy(line).into_owned()))
    }

    /// Sends what the socket takes. Whether more is left.
    fn tell(&mut self) -> bool {
        while let Some(left) = self.answer.get(self.sent..).filter(|left| !left.is_empty()) {
            match self.stream.write(left) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        false
    }
}

/// By the descriptor: nobody has put another directory into this one's place meanwhile, and no path is too long.
fn path(directory: &OwnedFd, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", directory.as_raw_fd())
}

fn is_of_our_user(stream: &UnixStream) -> bool {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
    // SAFETY: the struct is a valid local of the length that is named.
    let result =
        unsafe { libc::getsockopt(stream.as_raw_fd(), level, option, (&raw mut peer).cast(), &raw mut length) };
    // SAFETY: takes nothing and cannot fail.
    check(result).is_ok() && peer.uid == unsafe { libc::geteuid() }
}

fn answer(shared: &Shared, launcher: &str, question: &str) -> String {
    match question.split_once(' ').map(|(word, number)| (word, number.parse())) {
        None if question == "facts" => facts(shared, launcher),
        Some(("kill", Ok(number))) => {
            let mut state = shared.lock();
            let found = shared.work(&mut state, |state, now| state.brain.dismiss(now, number));
            format!("{{\"found\":{found}}}\n")
        }
        _ => String::from("{\"error\":\"no such question\"}\n"),
    }
}

fn facts(shared: &Shared, launcher: &str) -> String {
    let state = shared.lock();
    let now = shared.now();
    let (counts, most, roster) = (state.brain.counts(), state.brain.workers_max(), state.brain.roster(now));
    let pids: Vec<_> = roster.iter().map(|entry| process(&state, entry.launch)).collect();
    drop(state);
    let workers: Vec<_> = roster.iter().zip(pids).map(|(entry, pid)| worker(shared, entry, pid)).collect();
    format!(
        "{{\"controller\":{},\"pid\":{},\"host\":{},\"launcher\":{},\"seconds\":{},\"workers_max\":{most},\
         \"status\":{},\"workers\":[{}]}}\n",
        quote(&shared.name),
        std::process::id(),
        quote(&shared.host.name),
        quote(launcher),
        Duration::from_nanos(now.0).as_secs_f64(),
        numbers(&counts),
        workers.join(",")
    )
}

/// The process of a launch, if it is one on this machine.
fn process(state: &State, launch: LaunchId) -> Option<i32> {
    state.links.values().find(|link| link.launch == launch).map(|link| link.child.pid)
}

fn worker(shared: &Shared, entry: &Entry, process: Option<i32>) -> String {
    let condition = match entry.condition {
        Condition::Starting => "starting",
        Condition::Preparing => "preparing",
        Condition::Idle => "idle",
        Condition::Busy => "busy",
        Condition::Cut => "cut off",
        Condition::Leaving => "leaving",
        Condition::Killed => "killed",
    };
    let face = entry.face.as_deref();
    let task = entry.work.as_ref().map(|work| {
        let (name, function) = (optional(work.name.as_deref().map(quote)), quote(&work.function));
        let (id, seconds) = (work.task.number(), work.span.as_secs_f64());
        format!("{{\"id\":{id},\"name\":{name},\"function\":{function},\"seconds\":{seconds}}}")
    });
    format!(
        "{{\"name\":{},\"number\":{},\"state\":\"{condition}\",\"pid\":{},\"host\":{},\"remote\":{},\"seconds\":{},\
         \"finished\":{},\"task\":{}}}",
        quote(&format!("{}-{}", shared.name, entry.number)),
        entry.number,
        optional(face.map(|face| face.pid.to_string()).or(process.map(|pid| pid.to_string()))),
        optional(face.map(|face| quote(&face.host))),
        entry.link == Some(Link::Remote),
        entry.age.as_secs_f64(),
        entry.finished,
        optional(task),
    )
}

macro_rules! members {
    ($of:expr => $($name:ident)*) => {
        [$(format!("\"{}\":{}", stringify!($name), $of.$name)),*].join(",")
    };
}

fn numbers(counts: &Counts) -> String {
    let members = members!(counts => workers idle extra launching waiting running away finished uncollected
        queued_bytes queued_bytes_max result_bytes success error crash cancel timeout launched left_idle left_limit left_stopped lost);
    format!("{{{members}}}")
}

fn optional(value: Option<String>) -> String {
    value.unwrap_or_else(|| String::from("null"))
}

/// A text in JSON.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control < ' ' => quoted.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn texts_are_quoted() {
        assert_eq!(quote("a\"\\\n\u{1b}é"), r#""a\"\\\u000a\u001bé""#);
    }
}
