//! The segments that one process owns: shared memory for large buffers, used again and again.
//!
//! The first use of fresh shared memory costs six times a copy, because the kernel clears each page; so a segment that
//! nobody uses any more is kept for a while. Bookkeeping only: the hands hold the memory, by the same ids. The host has
//! one store for each controller, for arguments; each worker has one, for results.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::ids::{Arena, SegmentId, Time};

/// How many segments a store has at most, free ones included: each is a descriptor. What finds none travels inline.
pub const OPEN_MAX: usize = 256;
/// How long a free segment is kept.
pub const KEEP: Duration = Duration::from_secs(10);
/// A free segment is not wasted on a payload that is smaller than this part of it.
const WASTE: u64 = 4;
/// Segments are made of so many bytes, or a multiple of it.
const PAGE: u64 = 4096;

/// See the head of this file.
#[derive(Debug)]
pub struct Store {
    segments: Arena<SegmentId, Segment>,
    /// Free ones by size, and by how long they have been so.
    by_size: BTreeSet<(u64, SegmentId)>,
    by_age: BTreeMap<(Time, SegmentId), u64>,
    free_bytes: u64,
    spare_bytes: u64,
    closed: VecDeque<SegmentId>,
}

#[derive(Debug)]
struct Segment {
    size: u64,
    /// Since when; `None`: in use.
    free: Option<Time>,
}

/// A segment to write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Its name.
    pub segment: SegmentId,
    /// It is new: make so many bytes of memory for it.
    pub create: Option<u64>,
}

impl Store {
    /// An empty store that keeps at most so many bytes in free segments.
    pub fn new(spare_bytes: u64) -> Self {
        Self {
            segments: Arena::default(),
            by_size: BTreeSet::new(),
            by_age: BTreeMap::new(),
            free_bytes: 0,
            spare_bytes,
            closed: VecDeque::new(),
        }
    }

    /// A segment of at least so many bytes, free or new; it is in use then. `None`: too many are.
    pub fn reserve(&mut self, bytes: u64) -> Option<Reserved> {
        let fitting = self.by_size.range((bytes, SegmentId::from_number(0))..).next().copied();
        if let Some((size, segment)) = fitting.filter(|(size, _)| *size / WASTE <= bytes) {
            self.unshelve(segment, size);
            return Some(Reserved { segment, create: None });
        }
        if self.segments.len() >= OPEN_MAX {
            let oldest = self.by_age.first_key_value().map(|((_, segment), _)| *segment)?;
            self.close(oldest);
        }
        let size = rounded(bytes);
        let segment = self.segments.insert(Segment { size, free: None });
        Some(Reserved { segment, create: Some(size) })
    }

    /// Takes in memory that exists already; it is in use then. Such are not counted: their descriptors are open anyway.
    pub fn adopt(&mut self, size: u64) -> SegmentId {
        self.segments.insert(Segment { size, free: None })
    }

    /// A segment that nobody uses any more, to be used again.
    pub fn put_back(&mut self, now: Time, id: SegmentId) {
        let Some(segment) = self.segments.get_mut(id).filter(|segment| segment.free.is_none()) else { return };
        segment.free = Some(now);
        let size = segment.size;
        self.by_size.insert((size, id));
        self.by_age.insert((now, id), size);
        self.free_bytes += size;
        while self.free_bytes > self.spare_bytes {
            let Some((&(_, oldest), _)) = self.by_age.first_key_value() else { return };
            self.close(oldest);
        }
    }

    /// A segment that must not be used again.
    pub fn close(&mut self, id: SegmentId) {
        if let Some(segment) = self.segments.get(id) {
            let (size, free) = (segment.size, segment.free.is_some());
            if free {
                self.unshelve(id, size);
            }
            self.segments.remove(id);
            self.closed.push_back(id);
        }
    }

    /// Closes what has been free for [`KEEP`]; `everything`: whatever is free.
    pub fn trim(&mut self, now: Time, everything: bool) {
        while let Some((&(since, id), _)) = self.by_age.first_key_value() {
            if !everything && now < since.after(KEEP) {
                return;
            }
            self.close(id);
        }
    }

    /// When to trim next.
    pub fn next_timeout(&self) -> Option<Time> {
        self.by_age.first_key_value().map(|((since, _), _)| since.after(KEEP))
    }

    /// A segment whose memory is to be given up; each is told once.
    pub fn next_closed(&mut self) -> Option<SegmentId> {
        self.closed.pop_front()
    }

    /// Whether it exists and is in use.
    pub fn in_use(&self, id: SegmentId) -> bool {
        self.segments.get(id).is_some_and(|segment| segment.free.is_none())
    }

    /// Segments in use, and free ones.
    pub fn count(&self) -> (usize, usize) {
        (self.segments.len() - self.by_age.len(), self.by_age.len())
    }

    /// Whether free segments are counted right, and not too many.
    ///
    /// # Errors
    /// What is wrong, in words.
    #[cfg(feature = "planted-bugs")]
    pub fn check(&self) -> Result<(), String> {
        let free = self.segments.iter().filter(|(_, segment)| segment.free.is_some());
        let by_size: BTreeSet<_> = free.map(|(id, segment)| (segment.size, id)).collect();
        let by_age: BTreeSet<_> = self.by_age.iter().map(|((_, id), size)| (*size, *id)).collect();
        let bytes: u64 = by_size.iter().map(|(size, _)| size).sum();
        if by_size != self.by_size || by_age != by_size || bytes != self.free_bytes || bytes > self.spare_bytes {
            return Err(format!("{bytes} bytes are free in {by_size:?}: {self:?}"));
        }
        Ok(())
    }

    fn unshelve(&mut self, id: SegmentId, size: u64) {
        let Some(segment) = self.segments.get_mut(id) else { return };
        if let Some(since) = segment.free.take() {
            self.by_size.remove(&(size, id));
            self.by_age.remove(&(since, id));
            self.free_bytes -= size;
        }
    }
}

/// Rounded up by an eighth at most, so that payloads of about the same size can use the same segment.
fn rounded(bytes: u64) -> u64 {
    let step = (bytes / 16 + 1).checked_next_power_of_two().unwrap_or(PAGE).max(PAGE);
    bytes.max(1).checked_next_multiple_of(step).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)] // A test fails by panicking.

    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(seconds: u64) -> Time {
        Time(0).after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_free_segment_is_used_again_by_what_fills_it() {
        let mut store = Store::new(100 * MIB);
        let first = store.reserve(8 * MIB).unwrap();
        assert!(first.create.is_some_and(|size| (8 * MIB..=9 * MIB).contains(&size)));
        store.put_back(at(0), first.segment);
        assert_ne!(store.reserve(MIB).unwrap().segment, first.segment, "too small");
        assert_ne!(store.reserve(10 * MIB).unwrap().segment, first.segment, "too large");
        assert_eq!(store.reserve(7 * MIB), Some(Reserved { segment: first.segment, create: None }));
        assert_ne!(store.reserve(7 * MIB).unwrap().segment, first.segment, "in use");
    }

    #[test]
    fn free_segments_are_bounded_in_bytes_time_and_number() {
        let mut store = Store::new(10 * MIB);
        let all: Vec<_> = (0..OPEN_MAX).map(|_| store.reserve(4 * MIB).unwrap().segment).collect();
        assert_eq!(store.reserve(MIB), None);
        all[..3].iter().for_each(|segment| store.put_back(at(1), *segment));
        assert_eq!((store.next_closed(), store.next_closed()), (Some(all[0]), None), "more bytes than may be spare");
        assert!(store.reserve(40 * MIB).is_some());
        assert!(store.reserve(40 * MIB).is_some());
        assert_eq!(store.next_closed(), Some(all[1]), "a free one makes room");
        assert_eq!(store.next_timeout(), Some(at(11)));
        store.trim(at(10), false);
        assert_eq!(store.next_closed(), None);
        store.trim(at(11), false);
        assert_eq!((store.next_closed(), store.next_timeout()), (Some(all[2]), None));
    }

    #[test]
    fn foreign_names_do_nothing() {
        let mut store = Store::new(MIB);
        store.put_back(at(0), SegmentId::from_number(7));
        store.close(SegmentId::from_number(u64::MAX));
        assert_eq!((store.next_closed(), store.count()), (None, (0, 0)));
        assert!(rounded(u64::MAX) == u64::MAX && rounded(0) == PAGE && rounded(PAGE + 1) == 2 * PAGE);
    }
}
