//! A worker, from both ends: the dispatcher's note of it, and the half that lives in the worker's process.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::ids::{FunctionId, LaunchId, Lease, LoanId, SegmentId, TaskId, Time};
use crate::message::{FromWorker, Leave, Payload, ToWorker};

/// How a worker is connected, which decides how tasks are recalled and how its death is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Socketpairs and a shared page; judged by its process alone.
    Local,
    /// A network; recall is asked and answered, silence is death.
    Remote,
}

/// Who a worker is, for records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Face {
    /// `<controller>-<number of the launch>`.
    pub name: String,
    /// Process id on its machine.
    pub pid: u32,
    /// Its machine.
    pub host: String,
}

/// How many tasks a worker may hold; also the number of slots the host deals out in its page.
pub const HELD_MAX: u16 = 256;

/// Whether a worker takes further tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Yes.
    Active,
    /// No; it leaves when it holds nothing.
    Draining(Leave),
    /// It was told to leave.
    Leaving(Leave),
    /// It is being killed because it would not stop a task, or leave.
    Killed,
}

/// The dispatcher's note of one worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub launch: LaunchId,
    pub face: Arc<Face>,
    pub link: Link,
    pub stage: Stage,
    /// What it was dealt and has not answered, oldest first. It works on the first.
    pub held: VecDeque<Held>,
    /// How long it will be busy with that, as far as is known.
    pub held_nanos: u64,
    pub slots: Vec<u16>,
    pub defined: BTreeSet<FunctionId>,
    /// Of its segments the one that its next result lies in.
    pub offered: Option<LoanId>,
    pub heard: Time,
    pub idle_since: Time,
    pub idle_timer: bool,
    pub stall_timer: bool,
    /// Tasks dealt and not taken back.
    pub dealt: u64,
    /// Tasks finished.
    pub finished: u64,
}

/// One task in a worker's hands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub lease: Lease,
    pub task: TaskId,
    pub slot: u16,
    pub nanos: u64,
    pub recall: Recall,
}

/// Whether a held task was asked back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recall {
    /// No.
    No,
    /// Yes, so that another worker runs it.
    Requeue,
    /// Yes, because it is cancelled if it has not begun.
    CancelIfWaiting,
    /// Yes, because its result is not wanted any more; if it runs, it is interrupted.
    Discard,
    /// It was asked back too late: it has begun.
    Begun,
}

impl Worker {
    pub fn new(launch: LaunchId, face: Face, link: Link, now: Time) -> Self {
        Self {
            launch,
            face: Arc::new(face),
            link,
            stage: Stage::Active,
            held: VecDeque::new(),
            held_nanos: 0,
            slots: (0..HELD_MAX).rev().collect(),
            defined: BTreeSet::new(),
            offered: None,
            heard: now,
            idle_since: now,
            idle_timer: false,
            stall_timer: false,
            dealt: 0,
            finished: 0,
        }
    }

    pub fn held(&mut self, lease: Lease) -> Option<&mut Held> {
        self.held.iter_mut().find(|held| held.lease == lease)
    }

    /// Takes one task out of its hands.
    pub fn let_go(&mut self, lease: Lease) -> Option<Held> {
        let at = self.held.iter().position(|held| held.lease == lease)?;
        let held = self.held.remove(at)?;
        self.held_nanos = if self.held.is_empty() { 0 } else { self.held_nanos.saturating_sub(held.nanos) };
        self.slots.push(held.slot);
        Some(held)
    }
}

/// The half in the worker's process: what it was given and has not begun. Pure; `kumi-net` moves its messages,
/// Python runs its jobs.
#[derive(Debug, Default)]
pub struct WorkerHalf {
    jobs: VecDeque<Job>,
    newest: Lease,
    running: Option<Lease>,
    leave: Option<Leave>,
    /// The segment that the next payload lies in; those of our own that came back.
    lent: Option<SegmentId>,
    returned: VecDeque<(SegmentId, bool)>,
    answers: VecDeque<FromWorker>,
}

/// Something for the worker's main thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Keep this function.
    Define {
        /// Its name.
        function: FunctionId,
        /// Pickled.
        payload: Payload,
        /// The host's segment that the rest of it lies in.
        lent: Option<SegmentId>,
    },
    /// Drop this function.
    Forget {
        /// Its name.
        function: FunctionId,
    },
    /// Run this task.
    Run {
        /// Its name on the host.
        task: TaskId,
        /// For the answer.
        lease: Lease,
        /// Its place in the shared page.
        slot: u16,
        /// What to call.
        function: FunctionId,
        /// The how many-th time a worker is to run it, from 1 on.
        attempt: u32,
        /// Known to take less than a millisecond.
        short: bool,
        /// Pickled arguments.
        payload: Payload,
        /// The host's segment that the rest of them lies in.
        lent: Option<SegmentId>,
    },
}

impl WorkerHalf {
    /// A message from the host. Text of a refusal comes back as the error.
    pub fn handle(&mut self, message: ToWorker) -> Result<(), String> {
        match message {
            ToWorker::Welcome { .. } => {}
            ToWorker::Refuse { reason } => return Err(reason),
            ToWorker::Define { function, payload } => {
                let lent = self.lent.take();
                self.jobs.push_back(Job::Define { function, payload, lent });
            }
            ToWorker::Forget { function } => self.jobs.push_back(Job::Forget { function }),
            ToWorker::Run { task, lease, slot, function, attempt, short, payload } => {
                let lent = self.lent.take();
                // Leases grow: an old one is a repetition.
                if lease > self.newest {
                    self.newest = lease;
                    self.jobs.push_back(Job::Run { task, lease, slot, function, attempt, short, payload, lent });
                }
            }
            ToWorker::Recall { lease } => self.recall(lease),
            // Goes past the main thread, to `Interrupts`.
            ToWorker::Interrupt { .. } => {}
            ToWorker::Ping => self.answers.push_back(FromWorker::Heartbeat),
            ToWorker::Stop { leave } => self.leave = Some(leave),
            ToWorker::Lend { segment, .. } => self.lent = Some(segment),
            ToWorker::Returned { segment, forked } => self.returned.push_back((segment, forked)),
        }
        Ok(())
    }

    fn recall(&mut self, lease: Lease) {
        let before = self.jobs.len();
        self.jobs.retain(|job| match job {
            Job::Run { lease: other, .. } => *other != lease,
            Job::Define { .. } | Job::Forget { .. } => true,
        });
        let back = self.jobs.len() < before;
        // Nothing to say of a task that was answered already; the host has, or will have, its result.
        if back || self.running == Some(lease) {
            self.answers.push_back(FromWorker::Recalled { lease, back });
        }
    }

    /// The next thing to do, in the order it came.
    pub fn next_job(&mut self) -> Option<Job> {
        let job = self.jobs.pop_front()?;
        self.running = match job {
            Job::Run { lease, .. } => Some(lease),
            Job::Define { .. } | Job::Forget { .. } => None,
        };
        Some(job)
    }

    /// The task taken last is answered.
    pub fn finished(&mut self) {
        self.running = None;
    }

    /// A segment of this worker's that the host does not use any more, and whether a fork may still see it.
    pub fn returned(&mut self) -> Option<(SegmentId, bool)> {
        self.returned.pop_front()
    }

    /// What to say to the host.
    pub fn answer(&mut self) -> Option<FromWorker> {
        self.answers.pop_front()
    }

    /// Whether earlier results may wait a moment: more work is here, and it begins with a short task.
    pub fn short_next(&self) -> bool {
        match self.jobs.front() {
            Some(Job::Run { short, .. }) => *short,
            Some(Job::Define { .. } | Job::Forget { .. }) | None => false,
        }
    }

    /// Why to leave, once nothing is left to do.
    pub fn leaving(&self) -> Option<Leave> {
        if self.jobs.is_empty() { self.leave } else { None }
    }
}
