//! What several test files need: socket pairs, and waits that have an end.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Far more than any step here takes, on a busy machine too.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Both ends of a stream, with a limit on every read.
pub fn streams() -> (UnixStream, UnixStream) {
    let (one, other) = UnixStream::pair().unwrap();
    one.set_read_timeout(Some(LIMIT)).unwrap();
    other.set_read_timeout(Some(LIMIT)).unwrap();
    (one, other)
}

/// Waits until the descriptor is readable or at its end.
pub fn wait_for(fd: impl AsFd) {
    let mut ready = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    let count = unsafe { libc::poll(&mut ready, 1, LIMIT.as_millis() as libc::c_int) };
    assert_eq!(count, 1, "nothing came within {LIMIT:?}");
}

/// Everything from a non-blocking pipe, until `enough` or its end.
pub fn read_until(pipe: &OwnedFd, mut enough: impl FnMut(&str) -> bool) -> String {
    let mut text = String::new();
    let mut piece = [0_u8; 4096];
    while !enough(&text) {
        wait_for(pipe);
        // SAFETY: room for as many bytes as are asked for.
        match unsafe { libc::read(pipe.as_raw_fd(), piece.as_mut_ptr().cast(), piece.len()) } {
            0 => break,
            count => text += std::str::from_utf8(&piece[..usize::try_from(count).unwrap()]).unwrap(),
        }
    }
    text
}

/// Everything from a non-blocking pipe until nobody has it open for writing any more.
pub fn read_to_end(pipe: &OwnedFd) -> String {
    read_until(pipe, |_| false)
}
