//! Everything the brain waits for, a sentence each.

use std::collections::BTreeSet;

use crate::ids::{LaunchId, Lease, TaskId, Time, WorkerId};

/// A reason to be called at a time. When one fires, its owner looks whether it still holds; so none needs to be exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The worker may have been idle for `seconds_idle`.
    Idle(WorkerId),
    /// The worker has lived for `seconds_wall`.
    Wall(WorkerId),
    /// The worker may have been busy with what was thought a short task: give the others behind it back.
    Stall(WorkerId),
    /// Time to ask the worker for a sign of life, or it has been silent for too long (remote workers).
    Silence(WorkerId),
    /// Another worker waits for this one's place, which may have given no sign of life.
    Rival(WorkerId),
    /// The worker was asked to leave, or to stop a task, and may not have done so.
    Kill(WorkerId, Lease),
    /// The worker was interrupted and may not have noticed: once more.
    Again(WorkerId, Lease),
    /// The launch may not have led to a worker within `seconds_launch`.
    Launch(LaunchId),
    /// Tasks that were gathered have waited long enough for more.
    Deal,
    /// A free segment may have been kept for long enough.
    Segments,
    /// A pause after failed launches is over.
    Scale,
    /// The task has run for `seconds_run`.
    Run(TaskId, Lease),
    /// The task is `seconds_total` old.
    Total(TaskId),
}

/// Timers by time.
#[derive(Debug, Default)]
pub struct Timers(BTreeSet<(Time, Timer)>);

impl Timers {
    /// Fires at `at`.
    pub fn set(&mut self, at: Time, timer: Timer) {
        self.0.insert((at, timer));
    }

    /// Will not fire.
    pub fn unset(&mut self, at: Time, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    /// Whether it will fire then.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn contains(&self, at: Time, timer: Timer) -> bool {
        self.0.contains(&(at, timer))
    }

    /// All that are set.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn all(&self) -> impl Iterator<Item = &Timer> {
        self.0.iter().map(|(_, timer)| timer)
    }

    /// When the next one fires.
    pub fn next(&self) -> Option<Time> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes out one that is due.
    pub fn due(&mut self, now: Time) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }
}
