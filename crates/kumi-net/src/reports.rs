//! What the running task says of itself: the latest, at most 20 times a second, without waiting for anybody.
//!
//! The first goes out at once, by the thread that says it. What is said within the pause after that waits here, and the watchdog
//! sends it; the next one in the same task takes its place. Before a task's result stands the last that it said.
//! Locks: this one before that of the outbox, which is never waited for, except at the end of a task.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use kumi_core::frame::Wire;
use kumi_core::{FromWorker, Lease, Payload};

use crate::outbox::Outbox;
use crate::watchdog::{AGAIN, arm, new_timer};

/// Between two reports: progress bars are drawn no faster.
const PAUSE: Duration = Duration::from_millis(50);

/// See the head of this file.
#[derive(Debug)]
pub struct Reporter {
    outbox: Arc<Mutex<Outbox>>,
    timer: OwnedFd,
    /// Whether any frame waits: looked at once for each task.
    waiting: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// One for each task at most.
    frames: Vec<(Lease, Vec<u8>)>,
    sent: Option<Instant>,
    /// The timer is set.
    armed: bool,
}

impl Reporter {
    /// One for a worker; the watchdog looks at its timer.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn new(outbox: Arc<Mutex<Outbox>>) -> io::Result<Self> {
        Ok(Self { outbox, timer: new_timer()?, waiting: AtomicBool::new(false), state: Mutex::default() })
    }

    /// The task under this lease says this. Never waits.
    ///
    /// # Errors
    /// Those of `send` and `timerfd_settime`: the host is gone.
    pub fn report(&self, lease: Lease, payload: Payload) -> io::Result<()> {
        let mut frame = Vec::new();
        FromWorker::Report { lease, payload }.encode(&mut frame);
        let mut state = self.state();
        state.frames.retain(|(other, _)| *other != lease);
        state.frames.push((lease, frame));
        self.waiting.store(true, Ordering::Relaxed);
        if self.send(&mut state)? { Ok(()) } else { arm(&self.timer, Duration::ZERO) }
    }

    /// The task under this lease is done: what it said last is composed before its result.
    pub(crate) fn last_words(&self, lease: Lease) -> io::Result<()> {
        if !self.waiting.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut state = self.state();
        let Some(at) = state.frames.iter().position(|(other, _)| *other == lease) else { return Ok(()) };
        let (_, frame) = state.frames.remove(at);
        self.waiting.store(!state.frames.is_empty(), Ordering::Relaxed);
        state.sent = Some(Instant::now());
        drop(state);
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner).push(&frame).map(drop)
    }

    /// For the watchdog, after a flush: sends what is due. `clogged`: the socket is full, so that there will be another flush.
    pub(crate) fn send_due(&self, clogged: bool) -> io::Result<()> {
        let mut state = self.state();
        state.armed = false;
        let sent = self.send(&mut state)?;
        drop(state);
        if sent || clogged { Ok(()) } else { arm(&self.timer, AGAIN) }
    }

    /// Rings when something is due.
    pub(crate) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what waits, if the pause is over; else sets the timer. False: somebody else has to see to the rest.
    fn send(&self, state: &mut State) -> io::Result<bool> {
        let pause = state.sent.map(|sent| PAUSE.saturating_sub(sent.elapsed())).filter(|pause| !pause.is_zero());
        if state.frames.is_empty() {
            return Ok(true);
        }
        if let Some(pause) = pause {
            if !std::mem::replace(&mut state.armed, true) {
                arm(&self.timer, pause)?;
            }
            return Ok(true);
        }
        let mut outbox = match self.outbox.try_lock() {
            Ok(outbox) => outbox,
            Err(TryLockError::Poisoned(broken)) => broken.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        while let Some((_, frame)) = state.frames.first() {
            if !outbox.try_push(frame) {
                // Where the flush makes room, the next turn takes it: no report is longer than the region.
                if outbox.try_flush()? {
                    continue;
                }
                return Ok(false);
            }
            state.frames.remove(0);
            state.sent = Some(Instant::now());
        }
        self.waiting.store(false, Ordering::Relaxed);
        outbox.try_flush()
    }
}
