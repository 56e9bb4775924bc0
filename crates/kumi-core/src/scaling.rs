//! How many workers there should be: arithmetic on a snapshot, without memory of its own.
//!
//! demand = min(workers, waiting + running), supply = joined + expected, and the difference is launched. Every launch
//! has an identity that the worker presents when it joins, so workers are known, not counted; a worker is never ended
//! here: workers leave by idle time, wall time or `tasks_max`.

use std::time::Duration;

use crate::ids::{Time, WorkerId};

/// Failures in a row after which launching stops, if there is no worker at all: with the pauses below that takes
/// under a second, and a broken interpreter or a wrong option fails every time.
pub const FAILURES_MAX: u32 = 5;
/// First pause after a failure; it doubles with each further one.
pub const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What the rule looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    /// Tasks in the queue.
    pub waiting: u64,
    /// Tasks that joined workers run: one for each that is busy. What waits behind it is short, or comes back.
    pub running: u64,
    /// Workers that have joined and will take further tasks.
    pub joined: u64,
    /// Workers that are leaving but are not gone yet.
    pub leaving: u64,
    /// Launches that have not led to a worker yet.
    pub expected: u64,
    /// Launches that failed since a worker last finished its first task.
    pub failures: u32,
    /// When the last of them failed.
    pub failed: Time,
}

/// What the user wants.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Never more workers than this.
    pub workers: u64,
    /// Never fewer, once started.
    pub workers_min: u64,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// So many new workers now.
    pub launch: u64,
    /// Ask again then.
    pub again: Option<Time>,
    /// Nothing can be launched: tell the tasks that wait.
    pub give_up: bool,
}

/// The rule.
pub fn decide(snapshot: Snapshot, bounds: Bounds, now: Time) -> Decision {
    let Snapshot { waiting, running, joined, leaving, expected, failures, failed } = snapshot;
    let nothing = Decision { launch: 0, again: None, give_up: false };
    let demand = bounds.workers.min((waiting + running).max(bounds.workers_min));
    let room = bounds.workers.saturating_sub(joined + leaving + expected);
    let wanted = demand.saturating_sub(joined + expected).min(room);
    if failures >= FAILURES_MAX && joined + expected + leaving == 0 && demand > 0 {
        return Decision { give_up: true, ..nothing };
    }
    if wanted == 0 || failures == 0 {
        return Decision { launch: wanted, ..nothing };
    }
    // After a failure one launch at a time is tried, each after a longer pause, until a worker has shown that it works.
    let again = failed.after(pause(failures));
    if now < again {
        Decision { again: Some(again), ..nothing }
    } else if expected == 0 {
        Decision { launch: 1, ..nothing }
    } else {
        nothing
    }
}

fn pause(failures: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_MAX)
}

/// One wish for a worker. `Joined` ends when the worker is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launch {
    /// The launcher was asked.
    Requested,
    /// A process, or a job, exists.
    Starting,
    /// Its worker said hello.
    Joined(WorkerId),
    /// Given up; its process may still have to be ended.
    Abandoned,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { workers: 4, workers_min: 0 };

    fn launches(snapshot: Snapshot) -> u64 {
        decide(snapshot, BOUNDS, Time(0)).launch
    }

    #[test]
    fn the_difference_of_demand_and_supply_is_launched() {
        assert_eq!(launches(Snapshot::default()), 0);
        assert_eq!(launches(Snapshot { waiting: 1, ..Default::default() }), 1);
        assert_eq!(launches(Snapshot { waiting: 9, ..Default::default() }), 4);
        assert_eq!(launches(Snapshot { waiting: 9, expected: 3, ..Default::default() }), 1);
        assert_eq!(launches(Snapshot { waiting: 9, running: 2, joined: 2, ..Default::default() }), 2);
        assert_eq!(launches(Snapshot { running: 2, joined: 3, ..Default::default() }), 0);
    }

    #[test]
    fn workers_that_are_leaving_count_against_the_cap_but_not_as_supply() {
        assert_eq!(launches(Snapshot { waiting: 9, leaving: 4, ..Default::default() }), 0);
        assert_eq!(launches(Snapshot { waiting: 9, leaving: 3, ..Default::default() }), 1);
    }

    #[test]
    fn the_minimum_is_kept_without_tasks() {
        let bounds = Bounds { workers: 4, workers_min: 2 };
        assert_eq!(decide(Snapshot::default(), bounds, Time(0)).launch, 2);
        assert_eq!(decide(Snapshot { joined: 2, ..Default::default() }, bounds, Time(0)).launch, 0);
    }

    #[test]
    fn failures_make_launches_single_and_slow_and_end_them() {
        let failed = |failures| Snapshot { waiting: 9, failures, failed: Time(0), ..Default::default() };
        let early = decide(failed(2), BOUNDS, Time(1));
        assert_eq!((early.launch, early.again), (0, Some(Time(100_000_000))));
        assert_eq!(decide(failed(2), BOUNDS, Time(100_000_000)).launch, 1);
        assert!(decide(failed(FAILURES_MAX), BOUNDS, Time(0)).give_up);
        let helped = Snapshot { joined: 1, ..failed(FAILURES_MAX) };
        assert!(!decide(helped, BOUNDS, Time(0)).give_up);
    }
}
