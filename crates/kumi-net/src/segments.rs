//! Shared memory for large buffers: a segment in the process that made it, and its mapping in one that it was lent to.
//!
//! A segment is a memfd whose memory is taken when it is made, so that no write can fail later, and whose size is sealed,
//! so that no reader can fail either. Its maker alone writes to it. Whoever it is lent to maps it privately: what is
//! written there is seen by nobody else. But a private mapping sees what the maker writes later; so the maker waits until
//! it is gone. A fork copies mappings without telling anybody; so forks are counted.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};
use std::{mem, thread};

use kumi_core::{FromWorker, LoanId, SegmentId};
use libc::{c_int, c_void};

use crate::groups::memory_bytes;
use crate::pool::Pool;
use crate::sys::{check, own, with_signals_blocked};
use crate::watchdog;
use crate::worker::LINGER;

/// Below this many bytes a buffer travels within its message: a descriptor, a mapping and its page faults cost more.
pub const LARGE: usize = 256 * 1024;
/// A page cannot shrink under its readers, and nobody but its maker can write.
const SEALS: c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE;
/// Buffers in a segment begin at multiples of this, as those of numpy do at most.
pub const ALIGN: usize = 64;
/// Most bytes of free segments, on a machine with enough memory.
const SPARE_BYTES: u64 = 256_000_000;
/// A copy of so many bytes is worth a second thread.
const SPLIT: usize = 16 << 20;

/// Memory between two addresses, unmapped at the end.
#[derive(Debug)]
struct Map {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: an address range of the process; whoever reads or writes it answers for that.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    fn new(fd: BorrowedFd<'_>, length: usize, flags: c_int) -> io::Result<Map> {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, fd.as_raw_fd(), 0)
        };
        match NonNull::new(start.cast::<u8>()) {
            Some(place) if start != libc::MAP_FAILED => Ok(Map { start: place, length }),
            Some(_) | None => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, and nobody borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast::<c_void>(), self.length) };
    }
}

/// A segment, in the process that made it.
#[derive(Debug)]
pub struct Segment {
    fd: OwnedFd,
    map: Map,
}

/// Some bytes to copy, and where to. Whoever makes it sees to it that they stay where they are.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Where they are.
    pub from: *const u8,
    /// How many.
    pub length: usize,
    /// Where in the segment they go.
    pub to: usize,
}

// SAFETY: plain numbers; `Segment::write` answers for what is done with them.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

impl Segment {
    /// Takes memory.
    ///
    /// # Errors
    /// No memory or no descriptors left.
    pub fn create(size: u64) -> io::Result<Segment> {
        let length = usize::try_from(size).map_err(io::Error::other)?;
        let size = libc::off_t::try_from(size).map_err(io::Error::other)?;
        // SAFETY: a constant name; the descriptor is new.
        let fd =
            unsafe { own(libc::memfd_create(c"kumi-segment".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)) }?;
        // SAFETY: integers only, on a descriptor that we own.
        check(unsafe { libc::fallocate(fd.as_raw_fd(), 0, 0, size) })?;
        let map = Map::new(fd.as_fd(), length, libc::MAP_SHARED)?;
        // After our own mapping, which stays writable; there will be no other one.
        // SAFETY: as above.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) })?;
        Ok(Segment { fd, map })
    }

    /// Copies bytes into the segment.
    ///
    /// # Safety
    /// Each piece is readable during the call, and nobody reads or writes the segment meanwhile.
    pub unsafe fn write(&self, pieces: &[Piece]) {
        let halves: Vec<[Piece; 2]> = pieces.iter().filter(|piece| self.holds(piece)).map(split).collect();
        let copy = |which: usize| {
            for piece in halves.iter().filter_map(|halves| halves.get(which)) {
                // SAFETY: the caller vouches for the source; the target lies in our mapping, by `holds`.
                unsafe { ptr::copy_nonoverlapping(piece.from, self.map.start.as_ptr().add(piece.to), piece.length) };
            }
        };
        if halves.iter().all(|[_, second]| second.length == 0) {
            return copy(0);
        }
        thread::scope(|scope| {
            let other = with_signals_blocked(|| thread::Builder::new().spawn_scoped(scope, || copy(1)));
            copy(0);
            if !matches!(other, Ok(Ok(_))) {
                copy(1);
            }
        });
    }

    fn holds(&self, piece: &Piece) -> bool {
        piece.to.checked_add(piece.length).is_some_and(|end| end <= self.map.length)
    }

    /// A private mapping of its first `bytes`.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn map(&self, bytes: u64) -> io::Result<Mapping> {
        Mapping::open(self.fd.as_fd(), bytes)
    }

    /// To be sent.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRef<Segment> for Segment {
    fn as_ref(&self) -> &Segment {
        self
    }
}

/// A large piece in two, so that two cores copy it: one alone does not fill the memory's bandwidth.
fn split(piece: &Piece) -> [Piece; 2] {
    let first = if piece.length < SPLIT { piece.length } else { piece.length / 2 };
    // SAFETY: still within the piece, or at its end.
    let rest = unsafe { piece.from.add(first) };
    [Piece { length: first, ..*piece }, Piece { from: rest, length: piece.length - first, to: piece.to + first }]
}

/// How often this process was about to fork, or has forked: what was mapped under another number may be in a fork.
static FORKS: AtomicU64 = AtomicU64::new(0);
static COUNTS: Once = Once::new();

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> c_int;
}

/// The private mapping of a segment that another process made.
#[derive(Debug)]
pub struct Mapping {
    map: Map,
    forks: u64,
}

impl Mapping {
    /// Maps the first `bytes` of a segment.
    ///
    /// # Errors
    /// It is not what a segment must be, so that reading it could fail; or there is no room for it.
    pub fn open(fd: BorrowedFd<'_>, bytes: u64) -> io::Result<Mapping> {
        // Before and after, because a thread may map between the two.
        COUNTS.call_once(|| {
            // SAFETY: the handlers only count. It fails without memory, and then so does the mapping.
            let _ = unsafe { pthread_atfork(Some(count_fork), Some(count_fork), None) };
        });
        // SAFETY: integers only.
        let seals = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) })?;
        if seals & SEALS != SEALS {
            return Err(io::Error::other("a segment came without its seals"));
        }
        if size_of_file(fd)? < bytes || bytes == 0 {
            return Err(io::Error::other("a segment is smaller than what it shall hold"));
        }
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        let forks = FORKS.load(Ordering::Relaxed);
        Ok(Mapping { map: Map::new(fd, length, libc::MAP_PRIVATE)?, forks })
    }

    /// Gives up its pages, and what was written to it. Unmapping it costs nothing then.
    pub(crate) fn forget(&self) {
        // SAFETY: our own range; it stays mapped. Who looks again sees the segment.
        unsafe { libc::madvise(self.map.start.as_ptr().cast::<c_void>(), self.map.length, libc::MADV_DONTNEED) };
    }

    /// Whether a process that was forked from this one may have a copy of it.
    pub fn forked(&self) -> bool {
        self.forks != FORKS.load(Ordering::Relaxed)
    }
}

fn size_of_file(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut facts = mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: room for what is written; read only after success.
    let facts = unsafe {
        check(libc::fstat(fd.as_raw_fd(), facts.as_mut_ptr()))?;
        facts.assume_init()
    };
    u64::try_from(facts.st_size).map_err(io::Error::other)
}

/// In a worker: what it does not map any more, and has not told the host yet.
#[derive(Debug, Default)]
pub(crate) struct Returns {
    list: Mutex<VecDeque<FromWorker>>,
    any: AtomicBool,
    /// Has the watchdog look soon, if the main thread does not.
    timer: OnceLock<Arc<OwnedFd>>,
}

impl Returns {
    /// From now on this timer is armed when something is to be told.
    pub fn tell_by(&self, timer: Arc<OwnedFd>) {
        // It is set once, when the worker starts.
        let _ = self.timer.set(timer);
    }

    /// Something to tell. Mostly there is nothing, which costs a look.
    pub fn next(&self) -> Option<FromWorker> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let next = list.pop_front();
        self.any.store(!list.is_empty(), Ordering::Release);
        next
    }

    fn add(&self, message: FromWorker) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.push_back(message);
        self.any.store(true, Ordering::Release);
        if let Some(timer) = self.timer.get() {
            // It fails for no known reason; the main thread tells it too, later.
            let _ = watchdog::arm(timer, LINGER);
        }
    }
}

/// In a worker: a mapping of one of the host's segments. With the last reference the host is told.
#[derive(Debug)]
pub struct Borrowed {
    // In this order: the host may write as soon as it knows.
    mapping: Mapping,
    notice: Notice,
}

#[derive(Debug)]
struct Notice {
    segment: SegmentId,
    forks: u64,
    returns: Arc<Returns>,
}

impl Borrowed {
    pub(crate) fn new(mapping: Mapping, segment: SegmentId, returns: Arc<Returns>) -> Borrowed {
        let notice = Notice { segment, forks: mapping.forks, returns };
        Borrowed { mapping, notice }
    }

    /// The host's name of it.
    pub(crate) fn segment(&self) -> SegmentId {
        self.notice.segment
    }
}

impl Memory for Mapping {
    fn memory(&self) -> (*mut u8, usize) {
        (self.map.start.as_ptr(), self.map.length)
    }
}

impl Memory for Borrowed {
    fn memory(&self) -> (*mut u8, usize) {
        self.mapping.memory()
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        let forked = self.forks != FORKS.load(Ordering::Relaxed);
        self.returns.add(FromWorker::Returned { segment: self.segment, forked });
    }
}

/// In the host: the part of a result that lies in a worker's segment. With the last of them the worker is told.
#[derive(Debug)]
pub struct Loaned {
    pool: Pool,
    loan: LoanId,
    mapping: Option<Arc<Mapping>>,
}

impl Loaned {
    pub(crate) fn new(pool: Pool, loan: LoanId, mapping: Arc<Mapping>) -> Loaned {
        Loaned { pool, loan, mapping: Some(mapping) }
    }
}

impl Memory for Loaned {
    fn memory(&self) -> (*mut u8, usize) {
        self.mapping.as_ref().map_or((ptr::null_mut(), 0), |mapping| mapping.memory())
    }
}

impl Drop for Loaned {
    fn drop(&mut self) {
        let Some(mapping) = self.mapping.take() else { return };
        if self.pool.is_foreign() {
            return;
        }
        // The pool has one, too. Pages by the thousand are not given up under its lock.
        if Arc::strong_count(&mapping) == 2 {
            mapping.forget();
        }
        let forked = mapping.forked();
        drop(mapping);
        self.pool.release_loan(self.loan, forked);
    }
}

/// How many bytes free segments may have: little beside the memory that there is.
pub fn spare_bytes() -> u64 {
    SPARE_BYTES.min(memory_bytes() / 10)
}

/// Memory that stays where it is as long as its owner lives.
pub trait Memory: Send + Sync {
    /// Where it begins, and how long it is.
    fn memory(&self) -> (*mut u8, usize);
}
