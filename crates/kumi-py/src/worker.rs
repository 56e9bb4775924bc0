//! The worker's loop: takes tasks, has Python run them, answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kumi_core::{FunctionId, Job, Leave, Payload};
use kumi_net::segments::Borrowed;
use kumi_net::worker::{Finished, Next, WorkerEnd};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::inside::detached;
use crate::large::{Made, Packed, Shown};
use crate::pool::{host_name, python_version};

/// Above this, a result is sent without the GIL: the socket may have to be waited for.
const SENT_AT_ONCE: usize = 1 << 15;

/// A function as it came, or ready to be called.
enum Function {
    Pickled(Payload, Option<Arc<Borrowed>>),
    Loaded(Py<PyAny>),
}

/// See the stub.
#[pyclass(frozen, module = "kumi._core")]
pub struct Worker {
    end: Mutex<WorkerEnd>,
}

#[pymethods]
impl Worker {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        let end = WorkerEnd::inherit(python_version(py), host_name())?;
        Ok(Self { end: Mutex::new(end) })
    }

    /// Runs tasks until the host says stop; returns the reason.
    #[pyo3(signature = (execute, /))]
    fn serve(&self, execute: &Bound<'_, PyAny>) -> PyResult<&'static str> {
        let py = execute.py();
        let mut end = self.end.try_lock().map_err(|_| PyRuntimeError::new_err("this worker serves already"))?;
        let end = &mut *end;
        let (load, run) = (execute.getattr("load")?, execute.getattr("run")?);
        let mut functions: BTreeMap<FunctionId, Function> = BTreeMap::new();
        loop {
            match end.take()? {
                Next::Job(Job::Define { function, payload, .. }, memory) => {
                    functions.insert(function, Function::Pickled(payload, memory));
                }
                Next::Job(Job::Forget { function }, _) => {
                    functions.remove(&function);
                }
                Next::Job(Job::Run { lease, slot, function, payload, .. }, memory) => {
                    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    let clock = Instant::now();
                    let (success, made) = {
                        let function = loaded(&mut functions, function, &load)?;
                        call(&run, function, &payload, memory)?
                    };
                    let (payload, segment) = match made {
                        Made::Small(payload) => (payload, None),
                        Made::Large(parts) => {
                            let Packed { payload, segment } = parts.pack(|bytes| end.reserve(bytes));
                            (payload, segment)
                        }
                    };
                    let finished = Finished {
                        lease,
                        success,
                        started: u64::try_from(started.as_nanos()).unwrap_or(u64::MAX),
                        took: clock.elapsed(),
                        payload,
                        segment,
                    };
                    if finished.payload.len() > SENT_AT_ONCE || segment.is_some() {
                        detached(py, || end.finish(slot, finished))?;
                    } else {
                        end.finish(slot, finished)?;
                    }
                }
                Next::Leave(leave) => return Ok(reason(leave)),
                Next::Wait => {
                    detached(py, || end.fill())?;
                    py.check_signals()?;
                }
            }
        }
    }
}

fn loaded<'a, 'py>(
    functions: &'a mut BTreeMap<FunctionId, Function>,
    id: FunctionId,
    load: &Bound<'py, PyAny>,
) -> PyResult<&'a Py<PyAny>> {
    let missing = || PyRuntimeError::new_err("the host sent a task before its function");
    let function = functions.get_mut(&id).ok_or_else(missing)?;
    if let Function::Pickled(payload, memory) = function {
        let (payload, memory) = (PyBytes::new(load.py(), payload), memory.take().map(|memory| Shown::new(memory)));
        *function = Function::Loaded(load.call1((payload, memory))?.unbind());
    }
    match function {
        Function::Loaded(function) => Ok(function),
        Function::Pickled(..) => Err(missing()),
    }
}

fn call<'py>(
    run: &Bound<'py, PyAny>,
    function: &Py<PyAny>,
    payload: &[u8],
    memory: Option<Arc<Borrowed>>,
) -> PyResult<(bool, Made<'py>)> {
    let py = run.py();
    let payload = PyBytes::new(py, payload);
    let answer = match memory {
        None => run.call1((function, payload))?,
        Some(memory) => run.call1((function, payload, Shown::new(memory)))?,
    };
    let answer = answer.cast::<PyTuple>()?;
    let payload = answer.get_borrowed_item(1)?;
    Ok((answer.get_borrowed_item(0)?.is_truthy()?, Made::of(&payload)?))
}

fn reason(leave: Leave) -> &'static str {
    match leave {
        Leave::Idle => "idle",
        Leave::Wall => "wall",
        Leave::Tasks => "tasks",
        Leave::Closing => "closing",
    }
}
