//! Who wrote what a worker writes: marks in the midst of its output, which the worker puts there and its host takes out.
//!
//! A mark is `ESC _ kumi ; <task's id> ; <its name> ESC \`, which a terminal would not show. What follows is the task's, up
//! to the next one; a mark without an id ends that. What is no mark is output, and stays as it is.

use std::mem;
use std::sync::Arc;

const BEGIN: &[u8] = b"\x1b_kumi;";
const END: &[u8] = b"\x1b\\";
/// A longer one is none, in bytes: a pipe takes so many at once.
const MARK_MAX: usize = 4096;

/// The task that has written something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// Its id.
    pub task: u64,
    /// What the user calls it; may be empty.
    pub name: String,
}

/// Something a worker has written in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// `None`: no task has said that it was it.
    pub writer: Option<Arc<Writer>>,
    /// What.
    pub bytes: Vec<u8>,
}

/// Finds the marks in one stream.
#[derive(Debug, Default)]
pub struct Marks {
    writer: Option<Arc<Writer>>,
    /// The beginning of what may become a mark.
    open: Vec<u8>,
}

enum Found {
    /// And how long it is.
    Mark(Option<Arc<Writer>>, usize),
    /// Its end has not come yet.
    Open,
    Nothing,
}

impl Marks {
    /// What was read next from the stream: in pieces, without marks.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Piece> {
        let mut rest = mem::take(&mut self.open);
        rest.extend_from_slice(bytes);
        let (mut rest, mut pieces, mut plain) = (rest.as_slice(), Vec::new(), Vec::new());
        while let Some(place) = rest.iter().position(|byte| *byte == 0x1b) {
            let (before, from) = rest.split_at(place);
            plain.extend_from_slice(before);
            rest = match find(from) {
                Found::Mark(writer, length) => {
                    self.cut(&mut pieces, &mut plain);
                    self.writer = writer;
                    from.get(length..).unwrap_or_default()
                }
                Found::Open => {
                    self.open = from.to_vec();
                    &[]
                }
                Found::Nothing => {
                    plain.push(0x1b);
                    from.get(1..).unwrap_or_default()
                }
            };
        }
        plain.extend_from_slice(rest);
        self.cut(&mut pieces, &mut plain);
        pieces
    }

    /// The stream has ended: what may have become a mark is output.
    pub fn end(&mut self) -> Vec<Piece> {
        let (mut pieces, mut plain) = (Vec::new(), mem::take(&mut self.open));
        self.cut(&mut pieces, &mut plain);
        pieces
    }

    fn cut(&self, pieces: &mut Vec<Piece>, plain: &mut Vec<u8>) {
        if !plain.is_empty() {
            pieces.push(Piece { writer: self.writer.clone(), bytes: mem::take(plain) });
        }
    }
}

/// What begins with this escape character.
fn find(bytes: &[u8]) -> Found {
    let Some(inner) = bytes.strip_prefix(BEGIN) else {
        return if BEGIN.starts_with(bytes) { Found::Open } else { Found::Nothing };
    };
    let inner = inner.get(..MARK_MAX).unwrap_or(inner);
    let Some(length) = inner.windows(END.len()).position(|two| two == END) else {
        return if inner.len() < MARK_MAX { Found::Open } else { Found::Nothing };
    };
    match inner.get(..length).and_then(parse) {
        Some(writer) => Found::Mark(writer.map(Arc::new), BEGIN.len() + length + END.len()),
        None => Found::Nothing,
    }
}

/// `<id>;<name>`, or `;`. `None`: it is neither.
fn parse(inner: &[u8]) -> Option<Option<Writer>> {
    let (task, name) = std::str::from_utf8(inner).ok()?.split_once(';')?;
    if task.is_empty() && name.is_empty() {
        return Some(None);
    }
    Some(Some(Writer { task: task.parse().ok()?, name: name.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIT: &[u8] = b"\x1b_kumi;7;fit\x1b\\";
    const OVER: &[u8] = b"\x1b_kumi;;\x1b\\";

    fn told(pieces: Vec<Piece>) -> Vec<(Option<u64>, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        pieces.into_iter().map(|piece| (piece.writer.map(|writer| writer.task), text(piece.bytes))).collect()
    }

    #[test]
    fn what_stands_between_marks_is_the_tasks() {
        let stream = [b"before ", FIT, b"by it\n", OVER, b"after"].concat();
        let told = told(Marks::default().feed(&stream));
        assert_eq!(told, [(None, "before ".into()), (Some(7), "by it\n".into()), (None, "after".into())]);
    }

    #[test]
    fn a_mark_may_come_in_any_parts() {
        let stream = [b"a", FIT, b"b", OVER, b"c"].concat();
        for place in 0..stream.len() {
            let (first, second) = stream.split_at(place);
            let mut marks = Marks::default();
            let mut by = std::collections::BTreeMap::<Option<u64>, String>::new();
            for (task, text) in told(marks.feed(first)).into_iter().chain(told(marks.feed(second))) {
                by.entry(task).or_default().push_str(&text);
            }
            assert_eq!(by, [(None, "ac".into()), (Some(7), "b".into())].into(), "cut at {place}");
        }
    }

    #[test]
    fn what_is_no_mark_stays() {
        let long = [BEGIN, &[b'x'; 2 * MARK_MAX]].concat();
        for stream in
            [&b"\x1b[31mred\x1b[0m"[..], b"\x1b_kumi;x;\x1b\\", b"\x1b_kumi;\xff;\x1b\\", b"\x1b", BEGIN, &long]
        {
            let mut marks = Marks::default();
            let mut pieces = marks.feed(stream);
            pieces.extend(marks.end());
            let all: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.bytes).collect();
            assert_eq!(all, stream);
        }
    }
}
