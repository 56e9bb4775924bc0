//! News for Python: one queue for the whole process, emptied by the one thread that may call Python back.
//!
//! Output is kept in the workers' logs on the way, by that thread, which may wait for the disk.
//! Resolved tasks are a few bytes each and bounded by the number of tasks; workers' output is bounded here: above
//! [`OUTPUT_MAX`] the pools stop reading it, so a worker that prints faster than the host shows it waits in `print`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kumi_core::marks::{Piece, Writer};

use crate::log::Shelf;

/// Output that waits to be shown, in bytes, before pools stop reading more: some thousand lines.
const OUTPUT_MAX: usize = 1 << 20;

/// What a worker wrote to its stdout and to its stderr.
pub(crate) type Written = [Vec<u8>; 2];

/// Where the output of a pool's workers goes.
#[derive(Debug, Default)]
pub struct Route {
    /// Where it is kept, if it is.
    pub shelf: Option<Shelf>,
    /// Whether the host shows it; `None`: as its streams suggest.
    pub forward: Option<bool>,
    /// It could not be kept, so it is shown.
    failed: AtomicBool,
}

impl Route {
    /// With these parts.
    pub fn new(shelf: Option<Shelf>, forward: Option<bool>) -> Self {
        Self { shelf, forward, failed: AtomicBool::new(false) }
    }

    /// Why it could not be kept, where nobody knows that yet.
    fn keep<'a>(&self, worker: &str, written: impl Iterator<Item = (bool, &'a Piece)>) -> Option<Delivery> {
        let error = self.shelf.as_ref()?.keep(worker, written).err()?;
        let is_new = !self.failed.swap(true, Ordering::Relaxed);
        is_new.then(|| Delivery::Notice(format!("kumi: {error}; log_directory= chooses another place\n")))
    }

    fn is_shown(&self) -> bool {
        self.forward != Some(false) || self.failed.load(Ordering::Relaxed)
    }
}

/// One piece of news.
#[derive(Debug)]
pub enum Delivery {
    /// What was watched with this token has happened: a task is done, or has reported.
    Resolved(u64),
    /// A worker wrote something.
    Output {
        /// Where it goes.
        route: Arc<Route>,
        /// The worker's name.
        worker: String,
        /// To stderr; otherwise to stdout.
        stderr: bool,
        /// What.
        piece: Piece,
    },
    /// To be written to stderr.
    Notice(String),
}

impl Delivery {
    fn is_of_same_worker(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Output { route, worker, .. }, Self::Output { route: other, worker: another, .. }) => {
                Arc::ptr_eq(route, other) && worker == another
            }
            _ => false,
        }
    }

    fn is_shown(&self) -> bool {
        match self {
            Self::Output { route, .. } => route.is_shown(),
            Self::Resolved(_) | Self::Notice(_) => true,
        }
    }
}

/// What waits to be taken.
#[derive(Debug)]
pub(crate) struct Board {
    news: VecDeque<Delivery>,
    output: usize,
    over: bool,
}

impl Board {
    /// In a forked child: the news were the parent's.
    pub fn forget(&mut self) {
        self.news.clear();
        (self.output, self.over) = (0, false);
    }
}

static BOARD: Mutex<Board> = Mutex::new(Board { news: VecDeque::new(), output: 0, over: false });
static ARRIVED: Condvar = Condvar::new();

pub(crate) type BoardGuard = MutexGuard<'static, Board>;

pub(crate) fn board() -> BoardGuard {
    BOARD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts news up. True: there is so much output now that no more should be read for a while.
pub(crate) fn put(delivery: Delivery) -> bool {
    let mut board = board();
    if let Delivery::Output { piece, .. } = &delivery {
        board.output += piece.bytes.len();
    }
    board.news.push_back(delivery);
    ARRIVED.notify_one();
    board.output > OUTPUT_MAX
}

/// Has what a worker has written kept and shown. True: there is so much by now that no more should be read.
pub(crate) fn show(route: &Arc<Route>, worker: &str, writer: Option<Arc<Writer>>, [out, err]: Written) -> bool {
    let mut full = false;
    for (stderr, bytes) in [(false, out), (true, err)] {
        if !bytes.is_empty() {
            let piece = Piece { writer: writer.clone(), bytes };
            full |= put(Delivery::Output { route: Arc::clone(route), worker: worker.to_owned(), stderr, piece });
        }
    }
    full
}

/// Whether so much output waits that no more should be read.
pub(crate) fn is_full() -> bool {
    board().output > OUTPUT_MAX
}

/// Waits for news and takes all there is that Python shall do something about. `None`: there will be none any more.
pub fn take() -> Option<Vec<Delivery>> {
    let mut board = board();
    while board.news.is_empty() && !board.over {
        board = ARRIVED.wait(board).unwrap_or_else(PoisonError::into_inner);
    }
    if board.news.is_empty() {
        return None;
    }
    board.output = 0;
    let news = board.news.drain(..).collect::<Vec<_>>();
    drop(board);
    let news = kept(news);
    crate::pool::resume_output();
    Some(news)
}

/// Keeps the output among the news, in one go what one worker wrote in a row. Returns what is left to do.
fn kept(news: Vec<Delivery>) -> Vec<Delivery> {
    let mut left = Vec::with_capacity(news.len());
    for row in news.chunk_by(Delivery::is_of_same_worker) {
        if let Some(Delivery::Output { route, worker, .. }) = row.first() {
            let written = row.iter().filter_map(|one| match one {
                Delivery::Output { stderr, piece, .. } => Some((*stderr, piece)),
                Delivery::Resolved(_) | Delivery::Notice(_) => None,
            });
            left.extend(route.keep(worker, written));
        }
    }
    left.extend(news.into_iter().filter(Delivery::is_shown));
    left
}

/// What is there is still delivered, then [`take`] ends.
pub fn end() {
    board().over = true;
    ARRIVED.notify_all();
}
