//! The brain of kumi: which task runs where, how many workers there are, and when to give up.
//!
//! May not know: sockets, clocks, threads, randomness, the environment, Python. It is told what happened and when,
//! and answers with actions:
//!
//! ```text
//! submit / handle(now, event) ──▶ Dispatcher ──▶ actions()          (carried out by kumi-net)
//!                                     │
//!                                     └──▶ next_timeout()           (when to call handle(now, Event::Tick) again)
//! ```
//!
//! A newcomer reads [`message`] (what crosses a socket), [`frame`] (as which bytes), [`task`] and [`dispatcher`]
//! (the life of a task), [`scaling`] (the number of workers), [`worker`] (both halves of a worker).
//! `tests/sim.rs` runs all of it in virtual time over links and launchers that fail.

// Ids and lengths may come from a peer: nothing here may panic on one.
#![deny(clippy::indexing_slicing)]

pub mod agent;
pub mod agent_message;
pub mod children;
pub mod crashes;
pub mod dispatcher;
pub mod error;
pub mod frame;
mod group;
pub mod ids;
pub mod interrupts;
pub mod marks;
pub mod message;
pub mod queue;
pub mod scaling;
pub mod segments;
pub mod session;
pub mod task;
pub mod timer;
pub mod worker;

pub use agent::{AgentHalf, Order};
pub use agent_message::{FromAgent, Secret, ToAgent};
pub use crashes::{Cause, CrashesMax, PerCause};
pub use dispatcher::{
    Action, Begun, Bug, Caller, Condition, Counts, Dispatcher, Entry, Event, Origin, Policy, Situation, Staff, Ticket,
    Work,
};
pub use error::{FrameError, SubmitError};
pub use frame::Decoder;
pub use ids::{FunctionId, GroupId, LaunchId, Lease, LoanId, SegmentId, TaskId, TicketId, Time, WorkerId};
pub use interrupts::Interrupts;
pub use message::{Ending, FromWorker, Leave, Notes, Payload, Run, Terms, ToWorker, WARNINGS_MAX, Word};
pub use segments::{Reserved, Store};
pub use session::{Session, Talk};
pub use task::{Certificate, Large, Limit, NewTask, Outcome, Overlooked, REPORT_MAX, Report, TaskView};
pub use worker::{Face, HELD_MAX, Job, Link, WorkerHalf};

/// Version of the wire protocol (`docs/protocol.md`). Host and worker must speak the same one.
pub const PROTOCOL: u32 = 4;
