//! A worker, from both ends: the dispatcher's note of it, and the half that lives in the worker's process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::children::Children;
use crate::dispatcher::{Caller, Origin};
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
    /// Not yet: it does the calls of `everywhere` before it, and counts as a launch until then.
    Preparing,
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
    /// Above the policy's number, for tasks that wait where their workers cannot run what they wait for.
    pub extra: bool,
    pub face: Arc<Face>,
    pub link: Link,
    pub stage: Stage,
    /// It was prepared, and counts as a worker.
    pub enlisted: bool,
    /// Number of the last call of `everywhere` that it was sent.
    pub served: u64,
    /// What it was dealt and has not answered, oldest first. It works on the first.
    pub held: VecDeque<Held>,
    /// What it was dealt while the first waits: each runs within the wait of the one before.
    pub inner: Vec<Held>,
    /// Functions that its tasks have declared, and the tasks that they have submitted, by its own numbers for them.
    pub declared: BTreeMap<u64, FunctionId>,
    pub children: BTreeMap<u64, TaskId>,
    pub newest_child: u64,
    /// How long it will be busy with that, as far as is known.
    pub held_nanos: u64,
    pub slots: Vec<u16>,
    pub defined: BTreeSet<FunctionId>,
    /// Of its segments the one that its next result lies in.
    pub offered: Option<LoanId>,
    pub heard: Time,
    /// When it answered last what ran within no wait.
    pub answered: Time,
    /// Of remote workers.
    pub remote: Option<Box<Far>>,
    pub idle_since: Time,
    pub idle_timer: bool,
    pub stall_timer: bool,
    /// Tasks dealt and not taken back.
    pub dealt: u64,
    /// Tasks finished, and whether it has done a call of `everywhere`.
    pub finished: u64,
    pub prepared: bool,
    /// Its user has ended it from outside.
    pub dismissed: bool,
}

/// What is noted of a remote worker besides.
#[derive(Debug)]
pub(crate) struct Far {
    pub origin: Origin,
    /// When its [`crate::timer::Timer::Silence`] fires.
    pub watch: Time,
    /// It was asked for a sign of life then, and has not answered.
    pub pinged: Option<Time>,
    /// How long an answer took last.
    pub round_trip: Duration,
    /// Since when it has no connection.
    pub cut: Option<Time>,
    /// Who waits for its place, and until when.
    pub rival: Option<(Caller, Time)>,
}

/// One task, or one call of `everywhere`, in a worker's hands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub lease: Lease,
    pub task: TaskId,
    pub slot: u16,
    pub nanos: u64,
    pub dealt: Time,
    pub recall: Recall,
    /// It is a call of `everywhere`, with this number; `task` is then the task that waits for all of them.
    pub call: Option<u64>,
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
    pub fn new(launch: LaunchId, extra: bool, face: Face, link: Link, now: Time) -> Self {
        Self {
            launch,
            extra,
            face: Arc::new(face),
            link,
            stage: Stage::Preparing,
            enlisted: false,
            served: 0,
            held: VecDeque::new(),
            inner: Vec::new(),
            declared: BTreeMap::new(),
            children: BTreeMap::new(),
            newest_child: 0,
            held_nanos: 0,
            slots: (0..HELD_MAX).rev().collect(),
            defined: BTreeSet::new(),
            offered: None,
            heard: now,
            answered: now,
            remote: None,
            idle_since: now,
            idle_timer: false,
            stall_timer: false,
            dealt: 0,
            finished: 0,
            prepared: false,
            dismissed: false,
        }
    }

    /// Where a remote one comes from.
    pub fn origin(&self) -> Option<Origin> {
        self.remote.as_ref().map(|far| far.origin)
    }

    /// Since when it has no connection.
    pub fn cut(&self) -> Option<Time> {
        self.remote.as_ref().and_then(|far| far.cut)
    }

    /// Whether it has a connection now.
    pub fn reachable(&self) -> bool {
        self.cut().is_none()
    }

    /// How long an answer takes.
    pub fn round_trip(&self) -> Duration {
        self.remote.as_ref().map(|far| far.round_trip).unwrap_or_default()
    }

    pub fn held(&mut self, lease: Lease) -> Option<&mut Held> {
        self.held.iter_mut().chain(&mut self.inner).find(|held| held.lease == lease)
    }

    /// As which it holds this task.
    pub fn holds(&self, task: TaskId) -> Option<&Held> {
        self.held.iter().chain(&self.inner).find(|held| held.task == task)
    }

    /// What it is at, or will be in a moment.
    pub fn top(&self) -> Option<&Held> {
        self.inner.last().or(self.held.front())
    }

    /// Whether this task waits for what runs within its wait, or runs so itself.
    pub fn begun(&self, lease: Lease) -> bool {
        self.held.front().into_iter().chain(&self.inner).any(|held| held.lease == lease)
    }

    /// It has nothing in its hands.
    pub fn is_free(&self) -> bool {
        self.held.is_empty() && self.inner.is_empty()
    }

    /// Takes one more into its hands, which must have a slot left.
    pub fn hold(&mut self, held: Held) {
        self.held_nanos = self.held_nanos.saturating_add(held.nanos);
        self.held.push_back(held);
    }

    /// The call of `everywhere` that it was sent and has not answered; nothing is dealt behind it.
    pub fn errand(&self) -> Option<&Held> {
        self.held.back().filter(|held| held.call.is_some())
    }

    /// Whether it holds no task.
    pub fn is_taskless(&self) -> bool {
        self.inner.is_empty() && self.held.iter().all(|held| held.call.is_some())
    }

    /// Takes one task out of its hands.
    pub fn let_go(&mut self, lease: Lease) -> Option<Held> {
        if let Some(at) = self.inner.iter().position(|held| held.lease == lease) {
            let held = self.inner.remove(at);
            self.slots.push(held.slot);
            return Some(held);
        }
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
    /// The tasks that were begun and are not answered: each after the first runs within the wait of the one before.
    running: Vec<Lease>,
    /// The last of them waits, so that its descendants may run.
    waits: bool,
    /// There may be jobs that are to run within the wait of one.
    has_inner: bool,
    leave: Option<Leave>,
    /// The segment that the next payload lies in; those of our own that came back.
    lent: Option<SegmentId>,
    returned: VecDeque<(SegmentId, bool)>,
    answers: VecDeque<FromWorker>,
    name: String,
    /// Not yet told.
    reset: Option<u8>,
    children: Children,
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
        /// The task in whose wait it is to run.
        within: Option<Lease>,
        /// Its result is to be whole in the payload.
        inline: bool,
        /// Pickled arguments.
        payload: Payload,
        /// The host's segment that the rest of them lies in.
        lent: Option<SegmentId>,
    },
    /// Do what `everywhere` asks every worker to do.
    Prepare {
        /// For the answer.
        lease: Lease,
        /// Its place in the shared page.
        slot: u16,
        /// What to call.
        function: FunctionId,
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
            ToWorker::Welcome { name, reset, memory: _ } => {
                self.name = name;
                self.reset = Some(reset);
            }
            ToWorker::Refuse { reason } => return Err(reason),
            ToWorker::Define { function, payload } => {
                let lent = self.lent.take();
                self.jobs.push_back(Job::Define { function, payload, lent });
            }
            ToWorker::Forget { function } => self.jobs.push_back(Job::Forget { function }),
            ToWorker::Run { task, lease, slot, function, attempt, short, within, inline, payload } => {
                let lent = self.lent.take();
                self.has_inner |= within.is_some();
                let job = Job::Run { task, lease, slot, function, attempt, short, within, inline, payload, lent };
                self.take(lease, job);
            }
            ToWorker::Prepare { lease, slot, function, payload } => {
                let lent = self.lent.take();
                self.take(lease, Job::Prepare { lease, slot, function, payload, lent });
            }
            ToWorker::Recall { lease } => self.recall(lease),
            // Goes past the main thread, to `Interrupts`.
            ToWorker::Interrupt { .. } => {}
            ToWorker::Ping => self.answers.push_back(FromWorker::Heartbeat),
            ToWorker::Stop { leave } => self.leave = Some(leave),
            ToWorker::Lend { segment, .. } => self.lent = Some(segment),
            ToWorker::Returned { segment, forked } => self.returned.push_back((segment, forked)),
            ToWorker::Resolved { child, ending, payload } => {
                let answers = self.children.resolved(child, *ending, payload);
                self.answers.extend(answers);
            }
        }
        Ok(())
    }

    /// Leases grow: an old one is a repetition.
    fn take(&mut self, lease: Lease, job: Job) {
        if lease > self.newest {
            self.newest = lease;
            self.jobs.push_back(job);
        }
    }

    fn recall(&mut self, lease: Lease) {
        let before = self.jobs.len();
        self.jobs.retain(|job| match job {
            Job::Run { lease: other, .. } | Job::Prepare { lease: other, .. } => *other != lease,
            Job::Define { .. } | Job::Forget { .. } => true,
        });
        let back = self.jobs.len() < before;
        // Nothing to say of a task that was answered already; the host has, or will have, its result.
        if back || self.running.contains(&lease) {
            self.answers.push_back(FromWorker::Recalled { lease, back });
        }
    }

    /// The next thing to do, in the order it came: while a task waits, its descendants alone are run.
    pub fn next_job(&mut self) -> Option<Job> {
        let at = self.next_place()?;
        let job = self.jobs.remove(at)?;
        if let Job::Run { lease, .. } | Job::Prepare { lease, .. } = job {
            self.running.push(lease);
            self.waits = false;
        }
        Some(job)
    }

    /// Whether there is something to do.
    pub fn has_job(&self) -> bool {
        self.next_place().is_some()
    }

    fn next_place(&self) -> Option<usize> {
        let free = self.running.is_empty();
        self.jobs.iter().position(|job| match job {
            Job::Define { .. } | Job::Forget { .. } => true,
            Job::Run { within: None, .. } | Job::Prepare { .. } => free,
            Job::Run { within, .. } => self.waits && *within == self.running.last().copied(),
        })
    }

    /// The task begun last is answered.
    pub fn finished(&mut self) {
        let Some(lease) = self.running.pop() else { return };
        self.waits = !self.running.is_empty();
        self.children.parent_ended(lease);
        if self.has_inner {
            self.give_back_within(lease);
        }
    }

    fn give_back_within(&mut self, lease: Lease) {
        // What was to run within it goes back. The host has been told of the wait's end and asks for it too.
        let answers = &mut self.answers;
        self.jobs.retain(|job| match job {
            Job::Run { lease: inner, within: Some(outer), .. } if *outer == lease => {
                answers.push_back(FromWorker::Recalled { lease: *inner, back: true });
                false
            }
            Job::Run { .. } | Job::Prepare { .. } | Job::Define { .. } | Job::Forget { .. } => true,
        });
        self.has_inner = self.jobs.iter().any(|job| matches!(job, Job::Run { within: Some(_), .. }));
    }

    /// The running task waits, in the main thread, for this child. What to tell the host.
    pub fn begin_wait(&mut self, child: u64) -> Option<FromWorker> {
        let lease = self.current()?;
        self.waits = true;
        Some(FromWorker::Wait { lease, child: Some(child) })
    }

    /// It waits no longer. What to tell the host, which knows it already if the child is done.
    pub fn end_wait(&mut self, child: u64) -> Option<FromWorker> {
        self.waits = false;
        let lease = self.current()?;
        self.children.is_open(child).then_some(FromWorker::Resume { lease, elsewhere: false })
    }

    /// The task that a call in the main thread belongs to.
    pub fn current(&self) -> Option<Lease> {
        self.running.last().copied()
    }

    /// The task that a call in another thread belongs to: of those that wait for each other, the one that ends last.
    pub fn outermost(&self) -> Option<Lease> {
        self.running.first().copied()
    }

    /// What the running tasks have submitted.
    pub fn children(&mut self) -> &mut Children {
        &mut self.children
    }

    /// `<controller>-<number of the launch>`; empty before the host's welcome.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What to put back after each task, as bits; told once, after the host's welcome.
    pub fn take_reset(&mut self) -> Option<u8> {
        self.reset.take()
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
            Some(Job::Run { short, .. }) => *short && self.running.is_empty(),
            Some(Job::Prepare { .. } | Job::Define { .. } | Job::Forget { .. }) | None => false,
        }
    }

    /// Why to leave, once nothing is left to do.
    pub fn leaving(&self) -> Option<Leave> {
        if self.jobs.is_empty() && self.running.is_empty() { self.leave } else { None }
    }
}
