//! The world's books of tasks that submit tasks: who may run where, who waits, who goes with whom.

use std::cmp::Reverse;
use std::time::Duration;

use kumi_core::{Ending, FromWorker, Lease, Outcome, Payload, Staff, TaskView, Time, WorkerId};

use super::ends::{justified, outcome_word};
use super::ledger::{Check, Ledger, rule};
use super::staff::WorkerNote;
use super::task::Wish;
use super::world::World;

/// How long an extra worker stays that has nothing to do.
pub const EXTRA_IDLE: Duration = Duration::from_secs(1);

/// What must hold after every step.
pub fn check(ledger: &Ledger) -> Check {
    rule!(ledger.owed.is_empty(), "the ends of {:?} are not told where they were submitted", ledger.owed);
    let doomed = ledger.open.iter().find(|number| ledger.tasks[**number].kin.doomed);
    rule!(doomed.is_none(), "task {doomed:?} goes on, though who submitted it has ended badly");
    for (id, worker) in &ledger.workers {
        let reachable = !worker.killed && worker.cut.is_none();
        let Some(top) = worker.top().map(|top| top.task).filter(|_| reachable) else { continue };
        let waits = ledger.open.contains(&top) && ledger.tasks[top].kin.lends();
        let next = if waits { ledger.next_of(|number| ledger.descends(number, top)) } else { None };
        rule!(next.is_none(), "{id:?} waits in task {top}, and task {next:?}, which descends from it, is not dealt");
    }
    let idle = ledger.workers.iter().find(|(_, worker)| worker.extra && worker.idle());
    let needed = idle.and_then(|_| ledger.next_of(|number| ledger.is_needed(number)));
    rule!(needed.is_none(), "{:?} is idle beside task {needed:?}", idle.map(|(id, _)| id));
    Ok(())
}

impl Ledger {
    /// The waiting task that comes first: nested ones do, the youngest generation before the others.
    pub fn next_of(&self, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let turn = |number: &usize| {
            let kin = &self.tasks[*number].kin;
            match kin.parent {
                Some(_) => (false, Reverse(kin.generation), kin.arrival),
                None => (true, Reverse(0), kin.arrival),
            }
        };
        self.waiting.iter().copied().filter(|number| fits(*number)).min_by_key(turn)
    }

    /// What this worker is to be dealt next: anything, or what descends from a task that waits.
    pub fn next_for(&self, id: WorkerId, within: Option<Lease>) -> Check<Option<usize>> {
        let Some(worker) = self.workers.get(&id) else { return Ok(None) };
        let Some(outer) = within else {
            rule!(!worker.extra || worker.idle(), "{id:?}, which is extra, is dealt a second task");
            return Ok(self.next_of(|number| !worker.extra || self.is_needed(number)));
        };
        let top = worker.top().filter(|top| top.lease == outer).map(|top| top.task);
        let Some(top) = top else { return Err(format!("{id:?} is not at {outer:?}, within which it is dealt a task")) };
        let lends = self.tasks[top].kin.lends();
        rule!(lends, "{id:?} is dealt a task within {outer:?}, which does not wait");
        Ok(self.next_of(|number| self.descends(number, top)))
    }

    /// Whether one task was submitted by the other, or by what that has submitted.
    pub fn descends(&self, mut number: usize, from: usize) -> bool {
        while let Some(parent) = self.tasks[number].kin.parent {
            if parent == from {
                return true;
            }
            number = parent;
        }
        false
    }

    /// Whether some task waits, for this one or its like, where its worker cannot run it.
    fn is_needed(&self, number: usize) -> bool {
        self.open.iter().any(|other| self.tasks[*other].kin.needy() && self.descends(number, *other))
    }

    /// Tasks that have waited elsewhere since they were dealt.
    pub fn patrons(&self) -> usize {
        self.open.iter().filter(|number| self.tasks[**number].kin.patron).count()
    }

    pub fn extra_workers(&self) -> usize {
        let here = |worker: &&WorkerNote| worker.extra && worker.told_to_leave.is_none() && !worker.killed;
        self.workers.values().filter(here).count()
    }

    /// Extra workers were asked for, rightly so?
    pub fn launched_above(&self) -> Check {
        let needy = self.open.iter().filter(|number| self.tasks[**number].kin.needy()).count();
        let extras = self.launches.keys().filter(|launch| self.extras.contains(launch)).count();
        rule!(extras <= needy, "{extras} extra workers and launches for {needy} tasks that wait elsewhere");
        let idle = self.workers.iter().find(|(_, worker)| worker.idle());
        rule!(idle.is_none(), "an extra worker is launched beside {:?}, which is idle", idle.map(|(id, _)| id));
        let needed = self.next_of(|number| self.is_needed(number));
        rule!(needed.is_some(), "an extra worker is launched, and nothing is there to run");
        Ok(())
    }

    /// No worker can be started for this task, which ends so: is that true?
    pub fn hopeless(&self, number: usize) -> Check {
        let full = self.policy.berths.is_some_and(|slots| self.launches.len() as u64 >= slots);
        rule!(self.failed.is_some() || full, "task {number} cannot be launched, though nothing has failed");
        let free = self.workers.iter().find(|(_, worker)| {
            let blocked = worker.top().is_some_and(|top| self.tasks[top.task].kin.needy());
            let fails =
                self.policy.staff == Staff::ByHand && worker.place.is_some_and(|place| self.failing.contains(&place));
            let leaves = worker.killed || worker.told_to_leave.is_some();
            !blocked && !worker.extra && !fails && !leaves
        });
        rule!(free.is_none(), "task {number} cannot be launched, though {:?} is here", free.map(|(id, _)| id));
        Ok(())
    }

    /// Is about to be told: this task waits for this child, or elsewhere for some.
    pub fn begins_to_wait(&mut self, worker: WorkerId, lease: Lease, child: Option<u64>) {
        let Some(number) = self.held(worker, lease).map(|held| held.task) else { return };
        if !self.open.contains(&number) {
            return;
        }
        let child = child.map(|child| self.children.get(&(worker, child)).copied());
        let kin = &mut self.tasks[number].kin;
        match child {
            Some(None) => return,
            Some(child) => kin.waits = child,
            None => kin.elsewhere = true,
        }
        kin.patron |= kin.needy();
        self.saw(if child.is_some() { "a wait" } else { "a wait elsewhere" });
    }

    /// Is about to be told: it does not any more.
    pub fn waits_no_longer(&mut self, worker: WorkerId, lease: Lease, elsewhere: bool) {
        let Some(number) = self.held(worker, lease).map(|held| held.task) else { return };
        let kin = &mut self.tasks[number].kin;
        if elsewhere {
            kin.elsewhere = false;
        } else {
            kin.waits = None;
        }
    }

    /// It has ended, or goes back to the queue.
    pub fn stops_waiting(&mut self, number: usize) {
        let kin = &mut self.tasks[number].kin;
        (kin.waits, kin.elsewhere, kin.patron) = (None, false, false);
    }

    /// A child is cancelled by whoever submitted it.
    pub fn cancelled_by_parent(&mut self, worker: WorkerId, child: u64) {
        if let Some(number) = self.children.get(&(worker, child)) {
            self.tasks[*number].wish = Wish::Cancel;
            self.saw("a child cancelled by its parent");
        }
    }

    /// Nobody asks for this child any more.
    pub fn released_by_parent(&mut self, worker: WorkerId, child: u64) {
        if let Some(number) = self.children.remove(&(worker, child)) {
            self.tasks[number].kin.asked = None;
            self.saw("a child that nobody asks for");
        }
    }

    /// A task is done: who submitted it is to be told, and what it has submitted goes on, or goes with it.
    pub fn settle_family(&mut self, number: usize, returned: bool) {
        self.stops_waiting(number);
        let Some(kin) = self.tasks.get(number).map(|task| task.kin.clone()) else { return };
        if let Some(parent) = kin.parent {
            let waits = &mut self.tasks[parent].kin.waits;
            waits.take_if(|child| *child == number);
        }
        if let Some(asked) = kin.asked.filter(|asked| self.children.remove(asked).is_some()) {
            self.owed.insert(asked, Some(number));
        }
        if !returned {
            return self.doom_children(number);
        }
        for child in self.children_of(number) {
            let kin = &mut self.tasks[child].kin;
            kin.parent = None;
            if let Some(asked) = kin.asked.take() {
                self.children.remove(&asked);
            }
            self.saw("a child let go");
        }
    }

    /// What this task has submitted ends with it.
    pub fn doom_children(&mut self, number: usize) {
        for child in self.children_of(number) {
            let task = &mut self.tasks[child];
            (task.kin.doomed, task.wish) = (true, Wish::Cancel);
            self.saw("a child cancelled with its parent");
            self.doom_children(child);
        }
    }

    fn children_of(&self, number: usize) -> Vec<usize> {
        self.open.iter().copied().filter(|child| self.tasks[*child].kin.parent == Some(number)).collect()
    }

    /// A worker is told how something ended that was submitted there.
    pub fn told(&mut self, now: Time, asked: (WorkerId, u64), ending: &Ending, payload: &Payload) -> Check {
        let Some(number) = self.owed.remove(&asked) else {
            return Err(format!("the end of {asked:?} is told, and nobody has asked"));
        };
        let view = TaskView::of_child("".into(), ending, payload);
        let Some(number) = number else {
            rule!(view.outcome == Outcome::Cancel, "{asked:?}, whose parent is gone, ends as {:?}", view.outcome);
            self.saw("a child of nobody");
            return Ok(());
        };
        *self.seen.entry(outcome_word(&view.outcome)).or_default() += 1;
        if matches!(view.outcome, Outcome::Unlaunchable(_)) {
            self.tasks[number].kin.hopeless.take().map_or(Ok(()), Err)?;
            if self.failed.is_none() {
                self.saw("unlaunchable without a berth");
            }
        }
        let result = self.tasks[number].result.take();
        justified(now, number, &self.tasks[number], &view, result, false)
    }
}

impl World {
    /// The host hears that a task has submitted a task.
    pub(super) fn child_comes(&mut self, worker: WorkerId, child: u64, lease: Lease, message: FromWorker) -> Check {
        let Some(&id) = self.hosts.get(&worker) else { return Ok(()) };
        let number = self.processes[id].unborn.remove(&child);
        let parent = self.ledger.held(worker, lease).map(|held| held.task);
        let parent = parent.filter(|parent| self.ledger.open.contains(parent));
        let here = self.ledger.workers.contains_key(&worker);
        self.say(|| format!("{worker:?} submits {number:?} as {child} of {parent:?}"));
        self.brain.handle(self.now, kumi_core::Event::Said { worker, message });
        if let Some(note) = self.ledger.workers.get_mut(&worker) {
            note.heard = self.now;
        }
        match (number, parent) {
            // A repetition.
            (None, _) => {}
            (Some(number), Some(parent)) => {
                let Some(task) = self.brain.child(worker, child) else {
                    return Err(format!("task {number} is submitted by task {parent}, but not taken"));
                };
                let note = &mut self.ledger.tasks[number];
                (note.id, note.submitted) = (task, self.now);
                (note.kin.parent, note.kin.asked) = (Some(parent), Some((worker, child)));
                note.spot = super::task::Spot::Waiting;
                self.ledger.children.insert((worker, child), number);
                self.ledger.taken(number);
                rule!(self.brain.watch(task), "task {number} is done already");
            }
            (Some(_), None) if here => {
                self.ledger.owed.insert((worker, child), None);
            }
            (Some(_), None) => {}
        }
        self.absorb()
    }
}
