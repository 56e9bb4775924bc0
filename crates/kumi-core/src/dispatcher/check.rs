//! The brain's own books, recounted: what every public function must leave true. Only the tests ask.

use std::collections::BTreeMap;

use super::Dispatcher;
use crate::ids::{TaskId, WorkerId};
use crate::scaling::Launch;
use crate::task::Place;
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

    fn check_tasks(&self) -> Check {
        let (mut waiting, mut here, mut bytes, mut kept, mut results) = (Vec::new(), 0, 0, 0, 0);
        let mut held = BTreeMap::new();
        for (id, task) in self.tasks.iter() {
            match &task.place {
                Place::Waiting => waiting.push((task.number, id)),
                Place::Held(worker) => {
                    held.insert(id, *worker);
                }
                Place::Here => here += 1,
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
        same("bytes", self.bytes, bytes)?;
        same("result_bytes", self.result_bytes, results)?;
        same("kept_open", self.kept_open, kept)?;
        waiting.sort_unstable();
        same("queue", self.queue.live(|id| self.waits(id)), waiting)?;
        let hands = self.workers.iter().flat_map(|(id, worker)| worker.held.iter().map(move |held| (held.task, id)));
        let hands: Vec<_> = hands.filter(|(task, _)| held.contains_key(task)).collect();
        same("tasks in two hands", hands.len(), hands.iter().collect::<std::collections::BTreeSet<_>>().len())?;
        same("tasks in hands", held, hands.into_iter().collect())
    }

    fn waits(&self, id: TaskId) -> bool {
        self.tasks.get(id).is_some_and(|task| matches!(task.place, Place::Waiting))
    }

    fn check_workers(&self) -> Check {
        let active: Vec<_> = self.workers.iter().filter(|(_, worker)| worker.stage == Stage::Active).collect();
        same("active", self.active, active.len() as u64)?;
        let idle = active.into_iter().filter(|(_, worker)| worker.held.is_empty());
        same("idle", self.idle.clone(), idle.map(|(id, worker)| (worker.idle_since, id)).collect())?;
        let asked = |worker: &Worker| worker.held.iter().filter(|held| held.recall == Recall::Requeue).count() as u64;
        same("recalls", self.recalls, self.workers.iter().map(|(_, worker)| asked(worker)).sum())?;
        for (id, worker) in self.workers.iter() {
            let behind = worker.held.iter().skip(1).any(|held| held.recall == Recall::No);
            let loaded = self.loaded.contains(&id);
            if behind && !loaded || loaded && worker.held.len() < 2 {
                return Err(format!("{id:?} holds {} tasks, loaded: {loaded}", worker.held.len()));
            }
            let mut slots: Vec<_> =
                worker.slots.iter().copied().chain(worker.held.iter().map(|held| held.slot)).collect();
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
        let count = self.launches.iter().filter(|(_, note)| expected(note.state)).count() as u64;
        same("expected", self.expected, count)?;
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
        }
        Ok(())
    }
}
