//! The dispatcher's brain: where every task is, and what happens next.
//!
//! Rule: a task's place is changed only by `resolve` (`ends.rs`), by `assign` and `requeue` (`deal.rs`), by `send_away`
//! (`backup.rs`) and, where the host runs tasks itself, by `begin_here` (`here.rs`); every public function leaves all invariants of `tests/sim.rs` true.
//! - this file: the state; what comes in, what goes out, and what is done after every change.
//! - `event.rs`: what it is told and what it answers.
//! - `functions.rs`: the functions that tasks name.
//! - `deal.rs`: tasks to workers: prefetch, recall.
//! - `groups.rs`: tasks that may end together.
//! - `everywhere.rs`: what every worker does before its next task.
//! - `nested.rs`: tasks that submit tasks.
//! - `here.rs`: tasks that the host runs itself.
//! - `backup.rs`: tasks that go on with another dispatcher.
//! - `report.rs`: what tasks say of themselves while they run.
//! - `ends.rs`: how tasks end: resolve, cancel, time out, release.
//! - `segments.rs`: who uses which shared memory.
//! - `remote.rs`: workers on other machines: who is let in, silence, cuts.
//! - `staff.rs`: workers and launches: join, leave, die; blame.
//! - `view.rs`: what the owner may see. `situation.rs`: why there are as many workers as there are.
//!   `roster.rs`: the workers as seen from outside.
//!
//! Given up: priorities and fairness between submitters. Tasks are dealt in the order of submission.

mod backup;
#[cfg(feature = "planted-bugs")]
mod check;
mod deal;
mod ends;
mod event;
mod everywhere;
mod functions;
mod groups;
mod here;
mod nested;
mod remote;
mod report;
mod roster;
mod segments;
mod situation;
mod staff;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub use self::event::{Action, Begun, Caller, Event, Origin, Policy, Staff, Ticket};
use self::everywhere::Call;
use self::functions::Function;
use self::nested::Child;
pub use self::nested::GENERATIONS_MAX;
pub use self::roster::{Condition, Entry, Work};
use self::segments::{Loan, Use};
pub use self::situation::Situation;
pub use self::view::Counts;
use crate::error::SubmitError;
use crate::group::Group;
use crate::ids::{Arena, FunctionId, GroupId, LaunchId, LoanId, SegmentId, TaskId, TicketId, Time, WorkerId};
use crate::message::{FromWorker, Leave, Payload};
use crate::queue::Queue;
use crate::scaling::{self, Launch};
use crate::segments::Store;
use crate::task::{Family, Limit, Limits, NewTask, Outcome, Overlooked, Place, Rank, Task};
use crate::timer::{Timer, Timers};
use crate::worker::Worker;

/// A launch and its number, which its worker is named after.
#[derive(Debug)]
struct LaunchNote {
    number: u64,
    asked: Time,
    extra: bool,
    state: Launch,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Dispatcher {
    policy: Policy,
    tasks: Arena<TaskId, Task>,
    functions: Arena<FunctionId, Function>,
    /// Those that workers have declared.
    declared: BTreeMap<Payload, FunctionId>,
    workers: Arena<WorkerId, Worker>,
    launches: Arena<LaunchId, LaunchNote>,
    /// The last that was written to stderr by what comes of them, as long as that is no active worker.
    written: BTreeMap<LaunchId, String>,
    /// Our segments, who uses those that are in use, and the workers' segments that are used here.
    store: Store,
    used: BTreeMap<SegmentId, Use>,
    loans: Arena<LoanId, Loan>,
    /// The last instant that was told.
    latest: Time,
    tickets: Arena<TicketId, Ticket>,
    /// The remote workers; the agents that were let in, and whether the last worker of each was of no use.
    origins: BTreeMap<Origin, WorkerId>,
    agents: BTreeMap<Origin, bool>,
    queue: Queue,
    groups: Arena<GroupId, Group<TaskId>>,
    /// Of those, what a failure has just ended.
    failing: Vec<GroupId>,
    /// And what more tasks will come of.
    promises: BTreeSet<GroupId>,
    /// Waiting tasks with a living parent; and those of them that have just come.
    nested: BTreeSet<Rank>,
    fresh: Vec<TaskId>,
    /// Tasks that wait where their workers cannot run what they wait for; and those that have waited so.
    needy: BTreeSet<TaskId>,
    patrons: BTreeSet<TaskId>,
    timers: Timers,
    actions: VecDeque<Action>,
    /// Active workers that hold nothing, the one that got idle last at the end: it is dealt to first, others may leave.
    idle: BTreeSet<(Time, WorkerId)>,
    /// Workers that hold a task behind another.
    loaded: BTreeSet<WorkerId>,
    /// Recalls for idle workers that are not answered yet.
    recalls: u64,
    /// Kept tasks that are done, in the order of finishing.
    kept_done: VecDeque<TaskId>,
    kept_open: u64,
    next_number: u64,
    next_lease: u64,
    next_launch: u64,
    waiting: u64,
    dealt: u64,
    /// Of those, how many run within the wait of another.
    inner: u64,
    here: u64,
    /// With the backup, or on their way there.
    away: u64,
    /// Calls of `everywhere` that are not done, and those that have not been withdrawn, by number.
    spread: u64,
    calls: BTreeMap<u64, Call>,
    last_call: u64,
    bytes: u64,
    /// Of results that somebody still holds; and whether it was said that they are many.
    result_bytes: u64,
    warned: bool,
    /// Workers that take tasks; launches that may become workers; of those, workers that are not ready, or never were.
    active: u64,
    expected: u64,
    /// The same of extra workers, which are not among those, nor among the idle; and all their launches.
    extras: u64,
    extras_expected: u64,
    extra_launches: u64,
    idle_extras: BTreeSet<(Time, WorkerId)>,
    unlisted: u64,
    /// When a task was submitted last, and until when the present burst of short ones is gathered.
    submitted: Time,
    gathering: Option<Time>,
    failures: u32,
    failed: Time,
    failure: Arc<str>,
    gave_up: bool,
    overlooked: Option<Box<Overlooked>>,
    started: bool,
    closing: bool,
    counts: Counts,
    nothing: Payload,
    #[cfg(feature = "planted-bugs")]
    planted: Planted,
}

/// Known bugs that tests can switch on (feature `planted-bugs`), to prove that the simulation finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The tasks of a dead worker are not requeued.
    NoRequeue,
    /// A result is accepted by its task alone, not by its lease.
    StaleResult,
    /// All tasks of a dead worker are blamed, also those it had not begun.
    BlameUnstarted,
    /// A worker that has finished its tasks gets no new one.
    FreedWorkerForgotten,
    /// Workers that are leaving do not count against the cap.
    OverCap,
    /// Workers above a cap that was lowered go on like others.
    SurplusStays,
    /// Extra workers are launched whether or not there is a berth for them.
    ExtraWithoutBerth,
    /// A segment is used again though a worker still holds it.
    ReusedWhileLent,
    /// A worker whose task waits runs whatever is nested, not its descendants alone.
    HelpsStrangers,
    /// What a task has submitted goes on when that goes back to the queue, or fails.
    OrphansGoOn,
    /// A worker's death is the fault of the task that waits, not of the one that ran within its wait.
    BlameWaiting,
    /// A worker that joins does not do what `everywhere` asked for before.
    NoReplay,
    /// A call of `everywhere` waits for workers that are dead.
    WaitsForTheDead,
    /// A second worker is let in beside the one that has its place.
    NoFence,
    /// An agent that comes again uses up its join code once more.
    ForgetsAgents,
    /// Of the hands, not of the dispatcher: after a cut a message is said not to have come that has.
    SentAgain,
    /// Of the hands: a message is acknowledged that has not come.
    LostAtCut,
    /// A task that ends here while it is away goes on with the backup.
    NoCallBack,
}

#[cfg(feature = "planted-bugs")]
#[derive(Debug, Default)]
struct Planted {
    bug: Option<Bug>,
    leases: std::collections::BTreeMap<crate::ids::Lease, TaskId>,
}

impl Dispatcher {
    /// A dispatcher that has nothing to do. It asks for no worker before [`Dispatcher::start`].
    pub fn new(policy: Policy) -> Self {
        Self {
            store: Store::new(policy.spare_bytes),
            used: BTreeMap::new(),
            loans: Arena::default(),
            latest: Time(0),
            policy,
            tasks: Arena::default(),
            functions: Arena::default(),
            declared: BTreeMap::new(),
            workers: Arena::default(),
            launches: Arena::default(),
            written: BTreeMap::new(),
            tickets: Arena::default(),
            origins: BTreeMap::new(),
            agents: BTreeMap::new(),
            queue: Queue::default(),
            groups: Arena::default(),
            failing: Vec::new(),
            promises: BTreeSet::new(),
            nested: BTreeSet::new(),
            fresh: Vec::new(),
            needy: BTreeSet::new(),
            patrons: BTreeSet::new(),
            timers: Timers::default(),
            actions: VecDeque::new(),
            idle: BTreeSet::new(),
            loaded: BTreeSet::new(),
            recalls: 0,
            kept_done: VecDeque::new(),
            kept_open: 0,
            next_number: 0,
            next_lease: 1,
            next_launch: 1,
            waiting: 0,
            dealt: 0,
            inner: 0,
            here: 0,
            away: 0,
            spread: 0,
            calls: BTreeMap::new(),
            last_call: 0,
            bytes: 0,
            result_bytes: 0,
            warned: false,
            active: 0,
            expected: 0,
            extras: 0,
            extras_expected: 0,
            extra_launches: 0,
            idle_extras: BTreeSet::new(),
            unlisted: 0,
            submitted: Time(0),
            gathering: None,
            failures: 0,
            failed: Time(0),
            failure: Arc::from(""),
            gave_up: false,
            overlooked: None,
            started: false,
            closing: false,
            counts: Counts::default(),
            nothing: Arc::from([]),
            #[cfg(feature = "planted-bugs")]
            planted: Planted::default(),
        }
    }

    /// From now on workers may be asked for.
    pub fn start(&mut self, now: Time) {
        self.started = true;
        self.settle(now);
    }

    /// Takes a task.
    ///
    /// # Errors
    /// When the queue is full or closed; the task is not taken then.
    pub fn submit(&mut self, now: Time, new: NewTask) -> Result<TaskId, SubmitError> {
        let id = self.admit(now, new, Place::Waiting)?;
        if let Some(task) = self.tasks.get(id) {
            self.queue.push(task.number, id);
        }
        self.settle_submitted(now, id);
        Ok(id)
    }

    /// Notes a new task, whose place the caller has to see to.
    fn admit(&mut self, now: Time, new: NewTask, place: Place) -> Result<TaskId, SubmitError> {
        if self.closing && !new.group.is_some_and(|group| self.promises.contains(&group)) {
            return Err(SubmitError::Closed);
        }
        if self.is_over(new.group) {
            return Err(SubmitError::Over);
        }
        // A task larger than the bound is taken when it is alone, else it could never run.
        if !self.has_room(new.bytes()) {
            return Err(SubmitError::Full);
        }
        self.take_in(now, new, place, None)
    }

    /// A new task. One that waits has to be queued by the caller.
    fn take_in(
        &mut self,
        now: Time,
        new: NewTask,
        place: Place,
        family: Option<Box<Family>>,
    ) -> Result<TaskId, SubmitError> {
        let waits = matches!(place, Place::Waiting);
        let deadline = new.seconds_total.map(|span| now.after(span));
        let limited = new.seconds_run.is_some() || deadline.is_some();
        let task = Task {
            number: self.next_number,
            function: new.function,
            payload: new.payload,
            large: new.large,
            submitted: now,
            place,
            crashes: None,
            crashes_max: new.crashes_max.map(Box::new),
            attempts: 0,
            once: new.once,
            name: new.name,
            kept: new.kept,
            group: new.group,
            everywhere: false,
            guest: false,
            suspect: false,
            wanted: true,
            watched: false,
            seen: false,
            report: None,
            limits: limited.then(|| Box::new(Limits { run: new.seconds_run, run_until: None, deadline })),
            family,
        };
        if self.functions.get(new.function).is_none() {
            return Err(SubmitError::NoFunction);
        }
        if task.large.as_ref().is_some_and(|large| !self.use_shared(&large.uses)) {
            return Err(SubmitError::NoFunction);
        }
        if let Some(function) = self.functions.get_mut(new.function) {
            function.users += 1;
        }
        if self.open_tasks() == 0 {
            // What failed for the tasks before is forgiven: else one more failure would be the last.
            self.failures = 0;
        }
        self.bytes += task.bytes();
        self.next_number += 1;
        self.waiting += u64::from(waits);
        self.kept_open += u64::from(new.kept);
        let id = self.tasks.insert(task);
        if let Some(deadline) = deadline {
            self.timers.set(deadline, Timer::Total(id));
        }
        Ok(id)
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Time, event: Event) {
        self.latest = self.latest.max(now);
        match event {
            Event::Tick => {}
            Event::Launched { launch } => self.launch_started(launch),
            Event::LaunchFailed { launch, text } => self.launch_failed(now, launch, text),
            Event::Said { worker, message } => self.said(now, worker, message),
            Event::Called { caller } => self.called(now, caller),
            Event::Cut { worker } => self.cut(now, worker),
            Event::Resumed { worker } => self.resumed(now, worker),
            Event::CameBack { task, view } => self.came_back(now, task, *view),
            Event::Stranded { task, text } => self.stranded(now, task, &text),
            Event::Gone { worker, begun, certificate } => self.gone(now, worker, begun, certificate),
        }
        while let Some(timer) = self.timers.due(now) {
            self.fire(now, timer);
        }
        self.settle(now);
    }

    fn said(&mut self, now: Time, worker: WorkerId, message: FromWorker) {
        self.sign_of_life(now, worker);
        match message {
            FromWorker::Finished { lease, success, run, payload } => {
                let outcome = if success { Outcome::Success(payload) } else { Outcome::Error(payload) };
                self.finished(now, worker, lease, outcome, run);
            }
            FromWorker::Prepared { lease, error, payload } => self.prepared(now, worker, lease, &error, payload),
            FromWorker::Recalled { lease, back } => self.recalled(now, worker, lease, back),
            FromWorker::Returned { segment, forked } => self.returned(worker, segment, forked),
            FromWorker::Report { lease, payload } => self.reported(worker, lease, payload),
            FromWorker::Declare { function, label, payload } => self.declare(worker, function, &label, payload),
            FromWorker::Withdraw { function } => self.withdraw(worker, function),
            FromWorker::Submit { child, parent, function, terms, payload } => {
                self.submit_child(now, worker, Child { number: child, parent, function, terms, payload });
            }
            FromWorker::Cancel { child } => self.cancel_child(now, worker, child),
            FromWorker::Release { child } => self.release_child(worker, child),
            FromWorker::Wait { lease, child } => self.begin_wait(now, worker, lease, child),
            FromWorker::Resume { lease, elsewhere } => self.resume(worker, lease, elsewhere),
            // The first hello was its agent's.
            FromWorker::Hello { pid, .. } => self.name_process(worker, pid),
            // The hands `borrow` what is lent.
            FromWorker::Lend { .. } => {}
            FromWorker::Heartbeat => self.heartbeat(now, worker),
            // Its time is over, whoever says so.
            FromWorker::Retire => self.drain(now, worker, Leave::Wall),
        }
    }

    fn fire(&mut self, now: Time, timer: Timer) {
        match timer {
            Timer::Idle(worker) => self.idle_due(now, worker),
            Timer::Wall(worker) => self.drain(now, worker, Leave::Wall),
            Timer::Stall(worker) => self.stall_due(now, worker),
            Timer::Silence(worker) => self.silence_due(now, worker),
            Timer::Rival(worker) => self.rival_due(now, worker),
            Timer::Kill(worker, lease) => self.kill_due(worker, lease),
            Timer::Again(worker, lease) => self.interrupt_again(worker, lease),
            Timer::Launch(launch) => self.launch_due(now, launch),
            // `handle` deals and scales after each event anyway.
            Timer::Deal | Timer::Scale => {}
            Timer::Run(task, lease) => self.run_due(now, task, lease),
            Timer::Segments => self.trim_segments(false),
            Timer::Total(task) => self.stop_task(now, task, Outcome::Timeout(Limit::Total)),
        }
    }

    /// What to do now. Each action is carried out once, in this order.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to come back with [`Event::Tick`] at the latest.
    pub fn next_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    /// After every change: deals what can be dealt, launches what is missing, ends when it is time.
    fn settle(&mut self, now: Time) {
        self.latest = self.latest.max(now);
        self.end_failed_groups(now);
        self.watch_hands(now);
        self.dismiss_surplus(now);
        self.deal(now);
        self.scale(now);
        if self.is_ending() {
            self.send_all_home(now);
            self.withdraw_calls();
            self.trim_segments(true);
        }
    }

    fn scale(&mut self, now: Time) {
        if !self.started || matches!(self.policy.staff, Staff::Host | Staff::ByHand) {
            return;
        }
        // After giving up only a new need is worth new attempts; `workers_min` alone is not.
        if self.gave_up {
            if self.waiting == 0 {
                return;
            }
            (self.gave_up, self.failures) = (false, 0);
        }
        let decision = scaling::decide(self.snapshot(), self.bounds(), now);
        if decision.launch > 0 {
            self.launch(now, decision.launch, false);
        }
        if let Some(again) = decision.again {
            self.timers.set(again, Timer::Scale);
        }
        if decision.give_up {
            self.give_up(now);
        }
        self.scale_extras(now);
    }

    fn snapshot(&self) -> scaling::Snapshot {
        scaling::Snapshot {
            waiting: self.waiting,
            running: self.active - self.idle.len() as u64,
            joined: self.active,
            leaving: if self.planted(Bug::OverCap) { 0 } else { self.on_their_way_out() },
            expected: self.expected,
            failures: self.failures,
            failed: self.failed,
        }
    }

    /// Workers that take no more tasks and are not gone yet, and launches that were given up; not the extra ones.
    fn on_their_way_out(&self) -> u64 {
        (self.launches.len() as u64).saturating_sub(self.extra_launches + self.active + self.expected)
    }

    fn bounds(&self) -> scaling::Bounds {
        let workers_min = if self.closing { 0 } else { self.policy.workers_min };
        let berths = self.policy.berths.map_or(u64::MAX, |berths| berths.saturating_sub(self.extra_launches));
        scaling::Bounds { workers: self.policy.workers.min(berths), workers_min }
    }

    fn give_up(&mut self, now: Time) {
        self.gave_up = true;
        let text = self.why_hopeless();
        while let Some(task) = self.take_waiting() {
            self.resolve(now, task, Outcome::Unlaunchable(Arc::clone(&text)), None, None);
        }
        self.end_failed_groups(now);
    }

    fn why_hopeless(&self) -> Arc<str> {
        Arc::from(format!("{} launches failed in a row, the last one so: {}", self.failures, self.failure))
    }

    /// Changes how many workers there may be, and how many are kept. Surplus ones leave as soon as they hold nothing.
    pub fn resize(&mut self, now: Time, workers: u64, workers_min: u64) {
        (self.policy.workers, self.policy.workers_min) = (workers, workers_min);
        self.end_keeping(now);
        self.settle(now);
    }

    /// Takes no more tasks; workers leave when nothing is left to do.
    pub fn close(&mut self, now: Time) {
        self.closing = true;
        self.settle(now);
    }

    /// Cancels what is unresolved and kills the workers.
    pub fn terminate(&mut self, now: Time) {
        self.closing = true;
        self.promises.clear();
        let open: Vec<_> = self.tasks.iter().filter(|(_, task)| !task.is_done()).map(|(id, _)| id).collect();
        for id in open {
            let face = self.runner(id);
            self.call_back(id);
            let guest = self.tasks.get(id).is_some_and(|task| task.guest);
            let outcome = if guest { self.turned_out() } else { Outcome::Cancel };
            self.resolve(now, id, outcome, None, face);
        }
        self.kill_all();
        self.settle(now);
    }

    #[cfg(feature = "planted-bugs")]
    /// Switches a known bug on.
    pub fn plant(&mut self, bug: Bug) {
        self.planted.bug = Some(bug);
    }

    /// Whether a test switched this bug on; never in the product.
    fn planted(&self, bug: Bug) -> bool {
        #[cfg(feature = "planted-bugs")]
        return self.planted.bug == Some(bug);
        #[cfg(not(feature = "planted-bugs"))]
        {
            let _ = bug;
            false
        }
    }
}
