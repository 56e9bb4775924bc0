//! A dispatcher whose hands are the story's teller: messages are carried by hand, so that each story decides what
//! arrives when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kumi_core::message::{FromWorker, Leave, ToWorker};
use kumi_core::{
    Action, Begun, Caller, Cause, Certificate, CrashesMax, Dispatcher, Event, Face, FunctionId, LaunchId, Lease, Link,
    NewTask, Origin, Outcome, Policy, Run, Staff, TaskId, Ticket, TicketId, Time, WorkerId,
};

pub const MILLI: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);

/// A dispatcher with the hands of the story's teller.
pub struct Crew {
    pub now: Time,
    pub brain: Dispatcher,
    pub function: FunctionId,
    pub launches: Vec<LaunchId>,
    pub abandoned: Vec<LaunchId>,
    /// What each worker was sent, or was asked for through its page, and the story has not looked at yet.
    pub sent: BTreeMap<WorkerId, Vec<ToWorker>>,
    pub killed: Vec<WorkerId>,
    /// Of those, the remote ones whose agents are to go on.
    pub renewed: Vec<WorkerId>,
    /// Remote workers: who was let in by which call, who was not and why, whose connection was closed, who was fenced.
    pub admitted: BTreeMap<u64, WorkerId>,
    pub refused: BTreeMap<u64, String>,
    pub cut: Vec<WorkerId>,
    pub fenced: Vec<WorkerId>,
    pub calls: u64,
    /// Tasks that went to the backup, and those that nobody wants there any more.
    pub handed_over: Vec<TaskId>,
    pub called_back: Vec<TaskId>,
    /// Task of each lease, and the last lease of each task.
    pub tasks: BTreeMap<Lease, TaskId>,
    pub leases: BTreeMap<TaskId, Lease>,
}

/// Of a crew without limits.
pub fn policy(workers: u64) -> Policy {
    Policy {
        name: "crew".into(),
        workers,
        workers_min: 0,
        berths: None,
        idle: None,
        wall: None,
        launch: 60 * SECOND,
        kill: 5 * SECOND,
        heartbeat: 5 * SECOND,
        silence: 30 * SECOND,
        reconnect: 60 * SECOND,
        tasks_max: None,
        crashes_max: CrashesMax::Together(1),
        backup: false,
        queue_bytes: u64::MAX,
        spare_bytes: 1 << 20,
        reset: 0,
        memory: None,
        staff: Staff::Local,
    }
}

impl Crew {
    pub fn new(policy: Policy) -> Self {
        let mut crew = Self::not_started(policy);
        crew.brain.start(Time(0));
        crew.listen();
        crew
    }

    pub fn not_started(policy: Policy) -> Self {
        let mut brain = Dispatcher::new(policy);
        let function = brain.define(Arc::from([]), Arc::from("f"));
        let mut crew = Self {
            now: Time(0),
            brain,
            function,
            launches: Vec::new(),
            abandoned: Vec::new(),
            sent: BTreeMap::new(),
            killed: Vec::new(),
            renewed: Vec::new(),
            admitted: BTreeMap::new(),
            refused: BTreeMap::new(),
            cut: Vec::new(),
            fenced: Vec::new(),
            calls: 0,
            handed_over: Vec::new(),
            called_back: Vec::new(),
            tasks: BTreeMap::new(),
            leases: BTreeMap::new(),
        };
        crew.listen();
        crew
    }

    /// A crew of one worker that knows the function to be short, and holds nothing.
    pub fn of_one_that_is_fast(policy: Policy, link: Link) -> (Self, WorkerId) {
        let mut crew = Self::new(policy);
        let first = crew.submit();
        let worker = crew.join(link);
        crew.finish(worker, first, 10_000);
        crew.sent.clear();
        (crew, worker)
    }

    pub fn listen(&mut self) {
        while let Some(action) = self.brain.next_action() {
            match action {
                Action::Send { worker, message } => {
                    if let ToWorker::Run { task, lease, .. } = message {
                        self.tasks.insert(lease, task);
                        self.leases.insert(task, lease);
                    }
                    self.sent.entry(worker).or_default().push(message);
                }
                Action::Recall { worker, lease, .. } => {
                    self.sent.entry(worker).or_default().push(ToWorker::Recall { lease });
                }
                Action::Launch { launches } => self.launches.extend(launches),
                Action::Abandon { launch } => self.abandoned.push(launch),
                Action::Kill { worker, again } => {
                    self.killed.push(worker);
                    self.renewed.extend(again.then_some(worker));
                }
                Action::Admit { caller, worker } => drop(self.admitted.insert(caller, worker)),
                Action::Refuse { caller, reason } => drop(self.refused.insert(caller, reason)),
                Action::Cut { worker } => self.cut.push(worker),
                Action::Fence { worker, .. } => self.fenced.push(worker),
                Action::HandOver { task } => self.handed_over.push(task),
                Action::CallBack { task } => self.called_back.push(task),
                Action::Resolved { .. }
                | Action::Reported { .. }
                | Action::TooManyResults { .. }
                | Action::CloseSegment { .. }
                | Action::Unmap { .. } => {}
            }
        }
        self.brain.check().unwrap();
    }

    pub fn tell(&mut self, event: Event) {
        self.brain.handle(self.now, event);
        self.listen();
    }

    pub fn say(&mut self, worker: WorkerId, message: FromWorker) {
        self.tell(Event::Said { worker, message });
    }

    pub fn wait(&mut self, span: Duration) {
        self.now = self.now.after(span);
        self.tell(Event::Tick);
    }

    /// As somebody does who waits for it.
    pub fn submit_as(&mut self, change: impl FnOnce(&mut NewTask)) -> TaskId {
        let id = self.submit_and_go_on(change);
        self.hurry();
        id
    }

    pub fn hurry(&mut self) {
        self.brain.hurry(self.now);
        self.listen();
    }

    /// As somebody does who has more to submit.
    pub fn submit_and_go_on(&mut self, change: impl FnOnce(&mut NewTask)) -> TaskId {
        let mut task = NewTask::new(self.function, Arc::from([]));
        change(&mut task);
        let id = self.brain.submit(self.now, task).unwrap();
        self.listen();
        id
    }

    pub fn submit(&mut self) -> TaskId {
        self.submit_as(|_| ())
    }

    pub fn submit_many(&mut self, count: usize) -> Vec<TaskId> {
        (0..count).map(|_| self.submit()).collect()
    }

    /// A call of `everywhere`; its result is "done".
    pub fn everywhere(&mut self) -> TaskId {
        let id =
            self.brain.everywhere(self.now, NewTask::new(self.function, Arc::from([])), Arc::from(*b"done")).unwrap();
        self.listen();
        id
    }

    /// The lease of the call that a worker was sent since the story last looked.
    pub fn prepares(&mut self, worker: WorkerId) -> Option<Lease> {
        let sent = self.sent.remove(&worker).unwrap_or_default();
        let mut leases = sent
            .into_iter()
            .filter_map(|message| if let ToWorker::Prepare { lease, .. } = message { Some(lease) } else { None });
        let lease = leases.next();
        assert_eq!(leases.next(), None, "one at a time");
        lease
    }

    /// A worker has done a call, or, with a text, failed in it.
    pub fn prepared(&mut self, worker: WorkerId, lease: Lease, error: &str) {
        let message = FromWorker::Prepared { lease, error: error.into(), payload: Arc::from(error.as_bytes()) };
        self.say(worker, message);
    }

    /// A worker for the oldest launch that has none.
    pub fn join(&mut self, link: Link) -> WorkerId {
        let launch = self.launches.remove(0);
        match link {
            Link::Local => {
                let face = Face { name: "worker".into(), pid: 1, host: "here".into() };
                let worker = self.brain.join(self.now, launch, face).unwrap();
                self.listen();
                worker
            }
            Link::Remote => {
                let ticket = self.brain.issue(Ticket::Launch { places: vec![launch] });
                let call = self.call(ticket, 0, 1);
                self.admitted[&call]
            }
        }
    }

    /// Somebody has proved this ticket's secret; gives the number of the call.
    pub fn call(&mut self, ticket: TicketId, index: u32, incarnation: u64) -> u64 {
        self.calls += 1;
        let origin = Origin { ticket, index, incarnation };
        let caller = Caller { number: self.calls, origin, pid: 1, host: "there".into() };
        self.tell(Event::Called { caller });
        self.calls
    }

    /// Time passes, and this worker answers each ping.
    pub fn wait_alive(&mut self, worker: WorkerId, span: Duration) {
        let end = self.now.after(span);
        while self.now < end {
            self.wait(SECOND);
            if self.sent.remove(&worker).unwrap_or_default().contains(&ToWorker::Ping) {
                self.say(worker, FromWorker::Heartbeat);
            }
        }
    }

    pub fn finish(&mut self, worker: WorkerId, task: TaskId, nanoseconds: u64) {
        let lease = self.leases[&task];
        let payload = Arc::from([]);
        self.say(
            worker,
            FromWorker::Finished { lease, success: true, run: Run { started: 0, nanoseconds, notes: None }, payload },
        );
    }

    pub fn answer_recall(&mut self, worker: WorkerId, task: TaskId, back: bool) {
        let lease = self.leases[&task];
        self.say(worker, FromWorker::Recalled { lease, back });
    }

    pub fn fail_launch(&mut self, text: &str) {
        let launch = self.launches.remove(0);
        self.tell(Event::LaunchFailed { launch, text: Arc::from(text) });
    }

    pub fn dies(&mut self, worker: WorkerId, begun: Begun) {
        self.dies_like(worker, begun, Cause::Other);
    }

    pub fn dies_like(&mut self, worker: WorkerId, begun: Begun, kind: Cause) {
        let certificate = Certificate { cause: "SIGSEGV".into(), kind, ..Certificate::default() };
        self.tell(Event::Gone { worker, begun, certificate });
    }

    pub fn dies_of(&mut self, worker: WorkerId, task: TaskId) {
        self.dies(worker, Begun::One(self.leases[&task]));
    }

    /// The tasks that a worker was sent since the story last looked.
    pub fn dealt(&mut self, worker: WorkerId) -> Vec<TaskId> {
        let sent = self.sent.remove(&worker).unwrap_or_default();
        let run = |message| {
            if let ToWorker::Run { task, .. } = message { Some(task) } else { None }
        };
        sent.into_iter().filter_map(run).collect()
    }

    /// The tasks that a worker was asked for since the story last looked.
    pub fn asked_back(&mut self, worker: WorkerId) -> Vec<TaskId> {
        let sent = self.sent.remove(&worker).unwrap_or_default();
        let recall = |message| {
            if let ToWorker::Recall { lease } = message { Some(self.tasks[&lease]) } else { None }
        };
        sent.into_iter().filter_map(recall).collect()
    }

    pub fn told_to_leave(&mut self, worker: WorkerId) -> Option<Leave> {
        let sent = self.sent.remove(&worker).unwrap_or_default();
        sent.into_iter().find_map(|message| if let ToWorker::Stop { leave } = message { Some(leave) } else { None })
    }

    pub fn interrupted(&mut self, worker: WorkerId, task: TaskId) -> bool {
        let lease = self.leases[&task];
        self.sent.remove(&worker).unwrap_or_default().contains(&ToWorker::Interrupt { lease })
    }

    pub fn attempts(&self, task: TaskId) -> u32 {
        self.brain.view(task).unwrap().attempts
    }

    pub fn crashed(&self, task: TaskId) -> bool {
        matches!(self.brain.outcome(task), Some(Outcome::Crash(_)))
    }
}
