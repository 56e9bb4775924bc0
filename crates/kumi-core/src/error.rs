//! What can go wrong at the rim of the brain. A variant exists where a caller does something different.

use std::fmt;

/// Bytes that are not a message of this protocol. The connection they came from is closed, nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The frame says it is longer than any frame may be.
    TooLong {
        /// Its length, in bytes.
        length: u64,
    },
    /// No message has this kind in this direction.
    UnknownKind(u8),
    /// The frame ended before its message, or the message before its frame.
    Malformed,
    /// A part came without a beginning, or another payload began before one had ended.
    Misplaced,
}

impl fmt::Display for FrameError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLong { length } => write!(out, "a frame of {length} bytes is longer than allowed"),
            FrameError::UnknownKind(kind) => write!(out, "no message has kind {kind}"),
            FrameError::Malformed => write!(out, "a frame and its message differ in length"),
            FrameError::Misplaced => write!(out, "a part of a payload came out of place"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Why a task was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// The queue's bytes are used up; there will be room when tasks end.
    Full,
    /// The group that the task belongs to has ended.
    Over,
    /// No more tasks are taken.
    Closed,
    /// The function is not known here.
    NoFunction,
}
