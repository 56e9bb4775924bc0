//! Which running task is to be interrupted, in the worker's process. An interrupt hits the task that it names or nothing.
//!
//! The watchdog hears what the host wants, the main thread says what it runs; both ask here. The main thread hears of an
//! interrupt by a signal, which may come after the task's end, or from somebody else.

use std::collections::BTreeSet;

use crate::ids::Lease;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Interrupts {
    running: Option<Lease>,
    wanted: BTreeSet<Lease>,
    signalled: bool,
}

/// What a signal that has reached the main thread means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The running task is to be interrupted.
    Interrupt,
    /// It was for a task that has ended.
    Late,
    /// It is not ours.
    Foreign,
}

impl Interrupts {
    /// The host wants this task interrupted. True: it runs, so signal the main thread.
    pub fn want(&mut self, lease: Lease) -> bool {
        // One that ended does not come back: leases grow.
        if self.running.is_some_and(|running| lease < running) {
            return false;
        }
        self.wanted.insert(lease);
        self.signalled |= self.running == Some(lease);
        self.running == Some(lease)
    }

    /// The main thread begins a task. False: it is to be interrupted already, so do not begin.
    #[must_use]
    pub fn begin(&mut self, lease: Lease) -> bool {
        self.wanted.retain(|wanted| *wanted >= lease);
        self.running = Some(lease);
        !self.wanted.contains(&lease)
    }

    /// The task begun last has ended.
    pub fn end(&mut self) {
        if let Some(lease) = self.running.take() {
            self.wanted.remove(&lease);
        }
    }

    /// A signal has reached the main thread. Each interrupt is given once.
    pub fn take(&mut self) -> Signal {
        let ours = std::mem::take(&mut self.signalled);
        match self.running {
            Some(lease) if self.wanted.remove(&lease) => Signal::Interrupt,
            Some(_) | None if ours => Signal::Late,
            Some(_) | None => Signal::Foreign,
        }
    }
}
