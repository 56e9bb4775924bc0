//! What goes wrong in a seed, and what its user wants.

use std::time::Duration;

use kumi_core::{CrashesMax, Link, PerCause, Policy, Staff};

use super::rng::Rng;

pub const MICRO: Duration = Duration::from_micros(1);
pub const MILLI: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);

/// Faults are in thousandths of what they may befall. Each is absent in most seeds, so that every one also acts alone.
#[derive(Debug, Clone)]
pub struct Profile {
    pub policy: Policy,
    /// Thousandths of the launches that lead to remote workers.
    pub remote: u64,
    /// Longest usual delay of a remote link.
    pub delay: Duration,
    /// Messages that take much longer.
    pub slow: u64,
    /// Remote workers whose connection breaks, up to three times.
    pub cut: u64,
    /// Tasks of remote workers during which there is no network for a while.
    pub parted: u64,
    /// Deaths of remote workers that take their machine along, and that nobody tells.
    pub silent: u64,
    /// Tasks during which, or soon after which, their worker's process is told to end.
    pub noticed: u64,
    /// Workers that die by themselves.
    pub dies: u64,
    /// Launches that fail, say nothing, come after `seconds_launch`, come twice, or die before they said hello.
    pub launch: LaunchFaults,
    /// No launch ever works.
    pub hopeless: bool,
    /// How much the user does.
    pub deeds: u64,
    /// Tasks that crash their worker each time, or sometimes.
    pub killers: u64,
    /// Deeds that are a call of `everywhere`.
    pub calls: u64,
    /// Tasks with large arguments, and with large results.
    pub large: u64,
    /// Large results in the middle of which their worker dies.
    pub torn: u64,
    /// Tasks that submit tasks.
    pub families: u64,
    /// Whether the user may end it all in the middle.
    pub ends_early: bool,
}

/// Thousandths of launches.
#[derive(Debug, Clone, Default)]
pub struct LaunchFaults {
    pub fails: u64,
    pub mute: u64,
    pub late: u64,
    pub twice: u64,
    pub dies: u64,
}

impl Profile {
    /// The profile of a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut fault = |most: u64| {
            if rng.chance(400) { rng.between(most / 10, most) } else { 0 }
        };
        let (slow, cut, parted) = (fault(100), fault(600), fault(300));
        let (silent, dies, killers, noticed) = (fault(1000), fault(400), fault(150), fault(100));
        let (large, torn, families, calls) = (fault(500), fault(100), fault(250), fault(200));
        let launch =
            LaunchFaults { fails: fault(400), mute: fault(200), late: fault(300), twice: fault(400), dies: fault(300) };
        let mut policy = policy(rng);
        let by_hand = policy.staff == Staff::ByHand;
        let remote = if by_hand { 1000 } else { rng.pick(&[0, 300, 700, 1000]) };
        if remote == 0 && rng.chance(400) {
            policy.berths = Some(policy.workers + rng.below(2));
        }
        Self {
            policy,
            remote,
            delay: rng.span(50 * MICRO, 50 * MILLI),
            slow,
            cut,
            parted,
            silent,
            noticed,
            dies,
            launch,
            hopeless: rng.chance(30),
            deeds: rng.between(10, 80),
            killers,
            calls,
            large,
            torn,
            // Hands start no extra workers for tasks that wait elsewhere.
            families: if by_hand { 0 } else { families },
            ends_early: rng.chance(150),
        }
    }

    /// The link of a new worker.
    pub fn link(&self, rng: &mut Rng) -> Link {
        if rng.chance(self.remote) { Link::Remote } else { Link::Local }
    }

    /// The same without faults: what is left to do must now come to an end.
    pub fn calm(&mut self) {
        let none = LaunchFaults::default();
        (self.slow, self.cut, self.parted, self.dies, self.torn) = (0, 0, 0, 0, 0);
        // A task that takes its machine along each time, and nobody tells, would run again for ever.
        self.silent = 0;
        self.launch = none;
    }
}

/// By each cause always some: what crashes each time would run for ever.
pub fn draw_crashes_max(rng: &mut Rng) -> CrashesMax {
    let mut most = || rng.below(4) as u32;
    let together = CrashesMax::Together(most());
    let each = PerCause { memory: Some(most()), time: Some(most()), spot: Some(most()), other: Some(most()) };
    if rng.chance(500) { together } else { CrashesMax::Each(each) }
}

fn policy(rng: &mut Rng) -> Policy {
    let workers = rng.between(1, 6);
    Policy {
        name: "sim".into(),
        workers,
        workers_min: if rng.chance(200) { rng.between(1, workers) } else { 0 },
        berths: None,
        // Now and then no time at all.
        idle: (rng.chance(700).then(|| rng.span(MILLI, 10 * SECOND)))
            .map(|span| if span < SECOND / 2 { Duration::ZERO } else { span }),
        wall: if rng.chance(250) { Some(rng.span(200 * MILLI, 20 * SECOND)) } else { None },
        launch: rng.span(2 * SECOND, 20 * SECOND),
        kill: rng.span(100 * MILLI, 5 * SECOND),
        heartbeat: rng.span(200 * MILLI, SECOND),
        silence: rng.span(SECOND, 10 * SECOND),
        reconnect: rng.span(100 * MILLI, 10 * SECOND),
        tasks_max: if rng.chance(250) { Some(rng.between(1, 30)) } else { None },
        crashes_max: draw_crashes_max(rng),
        backup: rng.chance(500),
        queue_bytes: if rng.chance(300) { rng.between(500, 20_000) } else { u64::MAX },
        spare_bytes: 1 << 20,
        reset: 0,
        memory: None,
        staff: if rng.chance(250) { Staff::ByHand } else { Staff::Launched },
    }
}
