//! The nap of who looks at something only while there is work: who begins work wakes him, if nobody did before.
//!
//! The work itself is known under a lock of its own. tests/model.rs compiles this file against atomics that try every order
//! of events.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use crate::atomics::AtomicBool;

/// See the head of this file. He sleeps at first.
#[derive(Debug)]
pub(crate) struct Nap {
    asleep: AtomicBool,
}

impl Nap {
    pub fn new() -> Self {
        Self { asleep: AtomicBool::new(true) }
    }

    /// Work has begun, as its lock tells already. True: wake him.
    pub fn disturb(&self) -> bool {
        // In a burst of short tasks only one of many finds him asleep.
        self.asleep.load(Acquire) && self.asleep.swap(false, AcqRel)
    }

    /// He looks whether there is work: if there is not, he stays asleep. In this order, so that work that begins after he
    /// looked finds him asleep.
    pub fn is_over(&self, has_work: impl FnOnce() -> bool) -> bool {
        self.asleep.store(true, Release);
        let over = has_work();
        if over {
            self.asleep.store(false, Release);
        }
        over
    }
}
