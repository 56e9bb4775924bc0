//! A fixed workload for the brain, to count its instructions and to take its time: no-op tasks on light fake workers.
//!
//! ```text
//! noops burst WORKERS TASKS     the host's side: all tasks are submitted one by one, then answered, read and let go of
//! noops single WORKERS TASKS    the same, one task after the other
//! noops half 1 TASKS            the worker's side
//! ```
//!
//! Everything that this crate does for a task is done, messages to frames and back included; no hands, no Python, and time is a
//! number. `benchmarks/instructions.py` and `benchmarks/workers.py` run it.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use kumi_core::frame::Wire;
use kumi_core::ids::Id;
use kumi_core::{
    Action, CrashesMax, Decoder, Dispatcher, Event, Face, FromWorker, FunctionId, Job, Lease, NewTask, Outcome, Policy,
    Run, Staff, TaskId, Time, ToWorker, WorkerHalf, WorkerId,
};

/// What Python takes to submit a task, the host to hear of its end, and a worker, which is one of many, to run it.
const SUBMIT: Duration = Duration::from_micros(3);
const HEAR: Duration = Duration::from_nanos(500);
const RUN: Duration = Duration::from_micros(2);
/// How many tasks come with one reading of a worker's socket.
const BATCH: u64 = 64;
/// A pickled tuple of a small integer, and a pickled small integer.
const CALL: &[u8] = b"\x80\x05K\x07\x85.";
const VALUE: &[u8] = b"\x80\x05K\x07.";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [what, workers, tasks] = arguments.as_slice() else {
        return Err("usage: noops burst|single|half WORKERS TASKS".into());
    };
    let (workers, tasks) = (workers.parse()?, tasks.parse()?);
    match what.as_str() {
        "burst" => Crew::new(workers)?.burst(tasks),
        "single" => {
            let mut crew = Crew::new(workers)?;
            (0..tasks).try_for_each(|_| crew.burst(1))
        }
        "half" => half(tasks),
        _ => Err(format!("{what:?} is none of burst, single, half").into()),
    }
}

/// A dispatcher, and what its hands know of the workers.
struct Crew {
    brain: Dispatcher,
    now: Time,
    function: FunctionId,
    workers: Vec<FakeWorker>,
    /// Those that hold tasks.
    busy: VecDeque<WorkerId>,
    frame: Vec<u8>,
    decoder: Decoder<FromWorker>,
}

/// It answers whatever it is asked, when its turn comes.
#[derive(Default)]
struct FakeWorker {
    dealt: Vec<Lease>,
}

impl Crew {
    fn new(workers: u64) -> Result<Self, Box<dyn Error>> {
        let mut brain = Dispatcher::new(policy(workers));
        let function = brain.define(Arc::from([]), Arc::from("noop"));
        brain.start(Time(0));
        let (workers, busy) = (Vec::new(), VecDeque::new());
        let (frame, decoder) = (Vec::new(), Decoder::default());
        let mut crew = Self { brain, now: Time(0), function, workers, busy, frame, decoder };
        crew.join()?;
        Ok(crew)
    }

    /// All workers are there from the beginning, as `workers_min` wants it.
    fn join(&mut self) -> Result<(), Box<dyn Error>> {
        let mut launches = Vec::new();
        while let Some(action) = self.brain.next_action() {
            if let Action::Launch { launches: asked } = action {
                launches.extend(asked);
            }
        }
        for launch in launches {
            let face = Face { name: "worker".into(), pid: 1, host: "here".into() };
            self.brain.join(self.now, launch, face).ok_or("a worker was not let in")?;
            self.workers.push(FakeWorker::default());
        }
        self.carry_out();
        Ok(())
    }

    fn burst(&mut self, tasks: u64) -> Result<(), Box<dyn Error>> {
        let ids = (0..tasks).map(|_| self.submit()).collect::<Result<Vec<_>, _>>()?;
        self.brain.hurry(self.now);
        self.carry_out();
        while let Some(worker) = self.busy.pop_front() {
            self.hear(worker)?;
        }
        ids.into_iter().try_for_each(|id| self.take(id))
    }

    fn submit(&mut self) -> Result<TaskId, Box<dyn Error>> {
        self.now = self.now.after(SUBMIT);
        let new = NewTask::new(self.function, Arc::from(CALL));
        let id = self.brain.submit(self.now, new).map_err(|_| "a task was refused")?;
        self.carry_out();
        Ok(id)
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.brain.next_action() {
            match action {
                Action::Send { worker, message } => self.send(worker, &message),
                Action::Recall { worker, lease, .. } => {
                    // It has finished everything that it was dealt; that is what the host has still to hear.
                    let message = FromWorker::Recalled { lease, back: false };
                    self.brain.handle(self.now, Event::Said { worker, message });
                }
                _ => {}
            }
        }
    }

    fn send(&mut self, worker: WorkerId, message: &ToWorker) {
        self.frame.clear();
        message.encode(&mut self.frame);
        let ToWorker::Run { lease, .. } = message else { return };
        let Some(fake) = self.worker(worker) else { return };
        fake.dealt.push(*lease);
        if fake.dealt.len() == 1 {
            self.busy.push_back(worker);
        }
    }

    fn worker(&mut self, worker: WorkerId) -> Option<&mut FakeWorker> {
        self.workers.get_mut(worker.index() as usize)
    }

    /// Reads what a worker has to say of all it holds.
    fn hear(&mut self, worker: WorkerId) -> Result<(), Box<dyn Error>> {
        self.frame.clear();
        let fake = self.workers.get_mut(worker.index() as usize).ok_or("a task for nobody")?;
        for lease in fake.dealt.drain(..) {
            self.now = self.now.after(HEAR);
            finished(lease).encode(&mut self.frame);
        }
        self.decoder.feed(&self.frame);
        while let Some(message) = self.decoder.next()? {
            self.brain.handle(self.now, Event::Said { worker, message });
        }
        self.carry_out();
        Ok(())
    }

    fn take(&mut self, id: TaskId) -> Result<(), Box<dyn Error>> {
        self.brain.see(id);
        match self.brain.outcome(id) {
            Some(Outcome::Success(payload)) if **payload == *VALUE => {}
            outcome => return Err(format!("a task came to {outcome:?}").into()),
        }
        self.brain.release(id);
        Ok(())
    }
}

fn half(tasks: u64) -> Result<(), Box<dyn Error>> {
    let (mut half, mut decoder, mut frames) = (WorkerHalf::default(), Decoder::default(), Vec::new());
    for lease in 1..=tasks {
        run(lease).encode(&mut frames);
        if lease % BATCH != 0 && lease != tasks {
            continue;
        }
        decoder.feed(&frames);
        frames.clear();
        while let Some(message) = decoder.next()? {
            half.handle(message)?;
        }
        while let Some(Job::Run { lease, .. }) = half.next_job() {
            frames.clear();
            finished(lease).encode(&mut frames);
            half.finished();
        }
        frames.clear();
    }
    Ok(())
}

fn run(lease: u64) -> ToWorker {
    ToWorker::Run {
        task: TaskId::from_number(lease),
        lease: Lease(lease),
        slot: 0,
        function: FunctionId::from_number(0),
        attempt: 1,
        short: true,
        within: None,
        inline: false,
        payload: Arc::from(CALL),
    }
}

fn finished(lease: Lease) -> FromWorker {
    let run = Run { started: 1, nanoseconds: RUN.as_nanos() as u64, notes: None };
    FromWorker::Finished { lease, success: true, run, payload: Arc::from(VALUE) }
}

fn policy(workers: u64) -> Policy {
    let hour = Duration::from_secs(3600);
    Policy {
        name: "noops".into(),
        workers,
        workers_min: workers,
        berths: None,
        idle: Some(hour),
        wall: None,
        launch: hour,
        kill: hour,
        heartbeat: hour,
        silence: hour,
        reconnect: hour,
        tasks_max: None,
        crashes_max: CrashesMax::Together(5),
        backup: false,
        queue_bytes: u64::MAX,
        spare_bytes: 0,
        reset: 0,
        memory: None,
        staff: Staff::Local,
    }
}
