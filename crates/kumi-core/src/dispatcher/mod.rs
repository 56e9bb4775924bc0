//! The dispatcher's brain: where every task is, and what happens next.
//!
//! Rule: a task's place is changed only here and in the two files beside it, by [`Dispatcher::resolve`], `assign`,
//! `take_back` and `requeue`; every public function leaves all invariants of `tests/sim.rs` true.
//! - `deal.rs`: tasks to workers: prefetch, recall.
//! - `staff.rs`: workers and launches: join, leave, die; blame.
//!
//! Given up: priorities and fairness between submitters. Tasks are dealt in the order of submission.

#[cfg(feature = "planted-bugs")]
mod check;
mod deal;
mod staff;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::error::SubmitError;
use crate::ids::{Arena, FunctionId, LaunchId, Lease, TaskId, Time, WorkerId};
use crate::message::{FromWorker, Leave, Payload, ToWorker};
use crate::queue::Queue;
use crate::scaling::{self, Launch};
use crate::task::{Certificate, Done, Limit, Limits, NewTask, Outcome, Place, TASK_BYTES, Task, TaskView};
use crate::timer::{Timer, Timers};
use crate::worker::{Face, Recall, Worker};

/// What the user wants of a controller.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Name of the controller; workers are called after it.
    pub name: String,
    /// Never more workers than this.
    pub workers: u64,
    /// Never fewer, once started.
    pub workers_min: u64,
    /// A worker without work leaves after this; `None`: never.
    pub idle: Option<Duration>,
    /// A worker takes no more tasks after this; `None`: never.
    pub wall: Option<Duration>,
    /// A launch that has not led to a worker after this has failed.
    pub launch: Duration,
    /// A worker that does not stop a task, or leave, within this is killed.
    pub kill: Duration,
    /// A remote worker that is silent for this long is lost.
    pub silence: Duration,
    /// A worker leaves after so many tasks; `None`: any number.
    pub tasks_max: Option<u64>,
    /// How many crashes a task may cause and still be run again.
    pub crashes_max: u32,
    /// Bound of the queue.
    pub queue_bytes: u64,
    /// Tasks are run by the host itself; there are no workers.
    pub in_process: bool,
}

/// What happened outside.
#[derive(Clone, Debug)]
pub enum Event {
    /// A timeout is due.
    Tick,
    /// The process, or the job, of this launch exists.
    Launched {
        /// Which.
        launch: LaunchId,
    },
    /// This launch will not lead to a worker.
    LaunchFailed {
        /// Which.
        launch: LaunchId,
        /// Why, in the launcher's or the process's own words.
        text: Arc<str>,
    },
    /// A worker said something.
    Said {
        /// Who.
        worker: WorkerId,
        /// What. For local workers the hands answer a recall in the worker's name, from the shared page.
        message: FromWorker,
    },
    /// A worker is no more.
    Gone {
        /// Who.
        worker: WorkerId,
        /// What it was at.
        begun: Begun,
        /// How it ended.
        certificate: Certificate,
    },
}

/// Which of the tasks a dead worker held it had begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// None of them.
    Nothing,
    /// Just this one.
    One(Lease),
    /// Nobody knows.
    Unknown,
}

/// What the hands shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this.
    Send {
        /// To whom.
        worker: WorkerId,
        /// What.
        message: ToWorker,
    },
    /// Take back a task through the shared page of a local worker, and answer with [`FromWorker::Recalled`].
    Recall {
        /// Whose page.
        worker: WorkerId,
        /// Which task.
        lease: Lease,
        /// Its place in the page.
        slot: u16,
    },
    /// Start so many workers.
    Launch {
        /// Their identities.
        launches: Vec<LaunchId>,
    },
    /// End whatever exists of this launch, and report [`Event::LaunchFailed`] then.
    Abandon {
        /// Which.
        launch: LaunchId,
    },
    /// End this worker with its process tree, and report [`Event::Gone`] then.
    Kill {
        /// Which.
        worker: WorkerId,
    },
    /// A task that is watched or kept is done.
    Resolved {
        /// Which.
        task: TaskId,
    },
}

/// Counts at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are explained in `_core.pyi`, class Status.
pub struct Counts {
    pub workers: u64,
    pub idle: u64,
    pub launching: u64,
    pub waiting: u64,
    pub running: u64,
    pub finished: u64,
    pub uncollected: u64,
    pub queued_bytes: u64,
    pub success: u64,
    pub error: u64,
    pub crash: u64,
    pub cancel: u64,
    pub timeout: u64,
    pub launched: u64,
    pub left_idle: u64,
    pub left_limit: u64,
    pub left_stopped: u64,
    pub lost: u64,
}

/// A function that tasks name.
#[derive(Debug)]
struct Function {
    payload: Payload,
    label: Arc<str>,
    /// Tasks that name it.
    users: u64,
    /// Somebody may still submit tasks that name it.
    open: bool,
    /// How long it takes: a running estimate that jumps up and creeps down, so that one slow call stops prefetching.
    nanos: Option<u64>,
}

/// A launch and its number, which its worker is named after.
#[derive(Debug)]
struct LaunchNote {
    number: u64,
    state: Launch,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Dispatcher {
    policy: Policy,
    tasks: Arena<TaskId, Task>,
    functions: Arena<FunctionId, Function>,
    workers: Arena<WorkerId, Worker>,
    launches: Arena<LaunchId, LaunchNote>,
    queue: Queue,
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
    here: u64,
    bytes: u64,
    /// Workers that take tasks, and launches that may become workers.
    active: u64,
    expected: u64,
    /// When a task was submitted last, and until when the present burst of short ones is gathered.
    submitted: Time,
    gathering: Option<Time>,
    failures: u32,
    failed: Time,
    failure: Arc<str>,
    gave_up: bool,
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
}

#[cfg(feature = "planted-bugs")]
#[derive(Debug, Default)]
struct Planted {
    bug: Option<Bug>,
    leases: std::collections::BTreeMap<Lease, TaskId>,
}

impl Dispatcher {
    /// A dispatcher that has nothing to do. It asks for no worker before [`Dispatcher::start`].
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            tasks: Arena::default(),
            functions: Arena::default(),
            workers: Arena::default(),
            launches: Arena::default(),
            queue: Queue::default(),
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
            here: 0,
            bytes: 0,
            active: 0,
            expected: 0,
            submitted: Time(0),
            gathering: None,
            failures: 0,
            failed: Time(0),
            failure: Arc::from(""),
            gave_up: false,
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

    /// Takes in a pickled function; `label` is its name in records.
    pub fn define(&mut self, payload: Payload, label: Arc<str>) -> FunctionId {
        self.functions.insert(Function { payload, label, users: 0, open: true, nanos: None })
    }

    /// Nobody will submit tasks of this function any more.
    pub fn close_function(&mut self, id: FunctionId) {
        if let Some(function) = self.functions.get_mut(id) {
            function.open = false;
            self.drop_unused_function(id);
        }
    }

    /// Takes a task.
    ///
    /// # Errors
    /// When the queue is full or closed; the task is not taken then.
    pub fn submit(&mut self, now: Time, new: NewTask) -> Result<TaskId, SubmitError> {
        if self.closing {
            return Err(SubmitError::Closed);
        }
        let deadline = new.seconds_total.map(|span| now.after(span));
        let limited = new.seconds_run.is_some() || deadline.is_some();
        let task = Task {
            number: self.next_number,
            function: new.function,
            payload: new.payload,
            submitted: now,
            place: Place::Waiting,
            crashes: 0,
            crashes_max: new.crashes_max.unwrap_or(self.policy.crashes_max),
            attempts: 0,
            once: new.once,
            kept: new.kept,
            suspect: false,
            wanted: true,
            watched: false,
            limits: limited.then(|| Box::new(Limits { run: new.seconds_run, deadline })),
            certificate: None,
        };
        // A task larger than the bound is taken when it is alone, else it could never run.
        if !self.has_room(task.payload.len() as u64) {
            return Err(SubmitError::Full);
        }
        let Some(function) = self.functions.get_mut(new.function) else {
            return Err(SubmitError::NoFunction);
        };
        function.users += 1;
        if self.unresolved() == 0 {
            // What failed for the tasks before is forgiven: else one more failure would be the last.
            self.failures = 0;
        }
        self.bytes += task.bytes();
        self.waiting += 1;
        self.next_number += 1;
        self.kept_open += u64::from(new.kept);
        let number = task.number;
        let id = self.tasks.insert(task);
        self.queue.push(number, id);
        if let Some(deadline) = deadline {
            self.timers.set(deadline, Timer::Total(id));
        }
        self.settle_submitted(now, id);
        Ok(id)
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Time, event: Event) {
        match event {
            Event::Tick => {}
            Event::Launched { launch } => self.launch_started(launch),
            Event::LaunchFailed { launch, text } => self.launch_failed(now, launch, text),
            Event::Said { worker, message } => self.said(now, worker, message),
            Event::Gone { worker, begun, certificate } => self.gone(now, worker, begun, certificate),
        }
        while let Some(timer) = self.timers.due(now) {
            self.fire(now, timer);
        }
        self.settle(now);
    }

    fn said(&mut self, now: Time, worker: WorkerId, message: FromWorker) {
        match message {
            FromWorker::Finished { lease, success, started, nanoseconds, payload } => {
                let outcome = if success { Outcome::Success(payload) } else { Outcome::Error(payload) };
                self.finished(now, worker, lease, outcome, (started, nanoseconds));
            }
            FromWorker::Recalled { lease, back } => self.recalled(now, worker, lease, back),
            // A second hello is a repetition; the first made the worker.
            FromWorker::Hello { .. } | FromWorker::Heartbeat => {}
        }
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.heard = now;
        }
    }

    fn fire(&mut self, now: Time, timer: Timer) {
        match timer {
            Timer::Idle(worker) => self.idle_due(now, worker),
            Timer::Wall(worker) => self.drain(now, worker, Leave::Wall),
            Timer::Stall(worker) => self.stall_due(now, worker),
            Timer::Silence(worker) => self.silence_due(now, worker),
            Timer::Kill(worker, lease) => self.kill_due(worker, lease),
            Timer::Launch(launch) => self.launch_due(now, launch),
            // `handle` deals and scales after each event anyway.
            Timer::Deal | Timer::Scale => {}
            Timer::Run(task, lease) => self.run_due(now, task, lease),
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
        self.deal(now);
        self.scale(now);
        if self.closing && self.unresolved() == 0 {
            self.send_all_home(now);
        }
    }

    fn scale(&mut self, now: Time) {
        if !self.started || self.policy.in_process {
            return;
        }
        // After giving up only a new need is worth new attempts; `workers_min` alone is not.
        if self.gave_up {
            if self.waiting == 0 {
                return;
            }
            (self.gave_up, self.failures) = (false, 0);
        }
        let leaving = (self.launches.len() as u64).saturating_sub(self.active + self.expected);
        let snapshot = scaling::Snapshot {
            waiting: self.waiting,
            running: self.active - self.idle.len() as u64,
            joined: self.active,
            leaving: if self.planted(Bug::OverCap) { 0 } else { leaving },
            expected: self.expected,
            failures: self.failures,
            failed: self.failed,
        };
        let workers_min = if self.closing { 0 } else { self.policy.workers_min };
        let bounds = scaling::Bounds { workers: self.policy.workers, workers_min };
        let decision = scaling::decide(snapshot, bounds, now);
        if decision.launch > 0 {
            self.launch(now, decision.launch);
        }
        if let Some(again) = decision.again {
            self.timers.set(again, Timer::Scale);
        }
        if decision.give_up {
            self.give_up(now);
        }
    }

    fn give_up(&mut self, now: Time) {
        self.gave_up = true;
        let text = Arc::clone(&self.failure);
        while let Some(task) = self.take_waiting() {
            self.resolve(now, task, Outcome::Unlaunchable(Arc::clone(&text)), None, None);
        }
    }

    /// The end of every task goes through here, once.
    fn resolve(&mut self, now: Time, id: TaskId, outcome: Outcome, run: Option<(u64, u64)>, face: Option<Arc<Face>>) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        match task.place {
            Place::Waiting => self.waiting -= 1,
            Place::Held(_) => self.dealt -= 1,
            Place::Here => self.here -= 1,
            Place::Done(_) => return,
        }
        self.bytes -= task.bytes();
        task.payload = Arc::clone(&self.nothing);
        if let Some(deadline) = task.deadline() {
            self.timers.unset(deadline, Timer::Total(id));
        }
        self.counts.finished += 1;
        match &outcome {
            Outcome::Success(_) => self.counts.success += 1,
            Outcome::Error(_) => self.counts.error += 1,
            Outcome::Crash(_) | Outcome::Unlaunchable(_) => self.counts.crash += 1,
            Outcome::Cancel => self.counts.cancel += 1,
            Outcome::Timeout(_) => self.counts.timeout += 1,
        }
        task.place = Place::Done(Box::new(Done { outcome, finished: now, run, face }));
        if task.kept {
            self.kept_open -= 1;
            self.kept_done.push_back(id);
        }
        if task.kept || task.watched {
            self.actions.push_back(Action::Resolved { task: id });
        }
        if !task.wanted {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: TaskId) {
        let Some(task) = self.tasks.remove(id) else { return };
        if let Some(function) = self.functions.get_mut(task.function) {
            function.users -= 1;
            self.drop_unused_function(task.function);
        }
    }

    fn drop_unused_function(&mut self, id: FunctionId) {
        if self.functions.get(id).is_some_and(|function| function.users == 0 && !function.open) {
            self.functions.remove(id);
            let having: Vec<_> = self.workers.iter().filter(|(_, worker)| worker.defined.contains(&id)).collect();
            let having: Vec<_> = having.into_iter().map(|(worker, _)| worker).collect();
            for worker in having {
                if let Some(note) = self.workers.get_mut(worker) {
                    note.defined.remove(&id);
                }
                self.actions.push_back(Action::Send { worker, message: ToWorker::Forget { function: id } });
            }
        }
    }

    /// Cancels a task that no worker has begun. A local worker is asked through its page, so once the actions are
    /// carried out it is known whether it worked.
    pub fn cancel_waiting(&mut self, now: Time, id: TaskId) {
        match self.tasks.get(id).map(|task| &task.place) {
            Some(Place::Waiting) => self.resolve_waiting(now, id, Outcome::Cancel),
            Some(Place::Held(worker)) => self.ask_back_of(*worker, id, Recall::CancelIfWaiting),
            Some(Place::Here | Place::Done(_)) | None => {}
        }
        self.settle(now);
    }

    /// Cancels every task that no worker has begun, as [`Dispatcher::cancel_waiting`] does one.
    pub fn cancel_all_waiting(&mut self, now: Time) {
        let open: Vec<_> = self.tasks.iter().filter(|(_, task)| !task.is_done()).map(|(id, _)| id).collect();
        for id in open {
            self.cancel_waiting(now, id);
        }
    }

    /// Cancels a task wherever it is: it is resolved at once, and a worker that runs it is stopped behind the scenes.
    pub fn cancel(&mut self, now: Time, id: TaskId) {
        self.stop_task(now, id, Outcome::Cancel);
        self.settle(now);
    }

    fn stop_task(&mut self, now: Time, id: TaskId, outcome: Outcome) {
        match self.tasks.get(id).map(|task| &task.place) {
            Some(Place::Waiting) => self.resolve_waiting(now, id, outcome),
            Some(Place::Held(worker)) => {
                let worker = *worker;
                let face = self.workers.get(worker).map(|note| Arc::clone(&note.face));
                self.resolve(now, id, outcome, None, face);
                self.discard(now, worker, id);
            }
            Some(Place::Here) => self.resolve(now, id, outcome, None, None),
            Some(Place::Done(_)) | None => {}
        }
    }

    fn resolve_waiting(&mut self, now: Time, id: TaskId, outcome: Outcome) {
        self.resolve(now, id, outcome, None, None);
        let tasks = &self.tasks;
        self.queue.forget_one(|id| tasks.get(id).is_some_and(|task| !task.is_done()));
    }

    fn run_due(&mut self, now: Time, task: TaskId, lease: Lease) {
        let Some(Place::Held(worker)) = self.tasks.get(task).map(|task| &task.place) else {
            return;
        };
        let worker = *worker;
        if self.workers.get_mut(worker).is_some_and(|note| note.held(lease).is_some()) {
            self.stop_task(now, task, Outcome::Timeout(Limit::Run));
        }
    }

    /// The handle on this task is gone: its result is forgotten, or will be.
    pub fn release(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.wanted = false;
            if task.is_done() {
                self.remove(id);
            }
        }
    }

    /// Says [`Action::Resolved`] when this task is done. False: it is done already.
    pub fn watch(&mut self, id: TaskId) -> bool {
        match self.tasks.get_mut(id) {
            Some(task) if !task.is_done() => {
                task.watched = true;
                true
            }
            Some(_) | None => false,
        }
    }

    /// In-process only: begins the oldest waiting task.
    pub fn begin_here(&mut self) -> Option<(TaskId, Payload, Payload)> {
        let id = self.take_waiting()?;
        let task = self.tasks.get_mut(id)?;
        let function = self.functions.get(task.function)?;
        task.place = Place::Here;
        self.waiting -= 1;
        self.here += 1;
        Some((id, Arc::clone(&function.payload), Arc::clone(&task.payload)))
    }

    /// In-process only: the task begun last, or another one begun before, is done.
    pub fn finish_here(&mut self, now: Time, id: TaskId, outcome: Outcome, run: (u64, u64), face: Arc<Face>) {
        if let Some(task) = self.tasks.get_mut(id)
            && matches!(task.place, Place::Here)
        {
            task.attempts += 1;
            self.resolve(now, id, outcome, Some(run), Some(face));
        }
        self.settle(now);
    }

    /// Changes the cap. Surplus workers are not ended; they leave when idle.
    pub fn resize(&mut self, now: Time, workers: u64) {
        self.policy.workers = workers;
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
        let open: Vec<_> = self.tasks.iter().filter(|(_, task)| !task.is_done()).map(|(id, _)| id).collect();
        for id in open {
            self.resolve(now, id, Outcome::Cancel, None, None);
        }
        self.kill_all();
        self.settle(now);
    }

    /// Whether nothing is left: no task to resolve, no worker, no launch, and none will come.
    pub fn ended(&self) -> bool {
        self.closing && self.unresolved() == 0 && self.workers.is_empty() && self.launches.is_empty()
    }

    /// Tasks that are not done.
    pub fn unresolved(&self) -> u64 {
        self.waiting + self.dealt + self.here
    }

    /// Kept tasks that are not done.
    pub fn kept_open(&self) -> u64 {
        self.kept_open
    }

    /// The kept task that finished first, if it was not taken yet.
    pub fn kept_front(&self) -> Option<TaskId> {
        self.kept_done.front().copied()
    }

    /// Takes out what [`Dispatcher::kept_front`] shows.
    pub fn kept_pop(&mut self) -> Option<TaskId> {
        self.kept_done.pop_front()
    }

    /// Whether the task is done, or forgotten.
    pub fn is_done(&self, id: TaskId) -> bool {
        self.tasks.get(id).is_none_or(Task::is_done)
    }

    /// How the task ended; `None`: not yet.
    pub fn outcome(&self, id: TaskId) -> Option<&Outcome> {
        match &self.tasks.get(id)?.place {
            Place::Done(done) => Some(&done.outcome),
            Place::Waiting | Place::Held(_) | Place::Here => None,
        }
    }

    /// Whether a worker is believed to work on this task: it is the oldest the worker holds.
    pub fn is_running(&self, id: TaskId) -> bool {
        match self.tasks.get(id).map(|task| &task.place) {
            Some(Place::Held(worker)) => {
                self.workers.get(*worker).and_then(|worker| worker.held.front()).is_some_and(|held| held.task == id)
            }
            Some(Place::Here) => true,
            Some(Place::Waiting | Place::Done(_)) | None => false,
        }
    }

    /// Everything known about a finished task.
    pub fn view(&self, id: TaskId) -> Option<TaskView> {
        let task = self.tasks.get(id)?;
        let Place::Done(done) = &task.place else { return None };
        Some(TaskView {
            function: Arc::clone(&self.functions.get(task.function)?.label),
            submitted: task.submitted,
            finished: done.finished,
            run: done.run,
            face: done.face.clone(),
            attempts: task.attempts,
            certificate: task.certificate.clone(),
            outcome: done.outcome.clone(),
        })
    }

    /// All counts at this instant.
    pub fn counts(&self) -> Counts {
        let workers = self.workers.len() as u64;
        let idle = self.idle.len() as u64;
        let begun = self.dealt.min(workers - idle);
        Counts {
            workers,
            idle,
            launching: self.expected,
            waiting: self.waiting + self.dealt - begun,
            running: begun + self.here,
            uncollected: self.kept_open + self.kept_done.len() as u64,
            queued_bytes: self.bytes,
            ..self.counts
        }
    }

    /// How far a launch has come; `None`: it failed, or its worker is gone.
    pub fn launch_state(&self, launch: LaunchId) -> Option<Launch> {
        self.launches.get(launch).map(|note| note.state)
    }

    /// Whether a task with so much payload would be taken now.
    pub fn has_room(&self, payload: u64) -> bool {
        self.bytes == 0 || self.bytes + payload + TASK_BYTES <= self.policy.queue_bytes
    }

    /// The launch's number, which its worker is named after.
    pub fn launch_number(&self, launch: LaunchId) -> Option<u64> {
        self.launches.get(launch).map(|note| note.number)
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
