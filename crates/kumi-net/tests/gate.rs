//! Workers that dial in, with a scripted agent at the other end; and those who are to be kept out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "gate/agent.rs"]
mod agent;
mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use agent::{Agent, Gate, HOUR, Line, gate, policy};
use common::LIMIT;
use kumi_core::{Certificate, FromAgent, FromWorker, Lease, Outcome, PROTOCOL, Run, Staff, Ticket, ToAgent, ToWorker};
use kumi_net::gate::UNPROVED_MAX;
use kumi_net::proof::JoinCode;

/// Bytes that the host has no use for end in the end of the connection.
fn is_hung_up(mut socket: TcpStream) -> bool {
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// A task goes to this worker and comes back.
fn works(host: &Gate, (agent, line): (&mut Agent, &mut Line)) {
    let task = host.submit(b"x");
    let (lease, payload) = agent.take(line);
    assert_eq!(*payload, *b"x");
    agent.finish(line, lease, b"y");
    assert_eq!(host.outcome(task), Outcome::Success((*b"y").into()));
}

#[test]
fn a_worker_that_proves_a_join_code_gets_tasks() {
    let host = gate(policy(4, Staff::ByHand));
    let (mut agent, mut line) = host.join(&host.code(1), 1);
    works(&host, (&mut agent, &mut line));
    works(&host, (&mut agent, &mut line));
    assert_eq!(host.workers(), 1);
}

#[test]
fn a_large_payload_goes_in_parts_and_a_large_result_comes() {
    let host = gate(policy(4, Staff::ByHand));
    let (mut agent, mut line) = host.join(&host.code(1), 1);
    let large: Vec<u8> = (0..9_000_000_u32).map(|byte| byte as u8).collect();
    let task = host.submit(&large);
    let (lease, payload) = agent.take(&mut line);
    assert!(*payload == *large);
    agent.finish(&mut line, lease, &large);
    while agent.stream.wants_write() {
        agent.stream.flush().unwrap();
    }
    assert!(host.outcome(task) == Outcome::Success(large.into()));
}

#[test]
fn a_session_goes_on_over_another_connection_and_nothing_is_said_twice() {
    let host = gate(policy(4, Staff::ByHand));
    let (mut agent, mut line) = host.join(&host.code(1), 1);
    let task = host.submit(b"x");
    let (lease, _) = agent.take(&mut line);
    drop(agent);
    line.talk.cut();
    // Said while there is no connection.
    line.talk.send(FromAgent::Worker(FromWorker::Finished {
        lease,
        success: true,
        run: Run { started: 1, nanoseconds: 1, notes: None },
        payload: (*b"y").into(),
    }));
    let mut agent = host.dial();
    agent.hello();
    agent.resume(&line);
    let message = agent.next();
    let Some(ToAgent::Resumed { received }) = message else { panic!("{message:?}") };
    line.talk.resume(received).unwrap();
    agent.send(&mut line);
    assert_eq!(host.outcome(task), Outcome::Success((*b"y").into()));
    works(&host, (&mut agent, &mut line));
    assert_eq!(host.pool.with(|state, _| state.brain.counts().launched), 1);
}

#[test]
fn a_newer_connection_of_a_session_takes_the_place_of_the_older() {
    let host = gate(policy(4, Staff::ByHand));
    let (mut old, mut line) = host.join(&host.code(1), 1);
    let mut new = host.dial();
    new.hello();
    new.resume(&line);
    assert!(matches!(new.next(), Some(ToAgent::Resumed { .. })));
    while old.next().is_some() {}
    works(&host, (&mut new, &mut line));
}

#[test]
fn an_agent_tells_how_its_worker_died_and_the_task_runs_elsewhere() {
    let host = gate(policy(4, Staff::ByHand));
    let code = host.code(2);
    let (mut agent, mut line) = host.join(&code, 1);
    let task = host.submit(b"x");
    let (lease, _) = agent.take(&mut line);
    let certificate = Certificate { cause: "killed by signal 9".into(), ..Certificate::default() };
    line.talk.send(FromAgent::Died { begun: Some(lease), certificate });
    agent.send(&mut line);
    // All has come, and the host hangs up.
    let mut acknowledged = 0;
    while let Some(message) = agent.next() {
        if let ToAgent::Ack { received } = message {
            acknowledged = received;
        }
    }
    assert_eq!(acknowledged, 1);
    let (mut other, mut line) = host.join(&code, 2);
    let (lease, _) = other.take(&mut line);
    let certificate = Certificate { cause: "killed by signal 9".into(), ..Certificate::default() };
    line.talk.send(FromAgent::Died { begun: Some(lease), certificate: certificate.clone() });
    other.send(&mut line);
    assert_eq!(host.outcome(task), Outcome::Crash(certificate.into()), "its second crash");
}

#[test]
fn a_silent_worker_is_cut_off_and_what_it_held_runs_elsewhere_when_it_stays_away() {
    let millis = Duration::from_millis;
    let policy = policy(4, Staff::ByHand);
    let host =
        gate(kumi_core::Policy { heartbeat: millis(20), silence: millis(100), reconnect: millis(200), ..policy });
    let code = host.code(2);
    let (mut agent, mut line) = host.join(&code, 1);
    let task = host.submit(b"x");
    agent.take(&mut line);
    // It says nothing more.
    while agent.next().is_some() {}
    let (mut other, mut new) = host.join(&code, 2);
    let (lease, _) = other.take(&mut new);
    other.finish(&mut new, lease, b"y");
    assert_eq!(host.outcome(task), Outcome::Success((*b"y").into()));
    let mut late = host.dial();
    late.hello();
    late.resume(&line);
    assert!(late.refusal().contains("its session is over"));
}

#[test]
fn what_is_no_session_any_more_cannot_be_resumed_and_nobody_else_s_key_helps() {
    let host = gate(policy(4, Staff::ByHand));
    let (mut agent, mut line) = host.join(&host.code(1), 1);
    let mut thief = host.dial();
    thief.hello();
    let key = host.code(1).secret;
    thief.resume(&Line { session: line.session, key, talk: kumi_core::Session::default() });
    assert!(thief.refusal().contains("its session is over"));
    works(&host, (&mut agent, &mut line));
}

#[test]
fn a_launch_has_one_worker_in_each_place_and_a_second_one_is_refused_while_the_first_lives() {
    let host = gate(policy(1, Staff::Launched));
    let task = host.submit(b"x");
    let launches = host.pool.with(|state, _| state.take_orders()).expect("a worker is wanted");
    let ticket: JoinCode = host.pool.issue(|_| Ticket::Launch { places: launches.launch }).unwrap();
    let (mut agent, mut line) = host.join(&ticket, 1);
    let (lease, _) = agent.take(&mut line);
    let mut second = host.dial();
    second.hello();
    second.prove(&ticket, 0, 2);
    // Asked for a sign of life, the first gives one.
    let message = agent.next().unwrap();
    assert_eq!(message, ToAgent::Worker(kumi_core::ToWorker::Ping));
    agent.tell(&mut line, FromWorker::Heartbeat);
    assert!(second.refusal().contains("has a worker that is alive"));
    let mut third = host.dial();
    third.hello();
    third.prove(&ticket, 1, 3);
    assert!(third.refusal().contains("no worker of this index"));
    agent.finish(&mut line, lease, b"y");
    assert_eq!(host.outcome(task), Outcome::Success((*b"y").into()));
}

#[test]
fn an_agent_that_calls_again_before_it_heard_the_answer_is_the_same_worker() {
    let host = gate(policy(4, Staff::ByHand));
    let code = host.code(1);
    let mut first = host.dial();
    first.hello();
    first.prove(&code, 0, 1);
    drop(first);
    let (mut agent, mut line) = host.join(&code, 1);
    works(&host, (&mut agent, &mut line));
    assert_eq!(host.pool.with(|state, _| state.brain.counts().launched), 1);
}

/// Its worker has died: says so, and hears that the host knows.
fn dies((mut agent, mut line): (Agent, Line)) {
    line.talk.send(FromAgent::Died { begun: None, certificate: Certificate::default() });
    agent.send(&mut line);
    while agent.next().is_some() {}
}

#[test]
fn an_agent_whose_worker_has_died_is_let_in_again_by_a_code_that_is_used_up() {
    let host = gate(policy(4, Staff::ByHand));
    let code = host.code(1);
    dies(host.join(&code, 1));
    let (mut agent, mut line) = host.join(&code, 1);
    works(&host, (&mut agent, &mut line));
    let mut other = host.dial();
    other.hello();
    other.prove(&code, 0, 2);
    assert!(other.refusal().contains("used up"));
    assert_eq!(host.pool.with(|state, _| state.brain.counts().launched), 2);
}

#[test]
fn an_agent_goes_on_after_a_deaf_task_and_not_after_the_end_of_the_controller() {
    let host = gate(kumi_core::Policy { kill: Duration::from_millis(20), ..policy(4, Staff::ByHand) });
    let code = host.code(1);
    let (mut agent, mut line) = host.join(&code, 1);
    let task = host.submit(b"x");
    agent.take(&mut line);
    host.pool.with(|state, now| state.brain.cancel(now, task));
    assert_eq!(last_order((&mut agent, &mut line)), ToAgent::End { again: true });
    dies((agent, line));
    let (mut agent, mut line) = host.join(&code, 1);
    host.pool.with(|state, now| state.brain.terminate(now));
    assert_eq!(last_order((&mut agent, &mut line)), ToAgent::End { again: false });
}

/// With which its worker is to be ended, which is deaf.
fn last_order((agent, line): (&mut Agent, &mut Line)) -> ToAgent {
    loop {
        match agent.next() {
            Some(ToAgent::Worker(ToWorker::Recall { lease })) => {
                agent.tell(line, FromWorker::Recalled { lease, back: false });
            }
            Some(end @ ToAgent::End { .. }) => return end,
            Some(_) => {}
            None => panic!("the host has hung up"),
        }
    }
}

// Attacks. Each is refused, and a worker that is there works on.

fn attacked(attack: impl FnOnce(&Gate)) {
    let host = gate(policy(4, Staff::ByHand));
    let (mut agent, mut line) = host.join(&host.code(1), 1);
    attack(&host);
    works(&host, (&mut agent, &mut line));
    assert_eq!(host.workers(), 1);
}

#[test]
fn random_bytes_are_no_handshake() {
    attacked(|host| {
        let mut socket = TcpStream::connect(host.address).unwrap();
        let noise: Vec<u8> = (0..4096_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        // The host may hang up while it is written.
        let _ = socket.write_all(&noise);
        assert!(is_hung_up(socket));
    });
}

#[test]
fn a_request_of_the_web_is_no_handshake() {
    attacked(|host| {
        let mut socket = TcpStream::connect(host.address).unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\nHost: kumi\r\n\r\n").unwrap();
        assert!(is_hung_up(socket));
    });
}

#[test]
fn half_a_handshake_that_ends_is_forgotten() {
    attacked(|host| {
        let mut socket = TcpStream::connect(host.address).unwrap();
        // A record of 512 bytes is announced, and its first bytes come.
        socket.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        assert!(is_hung_up(socket));
    });
}

#[test]
fn whoever_has_not_proved_himself_in_time_is_hung_up_on_however_he_dawdles() {
    attacked(|host| {
        let silent = TcpStream::connect(host.address).unwrap();
        let mut slow = TcpStream::connect(host.address).unwrap();
        slow.write_all(&[22]).unwrap();
        // One that has made the handshake, and says who he is, and no more.
        let mut polite = host.dial();
        polite.hello();
        assert!(is_hung_up(silent) && is_hung_up(slow));
        assert_eq!(polite.next(), None);
    });
}

#[test]
fn frames_of_strangers_are_short_and_whole() {
    let frames: [&[u8]; 4] = [
        &u32::MAX.to_le_bytes(),
        &2000_u32.to_le_bytes(),
        // A part of nothing, an unknown kind.
        &[2, 0, 0, 0, 255, 1],
        &[1, 0, 0, 0, 77],
    ];
    attacked(|host| {
        for frame in frames {
            let mut agent = host.dial();
            agent.write(frame);
            assert_eq!(agent.next(), None, "{frame:?}");
        }
    });
}

#[test]
fn nothing_is_heard_of_a_stranger_but_who_he_is() {
    let finished = FromWorker::Finished {
        lease: Lease(1),
        success: true,
        run: Run { started: 1, nanoseconds: 1, notes: None },
        payload: (*b"evil").into(),
    };
    attacked(|host| {
        let mut agent = host.dial();
        agent.say(&FromAgent::Worker(finished.clone()));
        assert_eq!(agent.next(), None);
        let mut agent = host.dial();
        agent.hello();
        agent.say(&FromAgent::Worker(finished));
        assert_eq!(agent.next(), None);
        let mut agent = host.dial();
        agent.prove(&host.code(1), 0, 2);
        assert_eq!(agent.next(), None, "a proof without a greeting");
    });
}

#[test]
fn a_client_without_the_secret_is_refused() {
    attacked(|host| {
        let mut code = host.code(1);
        code.secret = kumi_core::Secret([7; 32]);
        let mut agent = host.dial();
        agent.hello();
        agent.prove(&code, 0, 2);
        assert!(agent.refusal().contains("join code"));
        let mut agent = host.dial();
        agent.hello();
        agent.prove(&JoinCode { ticket: 99, ..code }, 0, 2);
        assert!(agent.refusal().contains("join code"));
    });
}

#[test]
fn a_proof_is_worth_nothing_on_another_connection() {
    attacked(|host| {
        let code = host.code(2);
        let mut agent = host.dial();
        agent.hello();
        let claim = agent.prove(&code, 0, 2);
        let line = agent.line();
        line.talk.kept();
        let mut replayer = host.dial();
        replayer.hello();
        replayer.say(&claim);
        assert!(replayer.refusal().contains("join code"));
        // It leaves, so that one worker is left.
        let (begun, certificate) = (None, Certificate::default());
        let mut line = line;
        line.talk.send(FromAgent::Died { begun, certificate });
        agent.send(&mut line);
        while agent.next().is_some() {}
    });
}

#[test]
fn a_join_code_lets_in_no_more_than_it_has_uses_and_nobody_after_its_time() {
    attacked(|host| {
        let mut agent = host.dial();
        agent.hello();
        agent.prove(&host.pool.issue_code(0, HOUR).unwrap(), 0, 2);
        assert!(agent.refusal().contains("used up: make another one"));
        let mut agent = host.dial();
        agent.hello();
        agent.prove(&host.pool.issue_code(1, Duration::ZERO).unwrap(), 0, 2);
        assert!(agent.refusal().contains("expired"));
    });
}

#[test]
fn another_version_of_python_or_of_the_protocol_is_told_what_to_do() {
    attacked(|host| {
        for (version, python, text) in
            [(PROTOCOL - 1, (3, 11), "same version of kumi"), (PROTOCOL, (3, 12), "Python 3.12")]
        {
            let mut agent = host.dial();
            agent.say(&FromAgent::Worker(FromWorker::Hello { version, python, pid: 1, host: "there".into() }));
            let refusal = agent.refusal();
            assert!(refusal.contains(text), "{refusal}");
        }
    });
}

#[test]
fn a_worker_that_breaks_the_rules_loses_its_connection_and_nobody_else_does() {
    attacked(|host| {
        let (mut agent, mut line) = host.join(&host.code(1), 2);
        agent.say(&FromAgent::Ack { received: 1_000_000 });
        while agent.next().is_some() {}
        // It may come back.
        let mut agent = host.dial();
        agent.hello();
        agent.resume(&line);
        assert!(matches!(agent.next(), Some(ToAgent::Resumed { .. })));
        line.talk.send(FromAgent::Died { begun: None, certificate: Certificate::default() });
        agent.send(&mut line);
        while agent.next().is_some() {}
    });
}

#[test]
fn thousands_who_say_nothing_keep_nobody_out_and_take_no_memory() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid local, of which the second call takes what the first has found.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
    let many = usize::try_from(limit.rlim_cur.saturating_sub(1_000)).unwrap().min(10_000);
    attacked(|host| {
        let before = resident();
        let sockets: Vec<_> = (0..many).map(|_| TcpStream::connect(host.address).unwrap()).collect();
        // In the midst of them one that can prove itself is let in at once.
        let (mut agent, mut line) = host.join(&host.code(1), 2);
        let open = sockets.iter().filter(|socket| is_open(socket)).count();
        assert!(open <= UNPROVED_MAX, "{open} of {many} are still open");
        assert!(resident().saturating_sub(before) < 64 << 20, "of {many} something is kept");
        line.talk.send(FromAgent::Died { begun: None, certificate: Certificate::default() });
        agent.send(&mut line);
        while agent.next().is_some() {}
    });
}

fn is_open(socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    matches!(socket.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
