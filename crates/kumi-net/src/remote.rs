//! Remote workers as the brain's lock guards them: their sessions, the secrets that let them in, and what the gate's thread
//! (`gate.rs`), which has the connections, is to do.
//!
//! A worker's session outlives its connections. What the brain wants said goes into the session at once, whoever has the
//! lock; the gate writes it when its connection takes bytes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kumi_core::frame::Wire;
use kumi_core::session::OutOfStep;
use kumi_core::{Event, FromAgent, Secret, Session, Talk, Ticket, TicketId, Time, ToAgent, ToWorker, WorkerId};

use crate::deliver::{self, Delivery};
use crate::epoll::Bell;
use crate::pool::{Pool, Shared, State};
use crate::proof::{self, JoinCode};

/// A session whose worker takes no more, because it is lost or another one has its place, is told so in these words.
const OVER: &str = "its session is over: the host has given it up, or its place has another worker";

/// So many reasons are told why somebody was not let in.
const TOLD_MAX: usize = 32;

/// The host's end of one worker's session.
#[derive(Debug)]
pub(crate) struct Line {
    number: u64,
    key: Secret,
    pub talk: Session<ToAgent, FromAgent>,
    /// Over which connection of the gate's it goes at present.
    pub conn: Option<u64>,
    /// It is among those that have something to send.
    dirty: bool,
}

/// What the gate's thread is to do with a connection.
#[derive(Debug)]
pub(crate) enum Errand {
    /// The caller is this worker: begin with this frame.
    Join { conn: u64, worker: WorkerId, frame: Vec<u8> },
    /// It does not become a worker: tell both ends why.
    Refuse { conn: u64, reason: String },
    /// Say this last, and close.
    Close { conn: u64, frame: Vec<u8> },
    /// Close at once.
    HangUp { conn: u64 },
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    /// Wakes the gate's thread. `None`: nobody listens.
    pub bell: Option<Arc<Bell>>,
    /// The gate's thread waits.
    pub asleep: bool,
    pub lines: BTreeMap<WorkerId, Line>,
    sessions: BTreeMap<u64, WorkerId>,
    secrets: BTreeMap<TicketId, Secret>,
    dirty: Vec<WorkerId>,
    /// What the user was told of those who were not let in: each once, and not for ever.
    told: BTreeSet<String>,
    pub errands: VecDeque<Errand>,
}

impl Pool {
    /// A join code that lets in so many agents within this time.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn issue_code(&self, uses: u32, span: Duration) -> io::Result<JoinCode> {
        self.issue(|now| Ticket::Code { uses, until: now.after(span) })
    }

    /// A ticket with its secret: whoever proves that is let in by the ticket's rules.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn issue(&self, ticket: impl FnOnce(Time) -> Ticket) -> io::Result<JoinCode> {
        let secret = Secret(proof::random()?);
        let ticket = self.with(|state, now| {
            let ticket = state.brain.issue(ticket(now));
            state.remote.secrets.insert(ticket, secret.clone());
            ticket
        });
        Ok(JoinCode { ticket: ticket.number(), secret })
    }
}

impl Remote {
    /// Whether whoever claims this over a connection with this binding has the ticket's secret.
    pub fn proves_ticket(&self, ticket: TicketId, binding: &[u8; 32], claim: &FromAgent) -> bool {
        self.secrets.get(&ticket).is_some_and(|secret| proof::is_proved(secret, binding, claim))
    }

    /// Whoever proves this ticket's secret proves nothing any more.
    pub fn forget_secret(&mut self, ticket: TicketId) {
        self.secrets.remove(&ticket);
    }

    /// Tells the user that a worker was not let in, unless the same has happened before: anybody may knock.
    pub fn tell(&mut self, controller: &str, who: &str, reason: &str) {
        if self.told.len() >= TOLD_MAX || !self.told.insert(reason.to_owned()) {
            return;
        }
        let text = format!("kumi: controller '{controller}' has not let in {who}: {reason}\n");
        deliver::put(Delivery::Notice(text));
    }

    /// To be done by the gate's thread.
    pub fn order(&mut self, errand: Errand) {
        self.errands.push_back(errand);
        self.wake();
    }

    /// Has the gate's thread look what there is to do.
    pub fn wake(&mut self) {
        if std::mem::take(&mut self.asleep) {
            if let Some(bell) = &self.bell {
                bell.ring();
            }
        }
    }

    /// A message for this worker, if it is a remote one.
    pub fn send(&mut self, worker: WorkerId, message: ToAgent) {
        let Some(line) = self.lines.get_mut(&worker) else { return };
        // For one without a connection a sign of life is for nobody.
        if line.conn.is_some() || message.is_kept() {
            line.talk.send(message);
            self.mark(worker);
        }
    }

    /// This session may have something to send.
    pub fn mark(&mut self, worker: WorkerId) {
        let Some(line) = self.lines.get_mut(&worker) else { return };
        if line.conn.is_some() && !line.dirty {
            line.dirty = true;
            self.dirty.push(worker);
            self.wake();
        }
    }

    /// The connection of a session that may have something to send, each once.
    pub fn next_dirty(&mut self) -> Option<u64> {
        while let Some(worker) = self.dirty.pop() {
            if let Some(line) = self.lines.get_mut(&worker) {
                line.dirty = false;
                if line.conn.is_some() {
                    return line.conn;
                }
            }
        }
        None
    }

    pub fn is_quiet(&self) -> bool {
        self.dirty.is_empty() && self.errands.is_empty()
    }

    /// Nothing of the session counts any more. Returns its connection.
    pub fn forget(&mut self, worker: WorkerId) -> Option<u64> {
        let line = self.lines.remove(&worker)?;
        self.sessions.remove(&line.number);
        line.conn
    }

    /// The worker's connection has ended, if it is still this one. True: it is cut now.
    pub fn cut(&mut self, worker: WorkerId, conn: u64) -> bool {
        let Some(line) = self.lines.get_mut(&worker).filter(|line| line.conn == Some(conn)) else { return false };
        line.talk.cut();
        line.conn = None;
        true
    }

    /// The connection goes on with a session, if it proves that: its worker.
    pub fn resume(&mut self, conn: u64, binding: &[u8; 32], claim: &FromAgent) -> Result<WorkerId, &'static str> {
        let FromAgent::Resume { session, received, .. } = claim else { return Err(OVER) };
        let worker = *self.sessions.get(session).ok_or(OVER)?;
        let line =
            self.lines.get_mut(&worker).filter(|line| proof::is_proved(&line.key, binding, claim)).ok_or(OVER)?;
        line.talk.resume(*received).map_err(|OutOfStep| "it speaks of messages that its session never had")?;
        let told = line.talk.received();
        self.connect(worker, conn, &ToAgent::Resumed { received: told });
        Ok(worker)
    }

    /// From now on the session goes over this connection, which begins with this answer.
    fn connect(&mut self, worker: WorkerId, conn: u64, answer: &ToAgent) {
        let Some(line) = self.lines.get_mut(&worker) else { return };
        let old = line.conn.replace(conn);
        let frame = encoded(answer);
        if let Some(old) = old.filter(|old| *old != conn) {
            self.order(Errand::HangUp { conn: old });
        }
        self.order(Errand::Join { conn, worker, frame });
        self.mark(worker);
    }

    /// A session for this worker; or the one that it has, if nothing of that has ever come to the other end.
    fn begin(&mut self, worker: WorkerId) -> io::Result<&mut Line> {
        if !self.lines.contains_key(&worker) {
            let number = u64::from_le_bytes(proof::random()?);
            let key = Secret(proof::random()?);
            self.sessions.insert(number, worker);
            self.lines.insert(worker, Line { number, key, talk: Session::default(), conn: None, dirty: false });
        }
        let line = self.lines.get_mut(&worker).ok_or_else(|| io::Error::other("it is gone"))?;
        line.talk.resume(0).map_err(|OutOfStep| io::Error::other("it has begun, and cannot begin anew"))?;
        Ok(line)
    }
}

impl Shared {
    /// The brain lets this caller be that worker.
    pub fn admit(&self, state: &mut State, conn: u64, worker: WorkerId) {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let (silence, reconnect) = (millis(self.silence), millis(self.reconnect));
        match state.remote.begin(worker) {
            Ok(line) => {
                let answer = ToAgent::Session { session: line.number, key: line.key.clone(), silence, reconnect };
                state.remote.connect(worker, conn, &answer);
            }
            Err(error) => {
                let reason = format!("no session with the host: {error}");
                state.remote.order(Errand::Close { conn, frame: refused(reason) });
                state.brain.handle(self.now(), Event::Cut { worker });
            }
        }
    }

    /// The brain wants no more of this worker: it is told to end, if it can be told.
    pub fn fence(&self, state: &mut State, worker: WorkerId) {
        if let Some(conn) = state.remote.forget(worker) {
            state.remote.order(Errand::Close { conn, frame: refused(OVER) });
        }
    }

    /// The brain finds this worker too silent.
    pub fn cut_off(&self, state: &mut State, worker: WorkerId) {
        let conn = state.remote.lines.get(&worker).and_then(|line| line.conn);
        if let Some(conn) = conn.filter(|conn| state.remote.cut(worker, *conn)) {
            state.remote.order(Errand::HangUp { conn });
        }
        self.look_after(state);
    }

    /// What the agent says in its session. False: it does not keep to it, and its connection must be closed.
    pub fn hear_agent(&self, state: &mut State, now: Time, worker: WorkerId, message: FromAgent) -> bool {
        let Some(line) = state.remote.lines.get_mut(&worker) else { return true };
        let Ok(for_us) = line.talk.hear(&message) else { return false };
        let received = line.talk.received();
        state.remote.mark(worker);
        match message {
            FromAgent::Worker(message) if for_us => state.brain.handle(now, Event::Said { worker, message }),
            FromAgent::Died { begun, certificate } if for_us => {
                // It waits for our word that this has come, and for nothing else.
                if let Some(conn) = state.remote.forget(worker) {
                    state.remote.order(Errand::Close { conn, frame: encoded(&ToAgent::Ack { received }) });
                }
                let begun = begun.map_or(kumi_core::Begun::Nothing, kumi_core::Begun::One);
                state.brain.handle(now, Event::Gone { worker, begun, certificate });
            }
            FromAgent::Worker(_) | FromAgent::Died { .. } | FromAgent::Ack { .. } => {}
            FromAgent::Prove { .. } | FromAgent::Resume { .. } => return false,
        }
        true
    }
}

/// As a frame: the caller does not become, or is no more, a worker.
pub(crate) fn refused(reason: impl Into<String>) -> Vec<u8> {
    encoded(&ToAgent::Worker(ToWorker::Refuse { reason: reason.into() }))
}

fn encoded(message: &ToAgent) -> Vec<u8> {
    let mut frame = Vec::new();
    message.encode(&mut frame);
    frame
}
