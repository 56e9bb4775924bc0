//! The launcher: starts processes, fails to, starts them late, or twice. Or somebody starts agents by hand.

use std::time::Duration;

use kumi_core::{FromWorker, LaunchId, Link, Staff};

use super::process::Process;
use super::profile::{MICRO, MILLI, SECOND};
use super::world::{Letter, World};

impl World {
    /// The launcher starts a worker, or fails to.
    pub(super) fn launch(&mut self, launch: LaunchId) {
        let (faults, link) = (self.profile.launch.clone(), self.profile.link(&mut self.rng));
        let soon = self.rng.span(MILLI, 300 * MILLI);
        if self.profile.hopeless || self.rng.chance(faults.fails) {
            return self.post(soon, Letter::LaunchFailed(launch));
        }
        self.post(soon / 2, Letter::Launched(launch));
        if self.rng.chance(faults.mute) {
            return;
        }
        let late = if self.rng.chance(faults.late) { self.ledger.policy.launch } else { Duration::ZERO };
        self.post(soon + late, Letter::Starts(launch, link));
        if self.rng.chance(faults.twice) {
            let again = self.rng.span(MILLI, SECOND);
            self.post(soon + again, Letter::Starts(launch, link));
        }
    }

    /// Somebody looks now and then whether there are enough agents, and starts one if not.
    pub(super) fn hands(&mut self) {
        let living = self.processes.iter().filter(|process| process.agent.is_some()).count() as u64;
        if living < self.ledger.policy.workers {
            // Nobody has asked for it: a name that no launch has.
            let launch = LaunchId::from_number(u64::MAX / 2 + self.processes.len() as u64);
            self.starts(launch, Link::Remote);
        }
        let pause = self.rng.span(MILLI, 5 * SECOND);
        self.post(pause, Letter::Hands);
    }

    /// Ends what exists of a launch. What starts later, or is not found, will say hello in vain.
    pub(super) fn abandon(&mut self, launch: LaunchId) {
        let ids = 0..self.processes.len();
        for id in ids.filter(|id| self.processes[*id].launch == launch).collect::<Vec<_>>() {
            if self.rng.chance(700) {
                match self.processes[id].link {
                    Link::Local => self.die(id),
                    Link::Remote => self.machine_ends(id, false),
                }
            }
        }
        let delay = self.rng.span(MILLI, SECOND);
        self.post(delay, Letter::LaunchFailed(launch));
    }

    pub(super) fn starts(&mut self, launch: LaunchId, link: Link) {
        let id = self.processes.len();
        self.processes.push(Process::new(launch, link));
        self.say(|| format!("process {id} of {launch:?} starts, {link:?}"));
        match link {
            Link::Local => {
                let hello = FromWorker::Hello { version: 1, python: (3, 11), pid: id as u32, host: "host".into() };
                self.send_up(id, &[hello]);
            }
            Link::Remote => self.agent_starts(id, launch),
        }
        if self.rng.chance(self.profile.launch.dies) {
            match link {
                Link::Local => self.die(id),
                Link::Remote => self.machine_ends(id, true),
            }
        }
        match link {
            Link::Local => self.may_die(id),
            Link::Remote => self.may_be_cut(id),
        }
    }

    /// The launcher learns, sooner or later, that what it started is no more, and says so, whoever has its place by now.
    pub(super) fn may_be_asked(&mut self, id: usize) {
        if self.ledger.policy.staff == Staff::Launched && self.rng.chance(500) {
            let after = self.rng.span(MILLI, 20 * SECOND);
            self.post(after, Letter::LaunchFailed(self.processes[id].launch));
        }
    }

    /// A worker's process exists, and may end by itself at any time.
    pub(super) fn may_die(&mut self, id: usize) {
        if self.rng.chance(self.profile.dies) {
            let life = self.rng.span(100 * MICRO, 10 * SECOND);
            self.post(life, Letter::Dies { process: id, of: None });
        }
    }

    /// An agent dials, and may lose its connections.
    pub(super) fn may_be_cut(&mut self, id: usize) {
        for _ in 0..3 {
            if self.rng.chance(self.profile.cut) {
                let after = self.rng.span(MILLI, 5 * SECOND);
                self.post(after, Letter::Breaks { process: id, span: None });
            }
        }
    }
}
