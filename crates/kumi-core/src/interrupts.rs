//! Which running task is to be interrupted, in the worker's process. An interrupt hits the task that it names or nothing.
//!
//! The watchdog hears what the host wants, the main thread says what it runs; both ask here. The main thread hears of an
//! interrupt by a signal, which may come after the task's end, or from somebody else.

use std::collections::BTreeSet;

use crate::ids::Lease;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Interrupts {
    /// Each runs within the wait of the one before; only the last one is at work.
    running: Vec<Lease>,
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
    /// The host wants this task interrupted. True: it is at work, so signal the main thread.
    pub fn want(&mut self, lease: Lease) -> bool {
        let at_work = self.running.last().copied();
        // One that ended does not come back: leases grow.
        if at_work.is_some_and(|at_work| lease < at_work) && !self.running.contains(&lease) {
            return false;
        }
        self.wanted.insert(lease);
        self.signalled |= at_work == Some(lease);
        at_work == Some(lease)
    }

    /// The main thread begins a task, perhaps within the wait of another. False: it is to be interrupted already, so do not begin.
    #[must_use]
    pub fn begin(&mut self, lease: Lease) -> bool {
        let running = &self.running;
        self.wanted.retain(|wanted| *wanted >= lease || running.contains(wanted));
        self.running.push(lease);
        !self.wanted.contains(&lease)
    }

    /// The tasks that run, each within the wait of the one before.
    pub fn running(&self) -> &[Lease] {
        &self.running
    }

    /// Whether a task runs.
    pub fn is_busy(&self) -> bool {
        !self.running.is_empty()
    }

    /// The task begun last has ended. True: the one that goes on now is to be interrupted, so signal the main thread.
    #[must_use]
    pub fn end(&mut self) -> bool {
        if let Some(lease) = self.running.pop() {
            self.wanted.remove(&lease);
        }
        let goes_on = self.running.last().is_some_and(|lease| self.wanted.contains(lease));
        self.signalled |= goes_on;
        goes_on
    }

    /// A signal has reached the main thread. Each interrupt is given once.
    pub fn take(&mut self) -> Signal {
        let ours = std::mem::take(&mut self.signalled);
        match self.running.last() {
            Some(lease) if self.wanted.remove(lease) => Signal::Interrupt,
            Some(_) | None if ours => Signal::Late,
            Some(_) | None => Signal::Foreign,
        }
    }
}
