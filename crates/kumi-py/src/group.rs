//! Tasks that belong together, as the elements of a map do.

use kumi_core::{GroupId, TaskId};
use pyo3::prelude::*;

use crate::inner::Inner;
use crate::inside::{check, detached, with};
use crate::pool::Pool;

/// See the stub.
#[pyclass(frozen, module = "kumi._core")]
pub struct Group {
    home: Home,
}

/// Who was given its tasks.
enum Home {
    Pool(Py<Pool>, GroupId),
    Inner(Py<Inner>, u64),
}

impl Group {
    /// What the brain knows it by; nothing, where tasks of a worker's belong to it.
    pub fn id(&self) -> Option<GroupId> {
        match &self.home {
            Home::Pool(_, id) => Some(*id),
            Home::Inner(..) => None,
        }
    }

    /// What the worker knows it by.
    pub fn number(&self) -> Option<u64> {
        match &self.home {
            Home::Pool(..) => None,
            Home::Inner(_, number) => Some(*number),
        }
    }
}

#[pymethods]
impl Group {
    #[new]
    #[pyo3(signature = (pool, /))]
    fn new(pool: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = pool.py();
        let home = if let Ok(pool) = pool.cast::<Pool>() {
            let id = with(py, pool.get().net(), |state, _| state.brain.open_group())?;
            Home::Pool(pool.clone().unbind(), id)
        } else {
            let inner = pool.cast::<Inner>()?;
            Home::Inner(inner.clone().unbind(), inner.get().open_group()?)
        };
        Ok(Self { home })
    }

    fn unite(&self, py: Python<'_>) -> PyResult<()> {
        match &self.home {
            Home::Pool(pool, id) => {
                let (id, net) = (*id, pool.get().net());
                check(net)?;
                detached(py, || net.with(|state, now| state.brain.unite_group(now, id)));
                Ok(())
            }
            Home::Inner(inner, number) => inner.get().unite_group(*number),
        }
    }

    fn promise(&self, py: Python<'_>) -> PyResult<()> {
        let Home::Pool(pool, id) = &self.home else { return Ok(()) };
        let id = *id;
        with(py, pool.get().net(), move |state, _| state.brain.promise(id))
    }

    fn keep_promise(&self, py: Python<'_>) -> PyResult<()> {
        let Home::Pool(pool, id) = &self.home else { return Ok(()) };
        let (id, net) = (*id, pool.get().net());
        check(net)?;
        detached(py, || net.keep_promise(id));
        Ok(())
    }

    fn first_failure(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        match &self.home {
            Home::Pool(pool, id) => {
                let id = *id;
                let found = with(py, pool.get().net(), move |state, _| state.brain.first_failure(id))?;
                Ok(found.map(TaskId::number))
            }
            Home::Inner(inner, number) => inner.get().first_failure(*number),
        }
    }

    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        match &self.home {
            Home::Pool(pool, id) => {
                let (id, net) = (*id, pool.get().net());
                check(net)?;
                detached(py, || net.cancel_group(id));
                Ok(())
            }
            Home::Inner(inner, number) => inner.get().cancel_group(*number),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        match &self.home {
            Home::Pool(pool, id) => {
                let net = pool.get().net();
                if !net.is_foreign() {
                    net.release_group(*id);
                }
            }
            Home::Inner(inner, number) => inner.get().close_group(*number),
        }
    }
}
