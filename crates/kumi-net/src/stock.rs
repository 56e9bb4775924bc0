//! The segments that a process owns and lends to one other: the memory behind a [`Store`].

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use kumi_core::{SegmentId, Store, Time};

use crate::segments::{Segment, spare_bytes};

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Stock {
    store: Store,
    memory: BTreeMap<SegmentId, Arc<Segment>>,
}

impl Default for Stock {
    fn default() -> Self {
        Self { store: Store::new(spare_bytes()), memory: BTreeMap::new() }
    }
}

impl Stock {
    /// A segment of at least so many bytes, to be written to and lent. `None`: too many are in use, or no descriptors or
    /// no memory are left.
    pub fn reserve(&mut self, bytes: u64) -> Option<(SegmentId, Arc<Segment>)> {
        let reserved = self.store.reserve(bytes)?;
        self.close();
        if let Some(size) = reserved.create {
            match Segment::create(size) {
                Ok(segment) => drop(self.memory.insert(reserved.segment, Arc::new(segment))),
                Err(_) => {
                    self.store.close(reserved.segment);
                    self.close();
                }
            }
        }
        Some((reserved.segment, self.get(reserved.segment)?))
    }

    /// The same for somebody who cannot do without: however many are in use.
    ///
    /// # Errors
    /// No descriptors or no memory are left.
    pub fn demand(&mut self, bytes: u64) -> io::Result<(SegmentId, Arc<Segment>)> {
        if let Some(reserved) = self.reserve(bytes) {
            return Ok(reserved);
        }
        let segment = Arc::new(Segment::create(bytes)?);
        let id = self.store.adopt(bytes);
        self.memory.insert(id, Arc::clone(&segment));
        Ok((id, segment))
    }

    pub fn get(&self, segment: SegmentId) -> Option<Arc<Segment>> {
        self.memory.get(&segment).cloned()
    }

    /// Whoever it was lent to does not use it any more. `forked`: but somebody may see it for as long as they like.
    pub fn give_back(&mut self, now: Time, segment: SegmentId, forked: bool) {
        if forked {
            self.store.close(segment);
        } else {
            self.store.put_back(now, segment);
        }
        self.close();
    }

    /// When to trim next.
    pub fn next_timeout(&self) -> Option<Time> {
        self.store.next_timeout()
    }

    /// Gives up what has been free for long.
    pub fn trim(&mut self, now: Time) {
        self.store.trim(now, false);
        self.close();
    }

    fn close(&mut self) {
        while let Some(segment) = self.store.next_closed() {
            self.memory.remove(&segment);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use kumi_core::segments::OPEN_MAX;

    use super::*;

    #[test]
    fn who_cannot_do_without_gets_more_than_there_may_be_and_all_are_given_up_in_time() {
        let mut stock = Stock::default();
        let mut all: Vec<_> = (0..OPEN_MAX).map(|_| stock.reserve(1).unwrap().0).collect();
        assert!(stock.reserve(1).is_none());
        all.push(stock.demand(1).unwrap().0);
        assert!(stock.demand(u64::MAX).is_err(), "no memory is that large");
        let (one, rest) = all.split_first().unwrap();
        stock.give_back(Time(0), *one, true);
        assert!(stock.get(*one).is_none(), "a fork may see it");
        rest.iter().for_each(|segment| stock.give_back(Time(0), *segment, false));
        assert_eq!(stock.memory.len(), OPEN_MAX);
        stock.trim(stock.next_timeout().unwrap());
        assert!(stock.memory.is_empty() && stock.next_timeout().is_none());
    }
}
