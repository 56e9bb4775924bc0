//! What the owner of a dispatcher may see of it. Nothing here changes anything.

use std::sync::Arc;

use super::Dispatcher;
use crate::ids::{LaunchId, TaskId};
use crate::scaling::Launch;
use crate::task::{Outcome, Place, TASK_BYTES, Task, TaskView};
use crate::worker::{Face, Worker};

/// Counts at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are explained in `_core.pyi`, class Status.
pub struct Counts {
    pub workers: u64,
    pub idle: u64,
    pub extra: u64,
    pub launching: u64,
    pub waiting: u64,
    pub running: u64,
    pub away: u64,
    pub finished: u64,
    pub uncollected: u64,
    pub queued_bytes: u64,
    pub queued_bytes_max: u64,
    pub result_bytes: u64,
    pub success: u64,
    pub error: u64,
    pub crash: u64,
    pub cancel: u64,
    pub timeout: u64,
    pub launched: u64,
    pub left_idle: u64,
    pub left_limit: u64,
    pub left_stopped: u64,
    pub lost: u64,
}

impl Counts {
    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.finished += 1;
        match outcome {
            Outcome::Success(_) => self.success += 1,
            Outcome::Error(_) => self.error += 1,
            Outcome::Crash(_) | Outcome::Unlaunchable(_) => self.crash += 1,
            Outcome::Cancel => self.cancel += 1,
            Outcome::Timeout(_) => self.timeout += 1,
        }
    }
}

impl Dispatcher {
    /// Whether nothing is left: no task to resolve, no worker, no launch, and none will come.
    pub fn ended(&self) -> bool {
        self.is_ending() && self.workers.is_empty() && self.launches.is_empty()
    }

    /// Nothing is left to do, and nothing more will come.
    pub(super) fn is_ending(&self) -> bool {
        self.closing && self.unresolved() == 0
    }

    /// The launches that are not over, and of each whether only the launcher knows what has become of it: no worker has
    /// come of it, or one that is not heard of any more.
    pub fn launches(&self) -> impl Iterator<Item = (LaunchId, bool)> + '_ {
        self.launches.iter().map(|(id, note)| match note.state {
            Launch::Requested | Launch::Starting => (id, true),
            Launch::Joined(worker) => (id, self.workers.get(worker).is_some_and(|worker| worker.cut().is_some())),
            Launch::Abandoned => (id, false),
        })
    }

    /// Whether it takes no more tasks.
    pub fn closing(&self) -> bool {
        self.closing
    }

    /// Tasks that are not done, and groups that more will come of.
    pub fn unresolved(&self) -> u64 {
        self.open_tasks() + self.promises.len() as u64
    }

    pub(super) fn open_tasks(&self) -> u64 {
        self.waiting + self.dealt + self.here + self.away + self.spread
    }

    /// Kept tasks that are not done.
    pub fn kept_open(&self) -> u64 {
        self.kept_open
    }

    /// The kept task that finished first, if it was not taken yet.
    pub fn kept_front(&self) -> Option<TaskId> {
        self.kept_done.front().copied()
    }

    /// Whether the task is done, or forgotten.
    pub fn is_done(&self, id: TaskId) -> bool {
        self.tasks.get(id).is_none_or(Task::is_done)
    }

    /// How the task ended; `None`: not yet.
    pub fn outcome(&self, id: TaskId) -> Option<&Outcome> {
        match &self.tasks.get(id)?.place {
            Place::Done(done) => Some(&done.outcome),
            Place::Waiting | Place::Held(_) | Place::Here | Place::Away(_) | Place::Everywhere(_) => None,
        }
    }

    /// Whether a worker is believed to work on this task: it is the oldest the worker holds.
    pub fn is_running(&self, id: TaskId) -> bool {
        match self.tasks.get(id).map(|task| &task.place) {
            Some(Place::Held(worker)) => {
                let begun =
                    |worker: &Worker| worker.held.front().into_iter().chain(&worker.inner).any(|held| held.task == id);
                self.workers.get(*worker).is_some_and(begun)
            }
            Some(Place::Here | Place::Everywhere(_)) => true,
            Some(Place::Waiting | Place::Away(_) | Place::Done(_)) | None => false,
        }
    }

    /// The worker that is believed to work on this task.
    pub(super) fn runner(&self, id: TaskId) -> Option<Arc<Face>> {
        match self.tasks.get(id).map(|task| &task.place) {
            Some(Place::Held(worker)) if self.is_running(id) => {
                self.workers.get(*worker).map(|worker| Arc::clone(&worker.face))
            }
            Some(
                Place::Held(_) | Place::Waiting | Place::Here | Place::Away(_) | Place::Everywhere(_) | Place::Done(_),
            )
            | None => None,
        }
    }

    /// Everything known about a finished task.
    pub fn view(&self, id: TaskId) -> Option<TaskView> {
        let task = self.tasks.get(id)?;
        let Place::Done(done) = &task.place else { return None };
        Some(TaskView {
            function: Arc::clone(&self.functions.get(task.function)?.label),
            submitted: task.submitted,
            finished: done.finished,
            run: done.run.clone(),
            face: done.face.clone(),
            attempts: task.attempts,
            certificate: task.certificate().cloned(),
            outcome: done.outcome.clone(),
            controller: task.crashes.as_ref().and_then(|crashes| crashes.controller.clone()),
        })
    }

    /// What is not done yet, and what it is called.
    pub fn names(&self) -> Vec<(TaskId, Option<Arc<str>>)> {
        let open = self.tasks.iter().filter(|(_, task)| !task.is_done());
        open.map(|(id, task)| (id, task.name.clone())).collect()
    }

    /// All counts at this instant.
    pub fn counts(&self) -> Counts {
        let workers = self.workers.len() as u64 - self.unlisted;
        let idle = (self.idle.len() + self.idle_extras.len()) as u64;
        let begun = self.dealt.min(workers - idle + self.inner);
        Counts {
            workers,
            idle,
            extra: self.extras,
            launching: self.expected + self.extras_expected,
            waiting: self.waiting + self.dealt - begun,
            running: begun + self.here + self.spread,
            away: self.away,
            uncollected: self.kept_open + self.kept_done.len() as u64,
            queued_bytes: self.bytes,
            queued_bytes_max: self.policy.queue_bytes,
            result_bytes: self.result_bytes,
            ..self.counts
        }
    }

    /// How far a launch has come; `None`: it failed, or its worker is gone.
    pub fn launch_state(&self, launch: LaunchId) -> Option<Launch> {
        self.launches.get(launch).map(|note| note.state)
    }

    /// Whether a task with so much payload would be taken now.
    pub fn has_room(&self, payload: u64) -> bool {
        self.bytes == 0 || self.bytes + payload + TASK_BYTES <= self.policy.queue_bytes
    }

    /// The launch's number, which its worker is named after.
    pub fn launch_number(&self, launch: LaunchId) -> Option<u64> {
        self.launches.get(launch).map(|note| note.number)
    }
}
