//! Workers and launches: how they come, leave and die, and who is to blame.

use std::sync::Arc;
use std::time::Duration;

use super::nested::EXTRA_IDLE;
use super::{Action, Begun, Bug, Dispatcher, LaunchNote, Origin, Staff};
use crate::crashes::Crashes;
use crate::ids::{LaunchId, Lease, TaskId, Time, WorkerId};
use crate::message::{Leave, ToWorker};
use crate::scaling::Launch;
use crate::task::{Certificate, Outcome, Place};
use crate::timer::Timer;
use crate::worker::{Face, Held, Link, Recall, Stage, Worker};

/// Stands for "leave" where a [`Timer::Kill`] names what a worker was asked for.
const LEAVE: Lease = Lease(0);

/// How long a worker stays without work. Never no time at all: what waits is dealt in the instant in which a worker becomes
/// free, but behind the timers that are due then.
fn patience(idle: Option<Duration>, extra: bool) -> Option<Duration> {
    if extra { Some(EXTRA_IDLE) } else { idle.map(|idle| idle.max(Duration::from_nanos(1))) }
}

impl Dispatcher {
    pub(super) fn launch(&mut self, now: Time, count: u64, extra: bool) {
        let deadline = now.after(self.policy.launch);
        let mut launches = Vec::new();
        for _ in 0..count {
            let id = self.launches.insert(LaunchNote {
                number: self.next_launch,
                asked: now,
                extra,
                state: Launch::Requested,
            });
            self.next_launch += 1;
            self.extra_launches += u64::from(extra);
            *self.expected(extra) += 1;
            self.timers.set(deadline, Timer::Launch(id));
            launches.push(id);
        }
        self.actions.push_back(Action::Launch { launches });
    }

    /// How many launches of this sort may become workers.
    pub(super) fn expected(&mut self, extra: bool) -> &mut u64 {
        if extra { &mut self.extras_expected } else { &mut self.expected }
    }

    fn forget_launch(&mut self, id: LaunchId) {
        self.written.remove(&id);
        if let Some(note) = self.launches.remove(id) {
            self.extra_launches -= u64::from(note.extra);
        }
    }

    /// What came of this launch has written to stderr, and `last` is the end of that: kept until it is an active worker.
    pub fn wrote(&mut self, id: LaunchId, last: impl FnOnce() -> String) {
        let comes = match self.launches.get(id).map(|note| note.state) {
            Some(Launch::Requested | Launch::Starting) => true,
            Some(Launch::Joined(worker)) => {
                self.workers.get(worker).is_some_and(|worker| worker.stage == Stage::Preparing)
            }
            Some(Launch::Abandoned) | None => false,
        };
        if comes {
            self.written.insert(id, last());
        }
    }

    /// This launch has failed for want of time: why, with the last that was written.
    pub(super) fn overdue(&mut self, id: LaunchId, what: &str) -> String {
        let text = format!("{what} within {} s (seconds_launch)", self.policy.launch.as_secs_f64());
        match self.written.remove(&id) {
            Some(last) => format!("{text}; the last it wrote to stderr:\n{last}"),
            None => text,
        }
    }

    pub(super) fn launch_started(&mut self, id: LaunchId) {
        if let Some(note) = self.launches.get_mut(id).filter(|note| note.state == Launch::Requested) {
            note.state = Launch::Starting;
        }
    }

    pub(super) fn launch_failed(&mut self, now: Time, id: LaunchId, text: Arc<str>) {
        match self.launches.get(id).map(|note| (note.state, note.extra)) {
            Some((Launch::Requested | Launch::Starting, extra)) => {
                *self.expected(extra) -= 1;
                self.forget_launch(id);
                self.note_failure(now, text);
            }
            Some((Launch::Abandoned, _)) => self.forget_launch(id),
            // Where nobody hears of the worker, the launcher is the one who knows.
            Some((Launch::Joined(worker), _)) if self.is_cut(worker) => self.lose(now, worker, &*text),
            // Its worker is alive, whatever the launcher says; the worker's own end will be told.
            Some((Launch::Joined(_), _)) | None => {}
        }
    }

    fn is_cut(&self, worker: WorkerId) -> bool {
        self.workers.get(worker).is_some_and(|worker| worker.cut().is_some())
    }

    pub(super) fn note_failure(&mut self, now: Time, text: Arc<str>) {
        self.failures = self.failures.saturating_add(1);
        self.failed = now;
        self.failure = text;
    }

    pub(super) fn launch_due(&mut self, now: Time, id: LaunchId) {
        let Some(note) = self.launches.get(id) else { return };
        match note.state {
            Launch::Requested | Launch::Starting => {
                let text = self.overdue(id, "no worker came");
                self.abandon(id);
                self.note_failure(now, Arc::from(text));
            }
            Launch::Joined(worker) => self.set_up_due(now, worker),
            Launch::Abandoned => {}
        }
    }

    pub(super) fn abandon(&mut self, id: LaunchId) {
        if let Some(note) = self.launches.get_mut(id) {
            note.state = Launch::Abandoned;
            let extra = note.extra;
            *self.expected(extra) -= 1;
            self.actions.push_back(Action::Abandon { launch: id });
        }
    }

    /// A worker of this machine came of this launch. `None`: it may not join, because the launch was given up, has a
    /// worker already, or never was.
    pub fn join(&mut self, now: Time, launch: LaunchId, face: Face) -> Option<WorkerId> {
        self.latest = self.latest.max(now);
        let id = self.let_in(now, launch, face, None)?;
        self.settle(now);
        Some(id)
    }

    /// Like [`Dispatcher::join`], without dealing it anything yet. `called`: a remote one, by which call and from where.
    pub(super) fn let_in(
        &mut self,
        now: Time,
        launch: LaunchId,
        face: Face,
        called: Option<(u64, Origin)>,
    ) -> Option<WorkerId> {
        let note = self.launches.get_mut(launch)?;
        match note.state {
            Launch::Requested | Launch::Starting => {}
            Launch::Joined(_) | Launch::Abandoned => return None,
        }
        let (name, reset, memory) = (face.name.clone(), self.policy.reset, self.policy.memory);
        let link = if called.is_some() { Link::Remote } else { Link::Local };
        let extra = note.extra;
        let id = self.workers.insert(Worker::new(launch, extra, face, link, now));
        note.state = Launch::Joined(id);
        // Its launch is expected to become a worker until it is ready.
        self.unlisted += 1;
        if let Some((caller, origin)) = called {
            self.note_far(now, id, origin);
            self.actions.push_back(Action::Admit { caller, worker: id });
        }
        self.actions.push_back(Action::Send { worker: id, message: ToWorker::Welcome { name, reset, memory } });
        if !self.planted(Bug::NoReplay) && self.catch_up(id) {
            self.timers.set(now.after(self.policy.launch), Timer::Launch(launch));
        } else {
            self.enlist(now, id);
        }
        Some(id)
    }

    pub(super) fn watch_idle(&mut self, now: Time, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let Some(idle) = patience(self.policy.idle, worker.extra) else { return };
        if !worker.idle_timer {
            worker.idle_timer = true;
            self.timers.set(now.after(idle), Timer::Idle(id));
        }
    }

    pub(super) fn idle_due(&mut self, now: Time, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let Some(idle) = patience(self.policy.idle, worker.extra) else { return };
        worker.idle_timer = false;
        let (since, extra) = (worker.idle_since, worker.extra);
        if worker.stage != Stage::Active || !worker.is_free() {
            return;
        }
        if now.since(since) < idle {
            worker.idle_timer = true;
            self.timers.set(since.after(idle), Timer::Idle(id));
        } else if extra || self.active > self.policy.workers_min {
            self.drain(now, id, Leave::Idle);
        }
        // Else `workers_min` keeps it, until another one joins.
    }

    /// Those whose time had come while `workers_min` kept them leave, if it keeps fewer now.
    pub(super) fn end_keeping(&mut self, now: Time) {
        let unwatched = |id: &WorkerId| self.workers.get(*id).is_some_and(|worker| !worker.idle_timer);
        let kept: Vec<_> = self.idle.iter().map(|(_, id)| *id).filter(unwatched).collect();
        for id in kept {
            self.idle_due(now, id);
        }
    }

    /// The cap was lowered: whoever holds nothing leaves, who has been idle for longest first. A busy one is never ended,
    /// but is dealt nothing more, so that it holds nothing soon.
    pub(super) fn dismiss_surplus(&mut self, now: Time) {
        while self.has_surplus() {
            let Some(&(_, id)) = self.idle.first() else { return };
            self.drain(now, id, Leave::Idle);
        }
    }

    /// Whether there are more workers than the cap allows.
    pub(super) fn has_surplus(&self) -> bool {
        self.active > self.policy.workers && !self.planted(Bug::SurplusStays)
    }

    /// The worker takes no more tasks and leaves when it holds none.
    pub(super) fn drain(&mut self, now: Time, id: WorkerId, why: Leave) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let stage = worker.stage;
        if !matches!(stage, Stage::Active | Stage::Preparing) {
            return;
        }
        worker.stage = Stage::Draining(why);
        let (free, since, extra) = (worker.is_free(), worker.idle_since, worker.extra);
        let (taskless, beyond) = (worker.is_taskless(), worker.served + 1);
        if stage == Stage::Active {
            self.retire(id, since, extra);
        }
        // When a controller ends, nobody waits for what its workers still prepare.
        if free || taskless && why == Leave::Closing {
            self.send_home(now, id, why);
        } else if why != Leave::Tasks {
            self.recall_all(id);
        }
        self.excuse(now, id, beyond);
    }

    /// It takes no more tasks.
    fn retire(&mut self, id: WorkerId, idle_since: Time, extra: bool) {
        if extra {
            self.extras -= 1;
            self.idle_extras.remove(&(idle_since, id));
        } else {
            self.active -= 1;
            self.idle.remove(&(idle_since, id));
        }
    }

    pub(super) fn send_home(&mut self, now: Time, id: WorkerId, leave: Leave) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.stage = Stage::Leaving(leave);
        self.actions.push_back(Action::Send { worker: id, message: ToWorker::Stop { leave } });
        self.timers.set(now.after(self.policy.kill), Timer::Kill(id, LEAVE));
    }

    pub(super) fn send_all_home(&mut self, now: Time) {
        let staying = |stage| matches!(stage, Stage::Active | Stage::Preparing);
        let staying: Vec<_> =
            self.workers.iter().filter(|(_, worker)| staying(worker.stage)).map(|(id, _)| id).collect();
        for id in staying {
            self.drain(now, id, Leave::Closing);
        }
        self.abandon_all();
    }

    fn abandon_all(&mut self) {
        let expected: Vec<_> = self
            .launches
            .iter()
            .filter(|(_, note)| matches!(note.state, Launch::Requested | Launch::Starting))
            .map(|(id, _)| id)
            .collect();
        for id in expected {
            self.abandon(id);
        }
    }

    pub(super) fn kill_all(&mut self) {
        let all: Vec<_> = self.workers.iter().map(|(id, _)| id).collect();
        for id in all {
            self.kill(id);
        }
        self.abandon_all();
    }

    pub(super) fn kill(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let (stage, since, extra) = (worker.stage, worker.idle_since, worker.extra);
        let cut = !worker.reachable();
        worker.stage = Stage::Killed;
        match stage {
            Stage::Active => self.retire(id, since, extra),
            Stage::Preparing | Stage::Draining(_) | Stage::Leaving(_) => {}
            Stage::Killed => return,
        }
        if cut {
            self.lose(self.latest, id, "it was to be ended while it had no connection");
        } else {
            self.actions.push_back(Action::Kill { worker: id, again: !self.is_ending() });
        }
    }

    pub(super) fn kill_due(&mut self, id: WorkerId, lease: Lease) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let leaving = matches!(worker.stage, Stage::Leaving(_));
        if let Some(cut) = worker.cut() {
            // It has not heard of it. It is lost before, or has had the time that it is given.
            let again = cut.after(self.policy.reconnect + self.policy.kill);
            return self.timers.set(again, Timer::Kill(id, lease));
        }
        if (lease == LEAVE && leaving) || worker.held(lease).is_some() {
            self.kill(id);
        }
    }

    pub(super) fn gone(&mut self, now: Time, id: WorkerId, begun: Begun, certificate: Certificate) {
        let Some(worker) = self.workers.remove(id) else { return };
        self.forget_launch(worker.launch);
        if let Some(far) = &worker.remote {
            self.origins.remove(&far.origin);
            self.timers.unset(far.watch, Timer::Silence(id));
        }
        if self.policy.staff == Staff::ByHand && worker.finished > 0 {
            // Its agent comes again, in its time: until then the failures of others are not the last word.
            self.failures = 0;
        }
        self.loaded.remove(&id);
        self.inner -= worker.inner.len() as u64;
        for function in worker.declared.values() {
            self.close_function(*function);
        }
        let recalls = worker.held.iter().chain(&worker.inner).filter(|held| held.recall == Recall::Requeue).count();
        self.recalls -= recalls as u64;
        // It found itself unfit for what comes next, and said so by the way it left: see `is_stale` in worker.py.
        let made_room = begun == Begun::Nothing && certificate.exit_code == Some(0);
        if !worker.enlisted {
            self.unlisted -= 1;
            *self.expected(worker.extra) -= 1;
        }
        match worker.stage {
            Stage::Active => {
                self.retire(id, worker.idle_since, worker.extra);
                if made_room {
                    self.counts.left_limit += 1;
                } else {
                    self.counts.lost += 1;
                }
            }
            _ if !worker.enlisted => {}
            // One that is not enlisted was told above.
            Stage::Preparing => {}
            Stage::Draining(_) => self.counts.lost += 1,
            Stage::Leaving(Leave::Idle) => self.counts.left_idle += 1,
            Stage::Leaving(Leave::Wall | Leave::Tasks) => self.counts.left_limit += 1,
            Stage::Leaving(Leave::Closing) | Stage::Killed => self.counts.left_stopped += 1,
        }
        self.returned_by_death(id, worker.offered);
        // Whoever we ended ourselves did not crash; nor, as far as anybody knows, did one that is merely not heard of any
        // more. What it may have been at runs alone from now on.
        let unseen = worker.link == Link::Remote && begun == Begun::Unknown;
        let crashed = matches!(worker.stage, Stage::Preparing | Stage::Active | Stage::Draining(_)) && !unseen;
        let certificate = Arc::new(if worker.dismissed { by_its_user(certificate) } else { certificate });
        // Where one task ran within the wait of another, nobody but the last can have been at work.
        let begun = match (begun, worker.inner.last()) {
            (_, Some(_)) if self.planted(Bug::BlameWaiting) => {
                Begun::One(worker.held.front().map_or(LEAVE, |held| held.lease))
            }
            (Begun::Unknown, Some(top)) => Begun::One(top.lease),
            (begun, _) => begun,
        };
        let guilt = Guilt { begun, crashed, alone: worker.held.len() == 1, unseen, certificate: &certificate };
        let mut blamed = false;
        // From within: what a task has submitted goes with it.
        for held in worker.inner.iter().rev().chain(&worker.held) {
            blamed |= match held.call {
                None => self.widow(now, id, held, &worker, &guilt),
                Some(_) => crashed && self.bereave(id, held, begun, (&certificate, &worker.face)),
            };
        }
        if !self.planted(Bug::WaitsForTheDead) {
            self.excuse(now, id, worker.served);
        }
        let set_up = worker.stage == Stage::Preparing;
        let useless = worker.finished == 0 && !matches!(begun, Begun::One(_));
        // What it had imported to be prepared was edited.
        let stale = made_room && worker.prepared;
        if !stale && crashed && !blamed && (useless || set_up) {
            let when = if set_up { "while it was set up" } else { "before its first task" };
            let Certificate { cause, stderr, .. } = &*certificate;
            self.note_failure(now, Arc::from(format!("a worker died {when}: {cause}\n{stderr}").trim_end()));
            self.note_agent(worker.origin(), true);
        }
    }

    /// What becomes of one task of a dead worker. True: it is blamed.
    fn widow(&mut self, now: Time, id: WorkerId, held: &Held, worker: &Worker, guilt: &Guilt<'_>) -> bool {
        let blame_all = self.planted(Bug::BlameUnstarted);
        let no_requeue = self.planted(Bug::NoRequeue);
        let Some(task) = self.tasks.get_mut(held.task) else {
            return false;
        };
        // Cancelled or timed out before: nobody waits for it.
        if !matches!(task.place, Place::Held(holder) if holder == id) {
            return false;
        }
        // It had begun, whoever is to blame: something ran within its wait. Next time that runs elsewhere, so that the
        // worker's end costs it nothing.
        let lent = worker.inner.last().is_some_and(|top| top.lease != held.lease) && worker.begun(held.lease);
        if let Some(family) = task.family.as_mut().filter(|_| lent) {
            family.apart = true;
        }
        // Whatever may have killed a worker runs alone from now on, so that the next time is certain.
        task.suspect |= guilt.unseen || guilt.crashed && guilt.begun == Begun::Unknown;
        let verdict = match guilt.begun {
            Begun::Nothing => Verdict::Innocent,
            Begun::One(lease) if lease == held.lease => Verdict::Guilty,
            Begun::One(_) => Verdict::Innocent,
            Begun::Unknown if guilt.alone && !guilt.unseen => Verdict::Guilty,
            Begun::Unknown => Verdict::Suspect,
        };
        let verdict = if blame_all { Verdict::Guilty } else { verdict };
        // It has begun, or may have, whoever ended the worker.
        let over = task.once && (lent || !matches!(verdict, Verdict::Innocent));
        if over || (guilt.crashed && matches!(verdict, Verdict::Guilty)) {
            self.crashed(now, held.task, guilt.certificate, &worker.face);
            return true;
        }
        if held.recall == Recall::CancelIfWaiting {
            self.resolve(now, held.task, Outcome::Cancel, None, Some(Arc::clone(&worker.face)));
            return false;
        }
        if !no_requeue {
            self.requeue(now, held.task);
        }
        false
    }

    fn crashed(&mut self, now: Time, id: TaskId, certificate: &Arc<Certificate>, face: &Arc<Face>) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        task.attempts += 1;
        let most = task.crashes_max.as_deref().unwrap_or(&self.policy.crashes_max);
        let crashes = task.crashes.get_or_insert_with(|| Box::new(Crashes::new(Arc::clone(certificate))));
        let again = crashes.add(certificate, most);
        let ends = task.once || !again;
        if ends && self.tasks.get(id).is_some_and(|task| self.has_backup(task)) {
            self.send_away(now, id, face);
        } else if ends {
            let outcome = Outcome::Crash(Arc::clone(certificate));
            self.resolve(now, id, outcome, None, Some(Arc::clone(face)));
        } else {
            self.requeue(now, id);
        }
    }
}

/// What `Dispatcher::dismiss` has led to.
fn by_its_user(certificate: Certificate) -> Certificate {
    let cause = format!("ended from outside by its user (kumi kill): {}", certificate.cause);
    Certificate { cause, ..certificate }
}

/// What is known about the death of a worker.
struct Guilt<'a> {
    begun: Begun,
    crashed: bool,
    alone: bool,
    /// Its connection was lost, and nobody knows what became of it.
    unseen: bool,
    certificate: &'a Arc<Certificate>,
}

/// What is known about the part of one task in it.
enum Verdict {
    Guilty,
    Suspect,
    Innocent,
}
