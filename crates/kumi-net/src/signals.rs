//! Signals that ask a process to end, as something to wait for.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use crate::sys::{block_signals, own, set_signal_mask, signals};

/// From a terminal, from who manages processes, and when the terminal is gone.
const ENDING: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// As long as this lives, they do nothing to this thread but make it readable. Other threads must block them.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: OwnedFd,
    before: libc::sigset_t,
}

impl Signals {
    /// Those that this process was not told to ignore, as `nohup` does.
    pub fn watch() -> io::Result<Self> {
        let wanted: Vec<i32> = ENDING.into_iter().filter(|signal| !is_ignored(*signal)).collect();
        let set = signals(&wanted);
        // SAFETY: the set is a valid local; makes a descriptor or fails.
        let fd = unsafe { own(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)) }?;
        Ok(Self { fd, before: block_signals(&set)? })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// One that has come.
    pub fn take(&self) -> Option<i32> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: room for one of these; it does not block.
        let count = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        // SAFETY: a signalfd gives whole ones.
        (count == size as isize).then(|| unsafe { info.assume_init_ref().ssi_signo } as i32)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = set_signal_mask(&self.before);
    }
}

fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: nothing is changed; on success the present action has been written.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init_ref().sa_sigaction == libc::SIG_IGN
    }
}
