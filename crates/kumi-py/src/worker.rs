//! The worker's loop: takes tasks, has Python run them, answers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kumi_core::interrupts::Signal;
use kumi_core::{FunctionId, Interrupts, Job, Lease, Leave, Payload};
use kumi_net::segments::Borrowed;
use kumi_net::worker::{Finished, Next, WorkerEnd};
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::here::Here;
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
    running: Arc<Here>,
    /// What tasks name. Locked for a look only, never while Python runs.
    definitions: Mutex<BTreeMap<FunctionId, Function>>,
    interrupts: Arc<Mutex<Interrupts>>,
    /// Leave when the present task is answered.
    unfit: AtomicBool,
}

#[pymethods]
impl Worker {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        let end = WorkerEnd::inherit(python_version(py), host_name())?;
        let interrupts = Arc::clone(end.interrupts());
        Ok(Self {
            running: Here::found(&end),
            end: Mutex::new(end),
            definitions: Mutex::default(),
            interrupts,
            unfit: AtomicBool::new(false),
        })
    }

    #[pyo3(signature = (number, load, /))]
    fn shared(&self, number: u64, load: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.loaded(FunctionId::from_number(number), load)
    }

    fn take_interrupt(&self) -> bool {
        match lock(&self.interrupts).take() {
            Signal::Interrupt => true,
            Signal::Late => false,
            Signal::Foreign => {
                self.leave_soon();
                false
            }
        }
    }

    fn leave_soon(&self) {
        self.unfit.store(true, Ordering::Relaxed);
    }

    /// Runs tasks until the host says stop, or this process is not fit for the next one; returns the reason.
    #[pyo3(signature = (execute, /))]
    fn serve(&self, execute: &Bound<'_, PyAny>) -> PyResult<&'static str> {
        let py = execute.py();
        let mut end = self.end.try_lock().map_err(|_| PyRuntimeError::new_err("this worker serves already"))?;
        let end = &mut *end;
        let (load, run) = (execute.getattr("load")?, execute.getattr("run")?);
        loop {
            if self.unfit.load(Ordering::Relaxed) {
                // What is here goes back to the queue, for nothing of it has begun.
                return Ok("interrupted");
            }
            match end.take()? {
                Next::Job(Job::Define { function, payload, .. }, memory) => {
                    self.definitions().insert(function, Function::Pickled(payload, memory));
                }
                Next::Job(Job::Forget { function }, _) => {
                    // Outside of the lock: what it held may run any code when it goes.
                    let forgotten = self.definitions().remove(&function);
                    drop(forgotten);
                }
                Next::Job(Job::Run { task, lease, slot, function, attempt, payload, .. }, memory) => {
                    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    let clock = Instant::now();
                    let (success, made) = {
                        let _running = self.running.begin(task, lease, attempt);
                        match Armed::new(&self.interrupts, lease) {
                            None => interrupted(),
                            Some(_armed) => {
                                let called = self
                                    .loaded(function, &load)
                                    .and_then(|function| call(&run, &function, &payload, memory));
                                match called {
                                    Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => interrupted(),
                                    called => called?,
                                }
                            }
                        }
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
                    // What was just read goes back to the queue, for nothing of it has begun.
                    if execute.call_method0("is_stale")?.is_truthy()? {
                        return Ok("stale");
                    }
                }
            }
        }
    }
}

impl Worker {
    fn definitions(&self) -> MutexGuard<'_, BTreeMap<FunctionId, Function>> {
        lock(&self.definitions)
    }

    /// A function or shared value, which is unpickled when it is first needed.
    fn loaded(&self, id: FunctionId, load: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let py = load.py();
        let (payload, memory) = match self.definitions().get(&id) {
            Some(Function::Loaded(function)) => return Ok(function.clone_ref(py)),
            Some(Function::Pickled(payload, memory)) => (Arc::clone(payload), memory.clone()),
            None => return Err(PyRuntimeError::new_err("the host sent a task before its function")),
        };
        let shown = memory.map(|memory| Shown::new(memory));
        let function = load.call1((PyBytes::new(py, &payload), shown))?.unbind();
        let before = self.definitions().insert(id, Function::Loaded(function.clone_ref(py)));
        drop(before);
        Ok(function)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While this lives, an interrupt may hit the task.
struct Armed<'a>(&'a Mutex<Interrupts>);

impl<'a> Armed<'a> {
    /// `None`: the interrupt was faster.
    fn new(interrupts: &'a Mutex<Interrupts>, lease: Lease) -> Option<Self> {
        let armed = Self(interrupts);
        lock(interrupts).begin(lease).then_some(armed)
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        lock(self.0).end();
    }
}

/// The answer of a task that the host has resolved already, since it wants it interrupted.
fn interrupted<'py>() -> (bool, Made<'py>) {
    (false, Made::Small(Payload::default()))
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
