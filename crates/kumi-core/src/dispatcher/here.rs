//! Tasks that the host runs itself, without workers (`Staff::Host`).

use std::sync::Arc;

use super::Dispatcher;
use crate::ids::{TaskId, Time};
use crate::message::{Payload, Run};
use crate::task::{Limit, Outcome, Place};
use crate::worker::Face;

impl Dispatcher {
    /// Begins the oldest waiting task: its function, its arguments, and whether it is a call of `everywhere`.
    pub fn begin_here(&mut self) -> Option<(TaskId, Payload, Payload, bool)> {
        let id = self.take_waiting()?;
        let task = self.tasks.get_mut(id)?;
        let function = self.functions.get(task.function)?;
        task.place = Place::Here;
        self.waiting -= 1;
        self.here += 1;
        Some((id, Arc::clone(&function.payload), Arc::clone(&task.payload), task.everywhere))
    }

    /// The task begun last, or another one begun before, is done.
    pub fn finish_here(&mut self, now: Time, id: TaskId, outcome: Outcome, run: Run, face: Arc<Face>) {
        if let Some(task) = self.tasks.get_mut(id).filter(|task| matches!(task.place, Place::Here)) {
            task.attempts += 1;
            // Nobody could stop it, but it ends as it would have elsewhere.
            let outcome = if task.run_limit().is_some_and(|limit| limit.as_nanos() < u128::from(run.nanoseconds)) {
                Outcome::Timeout(Limit::Run)
            } else if task.deadline().is_some_and(|deadline| deadline <= now) {
                Outcome::Timeout(Limit::Total)
            } else {
                outcome
            };
            self.resolve(now, id, outcome, Some(run), Some(face));
        }
        self.settle(now);
    }
}
