//! The agent, in a real process, and a host that follows a script, over TLS on this machine: this binary runs itself again
//! as agent, and that as worker.
#![allow(clippy::unwrap_used)]

mod common;

use std::env;
use std::ffi::CString;
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::wait_for;
use kumi_core::frame::Wire;
use kumi_core::{
    Certificate, Decoder, FromAgent, FromWorker, FunctionId, Job, Lease, Leave, PROTOCOL, Payload, Secret, TaskId,
    ToAgent, ToWorker,
};
use kumi_net::agent::{self, Ended, Plan};
use kumi_net::proof::{self, JoinCode};
use kumi_net::segments::Memory;
use kumi_net::spawn::Command;
use kumi_net::tls::{self, Fingerprint, Identity, Stream, Trust};
use kumi_net::worker::{Finished, Next, WorkerEnd};
use rustls::ServerConfig;

const PYTHON: (u8, u8) = (3, 11);

/// This binary as `role`.
fn myself(role: &str) -> [String; 5] {
    let program = env::current_exe().unwrap().into_os_string().into_string().unwrap();
    [program, role.into(), "--exact".into(), "--nocapture".into(), "--ignored".into()]
}

/// An agent by the plan in the environment. It exits with 0 if its host has ended it, 1 after an error, which it prints.
#[test]
#[ignore = "a role, started by the tests below"]
fn role_agent() {
    let Ok(port) = env::var("PORT") else { return };
    let said = |name: &str| env::var(name).unwrap();
    let words = |list: Vec<String>| list.into_iter().map(|word| CString::new(word).unwrap()).collect();
    let plan = Plan {
        host: "127.0.0.1".into(),
        port: port.parse().unwrap(),
        config: tls::client(Trust::Fingerprint(said("FINGERPRINT").parse().unwrap())).unwrap(),
        code: said("CODE").parse().unwrap(),
        index: 2,
        command: Command {
            argv: words(myself(&said("ROLE")).into()),
            environment: words(env::vars().map(|(name, value)| format!("{name}={value}")).collect()),
            directory: None,
        },
        python: PYTHON,
        machine: "there".into(),
        patience: Duration::from_millis(said("PATIENCE").parse().unwrap()),
        talkative: true,
    };
    match agent::run(plan) {
        Ok(Ended::ByHost) => std::process::exit(0),
        Ok(Ended::BySignal(signal)) => std::process::exit(128 + signal),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1)
        }
    }
}

/// A worker whose tasks are words: see `work`.
#[test]
#[ignore = "a role, started by agents"]
fn role_worker() {
    if env::var("KUMI_WORKER").is_err() {
        return;
    }
    let end = WorkerEnd::inherit(PYTHON, "there".into()).unwrap();
    loop {
        match end.take().unwrap() {
            Next::Job(Job::Run { lease, slot, payload, .. }, memory) => {
                let memory = memory.map(|memory| {
                    let (start, length) = memory.memory();
                    // SAFETY: mapped, and nobody else writes to it.
                    unsafe { std::slice::from_raw_parts(start, length) }.iter().map(|byte| u64::from(*byte)).sum()
                });
                let answer = work(std::str::from_utf8(&payload).unwrap(), memory);
                let took = Duration::from_millis(1);
                end.finish(slot, Finished { lease, success: true, started: 1, took, payload: answer, segment: None })
                    .unwrap();
            }
            Next::Job(..) => {}
            Next::Leave(_) => std::process::exit(0),
            Next::Wait => drop(end.wait(None, |half| half.has_job() || half.leaving().is_some()).unwrap()),
        }
    }
}

/// One that ends before it says anything.
#[test]
#[ignore = "a role, started by agents"]
fn role_dud() {
    if env::var("KUMI_WORKER").is_ok() {
        eprintln!("no module named kumi");
        std::process::exit(3);
    }
}

fn work(words: &str, memory: Option<u64>) -> Payload {
    match words.split_once(' ').unwrap_or((words, "")) {
        ("echo", text) => Arc::from(text.as_bytes()),
        ("sum", _) => Arc::from(memory.unwrap().to_string().as_bytes()),
        ("print", text) => {
            println!("{text}");
            Arc::from([])
        }
        ("die", text) => {
            eprintln!("{text}");
            std::process::abort()
        }
        ("large", _) => vec![7; 9_000_000].into(),
        // Until it is killed.
        _ => loop {
            std::thread::park();
        },
    }
}

/// The host of the script.
struct Host {
    listener: TcpListener,
    config: Arc<ServerConfig>,
    fingerprint: Fingerprint,
    code: JoinCode,
}

impl Host {
    fn new() -> Self {
        let identity = Identity::fresh().unwrap();
        let fingerprint = Fingerprint::of(&identity.chain[0]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let code = JoinCode { ticket: 3, secret: Secret(proof::random().unwrap()) };
        Self { listener, config: tls::server(identity).unwrap(), fingerprint, code }
    }

    fn agent(&self) -> Agent {
        self.agent_with("role_worker", Duration::from_secs(30), self.fingerprint)
    }

    fn agent_with(&self, role: &str, patience: Duration, fingerprint: Fingerprint) -> Agent {
        let [program, arguments @ ..] = myself("role_agent");
        let child = std::process::Command::new(program)
            .args(arguments)
            .env("ROLE", role)
            .env("PORT", self.listener.local_addr().unwrap().port().to_string())
            .env("FINGERPRINT", fingerprint.to_string())
            .env("CODE", self.code.to_string())
            .env("PATIENCE", patience.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Agent(child.unwrap())
    }

    fn accept(&self) -> Peer {
        wait_for(&self.listener);
        let socket = self.listener.accept().unwrap().0;
        let stream = Stream::accepted(socket, &self.config).unwrap();
        Peer { stream, decoder: Decoder::default(), session: None }
    }

    /// Accepts an agent that proves the code.
    fn admit(&self) -> Peer {
        let mut peer = self.accept();
        let hello = peer.next().unwrap();
        assert!(
            matches!(&hello, FromAgent::Worker(FromWorker::Hello { version: PROTOCOL, python: PYTHON, host, .. }) if host == "there"),
            "{hello:?}"
        );
        let claim = peer.next().unwrap();
        assert!(matches!(claim, FromAgent::Prove { ticket: 3, index: 2, .. }), "{claim:?}");
        assert!(proof::is_proved(&self.code.secret, &peer.stream.binding().unwrap(), &claim));
        peer.session = Some(());
        peer.say(&ToAgent::Session { session: 7, key: key(), silence: 30_000, reconnect: 30_000 });
        peer.tell(ToWorker::Welcome { name: "crew-1".into(), reset: 0, memory: None });
        peer
    }
}

fn key() -> Secret {
    Secret([9; 32])
}

/// An agent's process, ended with the test.
struct Agent(Child);

impl Agent {
    fn wait(&mut self) -> ExitStatus {
        let pidfd = pidfd(self.0.id());
        wait_for(&pidfd);
        self.0.wait().unwrap()
    }

    fn stderr(&mut self) -> ChildStderr {
        self.0.stderr.take().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pidfd(pid: u32) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: integers; makes a descriptor or fails.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    assert!(fd >= 0, "process {pid} is gone");
    // SAFETY: just made.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(fd as i32) }
}

/// The host's end of a connection.
struct Peer {
    stream: Stream,
    decoder: Decoder<FromAgent>,
    session: Option<()>,
}

impl Peer {
    /// The next message; `None`: the agent has closed the connection.
    fn next(&mut self) -> Option<FromAgent> {
        loop {
            if let Some(message) = self.decoder.next().unwrap() {
                return Some(message);
            }
            self.stream.flush().ok()?;
            wait_for(self.stream.as_fd());
            if self.stream.hear(&mut self.decoder).ok()? == tls::Heard::End {
                return self.decoder.next().unwrap();
            }
        }
    }

    fn say(&mut self, message: &ToAgent) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.stream.write(&bytes).unwrap();
        self.stream.flush().unwrap();
    }

    fn tell(&mut self, message: ToWorker) {
        self.say(&ToAgent::Worker(message));
    }

    fn run(&mut self, lease: u64, words: &str) {
        self.tell(ToWorker::Run {
            task: TaskId::from_number(lease),
            lease: Lease(lease),
            slot: lease as u16,
            function: FunctionId::from_number(1),
            attempt: 1,
            short: false,
            within: None,
            inline: true,
            payload: Arc::from(words.as_bytes()),
        });
    }

    /// The answer of the next task that is done, and its lease.
    fn answer(&mut self) -> (u64, Payload) {
        loop {
            match self.next().unwrap() {
                FromAgent::Worker(FromWorker::Finished { lease, success: true, payload, .. }) => {
                    return (lease.0, payload);
                }
                FromAgent::Ack { .. } => {}
                other => unreachable!("{other:?}"),
            }
        }
    }

    /// The last message, which it acknowledges.
    fn last(&mut self, heard: u64) -> (Option<u64>, Certificate) {
        loop {
            match self.next().unwrap() {
                FromAgent::Died { begun, certificate } => {
                    self.say(&ToAgent::Ack { received: heard + 1 });
                    return (begun.map(|lease| lease.0), certificate);
                }
                FromAgent::Ack { .. } => {}
                other => unreachable!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_worker_runs_tasks_and_ends_with_its_agent() {
    let host = Host::new();
    let mut agent = host.agent();
    let mut peer = host.admit();
    peer.run(1, "echo hello");
    assert_eq!(peer.answer(), (1, Arc::from(&b"hello"[..])));
    peer.run(2, "large");
    let (lease, payload) = peer.answer();
    assert!(lease == 2 && payload.len() == 9_000_000 && payload.iter().all(|byte| *byte == 7));
    peer.tell(ToWorker::Stop { leave: Leave::Closing });
    let (begun, certificate) = peer.last(2);
    assert_eq!((begun, certificate.exit_code, certificate.cause.as_str()), (None, Some(0), "exited with code 0"));
    assert_eq!(agent.wait().code(), Some(0));
    let mut text = String::new();
    agent.stderr().read_to_string(&mut text).unwrap();
    let port = host.listener.local_addr().unwrap().port();
    let joined = format!("kumi worker: connected to 127.0.0.1:{port} as crew-1\n");
    assert_eq!(text, joined + "kumi worker: worker crew-1 has ended: exited with code 0\n");
}
