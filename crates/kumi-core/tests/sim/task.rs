//! Tasks of the simulation: what they do when they run, and the truth about what became of them.

use std::sync::Arc;
use std::time::Duration;

use kumi_core::{Cause, CrashesMax, GroupId, Large, Lease, NewTask, Payload, TaskId, Time, WorkerId};

use super::everywhere::Call;
use super::profile::{MICRO, MILLI, Profile, SECOND, draw_crashes_max};
use super::rng::Rng;

/// Most bytes in a segment: two fill what may be spare.
const LARGEST: u64 = 600 << 10;
/// How deep tasks nest.
const GENERATIONS: u32 = 4;

/// How long the tasks of a function take.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Microseconds: they are prefetched.
    Short,
    /// Mostly so; but some take long, and others wait behind them.
    Mixed,
    /// About as long as the window.
    Middle,
    /// Never prefetched.
    Long,
}

/// What a task is and does.
#[derive(Clone, Debug)]
pub struct Spec {
    pub runs: Duration,
    /// How often, of a thousand, it crashes its worker.
    pub crashes: u64,
    /// Ignores interrupts.
    pub deaf: bool,
    pub raises: bool,
    pub once: bool,
    pub kept: bool,
    pub crashes_max: CrashesMax,
    pub run_limit: Option<Duration>,
    pub total_limit: Option<Duration>,
    pub payload: usize,
    /// Bytes of its arguments, and of its result, that lie in a segment.
    pub large: Option<u64>,
    pub large_result: Option<u64>,
    /// How many tasks it submits.
    pub brood: u64,
}

/// Where the world believes a task to be, by what went in and came out of the brain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    Waiting,
    Held(WorkerId, Lease),
    /// With the backup, or on the way.
    Away,
    Done,
}

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Result,
    CancelIfWaiting,
    Cancel,
}

/// The world's note of a task.
#[derive(Clone, Debug)]
pub struct Note {
    pub id: TaskId,
    pub spec: Spec,
    pub spot: Spot,
    pub wish: Wish,
    pub submitted: Time,
    pub dealt: Time,
    /// Workers that really began it.
    pub begun: u32,
    /// Workers that died while they, as far as anybody can know, worked on it.
    pub crashes: u32,
    pub kinds: Vec<Cause>,
    /// No worker may begin it any more: too many have died of it.
    pub spent: bool,
    /// It was away, and is called back.
    pub unwanted: bool,
    /// It comes from another dispatcher.
    pub guest: bool,
    /// Held by such a worker, but among others.
    pub suspect: bool,
    /// What it reported last to who counts.
    pub report: Option<Payload>,
    /// Its result was accepted.
    pub accepted: bool,
    pub group: Option<GroupId>,
    pub result: Option<Payload>,
    pub released: bool,
    /// It is a call of `everywhere`.
    pub call: Option<Call>,
    pub kin: Kin,
}

/// What the world knows of a task's relatives.
#[derive(Clone, Debug, Default)]
pub struct Kin {
    /// How many tasks are above it.
    pub generation: u32,
    /// The one that submitted it, until that returns; and what it is called where somebody asks for it.
    pub parent: Option<usize>,
    pub asked: Option<(WorkerId, u64)>,
    /// The how many-th task that the brain took.
    pub arrival: usize,
    /// The child that its worker's main thread waits for; whether it waits elsewhere, and has ever since it was dealt.
    pub waits: Option<usize>,
    pub elsewhere: bool,
    pub patron: bool,
    /// A worker died while something ran within its wait.
    pub apart: bool,
    /// Who submitted it has ended, and not well: so must it.
    pub doomed: bool,
    /// When it was done: why a worker could have been had for it.
    pub hopeless: Option<String>,
}

impl Kin {
    /// Waits where its worker cannot run what it waits for.
    pub fn needy(&self) -> bool {
        self.elsewhere || (self.waits.is_some() && self.apart)
    }

    /// Waits in its worker's main thread, which is lent meanwhile.
    pub fn lends(&self) -> bool {
        self.waits.is_some() && !self.apart
    }
}

impl Spec {
    /// A task of a function of this kind.
    pub fn draw(rng: &mut Rng, kind: Kind, profile: &Profile) -> Self {
        let mut large = || if rng.chance(profile.large) { Some(rng.between(1, LARGEST)) } else { None };
        let (large, large_result) = (large(), large());
        let runs = match kind {
            Kind::Short => rng.span(MICRO, 30 * MICRO),
            Kind::Mixed if rng.chance(50) => rng.span(10 * MILLI, 300 * MILLI),
            Kind::Mixed => rng.span(MICRO, 30 * MICRO),
            Kind::Middle => rng.span(300 * MICRO, 3 * MILLI),
            Kind::Long => rng.span(10 * MILLI, 3 * SECOND),
        };
        Self {
            runs,
            crashes: if rng.chance(profile.killers) { rng.pick(&[1000, 300]) } else { 0 },
            deaf: rng.chance(150),
            raises: rng.chance(100),
            once: rng.chance(80),
            kept: rng.chance(300),
            crashes_max: if rng.chance(200) { draw_crashes_max(rng) } else { profile.policy.crashes_max },
            run_limit: if rng.chance(60) { Some(rng.span(MILLI, SECOND)) } else { None },
            total_limit: if rng.chance(60) { Some(rng.span(MILLI, 3 * SECOND)) } else { None },
            payload: if rng.chance(30) { 5_000 } else { 8 + rng.below(200) as usize },
            large,
            large_result,
            brood: if rng.chance(profile.families) { rng.between(1, 4) } else { 0 },
        }
    }

    /// Of a task that a task submits: it is nobody's to pop, and all of it passes through the host.
    pub fn be_nested(&mut self, generation: u32) {
        (self.kept, self.large) = (false, None);
        if generation >= GENERATIONS {
            self.brood = 0;
        }
    }

    /// Its pickled arguments: its number.
    pub fn arguments(&self, number: usize) -> Payload {
        let mut payload = vec![0; self.payload];
        payload[..8].copy_from_slice(&(number as u64).to_le_bytes());
        Arc::from(payload)
    }

    /// As the brain is asked, with the task's number as payload.
    pub fn ask(
        &self,
        function: kumi_core::FunctionId,
        number: usize,
        policy_max: CrashesMax,
        large: Option<Large>,
        group: Option<GroupId>,
    ) -> NewTask {
        NewTask {
            function,
            payload: self.arguments(number),
            large: large.map(Box::new),
            crashes_max: (self.crashes_max != policy_max).then_some(self.crashes_max),
            once: self.once,
            name: None,
            kept: self.kept,
            group,
            seconds_run: self.run_limit,
            seconds_total: self.total_limit,
        }
    }

    /// What it counts for against the queue's bound.
    pub fn bytes(&self) -> u64 {
        self.payload as u64 + self.large.unwrap_or(0) + kumi_core::task::TASK_BYTES
    }
}

impl Note {
    pub fn new(id: TaskId, spec: Spec, now: Time) -> Self {
        Self {
            id,
            spec,
            spot: Spot::Waiting,
            wish: Wish::Result,
            submitted: now,
            dealt: now,
            begun: 0,
            crashes: 0,
            kinds: Vec::new(),
            spent: false,
            unwanted: false,
            guest: false,
            suspect: false,
            report: None,
            accepted: false,
            group: None,
            result: None,
            released: false,
            kin: Kin::default(),
            call: None,
        }
    }

    /// A task that was submitted by a task and of which the host has not heard.
    pub fn unborn(spec: Spec, generation: u32) -> Self {
        let kin = Kin { generation, ..Kin::default() };
        Self { spot: Spot::Done, kin, ..Self::new(TaskId::from_number(u64::MAX), spec, Time(0)) }
    }
}

impl Note {
    /// A worker has died of it, like this.
    pub fn killed_one(&mut self, kind: Cause) {
        self.crashes += 1;
        self.kinds.push(kind);
        let count = |kind| self.kinds.iter().filter(|other| **other == kind).count();
        self.spent |= self.spec.once
            || match self.spec.crashes_max {
                CrashesMax::Together(most) => {
                    kind != Cause::Spot && self.kinds.len() - count(Cause::Spot) > most as usize
                }
                CrashesMax::Each(most) => {
                    let most = match kind {
                        Cause::Memory => most.memory,
                        Cause::Time => most.time,
                        Cause::Spot => most.spot,
                        Cause::Other => most.other,
                    };
                    most.is_some_and(|most| count(kind) > most as usize)
                }
            };
    }
}

/// The number in a task's payload.
pub fn number_in(payload: &Payload) -> usize {
    let number: [u8; 8] = payload[..8].try_into().unwrap();
    u64::from_le_bytes(number) as usize
}

/// A report that says the same, and when.
pub fn report(number: usize, lease: Lease, now: Time) -> Payload {
    let bytes = [(number as u64).to_le_bytes(), lease.0.to_le_bytes(), now.0.to_le_bytes()];
    Arc::from(bytes.concat())
}

/// A result that says whose it is and under which lease it was made.
pub fn result(number: usize, lease: Lease) -> Payload {
    let bytes = [(number as u64).to_le_bytes(), lease.0.to_le_bytes()];
    Arc::from(bytes.concat())
}
