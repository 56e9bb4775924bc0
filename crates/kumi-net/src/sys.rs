//! The few system calls that several files here make, with `errno` turned into `io::Error`.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use libc::{c_int, c_short, pollfd};

/// The result of a call that says -1 when it failed.
pub(crate) fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes ownership of the descriptor that a call returned, or of its failure.
///
/// # Safety
/// `result` is -1 or a descriptor which the call has just made and nobody else owns.
pub(crate) unsafe fn own(result: c_int) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches that nobody else owns it.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor that becomes readable when process `pid` has ended.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers; makes a descriptor (CLOEXEC by definition) or fails.
    unsafe { own(libc::syscall(libc::SYS_pidfd_open, pid, 0) as c_int) }
}

/// What `poll` shall watch; `None` leaves the place empty.
pub(crate) fn watch(fd: Option<BorrowedFd<'_>>, events: c_short) -> pollfd {
    pollfd { fd: fd.map_or(-1, |fd| fd.as_raw_fd()), events, revents: 0 }
}

/// Waits until something in `fds` is ready or `limit` is over, however often a signal comes between; says how many are ready.
pub(crate) fn poll(fds: &mut [pollfd], limit: Option<Duration>) -> io::Result<usize> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = deadline.map_or(-1, |at| milliseconds(at.saturating_duration_since(Instant::now())));
        // SAFETY: pointer and length are those of one exclusively borrowed slice.
        match check(unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, left) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(|ready| ready as usize),
        }
    }
}

/// Like [`poll`], but a signal ends it, as the caller wants to look at signals.
pub(crate) fn poll_once(fds: &mut [pollfd], limit: Duration) -> io::Result<usize> {
    // SAFETY: pointer and length are those of one exclusively borrowed slice.
    let ready = check(unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, milliseconds(limit)) })?;
    Ok(ready as usize)
}

/// Rounded up, so that a wait never ends early and then spins.
fn milliseconds(time: Duration) -> c_int {
    c_int::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}

/// Blocks every signal in the calling thread and returns what was blocked before.
///
/// Threads of ours do so: signals belong to the main thread, where Python handles them.
///
/// # Errors
/// Those of `pthread_sigmask`; none is known on Linux.
pub fn block_all_signals() -> io::Result<libc::sigset_t> {
    set_signal_mask(&signal_set(&[]))
}

/// What `work` returns, done with every signal blocked: a thread that it starts has them blocked from its first instruction.
pub(crate) fn with_signals_blocked<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    let previous = block_all_signals()?;
    let value = work();
    set_signal_mask(&previous)?;
    Ok(value)
}

/// Every signal except those named.
pub(crate) fn signal_set(without: &[c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the whole set and cannot fail on a valid pointer; sigdelset then works on it.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        for &signal in without {
            libc::sigdelset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

fn set_signal_mask(mask: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut previous = MaybeUninit::uninit();
    // SAFETY: both pointers are valid; on success `previous` has been written.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, previous.as_mut_ptr()) } {
        // SAFETY: success, so it is initialised.
        0 => Ok(unsafe { previous.assume_init() }),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}
