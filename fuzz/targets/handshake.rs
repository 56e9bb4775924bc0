//! Two strangers: what a host hears before anybody is proved, and what a host may say to an agent at any moment.
//!
//! The host's decoder takes nothing that is long, however it is cut. An agent obeys nobody who has not let it in, never acts
//! after its end, and its session with an honest host carries every message once.
#![no_main]

use std::time::Duration;

use kumi_core::agent_message::UNPROVED;
use kumi_core::frame::Wire;
use kumi_core::{AgentHalf, Certificate, Decoder, FromAgent, FromWorker, Order, Session, Time, ToAgent};
use kumi_fuzz::{Make, stream};
use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    match input.0 % 3 {
        0 => stranger(input.1),
        1 => agent(&mut Unstructured::new(input.1)),
        _ => pair(&mut Unstructured::new(input.1)),
    }
});

/// Whatever comes before the proof.
fn stranger(input: &[u8]) {
    let bytes = stream::<FromAgent>(&mut Unstructured::new(input));
    let mut decoder = Decoder::<FromAgent>::limited(UNPROVED, 0);
    for piece in bytes.chunks(1500) {
        decoder.feed(piece);
        loop {
            match decoder.next() {
                Ok(Some(message)) => {
                    let mut again = Vec::new();
                    message.encode(&mut again);
                    assert!(again.len() <= UNPROVED + 4, "longer than is allowed");
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// A host that says anything, to an agent whose worker does anything.
fn agent(input: &mut Unstructured) {
    let mut now = Time(0);
    let mut agent = AgentHalf::new(now, Duration::from_secs(60), false);
    let (mut let_in, mut over, mut bytes) = (false, false, Vec::new());
    while !input.is_empty() {
        match input.int_in_range(0..=8) {
            Ok(0) => agent.connected(now),
            Ok(1) => agent.disconnected(now),
            Ok(8) => agent.unanswered(now),
            Ok(2) => {
                now = agent.next_timeout().unwrap_or(now).max(now);
                agent.tick(now);
            }
            Ok(3) => match FromWorker::make(input) {
                Ok(message) => agent.said(message),
                Err(_) => break,
            },
            Ok(4) => agent.died(None, Certificate::default()),
            Ok(_) => match ToAgent::make(input) {
                Ok(message) => {
                    let opens = matches!(message, ToAgent::Session { .. });
                    let_in |= agent.hear(now, message).is_ok() && opens;
                }
                Err(_) => break,
            },
            Err(_) => break,
        }
        while let Some(order) = agent.next_order() {
            assert!(!over, "{order:?} after the end");
            match order {
                Order::End { .. } => over = true,
                Order::Start { .. } | Order::Tell(_) | Order::Recall { .. } | Order::Kill => {
                    assert!(let_in, "{order:?} for a stranger");
                }
                Order::Dial | Order::Greet { .. } | Order::HangUp { .. } => {}
            }
        }
        bytes.clear();
        while agent.write(&mut bytes) {
            assert!(let_in, "a word to a stranger");
        }
    }
}

/// Two honest ends of a session, and a line that is cut at any byte.
fn pair(input: &mut Unstructured) {
    let (mut host, mut agent) = (Session::<ToAgent, FromAgent>::default(), Session::<FromAgent, ToAgent>::default());
    let (mut up, mut down) = (Decoder::<FromAgent>::default(), Decoder::<ToAgent>::default());
    let (mut said, mut heard) = (Vec::new(), Vec::new());
    let mut carry =
        |host: &mut Session<_, _>, agent: &mut Session<_, _>, up: &mut Decoder<_>, down: &mut Decoder<_>| {
            let mut bytes = Vec::new();
            if agent.write(&mut bytes) {
                up.feed(&bytes);
            }
            bytes.clear();
            if host.write(&mut bytes) {
                down.feed(&bytes);
            }
            while let Some(message) = up.next().expect("an honest agent") {
                if host.hear(&message).expect("an agent in step") {
                    heard.push(message);
                }
            }
            while let Some(message) = down.next().expect("an honest host") {
                agent.hear(&message).expect("a host in step");
            }
        };
    while !input.is_empty() {
        match input.int_in_range(0..=6) {
            Ok(0) => {
                // What has left one end and not reached the other is lost.
                let mut lost = Vec::new();
                while agent.write(&mut lost) && host.write(&mut lost) {}
                (up, down) = (Decoder::default(), Decoder::default());
                host.cut();
                agent.cut();
                let (by_host, by_agent) = (host.received(), agent.received());
                agent.resume(by_host).expect("what a host has heard");
                host.resume(by_agent).expect("what an agent has heard");
            }
            Ok(1) => match FromWorker::make(input) {
                Ok(message @ FromWorker::Finished { .. }) => {
                    said.push(FromAgent::Worker(message.clone()));
                    agent.send(FromAgent::Worker(message));
                }
                Ok(_) => {}
                Err(_) => break,
            },
            Ok(2) => match ToAgent::make(input) {
                Ok(message @ ToAgent::Worker(_)) => host.send(message),
                Ok(_) => {}
                Err(_) => break,
            },
            Ok(_) => carry(&mut host, &mut agent, &mut up, &mut down),
            Err(_) => break,
        }
    }
    for _ in 0..10_000 {
        carry(&mut host, &mut agent, &mut up, &mut down);
        if host.kept() + agent.kept() == 0 {
            break;
        }
    }
    assert!(heard == said, "not each once, and in order");
}
