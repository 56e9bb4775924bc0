//! An agent that does what the test says, and the host's pool that it dials.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use kumi_core::frame::Wire;
use kumi_core::{
    CrashesMax, Decoder, FromAgent, FromWorker, FunctionId, Lease, NewTask, Outcome, PROTOCOL, Policy, Run, Secret,
    Session, Staff, TaskId, ToAgent, ToWorker,
};
use kumi_net::pool::{Host, Pool};
use kumi_net::proof::{self, JoinCode};
use kumi_net::stream::{Heard, Stream};
use kumi_net::tls::{self, Fingerprint, Identity, Trust};
use kumi_net::wait::{Waited, Wants};
use rustls::ClientConfig;

use crate::common::{LIMIT, wait_for};

pub const HOUR: Duration = Duration::from_secs(3600);

/// A host of this many workers at most, and how to dial it.
pub struct Gate {
    pub pool: Pool,
    pub address: SocketAddr,
    pub config: Arc<ClientConfig>,
    pub function: FunctionId,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.pool.terminate().unwrap();
    }
}

pub fn policy(workers: u64, staff: Staff) -> Policy {
    let second = Duration::from_secs(1);
    Policy {
        name: "crew".into(),
        workers,
        workers_min: 0,
        berths: None,
        idle: None,
        wall: None,
        launch: 60 * second,
        kill: 5 * second,
        heartbeat: 5 * second,
        silence: 30 * second,
        reconnect: 60 * second,
        tasks_max: None,
        crashes_max: CrashesMax::Together(1),
        backup: false,
        queue_bytes: u64::MAX,
        spare_bytes: 1 << 20,
        reset: 0,
        memory: None,
        staff,
    }
}

pub fn gate(policy: Policy) -> Gate {
    let pool = Pool::new(policy, Host { name: "here".into(), python: (3, 11) });
    pool.start().unwrap();
    let identity = Identity::fresh().unwrap();
    let config = tls::client(Trust::Fingerprint(Fingerprint::of(&identity.chain[0]))).unwrap();
    let address = pool.listen("127.0.0.1", 0, identity).unwrap();
    let function = pool.with(|state, _| state.brain.define(Arc::from(*b"f"), Arc::from("f")));
    Gate { pool, address, config, function }
}

impl Gate {
    pub fn code(&self, uses: u32) -> JoinCode {
        self.pool.issue_code(uses, HOUR).unwrap()
    }

    pub fn dial(&self) -> Agent {
        let socket = TcpStream::connect(self.address).unwrap();
        let mut agent = Agent {
            stream: Stream::dialled(socket, &self.config, "127.0.0.1").unwrap(),
            decoder: Decoder::default(),
            ended: false,
        };
        agent.shake();
        agent
    }

    /// One that is let in.
    pub fn join(&self, code: &JoinCode, incarnation: u64) -> (Agent, Line) {
        let mut agent = self.dial();
        agent.hello();
        agent.prove(code, 0, incarnation);
        let line = agent.line();
        (agent, line)
    }

    pub fn submit(&self, payload: &[u8]) -> TaskId {
        let new = NewTask::new(self.function, Arc::from(payload));
        self.pool.with(|state, now| state.brain.submit(now, new)).unwrap()
    }

    pub fn outcome(&self, task: TaskId) -> Outcome {
        let deadline = Some(std::time::Instant::now() + LIMIT);
        loop {
            match self.pool.wait(Wants::Task(task), deadline, |state| state.brain.outcome(task).cloned()).unwrap() {
                Waited::Done(outcome) => return outcome,
                Waited::Signal => {}
                Waited::TimedOut => panic!("no outcome"),
            }
        }
    }

    pub fn workers(&self) -> u64 {
        self.pool.with(|state, _| state.brain.counts().workers)
    }
}

/// What the agent remembers over its connections.
pub struct Line {
    pub session: u64,
    pub key: Secret,
    pub talk: Session<FromAgent, ToAgent>,
}

/// One connection.
pub struct Agent {
    pub stream: Stream,
    pub decoder: Decoder<ToAgent>,
    pub ended: bool,
}

impl Agent {
    fn shake(&mut self) {
        self.stream.flush().unwrap();
        while self.stream.binding().is_none() {
            self.read();
            assert!(!self.ended, "the host hung up in the handshake");
            self.stream.flush().unwrap();
        }
        self.stream.flush().unwrap();
    }

    fn read(&mut self) {
        wait_for(&self.stream);
        self.ended |= matches!(self.stream.hear(&mut self.decoder), Ok(Heard::End) | Err(_));
    }

    /// The next message; `None`: the host has closed the connection.
    pub fn next(&mut self) -> Option<ToAgent> {
        loop {
            if let Some(message) = self.decoder.next().unwrap() {
                return Some(message);
            }
            if self.ended {
                return None;
            }
            self.read();
        }
    }

    /// The text with which the host refuses it; and then it closes the connection.
    pub fn refusal(&mut self) -> String {
        let message = self.next();
        let Some(ToAgent::Worker(ToWorker::Refuse { reason })) = message else {
            panic!("not refused: {message:?}");
        };
        assert_eq!(self.next(), None);
        reason
    }

    pub fn say(&mut self, message: &FromAgent) {
        let mut frame = Vec::new();
        message.encode(&mut frame);
        self.write(&frame);
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write(bytes).unwrap();
        // A host that has hung up does not take it.
        let _ = self.stream.flush();
    }

    pub fn hello(&mut self) {
        let hello = FromWorker::Hello { version: PROTOCOL, python: (3, 11), pid: 7, host: "there".into() };
        self.say(&FromAgent::Worker(hello));
    }

    pub fn prove(&mut self, code: &JoinCode, index: u32, incarnation: u64) -> FromAgent {
        let claim = FromAgent::Prove { ticket: code.ticket, index, incarnation, proof: [0; 32] };
        let claim = proof::prove(&code.secret, &self.stream.binding().unwrap(), claim);
        self.say(&claim);
        claim
    }

    pub fn resume(&mut self, line: &Line) {
        let claim = FromAgent::Resume { session: line.session, received: line.talk.received(), proof: [0; 32] };
        let claim = proof::prove(&line.key, &self.stream.binding().unwrap(), claim);
        self.say(&claim);
    }

    /// The session that the host begins.
    pub fn line(&mut self) -> Line {
        let message = self.next();
        let Some(ToAgent::Session { session, key, .. }) = message else { panic!("not let in: {message:?}") };
        let mut line = Line { session, key, talk: Session::default() };
        let welcome = self.hear(&mut line);
        assert!(matches!(welcome, ToWorker::Welcome { .. }), "{welcome:?}");
        line
    }

    /// The next message for the worker; signs of life are answered.
    pub fn hear(&mut self, line: &mut Line) -> ToWorker {
        loop {
            let message = self.next().expect("the host has hung up");
            let for_us = line.talk.hear(&message).unwrap();
            match message {
                ToAgent::Worker(ToWorker::Ping) => self.tell(line, FromWorker::Heartbeat),
                ToAgent::Worker(message) if for_us => return message,
                _ => {}
            }
        }
    }

    pub fn tell(&mut self, line: &mut Line, message: FromWorker) {
        line.talk.send(FromAgent::Worker(message));
        self.send(line);
    }

    /// What the session has to say.
    pub fn send(&mut self, line: &mut Line) {
        let mut frames = Vec::new();
        while line.talk.write(&mut frames) {}
        self.write(&frames);
    }

    /// The lease of the next task.
    pub fn take(&mut self, line: &mut Line) -> (Lease, Arc<[u8]>) {
        loop {
            match self.hear(line) {
                ToWorker::Run { lease, payload, .. } => return (lease, payload),
                ToWorker::Define { .. } | ToWorker::Forget { .. } => {}
                message => panic!("no task, but {message:?}"),
            }
        }
    }

    pub fn finish(&mut self, line: &mut Line, lease: Lease, value: &[u8]) {
        let payload = Arc::from(value);
        self.tell(
            line,
            FromWorker::Finished {
                lease,
                success: true,
                run: Run { started: 1, nanoseconds: 1, notes: None },
                payload,
            },
        );
    }
}
