//! The interpreter of kumi: the Python module `kumi._core`.
//!
//! Converts, decides nothing. Its manual is `python/kumi/_core.pyi`, checked against it by `mypy.stubtest`.
//! - `large.rs`: payloads with large parts.
//! - `pool.rs`: the dispatcher and what it hands out. `handle.rs`: one task. `facts.rs`: what is known of it.
//! - `group.rs`: tasks that belong together.
//! - `worker.rs`: the worker's loop. `here.rs`: the task that runs in this process. `inner.rs`: what the tasks it runs submit. `inbox.rs`: event
//!   loops that wait. `agent.rs`: what keeps a remote worker's connection.
//! - `untouched.rs`: what a task has left in its process.
//! - `inside.rs`: threads that wait in here, the end of Python, forks.

mod agent;
mod facts;
mod group;
mod handle;
mod here;
mod inbox;
mod inner;
mod inside;
mod large;
mod pool;
mod untouched;
mod worker;

use kumi_core::Time;
use kumi_core::scaling::{Bounds, Snapshot};
use pyo3::prelude::*;

/// The scaling rule, for table tests in Python.
#[pyfunction]
#[pyo3(signature = (*, workers, workers_min, waiting, running, joined, leaving, expected, failures, seconds_since_failure))]
#[allow(clippy::too_many_arguments)] // The rule's inputs by name, as in the stub.
fn decide(
    workers: u64,
    workers_min: u64,
    waiting: u64,
    running: u64,
    joined: u64,
    leaving: u64,
    expected: u64,
    failures: u32,
    seconds_since_failure: Option<f64>,
) -> (u64, Option<f64>, bool) {
    let now = inside::span(seconds_since_failure.unwrap_or_default());
    let snapshot = Snapshot { waiting, running, joined, leaving, expected, failures, failed: Time(0) };
    let now = Time(0).after(now);
    let decision = kumi_core::scaling::decide(snapshot, Bounds { workers, workers_min }, now);
    let again = decision.again.map(|again| again.since(now).as_secs_f64());
    (decision.launch, again, decision.give_up)
}

#[pymodule]
mod _core {
    #[pymodule_export]
    use crate::agent::run_agent;
    #[pymodule_export]
    use crate::decide;
    #[pymodule_export]
    use crate::facts::{Certificate, Facts, Status};
    #[pymodule_export]
    use crate::group::Group;
    #[pymodule_export]
    use crate::handle::Handle;
    #[pymodule_export]
    use crate::here::{nested, report, running};
    #[pymodule_export]
    use crate::inbox::Inbox;
    #[pymodule_export]
    use crate::inner::Inner;
    #[pymodule_export]
    use crate::inside::{
        after_fork_in_child, after_fork_in_parent, before_fork, end_deliveries, leave, next_deliveries,
    };
    #[pymodule_export]
    use crate::large::{Shown, Stored, memory_bytes};
    #[pymodule_export]
    use crate::pool::{Function, Pool};
    #[pymodule_export]
    use crate::untouched::Untouched;
    #[pymodule_export]
    use crate::worker::Worker;

    #[pymodule_export]
    const PROTOCOL: u32 = kumi_core::PROTOCOL;
    /// Bytes from which on a buffer is large.
    #[pymodule_export]
    const LARGE: usize = kumi_net::segments::LARGE;
    #[pymodule_export]
    const SUCCESS: u8 = crate::facts::SUCCESS;
    #[pymodule_export]
    const ERROR: u8 = crate::facts::ERROR;
    #[pymodule_export]
    const CRASH: u8 = crate::facts::CRASH;
    #[pymodule_export]
    const CANCEL: u8 = crate::facts::CANCEL;
    #[pymodule_export]
    const TIMEOUT: u8 = crate::facts::TIMEOUT;
    #[pymodule_export]
    const LAUNCH: u8 = crate::facts::LAUNCH;
}
