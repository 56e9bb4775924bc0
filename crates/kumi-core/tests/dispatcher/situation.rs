//! What a dispatcher says of itself, for words that a user reads.

use std::time::Duration;

use kumi_core::message::Leave;
use kumi_core::{Event, Link, Policy};

use super::crew::{Crew, SECOND, policy};

fn fail_launches(crew: &mut Crew, count: usize, text: &str) {
    for number in 0..count {
        if number > 0 {
            crew.wait(SECOND);
        }
        crew.fail_launch(text);
    }
}

#[test]
fn it_counts_who_is_busy_and_who_takes_tasks() {
    let mut crew = Crew::new(policy(2));
    let tasks = crew.submit_many(2);
    let (one, _) = (crew.join(Link::Local), crew.join(Link::Local));
    crew.finish(one, tasks[0], 10_000);
    let found = crew.brain.situation(crew.now);
    assert_eq!((found.joined, found.busy, found.counts.idle), (2, 1, 1));
    assert!(found.started && !found.closing && !found.gave_up);
    assert_eq!((found.failures, &*found.failure, found.pause), (0, "", None));
}

#[test]
fn who_leaves_takes_no_tasks() {
    let mut crew = Crew::new(Policy { tasks_max: Some(1), ..policy(1) });
    let task = crew.submit();
    let worker = crew.join(Link::Local);
    crew.finish(worker, task, 10_000);
    assert_eq!(crew.told_to_leave(worker), Some(Leave::Tasks));
    let found = crew.brain.situation(crew.now);
    assert_eq!((found.counts.workers, found.joined, found.busy), (1, 0, 0));
}

#[test]
fn after_a_failure_it_says_why_and_for_how_long_the_next_launch_waits() {
    let mut crew = Crew::new(policy(1));
    crew.submit();
    fail_launches(&mut crew, 2, "no memory");
    let found = crew.brain.situation(crew.now);
    assert_eq!((found.failures, &*found.failure), (2, "no memory"));
    assert_eq!(found.pause, Some(Duration::from_millis(100)));
    crew.wait(Duration::from_millis(40));
    assert_eq!(crew.brain.situation(crew.now).pause, Some(Duration::from_millis(60)));
}

#[test]
fn it_says_when_nothing_is_tried_any_more() {
    let mut crew = Crew::new(policy(1));
    crew.submit();
    fail_launches(&mut crew, 5, "broken");
    let found = crew.brain.situation(crew.now);
    assert!(found.gave_up);
    assert_eq!(&*found.failure, "broken");
}

#[test]
fn it_counts_who_has_no_connection_and_calls_that_are_not_done() {
    let mut crew = Crew::new(policy(1));
    let task = crew.submit();
    let worker = crew.join(Link::Remote);
    crew.finish(worker, task, 10_000);
    crew.everywhere();
    assert_eq!(crew.brain.situation(crew.now).calls, 1);
    crew.tell(Event::Cut { worker });
    let found = crew.brain.situation(crew.now.after(SECOND));
    assert_eq!((found.cut, found.joined, found.counts.idle), (1, 1, 0));
}
