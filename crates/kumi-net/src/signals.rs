//! Signals that ask a process to end, as something to wait for, whichever thread they hit.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::c_int;

use crate::sys::{check, own};

/// From a terminal, from who manages processes, and when the terminal is gone.
const ENDING: [c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// The counter that the handler raises, and which signal it was last.
static COUNTER: AtomicI32 = AtomicI32::new(-1);
static LAST: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: c_int) {
    LAST.store(signal, Ordering::Relaxed);
    let one = 1_u64.to_ne_bytes();
    // SAFETY: the buffer is valid for its length; `write` may be called in a handler. It must not change what the thread
    // that was hit sees of its own errors.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(COUNTER.load(Ordering::Relaxed), one.as_ptr().cast(), one.len());
        *errno = before;
    }
}

/// As long as this lives, they do nothing but make it readable. One at a time in a process.
pub(crate) struct Signals {
    counter: OwnedFd,
    before: Vec<(c_int, libc::sigaction)>,
}

impl Signals {
    /// All but those that this process was told to ignore, as by `nohup`.
    pub fn watch() -> io::Result<Self> {
        let flags = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE;
        // SAFETY: takes a number and flags; makes a descriptor or fails.
        let counter = unsafe { own(libc::eventfd(0, flags)) }?;
        COUNTER.store(counter.as_raw_fd(), Ordering::Relaxed);
        let mut signals = Self { counter, before: Vec::new() };
        // SAFETY: all zeros is a valid one: nothing blocked, no flags.
        let mut ours: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        ours.sa_sigaction = note as *const () as usize;
        ours.sa_flags = libc::SA_RESTART;
        for signal in ENDING {
            let before = action(signal, None)?;
            if before.sa_sigaction != libc::SIG_IGN {
                signals.before.push((signal, before));
                action(signal, Some(&ours))?;
            }
        }
        Ok(signals)
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.counter.as_fd()
    }

    /// One that has come.
    pub fn take(&self) -> Option<c_int> {
        let mut count = [0_u8; 8];
        // SAFETY: the buffer is valid for its length; it does not block.
        let read = unsafe { libc::read(self.counter.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        (read > 0).then(|| LAST.load(Ordering::Relaxed))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            let _ = action(*signal, Some(before));
        }
        COUNTER.store(-1, Ordering::Relaxed);
    }
}

/// What a signal did before this call.
fn action(signal: c_int, new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: valid pointers, or none; the handler is one that may be called at any time.
    check(unsafe { libc::sigaction(signal, new.map_or(ptr::null(), ptr::from_ref), before.as_mut_ptr()) })?;
    // SAFETY: success, so it has been written.
    Ok(unsafe { before.assume_init() })
}
