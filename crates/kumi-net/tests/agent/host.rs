//! A host that follows a script, over TLS on this machine, and the agents that it is called by: processes of this binary.
#![allow(clippy::unwrap_used)]

use std::env;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kumi_core::frame::Wire;
use kumi_core::{
    Certificate, Decoder, FromAgent, FromWorker, FunctionId, Lease, PROTOCOL, Payload, Secret, TaskId, ToAgent,
    ToWorker,
};
use kumi_net::proof::{self, JoinCode};
use kumi_net::stream::{Heard, Stream};
use kumi_net::tls::{self, Fingerprint, Identity};
use rustls::ServerConfig;

use super::common::wait_for;

/// What all of them run.
pub const PYTHON: (u8, u8) = (3, 11);

/// This binary as `role`.
pub fn myself(role: &str) -> [String; 5] {
    let program = env::current_exe().unwrap().into_os_string().into_string().unwrap();
    [&program, role, "--exact", "--nocapture", "--ignored"].map(String::from)
}

/// Where a host listens, and how to be let in there.
pub struct Place {
    pub address: SocketAddr,
    pub fingerprint: Fingerprint,
    pub code: JoinCode,
}

impl Place {
    pub fn agent(&self, role: &str, patience: Duration) -> Agent {
        let [program, arguments @ ..] = myself("role_agent");
        let child = std::process::Command::new(program)
            .args(arguments)
            .env("ROLE", role)
            .env("ADDRESS", self.address.to_string())
            .env("FINGERPRINT", self.fingerprint.to_string())
            .env("CODE", self.code.to_string())
            .env("PATIENCE", patience.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Agent(child.unwrap())
    }
}

/// The host of the script.
pub struct Host {
    pub place: Place,
    listener: TcpListener,
    config: Arc<ServerConfig>,
}

impl Host {
    /// On an address of its own, so that no other test's host takes its port when it has gone.
    pub fn new() -> Self {
        let identity = Identity::fresh().unwrap();
        let fingerprint = Fingerprint::of(&identity.chain[0]);
        let [one, other, third] = proof::random().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::new(127, one, other, third.clamp(2, 254)), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let code = JoinCode { ticket: 3, secret: Secret(proof::random().unwrap()) };
        Self { place: Place { address, fingerprint, code }, listener, config: tls::server(identity).unwrap() }
    }

    pub fn agent(&self) -> Agent {
        self.agent_as("role_worker")
    }

    pub fn agent_as(&self, role: &str) -> Agent {
        self.place.agent(role, Duration::from_secs(30))
    }

    /// The worker's process, and one that it has started.
    pub fn family(&self, peer: &mut Peer) -> [OwnedFd; 2] {
        peer.run(1, "child");
        let (_, pids) = peer.answer();
        let pids = std::str::from_utf8(&pids).unwrap().split_once(' ').unwrap();
        [pids.0, pids.1].map(|pid| pidfd(pid.parse().unwrap()))
    }

    pub fn accept(&self) -> Peer {
        wait_for(&self.listener);
        let socket = self.listener.accept().unwrap().0;
        let stream = Stream::accepted(socket, &self.config).unwrap();
        Peer { stream, decoder: Decoder::default() }
    }

    /// Accepts an agent; what it claims, whose proof holds by this secret.
    pub fn hear(&self, secret: &Secret) -> (Peer, FromAgent) {
        let mut peer = self.accept();
        let hello = peer.next().unwrap();
        let FromAgent::Worker(FromWorker::Hello { version: PROTOCOL, python: PYTHON, host, .. }) = hello else {
            unreachable!("{hello:?}")
        };
        assert_eq!(host, "there");
        let claim = peer.next().unwrap();
        assert!(proof::is_proved(secret, &peer.stream.binding().unwrap(), &claim));
        (peer, claim)
    }

    /// Lets an agent in that proves the code, on these terms, in milliseconds.
    pub fn admit_for(&self, silence: u64, reconnect: u64) -> Peer {
        let (mut peer, claim) = self.hear(&self.place.code.secret);
        assert!(matches!(claim, FromAgent::Prove { ticket: 3, index: 0, .. }), "{claim:?}");
        peer.welcome(silence, reconnect);
        peer
    }

    pub fn admit(&self) -> Peer {
        self.admit_for(30_000, 30_000)
    }

    /// The agent is back: how many messages it has.
    pub fn resume(&self) -> (Peer, u64) {
        let (peer, claim) = self.hear(&key());
        let FromAgent::Resume { session: 7, received, .. } = claim else { unreachable!("{claim:?}") };
        (peer, received)
    }
}

fn key() -> Secret {
    Secret([9; 32])
}

/// An agent's process, ended with the test.
pub struct Agent(pub Child);

impl Agent {
    /// Its exit code, and what it wrote to stderr.
    pub fn end(&mut self) -> (Option<i32>, String) {
        wait_for(pidfd(self.0.id()));
        let mut text = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (self.0.wait().unwrap().code(), text)
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: integers; it is our child, not yet waited for.
        assert_eq!(unsafe { libc::kill(self.0.id() as i32, signal) }, 0);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pidfd(pid: u32) -> OwnedFd {
    // SAFETY: integers; makes a descriptor or fails.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    assert!(fd >= 0, "process {pid} is gone");
    // SAFETY: just made.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// The host's end of a connection.
pub struct Peer {
    stream: Stream,
    decoder: Decoder<FromAgent>,
}

impl Peer {
    /// The next message; `None`: the agent has closed the connection.
    pub fn next(&mut self) -> Option<FromAgent> {
        loop {
            if let Some(message) = self.decoder.next().unwrap() {
                return Some(message);
            }
            self.stream.flush().ok()?;
            wait_for(self.stream.as_fd());
            if self.stream.hear(&mut self.decoder).ok()? == Heard::End {
                return self.decoder.next().unwrap();
            }
        }
    }

    /// Begins a session, on these terms in milliseconds, and its worker.
    pub fn welcome(&mut self, silence: u64, reconnect: u64) {
        self.say(&ToAgent::Session { session: 7, key: key(), silence, reconnect });
        self.tell(ToWorker::Welcome { name: "crew-1".into(), reset: 0, memory: None });
    }

    pub fn say(&mut self, message: &ToAgent) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.stream.write(&bytes).unwrap();
        self.stream.flush().unwrap();
    }

    pub fn tell(&mut self, message: ToWorker) {
        self.say(&ToAgent::Worker(message));
    }

    pub fn run(&mut self, lease: u64, words: &str) {
        self.deal(lease, words.as_bytes());
    }

    pub fn deal(&mut self, lease: u64, payload: &[u8]) {
        self.tell(ToWorker::Run {
            task: TaskId::from_number(lease),
            lease: Lease(lease),
            slot: lease as u16,
            function: FunctionId::from_number(1),
            attempt: 1,
            short: false,
            within: None,
            inline: true,
            payload: Arc::from(payload),
        });
    }

    /// The answer of the next task that is done, and its lease.
    pub fn answer(&mut self) -> (u64, Payload) {
        loop {
            match self.next().unwrap() {
                FromAgent::Worker(FromWorker::Finished { lease, success: true, payload, .. }) => {
                    return (lease.0, payload);
                }
                // They are dated by now.
                FromAgent::Ack { .. } | FromAgent::Worker(FromWorker::Heartbeat | FromWorker::Hello { .. }) => {}
                other => unreachable!("{other:?}"),
            }
        }
    }

    /// The last message, which it acknowledges; `heard`: how many have come before, with the worker's hello.
    pub fn last(&mut self, heard: u64) -> (Option<u64>, Certificate) {
        loop {
            match self.next().unwrap() {
                FromAgent::Died { begun, certificate } => {
                    self.say(&ToAgent::Ack { received: heard + 1 });
                    return (begun.map(|lease| lease.0), certificate);
                }
                FromAgent::Ack { .. } | FromAgent::Worker(FromWorker::Hello { .. }) => {}
                other => unreachable!("{other:?}"),
            }
        }
    }
}
