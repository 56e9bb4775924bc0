//! Tasks that submit tasks: what their code does in the worker's process.
//!
//! A task with a plan submits its children at once, then does something with each of them: waits for it in the main
//! thread, which is lent meanwhile, has a thread wait for it, cancels it, drops its handle, or forgets it. It ends when
//! no thread of it waits any more.

use std::sync::Arc;

use kumi_core::{FromWorker, Lease, Terms};

use super::ledger::Check;
use super::process::Process;
use super::profile::{MICRO, MILLI, SECOND};
use super::task::{Note, Spec};
use super::world::{Letter, World};

/// What a task with children has left to do.
#[derive(Clone, Debug)]
pub struct Plan {
    unsubmitted: u64,
    /// Those with which nothing was done yet.
    children: Vec<u64>,
    /// The one that the main thread waits for, and whether it has waited for long enough.
    pub waits: Option<u64>,
    tired: bool,
    /// Those that threads wait for.
    elsewhere: Vec<u64>,
}

impl Plan {
    pub fn new(brood: u64) -> Self {
        Self { unsubmitted: brood, children: Vec::new(), waits: None, tired: false, elsewhere: Vec::new() }
    }
}

impl Process {
    fn plan(&mut self) -> Option<&mut Plan> {
        self.stack.last_mut()?.plan.as_mut()
    }
}

impl World {
    /// The running task does the next thing.
    pub(super) fn acts(&mut self, id: usize, lease: Lease) -> Check {
        let process = &mut self.processes[id];
        if !process.alive || process.at_work().is_none_or(|running| running.lease != lease) {
            return Ok(());
        }
        let Some(plan) = process.plan() else { return Ok(()) };
        let soon = self.rng.span(MICRO, MILLI);
        if plan.unsubmitted > 0 {
            for _ in 0..std::mem::take(&mut plan.unsubmitted) {
                self.bear(id, lease);
            }
            if self.rng.chance(500) {
                self.flush(id);
            }
        } else if let Some(child) = plan.children.pop() {
            match self.rng.below(10) {
                0..5 => return self.begin_wait(id, lease, child),
                5..7 => self.begin_wait_elsewhere(id, child),
                7 => {
                    let open = self.processes[id].half.children().is_open(child);
                    self.tell_host(id, open.then_some(FromWorker::Cancel { child }));
                }
                8 => {
                    let message = self.processes[id].half.children().release(child);
                    self.tell_host(id, message);
                }
                _ => {}
            }
        } else if !plan.elsewhere.is_empty() {
            // It goes on when the last one is done; or does not wait for that.
            if self.rng.chance(900) {
                return Ok(());
            }
            self.ledger.saw("a wait given up");
            self.end_waits_elsewhere(id);
        } else {
            let task = process.stack.last().map_or(0, |running| running.task);
            let crashes = self.ledger.tasks[task].spec.crashes;
            let letter = if self.rng.chance(crashes) {
                Letter::Dies { process: id, of: Some(lease) }
            } else {
                Letter::Done { process: id, lease }
            };
            self.post(soon, letter);
            return Ok(());
        }
        self.post(soon, Letter::Acts { process: id, lease });
        Ok(())
    }

    /// The running task submits a task.
    fn bear(&mut self, id: usize, parent: Lease) {
        let at = self.rng.below(self.functions.len() as u64) as usize;
        let kind = self.functions[at].1;
        let mut spec = Spec::draw(&mut self.rng, kind, &self.profile);
        let number = self.ledger.tasks.len();
        let older = self.processes[id].stack.last().map_or(0, |running| running.task);
        let generation = self.ledger.tasks[older].kin.generation + 1;
        spec.be_nested(generation);
        let terms = Terms {
            crashes_max: Some(spec.crashes_max),
            once: spec.once,
            seconds_run: spec.run_limit,
            seconds_total: spec.total_limit,
        };
        let payload = spec.arguments(number);
        self.say(|| format!("process {id} submits {number} in {parent:?}: {spec:?}"));
        self.ledger.tasks.push(Note::unborn(spec, generation));
        let process = &mut self.processes[id];
        let function = match process.declared.get(&at) {
            Some(function) => *function,
            None => {
                let function = process.half.children().new_function();
                process.declared.insert(at, function);
                let payload = Arc::from((at as u64).to_le_bytes());
                process.mention(Some(FromWorker::Declare { function, label: format!("function {at}"), payload }));
                function
            }
        };
        let submitted = process.half.children().submit(parent, function, terms, payload, None);
        let Some((child, message)) = submitted else { return };
        process.unborn.insert(child, number);
        process.mention(Some(message));
        if let Some(plan) = process.plan() {
            plan.children.push(child);
        }
    }

    fn begin_wait(&mut self, id: usize, lease: Lease, child: u64) -> Check {
        let process = &mut self.processes[id];
        if !process.half.children().is_open(child) {
            self.post(MICRO, Letter::Acts { process: id, lease });
            return Ok(());
        }
        let message = process.half.begin_wait(child);
        if let Some(plan) = process.plan() {
            (plan.waits, plan.tired) = (Some(child), false);
        }
        self.tell_host(id, message);
        if self.rng.chance(150) {
            let patience = self.rng.span(MICRO, SECOND);
            self.post(patience, Letter::Tires { process: id, lease, child });
        }
        self.work(id)
    }

    /// A wait has taken long enough. What runs within it goes on.
    pub(super) fn tires(&mut self, id: usize, lease: Lease, child: u64) -> Check {
        let running = self.processes[id].stack.iter_mut().find(|running| running.lease == lease);
        let Some(plan) = running.and_then(|running| running.plan.as_mut()) else { return Ok(()) };
        plan.tired |= plan.waits == Some(child);
        self.work(id)
    }

    /// Whether the main thread takes the next job: nothing runs, or what runs waits and has to wait on.
    pub(super) fn is_lent(&mut self, id: usize) -> bool {
        let process = &mut self.processes[id];
        let Some(running) = process.stack.last_mut() else { return true };
        let deaf = self.ledger.tasks[running.task].spec.deaf;
        let Some(plan) = running.plan.as_mut() else { return false };
        let Some(child) = plan.waits else { return false };
        let enough = plan.tired || (running.interrupted && !deaf);
        if !enough && process.half.children().is_open(child) {
            return true;
        }
        (plan.waits, plan.tired) = (None, false);
        let lease = running.lease;
        let message = process.half.end_wait(child);
        if message.is_some() {
            self.ledger.saw("a wait given up");
        }
        self.tell_host(id, message);
        self.post(MICRO, Letter::Acts { process: id, lease });
        false
    }

    fn begin_wait_elsewhere(&mut self, id: usize, child: u64) {
        let process = &mut self.processes[id];
        if !process.half.children().is_open(child) {
            return;
        }
        let message = process.half.children().begin_wait(child, Some(child));
        if let Some(plan) = process.plan() {
            plan.elsewhere.push(child);
        }
        self.tell_host(id, message);
    }

    fn end_waits_elsewhere(&mut self, id: usize) {
        let process = &mut self.processes[id];
        let waited = process.plan().map_or(Vec::new(), |plan| std::mem::take(&mut plan.elsewhere));
        for child in waited {
            let message = self.processes[id].half.children().end_wait(child);
            self.tell_host(id, message);
        }
    }

    /// Children that threads wait for may be done.
    pub(super) fn hear_of_children(&mut self, id: usize) {
        let process = &mut self.processes[id];
        let news = process.half.children().take_news();
        if news.is_empty() {
            return;
        }
        for child in news {
            let plans = process.stack.iter_mut().filter_map(|running| running.plan.as_mut());
            plans.for_each(|plan| plan.elsewhere.retain(|other| *other != child));
        }
        let lease = process.at_work().filter(|running| running.plan.is_some()).map(|running| running.lease);
        if let Some(lease) = lease {
            self.post(MICRO, Letter::Acts { process: id, lease });
        }
    }

    /// The running task ends. Its threads may outlive it; mostly they do not.
    pub(super) fn leave_children(&mut self, id: usize) {
        if self.processes[id].plan().is_none() {
            return;
        }
        if self.rng.chance(800) {
            self.end_waits_elsewhere(id);
        }
        if self.rng.chance(200) {
            let functions = std::mem::take(&mut self.processes[id].declared);
            for function in functions.into_values() {
                self.processes[id].mention(Some(FromWorker::Withdraw { function }));
            }
        }
    }

    fn tell_host(&mut self, id: usize, message: Option<FromWorker>) {
        if message.is_some() {
            self.processes[id].mention(message);
            self.flush(id);
        }
    }
}
