//! Stories of a cap that changes.

use kumi_core::message::Leave;
use kumi_core::{Link, Policy, WorkerId};

use super::crew::{Crew, SECOND, policy};

/// A crew of so many workers that hold nothing, and know nothing of the function.
fn idle(policy: Policy, count: usize) -> (Crew, Vec<WorkerId>) {
    let mut crew = Crew::new(policy);
    let tasks = crew.submit_many(count);
    let workers: Vec<_> = tasks.iter().map(|_| crew.join(Link::Local)).collect();
    for (worker, task) in workers.iter().zip(tasks) {
        crew.finish(*worker, task, 10_000_000);
        crew.wait(SECOND / 1000);
    }
    crew.sent.clear();
    (crew, workers)
}

fn resize(crew: &mut Crew, workers: u64, workers_min: u64) {
    crew.brain.resize(crew.now, workers, workers_min);
    crew.listen();
}

#[test]
fn a_higher_cap_launches_what_is_missing_at_once() {
    let mut crew = Crew::new(policy(1));
    crew.submit_many(5);
    assert_eq!(crew.launches.len(), 1);
    resize(&mut crew, 3, 0);
    assert_eq!(crew.launches.len(), 3);
}

#[test]
fn a_higher_minimum_launches_without_tasks() {
    let mut crew = Crew::new(policy(3));
    resize(&mut crew, 3, 2);
    assert_eq!(crew.launches.len(), 2);
}

#[test]
fn under_a_lower_cap_idle_workers_leave_at_once_who_is_idle_for_longest_first() {
    let (mut crew, workers) = idle(policy(3), 3);
    resize(&mut crew, 1, 0);
    let told: Vec<_> = workers.iter().map(|worker| crew.told_to_leave(*worker)).collect();
    assert_eq!(told, [Some(Leave::Idle), Some(Leave::Idle), None]);
}

#[test]
fn a_busy_surplus_worker_ends_its_task_and_is_dealt_no_other_though_a_queue_waits() {
    let mut crew = Crew::new(policy(2));
    let tasks = crew.submit_many(5);
    let (one, two) = (crew.join(Link::Local), crew.join(Link::Local));
    assert_eq!((crew.dealt(one), crew.dealt(two)), (vec![tasks[0]], vec![tasks[1]]));
    resize(&mut crew, 1, 0);
    assert_eq!(crew.told_to_leave(one).or(crew.told_to_leave(two)), None, "both are busy");
    crew.finish(two, tasks[1], 10_000_000);
    assert_eq!(crew.told_to_leave(two), Some(Leave::Idle), "whoever is free first");
    crew.finish(one, tasks[0], 10_000_000);
    assert_eq!(crew.dealt(one), [tasks[2]], "the other one goes on");
}

#[test]
fn workers_that_are_never_without_short_tasks_leave_all_the_same() {
    let (mut crew, one) = Crew::of_one_that_is_fast(policy(2), Link::Local);
    let tasks = crew.submit_many(2000);
    let first = crew.dealt(one);
    let two = crew.join(Link::Local);
    let mut second = crew.dealt(two);
    assert!(!second.is_empty());
    resize(&mut crew, 1, 0);
    while let Some(task) = second.pop() {
        crew.finish(two, task, 10_000);
    }
    assert_eq!(crew.told_to_leave(two), Some(Leave::Idle));
    crew.finish(one, first[0], 10_000);
    assert!(!crew.dealt(one).is_empty(), "{} tasks wait", tasks.len());
}

#[test]
fn a_worker_that_was_starting_joins_and_leaves_again() {
    let mut crew = Crew::new(policy(2));
    crew.submit_many(2);
    let busy = crew.join(Link::Local);
    resize(&mut crew, 1, 0);
    assert_eq!(crew.abandoned, []);
    let late = crew.join(Link::Local);
    assert_eq!(crew.told_to_leave(late), Some(Leave::Idle));
    assert_eq!(crew.told_to_leave(busy), None);
}

#[test]
fn a_lower_minimum_lets_those_go_whose_time_had_come() {
    let (mut crew, workers) = idle(Policy { idle: Some(SECOND), workers_min: 2, ..policy(2) }, 2);
    crew.wait(5 * SECOND);
    assert_eq!(crew.told_to_leave(workers[0]), None);
    resize(&mut crew, 2, 1);
    let told: Vec<_> = workers.iter().map(|worker| crew.told_to_leave(*worker)).collect();
    assert_eq!(told, [Some(Leave::Idle), None]);
}
