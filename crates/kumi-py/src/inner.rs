//! The controller of the task that runs here, seen from inside of it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kumi_core::children::{Children, State};
use kumi_core::{Payload, SegmentId, SubmitError, TaskView, Terms};
use kumi_net::inbox::Address;
use kumi_net::segments::Segment;
use kumi_net::wait::Waited;
use kumi_net::worker::{Next, WorkerEnd};
use pyo3::prelude::*;

use crate::facts::{CANCEL, Facts, parts, word};
use crate::handle::OVER;
use crate::inside::{ControllerClosed, check_alive, detached, span};
use crate::large::Made;
use crate::pool::{Function, QueueFull};
use crate::worker::{SENT_AT_ONCE, Serving};

/// See the stub.
#[pyclass(frozen, module = "kumi._core")]
pub struct Inner {
    serving: Arc<Serving>,
}

/// A task that the running task has submitted.
pub struct Child {
    pub number: u64,
    submitted: SystemTime,
}

impl Inner {
    pub fn new(serving: Arc<Serving>) -> Self {
        Self { serving }
    }

    fn end(&self) -> PyResult<&Arc<WorkerEnd>> {
        if self.serving.end.is_foreign() {
            return Err(ControllerClosed::new_err(
                "this process was forked by a task, and a fork is no task: submit in the task itself, or open a \
                 controller of this process's own, as in `with kumi.daemons(2):`",
            ));
        }
        check_alive()?;
        Ok(&self.serving.end)
    }

    pub fn submit(
        &self,
        py: Python<'_>,
        function: &Function,
        terms: Terms,
        made: Made<'_>,
        group: Option<u64>,
    ) -> PyResult<Child> {
        let end = self.end()?;
        let (submitted, payload) = (SystemTime::now(), whole(made));
        let number = unhurried(py, payload.len(), || end.submit(function.number(), terms, payload, group))?;
        let number = number.map_err(|error| match error {
            SubmitError::Over => QueueFull::new_err(OVER),
            _ => ControllerClosed::new_err(
                "no task is running in this worker any more, so nobody is there to submit for: a thread that submits \
                 must end before its task does",
            ),
        })?;
        Ok(Child { number, submitted })
    }

    fn view(&self, child: &Child, label: &str) -> PyResult<Option<TaskView>> {
        Ok(match self.end()?.child(child.number) {
            State::Done(done) => Some(TaskView::of_child(Arc::from(label), &done.0, &done.1)),
            State::Open | State::Lost => None,
        })
    }

    pub fn state(&self, child: &Child) -> PyResult<&'static str> {
        Ok(match self.end()?.child(child.number) {
            State::Open => "waiting",
            State::Done(done) => word(&TaskView::of_child(Arc::from(""), &done.0, &done.1).outcome),
            State::Lost => "cancel",
        })
    }

    /// Looks first what has come: nobody may have read it.
    pub fn done(&self, py: Python<'_>, child: &Child) -> PyResult<bool> {
        self.wait_elsewhere(py, child, Some(Instant::now()))
    }

    pub fn outcome(&self, child: &Child) -> PyResult<Option<(u8, Payload)>> {
        if let State::Lost = self.end()?.child(child.number) {
            let text = "the task that submitted it has ended, and nobody there is told any more";
            return Ok(Some((CANCEL, Arc::from(text.as_bytes()))));
        }
        Ok(self.view(child, "")?.map(|view| parts(&view.outcome)))
    }

    pub fn facts(&self, child: &Child, label: &str) -> PyResult<Option<Facts>> {
        Ok(self.view(child, label)?.map(|view| {
            let submitted = child.submitted.duration_since(UNIX_EPOCH).unwrap_or_default();
            // The host's clock began to count when it heard of the task.
            let counted = submitted + view.finished.since(view.submitted);
            let ended = view.run.as_ref().map_or(0, |run| run.started.saturating_add(run.nanoseconds));
            let finished = counted.max(Duration::from_nanos(ended));
            Facts::new(&view, submitted.as_secs_f64(), finished.as_secs_f64())
        }))
    }

    pub fn wait(&self, py: Python<'_>, child: &Child, timeout: Option<f64>) -> PyResult<bool> {
        let deadline = timeout.and_then(|seconds| Instant::now().checked_add(span(seconds)));
        let end = self.end()?;
        if !is_open(end, child) {
            return Ok(true);
        }
        if timeout.is_some_and(|seconds| seconds <= 0.0) {
            return self.wait_elsewhere(py, child, deadline);
        }
        if end.runs_here() && !in_async_code(py)? {
            end.begin_wait(child.number)?;
            let waited = self.run_descendants(py, child, deadline);
            end.end_wait(child.number)?;
            return waited;
        }
        end.begin_wait_elsewhere(child.number)?;
        let waited = self.wait_elsewhere(py, child, deadline);
        end.end_wait_elsewhere(child.number)?;
        waited
    }

    /// Until this child is done, the main thread runs what the waiting task and its children have submitted.
    fn run_descendants(&self, py: Python<'_>, child: &Child, deadline: Option<Instant>) -> PyResult<bool> {
        let end = self.end()?;
        while is_open(end, child) {
            if deadline.is_some_and(|at| at <= Instant::now()) {
                return Ok(false);
            }
            if let Next::Job(job, memory) = end.take()? {
                self.serving.run(py, job, memory)?;
                // The waiting task may have been cancelled meanwhile.
                py.check_signals()?;
                continue;
            }
            let number = child.number;
            let ready = |half: &mut kumi_core::WorkerHalf| half.has_job() || !half.children().is_open(number);
            match detached(py, || end.wait(deadline, ready))? {
                Waited::Done(()) => {}
                Waited::TimedOut => return Ok(false),
                Waited::Signal => py.check_signals()?,
            }
        }
        Ok(true)
    }

    fn wait_elsewhere(&self, py: Python<'_>, child: &Child, deadline: Option<Instant>) -> PyResult<bool> {
        let (end, number) = (self.end()?, child.number);
        loop {
            match detached(py, || end.wait(deadline, |half| !half.children().is_open(number)))? {
                Waited::Done(()) => return Ok(true),
                Waited::TimedOut => return Ok(false),
                Waited::Signal => {
                    py.check_signals()?;
                    check_alive()?;
                }
            }
        }
    }

    pub fn cancel(&self, py: Python<'_>, child: &Child) -> PyResult<bool> {
        self.end()?.cancel(child.number)?;
        // The answer is under way already, or will be in a moment.
        self.wait_elsewhere(py, child, None)?;
        Ok(self.state(child)? == "cancel")
    }

    pub fn watch(&self, child: &Child, address: Address) -> PyResult<Option<u64>> {
        Ok(self.end()?.watch(child.number, address)?)
    }

    pub fn open_group(&self) -> PyResult<u64> {
        Ok(self.end()?.children(Children::open_group))
    }

    pub fn close_group(&self, group: u64) {
        if !self.serving.end.is_foreign() {
            self.serving.end.children(|children| children.close_group(group));
        }
    }

    pub fn unite_group(&self, group: u64) -> PyResult<()> {
        Ok(self.end()?.unite_group(group)?)
    }

    pub fn cancel_group(&self, group: u64) -> PyResult<()> {
        Ok(self.end()?.cancel_group(group)?)
    }

    pub fn first_failure(&self, group: u64) -> PyResult<Option<u64>> {
        Ok(self.end()?.children(|children| children.first_failure(group)))
    }

    pub fn release(&self, child: &Child) {
        if !self.serving.end.is_foreign() {
            self.serving.end.release(child.number);
        }
    }
}

#[pymethods]
impl Inner {
    #[getter]
    fn name(&self) -> String {
        let worker = self.serving.end.name();
        worker.rsplit_once('-').map_or(worker.as_str(), |(controller, _)| controller).to_owned()
    }

    #[pyo3(signature = (payload, label, /))]
    fn define(&self, payload: &Bound<'_, PyAny>, label: String) -> PyResult<Function> {
        let (py, end) = (payload.py(), self.end()?);
        let payload = whole(Made::of(payload)?);
        let number = unhurried(py, payload.len(), || end.declare(label.clone(), payload))?;
        Ok(Function::inner(Arc::clone(&self.serving), number, label))
    }
}

/// What is large is sent without the GIL: the socket may have to be waited for.
fn unhurried<T: Send>(py: Python<'_>, bytes: usize, send: impl FnOnce() -> io::Result<T> + Send) -> PyResult<T> {
    Ok(if bytes > SENT_AT_ONCE { detached(py, send)? } else { send()? })
}

/// With everything in it: what goes from worker to worker passes through the host.
fn whole(made: Made<'_>) -> Payload {
    match made {
        Made::Small(payload) => payload,
        Made::Large(parts) => parts.pack(|_| None::<(SegmentId, Arc<Segment>)>).payload,
    }
}

/// Whether an event loop runs in this thread. What runs within its wait could not open one of its own.
fn in_async_code(py: Python<'_>) -> PyResult<bool> {
    py.import("kumi.loops")?.call_method0("running")?.is_truthy()
}

fn is_open(end: &WorkerEnd, child: &Child) -> bool {
    end.children(|children| children.is_open(child.number))
}
