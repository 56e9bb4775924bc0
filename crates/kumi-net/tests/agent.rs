//! The agent, in a real process, and a host that follows a script, over TLS on this machine: this binary runs itself again
//! as agent, and that as worker.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "agent/host.rs"]
mod host;

use std::env;
use std::ffi::CString;
use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::time::Duration;

use common::wait_for;
use host::{Host, PYTHON, Place, myself};
use kumi_core::{FromAgent, FromWorker, Job, Lease, Leave, Payload, Run, ToAgent, ToWorker};
use kumi_net::agent::{self, Ended, Plan};
use kumi_net::parcel;
use kumi_net::segments::Memory;
use kumi_net::spawn::Command;
use kumi_net::tls::{self, Trust};
use kumi_net::worker::{Finished, Next, WorkerEnd};

/// So many lines of 4 KiB are more than all pipes and buffers between a task and who reads its output.
const FLOOD: usize = 1000;

/// An agent by the plan in the environment. It exits with 0 if its host has ended it, 1 after an error, which it prints.
#[test]
#[ignore = "a role, started by the tests below"]
fn role_agent() {
    let Ok(address) = env::var("ADDRESS") else { return };
    let (host, port) = address.split_once(':').unwrap();
    let said = |name: &str| env::var(name).unwrap();
    let words = |list: Vec<String>| list.into_iter().map(|word| CString::new(word).unwrap()).collect();
    let plan = Plan {
        host: host.into(),
        port: port.parse().unwrap(),
        config: tls::client(Trust::Fingerprint(said("FINGERPRINT").parse().unwrap())).unwrap(),
        code: said("CODE").parse().unwrap(),
        index: None,
        command: Command {
            argv: words(myself(&said("ROLE")).into()),
            environment: words(env::vars().map(|(name, value)| format!("{name}={value}")).collect()),
            directory: None,
        },
        python: PYTHON,
        machine: "there".into(),
        patience: Duration::from_millis(said("PATIENCE").parse().unwrap()),
        shelf: None,
        talkative: true,
    };
    match agent::run(plan) {
        Ok(Ended::ByHost) => std::process::exit(0),
        Ok(Ended::BySignal(signal)) => std::process::exit(128 + signal),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1)
        }
    }
}

/// A worker whose tasks are words: see `work`.
#[test]
#[ignore = "a role, started by agents"]
fn role_worker() {
    if env::var("KUMI_WORKER").is_err() {
        return;
    }
    let end = WorkerEnd::inherit(PYTHON, "there".into()).unwrap();
    loop {
        match end.take().unwrap() {
            Next::Job(Job::Run { lease, slot, payload, .. }, memory) => {
                let memory = memory.map(|memory| {
                    let (start, length) = memory.memory();
                    // SAFETY: mapped, and nobody else writes to it.
                    unsafe { std::slice::from_raw_parts(start, length) }.iter().map(|byte| u64::from(*byte)).sum()
                });
                if *payload == *b"lend" {
                    let (segment, _) = end.reserve(1 << 20).unwrap();
                    let (payload, run) = (Payload::default(), Run::default());
                    let segment = Some((segment, 1 << 20));
                    end.finish(slot, Finished { lease, success: true, run, payload, segment }).unwrap();
                    continue;
                }
                let answer = work(&String::from_utf8_lossy(&payload), memory);
                let run = Run { started: 1, nanoseconds: 1_000_000, notes: None };
                end.finish(slot, Finished { lease, success: true, run, payload: answer, segment: None }).unwrap();
            }
            Next::Job(..) => {}
            Next::Leave(_) => std::process::exit(0),
            Next::Wait => drop(end.wait(None, |half| half.has_job() || half.leaving().is_some()).unwrap()),
        }
    }
}

/// One of another version of Python.
#[test]
#[ignore = "a role, started by agents"]
fn role_foreigner() {
    if env::var("KUMI_WORKER").is_ok() {
        let end = WorkerEnd::inherit((3, 12), "there".into()).unwrap();
        end.wait(None, |_| false).unwrap();
    }
}

/// One that ends before it says anything.
#[test]
#[ignore = "a role, started by agents"]
fn role_dud() {
    if env::var("KUMI_WORKER").is_ok() {
        eprintln!("no module named kumi");
        std::process::exit(3);
    }
}

#[allow(clippy::zombie_processes, reason = "to be killed with the worker is its purpose")]
fn work(words: &str, memory: Option<u64>) -> Payload {
    match words.split_once(' ').unwrap_or((words, "")) {
        ("echo", text) => Arc::from(text.as_bytes()),
        ("sum", _) => Arc::from(memory.unwrap().to_string().as_bytes()),
        ("print", text) => {
            println!("{text}");
            Arc::from([])
        }
        ("flood", _) => {
            (0..FLOOD).for_each(|_| println!("{:4095}", "."));
            Arc::from([])
        }
        ("child", _) => {
            let child = std::process::Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();
            Arc::from(format!("{} {}", std::process::id(), child.id()).as_bytes())
        }
        ("die", text) => {
            eprintln!("{text}");
            std::process::abort()
        }
        ("large", _) => vec![7; 9_000_000].into(),
        // Until it is killed.
        _ => loop {
            std::thread::park();
        },
    }
}

#[test]
fn a_worker_runs_tasks_and_ends_with_its_agent() {
    let host = Host::new();
    let mut agent = host.agent();
    let mut peer = host.admit();
    peer.run(1, "echo hello");
    assert_eq!(peer.answer(), (1, Arc::from(&b"hello"[..])));
    peer.run(2, "large");
    let (lease, payload) = peer.answer();
    assert!(lease == 2 && payload.len() == 9_000_000 && payload.iter().all(|byte| *byte == 7));
    peer.tell(ToWorker::Stop { leave: Leave::Closing });
    let (begun, certificate) = peer.last(3);
    assert_eq!((begun, certificate.exit_code, certificate.cause.as_str()), (None, Some(0), "exited with code 0"));
    let joined = format!("kumi worker: connected to {} as crew-1\n", host.place.address);
    assert_eq!(agent.end(), (Some(0), joined + "kumi worker: worker crew-1 has ended: exited with code 0\n"));
}

#[test]
fn a_large_argument_lies_in_a_segment_on_the_agents_side() {
    let host = Host::new();
    let mut agent = host.agent();
    let mut peer = host.admit();
    for lease in 1..=3 {
        // In parts, since it is above a MiB.
        let mut payload = [b"sum .".as_slice(), &vec![lease as u8; 3_000_000]].concat();
        parcel::seal_whole(&mut payload, &[3_000_000]);
        peer.deal(lease, &payload);
        assert_eq!(peer.answer(), (lease, Arc::from((lease * 3_000_000).to_string().as_bytes())));
    }
    peer.say(&ToAgent::End { again: false });
    assert_eq!(peer.last(4).1.signal, Some(libc::SIGKILL));
    assert_eq!(agent.end().0, Some(0));
}

#[test]
fn what_waits_is_taken_back_through_the_page_and_what_runs_is_not() {
    let host = Host::new();
    let _agent = host.agent();
    let mut peer = host.admit();
    peer.run(1, "print begun");
    peer.answer();
    peer.run(2, "park");
    peer.run(3, "echo never");
    peer.tell(ToWorker::Recall { lease: Lease(3) });
    let recalled = |lease, back| Some(FromAgent::Worker(FromWorker::Recalled { lease: Lease(lease), back }));
    assert_eq!(peer.next(), recalled(3, true));
    peer.tell(ToWorker::Ping);
    // A busy worker does not delay the agent.
    let mut came = peer.next();
    if let Some(FromAgent::Ack { .. }) = came {
        came = peer.next();
    }
    assert_eq!(came, Some(FromAgent::Worker(FromWorker::Heartbeat)));
}

#[test]
fn after_a_cut_the_rest_is_sent_again_and_nothing_twice() {
    let host = Host::new();
    let mut agent = host.agent();
    let mut peer = host.admit();
    for lease in 1..=3 {
        peer.run(lease, "echo x");
        assert_eq!(peer.answer().0, lease);
    }
    peer.run(4, "large");
    // Cut where nobody knows how far the last one came. The host has, it says, only the hello and the first.
    drop(peer);
    let (mut peer, received) = host.resume();
    assert!((4..=5).contains(&received), "Welcome, and three tasks or four: {received}");
    peer.say(&ToAgent::Resumed { received: 2 });
    if received == 4 {
        peer.run(4, "large");
    }
    peer.run(5, "echo last");
    let leases: Vec<_> = (0..4).map(|_| peer.answer().0).collect();
    assert_eq!(leases, [2, 3, 4, 5]);
    peer.say(&ToAgent::End { again: false });
    peer.last(6);
    let (code, text) = agent.end();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("; trying again\n") && text.contains("kumi worker: connected again\n"), "{text}");
}

#[test]
fn a_host_that_says_nothing_is_dialled_again() {
    let host = Host::new();
    let _agent = host.agent();
    let mut peer = host.admit_for(100, 30_000);
    while peer.next().is_some() {}
    // It has closed the connection.
    let (mut peer, received) = host.resume();
    assert_eq!(received, 1);
    peer.say(&ToAgent::Resumed { received: 0 });
    peer.run(1, "echo here");
    assert_eq!(peer.answer().0, 1);
}

#[test]
fn a_host_that_is_gone_for_long_ends_worker_and_agent() {
    let host = Host::new();
    let mut agent = host.agent();
    let mut peer = host.admit_for(30_000, 200);
    let family = host.family(&mut peer);
    let address = host.place.address;
    drop((host, peer));
    let (code, text) = agent.end();
    assert_eq!(code, Some(1));
    let fault = format!("{address}: the host could not be reached for 0.2 s: it has ended, or the network fails");
    assert!(text.contains(&format!("{fault}; the last attempt: {}: Connection refused", address.ip())), "{text}");
    family.iter().for_each(wait_for);
}

#[test]
fn who_was_never_reached_is_given_up() {
    let place = Host::new().place;
    let (code, text) = place.agent("role_worker", Duration::from_millis(200)).end();
    assert_eq!(code, Some(1));
    assert!(text.ends_with(": Connection refused (os error 111)\n"), "{text}");
}

#[test]
fn who_shows_another_certificate_is_told_from_the_host_at_once() {
    let (host, other) = (Host::new(), Host::new());
    let place = Place { address: host.place.address, ..other.place };
    let mut agent = place.agent("role_worker", Duration::from_secs(30));
    assert_eq!(host.accept().next(), None);
    let (code, text) = agent.end();
    assert_eq!(code, Some(1));
    let [wanted, shown] = [place.fingerprint, host.place.fingerprint].map(|one| one.to_string());
    assert!(text.contains(&wanted) && text.contains(&shown), "{text}");
}

#[test]
fn a_refusal_ends_it_with_the_hosts_words() {
    let host = Host::new();
    let mut agent = host.agent();
    let (mut peer, _) = host.hear(&host.place.code.secret);
    peer.tell(ToWorker::Refuse { reason: "the join code is used up".into() });
    drop(peer);
    let text = "the host has refused this worker: the join code is used up\n";
    assert_eq!(agent.end(), (Some(1), text.into()));
}

#[test]
fn what_a_host_says_before_it_has_let_it_in_is_short_and_no_task() {
    let host = Host::new();
    let _agent = host.agent();
    let (mut peer, first) = host.hear(&host.place.code.secret);
    peer.tell(ToWorker::Refuse { reason: "x".repeat(2000) });
    assert_eq!(peer.next(), None, "too long");
    let (mut peer, _) = host.hear(&host.place.code.secret);
    peer.tell(ToWorker::Stop { leave: Leave::Idle });
    assert_eq!(peer.next(), None, "out of place");
    let (_peer, last) = host.hear(&host.place.code.secret);
    assert_eq!(incarnation(&first), incarnation(&last), "the host may know that it is the same agent");
}

fn incarnation(claim: &FromAgent) -> u64 {
    match claim {
        FromAgent::Prove { incarnation, .. } => *incarnation,
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn how_a_worker_died_is_told_with_the_task_it_was_at() {
    let host = Host::new();
    let mut agent = host.agent();
    let mut peer = host.admit();
    peer.run(1, "echo before");
    peer.run(2, "die oh no");
    peer.run(3, "echo never");
    assert_eq!(peer.answer().0, 1);
    let (begun, certificate) = peer.last(2);
    assert_eq!((begun, certificate.signal), (Some(2), Some(libc::SIGABRT)));
    assert!(certificate.stderr.ends_with("oh no"), "{certificate:?}");
    assert_eq!((certificate.host.as_deref(), certificate.pid.is_some()), (Some("there"), true));
    drop((host, peer));
    let (code, text) = agent.end();
    assert_eq!(code, Some(0), "the host has heard of it");
    assert!(text.contains("\noh no\n") && text.contains("(SIGABRT)\n"), "{text}");
}

#[test]
fn after_a_worker_that_was_not_the_last_another_one_comes_in_a_session_of_its_own() {
    let host = Host::new();
    let mut agent = host.agent();
    let (mut peer, first) = host.hear(&host.place.code.secret);
    for (words, cause) in [("die", "killed by signal 6 (SIGABRT)"), ("park", "killed by signal 9 (SIGKILL)")] {
        peer.welcome(30_000, 30_000);
        let family = host.family(&mut peer);
        peer.run(2, words);
        if words == "park" {
            peer.say(&ToAgent::End { again: true });
        }
        assert_eq!(peer.last(2).1.cause, cause);
        family.iter().for_each(wait_for);
        let again;
        (peer, again) = host.hear(&host.place.code.secret);
        assert_eq!(incarnation(&again), incarnation(&first), "it is the same agent");
    }
    for leave in [Leave::Tasks, Leave::Wall] {
        peer.welcome(30_000, 30_000);
        peer.run(1, "echo here");
        assert_eq!(peer.answer().0, 1);
        peer.tell(ToWorker::Stop { leave });
        assert_eq!(peer.last(2).1.exit_code, Some(0));
        peer = host.hear(&host.place.code.secret).0;
    }
    peer.welcome(30_000, 30_000);
    peer.tell(ToWorker::Stop { leave: Leave::Idle });
    peer.last(1);
    assert_eq!(agent.end().0, Some(0));
}

#[test]
fn between_two_workers_it_is_no_fault_that_the_host_is_gone_or_wants_no_more() {
    let (host, other) = (Host::new(), Host::new());
    let (mut agent, mut dismissed) = (host.agent(), other.agent());
    for host in [&host, &other] {
        let mut peer = host.admit();
        peer.run(1, "die");
        peer.last(1);
    }
    let address = host.place.address;
    drop(host);
    let (code, text) = agent.end();
    assert_eq!(code, Some(0));
    assert!(text.contains(&format!("kumi worker: {address}: its controller has ended; the last attempt:")), "{text}");
    let (mut peer, _) = other.hear(&other.place.code.secret);
    peer.tell(ToWorker::Refuse { reason: "enough".into() });
    let (code, text) = dismissed.end();
    assert_eq!(code, Some(0));
    assert!(text.ends_with("kumi worker: the host has refused this worker: enough\n"), "{text}");
}

#[test]
fn a_host_that_has_ended_it_need_not_stay_for_that() {
    for last in [
        ToAgent::End { again: false },
        ToAgent::Worker(ToWorker::Stop { leave: Leave::Closing }),
        ToAgent::Worker(ToWorker::Stop { leave: Leave::Idle }),
    ] {
        let host = Host::new();
        let mut agent = host.agent();
        let mut peer = host.admit();
        let family = host.family(&mut peer);
        peer.run(2, "park");
        peer.say(&last);
        drop((host, peer));
        assert_eq!(agent.end().0, Some(0), "{last:?}");
        family.iter().for_each(wait_for);
    }
}

#[test]
fn a_worker_that_does_not_come_up_is_a_death_like_any_other() {
    let host = Host::new();
    for (role, cause) in [
        ("role_dud", "exited with code 3"),
        ("role_foreigner", "killed by signal 9 (SIGKILL), because the worker runs Python 3.12, the host Python 3.11: "),
    ] {
        let mut agent = host.agent_as(role);
        let mut peer = host.admit();
        peer.run(1, "echo never");
        let (begun, certificate) = peer.last(0);
        assert!(begun.is_none() && certificate.cause.starts_with(cause), "{certificate:?}");
        let mut peer = host.admit();
        peer.say(&ToAgent::End { again: false });
        peer.last(0);
        assert_eq!(agent.end().0, Some(0));
    }
}

#[test]
fn a_worker_that_lends_is_ended_for_that() {
    let host = Host::new();
    let _agent = host.agent();
    let mut peer = host.admit();
    peer.run(1, "lend");
    let cause = "killed by signal 9 (SIGKILL), because it lent a segment, and was to send its results whole";
    assert_eq!(peer.last(1).1.cause, cause);
}

#[test]
fn the_host_ends_a_worker_with_all_that_it_started() {
    let host = Host::new();
    let mut agent = host.agent();
    let mut peer = host.admit();
    let family = host.family(&mut peer);
    peer.say(&ToAgent::End { again: false });
    assert_eq!(peer.last(2).1.cause, "killed by signal 9 (SIGKILL)");
    family.iter().for_each(wait_for);
    assert_eq!(agent.end().0, Some(0));
}

#[test]
fn a_signal_ends_all_and_the_host_hears_of_it() {
    let host = Host::new();
    for (signal, name) in [(libc::SIGTERM, "SIGTERM"), (libc::SIGINT, "SIGINT"), (libc::SIGHUP, "SIGHUP")] {
        let mut agent = host.agent();
        let mut peer = host.admit();
        let family = host.family(&mut peer);
        agent.signal(signal);
        let (_, certificate) = peer.last(2);
        let cause = format!("killed by signal 9 (SIGKILL), because its agent was told to end by {name}");
        assert_eq!(certificate.cause, cause);
        assert_eq!(agent.end().0, Some(128 + signal));
        family.iter().for_each(wait_for);
    }
}

#[test]
fn a_signal_ends_an_agent_that_is_not_let_in() {
    let host = Host::new();
    let mut agent = host.agent();
    let _peer = host.hear(&host.place.code.secret);
    agent.signal(libc::SIGTERM);
    assert_eq!(agent.end().0, Some(128 + libc::SIGTERM));
}

#[test]
fn when_an_agent_is_killed_its_worker_and_its_children_end() {
    let host = Host::new();
    let agent = host.agent();
    let mut peer = host.admit();
    let family = host.family(&mut peer);
    agent.signal(libc::SIGKILL);
    family.iter().for_each(wait_for);
    assert_eq!(peer.next(), None);
}

#[test]
fn output_that_nobody_reads_holds_up_the_task_and_not_the_agent() {
    let host = Host::new();
    let mut agent = host.agent();
    let mut peer = host.admit();
    peer.run(1, "flood");
    peer.tell(ToWorker::Ping);
    assert_eq!(peer.next(), Some(FromAgent::Worker(FromWorker::Heartbeat)), "and no answer of the task");
    let mut lines = BufReader::new(agent.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.by_ref().filter(|line| line.len() == 4095).take(FLOOD).count(), FLOOD);
    assert_eq!(peer.answer().0, 1);
}
