//! What must hold after every step, between the world's books and the brain.

use std::collections::BTreeSet;
use std::time::Duration;

use kumi_core::{Condition, Dispatcher, Entry, Link, Staff, Time};

use super::families;
use super::ledger::{Check, Ledger, rule};
use super::staff::{Launch, WorkerNote};
use super::task::{Note, Spot};

/// How long a burst of short tasks may be gathered.
const GATHER: Duration = Duration::from_micros(500);

/// All rules.
pub fn check(ledger: &mut Ledger, brain: &Dispatcher, now: Time) -> Check {
    ledger.nothing_lost()?;
    brain.check()?;
    counts(ledger, brain)?;
    reports(ledger, brain)?;
    roster(ledger, brain, now)?;
    ledger.calls_are_done(now)?;
    ledger.groups_are_over(|group| brain.first_failure(group))?;
    nobody_idle_beside_work(ledger, brain, now)?;
    nobody_above_the_cap(ledger)?;
    a_worker_is_on_its_way(ledger, brain, now)?;
    families::check(ledger)?;
    nothing_overdue(ledger, now)
}

fn counts(ledger: &Ledger, brain: &Dispatcher) -> Check {
    let counts = brain.counts();
    let expected = ledger.launches.values().filter(|launch| matches!(launch, Launch::Expected(_))).count();
    let idle = ledger.workers.values().filter(|worker| worker.idle()).count();
    let uncollected = ledger.open.iter().filter(|number| ledger.tasks[**number].spec.kept).count() + ledger.kept.len();
    let brains = (counts.workers, counts.idle, counts.launching, counts.uncollected, counts.finished);
    let finished = (ledger.arrivals - ledger.open.len()).saturating_sub(ledger.uncounted);
    let newcomers = ledger.workers.values().filter(|worker| !worker.enlisted).count();
    let (workers, expected) = (ledger.workers.len() - newcomers, expected + newcomers);
    let worlds = (workers, idle, expected, uncollected, finished);
    let worlds = (worlds.0 as u64, worlds.1 as u64, worlds.2 as u64, worlds.3 as u64, worlds.4 as u64);
    rule!(brains == worlds, "(workers, idle, launching, uncollected, finished): {brains:?} is really {worlds:?}");
    let open = ledger.open.len() as u64;
    rule!(counts.away == ledger.away() as u64, "{} tasks away are really {}", counts.away, ledger.away());
    let told = counts.waiting + counts.running + counts.away;
    rule!(told == open, "{told} tasks that wait, run or are away are really {open}");
    let unresolved = open + ledger.promises.len() as u64;
    rule!(brain.unresolved() == unresolved, "{} unresolved tasks are really {unresolved}", brain.unresolved());
    let ends = [counts.success, counts.error, counts.crash, counts.cancel, counts.timeout];
    rule!(ends.iter().sum::<u64>() == counts.finished, "{ends:?} are not {} ends", counts.finished);
    rule!(counts.queued_bytes == ledger.bytes, "{} bytes are really {}", counts.queued_bytes, ledger.bytes);
    // Nested tasks and guests are never held up.
    let free = |task: &Note| task.kin.generation > 0 || task.guest;
    let free = ledger.open.iter().any(|number| free(&ledger.tasks[*number]));
    let most = ledger.policy.queue_bytes;
    rule!(free || ledger.bytes <= most || open == 1, "{} bytes in {open} tasks, of {most} allowed", ledger.bytes);
    Ok(())
}

/// The last report under a lease that counts, and no other.
fn reports(ledger: &Ledger, brain: &Dispatcher) -> Check {
    for number in &ledger.open {
        let task = &ledger.tasks[*number];
        let report = brain.report(task.id).map(|report| &report.payload);
        rule!(report == task.report.as_ref(), "task {number} reports {report:?}, really {:?}", task.report);
    }
    Ok(())
}

/// Everybody is on the list, with what they are at.
fn roster(ledger: &Ledger, brain: &Dispatcher, now: Time) -> Check {
    let listed = brain.roster(now);
    let workers: BTreeSet<_> = listed.iter().filter_map(|entry| entry.worker).collect();
    rule!(workers.iter().eq(ledger.workers.keys()), "{workers:?} are listed, really there are {:?}", ledger.workers);
    let launches: BTreeSet<_> =
        listed.iter().filter(|entry| entry.worker.is_none()).map(|entry| entry.launch).collect();
    let expected = ledger.launches.iter().filter(|(_, launch)| matches!(launch, Launch::Expected(_)));
    rule!(launches.iter().eq(expected.map(|(id, _)| id)), "{launches:?} are listed, really {:?}", ledger.launches);
    for entry in &listed {
        match entry.worker.and_then(|worker| ledger.workers.get(&worker)) {
            Some(worker) => at_work(ledger, worker, entry)?,
            None => rule!(entry.condition == Condition::Starting, "{entry:?} has not joined"),
        }
    }
    Ok(())
}

fn at_work(ledger: &Ledger, worker: &WorkerNote, entry: &Entry) -> Check {
    let really = (worker.idle(), worker.killed);
    let says = (entry.condition == Condition::Idle, entry.condition == Condition::Killed);
    rule!(says == really, "{entry:?} is (idle, killed): {really:?}");
    let listed = entry.work.as_ref().map(|work| work.task);
    let top = worker.top().map(|held| held.task);
    let right = match listed {
        Some(task) => top.is_some_and(|number| ledger.tasks[number].id == task),
        // What is over may be forgotten, though the worker is still at it.
        None => top.is_none_or(|number| !ledger.open.contains(&number)),
    };
    rule!(right, "{entry:?} is at {:?}", worker.top());
    Ok(())
}

/// A task that waits goes to an idle worker at once, or when its burst is over; one that was prefetched and has not begun is asked back at once.
fn nobody_idle_beside_work(ledger: &Ledger, brain: &Dispatcher, now: Time) -> Check {
    let free = |worker: &WorkerNote| worker.idle() && !worker.extra;
    let Some((idle, _)) = ledger.workers.iter().find(|(_, worker)| free(worker)) else {
        return Ok(());
    };
    let gathered = brain.gathering().is_some_and(|until| now <= until && until <= now.after(GATHER));
    rule!(ledger.waiting.is_empty() || gathered, "{idle:?} is idle, and task {:?} waits", ledger.waiting.first());
    let count = |of: &dyn Fn(&WorkerNote) -> usize| ledger.workers.values().map(of).sum::<usize>();
    let idle = count(&|worker| usize::from(free(worker)));
    let asked = count(&|worker| worker.hands().filter(|held| held.asked_back && !held.answered).count());
    let behind = count(&|worker| behind(ledger, worker));
    rule!(idle <= asked || behind == 0, "{idle} workers are idle beside {behind} tasks, only {asked} are asked back");
    Ok(())
}

/// When the cap was lowered, whoever holds nothing is told to leave at once.
fn nobody_above_the_cap(ledger: &Ledger) -> Check {
    // Those whose time is over, or who have their last task, take no more, without a word that the world would hear.
    if ledger.policy.wall.is_some() || ledger.policy.tasks_max.is_some() {
        return Ok(());
    }
    let stays = |worker: &&WorkerNote| {
        worker.enlisted && !worker.extra && !worker.killed && !worker.leaves && worker.told_to_leave.is_none()
    };
    let staying = ledger.workers.values().filter(stays).count() as u64;
    let most = ledger.policy.workers;
    let idle = ledger.workers.iter().find(|(_, worker)| worker.idle() && !worker.extra);
    rule!(staying <= most || idle.is_none(), "{staying} workers of {most} allowed, and {:?} idle", idle.map(|i| i.0));
    Ok(())
}

/// While a task waits and there is room for another worker, one is expected, or idle; but for the pause after a failure.
fn a_worker_is_on_its_way(ledger: &Ledger, brain: &Dispatcher, now: Time) -> Check {
    let launches = ledger.policy.staff != Staff::ByHand && brain.situation(now).failures == 0;
    let Some(task) = ledger.waiting.first().filter(|_| launches) else { return Ok(()) };
    let (living, expected, idle) = ledger.ordinary();
    let most = ledger.policy.workers;
    // Extra workers need berths as well.
    let full = living >= most || ledger.policy.berths.is_some_and(|berths| ledger.launches.len() as u64 >= berths);
    rule!(full || expected + idle > 0, "task {task} waits, with {living} of {most} workers and none expected");
    Ok(())
}

/// Tasks behind another that were not asked back; a call is no task that others could run.
fn behind(ledger: &Ledger, worker: &WorkerNote) -> usize {
    worker.held.iter().skip(1).filter(|held| !held.asked_back && !ledger.is_call(held.task)).count()
}

/// Every limit of the policy and of the tasks is kept to the nanosecond.
fn nothing_overdue(ledger: &Ledger, now: Time) -> Check {
    let policy = &ledger.policy;
    for (launch, state) in &ledger.launches {
        if let Launch::Expected(since) = state {
            rule!(now <= since.after(policy.launch), "{launch:?} is overdue since {since:?}");
        }
    }
    for (id, worker) in &ledger.workers {
        let stops = worker.hands().filter_map(|held| held.interrupted).chain(worker.told_to_leave);
        for since in stops {
            // Whoever had no connection meanwhile gets the time for coming back as well.
            let more = worker.was_cut.map_or(since, |cut| since.max(cut).after(policy.reconnect));
            rule!(worker.killed || now <= more.after(policy.kill), "{id:?} should have been killed");
        }
        if worker.link == Link::Remote {
            let (what, end) = match worker.cut {
                Some(cut) => ("away", cut.after(policy.reconnect)),
                None => ("silent", worker.heard.after(policy.silence)),
            };
            rule!(now <= end, "{id:?} is {what} until {end:?}");
        }
        let idle = policy.idle.filter(|_| policy.workers_min == 0);
        let idle = if worker.extra { Some(families::EXTRA_IDLE) } else { idle };
        let leaves = idle.map(|idle| worker.idle_since.after(idle));
        rule!(!worker.idle() || leaves.is_none_or(|leaves| now <= leaves), "{id:?} should have left as idle");
    }
    for number in &ledger.open {
        let task = &ledger.tasks[*number];
        let total = task.spec.total_limit.map(|limit| task.submitted.after(limit));
        rule!(total.is_none_or(|end| now <= end), "task {number} exceeds seconds_total");
        let run = task.spec.run_limit.map(|limit| task.dealt.after(limit));
        let held = !ledger.waiting.contains(number) && task.spot != Spot::Away;
        rule!(!held || run.is_none_or(|end| now <= end), "task {number} exceeds seconds_run");
    }
    Ok(())
}
