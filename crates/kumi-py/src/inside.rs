//! Threads that wait in here without the GIL, the end of Python, and forks.
//!
//! A thread that attaches to an interpreter which is ending is ended by it in the middle of Rust frames, and that aborts
//! the process. So at the end every waiting thread is woken and let out, and one that is not out in time never attaches
//! again: it parks until the process is gone.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kumi_net::deliver::{self, Delivery};
use kumi_net::fork;
use kumi_net::pool::{self, State};
use kumi_net::wait::{Waited, Wants};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

pyo3::import_exception!(kumi.errors, ControllerClosed);

/// How long the end of Python waits for threads to leave. They are awake by then, so milliseconds are enough.
const LEAVE: Duration = Duration::from_secs(2);

/// How many threads are inside. No lock: a thread that forks would have to hold it, and Python may let other threads run
/// between its hooks, which would wait for that lock with the GIL that the forking thread waits for.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
static DOOR: Mutex<()> = Mutex::new(());
static OUT: Condvar = Condvar::new();
/// Somebody waits for the others to leave: only then is it worth a system call to say so.
static LEAVING: AtomicBool = AtomicBool::new(false);
/// From now on whoever is inside stays there.
static GONE: AtomicBool = AtomicBool::new(false);

fn door() -> MutexGuard<'static, ()> {
    DOOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses when Python is ending.
pub fn check_alive() -> PyResult<()> {
    if GONE.load(Ordering::Relaxed) {
        return Err(ControllerClosed::new_err("Python is ending"));
    }
    Ok(())
}

/// Refuses where this pool may not be touched any more.
pub fn check(pool: &pool::Pool) -> PyResult<()> {
    if pool.is_foreign() {
        let text = "it belongs to the process that this one was forked from";
        return Err(ControllerClosed::new_err(text));
    }
    check_alive()
}

/// Does something without the GIL, and comes back only to an interpreter that is not ending.
pub fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    INSIDE.fetch_add(1, Ordering::SeqCst);
    let result = py.detach(|| {
        let result = work();
        while GONE.load(Ordering::Acquire) {
            std::thread::park();
        }
        result
    });
    INSIDE.fetch_sub(1, Ordering::SeqCst);
    // Whoever waits has said so before it looked at the number, and looks while it holds the door.
    if LEAVING.load(Ordering::SeqCst) {
        drop(door());
        OUT.notify_all();
    }
    result
}

/// A span of Python's, which may be any float.
pub fn span(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// Waits until `found` finds something; `None` if it did not within the time, or nothing will happen any more.
pub fn wait_for<R: Send>(
    py: Python<'_>,
    pool: &pool::Pool,
    wants: Wants,
    timeout: Option<f64>,
    mut found: impl FnMut(&mut State) -> Option<R> + Send,
) -> PyResult<Option<R>> {
    check(pool)?;
    let deadline = timeout.and_then(|seconds| Instant::now().checked_add(span(seconds)));
    loop {
        match detached(py, || pool.wait(wants, deadline, &mut found))? {
            Waited::Done(found) => return Ok(Some(found)),
            Waited::TimedOut => return Ok(None),
            Waited::Signal => py.check_signals()?,
        }
    }
}

/// Does something with the state without ever waiting for its lock while holding the GIL.
pub fn with<R: Send>(
    py: Python<'_>,
    pool: &pool::Pool,
    work: impl FnOnce(&mut State, kumi_core::Time) -> R + Send,
) -> PyResult<R> {
    check(pool)?;
    match pool.try_with(work) {
        Ok(result) => Ok(result),
        Err(work) => Ok(detached(py, || pool.with(work))),
    }
}

/// See the stub.
#[pyfunction]
pub fn next_deliveries(py: Python<'_>) -> PyResult<Option<Vec<Py<PyAny>>>> {
    check_alive()?;
    let Some(news) = detached(py, deliver::take) else {
        return Ok(None);
    };
    let convert = |delivery| match delivery {
        Delivery::Resolved(token) => Ok(token.into_pyobject(py)?.into_any().unbind()),
        Delivery::Output { route, worker, stderr, piece } => {
            let writer = piece.writer.map(|writer| (writer.task, writer.name.clone()));
            let output = (worker, stderr, PyBytes::new(py, &piece.bytes), writer, route.forward);
            Ok(output.into_pyobject(py)?.into_any().unbind())
        }
        Delivery::Notice(text) => Ok(text.into_pyobject(py)?.into_any().unbind()),
    };
    news.into_iter().map(convert).collect::<PyResult<Vec<_>>>().map(Some)
}

/// See the stub.
#[pyfunction]
pub fn end_deliveries() {
    deliver::end();
}

/// See the stub.
#[pyfunction]
pub fn leave(py: Python<'_>) {
    py.detach(|| {
        pool::end_everyone(LEAVE);
        LEAVING.store(true, Ordering::SeqCst);
        pool::wake_everyone();
        let deadline = Instant::now() + LEAVE;
        let mut held = door();
        while INSIDE.load(Ordering::SeqCst) > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            held = OUT.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        GONE.store(true, Ordering::Release);
    });
}

/// See the stub.
#[pyfunction]
pub fn before_fork() {
    fork::before();
}

/// See the stub.
#[pyfunction]
pub fn after_fork_in_parent() {
    fork::in_parent();
}

/// See the stub.
#[pyfunction]
pub fn after_fork_in_child() {
    // Whoever was inside is so in the parent.
    INSIDE.store(0, Ordering::SeqCst);
    fork::in_child();
}
