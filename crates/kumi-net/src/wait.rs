//! Threads that wait for the brain, and the baton: which thread reads the sockets.
//!
//! A wake-up of another core costs more than everything else in a round trip, so a waiting thread reads the sockets
//! itself: it takes the baton, switches the sockets off for the I/O thread, and waits on them. Others that wait meanwhile
//! are parked. Who leaves with the baton hands it to a parked thread, or switches the sockets on again.
//!
//! Waits return now and then without result ([`Waited::Signal`]), so that Python can look for signals.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::epoll::{Bell, OFF, READ, Ready};
use crate::fork;
use crate::pool::{SOCKETS, Shared, State};
pub use crate::seats::Wants;
use crate::sys::{poll_once, watch};

/// Longest wait without looking for signals: one that another thread received sets no descriptor of ours.
pub(crate) const SLICE: Duration = Duration::from_secs(1);

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited<R> {
    /// What was waited for.
    Done(R),
    /// The limit was reached, or nothing will ever happen any more.
    TimedOut,
    /// Look for signals, then wait again.
    Signal,
}

thread_local! {
    /// With the process it was made in: a forked child would share its parent's.
    static BELL: RefCell<Option<(u64, Arc<Bell>)>> = const { RefCell::new(None) };
}

pub(crate) fn my_bell() -> io::Result<Arc<Bell>> {
    BELL.with_borrow_mut(|mine| match mine {
        Some((process, bell)) if *process == fork::generation() => Ok(Arc::clone(bell)),
        Some(_) | None => {
            let bell = Arc::new(Bell::new()?);
            *mine = Some((fork::generation(), Arc::clone(&bell)));
            Ok(bell)
        }
    })
}

impl Shared {
    pub fn wait<R>(
        &self,
        wants: Wants,
        deadline: Option<Instant>,
        mut check: impl FnMut(&mut State) -> Option<R>,
    ) -> io::Result<Waited<R>> {
        let mut state = self.lock();
        if let Some(found) = check(&mut state) {
            return Ok(Waited::Done(found));
        }
        self.work(&mut state, |state, now| state.brain.hurry(now));
        let bell = my_bell()?;
        let Some(wires) = self.wires() else {
            return Ok(Waited::TimedOut);
        };
        let number = state.seats.take(wants, Arc::clone(&bell));
        let mut ready = Ready::default();
        let mut signalled = false;
        let waited = loop {
            if let Some(found) = check(&mut state) {
                break Ok(Waited::Done(found));
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if state.over || left.is_some_and(|left| left.is_zero()) {
                break Ok(Waited::TimedOut);
            }
            if signalled {
                break Ok(Waited::Signal);
            }
            let slice = left.map_or(SLICE, |left| left.min(SLICE));
            if state.seats.lead(number, wants) {
                self.show_sockets(&mut state, false);
                state.seats.leader_waits(true);
                drop(state);
                let result = wires.sockets.wait(&mut ready, Some(slice));
                state = self.lock();
                state.seats.leader_waits(false);
                signalled = result.is_err() || ready.iter().next().is_none();
                self.read_ready(&mut state, &ready);
            } else {
                drop(state);
                let rang = poll_once(&mut [watch(Some(bell.fd()), libc::POLLIN)], slice);
                bell.hush();
                signalled = !matches!(rang, Ok(1));
                state = self.lock();
            }
        };
        self.leave(&mut state, number);
        waited
    }

    fn leave(&self, state: &mut State, number: u64) {
        if state.seats.leave(number) {
            self.show_sockets(state, true);
        }
    }

    fn show_sockets(&self, state: &mut State, on: bool) {
        let Some(wires) = self.wires() else { return };
        if state.seats.set_off(!on) {
            // Both descriptors live as long as the pool, so this cannot fail.
            let _ = wires.all.set(wires.sockets.fd(), SOCKETS, if on { READ } else { OFF });
        }
    }

    /// Wakes who waits for this.
    pub fn poke(&self, state: &mut State, what: Wants) {
        self.poke_if(state, |wants| wants == what);
    }

    /// Wakes everybody.
    pub fn poke_all(&self, state: &mut State) {
        self.poke_if(state, |_| true);
    }

    fn poke_if(&self, state: &mut State, matches: impl Fn(Wants) -> bool) {
        if state.seats.poke_if(matches) {
            if let Some(wires) = self.wires() {
                wires.kick.ring();
            }
        }
    }
}
