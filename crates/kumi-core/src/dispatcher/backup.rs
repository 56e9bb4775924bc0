//! Tasks that have crashed as often as they may here, and go on with another dispatcher, the backup of this one.
//!
//! Here such a task is *away*: not in the queue, with no worker, and not done. It is done when the backup says how it ended,
//! or when it ends here before that; then the backup is told that nobody wants it any more. Its name, its limit of time in
//! all, its group and its place among the kept tasks stay here. There it is a *guest*: a task that nobody holds. The hands
//! carry tasks, reports and outcomes; so two dispatchers never wait for each other, and either may end at any moment.
//!
//! Given up: backups for tasks of tasks. They belong to the worker of their parent, which would have to be asked across.

use std::sync::Arc;

use super::{Action, Bug, Dispatcher};
use crate::error::SubmitError;
use crate::ids::{FunctionId, TaskId, Time};
use crate::message::Payload;
use crate::task::{Certificate, Large, NewTask, Outcome, Place, Task, TaskView};
use crate::worker::Face;

impl Dispatcher {
    /// Whether a task that may not be run again here has another place to go.
    pub(super) fn has_backup(&self, task: &Task) -> bool {
        self.policy.backup && !task.once && task.generation() == 0
    }

    /// This task has crashed its last worker here.
    pub(super) fn send_away(&mut self, now: Time, id: TaskId, face: &Arc<Face>) {
        let Some(task) = self.tasks.get_mut(id).filter(|task| task.is_held()) else { return };
        task.place = Place::Away(Arc::clone(face));
        self.dealt -= 1;
        self.away += 1;
        self.time_run(id, None);
        self.stops_waiting(id);
        self.take_children_along(now, id);
        self.actions.push_back(Action::HandOver { task: id });
    }

    /// Whether it is at the backup, or on its way there.
    pub fn is_away(&self, id: TaskId) -> bool {
        matches!(self.tasks.get(id).map(|task| &task.place), Some(Place::Away(_)))
    }

    /// A task that is away, as the backup is asked for it, and how often it was begun. Function and arguments are this
    /// dispatcher's. `None`: it has ended here.
    pub fn leaving(&self, id: TaskId) -> Option<(NewTask, u32)> {
        let task = self.tasks.get(id).filter(|_| self.is_away(id))?;
        let new = NewTask {
            large: task.large.clone(),
            crashes_max: task.crashes_max.as_deref().copied(),
            name: task.name.clone(),
            seconds_run: task.run_limit(),
            ..NewTask::new(task.function, Arc::clone(&task.payload))
        };
        Some((new, task.attempts))
    }

    /// A function or shared value as it was defined.
    pub fn definition(&self, id: FunctionId) -> Option<(Payload, Option<Box<Large>>, Arc<str>)> {
        let function = self.functions.get(id)?;
        Some((Arc::clone(&function.payload), function.large.clone(), Arc::clone(&function.label)))
    }

    /// The guest at the backup has reported.
    pub fn reported_away(&mut self, id: TaskId, payload: Payload) {
        if self.is_away(id) {
            self.keep_report(id, payload);
        }
    }

    /// The guest at the backup has ended.
    pub(super) fn came_back(&mut self, now: Time, id: TaskId, view: TaskView) {
        let Some(task) = self.tasks.get_mut(id).filter(|task| matches!(task.place, Place::Away(_))) else { return };
        task.attempts = view.attempts;
        let Some(crashes) = task.crashes.as_mut() else { return };
        crashes.certificate = view.certificate.unwrap_or_else(|| Arc::clone(&crashes.certificate));
        if let Outcome::Unlaunchable(text) = &view.outcome {
            return self.stranded(now, id, text);
        }
        crashes.controller = view.controller;
        self.resolve(now, id, view.outcome, view.run, view.face);
    }

    /// The backup could not run it: so it ends as the crash that it was here.
    pub(super) fn stranded(&mut self, now: Time, id: TaskId, text: &str) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        let (Place::Away(face), Some(crashes)) = (&task.place, task.crashes.as_mut()) else { return };
        let face = Arc::clone(face);
        let cause = format!("{}; then its backup could not run it: {text}", crashes.certificate.cause);
        crashes.certificate = Arc::new(Certificate { cause, ..Certificate::clone(&crashes.certificate) });
        let outcome = Outcome::Crash(Arc::clone(&crashes.certificate));
        self.resolve(now, id, outcome, None, Some(face));
    }

    /// If this task, which is about to end here, is away, nobody wants it there any more.
    pub(super) fn call_back(&mut self, id: TaskId) {
        if self.is_away(id) && !self.planted(Bug::NoCallBack) {
            self.actions.push_back(Action::CallBack { task: id });
        }
    }

    /// Takes a task in whose backup this is, begun so often elsewhere. The queue's bound does not hold it up: it counts
    /// against the bound of the other one until it ends. [`Action::Resolved`] says when, and whoever hears it releases it.
    ///
    /// # Errors
    /// When no more tasks are taken.
    pub fn receive(&mut self, now: Time, new: NewTask, attempts: u32) -> Result<TaskId, SubmitError> {
        if self.closing {
            return Err(SubmitError::Closed);
        }
        let id = self.take_in(now, new, Place::Waiting, None)?;
        if let Some(task) = self.tasks.get_mut(id) {
            // Whoever has handed it over asks how it ends.
            (task.attempts, task.guest, task.watched, task.seen) = (attempts, true, true, true);
            // What has killed workers elsewhere runs alone here.
            task.suspect = true;
            self.queue.push(task.number, id);
        }
        self.settle(now);
        Ok(id)
    }

    /// How a guest ends with this dispatcher.
    pub(super) fn turned_out(&self) -> Outcome {
        Outcome::Unlaunchable(Arc::from(format!("controller '{}' was terminated", self.policy.name)))
    }
}
