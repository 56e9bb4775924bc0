//! Bytes on a stream: what `docs/protocol.md` promises, and that no input does more than end its connection.
//!
//! Every stream is decoded whole, byte by byte, with more behind it and in random cuts, and must mean the same each time.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

#[path = "wire/document.rs"]
mod document;
#[path = "wire/memory.rs"]
mod memory;

use std::fmt::Debug;

use kumi_core::agent_message::UNPROVED;
use kumi_core::frame::{CHUNK, FRAME_MAX, PART, Wire};
use kumi_core::{
    Decoder, FrameError, FromAgent, FromWorker, FunctionId, Lease, Payload, Run, TaskId, ToAgent, ToWorker,
};

use document::{golden, golden_of_agents};

/// What a stream means: its messages, and the error that ended it.
type Meaning<M> = (Vec<M>, Option<FrameError>);

fn encoded<M: Wire>(message: &M) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

fn frame(kind: u8, fields: &[u8]) -> Vec<u8> {
    let length = 1 + fields.len() as u32;
    [&length.to_le_bytes(), &[kind][..], fields].concat()
}

/// A frame of `Finished` whose payload shall have `total` bytes, of which `here` are in it.
fn beginning(total: u64, here: usize) -> Vec<u8> {
    frame(130, &[&[0; 26][..], &total.to_le_bytes(), &vec![7; here]].concat())
}

/// The frames of a stream.
fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while let Some(length) = bytes.first_chunk::<4>() {
        let (frame, rest) = bytes.split_at(4 + u32::from_le_bytes(*length) as usize);
        frames.push(frame);
        bytes = rest;
    }
    frames
}

/// Decodes a stream that comes in pieces of the sizes that `cut` tells, the way a socket gives it.
fn decode<M: Wire>(mut bytes: &[u8], mut cut: impl FnMut() -> usize) -> Meaning<M> {
    let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
    loop {
        match decoder.next() {
            Ok(Some(message)) => messages.push(message),
            Err(error) => return (messages, Some(error)),
            Ok(None) if bytes.is_empty() => return (messages, None),
            Ok(None) => {
                let space = decoder.space();
                let count = cut().min(space.len()).min(bytes.len());
                let (now, later) = bytes.split_at(count);
                space[..count].copy_from_slice(now);
                decoder.filled(count);
                bytes = later;
            }
        }
    }
}

/// What a stream means, however it is cut.
fn drip<M: Wire + Debug + PartialEq>(bytes: &[u8]) -> Meaning<M> {
    let mut whole = Decoder::default();
    whole.feed(bytes);
    let mut messages = Vec::new();
    let error = loop {
        match whole.next() {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    let meaning = (messages, error);
    assert!(decode(bytes, || 1) == meaning, "byte by byte");
    let trailing = [bytes, &[9, 0, 0]].concat();
    assert!(decode(&trailing, || usize::MAX) == meaning, "with trailing bytes");
    for seed in 1..6_u64 {
        let mut random = seed;
        let cut = || {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            1 + (random >> 33) as usize % [2, 40, 5_000, 60_000][(random >> 62) as usize]
        };
        assert!(decode(bytes, cut) == meaning, "in random cuts, seed {seed}");
    }
    meaning
}

/// Encodes, decodes in all cuts, compares; gives the bytes.
fn round_trip<M: Wire + Clone + Debug + PartialEq>(message: &M) -> Vec<u8> {
    let bytes = encoded(message);
    assert!(drip(&bytes) == (vec![message.clone()], None), "{} bytes", bytes.len());
    bytes
}

fn payload(length: usize) -> Payload {
    (0..length).map(|place| (place % 251) as u8).collect()
}

fn finished(lease: u64, length: usize) -> FromWorker {
    FromWorker::Finished {
        lease: Lease(lease),
        success: true,
        run: Run { started: 1, nanoseconds: 2, notes: None },
        payload: payload(length),
    }
}

// Round trips.

#[test]
fn extreme_values_survive() {
    let ids = (TaskId::from_number(u64::MAX), FunctionId::from_number(u64::MAX));
    let (lease, payload) = (Lease(u64::MAX), Payload::default());
    round_trip(&ToWorker::Run {
        task: ids.0,
        lease,
        slot: u16::MAX,
        function: ids.1,
        attempt: u32::MAX,
        short: false,
        within: None,
        inline: false,
        payload,
    });
    round_trip(&FromWorker::Hello { version: u32::MAX, python: (255, 0), pid: u32::MAX, host: String::new() });
    let longest = encoded(&ToWorker::Welcome { name: "n".repeat(65_535), reset: u8::MAX, memory: None });
    assert_eq!(longest.len(), 4 + 1 + 2 + 65_535 + 1 + 1);
    round_trip(&ToWorker::Welcome { name: "n".repeat(65_535), reset: 0, memory: Some(u64::MAX) });
}

#[test]
fn a_text_too_long_is_cut_at_a_character() {
    let reason = format!("a{}", "é".repeat(40_000));
    let (messages, _) = drip::<ToWorker>(&encoded(&ToWorker::Refuse { reason: reason.clone() }));
    assert_eq!(messages, [ToWorker::Refuse { reason: reason[..65_535].to_owned() }]);
    let (messages, _) = drip::<ToWorker>(&encoded(&ToWorker::Refuse { reason: reason[1..].to_owned() }));
    assert_eq!(messages, [ToWorker::Refuse { reason: reason[1..65_535].to_owned() }]);
}

#[test]
fn payloads_go_in_frames_of_a_mebibyte() {
    for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
        let bytes = round_trip(&finished(1, length));
        let lengths: Vec<usize> = frames(&bytes).into_iter().map(<[u8]>::len).collect();
        assert_eq!(lengths.len(), length.div_ceil(CHUNK).max(1));
        assert!(lengths.iter().all(|length| *length <= 4 + FRAME_MAX));
        assert_eq!(bytes.len(), 4 + 35 + length + 5 * (lengths.len() - 1), "nothing but headers beside the payload");
    }
    let function = FunctionId::from_number(1);
    round_trip(&ToWorker::Define { function, payload: payload(CHUNK + 1) });
    let (task, lease) = (TaskId::from_number(1), Lease(1));
    round_trip(&ToWorker::Run {
        task,
        lease,
        slot: 0,
        function,
        attempt: 1,
        short: true,
        within: None,
        inline: false,
        payload: payload(2 * CHUNK),
    });
}

#[test]
fn whole_messages_between_parts_count_at_once() {
    let (large, small) = (finished(1, 3 * CHUNK + 5), finished(2, 3));
    let stream = encoded(&large);
    let between = [encoded(&FromWorker::Heartbeat), encoded(&small)].concat();
    let stream = frames(&stream).join(&between[..]);
    let expected = vec![[FromWorker::Heartbeat, small]; 3].into_iter().flatten().chain([large]).collect();
    assert!(drip(&stream) == (expected, None));
}

#[test]
fn large_payloads_follow_each_other() {
    let messages = [finished(1, CHUNK + 1), finished(2, 2 * CHUNK), FromWorker::Heartbeat];
    let stream: Vec<u8> = messages.iter().flat_map(encoded).collect();
    assert!(drip(&stream) == (messages.to_vec(), None));
}

#[test]
fn a_long_stream_of_short_messages_keeps_its_order() {
    let messages: Vec<_> = (0..3000).map(|lease| finished(lease, lease as usize % 97)).collect();
    let stream: Vec<u8> = messages.iter().flat_map(encoded).collect();
    assert!(drip(&stream) == (messages, None));
}

// Malformed input.

/// A heartbeat, then what is wrong: the heartbeat counts, the rest is this error.
fn refused(fault: &[u8], error: FrameError, what: &str) {
    let stream = [&encoded(&FromWorker::Heartbeat)[..], fault].concat();
    assert!(drip(&stream) == (vec![FromWorker::Heartbeat], Some(error)), "{what}");
}

#[test]
fn lengths_out_of_bounds_are_refused_before_what_follows_comes() {
    refused(&[0, 0, 0, 0], FrameError::Malformed, "zero");
    for length in [FRAME_MAX as u32 + 1, u32::MAX] {
        let error = FrameError::TooLong { length: u64::from(length) };
        refused(&length.to_le_bytes(), error, "too long");
    }
    let longest = [&(FRAME_MAX as u32).to_le_bytes()[..], &[132]].concat();
    assert_eq!(drip::<FromWorker>(&longest), (vec![], None), "as long as can be: waits for the rest");
}

#[test]
fn kinds_count_in_their_own_direction_only() {
    for kind in (0..129).chain(136..140).chain(147..160).chain(162..255) {
        refused(&frame(kind, &[]), FrameError::UnknownKind(kind), "from the worker");
    }
    for kind in [0].into_iter().chain(11..13).chain(14..30).chain(32..255) {
        assert_eq!(drip::<ToWorker>(&frame(kind, &[])), (vec![], Some(FrameError::UnknownKind(kind))));
    }
}

#[test]
fn fields_shorter_or_longer_than_their_message_are_malformed() {
    fn check<M: Wire + Debug + PartialEq>(golden: &[u8]) {
        let (kind, fields) = (golden[4], &golden[5..]);
        for length in 0..fields.len() {
            assert_eq!(drip::<M>(&frame(kind, &fields[..length])), (vec![], Some(FrameError::Malformed)));
        }
        let longer = frame(kind, &[fields, &[0]].concat());
        assert_eq!(drip::<M>(&longer), (vec![], Some(FrameError::Malformed)));
    }
    let (to, from) = golden();
    to.iter().for_each(|(_, _, bytes)| check::<ToWorker>(bytes));
    from.iter().for_each(|(_, _, bytes)| check::<FromWorker>(bytes));
    let (to, from) = golden_of_agents();
    to.iter().for_each(|(_, _, bytes)| check::<ToAgent>(bytes));
    from.iter().for_each(|(_, _, bytes)| check::<FromAgent>(bytes));
}

#[test]
fn fields_have_one_form() {
    refused(&frame(131, &[0, 0, 0, 0, 0, 0, 0, 0, 2]), FrameError::Malformed, "a bool of 2");
    let hello = |text: &[u8]| frame(129, &[&[0; 10][..], &(text.len() as u16).to_le_bytes(), text].concat());
    refused(&hello(b"h\xf6st"), FrameError::Malformed, "Latin-1");
    refused(&hello(&[0xed, 0xa0, 0x80]), FrameError::Malformed, "half a surrogate pair");
}

#[test]
fn a_payload_fills_its_frames() {
    let chunk = CHUNK as u64;
    for (total, here, what) in [
        (3, 4, "smaller than what is there"),
        (5, 4, "larger than a frame that is not full"),
        (u64::MAX, 4, "largest"),
        (chunk + 1, 4, "in parts, but the first is not full"),
        (chunk + 5, CHUNK + 5, "more than a chunk in a frame"),
        (chunk + 6, CHUNK + 5, "more than a chunk in a frame, and parts"),
    ] {
        refused(&beginning(total, here), FrameError::Malformed, what);
    }
    for (missing, part, what) in [
        (1, 0, "empty"),
        (1, 2, "overshooting"),
        (chunk, 1, "not full"),
        (chunk + 1, CHUNK + 1, "more than a chunk"),
        (u64::MAX - chunk, FRAME_MAX - 1, "longest"),
    ] {
        let stream = [beginning(chunk + missing, CHUNK), frame(PART, &vec![7; part])].concat();
        refused(&stream, FrameError::Malformed, what);
    }
}

#[test]
fn parts_are_refused_out_of_place() {
    let start = beginning(CHUNK as u64 + 1, CHUNK);
    refused(&frame(PART, &[7]), FrameError::Misplaced, "nothing to go on with");
    refused(&[start.clone(), start.clone()].concat(), FrameError::Misplaced, "a second one inside the first");
    let whole = [start, frame(PART, &[7])].concat();
    let (messages, error) = drip::<FromWorker>(&[whole, frame(PART, &[7])].concat());
    assert_eq!((messages.len(), error), (1, Some(FrameError::Misplaced)), "one part more than announced");
}

#[test]
fn whoever_is_not_proved_sends_short_frames_and_nothing_in_parts() {
    let mut decoder = Decoder::<FromAgent>::limited(UNPROVED, 0);
    let hello = |length| FromWorker::Hello { version: 2, python: (3, 11), pid: 1, host: "h".repeat(length) };
    decoder.feed(&encoded(&hello(1000)));
    assert!(matches!(decoder.next(), Ok(Some(FromAgent::Worker(FromWorker::Hello { .. })))));
    let mut longer = Decoder::<FromAgent>::limited(UNPROVED, 0);
    longer.feed(&encoded(&hello(UNPROVED))[..4]);
    assert!(matches!(longer.next(), Err(FrameError::TooLong { .. })), "by its length alone");
    let mut in_parts = Decoder::<FromAgent>::limited(FRAME_MAX, 0);
    in_parts.feed(&beginning(CHUNK as u64 + 1, CHUNK));
    assert_eq!(in_parts.next(), Err(FrameError::TooLong { length: 1 }));
    decoder.limit(FRAME_MAX, u64::MAX);
    decoder.feed(&encoded(&finished(1, CHUNK + 1)));
    assert!(matches!(decoder.next(), Ok(Some(FromAgent::Worker(FromWorker::Finished { .. })))));
}

// Memory.

#[test]
fn an_announced_terabyte_takes_no_memory() {
    let start = beginning(1 << 40, CHUNK);
    let mut decoder = Decoder::<FromWorker>::default();
    let header = memory::peak(|| {
        decoder.feed(&start[..60]);
        assert_eq!(decoder.next(), Ok(None));
    });
    assert!(header <= 128 * 1024, "{header} bytes for a header");
    let chunk = memory::peak(|| {
        decoder.feed(&start[60..]);
        assert_eq!(decoder.next(), Ok(None));
    });
    // A buffer that doubles, the chunk in the message and the chunk where the whole is put together.
    assert!(chunk <= 6 * CHUNK as isize, "{chunk} bytes for a chunk");
}

#[test]
fn the_buffer_does_not_grow_with_the_stream() {
    let heartbeats = encoded(&FromWorker::Heartbeat).repeat(1000);
    let mut decoder = Decoder::<FromWorker>::default();
    let peak = memory::peak(|| {
        for _ in 0..1000 {
            decoder.feed(&heartbeats[..4997]);
            while let Ok(Some(FromWorker::Heartbeat)) = decoder.next() {}
            decoder.feed(&heartbeats[4997..]);
            while let Ok(Some(FromWorker::Heartbeat)) = decoder.next() {}
        }
    });
    assert!(peak <= 256 * 1024, "{peak} bytes for short messages");
}
