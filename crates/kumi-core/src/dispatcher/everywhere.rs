//! What every worker does before its next task: calls of `everywhere`, which include the controller's setup.
//!
//! Calls are numbered. A worker does them in order and one at a time, behind the tasks it holds already, and nothing is
//! dealt behind one; so every task runs after the calls that were made before it. One that joins does all calls first and
//! counts as a launch until then: if one fails there, the launch has failed. A call's task waits for the workers that were
//! present when it was made, and for nobody who has died or left since. A call that did not succeed is withdrawn: nobody
//! who comes later does it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::deal::LONG;
use super::{Action, Begun, Dispatcher, Staff};
use crate::crashes::Crashes;
use crate::error::SubmitError;
use crate::ids::{FunctionId, Lease, TaskId, Time, WorkerId};
use crate::message::{Payload, ToWorker};
use crate::task::{Certificate, Large, NewTask, Outcome, Place};
use crate::timer::Timer;
use crate::worker::{Face, Held, Recall, Stage, Worker};

/// One call, kept for workers that join later.
#[derive(Debug)]
pub(super) struct Call {
    task: TaskId,
    pub(super) function: FunctionId,
    payload: Payload,
    /// What belongs to that elsewhere, which is the call's own until it is withdrawn.
    large: Option<Box<Large>>,
    /// What its task results in.
    value: Payload,
    /// Workers that were present and have not answered.
    left: BTreeSet<WorkerId>,
    /// One of them has done it.
    done: bool,
    /// The first error of one of them, and how one died of it.
    error: Option<Payload>,
    death: Option<(Arc<Certificate>, Arc<Face>)>,
}

impl Dispatcher {
    /// Has every worker call a function before its next task: those that are here and those that join later. The task
    /// is done when those that are here have done it; its result is `value`.
    ///
    /// # Errors
    /// When the queue is full or closed; nothing is called then.
    pub fn everywhere(&mut self, now: Time, new: NewTask, value: Payload) -> Result<TaskId, SubmitError> {
        self.latest = self.latest.max(now);
        if self.policy.staff == Staff::Host {
            let id = self.submit(now, new)?;
            if let Some(task) = self.tasks.get_mut(id) {
                task.everywhere = true;
            }
            return Ok(id);
        }
        let mut new = new;
        // It outlives the task, which only waits.
        let large = new.large.take();
        let (function, payload, number) = (new.function, Arc::clone(&new.payload), self.last_call + 1);
        let shared = large.as_ref().map_or(&[][..], |large| &large.uses);
        if shared.iter().any(|shared| self.functions.get(*shared).is_none()) {
            return Err(SubmitError::NoFunction);
        }
        let task = self.admit(now, new, Place::Everywhere(number))?;
        self.use_shared(shared);
        self.last_call = number;
        self.spread += 1;
        if let Some(function) = self.functions.get_mut(function) {
            function.users += 1;
        }
        // One that is being prepared has a call in hand; this one is behind that.
        let here = self.workers.iter().filter(|(_, worker)| worker.stage == Stage::Active);
        let left: BTreeSet<_> = here.map(|(id, _)| id).collect();
        let reached = left.clone();
        let call = Call { task, function, payload, large, value, left, done: false, error: None, death: None };
        self.calls.insert(number, call);
        for worker in reached {
            self.catch_up(worker);
        }
        self.conclude(now, number);
        self.settle(now);
        Ok(task)
    }

    /// Sends a worker that has one to do its next call. True: it has one in hand, or to come.
    pub(super) fn catch_up(&mut self, id: WorkerId) -> bool {
        let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.served < self.last_call) else {
            return self.workers.get(id).is_some_and(|worker| worker.errand().is_some());
        };
        if !matches!(worker.stage, Stage::Active | Stage::Preparing) {
            return false;
        }
        if worker.errand().is_some() {
            return true;
        }
        let Some((&number, call)) = self.calls.range(worker.served + 1..).next() else {
            worker.served = self.last_call;
            return false;
        };
        // It holds as much as it can: when it has finished something.
        let Some(slot) = worker.slots.pop() else { return true };
        worker.served = number;
        let lease = Lease(self.next_lease);
        self.next_lease += 1;
        if worker.is_free() {
            self.idle.remove(&(worker.idle_since, id));
            self.idle_extras.remove(&(worker.idle_since, id));
        }
        let (task, dealt) = (call.task, self.latest);
        worker.hold(Held { lease, task, slot, nanos: LONG, dealt, recall: Recall::No, call: Some(number) });
        let (function, payload, large) = (call.function, Arc::clone(&call.payload), call.large.clone());
        self.define_at(id, function);
        for shared in large.iter().flat_map(|large| &large.uses) {
            self.define_at(id, *shared);
        }
        self.lend(id, large.as_deref());
        let message = ToWorker::Prepare { lease, slot, function, payload };
        self.actions.push_back(Action::Send { worker: id, message });
        true
    }

    /// A worker has done a call, or it failed there with this error.
    pub(super) fn prepared(&mut self, now: Time, id: WorkerId, lease: Lease, error: &str, payload: Payload) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let Some(number) = worker.held(lease).and_then(|held| held.call) else { return };
        worker.let_go(lease);
        worker.answered = now;
        worker.prepared |= error.is_empty();
        // Such an answer has no part elsewhere.
        let (stage, offered) = (worker.stage, worker.offered.take());
        // It may have counted before it was known to be of use, if the calls that it had to do first were withdrawn.
        let useful = worker.origin().filter(|_| stage == Stage::Active && worker.prepared);
        self.note_agent(useful, false);
        self.keep_loan(offered, None);
        if let Some(call) = self.calls.get_mut(&number) {
            if call.left.remove(&id) {
                call.done |= error.is_empty();
                if !error.is_empty() {
                    call.error.get_or_insert(payload);
                }
                self.conclude(now, number);
            } else if stage == Stage::Preparing && !error.is_empty() {
                let label = self.functions.get(call.function).map_or_else(|| Arc::from(""), |f| Arc::clone(&f.label));
                self.fail_set_up(
                    now,
                    id,
                    format!(
                        "{label}, which every worker does before its first task (setup, everywhere), failed:\n{error}"
                    ),
                );
            }
        }
        self.lightened(now, id);
    }

    /// A worker that joined cannot be used.
    pub(super) fn fail_set_up(&mut self, now: Time, id: WorkerId, text: String) {
        self.note_failure(now, Arc::from(text));
        self.note_agent(self.workers.get(id).and_then(Worker::origin), true);
        self.kill(id);
    }

    /// It has taken too long to set up a worker.
    pub(super) fn set_up_due(&mut self, now: Time, id: WorkerId) {
        let Some(worker) = self.workers.get(id).filter(|worker| worker.stage == Stage::Preparing) else { return };
        if now.since(worker.idle_since) >= self.policy.launch {
            let text = self.overdue(worker.launch, "a worker was not set up");
            self.fail_set_up(now, id, text);
        }
    }

    /// What a worker's death means for the call it had in hand. True: it died of that.
    pub(super) fn bereave(
        &mut self,
        id: WorkerId,
        held: &Held,
        begun: Begun,
        (certificate, face): (&Arc<Certificate>, &Arc<Face>),
    ) -> bool {
        let call = held.call.and_then(|number| self.calls.get_mut(&number)).filter(|call| call.left.contains(&id));
        let Some(call) = call.filter(|_| begun == Begun::One(held.lease)) else { return false };
        call.death = Some((Arc::clone(certificate), Arc::clone(face)));
        true
    }

    /// The worker will do no call from this number on: nobody waits for it any more.
    pub(super) fn excuse(&mut self, now: Time, id: WorkerId, from: u64) {
        let waiting = self.calls.range(from..).filter(|(_, call)| call.left.contains(&id));
        let waiting: Vec<_> = waiting.map(|(number, _)| *number).collect();
        for number in waiting {
            if self.calls.get_mut(&number).is_some_and(|call| call.left.remove(&id)) {
                self.conclude(now, number);
            }
        }
    }

    /// If nobody is left who was present, the call's task is done.
    fn conclude(&mut self, now: Time, number: u64) {
        let Some(call) = self.calls.get(&number).filter(|call| call.left.is_empty()) else { return };
        let task = call.task;
        let mut last = None;
        let outcome = match (&call.error, &call.death) {
            (Some(error), _) => Outcome::Error(Arc::clone(error)),
            (None, Some((certificate, face))) if !call.done => {
                last = Some(Arc::clone(face));
                if let Some(task) = self.tasks.get_mut(task) {
                    (task.attempts, task.crashes) = (1, Some(Box::new(Crashes::new(Arc::clone(certificate)))));
                }
                Outcome::Crash(Arc::clone(certificate))
            }
            (None, _) => Outcome::Success(Arc::clone(&call.value)),
        };
        let failed = !matches!(outcome, Outcome::Success(_));
        self.resolve(now, task, outcome, None, last);
        if failed {
            self.withdraw_call(number);
        }
    }

    /// A call's task ends before its time: who does the call stops, and nobody begins it any more.
    pub(super) fn stop_call(&mut self, now: Time, number: u64, task: TaskId, outcome: Outcome) {
        self.resolve(now, task, outcome, None, None);
        self.withdraw_call(number);
        let having = self.workers.iter().filter(|(_, worker)| worker.errand().is_some_and(|held| held.task == task));
        let having: Vec<_> = having.map(|(id, _)| id).collect();
        for worker in having {
            self.discard(now, worker, task);
        }
    }

    /// No worker will come any more.
    pub(super) fn withdraw_calls(&mut self) {
        while let Some(number) = self.calls.keys().next().copied() {
            self.withdraw_call(number);
        }
    }

    fn withdraw_call(&mut self, number: u64) {
        let Some(call) = self.calls.remove(&number) else { return };
        if let Some(function) = self.functions.get_mut(call.function) {
            function.users -= 1;
            self.drop_unused_function(call.function);
        }
        self.let_go_of_large(call.large);
    }

    /// The worker is ready for tasks: from now on it counts.
    pub(super) fn enlist(&mut self, now: Time, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.stage = Stage::Active;
        worker.enlisted = true;
        worker.idle_since = now;
        let (extra, launch) = (worker.extra, worker.launch);
        let ready = worker.origin().filter(|_| worker.prepared);
        self.note_agent(ready, false);
        self.written.remove(&launch);
        *self.expected(extra) -= 1;
        self.unlisted -= 1;
        self.counts.launched += 1;
        if extra {
            self.extras += 1;
            self.idle_extras.insert((now, id));
            self.watch_idle(now, id);
        } else {
            self.active += 1;
            self.idle.insert((now, id));
        }
        if let Some(wall) = self.policy.wall {
            self.timers.set(now.after(wall), Timer::Wall(id));
        }
        let idle: Vec<_> = self.idle.iter().map(|(_, id)| *id).collect();
        for id in idle {
            self.watch_idle(now, id);
        }
    }
}
