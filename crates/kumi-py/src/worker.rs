//! The worker's loop: takes tasks, has Python run them, answers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kumi_core::interrupts::Signal;
use kumi_core::{FunctionId, Interrupts, Job, Lease, Leave, Notes, Payload, Run};
use kumi_net::segments::Borrowed;
use kumi_net::worker::{Finished, Next, WorkerEnd, heed_notices, signal_myself};
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::here::Here;
use crate::inner::Inner;
use crate::inside::detached;
use crate::large::{Made, Packed, Shown};
use crate::pool::{host_name, python_version};
use crate::untouched::Untouched;

/// Above this, a result is sent without the GIL: the socket may have to be waited for.
pub const SENT_AT_ONCE: usize = 1 << 15;

/// A function as it came, or ready to be called.
enum Function {
    Pickled(Payload, Option<Arc<Borrowed>>),
    Loaded(Py<PyAny>),
}

/// What this process runs tasks with. Nothing of it is locked while Python runs: a task that waits runs others.
pub struct Serving {
    pub end: Arc<WorkerEnd>,
    running: Arc<Here>,
    /// What tasks name. Locked for a look only.
    definitions: Mutex<BTreeMap<FunctionId, Function>>,
    calls: OnceLock<Calls>,
    /// The process as tasks shall find it, as soon as the host has said what belongs to that.
    untouched: Mutex<Option<Py<Untouched>>>,
    /// Leave when the present task is answered.
    unfit: AtomicBool,
}

/// How Python runs a task.
struct Calls {
    load: Py<PyAny>,
    run: Py<PyAny>,
    prepare: Py<PyAny>,
    /// All of them, and what is done between tasks.
    execute: Py<PyAny>,
}

/// See the stub.
#[pyclass(frozen, module = "kumi._core")]
pub struct Worker {
    serving: Arc<Serving>,
}

#[pymethods]
impl Worker {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        let end = Arc::new(WorkerEnd::inherit(python_version(py), host_name())?);
        let (definitions, calls, untouched) = (Mutex::default(), OnceLock::new(), Mutex::default());
        let unfit = AtomicBool::new(false);
        let running = Here::found(Arc::clone(&end));
        Ok(Self { serving: Arc::new(Serving { end, running, definitions, calls, untouched, unfit }) })
    }

    #[getter]
    fn name(&self) -> String {
        self.serving.end.name()
    }

    /// `None`: no task runs, or its function is not there yet.
    fn function(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let id = self.serving.running.function()?;
        match self.serving.definitions().get(&id) {
            Some(Function::Loaded(function)) => Some(function.clone_ref(py)),
            Some(Function::Pickled(..)) | None => None,
        }
    }

    fn inner(&self) -> Inner {
        Inner::new(Arc::clone(&self.serving))
    }

    #[pyo3(signature = (number, load, /))]
    fn shared(&self, number: u64, load: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.serving.loaded(FunctionId::from_number(number), load)
    }

    fn take_interrupt(&self) -> bool {
        match lock(self.serving.end.interrupts()).take() {
            Signal::Interrupt => true,
            Signal::Late => false,
            Signal::Foreign => {
                self.leave_soon();
                false
            }
        }
    }

    fn leave_soon(&self) {
        self.serving.unfit.store(true, Ordering::Relaxed);
    }

    /// Runs tasks until the host says stop, or this process is not fit for the next one; returns the reason.
    #[pyo3(signature = (execute, /))]
    fn serve(&self, execute: &Bound<'_, PyAny>) -> PyResult<&'static str> {
        let (py, serving) = (execute.py(), &self.serving);
        let method = |name| execute.getattr(name).map(Bound::unbind);
        let calls = Calls {
            load: method("load")?,
            run: method("run")?,
            prepare: method("prepare")?,
            execute: execute.clone().unbind(),
        };
        serving.calls.set(calls).map_err(|_| PyRuntimeError::new_err("this worker serves already"))?;
        loop {
            if serving.unfit.load(Ordering::Relaxed) {
                // What is here goes back to the queue, for nothing of it has begun.
                return Ok("interrupted");
            }
            match serving.end.take()? {
                Next::Job(job, memory) => serving.run(py, job, memory)?,
                Next::Leave(leave) => return Ok(reason(leave)),
                Next::Wait => {
                    detached(py, || serving.end.wait(None, |half| half.has_job() || half.leaving().is_some()))?;
                    py.check_signals()?;
                    if let Some(reset) = serving.end.take_reset() {
                        serving.find_untouched(execute.call_method1("reset", (reset,))?)?;
                    }
                    // What was just read goes back to the queue, for nothing of it has begun.
                    if execute.call_method0("is_stale")?.is_truthy()? {
                        return Ok("stale");
                    }
                }
            }
        }
    }
}

impl Serving {
    /// Does a job. If it is a task, its answer is sent, or will be in a moment.
    pub fn run(&self, py: Python<'_>, job: Job, memory: Option<Arc<Borrowed>>) -> PyResult<()> {
        match job {
            Job::Define { function, payload, .. } => {
                self.definitions().insert(function, Function::Pickled(payload, memory));
                Ok(())
            }
            Job::Forget { function } => {
                // Outside of the lock: what it held may run any code when it goes.
                let forgotten = self.definitions().remove(&function);
                drop(forgotten);
                Ok(())
            }
            Job::Run { task, lease, slot, function, attempt, inline, payload, .. } => {
                let missing = || PyRuntimeError::new_err("this worker does not serve yet");
                let calls = self.calls.get().ok_or_else(missing)?;
                let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let clock = Instant::now();
                // If the task that waits is interrupted in the middle of this, the other one goes with it, answered too.
                let paused = self.pause(calls.execute.bind(py));
                let ((success, made), kept) = if paused.is_err() {
                    (interrupted(), None)
                } else {
                    let running = self.running.begin(task, lease, attempt, function);
                    let ran = match Armed::new(self.end.interrupts(), lease) {
                        None => interrupted(),
                        Some(_armed) => {
                            self.end.memory().task_begins()?;
                            let called = self
                                .loaded(function, calls.load.bind(py))
                                .and_then(|function| call(calls.run.bind(py), &function, &payload, memory));
                            match called {
                                Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => interrupted(),
                                called => called?,
                            }
                        }
                    };
                    (ran, running.end())
                };
                let (payload, segment) = match made {
                    Made::Small(payload) => (payload, None),
                    Made::Large(parts) => {
                        let reserve = |bytes| if inline { None } else { self.end.reserve(bytes) };
                        let Packed { payload, segment } = parts.pack(reserve);
                        (payload, segment)
                    }
                };
                let took = clock.elapsed();
                let notes = self.notes(py, lease, took, kept)?;
                let run = Run { started: nanoseconds(started), nanoseconds: nanoseconds(took), notes };
                let finished = Finished { lease, success, run, payload, segment };
                if finished.payload.len() > SENT_AT_ONCE || segment.is_some() {
                    detached(py, || self.end.finish(slot, finished))?;
                } else {
                    self.end.finish(slot, finished)?;
                }
                self.tidy(calls.execute.bind(py), paused?)
            }
            Job::Prepare { lease, slot, function, payload, .. } => {
                let missing = || PyRuntimeError::new_err("this worker does not serve yet");
                let calls = self.calls.get().ok_or_else(missing)?;
                let (error, payload) = match Armed::new(self.end.interrupts(), lease) {
                    None => unprepared(),
                    Some(_armed) => {
                        let prepared = self.loaded(function, calls.load.bind(py)).and_then(|function| {
                            let shown = memory.map(|memory| Shown::new(memory));
                            let prepared = calls.prepare.call1(py, (function, PyBytes::new(py, &payload), shown))?;
                            prepared.extract::<(String, Vec<u8>)>(py)
                        });
                        match prepared {
                            Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => unprepared(),
                            prepared => prepared?,
                        }
                    }
                };
                detached(py, || self.end.prepared(slot, lease, error, Arc::from(payload)))?;
                self.find_untouched(calls.execute.bind(py).call_method0("keep")?)
            }
        }
    }

    /// What there is to tell of a task besides, from what Python has kept while it ran. What the task has printed is sent.
    fn notes(
        &self,
        py: Python<'_>,
        lease: Lease,
        took: Duration,
        kept: Option<Py<PyDict>>,
    ) -> PyResult<Option<Box<Notes>>> {
        let peak = self.end.memory().peak_of(lease, took);
        let noted = |name| kept.as_ref().map(|kept| kept.bind(py).get_item(name)).transpose().map(Option::flatten);
        if let Some(unmark) = noted("unmark")? {
            unmark.call0()?;
        }
        let warned = noted("warned")?;
        if peak.is_none() && warned.is_none() {
            return Ok(None);
        }
        let warnings = warned.map(|warned| warned.call_method0("close")).transpose()?;
        let warnings = warnings.map(|bytes| bytes.extract::<Vec<u8>>()).transpose()?.unwrap_or_default();
        Ok(Some(Box::new(Notes { peak, warnings: Arc::from(warnings) })))
    }

    /// A task that waits for the one to be run must not be seen in it. What it had changed comes back.
    fn pause<'py>(&self, execute: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.running.is_idle() { Ok(None) } else { execute.call_method0("pause").map(Some) }
    }

    /// A task has ended: what it has changed in this process is put back. An interrupt does not hit this.
    fn tidy(&self, execute: &Bound<'_, PyAny>, paused: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        if let Some(paused) = paused {
            return execute.call_method1("resume", (paused,)).map(drop);
        }
        if self.end.memory().is_above() {
            self.unfit.store(true, Ordering::Relaxed);
        }
        let py = execute.py();
        let untouched = match &*lock(&self.untouched) {
            Some(untouched) => untouched.get().check(py)?,
            None => true,
        };
        if untouched {
            return Ok(());
        }
        self.find_untouched(execute.call_method0("put_back")?)?;
        Ok(heed_notices()?)
    }

    fn find_untouched(&self, found: Bound<'_, PyAny>) -> PyResult<()> {
        let before = lock(&self.untouched).replace(found.extract()?);
        drop(before);
        Ok(())
    }

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

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
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
        if lock(self.0).end() {
            signal_myself();
        }
    }
}

/// The answer of a task that the host has resolved already, since it wants it interrupted.
fn interrupted<'py>() -> (bool, Made<'py>) {
    (false, Made::Small(Payload::default()))
}

/// The same for a call of `everywhere`.
fn unprepared() -> (String, Vec<u8>) {
    (String::from("it was cancelled"), Vec::new())
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
