//! The world's notes of workers and launches.

use std::collections::BTreeSet;

use kumi_core::{LaunchId, Lease, Link, Time};

/// A worker that has joined and is not gone.
#[derive(Debug)]
pub struct WorkerNote {
    pub link: Link,
    pub launch: LaunchId,
    /// Above the policy's number.
    pub extra: bool,
    /// Of remote workers: the launch that it named when it called.
    pub place: Option<LaunchId>,
    pub joined: Time,
    pub heard: Time,
    pub idle_since: Time,
    /// Tasks and calls sent to it and not answered, oldest first.
    pub held: Vec<Held>,
    /// The same of those that are to run, each, within the wait of the one before; the first one's is `held[0]`.
    pub inner: Vec<Held>,
    pub told_to_leave: Option<Time>,
    pub killed: bool,
    /// Since when it has no connection, and since when it was without one last.
    pub cut: Option<Time>,
    pub was_cut: Option<Time>,
    pub finished: bool,
    /// It has done all calls of `everywhere` that were made before it came, and counts as a worker.
    pub enlisted: bool,
    /// Calls that it has answered.
    pub answered: BTreeSet<usize>,
    /// It takes no tasks any more, though nobody has told it so.
    pub leaves: bool,
    /// Its process was told to end, as the host has heard.
    pub retires: bool,
}

/// A task in a worker's hands, in the world's books.
#[derive(Debug)]
pub struct Held {
    pub lease: Lease,
    pub task: usize,
    pub asked_back: bool,
    pub answered: bool,
    pub interrupted: Option<Time>,
}

/// How far a launch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launch {
    Expected(Time),
    Joined,
    Abandoned,
}

impl WorkerNote {
    /// Takes tasks and holds none.
    pub fn idle(&self) -> bool {
        let reachable = self.cut.is_none();
        self.enlisted && self.free() && self.told_to_leave.is_none() && !self.killed && reachable
    }

    fn free(&self) -> bool {
        self.held.is_empty() && self.inner.is_empty()
    }

    /// Everything it holds.
    pub fn hands(&self) -> impl Iterator<Item = &Held> {
        self.held.iter().chain(&self.inner)
    }

    /// What it is at.
    pub fn top(&self) -> Option<&Held> {
        self.inner.last().or(self.held.first())
    }

    pub fn find(&mut self, lease: Lease) -> Option<&mut Held> {
        self.held.iter_mut().chain(&mut self.inner).find(|held| held.lease == lease)
    }

    /// Takes one more into its hands.
    pub fn hold(&mut self, lease: Lease, task: usize) {
        self.held.push(Held { lease, task, asked_back: false, answered: false, interrupted: None });
    }

    /// Takes one task out of its hands.
    pub fn take(&mut self, now: Time, lease: Lease) -> Option<Held> {
        let inner = self.inner.iter().position(|held| held.lease == lease);
        let held = match inner {
            Some(at) => self.inner.remove(at),
            None => self.held.remove(self.held.iter().position(|held| held.lease == lease)?),
        };
        if self.free() {
            self.idle_since = now;
        }
        Some(held)
    }
}
