//! Where workers from other machines dial in: a thread that listens, keeps their connections, and lets nobody through who
//! has not proved a secret.
//!
//! The thread alone has the connections; what it shares with the rest is in `remote.rs`. It encrypts and decrypts without the
//! lock, and takes that to hand on what was said and to fetch what is to be said.
//!
//! Whoever is not proved costs little and has little time: [`UNPROVED_MAX`] connections at a time, frames of at most
//! [`UNPROVED`] bytes, [`ANSWER`] to prove itself. When there are too many, the oldest that has said nothing makes room; if
//! all have spoken, the others wait.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kumi_core::agent_message::{ANSWER, UNPROVED};
use kumi_core::frame::FRAME_MAX;
use kumi_core::{Caller, Decoder, Event, FromAgent, FromWorker, Origin, TicketId, WorkerId};

use crate::epoll::{Bell, Epoll, OFF, READ, Ready, WRITE};
use crate::hear::refusal;
use crate::pool::{Pool, Shared, State};
use crate::remote::{Errand, refused};
use crate::stream::{Heard, Stream};
use crate::sys::{check, with_signals_blocked};
use crate::tls::{self, Identity};

/// So many may be connected without having proved anything.
pub const UNPROVED_MAX: usize = 128;
/// So many descriptors are left to the rest of the program.
const RESERVE: u64 = 64;
/// When there are no descriptors left, nobody is let in for so long.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the other end may take to read our last words.
const LINGER: Duration = Duration::from_secs(2);
/// So many are let in before the others have their turn.
const ACCEPT_MAX: usize = 64;
/// So many wait in the kernel to be let in, if the kernel allows that.
const BACKLOG: libc::c_int = 4096;
/// So much is fetched for one connection before it is encrypted and sent.
const BATCH: usize = 1 << 16;

const BELL: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;

/// What one who dials in has come to.
#[derive(Debug)]
enum Phase {
    /// It has said nothing that can be understood.
    New,
    /// It has said who it is, and has to prove that.
    Greeted { pid: u32, host: String },
    /// It has proved itself, and the brain decides.
    Asked,
    /// It is the connection of this worker.
    Joined(WorkerId),
    /// It is to hear our last words.
    Closing,
}

/// What makes a stream of an accepted connection.
struct Open(Box<dyn Fn(TcpStream) -> io::Result<Stream> + Send>);

impl std::fmt::Debug for Open {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Open")
    }
}

#[derive(Debug)]
struct Conn {
    /// For people.
    who: String,
    stream: Stream,
    decoder: Decoder<FromAgent>,
    phase: Phase,
    /// To be sent before anything of its session, in whole frames.
    out: Vec<u8>,
    /// It may have more to send than it took.
    blocked: bool,
    events: u32,
    deadline: Option<Instant>,
}

/// See the head of this file.
#[derive(Debug)]
struct Gate {
    shared: Arc<Shared>,
    epoll: Epoll,
    bell: Arc<Bell>,
    listener: TcpListener,
    open: Open,
    conns: BTreeMap<u64, Conn>,
    next: u64,
    /// How many of them are no worker's, and which of those have sent nothing, the oldest first.
    strangers: usize,
    silent: BTreeSet<u64>,
    deadlines: BTreeSet<(Instant, u64)>,
    accepting: bool,
    paused: Option<Instant>,
    fd_max: u64,
    /// Connections that have said something, that have ended, and that can be written to.
    touched: BTreeSet<u64>,
    ended: BTreeSet<u64>,
    writing: BTreeSet<u64>,
    /// What was fetched for them, one after the other, and for whom up to where.
    frames: Vec<u8>,
    fetched: Vec<(u64, usize)>,
}

impl Pool {
    /// Listens for workers from other machines, from now on to the end of the pool. To be called once.
    ///
    /// # Errors
    /// The address is none of this machine's or is taken, or certificate and key do not go together.
    pub fn listen(&self, host: &str, port: u16, identity: Identity) -> io::Result<SocketAddr> {
        let config = tls::server(identity)?;
        self.listen_by(host, port, move |socket| Stream::accepted(socket, &config))
    }

    /// The same, with other streams than those of TLS: to measure what that costs.
    ///
    /// # Errors
    /// The address is none of this machine's or is taken.
    pub fn listen_by(
        &self,
        host: &str,
        port: u16,
        open: impl Fn(TcpStream) -> io::Result<Stream> + Send + 'static,
    ) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((host, port))?;
        listener.set_nonblocking(true)?;
        // Of a thousand workers that a cluster starts at once none shall have to dial again.
        // SAFETY: integers, on a descriptor that lives.
        check(unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) })?;
        let (address, bell, epoll) = (listener.local_addr()?, Arc::new(Bell::new()?), Epoll::new()?);
        epoll.add(bell.fd(), BELL, READ)?;
        epoll.add(listener.as_fd(), LISTENER, READ)?;
        self.with(|state, _| state.remote.bell = Some(Arc::clone(&bell)));
        let gate = Gate::new(Arc::clone(&self.shared), epoll, bell, listener, Open(Box::new(open)));
        let thread = thread::Builder::new().name("kumi-gate".into());
        self.shared.owns(with_signals_blocked(|| thread.spawn(move || gate.run()))??);
        Ok(address)
    }
}

impl Gate {
    fn new(shared: Arc<Shared>, epoll: Epoll, bell: Arc<Bell>, listener: TcpListener, open: Open) -> Self {
        Self {
            shared,
            epoll,
            bell,
            listener,
            open,
            conns: BTreeMap::new(),
            next: 0,
            strangers: 0,
            silent: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            accepting: true,
            paused: None,
            fd_max: most_descriptors(),
            touched: BTreeSet::new(),
            ended: BTreeSet::new(),
            writing: BTreeSet::new(),
            frames: Vec::new(),
            fetched: Vec::new(),
        }
    }

    fn run(mut self) {
        let mut ready = Ready::default();
        // The work comes first: only who has looked that there is none may sleep.
        while !(self.work() && self.close()) {
            // All signals are blocked here, so nothing interrupts.
            let _ = self.epoll.wait(&mut ready, self.limit());
            for (key, events) in ready.iter() {
                match key {
                    BELL => self.bell.hush(),
                    LISTENER => self.accept(),
                    id => self.stir(id, events),
                }
            }
            self.expire(Instant::now());
        }
    }

    fn limit(&self) -> Option<Duration> {
        let first = self.deadlines.first().map(|(at, _)| *at);
        first.into_iter().chain(self.paused).min().map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn expire(&mut self, now: Instant) {
        while let Some((at, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, id));
            self.ended.insert(id);
        }
        self.paused = self.paused.filter(|at| *at > now);
        self.show_listener();
    }

    /// Lets in who waits, if there is room.
    fn accept(&mut self) {
        for _ in 0..ACCEPT_MAX {
            if !self.make_room() {
                break;
            }
            match self.listener.accept() {
                Ok((socket, _)) if socket.as_raw_fd() as u64 + RESERVE >= self.fd_max => self.pause(),
                Ok((socket, address)) => self.admit_stranger(socket, address),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // One that has hung up while it waited.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(_) => self.pause(),
            }
        }
        self.show_listener();
    }

    fn make_room(&mut self) -> bool {
        while self.strangers >= UNPROVED_MAX {
            let Some(oldest) = self.silent.first().copied() else { return false };
            // It may have spoken, and we have not listened yet.
            self.hear(oldest);
            if self.silent.contains(&oldest) {
                let shared = Arc::clone(&self.shared);
                self.end(&mut shared.lock(), oldest);
            }
        }
        self.paused.is_none()
    }

    fn pause(&mut self) {
        self.paused = Some(Instant::now() + PAUSE);
    }

    /// Watches the listener while somebody could be let in.
    fn show_listener(&mut self) {
        let room = self.strangers < UNPROVED_MAX || !self.silent.is_empty();
        let accepting = room && self.paused.is_none();
        if accepting != self.accepting {
            self.accepting = accepting;
            // Both live as long as this thread.
            let _ = self.epoll.set(self.listener.as_fd(), LISTENER, if accepting { READ } else { OFF });
        }
    }

    fn admit_stranger(&mut self, socket: TcpStream, address: SocketAddr) {
        let id = self.next;
        self.next += 1;
        let Ok(stream) = (self.open.0)(socket) else { return };
        if self.epoll.add(stream.as_fd(), id, READ).is_err() {
            return;
        }
        let conn = Conn {
            who: format!("a worker at {}", address.ip()),
            stream,
            decoder: Decoder::limited(UNPROVED, 0),
            phase: Phase::New,
            out: Vec::new(),
            blocked: false,
            events: READ,
            deadline: None,
        };
        self.conns.insert(id, conn);
        self.strangers += 1;
        self.silent.insert(id);
        self.allow(id, Some(ANSWER));
    }

    /// The connection has to be somebody's, or over, within this time.
    fn allow(&mut self, id: u64, span: Option<Duration>) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if let Some(old) = conn.deadline.take() {
            self.deadlines.remove(&(old, id));
        }
        conn.deadline = span.map(|span| Instant::now() + span);
        self.deadlines.extend(conn.deadline.map(|at| (at, id)));
    }

    /// The socket takes bytes again, or has some.
    fn stir(&mut self, id: u64, events: u32) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if events & WRITE != 0 && conn.stream.flush().is_err() {
            self.ended.insert(id);
        }
        if mem::take(&mut conn.blocked) {
            self.writing.insert(id);
        }
        if events & !WRITE != 0 {
            self.hear(id);
        }
        self.watch(id);
    }

    fn hear(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let heard = conn.hear();
        if heard.as_ref().is_err_and(is_distrust) {
            let reason = "it does not trust the certificate: start it with the URL that this controller has now, or with \
                          --authorities if the certificate is your own";
            self.shared.lock().remote.tell(&self.shared.name, &conn.who, reason);
        }
        if matches!(heard, Ok(Heard::All)) {
            return;
        }
        self.silent.remove(&id);
        self.touched.insert(id);
        if !matches!(heard, Ok(Heard::More)) {
            self.ended.insert(id);
        }
    }

    /// Hands on what was said, sends what is to be said. Whether the pool is over.
    fn work(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        loop {
            let mut state = shared.lock();
            for id in mem::take(&mut self.touched) {
                self.take_messages(&mut state, id);
            }
            for id in mem::take(&mut self.ended) {
                self.end(&mut state, id);
            }
            shared.carry_out(&mut state);
            self.run_errands(&mut state);
            while let Some(id) = state.remote.next_dirty() {
                self.writing.insert(id);
            }
            self.fetch(&mut state);
            let idle = self.fetched.is_empty() && state.remote.is_quiet() && self.ended.is_empty();
            state.remote.asleep = idle;
            // Without workers there is nobody left to hear.
            let over = state.over || state.brain.ended();
            drop(state);
            if idle {
                return over;
            }
            self.send_all();
        }
    }

    fn take_messages(&mut self, state: &mut State, id: u64) {
        let shared = Arc::clone(&self.shared);
        let now = shared.now();
        while let Some(conn) = self.conns.get_mut(&id) {
            let message = match conn.decoder.next() {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(_) => break,
            };
            match (&conn.phase, message) {
                (Phase::Joined(worker), message) => {
                    if !shared.hear_agent(state, now, *worker, message) {
                        break;
                    }
                }
                (Phase::New, FromAgent::Worker(FromWorker::Hello { version, python, pid, host })) => {
                    match refusal(shared.host.python, version, python) {
                        None => {
                            conn.who = who(&host, pid);
                            conn.phase = Phase::Greeted { pid, host };
                        }
                        Some(reason) => {
                            conn.who = who(&host, pid);
                            self.refuse(state, id, &reason);
                        }
                    }
                }
                (Phase::Greeted { .. }, claim @ FromAgent::Prove { .. }) => self.ask(state, id, &claim),
                (Phase::Greeted { .. }, claim @ FromAgent::Resume { .. }) => self.resume(state, id, &claim),
                (Phase::Closing, _) => return,
                (Phase::New | Phase::Greeted { .. } | Phase::Asked, _) => break,
            }
        }
        self.ended.insert(id);
    }

    /// Somebody claims to have the secret of a ticket.
    fn ask(&mut self, state: &mut State, id: u64, claim: &FromAgent) {
        let FromAgent::Prove { ticket, index, incarnation, .. } = claim else { return };
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let ticket = TicketId::from_number(*ticket);
        let proved = conn.stream.binding().is_some_and(|binding| state.remote.proves_ticket(ticket, &binding, claim));
        let Phase::Greeted { pid, host } = mem::replace(&mut conn.phase, Phase::Asked) else { return };
        if !proved {
            let reason =
                "the join code is not one of this controller's, or its launch is over: make one with join_code()";
            return self.refuse(state, id, reason);
        }
        // The brain answers in time by itself.
        self.allow(id, None);
        let origin = Origin { ticket, index: *index, incarnation: *incarnation };
        let caller = Caller { number: id, origin, pid, host };
        state.brain.handle(self.shared.now(), Event::Called { caller });
        self.shared.carry_out(state);
    }

    /// Somebody claims to have a session.
    fn resume(&mut self, state: &mut State, id: u64, claim: &FromAgent) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.phase = Phase::Asked;
        let binding = conn.stream.binding().unwrap_or_default();
        match state.remote.resume(id, &binding, claim) {
            Ok(worker) => state.brain.handle(self.shared.now(), Event::Resumed { worker }),
            Err(reason) => self.last_words(id, refused(reason)),
        }
        // From now on what it says is its session's.
        self.run_errands(state);
    }

    fn run_errands(&mut self, state: &mut State) {
        while let Some(errand) = state.remote.errands.pop_front() {
            match errand {
                Errand::Join { conn: id, worker, frame } => self.join(state, id, worker, frame),
                Errand::Refuse { conn, reason } => self.refuse(state, conn, &reason),
                Errand::Close { conn, frame } => self.last_words(conn, frame),
                Errand::HangUp { conn } => self.end(state, conn),
            }
            self.shared.carry_out(state);
        }
    }

    fn join(&mut self, state: &mut State, id: u64, worker: WorkerId, frame: Vec<u8>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            // It has hung up meanwhile.
            if state.remote.cut(worker, id) {
                state.brain.handle(self.shared.now(), Event::Cut { worker });
                self.shared.look_after(state);
            }
            return;
        };
        conn.phase = Phase::Joined(worker);
        conn.decoder.limit(FRAME_MAX, u64::MAX);
        conn.out.extend(frame);
        self.strangers -= 1;
        self.writing.insert(id);
        self.allow(id, None);
        self.show_listener();
    }

    /// It does not become a worker, as both ends are told.
    fn refuse(&mut self, state: &mut State, id: u64, reason: &str) {
        let Some(conn) = self.conns.get(&id) else { return };
        if !state.brain.closing() {
            state.remote.tell(&self.shared.name, &conn.who, reason);
        }
        self.last_words(id, refused(reason));
    }

    fn last_words(&mut self, id: u64, frame: Vec<u8>) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if matches!(mem::replace(&mut conn.phase, Phase::Closing), Phase::Joined(_)) {
            self.strangers += 1;
        }
        conn.out.extend(frame);
        self.writing.insert(id);
        self.allow(id, Some(LINGER));
    }

    /// The connection is over, whoever ended it.
    fn end(&mut self, state: &mut State, id: u64) {
        let Some(conn) = self.conns.remove(&id) else { return };
        // By hand: closing does not suffice where a forked child of the host has copies.
        let _ = self.epoll.remove(conn.stream.as_fd());
        if let Some(at) = conn.deadline {
            self.deadlines.remove(&(at, id));
        }
        self.silent.remove(&id);
        self.writing.remove(&id);
        match conn.phase {
            Phase::Joined(worker) => {
                if state.remote.cut(worker, id) {
                    state.brain.handle(self.shared.now(), Event::Cut { worker });
                    self.shared.look_after(state);
                }
            }
            Phase::New | Phase::Greeted { .. } | Phase::Asked | Phase::Closing => self.strangers -= 1,
        }
        conn.stream.hang_up();
        self.show_listener();
    }

    /// Fetches what is to be sent, some for each connection that takes bytes.
    fn fetch(&mut self, state: &mut State) {
        for id in mem::take(&mut self.writing) {
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            if !conn.stream.is_clear() {
                conn.blocked = true;
                continue;
            }
            if matches!(conn.phase, Phase::Closing) && conn.out.is_empty() {
                // Everything is on its way; the other end hangs up when it has read that.
                conn.stream.close();
            }
            let begin = self.frames.len();
            self.frames.append(&mut conn.out);
            if let Phase::Joined(worker) = conn.phase {
                let line = state.remote.lines.get_mut(&worker).filter(|line| line.conn == Some(id));
                if let Some(line) = line {
                    while self.frames.len() - begin < BATCH && line.talk.write(&mut self.frames) {}
                }
            }
            if self.frames.len() > begin {
                self.fetched.push((id, self.frames.len()));
            }
        }
    }

    /// Without the lock: encrypting takes its time.
    fn send_all(&mut self) {
        let (frames, fetched) = (mem::take(&mut self.frames), mem::take(&mut self.fetched));
        let mut begin = 0;
        for (id, end) in &fetched {
            self.send(*id, frames.get(begin..*end).unwrap_or_default());
            begin = *end;
        }
        (self.frames, self.fetched) = (frames, fetched);
        self.frames.clear();
        self.fetched.clear();
        // A rare large payload shall not keep its memory.
        self.frames.shrink_to(1 << 20);
    }

    fn send(&mut self, id: u64, frames: &[u8]) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.stream.write(frames).and_then(|()| conn.stream.flush()).is_err() {
            self.ended.insert(id);
        } else {
            // There may be more.
            self.writing.insert(id);
        }
        self.watch(id);
    }

    /// Watches the socket for what it is worth.
    fn watch(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let events = if conn.stream.wants_write() { READ | WRITE } else { READ };
        if mem::replace(&mut conn.events, events) != events {
            let _ = self.epoll.set(conn.stream.as_fd(), id, events);
        }
    }

    /// The pool is over: whether everybody has heard our last words, or had the time to.
    fn close(&mut self) -> bool {
        self.pause();
        let shared = Arc::clone(&self.shared);
        let open = |conn: &Conn| !matches!(conn.phase, Phase::Closing);
        let rest: Vec<_> = self.conns.iter().filter(|(_, conn)| open(conn)).map(|(id, _)| *id).collect();
        rest.into_iter().for_each(|id| self.end(&mut shared.lock(), id));
        self.conns.is_empty()
    }
}

impl Conn {
    /// Reads once.
    fn hear(&mut self) -> io::Result<Heard> {
        match self.phase {
            // Nothing of it counts; but unread bytes would have the kernel throw our last words away.
            Phase::Closing => self.stream.hear(&mut Decoder::<FromAgent>::default()),
            Phase::New | Phase::Greeted { .. } | Phase::Asked | Phase::Joined(_) => self.stream.hear(&mut self.decoder),
        }
    }
}

fn who(host: &str, pid: u32) -> String {
    format!("a worker on {host} (process {pid})")
}

/// Whether the other end has said that it does not take us for whom it wants.
fn is_distrust(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::AlertReceived(alert)) = inner else { return false };
    use rustls::AlertDescription as Alert;
    matches!(alert, Alert::BadCertificate | Alert::CertificateUnknown | Alert::UnknownCA | Alert::DecryptError)
        || matches!(alert, Alert::HandshakeFailure | Alert::UnsupportedCertificate | Alert::AccessDenied)
}

fn most_descriptors() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid local.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 { limit.rlim_cur } else { u64::MAX }
}
