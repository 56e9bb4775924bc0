//! The kernel objects that threads wait on: epoll sets, event counters, a timer.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::sys::{check, own};

/// A set of descriptors to wait on.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

/// Readable, and what the kernel adds by itself (hang-up, error).
pub(crate) const READ: u32 = libc::EPOLLIN as u32;
/// Writable as well.
pub(crate) const WRITE: u32 = libc::EPOLLOUT as u32;
/// With one of those: told once each time that something comes.
pub(crate) const EDGE: u32 = libc::EPOLLET as u32;
/// Registered but switched off.
pub(crate) const OFF: u32 = 0;

/// How many descriptors one wait reports at most; the rest is reported by the next.
const BATCH: usize = 64;

/// What a wait found: the keys of the descriptors that are ready, with what they are ready for.
#[derive(Debug, Default)]
pub(crate) struct Ready(Vec<(u64, u32)>);

impl Ready {
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.0.iter().copied()
    }
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes a flag; makes a descriptor or fails.
        unsafe { own(libc::epoll_create1(libc::EPOLL_CLOEXEC)) }.map(Self)
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }

    pub fn add(&self, fd: BorrowedFd<'_>, key: u64, events: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, key, events)
    }

    pub fn set(&self, fd: BorrowedFd<'_>, key: u64, events: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, key, events)
    }

    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, operation: i32, fd: BorrowedFd<'_>, key: u64, events: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: key };
        // SAFETY: both descriptors are open, the event is a valid local.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) }).map(drop)
    }

    /// Waits until something is ready or the limit (`None`: none) is over. A signal ends it with `Interrupted`.
    pub fn wait(&self, ready: &mut Ready, limit: Option<Duration>) -> io::Result<()> {
        ready.0.clear();
        // Rounded up, so that a wait never ends early and then spins.
        let left = limit.map_or(-1, |limit| i32::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
        // SAFETY: the array is valid for BATCH events.
        let count = check(unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), BATCH as i32, left) })?;
        ready.0.extend(events.iter().take(count as usize).map(|event| (event.u64, event.events)));
        Ok(())
    }
}

/// A counter to wake a thread by: readable once it was rung, until it is hushed.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes a number and flags; makes a descriptor or fails.
        unsafe { own(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)) }.map(Self)
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }

    pub fn ring(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the buffer is valid for its length. A full counter means that it rings already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    pub fn hush(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: the buffer is valid for its length. An empty counter is what we want.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

/// A timer as a descriptor.
#[derive(Debug)]
pub(crate) struct Alarm(OwnedFd);

impl Alarm {
    pub fn new() -> io::Result<Self> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: takes a clock and flags; makes a descriptor or fails.
        let fd = check(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })?;
        // SAFETY: the call has just made it and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }

    /// Rings once after this span.
    pub fn set(&self, after: Duration) -> io::Result<()> {
        // A span of zero would switch the timer off.
        let after = after.max(Duration::from_nanos(1));
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: after.subsec_nanos().into(),
        };
        let spec = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: the descriptor is a timer, the struct is a valid local, no old value is asked for.
        check(unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut()) }).map(drop)
    }

    pub fn hush(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: the buffer is valid for its length.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}
