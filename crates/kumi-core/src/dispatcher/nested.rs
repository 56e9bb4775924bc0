//! Tasks that submit tasks: families, waits, and who may run what.
//!
//! A task that waits in its worker's main thread lends that worker to its descendants, and to nobody else: dealt one at a
//! time, each *within* the wait of the one before. A task that waits elsewhere (in async code, in another thread) cannot;
//! for each of those one worker above the policy's number may come, which runs only their descendants. So whatever waits,
//! what it waits for can run, at any depth. A task that ends takes its descendants along, unless it returned.
//!
//! Tasks with a living parent are dealt before those without one: what was begun is finished first.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use super::{Action, Bug, Dispatcher};
use crate::ids::{Lease, TaskId, Time, WorkerId};
use crate::message::{Ending, Leave, Payload, Terms, ToWorker};
use crate::scaling::{self, Bounds, Snapshot};
use crate::task::{Certificate, Family, NewTask, Outcome, Place, Rank};
use crate::timer::Timer;
use crate::worker::{Recall, Stage, Worker};

/// How deep tasks may nest. Each generation may need a worker of its own, so a recursion without end must end here.
pub const GENERATIONS_MAX: u32 = 100;
/// An extra worker that has nothing to do leaves after this, or at once when nobody needs it any more.
pub(super) const EXTRA_IDLE: Duration = Duration::from_secs(1);

/// A task that a worker's task submits.
pub(super) struct Child {
    pub number: u64,
    pub parent: Lease,
    pub function: u64,
    pub terms: Terms,
    pub payload: Payload,
}

impl Dispatcher {
    /// A task of this worker submits one. The queue's bound does not hold it up: it would wait for itself.
    pub(super) fn submit_child(&mut self, now: Time, id: WorkerId, child: Child) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        // Numbers grow: an old one is a repetition.
        if child.number <= worker.newest_child {
            return;
        }
        worker.newest_child = child.number;
        let function = worker.declared.get(&child.function).copied();
        let parent = worker.held(child.parent).copied();
        if parent.is_some_and(|parent| parent.call.is_some()) {
            let text = "what every worker does before its first task (setup, everywhere) cannot submit tasks itself";
            let outcome = Outcome::Unlaunchable(Arc::from(text));
            return self.tell_parent(id, child.number, refused(now, &outcome, &self.nothing));
        }
        let parent = parent.map(|parent| parent.task);
        let parent = parent.filter(|parent| self.tasks.get(*parent).is_some_and(|task| !task.is_done()));
        let (Some(parent), Some(function)) = (parent, function) else {
            // What ended, or was cancelled, takes along what it submits afterwards.
            return self.tell_parent(id, child.number, refused(now, &Outcome::Cancel, &self.nothing));
        };
        let generation = self.tasks.get(parent).map_or(0, |task| task.generation()) + 1;
        if generation > GENERATIONS_MAX {
            let text = format!("it is nested {generation} tasks deep, which looks like a recursion without end");
            let outcome = Outcome::Unlaunchable(Arc::from(text));
            return self.tell_parent(id, child.number, refused(now, &outcome, &self.nothing));
        }
        let Terms { crashes_max, once, seconds_run, seconds_total } = child.terms;
        let new = NewTask { crashes_max, once, seconds_run, seconds_total, ..NewTask::new(function, child.payload) };
        let family = Family { parent: Some((parent, id, child.number)), generation, ..Family::default() };
        let Ok(task) = self.take_in(now, new, Place::Waiting, Some(Box::new(family))) else { return };
        if let Some(worker) = self.workers.get_mut(id) {
            worker.children.insert(child.number, task);
        }
        if let Some(family) = self.family(parent) {
            family.children.insert(task);
        }
        self.enqueue_nested(task);
    }

    pub(super) fn cancel_child(&mut self, now: Time, id: WorkerId, child: u64) {
        if let Some(task) = self.workers.get(id).and_then(|worker| worker.children.get(&child)) {
            self.stop_task(now, *task, Outcome::Cancel);
        }
    }

    pub(super) fn release_child(&mut self, id: WorkerId, child: u64) {
        if let Some(task) = self.workers.get_mut(id).and_then(|worker| worker.children.remove(&child)) {
            self.release(task);
        }
    }

    /// A task waits: its worker gives back what it holds behind it, and helps it.
    pub(super) fn begin_wait(&mut self, now: Time, id: WorkerId, lease: Lease, child: Option<u64>) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let held = worker.held(lease).filter(|held| held.call.is_none());
        let Some(task) = held.map(|held| held.task) else { return };
        let waited_for = child.map(|child| worker.children.get(&child).copied());
        self.busy_for_long(id, lease);
        self.recall_all(id);
        if self.tasks.get(task).is_none_or(|task| task.is_done()) {
            return;
        }
        let Some(family) = self.family(task) else { return };
        match waited_for {
            Some(Some(child)) => family.waits = Some(child),
            // It is done: the worker will see that in a moment.
            Some(None) => return,
            None => family.waits_elsewhere = true,
        }
        if family.is_needy() {
            self.needy.insert(task);
            self.patrons.insert(task);
        }
        self.help(now, task);
    }

    pub(super) fn resume(&mut self, id: WorkerId, lease: Lease, elsewhere: bool) {
        let Some(task) = self.workers.get_mut(id).and_then(|worker| worker.held(lease)).map(|held| held.task) else {
            return;
        };
        if !elsewhere {
            return self.end_wait(task);
        }
        if let Some(family) = self.tasks.get_mut(task).and_then(|task| task.family.as_mut()) {
            family.waits_elsewhere = false;
            if !family.is_needy() {
                self.needy.remove(&task);
            }
        }
    }

    /// The main thread of a task's worker waits no longer: what was dealt to run meanwhile, and has not begun, goes back.
    fn end_wait(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        let Place::Held(worker_id) = task.place else { return };
        let Some(family) = task.family.as_mut() else { return };
        family.waits = None;
        if !family.is_needy() {
            self.needy.remove(&id);
        }
        let Some(worker) = self.workers.get(worker_id) else { return };
        let above = worker.inner.iter().position(|held| held.task == id).map_or(0, |at| at + 1);
        // What is to be cancelled, or to stop, was asked for already.
        let above = worker.inner.iter().skip(above).rev().filter(|held| held.recall == Recall::No);
        let above: Vec<_> = above.map(|held| held.lease).collect();
        for lease in above {
            self.ask_back(worker_id, lease, Recall::Requeue);
        }
    }

    /// If this task waits in its worker's main thread, the worker runs one of its descendants. Whether one was dealt.
    fn help(&mut self, now: Time, id: TaskId) -> bool {
        let Some(task) = self.tasks.get(id) else { return false };
        let Place::Held(worker_id) = task.place else { return false };
        let Some(family) = task.family.as_ref().filter(|family| family.waits.is_some() && !family.apart) else {
            return false;
        };
        let Some(worker) = self.workers.get(worker_id) else { return false };
        let takes = matches!(worker.stage, Stage::Active | Stage::Draining(_)) && worker.reachable();
        let Some(top) = worker.top().filter(|top| top.task == id && takes) else { return false };
        let strangers = self.planted(Bug::HelpsStrangers);
        let queued = if strangers { &self.nested } else { &family.queued };
        let (lease, next) = (top.lease, queued.first().copied());
        let Some((_, _, next)) = next else { return false };
        self.unqueue(next);
        self.assign(now, worker_id, next, Some(lease));
        true
    }

    /// The worker has answered the task that ran within another one's wait: that one may need help again.
    pub(super) fn help_top(&mut self, now: Time, id: WorkerId) {
        let top = self.workers.get(id).and_then(|worker| worker.top()).map(|top| top.task);
        if let Some(top) = top {
            self.help(now, top);
        }
    }

    /// For nested tasks that have come into the queue and found no free worker: the nearest ancestor that waits.
    pub(super) fn help_ancestors(&mut self, now: Time) {
        while let Some(fresh) = self.fresh.pop() {
            let mut next = self.tasks.get(fresh).filter(|task| matches!(task.place, Place::Waiting));
            while let Some(ancestor) = next.and_then(|task| task.parent()) {
                if self.help(now, ancestor) {
                    break;
                }
                next = self.tasks.get(ancestor);
            }
        }
    }

    /// Extra workers are for descendants of tasks that wait elsewhere.
    pub(super) fn deal_to_extras(&mut self, now: Time) {
        while let Some(&(_, worker)) = self.idle_extras.last() {
            let Some(task) = self.needed() else { return };
            self.unqueue(task);
            self.assign(now, worker, task, None);
        }
    }

    /// The first descendant in the queue of a task that waits elsewhere.
    fn needed(&self) -> Option<TaskId> {
        let first = |id: &TaskId| self.tasks.get(*id)?.family.as_ref()?.queued.first().copied();
        self.needy.iter().filter_map(first).min().map(|(_, _, task)| task)
    }

    /// How many extra workers there should be: none as long as others come, or are free; else one for each task that waits
    /// elsewhere and has something to run.
    pub(super) fn scale_extras(&mut self, now: Time) {
        if !self.needy.is_empty() && self.idle.is_empty() && self.expected == 0 {
            self.launch_extras(now);
        }
        // Nobody needs them any more.
        while self.extras > self.patrons.len() as u64 {
            let Some(&(_, worker)) = self.idle_extras.first() else { return };
            self.drain(now, worker, Leave::Idle);
        }
    }

    fn launch_extras(&mut self, now: Time) {
        let has_work = |id: &&TaskId| {
            let family = self.tasks.get(**id).and_then(|task| task.family.as_ref());
            family.is_some_and(|family| !family.queued.is_empty())
        };
        let waiting = self.needy.iter().filter(has_work).count() as u64;
        let room = self.policy.workers.saturating_sub(self.launches.len() as u64 - self.extra_launches);
        let hopeless = self.failures >= scaling::FAILURES_MAX && self.all_blocked();
        // Where there is room for an ordinary worker, one is tried; it will do.
        if waiting == 0 || (room > 0 && !hopeless) {
            return;
        }
        if hopeless && self.extras_expected == 0 {
            // Extra workers that are here wait for others themselves, or are about to go.
            self.give_up_needed(now, &self.why_hopeless());
            // The next need is worth new attempts, one by one.
            self.failures = 1;
            return;
        }
        let free = self.free_berths();
        if free == 0 {
            return self.lack_berths(now);
        }
        let snapshot = Snapshot {
            waiting,
            running: self.extras - self.idle_extras.len() as u64,
            joined: self.extras,
            leaving: self.extra_launches - self.extras - self.extras_expected,
            expected: self.extras_expected,
            failures: self.failures,
            failed: self.failed,
        };
        let bounds = Bounds { workers: self.needy.len() as u64, workers_min: 0 };
        let decision = scaling::decide(snapshot, bounds, now);
        if decision.launch > 0 {
            self.launch(now, decision.launch.min(free), true);
        }
        if let Some(again) = decision.again {
            self.timers.set(again, Timer::Scale);
        }
    }

    fn free_berths(&self) -> u64 {
        let berths = self.policy.berths.filter(|_| !self.planted(Bug::ExtraWithoutBerth));
        berths.map_or(u64::MAX, |berths| berths.saturating_sub(self.launches.len() as u64))
    }

    /// There is no berth for an extra worker, and if all who have one wait for others, there never will be.
    fn lack_berths(&mut self, now: Time) {
        let at_work = |worker: &Worker| matches!(worker.stage, Stage::Active | Stage::Draining(_));
        let comes_or_goes = self.launches.len() > self.workers.iter().filter(|(_, worker)| at_work(worker)).count();
        if comes_or_goes {
            return;
        }
        let text = "all slots for workers (gpus=) are taken by tasks that wait in async code, or in a thread of their own, \
                    for tasks that need a worker besides: have them wait in plain code, where their own worker runs those";
        self.give_up_needed(now, &Arc::from(text));
    }

    /// Until a worker waits no longer: then that goes on with the rest.
    fn give_up_needed(&mut self, now: Time, text: &Arc<str>) {
        while let Some(task) = self.needed().filter(|_| self.all_blocked()) {
            self.stop_task(now, task, Outcome::Unlaunchable(Arc::clone(text)));
        }
    }

    /// Whether every worker that takes tasks waits for others.
    fn all_blocked(&self) -> bool {
        let mut all =
            self.workers.iter().filter(|(_, worker)| matches!(worker.stage, Stage::Active | Stage::Draining(_)));
        all.all(|(_, worker)| {
            let family = worker.top().and_then(|top| self.tasks.get(top.task)?.family.as_ref());
            family.is_some_and(|family| family.is_needy())
        })
    }

    /// The family of a task, which has one from now on.
    fn family(&mut self, id: TaskId) -> Option<&mut Family> {
        self.tasks.get_mut(id).map(|task| &mut **task.family.get_or_insert_default())
    }

    fn rank(&self, id: TaskId) -> Rank {
        let task = self.tasks.get(id);
        (Reverse(task.map_or(0, |task| task.generation())), task.map_or(0, |task| task.number), id)
    }

    /// Into the queue of nested tasks, and into view of all its ancestors.
    pub(super) fn enqueue_nested(&mut self, id: TaskId) {
        let rank = self.rank(id);
        self.nested.insert(rank);
        self.for_ancestors(id, |family| {
            family.queued.insert(rank);
        });
        self.fresh.push(id);
    }

    pub(super) fn unqueue_nested(&mut self, id: TaskId) {
        let rank = self.rank(id);
        self.nested.remove(&rank);
        self.for_ancestors(id, |family| {
            family.queued.remove(&rank);
        });
    }

    fn for_ancestors(&mut self, id: TaskId, mut change: impl FnMut(&mut Family)) {
        let mut next = self.tasks.get(id).and_then(|task| task.parent());
        while let Some(task) = next.and_then(|id| self.tasks.get_mut(id)) {
            next = task.parent();
            if let Some(family) = task.family.as_mut() {
                change(family);
            }
        }
    }

    /// A task is done: its parent's worker is told, and its descendants are taken along or let go.
    pub(super) fn end_family(&mut self, now: Time, id: TaskId) {
        let Some(task) = self.tasks.get(id) else { return };
        let Some(family) = task.family.as_ref() else { return };
        let (parent, returned) = (family.parent, matches!(&task.place, Place::Done(done) if done.outcome.is_success()));
        if returned {
            self.let_children_go(id);
        } else {
            self.take_children_along(now, id);
        }
        self.stops_waiting(id);
        if let Some((parent, worker, number)) = parent {
            let family = self.tasks.get_mut(parent).and_then(|task| task.family.as_mut());
            let waited_for = family.is_some_and(|family| {
                family.children.remove(&id);
                family.waits == Some(id)
            });
            if waited_for {
                self.end_wait(parent);
            }
            let asked = self.workers.get_mut(worker).and_then(|worker| worker.children.remove(&number));
            if asked.is_some() {
                if let Some(ending) = self.ending(id) {
                    self.tell_parent(worker, number, ending);
                }
                if let Some(task) = self.tasks.get_mut(id) {
                    task.wanted = false;
                }
            }
        }
    }

    /// A task goes back to the queue, or has ended: it waits for nobody.
    pub(super) fn stops_waiting(&mut self, id: TaskId) {
        self.needy.remove(&id);
        self.patrons.remove(&id);
        if let Some(family) = self.tasks.get_mut(id).and_then(|task| task.family.as_mut()) {
            (family.waits, family.waits_elsewhere) = (None, false);
        }
    }

    /// What it has submitted is cancelled, with all that this has submitted.
    pub(super) fn take_children_along(&mut self, now: Time, id: TaskId) {
        if self.planted(Bug::OrphansGoOn) {
            return self.let_children_go(id);
        }
        loop {
            let child = self.tasks.get(id).and_then(|task| task.family.as_ref()?.children.first().copied());
            let Some(child) = child else { return };
            self.stop_task(now, child, Outcome::Cancel);
            // Done, so it is not a child any more; this line makes sure that the loop ends.
            if let Some(family) = self.family(id) {
                family.children.remove(&child);
            }
        }
    }

    /// What it has submitted goes on as if the host had submitted it; nobody waits for it.
    fn let_children_go(&mut self, id: TaskId) {
        let Some(family) = self.tasks.get_mut(id).and_then(|task| task.family.as_mut()) else { return };
        let children = std::mem::take(&mut family.children);
        for child in children {
            let waits = self.tasks.get(child).is_some_and(|task| matches!(task.place, Place::Waiting));
            if waits {
                self.unqueue_nested(child);
            }
            let Some(family) = self.tasks.get_mut(child).and_then(|task| task.family.as_mut()) else { continue };
            let queued: Vec<_> = family.queued.iter().copied().collect();
            let former = family.parent;
            self.for_ancestors(child, |family| {
                queued.iter().for_each(|rank| {
                    family.queued.remove(rank);
                });
            });
            if let Some(family) = self.tasks.get_mut(child).and_then(|task| task.family.as_mut()) {
                family.parent = None;
            }
            if let Some((_, worker, number)) = former {
                self.workers.get_mut(worker).and_then(|worker| worker.children.remove(&number));
            }
            if let Some(task) = self.tasks.get(child).filter(|_| waits) {
                self.queue.put_back(task.number, child);
            }
            self.release(child);
        }
    }

    fn ending(&self, id: TaskId) -> Option<(Ending, Payload)> {
        let task = self.tasks.get(id)?;
        let Place::Done(done) = &task.place else { return None };
        let (word, payload) = done.outcome.word(&self.nothing);
        let ending = Ending {
            word,
            submitted: task.submitted,
            finished: done.finished,
            attempts: task.attempts,
            run: done.run.clone(),
            face: done.face.as_deref().cloned(),
            certificate: task.certificate().map(|certificate| Certificate::clone(certificate)),
        };
        Some((ending, payload))
    }

    fn tell_parent(&mut self, worker: WorkerId, child: u64, (ending, payload): (Ending, Payload)) {
        let message = ToWorker::Resolved { child, ending: Box::new(ending), payload };
        self.actions.push_back(Action::Send { worker, message });
    }
}

/// How a task ends that was not taken.
fn refused(now: Time, outcome: &Outcome, nothing: &Payload) -> (Ending, Payload) {
    let (word, payload) = outcome.word(nothing);
    let ending = Ending { word, submitted: now, finished: now, attempts: 0, run: None, face: None, certificate: None };
    (ending, payload)
}
