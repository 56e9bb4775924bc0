//! Stories of workers on other machines.

use std::sync::Arc;
use std::time::Duration;

use kumi_core::message::{FromWorker, Leave, ToWorker};
use kumi_core::{Begun, Condition, Event, Link, Outcome, Policy, Run, Staff, TaskId, Ticket, TicketId, Time, WorkerId};

use super::crew::{Crew, MILLI, SECOND, policy};

/// A crew whose workers are started by hand, and a join code.
fn by_hand(workers: u64, uses: u32) -> (Crew, TicketId) {
    let mut crew = Crew::new(Policy { staff: Staff::ByHand, ..policy(workers) });
    let code = crew.brain.issue(Ticket::Code { uses, until: Time(0).after(600 * SECOND) });
    (crew, code)
}

/// A crew of one remote worker that was dealt this task, and the launch's ticket.
fn at_work(change: impl FnOnce(&mut kumi_core::NewTask)) -> (Crew, WorkerId, TaskId, TicketId) {
    let mut crew = Crew::new(policy(1));
    let task = crew.submit_as(change);
    let launch = crew.launches.remove(0);
    let ticket = crew.brain.issue(Ticket::Launch { places: vec![launch] });
    let call = crew.call(ticket, 0, 1);
    let worker = crew.admitted[&call];
    assert_eq!(crew.dealt(worker), [task]);
    (crew, worker, task, ticket)
}

fn cut(crew: &mut Crew, worker: WorkerId) {
    crew.tell(Event::Cut { worker });
}

#[test]
fn a_code_lets_in_as_often_as_it_says_and_until_its_end() {
    let (mut crew, code) = by_hand(9, 2);
    let (one, two, three) = (crew.call(code, 0, 1), crew.call(code, 0, 2), crew.call(code, 0, 3));
    assert!(crew.admitted.contains_key(&one) && crew.admitted.contains_key(&two));
    assert!(crew.refused[&three].contains("used up"));
    let other = crew.brain.issue(Ticket::Code { uses: 1, until: crew.now.after(SECOND) });
    crew.now = crew.now.after(SECOND);
    let late = crew.call(other, 0, 4);
    assert!(crew.refused[&late].contains("expired"));
    crew.brain.revoke(code);
    let unknown = crew.call(code, 0, 5);
    assert!(crew.refused[&unknown].contains("does not know"));
}

#[test]
fn a_code_does_not_lift_the_cap_and_nobody_is_launched_beside_hands() {
    let (mut crew, code) = by_hand(1, 5);
    let tasks = crew.submit_many(2);
    assert!(crew.launches.is_empty());
    let (one, two) = (crew.call(code, 0, 1), crew.call(code, 0, 2));
    let worker = crew.admitted[&one];
    assert!(crew.refused[&two].contains("workers="), "{:?}", crew.refused);
    assert_eq!(crew.dealt(worker), tasks[..1]);
    crew.dies(worker, Begun::Nothing);
    let three = crew.call(code, 0, 3);
    let worker = crew.admitted[&three];
    assert_eq!(crew.dealt(worker), tasks[..1], "the refused call used up nothing");
}

#[test]
fn whoever_is_welcome_hears_it_first() {
    let (mut crew, code) = by_hand(1, 1);
    let call = crew.call(code, 0, 1);
    let worker = crew.admitted[&call];
    let sent = crew.sent.remove(&worker).unwrap();
    assert!(matches!(&sent[..], [ToWorker::Welcome { .. }, ToWorker::Ping]), "{sent:?}");
}

#[test]
fn a_launch_has_places_and_each_takes_one_worker() {
    let mut crew = Crew::new(policy(2));
    crew.submit_many(2);
    let places = std::mem::take(&mut crew.launches);
    let ticket = crew.brain.issue(Ticket::Launch { places });
    let (first, second, beyond) = (crew.call(ticket, 0, 7), crew.call(ticket, 1, 8), crew.call(ticket, 2, 9));
    assert_ne!(crew.admitted[&first], crew.admitted[&second]);
    assert!(crew.refused[&beyond].contains("index"));
    let again = crew.call(ticket, 0, 7);
    assert_eq!(crew.admitted[&again], crew.admitted[&first], "the answer was lost: the same call once more");
}

#[test]
fn a_launch_that_was_given_up_takes_nobody() {
    let mut crew = Crew::new(policy(1));
    crew.submit();
    let launch = crew.launches.remove(0);
    let ticket = crew.brain.issue(Ticket::Launch { places: vec![launch] });
    crew.wait(60 * SECOND);
    let late = crew.call(ticket, 0, 1);
    assert!(crew.refused[&late].contains("given up"));
}

#[test]
fn a_second_hello_is_refused_when_the_first_gives_a_sign_of_life() {
    let (mut crew, worker, task, ticket) = at_work(|_| ());
    let second = crew.call(ticket, 0, 2);
    assert!(!crew.refused.contains_key(&second), "not before the first was asked");
    assert_eq!(crew.sent.remove(&worker).unwrap(), [ToWorker::Ping]);
    let third = crew.call(ticket, 0, 3);
    assert!(crew.refused[&third].contains("waits"), "one at a time");
    crew.wait(4 * SECOND);
    crew.say(worker, FromWorker::Heartbeat);
    assert!(crew.refused[&second].contains("alive"));
    crew.wait(2 * SECOND);
    assert_eq!(crew.fenced, []);
    crew.finish(worker, task, 1);
    assert!(matches!(crew.brain.outcome(task), Some(Outcome::Success(_))));
}

#[test]
fn an_old_challenge_does_not_shorten_the_next() {
    let (mut crew, worker, _, ticket) = at_work(|_| ());
    crew.call(ticket, 0, 2);
    crew.say(worker, FromWorker::Heartbeat);
    crew.wait(4 * SECOND);
    crew.call(ticket, 0, 3);
    crew.wait(2 * SECOND);
    assert_eq!(crew.fenced, [], "the heartbeat of the second challenge is not over");
    crew.wait(3 * SECOND);
    assert_eq!(crew.fenced, [worker]);
}

#[test]
fn a_silent_one_is_fenced_after_a_heartbeat_and_its_task_runs_again_unblamed() {
    let (mut crew, silent, task, ticket) = at_work(|_| ());
    let void = crew.leases[&task];
    let call = crew.call(ticket, 0, 2);
    crew.wait(5 * SECOND);
    assert_eq!(crew.fenced, [silent]);
    let worker = crew.admitted[&call];
    assert_eq!(crew.dealt(worker), [task]);
    let late = FromWorker::Finished {
        lease: void,
        success: true,
        run: Run { started: 0, nanoseconds: 1, notes: None },
        payload: Arc::from([]),
    };
    crew.say(silent, late.clone());
    crew.say(worker, late);
    assert_eq!(crew.brain.outcome(task), None, "what the fenced one says does not count");
    crew.finish(worker, task, 1);
    assert_eq!(crew.attempts(task), 1);
}

#[test]
fn coming_back_is_a_sign_of_life() {
    let (mut crew, worker, _, ticket) = at_work(|_| ());
    cut(&mut crew, worker);
    let call = crew.call(ticket, 0, 2);
    crew.wait(4 * SECOND);
    crew.tell(Event::Resumed { worker });
    assert!(crew.refused.contains_key(&call));
}

#[test]
fn a_short_cut_costs_nothing() {
    let (mut crew, worker, task, _) = at_work(|_| ());
    cut(&mut crew, worker);
    let next = crew.submit();
    crew.wait(59 * SECOND);
    assert_eq!(crew.fenced, []);
    crew.tell(Event::Resumed { worker });
    crew.finish(worker, task, 1);
    assert_eq!((crew.attempts(task), crew.dealt(worker)), (1, vec![next]));
    crew.wait_alive(worker, 100 * SECOND);
    assert_eq!(crew.fenced, []);
}

#[test]
fn nothing_is_dealt_to_a_worker_without_a_connection() {
    let mut crew = Crew::new(policy(2));
    let first = crew.submit();
    let away = crew.join(Link::Remote);
    crew.finish(away, first, 2_000_000);
    crew.sent.clear();
    cut(&mut crew, away);
    let task = crew.submit();
    assert_eq!(crew.dealt(away), []);
    assert_eq!(crew.launches.len(), 1, "another worker is wanted");
    crew.tell(Event::Resumed { worker: away });
    assert_eq!(crew.dealt(away), [task]);
}

#[test]
fn after_a_long_cut_tasks_run_again_and_nobody_is_blamed() {
    let (mut crew, worker, task, _) = at_work(|_| ());
    cut(&mut crew, worker);
    crew.wait(60 * SECOND);
    assert_eq!(crew.fenced, [worker]);
    for _ in 0..3 {
        let worker = crew.join(Link::Remote);
        assert_eq!(crew.dealt(worker), [task]);
        cut(&mut crew, worker);
        crew.wait(60 * SECOND);
        assert!(!crew.crashed(task), "the silence of a worker with one task is not that task's crash");
    }
    let worker = crew.join(Link::Remote);
    crew.finish(worker, task, 1);
    assert_eq!(crew.attempts(task), 1);
}

#[test]
fn what_the_launcher_knows_ends_a_cut_worker_at_once_and_no_other() {
    let (mut crew, worker, task, _) = at_work(|new| new.once = true);
    let (launch, unsure) = crew.brain.launches().next().unwrap();
    assert!(!unsure, "its worker is heard of");
    let dead = Event::LaunchFailed { launch, text: Arc::from("its node has failed") };
    crew.tell(dead.clone());
    assert_eq!(crew.fenced, [], "a worker that is heard of lives, whatever the launcher says");
    cut(&mut crew, worker);
    assert_eq!(crew.brain.launches().collect::<Vec<_>>(), [(launch, true)]);
    crew.tell(dead);
    assert_eq!(crew.fenced, [worker]);
    let cause = match crew.brain.outcome(task) {
        Some(Outcome::Crash(certificate)) => certificate.cause.clone(),
        other => format!("{other:?}"),
    };
    assert_eq!(cause, "its node has failed");
}

#[test]
fn once_tasks_that_may_have_begun_end_as_crash_after_a_long_cut() {
    let (mut crew, worker, task, _) = at_work(|task| task.once = true);
    cut(&mut crew, worker);
    crew.wait(59 * SECOND);
    assert!(!crew.crashed(task));
    crew.wait(SECOND);
    let Some(Outcome::Crash(certificate)) = crew.brain.outcome(task) else { unreachable!() };
    assert!(certificate.cause.contains("seconds_reconnect"), "{}", certificate.cause);
}

#[test]
fn silence_cuts_a_connection_after_thirty_seconds_and_not_before() {
    let (mut crew, worker, _, _) = at_work(|_| ());
    crew.wait_alive(worker, 100 * SECOND);
    let mut pings = 0;
    for second in 1..=30 {
        assert_eq!(crew.cut, [], "{second}");
        crew.wait(SECOND);
        pings += crew.sent.remove(&worker).map_or(0, |sent| sent.len());
    }
    assert_eq!((crew.cut.as_slice(), pings), (&[worker][..], 5), "asked every five seconds");
    crew.wait(59 * SECOND);
    assert_eq!(crew.fenced, []);
    crew.wait(SECOND);
    assert_eq!(crew.fenced, [worker]);
}

#[test]
fn a_death_that_the_agent_tells_is_blamed_on_the_task_that_had_begun() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Remote);
    let front = crew.submit();
    let tasks = crew.submit_many(3);
    crew.finish(worker, front, 10_000);
    crew.dies_of(worker, tasks[0]);
    let worker = crew.join(Link::Remote);
    assert_eq!(crew.dealt(worker), tasks, "the others are not suspect, and the first may be run again");
    crew.dies_of(worker, tasks[0]);
    assert!(crew.crashed(tasks[0]));
}

#[test]
fn what_a_lost_worker_may_have_been_at_runs_alone() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Remote);
    let front = crew.submit();
    let tasks = crew.submit_many(3);
    crew.finish(worker, front, 10_000);
    cut(&mut crew, worker);
    crew.wait(60 * SECOND);
    let worker = crew.join(Link::Remote);
    for task in tasks {
        assert_eq!(crew.dealt(worker), [task]);
        crew.finish(worker, task, 10_000);
    }
}

#[test]
fn a_recall_is_asked_and_answered_and_nothing_is_dealt_again_before() {
    let (mut crew, busy) = Crew::of_one_that_is_fast(policy(2), Link::Remote);
    let front = crew.submit();
    let tasks = crew.submit_many(2);
    crew.finish(busy, front, 10_000);
    crew.sent.clear();
    let idle = crew.join(Link::Remote);
    assert_eq!(crew.asked_back(busy), [tasks[1]]);
    crew.wait_alive(busy, 20 * SECOND);
    assert_eq!(crew.dealt(idle), []);
    crew.answer_recall(busy, tasks[1], true);
    assert_eq!(crew.dealt(idle), [tasks[1]]);
}

#[test]
fn a_recall_that_is_never_answered_ends_with_its_worker() {
    let (mut crew, busy) = Crew::of_one_that_is_fast(policy(2), Link::Remote);
    let front = crew.submit();
    let tasks = crew.submit_many(2);
    crew.finish(busy, front, 10_000);
    let idle = crew.join(Link::Remote);
    cut(&mut crew, busy);
    crew.wait_alive(idle, 61 * SECOND);
    crew.sent.clear();
    crew.finish(idle, tasks[0], 1);
    assert_eq!(crew.dealt(idle), [tasks[1]]);
}

#[test]
fn a_cancel_of_what_waits_at_a_worker_is_not_lost_with_it() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Remote);
    let front = crew.submit();
    let tasks = crew.submit_many(2);
    crew.finish(worker, front, 10_000);
    crew.brain.cancel_waiting(crew.now, tasks[1]);
    crew.listen();
    cut(&mut crew, worker);
    crew.wait(60 * SECOND);
    assert_eq!(crew.brain.outcome(tasks[1]), Some(&Outcome::Cancel));
    assert_eq!(crew.brain.outcome(tasks[0]), None);
}

#[test]
fn a_slow_line_is_not_a_stall() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Remote);
    crew.say(worker, FromWorker::Heartbeat);
    crew.wait(5 * SECOND);
    crew.wait(100 * MILLI);
    crew.say(worker, FromWorker::Heartbeat);
    let front = crew.submit();
    let tasks = crew.submit_many(2);
    crew.finish(worker, front, 10_000);
    crew.sent.clear();
    crew.wait(104 * MILLI);
    assert_eq!(crew.asked_back(worker), [], "an answer takes 100 ms");
    crew.wait(2 * MILLI);
    assert_eq!(crew.asked_back(worker), tasks[1..]);
}

#[test]
fn a_cut_is_not_a_stall() {
    let (mut crew, worker) = Crew::of_one_that_is_fast(policy(1), Link::Remote);
    let front = crew.submit();
    let tasks = crew.submit_many(2);
    crew.finish(worker, front, 10_000);
    crew.sent.clear();
    cut(&mut crew, worker);
    crew.wait(10 * SECOND);
    assert_eq!(crew.asked_back(worker), []);
    crew.tell(Event::Resumed { worker });
    crew.wait(10 * MILLI);
    assert_eq!(crew.asked_back(worker), tasks[1..], "but it may have come to one meanwhile");
}

#[test]
fn a_task_cancelled_during_a_cut_does_not_cost_the_worker() {
    let (mut crew, worker, task, _) = at_work(|_| ());
    cut(&mut crew, worker);
    crew.brain.cancel(crew.now, task);
    crew.listen();
    assert_eq!(crew.brain.outcome(task), Some(&Outcome::Cancel));
    crew.answer_recall(worker, task, false);
    crew.wait(20 * SECOND);
    assert_eq!((crew.killed.len(), crew.fenced.len()), (0, 0));
    crew.tell(Event::Resumed { worker });
    crew.finish(worker, task, 1);
    let next = crew.submit();
    assert!(crew.dealt(worker).contains(&next));
    crew.wait_alive(worker, 100 * SECOND);
    assert_eq!((crew.killed.len(), crew.fenced.len()), (0, 0));
}

#[test]
fn one_that_leaves_and_hangs_up_is_gone() {
    let mut crew = Crew::new(Policy { idle: Some(SECOND), ..policy(1) });
    let task = crew.submit();
    let worker = crew.join(Link::Remote);
    crew.finish(worker, task, 1);
    crew.wait(SECOND);
    assert_eq!(crew.told_to_leave(worker), Some(Leave::Idle));
    cut(&mut crew, worker);
    assert!(!crew.brain.knows(worker));
    crew.submit();
    assert_eq!(crew.launches.len(), 1);
}

#[test]
fn no_time_to_idle_is_enough_for_the_tasks_that_wait_when_one_comes() {
    let mut crew = Crew::new(Policy { idle: Some(Duration::ZERO), ..policy(1) });
    let task = crew.submit();
    let worker = crew.join(Link::Remote);
    assert_eq!(crew.dealt(worker), [task]);
    crew.finish(worker, task, 1);
    crew.wait(MILLI);
    assert_eq!(crew.told_to_leave(worker), Some(Leave::Idle));
}

#[test]
fn one_that_shall_be_ended_and_cannot_be_told_is_lost_at_once() {
    let (mut crew, worker, task, _) = at_work(|_| ());
    crew.brain.terminate(crew.now);
    crew.listen();
    assert_eq!(crew.killed, [worker]);
    cut(&mut crew, worker);
    assert_eq!(crew.fenced, [worker]);
    assert!(crew.brain.ended());
    assert_eq!(crew.brain.outcome(task), Some(&Outcome::Cancel));
    let (mut crew, worker, _, _) = at_work(|_| ());
    cut(&mut crew, worker);
    crew.brain.terminate(crew.now);
    crew.listen();
    assert_eq!((crew.killed.len(), crew.fenced.as_slice()), (0, &[worker][..]));
    assert!(crew.brain.ended());
}

#[test]
fn a_script_that_is_run_again_takes_the_place_of_one_that_is_gone() {
    let (mut crew, worker, task, ticket) = at_work(|_| ());
    crew.dies(worker, Begun::Nothing);
    crew.wait(SECOND);
    let launch = crew.launches.remove(0);
    let early = crew.call(ticket, 0, 2);
    assert!(crew.refused[&early].contains("taken"), "another launch stands for it already");
    crew.tell(Event::LaunchFailed { launch, text: Arc::from("no") });
    let call = crew.call(ticket, 0, 3);
    let worker = crew.admitted[&call];
    assert_eq!(crew.dealt(worker), [task]);
}

#[test]
fn a_controller_that_ends_takes_nobody() {
    let (mut crew, code) = by_hand(1, 1);
    crew.brain.close(crew.now);
    let call = crew.call(code, 0, 1);
    assert!(crew.refused[&call].contains("ending"));
}

/// What this worker is called, if it was welcomed since the story last looked.
fn name(crew: &mut Crew, worker: WorkerId) -> Option<String> {
    let sent = crew.sent.get(&worker).into_iter().flatten();
    sent.into_iter().find_map(|message| match message {
        ToWorker::Welcome { name, .. } => Some(name.clone()),
        _ => None,
    })
}

/// A worker for this agent.
fn joins(crew: &mut Crew, code: TicketId, incarnation: u64) -> WorkerId {
    let call = crew.call(code, 0, incarnation);
    crew.admitted[&call]
}

#[test]
fn an_agent_comes_again_for_another_worker_by_a_code_that_lets_in_nobody_else() {
    let (mut crew, code) = by_hand(2, 1);
    let task = crew.submit();
    let first = joins(&mut crew, code, 1);
    assert_eq!(name(&mut crew, first).as_deref(), Some("crew-1"));
    crew.dies_of(first, task);
    let second = joins(&mut crew, code, 1);
    assert_ne!(second, first);
    assert_eq!(name(&mut crew, second).as_deref(), Some("crew-2"));
    assert_eq!(crew.dealt(second), [task]);
    let other = crew.call(code, 0, 2);
    assert!(crew.refused[&other].contains("used up"));
    crew.dies_of(second, task);
    assert!(crew.crashed(task), "its second crash");
    crew.now = crew.now.after(601 * SECOND);
    joins(&mut crew, code, 1);
    let other = crew.call(code, 0, 3);
    assert!(crew.refused[&other].contains("expired"));
    assert_eq!(crew.brain.counts().launched, 3);
}

#[test]
fn an_agent_that_comes_again_finds_its_place_taken_or_its_code_revoked() {
    let (mut crew, code) = by_hand(1, 2);
    let first = joins(&mut crew, code, 1);
    crew.dies(first, Begun::Nothing);
    let second = joins(&mut crew, code, 2);
    let again = crew.call(code, 0, 1);
    assert!(crew.refused[&again].contains("workers="));
    crew.brain.revoke(code);
    crew.dies(second, Begun::Nothing);
    let again = crew.call(code, 0, 1);
    assert!(crew.refused[&again].contains("does not know"));
}

#[test]
fn an_agent_goes_on_after_a_worker_that_was_killed_but_not_after_its_controller() {
    let (mut crew, code) = by_hand(1, 1);
    let task = crew.submit();
    let deaf = joins(&mut crew, code, 1);
    crew.brain.cancel(crew.now, task);
    crew.listen();
    crew.answer_recall(deaf, task, false);
    crew.wait(5 * SECOND);
    assert_eq!((&crew.killed[..], &crew.renewed[..]), (&[deaf][..], &[deaf][..]));
    crew.dies(deaf, Begun::Nothing);
    let worker = joins(&mut crew, code, 1);
    crew.submit();
    crew.brain.terminate(crew.now);
    crew.listen();
    assert_eq!((&crew.killed[..], &crew.renewed[..]), (&[deaf, worker][..], &[deaf][..]));
    crew.dies(worker, Begun::Nothing);
    let late = crew.call(code, 0, 1);
    assert!(crew.refused[&late].contains("ending"));
}

#[test]
fn a_worker_of_an_agent_that_its_user_ends_makes_room_for_the_agents_next() {
    let (mut crew, code) = by_hand(1, 1);
    let task = crew.submit();
    let worker = joins(&mut crew, code, 1);
    let listed = crew.brain.roster(crew.now).remove(0);
    assert_eq!((listed.link, listed.worker), (Some(Link::Remote), Some(worker)));
    assert!(crew.brain.dismiss(crew.now, listed.number));
    crew.listen();
    assert_eq!((&crew.killed[..], &crew.renewed[..]), (&[worker][..], &[worker][..]));
    crew.dies_of(worker, task);
    let next = joins(&mut crew, code, 1);
    crew.finish(next, task, 10_000);
    assert_eq!(crew.attempts(task), 1);
}

#[test]
fn a_worker_without_a_connection_is_listed_as_such_and_lost_when_its_user_ends_it() {
    let (mut crew, code) = by_hand(1, 1);
    let worker = joins(&mut crew, code, 1);
    crew.tell(Event::Cut { worker });
    let listed = crew.brain.roster(crew.now).remove(0);
    assert_eq!(listed.condition, Condition::Cut);
    assert!(crew.brain.dismiss(crew.now, listed.number));
    crew.listen();
    assert_eq!((crew.killed.len(), &crew.fenced[..]), (0, &[worker][..]));
    assert_eq!(crew.brain.roster(crew.now), []);
}

// Workers that are started by hand, and fail.

/// A newcomer of this agent's that dies of itself.
fn fails(crew: &mut Crew, code: TicketId, incarnation: u64) {
    let worker = joins(crew, code, incarnation);
    crew.dies(worker, Begun::Nothing);
}

fn why(crew: &Crew, task: TaskId) -> Option<String> {
    match crew.brain.outcome(task) {
        Some(Outcome::Unlaunchable(text)) => Some(text.to_string()),
        None => None,
        Some(other) => unreachable!("{other:?}"),
    }
}

#[test]
fn tasks_that_wait_for_workers_that_nobody_has_started_wait() {
    let (mut crew, _) = by_hand(1, 1);
    let task = crew.submit();
    crew.wait(1000 * SECOND);
    assert_eq!((why(&crew, task), crew.launches.len()), (None, 0));
}

#[test]
fn five_workers_by_hand_that_fail_in_a_row_end_what_waits_and_a_later_one_runs_what_comes_later() {
    let (mut crew, code) = by_hand(2, 2);
    let tasks = crew.submit_many(3);
    (0..4).for_each(|_| fails(&mut crew, code, 1));
    assert_eq!(why(&crew, tasks[0]), None);
    fails(&mut crew, code, 1);
    let text = why(&crew, tasks[2]).unwrap();
    assert!(text.contains("5 launches failed in a row") && text.contains("before its first task: SIGSEGV"), "{text}");
    let next = crew.submit();
    (0..4).for_each(|_| fails(&mut crew, code, 1));
    assert_eq!(why(&crew, next), None, "it has the usual attempts");
    let worker = joins(&mut crew, code, 2);
    assert_eq!(crew.dealt(worker), [next]);
    crew.finish(worker, next, 1);
    assert!(matches!(crew.brain.outcome(next), Some(Outcome::Success(_))));
    assert_eq!(crew.launches.len(), 0);
}

#[test]
fn beside_a_worker_that_works_failures_are_nobody_s_end() {
    let (mut crew, code) = by_hand(2, 2);
    let busy = crew.submit();
    let worker = joins(&mut crew, code, 1);
    assert_eq!(crew.dealt(worker), [busy]);
    let task = crew.submit();
    (0..7).for_each(|_| fails(&mut crew, code, 2));
    assert_eq!(why(&crew, task), None);
    crew.finish(worker, busy, 1);
    assert_eq!(crew.dealt(worker), [task]);
    // It makes room for another: they have to fail as often again before that is given up.
    (0..7).for_each(|_| fails(&mut crew, code, 2));
    crew.dies(worker, Begun::Nothing);
    (0..4).for_each(|_| fails(&mut crew, code, 2));
    assert_eq!(why(&crew, task), None);
    let worker = joins(&mut crew, code, 1);
    assert_eq!(crew.dealt(worker), [task]);
}

#[test]
fn a_setup_that_fails_in_workers_by_hand_is_told_with_its_traceback() {
    let mut crew = Crew::not_started(Policy { staff: Staff::ByHand, ..policy(1) });
    let code = crew.brain.issue(Ticket::Code { uses: 1, until: Time(0).after(600 * SECOND) });
    crew.everywhere();
    crew.brain.start(crew.now);
    let task = crew.submit();
    for round in 1..=5 {
        assert_eq!(why(&crew, task), None, "{round}");
        let worker = joins(&mut crew, code, 1);
        let lease = crew.prepares(worker).unwrap();
        crew.prepared(worker, lease, "Traceback: no such file");
        assert_eq!(crew.renewed.pop(), Some(worker));
        crew.dies(worker, Begun::Nothing);
    }
    assert!(why(&crew, task).unwrap().contains("Traceback: no such file"));
    // One that takes too long has failed as well, as where workers are launched.
    let task = crew.submit();
    for _ in 0..5 {
        let worker = joins(&mut crew, code, 1);
        crew.wait_alive(worker, 61 * SECOND);
        crew.dies(worker, Begun::Nothing);
    }
    assert!(why(&crew, task).unwrap().contains("seconds_launch"));
}

#[test]
fn agents_that_fail_again_and_again_are_no_hope_for_each_other() {
    let (mut crew, code) = by_hand(9, 9);
    let task = crew.submit();
    let mut there: Vec<_> = (0..3).map(|agent| joins(&mut crew, code, agent)).collect();
    // At no time is nobody there.
    let mut each_fails = |crew: &mut Crew| {
        for (agent, worker) in (0..).zip(&mut there) {
            crew.dies(*worker, Begun::Nothing);
            *worker = joins(crew, code, agent);
        }
    };
    each_fails(&mut crew);
    assert_eq!(why(&crew, task), None);
    each_fails(&mut crew);
    assert!(why(&crew, task).is_some_and(|text| text.contains("failed in a row")));
    // One of whom nothing is known yet is hope, and so is one whose process is up.
    let next = crew.submit();
    let new = joins(&mut crew, code, 7);
    (0..3).for_each(|_| each_fails(&mut crew));
    assert_eq!(why(&crew, next), None);
    crew.dies(new, Begun::Nothing);
    let new = joins(&mut crew, code, 7);
    crew.say(new, FromWorker::Hello { version: 2, python: (3, 11), pid: 7, host: "there".into() });
    (0..3).for_each(|_| each_fails(&mut crew));
    assert_eq!(why(&crew, next), None);
    crew.dies(new, Begun::Nothing);
    each_fails(&mut crew);
    assert!(why(&crew, next).is_some());
}

#[test]
fn an_agent_that_was_launched_is_not_let_in_again() {
    let (mut crew, worker, task, ticket) = at_work(|_| ());
    crew.dies_of(worker, task);
    assert_eq!(crew.launches.len(), 1, "the controller sees to that");
    let again = crew.call(ticket, 0, 1);
    assert!(crew.refused[&again].contains("launches the next one itself"));
}
