//! Workers on other machines: who is let in, signs of life, cuts.
//!
//! The hands check secrets and keep connections; who may be a worker, who is alive and who is lost is decided here.
//! - The hands `issue` a ticket for each launch, or join code, and keep its secret. Whoever proves it is told by
//!   [`Event::Called`](super::Event::Called) and let in or not: a code has a number of uses and an end, a launch has places.
//! - An agent whose worker is gone calls again by the same origin, for another worker. That uses up no code: uses are agents.
//!   One that was launched is not let in again: whoever launches replaces its worker.
//! - A place has one worker at a time. A scheduler may run the same script twice, so a second one may call for a place that
//!   is taken: then the first is asked for a sign of life, and only if it gives none within a heartbeat it is fenced and the
//!   second gets its place.
//! - Every `heartbeat` a worker is sent [`ToWorker::Ping`]; any word of it is a sign of life. After `silence` without one
//!   its connection is cut. All these timers are kept here; the hands keep only that of an unproved connection.
//! - A cut costs nothing for `reconnect`: the worker works on, sessions (`session.rs`) keep what was said. Nothing is dealt to
//!   it meanwhile. Then it is lost: fenced, and what it held runs again. That is nobody's crash, but what was `once` and may
//!   have begun ends as one; the rest is suspect and runs alone.
//! - How a worker ended is told by its agent ([`FromAgent::Died`](crate::FromAgent::Died)); only then is somebody blamed.

use std::sync::Arc;

use super::{Action, Begun, Bug, Caller, Dispatcher, LaunchNote, Origin, Staff, Ticket};
use crate::ids::{LaunchId, TicketId, Time, WorkerId};
use crate::message::ToWorker;
use crate::scaling::{FAILURES_MAX, Launch};
use crate::task::Certificate;
use crate::timer::Timer;
use crate::worker::{Face, Far, Stage, Worker};

impl Dispatcher {
    /// Whoever proves the ticket's secret is let in.
    pub fn issue(&mut self, ticket: Ticket) -> TicketId {
        self.tickets.insert(ticket)
    }

    /// The ticket lets nobody in any more; whoever is in stays.
    pub fn revoke(&mut self, ticket: TicketId) {
        self.tickets.remove(ticket);
        self.agents.retain(|origin, _| origin.ticket != ticket);
    }

    pub(super) fn called(&mut self, now: Time, caller: Caller) {
        if let Some(worker) = self.origins.get(&caller.origin).copied() {
            // The answer to its first call was lost.
            self.actions.push_back(Action::Admit { caller: caller.number, worker });
            return self.resumed(now, worker);
        }
        if let Some(worker) = self.occupant(caller.origin).filter(|_| !self.planted(Bug::NoFence)) {
            return self.challenge(now, worker, caller);
        }
        match self.place(now, caller.origin) {
            Ok(launch) => self.welcome(now, launch, caller),
            Err(reason) => self.turn_away(caller.number, reason),
        }
    }

    /// The worker that has this place of a launch.
    fn occupant(&self, origin: Origin) -> Option<WorkerId> {
        let Some(Ticket::Launch { .. }) = self.tickets.get(origin.ticket) else { return None };
        let (first, last) = (Origin { incarnation: 0, ..origin }, Origin { incarnation: u64::MAX, ..origin });
        self.origins.range(first..=last).next().map(|(_, worker)| *worker)
    }

    fn turn_away(&mut self, caller: u64, reason: impl Into<String>) {
        self.actions.push_back(Action::Refuse { caller, reason: reason.into() });
    }

    /// The launch whose worker the caller may become.
    fn place(&mut self, now: Time, origin: Origin) -> Result<LaunchId, &'static str> {
        // While tasks are left they need somebody who runs them.
        if self.is_ending() {
            return Err("the controller is ending and takes no more workers");
        }
        // Each launch is a worker, or may become one, or has one that is leaving.
        let room = self.launches.len() as u64 - self.extra_launches < self.policy.workers;
        let known = self.agents.contains_key(&origin) && !self.planted(Bug::ForgetsAgents);
        match self.tickets.get_mut(origin.ticket) {
            None => Err("the controller does not know this join code: make one with join_code()"),
            Some(Ticket::Code { until, .. }) if *until <= now && !known => {
                Err("the join code has expired: make another one with join_code(seconds=...)")
            }
            Some(Ticket::Code { uses: 0, .. }) if !known => {
                Err("the join code is used up: make another one with join_code(uses=...)")
            }
            Some(Ticket::Code { .. }) if !room => Err("the controller has as many workers as it may (workers=)"),
            Some(Ticket::Code { uses, .. }) => {
                *uses -= u32::from(!known);
                Ok(self.open_launch())
            }
            Some(Ticket::Launch { .. }) if known => {
                Err("its worker is gone, and the controller launches the next one itself")
            }
            Some(Ticket::Launch { places }) => {
                let index = origin.index as usize;
                let place = places.get(index).copied().ok_or("its launch has no worker of this index")?;
                match self.launches.get(place).map(|note| note.state) {
                    Some(Launch::Requested | Launch::Starting) => Ok(place),
                    Some(Launch::Abandoned) => Err("its launch is given up"),
                    // Its worker is gone. A scheduler runs the script again; there may be work for it.
                    state if room && (state.is_none() || self.planted(Bug::NoFence)) => {
                        let launch = self.open_launch();
                        if let Some(Ticket::Launch { places }) = self.tickets.get_mut(origin.ticket) {
                            places.iter_mut().filter(|other| **other == place).for_each(|other| *other = launch);
                        }
                        Ok(launch)
                    }
                    Some(Launch::Joined(_)) | None => Err("another worker has taken its place"),
                }
            }
        }
    }

    /// A launch for somebody who has come without one.
    fn open_launch(&mut self) -> LaunchId {
        let (number, asked) = (self.next_launch, self.latest);
        let id = self.launches.insert(LaunchNote { number, asked, extra: false, state: Launch::Starting });
        self.next_launch += 1;
        self.expected += 1;
        id
    }

    fn welcome(&mut self, now: Time, launch: LaunchId, caller: Caller) {
        let number = self.launches.get(launch).map(|note| note.number).unwrap_or_default();
        let face = Face { name: format!("{}-{number}", self.policy.name), pid: caller.pid, host: caller.host };
        let Some(id) = self.let_in(now, launch, face, Some((caller.number, caller.origin))) else {
            return self.turn_away(caller.number, "its place is taken");
        };
        self.ask_for_life(now, id);
    }

    /// Who has just come to be a remote worker.
    pub(super) fn note_far(&mut self, now: Time, id: WorkerId, origin: Origin) {
        self.origins.insert(origin, id);
        self.agents.entry(origin).or_insert(false);
        if let Some(worker) = self.workers.get_mut(id) {
            let (round_trip, watch) = (std::time::Duration::ZERO, now);
            worker.remote = Some(Box::new(Far { origin, watch, pinged: None, round_trip, cut: None, rival: None }));
        }
    }

    /// A worker of this agent's has failed before it was of use, as its next one most likely will; or one is ready for tasks.
    pub(super) fn note_agent(&mut self, origin: Option<Origin>, fails: bool) {
        if let Some(note) = origin.and_then(|origin| self.agents.get_mut(&origin)) {
            *note = fails;
        }
    }

    /// Nobody is launched beside hands. But when one worker after another fails, and nobody else is here, tasks are told:
    /// before they are dealt to the next one of those.
    pub(super) fn watch_hands(&mut self, now: Time) {
        if self.policy.staff != Staff::ByHand || self.waiting == 0 {
            return;
        }
        if std::mem::take(&mut self.gave_up) {
            self.failures = 0;
        }
        if self.failures < FAILURES_MAX {
            return;
        }
        let fails = |worker: &Worker| worker.origin().and_then(|origin| self.agents.get(&origin)) == Some(&true);
        if self.workers.iter().all(|(_, worker)| fails(worker)) {
            self.give_up(now);
        }
    }

    /// The process that runs the tasks, of which its agent tells when it has started that.
    pub(super) fn name_process(&mut self, id: WorkerId, pid: u32) {
        if let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.remote.is_some()) {
            Arc::make_mut(&mut worker.face).pid = pid;
            let ready = worker.origin().filter(|_| worker.stage == Stage::Active);
            self.note_agent(ready, false);
        }
    }

    fn challenge(&mut self, now: Time, id: WorkerId, caller: Caller) {
        let until = now.after(self.policy.heartbeat);
        let Some(far) = self.workers.get_mut(id).and_then(|worker| worker.remote.as_mut()) else { return };
        if far.rival.is_some() {
            return self.turn_away(caller.number, "another worker waits for the same place");
        }
        far.rival = Some((caller, until));
        self.timers.set(until, Timer::Rival(id));
        self.actions.push_back(Action::Send { worker: id, message: ToWorker::Ping });
    }

    pub(super) fn rival_due(&mut self, now: Time, id: WorkerId) {
        let far = self.workers.get_mut(id).and_then(|worker| worker.remote.as_mut());
        let Some((caller, _)) = far.and_then(|far| far.rival.take_if(|(_, until)| *until <= now)) else { return };
        self.lose(now, id, "another worker has its place, and it gave no sign of life");
        self.called(now, caller);
    }

    /// What it still says does not count; what it held runs again.
    pub(super) fn lose(&mut self, now: Time, id: WorkerId, cause: impl Into<String>) {
        let Some(worker) = self.workers.get(id) else { return };
        let (pid, host) = (Some(worker.face.pid), Some(worker.face.host.clone()));
        let certificate = Certificate { cause: cause.into(), pid, host, ..Certificate::default() };
        self.actions.push_back(Action::Fence { worker: id, launch: worker.launch });
        self.gone(now, id, Begun::Unknown, certificate);
    }

    /// A worker has said something.
    pub(super) fn sign_of_life(&mut self, now: Time, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.heard = now;
        let Some((caller, _)) = worker.remote.as_mut().and_then(|far| far.rival.take()) else { return };
        self.turn_away(caller.number, "its place has a worker that is alive");
    }

    pub(super) fn heartbeat(&mut self, now: Time, id: WorkerId) {
        let far = self.workers.get_mut(id).and_then(|worker| worker.remote.as_mut());
        if let Some((far, pinged)) = far.and_then(|far| far.pinged.take().map(|pinged| (far, pinged))) {
            far.round_trip = now.since(pinged);
        }
    }

    fn ask_for_life(&mut self, now: Time, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let silent = worker.heard.after(self.policy.silence);
        let Some(far) = worker.remote.as_mut() else { return };
        far.pinged.get_or_insert(now);
        self.actions.push_back(Action::Send { worker: id, message: ToWorker::Ping });
        self.watch_silence(id, now.after(self.policy.heartbeat).min(silent));
    }

    fn watch_silence(&mut self, id: WorkerId, at: Time) {
        let Some(far) = self.workers.get_mut(id).and_then(|worker| worker.remote.as_mut()) else { return };
        self.timers.unset(far.watch, Timer::Silence(id));
        far.watch = at;
        self.timers.set(at, Timer::Silence(id));
    }

    pub(super) fn silence_due(&mut self, now: Time, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else { return };
        match worker.cut() {
            Some(cut) if now.since(cut) >= self.policy.reconnect => {
                let seconds = self.policy.reconnect.as_secs_f64();
                let cause = "its connection was lost and it did not come back within";
                self.lose(now, id, format!("{cause} {seconds} s (seconds_reconnect)"));
            }
            Some(cut) => self.watch_silence(id, cut.after(self.policy.reconnect)),
            None if now.since(worker.heard) >= self.policy.silence => {
                self.actions.push_back(Action::Cut { worker: id });
                self.cut(now, id);
            }
            None => self.ask_for_life(now, id),
        }
    }

    pub(super) fn cut(&mut self, now: Time, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let (stage, idle_since) = (worker.stage, worker.idle_since);
        let Some(far) = worker.remote.as_mut().filter(|far| far.cut.is_none()) else { return };
        (far.cut, far.pinged) = (Some(now), None);
        match stage {
            Stage::Preparing | Stage::Active | Stage::Draining(_) => {
                // Nothing is dealt to it until it is back.
                self.idle.remove(&(idle_since, id));
                self.idle_extras.remove(&(idle_since, id));
                self.watch_silence(id, now.after(self.policy.reconnect));
            }
            // It was told to end, and nothing is to be had of it any more.
            Stage::Leaving(_) | Stage::Killed => self.lose(now, id, "its connection ended while it was leaving"),
        }
    }

    pub(super) fn resumed(&mut self, now: Time, id: WorkerId) {
        self.sign_of_life(now, id);
        let Some(worker) = self.workers.get_mut(id) else { return };
        let Some(far) = worker.remote.as_mut() else { return };
        (far.cut, far.pinged) = (None, None);
        if worker.stage == Stage::Active && worker.is_free() {
            let idle = if worker.extra { &mut self.idle_extras } else { &mut self.idle };
            idle.insert((worker.idle_since, id));
        }
        self.watch_stall(now, id);
        self.help_top(now, id);
        self.ask_for_life(now, id);
    }
}
