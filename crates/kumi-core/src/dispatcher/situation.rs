//! Why there are as many workers as there are, and what waits for what: what the rules look at, for words that a user reads.

use std::sync::Arc;
use std::time::Duration;

use super::{Counts, Dispatcher};
use crate::ids::Time;
use crate::scaling;

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Situation {
    /// Whether workers may be asked for, and whether no more tasks are taken.
    pub started: bool,
    /// See above.
    pub closing: bool,
    /// All counts.
    pub counts: Counts,
    /// Workers that take tasks, and how many of them have one; not the extra ones.
    pub joined: u64,
    /// See above.
    pub busy: u64,
    /// Workers without a connection.
    pub cut: u64,
    /// Calls of `everywhere` that are not done.
    pub calls: u64,
    /// Tasks that wait for others where their own workers cannot run those.
    pub needy: u64,
    /// Launches that failed in a row.
    pub failures: u32,
    /// Why a launch failed last; empty: none did.
    pub failure: Arc<str>,
    /// How long until another one is tried.
    pub pause: Option<Duration>,
    /// No other one is tried before there is a new task.
    pub gave_up: bool,
}

impl Dispatcher {
    /// Looks through all workers.
    pub fn situation(&self, now: Time) -> Situation {
        let snapshot = self.snapshot();
        let again = scaling::decide(snapshot, self.bounds(), now).again;
        Situation {
            started: self.started,
            closing: self.closing,
            counts: self.counts(),
            joined: snapshot.joined,
            busy: snapshot.running,
            failures: snapshot.failures,
            cut: self.workers.iter().filter(|(_, worker)| !worker.reachable()).count() as u64,
            calls: self.spread,
            needy: self.needy.len() as u64,
            failure: Arc::clone(&self.failure),
            pause: again.map(|again| again.since(now)),
            gave_up: self.gave_up,
        }
    }
}
