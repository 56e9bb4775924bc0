//! Every message, by direction. Nothing else crosses a socket. `docs/protocol.md` is the table of them.

use std::sync::Arc;

use crate::ids::{FunctionId, Lease, SegmentId, TaskId};

/// Bytes the brain never looks into.
pub type Payload = Arc<[u8]>;

/// From the host to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToWorker {
    /// Answer to [`FromWorker::Hello`]: the worker belongs here, and this is its name.
    Welcome {
        /// `<controller>-<number of the launch>`.
        name: String,
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
        /// When it began: Unix time in nanoseconds, by the worker's clock.
        started: u64,
        /// How long it ran, in nanoseconds.
        nanoseconds: u64,
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
    /// Answer to [`ToWorker::Recall`].
    Recalled {
        /// Which.
        lease: Lease,
        /// Whether it had not begun and is given back.
        back: bool,
    },
    /// Alive. Unasked at every heartbeat, and the answer to [`ToWorker::Ping`].
    Heartbeat,
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
