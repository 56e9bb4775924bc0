//! Any bytes in any cuts: nothing panics, the cuts do not matter, and what is decoded encodes to what it was decoded from.
#![no_main]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::iter::from_fn;

use kumi_core::frame::Wire;
use kumi_core::{Decoder, FrameError, FromAgent, FromWorker, ToAgent, ToWorker};
use kumi_fuzz::{Make, stream};
use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u64, &[u8])| {
    let (which, seed, bytes) = input;
    match which % 4 {
        0 => check::<ToWorker>(seed, bytes),
        1 => check::<FromWorker>(seed, bytes),
        2 => check::<ToAgent>(seed, bytes),
        _ => check::<FromAgent>(seed, bytes),
    }
});

fn check<M: Make + Debug + PartialEq>(seed: u64, input: &[u8]) {
    let bytes = stream::<M>(&mut Unstructured::new(input));
    let whole = decode::<M>(&bytes, usize::MAX, 0);
    // Small pieces of short streams, large ones of long streams: as many in either case.
    assert!(decode(&bytes, 2 + bytes.len() / 64, seed) == whole, "the cuts matter");
    let mut again = Vec::new();
    whole.0.iter().for_each(|message| message.encode(&mut again));
    assert!(again.len() <= bytes.len(), "more came out than went in");
    // Each on its own, because what stood between the parts of another now stands before it.
    let told: BTreeSet<&[u8]> = frames(&bytes).collect();
    assert!(frames(&again).all(|frame| told.contains(frame)), "a message has two forms");
    assert!(decode::<M>(&again, usize::MAX, 0) == (whole.0, None), "what is decoded encodes to something else");
}

/// Messages and the error that ended them, of a stream in pieces of less than `most` bytes.
fn decode<M: Wire>(mut bytes: &[u8], most: usize, mut random: u64) -> (Vec<M>, Option<FrameError>) {
    let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
    loop {
        match decoder.next() {
            Ok(Some(message)) => messages.push(message),
            Err(error) => return (messages, Some(error)),
            Ok(None) if bytes.is_empty() => return (messages, None),
            Ok(None) => {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let piece = if most == usize::MAX { most } else { 1 + (random >> 33) as usize % most };
                let (now, later) = bytes.split_at(piece.min(bytes.len()));
                decoder.feed(now);
                bytes = later;
            }
        }
    }
}

/// The frames of a stream, as far as they are whole.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    from_fn(move || {
        let length = u32::from_le_bytes(*bytes.first_chunk::<4>()?) as usize;
        let (frame, rest) = bytes.split_at_checked(length.checked_add(4)?)?;
        bytes = rest;
        Some(frame)
    })
}
