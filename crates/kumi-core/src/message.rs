//! Every message, by direction. Nothing else crosses a socket. `docs/protocol.md` is the table of them.

use std::sync::Arc;
use std::time::Duration;

use crate::crashes::CrashesMax;
use crate::ids::{FunctionId, Lease, SegmentId, TaskId, Time};
use crate::task::Certificate;
use crate::worker::Face;

/// Bytes the brain never looks into.
pub type Payload = Arc<[u8]>;

/// From the host to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToWorker {
    /// Answer to [`FromWorker::Hello`]: the worker belongs here, and this is its name.
    Welcome {
        /// `<controller>-<number of the launch>`.
        name: String,
        /// What is put back after each task, one bit for each part of the process: see `reset.py`.
        reset: u8,
        /// How many bytes of its own it may have, with its children.
        memory: Option<u64>,
    },
    /// Answer to [`FromWorker::Hello`]: the worker does not belong here and shall end.
    Refuse {
        /// Whose fault it is and what to do, for the worker's log.
        reason: String,
    },
    /// A function that tasks will name.
    Define {
        /// Its name.
        function: FunctionId,
        /// Pickled.
        payload: Payload,
    },
    /// No task will name this function again.
    Forget {
        /// Its name.
        function: FunctionId,
    },
    /// A task to run after those sent before.
    Run {
        /// Its name on the host.
        task: TaskId,
        /// Under which its result is accepted.
        lease: Lease,
        /// Its place in the shared page (local workers).
        slot: u16,
        /// What to call.
        function: FunctionId,
        /// The how many-th time a worker is to run it, from 1 on.
        attempt: u32,
        /// Known to take less than a millisecond: earlier results need not be written out first.
        short: bool,
        /// The task in whose wait it is to run, as its descendant; `None`: when the worker is free.
        within: Option<Lease>,
        /// Another worker will read its result: nothing of it goes into a segment.
        inline: bool,
        /// Pickled arguments.
        payload: Payload,
    },
    /// A call of `everywhere`, or the controller's setup, to run in its turn.
    Prepare {
        /// For the answer.
        lease: Lease,
        /// Its place in the shared page (local workers).
        slot: u16,
        /// What to call.
        function: FunctionId,
        /// Pickled arguments.
        payload: Payload,
    },
    /// Give back a task that has not begun (remote workers; local ones are asked through the page).
    Recall {
        /// Which.
        lease: Lease,
    },
    /// Interrupt the task if it is still the one running.
    Interrupt {
        /// Which.
        lease: Lease,
    },
    /// Are you there? Answered by [`FromWorker::Heartbeat`].
    Ping,
    /// Leave when nothing is left to do.
    Stop {
        /// Why.
        leave: Leave,
    },
    /// The payload that follows lies partly in this segment, whose descriptor comes along (local workers).
    Lend {
        /// The host's name of it.
        segment: SegmentId,
        /// How many bytes of it.
        bytes: u64,
    },
    /// The worker's segment is not used by the host any more.
    Returned {
        /// The worker's name of it.
        segment: SegmentId,
        /// A fork may still see it: it must not be written to again.
        forked: bool,
    },
    /// A task that a task of this worker has submitted is done.
    Resolved {
        /// As submitted.
        child: u64,
        /// How it ended.
        ending: Box<Ending>,
        /// Pickled value or error, or why no worker could be started, in words.
        payload: Payload,
    },
}

/// How a task ended, for the worker whose task has submitted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// In one word.
    pub word: Word,
    /// When it was submitted and when it was done, by the host's monotonic clock.
    pub submitted: Time,
    /// See above.
    pub finished: Time,
    /// How often a worker began it, or may have.
    pub attempts: u32,
    /// How it ran, if a worker ran it to its end.
    pub run: Option<Run>,
    /// Who ran it.
    pub face: Option<Face>,
    /// Of the last worker that died of it.
    pub certificate: Option<Certificate>,
}

/// How a task ran, by the clock of the worker that ran it to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// When it began: Unix time in nanoseconds.
    pub started: u64,
    /// How long it ran, in nanoseconds.
    pub nanoseconds: u64,
    /// What only some tasks have.
    pub notes: Option<Box<Notes>>,
}

/// What a worker has noted while a task ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// The most bytes of its own that the worker was seen to have, with its children.
    pub peak: Option<u64>,
    /// What the task warned of; empty: of nothing. Of at most [`WARNINGS_MAX`] bytes.
    pub warnings: Payload,
}

/// Longest note of warnings: such a message fits into a frame, whatever its payload.
pub const WARNINGS_MAX: usize = u16::MAX as usize;

/// An outcome without what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Those of `Outcome`.
pub enum Word {
    Success,
    Error,
    Crash,
    Cancel,
    TimeoutRun,
    TimeoutTotal,
    Unlaunchable,
}

/// From a worker to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromWorker {
    /// The first message.
    Hello {
        /// Of the protocol.
        version: u32,
        /// Python's major and minor version.
        python: (u8, u8),
        /// Process id on its machine.
        pid: u32,
        /// Name of its machine.
        host: String,
    },
    /// A task is done.
    Finished {
        /// As dealt.
        lease: Lease,
        /// Whether the function returned; otherwise the payload is its error.
        success: bool,
        /// How it ran.
        run: Run,
        /// Pickled value or error.
        payload: Payload,
    },
    /// What the running task says of itself.
    Report {
        /// As dealt.
        lease: Lease,
        /// Pickled value.
        payload: Payload,
    },
    /// Answer to [`ToWorker::Prepare`].
    Prepared {
        /// As sent.
        lease: Lease,
        /// Empty if the function returned; otherwise its traceback.
        error: String,
        /// Empty, or its pickled error.
        payload: Payload,
    },
    /// Answer to [`ToWorker::Recall`].
    Recalled {
        /// Which.
        lease: Lease,
        /// Whether it had not begun and is given back.
        back: bool,
    },
    /// Alive. Unasked at every heartbeat, and the answer to [`ToWorker::Ping`].
    Heartbeat,
    /// Its process was told to end, as by a batch system: the host shall have it leave when it has answered what it runs.
    Retire,
    /// The result that follows lies partly in this segment, whose descriptor comes along (local workers).
    Lend {
        /// The worker's name of it.
        segment: SegmentId,
        /// How many bytes of it.
        bytes: u64,
    },
    /// The host's segment is not used by the worker any more.
    Returned {
        /// The host's name of it.
        segment: SegmentId,
        /// A fork may still see it: it must not be written to again.
        forked: bool,
    },
    /// A function that tasks submitted by this worker's tasks will name.
    Declare {
        /// The worker's own number for it, higher than all before.
        function: u64,
        /// Its name in records.
        label: String,
        /// Pickled.
        payload: Payload,
    },
    /// No task that this worker's tasks will submit names this function.
    Withdraw {
        /// As declared.
        function: u64,
    },
    /// A task submits a task. Answered by [`ToWorker::Resolved`].
    Submit {
        /// The worker's own number for it, higher than all before.
        child: u64,
        /// The task that submits it, as dealt to this worker.
        parent: Lease,
        /// As declared.
        function: u64,
        /// What is asked of it.
        terms: Terms,
        /// Pickled arguments.
        payload: Payload,
    },
    /// Cancel this child, wherever it is. Answered by [`ToWorker::Resolved`], if that is not under way already.
    Cancel {
        /// As submitted.
        child: u64,
    },
    /// Nobody wants this child's result any more.
    Release {
        /// As submitted.
        child: u64,
    },
    /// A task waits for a task that it has submitted.
    Wait {
        /// Who waits.
        lease: Lease,
        /// For what, if the main thread waits: descendants can run there until this one is done. `None`: async code or
        /// another thread waits, for one or more, until [`FromWorker::Resume`].
        child: Option<u64>,
    },
    /// A task waits no longer, or, in the main thread, no longer for what is still not done.
    Resume {
        /// The task.
        lease: Lease,
        /// It waited outside the main thread.
        elsewhere: bool,
    },
}

/// What is asked of a task besides its call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// How many crashes it may cause and still be run again; `None`: what the policy says.
    pub crashes_max: Option<CrashesMax>,
    /// Never run it again once it may have begun.
    pub once: bool,
    /// How long it may run.
    pub seconds_run: Option<Duration>,
    /// How long it may take, waiting included.
    pub seconds_total: Option<Duration>,
}

/// Why a worker leaves without anybody's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leave {
    /// No work for `seconds_idle`.
    Idle,
    /// `seconds_wall` is over.
    Wall,
    /// `tasks_max` is reached.
    Tasks,
    /// The controller ends.
    Closing,
}
