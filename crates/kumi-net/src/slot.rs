//! A slot of the page: a task in a worker's hands, and how far it has come.
//!
//! Host and worker share it. Each turns it from one state into the next by compare-and-swap, so that a task is started or
//! taken back, never both. tests/model.rs compiles this file against atomics that try every order of events.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use crate::atomics::AtomicU64;

/// How far a task in a slot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Its result is in the outbox.
    Finished,
    /// Handed over; the worker may start it, the host may take it back.
    Waiting,
    /// The worker runs it: if the worker dies now, this task is to blame.
    Started,
    /// The host took it back; the worker will pass it over.
    Recalled,
}

/// Lease and state in one word.
#[repr(transparent)]
pub(crate) struct Slot(pub(crate) AtomicU64);

impl Slot {
    /// Host: puts a task here, whatever stood here. False, and nothing is changed, if the lease does not fit.
    pub fn offer(&self, lease: u64) -> bool {
        let Some(word) = word(lease, SlotState::Waiting) else { return false };
        self.0.store(word, Release);
        true
    }

    /// Host: takes a waiting task back.
    pub fn recall(&self, lease: u64) -> bool {
        self.turn(lease, SlotState::Waiting, SlotState::Recalled)
    }

    /// Worker: claims a task to run it now.
    pub fn start(&self, lease: u64) -> bool {
        self.turn(lease, SlotState::Waiting, SlotState::Started)
    }

    /// Worker: says that the result is in the outbox.
    pub fn finish(&self, lease: u64) -> bool {
        self.turn(lease, SlotState::Started, SlotState::Finished)
    }

    /// Lease and state of what is here; `None` if nothing ever was.
    pub fn state(&self) -> Option<(u64, SlotState)> {
        let word = self.0.load(Acquire);
        let state = match word & 3 {
            0 => SlotState::Finished,
            1 => SlotState::Waiting,
            2 => SlotState::Started,
            _ => SlotState::Recalled,
        };
        Some(((word >> 2).checked_sub(1)?, state))
    }

    fn turn(&self, lease: u64, from: SlotState, to: SlotState) -> bool {
        let (Some(from), Some(to)) = (word(lease, from), word(lease, to)) else { return false };
        self.0.compare_exchange(from, to, AcqRel, Acquire).is_ok()
    }
}

/// The word. The lease counts from one in there, so that an untouched word is no lease.
fn word(lease: u64, state: SlotState) -> Option<u64> {
    let code = match state {
        SlotState::Finished => 0,
        SlotState::Waiting => 1,
        SlotState::Started => 2,
        SlotState::Recalled => 3,
    };
    (lease < (1 << 62) - 1).then(|| (lease + 1) << 2 | code)
}
