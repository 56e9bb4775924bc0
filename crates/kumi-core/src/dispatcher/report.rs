//! What tasks say of themselves while they run: the latest counts, and nobody waits for it.

use super::{Action, Dispatcher};
use crate::ids::{Lease, TaskId, WorkerId};
use crate::message::Payload;
use crate::task::{Place, REPORT_MAX, Report};

impl Dispatcher {
    /// A report counts only under the lease of the one who runs the task, as a result does.
    pub(super) fn reported(&mut self, worker: WorkerId, lease: Lease, payload: Payload) {
        let held = self.workers.get_mut(worker).and_then(|note| note.held(lease)).map(|held| held.task);
        let Some(id) = held else { return };
        if matches!(self.tasks.get(id).map(|task| &task.place), Some(Place::Held(holder)) if *holder == worker) {
            self.keep_report(id, payload);
        }
    }

    /// What a task says that the host runs itself.
    pub fn reported_here(&mut self, id: TaskId, payload: Payload) {
        if matches!(self.tasks.get(id).map(|task| &task.place), Some(Place::Here)) {
            self.keep_report(id, payload);
        }
    }

    /// What the task reported last.
    pub fn report(&self, id: TaskId) -> Option<&Report> {
        self.tasks.get(id)?.report.as_deref()
    }

    pub(super) fn keep_report(&mut self, id: TaskId, payload: Payload) {
        let Some(task) = self.tasks.get_mut(id).filter(|_| payload.len() <= REPORT_MAX) else { return };
        let number = task.report.as_ref().map_or(1, |report| report.number.saturating_add(1));
        task.report = Some(Box::new(Report { number, payload }));
        if task.watched {
            self.actions.push_back(Action::Reported { task: id });
        }
    }
}
