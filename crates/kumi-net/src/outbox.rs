//! The worker's outbox: results are composed in the shared page and sent together.
//!
//! Everything on the data socket passes through here, so the page always knows which byte of the stream its region begins with.
//! When the worker dies, host and page agree on what is still missing ([`Page::unsent`]): finished results survive.
//! Lock it for one call only. [`Outbox::push`] and [`Outbox::flush`] may wait for the host to read; that wait ends at the latest
//! when the watchdog, which never waits for this lock, sees the host gone and ends the process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use kumi_core::frame::Wire;

use crate::fds;
use crate::page::{OUTBOX_BYTES, Page};
use crate::segments::Returns;
use crate::sys;

/// The length of a `Returned` frame.
const RETURNED_BYTES: usize = 14;

/// Outgoing bytes of one worker: whole frames, in order.
#[derive(Debug)]
pub struct Outbox {
    page: Arc<Page>,
    socket: OwnedFd,
    /// Position in the stream of the region's first byte. Our own copy: the page could have been overwritten by a stray pointer.
    base: u64,
    /// How many bytes of the region are composed, and how many of them are sent.
    composed: usize,
    sent: usize,
    returns: Arc<Returns>,
    frame: Vec<u8>,
}

impl Outbox {
    /// An empty outbox at the start of the data stream. Nothing else may write to `socket`, and one page has one outbox.
    pub fn new(page: Arc<Page>, socket: OwnedFd) -> Outbox {
        Outbox { page, socket, base: 0, composed: 0, sent: 0, returns: Arc::default(), frame: Vec::new() }
    }

    /// Puts a frame in; makes room by flushing where needed, and sends at once what is larger than the region.
    ///
    /// True if this frame is now the first that waits to be flushed: time to arm [`flush_within`](crate::watchdog::Watchdog::flush_within).
    ///
    /// # Errors
    /// Those of `send`: the host is gone.
    pub fn push(&mut self, frame: &[u8]) -> io::Result<bool> {
        let first = self.is_empty();
        self.compose_returns();
        if frame.len() > OUTBOX_BYTES - self.composed {
            self.flush()?;
        }
        if frame.len() > OUTBOX_BYTES {
            return self.send_around(frame, None).map(|()| false);
        }
        self.compose(frame);
        Ok(first && !frame.is_empty())
    }

    /// Sends frames, of which the first is `Lend`, with the descriptor of the segment, after all others.
    ///
    /// # Errors
    /// Those of `sendmsg`: the host is gone, or too many descriptors are under way.
    pub fn push_with(&mut self, frames: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
        self.flush()?;
        self.send_around(frames, Some(fd))
    }

    /// What this worker does not map any more is told with the next that is sent.
    pub(crate) fn returns(&self) -> &Arc<Returns> {
        &self.returns
    }

    /// Puts a frame in, if there is room for it. Never waits.
    pub(crate) fn try_push(&mut self, frame: &[u8]) -> bool {
        let fits = frame.len() <= OUTBOX_BYTES - self.composed;
        if fits {
            self.compose(frame);
        }
        fits
    }

    fn compose(&mut self, frame: &[u8]) {
        let room = self.page.region().iter().skip(self.composed);
        for (place, byte) in room.zip(frame) {
            place.store(*byte, Relaxed);
        }
        self.composed += frame.len();
        // Last: a death before this line loses the frame as a whole, never a part of it.
        self.page.set_end(self.base + self.composed as u64);
    }

    fn compose_returns(&mut self) {
        while OUTBOX_BYTES - self.composed >= RETURNED_BYTES {
            let Some(message) = self.returns.next() else { return };
            let mut frame = std::mem::take(&mut self.frame);
            frame.clear();
            message.encode(&mut frame);
            self.compose(&frame);
            self.frame = frame;
        }
    }

    /// Sends everything, waiting for the host to make room where needed.
    ///
    /// # Errors
    /// Those of `send`: the host is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.try_flush()? {
            self.wait_for_room()?;
        }
        Ok(())
    }

    /// Sends what the socket takes without waiting; true if that was everything.
    ///
    /// # Errors
    /// Those of `send`: the host is gone.
    pub fn try_flush(&mut self) -> io::Result<bool> {
        self.compose_returns();
        while let Some(rest) = self.page.region().get(self.sent..self.composed).filter(|rest| !rest.is_empty()) {
            // SAFETY: the region stays mapped while `self.page` lives; the kernel reads it as bytes, whoever writes meanwhile.
            match unsafe { send(&self.socket, rest.as_ptr().cast(), rest.len())? } {
                Some(count) => self.sent += count,
                None => return Ok(false),
            }
        }
        self.begin_at(self.base + self.composed as u64);
        Ok(true)
    }

    /// Whether nothing waits to be flushed.
    pub fn is_empty(&self) -> bool {
        self.composed == 0
    }

    /// The data socket, to wait until it takes more.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a frame that does not fit into the (empty) region. The region moves behind it first: if death comes in between,
    /// no position before its end finds a continuation, and the host drops what it has of this frame.
    fn send_around(&mut self, frame: &[u8], mut fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.begin_at(self.base + frame.len() as u64);
        self.page.set_end(self.base);
        let mut rest = frame;
        while !rest.is_empty() {
            let sent = match fd {
                Some(fd) => unless_full(fds::send(self.socket.as_fd(), rest, fd, libc::MSG_DONTWAIT)),
                // SAFETY: pointer and length are those of one slice.
                None => unsafe { send(&self.socket, rest.as_ptr(), rest.len()) },
            };
            match sent? {
                Some(count) => {
                    fd = None;
                    rest = rest.get(count..).unwrap_or_default();
                }
                None => self.wait_for_room()?,
            }
        }
        Ok(())
    }

    /// The region is empty and begins at this position of the stream.
    fn begin_at(&mut self, position: u64) {
        (self.base, self.composed, self.sent) = (position, 0, 0);
        self.page.set_base(position);
    }

    fn wait_for_room(&self) -> io::Result<()> {
        sys::poll(&mut [sys::watch(Some(self.socket()), libc::POLLOUT)], None).map(drop)
    }
}

/// How many bytes the socket took at once; `None` if it is full.
///
/// # Safety
/// `length` bytes from `bytes` on stay readable during the call.
unsafe fn send(socket: &OwnedFd, bytes: *const u8, length: usize) -> io::Result<Option<usize>> {
    loop {
        // SAFETY: the caller vouches for pointer and length.
        let count =
            unsafe { libc::send(socket.as_raw_fd(), bytes.cast(), length, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
        match unless_full(usize::try_from(count).map_err(|_| io::Error::last_os_error())) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            sent => return sent,
        }
    }
}

fn unless_full(sent: io::Result<usize>) -> io::Result<Option<usize>> {
    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        sent => sent.map(Some),
    }
}
