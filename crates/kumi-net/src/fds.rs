//! Bytes on a socket together with descriptors, one for each message at most.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_int, c_void, iovec, msghdr};

/// Room for the descriptors of one message: for more than the one that may come, so that a second is seen as such.
#[repr(C, align(8))]
struct Room([u8; 64]);

/// Reads what is there, and the descriptor that came with it.
///
/// # Errors
/// Those of `recvmsg`; also when more descriptors came than may, or one that did not fit into this process any more.
pub(crate) fn receive(socket: BorrowedFd<'_>, space: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut room = Room([0; 64]);
    let mut piece = iovec { iov_base: space.as_mut_ptr().cast(), iov_len: space.len() };
    let mut header = header(&mut piece, &mut room, size_of::<Room>());
    // SAFETY: the header points to a slice and a buffer of ours, with their lengths.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    if header.msg_controllen == 0 && header.msg_flags & libc::MSG_CTRUNC == 0 {
        return Ok((count, None));
    }
    let mut came = descriptors(&header);
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::other("no room for a descriptor: too many are open, or too many came at once"));
    }
    let fd = came.pop();
    if came.is_empty() { Ok((count, fd)) } else { Err(io::Error::other("several descriptors came at once")) }
}

/// Sends bytes, as many as the socket takes, and a descriptor with the first of them.
///
/// # Errors
/// Those of `sendmsg`; nothing was sent then.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>, flags: c_int) -> io::Result<usize> {
    let mut room = Room([0; 64]);
    // The kernel only reads it.
    let mut piece = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: these compute sizes.
    let (length, space) =
        unsafe { (libc::CMSG_LEN(size_of::<RawFd>() as u32), libc::CMSG_SPACE(size_of::<RawFd>() as u32)) };
    let header = header(&mut piece, &mut room, space as usize);
    // SAFETY: the room is large enough, and aligned, for one control message with one descriptor.
    unsafe {
        let control = libc::CMSG_FIRSTHDR(&header);
        (*control).cmsg_level = libc::SOL_SOCKET;
        (*control).cmsg_type = libc::SCM_RIGHTS;
        (*control).cmsg_len = length as usize;
        ptr::write_unaligned(libc::CMSG_DATA(control).cast::<RawFd>(), fd.as_raw_fd());
    }
    // SAFETY: the header points to a slice and a buffer of ours, with their lengths.
    let count = unsafe { libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_NOSIGNAL | flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

fn header(piece: &mut iovec, room: &mut Room, length: usize) -> msghdr {
    // SAFETY: all zeros is a valid header: no name, no pieces, no control messages.
    let mut header: msghdr = unsafe { mem::zeroed() };
    header.msg_iov = piece;
    header.msg_iovlen = 1;
    header.msg_control = ptr::from_mut(room).cast::<c_void>();
    header.msg_controllen = length;
    header
}

/// Takes over all descriptors that came.
fn descriptors(header: &msghdr) -> Vec<OwnedFd> {
    let mut came = Vec::new();
    // SAFETY: the kernel has filled the control buffer, and these walk within the length that it gave.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            if (*control).cmsg_level == libc::SOL_SOCKET && (*control).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*control).cmsg_len - libc::CMSG_LEN(0) as usize;
                for place in 0..bytes / size_of::<RawFd>() {
                    let fd = ptr::read_unaligned(libc::CMSG_DATA(control).cast::<RawFd>().add(place));
                    came.push(OwnedFd::from_raw_fd(fd));
                }
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    came
}
