//! Stories of workers that need something each for itself, such as a GPU.

use std::sync::Arc;

use kumi_core::message::{FromWorker, Terms};
use kumi_core::{Link, Outcome, Policy, TaskId, WorkerId};

use super::crew::{Crew, SECOND, policy};

/// A crew of one worker whose task waits in async code for a task that it has submitted.
fn waiting_elsewhere(policy: Policy) -> (Crew, WorkerId, TaskId, TaskId) {
    let mut crew = Crew::new(policy);
    let parent = crew.submit();
    let worker = crew.join(Link::Local);
    let child = wait_elsewhere(&mut crew, worker, parent);
    (crew, worker, parent, child)
}

fn wait_elsewhere(crew: &mut Crew, worker: WorkerId, parent: TaskId) -> TaskId {
    let lease = crew.leases[&parent];
    crew.say(worker, FromWorker::Declare { function: 1, label: "g".into(), payload: Arc::from(*b"g") });
    let terms = Terms { crashes_max: None, once: false, seconds_run: None, seconds_total: None };
    crew.say(worker, FromWorker::Submit { child: 1, parent: lease, function: 1, terms, payload: Arc::from([]) });
    let child = crew.brain.child(worker, 1).unwrap();
    crew.say(worker, FromWorker::Wait { lease, child: None });
    child
}

#[test]
fn an_extra_worker_is_launched_where_a_berth_is_free() {
    let (crew, _, _, child) = waiting_elsewhere(Policy { berths: Some(2), ..policy(1) });
    assert_eq!(crew.launches.len(), 1);
    assert!(!crew.brain.is_done(child));
}

#[test]
fn without_a_berth_tasks_that_only_an_extra_worker_could_run_end_and_it_is_said_why() {
    let (crew, worker, parent, _) = waiting_elsewhere(Policy { berths: Some(1), ..policy(1) });
    assert_eq!(crew.launches, []);
    assert!(!crew.brain.is_done(parent), "its task goes on");
    assert_eq!(crew.brain.child(worker, 1), None, "its child was told to have ended");
    assert_eq!(crew.brain.counts().crash, 1);
}

#[test]
fn nor_is_one_had_from_a_worker_that_is_to_leave_when_its_task_is_done() {
    let mut crew = Crew::new(Policy { berths: Some(1), ..policy(1) });
    let parent = crew.submit();
    let worker = crew.join(Link::Local);
    crew.say(worker, FromWorker::Retire);
    wait_elsewhere(&mut crew, worker, parent);
    assert_eq!(crew.brain.counts().crash, 1);
}

#[test]
fn a_worker_that_leaves_is_waited_for() {
    let mut crew = Crew::new(Policy { berths: Some(2), tasks_max: Some(1), ..policy(2) });
    let tasks = crew.submit_many(2);
    let (one, two) = (crew.join(Link::Local), crew.join(Link::Local));
    crew.finish(one, tasks[0], 10_000);
    crew.submit_many(2);
    assert_eq!(crew.launches, [], "it has its berth until it is gone");
    crew.dies(one, kumi_core::Begun::Nothing);
    assert_eq!(crew.launches.len(), 1);
    crew.finish(two, tasks[1], 10_000);
    crew.wait(SECOND);
    assert!(matches!(crew.brain.outcome(tasks[1]), Some(Outcome::Success(_))));
}

#[test]
fn an_extra_worker_s_berth_is_not_launched_for_again() {
    let (mut crew, ..) = waiting_elsewhere(Policy { berths: Some(2), ..policy(1) });
    let extra = crew.join(Link::Local);
    assert_eq!(crew.dealt(extra).len(), 1);
    crew.brain.resize(crew.now, 2, 0);
    crew.submit_many(3);
    assert_eq!(crew.launches, [], "both berths are taken");
}
