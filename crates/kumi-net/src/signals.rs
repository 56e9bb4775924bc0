//! Signals that ask a process to end, as something to wait for, whichever thread they hit.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::c_int;

use crate::sys::{check, own};

/// From a terminal, from who manages processes, and when the terminal is gone.
pub(crate) const ENDING: [c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
/// With these a batch system, or who manages processes, says that the end is near.
pub(crate) const NOTICES: [c_int; 3] = [libc::SIGTERM, libc::SIGUSR2, libc::SIGXCPU];

/// The counter that the handler raises, in which process, and which signal it was last.
static COUNTER: AtomicI32 = AtomicI32::new(-1);
static OWNER: AtomicI32 = AtomicI32::new(0);
static LAST: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: c_int) {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::getpid() } != OWNER.load(Ordering::Relaxed) {
        // A child that was forked: it ends as if nobody had caught this, as soon as we return.
        // SAFETY: integers; both may be called in a handler.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        return;
    }
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

/// Readable when one has come. One at a time in a process.
pub(crate) struct Signals {
    counter: OwnedFd,
    /// What they did before, as far as that is put back at the end.
    before: Vec<(c_int, libc::sigaction)>,
}

impl Signals {
    /// As long as this lives, [`ENDING`] do nothing but make it readable; all but those that this process was told to ignore,
    /// as by `nohup`.
    pub fn watch() -> io::Result<Self> {
        let mut signals = Self::prepared()?;
        signals.before = catch(&ENDING, |before| before != libc::SIG_IGN)?;
        Ok(signals)
    }

    /// For [`heed_notices`], which has them make it readable.
    pub fn prepared() -> io::Result<Self> {
        let flags = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE;
        // SAFETY: takes a number and flags; makes a descriptor or fails.
        let counter = unsafe { own(libc::eventfd(0, flags)) }?;
        COUNTER.store(counter.as_raw_fd(), Ordering::Relaxed);
        // SAFETY: no arguments, cannot fail.
        OWNER.store(unsafe { libc::getpid() }, Ordering::Relaxed);
        Ok(Self { counter, before: Vec::new() })
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

/// From now on [`NOTICES`] do nothing but raise the counter, save those that somebody handles or ignores.
pub(crate) fn heed_notices() -> io::Result<()> {
    catch(&NOTICES, |before| before == libc::SIG_DFL).map(drop)
}

/// Has our handler in place of those that may go. What they were.
fn catch(signals: &[c_int], may_go: impl Fn(usize) -> bool) -> io::Result<Vec<(c_int, libc::sigaction)>> {
    // SAFETY: all zeros is a valid one: nothing blocked, no flags.
    let mut ours: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    ours.sa_sigaction = note as *const () as usize;
    ours.sa_flags = libc::SA_RESTART;
    let mut gone = Vec::new();
    for signal in signals {
        let before = action(*signal, None)?;
        if may_go(before.sa_sigaction) {
            action(*signal, Some(&ours))?;
            gone.push((*signal, before));
        }
    }
    Ok(gone)
}

/// What a signal did before this call.
fn action(signal: c_int, new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: valid pointers, or none; the handler is one that may be called at any time.
    check(unsafe { libc::sigaction(signal, new.map_or(ptr::null(), ptr::from_ref), before.as_mut_ptr()) })?;
    // SAFETY: success, so it has been written.
    Ok(unsafe { before.assume_init() })
}
