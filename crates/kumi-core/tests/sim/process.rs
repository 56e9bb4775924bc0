//! A worker's process: the real half of a worker, a main thread that runs tasks, and its end of the link.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kumi_core::frame::Wire;
use kumi_core::interrupts::Signal;
use kumi_core::{
    Begun, Decoder, FromWorker, FunctionId, Interrupts, Job, LaunchId, Lease, Link, LoanId, Run, SegmentId, Store,
    Time, ToWorker, WorkerHalf, WorkerId,
};

use super::ledger::{Check, rule};
use super::parent::Plan;
use super::profile::{MICRO, MILLI};
use super::remote::Agent;
use super::task::{self, Spot};
use super::world::{Letter, World};

/// Most bytes of its free segments.
const SPARE: u64 = 1 << 20;

/// See the head of this file.
#[derive(Debug)]
pub struct Process {
    pub launch: LaunchId,
    pub link: Link,
    pub alive: bool,
    /// Its name on the host, once it has joined.
    pub worker: Option<WorkerId>,
    pub half: WorkerHalf,
    pub interrupts: Interrupts,
    pub from_host: Decoder<ToWorker>,
    pub to_host: Decoder<FromWorker>,
    functions: BTreeSet<FunctionId>,
    /// What was begun and is not answered: each after the first runs within the wait of the one before.
    pub stack: Vec<Running>,
    /// By the index of what it does: the worker's number of a function that its tasks' children name.
    pub declared: BTreeMap<usize, u64>,
    /// Tasks that were submitted here and that the host has not heard of.
    pub unborn: BTreeMap<u64, usize>,
    begun: u64,
    /// Calls of `everywhere` that it has begun.
    called: Vec<usize>,
    /// The shared page: each slot's lease and state (local workers).
    page: BTreeMap<u16, (Lease, Slot)>,
    /// Results that are not written out yet; in the shared page too, so that they survive.
    composed: Vec<FromWorker>,
    flushes: bool,
    /// The host's segments that it was lent and has not given back, and how often; its own ones.
    pub sees: BTreeMap<SegmentId, u64>,
    pub store: Store,
    /// Host: what the next result of it lies in.
    pub offered: Option<LoanId>,
    pub lines: Lines,
    /// Of a remote worker, as long as its machine lives.
    pub agent: Option<Agent>,
}

/// The two directions of a local link; each delivers in order.
#[derive(Debug, Default)]
pub struct Lines {
    pub down: Time,
    pub up: Time,
    /// There is no network before (remote workers).
    pub parted: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Waiting,
    Started,
    Finished,
    Recalled,
}

/// A task that was begun.
#[derive(Clone, Debug)]
pub struct Running {
    pub task: usize,
    pub lease: Lease,
    slot: u16,
    since: Time,
    pub interrupted: bool,
    inline: bool,
    /// What it does with its children, if it is to have some.
    pub plan: Option<Plan>,
}

impl Process {
    pub fn new(launch: LaunchId, link: Link) -> Self {
        Self {
            launch,
            link,
            alive: true,
            worker: None,
            half: WorkerHalf::default(),
            interrupts: Interrupts::default(),
            from_host: Decoder::default(),
            to_host: Decoder::default(),
            functions: BTreeSet::new(),
            stack: Vec::new(),
            declared: BTreeMap::new(),
            unborn: BTreeMap::new(),
            begun: 0,
            called: Vec::new(),
            page: BTreeMap::new(),
            composed: Vec::new(),
            flushes: false,
            sees: BTreeMap::new(),
            store: Store::new(SPARE),
            offered: None,
            lines: Lines::default(),
            agent: None,
        }
    }

    /// The task that its main thread is at: the last one that was begun, unless that waits.
    pub fn at_work(&self) -> Option<&Running> {
        let waits = |running: &Running| running.plan.as_ref().is_some_and(|plan| plan.waits.is_some());
        self.stack.last().filter(|running| !waits(running))
    }

    /// Says something, soon.
    pub fn mention(&mut self, message: Option<FromWorker>) {
        self.composed.extend(message);
    }

    /// Host: hands a task over through the page.
    pub fn offer(&mut self, slot: u16, lease: Lease) {
        self.page.insert(slot, (lease, Slot::Waiting));
    }

    /// Host: takes a task back through the page.
    pub fn recall(&mut self, slot: u16, lease: Lease) -> bool {
        self.turn(slot, lease, Slot::Waiting, Slot::Recalled)
    }

    fn turn(&mut self, slot: u16, lease: Lease, from: Slot, to: Slot) -> bool {
        let found = self.page.get_mut(&slot).filter(|place| **place == (lease, from));
        found.map(|place| place.1 = to).is_some()
    }

    /// Host or agent, after its death: what it was at.
    pub fn begun(&self) -> Begun {
        let started = self.page.values().filter(|(_, slot)| *slot == Slot::Started);
        started.map(|(lease, _)| *lease).max().map_or(Begun::Nothing, Begun::One)
    }

    /// Host or agent, after its death: results in the page that were not written out.
    pub fn unsent(&mut self) -> Vec<FromWorker> {
        std::mem::take(&mut self.composed)
    }
}

impl World {
    /// Bytes from the host have come to the worker.
    pub(super) fn worker_hears(&mut self, id: usize, bytes: &[u8]) -> Check {
        if !self.processes[id].alive {
            return Ok(());
        }
        // In two pieces, as a socket may give them.
        let (head, tail) = bytes.split_at(bytes.len() / 3);
        let mut signal = false;
        for piece in [head, tail] {
            let process = &mut self.processes[id];
            process.from_host.feed(piece);
            while let Some(message) = process.from_host.next().map_err(|error| error.to_string())? {
                if let ToWorker::Interrupt { lease } = &message {
                    signal |= process.interrupts.want(*lease);
                } else if process.half.handle(message).is_err() {
                    self.die(id);
                    return Ok(());
                }
            }
        }
        self.goes_on(id, signal)
    }

    /// Its agent gives a remote worker a message.
    pub(super) fn worker_takes(&mut self, id: usize, message: ToWorker) -> Check {
        let process = &mut self.processes[id];
        if !process.alive {
            return Ok(());
        }
        let mut signal = false;
        if let ToWorker::Interrupt { lease } = &message {
            signal = process.interrupts.want(*lease);
        } else {
            rule!(process.half.handle(message).is_ok(), "process {id} is refused by its own agent");
        }
        self.goes_on(id, signal)
    }

    fn goes_on(&mut self, id: usize, signal: bool) -> Check {
        if signal {
            let delay = self.rng.span(MICRO, MILLI);
            self.post(delay, Letter::Signal { process: id });
        }
        if self.say_answers(id) {
            self.flush(id);
        }
        self.take_back(id)?;
        self.hear_of_children(id);
        self.work(id)
    }

    /// The main thread finds the signal, which may come after the task that it was for.
    pub(super) fn signalled(&mut self, id: usize) -> Check {
        let process = &mut self.processes[id];
        match process.interrupts.take() {
            Signal::Interrupt => {}
            Signal::Late => {
                self.ledger.saw("a late signal");
                return Ok(());
            }
            Signal::Foreign => return Ok(()),
        }
        let Some(running) = process.stack.last_mut() else {
            return Err(format!("process {id} is interrupted, but runs nothing"));
        };
        running.interrupted = true;
        let (task, lease) = (running.task, running.lease);
        let waits = running.plan.as_ref().is_some_and(|plan| plan.waits.is_some());
        rule!(!self.ledger.open.contains(&task), "task {task} is interrupted, though its result is wanted");
        if !self.ledger.tasks[task].spec.deaf {
            self.post(100 * MICRO, Letter::Done { process: id, lease });
        }
        if waits {
            self.ledger.saw("a task interrupted in its wait");
        }
        self.work(id)
    }

    /// What the worker's half has to say, beside what waits to be written out. Whether there was something.
    fn say_answers(&mut self, id: usize) -> bool {
        let process = &mut self.processes[id];
        let before = process.composed.len();
        while let Some(answer) = process.half.answer() {
            process.composed.push(answer);
        }
        process.composed.len() > before
    }

    /// The main thread: begins the next job if it is free, or lent.
    pub(super) fn work(&mut self, id: usize) -> Check {
        loop {
            if !self.processes[id].alive || !self.is_lent(id) {
                return Ok(());
            }
            self.say_answers(id);
            let process = &mut self.processes[id];
            match process.half.next_job() {
                Some(Job::Define { function, .. }) => {
                    process.functions.insert(function);
                }
                Some(Job::Forget { function }) => {
                    process.functions.remove(&function);
                }
                Some(Job::Run { lease, slot, function, payload, short, lent, within, inline, .. }) => {
                    let lent = lent.filter(|_| process.link == Link::Local);
                    if !process.turn(slot, lease, Slot::Waiting, Slot::Started) {
                        process.half.finished();
                        lent.into_iter().for_each(|segment| self.returns(id, segment));
                        continue;
                    }
                    rule!(process.functions.contains(&function), "process {id} does not know {function:?}");
                    if !short {
                        self.flush(id);
                    }
                    let task = task::number_in(&payload);
                    lent.map_or(Ok(()), |segment| self.read_arguments(id, task, segment))?;
                    return self.begin(id, task, lease, slot, (within, inline));
                }
                Some(Job::Prepare { lease, slot, function, payload, lent }) => {
                    rule!(process.functions.contains(&function), "process {id} does not know {function:?}");
                    let lent = lent.filter(|_| process.link == Link::Local);
                    if process.link == Link::Local && !process.turn(slot, lease, Slot::Waiting, Slot::Started) {
                        process.half.finished();
                        lent.into_iter().for_each(|segment| self.returns(id, segment));
                        continue;
                    }
                    self.flush(id);
                    let call = task::number_in(&payload);
                    lent.map_or(Ok(()), |segment| self.read_arguments(id, call, segment))?;
                    return self.begin_call(id, call, lease, slot);
                }
                None => {
                    self.flush(id);
                    if self.processes[id].half.leaving().is_some() {
                        self.die(id);
                    }
                    return Ok(());
                }
            }
        }
    }

    fn begin(
        &mut self,
        id: usize,
        task: usize,
        lease: Lease,
        slot: u16,
        (within, inline): (Option<Lease>, bool),
    ) -> Check {
        if within.is_none() {
            self.ledger.comes_after_calls(task, &self.processes[id].called)?;
        }
        let process = &mut self.processes[id];
        let outer = process.stack.last().map(|outer| outer.lease);
        rule!(within == outer, "process {id} begins {lease:?} within {within:?}, but in {outer:?}");
        process.begun += u64::from(within.is_none());
        let most = self.ledger.policy.tasks_max;
        rule!(most.is_none_or(|most| process.begun <= most), "process {id} runs more than {most:?} tasks");
        rule!(process.interrupts.begin(lease), "process {id} is interrupted in {lease:?}, which had not begun");
        let brood = self.ledger.tasks[task].spec.brood;
        let plan = (brood > 0).then(|| Plan::new(brood));
        process.stack.push(Running { task, lease, slot, since: self.now, interrupted: false, inline, plan });
        let held = process.worker.map(|worker| Spot::Held(worker, lease));
        let local = process.link == Link::Local;
        let note = &mut self.ledger.tasks[task];
        note.begun += 1;
        rule!(!note.spec.once || note.begun == 1, "task {task}, once, begins again");
        rule!(
            !local || Some(note.spot) == held || note.spot == Spot::Done,
            "task {task} begins, but is {:?}",
            note.spot
        );
        let (runs, crashes) = (note.spec.runs, note.spec.crashes);
        let parent = brood > 0;
        if !local {
            self.break_during(id, runs);
        }
        if self.rng.chance(self.profile.noticed) {
            let after = self.rng.span(MICRO, 2 * runs.max(MILLI));
            self.post(after, Letter::Noticed { process: id });
        }
        if self.rng.chance(100) {
            self.post(runs / 3, Letter::Reports { process: id, lease });
            self.post(runs / 2, Letter::Reports { process: id, lease });
        }
        if parent {
            self.post(runs / 4, Letter::Acts { process: id, lease });
        } else if self.rng.chance(crashes) {
            self.post(runs, Letter::Dies { process: id, of: Some(lease) });
        } else {
            self.post(runs, Letter::Done { process: id, lease });
        }
        self.say(|| format!("process {id} begins task {task} under {lease:?}"));
        Ok(())
    }

    fn begin_call(&mut self, id: usize, call: usize, lease: Lease, slot: u16) -> Check {
        let process = &mut self.processes[id];
        rule!(
            process.called.last().is_none_or(|last| *last < call),
            "process {id} does call {call} after {:?}",
            process.called
        );
        rule!(process.interrupts.begin(lease), "process {id} is interrupted in {lease:?}, which had not begun");
        process.called.push(call);
        let (task, since) = (call, self.now);
        process.stack.push(Running { task, lease, slot, since, interrupted: false, inline: false, plan: None });
        let spec = &self.ledger.tasks[call].spec;
        let (runs, crashes) = (spec.runs, spec.crashes);
        if process.link == Link::Remote {
            self.break_during(id, runs);
        }
        let dies = self.rng.chance(crashes);
        let of = Some(lease);
        self.post(runs, if dies { Letter::Dies { process: id, of } } else { Letter::Done { process: id, lease } });
        self.say(|| format!("process {id} begins call {call} under {lease:?}"));
        Ok(())
    }

    /// The running call is done.
    fn called(&mut self, id: usize, running: Running, raises: u64) -> Check {
        let failed = running.interrupted || self.rng.chance(raises);
        let process = &mut self.processes[id];
        process.stack.pop();
        process.turn(running.slot, running.lease, Slot::Started, Slot::Finished);
        process.half.finished();
        let _ = process.interrupts.end();
        process.composed.push(FromWorker::Prepared {
            lease: running.lease,
            error: String::from(if failed { "it failed" } else { "" }),
            payload: task::result(running.task, running.lease),
        });
        self.flush(id);
        self.work(id)
    }

    /// The process is told to end, and its watchdog says so, whatever its main thread is at.
    pub(super) fn noticed(&mut self, id: usize) {
        if self.processes[id].alive && self.processes[id].worker.is_some() {
            self.processes[id].composed.push(FromWorker::Retire);
            self.flush(id);
        }
    }

    /// The running task says something of itself, which goes out at once.
    pub(super) fn reports(&mut self, id: usize, lease: Lease) {
        let process = &mut self.processes[id];
        let runs = process.stack.iter().find(|running| running.lease == lease && process.alive);
        if let Some(task) = runs.map(|running| running.task) {
            let payload = task::report(task, lease, self.now);
            process.composed.push(FromWorker::Report { lease, payload });
            self.flush(id);
        }
    }

    /// The running task is done, if it is this one.
    pub(super) fn done(&mut self, id: usize, lease: Lease) -> Check {
        let now = self.now;
        let process = &mut self.processes[id];
        let Some(running) = process.at_work().filter(|running| running.lease == lease && process.alive).cloned() else {
            return Ok(());
        };
        if let Some(raises) = self.ledger.tasks[running.task].call.as_ref().map(|call| call.raises) {
            return self.called(id, running, raises);
        }
        let large = self.ledger.tasks[running.task].spec.large_result;
        let large = large.filter(|_| process.link == Link::Local && !running.inline);
        self.leave_children(id);
        if let Some(bytes) = large {
            self.flush(id);
            self.write_result(id, bytes)?;
        }
        let process = &mut self.processes[id];
        if !process.alive {
            return Ok(());
        }
        process.stack.pop();
        process.turn(running.slot, lease, Slot::Started, Slot::Finished);
        process.half.finished();
        let outer_too = process.interrupts.end();
        process.composed.push(FromWorker::Finished {
            lease,
            success: !running.interrupted && !self.ledger.tasks[running.task].spec.raises,
            run: Run { started: running.since.0, nanoseconds: now.since(running.since).as_nanos() as u64, notes: None },
            payload: task::result(running.task, lease),
        });
        if large.is_some() || !process.half.short_next() {
            self.flush(id);
        } else if !process.flushes {
            process.flushes = true;
            self.post(200 * MICRO, Letter::Flush { process: id });
        }
        if outer_too {
            self.post(MICRO, Letter::Signal { process: id });
        }
        self.work(id)
    }

    /// The running task of a worker that is to die of it, or the worker by itself.
    pub(super) fn dies(&mut self, id: usize, of: Option<Lease>) {
        let running = self.processes[id].at_work().map(|running| running.lease);
        if of.is_none() || running == of {
            self.die(id);
        }
    }

    pub(super) fn flush_due(&mut self, id: usize) {
        self.processes[id].flushes = false;
        self.flush(id);
    }

    pub(super) fn flush(&mut self, id: usize) {
        if self.processes[id].alive {
            let composed = std::mem::take(&mut self.processes[id].composed);
            self.send_up(id, &composed);
        }
    }

    /// The process ends, by whatever cause.
    pub(super) fn die(&mut self, id: usize) {
        let process = &mut self.processes[id];
        if !process.alive {
            return;
        }
        process.alive = false;
        let (link, last) = (process.link, process.lines.up);
        self.say(|| format!("process {id} ends"));
        match link {
            // The host empties the socket before it looks at the page.
            Link::Local => self.post_at(last.max(self.now).after(50 * MICRO), Letter::Gone { process: id }),
            // Sometimes it is the machine, and nobody tells.
            Link::Remote if self.rng.chance(self.profile.silent) => {
                self.machine_ends(id, true);
                self.may_be_asked(id);
            }
            Link::Remote => self.post(50 * MICRO, Letter::ChildDied { process: id }),
        }
    }

    pub(super) fn send_up(&mut self, id: usize, messages: &[FromWorker]) {
        if self.processes[id].link == Link::Remote {
            return messages.iter().for_each(|message| self.agent_says(id, message.clone()));
        }
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut bytes));
        let at = self.arrival(self.processes[id].lines.up);
        self.processes[id].lines.up = at;
        if !bytes.is_empty() {
            self.post_at(at, Letter::Up { process: id, bytes: Arc::from(bytes) });
        }
    }

    pub(super) fn send_down(&mut self, id: usize, message: &ToWorker) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let bytes = Arc::from(bytes);
        if matches!(message, ToWorker::Interrupt { .. }) {
            // On a line of its own: it overtakes, and is overtaken.
            let delay = self.rng.span(MICRO, 40 * MICRO);
            return self.post(delay, Letter::Down { process: id, bytes });
        }
        let at = self.arrival(self.processes[id].lines.down);
        self.processes[id].lines.down = at;
        self.post_at(at, Letter::Down { process: id, bytes });
    }

    fn arrival(&mut self, last: Time) -> Time {
        let delay = self.rng.span(5 * MICRO, 40 * MICRO);
        // One after the other: no two at the same instant.
        self.now.after(delay).max(last).after(Duration::from_nanos(1))
    }
}
