//! The brain's own books, recounted: what every public function must leave true. Only the tests ask.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Dispatcher;
use crate::ids::{LaunchId, TaskId, WorkerId};
use crate::scaling::Launch;
use crate::task::{Place, Rank, Task};
use crate::timer::Timer;
use crate::worker::{HELD_MAX, Recall, Stage, Worker};

/// Ok, or what does not add up.
type Check = Result<(), String>;

fn same<T: PartialEq + std::fmt::Debug>(what: &str, noted: T, counted: T) -> Check {
    if noted == counted { Ok(()) } else { Err(format!("{what}: noted {noted:?}, counted {counted:?}")) }
}

impl Dispatcher {
    /// Whether all counters and sets say what a recount says.
    ///
    /// # Errors
    /// What does not, in words.
    pub fn check(&self) -> Check {
        self.check_tasks()?;
        self.check_workers()?;
        self.check_launches()?;
        self.check_segments()?;
        self.check_timers()
    }

    /// Whether this worker is not gone, as far as the brain knows.
    pub fn knows(&self, worker: WorkerId) -> bool {
        self.workers.get(worker).is_some()
    }

    /// What this worker's tasks know as this child, while somebody there asks for it.
    pub fn child(&self, worker: WorkerId, child: u64) -> Option<TaskId> {
        self.workers.get(worker)?.children.get(&child).copied()
    }

    /// Whether this launch is one above the policy's number.
    pub fn is_extra(&self, launch: LaunchId) -> bool {
        self.launches.get(launch).is_some_and(|note| note.extra)
    }

    fn check_tasks(&self) -> Check {
        let (mut waiting, mut here, mut away, mut spread, mut bytes, mut kept, mut results) =
            (Vec::new(), 0, 0, 0, 0, 0, 0);
        let mut held = BTreeMap::new();
        for (id, task) in self.tasks.iter() {
            match &task.place {
                Place::Waiting => waiting.push((task.number, id)),
                Place::Held(worker) => {
                    held.insert(id, *worker);
                }
                Place::Here => here += 1,
                Place::Away(_) => away += 1,
                Place::Everywhere(_) => spread += 1,
                Place::Done(_) => {
                    results += task.result_bytes();
                    continue;
                }
            }
            bytes += task.bytes();
            kept += u64::from(task.kept);
        }
        same("waiting", self.waiting, waiting.len() as u64)?;
        same("dealt", self.dealt, held.len() as u64)?;
        same("here", self.here, here)?;
        same("away", self.away, away)?;
        same("spread", self.spread, spread)?;
        same("bytes", self.bytes, bytes)?;
        same("result_bytes", self.result_bytes, results)?;
        same("kept_open", self.kept_open, kept)?;
        let nested = |id: &TaskId| self.tasks.get(*id).is_some_and(|task| task.parent().is_some());
        let (nested, mut roots): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(_, id)| nested(id));
        roots.sort_unstable();
        same("queue", self.queue.live(|id| self.waits(id)), roots)?;
        self.check_families(&nested)?;
        let hands = self
            .workers
            .iter()
            .flat_map(|(id, worker)| worker.held.iter().chain(&worker.inner).map(move |held| (held.task, id)));
        let hands: Vec<_> = hands.filter(|(task, _)| held.contains_key(task)).collect();
        same("tasks in two hands", hands.len(), hands.iter().collect::<BTreeSet<_>>().len())?;
        same("tasks in hands", held, hands.into_iter().collect())
    }

    /// Every nested task that waits stands in the queue of those, and in view of each of its ancestors.
    fn check_families(&self, waiting: &[(u64, TaskId)]) -> Check {
        let mut seen: BTreeMap<TaskId, BTreeSet<Rank>> = BTreeMap::new();
        let mut all = BTreeSet::new();
        for (number, id) in waiting {
            let mut next = self.tasks.get(*id);
            let rank = (Reverse(next.map_or(0, Task::generation)), *number, *id);
            all.insert(rank);
            while let Some(ancestor) = next.and_then(Task::parent) {
                seen.entry(ancestor).or_default().insert(rank);
                next = self.tasks.get(ancestor);
            }
        }
        same("nested", self.nested.clone(), all)?;
        for (id, task) in self.tasks.iter() {
            let Some(family) = &task.family else { continue };
            same("descendants that wait", &family.queued, &seen.remove(&id).unwrap_or_default())?;
            let open = task.is_done() || !task.is_held();
            same("children of who is not at work", open && !family.children.is_empty(), false)?;
            same("waits of who is not at work", open && (family.waits.is_some() || family.waits_elsewhere), false)?;
            same("needy", self.needy.contains(&id), family.is_needy())?;
            for child in &family.children {
                let child = self.tasks.get(*child).filter(|child| !child.is_done());
                same("parent of a child", child.and_then(Task::parent), Some(id))?;
            }
        }
        same("descendants of nobody", seen.len(), 0)
    }

    fn waits(&self, id: TaskId) -> bool {
        self.tasks.get(id).is_some_and(|task| matches!(task.place, Place::Waiting))
    }

    fn check_workers(&self) -> Check {
        let active = self.workers.iter().filter(|(_, worker)| worker.stage == Stage::Active);
        let (extras, active): (Vec<_>, Vec<_>) = active.partition(|(_, worker)| worker.extra);
        let idle = |workers: &[(WorkerId, &Worker)]| {
            let idle = workers.iter().filter(|(_, worker)| worker.is_free() && worker.reachable());
            idle.map(|(id, worker)| (worker.idle_since, *id)).collect()
        };
        same("active", self.active, active.len() as u64)?;
        same("extras", self.extras, extras.len() as u64)?;
        same("idle", self.idle.clone(), idle(&active))?;
        same("idle extras", self.idle_extras.clone(), idle(&extras))?;
        same("inner", self.inner, self.workers.iter().map(|(_, worker)| worker.inner.len() as u64).sum())?;
        let hands = |worker: &Worker| worker.held.iter().chain(&worker.inner).copied().collect::<Vec<_>>();
        let asked = |worker: &Worker| hands(worker).iter().filter(|held| held.recall == Recall::Requeue).count() as u64;
        let unlisted = self.workers.iter().filter(|(_, worker)| !worker.enlisted);
        same("unlisted", self.unlisted, unlisted.count() as u64)?;
        same("recalls", self.recalls, self.workers.iter().map(|(_, worker)| asked(worker)).sum())?;
        for (id, worker) in self.workers.iter() {
            let behind = worker.held.iter().skip(1).any(|held| held.recall == Recall::No && held.call.is_none());
            let loaded = self.loaded.contains(&id);
            if behind && !loaded || loaded && worker.held.len() < 2 {
                return Err(format!("{id:?} holds {} tasks, loaded: {loaded}", worker.held.len()));
            }
            let mut slots: Vec<_> =
                worker.slots.iter().copied().chain(hands(worker).iter().map(|held| held.slot)).collect();
            slots.sort_unstable();
            same("slots", slots, (0..HELD_MAX).collect())?;
            let nanos = worker.held.iter().fold(0u64, |sum, held| sum.saturating_add(held.nanos));
            if worker.held_nanos < nanos {
                return Err(format!("{id:?}: held_nanos {} for {nanos}", worker.held_nanos));
            }
        }
        same("loaded", self.loaded.iter().all(|id| self.knows(*id)), true)
    }

    fn check_launches(&self) -> Check {
        let expected = |state| matches!(state, Launch::Requested | Launch::Starting);
        let count =
            |extra| self.launches.iter().filter(|(_, note)| expected(note.state) && note.extra == extra).count() as u64;
        let newcomers =
            |extra| self.workers.iter().filter(|(_, worker)| !worker.enlisted && worker.extra == extra).count() as u64;
        same("expected", self.expected, count(false) + newcomers(false))?;
        same("expected extras", self.extras_expected, count(true) + newcomers(true))?;
        let extra = self.launches.iter().filter(|(_, note)| note.extra).count() as u64;
        same("launches of extras", self.extra_launches, extra)?;
        let joined = self.launches.iter().filter_map(|(id, note)| match note.state {
            Launch::Joined(worker) => Some((worker, id)),
            Launch::Requested | Launch::Starting | Launch::Abandoned => None,
        });
        let mut joined: Vec<_> = joined.collect();
        joined.sort_unstable();
        let mut workers: Vec<_> = self.workers.iter().map(|(id, worker)| (id, worker.launch)).collect();
        workers.sort_unstable();
        same("joined", joined, workers)
    }

    /// Every segment in use has a user, and every user its segment.
    fn check_segments(&self) -> Check {
        self.store.check()?;
        same("segments in use", self.store.count().0, self.used.len())?;
        for (id, used) in &self.used {
            let somebody = used.here || !used.lent.is_empty();
            let borrowers = used.lent.iter().all(|(worker, times)| self.knows(*worker) && *times > 0);
            if !self.store.in_use(*id) || !somebody || !borrowers {
                return Err(format!("{id:?} is used by nobody: {used:?}"));
            }
        }
        let mut results = BTreeMap::new();
        for (_, task) in self.tasks.iter() {
            let segment = task.large.as_ref().and_then(|large| large.segment);
            let here = segment.is_none_or(|(id, _)| self.used.get(&id).is_some_and(|used| used.here));
            same("segment of a task", here, true)?;
            if let Place::Done(done) = &task.place {
                done.loan.iter().for_each(|(loan, _)| *results.entry(*loan).or_insert(0) += 1);
            }
        }
        for (id, loan) in self.loans.iter() {
            let offered = self.workers.get(loan.worker).is_some_and(|worker| worker.offered == Some(id));
            let least = results.remove(&id).unwrap_or(0);
            if loan.users < least || loan.users == 0 && !offered {
                return Err(format!("{id:?} has {least} results: {loan:?}"));
            }
        }
        same("results in no segment", results.len(), 0)
    }

    /// Nothing waits without a timer that ends the wait.
    fn check_timers(&self) -> Check {
        for (id, task) in self.tasks.iter().filter(|(_, task)| !task.is_done()) {
            let timed = task.deadline().is_none_or(|at| self.timers.contains(at, Timer::Total(id)));
            same("timer of seconds_total", timed, true)?;
            let until = task.limits.as_ref().and_then(|limits| limits.run_until);
            let runs = task.is_held() && task.run_limit().is_some();
            let timed = until.is_some_and(|(at, lease)| self.timers.contains(at, Timer::Run(id, lease)));
            same("timer of seconds_run", timed, runs)?;
        }
        let running = self.timers.all().filter(|timer| matches!(timer, Timer::Run(..))).count();
        let limited = |task: &Task| task.is_held() && task.run_limit().is_some();
        same("timers of seconds_run", running, self.tasks.iter().filter(|(_, task)| limited(task)).count())?;
        Ok(())
    }
}
