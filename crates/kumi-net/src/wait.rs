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

use kumi_core::TaskId;

use crate::epoll::{Bell, OFF, READ, Ready};
use crate::fork;
use crate::pool::{SOCKETS, Shared, State};
use crate::sys::{poll_once, watch};

/// Longest wait without looking for signals: one that another thread received sets no descriptor of ours.
pub(crate) const SLICE: Duration = Duration::from_secs(1);

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// This task to be done.
    Task(TaskId),
    /// Anything that follows from tasks being done: room, records, the end.
    Any,
    /// Launches to carry out. Such a thread never reads sockets: it waits nearly always.
    Orders,
}

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

/// Everybody who waits.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    taken: Vec<Seat>,
    next: u64,
    /// Who reads the sockets.
    leader: Option<u64>,
    /// The leader is not waiting: it looks for itself whether it has what it wants.
    leader_awake: bool,
    /// The I/O thread does not see the sockets.
    off: bool,
}

#[derive(Debug)]
struct Seat {
    number: u64,
    wants: Wants,
    bell: Arc<Bell>,
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
                state.seats.leader_awake = false;
                drop(state);
                let result = wires.sockets.wait(&mut ready, Some(slice));
                state = self.lock();
                state.seats.leader_awake = true;
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
        let seats = &mut state.seats;
        seats.taken.retain(|seat| seat.number != number);
        if seats.leader == Some(number) {
            seats.leader = None;
        }
        if seats.leader.is_none() && seats.off {
            match seats.taken.iter().find(|seat| seat.wants != Wants::Orders) {
                Some(next) => next.bell.ring(),
                None => self.show_sockets(state, true),
            }
        }
    }

    fn show_sockets(&self, state: &mut State, on: bool) {
        let Some(wires) = self.wires() else { return };
        if state.seats.off == on {
            // Both descriptors live as long as the pool, so this cannot fail.
            let _ = wires.all.set(wires.sockets.fd(), SOCKETS, if on { READ } else { OFF });
            state.seats.off = !on;
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
        let seats = &state.seats;
        for seat in seats.taken.iter().filter(|seat| matches(seat.wants)) {
            if seats.leader != Some(seat.number) {
                seat.bell.ring();
            } else if let Some(wires) = self.wires().filter(|_| !seats.leader_awake) {
                wires.kick.ring();
            }
        }
    }
}

impl Seats {
    fn take(&mut self, wants: Wants, bell: Arc<Bell>) -> u64 {
        self.next += 1;
        self.taken.push(Seat { number: self.next, wants, bell });
        self.next
    }

    /// The I/O thread is not to read the sockets.
    pub fn off(&self) -> bool {
        self.off
    }

    /// Takes the baton, if nobody has it and this thread may.
    fn lead(&mut self, number: u64, wants: Wants) -> bool {
        if self.leader.is_none() && wants != Wants::Orders {
            self.leader = Some(number);
        }
        self.leader == Some(number)
    }
}
