//! Secrets, and how an agent proves that it has one without showing it.
//!
//! A proof is an HMAC-SHA256 over what only the two ends of this TLS connection know and over the claim itself: it is worth
//! nothing on another connection, and for another claim.

use std::fmt;
use std::io;
use std::str::FromStr;

use kumi_core::frame::Wire;
use kumi_core::{FromAgent, Secret};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::tls::{hex, unhex};

/// What a user hands to `kumi worker`: which ticket, and its secret. As text, `kumi-<ticket>-<64 hexadecimal digits>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinCode {
    /// The ticket's number, as the host's brain issued it.
    pub ticket: u64,
    /// Known to the host and to whoever may join.
    pub secret: Secret,
}

/// The text, secret and all: never for a log or a command line.
impl fmt::Display for JoinCode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "kumi-{:x}-{}", self.ticket, hex(&self.secret.0))
    }
}

impl FromStr for JoinCode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (ticket, secret) = text.strip_prefix("kumi-").and_then(|rest| rest.split_once('-')).ok_or(())?;
        let ticket = u64::from_str_radix(ticket, 16).map_err(drop)?;
        Ok(Self { ticket, secret: Secret(unhex(secret).ok_or(())?) })
    }
}

/// Unpredictable bytes.
///
/// # Errors
/// The system has none.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let none = |_| io::Error::other("the system gives no random numbers");
    SystemRandom::new().fill(&mut bytes).map_err(none)?;
    Ok(bytes)
}

/// The claim, `Prove` or `Resume`, with its proof. `binding`: see [`Stream::binding`](crate::stream::Stream::binding).
pub fn prove(secret: &Secret, binding: &[u8; 32], claim: FromAgent) -> FromAgent {
    let mut tag = [0; 32];
    tag.copy_from_slice(hmac::sign(&key(secret), &proved(binding, &claim)).as_ref());
    with_proof(claim, tag)
}

/// Whether whoever makes this claim has the secret. Takes as long for a wrong proof as for a right one.
pub fn is_proved(secret: &Secret, binding: &[u8; 32], claim: &FromAgent) -> bool {
    match claim {
        FromAgent::Prove { proof, .. } | FromAgent::Resume { proof, .. } => {
            hmac::verify(&key(secret), &proved(binding, claim), proof).is_ok()
        }
        FromAgent::Worker(_) | FromAgent::Ack { .. } | FromAgent::Died { .. } => false,
    }
}

fn key(secret: &Secret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &secret.0)
}

/// What is signed: the binding, then the claim's frame with zeros for the proof.
fn proved(binding: &[u8; 32], claim: &FromAgent) -> Vec<u8> {
    let mut bytes = binding.to_vec();
    with_proof(claim.clone(), [0; 32]).encode(&mut bytes);
    bytes
}

fn with_proof(claim: FromAgent, new: [u8; 32]) -> FromAgent {
    let mut claim = claim;
    match &mut claim {
        FromAgent::Prove { proof, .. } | FromAgent::Resume { proof, .. } => *proof = new,
        FromAgent::Worker(_) | FromAgent::Ack { .. } | FromAgent::Died { .. } => {}
    }
    claim
}
