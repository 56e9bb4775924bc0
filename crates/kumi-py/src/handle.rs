//! One task, seen from the host.

use std::cell::OnceCell;
use std::sync::Arc;

use kumi_core::{GroupId, NewTask, Outcome, SubmitError, TaskId, Terms};
use kumi_net::wait::Wants;
use pyo3::exceptions::PyTimeoutError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use pyo3::{PyTraverseError, PyVisit};

use crate::facts::{Facts, Most, parts, word};
use crate::group::Group;
use crate::inbox::Inbox;
use crate::inner::{Child, Inner};
use crate::inside::{ControllerClosed, check, detached, span, wait_for, with};
use crate::large::{Entry, Made, Shown};
use crate::pool::{Function, Pool, QueueFull};

/// A report's number and what it says.
type News<'py> = (u64, Bound<'py, PyBytes>);

/// What a call of `everywhere` results in: None, pickled.
const NONE: &[u8] = b"\x80\x05N.";

/// Nobody will wait for room here: there will be none.
pub const OVER: &str = "the group takes no more tasks";

/// An outcome's code, what belongs to it, and where the rest of that lies.
type Ending<'py> = (u8, Bound<'py, PyBytes>, Option<Shown>);

/// See the stub.
#[pyclass(frozen, subclass, module = "kumi._core")]
pub struct Handle {
    home: Home,
    function: Py<Function>,
    name: Option<Py<PyString>>,
    kept: Kept,
}

/// What was made of the outcome. No more than a pointer, for there may be a million.
#[derive(Default)]
struct Kept(OnceCell<Py<PyAny>>);

// SAFETY: `get` and `put` want the GIL, and let nobody else have it; Python holds it when it calls `__traverse__`.
unsafe impl Sync for Kept {}

impl Kept {
    fn get<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.0.get().map(|kept| kept.bind(py).clone())
    }

    /// Another thread may have been first: everybody gets the same.
    fn put<'py>(&self, made: Bound<'py, PyAny>) -> Bound<'py, PyAny> {
        let late = self.0.set(made.clone().unbind()).is_err();
        if late { self.get(made.py()).unwrap_or(made) } else { made }
    }
}

/// Who was given the task.
enum Home {
    Pool(Py<Pool>, TaskId),
    /// The controller of the task that runs here.
    Inner(Box<Nested>),
}

/// A task that a task in this worker has submitted. Apart, for there may be a million of the others.
struct Nested {
    inner: Py<Inner>,
    child: Child,
}

#[pymethods]
impl Handle {
    #[new]
    #[pyo3(signature = (pool, function, payload, name, crashes_max, limits, kept, wait, everywhere=false, group=None, /))]
    #[allow(clippy::too_many_arguments)] // By position, because this is the hottest call of all.
    fn new(
        pool: &Bound<'_, PyAny>,
        function: &Bound<'_, Function>,
        payload: &Bound<'_, PyAny>,
        name: Option<Py<PyString>>,
        crashes_max: Option<Most>,
        limits: Option<(Option<f64>, Option<f64>, bool)>,
        kept: bool,
        wait: bool,
        everywhere: bool,
        group: Option<&Bound<'_, Group>>,
    ) -> PyResult<Self> {
        let py = function.py();
        let made = Made::of(payload)?;
        let (seconds_run, seconds_total, once) = limits.unwrap_or_default();
        let (seconds_run, seconds_total) = (seconds_run.map(span), seconds_total.map(span));
        let terms = Terms { crashes_max: crashes_max.map(Most::into), once, seconds_run, seconds_total };
        let Ok(pool) = pool.cast::<Pool>() else {
            let inner = pool.cast::<Inner>()?;
            let number = group.and_then(|group| group.get().number());
            let child = inner.get().submit(py, function.get(), terms, made, number)?;
            let home = Home::Inner(Box::new(Nested { inner: inner.clone().unbind(), child }));
            return Ok(Self { home, function: function.clone().unbind(), name, kept: Kept::default() });
        };
        let net = pool.get().net();
        let (room, group) = (made.bytes(), group.and_then(|group| group.get().id()));
        if matches!(made, Made::Large(_)) {
            // Memory is taken when there is room, not before.
            wait_for_room(py, net, room, group, wait)?;
        }
        let entry = Entry::new(net, made);
        let new = NewTask {
            function: function.get().id(),
            payload: Arc::clone(&entry.payload),
            large: entry.large(),
            crashes_max: terms.crashes_max,
            once: terms.once,
            name: name.as_ref().map(|name| Arc::from(name.bind(py).to_string_lossy().as_ref())),
            kept,
            group,
            seconds_run: terms.seconds_run,
            seconds_total: terms.seconds_total,
        };
        loop {
            let new = new.clone();
            let submit = move |state: &mut kumi_net::pool::State, now| {
                if everywhere {
                    state.brain.everywhere(now, new, Arc::from(NONE))
                } else {
                    state.brain.submit(now, new)
                }
            };
            match with(py, net, submit)? {
                Ok(id) => {
                    entry.handed_over();
                    let home = Home::Pool(pool.clone().unbind(), id);
                    return Ok(Self { home, function: function.clone().unbind(), name, kept: Kept::default() });
                }
                Err(SubmitError::Full) => wait_for_room(py, net, room, group, wait)?,
                Err(SubmitError::Over) => return Err(QueueFull::new_err(OVER)),
                Err(SubmitError::Closed) => {
                    return Err(ControllerClosed::new_err("the controller takes no more tasks"));
                }
                Err(SubmitError::NoFunction) => {
                    return Err(ControllerClosed::new_err("the function belongs to another controller"));
                }
            }
        }
    }

    /// The task's number, unique within its controller.
    #[getter]
    fn id(&self) -> u64 {
        match &self.home {
            Home::Pool(_, id) => id.number(),
            Home::Inner(nested) => nested.child.number,
        }
    }

    #[getter]
    fn pool(&self, py: Python<'_>) -> Py<PyAny> {
        match &self.home {
            Home::Pool(pool, _) => pool.clone_ref(py).into_any(),
            Home::Inner(nested) => nested.inner.clone_ref(py).into_any(),
        }
    }

    /// The label that `with_options(name=...)` gave it, or None.
    #[getter]
    fn name(&self, py: Python<'_>) -> Option<Py<PyString>> {
        self.name.as_ref().map(|name| name.clone_ref(py))
    }

    /// The function's qualified name.
    #[getter]
    fn label(&self) -> &str {
        self.function.get().name()
    }

    /// How far it has come: "waiting", "running", or how it ended, as `Record.status`.
    fn state(&self, py: Python<'_>) -> PyResult<&'static str> {
        match &self.home {
            Home::Pool(pool, id) => {
                let id = *id;
                let net = pool.get().net();
                let (found, away) = with(py, net, move |state, _| match state.brain.outcome(id) {
                    Some(outcome) => (word(outcome), false),
                    None if state.brain.is_running(id) => ("running", false),
                    None => ("waiting", state.brain.is_away(id)),
                })?;
                let runs = away && detached(py, || net.is_running(id));
                Ok(if runs { "running" } else { found })
            }
            Home::Inner(nested) => nested.inner.get().state(&nested.child),
        }
    }

    /// Whether it has ended, however.
    fn done(&self, py: Python<'_>) -> PyResult<bool> {
        match &self.home {
            Home::Pool(pool, id) => {
                let id = *id;
                with(py, pool.get().net(), move |state, _| state.brain.is_done(id))
            }
            Home::Inner(nested) => nested.inner.get().done(py, &nested.child),
        }
    }

    /// Whether it was done within so many seconds; None: however long that takes.
    #[pyo3(signature = (timeout, /))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let (id, net) = match &self.home {
            Home::Pool(pool, id) => (*id, pool.get().net()),
            Home::Inner(nested) => return nested.inner.get().wait(py, &nested.child, timeout),
        };
        if with(py, net, move |state, _| state.brain.is_done(id))? {
            return Ok(true);
        }
        let watched = move |state: &mut kumi_net::pool::State| (!state.brain.watch(id)).then_some(());
        let done = wait_for(py, net, Wants::Task(id), timeout, watched)?.is_some();
        if !done && timeout.is_none() {
            return Err(ControllerClosed::new_err("Python is ending before the task has"));
        }
        Ok(done)
    }

    #[pyo3(signature = (timeout, decode, /))]
    fn ending<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<f64>,
        decode: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        if let Some(kept) = this.kept.get(py) {
            return Ok(kept);
        }
        let (code, payload, memory) = match this.outcome(py)? {
            Some(outcome) => outcome,
            None => this.outcome_within(py, timeout)?.ok_or_else(|| late(slf, timeout))?,
        };
        Ok(this.kept.put(decode.call1((slf, code, payload, memory))?))
    }

    fn outcome<'py>(&self, py: Python<'py>) -> PyResult<Option<Ending<'py>>> {
        let (id, net) = match &self.home {
            Home::Pool(pool, id) => (*id, pool.get().net()),
            Home::Inner(nested) => {
                let found = nested.inner.get().outcome(&nested.child)?;
                return Ok(found.map(|(code, payload)| (code, PyBytes::new(py, &payload), None)));
            }
        };
        let found = with(py, net, move |state, _| {
            state.brain.see(id);
            let (code, payload) = state.brain.outcome(id).map(parts)?;
            Some((code, payload, net.result_memory(state, id)))
        })?;
        let shown = |memory| Shown::new(Arc::new(memory));
        Ok(found.map(|(code, payload, memory)| (code, PyBytes::new(py, &payload), memory.map(shown))))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // No `__clear__`: only a value that can be changed can lead back to its task, and Python clears that one.
        visit.call(self.kept.0.get())
    }

    fn cancel(&self, py: Python<'_>) -> PyResult<bool> {
        match &self.home {
            Home::Pool(pool, id) => {
                let net = pool.get().net();
                check(net)?;
                Ok(detached(py, || net.cancel(*id)))
            }
            Home::Inner(nested) => nested.inner.get().cancel(py, &nested.child),
        }
    }

    #[pyo3(signature = (inbox=None, /))]
    fn watch(&self, py: Python<'_>, inbox: Option<&Bound<'_, Inbox>>) -> PyResult<Option<u64>> {
        let address = Inbox::address(inbox);
        match &self.home {
            Home::Pool(pool, id) => {
                let id = *id;
                with(py, pool.get().net(), move |state, now| state.watch(now, id, address))
            }
            Home::Inner(nested) => nested.inner.get().watch(&nested.child, address),
        }
    }

    fn last_report<'py>(&self, py: Python<'py>) -> PyResult<Option<News<'py>>> {
        // What a child of this worker's says is kept by the host.
        let Home::Pool(pool, id) = &self.home else { return Ok(None) };
        let id = *id;
        let found = with(py, pool.get().net(), move |state, _| state.brain.report(id).cloned())?;
        Ok(found.map(|report| (report.number, PyBytes::new(py, &report.payload))))
    }

    #[pyo3(signature = (seen, /))]
    fn next_report<'py>(&self, py: Python<'py>, seen: u64) -> PyResult<Option<News<'py>>> {
        let (id, net) = match &self.home {
            Home::Pool(pool, id) => (*id, pool.get().net()),
            Home::Inner(nested) => return nested.inner.get().wait(py, &nested.child, None).map(|_| None),
        };
        let found = wait_for(py, net, Wants::Task(id), None, move |state| {
            match state.brain.report(id).filter(|report| report.number > seen) {
                Some(report) => Some(Some(report.clone())),
                None => (!state.brain.watch(id)).then_some(None),
            }
        })?;
        let found = found.ok_or_else(|| ControllerClosed::new_err("Python is ending before the task has"))?;
        Ok(found.map(|report| (report.number, PyBytes::new(py, &report.payload))))
    }

    #[pyo3(signature = (seen, inbox, /))]
    fn watch_report(&self, py: Python<'_>, seen: u64, inbox: &Bound<'_, Inbox>) -> PyResult<Option<u64>> {
        let address = Inbox::address(Some(inbox));
        match &self.home {
            Home::Pool(pool, id) => {
                let id = *id;
                with(py, pool.get().net(), move |state, now| state.follow(now, id, seen, address))
            }
            Home::Inner(nested) => nested.inner.get().watch(&nested.child, address),
        }
    }

    fn facts(&self, py: Python<'_>) -> PyResult<Option<Facts>> {
        match &self.home {
            Home::Pool(pool, id) => {
                let (id, net) = (*id, pool.get().net());
                let view = with(py, net, move |state, _| {
                    let view = state.brain.view(id)?;
                    state.brain.see(id);
                    Some(view)
                })?;
                let at = |time| net.unix_seconds(time);
                Ok(view.map(|view| Facts::new(&view, at(view.submitted), at(view.finished))))
            }
            Home::Inner(nested) => nested.inner.get().facts(&nested.child, self.label()),
        }
    }
}

impl Handle {
    fn outcome_within<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Option<Ending<'py>>> {
        if self.wait(py, timeout)? { self.outcome(py) } else { Ok(None) }
    }
}

fn late(task: &Bound<'_, Handle>, timeout: Option<f64>) -> PyErr {
    let seconds = timeout.unwrap_or_default();
    PyTimeoutError::new_err(format!("{task:?} was not done within {seconds} seconds; it goes on"))
}

/// Returns when there is room for so many bytes, or when there is nothing to wait for in this group; or raises.
fn wait_for_room(
    py: Python<'_>,
    net: &kumi_net::pool::Pool,
    bytes: u64,
    group: Option<GroupId>,
    wait: bool,
) -> PyResult<()> {
    if with(py, net, move |state, _| state.brain.has_room(bytes))? {
        return Ok(());
    }
    if !wait {
        return Err(QueueFull::new_err("the queue is full"));
    }
    let found = wait_for(py, net, Wants::Any, None, move |state| {
        (state.brain.has_room(bytes) || state.brain.is_over(group)).then_some(())
    })?;
    found.ok_or_else(|| ControllerClosed::new_err("the controller ended"))
}

impl Drop for Handle {
    fn drop(&mut self) {
        match &self.home {
            Home::Pool(pool, id) => {
                let net = pool.get().net();
                if !net.is_foreign() {
                    net.release_task(*id);
                }
            }
            Home::Inner(nested) => nested.inner.get().release(&nested.child),
        }
    }
}

/// What a task that was run in this process came to.
pub fn outcome_here(success: bool, payload: &[u8]) -> Outcome {
    if success { Outcome::Success(Arc::from(payload)) } else { Outcome::Error(Arc::from(payload)) }
}
