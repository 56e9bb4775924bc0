//! The agent of a remote worker, seen from Python.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use kumi_net::agent::{self, Ended, Plan};
use kumi_net::log::Shelf;
use kumi_net::tls::{self, Trust};
use pyo3::exceptions::{PyConnectionError, PyValueError};
use pyo3::prelude::*;

use crate::inside::{detached, span};
use crate::pool::{command, host_name, python_version};

/// See the stub.
#[pyfunction]
#[pyo3(signature = (host, port, code, argv, environment, /, *, fingerprint, authorities, index, seconds_connect, log_directory,
                    talkative))]
#[allow(clippy::too_many_arguments)] // By name, as in the stub.
pub fn run_agent(
    py: Python<'_>,
    host: String,
    port: u16,
    code: &str,
    argv: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    fingerprint: Option<&str>,
    authorities: &[u8],
    index: Option<u32>,
    seconds_connect: f64,
    log_directory: Option<(PathBuf, bool)>,
    talkative: bool,
) -> PyResult<Option<i32>> {
    let plan = Plan {
        host,
        port,
        config: tls::client(trust(fingerprint, authorities)?)?,
        // The text would show a part of the secret.
        code: code.parse().map_err(|()| PyValueError::new_err("this is no join code: kumi-<number>-<64 digits>"))?,
        index,
        command: command(argv, environment, None)?,
        python: python_version(py),
        machine: host_name(),
        patience: span(seconds_connect),
        shelf: log_directory.map(|(directory, tidy)| Shelf { directory, tidy }),
        talkative,
    };
    let ended = detached(py, || agent::run(plan));
    match ended.map_err(|error| PyConnectionError::new_err(error.to_string()))? {
        Ended::ByHost => Ok(None),
        Ended::BySignal(signal) => Ok(Some(signal)),
    }
}

fn trust(fingerprint: Option<&str>, authorities: &[u8]) -> PyResult<Trust> {
    Ok(match fingerprint {
        Some(text) => {
            let wrong =
                |()| PyValueError::new_err(format!("{text:?} is no fingerprint, which has 64 hexadecimal digits"));
            Trust::Fingerprint(text.parse().map_err(wrong)?)
        }
        None => Trust::Authorities(tls::certificates(authorities).map_err(|error| {
            PyValueError::new_err(format!("the file of authorities is no list of certificates (PEM): {error}"))
        })?),
    })
}
