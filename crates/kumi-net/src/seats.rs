//! Who waits for the brain, and who of them has the baton: what they say to each other under the brain's lock.
//!
//! The rest of it, how they wait, is in wait.rs. tests/model.rs compiles this file with bells that try every order of events.

use std::sync::Arc;

use kumi_core::TaskId;

use crate::epoll::Bell;

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// This task to be done.
    Task(TaskId),
    /// Anything that follows from tasks being done: room, records, the end.
    Any,
    /// Launches to carry out.
    Orders,
    /// Tasks to hand over to the backup.
    Leaving,
}

impl Wants {
    /// Whether such a thread may read sockets; not if it waits nearly always.
    fn may_lead(self) -> bool {
        match self {
            Wants::Task(_) | Wants::Any => true,
            Wants::Orders | Wants::Leaving => false,
        }
    }
}

/// Everybody who waits.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    taken: Vec<Seat>,
    next: u64,
    /// Who reads the sockets.
    leader: Option<u64>,
    /// The leader waits; else it looks for itself whether it has what it wants.
    leader_waits: bool,
    /// The I/O thread does not see the sockets.
    off: bool,
}

#[derive(Debug)]
struct Seat {
    number: u64,
    wants: Wants,
    bell: Arc<Bell>,
}

impl Seats {
    pub fn take(&mut self, wants: Wants, bell: Arc<Bell>) -> u64 {
        self.next += 1;
        self.taken.push(Seat { number: self.next, wants, bell });
        self.next
    }

    /// Takes the baton, if nobody has it and this thread may.
    pub fn lead(&mut self, number: u64, wants: Wants) -> bool {
        if self.leader.is_none() && wants.may_lead() {
            self.leader = Some(number);
        }
        self.leader == Some(number)
    }

    /// The leader begins to wait, or has waited.
    pub fn leader_waits(&mut self, waits: bool) {
        self.leader_waits = waits;
    }

    /// This thread waits no longer, and hands the baton on if it has it. True: nobody is left who may take it, so show
    /// the sockets to the I/O thread.
    pub fn leave(&mut self, number: u64) -> bool {
        self.taken.retain(|seat| seat.number != number);
        if self.leader == Some(number) {
            self.leader = None;
        }
        if self.leader.is_some() || !self.off {
            return false;
        }
        match self.taken.iter().find(|seat| seat.wants.may_lead()) {
            Some(next) => next.bell.ring(),
            None => return true,
        }
        false
    }

    /// Wakes whoever waits for something that matches. True: kick the leader as well, who waits for sockets.
    pub fn poke_if(&self, matches: impl Fn(Wants) -> bool) -> bool {
        let mut kick = false;
        for seat in self.taken.iter().filter(|seat| matches(seat.wants)) {
            if self.leader == Some(seat.number) {
                kick = self.leader_waits;
            } else {
                seat.bell.ring();
            }
        }
        kick
    }

    /// The I/O thread is not to read the sockets.
    pub fn off(&self) -> bool {
        self.off
    }

    /// Hides the sockets from the I/O thread, or shows them. Whether that is new.
    pub fn set_off(&mut self, off: bool) -> bool {
        std::mem::replace(&mut self.off, off) != off
    }
}
