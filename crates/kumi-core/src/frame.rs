//! Frames: bytes on a stream and back.
//!
//! A frame is `length: u32` (of what follows) `kind: u8` `fields`; numbers are little-endian, a text is `u16` + UTF-8.
//! A message with a payload ends in `total: u64` and the payload's first MiB; the rest follows in frames of kind
//! [`PART`], so that no payload delays a heartbeat or a cancel by more than a MiB. One payload at a time per direction.
//!
//! The decoder's input is untrusted: it never panics, and it takes memory only for bytes that have really come.

use std::sync::Arc;
use std::time::Duration;

use crate::crashes::{Cause, CrashesMax, PerCause};
use crate::error::FrameError;
use crate::ids::{FunctionId, Lease, SegmentId, TaskId, Time};
use crate::message::{Ending, FromWorker, Leave, Notes, Payload, Run, Terms, ToWorker, WARNINGS_MAX, Word};
use crate::task::Certificate;
use crate::worker::Face;

/// Payload bytes in one frame at most: 1 MiB takes about a millisecond on a 10 Gbit/s line.
pub const CHUNK: usize = 1 << 20;
/// Longest frame: a chunk and the longest header (a text of 64 KiB and fixed fields).
pub const FRAME_MAX: usize = CHUNK + (1 << 17);
/// Kind of a frame that continues a payload.
pub const PART: u8 = 255;
/// Bytes read from a socket at a time: large enough for a batch of some thousand short results.
const READ: usize = 1 << 16;

/// A message that can be a frame.
pub trait Wire: Sized {
    /// Appends the frame of this message, or the first one of a message in parts.
    fn first(&self, out: &mut Vec<u8>);
    /// What is for Python alone.
    fn payload(&self) -> Option<&Payload>;

    /// Appends the frame, or frames, of this message.
    fn encode(&self, out: &mut Vec<u8>) {
        self.first(out);
        let payload = self.payload().map(|payload| &payload[..]).unwrap_or_default();
        if payload.len() > CHUNK {
            payload.chunks(CHUNK).skip(1).for_each(|chunk| part(out, chunk));
        }
    }

    /// The message of a frame's body, and how many payload bytes are still to come.
    fn decode(kind: u8, body: &mut Reader<'_>) -> Result<Self, FrameError>;
    /// Where a message that came in parts takes its whole payload.
    fn payload_mut(&mut self) -> Option<&mut Payload>;
}

/// Turns a stream of bytes into messages.
#[derive(Debug)]
pub struct Decoder<M> {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    partial: Option<Partial<M>>,
    frame_max: usize,
    payload_max: u64,
}

#[derive(Debug)]
struct Partial<M> {
    message: M,
    payload: Vec<u8>,
    missing: u64,
}

impl<M> Default for Decoder<M> {
    fn default() -> Self {
        Self::limited(FRAME_MAX, u64::MAX)
    }
}

impl<M> Decoder<M> {
    /// One that takes no longer frames and no longer payloads than these, in bytes.
    pub fn limited(frame_max: usize, payload_max: u64) -> Self {
        Self { bytes: Vec::new(), start: 0, end: 0, partial: None, frame_max, payload_max }
    }

    /// Other bounds from the next frame on.
    pub fn limit(&mut self, frame_max: usize, payload_max: u64) {
        (self.frame_max, self.payload_max) = (frame_max, payload_max);
    }
}

impl<M: Wire> Decoder<M> {
    /// Room to read into; say how much was used with [`Decoder::filled`].
    pub fn space(&mut self) -> &mut [u8] {
        self.make_room(READ);
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    fn make_room(&mut self, count: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.bytes.len() - self.end < count {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.bytes.len() - self.end < count {
                self.bytes.resize(self.end + count, 0);
            }
        }
    }

    /// `count` bytes of [`Decoder::space`] now hold input.
    pub fn filled(&mut self, count: usize) {
        self.end = self.bytes.len().min(self.end + count);
    }

    /// Takes in bytes that are already somewhere else. No more room is made than they need.
    pub fn feed(&mut self, input: &[u8]) {
        self.make_room(input.len());
        if let Some(place) = self.bytes.get_mut(self.end..self.end + input.len()) {
            place.copy_from_slice(input);
        }
        self.filled(input.len());
    }

    /// The next whole message; `None`: more bytes are needed. After an error the stream is lost.
    #[allow(clippy::should_implement_trait)] // An iterator ends; a decoder only pauses.
    pub fn next(&mut self) -> Result<Option<M>, FrameError> {
        loop {
            let Some(input) = self.bytes.get(self.start..self.end) else {
                return Err(FrameError::Malformed);
            };
            let Some((length, rest)) = input.split_first_chunk::<4>() else {
                return Ok(None);
            };
            let length = u32::from_le_bytes(*length) as usize;
            if length > self.frame_max {
                return Err(FrameError::TooLong { length: length as u64 });
            }
            let Some(body) = rest.get(..length) else {
                return Ok(None);
            };
            let Some((kind, body)) = body.split_first() else {
                return Err(FrameError::Malformed);
            };
            self.start += 4 + length;
            let mut reader = Reader { bytes: body, missing: 0 };
            if *kind == PART {
                if let Some(message) = continue_payload(&mut self.partial, body)? {
                    return Ok(Some(message));
                }
                continue;
            }
            let mut message = M::decode(*kind, &mut reader)?;
            if !reader.bytes.is_empty() {
                return Err(FrameError::Malformed);
            }
            if reader.missing == 0 {
                return Ok(Some(message));
            }
            if self.partial.is_some() {
                return Err(FrameError::Misplaced);
            }
            if reader.missing > self.payload_max {
                return Err(FrameError::TooLong { length: reader.missing });
            }
            let payload = message.payload_mut().map(|payload| payload.to_vec()).unwrap_or_default();
            self.partial = Some(Partial { message, payload, missing: reader.missing });
        }
    }
}

fn continue_payload<M: Wire>(partial: &mut Option<Partial<M>>, body: &[u8]) -> Result<Option<M>, FrameError> {
    let Some(current) = partial.as_mut() else {
        return Err(FrameError::Misplaced);
    };
    if body.len() as u64 != chunk_of(current.missing) {
        return Err(FrameError::Malformed);
    }
    current.payload.extend_from_slice(body);
    current.missing -= body.len() as u64;
    if current.missing > 0 {
        return Ok(None);
    }
    let Some(Partial { mut message, payload, .. }) = partial.take() else {
        return Ok(None);
    };
    if let Some(place) = message.payload_mut() {
        *place = Arc::from(payload);
    }
    Ok(Some(message))
}

/// Reads a frame's fields.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    missing: u64,
}

impl Reader<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (field, rest) = self.bytes.split_first_chunk::<N>().ok_or(FrameError::Malformed)?;
        self.bytes = rest;
        Ok(*field)
    }

    fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(u8::from_le_bytes(self.take()?))
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FrameError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FrameError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub(crate) fn bool(&mut self) -> Result<bool, FrameError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FrameError::Malformed),
        }
    }

    fn text(&mut self) -> Result<String, FrameError> {
        let length = usize::from(self.u16()?);
        let (text, rest) = self.bytes.split_at_checked(length).ok_or(FrameError::Malformed)?;
        self.bytes = rest;
        String::from_utf8(text.to_vec()).map_err(|_| FrameError::Malformed)
    }

    fn maybe<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, FrameError>) -> Result<Option<T>, FrameError> {
        Ok(if self.bool()? { Some(read(self)?) } else { None })
    }

    fn lease(&mut self) -> Result<Lease, FrameError> {
        self.u64().map(Lease)
    }

    fn span(&mut self) -> Result<Duration, FrameError> {
        self.u64().map(Duration::from_nanos)
    }

    fn terms(&mut self) -> Result<Terms, FrameError> {
        Ok(Terms {
            crashes_max: self.crashes_max()?,
            once: self.bool()?,
            seconds_run: self.maybe(Self::span)?,
            seconds_total: self.maybe(Self::span)?,
        })
    }

    fn crashes_max(&mut self) -> Result<Option<CrashesMax>, FrameError> {
        Ok(match self.u8()? {
            0 => None,
            1 => Some(CrashesMax::Together(self.u32()?)),
            2 => Some(CrashesMax::Each(PerCause {
                memory: self.maybe(Self::u32)?,
                time: self.maybe(Self::u32)?,
                spot: self.maybe(Self::u32)?,
                other: self.maybe(Self::u32)?,
            })),
            _ => return Err(FrameError::Malformed),
        })
    }

    fn ending(&mut self) -> Result<Ending, FrameError> {
        Ok(Ending {
            word: Word::from_code(self.u8()?)?,
            submitted: Time(self.u64()?),
            finished: Time(self.u64()?),
            attempts: self.u32()?,
            run: self.maybe(Self::run)?,
            face: self.maybe(|reader| Ok(Face { name: reader.text()?, pid: reader.u32()?, host: reader.text()? }))?,
            certificate: self.maybe(Self::certificate)?,
        })
    }

    fn run(&mut self) -> Result<Run, FrameError> {
        Ok(Run { started: self.u64()?, nanoseconds: self.u64()?, notes: self.maybe(Self::notes)? })
    }

    #[cold]
    fn notes(&mut self) -> Result<Box<Notes>, FrameError> {
        Ok(Box::new(Notes { peak: self.maybe(Self::u64)?, warnings: self.block()? }))
    }

    /// Bytes that are for Python alone, and stand among other fields.
    fn block(&mut self) -> Result<Payload, FrameError> {
        let length = usize::from(self.u16()?);
        let (block, rest) = self.bytes.split_at_checked(length).ok_or(FrameError::Malformed)?;
        self.bytes = rest;
        Ok(Arc::from(block))
    }

    pub(crate) fn certificate(&mut self) -> Result<Certificate, FrameError> {
        Ok(Certificate {
            cause: self.text()?,
            kind: Cause::from_code(self.u8()?)?,
            pid: self.maybe(Self::u32)?,
            host: self.maybe(Self::text)?,
            exit_code: self.maybe(Self::u32)?.map(|bits| bits as i32),
            signal: self.maybe(Self::u32)?.map(|bits| bits as i32),
            peak: self.maybe(Self::u64)?,
            stderr: self.text()?,
        })
    }

    pub(crate) fn payload(&mut self) -> Result<Payload, FrameError> {
        let total = self.u64()?;
        let here = std::mem::take(&mut self.bytes);
        if here.len() as u64 != chunk_of(total) {
            return Err(FrameError::Malformed);
        }
        self.missing = total - here.len() as u64;
        Ok(Arc::from(here))
    }
}

/// How much of a payload the next frame holds: a message has one form only, so a peer cannot drip a payload in tiny parts.
fn chunk_of(missing: u64) -> u64 {
    missing.min(CHUNK as u64)
}

/// Appends one frame; the length is filled in at the end.
pub(crate) fn frame(out: &mut Vec<u8>, kind: u8, fields: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind]);
    fields(out);
    let length = (out.len() - start - 4) as u32;
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_le_bytes());
    }
}

/// Appends a frame whose last field is a payload: its length, and what of it goes into the first frame.
pub(crate) fn frame_with(out: &mut Vec<u8>, kind: u8, payload: &[u8], fields: impl FnOnce(&mut Vec<u8>)) {
    frame(out, kind, |out| {
        fields(out);
        out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        out.extend_from_slice(payload.chunks(CHUNK).next().unwrap_or_default());
    });
}

/// Appends a frame that goes on with a payload.
pub(crate) fn part(out: &mut Vec<u8>, chunk: &[u8]) {
    frame(out, PART, |out| out.extend_from_slice(chunk));
}

fn text(out: &mut Vec<u8>, text: &str) {
    text_up_to(out, text, u16::MAX);
}

/// For a message of several texts, which together must fit into a frame.
fn short_text(out: &mut Vec<u8>, text: &str) {
    text_up_to(out, text, 1 << 13);
}

fn text_up_to(out: &mut Vec<u8>, text: &str, most: u16) {
    // A text is for people; what does not fit is cut at a character.
    let mut end = text.len().min(usize::from(most));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&(end as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes().get(..end).unwrap_or_default());
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn maybe<T>(out: &mut Vec<u8>, value: Option<T>, write: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        write(out, value);
    }
}

fn small(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn span(out: &mut Vec<u8>, span: Duration) {
    number(out, u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
}

fn terms(out: &mut Vec<u8>, terms: &Terms) {
    crashes_max(out, terms.crashes_max);
    out.push(u8::from(terms.once));
    maybe(out, terms.seconds_run, span);
    maybe(out, terms.seconds_total, span);
}

fn crashes_max(out: &mut Vec<u8>, most: Option<CrashesMax>) {
    match most {
        None => out.push(0),
        Some(CrashesMax::Together(most)) => {
            out.push(1);
            small(out, most);
        }
        Some(CrashesMax::Each(PerCause { memory, time, spot, other })) => {
            out.push(2);
            [memory, time, spot, other].into_iter().for_each(|most| maybe(out, most, small));
        }
    }
}

fn ending(out: &mut Vec<u8>, ending: &Ending) {
    out.push(ending.word.code());
    number(out, ending.submitted.0);
    number(out, ending.finished.0);
    small(out, ending.attempts);
    maybe(out, ending.run.as_ref(), run);
    maybe(out, ending.face.as_ref(), |out, face| {
        short_text(out, &face.name);
        small(out, face.pid);
        short_text(out, &face.host);
    });
    maybe(out, ending.certificate.as_ref(), certificate);
}

fn run(out: &mut Vec<u8>, run: &Run) {
    number(out, run.started);
    number(out, run.nanoseconds);
    maybe(out, run.notes.as_deref(), notes);
}

#[cold]
fn notes(out: &mut Vec<u8>, notes: &Notes) {
    maybe(out, notes.peak, number);
    let warnings = notes.warnings.get(..WARNINGS_MAX).unwrap_or(&notes.warnings);
    out.extend_from_slice(&(warnings.len() as u16).to_le_bytes());
    out.extend_from_slice(warnings);
}

pub(crate) fn certificate(out: &mut Vec<u8>, certificate: &Certificate) {
    short_text(out, &certificate.cause);
    out.push(certificate.kind.code());
    maybe(out, certificate.pid, small);
    maybe(out, certificate.host.as_ref(), |out, host| short_text(out, host));
    maybe(out, certificate.exit_code.map(|code| code as u32), small);
    maybe(out, certificate.signal.map(|code| code as u32), small);
    maybe(out, certificate.peak, |out, bytes| out.extend_from_slice(&bytes.to_le_bytes()));
    short_text(out, &certificate.stderr);
}

impl Word {
    fn code(self) -> u8 {
        match self {
            Word::Success => 0,
            Word::Error => 1,
            Word::Crash => 2,
            Word::Cancel => 3,
            Word::TimeoutRun => 4,
            Word::TimeoutTotal => 5,
            Word::Unlaunchable => 6,
        }
    }

    fn from_code(code: u8) -> Result<Word, FrameError> {
        match code {
            0 => Ok(Word::Success),
            1 => Ok(Word::Error),
            2 => Ok(Word::Crash),
            3 => Ok(Word::Cancel),
            4 => Ok(Word::TimeoutRun),
            5 => Ok(Word::TimeoutTotal),
            6 => Ok(Word::Unlaunchable),
            _ => Err(FrameError::Malformed),
        }
    }
}

impl Cause {
    fn code(self) -> u8 {
        match self {
            Cause::Memory => 0,
            Cause::Time => 1,
            Cause::Spot => 2,
            Cause::Other => 3,
        }
    }

    fn from_code(code: u8) -> Result<Cause, FrameError> {
        match code {
            0 => Ok(Cause::Memory),
            1 => Ok(Cause::Time),
            2 => Ok(Cause::Spot),
            3 => Ok(Cause::Other),
            _ => Err(FrameError::Malformed),
        }
    }
}

impl Leave {
    fn code(self) -> u8 {
        match self {
            Leave::Idle => 0,
            Leave::Wall => 1,
            Leave::Tasks => 2,
            Leave::Closing => 3,
        }
    }

    fn from_code(code: u8) -> Result<Leave, FrameError> {
        match code {
            0 => Ok(Leave::Idle),
            1 => Ok(Leave::Wall),
            2 => Ok(Leave::Tasks),
            3 => Ok(Leave::Closing),
            _ => Err(FrameError::Malformed),
        }
    }
}

impl Wire for ToWorker {
    fn first(&self, out: &mut Vec<u8>) {
        match self {
            ToWorker::Welcome { name, reset, memory } => frame(out, 1, |out| {
                text(out, name);
                out.push(*reset);
                maybe(out, *memory, |out, bytes| out.extend_from_slice(&bytes.to_le_bytes()));
            }),
            ToWorker::Refuse { reason } => frame(out, 2, |out| text(out, reason)),
            ToWorker::Define { function, payload } => {
                frame_with(out, 3, payload, |out| out.extend_from_slice(&function.number().to_le_bytes()));
            }
            ToWorker::Forget { function } => {
                frame(out, 4, |out| out.extend_from_slice(&function.number().to_le_bytes()));
            }
            ToWorker::Run { task, lease, slot, function, attempt, short, within, inline, payload } => {
                frame_with(out, 5, payload, |out| {
                    out.extend_from_slice(&task.number().to_le_bytes());
                    out.extend_from_slice(&lease.0.to_le_bytes());
                    out.extend_from_slice(&slot.to_le_bytes());
                    out.extend_from_slice(&function.number().to_le_bytes());
                    out.extend_from_slice(&attempt.to_le_bytes());
                    out.push(u8::from(*short));
                    // Leases begin with 1.
                    number(out, within.unwrap_or_default().0);
                    out.push(u8::from(*inline));
                })
            }
            ToWorker::Recall { lease } => frame(out, 6, |out| out.extend_from_slice(&lease.0.to_le_bytes())),
            ToWorker::Interrupt { lease } => frame(out, 7, |out| out.extend_from_slice(&lease.0.to_le_bytes())),
            ToWorker::Ping => frame(out, 8, |_| ()),
            ToWorker::Stop { leave } => frame(out, 9, |out| out.push(leave.code())),
            ToWorker::Resolved { child, ending: how, payload } => frame_with(out, 13, payload, |out| {
                number(out, *child);
                ending(out, how);
            }),
            ToWorker::Lend { segment, bytes } => frame(out, 30, |out| {
                out.extend_from_slice(&segment.number().to_le_bytes());
                out.extend_from_slice(&bytes.to_le_bytes());
            }),
            ToWorker::Returned { segment, forked } => frame(out, 31, |out| {
                out.extend_from_slice(&segment.number().to_le_bytes());
                out.push(u8::from(*forked));
            }),
            ToWorker::Prepare { lease, slot, function, payload } => frame_with(out, 10, payload, |out| {
                out.extend_from_slice(&lease.0.to_le_bytes());
                out.extend_from_slice(&slot.to_le_bytes());
                out.extend_from_slice(&function.number().to_le_bytes());
            }),
        }
    }

    fn decode(kind: u8, body: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(match kind {
            1 => ToWorker::Welcome { name: body.text()?, reset: body.u8()?, memory: body.maybe(Reader::u64)? },
            2 => ToWorker::Refuse { reason: body.text()? },
            3 => ToWorker::Define { function: FunctionId::from_number(body.u64()?), payload: body.payload()? },
            4 => ToWorker::Forget { function: FunctionId::from_number(body.u64()?) },
            5 => ToWorker::Run {
                task: TaskId::from_number(body.u64()?),
                lease: Lease(body.u64()?),
                slot: body.u16()?,
                function: FunctionId::from_number(body.u64()?),
                attempt: body.u32()?,
                short: body.bool()?,
                within: Some(body.lease()?).filter(|lease| lease.0 > 0),
                inline: body.bool()?,
                payload: body.payload()?,
            },
            6 => ToWorker::Recall { lease: Lease(body.u64()?) },
            7 => ToWorker::Interrupt { lease: Lease(body.u64()?) },
            8 => ToWorker::Ping,
            9 => ToWorker::Stop { leave: Leave::from_code(body.u8()?)? },
            30 => ToWorker::Lend { segment: SegmentId::from_number(body.u64()?), bytes: body.u64()? },
            31 => ToWorker::Returned { segment: SegmentId::from_number(body.u64()?), forked: body.bool()? },
            13 => ToWorker::Resolved { child: body.u64()?, ending: Box::new(body.ending()?), payload: body.payload()? },
            10 => ToWorker::Prepare {
                lease: Lease(body.u64()?),
                slot: body.u16()?,
                function: FunctionId::from_number(body.u64()?),
                payload: body.payload()?,
            },
            kind => return Err(FrameError::UnknownKind(kind)),
        })
    }

    fn payload(&self) -> Option<&Payload> {
        match self {
            ToWorker::Define { payload, .. }
            | ToWorker::Run { payload, .. }
            | ToWorker::Prepare { payload, .. }
            | ToWorker::Resolved { payload, .. } => Some(payload),
            ToWorker::Welcome { .. }
            | ToWorker::Refuse { .. }
            | ToWorker::Forget { .. }
            | ToWorker::Recall { .. }
            | ToWorker::Interrupt { .. }
            | ToWorker::Ping
            | ToWorker::Stop { .. }
            | ToWorker::Lend { .. }
            | ToWorker::Returned { .. } => None,
        }
    }

    fn payload_mut(&mut self) -> Option<&mut Payload> {
        match self {
            ToWorker::Define { payload, .. }
            | ToWorker::Run { payload, .. }
            | ToWorker::Prepare { payload, .. }
            | ToWorker::Resolved { payload, .. } => Some(payload),
            ToWorker::Welcome { .. }
            | ToWorker::Refuse { .. }
            | ToWorker::Forget { .. }
            | ToWorker::Recall { .. }
            | ToWorker::Interrupt { .. }
            | ToWorker::Ping
            | ToWorker::Stop { .. }
            | ToWorker::Lend { .. }
            | ToWorker::Returned { .. } => None,
        }
    }
}

impl Wire for FromWorker {
    fn first(&self, out: &mut Vec<u8>) {
        match self {
            FromWorker::Hello { version, python, pid, host } => frame(out, 129, |out| {
                out.extend_from_slice(&version.to_le_bytes());
                out.extend_from_slice(&[python.0, python.1]);
                out.extend_from_slice(&pid.to_le_bytes());
                text(out, host);
            }),
            FromWorker::Finished { lease, success, run: how, payload } => frame_with(out, 130, payload, |out| {
                number(out, lease.0);
                out.push(u8::from(*success));
                run(out, how);
            }),
            FromWorker::Recalled { lease, back } => frame(out, 131, |out| {
                out.extend_from_slice(&lease.0.to_le_bytes());
                out.push(u8::from(*back));
            }),
            FromWorker::Heartbeat => frame(out, 132, |_| ()),
            FromWorker::Retire => frame(out, 135, |_| ()),
            FromWorker::Report { lease, payload } => {
                frame_with(out, 133, payload, |out| out.extend_from_slice(&lease.0.to_le_bytes()));
            }
            FromWorker::Declare { function, label, payload } => frame_with(out, 140, payload, |out| {
                number(out, *function);
                text(out, label);
            }),
            FromWorker::Withdraw { function } => frame(out, 141, |out| number(out, *function)),
            FromWorker::Submit { child, parent, function, terms: asked, payload } => {
                frame_with(out, 142, payload, |out| {
                    number(out, *child);
                    number(out, parent.0);
                    number(out, *function);
                    terms(out, asked);
                });
            }
            FromWorker::Cancel { child } => frame(out, 143, |out| number(out, *child)),
            FromWorker::Release { child } => frame(out, 144, |out| number(out, *child)),
            FromWorker::Wait { lease, child } => frame(out, 145, |out| {
                number(out, lease.0);
                // Numbers of children begin with 1.
                number(out, child.unwrap_or_default());
            }),
            FromWorker::Resume { lease, elsewhere } => frame(out, 146, |out| {
                number(out, lease.0);
                out.push(u8::from(*elsewhere));
            }),
            FromWorker::Lend { segment, bytes } => frame(out, 160, |out| {
                out.extend_from_slice(&segment.number().to_le_bytes());
                out.extend_from_slice(&bytes.to_le_bytes());
            }),
            FromWorker::Returned { segment, forked } => frame(out, 161, |out| {
                out.extend_from_slice(&segment.number().to_le_bytes());
                out.push(u8::from(*forked));
            }),
            FromWorker::Prepared { lease, error, payload } => frame_with(out, 134, payload, |out| {
                out.extend_from_slice(&lease.0.to_le_bytes());
                text(out, error);
            }),
        }
    }

    fn decode(kind: u8, body: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(match kind {
            129 => FromWorker::Hello {
                version: body.u32()?,
                python: (body.u8()?, body.u8()?),
                pid: body.u32()?,
                host: body.text()?,
            },
            130 => FromWorker::Finished {
                lease: Lease(body.u64()?),
                success: body.bool()?,
                run: body.run()?,
                payload: body.payload()?,
            },
            131 => FromWorker::Recalled { lease: Lease(body.u64()?), back: body.bool()? },
            132 => FromWorker::Heartbeat,
            135 => FromWorker::Retire,
            133 => FromWorker::Report { lease: Lease(body.u64()?), payload: body.payload()? },
            160 => FromWorker::Lend { segment: SegmentId::from_number(body.u64()?), bytes: body.u64()? },
            161 => FromWorker::Returned { segment: SegmentId::from_number(body.u64()?), forked: body.bool()? },
            140 => FromWorker::Declare { function: body.u64()?, label: body.text()?, payload: body.payload()? },
            141 => FromWorker::Withdraw { function: body.u64()? },
            142 => FromWorker::Submit {
                child: body.u64()?,
                parent: body.lease()?,
                function: body.u64()?,
                terms: body.terms()?,
                payload: body.payload()?,
            },
            143 => FromWorker::Cancel { child: body.u64()? },
            144 => FromWorker::Release { child: body.u64()? },
            145 => FromWorker::Wait { lease: body.lease()?, child: Some(body.u64()?).filter(|child| *child > 0) },
            146 => FromWorker::Resume { lease: body.lease()?, elsewhere: body.bool()? },
            134 => FromWorker::Prepared { lease: Lease(body.u64()?), error: body.text()?, payload: body.payload()? },
            kind => return Err(FrameError::UnknownKind(kind)),
        })
    }

    fn payload(&self) -> Option<&Payload> {
        match self {
            FromWorker::Finished { payload, .. }
            | FromWorker::Report { payload, .. }
            | FromWorker::Prepared { payload, .. }
            | FromWorker::Declare { payload, .. }
            | FromWorker::Submit { payload, .. } => Some(payload),
            FromWorker::Hello { .. }
            | FromWorker::Recalled { .. }
            | FromWorker::Heartbeat
            | FromWorker::Retire
            | FromWorker::Withdraw { .. }
            | FromWorker::Cancel { .. }
            | FromWorker::Release { .. }
            | FromWorker::Wait { .. }
            | FromWorker::Resume { .. }
            | FromWorker::Lend { .. }
            | FromWorker::Returned { .. } => None,
        }
    }

    fn payload_mut(&mut self) -> Option<&mut Payload> {
        match self {
            FromWorker::Finished { payload, .. }
            | FromWorker::Report { payload, .. }
            | FromWorker::Prepared { payload, .. }
            | FromWorker::Declare { payload, .. }
            | FromWorker::Submit { payload, .. } => Some(payload),
            FromWorker::Hello { .. }
            | FromWorker::Recalled { .. }
            | FromWorker::Heartbeat
            | FromWorker::Retire
            | FromWorker::Withdraw { .. }
            | FromWorker::Cancel { .. }
            | FromWorker::Release { .. }
            | FromWorker::Wait { .. }
            | FromWorker::Resume { .. }
            | FromWorker::Lend { .. }
            | FromWorker::Returned { .. } => None,
        }
    }
}
