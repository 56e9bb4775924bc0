//! One end of a conversation that outlives its connections: every message arrives once and in order, or the session is lost.
//!
//! Both ends are alike. What was sent is kept until the other end says that it has come; after a cut each end says how
//! many messages it has, and the rest is sent again. Messages are numbered by the order in which their last bytes were
//! sent, so no number travels with them. A sign of life and an acknowledgement are not numbered and not kept.
//!
//! What the hands do with one:
//! - [`Session::send`] takes a message at any time, also without a connection.
//! - While the socket takes bytes, [`Session::write`] gives it one frame after another, of at most a MiB: what is urgent
//!   passes a large payload between its parts. Never ask for many frames ahead.
//! - Each message that comes goes through [`Session::hear`], which counts it, before anybody acts on it; it is acknowledged
//!   from then on. So act on it then: what is only noted somewhere must not get lost.
//! - When the connection ends: [`Session::cut`]. On a new one, once both ends are proved: [`Session::resume`] with what the
//!   other end has. Bytes that were read but did not make a whole message are forgotten: a new connection, a new decoder.

use std::collections::VecDeque;
use std::marker::PhantomData;

use crate::error::FrameError;
use crate::frame::{CHUNK, Wire, part};

/// So many messages, or bytes of them, may have come before the other end is told: it keeps them until then.
const ACK_MESSAGES: u64 = 64;
const ACK_BYTES: usize = 1 << 18;

/// A message of a session.
pub trait Talk: Wire + Clone {
    /// So many messages have come.
    fn ack(received: u64) -> Self;
    /// How many have come, if it says that.
    fn acknowledges(&self) -> Option<u64>;
    /// Numbered, and kept until it has come. Others are for the present connection alone.
    fn is_kept(&self) -> bool;
    /// Passes all that waits, save what [`Talk::binds`] it.
    fn is_urgent(&self) -> bool;
    /// Acknowledged at once: the other end waits for that.
    fn is_last(&self) -> bool;
    /// Whether this urgent message must not come before `other`.
    fn binds(&self, other: &Self) -> bool;
}

/// The other end speaks of messages that it cannot have, or that are gone: the session cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfStep;

impl From<OutOfStep> for FrameError {
    fn from(_: OutOfStep) -> Self {
        FrameError::Misplaced
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct Session<Out, In> {
    /// Not known to have come, oldest first.
    kept: VecDeque<Out>,
    /// The number of the first of them, and of the next to be sent on the present connection.
    first: u64,
    next: u64,
    /// Those before it were sent, if only on connections that have ended: they may have come, and keep their numbers.
    reached: u64,
    /// One is on its way in parts: how many stand before it that came later, and how many of its bytes are sent.
    partial: Option<(usize, usize)>,
    /// For the present connection alone.
    signs: VecDeque<Out>,
    /// How many have come from the other end, and what it was told.
    received: u64,
    told: u64,
    untold_bytes: usize,
    hears: PhantomData<In>,
}

impl<Out, In> Default for Session<Out, In> {
    fn default() -> Self {
        Self {
            kept: VecDeque::new(),
            first: 0,
            next: 0,
            reached: 0,
            partial: None,
            signs: VecDeque::new(),
            received: 0,
            told: 0,
            untold_bytes: 0,
            hears: PhantomData,
        }
    }
}

impl<Out: Talk, In: Talk> Session<Out, In> {
    /// To be sent, in this order.
    pub fn send(&mut self, message: Out) {
        if !message.is_kept() {
            self.signs.push_back(message);
            self.acknowledge();
        } else if message.is_urgent() {
            self.send_urgent(message);
        } else {
            self.kept.push_back(message);
        }
    }

    fn send_urgent(&mut self, message: Out) {
        let front = self.numbered() + self.partial.map_or(0, |(ahead, _)| ahead);
        match self.kept.iter().skip(front).rposition(|other| message.binds(other)) {
            Some(behind) => self.kept.insert(front + behind + 1, message),
            None => {
                self.kept.insert(front, message);
                self.partial = self.partial.map(|(ahead, bytes)| (ahead + 1, bytes));
            }
        }
    }

    /// Puts this one in the place of the first that waits and that `old` holds for. `None`: there is one no more.
    pub fn replace(&mut self, message: Out, old: impl Fn(&Out) -> bool) -> Option<Out> {
        let from = self.numbered() + self.partial.map_or(0, |(ahead, _)| ahead + 1);
        match self.kept.iter_mut().skip(from).find(|other| old(other)) {
            Some(place) => Some(std::mem::replace(place, message)),
            None => {
                self.send(message);
                None
            }
        }
    }

    /// How many of those that are kept were sent on the present connection.
    fn sent(&self) -> usize {
        self.kept_before(self.next)
    }

    /// How many were sent at all: nothing may come before them any more.
    fn numbered(&self) -> usize {
        self.kept_before(self.next.max(self.reached))
    }

    fn kept_before(&self, number: u64) -> usize {
        usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.kept.len())
    }

    /// Appends the next frame to send on the present connection. False: there is none.
    pub fn write(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(sign) = self.signs.pop_front() {
            sign.encode(out);
            return true;
        }
        let sent = self.sent();
        match self.partial {
            Some((ahead @ 1.., bytes)) => {
                self.partial = Some((ahead - 1, bytes));
                if let Some(message) = self.kept.get(sent) {
                    message.encode(out);
                    self.next += 1;
                }
            }
            Some((0, bytes)) => {
                let payload = self.kept.get(sent).and_then(Out::payload);
                let rest = payload.and_then(|payload| payload.get(bytes..)).unwrap_or_default();
                part(out, rest.chunks(CHUNK).next().unwrap_or_default());
                if rest.len() > CHUNK {
                    self.partial = Some((0, bytes + CHUNK));
                } else {
                    self.partial = None;
                    self.next += 1;
                }
            }
            None => {
                let Some(message) = self.kept.get(sent) else { return false };
                message.first(out);
                if message.payload().is_some_and(|payload| payload.len() > CHUNK) {
                    self.partial = Some((0, CHUNK));
                } else {
                    self.next += 1;
                }
            }
        }
        true
    }

    /// A message has come. True: it is for who uses the session; false: it was for the session itself.
    ///
    /// # Errors
    /// It acknowledges what was never sent.
    pub fn hear(&mut self, message: &In) -> Result<bool, OutOfStep> {
        if let Some(received) = message.acknowledges() {
            self.acknowledged(received)?;
            return Ok(false);
        }
        if message.is_kept() {
            self.received += 1;
            let bytes = message.payload().map_or(0, |payload| payload.len());
            self.untold_bytes = self.untold_bytes.saturating_add(bytes);
            let many = self.received - self.told >= ACK_MESSAGES || self.untold_bytes >= ACK_BYTES;
            if many || message.is_last() {
                self.acknowledge();
            }
        }
        Ok(true)
    }

    /// Tells the other end what has come, if it does not know.
    fn acknowledge(&mut self) {
        if self.told < self.received {
            (self.told, self.untold_bytes) = (self.received, 0);
            self.signs.push_back(Out::ack(self.received));
        }
    }

    /// Fewer than it said before is an old message: nothing happens.
    fn acknowledged(&mut self, received: u64) -> Result<(), OutOfStep> {
        if received > self.next {
            return Err(OutOfStep);
        }
        while self.first < received {
            self.kept.pop_front();
            self.first += 1;
        }
        Ok(())
    }

    /// The connection has ended: what is not known to have come will be sent again.
    pub fn cut(&mut self) {
        self.reached = self.reached.max(self.next);
        (self.next, self.partial) = (self.first, None);
        self.signs.clear();
    }

    /// How many messages have come: what the other end is told when the session goes on.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// How many messages are kept, because nobody knows that they have come.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// On a new connection the other end says that so many have come: the rest is sent again.
    ///
    /// # Errors
    /// It has more than were ever sent, or fewer than it said before.
    pub fn resume(&mut self, received: u64) -> Result<(), OutOfStep> {
        let most = self.first.saturating_add(self.kept.len() as u64);
        if received < self.first || received > most {
            return Err(OutOfStep);
        }
        self.next = most;
        self.acknowledged(received)?;
        self.cut();
        // The others have not come, and never will.
        self.reached = self.first;
        (self.told, self.untold_bytes) = (self.received, 0);
        Ok(())
    }
}
