//! Who uses which segment. A segment is written to again only when nobody can see it any more.
//!
//! Ours (large arguments, functions and shared values): used by the one thing here that has its payload there, and by
//! every worker it was lent to, until that worker has returned it as often as it was lent (each time it maps it anew), or
//! is gone. A worker's (large
//! results): used by the task that has the result, and by what Python made of it; then the worker is told.
//! Given up: knowing whether a worker still needs what it was lent for. Only its process knows.

use std::collections::BTreeMap;

use super::{Action, Bug, Dispatcher};
use crate::ids::{FunctionId, LoanId, SegmentId, WorkerId};
use crate::message::ToWorker;
use crate::segments::{OPEN_MAX, Reserved};
use crate::task::{Large, Place};
use crate::timer::Timer;
use crate::worker::Link;

/// Who uses one of our segments.
#[derive(Debug, Default)]
pub(super) struct Use {
    /// Something here has its payload there.
    pub here: bool,
    /// How often it was lent and not returned.
    pub lent: BTreeMap<WorkerId, u64>,
    /// It must not be written to again: others have it too, or a fork of a worker may see it for as long as it likes.
    pub sealed: bool,
}

/// A worker's segment that is used here.
#[derive(Debug)]
pub(super) struct Loan {
    pub worker: WorkerId,
    pub segment: SegmentId,
    pub bytes: u64,
    /// Things here that use it.
    pub users: u64,
    pub forked: bool,
}

impl Dispatcher {
    /// A segment for a payload of so many bytes; the caller uses it until it hands it over with a task or a function, or
    /// lets go of it. `None`: too many are in use.
    pub fn reserve(&mut self, bytes: u64) -> Option<Reserved> {
        let reserved = self.store.reserve(bytes)?;
        self.used.insert(reserved.segment, Use { here: true, ..Use::default() });
        self.note_closed();
        Some(reserved)
    }

    /// Memory that was filled elsewhere, as a segment; it is used as one that was reserved, and not again after that.
    pub fn adopt(&mut self, bytes: u64) -> SegmentId {
        let segment = self.store.adopt(bytes);
        self.used.insert(segment, Use { here: true, sealed: true, ..Use::default() });
        segment
    }

    /// The caller does not use the segment that it has reserved. `broken`: there is no memory behind it.
    pub fn let_go_of_segment(&mut self, segment: SegmentId, broken: bool) {
        if let Some(used) = self.used.get_mut(&segment) {
            used.sealed |= broken;
        }
        self.unused_here(segment);
    }

    /// The payload that `large` belongs to is not needed any more.
    pub(super) fn let_go_of_large(&mut self, large: Option<Box<Large>>) {
        let Some(large) = large else { return };
        if let Some((segment, _)) = large.segment {
            self.unused_here(segment);
        }
        for function in &large.uses {
            if let Some(note) = self.functions.get_mut(*function) {
                note.users -= 1;
            }
            self.drop_unused_function(*function);
        }
    }

    /// Something names these shared values. False: one of them is unknown.
    pub(super) fn use_shared(&mut self, uses: &[FunctionId]) -> bool {
        if uses.iter().any(|function| self.functions.get(*function).is_none()) {
            return false;
        }
        for function in uses {
            if let Some(note) = self.functions.get_mut(*function) {
                note.users += 1;
            }
        }
        true
    }

    /// The message with a payload that goes to this worker next has a part of it in a segment.
    pub(super) fn lend(&mut self, worker: WorkerId, large: Option<&Large>) {
        let Some((segment, bytes)) = large.and_then(|large| large.segment) else { return };
        match self.workers.get(worker).map(|worker| worker.link) {
            Some(Link::Local) => {
                let used = self.used.entry(segment).or_default();
                *used.lent.entry(worker).or_default() += 1;
                self.actions.push_back(Action::Send { worker, message: ToWorker::Lend { segment, bytes } });
            }
            // Where workers are on other machines the hands leave everything in the payload.
            Some(Link::Remote) | None => {}
        }
    }

    pub(super) fn returned(&mut self, worker: WorkerId, segment: SegmentId, forked: bool) {
        let Some(used) = self.used.get_mut(&segment) else { return };
        let Some(lent) = used.lent.get_mut(&worker) else { return };
        *lent -= 1;
        used.sealed |= forked;
        if *lent == 0 {
            used.lent.remove(&worker);
            self.reuse_if_unused(segment);
        }
    }

    /// A worker is gone, and so are its mappings; whoever buried it has ended its forks.
    pub(super) fn returned_by_death(&mut self, worker: WorkerId, offered: Option<LoanId>) {
        let lent: Vec<_> = self.used.iter().filter(|(_, used)| used.lent.contains_key(&worker)).collect();
        let lent: Vec<_> = lent.into_iter().map(|(segment, _)| *segment).collect();
        for segment in lent {
            if let Some(used) = self.used.get_mut(&segment) {
                used.lent.remove(&worker);
            }
            self.reuse_if_unused(segment);
        }
        if let Some(loan) = offered {
            self.give_back_if_unused(loan);
        }
    }

    fn unused_here(&mut self, segment: SegmentId) {
        if let Some(used) = self.used.get_mut(&segment) {
            used.here = false;
        }
        self.reuse_if_unused(segment);
    }

    fn reuse_if_unused(&mut self, segment: SegmentId) {
        let Some(used) = self.used.get(&segment) else { return };
        if used.here || !(used.lent.is_empty() || self.planted(Bug::ReusedWhileLent)) {
            return;
        }
        let sealed = used.sealed;
        self.used.remove(&segment);
        if sealed {
            self.store.close(segment);
        } else {
            self.store.put_back(self.latest, segment);
        }
        if self.closing {
            self.store.trim(self.latest, true);
        } else if let Some(at) = self.store.next_timeout() {
            self.timers.set(at, Timer::Segments);
        }
        self.note_closed();
    }

    /// Gives up what has been free for long, or, at the end, everything that is free.
    pub(super) fn trim_segments(&mut self, everything: bool) {
        self.store.trim(self.latest, everything);
        if let Some(at) = self.store.next_timeout() {
            self.timers.set(at, Timer::Segments);
        }
        self.note_closed();
    }

    fn note_closed(&mut self) {
        while let Some(segment) = self.store.next_closed() {
            self.actions.push_back(Action::CloseSegment { segment });
        }
    }

    /// The result that this worker sends next lies partly in a segment of its own. `None`: that makes no sense.
    pub fn borrow(&mut self, id: WorkerId, segment: SegmentId, bytes: u64) -> Option<LoanId> {
        let theirs = self.loans.iter().filter(|(_, loan)| loan.worker == id);
        let (mut count, mut known) = (0, false);
        theirs.for_each(|(_, loan)| (count, known) = (count + 1, known || loan.segment == segment));
        let worker = self.workers.get_mut(id).filter(|worker| worker.offered.is_none())?;
        if known || count >= OPEN_MAX {
            return None;
        }
        let loan = self.loans.insert(Loan { worker: id, segment, bytes, users: 0, forked: false });
        worker.offered = Some(loan);
        Some(loan)
    }

    /// What a worker has just offered goes with the result of this task, if that was accepted and somebody wants it.
    pub(super) fn keep_loan(&mut self, offered: Option<LoanId>, task: Option<crate::ids::TaskId>) {
        let Some(id) = offered else { return };
        let done = task.and_then(|task| self.tasks.get_mut(task)).and_then(|task| match &mut task.place {
            Place::Done(done) => Some(done),
            Place::Waiting | Place::Held(_) | Place::Here | Place::Away(_) | Place::Everywhere(_) => None,
        });
        if let (Some(done), Some(loan)) = (done, self.loans.get_mut(id)) {
            loan.users += 1;
            done.loan = Some((id, loan.bytes));
            self.result_bytes += loan.bytes;
            self.warn_of_results();
        }
        self.give_back_if_unused(id);
    }

    /// The segment in which the result of this task lies; Python uses it from now on as well.
    pub fn use_loan(&mut self, task: crate::ids::TaskId) -> Option<LoanId> {
        let Place::Done(done) = &self.tasks.get(task)?.place else { return None };
        let (id, _) = done.loan?;
        self.loans.get_mut(id)?.users += 1;
        Some(id)
    }

    /// One that used it does so no more. `forked`: a fork of this process may see it.
    pub fn let_go_of_loan(&mut self, id: LoanId, forked: bool) {
        if let Some(loan) = self.loans.get_mut(id) {
            loan.users = loan.users.saturating_sub(1);
            loan.forked |= forked;
        }
        self.give_back_if_unused(id);
    }

    fn give_back_if_unused(&mut self, id: LoanId) {
        if self.loans.get(id).is_none_or(|loan| loan.users > 0) {
            return;
        }
        let Some(Loan { worker, segment, forked, .. }) = self.loans.remove(id) else { return };
        self.actions.push_back(Action::Unmap { loan: id });
        if self.workers.get(worker).is_some() {
            self.actions.push_back(Action::Send { worker, message: ToWorker::Returned { segment, forked } });
        }
    }
}
