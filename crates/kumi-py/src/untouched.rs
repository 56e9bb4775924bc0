//! Whether a task has left its process as it was. Asked after each task, so it takes a fraction of a microsecond: what
//! has changed, and what to do about that, is for `reset.py` to find out.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

/// See the stub.
#[pyclass(frozen, module = "kumi._core")]
pub struct Untouched {
    directory: Option<OwnedFd>,
    environment: Option<(Py<PyDict>, Vec<Item>)>,
    filters: Option<Filters>,
    touched: AtomicBool,
}

/// A key and its value. They are kept alive, so no other objects can come to their places.
type Item = (Py<PyAny>, Py<PyAny>);

/// The dict of the module `warnings`, its list of filters, and what stood in that.
type Filters = (Py<PyDict>, Py<PyList>, Vec<Py<PyAny>>);

#[pymethods]
impl Untouched {
    #[new]
    #[pyo3(signature = (directory, environment, filters, /))]
    fn new(
        directory: Option<RawFd>,
        environment: Option<Bound<'_, PyDict>>,
        filters: Option<(Py<PyDict>, Bound<'_, PyList>)>,
    ) -> PyResult<Self> {
        // SAFETY: it is open, as the caller vouches, and only borrowed until it was copied.
        let directory = directory.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()).transpose()?;
        let environment = environment
            .map(|now| (now.clone().unbind(), now.iter().map(|(key, value)| (key.unbind(), value.unbind())).collect()));
        let filters =
            filters.map(|(module, list)| (module, list.clone().unbind(), list.iter().map(Bound::unbind).collect()));
        Ok(Self { directory, environment, filters, touched: AtomicBool::new(false) })
    }

    fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    pub fn check(&self, py: Python<'_>) -> PyResult<bool> {
        if let Some(directory) = &self.directory {
            // Going there costs less than asking where we are. Where that fails, `reset.py` says why.
            // SAFETY: an integer. A task may have closed what is ours: that is for the kernel to find.
            if unsafe { libc::fchdir(directory.as_raw_fd()) } != 0 {
                return Ok(false);
            }
        }
        if self.touched.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if let Some((now, before)) = &self.environment {
            if !same_items(now.bind(py), before) {
                return Ok(false);
            }
        }
        let Some((module, list, before)) = &self.filters else { return Ok(true) };
        let now = module.bind(py).get_item(pyo3::intern!(py, "filters"))?;
        Ok(now.is_some_and(|now| now.is(list)) && same_values(list.bind(py), before))
    }
}

/// Whether these are the very same objects in the same order. Not by pyo3's iterator, which takes three times as long.
fn same_items(now: &Bound<'_, PyDict>, before: &[Item]) -> bool {
    let (mut place, mut key, mut value) = (0, ptr::null_mut(), ptr::null_mut());
    let mut next = || {
        // SAFETY: a dict, while we hold the GIL and run no Python code; the pointers are valid, and what they are set to
        // is compared, never followed.
        let found = unsafe { pyo3::ffi::PyDict_Next(now.as_ptr(), &mut place, &mut key, &mut value) };
        (found != 0).then_some((key, value))
    };
    before.iter().all(|(old, was)| next() == Some((old.as_ptr(), was.as_ptr()))) && next().is_none()
}

fn same_values(now: &Bound<'_, PyList>, before: &[Py<PyAny>]) -> bool {
    now.len() == before.len() && now.iter().zip(before).all(|(value, was)| value.is(was))
}
