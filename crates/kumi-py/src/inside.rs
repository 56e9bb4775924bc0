//! Threads that wait in here without the GIL, the end of Python, and forks.
//!
//! A thread that attaches to an interpreter which is ending is ended by it in the middle of Rust frames, and that aborts
//! the process. So at the end every waiting thread is woken and let out, and one that is not out in time never attaches
//! again: it parks until the process is gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kumi_net::deliver::{self, Delivery};
use kumi_net::pool::{self, State};
use kumi_net::wait::{Waited, Wants};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

pyo3::create_exception!(
    kumi._core,
    PoolClosed,
    PyException,
    "The pool takes no more tasks: it was shut down or terminated, or this is a forked child, or Python is ending."
);

/// How long the end of Python waits for threads to leave. They are awake by then, so milliseconds are enough.
const LEAVE: Duration = Duration::from_secs(2);

static INSIDE: Mutex<usize> = Mutex::new(0);
static OUT: Condvar = Condvar::new();
/// Somebody waits for the others to leave: only then is it worth a system call to say so.
static LEAVING: AtomicBool = AtomicBool::new(false);
/// From now on whoever is inside stays there.
static GONE: AtomicBool = AtomicBool::new(false);
/// This process is a child: locks may be held for ever by threads that do not exist here.
static FORKED: AtomicBool = AtomicBool::new(false);

fn inside() -> MutexGuard<'static, usize> {
    INSIDE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses where nothing of ours may be touched any more.
pub fn check_alive() -> PyResult<()> {
    if FORKED.load(Ordering::Relaxed) {
        let text = "this process was forked from one that has controllers; it has none of them: make a new one here";
        return Err(PoolClosed::new_err(text));
    }
    if GONE.load(Ordering::Relaxed) {
        return Err(PoolClosed::new_err("Python is ending"));
    }
    Ok(())
}

/// Whether nothing of ours may be touched any more, for destructors.
pub fn is_dead() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Does something without the GIL, and comes back only to an interpreter that is not ending.
pub fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    *inside() += 1;
    let result = py.detach(|| {
        let result = work();
        while GONE.load(Ordering::Acquire) {
            std::thread::park();
        }
        result
    });
    *inside() -= 1;
    if LEAVING.load(Ordering::Relaxed) {
        OUT.notify_all();
    }
    result
}

/// A span of Python's, which may be any float.
pub fn span(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// Waits until `check` finds something; `None` if it did not within the time, or nothing will happen any more.
pub fn wait_for<R: Send>(
    py: Python<'_>,
    pool: &pool::Pool,
    wants: Wants,
    timeout: Option<f64>,
    mut check: impl FnMut(&mut State) -> Option<R> + Send,
) -> PyResult<Option<R>> {
    check_alive()?;
    let deadline = timeout.and_then(|seconds| Instant::now().checked_add(span(seconds)));
    loop {
        match detached(py, || pool.wait(wants, deadline, &mut check))? {
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
    check_alive()?;
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
        Delivery::Output { worker, stderr, bytes } => {
            Ok((worker, stderr, PyBytes::new(py, &bytes)).into_pyobject(py)?.into_any().unbind())
        }
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
    if is_dead() {
        return;
    }
    py.detach(|| {
        LEAVING.store(true, Ordering::SeqCst);
        pool::wake_everyone();
        let deadline = Instant::now() + LEAVE;
        let mut count = inside();
        while *count > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            count = OUT.wait_timeout(count, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        GONE.store(true, Ordering::Release);
    });
}

/// See the stub.
#[pyfunction]
pub fn forked() {
    FORKED.store(true, Ordering::Release);
}
