//! The segments that a process owns and lends to one other: the memory behind a [`Store`].

use std::collections::BTreeMap;
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
    fn no_more_are_given_than_there_may_be_and_all_are_given_up_in_time() {
        let mut stock = Stock::default();
        let all: Vec<_> = (0..OPEN_MAX).map(|_| stock.reserve(1).unwrap().0).collect();
        assert!(stock.reserve(1).is_none());
        let (one, rest) = all.split_first().unwrap();
        stock.give_back(Time(0), *one, true);
        assert!(stock.get(*one).is_none(), "a fork may see it");
        rest.iter().for_each(|segment| stock.give_back(Time(0), *segment, false));
        assert_eq!(stock.memory.len(), OPEN_MAX - 1);
        stock.trim(stock.next_timeout().unwrap());
        assert!(stock.memory.is_empty() && stock.next_timeout().is_none());
    }
}
