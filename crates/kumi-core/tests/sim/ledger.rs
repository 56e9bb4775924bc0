//! The world's own books: where every task, worker and launch must be, by what went into the brain and came out.
//! `rules.rs` compares them with the brain after every step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kumi_core::message::{Leave, ToWorker};
use kumi_core::{
    Action, Begun, Cause, GroupId, LaunchId, Lease, Link, Outcome, Payload, Policy, Staff, TaskId, TaskView, Time,
    WorkerId,
};

use super::ends::{justified, leave_word, outcome_word};
use super::families::EXTRA_IDLE;
use super::groups::Group;
use super::staff::{Held, Launch, WorkerNote};
use super::task::{Note, Spot};

/// Ok, or which rule was broken.
pub type Check<T = ()> = Result<T, String>;

/// Breaks a rule if the condition does not hold.
macro_rules! rule {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}
pub(crate) use rule;

/// See the head of this file.
#[derive(Debug)]
pub struct Ledger {
    pub policy: Policy,
    pub tasks: Vec<Note>,
    /// How many of them the brain has taken.
    pub arrivals: usize,
    pub by_id: BTreeMap<TaskId, usize>,
    /// Tasks that are not done, and those of them that wait.
    pub open: BTreeSet<usize>,
    pub waiting: BTreeSet<usize>,
    pub bytes: u64,
    pub workers: BTreeMap<WorkerId, WorkerNote>,
    pub launches: BTreeMap<LaunchId, Launch>,
    /// Launches above the policy's number.
    pub extras: BTreeSet<LaunchId>,
    /// Nested tasks by what they are called where they were submitted; those whose end is to be told there.
    pub children: BTreeMap<(WorkerId, u64), usize>,
    pub owed: BTreeMap<(WorkerId, u64), Option<usize>>,
    /// Those that the user has not let go of.
    pub groups: BTreeMap<GroupId, Group>,
    /// And those that more tasks will come of.
    pub promises: BTreeSet<GroupId>,
    /// How many tasks that may have failed were done when their group was cancelled.
    pub asked: u64,
    /// Kept tasks in the order of finishing.
    pub kept: VecDeque<usize>,
    pub closing: bool,
    /// The launch that the user has given up last: no failure.
    pub given_up: Option<LaunchId>,
    pub terminated: bool,
    /// What the backup is about to say the end of.
    pub from_afar: Option<usize>,
    /// How many ended before the start: they are nobody's tasks.
    pub uncounted: usize,
    /// When a launch failed, and nothing gave hope since.
    pub failed: Option<Time>,
    /// By the launch that they name: agents whose last worker failed, and whose present one is not ready for tasks.
    pub failing: BTreeSet<LaunchId>,
    /// Under this lease, this result has just come in and must be accepted.
    expected: Option<(usize, Payload, bool)>,
    /// What has happened, and how often.
    pub seen: BTreeMap<&'static str, u64>,
}

impl Ledger {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            tasks: Vec::new(),
            arrivals: 0,
            by_id: BTreeMap::new(),
            open: BTreeSet::new(),
            waiting: BTreeSet::new(),
            bytes: 0,
            workers: BTreeMap::new(),
            launches: BTreeMap::new(),
            extras: BTreeSet::new(),
            children: BTreeMap::new(),
            owed: BTreeMap::new(),
            groups: BTreeMap::new(),
            promises: BTreeSet::new(),
            asked: 0,
            kept: VecDeque::new(),
            closing: false,
            given_up: None,
            terminated: false,
            from_afar: None,
            uncounted: 0,
            failed: None,
            failing: BTreeSet::new(),
            expected: None,
            seen: BTreeMap::new(),
        }
    }

    /// The brain has taken this task.
    pub fn taken(&mut self, number: usize) {
        // Those at the backup are left also when launching was given up.
        if self.open.iter().all(|number| self.tasks[*number].spot == Spot::Away) {
            self.failed = None;
        }
        let note = &mut self.tasks[number];
        note.kin.arrival = self.arrivals;
        self.arrivals += 1;
        self.by_id.insert(note.id, number);
        self.open.insert(number);
        self.waiting.insert(number);
        self.bytes += note.spec.bytes();
    }

    /// The brain let a worker join, or refused it.
    pub fn joined(&mut self, now: Time, launch: LaunchId, link: Link, worker: Option<WorkerId>) -> Check {
        let expected = matches!(self.launches.get(&launch), Some(Launch::Expected(_)));
        rule!(worker.is_some() == expected, "{launch:?} was {:?}, joined as {worker:?}", self.launches.get(&launch));
        let Some(worker) = worker else {
            self.saw(if self.launches.get(&launch) == Some(&Launch::Joined) {
                "a second hello"
            } else {
                "a late hello"
            });
            return Ok(());
        };
        self.launches.insert(launch, Launch::Joined);
        let enlisted = self.calls_from(0).next().is_none();
        let note = WorkerNote {
            link,
            launch,
            extra: self.extras.contains(&launch),
            joined: now,
            heard: now,
            idle_since: now,
            held: Vec::new(),
            inner: Vec::new(),
            told_to_leave: None,
            killed: false,
            place: (link == Link::Remote).then_some(launch),
            cut: None,
            was_cut: None,
            finished: false,
            enlisted,
            answered: BTreeSet::new(),
            leaves: false,
            retires: false,
        };
        rule!(self.workers.insert(worker, note).is_none(), "{worker:?} joined twice");
        Ok(())
    }

    /// The brain let a remote worker in that came of this launch, perhaps not as its first one.
    pub fn admitted(&mut self, now: Time, launch: Option<LaunchId>, worker: WorkerId) -> Check {
        if self.workers.contains_key(&worker) {
            self.reached(now, worker);
            return Ok(());
        }
        let Some(launch) = launch else { return Err(format!("{worker:?} is let in without a launch")) };
        if matches!(self.launches.get(&launch), Some(Launch::Expected(_))) {
            return self.joined(now, launch, Link::Remote, Some(worker));
        }
        let rival = self.workers.iter().find(|(_, note)| note.place == Some(launch));
        rule!(rival.is_none(), "{worker:?} has the place of {launch:?}, but so has {rival:?}");
        let most = self.policy.workers;
        let living = self.launches.keys().filter(|launch| !self.extras.contains(launch)).count() as u64;
        rule!(living < most, "{worker:?} is let in above {most}");
        self.saw("a script run again");
        // In the brain it has a launch of its own.
        let own = LaunchId::from_number(u64::MAX - worker.number());
        self.launches.insert(own, Launch::Expected(now));
        self.joined(now, own, Link::Remote, Some(worker))?;
        if let Some(note) = self.workers.get_mut(&worker) {
            note.place = Some(launch);
        }
        Ok(())
    }

    /// Its connection has ended.
    pub fn cut(&mut self, now: Time, worker: WorkerId) {
        if let Some(note) = self.workers.get_mut(&worker) {
            (note.cut, note.was_cut) = (Some(note.cut.unwrap_or(now)), Some(now));
        }
    }

    /// It has a connection again.
    pub fn reached(&mut self, now: Time, worker: WorkerId) {
        if let Some(note) = self.workers.get_mut(&worker) {
            if note.cut.take().is_some() {
                note.was_cut = Some(now);
            }
            note.heard = now;
        }
    }

    /// A worker, of this agent if it is a remote one, has failed.
    pub fn fails(&mut self, now: Time, place: Option<LaunchId>) {
        self.failed = Some(now);
        self.failing.extend(place);
    }

    /// A worker is ended: has it not been set up in time?
    fn may_be_late(&mut self, now: Time, worker: WorkerId) {
        let Some(note) = self.workers.get(&worker) else { return };
        if !note.enlisted && now == note.joined.after(self.policy.launch) {
            let place = note.place;
            self.saw("a newcomer takes too long");
            self.fails(now, place);
        }
    }

    /// A worker is ready for tasks, if its process is up and it has been prepared.
    pub fn ready(&mut self, worker: WorkerId) {
        let place = self.workers.get(&worker).filter(|note| note.enlisted).and_then(|note| note.place);
        place.map(|place| self.failing.remove(&place));
    }

    /// Is about to be told: this launch failed.
    pub fn launch_failed(&mut self, now: Time, launch: LaunchId) {
        match self.launches.get(&launch) {
            Some(Launch::Expected(_)) => {
                self.failed = Some(now);
                self.launches.remove(&launch);
            }
            Some(Launch::Abandoned) => {
                self.launches.remove(&launch);
            }
            Some(Launch::Joined) | None => {}
        }
    }

    /// Is about to be told: this result.
    pub fn finished(&mut self, now: Time, worker: WorkerId, lease: Lease, payload: &Payload, success: bool) {
        let Some(note) = self.workers.get_mut(&worker) else {
            return self.saw("a result of a worker that is gone");
        };
        let Some(held) = note.take(now, lease) else {
            return self.saw("a result under a void lease");
        };
        note.finished = true;
        self.failed = None;
        if self.open.contains(&held.task) {
            self.expected = Some((held.task, payload.clone(), success));
        } else {
            self.saw("a result that is not wanted any more");
        }
    }

    /// Is about to be told: this result of a task that was away.
    pub fn expect_from_afar(&mut self, number: usize, payload: &Payload) {
        self.expected = Some((number, payload.clone(), true));
    }

    /// Is about to be told: this report. The last one of who holds the task counts.
    pub fn reported(&mut self, worker: WorkerId, lease: Lease, payload: &Payload) {
        let task = self.held(worker, lease).map(|held| held.task);
        match task.filter(|task| self.open.contains(task)) {
            Some(task) => {
                self.tasks[task].report = Some(payload.clone());
                self.saw("a report");
            }
            None => self.saw("a report that does not count"),
        }
    }

    /// Is about to be told: this answer to a recall.
    pub fn recalled(&mut self, now: Time, worker: WorkerId, lease: Lease, back: bool) {
        let Some(note) = self.workers.get_mut(&worker) else {
            return;
        };
        let Some(held) = note.find(lease) else {
            return;
        };
        if !held.asked_back || held.answered {
            return;
        }
        held.answered = true;
        self.saw(if back { "a task recalled" } else { "a task recalled too late" });
        if !back {
            return;
        }
        if let Some(held) = self.workers.get_mut(&worker).and_then(|note| note.take(now, lease)) {
            self.wait_again(held.task);
            self.enlist_if_prepared(now, worker);
        }
    }

    /// The worker is gone: it is about to be told, or the brain concluded it from its silence; then it has fenced it.
    pub fn gone(&mut self, now: Time, worker: WorkerId, begun: Begun, kind: Cause) -> Check {
        let Some(note) = self.workers.remove(&worker) else {
            return Ok(());
        };
        self.launches.remove(&note.launch);
        self.extras.remove(&note.launch);
        self.children.retain(|(at, _), _| *at != worker);
        // One that nobody saw end is nobody's crash; but what is `once` may have begun.
        let unseen = begun == Begun::Unknown;
        // Where one ran within the wait of another, nobody but the last can have been at work.
        let begun = match (begun, note.inner.last()) {
            (Begun::Unknown, Some(top)) => Begun::One(top.lease),
            (begun, _) => begun,
        };
        let crashed = note.told_to_leave.is_none() && !note.killed && !unseen;
        let mut innocent = !self.excused(worker, &note, begun, crashed);
        for (at, held) in note.inner.iter().rev().chain(&note.held).enumerate() {
            if !self.open.contains(&held.task) || self.is_call(held.task) {
                continue;
            }
            let Some(task) = self.tasks.get_mut(held.task) else {
                continue;
            };
            // Something was to run within its wait: it has lost a worker that it had lent.
            let lent = !note.inner.is_empty() && at > 0 && at <= note.inner.len();
            task.kin.apart |= lent;
            let blamed = match begun {
                Begun::Nothing => false,
                Begun::One(lease) => lease == held.lease,
                Begun::Unknown => task.spec.once,
            };
            task.suspect |= unseen;
            rule!(!task.spent, "task {} is run again after {} crashes", held.task, task.crashes);
            if blamed && crashed || (blamed || lent) && task.spec.once {
                task.killed_one(kind);
            }
            innocent &= !(blamed && crashed);
            let suspect = unseen && !blamed;
            self.saw(if suspect { "a suspect" } else { "a task of a dead worker" });
            if lent {
                self.saw("a waiting task of a dead worker");
            }
            self.wait_again(held.task);
        }
        let useless = !note.finished && !matches!(begun, Begun::One(_));
        if crashed && innocent && (useless || !note.enlisted) {
            self.fails(now, note.place);
        }
        Ok(())
    }

    /// Counts what has happened, so that a test can tell whether anything did.
    pub fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn wait_again(&mut self, number: usize) {
        if self.open.contains(&number) && !self.is_call(number) {
            self.stops_waiting(number);
            self.doom_children(number);
            self.tasks[number].spot = Spot::Waiting;
            self.waiting.insert(number);
        }
    }

    /// What the brain decided, in its order.
    pub fn note(&mut self, now: Time, action: &Action, view: impl FnOnce(TaskId) -> Option<TaskView>) -> Check {
        match action {
            Action::Send { worker, message } => self.sent(now, *worker, message),
            Action::Recall { worker, lease, .. } => self.asked_back(*worker, *lease),
            Action::Launch { launches } => self.launch(now, launches),
            Action::Abandon { launch } => {
                if !self.open.is_empty() && self.given_up != Some(*launch) {
                    self.failed = Some(now);
                }
                let before = self.launches.insert(*launch, Launch::Abandoned);
                rule!(matches!(before, Some(Launch::Expected(_))), "{launch:?} abandoned when {before:?}");
                Ok(())
            }
            Action::Kill { worker, .. } => {
                let Some(note) = self.workers.get_mut(worker) else {
                    return Err(format!("{worker:?} is killed, but gone"));
                };
                rule!(!note.killed, "{worker:?} killed twice");
                note.killed = true;
                self.may_be_late(now, *worker);
                self.saw("a worker killed");
                Ok(())
            }
            Action::Cut { worker } => {
                let silent = self.workers.get(worker).map(|note| note.heard.after(self.policy.silence));
                rule!(silent.is_some_and(|due| now >= due), "{worker:?} is cut, though not silent for long");
                self.cut(now, *worker);
                Ok(())
            }
            Action::Fence { worker, .. } => {
                // Who has no connection cannot be killed.
                self.may_be_late(now, *worker);
                self.saw("a worker fenced");
                self.gone(now, *worker, Begun::Unknown, Cause::Other)
            }
            Action::Refuse { .. } => {
                self.saw("a caller refused");
                Ok(())
            }
            Action::Admit { .. } => Ok(()),
            Action::TooManyResults { bytes } => {
                rule!(*bytes > self.policy.queue_bytes, "{bytes} bytes of results are not too many");
                Ok(())
            }
            Action::CloseSegment { .. } | Action::Unmap { .. } => Ok(()),
            Action::HandOver { task } => self.leaves(*task),
            Action::CallBack { task } => self.called_back(*task),
            Action::Resolved { task } => self.resolved(now, *task, view(*task)),
            Action::Reported { task } => {
                let known = self.by_id.get(task).is_some_and(|number| self.tasks[*number].report.is_some());
                rule!(known, "{task:?} is said to have reported");
                Ok(())
            }
        }
    }

    fn sent(&mut self, now: Time, worker: WorkerId, message: &ToWorker) -> Check {
        match message {
            ToWorker::Run { task, lease, attempt, within, .. } => {
                let begun = self.by_id.get(task).map(|number| self.tasks[*number].crashes);
                rule!(
                    begun.is_none_or(|crashes| *attempt == crashes + 1),
                    "{task:?} crashed {begun:?} times before attempt {attempt}"
                );
                self.dealt(now, worker, *task, *lease, *within)
            }
            ToWorker::Prepare { lease, payload, .. } => self.prepare_sent(worker, *lease, payload),
            ToWorker::Recall { lease } => self.asked_back(worker, *lease),
            ToWorker::Interrupt { lease } => {
                if let Some(held) = self.held(worker, *lease) {
                    held.interrupted.get_or_insert(now);
                    let task = held.task;
                    self.saw("a task interrupted");
                    rule!(!self.open.contains(&task), "task {task} is interrupted, though its result is wanted");
                }
                Ok(())
            }
            ToWorker::Stop { leave } => self.told_to_leave(now, worker, *leave),
            ToWorker::Resolved { child, ending, payload } => self.told(now, (worker, *child), ending, payload),
            ToWorker::Welcome { .. }
            | ToWorker::Refuse { .. }
            | ToWorker::Define { .. }
            | ToWorker::Forget { .. }
            | ToWorker::Lend { .. }
            | ToWorker::Returned { .. }
            | ToWorker::Ping => Ok(()),
        }
    }

    pub fn held(&mut self, worker: WorkerId, lease: Lease) -> Option<&mut Held> {
        self.workers.get_mut(&worker)?.find(lease)
    }

    fn dealt(&mut self, now: Time, id: WorkerId, task: TaskId, lease: Lease, within: Option<Lease>) -> Check {
        let Some(&number) = self.by_id.get(&task) else {
            return Err(format!("{task:?} is dealt, but unknown"));
        };
        let idle = self.workers.values().filter(|worker| worker.idle() && !worker.extra).count();
        let next = self.next_for(id, within)?;
        rule!(next == Some(number), "task {number} is dealt to {id:?} within {within:?} before {next:?}");
        let mut held = self.workers.get(&id).into_iter().flat_map(|worker| &worker.held);
        let busy = held.any(|held| self.is_call(held.task)) && within.is_none();
        let Some(worker) = self.workers.get_mut(&id) else {
            return Err(format!("task {number} goes to nobody, {id:?}"));
        };
        rule!(worker.told_to_leave.is_none() && !worker.killed, "task {number} goes to {id:?}, which is leaving");
        rule!(
            worker.enlisted && (!worker.leaves || within.is_some()) && !busy,
            "task {number} goes to {id:?}, which is not ready for tasks"
        );
        let held = Held { lease, task: number, asked_back: false, answered: false, interrupted: None };
        let note = &mut self.tasks[number];
        (note.spot, note.dealt) = (Spot::Held(id, lease), now);
        if within.is_some() {
            worker.inner.push(held);
            self.waiting.remove(&number);
            self.saw("a task within a wait");
            return Ok(());
        }
        let ends = self.policy.wall.map(|wall| worker.joined.after(wall));
        rule!(ends.is_none_or(|ends| now <= ends), "task {number} goes to {id:?} after its wall time");
        let tasks = &mut self.tasks;
        let lonely = |number: usize| {
            let task = &tasks[number];
            task.suspect || task.spec.once || task.spec.run_limit.is_some()
        };
        let alone = lonely(number) || worker.held.iter().any(|held| lonely(held.task));
        rule!(worker.held.is_empty() || !alone, "task {number} is not alone on {id:?}, or not behind one that must be");
        let enough = self.waiting.len() > idle;
        rule!(worker.held.is_empty() || enough, "task {number} goes behind another, though {idle} workers are idle");
        if !worker.held.is_empty() {
            *self.seen.entry("a task prefetched").or_default() += 1;
        }
        worker.held.push(held);
        let extra = worker.extra;
        self.waiting.remove(&number);
        if extra {
            self.saw("a task on an extra worker");
        }
        Ok(())
    }

    fn asked_back(&mut self, worker: WorkerId, lease: Lease) -> Check {
        let held = self.held(worker, lease);
        rule!(held.is_some(), "{lease:?} is asked back from {worker:?}, who does not hold it");
        if let Some(held) = held {
            rule!(!held.asked_back, "{lease:?} is asked back twice");
            held.asked_back = true;
        }
        Ok(())
    }

    /// The host hears that its process was told to end.
    pub fn retires(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            (worker.leaves, worker.retires) = (true, true);
            self.saw("a worker whose process is told to end");
        }
    }

    fn told_to_leave(&mut self, now: Time, id: WorkerId, leave: Leave) -> Check {
        let stays = |worker: &&WorkerNote| worker.told_to_leave.is_none() && !worker.killed && !worker.extra;
        let active = self.workers.values().filter(stays).count();
        let (extras, patrons) = (self.extra_workers(), self.patrons());
        let Some(worker) = self.workers.get(&id) else {
            return Err(format!("{id:?} is told to leave, but gone"));
        };
        // When all is over, nobody waits for a call.
        let free = |held: &Held| leave == Leave::Closing && self.is_call(held.task) && self.open.is_empty();
        rule!(worker.hands().all(free), "{id:?} is told to leave with {} tasks", worker.hands().count());
        let Some(worker) = self.workers.get_mut(&id) else { return Ok(()) };
        rule!(worker.told_to_leave.is_none(), "{id:?} is told to leave twice");
        worker.told_to_leave = Some(now);
        *self.seen.entry(leave_word(leave)).or_default() += 1;
        match leave {
            Leave::Idle if worker.extra => {
                let due = worker.idle_since.after(EXTRA_IDLE);
                rule!(now >= due || extras > patrons, "{id:?}, needed, leaves as idle at {now:?}, due {due:?}");
            }
            Leave::Idle if active as u64 > self.policy.workers => self.saw("a surplus worker leaves"),
            Leave::Idle => {
                let due = self.policy.idle.map(|idle| worker.idle_since.after(idle));
                rule!(due.is_some_and(|due| now >= due), "{id:?} leaves as idle at {now:?}, due {due:?}");
                rule!(now > worker.idle_since, "{id:?} leaves before what waits could be dealt to it");
                let least = self.policy.workers_min;
                rule!(
                    active as u64 > least,
                    "{id:?} leaves as idle, though {active} workers of at least {least} are here"
                );
            }
            Leave::Wall => {
                rule!(self.policy.wall.is_some() || worker.retires, "{id:?} leaves by wall time without one");
            }
            Leave::Tasks => rule!(self.policy.tasks_max.is_some(), "{id:?} leaves by tasks_max without one"),
            Leave::Closing => rule!(self.closing, "{id:?} leaves as if closing"),
        }
        Ok(())
    }

    fn launch(&mut self, now: Time, launches: &[LaunchId]) -> Check {
        for launch in launches {
            self.launches.insert(*launch, Launch::Expected(now));
        }
        let (living, slots) = (self.launches.len() as u64, self.policy.berths);
        rule!(slots.is_none_or(|slots| living <= slots), "{living} workers and launches have {slots:?} slots");
        if launches.iter().all(|launch| self.extras.contains(launch)) {
            self.launched_above()?;
            self.saw("an extra launch");
        } else {
            self.launched_below()?;
        }
        if let Some(failed) = self.failed {
            let pause = kumi_core::scaling::PAUSE_MIN;
            rule!(launches.len() == 1, "{} launches at once after a failure", launches.len());
            rule!(now >= failed.after(pause), "launched at {now:?}, right after the failure at {failed:?}");
        }
        Ok(())
    }

    fn launched_below(&self) -> Check {
        let (living, expected, idle) = self.ordinary();
        let most = self.policy.workers;
        rule!(living <= most, "{living} workers and launches, of {most} allowed");
        let least = if self.closing { 0 } else { self.policy.workers_min as usize };
        let need = self.unbegun().max(least);
        rule!(expected + idle <= need, "{expected} launches and {idle} idle workers for {need} tasks");
        Ok(())
    }

    /// Of those that count against `workers`: all that live, or may come to; those that are expected; the idle ones.
    pub fn ordinary(&self) -> (u64, usize, usize) {
        // A joined worker's launch stands for it.
        let ordinary = |launch: &LaunchId| !self.extras.contains(launch);
        let living = self.launches.keys().filter(|launch| ordinary(launch)).count() as u64;
        let expected =
            |(launch, state): &(&LaunchId, &Launch)| matches!(state, Launch::Expected(_)) && ordinary(launch);
        let newcomers = self.workers.values().filter(|worker| !worker.enlisted && !worker.extra).count();
        let expected = self.launches.iter().filter(expected).count() + newcomers;
        let idle = self.workers.values().filter(|worker| worker.idle() && !worker.extra).count();
        (living, expected, idle)
    }

    /// Tasks that wait, or are behind another in a worker's hands.
    fn unbegun(&self) -> usize {
        let behind = self.workers.values().flat_map(|worker| worker.held.iter().skip(1));
        self.waiting.len() + behind.filter(|held| self.open.contains(&held.task) && !self.is_call(held.task)).count()
    }

    /// A task is done, rightly so?
    pub fn resolved(&mut self, now: Time, id: TaskId, view: Option<TaskView>) -> Check {
        let Some(&number) = self.by_id.get(&id) else {
            return Err(format!("{id:?} is resolved, but unknown"));
        };
        rule!(self.open.remove(&number), "task {number} is resolved twice");
        self.waiting.remove(&number);
        if self.tasks[number].spot == Spot::Away {
            self.ended_afar(number)?;
        }
        let result = self.expected.take_if(|(expected, ..)| *expected == number);
        let returned = result.as_ref().is_some_and(|(_, _, success)| *success);
        self.tasks[number].kin.hopeless = self.hopeless(number).err();
        self.settle_family(number, returned);
        let task = &mut self.tasks[number];
        task.spot = Spot::Done;
        self.bytes -= task.spec.bytes();
        if task.spec.kept {
            self.kept.push_back(number);
        }
        task.accepted = result.is_some();
        let (released, is_call) = (task.released, task.call.is_some());
        let result = result.map(|(_, payload, _)| payload);
        if task.kin.generation > 0 {
            // How it ended is told to whoever submitted it, or to nobody.
            task.result = result;
            return Ok(());
        }
        if is_call {
            self.call_resolved(now, number, view.as_ref())?;
        }
        let Some(view) = view else {
            rule!(released, "task {number} is done without a trace");
            return Ok(());
        };
        self.saw(outcome_word(&view.outcome));
        let over = self.tasks[number].group.is_some_and(|group| self.ended_with_group(number, group, &view));
        if self.turned_out(number, &view.outcome)? {
            return Ok(());
        }
        if matches!(view.outcome, Outcome::Unlaunchable(_)) {
            if self.policy.staff == Staff::ByHand {
                self.saw("unlaunchable by hand");
            }
            self.tasks[number].kin.hopeless.take().map_or(Ok(()), Err)?;
        }
        if is_call {
            return Ok(());
        }
        justified(now, number, &self.tasks[number], &view, result, over)
    }

    /// After each step: nothing that had to be accepted is left over.
    pub fn nothing_lost(&mut self) -> Check {
        let lost = self.expected.take();
        rule!(lost.is_none(), "a valid result was not accepted: task {:?}", lost.map(|(number, ..)| number));
        Ok(())
    }
}
