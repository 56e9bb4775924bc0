//! The dispatcher, seen from Python.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kumi_core::{Event, Face, FunctionId, LaunchId, Notes, Policy, Run, Staff, TaskId, Ticket, TicketId};
use kumi_net::deliver::Route;
use kumi_net::inbox::Until;
use kumi_net::log::Shelf;
use kumi_net::orders::Orders;
use kumi_net::pool::{self, Host};
use kumi_net::proof::JoinCode;
use kumi_net::segments::spare_bytes;
use kumi_net::spawn::Command;
use kumi_net::tls::Identity;
use kumi_net::wait::Wants;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::facts::{Most, Situation, Status, parts};
use crate::handle::outcome_here;
use crate::here::check_length;
use crate::inbox::Inbox;
use crate::inside::{check, detached, span, wait_for, with};
use crate::large::{Entry, Made, Stored};
use crate::worker::Serving;

pyo3::import_exception!(kumi.errors, QueueFull);

/// A remote worker is asked for a sign of life so often at least, and its connection is cut when it is silent for so long
/// at most; local ones are judged by their process alone.
const HEARTBEAT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(30);

/// Launches to carry out, with the numbers of their workers, and launches to end.
type Ordered = (Vec<(u64, u64)>, Vec<u64>);

type Overlooked<'py> = (u64, Option<String>, String, u8, Bound<'py, PyBytes>);

/// A task's id, its pickled function, its pickled arguments, whether it is a call of `everywhere`.
type Job<'py> = (u64, Bound<'py, PyBytes>, Bound<'py, PyBytes>, bool);

/// See the stub.
#[pyclass(frozen, module = "kumi._core")]
pub struct Function {
    owner: Owner,
    label: String,
}

/// Who knows it, and by what.
enum Owner {
    Pool(pool::Pool, FunctionId),
    Inner(Arc<Serving>, u64),
}

impl Function {
    /// A function that a task of this worker has declared.
    pub fn inner(serving: Arc<Serving>, number: u64, label: String) -> Self {
        Self { owner: Owner::Inner(serving, number), label }
    }

    /// What a pool knows it by; nothing, where a task has declared it.
    pub fn id(&self) -> FunctionId {
        match &self.owner {
            Owner::Pool(_, id) => *id,
            Owner::Inner(..) => FunctionId::from_number(u64::MAX),
        }
    }

    pub fn name(&self) -> &str {
        &self.label
    }
}

#[pymethods]
impl Function {
    #[getter]
    fn label(&self) -> &str {
        &self.label
    }

    #[getter]
    pub fn number(&self) -> u64 {
        match &self.owner {
            Owner::Pool(_, id) => id.number(),
            Owner::Inner(_, number) => *number,
        }
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        match &self.owner {
            Owner::Pool(net, id) if !net.is_foreign() => net.release_function(*id),
            Owner::Inner(serving, number) if !serving.end.is_foreign() => serving.end.withdraw(*number),
            Owner::Pool(..) | Owner::Inner(..) => {}
        }
    }
}

/// See the stub.
#[pyclass(frozen, module = "kumi._core")]
pub struct Pool {
    net: pool::Pool,
}

impl Pool {
    pub fn net(&self) -> &pool::Pool {
        &self.net
    }

    fn watch(
        &self,
        py: Python<'_>,
        until: Until,
        inbox: &Bound<'_, Inbox>,
        other: Option<u64>,
    ) -> PyResult<Option<u64>> {
        let inbox = Arc::clone(inbox.get().net());
        with(py, &self.net, move |state, now| state.wait_in_loop(now, until, &inbox, other))
    }
}

impl Pool {
    fn take_in(&self, py: Python<'_>, entry: Entry<'_>, label: String) -> PyResult<Function> {
        let (payload, large, name) = (Arc::clone(&entry.payload), entry.large(), Arc::from(label.as_str()));
        let id = with(py, &self.net, move |state, _| state.brain.define_large(payload, large, name))?;
        let id = id.ok_or_else(|| PyValueError::new_err("a shared value belongs to another pool"))?;
        entry.handed_over();
        Ok(Function { owner: Owner::Pool(self.net.clone(), id), label })
    }
}

/// Name of this machine.
pub fn host_name() -> String {
    let mut name = [0_u8; 256];
    // SAFETY: the buffer is valid for its length.
    let failed = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) } != 0;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    if failed { String::from("localhost") } else { String::from_utf8_lossy(&name[..end]).into_owned() }
}

/// Major and minor version of this Python.
pub fn python_version(py: Python<'_>) -> (u8, u8) {
    let version = py.version_info();
    (version.major, version.minor)
}

/// Bytes for the kernel: an environment may hold what is not UTF-8.
fn text(text: OsString) -> PyResult<CString> {
    CString::new(text.into_encoded_bytes())
        .map_err(|_| PyValueError::new_err("a worker's command must not contain NUL characters"))
}

/// How a worker is started, in the kernel's terms.
pub fn command(
    argv: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    directory: Option<OsString>,
) -> PyResult<Command> {
    Ok(Command {
        argv: argv.into_iter().map(text).collect::<PyResult<_>>()?,
        environment: variables(environment)?,
        directory: directory.map(text).transpose()?,
    })
}

fn variables(environment: BTreeMap<OsString, OsString>) -> PyResult<Vec<CString>> {
    let lines = environment.into_iter().map(|(mut key, value)| {
        key.push("=");
        key.push(value);
        text(key)
    });
    lines.collect()
}

fn staff_of(word: &str) -> PyResult<Staff> {
    Ok(match word {
        "host" => Staff::Host,
        "local" => Staff::Local,
        "launched" => Staff::Launched,
        "by hand" => Staff::ByHand,
        _ => return Err(PyValueError::new_err(format!("no such staff: {word:?}"))),
    })
}

#[pymethods]
impl Pool {
    #[new]
    #[pyo3(signature = (*, name, workers, workers_min, seconds_idle, seconds_wall, seconds_launch, seconds_kill,
                        tasks_max, memory_bytes, reset, crashes_max, backup, queue_bytes, staff, seconds_reconnect,
                        slots))]
    #[allow(clippy::too_many_arguments)] // A policy by name, as in the stub.
    fn new(
        py: Python<'_>,
        name: String,
        workers: u64,
        workers_min: u64,
        seconds_idle: Option<f64>,
        seconds_wall: Option<f64>,
        seconds_launch: f64,
        seconds_kill: f64,
        tasks_max: Option<u64>,
        memory_bytes: Option<u64>,
        reset: u8,
        crashes_max: Most,
        backup: bool,
        queue_bytes: u64,
        staff: &str,
        seconds_reconnect: f64,
        slots: Option<u64>,
    ) -> PyResult<Self> {
        let reconnect = span(seconds_reconnect);
        let policy = Policy {
            name,
            workers,
            workers_min,
            berths: slots,
            idle: seconds_idle.map(span),
            wall: seconds_wall.map(span),
            launch: span(seconds_launch),
            kill: span(seconds_kill),
            heartbeat: HEARTBEAT.min(reconnect / 12),
            silence: SILENCE.min(reconnect / 2),
            reconnect,
            tasks_max,
            memory: memory_bytes,
            reset,
            crashes_max: crashes_max.into(),
            backup,
            queue_bytes,
            spare_bytes: spare_bytes(),
            staff: staff_of(staff)?,
        };
        let host = Host { name: host_name(), python: python_version(py) };
        Ok(Self { net: pool::Pool::new(policy, host) })
    }

    #[getter]
    fn name(&self) -> &str {
        self.net.name()
    }

    #[pyo3(signature = (log_directory, forward, /))]
    fn route_output(
        &self,
        py: Python<'_>,
        log_directory: Option<(PathBuf, bool)>,
        forward: Option<bool>,
    ) -> PyResult<()> {
        check(&self.net)?;
        let shelf = log_directory.map(|(directory, tidy)| Shelf { directory, tidy });
        detached(py, || self.net.route_output(Route::new(shelf, forward)));
        Ok(())
    }

    fn start(&self, py: Python<'_>) -> PyResult<()> {
        check(&self.net)?;
        Ok(detached(py, || self.net.start())?)
    }

    #[pyo3(signature = (directory, launcher, /))]
    fn open_desk(&self, py: Python<'_>, directory: PathBuf, launcher: String) -> PyResult<()> {
        check(&self.net)?;
        Ok(detached(py, || self.net.open_desk(&directory, launcher))?)
    }

    #[pyo3(signature = (argv, environment, directory, slots, /))]
    fn spawn_by(
        &self,
        py: Python<'_>,
        argv: Vec<OsString>,
        mut environment: BTreeMap<OsString, OsString>,
        directory: Option<OsString>,
        slots: Vec<BTreeMap<OsString, OsString>>,
    ) -> PyResult<()> {
        check(&self.net)?;
        environment.retain(|name, _| !slots.iter().any(|slot| slot.contains_key(name)));
        let command = command(argv, environment, directory)?;
        let berths = slots.into_iter().map(variables).collect::<PyResult<_>>()?;
        detached(py, || self.net.spawn_by(command, berths));
        Ok(())
    }

    #[pyo3(signature = (host, port, /, certificate, key, password))]
    fn listen(
        &self,
        py: Python<'_>,
        host: &str,
        port: u16,
        certificate: Option<&[u8]>,
        key: Option<&[u8]>,
        password: Option<&str>,
    ) -> PyResult<(String, u16, Option<String>)> {
        check(&self.net)?;
        let (address, fingerprint) = detached(py, || {
            let (identity, fingerprint) = match certificate.zip(key) {
                Some((chain, key)) => (Identity::from_pem(chain, key, password)?, None),
                None => {
                    let identity = Identity::fresh()?;
                    let fingerprint = identity.fingerprint().to_string();
                    (identity, Some(fingerprint))
                }
            };
            Ok::<_, std::io::Error>((self.net.listen(host, port, identity)?, fingerprint))
        })?;
        Ok((address.ip().to_string(), address.port(), fingerprint))
    }

    #[pyo3(signature = (uses, seconds, /))]
    fn join_code(&self, py: Python<'_>, uses: u32, seconds: f64) -> PyResult<String> {
        check(&self.net)?;
        Ok(detached(py, || self.net.issue_code(uses, span(seconds)))?.to_string())
    }

    fn next_leaving(&self, py: Python<'_>) -> PyResult<Option<Vec<u64>>> {
        let tasks = wait_for(py, &self.net, Wants::Leaving, None, pool::State::take_leaving)?;
        Ok(tasks.map(|tasks| tasks.into_iter().map(TaskId::number).collect()))
    }

    #[pyo3(signature = (task, to, /))]
    fn hand_over(&self, py: Python<'_>, task: u64, to: &Bound<'_, Pool>) -> PyResult<()> {
        check(&self.net)?;
        let to = to.get();
        detached(py, || self.net.hand_over(TaskId::from_number(task), &to.net));
        Ok(())
    }

    #[pyo3(signature = (task, text, /))]
    fn strand(&self, py: Python<'_>, task: u64, text: &str) -> PyResult<()> {
        check(&self.net)?;
        detached(py, || self.net.strand(TaskId::from_number(task), text));
        Ok(())
    }

    #[pyo3(signature = (timeout, /))]
    fn next_order(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Ordered>> {
        let take = |state: &mut pool::State| {
            let Orders { launch, end, look: _ } = state.take_orders()?;
            let number = |launch| state.brain.launch_number(launch).unwrap_or_default();
            let launch = launch.into_iter().map(|launch| (launch.number(), number(launch))).collect();
            Some((launch, end.into_iter().map(LaunchId::number).collect()))
        };
        if let Some(orders) = wait_for(py, &self.net, Wants::Orders, timeout, take)? {
            return Ok(Some(orders));
        }
        // The last orders may have come with the end.
        with(py, &self.net, |state, _| take(state).or_else(|| (!state.over).then(Default::default)))
    }

    fn launches(&self, py: Python<'_>) -> PyResult<Vec<(u64, bool)>> {
        with(py, &self.net, |state, _| state.brain.launches().map(|(id, unsure)| (id.number(), unsure)).collect())
    }

    #[pyo3(signature = (launches, /))]
    fn issue(&self, py: Python<'_>, launches: Vec<u64>) -> PyResult<String> {
        check(&self.net)?;
        let places = launches.into_iter().map(LaunchId::from_number).collect();
        Ok(detached(py, || self.net.issue(|_| Ticket::Launch { places }))?.to_string())
    }

    #[pyo3(signature = (code, /))]
    fn revoke(&self, py: Python<'_>, code: &str) -> PyResult<()> {
        check(&self.net)?;
        let Ok(JoinCode { ticket, .. }) = code.parse() else { return Ok(()) };
        detached(py, || self.net.revoke(TicketId::from_number(ticket)));
        Ok(())
    }

    #[pyo3(signature = (launches, /))]
    fn launched(&self, py: Python<'_>, launches: Vec<u64>) -> PyResult<()> {
        with(py, &self.net, move |state, now| {
            for launch in launches.into_iter().map(LaunchId::from_number) {
                state.brain.handle(now, Event::Launched { launch });
            }
        })
    }

    #[pyo3(signature = (launches, text, /))]
    fn launch_failed(&self, py: Python<'_>, launches: Vec<u64>, text: &str) -> PyResult<()> {
        let text: Arc<str> = Arc::from(text);
        with(py, &self.net, move |state, now| {
            for launch in launches.into_iter().map(LaunchId::from_number) {
                let text = Arc::clone(&text);
                state.brain.handle(now, Event::LaunchFailed { launch, text });
            }
        })
    }

    #[pyo3(signature = (payload, label, /))]
    fn define(&self, payload: &Bound<'_, PyAny>, label: String) -> PyResult<Function> {
        let entry = Entry::new(&self.net, Made::of(payload)?);
        self.take_in(payload.py(), entry, label)
    }

    #[pyo3(signature = (stored, uses, label, /))]
    fn share(
        &self,
        py: Python<'_>,
        stored: &Stored,
        uses: Vec<Bound<'_, Function>>,
        label: String,
    ) -> PyResult<Function> {
        let uses = uses.iter().map(|function| function.get().id()).collect();
        self.take_in(py, detached(py, || Entry::of_stored(&self.net, stored, uses))?, label)
    }

    #[pyo3(signature = (id, payload, /))]
    fn report_job(&self, py: Python<'_>, id: u64, payload: &[u8]) -> PyResult<()> {
        check_length(payload)?;
        let payload = Arc::from(payload);
        with(py, &self.net, move |state, _| state.brain.reported_here(TaskId::from_number(id), payload))
    }

    fn next_job<'py>(&self, py: Python<'py>) -> PyResult<Option<Job<'py>>> {
        let job = with(py, &self.net, |state, _| state.brain.begin_here())?;
        Ok(job.map(|(id, function, payload, everywhere)| {
            (id.number(), PyBytes::new(py, &function), PyBytes::new(py, &payload), everywhere)
        }))
    }

    #[pyo3(signature = (id, success, payload, ran, warnings, /))]
    fn finish_job(
        &self,
        py: Python<'_>,
        id: u64,
        success: bool,
        payload: &Bound<'_, PyAny>,
        ran: (f64, f64),
        warnings: &[u8],
    ) -> PyResult<()> {
        let (started, seconds) = ran;
        let nanoseconds = |seconds| u64::try_from(span(seconds).as_nanos()).unwrap_or(u64::MAX);
        let notes = (!warnings.is_empty()).then(|| Box::new(Notes { peak: None, warnings: Arc::from(warnings) }));
        let run = Run { started: nanoseconds(started), nanoseconds: nanoseconds(seconds), notes };
        let name = format!("{}-0", self.net.name());
        let face = Arc::new(Face { name, pid: std::process::id(), host: self.net.host().to_owned() });
        let outcome = outcome_here(success, &Entry::new(&self.net, Made::of(payload)?).payload);
        with(py, &self.net, move |state, now| {
            state.brain.finish_here(now, TaskId::from_number(id), outcome, run, face);
        })
    }

    #[pyo3(signature = (timeout, /))]
    fn pop(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<u64>> {
        let found = wait_for(py, &self.net, Wants::Any, timeout, |state| match state.brain.kept_pop() {
            Some(task) => Some(Some(task.number())),
            None => (state.brain.kept_open() == 0).then_some(None),
        })?;
        Ok(found.flatten())
    }

    #[pyo3(signature = (every, timeout, /))]
    fn wait_kept(&self, py: Python<'_>, every: bool, timeout: Option<f64>) -> PyResult<bool> {
        let found = wait_for(py, &self.net, Wants::Any, timeout, |state| {
            let (open, some) = (state.brain.kept_open(), state.brain.kept_front().is_some());
            if open == 0 { Some(some) } else { (some && !every).then_some(true) }
        })?;
        Ok(found.unwrap_or(false))
    }

    #[pyo3(signature = (timeout, /))]
    fn wait_done(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let done = |state: &mut pool::State| (state.brain.unresolved() == 0).then_some(());
        Ok(wait_for(py, &self.net, Wants::Any, timeout, done)?.is_some())
    }

    #[pyo3(signature = (timeout, /))]
    fn wait_ended(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let over = |state: &mut pool::State| state.over.then_some(());
        Ok(wait_for(py, &self.net, Wants::Any, timeout, over)?.is_some())
    }

    #[pyo3(signature = (payload, inbox, /))]
    fn watch_room(&self, payload: &Bound<'_, PyAny>, inbox: &Bound<'_, Inbox>) -> PyResult<Option<u64>> {
        self.watch(payload.py(), Until::Room(Made::of(payload)?.bytes()), inbox, None)
    }

    #[pyo3(signature = (inbox, /))]
    fn watch_kept(&self, py: Python<'_>, inbox: &Bound<'_, Inbox>) -> PyResult<Option<u64>> {
        self.watch(py, Until::Kept, inbox, None)
    }

    #[pyo3(signature = (inbox, token, /))]
    fn watch_record(&self, py: Python<'_>, inbox: &Bound<'_, Inbox>, token: Option<u64>) -> PyResult<Option<u64>> {
        self.watch(py, Until::Record, inbox, token)
    }

    #[pyo3(signature = (inbox, /))]
    fn watch_done(&self, py: Python<'_>, inbox: &Bound<'_, Inbox>) -> PyResult<Option<u64>> {
        self.watch(py, Until::Done, inbox, None)
    }

    #[pyo3(signature = (inbox, /))]
    fn watch_ended(&self, py: Python<'_>, inbox: &Bound<'_, Inbox>) -> PyResult<Option<u64>> {
        self.watch(py, Until::Ended, inbox, None)
    }

    #[pyo3(signature = (token, /))]
    fn forget(&self, py: Python<'_>, token: u64) -> PyResult<()> {
        with(py, &self.net, move |state, _| state.forget(token))
    }

    #[pyo3(signature = (held, /))]
    fn overlooked<'py>(&self, py: Python<'py>, held: bool) -> PyResult<Option<Overlooked<'py>>> {
        let found = with(py, &self.net, move |state, _| state.brain.take_overlooked(held))?;
        Ok(found.map(|kumi_core::Overlooked { count, name, first }| {
            let (code, payload) = parts(&first.outcome);
            let name = name.map(|name| name.to_string());
            (count, name, first.function.to_string(), code, PyBytes::new(py, &payload))
        }))
    }

    fn status(&self, py: Python<'_>) -> PyResult<Status> {
        with(py, &self.net, |state, _| Status::from(state.brain.counts()))
    }

    fn situation(&self, py: Python<'_>) -> PyResult<(Status, Situation)> {
        let found = with(py, &self.net, |state, now| state.brain.situation(now))?;
        Ok((Status::from(found.counts), Situation::from(found)))
    }

    fn processes(&self, py: Python<'_>) -> PyResult<Vec<(String, i32)>> {
        with(py, &self.net, |state, _| state.processes())
    }

    #[pyo3(signature = (workers, workers_min, /))]
    fn resize(&self, py: Python<'_>, workers: u64, workers_min: u64) -> PyResult<()> {
        with(py, &self.net, move |state, now| state.brain.resize(now, workers, workers_min))
    }

    fn cancel_waiting(&self, py: Python<'_>) -> PyResult<u64> {
        check(&self.net)?;
        Ok(detached(py, || self.net.cancel_all_waiting()))
    }

    fn names(&self, py: Python<'_>) -> PyResult<Vec<(u64, Option<String>)>> {
        let found = with(py, &self.net, |state, _| state.brain.names())?;
        Ok(found.into_iter().map(|(id, name)| (id.number(), name.map(|name| name.to_string()))).collect())
    }

    #[pyo3(signature = (ids, /))]
    fn cancel(&self, py: Python<'_>, ids: Vec<u64>) -> PyResult<usize> {
        check(&self.net)?;
        let ids: Vec<_> = ids.into_iter().map(TaskId::from_number).collect();
        Ok(detached(py, || self.net.cancel_each(&ids)))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        check(&self.net)?;
        detached(py, || self.net.close());
        Ok(())
    }

    fn terminate_soon(&self, py: Python<'_>) -> PyResult<()> {
        check(&self.net)?;
        detached(py, || self.net.terminate_soon());
        Ok(())
    }

    fn terminate(&self, py: Python<'_>) -> PyResult<()> {
        check(&self.net)?;
        Ok(detached(py, || self.net.terminate())?)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if !self.net.is_foreign() {
            self.net.release();
        }
    }
}
