//! Calls of `everywhere` in the world's books. A call is a task as well, under the next number: so whatever has a greater
//! number was submitted after it.

use std::collections::BTreeSet;

use kumi_core::{Begun, FunctionId, Large, Lease, NewTask, Outcome, Payload, SubmitError, TaskView, Time, WorkerId};

use super::ledger::{Check, Ledger, rule};
use super::profile::{MICRO, MILLI, Profile, SECOND};
use super::rng::Rng;
use super::staff::WorkerNote;
use super::task::{Note, Spec, Wish};
use super::world::World;

/// What the world knows of a call, besides what it knows of its task.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// How often, of a thousand, it fails.
    pub raises: u64,
    /// Workers that were here when it was made, and have not answered.
    pub left: BTreeSet<WorkerId>,
    pub error: Option<Payload>,
    pub done: bool,
    pub death: bool,
    /// It did not succeed: nobody has to do it any more.
    pub withdrawn: bool,
}

impl Call {
    fn draw(rng: &mut Rng) -> Self {
        Self { raises: rng.pick(&[0, 0, 0, 100, 1000]), ..Self::default() }
    }
}

/// A call: mostly it takes long enough for others to come and go.
fn draw(rng: &mut Rng, profile: &Profile) -> Spec {
    Spec {
        runs: if rng.chance(200) { rng.span(SECOND, 5 * SECOND) } else { rng.span(MICRO, 50 * MILLI) },
        crashes: if rng.chance(profile.killers) { rng.pick(&[1000, 300]) } else { 0 },
        deaf: rng.chance(150),
        raises: false,
        once: false,
        kept: rng.chance(300),
        crashes_max: profile.policy.crashes_max,
        run_limit: None,
        total_limit: if rng.chance(100) { Some(rng.span(MILLI, 3 * SECOND)) } else { None },
        payload: 8 + rng.below(200) as usize,
        large: if rng.chance(profile.large) { Some(rng.between(1, 600 << 10)) } else { None },
        large_result: None,
        brood: 0,
    }
}

impl World {
    /// The user has every worker do something.
    pub(super) fn call_everywhere(&mut self) -> Check {
        let mut spec = draw(&mut self.rng, &self.profile);
        let call = Call::draw(&mut self.rng);
        let number = self.ledger.tasks.len();
        let large = spec.large.map_or(Ok(None), |bytes| self.write_arguments(number, bytes))?;
        let segment = large.as_ref().and_then(|large| large.segment);
        // It is the call's, and not the task's.
        spec.large = None;
        let fits = self.ledger.bytes == 0 || self.ledger.bytes + spec.bytes() <= self.ledger.policy.queue_bytes;
        let new = self.ask(&spec, number, large);
        let answer = self.brain.everywhere(self.now, new, Payload::default());
        self.say(|| format!("everywhere {number}: {answer:?} {spec:?} {call:?}"));
        let id = match answer {
            Ok(id) => id,
            Err(error) => {
                let right = if self.ledger.closing { SubmitError::Closed } else { SubmitError::Full };
                rule!(error == right && (self.ledger.closing || !fits), "call {number} is refused: {error:?}");
                return segment.map_or(Ok(()), |(segment, _)| self.let_go_of_segment(segment, false));
            }
        };
        rule!(fits && !self.ledger.closing, "call {number} is taken, though there is no room");
        self.ledger.called(Note::new(id, spec, self.now), call);
        if !self.brain.watch(id) && !self.ledger.tasks[number].spec.kept {
            let view = self.brain.view(id);
            self.ledger.resolved(self.now, id, view)?;
        }
        self.absorb()
    }

    fn ask(&mut self, spec: &Spec, number: usize, large: Option<Large>) -> NewTask {
        let function: FunctionId = self.rng.pick(&self.functions).0;
        spec.ask(function, number, self.ledger.policy.crashes_max, large, None)
    }
}

impl Ledger {
    fn called(&mut self, note: Note, call: Call) {
        let here = |worker: &WorkerNote| worker.enlisted && worker.told_to_leave.is_none() && !worker.killed;
        let here = self.workers.iter().filter(|(_, worker)| here(worker)).map(|(id, _)| *id);
        let left: BTreeSet<_> = here.collect();
        self.saw(if left.is_empty() { "everywhere, and nobody is here" } else { "everywhere" });
        let number = self.tasks.len();
        self.tasks.push(note);
        self.taken(number);
        self.waiting.remove(&number);
        self.tasks[number].call = Some(Call { left, ..call });
    }

    /// Calls that every worker has to do, from this number on.
    pub fn calls_from(&self, number: usize) -> impl Iterator<Item = usize> + '_ {
        let calls = self.tasks.iter().enumerate().skip(number);
        calls.filter(|(_, note)| note.call.as_ref().is_some_and(|call| !call.withdrawn)).map(|(number, _)| number)
    }

    pub fn is_call(&self, number: usize) -> bool {
        self.tasks.get(number).is_some_and(|note| note.call.is_some())
    }

    /// Whether somebody may still have to read the arguments of this task or call.
    pub fn needs(&self, number: usize) -> bool {
        let ended = self.closing && self.open.is_empty();
        let call = self.tasks.get(number).and_then(|note| note.call.as_ref());
        self.open.contains(&number) || call.is_some_and(|call| !call.withdrawn && !ended)
    }

    /// A worker is sent a call: the next one, one at a time, behind the tasks that it holds.
    pub fn prepare_sent(&mut self, id: WorkerId, lease: Lease, payload: &Payload) -> Check {
        let number = super::task::number_in(payload);
        rule!(self.is_call(number), "{number} is no call");
        let calls: BTreeSet<_> = self.calls_from(0).collect();
        let here = self.tasks[number].call.as_ref().is_some_and(|call| call.left.contains(&id));
        let known = calls.contains(&number);
        let Some(worker) = self.workers.get_mut(&id) else {
            return Err(format!("call {number} goes to nobody, {id:?}"));
        };
        rule!(known, "call {number} goes to {id:?}, though it is withdrawn");
        rule!(worker.told_to_leave.is_none() && !worker.killed, "call {number} goes to {id:?}, which is leaving");
        let missed = calls.iter().find(|call| **call < number && !worker.answered.contains(call));
        rule!(missed.is_none(), "call {number} goes to {id:?}, which has not done {missed:?}");
        let again = worker.answered.last().is_some_and(|last| *last >= number);
        rule!(!again, "call {number} goes to {id:?}, which has done {:?}", worker.answered);
        worker.hold(lease, number);
        if !here {
            self.saw("a call replayed");
        }
        Ok(())
    }

    /// Is about to be told: a worker has done a call, or it has failed there.
    pub fn prepared(&mut self, now: Time, id: WorkerId, lease: Lease, error: &str, payload: &Payload) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(held) = worker.take(now, lease) else { return };
        worker.answered.insert(held.task);
        // Of one that was killed it was noted then.
        let (newcomer, number, place) = (!worker.enlisted && !worker.killed, held.task, worker.place);
        let Some(call) = self.tasks[number].call.as_mut() else { return };
        let waited_for = call.left.remove(&id);
        if waited_for && !error.is_empty() {
            call.error.get_or_insert_with(|| payload.clone());
        }
        call.done |= waited_for && error.is_empty();
        if newcomer && !error.is_empty() && !call.withdrawn {
            self.saw("a newcomer fails in a call");
            self.fails(now, place);
        } else {
            self.enlist_if_prepared(now, id);
        }
    }

    /// A newcomer that has nothing more to do before its first task is a worker from now on.
    pub fn enlist_if_prepared(&mut self, now: Time, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let more = self.calls_from(0).any(|call| !worker.answered.contains(&call));
        if more || !worker.held.is_empty() || worker.killed || worker.told_to_leave.is_some() {
            return;
        }
        if let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.enlisted) {
            (worker.enlisted, worker.joined, worker.idle_since) = (true, now, now);
        }
        self.ready(id);
    }

    /// A worker is gone, which crashed or not: nobody waits for it any more. True: a call is to blame.
    pub fn excused(&mut self, id: WorkerId, worker: &WorkerNote, begun: Begun, crashed: bool) -> bool {
        let mut blamed = false;
        for (number, note) in self.tasks.iter_mut().enumerate() {
            let Some(call) = note.call.as_mut() else { continue };
            let waited_for = call.left.remove(&id);
            let of_it = worker.held.iter().any(|held| held.task == number && begun == Begun::One(held.lease));
            if waited_for && of_it && crashed && !call.withdrawn {
                (call.death, blamed) = (true, true);
            }
        }
        if blamed {
            self.saw("a worker dies of a call");
        }
        blamed
    }

    /// A call's task is done, rightly so?
    pub fn call_resolved(&mut self, now: Time, number: usize, view: Option<&TaskView>) -> Check {
        let task = &mut self.tasks[number];
        let due = task.spec.total_limit.map(|limit| task.submitted.after(limit));
        let (wish, Some(call)) = (task.wish, task.call.as_mut()) else { return Ok(()) };
        let failed = call.error.is_some() || call.death && !call.done;
        let stopped = wish == Wish::Cancel || due == Some(now);
        call.withdrawn = failed || stopped;
        let right = match view.map(|view| &view.outcome) {
            Some(Outcome::Success(_)) => !failed,
            Some(Outcome::Error(payload)) => call.error.as_ref() == Some(payload),
            Some(Outcome::Crash(_)) => call.error.is_none() && failed,
            Some(Outcome::Cancel) => wish == Wish::Cancel,
            Some(Outcome::Timeout(_)) => due == Some(now),
            Some(Outcome::Unlaunchable(_)) => false,
            None => true,
        };
        rule!(right, "call {number} ends as {view:?}, but is {call:?}, {wish:?}");
        if stopped {
            return Ok(());
        }
        let left = std::mem::take(&mut call.left);
        for id in left {
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            let holds = worker.held.iter().any(|held| held.task == number);
            rule!(!holds, "call {number} is done, but {id:?} still has it in hand");
            // It was to leave already: it gets no task any more.
            worker.leaves = true;
        }
        Ok(())
    }

    /// After each step: nobody who might begin a task has missed a call, and no call waits for nobody.
    pub fn calls_are_done(&self, now: Time) -> Check {
        for call in self.calls_from(0) {
            let missed = self.workers.iter().find(|(_, worker)| worker.idle() && !worker.answered.contains(&call));
            rule!(missed.is_none(), "{missed:?} is ready for tasks, but has not done call {call}");
        }
        let open = self.open.iter().filter_map(|number| Some((number, self.tasks[*number].call.as_ref()?)));
        for (number, call) in open {
            let here = |id| self.workers.get(id).is_some_and(|worker| worker.told_to_leave.is_none());
            rule!(call.left.iter().any(here), "call {number} is not done, though nobody is left to do it: {call:?}");
        }
        for (id, worker) in self.workers.iter().filter(|(_, worker)| !worker.enlisted && !worker.killed) {
            let due = worker.joined.after(self.policy.launch);
            rule!(now <= due || worker.told_to_leave.is_some(), "{id:?} should have been prepared at {due:?}");
        }
        Ok(())
    }

    /// The user's task that a worker begins comes after all calls that were made before it.
    pub fn comes_after_calls(&self, number: usize, done: &[usize]) -> Check {
        let missed = self.calls_from(0).take_while(|call| *call < number).find(|call| !done.contains(call));
        rule!(missed.is_none(), "task {number} begins on a worker that has not done call {missed:?}");
        Ok(())
    }
}
