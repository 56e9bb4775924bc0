//! News for Python: one queue for the whole process, emptied by the one thread that may call Python back.
//!
//! Resolved tasks are a few bytes each and bounded by the number of tasks; workers' output is bounded here: above
//! [`OUTPUT_MAX`] the pools stop reading it, so a worker that prints faster than the host shows it waits in `print`.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Output that waits to be shown, in bytes, before pools stop reading more: some thousand lines.
const OUTPUT_MAX: usize = 1 << 20;

/// What a worker wrote to its stdout and to its stderr.
pub(crate) type Written = [Vec<u8>; 2];

/// One piece of news.
#[derive(Debug, PartialEq, Eq)]
pub enum Delivery {
    /// What was watched with this token has happened: a task is done, or has reported.
    Resolved(u64),
    /// A worker wrote something.
    Output {
        /// The worker's name.
        worker: String,
        /// To stderr; otherwise to stdout.
        stderr: bool,
        /// What.
        bytes: Vec<u8>,
    },
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
    if let Delivery::Output { bytes, .. } = &delivery {
        board.output += bytes.len();
    }
    board.news.push_back(delivery);
    ARRIVED.notify_one();
    board.output > OUTPUT_MAX
}

/// Has Python write out what a worker has written. True: there is so much by now that no more should be read.
pub(crate) fn show(worker: &str, [out, err]: Written) -> bool {
    let mut full = false;
    for (stderr, bytes) in [(false, out), (true, err)] {
        if !bytes.is_empty() {
            full |= put(Delivery::Output { worker: worker.to_owned(), stderr, bytes });
        }
    }
    full
}

/// Whether so much output waits that no more should be read.
pub(crate) fn is_full() -> bool {
    board().output > OUTPUT_MAX
}

/// Waits for news and takes all there is. `None`: there will be none any more.
pub fn take() -> Option<Vec<Delivery>> {
    let mut board = board();
    while board.news.is_empty() && !board.over {
        board = ARRIVED.wait(board).unwrap_or_else(PoisonError::into_inner);
    }
    if board.news.is_empty() {
        return None;
    }
    board.output = 0;
    let news = board.news.drain(..).collect();
    drop(board);
    crate::pool::resume_output();
    Some(news)
}

/// What is there is still delivered, then [`take`] ends.
pub fn end() {
    board().over = true;
    ARRIVED.notify_all();
}
