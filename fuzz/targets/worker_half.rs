//! Any messages at any moment to a worker's half: nothing panics, and its word holds.
//!
//! What it gave back never runs, what it gave out is never given back, nothing runs twice, all in the order in which it came;
//! while a task waits, what runs is what was to run within its wait.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use kumi_core::{FromWorker, Job, Lease, ToWorker, WorkerHalf};
use kumi_fuzz::Make;
use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    let mut world = World::default();
    while !input.is_empty() {
        match input.int_in_range(0..=7) {
            Ok(0) => {
                world.take_job();
            }
            Ok(1) => world.finish(),
            Ok(2) => world.hear_answers(),
            Ok(3) => world.wait(),
            Ok(_) => match ToWorker::make(&mut input) {
                Ok(message) => world.say(message),
                Err(_) => break,
            },
            Err(_) => break,
        }
        world.check();
    }
    world.end();
});

/// A worker's half, and what its main thread and its host know of it.
#[derive(Default)]
struct World {
    half: WorkerHalf,
    /// Each within the wait of the one before.
    running: Vec<Lease>,
    waits: bool,
    newest: Lease,
    /// What came and did not begin: within what it is to run.
    to_come: BTreeMap<Lease, Option<Lease>>,
    begun: BTreeSet<Lease>,
    given_back: BTreeSet<Lease>,
    recalls: usize,
    pings: usize,
    stopped: bool,
}

impl World {
    fn say(&mut self, message: ToWorker) {
        let refused = matches!(message, ToWorker::Refuse { .. });
        match &message {
            ToWorker::Recall { lease } => {
                self.recalls += 1;
                self.to_come.remove(lease);
            }
            ToWorker::Ping => self.pings += 1,
            ToWorker::Stop { .. } => self.stopped = true,
            ToWorker::Prepare { lease, .. } if *lease > self.newest => {
                self.newest = *lease;
                self.to_come.insert(*lease, None);
            }
            ToWorker::Run { lease, within, .. } if *lease > self.newest => {
                self.newest = *lease;
                self.to_come.insert(*lease, *within);
            }
            ToWorker::Welcome { .. }
            | ToWorker::Refuse { .. }
            | ToWorker::Define { .. }
            | ToWorker::Forget { .. }
            | ToWorker::Run { .. }
            | ToWorker::Prepare { .. }
            | ToWorker::Resolved { .. }
            | ToWorker::Lend { .. }
            | ToWorker::Returned { .. }
            | ToWorker::Interrupt { .. } => {}
        }
        assert_eq!(self.half.handle(message).is_err(), refused);
    }

    /// The running task waits, which it can do only if nothing runs within it.
    fn wait(&mut self) {
        self.waits = self.half.begin_wait(1).is_some();
        assert_eq!(self.waits, !self.running.is_empty());
    }

    /// Whether there was one. A main thread takes one when it runs nothing, or waits.
    fn take_job(&mut self) -> bool {
        if !self.waits {
            self.finish();
        }
        let has_job = self.half.has_job();
        match self.half.next_job() {
            Some(job @ (Job::Run { .. } | Job::Prepare { .. })) => {
                let (Job::Run { lease, .. } | Job::Prepare { lease, .. }) = job else { unreachable!() };
                let within = if let Job::Run { within, .. } = job { within } else { None };
                assert_eq!(within, self.running.last().copied(), "not within what waits");
                assert_eq!(self.to_come.remove(&lease), Some(within), "never came, came back, or began twice");
                let before = self.to_come.iter().find(|(_, other)| **other == within);
                assert!(before.is_none_or(|(other, _)| lease < *other), "out of order");
                self.begun.insert(lease);
                self.running.push(lease);
                self.waits = false;
            }
            Some(Job::Define { .. } | Job::Forget { .. }) => {}
            None => {
                assert!(!has_job);
                return false;
            }
        }
        assert!(has_job);
        true
    }

    fn finish(&mut self) {
        self.half.finished();
        let ended = self.running.pop();
        self.waits = !self.running.is_empty();
        if ended.is_some() {
            // What was to run within it comes back unasked.
            let before = self.to_come.len();
            self.to_come.retain(|_, within| *within != ended);
            self.recalls += before - self.to_come.len();
        }
    }

    fn hear_answers(&mut self) {
        while let Some(answer) = self.half.answer() {
            match answer {
                FromWorker::Heartbeat => self.pings = self.pings.checked_sub(1).expect("an answer to no ping"),
                FromWorker::Recalled { lease, back } => {
                    self.recalls = self.recalls.checked_sub(1).expect("an answer to no recall");
                    if back {
                        assert!(self.given_back.insert(lease), "given back twice");
                    } else {
                        assert!(self.begun.contains(&lease), "kept, but never begun");
                    }
                }
                FromWorker::Hello { .. }
                | FromWorker::Retire
                | FromWorker::Finished { .. }
                | FromWorker::Prepared { .. }
                | FromWorker::Report { .. }
                | FromWorker::Lend { .. }
                | FromWorker::Returned { .. }
                | FromWorker::Declare { .. }
                | FromWorker::Withdraw { .. }
                | FromWorker::Submit { .. }
                | FromWorker::Cancel { .. }
                | FromWorker::Release { .. }
                | FromWorker::Wait { .. }
                | FromWorker::Resume { .. } => unreachable!("not an answer"),
            }
        }
        assert_eq!(self.pings, 0, "a ping without an answer");
    }

    fn check(&mut self) {
        assert!(self.begun.is_disjoint(&self.given_back), "begun and given back");
        if self.half.leaving().is_some() {
            assert!(self.stopped && !self.half.short_next());
        }
    }

    /// All that can run comes out; then it leaves if it was told to, unless something is left that belongs to no task.
    fn end(mut self) {
        while self.take_job() || !self.running.is_empty() {
            if self.waits {
                self.finish();
            }
        }
        self.hear_answers();
        self.check();
        assert_eq!(self.half.leaving().is_some(), self.stopped && self.to_come.is_empty());
    }
}
