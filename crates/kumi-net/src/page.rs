//! The page: memory that a host and one local worker share.
//!
//! It holds a *slot* for each task that the worker holds, so that a recall needs no answer and a death has one culprit, and the
//! *outbox region*, where results are composed, so that those finished but not yet sent survive the worker.
//! To the host it is untrusted input: whatever stands in it, nothing here panics or reads outside of it. Hence every byte is an
//! atomic: a worker that writes while the host reads can give wrong bytes, but no undefined behaviour.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU64};

use crate::slot::Slot;
pub use crate::slot::SlotState;
use crate::sys::{check, own};

/// How many tasks one worker can hold: 256 prefetched ones, and room for those recalled whose places are not yet used again.
pub const SLOTS: usize = 512;

/// Size of the outbox region in bytes. Large enough for hundreds of small results, small enough to stay in a core's cache.
pub const OUTBOX_BYTES: usize = 64 * 1024;

const SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;

#[repr(C)]
struct Layout {
    slots: [Slot; SLOTS],
    base: AtomicU64,
    end: AtomicU64,
    peak: AtomicU64,
    above: AtomicU64,
    region: [AtomicU8; OUTBOX_BYTES],
}

/// One mapping of the page. Both sides have their own, of the same memory; dropping it unmaps.
#[derive(Debug)]
pub struct Page {
    memory: NonNull<Layout>,
    fd: OwnedFd,
}

// SAFETY: the mapping belongs to this value until it is dropped and consists of atomics only.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// Makes a new page, all zero, whose size nobody can change any more.
    ///
    /// # Errors
    /// Those of `memfd_create` and `mmap`: no descriptors or no memory left.
    pub fn create() -> io::Result<Page> {
        // SAFETY: the name is a constant C string; the descriptor is new.
        let fd =
            unsafe { own(libc::memfd_create(c"kumi-page".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING))? };
        // Allocated now, because a page that cannot be allocated later would be a SIGBUS.
        // SAFETY: plain integers on a descriptor that we own.
        match unsafe { libc::posix_fallocate(fd.as_raw_fd(), 0, size_of::<Layout>() as libc::off_t) } {
            0 => {}
            code => return Err(io::Error::from_raw_os_error(code)),
        }
        // SAFETY: as above.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) })?;
        Page::map(fd)
    }

    /// Maps the page behind an inherited descriptor.
    ///
    /// # Errors
    /// `InvalidData` when it is no page of this version of kumi: other size, or not sealed; else those of `mmap`.
    pub fn open(fd: OwnedFd) -> io::Result<Page> {
        // SAFETY: plain integers on a descriptor that we own.
        let seals = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) })?;
        let file = std::fs::File::from(fd);
        let bytes = file.metadata()?.len();
        if bytes != size_of::<Layout>() as u64 || seals & SEALS != SEALS {
            let text = format!("not a page of this version of kumi: {bytes} bytes, seals {seals:#x}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Page::map(file.into())
    }

    fn map(fd: OwnedFd) -> io::Result<Page> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; size and seals were set or checked before, so that no
        // access within it can fault.
        let address = unsafe {
            libc::mmap(ptr::null_mut(), size_of::<Layout>(), protection, libc::MAP_SHARED, fd.as_raw_fd(), 0)
        };
        match NonNull::new(address.cast()) {
            Some(memory) if address != libc::MAP_FAILED => Ok(Page { memory, fd }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The descriptor that a worker inherits.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn layout(&self) -> &Layout {
        // SAFETY: mapped with this size and page alignment until drop; atomics are valid for all bytes and all sharing.
        unsafe { self.memory.as_ref() }
    }

    /// Host: puts a task into a slot, whatever stood there. The host alone deals out slots; it knows which are free.
    ///
    /// Returns false, and changes nothing, if there is no such slot or the lease does not fit (2^62 - 1 and above).
    #[must_use]
    pub fn offer(&self, slot: u16, lease: u64) -> bool {
        self.slot(slot).is_some_and(|place| place.offer(lease))
    }

    /// Host: takes a waiting task back. False if the worker started it before, or the slot holds something else.
    #[must_use]
    pub fn recall(&self, slot: u16, lease: u64) -> bool {
        self.slot(slot).is_some_and(|place| place.recall(lease))
    }

    /// Worker: claims a task to run it now. False if the host took it back before: then pass it over.
    #[must_use]
    pub fn start(&self, slot: u16, lease: u64) -> bool {
        self.slot(slot).is_some_and(|place| place.start(lease))
    }

    /// Worker: says that the result is in the outbox. False if the task was not the one started in this slot.
    pub fn finish(&self, slot: u16, lease: u64) -> bool {
        self.slot(slot).is_some_and(|place| place.finish(lease))
    }

    /// Lease and state of what a slot holds; `None` if it was never used or there is no such slot.
    pub fn state(&self, slot: u16) -> Option<(u64, SlotState)> {
        self.slot(slot)?.state()
    }

    fn slot(&self, slot: u16) -> Option<&Slot> {
        self.layout().slots.get(usize::from(slot))
    }

    /// Host, after the worker's death: the composed bytes that never reached the socket.
    ///
    /// `received` counts all bytes that the data socket gave, until it was empty. `None` means that the page has no
    /// continuation for them: the worker died inside a frame too large for the region, or wrote nonsense.
    pub fn unsent(&self, received: u64) -> Option<Vec<u8>> {
        let (base, end) = (self.layout().base.load(Acquire), self.layout().end.load(Acquire));
        let from = usize::try_from(received.checked_sub(base)?).ok()?;
        let to = usize::try_from(end.checked_sub(base)?).ok()?;
        let bytes = self.layout().region.get(from..to)?;
        Some(bytes.iter().map(|byte| byte.load(Relaxed)).collect())
    }

    /// Worker: it has so much memory now.
    pub(crate) fn note_peak(&self, bytes: u64) {
        self.layout().peak.fetch_max(bytes, Release);
    }

    /// Worker: it ends itself because it has so much memory.
    pub(crate) fn set_above(&self, bytes: u64) {
        self.layout().above.store(bytes, Release);
    }

    /// Host: the most memory that the worker has noted, in bytes; `None` if it never did.
    pub fn peak(&self) -> Option<u64> {
        Some(self.layout().peak.load(Acquire)).filter(|bytes| *bytes > 0)
    }

    /// Host: how much the worker had when it ended itself for that; `None` if it did not.
    pub fn above(&self) -> Option<u64> {
        Some(self.layout().above.load(Acquire)).filter(|bytes| *bytes > 0)
    }

    /// Where the outbox composes and sends from.
    pub(crate) fn region(&self) -> &[AtomicU8; OUTBOX_BYTES] {
        &self.layout().region
    }

    /// Says at which position of the data stream the region begins.
    pub(crate) fn set_base(&self, position: u64) {
        self.layout().base.store(position, Release);
    }

    /// Says at which position of the data stream the composed bytes end.
    pub(crate) fn set_end(&self, position: u64) {
        self.layout().end.store(position, Release);
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: our own mapping with its full size; nothing borrows from it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), size_of::<Layout>()) };
    }
}
