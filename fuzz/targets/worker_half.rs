//! Any messages at any moment to a worker's half: nothing panics, and its word holds.
//!
//! What it gave back never runs, what it gave out is never given back, nothing runs twice, all in the order in which it came.
#![no_main]

use std::collections::BTreeSet;

use kumi_core::{FromWorker, Job, Lease, ToWorker, WorkerHalf};
use kumi_fuzz::Make;
use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    let mut world = World::default();
    while !input.is_empty() {
        match input.int_in_range(0..=6) {
            Ok(0) => {
                world.take_job();
            }
            Ok(1) => world.finish(),
            Ok(2) => world.hear_answers(),
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
    newest: Lease,
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
            ToWorker::Recall { .. } => self.recalls += 1,
            ToWorker::Ping => self.pings += 1,
            ToWorker::Stop { .. } => self.stopped = true,
            ToWorker::Welcome { .. }
            | ToWorker::Refuse { .. }
            | ToWorker::Define { .. }
            | ToWorker::Forget { .. }
            | ToWorker::Run { .. }
            | ToWorker::Lend { .. }
            | ToWorker::Returned { .. }
            | ToWorker::Interrupt { .. } => {}
        }
        assert_eq!(self.half.handle(message).is_err(), refused);
    }

    /// Whether there was one. A main thread answers a task before it takes the next.
    fn take_job(&mut self) -> bool {
        self.finish();
        let short = self.half.short_next();
        match self.half.next_job() {
            Some(Job::Run { lease, short: said, .. }) => {
                assert_eq!(short, said);
                assert!(lease > self.newest, "out of order, or twice");
                self.newest = lease;
                self.begun.insert(lease);
            }
            Some(Job::Define { .. } | Job::Forget { .. }) => {}
            None => {
                assert!(!short);
                return false;
            }
        }
        true
    }

    fn finish(&mut self) {
        self.half.finished();
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
                | FromWorker::Finished { .. }
                | FromWorker::Lend { .. }
                | FromWorker::Returned { .. } => unreachable!("not an answer"),
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

    /// All that is left comes out; then it leaves if it was told to.
    fn end(mut self) {
        while self.take_job() {}
        self.hear_answers();
        self.check();
        assert_eq!(self.half.leaving().is_some(), self.stopped);
    }
}
