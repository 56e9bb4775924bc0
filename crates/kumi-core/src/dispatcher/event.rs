//! What the dispatcher is told and what it answers.
//!
//! Words only: what they lead to is decided in the other files.

use std::sync::Arc;
use std::time::Duration;

use crate::crashes::CrashesMax;
use crate::ids::{LaunchId, Lease, LoanId, SegmentId, TaskId, TicketId, Time, WorkerId};
use crate::message::{FromWorker, ToWorker};
use crate::task::{Certificate, TaskView};

/// What the user wants of a controller.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Name of the controller; workers are called after it.
    pub name: String,
    /// Never more workers than this.
    pub workers: u64,
    /// Never fewer, once started.
    pub workers_min: u64,
    /// Each worker's process has one of so many berths, such as a GPU, extra ones too; `None`: it needs none.
    pub berths: Option<u64>,
    /// A worker without work leaves after this; `None`: never.
    pub idle: Option<Duration>,
    /// A worker takes no more tasks after this; `None`: never.
    pub wall: Option<Duration>,
    /// A launch that has not led to a worker after this has failed.
    pub launch: Duration,
    /// A worker that does not stop a task, or leave, within this is killed.
    pub kill: Duration,
    /// A remote worker is asked for a sign of life this often.
    pub heartbeat: Duration,
    /// The connection to a remote worker that is silent for this long is cut.
    pub silence: Duration,
    /// A remote worker that does not come back within this after a cut is lost.
    pub reconnect: Duration,
    /// A worker leaves after so many tasks; `None`: any number.
    pub tasks_max: Option<u64>,
    /// How many bytes of its own a worker may have, with its children; `None`: any number.
    pub memory: Option<u64>,
    /// What workers put back after each task: see [`ToWorker::Welcome`].
    pub reset: u8,
    /// How many crashes a task may cause and still be run again.
    pub crashes_max: CrashesMax,
    /// There is a backup for tasks that crash once more.
    pub backup: bool,
    /// Bound of the queue.
    pub queue_bytes: u64,
    /// How many bytes free segments may have.
    pub spare_bytes: u64,
    /// Who runs the tasks.
    pub staff: Staff,
}

/// Who runs the tasks of a controller, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staff {
    /// The host itself; there are no workers.
    Host,
    /// Workers on this machine, which are launched.
    Local,
    /// Workers that a launcher starts somewhere, and that dial in.
    Launched,
    /// Workers that are started by hand and dial in; none is ever launched.
    ByHand,
}

/// What lets workers from other machines in. The hands keep the secret that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ticket {
    /// Of one launch of several workers: each has its place.
    Launch {
        /// By index.
        places: Vec<LaunchId>,
    },
    /// For workers started by hand.
    Code {
        /// How many more agents it lets in. Those that were let in may come again.
        uses: u32,
        /// Until when it lets others in.
        until: Time,
    },
}

/// Where a remote worker comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// What let it in.
    pub ticket: TicketId,
    /// Its place in the launch.
    pub index: u32,
    /// Random: tells a repeated call, or that for the agent's next worker, from a second agent.
    pub incarnation: u64,
}

/// Somebody who has proved the secret of a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The hands' name for the connection; never used twice.
    pub number: u64,
    /// Where it comes from.
    pub origin: Origin,
    /// Process id on its machine.
    pub pid: u32,
    /// Its machine.
    pub host: String,
}

/// What happened outside.
#[derive(Clone, Debug)]
pub enum Event {
    /// A timeout is due.
    Tick,
    /// The process, or the job, of this launch exists.
    Launched {
        /// Which.
        launch: LaunchId,
    },
    /// This launch will not lead to a worker.
    LaunchFailed {
        /// Which.
        launch: LaunchId,
        /// Why, in the launcher's or the process's own words.
        text: Arc<str>,
    },
    /// A worker said something.
    Said {
        /// Who.
        worker: WorkerId,
        /// What. For local workers the hands answer a recall in the worker's name, from the shared page.
        message: FromWorker,
    },
    /// Somebody proved the secret of a ticket and wants to be a worker. Answered by [`Action::Admit`] or [`Action::Refuse`],
    /// at the latest after a heartbeat.
    Called {
        /// Who.
        caller: Caller,
    },
    /// The connection to a remote worker has ended. It may come back. Not told of one that a newer one has replaced.
    Cut {
        /// Whose.
        worker: WorkerId,
    },
    /// A remote worker has come back: its session goes on.
    Resumed {
        /// Who.
        worker: WorkerId,
    },
    /// The backup says how a task ended that was handed over.
    CameBack {
        /// Which.
        task: TaskId,
        /// All that is known there.
        view: Box<TaskView>,
    },
    /// The backup cannot have a task that was to be handed over.
    Stranded {
        /// Which.
        task: TaskId,
        /// Why.
        text: Arc<str>,
    },
    /// A worker is no more.
    Gone {
        /// Who.
        worker: WorkerId,
        /// What it was at.
        begun: Begun,
        /// How it ended.
        certificate: Certificate,
    },
}

/// Which of the tasks a dead worker held it had begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// None of them.
    Nothing,
    /// Just this one.
    One(Lease),
    /// Nobody knows.
    Unknown,
}

/// What the hands shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this.
    Send {
        /// To whom.
        worker: WorkerId,
        /// What.
        message: ToWorker,
    },
    /// Take back a task through the shared page of a local worker, and answer with [`FromWorker::Recalled`].
    Recall {
        /// Whose page.
        worker: WorkerId,
        /// Which task.
        lease: Lease,
        /// Its place in the page.
        slot: u16,
    },
    /// Start so many workers.
    Launch {
        /// Their identities.
        launches: Vec<LaunchId>,
    },
    /// End whatever exists of this launch, and report [`Event::LaunchFailed`] then.
    Abandon {
        /// Which.
        launch: LaunchId,
    },
    /// End this worker with its process tree, and report [`Event::Gone`] then. A remote one is told to end itself
    /// ([`crate::ToAgent::End`]).
    Kill {
        /// Which.
        worker: WorkerId,
        /// Whether the agent of a remote one is to go on with another.
        again: bool,
    },
    /// This caller is that worker, from now on or already: messages for it go there. If it is one already, and its
    /// session never got an answer, the session goes on from the beginning. If the caller has hung up, say [`Event::Cut`].
    Admit {
        /// [`Caller::number`].
        caller: u64,
        /// Who it is.
        worker: WorkerId,
    },
    /// This caller does not become a worker.
    Refuse {
        /// [`Caller::number`].
        caller: u64,
        /// Whose fault it is and what to do.
        reason: String,
    },
    /// Close the connection to this remote worker, which is silent. No [`Event::Cut`] need follow.
    Cut {
        /// Whose.
        worker: WorkerId,
    },
    /// This remote worker is none any more: tell it to end if it has a connection, close that, and forget its session, so
    /// that it is refused when it comes back. Nothing it still says counts.
    Fence {
        /// Which.
        worker: WorkerId,
        /// What it came of: end whatever still exists of that.
        launch: LaunchId,
    },
    /// Say, once, that the results which somebody still holds need more memory than the queue may.
    TooManyResults {
        /// How much.
        bytes: u64,
    },
    /// Give up the memory of this segment of ours.
    CloseSegment {
        /// Which.
        segment: SegmentId,
    },
    /// Nobody here uses this segment of a worker's any more.
    Unmap {
        /// Which.
        loan: LoanId,
    },
    /// A task that is watched has reported something.
    Reported {
        /// Which.
        task: TaskId,
    },
    /// Hand this task over to the backup ([`Dispatcher::leaving`]), and report [`Event::CameBack`] or [`Event::Stranded`].
    HandOver {
        /// Which.
        task: TaskId,
    },
    /// Nobody wants this task any more, which was to be handed over: cancel it wherever it is by now.
    CallBack {
        /// Which.
        task: TaskId,
    },
    /// A task that is watched or kept is done.
    Resolved {
        /// Which.
        task: TaskId,
    },
}
