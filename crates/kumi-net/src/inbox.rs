//! What event loops wait for. Each loop has one inbox: a descriptor that it watches beside its others, and what has come.
//!
//! A loop never reads workers' sockets: it must not be held up, and it has other things to do. Whoever reads them puts what
//! has come true into the inbox. The bell rings only for the first of many, so the loop wakes once for a whole batch.
//! A thread that waits for several pools at once does the same, with an inbox of its own.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use kumi_core::{TaskId, Time};

use crate::deliver::{self, Delivery};
use crate::epoll::Bell;
use crate::pool::State;

static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);

/// A token never used before in this process.
pub(crate) fn token() -> u64 {
    NEXT_TOKEN.fetch_add(1, Ordering::Relaxed)
}

/// What one event loop is told.
#[derive(Debug)]
pub struct Inbox {
    bell: Bell,
    tokens: Mutex<VecDeque<u64>>,
}

impl Inbox {
    /// An empty one.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { bell: Bell::new()?, tokens: Mutex::default() })
    }

    /// Readable while there is something to take.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.bell.fd()
    }

    /// The oldest tokens, so many at most. Never waits.
    pub fn take(&self, most: usize) -> Vec<u64> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let count = most.min(tokens.len());
        let taken = tokens.drain(..count).collect();
        if tokens.is_empty() {
            self.bell.hush();
        }
        taken
    }

    fn put(&self, token: u64) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.push_back(token);
        if tokens.len() == 1 {
            self.bell.ring();
        }
    }
}

/// Who is told.
#[derive(Clone, Debug)]
pub enum Address {
    /// The thread that delivers.
    Deliverer,
    /// An event loop, unless it is gone by then.
    Loop(Weak<Inbox>),
}

impl Address {
    pub(crate) fn tell(&self, token: u64) {
        match self {
            Address::Deliverer => drop(deliver::put(Delivery::Resolved(token))),
            Address::Loop(inbox) => {
                if let Some(inbox) = inbox.upgrade() {
                    inbox.put(token);
                }
            }
        }
    }
}

/// What an event loop, or a thread with an inbox of its own, waits for, other than a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Room in the queue for arguments of so many bytes.
    Room(u64),
    /// A kept task to pop, or none left that could be.
    Kept,
    /// A kept task to pop, also if it is yet to come.
    Record,
    /// Every task resolved.
    Done,
    /// The end of the pool.
    Ended,
}

impl Until {
    fn holds(self, state: &State) -> bool {
        let brain = &state.brain;
        match self {
            Until::Room(bytes) => state.over || brain.has_room(bytes),
            Until::Kept => state.over || brain.kept_front().is_some() || brain.kept_open() == 0,
            // Whoever waits for several pools at once is not to hear that there is nothing in one of them.
            Until::Record => brain.kept_front().is_some(),
            Until::Done => state.over || brain.unresolved() == 0,
            Until::Ended => state.over,
        }
    }
}

/// An event loop that waits for something other than a task.
#[derive(Debug)]
pub(crate) struct Vigil {
    until: Until,
    inbox: Weak<Inbox>,
    token: u64,
}

impl State {
    /// Has somebody told when the task is done: the token that will come, once. `None`: it is done.
    pub fn watch(&mut self, now: Time, task: TaskId, address: Address) -> Option<u64> {
        self.brain.hurry(now);
        if !self.brain.watch(task) {
            return None;
        }
        let token = token();
        self.watchers.insert((task, token), address);
        Some(token)
    }

    /// Has somebody told when the task has reported more often than this, or is done: the token that will come, once.
    /// `None`: so it is.
    pub fn follow(&mut self, now: Time, task: TaskId, seen: u64, address: Address) -> Option<u64> {
        self.brain.hurry(now);
        let news = self.brain.report(task).is_some_and(|report| report.number > seen);
        if news || !self.brain.watch(task) {
            return None;
        }
        let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed);
        self.followers.insert((task, token), address);
        Some(token)
    }

    /// Has an event loop told when this has come true: the token that will come, once. `None`: it is true.
    ///
    /// A token of another pool's will come for this as well.
    pub fn wait_in_loop(&mut self, now: Time, until: Until, inbox: &Arc<Inbox>, other: Option<u64>) -> Option<u64> {
        self.brain.hurry(now);
        if until.holds(self) {
            return None;
        }
        let token = other.unwrap_or_else(token);
        self.vigils.push(Vigil { until, inbox: Arc::downgrade(inbox), token });
        Some(token)
    }

    /// The event loop does not wait for this any more.
    pub fn forget(&mut self, token: u64) {
        self.vigils.retain(|vigil| vigil.token != token);
    }

    /// The task is done.
    pub(crate) fn tell_watchers(&mut self, task: TaskId) {
        tell_all(&mut self.watchers, task);
        tell_all(&mut self.followers, task);
    }

    /// The task has reported.
    pub(crate) fn tell_followers(&mut self, task: TaskId) {
        tell_all(&mut self.followers, task);
    }

    /// Something has changed that event loops may wait for.
    pub(crate) fn tell_vigils(&mut self) {
        if self.vigils.is_empty() {
            return;
        }
        let vigils = std::mem::take(&mut self.vigils);
        let (come, not_yet): (Vec<_>, Vec<_>) = vigils.into_iter().partition(|vigil| vigil.until.holds(self));
        self.vigils = not_yet;
        // Who has gone without being told would be kept for ever by a pool that goes on.
        self.vigils.retain(|vigil| vigil.inbox.strong_count() > 0);
        for vigil in come {
            Address::Loop(vigil.inbox).tell(vigil.token);
        }
    }
}

fn tell_all(addresses: &mut BTreeMap<(TaskId, u64), Address>, task: TaskId) {
    while let Some((&key, _)) = addresses.range((task, 0)..=(task, u64::MAX)).next() {
        if let Some(address) = addresses.remove(&key) {
            address.tell(key.1);
        }
    }
}
