//! The dispatcher's rules as small stories.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod dispatcher {
    pub mod backup;
    pub mod berths;
    pub mod crew;
    pub mod remote;
    pub mod resize;
    pub mod situation;
}

use std::sync::Arc;
use std::time::Duration;

use dispatcher::crew::{Crew, MILLI, SECOND, policy};
use kumi_core::interrupts::Signal;
use kumi_core::message::{FromWorker, Leave, Terms, ToWorker};
use kumi_core::{
    Begun, Bug, Cause, Certificate, Condition, CrashesMax, Entry, Event, Face, FunctionId, Interrupts, Job, Large,
    Lease, Limit, Link, Outcome, PerCause, Policy, Run, SegmentId, TaskId, WorkerHalf,
};

#[test]
fn a_task_of_which_nothing_is_known_is_dealt_alone() {
    let mut crew = Crew::new(policy(1));
    let tasks = crew.submit_many(3);
    let worker = crew.join(Link::Local);
    assert_eq!(crew.dealt(worker), tasks[..1]);
}

#[test]
fn short_tasks_are_dealt_up_to_a_window_of_a_millisecond() {
    let mut crew = Crew::new(policy(1));
    let tasks = crew.submit_many(200);
    let worker = crew.join(Link::Local);
    crew.dealt(worker);
    crew.finish(worker, tasks[0], 100_000);
    assert_eq!(crew.dealt(worker), tasks[1..11], "ten of 100 us");
}

#[test]
fn a_burst_of_short_tasks_is_gathered_until_somebody_waits() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Local);
    crew.wait(MILLI);
    let first = crew.submit_and_go_on(|_| ());
    assert_eq!(crew.dealt(worker), [first], "a single one is dealt at once");
    crew.finish(worker, first, 10_000);
    let burst: Vec<_> = (0..5).map(|_| crew.submit_and_go_on(|_| ())).collect();
    assert_eq!(crew.dealt(worker), []);
    crew.hurry();
    assert_eq!(crew.dealt(worker), burst);
}

#[test]
fn a_burst_is_dealt_when_it_is_large_or_time_is_up() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Local);
    let large: Vec<_> = (0..64).map(|_| crew.submit_and_go_on(|_| ())).collect();
    assert_eq!(crew.dealt(worker), large);
    for task in large {
        crew.finish(worker, task, 10_000);
    }
    let small: Vec<_> = (0..3).map(|_| crew.submit_and_go_on(|_| ())).collect();
    assert_eq!(crew.dealt(worker), []);
    crew.wait(MILLI);
    assert_eq!(crew.dealt(worker), small);
}

#[test]
fn once_tasks_wait_behind_nobody_and_nobody_behind_them() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Local);
    let tasks = [crew.submit(), crew.submit_as(|task| task.once = true), crew.submit(), crew.submit()];
    assert_eq!(crew.dealt(worker), tasks[..1]);
    crew.finish(worker, tasks[0], 10_000);
    assert_eq!(crew.dealt(worker), tasks[1..2]);
    crew.finish(worker, tasks[1], 10_000);
    assert_eq!(crew.dealt(worker), tasks[2..]);
}

#[test]
fn one_slow_call_stops_prefetching() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Local);
    let tasks = crew.submit_many(3);
    crew.dealt(worker);
    crew.finish(worker, tasks[0], 2_000_000);
    assert_eq!(crew.dealt(worker), tasks[1..2]);
}

#[test]
fn what_a_worker_has_not_begun_is_taken_back_youngest_first_for_an_idle_one() {
    let (mut crew, busy) = Crew::of_one_that_is_fast(policy(2), Link::Local);
    let front = crew.submit();
    let tasks = crew.submit_many(6);
    crew.finish(busy, front, 10_000);
    crew.dealt(busy);
    let idle = crew.join(Link::Local);
    assert_eq!(crew.asked_back(busy), [tasks[5], tasks[4], tasks[3]], "the younger half");
    crew.answer_recall(busy, tasks[5], true);
    assert_eq!(crew.dealt(idle), [tasks[5]]);
    crew.answer_recall(busy, tasks[4], false);
    crew.answer_recall(busy, tasks[3], true);
    assert_eq!(crew.dealt(idle), [], "what has begun stays, what came back waits for its turn");
}

#[test]
fn an_idle_worker_asks_the_next_when_the_first_has_nothing_to_give() {
    let (mut crew, one) = Crew::of_one_that_is_fast(policy(3), Link::Local);
    let fronts = crew.submit_many(2);
    let two = crew.join(Link::Local);
    let tasks = crew.submit_many(6);
    crew.finish(one, fronts[0], 10_000);
    crew.finish(two, fronts[1], 10_000);
    crew.sent.clear();
    let idle = crew.join(Link::Local);
    let asked = [crew.asked_back(one), crew.asked_back(two)];
    let (giver, other) = if asked[0].is_empty() { (two, one) } else { (one, two) };
    let task = asked.concat()[0];
    crew.answer_recall(giver, task, false);
    assert!(!crew.asked_back(other).is_empty());
    assert_eq!(crew.dealt(idle), []);
    assert!(tasks.contains(&task));
}

#[test]
fn what_is_behind_a_task_that_turns_out_to_be_long_is_taken_back() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Local);
    crew.wait(60 * SECOND);
    let tasks = crew.submit_many(3);
    crew.finish(worker, tasks[0], 10_000);
    crew.dealt(worker);
    crew.wait(4 * MILLI);
    assert_eq!(crew.asked_back(worker), []);
    crew.wait(MILLI);
    assert_eq!(crew.asked_back(worker), [tasks[2]]);
}

#[test]
fn only_the_task_that_had_begun_is_blamed() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Local);
    let front = crew.submit();
    let tasks = crew.submit_many(3);
    crew.finish(worker, front, 10_000);
    crew.dies_of(worker, tasks[1]);
    let next = crew.join(Link::Local);
    for task in &tasks {
        crew.finish(next, *task, 10_000);
    }
    assert_eq!(tasks.iter().map(|task| crew.attempts(*task)).collect::<Vec<_>>(), [1, 2, 1]);
}

#[test]
fn a_task_crashes_at_most_once_more_than_allowed() {
    let mut crew = Crew::new(policy(1));
    let task = crew.submit();
    for allowed in [true, false] {
        let worker = crew.join(Link::Local);
        assert_eq!(crew.dealt(worker), [task]);
        crew.dies_of(worker, task);
        assert_eq!(crew.crashed(task), !allowed);
    }
    assert_eq!(crew.brain.view(task).unwrap().certificate.unwrap().cause, "SIGSEGV");
}

#[test]
fn what_a_crash_counts_as_decides_whether_the_task_runs_again() {
    let each = PerCause { memory: Some(0), time: Some(1), spot: None, other: Some(0) };
    let mut crew = Crew::new(Policy { crashes_max: CrashesMax::Each(each), ..policy(1) });
    let task = crew.submit();
    for kind in [Cause::Spot, Cause::Spot, Cause::Time, Cause::Spot, Cause::Memory] {
        assert!(!crew.crashed(task), "before {kind:?}");
        let worker = crew.join(Link::Local);
        assert_eq!(crew.dealt(worker), [task]);
        crew.dies_like(worker, Begun::One(crew.leases[&task]), kind);
    }
    assert!(crew.crashed(task));
    let view = crew.brain.view(task).unwrap();
    assert_eq!((view.attempts, view.certificate.unwrap().kind), (5, Cause::Memory));
}

#[test]
fn a_lost_machine_does_not_count_unless_that_is_said() {
    let mut crew = Crew::new(Policy { crashes_max: CrashesMax::Together(0), ..policy(1) });
    let task = crew.submit();
    let strict = crew.submit_as(|task| {
        task.crashes_max = Some(CrashesMax::Each(PerCause { spot: Some(0), ..PerCause::default() }));
    });
    for expected in [task, task] {
        let worker = crew.join(Link::Local);
        assert_eq!(crew.dealt(worker), [expected]);
        crew.dies_like(worker, Begun::One(crew.leases[&task]), Cause::Spot);
    }
    let worker = crew.join(Link::Local);
    crew.finish(worker, task, 10_000);
    assert_eq!(crew.dealt(worker), [task, strict]);
    crew.dies_like(worker, Begun::One(crew.leases[&strict]), Cause::Spot);
    assert_eq!((crew.crashed(task), crew.crashed(strict)), (false, true));
}

#[test]
fn a_once_task_never_begins_twice() {
    let mut crew = Crew::new(policy(1));
    let (unlucky, lucky) = (crew.submit_as(|task| task.once = true), crew.submit_as(|task| task.once = true));
    let worker = crew.join(Link::Local);
    crew.dies_of(worker, unlucky);
    assert!(crew.crashed(unlucky));
    let worker = crew.join(Link::Local);
    assert_eq!(crew.dealt(worker), [lucky]);
    crew.dies(worker, Begun::Nothing);
    assert_eq!(crew.brain.outcome(lucky), None, "the page says that it had not begun");
}

#[test]
fn suspects_run_alone_and_are_blamed_only_then() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Local);
    let front = crew.submit();
    let tasks = crew.submit_many(3);
    crew.finish(worker, front, 10_000);
    assert_eq!(crew.dealt(worker)[1..], tasks);
    crew.dies(worker, Begun::Unknown);
    for _ in 0..2 {
        let worker = crew.join(Link::Local);
        assert_eq!(crew.dealt(worker), [tasks[0]]);
        crew.dies(worker, Begun::Unknown);
    }
    assert!(crew.crashed(tasks[0]));
    let worker = crew.join(Link::Local);
    assert_eq!(crew.dealt(worker), [tasks[1]]);
    crew.finish(worker, tasks[1], 10_000);
    assert_eq!(crew.dealt(worker), [tasks[2]]);
    assert_eq!(crew.attempts(tasks[1]), 1);
}

#[test]
fn after_a_loss_tasks_return_in_the_order_of_their_numbers() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Local);
    let front = crew.submit();
    let tasks = crew.submit_many(4);
    crew.finish(worker, front, 10_000);
    let last = crew.submit();
    crew.dies(worker, Begun::Nothing);
    let worker = crew.join(Link::Local);
    assert_eq!(crew.dealt(worker), [tasks.as_slice(), &[last]].concat());
}

#[test]
fn a_result_counts_only_under_the_lease_it_is_held_with() {
    let mut crew = Crew::new(policy(1));
    let task = crew.submit();
    let silent = crew.join(Link::Remote);
    let void = crew.leases[&task];
    crew.tell(Event::Cut { worker: silent });
    crew.wait(60 * SECOND);
    assert_eq!(crew.fenced, [silent]);
    let next = crew.join(Link::Remote);
    let late = FromWorker::Finished {
        lease: void,
        success: true,
        run: Run { started: 0, nanoseconds: 1, notes: None },
        payload: Arc::from([]),
    };
    crew.say(silent, late.clone());
    crew.say(next, late);
    assert_eq!(crew.brain.outcome(task), None);
    crew.finish(next, task, 1);
    assert!(matches!(crew.brain.outcome(task), Some(Outcome::Success(_))));
}

#[test]
fn a_worker_leaves_after_its_last_task() {
    let mut crew = Crew::new(Policy { tasks_max: Some(2), ..policy(1) });
    let tasks = crew.submit_many(3);
    let worker = crew.join(Link::Local);
    crew.finish(worker, tasks[0], 10_000);
    assert_eq!(crew.dealt(worker), tasks[..2]);
    crew.finish(worker, tasks[1], 10_000);
    assert_eq!(crew.told_to_leave(worker), Some(Leave::Tasks));
    assert!(crew.launches.is_empty(), "the one that leaves still counts");
    crew.dies(worker, Begun::Nothing);
    let successor = crew.join(Link::Local);
    assert_eq!(crew.dealt(successor), tasks[2..]);
}

#[test]
fn a_last_task_needs_no_successor() {
    let mut crew = Crew::new(Policy { tasks_max: Some(1), ..policy(2) });
    crew.submit();
    crew.join(Link::Local);
    assert!(crew.launches.is_empty());
}

#[test]
fn idle_workers_leave_but_for_the_minimum() {
    let mut crew = Crew::new(Policy { idle: Some(SECOND), workers_min: 1, ..policy(2) });
    let tasks = crew.submit_many(2);
    let (one, two) = (crew.join(Link::Local), crew.join(Link::Local));
    crew.finish(one, tasks[0], 10_000);
    crew.wait(SECOND / 2);
    crew.finish(two, tasks[1], 10_000);
    crew.wait(SECOND / 2);
    assert_eq!(crew.told_to_leave(one), Some(Leave::Idle));
    crew.wait(60 * SECOND);
    assert_eq!(crew.told_to_leave(two), None);
}

#[test]
fn a_worker_kept_by_the_minimum_leaves_when_another_one_has_come() {
    let mut crew = Crew::new(Policy { idle: Some(SECOND), workers_min: 1, ..policy(2) });
    let tasks = crew.submit_many(2);
    let kept = crew.join(Link::Local);
    crew.finish(kept, tasks[0], 10_000);
    crew.finish(kept, tasks[1], 10_000);
    crew.wait(SECOND);
    assert_eq!(crew.told_to_leave(kept), None);
    let late = crew.join(Link::Local);
    let long = crew.submit();
    assert_eq!(crew.dealt(late), [long]);
    crew.wait(SECOND);
    assert_eq!(crew.told_to_leave(kept), Some(Leave::Idle));
}

#[test]
fn without_time_to_idle_a_worker_stays_while_tasks_wait() {
    let mut crew = Crew::new(Policy { idle: Some(Duration::ZERO), ..policy(1) });
    let tasks = crew.submit_many(3);
    let worker = crew.join(Link::Local);
    for task in &tasks {
        assert_eq!(crew.told_to_leave(worker), None);
        crew.wait(SECOND);
        crew.finish(worker, *task, 1_000_000);
    }
    crew.wait(Duration::from_nanos(1));
    assert_eq!(crew.told_to_leave(worker), Some(Leave::Idle));
}

#[test]
fn no_time_to_idle_and_a_minimum_do_not_go_round_in_circles() {
    let mut crew = Crew::new(Policy { idle: Some(Duration::ZERO), workers_min: 1, ..policy(2) });
    let worker = crew.join(Link::Local);
    crew.wait(SECOND);
    assert_eq!(crew.told_to_leave(worker), None);
    assert_eq!(crew.brain.next_timeout().filter(|at| *at <= crew.now), None);
}

#[test]
fn after_five_failed_launches_waiting_tasks_end_with_the_launchers_words() {
    let mut crew = Crew::new(policy(2));
    let task = crew.submit();
    for _ in 0..5 {
        assert_eq!(crew.launches.len(), 1);
        crew.fail_launch("sbatch: invalid partition");
        let pause = crew.brain.next_timeout().map_or(Duration::ZERO, |at| at.since(crew.now));
        crew.wait(pause);
    }
    assert_eq!(
        crew.brain.outcome(task),
        Some(&Outcome::Unlaunchable(Arc::from(
            "5 launches failed in a row, the last one so: sbatch: invalid partition"
        )))
    );
    assert!(crew.launches.is_empty());
    crew.submit();
    assert_eq!(crew.launches.len(), 1, "a new task is a new attempt");
}

#[test]
fn failures_of_tasks_that_are_cancelled_do_not_doom_the_next() {
    let mut crew = Crew::new(policy(5));
    let tasks = crew.submit_many(5);
    for task in tasks {
        crew.brain.cancel(crew.now, task);
    }
    for _ in 0..5 {
        crew.fail_launch("no");
    }
    let task = crew.submit();
    assert_eq!(crew.brain.outcome(task), None);
    assert_eq!(crew.launches.len(), 1);
}

#[test]
fn a_worker_that_works_does_not_hurry_launches_that_fail() {
    let mut crew = Crew::new(policy(2));
    crew.submit_many(8);
    let worker = crew.join(Link::Local);
    let mut attempts = 0;
    while let Some(task) = crew.dealt(worker).pop() {
        if !crew.launches.is_empty() {
            crew.fail_launch("no");
            attempts += 1;
        }
        crew.finish(worker, task, 2_000_000);
    }
    assert!(attempts <= 2, "{attempts} launches, without a pause");
}

#[test]
fn when_the_last_worker_has_gone_a_launch_is_tried_whatever_failed_beside_it() {
    let mut crew = Crew::new(policy(2));
    let tasks = crew.submit_many(4);
    let worker = crew.join(Link::Local);
    crew.finish(worker, tasks[0], 2_000_000);
    for _ in 0..7 {
        let pause = crew.brain.next_timeout().map_or(Duration::ZERO, |at| at.since(crew.now));
        crew.wait(pause);
        crew.fail_launch("no");
    }
    crew.finish(worker, tasks[1], 2_000_000);
    crew.dies_of(worker, tasks[2]);
    assert_eq!(crew.brain.outcome(tasks[2]), None);
    crew.wait(SECOND);
    crew.fail_launch("no");
    assert!(matches!(crew.brain.outcome(tasks[2]), Some(Outcome::Unlaunchable(_))));
}

#[test]
fn failures_that_nobody_asked_for_are_told_once() {
    let mut crew = Crew::new(policy(1));
    let tasks = crew.submit_many(5);
    crew.brain.cancel(crew.now, tasks[4]);
    for _ in 0..5 {
        crew.fail_launch("no");
        let pause = crew.brain.next_timeout().map_or(Duration::ZERO, |at| at.since(crew.now));
        crew.wait(pause);
    }
    crew.brain.see(tasks[0]);
    crew.brain.release(tasks[0]);
    crew.brain.release(tasks[4]);
    assert!(crew.brain.take_overlooked(false).is_none());
    crew.brain.release(tasks[1]);
    crew.brain.release(tasks[2]);
    let found = crew.brain.take_overlooked(false).unwrap();
    assert!(matches!(found.first.outcome, Outcome::Unlaunchable(_)));
    assert_eq!(found.count, 2);
    assert!(crew.brain.take_overlooked(false).is_none());
    assert_eq!(crew.brain.take_overlooked(true).unwrap().count, 1);
    crew.brain.release(tasks[3]);
    assert!(crew.brain.take_overlooked(true).is_none());
}

#[test]
fn a_launch_that_does_not_come_is_abandoned_and_may_not_join_later() {
    let mut crew = Crew::new(policy(1));
    crew.submit();
    let late = crew.launches.remove(0);
    crew.wait(60 * SECOND);
    assert_eq!(crew.abandoned, [late]);
    let face = Face { name: "late".into(), pid: 1, host: "here".into() };
    assert_eq!(crew.brain.join(crew.now, late, face), None);
    assert!(crew.launches.is_empty(), "it counts until its end is reported");
}

#[test]
fn launches_that_hang_are_told_with_the_last_they_wrote() {
    let mut crew = Crew::new(policy(5));
    let tasks = crew.submit_many(5);
    for launch in crew.launches.clone() {
        crew.brain.wrote(launch, || "waiting for".into());
        crew.brain.wrote(launch, || "waiting for a licence".into());
    }
    crew.wait(60 * SECOND);
    for _ in 0..5 {
        crew.fail_launch("it was ended");
    }
    let Some(Outcome::Unlaunchable(text)) = crew.brain.outcome(tasks[0]) else { unreachable!() };
    let last = "no worker came within 60 s (seconds_launch); the last it wrote to stderr:\nwaiting for a licence";
    assert!(text.ends_with(last), "{text}");
}

#[test]
fn nobody_asks_for_the_words_of_a_worker_that_works() {
    let mut crew = Crew::new(policy(1));
    crew.submit();
    let launch = crew.launches[0];
    crew.join(Link::Local);
    crew.brain.wrote(launch, || unreachable!());
}

#[test]
fn a_prefetched_task_is_cancelled_only_if_it_has_not_begun() {
    for (link, begun) in [(Link::Local, false), (Link::Local, true), (Link::Remote, false), (Link::Remote, true)] {
        let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), link);
        let front = crew.submit();
        let tasks = crew.submit_many(2);
        crew.finish(worker, front, 10_000);
        crew.dealt(worker);
        crew.brain.cancel_waiting(crew.now, tasks[1]);
        crew.listen();
        assert_eq!(crew.asked_back(worker), [tasks[1]]);
        crew.answer_recall(worker, tasks[1], !begun);
        assert_eq!(crew.brain.outcome(tasks[1]), if begun { None } else { Some(&Outcome::Cancel) });
        assert!(!crew.interrupted(worker, tasks[1]));
    }
}

#[test]
fn a_running_task_is_cancelled_at_once_and_interrupted_behind_the_scenes() {
    for link in [Link::Local, Link::Remote] {
        let mut crew = Crew::new(policy(1));
        let tasks = crew.submit_many(2);
        let worker = crew.join(link);
        crew.brain.cancel(crew.now, tasks[0]);
        crew.listen();
        assert_eq!(crew.brain.outcome(tasks[0]), Some(&Outcome::Cancel));
        crew.answer_recall(worker, tasks[0], false);
        assert!(crew.interrupted(worker, tasks[0]));
        crew.wait(5 * SECOND / 2);
        assert!(crew.interrupted(worker, tasks[0]), "once more");
        crew.finish(worker, tasks[0], 10_000);
        assert_eq!(crew.dealt(worker), [tasks[1]], "it yielded");
        crew.wait(10 * SECOND);
        assert_eq!(crew.killed, [], "the next task is not killed for it");
    }
}

#[test]
fn a_worker_that_ignores_the_interrupt_is_killed_and_its_other_tasks_are_innocent() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Local);
    let front = crew.submit();
    let tasks = crew.submit_many(2);
    crew.finish(worker, front, 10_000);
    crew.brain.cancel(crew.now, tasks[0]);
    crew.listen();
    crew.answer_recall(worker, tasks[0], false);
    assert_eq!(crew.asked_back(worker).last(), Some(&tasks[1]), "those behind it are taken back");
    crew.wait(5 * SECOND);
    assert_eq!(crew.killed, [worker]);
    crew.dies_of(worker, tasks[0]);
    let next = crew.join(Link::Local);
    crew.finish(next, tasks[1], 10_000);
    assert_eq!(crew.attempts(tasks[1]), 1);
}

#[test]
fn seconds_run_counts_from_the_start_and_seconds_total_from_the_submission() {
    let mut crew = Crew::new(policy(1));
    let running = crew.submit_as(|task| task.seconds_run = Some(SECOND));
    let waiting = crew.submit_as(|task| task.seconds_total = Some(3 * SECOND));
    crew.wait(2 * SECOND);
    let worker = crew.join(Link::Local);
    crew.wait(SECOND);
    assert_eq!(crew.brain.outcome(running), Some(&Outcome::Timeout(Limit::Run)));
    assert_eq!(crew.brain.outcome(waiting), Some(&Outcome::Timeout(Limit::Total)));
    assert_eq!(crew.dealt(worker), [running]);
}

#[test]
fn a_worker_whose_process_is_told_to_end_is_dealt_nothing_more_and_sent_home_after_its_task() {
    let mut crew = Crew::new(policy(1));
    let (running, waiting) = (crew.submit(), crew.submit());
    let worker = crew.join(Link::Local);
    assert_eq!(crew.dealt(worker), [running]);
    crew.say(worker, FromWorker::Retire);
    assert_eq!(crew.told_to_leave(worker), None, "it has something to answer");
    crew.finish(worker, running, 1000);
    assert_eq!(crew.told_to_leave(worker), Some(Leave::Wall));
    crew.say(worker, FromWorker::Retire);
    crew.dies(worker, Begun::Nothing);
    let next = crew.join(Link::Local);
    assert_eq!(crew.dealt(next), [waiting]);
    assert_eq!((crew.brain.counts().left_limit, crew.brain.counts().lost), (1, 0));
}

/// Found by the fuzzer: a host may say so.
#[test]
fn what_was_to_run_within_a_task_that_never_waited_is_given_back_with_its_answer() {
    let run = |lease: u64, within: Option<u64>| ToWorker::Run {
        task: TaskId::from_number(lease),
        lease: Lease(lease),
        slot: 0,
        function: FunctionId::from_number(0),
        attempt: 1,
        short: true,
        within: within.map(Lease),
        inline: false,
        payload: Arc::from([]),
    };
    let mut half = WorkerHalf::default();
    half.handle(run(1, None)).unwrap();
    half.handle(run(2, Some(1))).unwrap();
    half.handle(ToWorker::Stop { leave: Leave::Closing }).unwrap();
    assert!(matches!(half.next_job(), Some(Job::Run { lease: Lease(1), .. })));
    assert_eq!(half.next_job(), None);
    half.finished();
    assert_eq!(half.answer(), Some(FromWorker::Recalled { lease: Lease(2), back: true }));
    assert_eq!(half.leaving(), Some(Leave::Closing));
}

#[test]
fn an_interrupt_never_hits_the_next_task() {
    let mut interrupts = Interrupts::default();
    assert!(interrupts.begin(Lease(1)));
    assert!(interrupts.want(Lease(1)), "signalled");
    assert!(!interrupts.end());
    assert!(interrupts.begin(Lease(2)));
    assert_eq!(interrupts.take(), Signal::Late);
    assert!(!interrupts.want(Lease(1)), "an old one");
    assert!(interrupts.want(Lease(2)));
    assert_eq!(interrupts.take(), Signal::Interrupt);
    assert_eq!(interrupts.take(), Signal::Foreign, "each is given once");
    assert!(!interrupts.end());
    assert!(!interrupts.want(Lease(2)), "it has ended");
    assert!(interrupts.begin(Lease(3)));
}

#[test]
fn an_interrupt_that_is_faster_than_its_task_keeps_it_from_beginning() {
    let mut interrupts = Interrupts::default();
    assert!(!interrupts.want(Lease(4)));
    assert!(interrupts.begin(Lease(3)));
    assert_eq!(interrupts.take(), Signal::Foreign);
    assert!(!interrupts.end());
    assert!(!interrupts.begin(Lease(4)));
    assert!(!interrupts.end());
    assert!(interrupts.begin(Lease(5)));
}

#[test]
fn an_interrupt_of_a_task_that_waits_comes_when_what_runs_within_its_wait_has_ended() {
    let mut interrupts = Interrupts::default();
    assert!(interrupts.begin(Lease(1)));
    assert!(interrupts.begin(Lease(4)), "within its wait");
    assert!(!interrupts.want(Lease(1)), "not at work");
    assert!(!interrupts.want(Lease(3)), "ended before");
    assert_eq!(interrupts.take(), Signal::Foreign);
    assert!(interrupts.want(Lease(4)));
    assert_eq!(interrupts.take(), Signal::Interrupt);
    assert!(interrupts.end(), "now it is its turn");
    assert_eq!(interrupts.take(), Signal::Interrupt);
    assert!(!interrupts.end());
}

// Segments.

const LARGE: u64 = 1 << 19;

fn reserve(crew: &mut Crew) -> SegmentId {
    crew.brain.reserve(LARGE).unwrap().segment
}

fn submit_large(crew: &mut Crew) -> (TaskId, SegmentId) {
    let segment = reserve(crew);
    let large = Large { segment: Some((segment, LARGE)), uses: Vec::new() };
    (crew.submit_as(|task| task.large = Some(Box::new(large))), segment)
}

/// A worker that has finished a task and still maps the segment that it was lent for it.
fn a_mapped_segment(bug: Option<Bug>) -> (Crew, kumi_core::WorkerId, SegmentId) {
    let mut crew = Crew::new(policy(1));
    if let Some(bug) = bug {
        crew.brain.plant(bug);
    }
    let (task, segment) = submit_large(&mut crew);
    let worker = crew.join(Link::Local);
    let lend = ToWorker::Lend { segment, bytes: LARGE };
    let sent = crew.sent.remove(&worker).unwrap();
    let at = sent.iter().position(|message| *message == lend).unwrap();
    assert!(matches!(sent[at + 1], ToWorker::Run { .. }), "directly before its message");
    crew.finish(worker, task, 1);
    (crew, worker, segment)
}

#[test]
fn a_segment_is_used_again_when_its_worker_has_returned_it_and_not_before() {
    let (mut crew, worker, segment) = a_mapped_segment(None);
    assert_ne!(reserve(&mut crew), segment, "the task has ended; its worker may have kept the array");
    crew.say(worker, FromWorker::Returned { segment, forked: false });
    assert_eq!(reserve(&mut crew), segment);
    crew.say(worker, FromWorker::Returned { segment, forked: false });
    assert_ne!(reserve(&mut crew), segment, "returned once too often");
    let (mut broken, _, segment) = a_mapped_segment(Some(Bug::ReusedWhileLent));
    assert_eq!(reserve(&mut broken), segment, "this test can fail");
}

#[test]
fn a_segment_that_a_fork_may_see_is_never_used_again() {
    let (mut crew, worker, segment) = a_mapped_segment(None);
    crew.say(worker, FromWorker::Returned { segment, forked: true });
    assert_ne!(reserve(&mut crew), segment);
}

#[test]
fn a_dead_worker_holds_no_segment_and_the_retry_gets_the_same() {
    let mut crew = Crew::new(policy(1));
    let (task, segment) = submit_large(&mut crew);
    let worker = crew.join(Link::Local);
    crew.dies_of(worker, task);
    assert_ne!(reserve(&mut crew), segment, "the task waits for its second run");
    let second = crew.join(Link::Local);
    assert!(crew.sent[&second].contains(&ToWorker::Lend { segment, bytes: LARGE }));
    crew.finish(second, task, 1);
    crew.dies(second, Begun::Nothing);
    assert_eq!(reserve(&mut crew), segment);
}

#[test]
fn a_result_is_given_back_when_nobody_uses_it() {
    let mut crew = Crew::new(policy(1));
    let task = crew.submit();
    let worker = crew.join(Link::Local);
    let theirs = SegmentId::from_number(7);
    let loan = crew.brain.borrow(worker, theirs, LARGE).unwrap();
    assert_eq!(crew.brain.borrow(worker, theirs, LARGE), None, "lent twice");
    crew.finish(worker, task, 1);
    assert_eq!(crew.brain.counts().result_bytes, LARGE);
    assert_eq!(crew.brain.use_loan(task), Some(loan));
    crew.brain.release(task);
    crew.sent.clear();
    crew.listen();
    assert!(!crew.sent.contains_key(&worker), "Python still looks at it");
    crew.brain.let_go_of_loan(loan, true);
    crew.listen();
    assert_eq!(crew.sent[&worker], [ToWorker::Returned { segment: theirs, forked: true }]);
    assert_eq!(crew.brain.counts().result_bytes, 0);
}

// What every worker does before its next task.

#[test]
fn a_call_is_done_when_all_who_are_here_have_done_it_and_nothing_is_dealt_behind_it() {
    let (mut crew, one) = Crew::of_one_that_is_fast(policy(2), Link::Local);
    let busy = crew.submit();
    let other = crew.submit();
    let two = crew.join(Link::Local);
    assert_eq!(crew.dealt(two), [other]);
    crew.finish(two, other, 10_000);
    let call = crew.everywhere();
    let later = crew.submit_many(4);
    let (first, second) = (crew.prepares(one).unwrap(), crew.prepares(two).unwrap());
    crew.prepared(two, second, "");
    assert_eq!(crew.dealt(two)[..1], later[..1], "who has done it goes on");
    assert!(!crew.brain.is_done(call), "the first is not even at it");
    crew.finish(one, busy, 10_000);
    assert_eq!(crew.dealt(one), [], "nothing behind a call");
    crew.prepared(one, first, "");
    assert_eq!(crew.brain.outcome(call), Some(&Outcome::Success(Arc::from(*b"done"))));
}

#[test]
fn calls_are_done_in_order_and_one_at_a_time() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Local);
    let calls = [crew.everywhere(), crew.everywhere()];
    let first = crew.prepares(worker).unwrap();
    crew.prepared(worker, first, "");
    assert_eq!(calls.map(|call| crew.brain.is_done(call)), [true, false]);
    let second = crew.prepares(worker).unwrap();
    crew.prepared(worker, first, "late, or repeated");
    crew.prepared(worker, second, "");
    assert_eq!(
        calls.map(|call| crew.brain.outcome(call).is_some_and(|outcome| matches!(outcome, Outcome::Success(_)))),
        [true, true]
    );
}

#[test]
fn a_newcomer_counts_as_a_launch_until_it_has_done_all_calls() {
    let mut crew = Crew::new(policy(1));
    let call = crew.everywhere();
    assert!(crew.brain.is_done(call), "nobody is here");
    assert!(crew.launches.is_empty(), "nor comes for that");
    let task = crew.submit();
    let worker = crew.join(Link::Local);
    let counts = crew.brain.counts();
    assert_eq!((counts.workers, counts.launching), (0, 1));
    let lease = crew.prepares(worker).unwrap();
    crew.prepared(worker, lease, "");
    assert_eq!(crew.dealt(worker), [task]);
    assert_eq!((crew.brain.counts().workers, crew.brain.counts().launching), (1, 0));
}

#[test]
fn a_newcomer_that_fails_in_a_call_is_a_failed_launch_whose_text_is_the_traceback() {
    let mut crew = Crew::new(policy(1));
    crew.everywhere();
    let task = crew.submit();
    for _ in 0..kumi_core::scaling::FAILURES_MAX {
        crew.wait(20 * SECOND);
        let worker = crew.join(Link::Local);
        let lease = crew.prepares(worker).unwrap();
        crew.prepared(worker, lease, "no licence");
        assert_eq!(crew.killed.pop(), Some(worker));
        crew.dies(worker, Begun::Nothing);
    }
    let Some(Outcome::Unlaunchable(text)) = crew.brain.outcome(task) else { unreachable!() };
    assert!(text.contains("no licence"), "{text}");
}

#[test]
fn a_newcomer_that_takes_too_long_is_a_failed_launch() {
    let mut crew = Crew::new(policy(1));
    crew.everywhere();
    crew.submit();
    let worker = crew.join(Link::Local);
    crew.wait(59 * SECOND);
    assert_eq!(crew.killed, []);
    crew.wait(SECOND);
    assert_eq!(crew.killed, [worker]);
}

#[test]
fn newcomers_that_take_too_long_are_told_with_the_last_they_wrote() {
    let mut crew = Crew::new(policy(5));
    crew.everywhere();
    let tasks = crew.submit_many(5);
    let launches = crew.launches.clone();
    let workers: Vec<_> = launches.iter().map(|_| crew.join(Link::Local)).collect();
    for launch in launches {
        crew.brain.wrote(launch, || "waiting for a licence".into());
    }
    crew.wait(60 * SECOND);
    for worker in workers {
        crew.dies(worker, Begun::Nothing);
    }
    let Some(Outcome::Unlaunchable(text)) = crew.brain.outcome(tasks[0]) else { unreachable!() };
    let last =
        "a worker was not set up within 60 s (seconds_launch); the last it wrote to stderr:\nwaiting for a licence";
    assert!(text.ends_with(last), "{text}");
}

#[test]
fn a_newcomer_that_makes_room_after_a_call_is_no_failed_launch() {
    let mut crew = Crew::new(policy(1));
    crew.everywhere();
    let task = crew.submit();
    for _ in 0..10 {
        let worker = crew.join(Link::Local);
        let lease = crew.prepares(worker).unwrap();
        crew.prepared(worker, lease, "");
        let certificate = Certificate { exit_code: Some(0), ..Certificate::default() };
        crew.tell(Event::Gone { worker, begun: Begun::Nothing, certificate });
    }
    assert!(!crew.brain.is_done(task));
    assert_eq!(crew.launches.len(), 1, "at once");
}

#[test]
fn an_error_is_the_tasks_and_nobody_does_the_call_again() {
    let mut crew = Crew::new(policy(2));
    crew.submit_many(2);
    let (one, two) = (crew.join(Link::Local), crew.join(Link::Local));
    for worker in [one, two] {
        let task = crew.dealt(worker)[0];
        crew.finish(worker, task, 10_000_000);
    }
    let call = crew.everywhere();
    let (first, second) = (crew.prepares(one).unwrap(), crew.prepares(two).unwrap());
    crew.prepared(one, first, "no");
    assert!(!crew.brain.is_done(call), "the other is still at it");
    crew.prepared(two, second, "");
    assert_eq!(crew.brain.outcome(call), Some(&Outcome::Error(Arc::from(*b"no"))));
    crew.dies(two, Begun::Nothing);
    let tasks = crew.submit_many(2);
    let three = crew.join(Link::Local);
    assert_eq!(crew.dealt(three), tasks[1..]);
}

#[test]
fn nobody_waits_for_a_worker_that_dies_in_the_middle() {
    let mut crew = Crew::new(policy(2));
    crew.submit_many(2);
    let (one, two) = (crew.join(Link::Local), crew.join(Link::Local));
    for worker in [one, two] {
        let task = crew.dealt(worker)[0];
        crew.finish(worker, task, 10_000_000);
    }
    let call = crew.everywhere();
    let (first, second) = (crew.prepares(one).unwrap(), crew.prepares(two).unwrap());
    crew.prepared(one, first, "");
    crew.dies(two, Begun::One(second));
    assert!(crew.brain.outcome(call).is_some_and(|outcome| matches!(outcome, Outcome::Success(_))), "one has done it");
    let last = crew.everywhere();
    let third = crew.prepares(one).unwrap();
    crew.dies(one, Begun::One(third));
    assert!(crew.crashed(last), "nobody has done it");
}

#[test]
fn a_call_that_is_cancelled_is_taken_back_or_interrupted_and_not_done_again() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Local);
    let call = crew.everywhere();
    let lease = crew.prepares(worker).unwrap();
    crew.brain.cancel(crew.now, call);
    crew.listen();
    assert_eq!(crew.brain.outcome(call), Some(&Outcome::Cancel));
    assert!(crew.sent.remove(&worker).unwrap_or_default().contains(&ToWorker::Recall { lease }));
    crew.say(worker, FromWorker::Recalled { lease, back: false });
    assert!(crew.sent.remove(&worker).unwrap_or_default().contains(&ToWorker::Interrupt { lease }));
    let task = crew.submit();
    assert_eq!(crew.dealt(worker), []);
    crew.prepared(worker, lease, "interrupted");
    assert_eq!(crew.dealt(worker), [task]);
}

#[test]
fn what_is_done_before_the_start_is_not_counted() {
    let mut crew = Crew::not_started(policy(1));
    let setup = crew.everywhere();
    assert!(crew.brain.is_done(setup));
    assert_eq!(crew.brain.counts().finished, 0);
}

#[test]
fn a_result_that_is_none_brings_nothing_along() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Local);
    crew.everywhere();
    let lease = crew.prepares(worker).unwrap();
    crew.brain.borrow(worker, SegmentId::from_number(7), 1000).unwrap();
    crew.prepared(worker, lease, "");
    let returned = ToWorker::Returned { segment: SegmentId::from_number(7), forked: false };
    assert!(crew.sent.remove(&worker).unwrap_or_default().contains(&returned));
}

#[test]
fn what_a_call_submits_is_refused() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Local);
    crew.everywhere();
    let lease = crew.prepares(worker).unwrap();
    crew.say(worker, FromWorker::Declare { function: 1, label: "f".into(), payload: Arc::from([]) });
    let (terms, payload) =
        (Terms { crashes_max: None, once: false, seconds_run: None, seconds_total: None }, Arc::from([]));
    crew.say(worker, FromWorker::Submit { child: 1, parent: lease, function: 1, terms, payload });
    let sent = crew.sent.remove(&worker).unwrap_or_default();
    assert!(sent.iter().any(|message| matches!(message, ToWorker::Resolved { child: 1, .. })));
    assert_eq!(crew.brain.counts().waiting, 0);
}

// The roster, and workers that their user ends from outside.

fn only(crew: &Crew) -> Entry {
    let mut all = crew.brain.roster(crew.now);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn the_roster_follows_a_worker_from_its_launch_to_its_death() {
    let mut crew = Crew::new(policy(1));
    crew.everywhere();
    let task = crew.submit_as(|task| task.name = Some(Arc::from("mass")));
    crew.wait(SECOND);
    let asked = only(&crew);
    assert_eq!((asked.condition, asked.age, asked.face), (Condition::Starting, SECOND, None));
    let worker = crew.join(Link::Local);
    let preparing = only(&crew);
    assert_eq!((preparing.condition, preparing.work.unwrap().span), (Condition::Preparing, Duration::ZERO));
    let lease = crew.prepares(worker).unwrap();
    crew.prepared(worker, lease, "");
    crew.wait(2 * SECOND);
    let busy = only(&crew);
    let work = busy.work.unwrap();
    assert_eq!((busy.condition, busy.age, busy.finished), (Condition::Busy, 3 * SECOND, 0));
    assert_eq!((work.task, work.name.as_deref(), &*work.function, work.span), (task, Some("mass"), "f", 2 * SECOND));
    crew.finish(worker, task, 1_000_000);
    let idle = only(&crew);
    assert_eq!((idle.condition, idle.finished, idle.work), (Condition::Idle, 1, None));
    crew.brain.close(crew.now);
    crew.listen();
    assert_eq!(only(&crew).condition, Condition::Leaving);
    crew.dies(worker, Begun::Nothing);
    assert_eq!(crew.brain.roster(crew.now), []);
}

#[test]
fn a_task_is_at_work_since_the_one_before_it_was_answered() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Local);
    let tasks = crew.submit_many(2);
    crew.wait(Duration::from_millis(3));
    assert_eq!(only(&crew).work.unwrap().task, tasks[0]);
    crew.finish(worker, tasks[0], 10_000);
    crew.wait(MILLI);
    let work = only(&crew).work.unwrap();
    assert_eq!((work.task, work.span), (tasks[1], MILLI));
}

#[test]
fn nobody_is_blamed_for_a_worker_that_its_user_ends() {
    let mut crew = Crew::new(Policy { crashes_max: CrashesMax::Together(0), ..policy(1) });
    let task = crew.submit();
    let worker = crew.join(Link::Local);
    assert!(crew.brain.dismiss(crew.now, only(&crew).number));
    crew.listen();
    assert_eq!(crew.killed, [worker]);
    assert_eq!(only(&crew).condition, Condition::Killed);
    crew.dies_of(worker, task);
    let next = crew.join(Link::Local);
    crew.finish(next, task, 10_000);
    assert_eq!(crew.attempts(task), 1);
}

#[test]
fn what_is_once_and_had_begun_ends_as_a_crash_that_says_who_did_it() {
    let mut crew = Crew::new(policy(1));
    let task = crew.submit_as(|task| task.once = true);
    let worker = crew.join(Link::Local);
    assert!(crew.brain.dismiss(crew.now, only(&crew).number));
    crew.listen();
    crew.dies_of(worker, task);
    let Some(Outcome::Crash(certificate)) = crew.brain.outcome(task) else { unreachable!() };
    assert_eq!(certificate.cause, "ended from outside by its user (kumi kill): SIGSEGV");
}

#[test]
fn a_launch_that_its_user_gives_up_is_no_failure_and_another_follows() {
    let mut crew = Crew::new(policy(1));
    crew.submit();
    for _ in 0..2 * kumi_core::scaling::FAILURES_MAX {
        assert!(crew.brain.dismiss(crew.now, only(&crew).number));
        crew.listen();
        assert_eq!(crew.brain.roster(crew.now), [], "not before the one that was given up is gone");
        crew.abandoned.clear();
        crew.fail_launch("it was not needed any more");
    }
    assert!(!crew.brain.dismiss(crew.now, 1), "that one is gone");
    assert_eq!(crew.launches.len(), 1);
}
