//! The world's notes of workers and launches.

use kumi_core::{LaunchId, Lease, Link, Time};

/// A worker that has joined and is not gone.
#[derive(Debug)]
pub struct WorkerNote {
    pub link: Link,
    pub launch: LaunchId,
    pub joined: Time,
    pub heard: Time,
    pub idle_since: Time,
    /// Tasks dealt to it and not answered, oldest first.
    pub held: Vec<Held>,
    pub told_to_leave: Option<Time>,
    pub killed: bool,
    pub finished: bool,
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
        self.held.is_empty() && self.told_to_leave.is_none() && !self.killed
    }

    /// Takes one task out of its hands.
    pub fn take(&mut self, now: Time, lease: Lease) -> Option<Held> {
        let at = self.held.iter().position(|held| held.lease == lease)?;
        let held = self.held.remove(at);
        if self.held.is_empty() {
            self.idle_since = now;
        }
        Some(held)
    }
}
