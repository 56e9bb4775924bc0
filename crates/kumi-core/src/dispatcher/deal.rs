//! Tasks to workers: dealing, prefetching, recalling.
//!
//! A wake-up of another core costs more than a short task, so a worker that runs short ones holds a window of them.
//! The window is what it will finish in about a millisecond; when another worker has nothing to do, or a task in front
//! turns out to be long, what has not begun is taken back, youngest first.

use std::sync::Arc;
use std::time::Duration;

use super::{Action, Bug, Dispatcher};
use crate::ids::{Lease, TaskId, Time, WorkerId};
use crate::message::{Run, ToWorker};
use crate::scaling::FAILURES_MAX;
use crate::task::{Outcome, Place, Task};
use crate::timer::Timer;
use crate::worker::{HELD_MAX, Held, Link, Recall, Stage, Worker};

/// How much work, in nanoseconds, a worker may hold; a task that takes longer is not short and is never prefetched.
const WINDOW: u64 = 1_000_000;
/// Estimate for a task of which nothing is known, or that must run alone: nothing is dealt behind it. Of as many as a worker
/// may hold there is still a sum.
pub(super) const LONG: u64 = u64::MAX / 1024;
/// A worker that says nothing for so long, while tasks wait behind another, is not running short tasks.
const STALL: Duration = Duration::from_millis(5);

/// Two submits within this are a burst; one takes about 3 us.
const BURST: Duration = Duration::from_micros(20);
/// Only such short tasks, in nanoseconds, are worth gathering: a wake-up of a worker costs about as much.
const GATHERED: u64 = 100_000;
/// How many tasks are gathered at most, and for how long.
const GATHER_MAX: u64 = 64;
const GATHER: Duration = Duration::from_micros(500);

impl Dispatcher {
    /// After a submit. In a burst of short tasks an idle worker is not woken for each one: they are gathered, until
    /// there are many, somebody waits ([`Dispatcher::hurry`]), something else happens, or time is up.
    pub(super) fn settle_submitted(&mut self, now: Time, id: TaskId) {
        let burst = now.since(self.submitted) <= BURST;
        self.submitted = now;
        let short = self.tasks.get(id).and_then(|task| self.short_nanos(task)).is_some_and(|nanos| nanos <= GATHERED);
        if !(burst && short && self.waiting < GATHER_MAX) || self.idle.is_empty() {
            return self.settle(now);
        }
        if self.gathering.is_none() {
            let until = now.after(GATHER);
            self.gathering = Some(until);
            self.timers.set(until, Timer::Deal);
        }
        self.scale(now);
    }

    /// Until when the tasks of the present burst may wait beside an idle worker.
    pub fn gathering(&self) -> Option<Time> {
        self.gathering
    }

    /// Somebody waits: deals what is gathered.
    pub fn hurry(&mut self, now: Time) {
        if self.gathering.is_some() {
            self.settle(now);
        }
    }

    /// Deals while there is a free worker and a waiting task; else takes back tasks for free workers.
    pub(super) fn deal(&mut self, now: Time) {
        if let Some(until) = self.gathering.take() {
            self.timers.unset(until, Timer::Deal);
        }
        while self.waiting > 0 {
            let Some(&(_, worker)) = self.idle.last() else { break };
            let Some(task) = self.take_waiting() else { break };
            self.assign(now, worker, task, None);
            self.top_up(now, worker);
        }
        self.help_ancestors(now);
        self.deal_to_extras(now);
        while (self.idle.len() as u64) > self.recalls {
            let Some(&worker) = self.loaded.last() else { return };
            self.recall_for_idle(worker);
        }
    }

    /// The waiting task that is next, taken from the queue; its place has to be changed by the caller.
    pub(super) fn take_waiting(&mut self) -> Option<TaskId> {
        let task = self.peek_waiting()?;
        self.unqueue(task);
        Some(task)
    }

    /// Takes out what [`Dispatcher::peek_waiting`] shows, or a nested task.
    pub(super) fn unqueue(&mut self, id: TaskId) {
        if self.tasks.get(id).is_some_and(|task| task.parent().is_some()) {
            self.unqueue_nested(id);
        } else {
            self.queue.pop();
        }
    }

    /// Nested tasks first; then the oldest.
    fn peek_waiting(&mut self) -> Option<TaskId> {
        if let Some((_, _, task)) = self.nested.first() {
            return Some(*task);
        }
        loop {
            let id = self.queue.front()?;
            if self.tasks.get(id).is_some_and(|task| matches!(task.place, Place::Waiting)) {
                return Some(id);
            }
            self.queue.pop();
            self.queue.popped_dead();
        }
    }

    /// Known to be short and allowed to wait behind another task: its estimate.
    fn short_nanos(&self, task: &Task) -> Option<u64> {
        if task.once || task.suspect || task.run_limit().is_some() {
            return None;
        }
        self.functions.get(task.function)?.nanos.filter(|nanos| *nanos <= WINDOW)
    }

    /// Gives a task to a worker: behind what that holds, or to run within the wait of another task.
    pub(super) fn assign(&mut self, now: Time, id: WorkerId, task_id: TaskId, within: Option<Lease>) {
        let Some(task) = self.tasks.get(task_id) else { return };
        let short = self.short_nanos(task);
        let nanos = short.unwrap_or(LONG);
        let (function, run_limit, inline) = (task.function, task.run_limit(), task.parent().is_some());
        let (payload, attempt) = (Arc::clone(&task.payload), task.attempts.saturating_add(1));
        let large = task.large.clone();
        let Some(worker) = self.workers.get_mut(id) else { return };
        // `top_up` and `deal` keep to HELD_MAX, which is the number of slots.
        let Some(slot) = worker.slots.pop() else { return };
        // No segment of another machine can be mapped here.
        let inline = inline || worker.link == Link::Remote;
        let lease = Lease(self.next_lease);
        self.next_lease += 1;
        if worker.is_free() {
            self.idle.remove(&(worker.idle_since, id));
            self.idle_extras.remove(&(worker.idle_since, id));
        }
        let held = Held { lease, task: task_id, slot, nanos, dealt: now, recall: Recall::No, call: None };
        if within.is_some() {
            self.inner += 1;
            worker.inner.push(held);
        } else {
            worker.hold(held);
            worker.dealt += 1;
        }
        let full = within.is_none() && self.policy.tasks_max.is_some_and(|most| worker.dealt >= most);
        if worker.held.len() > 1 {
            self.loaded.insert(id);
            if !worker.stall_timer {
                self.watch_stall(now, id);
            }
        }
        self.define_at(id, function);
        for shared in large.iter().flat_map(|large| &large.uses) {
            self.define_at(id, *shared);
        }
        self.lend(id, large.as_deref());
        let short = short.is_some();
        let message = ToWorker::Run { task: task_id, lease, slot, function, attempt, short, within, inline, payload };
        self.actions.push_back(Action::Send { worker: id, message });
        if let Some(limit) = run_limit {
            self.time_run(task_id, Some((now.after(limit), lease)));
        }
        if let Some(task) = self.tasks.get_mut(task_id) {
            task.place = Place::Held(id);
            self.waiting -= 1;
            self.dealt += 1;
        }
        #[cfg(feature = "planted-bugs")]
        self.planted.leases.insert(lease, task_id);
        if full {
            self.drain(now, id, crate::message::Leave::Tasks);
        }
    }

    /// Gives a worker that runs short tasks more of them, but not more than its share of those that wait. Nobody gets more
    /// while there are too many workers: else none of them would ever hold nothing.
    pub(super) fn top_up(&mut self, now: Time, id: WorkerId) {
        if self.has_surplus() {
            return;
        }
        // What the idle workers will be dealt in a moment is not to be shared out.
        let spare = self.waiting.saturating_sub(self.idle.len() as u64);
        let share = spare.div_ceil(self.active.max(1));
        if self.workers.get(id).is_none_or(|worker| worker.held.is_empty() || worker.held_nanos > WINDOW / 2) {
            return;
        }
        for _ in 0..share {
            let Some(task_id) = self.peek_waiting().filter(|task_id| self.fits_behind(id, *task_id)) else { return };
            self.unqueue(task_id);
            self.assign(now, id, task_id, None);
        }
    }

    /// Whether the task is short enough to wait behind those the worker holds.
    fn fits_behind(&self, id: WorkerId, task: TaskId) -> bool {
        let takes = |worker: &&Worker| worker.stage == Stage::Active && !worker.extra && worker.reachable();
        let Some(worker) = self.workers.get(id).filter(takes) else { return false };
        let nanos = self.tasks.get(task).and_then(|task| self.short_nanos(task));
        worker.held.len() < usize::from(HELD_MAX)
            && nanos.is_some_and(|nanos| worker.held_nanos.saturating_add(nanos) <= WINDOW)
    }

    pub(super) fn finished(&mut self, now: Time, id: WorkerId, lease: Lease, outcome: Outcome, run: Run) {
        let (mut offered, mut first) = (None, false);
        let known = self.workers.get_mut(id).and_then(|worker| {
            worker.held(lease).filter(|held| held.call.is_none())?;
            offered = worker.offered.take();
            let inner = worker.inner.len();
            let held = worker.let_go(lease)?;
            let inner = inner - worker.inner.len();
            if inner == 0 {
                worker.answered = now;
            }
            worker.finished += 1;
            first = worker.finished == 1;
            Some((held, Arc::clone(&worker.face), inner))
        });
        let Some((held, face, inner)) = known else {
            self.keep_loan(offered, None);
            return self.finished_late(now, lease, outcome, run);
        };
        self.inner -= inner as u64;
        // The first task shows that workers can be launched again. Others show no more than that all is not lost: what
        // fails beside them goes on failing slowly, and when they are gone one more launch is tried.
        self.failures = if first { 0 } else { self.failures.min(FAILURES_MAX - 1) };
        if held.recall == Recall::Requeue {
            self.recalls -= 1;
        }
        if let Some(task) = self.tasks.get_mut(held.task).filter(|task| task.is_held()) {
            task.attempts += 1;
            if let Some(function) = self.functions.get_mut(task.function) {
                let old = function.nanos.unwrap_or(run.nanoseconds);
                let new = run.nanoseconds;
                function.nanos = Some(if new > old { new } else { old - old / 4 + new / 4 });
            }
            self.resolve(now, held.task, outcome, Some(run), Some(face));
            self.keep_loan(offered, Some(held.task));
        } else {
            self.keep_loan(offered, None);
        }
        self.lightened(now, id);
        // Only now, not after a recall: what was just taken from a worker must not go back to it.
        self.top_up(now, id);
    }

    /// A result under a lease that is over: the task went back to the queue, or was resolved otherwise, long ago.
    fn finished_late(&mut self, now: Time, lease: Lease, outcome: Outcome, run: Run) {
        #[cfg(feature = "planted-bugs")]
        if self.planted(Bug::StaleResult) {
            let task = self.planted.leases.get(&lease).copied();
            if let Some(task) = task.filter(|task| self.tasks.get(*task).is_some_and(Task::is_held)) {
                self.resolve(now, task, outcome, Some(run), None);
            }
        }
        #[cfg(not(feature = "planted-bugs"))]
        let _ = (now, lease, outcome, run);
    }

    /// A worker holds less than before: it may be free, or leave.
    pub(super) fn lightened(&mut self, now: Time, id: WorkerId) {
        if self.workers.get(id).is_some_and(|worker| worker.held.len() < 2) {
            self.loaded.remove(&id);
        }
        self.catch_up(id);
        if self.workers.get(id).is_none_or(|worker| !worker.is_free()) {
            return self.help_top(now, id);
        }
        let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.held.is_empty()) else { return };
        match worker.stage {
            Stage::Preparing => self.enlist(now, id),
            Stage::Active => {
                worker.idle_since = now;
                if !worker.reachable() {
                    // When it has come back.
                } else if worker.extra {
                    self.idle_extras.insert((now, id));
                } else if !self.planted(Bug::FreedWorkerForgotten) {
                    self.idle.insert((now, id));
                }
                self.watch_idle(now, id);
            }
            Stage::Draining(leave) => self.send_home(now, id, leave),
            Stage::Leaving(_) | Stage::Killed => {}
        }
    }

    /// Takes half of what a loaded worker has not begun, for the workers that have nothing to do.
    fn recall_for_idle(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else { return };
        let count = worker.held.len() / 2;
        let leases = recallable(&worker.held, count);
        if leases.is_empty() {
            // All behind the first are asked for already; they come, or the worker reports.
            self.loaded.remove(&id);
        }
        for lease in leases {
            self.ask_back(id, lease, Recall::Requeue);
        }
    }

    /// Takes back everything a worker has not begun.
    pub(super) fn recall_all(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else { return };
        for lease in recallable(&worker.held, worker.held.len()) {
            self.ask_back(id, lease, Recall::Requeue);
        }
    }

    pub(super) fn ask_back_of(&mut self, id: WorkerId, task: TaskId, why: Recall) {
        let held = self.workers.get(id).and_then(|worker| worker.holds(task));
        if let Some(lease) = held.map(|held| held.lease) {
            self.ask_back(id, lease, why);
        }
    }

    pub(super) fn ask_back(&mut self, id: WorkerId, lease: Lease, why: Recall) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let link = worker.link;
        let Some(held) = worker.held(lease) else { return };
        let (slot, before) = (held.slot, held.recall);
        if before != Recall::Begun {
            held.recall = why;
        }
        match before {
            Recall::No => {}
            Recall::Requeue => self.recalls -= 1,
            Recall::CancelIfWaiting | Recall::Discard | Recall::Begun => return,
        }
        if why == Recall::Requeue {
            self.recalls += 1;
        }
        if before == Recall::No {
            self.actions.push_back(match link {
                Link::Local => Action::Recall { worker: id, lease, slot },
                Link::Remote => Action::Send { worker: id, message: ToWorker::Recall { lease } },
            });
        }
    }

    /// A worker's answer to a recall.
    pub(super) fn recalled(&mut self, now: Time, id: WorkerId, lease: Lease, back: bool) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let Some(held) = worker.held(lease) else { return };
        let (why, task) = (held.recall, held.task);
        match why {
            Recall::No | Recall::Begun => return,
            Recall::Requeue => self.recalls -= 1,
            Recall::CancelIfWaiting | Recall::Discard => {}
        }
        if !back {
            held.recall = Recall::Begun;
            if why == Recall::Discard {
                self.interrupt(now, id, lease);
            }
            return;
        }
        let inner = worker.inner.len();
        let is_call = worker.let_go(lease).is_some_and(|held| held.call.is_some());
        let inner = (inner - worker.inner.len()) as u64;
        self.inner -= inner;
        worker.dealt -= 1 - inner - u64::from(is_call);
        match why {
            Recall::Requeue => self.requeue(now, task),
            Recall::CancelIfWaiting => self.resolve(now, task, Outcome::Cancel, None, None),
            Recall::Discard | Recall::No | Recall::Begun => {}
        }
        self.lightened(now, id);
    }

    /// Back into the queue, at the place of its number. If it had begun, what it has submitted goes with that attempt.
    pub(super) fn requeue(&mut self, now: Time, id: TaskId) {
        let Some(task) = self.tasks.get_mut(id).filter(|task| task.is_held()) else { return };
        task.place = Place::Waiting;
        self.dealt -= 1;
        self.waiting += 1;
        let (number, nested) = (task.number, task.parent().is_some());
        self.time_run(id, None);
        self.stops_waiting(id);
        self.take_children_along(now, id);
        if nested {
            self.enqueue_nested(id);
        } else {
            self.queue.put_back(number, id);
        }
    }

    /// The worker need not answer this task any more, which is resolved already.
    pub(super) fn discard(&mut self, now: Time, id: WorkerId, task: TaskId) {
        let held = self.workers.get(id).and_then(|worker| worker.holds(task)).copied();
        let Some(held) = held else { return };
        if held.recall == Recall::Begun {
            self.interrupt(now, id, held.lease);
        } else if held.recall == Recall::CancelIfWaiting {
            // Asked already; the answer decides whether there is something to interrupt.
            if let Some(held) = self.workers.get_mut(id).and_then(|worker| worker.held(held.lease)) {
                held.recall = Recall::Discard;
            }
        } else {
            self.ask_back(id, held.lease, Recall::Discard);
        }
    }

    fn interrupt(&mut self, now: Time, id: WorkerId, lease: Lease) {
        self.busy_for_long(id, lease);
        self.actions.push_back(Action::Send { worker: id, message: ToWorker::Interrupt { lease } });
        self.timers.set(now.after(self.policy.kill / 2), Timer::Again(id, lease));
        self.timers.set(now.after(self.policy.kill), Timer::Kill(id, lease));
        self.recall_all(id);
    }

    /// The first one may have been swallowed: by an `except` that is too wide, or by a destructor.
    pub(super) fn interrupt_again(&mut self, id: WorkerId, lease: Lease) {
        let holder = self.workers.get_mut(id).filter(|worker| worker.stage != Stage::Killed);
        if holder.is_some_and(|worker| worker.held(lease).is_some()) {
            self.actions.push_back(Action::Send { worker: id, message: ToWorker::Interrupt { lease } });
        }
    }

    /// Sees to it that a task which takes long does not keep those behind it.
    pub(super) fn watch_stall(&mut self, now: Time, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.held.len() > 1 && !worker.stall_timer {
            worker.stall_timer = true;
            self.timers.set(now.after(STALL), Timer::Stall(id));
        }
    }

    /// Whatever is known of its function, this task takes long: nothing is dealt behind it.
    pub(super) fn busy_for_long(&mut self, id: WorkerId, lease: Lease) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if let Some(held) = worker.held.iter_mut().find(|held| held.lease == lease) {
            let more = LONG.saturating_sub(std::mem::replace(&mut held.nanos, LONG));
            worker.held_nanos = worker.held_nanos.saturating_add(more);
        }
    }

    /// A worker may have got stuck in what was thought a short task.
    pub(super) fn stall_due(&mut self, now: Time, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.stall_timer = false;
        // One without a connection cannot say anything; when it has come back it is watched again.
        if worker.held.len() < 2 || !worker.reachable() {
            return;
        }
        let quiet = now.since(worker.heard);
        // What a remote worker says is always so old.
        let patience = STALL + worker.round_trip();
        if quiet < patience {
            worker.stall_timer = true;
            let again = worker.heard.after(patience);
            return self.timers.set(again, Timer::Stall(id));
        }
        let first = worker.held.front().map(|held| held.task);
        worker.held_nanos = worker.held_nanos.max(LONG);
        let function = first.and_then(|task| self.tasks.get(task)).map(|task| task.function);
        if let Some(function) = function.and_then(|function| self.functions.get_mut(function)) {
            let quiet = quiet.saturating_sub(patience - STALL);
            let quiet = u64::try_from(quiet.as_nanos()).unwrap_or(LONG);
            function.nanos = function.nanos.map(|nanos| nanos.max(quiet));
        }
        self.recall_all(id);
    }
}

/// The youngest `count` tasks behind the first that were not asked back yet.
fn recallable(held: &std::collections::VecDeque<Held>, count: usize) -> Vec<Lease> {
    let behind = held.iter().skip(1).rev().filter(|held| held.recall == Recall::No && held.call.is_none());
    behind.take(count).map(|held| held.lease).collect()
}
