//! What nobody holds any more. Destructors say so, which may run anywhere and must never wait.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use kumi_core::{FunctionId, GroupId, LoanId, SegmentId, TaskId};

use crate::pool::{Pool, Shared, State};

#[derive(Clone, Copy, Debug)]
enum Released {
    Task(TaskId),
    Function(FunctionId),
    Group(GroupId),
    Segment(SegmentId),
    Loan(LoanId, bool),
    Pool,
}

/// What was let go of while somebody else had the pool's lock.
#[derive(Debug, Default)]
pub(crate) struct Releases {
    list: Mutex<Vec<Released>>,
    any: AtomicBool,
}

impl Pool {
    /// Nobody holds a handle on this task any more. Never waits.
    pub fn release_task(&self, task: TaskId) {
        self.shared.release(Released::Task(task));
    }

    /// Nobody will submit tasks of this function any more. Never waits.
    pub fn release_function(&self, function: FunctionId) {
        self.shared.release(Released::Function(function));
    }

    /// Nobody asks for this group any more. Never waits.
    pub fn release_group(&self, group: GroupId) {
        self.shared.release(Released::Group(group));
    }

    /// The segment that was reserved is not needed. Never waits.
    pub fn release_segment(&self, segment: SegmentId) {
        self.shared.release(Released::Segment(segment));
    }

    /// One of those who use a worker's segment does so no more; `forked`: a fork may. Never waits.
    pub(crate) fn release_loan(&self, loan: LoanId, forked: bool) {
        self.shared.release(Released::Loan(loan, forked));
    }

    /// Nobody uses this pool any more: it ends. Never waits.
    pub fn release(&self) {
        self.shared.release(Released::Pool);
        self.shared.wake();
    }
}

impl Shared {
    /// At once if the lock is free, so that a large result does not stay; else with whoever has the lock next.
    fn release(&self, what: Released) {
        if let Ok(mut state) = self.state.try_lock() {
            self.let_go(&mut state, what);
            return self.carry_out(&mut state);
        }
        self.releases.list.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        self.releases.any.store(true, Ordering::Release);
    }

    /// For whoever has the lock next.
    pub fn take_released(&self, state: &mut State) {
        if !self.releases.any.load(Ordering::Relaxed) || !self.releases.any.swap(false, Ordering::Acquire) {
            return;
        }
        let released = mem::take(&mut *self.releases.list.lock().unwrap_or_else(PoisonError::into_inner));
        for what in released {
            self.let_go(state, what);
        }
    }

    fn let_go(&self, state: &mut State, what: Released) {
        let brain = &mut state.brain;
        match what {
            Released::Task(task) => brain.release(task),
            Released::Function(function) => brain.close_function(function),
            Released::Group(group) => brain.close_group(self.now(), group),
            Released::Segment(segment) => brain.let_go_of_segment(segment, false),
            Released::Loan(loan, forked) => brain.let_go_of_loan(loan, forked),
            Released::Pool => {
                brain.terminate(self.now());
                state.remote.wake();
            }
        }
    }
}
