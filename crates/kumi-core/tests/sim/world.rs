//! The world: virtual time, a heap of letters, the brain, and the hands that carry out what it decides.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kumi_core::message::ToWorker;
use kumi_core::{
    Action, Bug, Cause, Certificate, Dispatcher, Event, Face, FromWorker, FunctionId, LaunchId, Lease, Link, LoanId,
    SegmentId, Staff, TaskId, Time, ToAgent, WorkerId,
};

use super::backup::News;
use super::ledger::{Check, Ledger, rule};
use super::memory::Memory;
use super::process::Process;
use super::profile::{MICRO, Profile};
use super::remote::Net;
use super::rng::Rng;
use super::rules;
use super::task::Kind;

/// A seed takes some thousand steps; this many mean that it goes round in circles.
const STEPS_MAX: u64 = 300_000;

/// Something that will happen.
#[derive(Debug)]
pub enum Letter {
    /// The user does the next thing.
    Deed,
    /// The launcher reports.
    Launched(LaunchId),
    LaunchFailed(LaunchId),
    /// A process of this launch starts and says hello.
    Starts(LaunchId, Link),
    /// Somebody who starts workers by hand looks after them.
    Hands,
    /// Bytes to a worker, bytes to the host.
    Down {
        process: usize,
        bytes: Arc<[u8]>,
    },
    Up {
        process: usize,
        bytes: Arc<[u8]>,
    },
    /// The running task returns.
    Done {
        process: usize,
        lease: Lease,
    },
    /// The running task, which has children, does the next thing.
    Acts {
        process: usize,
        lease: Lease,
    },
    /// A task has waited for this child for long enough.
    Tires {
        process: usize,
        lease: Lease,
        child: u64,
    },
    /// The process is told to end, by nobody of ours.
    Noticed {
        process: usize,
    },
    /// The running task reports.
    Reports {
        process: usize,
        lease: Lease,
    },
    Flush {
        process: usize,
    },
    /// Its main thread finds that it was signalled.
    Signal {
        process: usize,
    },
    /// An agent's timeout is due; it has dialled; its worker is dead.
    Agent {
        process: usize,
    },
    Dialled {
        process: usize,
    },
    ChildDied {
        process: usize,
    },
    /// Bytes on a connection, and its end as one side sees it.
    ConnUp {
        conn: usize,
        bytes: Arc<[u8]>,
    },
    ConnDown {
        conn: usize,
        bytes: Arc<[u8]>,
    },
    HostSeesEnd {
        conn: usize,
    },
    /// The host closes a connection that it has fenced.
    HostLetsGo {
        conn: usize,
    },
    AgentSeesEnd {
        conn: usize,
    },
    /// It dies: of this task, if it still runs it, or by itself.
    Dies {
        process: usize,
        of: Option<Lease>,
    },
    /// It has no network for so long, or its connection breaks.
    Breaks {
        process: usize,
        span: Option<Duration>,
    },
    /// The host was told to end it.
    Killed {
        process: usize,
    },
    /// The host notices that it is gone.
    Gone {
        process: usize,
    },
    /// The backup says something of a task that was handed over.
    FromBackup {
        task: TaskId,
        news: News,
    },
    /// A worker does not map this segment of the host's any more.
    Returns {
        process: usize,
        segment: SegmentId,
    },
    /// The host's Python does not look at this segment of a worker's any more.
    Forgets {
        loan: LoanId,
        forked: bool,
    },
}

/// See the head of this file.
#[derive(Debug)]
pub struct World {
    pub(super) now: Time,
    pub(super) letters: BTreeMap<(Time, u64), Letter>,
    posted: u64,
    pub(super) rng: Rng,
    pub(super) profile: Profile,
    pub(super) brain: Dispatcher,
    pub(super) ledger: Ledger,
    pub(super) memory: Memory,
    pub(super) functions: Vec<(FunctionId, Kind)>,
    pub(super) processes: Vec<Process>,
    pub(super) hosts: BTreeMap<WorkerId, usize>,
    pub(super) net: Net,
    pub(super) bug: Option<Bug>,
    orders: VecDeque<Action>,
    pub(super) deeds_left: u64,
    steps: u64,
    /// Lines of what happened, if wanted.
    pub history: Option<Vec<String>>,
}

impl World {
    pub fn new(seed: u64, bug: Option<Bug>, with_history: bool) -> Self {
        let mut rng = Rng::new(seed);
        let profile = Profile::draw(&mut rng);
        let mut brain = Dispatcher::new(profile.policy.clone());
        if let Some(bug) = bug {
            brain.plant(bug);
        }
        let kinds = [Kind::Short, Kind::Short, Kind::Mixed, Kind::Middle, Kind::Long];
        let functions = kinds.map(|kind| (brain.define(Arc::from([]), Arc::from("function")), kind)).to_vec();
        Self {
            now: Time(0),
            letters: BTreeMap::new(),
            posted: 0,
            rng,
            deeds_left: profile.deeds,
            ledger: Ledger::new(profile.policy.clone()),
            profile,
            memory: Memory::default(),
            brain,
            functions,
            processes: Vec::new(),
            hosts: BTreeMap::new(),
            net: Net::default(),
            bug,
            orders: VecDeque::new(),
            steps: 0,
            history: with_history.then(Vec::new),
        }
    }

    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// What has happened, and how often.
    pub fn seen(&self) -> &BTreeMap<&'static str, u64> {
        &self.ledger.seen
    }

    /// From the first deed to the end of everything.
    pub fn run(&mut self) -> Check {
        if self.rng.chance(self.profile.calls) {
            self.ledger.uncounted = 1;
            self.call_everywhere()?;
        }
        self.brain.start(self.now);
        self.absorb()?;
        self.post(MICRO, Letter::Deed);
        if self.ledger.policy.staff == Staff::ByHand {
            self.post(MICRO, Letter::Hands);
        }
        self.run_until("the user's last deed", |world| world.deeds_left == 0)?;
        self.profile.calm();
        self.run_until("the last task", |world| world.ledger.open.is_empty())?;
        self.collect()?;
        self.close()?;
        self.run_until("the end", |world| world.brain.ended())?;
        self.give_everything_back()?;
        self.leave_alone()?;
        self.agents_end()
    }

    fn run_until(&mut self, what: &str, reached: impl Fn(&World) -> bool) -> Check {
        self.carry_out()?;
        while !reached(self) {
            rule!(self.step()?, "nothing will happen any more, but {what} has not come");
            self.steps += 1;
            rule!(self.steps < STEPS_MAX, "{what} has not come in {STEPS_MAX} steps");
        }
        Ok(())
    }

    /// The next timeout or letter, whichever is earlier. False: there is none.
    fn step(&mut self) -> Check<bool> {
        let letter = self.letters.first_key_value().map(|((at, _), _)| *at);
        match (self.brain.next_timeout(), letter) {
            (Some(timeout), letter) if letter.is_none_or(|letter| timeout <= letter) => {
                self.now = self.now.max(timeout);
                self.tell(Event::Tick)?;
            }
            _ => {
                let Some(((at, _), letter)) = self.letters.pop_first() else {
                    return Ok(false);
                };
                self.now = at;
                self.deliver(letter)?;
            }
        }
        self.carry_out()?;
        Ok(true)
    }

    /// After the end: what is left in the brain's timers must not do anything, nor go on for ever.
    fn leave_alone(&mut self) -> Check {
        let left = self.brain.next_timeout().is_some() as u64 * 10_000;
        for _ in 0..left {
            let Some(timeout) = self.brain.next_timeout() else {
                return Ok(());
            };
            self.now = self.now.max(timeout);
            self.brain.handle(self.now, Event::Tick);
            let action = self.brain.next_action();
            rule!(action.is_none(), "after the end: {action:?}");
        }
        rule!(self.brain.next_timeout().is_none(), "timers go on after the end");
        Ok(())
    }

    fn deliver(&mut self, letter: Letter) -> Check {
        match letter {
            Letter::Deed => self.deed(),
            Letter::Launched(launch) => self.tell(Event::Launched { launch }),
            Letter::LaunchFailed(launch) => {
                self.ledger.launch_failed(self.now, launch);
                self.tell(Event::LaunchFailed { launch, text: Arc::from("the launcher fails") })
            }
            Letter::Starts(launch, link) => {
                self.starts(launch, link);
                Ok(())
            }
            Letter::Hands => {
                self.hands();
                Ok(())
            }
            Letter::Down { process, bytes } => self.worker_hears(process, &bytes),
            Letter::Up { process, bytes } => self.host_hears(process, &bytes),
            Letter::Agent { process } => self.agent_due(process),
            Letter::Dialled { process } => self.dialled(process),
            Letter::ChildDied { process } => self.child_died(process),
            Letter::ConnUp { conn, bytes } => self.host_hears_agent(conn, &bytes),
            Letter::ConnDown { conn, bytes } => self.agent_hears(conn, &bytes),
            Letter::HostLetsGo { conn } => {
                self.host_closes(conn);
                Ok(())
            }
            Letter::HostSeesEnd { conn } => self.host_sees_end(conn),
            Letter::AgentSeesEnd { conn } => self.agent_sees_end(conn),
            Letter::Done { process, lease } => self.done(process, lease),
            Letter::Acts { process, lease } => self.acts(process, lease),
            Letter::Tires { process, lease, child } => self.tires(process, lease, child),
            Letter::Noticed { process } => {
                self.noticed(process);
                Ok(())
            }
            Letter::Reports { process, lease } => {
                self.reports(process, lease);
                Ok(())
            }
            Letter::Flush { process } => {
                self.flush_due(process);
                Ok(())
            }
            Letter::Signal { process } => self.signalled(process),
            Letter::Dies { process, of } => {
                self.dies(process, of);
                Ok(())
            }
            Letter::Breaks { process, span } => {
                self.breaks(process, span);
                Ok(())
            }
            Letter::Killed { process } => {
                self.die(process);
                // Whoever ends a worker knows that it is gone, whatever the link says.
                self.post(50 * MICRO, Letter::Gone { process });
                Ok(())
            }
            Letter::Gone { process } => self.gone(process),
            Letter::Returns { process, segment } => {
                self.returns(process, segment);
                Ok(())
            }
            Letter::Forgets { loan, forked } => self.forgets(loan, forked),
            Letter::FromBackup { task, news } => self.backup_says(task, news),
        }
    }

    fn host_hears(&mut self, id: usize, bytes: &[u8]) -> Check {
        self.processes[id].to_host.feed(bytes);
        while let Some(message) = self.processes[id].to_host.next().map_err(|error| error.to_string())? {
            match (message, self.processes[id].worker) {
                (FromWorker::Hello { pid, host, .. }, None) => self.join(id, pid, host)?,
                (FromWorker::Lend { segment, bytes }, Some(worker)) => self.borrow(worker, id, segment, bytes)?,
                (message, Some(worker)) => self.said(worker, message)?,
                (_, None) => {}
            }
        }
        Ok(())
    }

    fn join(&mut self, id: usize, pid: u32, host: String) -> Check {
        let launch = self.processes[id].launch;
        let face = Face { name: format!("sim-{id}"), pid, host };
        let worker = self.brain.join(self.now, launch, face);
        self.say(|| format!("process {id} of {launch:?} joins as {worker:?}"));
        self.ledger.joined(self.now, launch, Link::Local, worker)?;
        match worker {
            Some(worker) => {
                self.processes[id].worker = Some(worker);
                self.hosts.insert(worker, id);
            }
            None => self.send_down(id, &ToWorker::Refuse { reason: "not expected".into() }),
        }
        self.absorb()
    }

    pub(super) fn said(&mut self, worker: WorkerId, message: FromWorker) -> Check {
        let mut finished = None;
        match &message {
            FromWorker::Finished { lease, payload, success, .. } => {
                finished = Some(self.ledger.held(worker, *lease).map(|held| held.task));
                self.ledger.finished(self.now, worker, *lease, payload, *success);
            }
            FromWorker::Recalled { lease, back } => self.ledger.recalled(self.now, worker, *lease, *back),
            FromWorker::Prepared { lease, error, payload } => {
                self.ledger.prepared(self.now, worker, *lease, error, payload);
            }
            FromWorker::Report { lease, payload } => self.ledger.reported(worker, *lease, payload),
            FromWorker::Submit { child, parent, .. } => {
                let (child, parent) = (*child, *parent);
                return self.child_comes(worker, child, parent, message);
            }
            FromWorker::Cancel { child } => self.ledger.cancelled_by_parent(worker, *child),
            FromWorker::Release { child } => self.ledger.released_by_parent(worker, *child),
            FromWorker::Wait { lease, child } => self.ledger.begins_to_wait(worker, *lease, *child),
            FromWorker::Resume { lease, elsewhere } => self.ledger.waits_no_longer(worker, *lease, *elsewhere),
            FromWorker::Hello { .. } => self.ledger.ready(worker),
            FromWorker::Retire => self.ledger.retires(worker),
            FromWorker::Heartbeat
            | FromWorker::Declare { .. }
            | FromWorker::Withdraw { .. }
            | FromWorker::Lend { .. }
            | FromWorker::Returned { .. } => {}
        }
        if let Some(note) = self.ledger.workers.get_mut(&worker) {
            note.heard = self.now;
        }
        self.tell(Event::Said { worker, message })?;
        match (finished, self.hosts.get(&worker)) {
            (Some(task), Some(&id)) => self.take_offered(id, task),
            _ => Ok(()),
        }
    }

    /// The host notices the end of a process: what its page still holds counts, then it is gone.
    fn gone(&mut self, id: usize) -> Check {
        let Some(worker) = self.processes[id].worker else {
            let launch = self.processes[id].launch;
            self.ledger.launch_failed(self.now, launch);
            return self.tell(Event::LaunchFailed { launch, text: Arc::from("the process ended at once") });
        };
        for message in self.processes[id].unsent() {
            self.said(worker, message)?;
        }
        let begun = self.processes[id].begun();
        let certificate = self.certificate();
        self.ledger.gone(self.now, worker, begun, certificate.kind)?;
        self.tell(Event::Gone { worker, begun, certificate })
    }

    pub(super) fn certificate(&mut self) -> Certificate {
        let kind = self.rng.pick(&[Cause::Other, Cause::Other, Cause::Memory, Cause::Time, Cause::Spot]);
        Certificate { cause: "exit code 3".into(), kind, ..Certificate::default() }
    }

    pub(super) fn tell(&mut self, event: Event) -> Check {
        self.say(|| format!("{event:?}"));
        self.brain.handle(self.now, event);
        self.absorb()
    }

    /// Takes in what the brain has decided, and checks everything.
    pub(super) fn absorb(&mut self) -> Check {
        let actions: Vec<_> = std::iter::from_fn(|| self.brain.next_action()).collect();
        for action in actions {
            if let Action::Admit { caller, worker } = &action {
                let launch = self.launch_of(*caller);
                self.ledger.admitted(self.now, launch, *worker)?;
            }
            self.say(|| format!("  -> {action:?}"));
            if let Action::Launch { launches } = &action {
                let extras = launches.iter().filter(|launch| self.brain.is_extra(**launch));
                self.ledger.extras.extend(extras);
            }
            self.ledger.note(self.now, &action, |task| self.brain.view(task))?;
            self.note_memory(&action)?;
            self.orders.push_back(action);
        }
        rules::check(&mut self.ledger, &self.brain, self.now)
    }

    /// Carries out what was decided, in order. A recall from a page is answered on the spot.
    pub(super) fn carry_out(&mut self) -> Check {
        while let Some(action) = self.orders.pop_front() {
            match action {
                Action::Send { worker, message } => {
                    let Some(&id) = self.hosts.get(&worker) else { continue };
                    if self.processes[id].link == Link::Remote {
                        self.send_remote(worker, ToAgent::Worker(message));
                        continue;
                    }
                    if let ToWorker::Run { slot, lease, .. } | ToWorker::Prepare { slot, lease, .. } = &message {
                        self.processes[id].offer(*slot, *lease);
                    }
                    self.send_down(id, &message);
                }
                Action::Recall { worker, lease, slot } => {
                    let Some(&id) = self.hosts.get(&worker) else { continue };
                    let back = self.processes[id].recall(slot, lease);
                    self.said(worker, FromWorker::Recalled { lease, back })?;
                }
                Action::Launch { launches } => launches.into_iter().for_each(|launch| self.launch(launch)),
                Action::Abandon { launch } => self.abandon(launch),
                Action::Kill { worker, again } => {
                    let Some(&process) = self.hosts.get(&worker) else {
                        continue;
                    };
                    match self.processes[process].link {
                        Link::Local => self.post(20 * MICRO, Letter::Killed { process }),
                        Link::Remote => self.send_remote(worker, ToAgent::End { again }),
                    }
                }
                Action::Admit { caller, worker } => self.admit(caller, worker)?,
                Action::Refuse { caller, reason } => self.refuse(caller as usize, &reason)?,
                Action::Cut { worker } => self.cut_remote(worker),
                Action::Fence { worker, .. } => self.fence(worker),
                Action::HandOver { task } => self.hand_over(task)?,
                Action::Resolved { task } => self.guest_leaves(task),
                Action::CallBack { .. }
                | Action::Reported { .. }
                | Action::TooManyResults { .. }
                | Action::CloseSegment { .. }
                | Action::Unmap { .. } => {}
            }
        }
        Ok(())
    }

    pub(super) fn post(&mut self, delay: Duration, letter: Letter) {
        self.post_at(self.now.after(delay), letter);
    }

    pub(super) fn post_at(&mut self, at: Time, letter: Letter) {
        self.posted += 1;
        self.letters.insert((at, self.posted), letter);
    }

    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        let now = self.now.0;
        if let Some(history) = &mut self.history {
            history.push(format!("{:>15.6} ms  {}", now as f64 / 1e6, without_payload(&line())));
        }
    }
}

/// A line of history without the bytes in it.
fn without_payload(line: &str) -> String {
    let Some((head, bytes)) = line.split_once(", payload: [") else {
        return line.into();
    };
    format!("{head}{}", bytes.split_once(']').map_or("", |(_, tail)| tail))
}
