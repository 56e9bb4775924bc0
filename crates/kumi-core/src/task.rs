//! A task: what was asked, where it is, how it ended.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::crashes::{Cause, Crashes, CrashesMax};
use crate::ids::{FunctionId, GroupId, Lease, LoanId, SegmentId, TaskId, Time, WorkerId};
use crate::message::{Ending, Payload, Run, Word};
use crate::worker::Face;

/// What is asked when a task is submitted.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// What to call.
    pub function: FunctionId,
    /// Pickled arguments.
    pub payload: Payload,
    /// What belongs to them elsewhere.
    pub large: Option<Box<Large>>,
    /// How many crashes it may cause and still be run again; `None`: what the policy says.
    pub crashes_max: Option<CrashesMax>,
    /// Never run it again once it may have begun.
    pub once: bool,
    /// What it is called, for [`Dispatcher::names`](crate::Dispatcher::names).
    pub name: Option<Arc<str>>,
    /// The owner will pop it: it counts as uncollected until then.
    pub kept: bool,
    /// What it belongs to.
    pub group: Option<GroupId>,
    /// How long it may run.
    pub seconds_run: Option<Duration>,
    /// How long it may take from now on, waiting included.
    pub seconds_total: Option<Duration>,
}

/// What a payload needs beside its bytes. Most need nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Large {
    /// The segment that the rest of it lies in, and how many bytes of that. It was reserved by whoever hands it in.
    pub segment: Option<(SegmentId, u64)>,
    /// The shared values that it names.
    pub uses: Vec<FunctionId>,
}

impl Family {
    /// Waits where its worker cannot run what it waits for.
    pub fn is_needy(&self) -> bool {
        self.waits_elsewhere || (self.waits.is_some() && self.apart)
    }
}

impl NewTask {
    /// One that is nothing special.
    pub fn new(function: FunctionId, payload: Payload) -> Self {
        Self {
            function,
            payload,
            large: None,
            crashes_max: None,
            once: false,
            name: None,
            kept: false,
            group: None,
            seconds_run: None,
            seconds_total: None,
        }
    }

    /// Its payload, wherever that lies.
    pub(crate) fn bytes(&self) -> u64 {
        bytes(&self.payload, self.large.as_deref())
    }
}

fn bytes(payload: &Payload, large: Option<&Large>) -> u64 {
    payload.len() as u64 + large.and_then(|large| large.segment).map_or(0, |(_, bytes)| bytes)
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The function returned this (pickled).
    Success(Payload),
    /// The function raised this (pickled).
    Error(Payload),
    /// Its workers died of it, the last one like this.
    Crash(Arc<Certificate>),
    /// Somebody cancelled it.
    Cancel,
    /// It took longer than it was allowed.
    Timeout(Limit),
    /// No worker can be started; the text says why.
    Unlaunchable(Arc<str>),
}

impl Outcome {
    /// In one word, with what belongs to it as bytes. A crash's certificate goes beside it.
    pub(crate) fn word(&self, nothing: &Payload) -> (Word, Payload) {
        match self {
            Outcome::Success(payload) => (Word::Success, Arc::clone(payload)),
            Outcome::Error(payload) => (Word::Error, Arc::clone(payload)),
            Outcome::Crash(_) => (Word::Crash, Arc::clone(nothing)),
            Outcome::Cancel => (Word::Cancel, Arc::clone(nothing)),
            Outcome::Timeout(Limit::Run) => (Word::TimeoutRun, Arc::clone(nothing)),
            Outcome::Timeout(Limit::Total) => (Word::TimeoutTotal, Arc::clone(nothing)),
            Outcome::Unlaunchable(reason) => (Word::Unlaunchable, Arc::from(reason.as_bytes())),
        }
    }

    pub(crate) fn is_success(&self) -> bool {
        matches!(self, Outcome::Success(_))
    }

    /// How much is kept until nobody wants it any more.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Outcome::Success(payload) | Outcome::Error(payload) => payload.len() as u64,
            Outcome::Crash(_) | Outcome::Cancel | Outcome::Timeout(_) | Outcome::Unlaunchable(_) => 0,
        }
    }
}

/// Which limit was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `seconds_run`.
    Run,
    /// `seconds_total`.
    Total,
}

/// Death certificate of a worker. What nobody could find out is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// In words.
    pub cause: String,
    /// What counts against `crashes_max`.
    pub kind: Cause,
    /// Process id.
    pub pid: Option<u32>,
    /// Machine.
    pub host: Option<String>,
    /// If the process exited.
    pub exit_code: Option<i32>,
    /// If a signal killed it.
    pub signal: Option<i32>,
    /// The most bytes of its own that it was seen to have, with its children.
    pub peak: Option<u64>,
    /// The last lines it wrote to stderr.
    pub stderr: String,
}

/// Where a task is: in exactly one place.
#[derive(Debug)]
pub(crate) enum Place {
    /// In the queue.
    Waiting,
    /// Dealt to a worker, which may have begun it.
    Held(WorkerId),
    /// Run by the host process itself.
    Here,
    /// With the backup, or on its way there, since this worker has died of it.
    Away(Arc<Face>),
    /// A call of `everywhere`, under its number: done when the workers that were present have done it.
    Everywhere(u64),
    /// Done; kept until nobody wants the result any more.
    Done(Box<Done>),
}

/// A finished task's result and story.
#[derive(Debug)]
pub(crate) struct Done {
    pub outcome: Outcome,
    pub finished: Time,
    /// Of tasks that a worker finished.
    pub run: Option<Run>,
    pub face: Option<Arc<Face>>,
    /// The worker's segment that the rest of the result lies in, and how many bytes of it.
    pub loan: Option<(LoanId, u64)>,
}

impl Done {
    /// How much is kept until nobody wants it any more.
    pub fn bytes(&self) -> u64 {
        let notes = self.run.as_ref().and_then(|run| run.notes.as_ref());
        let noted = notes.map_or(0, |notes| notes.warnings.len() as u64);
        self.outcome.bytes() + self.loan.map_or(0, |(_, bytes)| bytes) + noted
    }
}

/// The brain's note of one task.
#[derive(Debug)]
pub(crate) struct Task {
    /// Order of submission; after a loss a task goes back to the place this number gives it.
    pub number: u64,
    pub function: FunctionId,
    pub payload: Payload,
    pub large: Option<Box<Large>>,
    pub submitted: Time,
    pub place: Place,
    pub crashes: Option<Box<Crashes>>,
    /// `None`: what the policy says.
    pub crashes_max: Option<Box<CrashesMax>>,
    pub attempts: u32,
    pub once: bool,
    pub name: Option<Arc<str>>,
    pub kept: bool,
    pub group: Option<GroupId>,
    /// A call of `everywhere`, in a process without workers.
    pub everywhere: bool,
    /// It was handed over by a dispatcher whose backup this is.
    pub guest: bool,
    /// May have killed a worker: it runs alone from now on, so that guilt is certain.
    pub suspect: bool,
    /// Somebody holds a handle on it and may ask for the result.
    pub wanted: bool,
    /// Somebody waits to be told that it is done.
    pub watched: bool,
    /// Somebody has asked how it ended, or cancelled it.
    pub seen: bool,
    pub report: Option<Box<Report>>,
    pub limits: Option<Box<Limits>>,
    /// Of the few tasks that were submitted by tasks, or submit some.
    pub family: Option<Box<Family>>,
}

/// Where a nested task stands among those that wait: youngest generation first, then in the order of submission.
pub(crate) type Rank = (Reverse<u32>, u64, TaskId);

/// A task's relatives.
#[derive(Debug, Default)]
pub(crate) struct Family {
    /// The task that submitted it, and its number among the children of that one's worker.
    pub parent: Option<(TaskId, WorkerId, u64)>,
    /// How many tasks are above it.
    pub generation: u32,
    /// What it has submitted and is not done.
    pub children: BTreeSet<TaskId>,
    /// Its descendants that wait in the queue.
    pub queued: BTreeSet<Rank>,
    /// The child that its worker's main thread waits for; and whether it waits elsewhere for some.
    pub waits: Option<TaskId>,
    pub waits_elsewhere: bool,
    /// A worker died while a descendant ran within this task's wait: from now on they run on other workers.
    pub apart: bool,
}

/// What a task said of itself last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Counts the task's reports, from 1 on.
    pub number: u64,
    /// Pickled value.
    pub payload: Payload,
}

/// The limits of the few tasks that have some.
#[derive(Debug)]
pub(crate) struct Limits {
    pub run: Option<Duration>,
    /// Until when it may run, under the lease it was dealt with last.
    pub run_until: Option<(Time, Lease)>,
    pub deadline: Option<Time>,
}

/// What the owner may see of a task.
#[derive(Clone, Debug)]
pub struct TaskView {
    /// The function's label.
    pub function: Arc<str>,
    /// When it was submitted.
    pub submitted: Time,
    /// When it was done.
    pub finished: Time,
    /// How it ran, if a worker ran it to its end.
    pub run: Option<Run>,
    /// Who ran it.
    pub face: Option<Arc<Face>>,
    /// How often a worker began it, or may have.
    pub attempts: u32,
    /// Of the last worker that died of it.
    pub certificate: Option<Arc<Certificate>>,
    /// How it ended.
    pub outcome: Outcome,
    /// The controller that it ended with; `None`: the one that was asked for it.
    pub controller: Option<Arc<str>>,
}

/// Tasks that failed without anybody asking how they ended.
#[derive(Clone, Debug)]
pub struct Overlooked {
    /// How many.
    pub count: u64,
    /// The name of the first, if it has one.
    pub name: Option<Arc<str>>,
    /// The first.
    pub first: TaskView,
}

impl TaskView {
    /// What a worker was told of a task that one of its own has submitted.
    pub fn of_child(function: Arc<str>, ending: &Ending, payload: &Payload) -> Self {
        let certificate = ending.certificate.clone().map(Arc::new);
        let outcome = match ending.word {
            Word::Success => Outcome::Success(Arc::clone(payload)),
            Word::Error => Outcome::Error(Arc::clone(payload)),
            Word::Crash => Outcome::Crash(certificate.clone().unwrap_or_default()),
            Word::Cancel => Outcome::Cancel,
            Word::TimeoutRun => Outcome::Timeout(Limit::Run),
            Word::TimeoutTotal => Outcome::Timeout(Limit::Total),
            Word::Unlaunchable => Outcome::Unlaunchable(Arc::from(String::from_utf8_lossy(payload).as_ref())),
        };
        Self {
            function,
            submitted: ending.submitted,
            finished: ending.finished,
            run: ending.run.clone(),
            face: ending.face.clone().map(Arc::new),
            attempts: ending.attempts,
            certificate,
            outcome,
            controller: None,
        }
    }
}

impl Task {
    /// Of the last worker that died of it.
    pub fn certificate(&self) -> Option<&Arc<Certificate>> {
        self.crashes.as_ref().map(|crashes| &crashes.certificate)
    }

    pub fn parent(&self) -> Option<TaskId> {
        self.family.as_ref().and_then(|family| family.parent).map(|(parent, _, _)| parent)
    }

    pub fn generation(&self) -> u32 {
        self.family.as_ref().map_or(0, |family| family.generation)
    }

    pub fn is_done(&self) -> bool {
        match self.place {
            Place::Done(_) => true,
            Place::Waiting | Place::Held(_) | Place::Here | Place::Away(_) | Place::Everywhere(_) => false,
        }
    }

    pub fn is_held(&self) -> bool {
        matches!(self.place, Place::Held(_))
    }

    pub fn run_limit(&self) -> Option<Duration> {
        self.limits.as_ref().and_then(|limits| limits.run)
    }

    pub fn deadline(&self) -> Option<Time> {
        self.limits.as_ref().and_then(|limits| limits.deadline)
    }

    /// What is kept of it when it is done, until nobody wants it any more.
    pub fn result_bytes(&self) -> u64 {
        let report = self.report.as_ref().map_or(0, |report| report.payload.len() as u64);
        match &self.place {
            Place::Done(done) => done.bytes() + report,
            Place::Waiting | Place::Held(_) | Place::Here | Place::Away(_) | Place::Everywhere(_) => 0,
        }
    }

    /// What it counts for against the queue's bound.
    pub fn bytes(&self) -> u64 {
        bytes(&self.payload, self.large.as_deref()) + TASK_BYTES
    }
}

/// Longest report: it is for what a person or a progress bar reads, and goes out beside results, never instead of one.
pub const REPORT_MAX: usize = 1 << 15;

/// What a task costs beside its payload: this note, its place in the queue and its handle in Python.
pub const TASK_BYTES: u64 = 400;
