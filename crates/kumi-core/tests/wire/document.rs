//! `docs/protocol.md` and the code say the same: every message, kind, byte, error and bound.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::ops::RangeInclusive;

use kumi_core::agent_message::{ANSWER, UNPROVED};
use kumi_core::frame::{CHUNK, FRAME_MAX, PART, Wire};
use kumi_core::{FrameError, FromAgent, FromWorker, HELD_MAX, Leave, PROTOCOL, ToAgent, ToWorker};

use crate::{decode, drip, frame, round_trip};

const DOCUMENT: &str = include_str!("../../../../docs/protocol.md");

/// Messages as the document has them: value as Rust prints it, value, frame.
type Golden<M> = Vec<(String, M, Vec<u8>)>;

/// A section, without its heading.
fn section(heading: &str) -> &'static str {
    let start = DOCUMENT.split_once(&format!("\n## {heading}\n")).unwrap().1;
    start.split("\n## ").next().unwrap()
}

/// The cells of the tables in a section.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let tables = section(heading).lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    tables.map(|row| row.split(" | ").map(str::trim).collect()).collect()
}

/// Values and frames of the document's golden messages, by direction.
pub fn golden() -> (Golden<ToWorker>, Golden<FromWorker>) {
    golden_of("Golden bytes")
}

/// Those that only agents know.
pub fn golden_of_agents() -> (Golden<ToAgent>, Golden<FromAgent>) {
    golden_of("Golden bytes of agents")
}

fn golden_of<To: Wire + Debug + PartialEq, From: Wire + Debug + PartialEq>(
    heading: &str,
) -> (Golden<To>, Golden<From>) {
    let block = section(heading).split("```").nth(1).unwrap().strip_prefix("golden\n").unwrap();
    let (mut to, mut from) = (Vec::new(), Vec::new());
    for pair in block.lines().collect::<Vec<_>>().chunks(2) {
        let hex: String = pair[1].split_whitespace().collect();
        let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
        let bytes: Vec<u8> = bytes.collect();
        let value = pair[0].to_owned();
        match bytes[4] {
            0..128 => to.push((value, drip(&bytes).0.pop().unwrap(), bytes)),
            128.. => from.push((value, drip(&bytes).0.pop().unwrap(), bytes)),
        }
    }
    (to, from)
}

/// As the table has it. A new variant or field does not compile until it is told here, and fails until it is told there.
fn to_worker_form(message: &ToWorker) -> &'static str {
    match message {
        ToWorker::Welcome { name: _, reset: _, memory: _ } => "Welcome {name: text, reset: u8, memory: u64?}",
        ToWorker::Refuse { reason: _ } => "Refuse {reason: text}",
        ToWorker::Define { function: _, payload: _ } => "Define {function: u64, payload: payload}",
        ToWorker::Forget { function: _ } => "Forget {function: u64}",
        ToWorker::Run {
            task: _,
            lease: _,
            slot: _,
            function: _,
            attempt: _,
            short: _,
            within: _,
            inline: _,
            payload: _,
        } => {
            "Run {task: u64, lease: u64, slot: u16, function: u64, attempt: u32, short: bool, within: u64, inline: bool, payload: payload}"
        }
        ToWorker::Recall { lease: _ } => "Recall {lease: u64}",
        ToWorker::Interrupt { lease: _ } => "Interrupt {lease: u64}",
        ToWorker::Ping => "Ping {}",
        ToWorker::Prepare { lease: _, slot: _, function: _, payload: _ } => {
            "Prepare {lease: u64, slot: u16, function: u64, payload: payload}"
        }
        ToWorker::Stop { leave: Leave::Idle | Leave::Wall | Leave::Tasks | Leave::Closing } => "Stop {leave: leave}",
        ToWorker::Resolved { child: _, ending: _, payload: _ } => {
            "Resolved {child: u64, ending: ending, payload: payload}"
        }
        ToWorker::Lend { segment: _, bytes: _ } => "Lend {segment: u64, bytes: u64}",
        ToWorker::Returned { segment: _, forked: _ } => "Returned {segment: u64, forked: bool}",
    }
}

fn from_worker_form(message: &FromWorker) -> &'static str {
    match message {
        FromWorker::Hello { version: _, python: _, pid: _, host: _ } => {
            "Hello {version: u32, python: u8 u8, pid: u32, host: text}"
        }
        FromWorker::Finished { lease: _, success: _, run: _, payload: _ } => {
            "Finished {lease: u64, success: bool, run: run, payload: payload}"
        }
        FromWorker::Recalled { lease: _, back: _ } => "Recalled {lease: u64, back: bool}",
        FromWorker::Heartbeat => "Heartbeat {}",
        FromWorker::Retire => "Retire {}",
        FromWorker::Report { lease: _, payload: _ } => "Report {lease: u64, payload: payload}",
        FromWorker::Declare { function: _, label: _, payload: _ } => {
            "Declare {function: u64, label: text, payload: payload}"
        }
        FromWorker::Withdraw { function: _ } => "Withdraw {function: u64}",
        FromWorker::Submit { child: _, parent: _, function: _, terms: _, payload: _ } => {
            "Submit {child: u64, parent: u64, function: u64, terms: terms, payload: payload}"
        }
        FromWorker::Cancel { child: _ } => "Cancel {child: u64}",
        FromWorker::Release { child: _ } => "Release {child: u64}",
        FromWorker::Wait { lease: _, child: _ } => "Wait {lease: u64, child: u64}",
        FromWorker::Resume { lease: _, elsewhere: _ } => "Resume {lease: u64, elsewhere: bool}",
        FromWorker::Lend { segment: _, bytes: _ } => "Lend {segment: u64, bytes: u64}",
        FromWorker::Returned { segment: _, forked: _ } => "Returned {segment: u64, forked: bool}",
        FromWorker::Prepared { lease: _, error: _, payload: _ } => {
            "Prepared {lease: u64, error: text, payload: payload}"
        }
    }
}

fn to_agent_form(message: &ToAgent) -> &'static str {
    match message {
        ToAgent::Worker(message) => to_worker_form(message),
        ToAgent::Session { session: _, key: _, silence: _, reconnect: _ } => {
            "Session {session: u64, key: 32 bytes, silence: u64, reconnect: u64}"
        }
        ToAgent::Resumed { received: _ } => "Resumed {received: u64}",
        ToAgent::Ack { received: _ } => "Ack {received: u64}",
        ToAgent::End { again: _ } => "End {again: bool}",
    }
}

fn from_agent_form(message: &FromAgent) -> &'static str {
    match message {
        FromAgent::Worker(message) => from_worker_form(message),
        FromAgent::Prove { ticket: _, index: _, incarnation: _, proof: _ } => {
            "Prove {ticket: u64, index: u32, incarnation: u64, proof: 32 bytes}"
        }
        FromAgent::Resume { session: _, received: _, proof: _ } => {
            "Resume {session: u64, received: u64, proof: 32 bytes}"
        }
        FromAgent::Ack { received: _ } => "Ack {received: u64}",
        FromAgent::Died { begun: _, certificate: _ } => "Died {begun: u64, certificate: certificate}",
    }
}

fn error_name(error: FrameError) -> &'static str {
    match error {
        FrameError::TooLong { .. } => "`TooLong`",
        FrameError::UnknownKind(_) => "`UnknownKind`",
        FrameError::Malformed => "`Malformed`",
        FrameError::Misplaced => "`Misplaced`",
    }
}

/// Checks the golden messages of one direction against code and table.
fn check_golden<M: Wire + Clone + Debug + PartialEq>(
    messages: &Golden<M>,
    form: fn(&M) -> &'static str,
    heading: &str,
    direction: &str,
) -> Vec<u8> {
    let table = rows(heading);
    for (value, message, bytes) in messages {
        assert_eq!(*value, format!("{message:?}"));
        assert_eq!(round_trip(message), *bytes, "{value}");
        let name = format!("`{}`", form(message));
        let row = table
            .iter()
            .find(|row| row[0] == name && row[1] == direction)
            .unwrap_or_else(|| unreachable!("{name} is not in the table"));
        assert_eq!(row[4], bytes[4].to_string(), "{value}");
        assert!((1..=PROTOCOL).contains(&row[5].parse().unwrap()), "{value}");
    }
    let kinds: BTreeSet<u8> = messages.iter().map(|(_, _, bytes)| bytes[4]).collect();
    let told = table.iter().filter(|row| row[1] == direction).count();
    assert_eq!(told, kinds.len(), "rows of the table and golden messages");
    kinds.into_iter().collect()
}

#[test]
fn the_document_tells_every_message_and_its_bytes() {
    let (to, from) = golden();
    assert_eq!(check_golden(&to, to_worker_form, "Messages", "host → worker"), known_kinds::<ToWorker>());
    assert_eq!(check_golden(&from, from_worker_form, "Messages", "worker → host"), known_kinds::<FromWorker>());
    let state_diagram = section("Life of a connection").split("```").nth(1).unwrap();
    let forms = to.iter().map(|(_, message, _)| to_worker_form(message));
    for form in forms.chain(from.iter().map(|(_, message, _)| from_worker_form(message))) {
        assert!(state_diagram.contains(form.split(' ').next().unwrap()), "{form}");
    }
    for code in 0..=255 {
        let stop = frame(9, &[code]);
        assert_eq!(to.iter().any(|(_, _, bytes)| *bytes == stop), drip::<ToWorker>(&stop).1.is_none(), "leave {code}");
    }
}

#[test]
fn the_document_tells_every_message_of_agents_and_its_bytes() {
    let (to, from) = golden_of_agents();
    let mut to_kinds = check_golden(&to, to_agent_form, "Remote transport", "host → agent");
    let mut from_kinds = check_golden(&from, from_agent_form, "Remote transport", "agent → host");
    // All others are for the worker, or of it.
    to_kinds.extend(known_kinds::<ToWorker>());
    from_kinds.extend(known_kinds::<FromWorker>());
    to_kinds.sort_unstable();
    from_kinds.sort_unstable();
    assert_eq!((to_kinds, from_kinds), (known_kinds::<ToAgent>(), known_kinds::<FromAgent>()));
    assert!(section("Remote transport").contains(&format!("{UNPROVED} bytes")));
    assert!(section("Remote transport").contains(&format!("{} s", ANSWER.as_secs())));
}

#[test]
fn the_document_tells_bounds_errors_and_reserved_kinds() {
    assert!(DOCUMENT.contains(&format!("`PROTOCOL = {PROTOCOL}`")));
    let bounds = rows("Frames").concat().join(" ");
    for bound in [CHUNK, FRAME_MAX, usize::from(u16::MAX), usize::from(HELD_MAX)] {
        assert!(bounds.split(' ').any(|word| word == bound.to_string()), "{bound}");
    }
    let errors = rows("Malformed input");
    for error in
        [FrameError::TooLong { length: 0 }, FrameError::UnknownKind(0), FrameError::Malformed, FrameError::Misplaced]
    {
        assert!(errors.iter().any(|row| row[0] == error_name(error)), "{error:?}");
    }
    let range = |cell: &str| -> RangeInclusive<u8> {
        let (first, last) = cell.split_once('–').unwrap();
        first.parse().unwrap()..=last.parse().unwrap()
    };
    for row in rows("Reserved").iter().filter(|row| row[0].contains('–')) {
        assert!(!known_kinds::<ToAgent>().iter().any(|kind| range(row[0]).contains(kind)), "{row:?}");
        assert!(!known_kinds::<FromAgent>().iter().any(|kind| range(row[1]).contains(kind)), "{row:?}");
    }
}

/// The kinds that mean something in one direction.
fn known_kinds<M: Wire>() -> Vec<u8> {
    let unknown = |kind: &u8| decode::<M>(&frame(*kind, &[]), || 5).1 == Some(FrameError::UnknownKind(*kind));
    (0..PART).filter(|kind| !unknown(kind)).collect()
}
