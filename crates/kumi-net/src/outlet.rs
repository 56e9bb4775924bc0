//! An agent's own stdout and stderr, and the logs of its workers: a thread writes to them, because whoever reads them may be
//! slow, or gone, and so may the disk.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use kumi_core::marks::Piece;

use crate::epoll::Bell;
use crate::log::Shelf;
use crate::sys::with_signals_blocked;

/// When so many bytes wait to be written, no more should be put in: some thousand lines.
const FULL: usize = 1 << 20;

/// See the head of this file. The thread ends with this value, or with the process if a write hangs.
#[derive(Debug)]
pub(crate) struct Outlet(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Rung when what was there is written.
    bell: Arc<Bell>,
    /// For the logs, if they are kept.
    shelf: Option<Shelf>,
}

/// The worker that has written it, if it was one; whether to stderr; and what.
type Entry = (Option<String>, bool, Piece);

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Entry>,
    /// Of these, and of what is being written.
    bytes: usize,
    over: bool,
}

impl Outlet {
    /// Starts the thread.
    pub fn start(bell: Arc<Bell>, shelf: Option<Shelf>) -> io::Result<Self> {
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new(), bell, shelf });
        let outlet = Self(Arc::clone(&shared));
        let thread = thread::Builder::new().name("kumi-output".into());
        with_signals_blocked(|| thread.spawn(move || shared.run()))??;
        Ok(outlet)
    }

    /// To be written, in this order; kept if it is a worker's.
    pub fn put(&self, worker: Option<&str>, stderr: bool, piece: Piece) {
        let mut queue = self.0.lock();
        queue.bytes += piece.bytes.len();
        queue.pieces.push_back((worker.map(str::to_owned), stderr, piece));
        self.0.changed.notify_all();
    }

    /// Whether no more should be put in before the bell rings.
    pub fn is_full(&self) -> bool {
        self.0.lock().bytes > FULL
    }

    /// Returns when everything is written, or the time is up.
    pub fn drain(&self, limit: Duration) {
        let waiting = |queue: &mut Queue| queue.bytes > 0;
        let _ = self.0.changed.wait_timeout_while(self.0.lock(), limit, waiting);
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut kept = true;
        while let Some((worker, stderr, piece)) = self.next() {
            if let Err(error) = self.keep(worker.as_deref(), stderr, &piece) {
                if mem::take(&mut kept) {
                    let _ = write(io::stderr(), format!("kumi worker: {error}\n").as_bytes());
                }
            }
            // Where nobody reads any more there is nobody to be told either.
            let _ = if stderr { write(io::stderr(), &piece.bytes) } else { write(io::stdout(), &piece.bytes) };
            self.lock().bytes -= piece.bytes.len();
            self.changed.notify_all();
            self.bell.ring();
        }
    }

    fn keep(&self, worker: Option<&str>, stderr: bool, piece: &Piece) -> io::Result<()> {
        match (&self.shelf, worker) {
            (Some(shelf), Some(worker)) => shelf.keep(worker, [(stderr, piece)].into_iter()),
            (None, _) | (_, None) => Ok(()),
        }
    }

    fn next(&self) -> Option<Entry> {
        let idle = |queue: &mut Queue| queue.pieces.is_empty() && !queue.over;
        let mut queue = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        queue.pieces.pop_front()
    }
}

fn write(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}
