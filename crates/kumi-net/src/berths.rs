//! Berths: what one worker process at a time has for itself, such as GPUs.
//!
//! Whoever holds the value has the berth: this list while it is free, then the process's link, until that is buried with
//! all that it has started. So no two living workers can have the same one.

use std::ffi::CString;

/// Variables of the process's environment, each `NAME=value`.
pub type Berth = Vec<CString>;

/// Those that nobody has.
#[derive(Debug, Default)]
pub(crate) struct Berths {
    /// `None`: workers need none.
    free: Option<Vec<Berth>>,
}

impl Berths {
    /// All of them, of which the first are taken first. None at all: workers need none.
    pub fn new(all: Vec<Berth>) -> Self {
        Self { free: (!all.is_empty()).then(|| all.into_iter().rev().collect()) }
    }

    /// One for a process; an empty one where none is needed. `None`: all are taken.
    pub fn take(&mut self) -> Option<Berth> {
        self.free.as_mut().map_or(Some(Berth::new()), Vec::pop)
    }

    /// Its process is no more.
    pub fn give_back(&mut self, berth: Berth) {
        if let Some(free) = &mut self.free {
            free.push(berth);
        }
    }
}
