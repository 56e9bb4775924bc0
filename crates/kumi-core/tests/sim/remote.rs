//! Workers on other machines: agents, connections that delay, stand still and break, and the host's end of both.
//!
//! A worker's process and its agent are one here: what the agent hears the worker has at once, through the page.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kumi_core::frame::Wire;
use kumi_core::{
    AgentHalf, Begun, Bug, Caller, Decoder, Event, FromAgent, FromWorker, LaunchId, Link, Order, Origin, Secret,
    Session, Staff, Talk, Ticket, TicketId, Time, ToAgent, ToWorker, WorkerId,
};

use super::ledger::{Check, rule};
use super::process::Process;
use super::profile::{MICRO, MILLI, SECOND};
use super::world::{Letter, World};

/// The process that keeps a remote worker's connection.
#[derive(Debug)]
pub struct Agent {
    half: AgentHalf,
    origin: Origin,
    pid: u32,
    /// The host has let it in, once at least.
    let_in: bool,
    /// Its connection.
    conn: Option<usize>,
    /// What it has said to last, in its order, and the host has not heard.
    unheard: VecDeque<FromAgent>,
}

/// One connection. Each direction delivers in order; what is under way when it breaks is lost.
#[derive(Debug)]
pub struct Conn {
    process: usize,
    open_at_agent: bool,
    open_at_host: bool,
    /// Nothing arrives any more.
    broken: bool,
    from_agent: Decoder<FromAgent>,
    from_host: Decoder<ToAgent>,
    hello: Option<u32>,
    /// Host: whose session goes over it.
    session: Option<u64>,
    up: Time,
    down: Time,
}

/// The host's end of a session.
#[derive(Debug)]
pub struct Line {
    worker: WorkerId,
    process: usize,
    talk: Session<ToAgent, FromAgent>,
    conn: Option<usize>,
}

/// All of the above.
#[derive(Debug, Default)]
pub struct Net {
    conns: Vec<Conn>,
    /// By name of the session, which is its secret as well.
    lines: BTreeMap<u64, Line>,
    by_worker: BTreeMap<WorkerId, u64>,
    tickets: BTreeMap<LaunchId, TicketId>,
    /// The fenced ones, whose last words may still come.
    fenced: BTreeMap<u64, WorkerId>,
    /// Who called, by the number of the connection, and for which launch.
    callers: BTreeMap<u64, LaunchId>,
    /// The host is gone, and nobody listens any more.
    over: bool,
}

fn secret(session: u64) -> Secret {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&session.to_le_bytes());
    Secret(key)
}

impl World {
    /// A remote worker's script begins: the agent dials.
    pub(super) fn agent_starts(&mut self, id: usize, launch: LaunchId) {
        let by_hand = self.ledger.policy.staff == Staff::ByHand;
        let ticket = match self.net.tickets.get(&launch) {
            Some(ticket) => *ticket,
            None => {
                let ticket = self.brain.issue(match by_hand {
                    true => Ticket::Code { uses: 1, until: self.now.after(5 * SECOND) },
                    false => Ticket::Launch { places: vec![launch] },
                });
                self.net.tickets.insert(launch, ticket);
                ticket
            }
        };
        let origin = Origin { ticket, index: 0, incarnation: id as u64 };
        let half = AgentHalf::new(self.now, self.ledger.policy.reconnect, !by_hand);
        let agent = Agent { half, origin, pid: id as u32, let_in: false, conn: None, unheard: VecDeque::new() };
        self.processes[id].agent = Some(agent);
        self.post(MICRO, Letter::Agent { process: id });
    }

    /// The agent does what it has to, if it still exists.
    pub(super) fn agent_works(&mut self, id: usize) -> Check {
        while let Some(order) = self.processes[id].agent.as_mut().and_then(|agent| agent.half.next_order()) {
            self.say(|| format!("agent {id}: {order:?}"));
            match order {
                Order::Dial => {
                    let delay = self.rng.span(50 * MICRO, self.profile.delay);
                    self.post(delay, Letter::Dialled { process: id });
                }
                Order::Greet { session } => self.greet(id, session),
                Order::HangUp { silent: true } => self.agent_hangs_up(id),
                Order::HangUp { silent: false } => return self.agent_goes_on(id),
                Order::Start { .. } => self.child_starts(id),
                Order::Tell(message) => {
                    if let ToWorker::Run { slot, lease, .. } | ToWorker::Prepare { slot, lease, .. } = &message {
                        self.processes[id].offer(*slot, *lease);
                    }
                    self.worker_takes(id, message)?;
                }
                Order::Recall { lease, slot } => {
                    let back = self.processes[id].recall(slot, lease);
                    self.agent_says(id, FromWorker::Recalled { lease, back });
                }
                Order::Kill => self.die(id),
                Order::End { .. } => self.machine_ends(id, false),
            }
        }
        self.agent_writes(id);
        let due = self.processes[id].agent.as_ref().and_then(|agent| agent.half.next_timeout());
        if let Some(due) = due {
            self.post_at(due.max(self.now), Letter::Agent { process: id });
        }
        Ok(())
    }

    pub(super) fn agent_due(&mut self, id: usize) -> Check {
        let now = self.now;
        let Some(agent) = self.processes[id].agent.as_mut() else { return Ok(()) };
        // One letter for each time it was due; the last one counts.
        if agent.half.next_timeout().is_some_and(|due| now < due) {
            return Ok(());
        }
        agent.half.tick(now);
        self.agent_works(id)
    }

    /// What its worker says.
    pub(super) fn agent_says(&mut self, id: usize, message: FromWorker) {
        let Some(agent) = self.processes[id].agent.as_mut() else { return };
        let said = FromAgent::Worker(message.clone());
        let inner =
            matches!(message, FromWorker::Lend { .. } | FromWorker::Returned { .. } | FromWorker::Report { .. });
        if said.is_kept() && !inner {
            agent.unheard.push_back(said);
        }
        agent.half.said(message);
        self.agent_writes(id);
    }

    fn agent_writes(&mut self, id: usize) {
        let Some(agent) = self.processes[id].agent.as_mut() else { return };
        let (mut bytes, conn) = (Vec::new(), agent.conn);
        while agent.half.write(&mut bytes) {}
        if let Some(conn) = conn.filter(|_| !bytes.is_empty()) {
            self.send_on(conn, bytes, true);
        }
    }

    /// The worker's process begins, and says so.
    fn child_starts(&mut self, id: usize) {
        let (pid, host) = (id as u32, "there".into());
        self.agent_says(id, FromWorker::Hello { version: 2, python: (3, 11), pid, host });
        self.may_die(id);
    }

    /// The worker's process has ended, and its agent has buried it.
    pub(super) fn child_died(&mut self, id: usize) -> Check {
        for message in self.processes[id].unsent() {
            self.agent_says(id, message);
        }
        let begun = match self.processes[id].begun() {
            Begun::One(lease) => Some(lease),
            Begun::Nothing | Begun::Unknown => None,
        };
        let certificate = self.certificate();
        if let Some(agent) = self.processes[id].agent.as_mut() {
            agent.unheard.push_back(FromAgent::Died { begun, certificate: certificate.clone() });
            agent.half.died(begun, certificate);
        }
        self.agent_works(id)
    }

    /// The host knows of the worker's end: the agent's next one is another process.
    fn agent_goes_on(&mut self, id: usize) -> Check {
        self.agent_hangs_up(id);
        self.ledger.saw("an agent that goes on");
        let (next, old) = (self.processes.len(), &mut self.processes[id]);
        let mut process = Process::new(old.launch, Link::Remote);
        (process.agent, process.lines.parted) = (old.agent.take(), old.lines.parted);
        // What a fenced one still had to say counts for nothing.
        process.agent.iter_mut().for_each(|agent| agent.unheard.clear());
        self.processes.push(process);
        self.say(|| format!("agent {id} is {next} from now on"));
        self.may_be_cut(next);
        self.agent_works(next)
    }

    /// After the end of the host every agent ends by itself, and its worker with it.
    pub(super) fn agents_end(&mut self) -> Check {
        self.net.over = true;
        let open = (0..self.net.conns.len()).filter(|conn| self.net.conns[*conn].open_at_host);
        open.collect::<Vec<_>>().into_iter().for_each(|conn| self.host_closes(conn));
        while let Some(((at, _), letter)) = self.letters.pop_first() {
            self.now = at;
            match letter {
                Letter::Agent { process } => self.agent_due(process)?,
                Letter::Dialled { process } => self.dialled(process)?,
                Letter::ChildDied { process } => self.child_died(process)?,
                Letter::ConnDown { conn, bytes } => self.agent_hears(conn, &bytes)?,
                Letter::AgentSeesEnd { conn } => self.agent_sees_end(conn)?,
                // Of the host, or of tasks whose ends nobody waits for.
                _ => {}
            }
        }
        let left = self.processes.iter().position(|process| process.agent.is_some());
        rule!(left.is_none(), "agent {left:?} goes on though its host has ended");
        Ok(())
    }

    /// Agent and worker end together: as they should, or because their machine fails.
    pub(super) fn machine_ends(&mut self, id: usize, silently: bool) {
        self.processes[id].alive = false;
        if !silently {
            self.agent_hangs_up(id);
        }
        self.processes[id].agent = None;
        self.say(|| format!("machine {id} ends, silently: {silently}"));
    }

    fn agent_hangs_up(&mut self, id: usize) {
        let Some(conn) = self.processes[id].agent.as_mut().and_then(|agent| agent.conn.take()) else { return };
        let note = &mut self.net.conns[conn];
        note.open_at_agent = false;
        let at = note.up;
        let delay = self.rng.span(20 * MICRO, self.profile.delay);
        self.post_at(at.max(self.now).after(delay), Letter::HostSeesEnd { conn });
    }

    pub(super) fn dialled(&mut self, id: usize) -> Check {
        let parted = self.now < self.processes[id].lines.parted;
        let now = self.now;
        let Some(agent) = self.processes[id].agent.as_mut() else { return Ok(()) };
        if parted {
            agent.half.disconnected(now);
        } else if self.net.over {
            agent.half.unanswered(now);
        } else {
            agent.conn = Some(self.net.conns.len());
            agent.half.connected(now);
            self.net.conns.push(Conn {
                process: id,
                open_at_agent: true,
                open_at_host: true,
                broken: false,
                from_agent: Decoder::limited(kumi_core::agent_message::UNPROVED, 0),
                from_host: Decoder::default(),
                hello: None,
                session: None,
                up: now,
                down: now,
            });
        }
        self.agent_works(id)
    }

    fn greet(&mut self, id: usize, session: Option<(u64, Secret, u64)>) {
        let Some(agent) = &self.processes[id].agent else { return };
        let Some(conn) = agent.conn else { return };
        let hello = FromWorker::Hello { version: 2, python: (3, 11), pid: agent.pid, host: "there".into() };
        let proof = match session {
            Some((session, key, received)) => FromAgent::Resume { session, received, proof: key.0 },
            None => {
                let Origin { ticket, index, incarnation } = agent.origin;
                FromAgent::Prove { ticket: ticket.number(), index, incarnation, proof: [0; 32] }
            }
        };
        let mut bytes = Vec::new();
        FromAgent::Worker(hello).encode(&mut bytes);
        proof.encode(&mut bytes);
        self.send_on(conn, bytes, true);
    }

    /// Bytes on their way; sometimes in two pieces, so that a break falls between.
    fn send_on(&mut self, conn: usize, bytes: Vec<u8>, up: bool) {
        let cut = if self.rng.chance(200) { self.rng.below(bytes.len() as u64) as usize } else { 0 };
        let (head, tail) = bytes.split_at(cut);
        for piece in [head, tail].into_iter().filter(|piece| !piece.is_empty()) {
            let slow = self.rng.chance(self.profile.slow);
            let most = if slow { 2 * SECOND } else { self.profile.delay };
            let delay = self.rng.span(20 * MICRO, most);
            let note = &mut self.net.conns[conn];
            let last = if up { &mut note.up } else { &mut note.down };
            let parted = self.processes[note.process].lines.parted;
            *last = self.now.after(delay).max(*last).max(parted).after(Duration::from_nanos(1));
            let (at, bytes) = (*last, Arc::from(piece));
            self.post_at(at, if up { Letter::ConnUp { conn, bytes } } else { Letter::ConnDown { conn, bytes } });
        }
    }

    /// A connection breaks: each end notices in its time, and what is under way is lost.
    pub(super) fn resets(&mut self, id: usize) {
        let Some(conn) = self.processes[id].agent.as_ref().and_then(|agent| agent.conn) else { return };
        self.say(|| format!("connection {conn} of machine {id} breaks"));
        self.ledger.saw("a connection broken");
        self.net.conns[conn].broken = true;
        let (one, other) = (self.rng.span(MICRO, SECOND), self.rng.span(MICRO, SECOND));
        self.post(one, Letter::HostSeesEnd { conn });
        self.post(other, Letter::AgentSeesEnd { conn });
    }

    pub(super) fn agent_sees_end(&mut self, conn: usize) -> Check {
        let (id, now) = (self.net.conns[conn].process, self.now);
        let Some(agent) = self.processes[id].agent.as_mut().filter(|agent| agent.conn == Some(conn)) else {
            return Ok(());
        };
        agent.conn = None;
        self.net.conns[conn].open_at_agent = false;
        agent.half.disconnected(now);
        self.agent_works(id)
    }

    pub(super) fn agent_hears(&mut self, conn: usize, bytes: &[u8]) -> Check {
        let note = &mut self.net.conns[conn];
        if note.broken || !note.open_at_agent {
            return Ok(());
        }
        let id = note.process;
        note.from_host.feed(bytes);
        while let Some(message) = self.net.conns[conn].from_host.next().map_err(|error| error.to_string())? {
            let now = self.now;
            let Some(agent) = self.processes[id].agent.as_mut() else { return Ok(()) };
            let heard = agent.half.hear(now, message.clone());
            rule!(heard.is_ok(), "agent {id} cannot make sense of {message:?}");
            self.agent_works(id)?;
        }
        Ok(())
    }

    // The host's end.

    pub(super) fn host_hears_agent(&mut self, conn: usize, bytes: &[u8]) -> Check {
        let note = &mut self.net.conns[conn];
        if note.broken || !note.open_at_host {
            return Ok(());
        }
        note.from_agent.feed(bytes);
        while self.net.conns[conn].open_at_host {
            let note = &mut self.net.conns[conn];
            let Some(message) = note.from_agent.next().map_err(|error| error.to_string())? else { break };
            match (message, note.session, note.hello) {
                (FromAgent::Worker(FromWorker::Hello { pid, .. }), None, None) => note.hello = Some(pid),
                (FromAgent::Prove { ticket, index, incarnation, .. }, None, Some(pid)) => {
                    note.from_agent.limit(kumi_core::frame::FRAME_MAX, u64::MAX);
                    let origin = Origin { ticket: TicketId::from_number(ticket), index, incarnation };
                    let caller = Caller { number: conn as u64, origin, pid, host: "there".into() };
                    let process = note.process;
                    self.net.callers.insert(conn as u64, self.processes[process].launch);
                    self.tell(Event::Called { caller })?;
                    self.carry_out()?;
                }
                (FromAgent::Resume { session, received, proof }, None, Some(_)) => {
                    note.from_agent.limit(kumi_core::frame::FRAME_MAX, u64::MAX);
                    self.resume_line(conn, session, received, &proof)?;
                }
                (message, Some(session), _) => self.line_hears(conn, session, message)?,
                (message, None, _) => return Err(format!("connection {conn} begins with {message:?}")),
            }
        }
        Ok(())
    }

    fn resume_line(&mut self, conn: usize, session: u64, received: u64, proof: &[u8; 32]) -> Check {
        let bug = self.bug;
        let line = self.net.lines.get_mut(&session).filter(|_| secret(session).0 == *proof);
        let Some(line) = line else {
            self.ledger.saw("a session that is over");
            self.last_words(conn, session)?;
            return self.refuse(conn, "its session is over");
        };
        rule!(line.talk.resume(received).is_ok(), "session {session} is out of step: {received} received");
        let (worker, old) = (line.worker, line.conn.replace(conn));
        let told = line.talk.received();
        let told = match bug {
            Some(Bug::SentAgain) => told.saturating_sub(1),
            Some(Bug::LostAtCut) => told + 1,
            _ => told,
        };
        self.net.conns[conn].session = Some(session);
        if let Some(old) = old {
            self.host_closes(old);
        }
        let mut bytes = Vec::new();
        ToAgent::Resumed { received: told }.encode(&mut bytes);
        self.send_on(conn, bytes, false);
        self.line_writes(session);
        self.ledger.saw("a session resumed");
        self.ledger.reached(self.now, worker);
        self.tell(Event::Resumed { worker })?;
        self.carry_out()
    }

    /// What a fenced worker has to say reaches the brain all the same, and must not count.
    fn last_words(&mut self, conn: usize, session: u64) -> Check {
        let Some(worker) = self.net.fenced.get(&session).copied() else { return Ok(()) };
        let agent = self.processes[self.net.conns[conn].process].agent.as_mut();
        for message in agent.map(|agent| std::mem::take(&mut agent.unheard)).unwrap_or_default() {
            if let FromAgent::Worker(message) = message {
                self.said(worker, message)?;
            }
        }
        Ok(())
    }

    fn line_hears(&mut self, conn: usize, session: u64, message: FromAgent) -> Check {
        let Some(line) = self.net.lines.get_mut(&session) else {
            return match (self.net.fenced.get(&session), message) {
                (Some(worker), FromAgent::Worker(message)) => self.said(*worker, message),
                (Some(_) | None, _) => Ok(()),
            };
        };
        let (worker, process) = (line.worker, line.process);
        let for_us = line.talk.hear(&message).map_err(|_| format!("session {session} acknowledges too much"))?;
        self.line_writes(session);
        if for_us && !matches!(message, FromAgent::Worker(FromWorker::Heartbeat | FromWorker::Report { .. })) {
            let agent = self.processes[process].agent.as_mut();
            let right = agent.map(|agent| agent.unheard.pop_front());
            rule!(
                right.is_none_or(|right| right.as_ref() == Some(&message)),
                "session {session}: not its turn: {message:?}"
            );
        }
        match message {
            FromAgent::Worker(message) => {
                self.said(worker, message)?;
            }
            FromAgent::Died { begun, certificate } => {
                self.forget_line(worker);
                self.host_closes(conn);
                let begun = begun.map_or(Begun::Nothing, Begun::One);
                self.ledger.gone(self.now, worker, begun, certificate.kind)?;
                self.tell(Event::Gone { worker, begun, certificate })?;
            }
            FromAgent::Prove { .. } | FromAgent::Resume { .. } => {
                return Err(format!("session {session} proves itself again"));
            }
            FromAgent::Ack { .. } => {}
        }
        self.carry_out()
    }

    fn forget_line(&mut self, worker: WorkerId) -> Option<usize> {
        let session = self.net.by_worker.remove(&worker)?;
        self.net.lines.remove(&session)?.conn
    }

    fn line_writes(&mut self, session: u64) {
        let Some(line) = self.net.lines.get_mut(&session) else { return };
        let Some(conn) = line.conn else { return };
        let mut bytes = Vec::new();
        while line.talk.write(&mut bytes) {}
        if !bytes.is_empty() {
            self.send_on(conn, bytes, false);
        }
    }

    pub(super) fn send_remote(&mut self, worker: WorkerId, message: ToAgent) {
        if let Some(session) = self.net.by_worker.get(&worker).copied() {
            if let Some(line) = self.net.lines.get_mut(&session) {
                // For one without a connection a sign of life is for nobody.
                if line.conn.is_some() || message.is_kept() {
                    line.talk.send(message);
                }
            }
            self.line_writes(session);
        }
    }

    pub(super) fn admit(&mut self, caller: u64, worker: WorkerId) -> Check {
        let conn = caller as usize;
        let process = self.net.conns[conn].process;
        let session = match self.net.by_worker.get(&worker) {
            Some(session) => {
                self.ledger.saw("a call repeated");
                *session
            }
            None => self.net.by_worker.len() as u64 + 1_000 * (caller + 1),
        };
        self.net.by_worker.insert(worker, session);
        self.processes[process].worker = Some(worker);
        if let Some(agent) = self.processes[process].agent.as_mut() {
            agent.let_in = true;
        }
        self.hosts.insert(worker, process);
        let line = Line { worker, process, talk: Session::default(), conn: None };
        let line = self.net.lines.entry(session).or_insert(line);
        rule!(line.talk.resume(0).is_ok(), "session {session} cannot begin again");
        let old = line.conn.take();
        if let Some(old) = old {
            self.host_closes(old);
        }
        if !self.net.conns[conn].open_at_host {
            return self.line_cut(session);
        }
        if let Some(line) = self.net.lines.get_mut(&session) {
            line.conn = Some(conn);
        }
        self.net.conns[conn].session = Some(session);
        let millis = |span: Duration| span.as_millis() as u64;
        let (silence, reconnect) = (millis(self.ledger.policy.silence), millis(self.ledger.policy.reconnect));
        let mut bytes = Vec::new();
        ToAgent::Session { session, key: secret(session), silence, reconnect }.encode(&mut bytes);
        self.send_on(conn, bytes, false);
        self.line_writes(session);
        Ok(())
    }

    pub(super) fn refuse(&mut self, conn: usize, reason: &str) -> Check {
        let agent = self.processes[self.net.conns[conn].process].agent.as_ref();
        let spent = ["used up", "expired"].iter().any(|word| reason.contains(word));
        rule!(
            !spent || agent.is_none_or(|agent| !agent.let_in),
            "an agent that was let in may not come again: {reason}"
        );
        if agent.is_some_and(|agent| agent.let_in) {
            self.ledger.saw("an agent that is not wanted any more");
        }
        let mut bytes = Vec::new();
        ToAgent::Worker(ToWorker::Refuse { reason: reason.into() }).encode(&mut bytes);
        if self.net.conns[conn].open_at_host {
            self.send_on(conn, bytes, false);
            self.host_closes(conn);
        }
        Ok(())
    }

    pub(super) fn host_closes(&mut self, conn: usize) {
        let note = &mut self.net.conns[conn];
        note.open_at_host = false;
        let at = note.down;
        let delay = self.rng.span(20 * MICRO, self.profile.delay);
        self.post_at(at.max(self.now).after(delay), Letter::AgentSeesEnd { conn });
    }

    /// The host is to close the connection of this worker.
    pub(super) fn cut_remote(&mut self, worker: WorkerId) {
        self.ledger.saw("a silent connection cut");
        let session = self.net.by_worker.get(&worker).copied();
        if let Some(line) = session.and_then(|session| self.net.lines.get_mut(&session)) {
            line.talk.cut();
            if let Some(conn) = line.conn.take() {
                self.host_closes(conn);
            }
        }
    }

    /// This worker is none any more. What it has under way may still come: nobody listens.
    pub(super) fn fence(&mut self, worker: WorkerId) {
        if let Some(conn) = self.net.by_worker.get(&worker).and_then(|session| self.net.lines.get(session)?.conn) {
            let mut bytes = Vec::new();
            ToAgent::End { again: false }.encode(&mut bytes);
            self.send_on(conn, bytes, false);
            let after = self.rng.span(MICRO, 5 * SECOND);
            self.post(after, Letter::HostLetsGo { conn });
        }
        if let Some(session) = self.net.by_worker.get(&worker) {
            self.net.fenced.insert(*session, worker);
        }
        self.forget_line(worker);
    }

    pub(super) fn host_sees_end(&mut self, conn: usize) -> Check {
        let note = &mut self.net.conns[conn];
        if !note.open_at_host {
            return Ok(());
        }
        note.open_at_host = false;
        match note.session {
            Some(session) if self.net.lines.get(&session).is_some_and(|line| line.conn == Some(conn)) => {
                self.line_cut(session)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn line_cut(&mut self, session: u64) -> Check {
        let Some(line) = self.net.lines.get_mut(&session) else { return Ok(()) };
        line.talk.cut();
        line.conn = None;
        let worker = line.worker;
        self.ledger.saw("a worker cut");
        self.ledger.cut(self.now, worker);
        self.tell(Event::Cut { worker })?;
        self.carry_out()
    }

    /// The launch that a caller named.
    pub(super) fn launch_of(&self, caller: u64) -> Option<LaunchId> {
        self.net.callers.get(&caller).copied()
    }

    /// A remote process is to break: its connection, its network for a while, or its machine.
    pub(super) fn breaks(&mut self, id: usize, span: Option<Duration>) {
        if self.processes[id].agent.is_none() {
            return;
        }
        match span {
            Some(span) => {
                self.say(|| format!("machine {id} has no network for {span:?}"));
                self.processes[id].lines.parted = self.now.after(span);
                self.delay_under_way(id);
                if self.rng.chance(300) {
                    self.resets(id);
                }
            }
            None => self.resets(id),
        }
    }

    /// What is under way waits for the network as well, and keeps its order.
    fn delay_under_way(&mut self, id: usize) {
        let until = self.processes[id].lines.parted;
        for (at, letter) in self.letters_of_process(id) {
            if let Letter::ConnUp { conn, .. } | Letter::ConnDown { conn, .. } = &letter {
                let note = &mut self.net.conns[*conn];
                let last = if matches!(letter, Letter::ConnUp { .. }) { &mut note.up } else { &mut note.down };
                *last = (*last).max(at).max(until);
            }
            self.post_at(at.max(until), letter);
        }
    }

    /// Takes out the bytes that are on their way, in their order.
    fn letters_of_process(&mut self, id: usize) -> Vec<(Time, Letter)> {
        let of_process = |letter: &Letter| match letter {
            Letter::ConnUp { conn, .. } | Letter::ConnDown { conn, .. } => self.net.conns[*conn].process == id,
            _ => false,
        };
        let keys: Vec<_> = self.letters.iter().filter(|(_, letter)| of_process(letter)).map(|(key, _)| *key).collect();
        keys.into_iter().filter_map(|key| Some((key.0, self.letters.remove(&key)?))).collect()
    }

    /// Sometimes the network fails while a task runs: until soon after it, or for longer than the host has patience.
    pub(super) fn break_during(&mut self, id: usize, runs: Duration) {
        if self.rng.chance(self.profile.parted) {
            let (silence, reconnect) = (self.ledger.policy.silence, self.ledger.policy.reconnect);
            let long = self.rng.span(silence, 2 * (silence + reconnect));
            let spans = [runs, runs + self.rng.span(MILLI, SECOND), reconnect / 2, long];
            let span = self.rng.pick(&spans);
            self.post(runs / 4, Letter::Breaks { process: id, span: Some(span) });
        }
    }
}
