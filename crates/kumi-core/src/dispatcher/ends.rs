//! How tasks end: results kept, cancelled, timed out, forgotten.
//!
//! Every end goes through `resolve`, once. What a death does to the tasks of a worker is decided in `staff.rs`.

use std::sync::Arc;

use super::{Action, Dispatcher};
use crate::ids::{Lease, TaskId, Time};
use crate::message::Run;
use crate::task::{Done, Limit, Outcome, Overlooked, Place};
use crate::timer::Timer;
use crate::worker::{Face, Recall};

impl Dispatcher {
    /// The end of every task goes through here, once.
    pub(super) fn resolve(
        &mut self,
        now: Time,
        id: TaskId,
        outcome: Outcome,
        run: Option<Run>,
        face: Option<Arc<Face>>,
    ) {
        let Some(task) = self.tasks.get(id) else { return };
        if matches!(task.place, Place::Waiting) && task.parent().is_some() {
            self.unqueue_nested(id);
        }
        self.time_run(id, None);
        let Some(task) = self.tasks.get_mut(id) else { return };
        match task.place {
            Place::Waiting => self.waiting -= 1,
            Place::Held(_) => self.dealt -= 1,
            Place::Here => self.here -= 1,
            Place::Away(_) => self.away -= 1,
            Place::Everywhere(_) => self.spread -= 1,
            Place::Done(_) => return,
        }
        self.bytes -= task.bytes();
        task.payload = Arc::clone(&self.nothing);
        let large = task.large.take();
        if let Some(deadline) = task.deadline() {
            self.timers.unset(deadline, Timer::Total(id));
        }
        let (group, failed) = (task.group, !matches!(outcome, Outcome::Success(_)));
        // What is done before the start is the controller's own, its setup.
        if self.started {
            self.counts.add(&outcome);
        }
        task.place = Place::Done(Box::new(Done { outcome, finished: now, run, face, loan: None }));
        self.result_bytes += task.result_bytes();
        if task.kept {
            self.kept_open -= 1;
            self.kept_done.push_back(id);
        }
        if task.kept || task.watched {
            self.actions.push_back(Action::Resolved { task: id });
        }
        if task.family.is_some() {
            self.end_family(now, id);
        }
        if let Some(group) = group.filter(|_| failed) {
            self.fail_group(group, id);
        }
        if self.tasks.get(id).is_none_or(|task| !task.wanted) {
            self.remove(id);
        }
        self.warn_of_results();
        self.let_go_of_large(large);
    }

    pub(super) fn warn_of_results(&mut self) {
        if self.result_bytes > self.policy.queue_bytes && !self.warned {
            self.warned = true;
            self.actions.push_back(Action::TooManyResults { bytes: self.result_bytes });
        }
    }

    /// Somebody asks how the task ended: if it failed, that is not overlooked.
    pub fn see(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.seen = true;
        }
    }

    /// What failed unseen and cannot be asked for any more; `held`: or was not asked for until now. Each is told once.
    pub fn take_overlooked(&mut self, held: bool) -> Option<Overlooked> {
        if held {
            let ids: Vec<_> = self.tasks.iter().map(|(id, _)| id).collect();
            for id in ids {
                self.note_overlooked(id);
                self.see(id);
            }
        }
        self.overlooked.take().map(|overlooked| *overlooked)
    }

    /// Those of a task's children are its own business.
    fn note_overlooked(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(id).filter(|task| !task.seen && task.parent().is_none()) else { return };
        let Place::Done(done) = &task.place else { return };
        match done.outcome {
            Outcome::Error(_) | Outcome::Crash(_) | Outcome::Unlaunchable(_) | Outcome::Timeout(_) => {}
            Outcome::Success(_) | Outcome::Cancel => return,
        }
        if let Some(overlooked) = &mut self.overlooked {
            overlooked.count += 1;
        } else if let Some(first) = self.view(id) {
            self.overlooked = Some(Box::new(Overlooked { count: 1, name: task.name.clone(), first }));
        }
    }

    fn remove(&mut self, id: TaskId) {
        self.note_overlooked(id);
        let Some(task) = self.tasks.remove(id) else { return };
        self.result_bytes -= task.result_bytes();
        if let Place::Done(done) = &task.place {
            if let Some((loan, _)) = done.loan {
                self.let_go_of_loan(loan, false);
            }
        }
        if let Some(function) = self.functions.get_mut(task.function) {
            function.users -= 1;
            self.drop_unused_function(task.function);
        }
    }

    /// Cancels a task that no worker has begun. A local worker is asked through its page, so once the actions are
    /// carried out it is known whether it worked.
    pub fn cancel_waiting(&mut self, now: Time, id: TaskId) {
        match self.tasks.get(id).map(|task| &task.place) {
            Some(Place::Waiting) => self.resolve_waiting(now, id, Outcome::Cancel),
            Some(Place::Held(worker)) => self.ask_back_of(*worker, id, Recall::CancelIfWaiting),
            Some(Place::Here | Place::Away(_) | Place::Everywhere(_) | Place::Done(_)) | None => {}
        }
        self.settle(now);
    }

    /// Cancels every task that no worker has begun, as [`Dispatcher::cancel_waiting`] does one.
    pub fn cancel_all_waiting(&mut self, now: Time) {
        let open: Vec<_> = self.tasks.iter().filter(|(_, task)| !task.is_done()).map(|(id, _)| id).collect();
        for id in open {
            self.cancel_waiting(now, id);
        }
    }

    /// Cancels a task wherever it is: it is resolved at once, and a worker that runs it is stopped behind the scenes.
    pub fn cancel(&mut self, now: Time, id: TaskId) {
        self.stop_task(now, id, Outcome::Cancel);
        self.settle(now);
    }

    pub(super) fn stop_task(&mut self, now: Time, id: TaskId, outcome: Outcome) {
        match self.tasks.get(id).map(|task| &task.place) {
            Some(Place::Waiting) => self.resolve_waiting(now, id, outcome),
            Some(Place::Held(worker)) => {
                let worker = *worker;
                let face = self.runner(id);
                self.resolve(now, id, outcome, None, face);
                self.discard(now, worker, id);
            }
            Some(Place::Here) => self.resolve(now, id, outcome, None, None),
            Some(Place::Away(face)) => {
                let face = Arc::clone(face);
                self.call_back(id);
                self.resolve(now, id, outcome, None, Some(face));
            }
            Some(Place::Everywhere(number)) => self.stop_call(now, *number, id, outcome),
            Some(Place::Done(_)) | None => {}
        }
    }

    fn resolve_waiting(&mut self, now: Time, id: TaskId, outcome: Outcome) {
        let nested = self.tasks.get(id).is_some_and(|task| task.parent().is_some());
        self.resolve(now, id, outcome, None, None);
        if nested {
            return;
        }
        let tasks = &self.tasks;
        self.queue.forget_one(|id| tasks.get(id).is_some_and(|task| !task.is_done()));
    }

    /// Watches `seconds_run` of a task that was dealt, or of none any more: a million limits of an hour are no burden
    /// when their tasks are done.
    pub(super) fn time_run(&mut self, id: TaskId, until: Option<(Time, Lease)>) {
        let Some(limits) = self.tasks.get_mut(id).and_then(|task| task.limits.as_mut()) else { return };
        if let Some((at, lease)) = std::mem::replace(&mut limits.run_until, until) {
            self.timers.unset(at, Timer::Run(id, lease));
        }
        if let Some((at, lease)) = until {
            self.timers.set(at, Timer::Run(id, lease));
        }
    }

    pub(super) fn run_due(&mut self, now: Time, task: TaskId, lease: Lease) {
        let Some(Place::Held(worker)) = self.tasks.get(task).map(|task| &task.place) else {
            return;
        };
        let worker = *worker;
        if self.workers.get_mut(worker).is_some_and(|note| note.held(lease).is_some()) {
            self.stop_task(now, task, Outcome::Timeout(Limit::Run));
        }
    }

    /// The handle on this task is gone: its result is forgotten, or will be.
    pub fn release(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.wanted = false;
            if task.is_done() {
                self.remove(id);
            }
        }
    }

    /// Says [`Action::Resolved`] when this task is done. False: it is done already.
    pub fn watch(&mut self, id: TaskId) -> bool {
        match self.tasks.get_mut(id) {
            Some(task) if !task.is_done() => {
                task.watched = true;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Takes out what [`Dispatcher::kept_front`] shows.
    pub fn kept_pop(&mut self) -> Option<TaskId> {
        self.kept_done.pop_front()
    }
}
