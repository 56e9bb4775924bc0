//! The workers as their user sees them from outside: who is at what since when, and how one of them is ended.

use std::sync::Arc;
use std::time::Duration;

use super::{Dispatcher, LaunchNote};
use crate::ids::{LaunchId, TaskId, Time, WorkerId};
use crate::scaling::Launch;
use crate::worker::{Face, Held, Link, Stage, Worker};

/// How a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It was asked for and has not joined.
    Starting,
    /// It does the calls of `everywhere` before its first task.
    Preparing,
    /// It holds nothing.
    Idle,
    /// It holds a task, or a call of `everywhere`.
    Busy,
    /// Its connection is lost; it may come back.
    Cut,
    /// It takes no more tasks.
    Leaving,
    /// It is being killed.
    Killed,
}

/// One worker, or one that is to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Of its launch; the last part of its name. [`Dispatcher::dismiss`] takes it.
    pub number: u64,
    /// Its launch.
    pub launch: LaunchId,
    /// Which, once it has joined.
    pub worker: Option<WorkerId>,
    /// Who it is, once it has joined.
    pub face: Option<Arc<Face>>,
    /// How it is connected, once it has joined.
    pub link: Option<Link>,
    /// How it is.
    pub condition: Condition,
    /// How long ago it was asked for.
    pub age: Duration,
    /// Tasks that it has finished.
    pub finished: u64,
    /// What it is at.
    pub work: Option<Work>,
}

/// What a worker is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// Which task.
    pub task: TaskId,
    /// Its label.
    pub name: Option<Arc<str>>,
    /// What it calls.
    pub function: Arc<str>,
    /// For how long, as far as the host knows.
    pub span: Duration,
}

impl Dispatcher {
    /// Everybody who is a worker or may become one, in the order in which they were asked for.
    pub fn roster(&self, now: Time) -> Vec<Entry> {
        let mut entries: Vec<_> =
            self.launches.iter().filter_map(|(launch, note)| self.entry(now, launch, note)).collect();
        entries.sort_unstable_by_key(|entry| entry.number);
        entries
    }

    /// The most workers at a time.
    pub fn workers_max(&self) -> u64 {
        self.policy.workers
    }

    fn entry(&self, now: Time, launch: LaunchId, note: &LaunchNote) -> Option<Entry> {
        let id = match note.state {
            Launch::Requested | Launch::Starting => None,
            Launch::Joined(worker) => Some(worker),
            Launch::Abandoned => return None,
        };
        let worker = id.and_then(|id| self.workers.get(id));
        Some(Entry {
            number: note.number,
            launch,
            worker: id,
            face: worker.map(|worker| Arc::clone(&worker.face)),
            link: worker.map(|worker| worker.link),
            condition: worker.map_or(Condition::Starting, condition),
            age: now.since(note.asked),
            finished: worker.map_or(0, |worker| worker.finished),
            work: worker.and_then(|worker| self.work(now, worker)),
        })
    }

    fn work(&self, now: Time, worker: &Worker) -> Option<Work> {
        let Held { task: id, call, dealt, .. } = *worker.top()?;
        let task = self.tasks.get(id);
        // A call of `everywhere` may outlive its task.
        let function = match call {
            Some(number) => self.calls.get(&number).map(|call| call.function),
            None => task.map(|task| task.function),
        };
        let function = self.functions.get(function?).map(|function| Arc::clone(&function.label))?;
        // It was behind others until the last of them was answered. What runs within a wait begins at once.
        let since = if worker.inner.is_empty() { dealt.max(worker.answered) } else { dealt };
        Some(Work { task: id, name: task.and_then(|task| task.name.clone()), function, span: now.since(since) })
    }

    /// Its user ends the worker of this launch at once, whatever it is at. No task is blamed for that: what it held runs
    /// again, except what is `once` and may have begun. One that is to come is given up. The policy goes on as before, so
    /// another one may take its place.
    ///
    /// Returns whether there was one.
    pub fn dismiss(&mut self, now: Time, number: u64) -> bool {
        let found = self.launches.iter().find(|(_, note)| note.number == number);
        let Some((launch, state)) = found.map(|(id, note)| (id, note.state)) else { return false };
        match state {
            Launch::Requested | Launch::Starting => self.abandon(launch),
            Launch::Joined(id) => {
                if let Some(worker) = self.workers.get_mut(id) {
                    worker.dismissed = true;
                }
                self.kill(id);
            }
            Launch::Abandoned => return false,
        }
        self.settle(now);
        true
    }
}

fn condition(worker: &Worker) -> Condition {
    match worker.stage {
        Stage::Killed => Condition::Killed,
        _ if !worker.reachable() => Condition::Cut,
        Stage::Preparing => Condition::Preparing,
        Stage::Active if worker.is_free() => Condition::Idle,
        Stage::Active => Condition::Busy,
        Stage::Draining(_) | Stage::Leaving(_) => Condition::Leaving,
    }
}
