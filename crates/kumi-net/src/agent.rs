//! The agent: what `kumi worker` is. It keeps the connection to the host, and runs the worker as its child.
//!
//! One thread waits for everything: the host, the worker's sockets, output and end, signals, time. `AgentHalf` says what to
//! do: also to start one worker after another. Two kinds of thread help it with what may hang: one looks up the host's name and connects (`line.rs`), one writes to
//! our stdout and stderr (`outlet.rs`). `ward.rs`: the worker.
//! A signal to end ends the worker, tells the host how it died, and then the agent; a second one does not wait for that.
//! If the agent is killed, its worker's watchdog ends the worker, as when a host is killed.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kumi_core::agent_message::ANSWER;
use kumi_core::frame::Wire;
use kumi_core::marks::Piece;
use kumi_core::{AgentHalf, Certificate, FromAgent, FromWorker, Order, PROTOCOL, Secret, Time, ToAgent, ToWorker};

use rustls::ClientConfig;

use crate::child::Heard;
use crate::epoll::{Bell, Epoll, READ, Ready};
use crate::line::Line;
use crate::log::Shelf;
use crate::outlet::Outlet;
use crate::process::signal_name;
use crate::proof::{self, JoinCode};
use crate::signals::Signals;
use crate::spawn::Command;
use crate::tls;
use crate::ward::Ward;

// Keys of what the thread waits for.
const BELL: u64 = 0;
const SIGNALS: u64 = 1;
const HOST: u64 = 2;
pub(crate) const DATA: u64 = 3;
pub(crate) const PROCESS: u64 = 4;
/// And, next to it, that of stderr.
pub(crate) const STDOUT: u64 = 5;

/// How many bytes of frames are handed to TLS at once, if they are there.
const HANDFUL: usize = 1 << 16;
/// How long a signalled agent waits until the host knows how the worker died; and how long its last output may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// What an agent is told.
#[derive(Debug)]
pub struct Plan {
    /// The host's name or address, by which its certificate is checked as well, unless that is known by its fingerprint.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How to know it, by [`tls::client`].
    pub config: Arc<ClientConfig>,
    /// What to prove.
    pub code: JoinCode,
    /// Which of the launch's workers it is; `None`: it was started by hand.
    pub index: Option<u32>,
    /// How to start the worker.
    pub command: Command,
    /// Major and minor version of Python.
    pub python: (u8, u8),
    /// Name of this machine.
    pub machine: String,
    /// For how long to dial before the host has let it in.
    pub patience: Duration,
    /// Where what its workers write is kept, if it is.
    pub shelf: Option<Shelf>,
    /// Say on stderr what goes on.
    pub talkative: bool,
}

/// How an agent ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As the host wanted.
    ByHost,
    /// By this signal.
    BySignal(i32),
}

/// Runs the agent in this thread. When this returns, the worker and all that it started is gone.
///
/// # Errors
/// It was not let in, or has lost its host for too long; or no descriptors or threads are left. The text is for the user.
pub fn run(plan: Plan) -> io::Result<Ended> {
    let mut agent = Agent::new(plan)?;
    let ended = agent.serve();
    agent.leave();
    ended
}

struct Agent {
    plan: Plan,
    half: AgentHalf,
    epoch: Instant,
    epoll: Epoll,
    bell: Arc<Bell>,
    signals: Signals,
    outlet: Outlet,
    /// Our worker's output is not read, since ours is not written.
    muted: bool,
    line: Line,
    ward: Option<Ward>,
    /// Tells this agent from others that prove the same.
    incarnation: u64,
    /// Why the last connection ended too early, or did not come about.
    trouble: Option<String>,
    /// A signal has come, and how long to wait after it.
    farewell: Option<(i32, Instant)>,
    ended: Option<io::Result<Ended>>,
}

impl Agent {
    fn new(plan: Plan) -> io::Result<Self> {
        let (epoll, bell, signals) = (Epoll::new()?, Arc::new(Bell::new()?), Signals::watch()?);
        epoll.add(bell.fd(), BELL, READ)?;
        epoll.add(signals.fd(), SIGNALS, READ)?;
        let line = Line::new(plan.host.clone(), plan.port, Arc::clone(&plan.config), HOST, Arc::clone(&bell));
        Ok(Self {
            half: AgentHalf::new(Time(0), plan.patience, plan.index.is_some()),
            epoch: Instant::now(),
            epoll,
            outlet: Outlet::start(Arc::clone(&bell), plan.shelf.clone())?,
            bell,
            signals,
            muted: false,
            line,
            ward: None,
            incarnation: u64::from_ne_bytes(proof::random()?),
            trouble: None,
            farewell: None,
            ended: None,
            plan,
        })
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn serve(&mut self) -> io::Result<Ended> {
        let mut ready = Ready::default();
        loop {
            self.obey();
            self.send();
            if let Some(ended) = self.ended.take() {
                return ended;
            }
            match self.epoll.wait(&mut ready, self.next_timeout()) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for (key, _) in ready.iter() {
                self.attend(key);
            }
            self.tick();
        }
    }

    /// Something is ready.
    fn attend(&mut self, key: u64) {
        match key {
            BELL => {
                self.bell.hush();
                self.mute(self.outlet.is_full());
                if let Err(error) = self.line.answered(&self.epoll) {
                    self.disconnected(&error);
                }
            }
            SIGNALS => self.signalled(),
            HOST => self.hear_host(),
            DATA => {
                let now = self.now();
                if let Some(ward) = &mut self.ward {
                    ward.hear(now, &self.epoll, &mut |message| self.half.said(message));
                }
            }
            PROCESS => self.bury(),
            output => self.pass_on((output - STDOUT) as usize),
        }
    }

    fn hear_host(&mut self) {
        let heard = self.line.hear();
        if self.line.is_new() {
            self.half.connected(self.now());
            self.obey();
        }
        if let Err(text) = self.take_messages() {
            return self.disconnected(&io::Error::other(text));
        }
        match heard {
            _ if self.ended.is_some() || self.line.is_down() => {}
            Ok(Heard::All | Heard::More) => {}
            Ok(Heard::End) => self.disconnected(&io::Error::other("the host has closed the connection")),
            Err(error) if tls::is_stranger(&error) => {
                let (host, port) = (&self.plan.host, self.plan.port);
                let text = format!("{host}:{port} is not the host of this URL: {error}");
                self.ended = Some(Err(io::Error::other(text)));
            }
            Err(error) => self.disconnected(&error),
        }
    }

    fn take_messages(&mut self) -> Result<(), String> {
        let nonsense = |error| format!("the host sent something that makes no sense here: {error}");
        while let Some(message) = self.line.next_message().map_err(nonsense)? {
            if self.trouble.take().is_some() && matches!(message, ToAgent::Resumed { .. }) {
                self.note("connected again");
            }
            self.half.hear(self.now(), message).map_err(nonsense)?;
            self.obey();
        }
        Ok(())
    }

    fn disconnected(&mut self, why: &io::Error) {
        self.hang_up(why.to_string());
        if why.kind() == io::ErrorKind::ConnectionRefused {
            self.half.unanswered(self.now());
        } else {
            self.half.disconnected(self.now());
        }
    }

    fn hang_up(&mut self, why: String) {
        self.line.hang_up(&self.epoll);
        if self.trouble.is_none() {
            let (host, port) = (&self.plan.host, self.plan.port);
            self.note(&format!("no connection to {host}:{port} ({why}); trying again"));
        }
        self.trouble = Some(why);
    }

    fn obey(&mut self) {
        while let Some(order) = self.half.next_order() {
            match order {
                Order::Dial => {
                    if let Err(error) = self.line.dial(ANSWER.min(self.plan.patience)) {
                        self.disconnected(&error);
                    }
                }
                Order::Greet { session } => self.greet(session),
                Order::HangUp { silent: true } => self.hang_up("it gave no sign of life".into()),
                Order::HangUp { silent: false } => self.line.hang_up(&self.epoll),
                Order::Start { welcome } => self.start(&welcome),
                Order::Tell(message) => self.with_ward(|ward| ward.tell(message)),
                Order::Recall { lease, slot } => {
                    // One that is dead gives everything back: the host hears that next.
                    if let Some(back) = self.ward.as_ref().map(|ward| ward.recall(slot, lease)) {
                        self.half.said(FromWorker::Recalled { lease, back });
                    }
                }
                Order::Kill => self.kill(),
                Order::End { why, fault } => self.end(why, fault),
            }
        }
    }

    fn with_ward(&mut self, work: impl FnOnce(&mut Ward)) {
        if let Some(ward) = &mut self.ward {
            work(ward);
        }
    }

    fn greet(&mut self, session: Option<(u64, Secret, u64)>) {
        let hello = FromWorker::Hello {
            version: PROTOCOL,
            python: self.plan.python,
            pid: std::process::id(),
            host: self.plan.machine.clone(),
        };
        let Some(binding) = self.line.binding() else { return };
        let (ticket, index, incarnation) = (self.plan.code.ticket, self.plan.index.unwrap_or(0), self.incarnation);
        let (claim, secret) = match session {
            Some((session, key, received)) => (FromAgent::Resume { session, received, proof: [0; 32] }, key),
            None => {
                let claim = FromAgent::Prove { ticket, index, incarnation, proof: [0; 32] };
                (claim, self.plan.code.secret.clone())
            }
        };
        let mut frames = Vec::new();
        FromAgent::Worker(hello).encode(&mut frames);
        proof::prove(&secret, &binding, claim).encode(&mut frames);
        if let Err(error) = self.line.greet(&self.epoll, &frames) {
            self.disconnected(&error);
        }
    }

    fn start(&mut self, welcome: &ToWorker) {
        match Ward::start(&self.plan.command, self.plan.python, welcome, &self.epoll) {
            Ok(ward) => {
                let (host, port) = (&self.plan.host, self.plan.port);
                self.note(&format!("connected to {host}:{port} as {}", ward.name()));
                ward.read_output(!self.muted, &self.epoll);
                self.ward = Some(ward);
            }
            Err(error) => {
                let cause = format!("the worker could not be started: {error}");
                self.note(&cause);
                self.stillborn(cause);
            }
        }
    }

    /// There was no worker to begin with.
    fn stillborn(&mut self, cause: String) {
        let host = Some(self.plan.machine.clone());
        self.half.died(None, Certificate { cause, host, ..Certificate::default() });
    }

    fn kill(&mut self) {
        match &mut self.ward {
            Some(ward) => ward.kill(None),
            None => self.stillborn("it was ended before it was started".into()),
        }
    }

    /// Hands on what there is, as far as both sockets take it.
    fn send(&mut self) {
        let half = &mut self.half;
        self.line.send(&self.epoll, |out| while out.len() < HANDFUL && half.write(out) {});
        if let Some(ward) = &mut self.ward {
            ward.flush(&self.epoll);
        }
    }

    fn bury(&mut self) {
        let Some(ward) = self.ward.take() else { return };
        let (now, name, half) = (self.now(), ward.name().to_owned(), &mut self.half);
        let said = &mut |message| half.said(message);
        let (begun, certificate) = ward.bury(now, &self.plan.machine, &self.outlet, &self.epoll, said);
        self.note(&format!("worker {name} has ended: {}", certificate.cause));
        self.half.died(begun, certificate);
    }

    fn pass_on(&mut self, index: usize) {
        if let Some(ward) = &mut self.ward {
            ward.pass_on(index, &self.outlet, &self.epoll);
        }
        if self.outlet.is_full() {
            self.mute(true);
        }
    }

    fn mute(&mut self, muted: bool) {
        if muted != self.muted {
            self.muted = muted;
            if let Some(ward) = &self.ward {
                ward.read_output(!muted, &self.epoll);
            }
        }
    }

    /// Somebody here wants us to end.
    fn signalled(&mut self) {
        while let Some(signal) = self.signals.take() {
            if self.farewell.is_some() || self.ward.is_none() {
                self.ended = Some(Ok(Ended::BySignal(signal)));
            }
            self.farewell = Some((signal, Instant::now() + FAREWELL));
            let name = signal_name(signal).unwrap_or("a signal");
            self.with_ward(|ward| ward.kill(Some(format!("its agent was told to end by {name}"))));
        }
    }

    /// The half wants to end.
    fn end(&mut self, why: Option<String>, fault: bool) {
        let why = why.map(|why| self.explain(why));
        self.ended = Some(match (why, self.farewell) {
            (_, Some((signal, _))) => Ok(Ended::BySignal(signal)),
            (Some(why), None) if fault => Err(io::Error::other(why)),
            (why, None) => {
                why.into_iter().for_each(|why| self.note(&why));
                Ok(Ended::ByHost)
            }
        });
    }

    fn explain(&mut self, why: String) -> String {
        if self.line.is_up() {
            return format!("the host has refused this worker: {why}");
        }
        let (host, port) = (&self.plan.host, self.plan.port);
        let trouble = self.trouble.take().map(|trouble| format!("; the last attempt: {trouble}"));
        format!("{host}:{port}: {why}{}", trouble.unwrap_or_default())
    }

    fn next_timeout(&self) -> Option<Duration> {
        let (hangs, trim) = self.ward.as_ref().map(Ward::next_timeout).unwrap_or_default();
        let times = [self.half.next_timeout(), trim].into_iter().flatten().map(|time| time.since(self.now()));
        let instants = [hangs, self.line.next_timeout(), self.farewell.map(|(_, until)| until)];
        let now = Instant::now();
        times.chain(instants.into_iter().flatten().map(|until| until.saturating_duration_since(now))).min()
    }

    fn tick(&mut self) {
        if self.line.is_late() {
            self.disconnected(&io::Error::other("no answer"));
        }
        let now = self.now();
        self.half.tick(now);
        self.with_ward(|ward| ward.tick(now));
        // Where the host cannot hear of it there is nothing to wait for.
        let told = self.ward.is_none() && !self.line.is_up();
        match self.farewell {
            Some((signal, until)) if told || until <= Instant::now() => {
                self.ended.get_or_insert(Ok(Ended::BySignal(signal)));
            }
            Some(_) | None => {}
        }
    }

    fn leave(&mut self) {
        if let Some(ward) = self.ward.take() {
            ward.end(self.now(), &self.plan.machine, &self.outlet, &self.epoll);
        }
        self.line.hang_up(&self.epoll);
        self.outlet.drain(FAREWELL);
    }

    /// A line on stderr, for who looks on.
    fn note(&self, text: &str) {
        if self.plan.talkative {
            let bytes = format!("kumi worker: {text}\n").into_bytes();
            self.outlet.put(None, true, Piece { writer: None, bytes });
        }
    }
}
