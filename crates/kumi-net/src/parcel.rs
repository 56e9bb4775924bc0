//! How a payload with large parts looks: a pickle, and buffers that it leaves out.
//!
//! A payload either has everything in itself, or its large parts lie in a segment of shared memory. Its end says where
//! things are: the length of each buffer in eight bytes, their number in four, and a letter:
//!
//! | letter | the pickle is | the buffers are |
//! |---|---|---|
//! | `B` | at the beginning of the payload | in the segment, each at a multiple of [`ALIGN`] |
//! | `H` | the first buffer | in the segment |
//! | `b` | at the beginning of the payload | behind it, without gaps |
//!
//! Without buffers there is no table, save for `H`. A payload that names shared values ends with their definitions' numbers,
//! eight bytes each, how many in four, and `S`.
//!
//! To other machines payloads go whole; an agent moves their large parts into a segment for its worker.

use crate::segments::{ALIGN, LARGE, Piece};

const IN_SEGMENT: u8 = b'B';
const ALL_IN_SEGMENT: u8 = b'H';
const WHOLE: u8 = b'b';
const SHARES: u8 = b'S';

/// Where each of these parts begins in a segment, and where the last one ends. `None`: nothing is so long.
pub fn places(lengths: &[usize]) -> Option<(Vec<usize>, usize)> {
    let mut end = 0_usize;
    let places = lengths.iter().map(|length| {
        let start = end.checked_next_multiple_of(ALIGN)?;
        end = start.checked_add(*length)?;
        Some(start)
    });
    Some((places.collect::<Option<_>>()?, end))
}

/// Appends the table of a payload whose large parts lie in a segment; `alone`: the pickle is the first of them.
pub fn seal_split(payload: &mut Vec<u8>, lengths: &[usize], alone: bool) {
    seal(payload, lengths, if alone { ALL_IN_SEGMENT } else { IN_SEGMENT });
}

/// Appends the table of a payload that has these buffers in itself.
pub fn seal_whole(payload: &mut Vec<u8>, lengths: &[usize]) {
    if !lengths.is_empty() {
        seal(payload, lengths, WHOLE);
    }
}

/// Appends the numbers of the shared values that a payload names.
pub fn seal_shares(payload: &mut Vec<u8>, numbers: &[u64]) {
    if !numbers.is_empty() {
        let numbers = numbers.iter().map(|number| number.to_le_bytes());
        append(payload, numbers, SHARES);
    }
}

/// Takes those numbers away again.
pub fn strip_shares(payload: &mut Vec<u8>) {
    if let Some(end) = cut(payload).map(|(rest, _)| rest.len()) {
        payload.truncate(end);
    }
}

fn seal(payload: &mut Vec<u8>, lengths: &[usize], letter: u8) {
    append(payload, lengths.iter().map(|length| (*length as u64).to_le_bytes()), letter);
}

fn append(payload: &mut Vec<u8>, numbers: impl ExactSizeIterator<Item = [u8; 8]>, letter: u8) {
    let count = numbers.len() as u32;
    numbers.for_each(|number| payload.extend_from_slice(&number));
    payload.extend_from_slice(&count.to_le_bytes());
    payload.push(letter);
}

/// A payload, taken apart.
struct Parts<'a> {
    /// What is before the tables.
    body: &'a [u8],
    lengths: Vec<usize>,
    letter: Option<u8>,
    /// The last table, if there is one.
    shares: &'a [u8],
}

impl<'a> Parts<'a> {
    /// `None`: it is no payload.
    fn of(payload: &'a [u8]) -> Option<Self> {
        let (rest, shares) = match payload.last()? {
            &SHARES => cut(payload)?,
            _ => (payload, [].as_slice()),
        };
        let letter = rest.last().copied().filter(|letter| [IN_SEGMENT, ALL_IN_SEGMENT, WHOLE].contains(letter));
        let (body, table) = if letter.is_some() { cut(rest)? } else { (rest, [].as_slice()) };
        let numbers = table.get(..table.len().saturating_sub(5))?.chunks_exact(8);
        let lengths = numbers.map(|number| usize::try_from(u64::from_le_bytes(number.try_into().ok()?)).ok());
        Some(Self { body, lengths: lengths.collect::<Option<_>>()?, letter, shares })
    }
}

/// What is before a table, and the table.
fn cut(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = payload.len().checked_sub(1)?;
    let count = u32::from_le_bytes(payload.get(end.checked_sub(4)?..end)?.try_into().ok()?) as usize;
    payload.split_at_checked(payload.len().checked_sub(5)?.checked_sub(count.checked_mul(8)?)?)
}

/// The payload with everything in itself, given the memory that its large parts lie in. `None`: that does not fit.
pub fn whole(payload: &[u8], memory: &[u8]) -> Option<Vec<u8>> {
    let Parts { body, lengths, letter, shares } = Parts::of(payload)?;
    if !matches!(letter, Some(IN_SEGMENT | ALL_IN_SEGMENT)) {
        return Some(payload.to_vec());
    }
    let (starts, end) = places(&lengths)?;
    let mut made = Vec::with_capacity(payload.len() + end.min(memory.len()));
    made.extend_from_slice(body);
    for (start, length) in starts.iter().zip(&lengths) {
        made.extend_from_slice(memory.get(*start..start.checked_add(*length)?)?);
    }
    let buffers = if letter == Some(ALL_IN_SEGMENT) { lengths.get(1..)? } else { &lengths };
    seal_whole(&mut made, buffers);
    made.extend_from_slice(shares);
    Some(made)
}

/// A payload whose large parts are to be moved into a segment.
#[derive(Debug)]
pub struct Split {
    /// What stays.
    pub payload: Vec<u8>,
    /// What goes: pieces of the whole payload, which must stay where it is until they are copied.
    pub pieces: Vec<Piece>,
    /// How many bytes that takes in the segment.
    pub bytes: u64,
}

/// Moves the large parts of a whole payload out of it. `None`: it has none.
pub fn split(payload: &[u8]) -> Option<Split> {
    if payload.len() < LARGE {
        return None;
    }
    let Parts { body, lengths, letter, shares } = Parts::of(payload)?;
    if !matches!(letter, None | Some(WHOLE)) {
        return None;
    }
    let in_buffers = lengths.iter().try_fold(0, |sum: usize, length| sum.checked_add(*length))?;
    let (pickle, mut rest) = body.split_at_checked(body.len().checked_sub(in_buffers)?)?;
    let alone = pickle.len() >= LARGE;
    let mut parts = Vec::from_iter(alone.then_some(pickle));
    for length in &lengths {
        let (part, others) = rest.split_at_checked(*length)?;
        parts.push(part);
        rest = others;
    }
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let (starts, end) = places(&lengths)?;
    if end < LARGE {
        return None;
    }
    let mut made = if alone { Vec::new() } else { pickle.to_vec() };
    seal_split(&mut made, &lengths, alone);
    made.extend_from_slice(shares);
    let pieces = parts.iter().zip(starts).map(|(part, to)| Piece { from: part.as_ptr(), length: part.len(), to });
    Some(Split { payload: made, pieces: pieces.collect(), bytes: end as u64 })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::segments::{Memory, Segment};

    /// Moves the large parts into a segment, and back.
    fn there_and_back(payload: &[u8]) -> Vec<u8> {
        let Split { payload: small, pieces, bytes } = split(payload).unwrap();
        assert!(small.len() < LARGE);
        let segment = Segment::create(bytes).unwrap();
        // SAFETY: the payload is borrowed, and nobody else has the segment.
        unsafe { segment.write(&pieces) };
        let mapping = segment.map(bytes).unwrap();
        let (start, length) = mapping.memory();
        // SAFETY: the mapping lives, and nobody writes to it.
        whole(&small, unsafe { std::slice::from_raw_parts(start, length) }).unwrap()
    }

    fn payload(pickle: usize, buffers: &[usize], shares: &[u64]) -> Vec<u8> {
        let mut made: Vec<u8> = (0..pickle + buffers.iter().sum::<usize>()).map(|at| at as u8).collect();
        if let Some(last) = pickle.checked_sub(1) {
            made[last] = b'.';
        }
        seal_whole(&mut made, buffers);
        seal_shares(&mut made, shares);
        made
    }

    #[test]
    fn what_is_large_goes_out_of_a_payload_and_comes_back() {
        for made in [
            payload(10, &[LARGE], &[]),
            payload(10, &[1, LARGE, 0, 70], &[]),
            payload(LARGE, &[], &[]),
            payload(LARGE + 1, &[LARGE - 1, 3], &[7, 8]),
            payload(100, &[LARGE + 5], &[1]),
        ] {
            assert!(there_and_back(&made) == made);
        }
    }

    #[test]
    fn what_is_not_large_stays() {
        assert!(split(&payload(10, &[100], &[])).is_none());
        assert!(split(b".").is_none());
        let made = payload(LARGE - 100, &[30, 30], &[]);
        assert!(split(&made).is_none(), "its parts are small");
        assert_eq!(whole(&made, &[]), Some(made));
    }

    #[test]
    fn the_numbers_of_shared_values_can_be_exchanged() {
        for (pickle, buffers) in [(10, vec![LARGE]), (7, vec![])] {
            let mut made = payload(pickle, &buffers, &[7, 8]);
            strip_shares(&mut made);
            assert!(made == payload(pickle, &buffers, &[]));
            seal_shares(&mut made, &[3, 4]);
            assert!(made == payload(pickle, &buffers, &[3, 4]));
        }
    }

    #[test]
    fn what_is_no_payload_is_left_alone() {
        let mut broken = payload(10, &[LARGE], &[3]);
        let end = broken.len();
        broken[end - 2] = 255;
        assert!(split(&broken).is_none(), "a table that is longer than all");
        let mut table = Vec::new();
        seal(&mut table, &[usize::MAX, 1], WHOLE);
        assert!(split(&[vec![0; LARGE], table].concat()).is_none(), "a buffer that is longer than all");
        let mut table = Vec::new();
        seal(&mut table, &[100], IN_SEGMENT);
        assert_eq!(whole(&table, &[0; 99]), None);
        assert_eq!(whole(b"", b""), None);
    }
}
