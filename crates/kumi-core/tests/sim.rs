//! The simulation: the brain, workers, links and launchers that fail, in virtual time, with rules checked after every
//! step. `KUMI_SEEDS=10000` runs that many seeds, `KUMI_SEED=17` replays one and prints its history.
//!
//! `world.rs` is the world; `launcher.rs`, `process.rs` and `user.rs` are who lives in it, `profile.rs` what goes wrong, `memory.rs` what they see of
//! each other's memory; `ledger.rs` keeps the world's own books, and `rules.rs` compares them with the brain.

#![allow(clippy::unwrap_used, clippy::panic)] // A test fails by panicking.

mod sim {
    pub mod backup;
    pub mod ends;
    pub mod everywhere;
    pub mod families;
    pub mod groups;
    pub mod launcher;
    pub mod ledger;
    pub mod memory;
    pub mod parent;
    pub mod process;
    pub mod profile;
    pub mod remote;
    pub mod rng;
    pub mod rules;
    pub mod staff;
    pub mod task;
    pub mod user;
    pub mod world;
}

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use kumi_core::Bug;
use sim::world::World;

/// Lines of history that a failing seed prints.
const LINES: usize = 60;

/// Runs a seed; the error is the rule it broke.
fn run(seed: u64, bug: Option<Bug>) -> Result<(), String> {
    World::new(seed, bug, false).run()
}

/// Everything that happened in a seed, and how it ended.
fn replay(seed: u64) -> (Vec<String>, Result<(), String>) {
    let mut world = World::new(seed, None, true);
    let mut history = vec![format!("{:?}", world.profile())];
    let end = world.run();
    history.append(world.history.as_mut().unwrap());
    (history, end)
}

#[allow(clippy::disallowed_methods)] // The one place where the environment comes in.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// The lowest failing seed; both cores take the next seed that is not taken.
fn first_failure(seeds: u64) -> Option<u64> {
    let (next, worst) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.min(worst.load(Ordering::Relaxed)) {
                        return;
                    }
                    if run(seed, None).is_err() {
                        worst.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    Some(worst.into_inner()).filter(|seed| *seed < u64::MAX)
}

#[test]
fn no_seed_breaks_a_rule() {
    if let Some(seed) = setting("KUMI_SEED") {
        let (history, end) = replay(seed);
        println!("{}", history.join("\n"));
        return end.unwrap();
    }
    let Some(seed) = first_failure(setting("KUMI_SEEDS").unwrap_or(500)) else {
        return;
    };
    let (history, end) = replay(seed);
    let tail = &history[history.len().saturating_sub(LINES).max(1)..];
    panic!("seed {seed}: {}\n{}\n...\n{}", end.unwrap_err(), history[0], tail.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [1, 2, 3, 17, 400] {
        let (first, second) = (replay(seed), replay(seed));
        assert!(first.0.len() > 20, "seed {seed} is too quiet to prove anything");
        assert_eq!(first, second, "seed {seed}");
    }
}

/// What the seeds must contain between them, or they prove nothing.
const HAPPENINGS: [&str; 82] = [
    "a burst hurried",
    "a call repeated",
    "a call replayed",
    "a caller refused",
    "a child cancelled by its parent",
    "a child cancelled with its parent",
    "a child let go",
    "a child of nobody",
    "a child that nobody asks for",
    "a closed queue",
    "a connection broken",
    "a full queue",
    "a group cancelled",
    "a group ended by a failure",
    "a group united",
    "a guest",
    "a guest turned out",
    "a late hello",
    "a late signal",
    "a launch ended by its user",
    "a newcomer fails in a call",
    "a newcomer takes too long",
    "a promise",
    "a promised task",
    "a report",
    "a report that does not count",
    "a result of a worker that is gone",
    "a result that is not wanted any more",
    "a script run again",
    "a second hello",
    "a segment forked",
    "a segment used again",
    "a segment used again by a worker",
    "a segment without memory",
    "a session resumed",
    "a session that is over",
    "a silent connection cut",
    "a surplus worker leaves",
    "a suspect",
    "a task called back",
    "a task gathered",
    "a task handed over",
    "a task interrupted",
    "a task interrupted in its wait",
    "a task of a dead worker",
    "a task on an extra worker",
    "a task prefetched",
    "a task recalled",
    "a task recalled too late",
    "a task within a wait",
    "a wait",
    "a wait elsewhere",
    "a wait given up",
    "a waiting task of a dead worker",
    "a worker cut",
    "a worker dead in the middle of a result",
    "a worker dies of a call",
    "a worker ended by its user",
    "a worker fenced",
    "a worker killed",
    "a worker whose process is told to end",
    "an agent that goes on",
    "an agent that is not wanted any more",
    "an extra launch",
    "arguments kept to the end",
    "cancel",
    "crash",
    "error",
    "everywhere",
    "everywhere, and nobody is here",
    "failures overlooked",
    "left as closing",
    "left as idle",
    "left by tasks_max",
    "left by wall time",
    "news of a task that is not wanted any more",
    "success",
    "timeout of seconds_run",
    "timeout of seconds_total",
    "unlaunchable",
    "unlaunchable by hand",
    "unlaunchable without a berth",
];

#[test]
fn everything_happens_somewhere() {
    let mut seen = BTreeMap::new();
    for seed in 0..500 {
        let mut world = World::new(seed, None, false);
        world.run().unwrap();
        world.seen().iter().for_each(|(what, count)| *seen.entry(*what).or_insert(0) += count);
    }
    println!("{seen:#?}");
    assert_eq!(seen.into_keys().collect::<Vec<_>>(), HAPPENINGS);
}

/// The rarest needs some hundreds.
const SEEDS_MAX: u64 = 5000;

#[test]
fn planted_bugs_are_found() {
    let bugs = [
        Bug::NoRequeue,
        Bug::StaleResult,
        Bug::BlameUnstarted,
        Bug::FreedWorkerForgotten,
        Bug::OverCap,
        Bug::SurplusStays,
        Bug::ExtraWithoutBerth,
        Bug::ReusedWhileLent,
        Bug::HelpsStrangers,
        Bug::OrphansGoOn,
        Bug::BlameWaiting,
        Bug::NoReplay,
        Bug::WaitsForTheDead,
        Bug::NoFence,
        Bug::ForgetsAgents,
        Bug::SentAgain,
        Bug::LostAtCut,
        Bug::NoCallBack,
    ];
    for bug in bugs {
        let found = (0..SEEDS_MAX).find_map(|seed| run(seed, Some(bug)).err().map(|rule| (seed, rule)));
        let (seed, rule) = found.unwrap_or_else(|| panic!("{bug:?} is not found within {SEEDS_MAX} seeds"));
        println!("{bug:?}: found after {} seeds: {rule}", seed + 1);
    }
}
