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

use crate::page::{OUTBOX_BYTES, Page};
use crate::sys;

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
}

impl Outbox {
    /// An empty outbox at the start of the data stream. Nothing else may write to `socket`, and one page has one outbox.
    pub fn new(page: Arc<Page>, socket: OwnedFd) -> Outbox {
        Outbox { page, socket, base: 0, composed: 0, sent: 0 }
    }

    /// Puts a frame in; makes room by flushing where needed, and sends at once what is larger than the region.
    ///
    /// True if this frame is now the first that waits to be flushed: time to arm [`flush_within`](crate::watchdog::Watchdog::flush_within).
    ///
    /// # Errors
    /// Those of `send`: the host is gone.
    pub fn push(&mut self, frame: &[u8]) -> io::Result<bool> {
        if frame.len() > OUTBOX_BYTES - self.composed {
            self.flush()?;
        }
        if frame.len() > OUTBOX_BYTES {
            return self.send_around(frame).map(|()| false);
        }
        let first = self.is_empty();
        let room = self.page.region().iter().skip(self.composed);
        for (place, byte) in room.zip(frame) {
            place.store(*byte, Relaxed);
        }
        self.composed += frame.len();
        // Last: a death before this line loses the frame as a whole, never a part of it.
        self.page.set_end(self.base + self.composed as u64);
        Ok(first && !frame.is_empty())
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
    fn send_around(&mut self, frame: &[u8]) -> io::Result<()> {
        self.begin_at(self.base + frame.len() as u64);
        self.page.set_end(self.base);
        let mut rest = frame;
        while !rest.is_empty() {
            // SAFETY: pointer and length are those of one slice.
            match unsafe { send(&self.socket, rest.as_ptr(), rest.len())? } {
                Some(count) => rest = rest.get(count..).unwrap_or_default(),
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
        match usize::try_from(count).map_err(|_| io::Error::last_os_error()) {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
