//! What only the network needs: the messages between a host and the agent of a remote worker, besides those that the
//! agent hands on to its worker and the worker's answers. `docs/protocol.md` has them in its table.
//!
//! A connection begins like this, with a decoder of at most [`UNPROVED`] bytes a frame and no payloads in parts; nobody waits
//! longer than [`ANSWER`] for the other:
//! 1. agent: [`FromWorker::Hello`] and, at once, [`FromAgent::Prove`] or, if it has a session, [`FromAgent::Resume`];
//! 2. host: [`ToAgent::Session`], or [`ToAgent::Resumed`], then what the session sends; or [`ToWorker::Refuse`], and it closes.
//!
//! A session is one worker's. When the host has acknowledged its end the agent calls again, as at first, for another worker;
//! unless the host wants none: it has told the worker to leave ([`Leave::Idle`](crate::Leave::Idle), [`Leave::Closing`](crate::Leave::Closing)) or the agent to end.
//!
//! From then on all goes through one [`Session`](crate::Session) at each end. The host's hands, for each remote worker:
//! - proved by a ticket: [`Event::Called`](crate::Event::Called) with the connection's number. On
//!   [`Action::Admit`](crate::Action::Admit) make a session with a random key (or, if the worker has one, `resume(0)` it) and
//!   send `Session` as the first frame, not through [`Session::send`](crate::Session::send); on `Refuse`, refuse.
//! - proved by a session's key: unknown sessions are refused ("its session is over"). Else [`Session::resume`](crate::Session::resume), `Resumed` as
//!   the first frame, close the older connection if there is one, [`Event::Resumed`](crate::Event::Resumed).
//! - [`Action::Send`](crate::Action::Send): `send(ToAgent::Worker(message))`. `Kill`: `send(ToAgent::End)`. `Cut`: close.
//!   `Fence`: see there. Payloads go whole, and results come inline (`Run` says so): no segment is ever lent.
//! - `FromAgent::Worker`: [`Event::Said`](crate::Event::Said). `Died`: `Event::Gone` with that; write what there is, close, and forget
//!   the session. `Prove` or `Resume` again, a malformed frame, [`OutOfStep`](crate::session::OutOfStep): close that connection.
//! - a connection that ends: [`Session::cut`](crate::Session::cut), [`Event::Cut`](crate::Event::Cut).

use std::time::Duration;

use crate::error::FrameError;
use crate::frame::{Reader, Wire, certificate, frame};
use crate::ids::Lease;
use crate::message::{FromWorker, Payload, ToWorker};
use crate::session::Talk;
use crate::task::Certificate;

/// Longest frame, in bytes, of somebody who is not proved: a text of a reasonable length and the fixed fields.
pub const UNPROVED: usize = 1024;
/// How long either end waits for the other to prove itself.
pub const ANSWER: Duration = Duration::from_secs(10);

/// Secret bytes. Never shown, not even to a debugger's print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Secret(..)")
    }
}

/// From the host to the agent of a remote worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToAgent {
    /// For its worker.
    Worker(ToWorker),
    /// Answer to [`FromAgent::Prove`]: what the connection is called, so that it can go on after a cut.
    Session {
        /// Its name.
        session: u64,
        /// To prove by, after a cut, that it is ours.
        key: Secret,
        /// A peer that hears nothing for so long, in milliseconds, closes the connection.
        silence: u64,
        /// For how long to dial again after a cut, in milliseconds.
        reconnect: u64,
    },
    /// Answer to [`FromAgent::Resume`]: the session goes on.
    Resumed {
        /// How many messages of the agent have come so far.
        received: u64,
    },
    /// So many messages of the agent have come; they need not be kept any more.
    Ack {
        /// Since the beginning of the session.
        received: u64,
    },
    /// End the worker with all its children, at once.
    End {
        /// And then call again; else the agent ends too.
        again: bool,
    },
}

/// From the agent of a remote worker to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromAgent {
    /// Of its worker.
    Worker(FromWorker),
    /// After [`FromWorker::Hello`]: who is calling.
    Prove {
        /// The launch or join code whose secret it has.
        ticket: u64,
        /// Which of the launch's workers.
        index: u32,
        /// Random, one for each agent: tells a repeated call from a second worker.
        incarnation: u64,
        /// HMAC of this connection and all of the above by that secret.
        proof: [u8; 32],
    },
    /// After [`FromWorker::Hello`]: goes on with a session after a cut.
    Resume {
        /// Which.
        session: u64,
        /// How many messages of the host have come so far.
        received: u64,
        /// HMAC of this connection and all of the above by the session's key.
        proof: [u8; 32],
    },
    /// So many messages of the host have come; they need not be kept any more.
    Ack {
        /// Since the beginning of the session.
        received: u64,
    },
    /// The worker's process has ended. The last message: the host acknowledges it at once and closes the connection.
    Died {
        /// The task it was at.
        begun: Option<Lease>,
        /// How it ended.
        certificate: Certificate,
    },
}

impl Talk for ToAgent {
    fn ack(received: u64) -> Self {
        ToAgent::Ack { received }
    }

    fn acknowledges(&self) -> Option<u64> {
        match self {
            ToAgent::Ack { received } => Some(*received),
            _ => None,
        }
    }

    fn is_kept(&self) -> bool {
        match self {
            ToAgent::Worker(ToWorker::Ping) => false,
            ToAgent::Worker(_) | ToAgent::End { .. } => true,
            ToAgent::Session { .. } | ToAgent::Resumed { .. } | ToAgent::Ack { .. } => false,
        }
    }

    fn is_urgent(&self) -> bool {
        matches!(self, ToAgent::Worker(ToWorker::Recall { .. } | ToWorker::Interrupt { .. }) | ToAgent::End { .. })
    }

    fn is_last(&self) -> bool {
        false
    }

    fn binds(&self, other: &Self) -> bool {
        let (ToAgent::Worker(ToWorker::Recall { lease } | ToWorker::Interrupt { lease }), ToAgent::Worker(other)) =
            (self, other)
        else {
            return false;
        };
        match other {
            ToWorker::Run { lease: other, .. }
            | ToWorker::Prepare { lease: other, .. }
            | ToWorker::Recall { lease: other } => other == lease,
            _ => false,
        }
    }
}

impl Talk for FromAgent {
    fn ack(received: u64) -> Self {
        FromAgent::Ack { received }
    }

    fn acknowledges(&self) -> Option<u64> {
        match self {
            FromAgent::Ack { received } => Some(*received),
            _ => None,
        }
    }

    fn is_kept(&self) -> bool {
        match self {
            FromAgent::Worker(FromWorker::Heartbeat) => false,
            FromAgent::Worker(_) | FromAgent::Died { .. } => true,
            FromAgent::Prove { .. } | FromAgent::Resume { .. } | FromAgent::Ack { .. } => false,
        }
    }

    fn is_urgent(&self) -> bool {
        false
    }

    fn is_last(&self) -> bool {
        matches!(self, FromAgent::Died { .. })
    }

    fn binds(&self, _: &Self) -> bool {
        false
    }
}

impl Wire for ToAgent {
    fn first(&self, out: &mut Vec<u8>) {
        match self {
            ToAgent::Worker(message) => message.first(out),
            ToAgent::Session { session, key, silence, reconnect } => frame(out, 20, |out| {
                out.extend_from_slice(&session.to_le_bytes());
                out.extend_from_slice(&key.0);
                out.extend_from_slice(&silence.to_le_bytes());
                out.extend_from_slice(&reconnect.to_le_bytes());
            }),
            ToAgent::Resumed { received } => frame(out, 21, |out| out.extend_from_slice(&received.to_le_bytes())),
            ToAgent::Ack { received } => frame(out, 22, |out| out.extend_from_slice(&received.to_le_bytes())),
            ToAgent::End { again } => frame(out, 23, |out| out.push(u8::from(*again))),
        }
    }

    fn decode(kind: u8, body: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(match kind {
            20 => ToAgent::Session {
                session: body.u64()?,
                key: Secret(body.take()?),
                silence: body.u64()?,
                reconnect: body.u64()?,
            },
            21 => ToAgent::Resumed { received: body.u64()? },
            22 => ToAgent::Ack { received: body.u64()? },
            23 => ToAgent::End { again: body.bool()? },
            kind => ToAgent::Worker(ToWorker::decode(kind, body)?),
        })
    }

    fn payload(&self) -> Option<&Payload> {
        match self {
            ToAgent::Worker(message) => message.payload(),
            ToAgent::Session { .. } | ToAgent::Resumed { .. } | ToAgent::Ack { .. } | ToAgent::End { .. } => None,
        }
    }

    fn payload_mut(&mut self) -> Option<&mut Payload> {
        match self {
            ToAgent::Worker(message) => message.payload_mut(),
            ToAgent::Session { .. } | ToAgent::Resumed { .. } | ToAgent::Ack { .. } | ToAgent::End { .. } => None,
        }
    }
}

impl Wire for FromAgent {
    fn first(&self, out: &mut Vec<u8>) {
        match self {
            FromAgent::Worker(message) => message.first(out),
            FromAgent::Prove { ticket, index, incarnation, proof } => frame(out, 150, |out| {
                out.extend_from_slice(&ticket.to_le_bytes());
                out.extend_from_slice(&index.to_le_bytes());
                out.extend_from_slice(&incarnation.to_le_bytes());
                out.extend_from_slice(proof);
            }),
            FromAgent::Resume { session, received, proof } => frame(out, 151, |out| {
                out.extend_from_slice(&session.to_le_bytes());
                out.extend_from_slice(&received.to_le_bytes());
                out.extend_from_slice(proof);
            }),
            FromAgent::Ack { received } => frame(out, 152, |out| out.extend_from_slice(&received.to_le_bytes())),
            FromAgent::Died { begun, certificate: how } => frame(out, 153, |out| {
                out.extend_from_slice(&begun.unwrap_or_default().0.to_le_bytes());
                certificate(out, how);
            }),
        }
    }

    fn decode(kind: u8, body: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(match kind {
            150 => FromAgent::Prove {
                ticket: body.u64()?,
                index: body.u32()?,
                incarnation: body.u64()?,
                proof: body.take()?,
            },
            151 => FromAgent::Resume { session: body.u64()?, received: body.u64()?, proof: body.take()? },
            152 => FromAgent::Ack { received: body.u64()? },
            // Leases begin with 1.
            153 => FromAgent::Died {
                begun: Some(Lease(body.u64()?)).filter(|lease| *lease != Lease(0)),
                certificate: body.certificate()?,
            },
            kind => FromAgent::Worker(FromWorker::decode(kind, body)?),
        })
    }

    fn payload(&self) -> Option<&Payload> {
        match self {
            FromAgent::Worker(message) => message.payload(),
            FromAgent::Prove { .. } | FromAgent::Resume { .. } | FromAgent::Ack { .. } | FromAgent::Died { .. } => None,
        }
    }

    fn payload_mut(&mut self) -> Option<&mut Payload> {
        match self {
            FromAgent::Worker(message) => message.payload_mut(),
            FromAgent::Prove { .. } | FromAgent::Resume { .. } | FromAgent::Ack { .. } | FromAgent::Died { .. } => None,
        }
    }
}
