//! The watchdog, in real processes: this binary runs itself again as host and as worker.
//!
//! All of them, and all that a worker starts, hold one end of a *witness* socket open. Each writes to it when it is up; the
//! test reads the other end, and its end of file says that every single one is dead.
#![allow(clippy::unwrap_used)]

mod common;

use std::env;
use std::ffi::CString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use common::{LIMIT, read_until, streams, wait_for};
use kumi_net::memory::Memory;
use kumi_net::outbox::Outbox;
use kumi_net::page::Page;
use kumi_net::process::{Ending, become_subreaper, bury, end_tree};
use kumi_net::reports::Reporter;
use kumi_net::spawn::{CONTROL_FD, Command, DATA_FD, PAGE_FD, Spawned, spawn};
use kumi_net::watchdog::{Watchdog, open_host};

/// The witness in a worker and its children.
const WITNESS_FD: RawFd = 9;

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: inherited under this number for exactly this use, taken once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// This binary as `role`; the rest of `environment` is for that role.
fn myself(role: &str) -> Vec<CString> {
    let program = env::current_exe().unwrap().into_os_string().into_string().unwrap();
    [&program, role, "--exact", "--nocapture", "--ignored"].map(|word| CString::new(word).unwrap()).into()
}

/// Starts a worker of this process that will do `work`.
fn start_worker(work: &str) -> (Spawned, Page, UnixStream, UnixStream) {
    let (data, data_end) = streams();
    let (control, control_end) = streams();
    let page = Page::create().unwrap();
    let host = std::process::id();
    let environment = [format!("WORK={work}"), format!("HOST={host}"), format!("KUMI_WORKER=watchdog-{host}")];
    let mut environment: Vec<CString> = environment.map(|entry| CString::new(entry).unwrap()).into();
    environment.push(c"PATH=/usr/bin:/bin".into());
    let command = Command { argv: myself("role_worker"), environment, directory: None };
    let spawned = spawn(&command, data_end.into(), control_end.into(), page.fd()).unwrap();
    (spawned, page, data, control)
}

/// A host: it starts a worker and then waits for ever to be killed.
#[test]
#[ignore = "a role, started by the tests below"]
fn role_host() {
    let Ok(work) = env::var("WORK") else { return };
    // SAFETY: standard input is the witness; the copy has no CLOEXEC, so the worker inherits it.
    assert_eq!(unsafe { libc::dup2(0, WITNESS_FD) }, WITNESS_FD);
    let _worker = start_worker(&work);
    loop {
        thread::park();
    }
}

/// A worker: a watchdog, and a main thread that does what the test asks for.
#[test]
#[ignore = "a role, started by the tests below"]
fn role_worker() {
    let (Ok(work), Ok(host)) = (env::var("WORK"), env::var("HOST")) else {
        return;
    };
    let page = Arc::new(Page::open(owned(PAGE_FD)).unwrap());
    let outbox = Arc::new(Mutex::new(Outbox::new(Arc::clone(&page), owned(DATA_FD))));
    become_subreaper().unwrap();
    let host = open_host(host.parse().unwrap()).unwrap();
    let echo = Arc::clone(&outbox);
    let (seen, pings) = mpsc::channel();
    let on_control = move |bytes: &[u8]| match bytes {
        b"stop" => end_tree(),
        b"ping" => {
            seen.send(()).unwrap();
            println!("pong");
        }
        b"panic" => std::panic::resume_unwind(Box::new("asked to")),
        bytes => {
            let mut outbox = echo.lock().unwrap();
            outbox.push(bytes).unwrap();
            outbox.flush().unwrap();
        }
    };
    let reporter = Arc::new(Reporter::new(Arc::clone(&outbox)).unwrap());
    let memory = Arc::new(Memory::new(Arc::clone(&page), Arc::default()).unwrap());
    let outs = Arc::clone(&outbox);
    let watchdog = Watchdog::start(owned(CONTROL_FD), host, outs, reporter, memory, on_control).unwrap();
    match work.as_str() {
        "family" => family(),
        "spawning" => spawning(),
        "results" => results(&watchdog, &outbox),
        "crash" => crash(&outbox),
        "locked" => locked(&watchdog, &outbox, &pings),
        "clogged" => clogged(&watchdog, &outbox),
        _ => {}
    }
    loop {
        thread::park();
    }
}

/// Runs `script` beside us; ends this process as its main thread ought to when nothing can be started any more.
#[allow(clippy::zombie_processes, reason = "to be killed by the watchdog is their purpose")]
fn shell(script: &str) {
    let child = std::process::Command::new("sh").args(["-c", script]).stdin(Stdio::null()).spawn();
    child.unwrap_or_else(|_| end_tree());
}

/// Children of every kind, without the marker, so that only descent can find them; then a main thread that is busy for ever.
fn family() {
    let script = format!(
        "unset KUMI_WORKER
        (echo up >&{WITNESS_FD}; exec sleep 1000) &
        setsid sh -c 'echo up >&{WITNESS_FD}; exec sleep 1000' &
        (setsid sh -c 'echo up >&{WITNESS_FD}; sleep 1000; true' &)
        trap '' TERM INT HUP
        echo up >&{WITNESS_FD}
        sleep 1000; true"
    );
    shell(&script);
}

/// A main thread that starts one session after the other, as a task with a loop of subprocesses does.
fn spawning() {
    shell(&format!("echo up >&{WITNESS_FD}"));
    loop {
        shell("exec setsid sleep 1000");
    }
}

/// One result that waits for the limit, behind a main thread that does not come back.
fn results(watchdog: &Watchdog, outbox: &Mutex<Outbox>) {
    assert!(outbox.lock().unwrap().push(b"finished").unwrap());
    watchdog.flush_within(Duration::from_micros(200)).unwrap();
}

/// A result that nobody flushed, and a crash.
fn crash(outbox: &Mutex<Outbox>) {
    outbox.lock().unwrap().push(b"flushed ").unwrap();
    outbox.lock().unwrap().flush().unwrap();
    outbox.lock().unwrap().push(b"composed").unwrap();
    std::process::abort();
}

/// The main thread has the outbox's lock while the limit passes, and lets go after two pings.
fn locked(watchdog: &Watchdog, outbox: &Mutex<Outbox>, pings: &mpsc::Receiver<()>) {
    let mut locked = outbox.lock().unwrap();
    locked.push(b"finished").unwrap();
    watchdog.flush_within(Duration::ZERO).unwrap();
    println!("ready");
    pings.recv().unwrap();
    pings.recv().unwrap();
}

/// The limit passes while the host does not read.
fn clogged(watchdog: &Watchdog, outbox: &Mutex<Outbox>) {
    let mut total = 0;
    let mut outbox = outbox.lock().unwrap();
    while outbox.try_flush().unwrap() {
        outbox.push(&[7; 30_000]).unwrap();
        total += 30_000;
    }
    watchdog.flush_within(Duration::ZERO).unwrap();
    println!("ready {total} bytes");
}

/// A host in a process of its own whose worker does `work`, and the witness.
fn start_host(work: &str) -> (Child, BufReader<UnixStream>) {
    let (witness, held) = streams();
    let mut command = std::process::Command::new(env::current_exe().unwrap());
    command.args(["role_host", "--exact", "--nocapture", "--ignored"]).env("WORK", work);
    let host = command.stdin(Stdio::from(OwnedFd::from(held))).stdout(Stdio::null()).spawn().unwrap();
    (host, BufReader::new(witness))
}

/// Kills a host whose worker does `work`, after `up` processes reported; returns when all are dead.
fn kill_host(work: &str, up: usize) {
    let (mut host, mut witness) = start_host(work);
    let mut line = String::new();
    for _ in 0..up {
        witness.read_line(&mut line).unwrap();
    }
    assert_eq!(line.matches("up").count(), up);
    host.kill().unwrap();
    host.wait().unwrap();
    let rest = witness.read_to_string(&mut line);
    assert!(rest.is_ok(), "something still lives {LIMIT:?} after the host: {rest:?}");
}

#[test]
fn a_killed_host_leaves_no_process() {
    kill_host("family", 4);
}

#[test]
fn a_killed_host_leaves_no_process_while_the_main_thread_starts_new_ones() {
    kill_host("spawning", 1);
}

/// Waits for the end of a worker of this process and buries it.
fn ending(worker: &Spawned) -> Ending {
    wait_for(&worker.pidfd);
    bury(worker.pid, worker.pidfd.as_fd(), "no-such-marker")
}

#[test]
fn closing_control_ends_the_worker() {
    let (worker, _page, _data, control) = start_worker("nothing");
    drop(control);
    assert_eq!(ending(&worker), Ending::Signalled(libc::SIGKILL));
}

#[test]
fn control_bytes_reach_the_callback_and_may_end_the_worker() {
    let (worker, _page, mut data, mut control) = start_worker("nothing");
    control.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    data.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    control.write_all(b"stop").unwrap();
    assert_eq!(ending(&worker), Ending::Signalled(libc::SIGKILL));
}

#[test]
fn a_watchdog_that_fails_ends_the_worker() {
    let (worker, _page, _data, mut control) = start_worker("nothing");
    control.write_all(b"panic").unwrap();
    assert_eq!(ending(&worker), Ending::Signalled(libc::SIGKILL));
}

#[test]
fn a_finished_result_is_flushed_although_the_main_thread_is_busy() {
    let (worker, page, mut data, control) = start_worker("results");
    let mut result = [0; 8];
    data.read_exact(&mut result).unwrap();
    assert_eq!(&result, b"finished");
    drop(control);
    ending(&worker);
    assert_eq!(page.unsent(8).unwrap(), b"");
}

#[test]
fn a_composed_result_survives_a_crash() {
    let (worker, page, mut data, _control) = start_worker("crash");
    assert_eq!(ending(&worker), Ending::Signalled(libc::SIGABRT));
    let mut received = Vec::new();
    data.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"flushed ");
    assert_eq!(page.unsent(8).unwrap(), b"composed");
}

/// Two answered pings after "ready": in between the watchdog has looked at the timer, which had expired.
fn let_the_limit_pass(worker: &Spawned, control: &mut UnixStream) -> String {
    let ready =
        read_until(&worker.stdout, |text| text.split_once("ready").is_some_and(|(_, rest)| rest.contains('\n')));
    for _ in 0..2 {
        control.write_all(b"ping").unwrap();
        read_until(&worker.stdout, |text| text.contains("pong"));
    }
    ready
}

#[test]
fn a_limit_that_passes_while_the_main_thread_has_the_outbox_is_made_up_for() {
    let (worker, _page, mut data, mut control) = start_worker("locked");
    let_the_limit_pass(&worker, &mut control);
    let mut result = [0; 8];
    data.read_exact(&mut result).unwrap();
    assert_eq!(&result, b"finished");
    drop(control);
    ending(&worker);
}

#[test]
fn a_limit_that_passes_while_the_host_does_not_read_is_made_up_for() {
    let (worker, page, mut data, mut control) = start_worker("clogged");
    let ready = let_the_limit_pass(&worker, &mut control);
    let total = ready.split("ready ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert_ne!(page.unsent(0), Some(Vec::new()));
    data.read_exact(&mut vec![0; total]).unwrap();
    drop(control);
    ending(&worker);
    assert_eq!(page.unsent(total as u64).unwrap(), b"");
}

#[test]
fn only_the_parent_is_accepted_as_the_host() {
    let error = open_host(std::process::id() as i32).unwrap_err();
    assert!(error.to_string().contains("is gone: the parent is process"), "{error}");
    assert!(open_host(0).is_err() && open_host(-5).is_err());
}
