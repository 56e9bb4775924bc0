//! The host's note of one local worker: its process, and what it is to the brain.

use std::io;

use kumi_core::{LaunchId, WorkerId};

use crate::berths::Berth;
use crate::child::Child;
use crate::deliver::Written;
use crate::spawn::Command;

/// How much is kept of what a worker writes before it joins, in bytes, before it is shown as it comes.
const EARLY: usize = 1 << 16;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Link {
    pub launch: LaunchId,
    pub worker: Option<WorkerId>,
    pub child: Child,
    /// Its own until it is buried.
    pub berth: Berth,
    /// What it wrote before it joined; `None`: what it writes is shown as it comes.
    early: Option<Written>,
}

impl Link {
    /// Starts a worker process.
    pub fn start(command: &Command, launch: LaunchId, name: String, marker: String) -> io::Result<Self> {
        let child = Child::start(command, name, marker)?;
        Ok(Self { launch, worker: None, child, berth: Berth::new(), early: Some(Written::default()) })
    }

    /// Takes what it has written; returns what is to be shown now, of each of its pipes.
    pub fn wrote(&mut self, stderr: bool, bytes: Vec<u8>) -> Written {
        let Some([out, err]) = &mut self.early else {
            return if stderr { [Vec::new(), bytes] } else { [bytes, Vec::new()] };
        };
        if stderr {
            err.extend(bytes)
        } else {
            out.extend(bytes)
        }
        if out.len() + err.len() > EARLY { self.end_of_early() } else { Written::default() }
    }

    /// From now on what it writes is shown as it comes. Returns what it wrote before.
    pub fn end_of_early(&mut self) -> Written {
        self.early.take().unwrap_or_default()
    }
}
