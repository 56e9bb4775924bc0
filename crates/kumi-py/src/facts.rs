//! What the core knows, as frozen Python objects.

use std::sync::Arc;

use kumi_core::{Cause, Counts, CrashesMax, Outcome, PerCause, TaskView};
use pyo3::prelude::*;
use pyo3::types::PyType;

pub const SUCCESS: u8 = 0;
pub const ERROR: u8 = 1;
pub const CRASH: u8 = 2;
pub const CANCEL: u8 = 3;
pub const TIMEOUT: u8 = 4;
pub const LAUNCH: u8 = 5;

/// An outcome's code and what belongs to it.
pub fn parts(outcome: &Outcome) -> (u8, Arc<[u8]>) {
    let text = |text: &str| Arc::from(text.as_bytes());
    match outcome {
        Outcome::Success(payload) => (SUCCESS, Arc::clone(payload)),
        Outcome::Error(payload) => (ERROR, Arc::clone(payload)),
        Outcome::Crash(certificate) => (CRASH, text(&certificate.cause)),
        Outcome::Cancel => (CANCEL, text("")),
        Outcome::Timeout(kumi_core::Limit::Run) => (TIMEOUT, text("seconds_run")),
        Outcome::Timeout(kumi_core::Limit::Total) => (TIMEOUT, text("seconds_total")),
        Outcome::Unlaunchable(reason) => (LAUNCH, text(reason)),
    }
}

/// An outcome in one word.
pub fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Success(_) => "success",
        Outcome::Error(_) => "error",
        Outcome::Crash(_) | Outcome::Unlaunchable(_) => "crash",
        Outcome::Cancel => "cancel",
        Outcome::Timeout(_) => "timeout",
    }
}

/// See the stub.
#[pyclass(frozen, get_all, module = "kumi._core")]
#[derive(Clone)]
pub struct Certificate {
    cause: String,
    kind: &'static str,
    pid: Option<u32>,
    host: Option<String>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    peak_gigabytes: Option<f64>,
    stderr: String,
}

/// What a certificate is made of, in the order of `Certificate::new`.
type Parts<'a> = (&'a str, &'a str, Option<u32>, Option<&'a str>, Option<i32>, Option<i32>, Option<f64>, &'a str);

#[pymethods]
impl Certificate {
    #[new]
    #[pyo3(signature = (cause, kind, pid, host, exit_code, signal, peak_gigabytes, stderr, /))]
    #[allow(clippy::too_many_arguments)] // By position, as in the stub: it is made by hand only to be unpickled.
    fn new(
        cause: String,
        kind: &str,
        pid: Option<u32>,
        host: Option<String>,
        exit_code: Option<i32>,
        signal: Option<i32>,
        peak_gigabytes: Option<f64>,
        stderr: String,
    ) -> Self {
        let kind = Cause::from_word(kind).word();
        Self { cause, kind, pid, host, exit_code, signal, peak_gigabytes, stderr }
    }

    fn __reduce__<'a, 'py>(slf: &'a Bound<'py, Self>) -> (Bound<'py, PyType>, Parts<'a>) {
        (slf.get_type(), slf.get().parts())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Certificate{}", self.parts().into_pyobject(py)?.repr()?))
    }
}

impl Certificate {
    fn parts(&self) -> Parts<'_> {
        let Self { cause, kind, pid, host, exit_code, signal, peak_gigabytes, stderr } = self;
        (cause, kind, *pid, host.as_deref(), *exit_code, *signal, *peak_gigabytes, stderr)
    }
}

impl From<&kumi_core::Certificate> for Certificate {
    fn from(certificate: &kumi_core::Certificate) -> Self {
        let kumi_core::Certificate { cause, kind, pid, host, exit_code, signal, peak, stderr } = certificate.clone();
        let peak_gigabytes = peak.map(gigabytes);
        Self { cause, kind: kind.word(), pid, host, exit_code, signal, peak_gigabytes, stderr }
    }
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// See the stub.
#[pyclass(frozen, get_all, module = "kumi._core")]
pub struct Facts {
    status: &'static str,
    function: String,
    submitted: f64,
    started: Option<f64>,
    finished: f64,
    seconds: Option<f64>,
    worker: Option<String>,
    pid: Option<u32>,
    host: Option<String>,
    attempts: u32,
    certificate: Option<Certificate>,
    controller: Option<String>,
    peak_gigabytes: Option<f64>,
    warnings: Vec<u8>,
}

impl Facts {
    /// Of a view, and when it was submitted and done, in Unix seconds.
    pub fn new(view: &TaskView, submitted: f64, finished: f64) -> Self {
        let (face, run) = (view.face.as_deref(), view.run.as_ref());
        let notes = run.and_then(|run| run.notes.as_deref());
        Self {
            status: word(&view.outcome),
            function: view.function.to_string(),
            submitted,
            started: run.map(|run| run.started as f64 / 1e9),
            finished,
            seconds: run.map(|run| run.nanoseconds as f64 / 1e9),
            worker: face.map(|face| face.name.clone()),
            pid: face.map(|face| face.pid),
            host: face.map(|face| face.host.clone()),
            attempts: view.attempts,
            certificate: view.certificate.as_deref().map(Certificate::from),
            controller: view.controller.as_deref().map(str::to_owned),
            peak_gigabytes: notes.and_then(|notes| notes.peak).map(gigabytes),
            warnings: notes.map(|notes| notes.warnings.to_vec()).unwrap_or_default(),
        }
    }
}

/// See the stub.
#[pyclass(frozen, eq, hash, get_all, module = "kumi._core")]
#[derive(PartialEq, Hash)]
pub struct Status {
    workers: u64,
    idle: u64,
    extra: u64,
    launching: u64,
    waiting: u64,
    running: u64,
    away: u64,
    finished: u64,
    uncollected: u64,
    queued_bytes: u64,
    queued_bytes_max: u64,
    result_bytes: u64,
    success: u64,
    error: u64,
    crash: u64,
    cancel: u64,
    timeout: u64,
    launched: u64,
    left_idle: u64,
    left_limit: u64,
    left_stopped: u64,
    lost: u64,
}

#[pymethods]
impl Status {
    fn __add__(&self, other: &Status) -> Self {
        Self {
            workers: self.workers.saturating_add(other.workers),
            idle: self.idle.saturating_add(other.idle),
            extra: self.extra.saturating_add(other.extra),
            launching: self.launching.saturating_add(other.launching),
            waiting: self.waiting.saturating_add(other.waiting),
            running: self.running.saturating_add(other.running),
            away: self.away.saturating_add(other.away),
            finished: self.finished.saturating_add(other.finished),
            uncollected: self.uncollected.saturating_add(other.uncollected),
            queued_bytes: self.queued_bytes.saturating_add(other.queued_bytes),
            queued_bytes_max: self.queued_bytes_max.saturating_add(other.queued_bytes_max),
            result_bytes: self.result_bytes.saturating_add(other.result_bytes),
            success: self.success.saturating_add(other.success),
            error: self.error.saturating_add(other.error),
            crash: self.crash.saturating_add(other.crash),
            cancel: self.cancel.saturating_add(other.cancel),
            timeout: self.timeout.saturating_add(other.timeout),
            launched: self.launched.saturating_add(other.launched),
            left_idle: self.left_idle.saturating_add(other.left_idle),
            left_limit: self.left_limit.saturating_add(other.left_limit),
            left_stopped: self.left_stopped.saturating_add(other.left_stopped),
            lost: self.lost.saturating_add(other.lost),
        }
    }

    fn __repr__(&self) -> String {
        let Self { workers, idle, launching, waiting, running, finished, uncollected, .. } = self;
        let Self { queued_bytes, result_bytes, .. } = self;
        format!(
            "Status(workers={workers}, idle={idle}, launching={launching}, waiting={waiting}, running={running}, \
             finished={finished}, uncollected={uncollected}, queued_bytes={queued_bytes}, \
             result_bytes={result_bytes}, ...)"
        )
    }
}

/// How often a task may crash: a number, or one for each cause in the order of `PerCause`.
#[derive(FromPyObject)]
pub enum Most {
    Together(u32),
    Each(Option<u32>, Option<u32>, Option<u32>, Option<u32>),
}

impl From<Most> for CrashesMax {
    fn from(most: Most) -> Self {
        match most {
            Most::Together(most) => CrashesMax::Together(most),
            Most::Each(memory, time, spot, other) => CrashesMax::Each(PerCause { memory, time, spot, other }),
        }
    }
}

impl From<Counts> for Status {
    fn from(counts: Counts) -> Self {
        Self {
            workers: counts.workers,
            idle: counts.idle,
            extra: counts.extra,
            launching: counts.launching,
            waiting: counts.waiting,
            running: counts.running,
            away: counts.away,
            finished: counts.finished,
            uncollected: counts.uncollected,
            queued_bytes: counts.queued_bytes,
            queued_bytes_max: counts.queued_bytes_max,
            result_bytes: counts.result_bytes,
            success: counts.success,
            error: counts.error,
            crash: counts.crash,
            cancel: counts.cancel,
            timeout: counts.timeout,
            launched: counts.launched,
            left_idle: counts.left_idle,
            left_limit: counts.left_limit,
            left_stopped: counts.left_stopped,
            lost: counts.lost,
        }
    }
}

/// What [`kumi_core::Situation`] says beside the counts, as a dict.
#[derive(IntoPyObject)]
pub struct Situation {
    started: bool,
    closed: bool,
    joined: u64,
    busy: u64,
    failures: u32,
    failure: String,
    pause: Option<f64>,
    gave_up: bool,
    cut: u64,
    calls: u64,
    needy: u64,
}

impl From<kumi_core::Situation> for Situation {
    fn from(found: kumi_core::Situation) -> Self {
        Self {
            started: found.started,
            closed: found.closing,
            joined: found.joined,
            busy: found.busy,
            failures: found.failures,
            failure: found.failure.to_string(),
            pause: found.pause.map(|pause| pause.as_secs_f64()),
            gave_up: found.gave_up,
            cut: found.cut,
            calls: found.calls,
            needy: found.needy,
        }
    }
}
