//! Sessions and the agent's half as small stories: what is said once arrives once, whatever becomes of the connection.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

use std::sync::Arc;
use std::time::Duration;

use kumi_core::agent_message::ANSWER;
use kumi_core::frame::CHUNK;
use kumi_core::session::OutOfStep;
use kumi_core::{
    AgentHalf, Certificate, Decoder, FromAgent, FromWorker, FunctionId, Lease, Leave, Order, Payload, Run, Secret,
    Session, Talk, TaskId, Time, ToAgent, ToWorker,
};

type HostEnd = Session<ToAgent, FromAgent>;
type AgentEnd = Session<FromAgent, ToAgent>;

const SECOND: Duration = Duration::from_secs(1);

fn run(lease: u64, bytes: usize) -> ToAgent {
    let (task, function) = (TaskId::from_number(lease), FunctionId::from_number(1));
    let (lease, payload) = (Lease(lease), Payload::from(vec![7; bytes]));
    ToAgent::Worker(ToWorker::Run {
        task,
        lease,
        slot: 0,
        function,
        attempt: 1,
        short: false,
        within: None,
        inline: true,
        payload,
    })
}

fn interrupt(lease: u64) -> ToAgent {
    ToAgent::Worker(ToWorker::Interrupt { lease: Lease(lease) })
}

fn finished(lease: u64) -> FromAgent {
    let (lease, payload) = (Lease(lease), Arc::from([]));
    FromAgent::Worker(FromWorker::Finished {
        lease,
        success: true,
        run: Run { started: 0, nanoseconds: 1, notes: None },
        payload,
    })
}

fn report(lease: u64, number: u8) -> FromWorker {
    FromWorker::Report { lease: Lease(lease), payload: Arc::from([number]) }
}

/// What arrives of the next so many frames.
fn carry<Out: Talk, In: Talk>(from: &mut Session<Out, In>, to: &mut Session<In, Out>, frames: usize) -> Vec<Out> {
    let (mut decoder, mut arrived) = (Decoder::<Out>::default(), Vec::new());
    for _ in 0..frames {
        let mut bytes = Vec::new();
        if !from.write(&mut bytes) {
            break;
        }
        decoder.feed(&bytes);
        while let Some(message) = decoder.next().unwrap() {
            if to.hear(&message).unwrap() {
                arrived.push(message);
            }
        }
    }
    arrived
}

fn ends() -> (HostEnd, AgentEnd) {
    (Session::default(), Session::default())
}

#[test]
fn a_cut_loses_and_repeats_nothing() {
    let (mut host, mut agent) = ends();
    (0..5).for_each(|lease| agent.send(finished(lease)));
    assert_eq!(carry(&mut agent, &mut host, 2), [finished(0), finished(1)]);
    // Two more are on the way when the line is cut.
    let mut lost = Vec::new();
    assert!(agent.write(&mut lost) && agent.write(&mut lost));
    agent.cut();
    host.cut();
    agent.resume(host.received()).unwrap();
    host.resume(agent.received()).unwrap();
    assert_eq!(carry(&mut agent, &mut host, 9), [finished(2), finished(3), finished(4)]);
    assert_eq!(agent.kept(), 3, "until somebody says that they have come");
    host.send(ToAgent::Worker(ToWorker::Ping));
    carry(&mut host, &mut agent, 9);
    assert_eq!(agent.kept(), 0, "which a sign of life does");
}

#[test]
fn impossible_numbers_are_refused() {
    let (mut host, mut agent) = ends();
    agent.send(finished(1));
    assert_eq!(agent.hear(&ToAgent::Ack { received: 1 }), Err(OutOfStep), "it was not sent");
    carry(&mut agent, &mut host, 1);
    assert_eq!(agent.hear(&ToAgent::Ack { received: 1 }), Ok(false));
    assert_eq!(agent.hear(&ToAgent::Ack { received: 0 }), Ok(false), "an old one");
    assert_eq!((agent.resume(0), agent.resume(2)), (Err(OutOfStep), Err(OutOfStep)));
    assert_eq!(agent.resume(1), Ok(()));
}

#[test]
fn a_large_payload_is_passed_by_what_is_urgent_and_by_signs_of_life() {
    let (mut host, mut agent) = ends();
    host.send(run(1, 10));
    host.send(run(2, 3 * CHUNK));
    host.send(run(3, 10));
    assert_eq!(carry(&mut host, &mut agent, 1), [run(1, 10)]);
    let (mut decoder, mut bytes) = (Decoder::<ToAgent>::default(), Vec::new());
    assert!(host.write(&mut bytes));
    assert!(bytes.len() < CHUNK + 100, "one part");
    host.send(interrupt(1));
    host.send(interrupt(2));
    host.send(ToAgent::Worker(ToWorker::Ping));
    host.send(ToAgent::End { again: true });
    while host.write(&mut bytes) {}
    decoder.feed(&bytes);
    let order: Vec<_> = std::iter::from_fn(|| decoder.next().unwrap()).collect();
    let ping = ToAgent::Worker(ToWorker::Ping);
    let right = [ping, interrupt(1), ToAgent::End { again: true }, run(2, 3 * CHUNK), interrupt(2), run(3, 10)];
    assert!(order == right, "an interrupt does not pass its own task, but all others");
    // They are numbered in that order too.
    assert_eq!(host.resume(3), Ok(()));
    let again = carry(&mut host, &mut agent, 9);
    assert!(again == right[3..], "run 1, interrupt 1 and the end have come");
}

#[test]
fn a_cut_within_a_large_payload_begins_it_again() {
    let (mut host, mut agent) = ends();
    host.send(run(1, 2 * CHUNK));
    assert!(carry(&mut host, &mut agent, 1).is_empty());
    host.send(interrupt(9));
    host.cut();
    host.resume(agent.received()).unwrap();
    assert!(carry(&mut host, &mut agent, 9) == [interrupt(9), run(1, 2 * CHUNK)]);
}

#[test]
fn much_that_has_come_is_acknowledged_and_the_last_at_once() {
    let (mut host, mut agent) = ends();
    (0..63).for_each(|lease| agent.send(finished(lease)));
    carry(&mut agent, &mut host, 63);
    let mut bytes = Vec::new();
    assert!(!host.write(&mut bytes));
    agent.send(finished(63));
    carry(&mut agent, &mut host, 1);
    carry(&mut host, &mut agent, 1);
    assert_eq!(agent.kept(), 0);
    host.send(run(1, 1 << 18));
    carry(&mut host, &mut agent, 1);
    carry(&mut agent, &mut host, 1);
    assert_eq!(host.kept(), 0, "256 KiB");
    agent.send(FromAgent::Died { begun: None, certificate: Certificate::default() });
    carry(&mut agent, &mut host, 1);
    carry(&mut host, &mut agent, 1);
    assert_eq!(agent.kept(), 0);
}

#[test]
fn after_a_cut_nothing_passes_or_replaces_what_may_have_come() {
    let (mut host, mut agent) = ends();
    (1..=3).for_each(|lease| host.send(run(lease, 10)));
    agent.send(FromAgent::Worker(report(1, 1)));
    let came = carry(&mut host, &mut agent, 3).len() + carry(&mut agent, &mut host, 1).len();
    assert_eq!(came, 4, "and neither end knows");
    host.cut();
    agent.cut();
    host.send(interrupt(1));
    let dated = |other: &FromAgent| *other == FromAgent::Worker(report(1, 1));
    assert!(agent.replace(FromAgent::Worker(report(1, 2)), dated).is_none());
    host.resume(agent.received()).unwrap();
    agent.resume(host.received()).unwrap();
    assert_eq!(carry(&mut host, &mut agent, 9), [interrupt(1)]);
    assert_eq!(carry(&mut agent, &mut host, 9), [FromAgent::Worker(report(1, 2))]);
}

// The agent's half.

fn orders(agent: &mut AgentHalf) -> Vec<Order> {
    std::iter::from_fn(|| agent.next_order()).collect()
}

fn written(agent: &mut AgentHalf) -> Vec<FromAgent> {
    let (mut bytes, mut decoder) = (Vec::new(), Decoder::default());
    while agent.write(&mut bytes) {}
    decoder.feed(&bytes);
    std::iter::from_fn(|| decoder.next().unwrap()).collect()
}

fn session() -> ToAgent {
    ToAgent::Session { session: 7, key: Secret([1; 32]), silence: 30_000, reconnect: 60_000 }
}

fn greeting() -> ToWorker {
    ToWorker::Welcome { name: "crew-1".into(), reset: 0, memory: None }
}

fn welcome() -> ToAgent {
    ToAgent::Worker(greeting())
}

/// An agent with a session and a worker.
fn joined(now: Time) -> AgentHalf {
    let mut agent = AgentHalf::new(now, 10 * SECOND, false);
    assert_eq!(orders(&mut agent), [Order::Dial]);
    agent.connected(now);
    assert_eq!(orders(&mut agent), [Order::Greet { session: None }]);
    agent.hear(now, session()).unwrap();
    agent.hear(now, welcome()).unwrap();
    assert_eq!(orders(&mut agent), [Order::Start { welcome: greeting() }]);
    agent
}

/// Lets time pass until this agent orders something.
fn wait(agent: &mut AgentHalf, now: &mut Time) -> Vec<Order> {
    for _ in 0..100 {
        *now = agent.next_timeout().unwrap();
        agent.tick(*now);
        let orders = orders(agent);
        if !orders.is_empty() {
            return orders;
        }
    }
    unreachable!("it does nothing")
}

#[test]
fn an_agent_dials_until_it_is_let_in_and_not_for_ever() {
    let (mut agent, mut now, mut dials) = (AgentHalf::new(Time(0), 10 * SECOND, false), Time(0), 0);
    let mut last = orders(&mut agent);
    while last == [Order::Dial] {
        dials += 1;
        agent.disconnected(now);
        last = wait(&mut agent, &mut now);
    }
    assert!((8..15).contains(&dials), "{dials}: each pause is longer");
    assert_eq!(now, Time(0).after(10 * SECOND));
    assert!(
        matches!(&last[..], [Order::End { why: Some(text), fault: true }] if text.contains("could not be reached"))
    );
}

#[test]
fn a_host_that_does_not_answer_does_not_keep_an_agent() {
    let (mut agent, mut now) = (AgentHalf::new(Time(0), 15 * SECOND, false), Time(0));
    orders(&mut agent);
    agent.connected(now);
    orders(&mut agent);
    assert_eq!(wait(&mut agent, &mut now), [Order::HangUp { silent: true }]);
    assert_eq!(now, Time(0).after(ANSWER));
    assert_eq!(wait(&mut agent, &mut now), [Order::Dial]);
    agent.connected(now);
    orders(&mut agent);
    wait(&mut agent, &mut now);
    assert!(matches!(wait(&mut agent, &mut now)[..], [Order::End { fault: true, .. }]), "it never got anywhere");
}

#[test]
fn nothing_is_taken_from_a_host_that_has_not_let_it_in() {
    for message in [welcome(), run(1, 10), ToAgent::Resumed { received: 0 }, ToAgent::End { again: true }] {
        let mut agent = AgentHalf::new(Time(0), SECOND, false);
        agent.connected(Time(0));
        orders(&mut agent);
        assert!(agent.hear(Time(0), message).is_err());
        assert_eq!(orders(&mut agent), []);
    }
}

#[test]
fn a_refusal_ends_an_agent_with_its_words() {
    let mut agent = AgentHalf::new(Time(0), SECOND, false);
    agent.connected(Time(0));
    orders(&mut agent);
    agent.hear(Time(0), ToAgent::Worker(ToWorker::Refuse { reason: "used up".into() })).unwrap();
    assert_eq!(orders(&mut agent), [Order::End { why: Some("used up".into()), fault: true }]);
    assert_eq!(agent.next_timeout(), None);
}

#[test]
fn an_agent_that_was_launched_is_there_for_one_worker() {
    let mut agent = AgentHalf::new(Time(0), SECOND, true);
    agent.connected(Time(0));
    agent.hear(Time(0), session()).unwrap();
    agent.hear(Time(0), welcome()).unwrap();
    orders(&mut agent);
    agent.died(None, Certificate::default());
    written(&mut agent);
    agent.hear(Time(1), ToAgent::Ack { received: 1 }).unwrap();
    assert_eq!(orders(&mut agent), [Order::End { why: None, fault: false }], "the launcher replaces its worker");
}

#[test]
fn an_agent_answers_for_its_worker() {
    let mut agent = joined(Time(0));
    agent.hear(Time(1), ToAgent::Worker(ToWorker::Ping)).unwrap();
    let beats = written(&mut agent);
    assert!(
        beats.contains(&FromAgent::Worker(FromWorker::Heartbeat)) && beats.contains(&FromAgent::Ack { received: 1 })
    );
    agent.hear(Time(1), run(4, 10)).unwrap();
    let recall = ToAgent::Worker(ToWorker::Recall { lease: Lease(4) });
    agent.hear(Time(1), recall.clone()).unwrap();
    let done = orders(&mut agent);
    assert!(matches!(&done[..], [Order::Tell(ToWorker::Run { .. }), Order::Recall { .. }]));
    agent.said(FromWorker::Recalled { lease: Lease(4), back: true });
    agent.hear(Time(1), recall).unwrap();
    assert_eq!(orders(&mut agent), [], "it is not there any more");
}

#[test]
fn a_silent_host_is_dialled_again_and_told_what_it_missed() {
    let (mut agent, mut now) = (joined(Time(0)), Time(0));
    assert_eq!(wait(&mut agent, &mut now), [Order::HangUp { silent: true }]);
    assert_eq!(now, Time(0).after(30 * SECOND));
    (1..5).for_each(|number| agent.said(report(3, number)));
    let result = finished(3);
    if let FromAgent::Worker(message) = result.clone() {
        agent.said(message);
    }
    assert_eq!(written(&mut agent), []);
    assert_eq!(wait(&mut agent, &mut now), [Order::Dial]);
    agent.connected(now);
    assert_eq!(orders(&mut agent), [Order::Greet { session: Some((7, Secret([1; 32]), 1)) }]);
    agent.hear(now, ToAgent::Resumed { received: 0 }).unwrap();
    assert_eq!(written(&mut agent), [FromAgent::Worker(report(3, 4)), result], "of its reports the last");
}

#[test]
fn an_agent_that_finds_no_host_ends_its_worker() {
    let (mut agent, mut now) = (joined(Time(0)), Time(0));
    agent.disconnected(now);
    loop {
        match &wait(&mut agent, &mut now)[..] {
            [Order::Dial] => agent.disconnected(now),
            [Order::End { fault: true, .. }] => break,
            other => unreachable!("{other:?}"),
        }
    }
    assert_eq!(now, Time(0).after(60 * SECOND));
}

/// Its worker has died, and the host acknowledges that.
fn bury(agent: &mut AgentHalf, now: Time) -> Vec<Order> {
    agent.died(None, Certificate::default());
    let heard = written(agent).iter().filter(|message| message.is_kept()).count() as u64;
    agent.hear(now, ToAgent::Ack { received: heard }).unwrap();
    orders(agent)
}

/// It dials, is let in and given a worker.
fn rejoin(agent: &mut AgentHalf, now: Time) {
    agent.connected(now);
    assert_eq!(orders(agent), [Order::Greet { session: None }], "as if it had never been here");
    agent.hear(now, session()).unwrap();
    agent.hear(now, welcome()).unwrap();
    assert_eq!(orders(agent), [Order::Start { welcome: greeting() }]);
}

fn stop(leave: Leave) -> ToAgent {
    ToAgent::Worker(ToWorker::Stop { leave })
}

const AGAIN: [Order; 1] = [Order::HangUp { silent: false }];
const END: [Order; 1] = [Order::End { why: None, fault: false }];

#[test]
fn an_agent_goes_on_when_its_host_knows_of_the_end_of_its_worker() {
    let (mut agent, mut now) = (joined(Time(0)), Time(1));
    agent.hear(now, ToAgent::End { again: true }).unwrap();
    assert_eq!(orders(&mut agent), [Order::Kill]);
    agent.died(Some(Lease(3)), Certificate::default());
    assert!(matches!(written(&mut agent)[..], [.., FromAgent::Died { begun: Some(Lease(3)), .. }]));
    assert_eq!(orders(&mut agent), [], "not before it knows");
    agent.hear(now, ToAgent::Ack { received: 1 }).unwrap();
    assert_eq!(orders(&mut agent), AGAIN);
    assert_eq!(wait(&mut agent, &mut now), [Order::Dial]);
    rejoin(&mut agent, now);
    agent.hear(now, run(1, 10)).unwrap();
    assert!(matches!(orders(&mut agent)[..], [Order::Tell(ToWorker::Run { .. })]));
    agent.said(report(1, 1));
    let said = written(&mut agent);
    assert!(said.contains(&FromAgent::Worker(report(1, 1))), "nothing of the session before: {said:?}");
    for leave in [Leave::Tasks, Leave::Wall] {
        let mut agent = joined(Time(0));
        agent.hear(Time(1), stop(leave)).unwrap();
        orders(&mut agent);
        assert_eq!(bury(&mut agent, Time(2)), AGAIN);
    }
}

#[test]
fn an_agent_ends_with_the_worker_that_its_host_wants_no_successor_of() {
    for last in [stop(Leave::Idle), stop(Leave::Closing), ToAgent::End { again: false }] {
        let mut agent = joined(Time(0));
        agent.hear(Time(1), last.clone()).unwrap();
        assert_eq!(orders(&mut agent).len(), 1);
        assert_eq!(bury(&mut agent, Time(2)), END);
        // Its host need not stay for that.
        let mut agent = joined(Time(0));
        agent.hear(Time(1), last).unwrap();
        orders(&mut agent);
        agent.disconnected(Time(2));
        assert_eq!(orders(&mut agent), END);
    }
}

#[test]
fn an_agent_whose_host_missed_the_end_of_its_worker_tells_it_or_goes_on() {
    let refuse = ToAgent::Worker(ToWorker::Refuse { reason: "its session is over".into() });
    for (answer, then) in [(ToAgent::Resumed { received: 0 }, vec![]), (refuse, AGAIN.to_vec())] {
        let (mut agent, mut now) = (joined(Time(0)), Time(0));
        agent.died(None, Certificate::default());
        written(&mut agent);
        agent.disconnected(now);
        assert_eq!(wait(&mut agent, &mut now), [Order::Dial]);
        agent.connected(now);
        assert!(matches!(orders(&mut agent)[..], [Order::Greet { session: Some(_) }]));
        agent.hear(now, answer).unwrap();
        assert_eq!(orders(&mut agent), then);
        assert!(then.is_empty() == matches!(written(&mut agent)[..], [FromAgent::Died { .. }]));
    }
}

#[test]
fn an_agent_between_two_workers_ends_without_a_fault_when_it_is_not_wanted() {
    let between = || {
        let (mut agent, mut now) = (joined(Time(0)), Time(0));
        assert_eq!(bury(&mut agent, now), AGAIN);
        assert_eq!(wait(&mut agent, &mut now), [Order::Dial]);
        (agent, now)
    };
    let (mut agent, now) = between();
    agent.unanswered(now);
    assert_eq!(orders(&mut agent), [Order::End { why: Some("its controller has ended".into()), fault: false }]);
    let (mut agent, now) = between();
    agent.connected(now);
    orders(&mut agent);
    agent.hear(now, ToAgent::Worker(ToWorker::Refuse { reason: "enough".into() })).unwrap();
    assert_eq!(orders(&mut agent), [Order::End { why: Some("enough".into()), fault: false }]);
    // One that may still be there is dialled as after a cut.
    let (mut agent, mut now) = between();
    let begin = now;
    let mut last = vec![Order::Dial];
    while last == [Order::Dial] {
        agent.disconnected(now);
        last = wait(&mut agent, &mut now);
    }
    assert!(matches!(&last[..], [Order::End { why: Some(_), fault: false }]));
    assert_eq!(now, begin.after(60 * SECOND));
}

#[test]
fn nobody_listens_where_a_worker_lives_on_is_a_cut() {
    let (mut agent, mut now) = (joined(Time(0)), Time(0));
    agent.disconnected(now);
    assert_eq!(wait(&mut agent, &mut now), [Order::Dial]);
    agent.unanswered(now);
    assert_eq!(wait(&mut agent, &mut now), [Order::Dial]);
}

/// How long it takes to dial again after each of these deaths; before each the worker is left to do this.
fn pauses(count: usize, does: impl Fn(&mut AgentHalf, &mut Time)) -> Vec<u64> {
    let (mut agent, mut now) = (joined(Time(0)), Time(0));
    let mut pauses = Vec::new();
    for _ in 0..count {
        does(&mut agent, &mut now);
        assert_eq!(bury(&mut agent, now), AGAIN);
        let died = now;
        assert_eq!(wait(&mut agent, &mut now), [Order::Dial]);
        pauses.push(now.since(died).as_millis() as u64);
        rejoin(&mut agent, now);
    }
    pauses
}

#[test]
fn who_dies_again_and_again_at_once_calls_ever_more_slowly() {
    assert_eq!(pauses(9, |_, _| ()), [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    let works = |agent: &mut AgentHalf, _: &mut Time| {
        if let FromAgent::Worker(message) = finished(1) {
            agent.said(message);
        }
    };
    assert_eq!(pauses(3, works), [50, 50, 50]);
    assert_eq!(pauses(3, |_, now| *now = now.after(5 * SECOND)), [50, 50, 50]);
}

#[test]
fn a_worker_that_is_ended_before_it_is_welcome_never_starts() {
    let mut agent = AgentHalf::new(Time(0), SECOND, false);
    agent.connected(Time(0));
    agent.hear(Time(0), session()).unwrap();
    orders(&mut agent);
    agent.hear(Time(0), ToAgent::End { again: true }).unwrap();
    assert_eq!(orders(&mut agent), [Order::Kill]);
    agent.died(None, Certificate::default());
    agent.hear(Time(0), welcome()).unwrap();
    assert!(!orders(&mut agent).iter().any(|order| matches!(order, Order::Start { .. })));
}

#[test]
fn secrets_are_not_shown() {
    assert!(!format!("{:?}", session()).contains("1, 1"));
}
