//! Shared memory of the world: who really sees which segment, whoever the brain believes to do so.
//!
//! A segment is seen by a process from the moment in which it is lent until the process gives it back or dies. Only local
//! workers see segments; what goes over a network is a copy.

use std::collections::BTreeMap;

use kumi_core::segments::OPEN_MAX;
use kumi_core::{Action, FromWorker, Large, Link, LoanId, Reserved, SegmentId, TaskId, ToWorker, WorkerId};

use super::ledger::{Check, rule};
use super::profile::{MICRO, SECOND};
use super::world::{Letter, World};

/// The content of a segment that is no task's.
const NOBODY: usize = usize::MAX;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Memory {
    /// The host's segments that have memory, free ones included.
    pub ours: BTreeMap<SegmentId, Ours>,
    /// The workers' segments that the host maps.
    pub loans: BTreeMap<LoanId, Loan>,
}

/// A segment of the host's.
#[derive(Debug)]
pub struct Ours {
    size: u64,
    /// The task whose arguments were written to it last.
    content: usize,
    /// A fork may see it.
    forked: bool,
}

/// A segment of a worker's.
#[derive(Debug)]
pub struct Loan {
    process: usize,
    segment: SegmentId,
    /// Set as soon as its result is accepted.
    task: Option<TaskId>,
    /// What Python made of it.
    python: u64,
}

impl World {
    /// Arguments are written to a segment, as `submit` does it, if there is one.
    pub(super) fn write_arguments(&mut self, number: usize, bytes: u64) -> Check<Option<Large>> {
        let Some(Reserved { segment, create }) = self.brain.reserve(bytes) else {
            rule!(self.memory.ours.len() >= OPEN_MAX, "no segment, of {} that exist", self.memory.ours.len());
            return Ok(None);
        };
        match create {
            Some(size) => {
                rule!(size >= bytes, "{segment:?} of {size} bytes for {bytes}");
                let before = self.memory.ours.insert(segment, Ours { size, content: number, forked: false });
                rule!(before.is_none(), "{segment:?} is made twice");
            }
            None => self.write_again(segment, number, bytes)?,
        }
        self.absorb()?;
        rule!(self.memory.ours.len() <= OPEN_MAX, "{} segments", self.memory.ours.len());
        if self.rng.chance(20) {
            self.ledger.saw("a segment without memory");
            self.let_go_of_segment(segment, true)?;
            rule!(!self.memory.ours.contains_key(&segment), "{segment:?}, without memory, is kept");
            return Ok(None);
        }
        Ok(Some(Large { segment: Some((segment, bytes)), uses: Vec::new() }))
    }

    /// What was reserved is not used after all.
    pub(super) fn let_go_of_segment(&mut self, segment: SegmentId, broken: bool) -> Check {
        if let Some(ours) = self.memory.ours.get_mut(&segment) {
            ours.content = NOBODY;
        }
        self.brain.let_go_of_segment(segment, broken);
        self.absorb()
    }

    fn write_again(&mut self, segment: SegmentId, number: usize, bytes: u64) -> Check {
        let holder = self.processes.iter().position(|process| process.alive && process.sees.contains_key(&segment));
        rule!(holder.is_none(), "{segment:?} is written to again, though process {holder:?} sees it");
        let Some(ours) = self.memory.ours.get_mut(&segment) else {
            return Err(format!("{segment:?} has no memory any more"));
        };
        rule!(ours.size >= bytes && !ours.forked, "{segment:?} is used again for {bytes} bytes: {ours:?}");
        rule!(!self.ledger.needs(ours.content), "{segment:?} is used again, task {} needs it", ours.content);
        ours.content = number;
        self.ledger.saw("a segment used again");
        Ok(())
    }

    /// What the brain has decided about segments, in its order.
    pub(super) fn note_memory(&mut self, action: &Action) -> Check {
        match action {
            Action::Send { worker, message: ToWorker::Lend { segment, .. } } => self.lend(*worker, *segment),
            Action::CloseSegment { segment } => self.close_segment(*segment),
            Action::Unmap { loan } => self.unmap(*loan),
            _ => Ok(()),
        }
    }

    /// The host gives up the memory of one of its segments. Workers that still map it keep it alive.
    fn close_segment(&mut self, segment: SegmentId) -> Check {
        let ours = self.memory.ours.remove(&segment);
        let Some(Ours { content, .. }) = ours else { return Err(format!("{segment:?} is closed, but is not there")) };
        rule!(!self.ledger.needs(content), "{segment:?} is closed, but task {content} needs it");
        Ok(())
    }

    /// The host lends a segment: its descriptor goes along.
    fn lend(&mut self, worker: WorkerId, segment: SegmentId) -> Check {
        rule!(self.memory.ours.contains_key(&segment), "{segment:?} is lent, but is not there");
        let borrower = self.hosts.get(&worker).map(|id| &mut self.processes[*id]);
        if let Some(process) = borrower.filter(|process| process.link == Link::Local) {
            *process.sees.entry(segment).or_default() += 1;
        }
        Ok(())
    }

    /// A worker begins a task with these arguments; sooner or later it forgets them, or it keeps them.
    pub(super) fn read_arguments(&mut self, id: usize, task: usize, segment: SegmentId) -> Check {
        let content = self.memory.ours.get(&segment).map(|ours| ours.content);
        let needed = self.ledger.needs(task);
        rule!(content == Some(task) || !needed, "task {task} reads {segment:?} with the arguments of {content:?}");
        match self.rng.below(10) {
            0..4 => {
                let after = self.ledger.tasks[task].spec.runs;
                self.post(after, Letter::Returns { process: id, segment });
            }
            4..9 => {
                let after = self.rng.span(MICRO, 20 * SECOND);
                self.post(after, Letter::Returns { process: id, segment });
            }
            _ => self.ledger.saw("arguments kept to the end"),
        }
        Ok(())
    }

    /// A worker gives a segment back.
    pub(super) fn returns(&mut self, id: usize, segment: SegmentId) {
        let process = &mut self.processes[id];
        if !process.alive {
            return;
        }
        match process.sees.get_mut(&segment) {
            Some(times) if *times > 1 => *times -= 1,
            Some(_) | None => {
                process.sees.remove(&segment);
            }
        }
        let forked = self.rng.chance(50);
        if forked {
            self.ledger.saw("a segment forked");
            if let Some(ours) = self.memory.ours.get_mut(&segment) {
                ours.forked = true;
            }
        }
        self.send_up(id, &[FromWorker::Returned { segment, forked }]);
    }

    /// A worker writes a large result; sometimes it dies before it has said of what.
    pub(super) fn write_result(&mut self, id: usize, bytes: u64) -> Check {
        let now = self.now;
        let process = &mut self.processes[id];
        let Some(Reserved { segment, create }) = process.store.reserve(bytes) else { return Ok(()) };
        while process.store.next_closed().is_some() {}
        let reader = self.memory.loans.values().find(|loan| (loan.process, loan.segment) == (id, segment));
        rule!(reader.is_none(), "process {id} writes to {segment:?} at {now:?}, though {reader:?}");
        if create.is_none() {
            self.ledger.saw("a segment used again by a worker");
        }
        self.send_up(id, &[FromWorker::Lend { segment, bytes }]);
        if self.rng.chance(self.profile.torn) {
            self.ledger.saw("a worker dead in the middle of a result");
            self.die(id);
        }
        Ok(())
    }

    /// The host has a descriptor of a worker's, and maps it.
    pub(super) fn borrow(&mut self, worker: WorkerId, process: usize, segment: SegmentId, bytes: u64) -> Check {
        let loan = self.brain.borrow(worker, segment, bytes);
        let Some(id) = loan else { return Err(format!("{segment:?} of process {process} is refused")) };
        self.memory.loans.insert(id, Loan { process, segment, task: None, python: 0 });
        self.processes[process].offered = Some(id);
        self.absorb()
    }

    /// A result has come in; part of it lies in what its worker has offered.
    pub(super) fn take_offered(&mut self, process: usize, task: Option<usize>) -> Check {
        let Some(id) = self.processes[process].offered.take() else { return Ok(()) };
        let note = task.map(|number| &self.ledger.tasks[number]).filter(|note| note.accepted);
        let Some(task) = note.map(|note| note.id).filter(|task| self.brain.view(*task).is_some()) else {
            rule!(!self.memory.loans.contains_key(&id), "{id:?} is kept, though nobody wants it");
            return Ok(());
        };
        let Some(loan) = self.memory.loans.get_mut(&id) else {
            return Err(format!("{id:?} is unmapped, though it is a result"));
        };
        loan.task = Some(task);
        if self.rng.chance(700) {
            self.look_at(task, id)?;
        }
        Ok(())
    }

    /// Python makes something of a result, and keeps it for a while.
    fn look_at(&mut self, task: TaskId, id: LoanId) -> Check {
        rule!(self.brain.use_loan(task) == Some(id), "{task:?} has another result than {id:?}");
        if let Some(loan) = self.memory.loans.get_mut(&id) {
            loan.python += 1;
        }
        let (span, forked) = (self.rng.span(MICRO, 5 * SECOND), self.rng.chance(50));
        self.post(span, Letter::Forgets { loan: id, forked });
        Ok(())
    }

    /// Python does not look at it any more.
    pub(super) fn forgets(&mut self, id: LoanId, forked: bool) -> Check {
        let Some(loan) = self.memory.loans.get_mut(&id) else { return Err(format!("{id:?} was unmapped too early")) };
        loan.python -= 1;
        self.brain.let_go_of_loan(id, forked);
        self.absorb()
    }

    /// The host unmaps a worker's segment.
    fn unmap(&mut self, id: LoanId) -> Check {
        let Some(loan) = self.memory.loans.remove(&id) else {
            return Err(format!("{id:?} is unmapped, but is not there"));
        };
        let held = loan.task.is_some_and(|task| self.brain.view(task).is_some());
        rule!(loan.python == 0 && !held, "{id:?} is unmapped, though it is used: {loan:?}");
        Ok(())
    }

    /// A worker hears that its segments are not used any more.
    pub(super) fn take_back(&mut self, id: usize) -> Check {
        let now = self.now;
        let process = &mut self.processes[id];
        while let Some((segment, forked)) = process.half.returned() {
            rule!(process.store.in_use(segment), "process {id} gets back {segment:?}, which it has");
            if forked {
                process.store.close(segment);
            } else {
                process.store.put_back(now, segment);
            }
        }
        Ok(())
    }

    /// At the end everything is given back: the user forgets all tasks and what they returned.
    pub(super) fn give_everything_back(&mut self) -> Check {
        for note in self.ledger.tasks.iter().filter(|note| note.kin.generation == 0) {
            self.brain.release(note.id);
        }
        self.absorb()?;
        self.overlooked()?;
        for (id, loan) in std::mem::take(&mut self.memory.loans) {
            let python = loan.python;
            self.memory.loans.insert(id, loan);
            for _ in 0..python {
                self.forgets(id, false)?;
            }
        }
        rule!(self.memory.loans.is_empty(), "still mapped: {:?}", self.memory.loans);
        rule!(self.memory.ours.is_empty(), "not given up: {:?}", self.memory.ours);
        Ok(())
    }

    /// Nobody has asked how any task ended, save by cancelling its group. What tasks have submitted is their own business.
    fn overlooked(&mut self) -> Check {
        let counts = self.brain.counts();
        let failed = counts.error + counts.crash + counts.timeout;
        let nested = self.ledger.tasks.iter().filter(|note| note.kin.generation > 0 || note.guest).count() as u64;
        let asked = self.ledger.asked;
        let told = self.brain.take_overlooked(false).map_or(0, |overlooked| overlooked.count);
        rule!(
            told <= failed && failed - told <= nested + asked,
            "{told} failures are told, of {failed} ({nested} nested tasks and guests, {asked} asked for)"
        );
        rule!(self.brain.take_overlooked(true).is_none(), "failures are told twice");
        if told > 0 {
            self.ledger.saw("failures overlooked");
        }
        Ok(())
    }
}
