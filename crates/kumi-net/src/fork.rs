//! Forks. A child has none of its parent's threads, so none of its parent's pools works there; but it may have its own.
//!
//! What all pools of a process share must be whole in the child: its locks are held across the fork by the thread that
//! forks, so no other thread is in the middle of a change then. Locks of single pools are not: nobody touches them there.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::deliver::{self, BoardGuard};
use crate::pool::{self, PoolsGuard};

/// How many forks lie between this process and the first one that used the library.
static GENERATION: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static HELD: RefCell<Option<(PoolsGuard, BoardGuard)>> = const { RefCell::new(None) };
}

/// The present process, for [`pool::Pool::is_foreign`].
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// To be called by the thread that is about to fork.
pub fn before() {
    HELD.set(Some((pool::pools(), deliver::board())));
}

/// To be called by the same thread after the fork, in the parent.
pub fn in_parent() {
    HELD.take();
}

/// To be called after the fork, in the child.
pub fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    if let Some((mut pools, mut board)) = HELD.take() {
        pools.clear();
        board.forget();
    }
}
