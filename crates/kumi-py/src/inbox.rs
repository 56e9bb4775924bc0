//! What event loops wait for.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use kumi_net::inbox::{self, Address};
use pyo3::prelude::*;

use crate::inside::check_alive;

/// See the stub.
#[pyclass(frozen, module = "kumi._core")]
pub struct Inbox {
    net: Arc<inbox::Inbox>,
}

impl Inbox {
    pub fn net(&self) -> &Arc<inbox::Inbox> {
        &self.net
    }

    /// Whom to tell: this event loop, or the thread that delivers.
    pub fn address(inbox: Option<&Bound<'_, Inbox>>) -> Address {
        inbox.map_or(Address::Deliverer, |inbox| Address::Loop(Arc::downgrade(&inbox.get().net)))
    }
}

#[pymethods]
impl Inbox {
    #[new]
    fn new() -> PyResult<Self> {
        check_alive()?;
        Ok(Self { net: Arc::new(inbox::Inbox::new()?) })
    }

    fn fileno(&self) -> i32 {
        self.net.fd().as_raw_fd()
    }

    #[pyo3(signature = (most, /))]
    fn take(&self, most: usize) -> Vec<u64> {
        self.net.take(most)
    }
}
