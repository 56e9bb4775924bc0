//! What the targets share: messages and streams made from a fuzzer's bytes.
//!
//! Of random bytes alone hardly any is a frame, and none has a mebibyte; so a part of the input says what to build.

use std::time::Duration;

use kumi_core::frame::{CHUNK, PART, Wire};
use kumi_core::{
    Cause, Certificate, CrashesMax, Ending, Face, FromAgent, FromWorker, FunctionId, Lease, Leave, Notes, Payload,
    PerCause, Run, Secret, SegmentId, TaskId, Terms, Time, ToAgent, ToWorker, Word,
};
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};

/// Longest stream to build, so that one input takes milliseconds.
const STREAM: usize = 5 * CHUNK;

/// A message that can be made from a fuzzer's bytes.
pub trait Make: Wire {
    /// Any message, with any payload.
    fn make(input: &mut Unstructured) -> Result<Self>;
}

impl Make for ToWorker {
    fn make(input: &mut Unstructured) -> Result<Self> {
        let function = FunctionId::from_number(number(input)?);
        Ok(match input.int_in_range(0..=12)? {
            0 => ToWorker::Welcome { name: input.arbitrary()?, reset: input.arbitrary()?, memory: input.arbitrary()? },
            12 => ToWorker::Prepare {
                lease: Lease(number(input)?),
                slot: input.arbitrary()?,
                function,
                payload: payload(input)?,
            },
            1 => ToWorker::Refuse { reason: input.arbitrary()? },
            2 => ToWorker::Define { function, payload: payload(input)? },
            3 => ToWorker::Forget { function },
            4 => ToWorker::Run {
                task: TaskId::from_number(number(input)?),
                lease: Lease(number(input)?),
                slot: input.arbitrary()?,
                function,
                attempt: input.arbitrary()?,
                short: input.arbitrary()?,
                within: Some(Lease(number(input)?)).filter(|lease| lease.0 > 0),
                inline: input.arbitrary()?,
                payload: payload(input)?,
            },
            5 => ToWorker::Recall { lease: Lease(number(input)?) },
            6 => ToWorker::Interrupt { lease: Lease(number(input)?) },
            7 => ToWorker::Ping,
            8 => ToWorker::Lend { segment: SegmentId::from_number(number(input)?), bytes: input.arbitrary()? },
            9 => ToWorker::Returned { segment: SegmentId::from_number(number(input)?), forked: input.arbitrary()? },
            10 => {
                ToWorker::Resolved { child: number(input)?, ending: Box::new(ending(input)?), payload: payload(input)? }
            }
            _ => ToWorker::Stop { leave: *input.choose(&[Leave::Idle, Leave::Wall, Leave::Tasks, Leave::Closing])? },
        })
    }
}

impl Make for ToAgent {
    fn make(input: &mut Unstructured) -> Result<Self> {
        Ok(match input.int_in_range(0..=5)? {
            0 => ToAgent::Session {
                session: number(input)?,
                key: Secret(input.arbitrary()?),
                silence: number(input)?,
                reconnect: number(input)?,
            },
            1 => ToAgent::Resumed { received: number(input)? },
            2 => ToAgent::Ack { received: number(input)? },
            3 => ToAgent::End { again: input.arbitrary()? },
            _ => ToAgent::Worker(ToWorker::make(input)?),
        })
    }
}

impl Make for FromAgent {
    fn make(input: &mut Unstructured) -> Result<Self> {
        Ok(match input.int_in_range(0..=5)? {
            0 => FromAgent::Prove {
                ticket: number(input)?,
                index: input.arbitrary()?,
                incarnation: number(input)?,
                proof: input.arbitrary()?,
            },
            1 => FromAgent::Resume { session: number(input)?, received: number(input)?, proof: input.arbitrary()? },
            2 => FromAgent::Ack { received: number(input)? },
            3 => FromAgent::Died {
                begun: Some(Lease(number(input)?)).filter(|lease| lease.0 > 0),
                certificate: Certificate { cause: input.arbitrary()?, ..Certificate::default() },
            },
            _ => FromAgent::Worker(FromWorker::make(input)?),
        })
    }
}

impl Make for FromWorker {
    fn make(input: &mut Unstructured) -> Result<Self> {
        Ok(match input.int_in_range(0..=14)? {
            0 => FromWorker::Hello {
                version: input.arbitrary()?,
                python: input.arbitrary()?,
                pid: input.arbitrary()?,
                host: input.arbitrary()?,
            },
            14 => FromWorker::Prepared {
                lease: Lease(number(input)?),
                error: input.arbitrary()?,
                payload: payload(input)?,
            },
            1 => FromWorker::Finished {
                lease: Lease(number(input)?),
                success: input.arbitrary()?,
                run: run(input)?,
                payload: payload(input)?,
            },
            2 => FromWorker::Recalled { lease: Lease(number(input)?), back: input.arbitrary()? },
            3 => FromWorker::Heartbeat,
            13 => FromWorker::Retire,
            4 => FromWorker::Lend { segment: SegmentId::from_number(number(input)?), bytes: input.arbitrary()? },
            5 => FromWorker::Declare { function: number(input)?, label: input.arbitrary()?, payload: payload(input)? },
            6 => FromWorker::Withdraw { function: number(input)? },
            7 => FromWorker::Submit {
                child: number(input)?,
                parent: Lease(number(input)?),
                function: number(input)?,
                terms: terms(input)?,
                payload: payload(input)?,
            },
            8 => FromWorker::Cancel { child: number(input)? },
            9 => FromWorker::Release { child: number(input)? },
            10 => FromWorker::Wait {
                lease: Lease(number(input)?),
                child: Some(number(input)?).filter(|child| *child > 0),
            },
            11 => FromWorker::Resume { lease: Lease(number(input)?), elsewhere: input.arbitrary()? },
            12 => FromWorker::Report { lease: Lease(number(input)?), payload: payload(input)? },
            _ => FromWorker::Returned { segment: SegmentId::from_number(number(input)?), forked: input.arbitrary()? },
        })
    }
}

fn crashes_max(input: &mut Unstructured) -> Result<Option<CrashesMax>> {
    Ok(match input.int_in_range(0..=2)? {
        0 => None,
        1 => Some(CrashesMax::Together(input.arbitrary()?)),
        _ => Some(CrashesMax::Each(PerCause {
            memory: input.arbitrary()?,
            time: input.arbitrary()?,
            spot: input.arbitrary()?,
            other: input.arbitrary()?,
        })),
    })
}

fn terms(input: &mut Unstructured) -> Result<Terms> {
    let span = |nanoseconds: Option<u64>| nanoseconds.map(Duration::from_nanos);
    Ok(Terms {
        crashes_max: crashes_max(input)?,
        once: input.arbitrary()?,
        seconds_run: span(input.arbitrary()?),
        seconds_total: span(input.arbitrary()?),
    })
}

fn ending(input: &mut Unstructured) -> Result<Ending> {
    let words = [Word::Success, Word::Error, Word::Crash, Word::Cancel, Word::TimeoutRun, Word::TimeoutTotal];
    let name = |input: &mut Unstructured| input.int_in_range(0..=20).map(|length| "n".repeat(length));
    let face = Face { name: name(input)?, pid: input.arbitrary()?, host: name(input)? };
    let certificate = Certificate {
        cause: name(input)?,
        kind: *input.choose(&[Cause::Memory, Cause::Time, Cause::Spot, Cause::Other])?,
        pid: input.arbitrary()?,
        host: Some(name(input)?).filter(|host| host.len() > 3),
        exit_code: input.arbitrary()?,
        signal: input.arbitrary()?,
        peak: input.arbitrary()?,
        stderr: name(input)?,
    };
    Ok(Ending {
        word: *input.choose(&words)?,
        submitted: Time(input.arbitrary()?),
        finished: Time(input.arbitrary()?),
        attempts: input.arbitrary()?,
        run: if input.arbitrary()? { Some(run(input)?) } else { None },
        face: Some(face).filter(|face| face.pid % 2 == 0),
        certificate: Some(certificate).filter(|certificate| certificate.cause.len() > 5),
    })
}

fn run(input: &mut Unstructured) -> Result<Run> {
    let notes = Notes { peak: input.arbitrary()?, warnings: vec![7; input.int_in_range(0..=20)?].into() };
    let notes = Some(Box::new(notes)).filter(|notes| !notes.warnings.is_empty());
    Ok(Run { started: input.arbitrary()?, nanoseconds: input.arbitrary()?, notes })
}

/// A number that often meets others: mostly small.
fn number(input: &mut Unstructured) -> Result<u64> {
    if input.ratio(7, 8)? { Ok(u64::from(u8::arbitrary(input)? % 16)) } else { input.arbitrary() }
}

/// A size at the borders of what one frame holds.
fn size(input: &mut Unstructured) -> Result<usize> {
    let chunks = if input.ratio(1, 32)? { input.int_in_range(1..=3)? * CHUNK } else { 0 };
    Ok((chunks + input.int_in_range(0..=8)?).saturating_sub(4))
}

fn payload(input: &mut Unstructured) -> Result<Payload> {
    Ok(vec![7; size(input)?].into())
}

fn frame(kind: u8, fields: &[u8]) -> Vec<u8> {
    let length = 1 + fields.len() as u32;
    [&length.to_le_bytes(), &[kind][..], fields].concat()
}

/// One stretch of a stream: a message, a part of one, a part of a payload, any frame, or anything at all.
fn stretch<M: Make>(input: &mut Unstructured) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match input.int_in_range(0..=7)? {
        0 => bytes.extend_from_slice(input.arbitrary()?),
        1 => bytes = frame(input.arbitrary()?, input.arbitrary()?),
        2 => bytes = frame(PART, &vec![7; size(input)?]),
        3 => {
            M::make(input)?.encode(&mut bytes);
            bytes.truncate(bytes.len().saturating_sub(size(input)?));
        }
        4 => {
            M::make(input)?.encode(&mut bytes);
            let place = input.int_in_range(0..=bytes.len().min(64) - 1)?;
            bytes[place] ^= u8::arbitrary(input)?;
        }
        _ => M::make(input)?.encode(&mut bytes),
    }
    Ok(bytes)
}

/// A stream: as much as the fuzzer's bytes tell.
pub fn stream<M: Make>(input: &mut Unstructured) -> Vec<u8> {
    let mut stream = Vec::new();
    while !input.is_empty() {
        match stretch::<M>(input) {
            Ok(bytes) if stream.len() + bytes.len() <= STREAM => stream.extend_from_slice(&bytes),
            Ok(_) | Err(_) => break,
        }
    }
    stream
}
