//! The task that this worker process runs, for whoever asks inside of it: nothing is made before somebody does.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kumi_core::{FunctionId, Lease, REPORT_MAX, TaskId};
use kumi_net::worker::WorkerEnd;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// A task's id, its attempt, the worker's name, and what Python keeps for as long as the task runs.
type Running = (u64, u32, String, Py<PyDict>);

static WORKER: OnceLock<Arc<Here>> = OnceLock::new();

/// What a worker process knows of itself.
pub struct Here {
    /// A child that a task forked is not this worker, and shares its memory with the host.
    process: u32,
    end: Arc<WorkerEnd>,
    /// The task that runs is the last one; a task that waits for its own descendant lies below that.
    tasks: Mutex<Vec<Task>>,
}

struct Task {
    id: TaskId,
    lease: Lease,
    attempt: u32,
    function: FunctionId,
    notes: Option<Py<PyDict>>,
}

/// As long as this lives, the task runs.
pub struct Begun<'a>(&'a Here);

impl Here {
    /// Of this process, which has one worker at most.
    pub fn found(end: Arc<WorkerEnd>) -> Arc<Self> {
        let here = Self { process: std::process::id(), end, tasks: Mutex::default() };
        Arc::clone(WORKER.get_or_init(|| Arc::new(here)))
    }

    pub fn begin(&self, id: TaskId, lease: Lease, attempt: u32, function: FunctionId) -> Begun<'_> {
        self.tasks().push(Task { id, lease, attempt, function, notes: None });
        Begun(self)
    }

    /// What the task that runs calls.
    pub fn function(&self) -> Option<FunctionId> {
        self.tasks().last().map(|task| task.function)
    }

    /// Whether no task runs, or waits for another one.
    pub fn is_idle(&self) -> bool {
        self.tasks().is_empty()
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Begun<'_> {
    /// The task has ended: what Python has kept for it, if it has.
    pub fn end(self) -> Option<Py<PyDict>> {
        let done = self.0.tasks().pop();
        std::mem::forget(self);
        done?.notes
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        // Outside of the lock: what Python kept may run any code when it goes.
        let done = self.0.tasks().pop();
        drop(done);
    }
}

/// The worker that this process is.
fn worker() -> Option<&'static Here> {
    let here = WORKER.get()?;
    (here.process == std::process::id()).then_some(here)
}

/// See the stub.
#[pyfunction]
pub fn running(py: Python<'_>) -> Option<Running> {
    let here = worker()?;
    let fresh = PyDict::new(py).unbind();
    let mut tasks = here.tasks();
    let task = tasks.last_mut()?;
    let notes = task.notes.get_or_insert(fresh).clone_ref(py);
    Some((task.id.number(), task.attempt, here.end.name(), notes))
}

/// See the stub.
#[pyfunction]
pub fn nested() -> bool {
    worker().is_some_and(|here| here.tasks().len() > 1)
}

/// See the stub.
#[pyfunction]
#[pyo3(signature = (payload, /))]
pub fn report(payload: &[u8]) -> PyResult<()> {
    check_length(payload)?;
    let Some(here) = worker() else { return Ok(()) };
    let lease = here.tasks().last().map(|task| task.lease);
    match lease {
        Some(lease) => Ok(here.end.reporter().report(lease, Arc::from(payload))?),
        None => Ok(()),
    }
}

/// Refuses what is too long for a report.
pub fn check_length(payload: &[u8]) -> PyResult<()> {
    if payload.len() <= REPORT_MAX {
        return Ok(());
    }
    let text = format!("the value takes {} bytes when it is pickled, and a report {REPORT_MAX} at most", payload.len());
    Err(PyValueError::new_err(text))
}
