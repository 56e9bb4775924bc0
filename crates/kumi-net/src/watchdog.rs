//! The worker's watchdog: a thread that needs neither Python nor its GIL.
//!
//! It listens to the host while the main thread is busy with a task: control messages, a limit for results that wait to be sent, and
//! the host's death. Host gone, or control closed: it ends the whole tree of this worker. It never waits for the outbox's
//! lock or socket, so nothing that the main thread does can keep it from seeing that.
//! Given up: a parent-death signal, which fires when the spawning *thread* ends; end of file alone, which a forked child of the host hides.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Arc, Mutex, TryLockError};
use std::thread;
use std::time::Duration;

use kumi_core::FromWorker;
use kumi_core::frame::Wire;

use crate::epoll::{Epoll, READ, Ready, WRITE};
use crate::memory::Memory;
use crate::outbox::Outbox;
use crate::process;
use crate::reports::Reporter;
use crate::signals::Signals;
use crate::sys::{check, own, pidfd_open, with_signals_blocked};

/// When to look again if the main thread has the outbox just as it ought to be flushed. Arbitrary; it happens rarely.
pub(crate) const AGAIN: Duration = Duration::from_millis(1);

// What the thread waits for; the keys are places in the answer of `Guard::wait`.
const HOST: u64 = 0;
const CONTROL: u64 = 1;
const TIMER: u64 = 2;
const DATA: u64 = 3;
const REPORTS: u64 = 4;
const MEMORY: u64 = 5;
const NOTICE: u64 = 6;

/// The main thread's handle. The thread itself lives as long as the process.
#[derive(Debug)]
pub struct Watchdog {
    timer: Arc<OwnedFd>,
}

impl Watchdog {
    /// Starts the thread, all signals blocked.
    ///
    /// `control` is the worker's end of the control socket, `host` comes from [`open_host`]. `on_control` gets the bytes of the
    /// control stream in order, in pieces of any size, in the watchdog's thread; while it runs nobody watches.
    ///
    /// # Errors
    /// No descriptors or no threads left.
    pub fn start(
        control: OwnedFd,
        host: OwnedFd,
        outbox: Arc<Mutex<Outbox>>,
        reporter: Arc<Reporter>,
        memory: Arc<Memory>,
        on_control: impl FnMut(&[u8]) + Send + 'static,
    ) -> io::Result<Watchdog> {
        let timer = Arc::new(new_timer()?);
        let data = {
            let outbox = outbox.lock().unwrap_or_else(|broken| broken.into_inner());
            outbox.returns().tell_by(Arc::clone(&timer));
            outbox.socket().try_clone_to_owned()?
        };
        let (clock, clogged) = (Arc::clone(&timer), false);
        // Not poll, which refuses more descriptors than a task may have left the process with (`RLIMIT_NOFILE`).
        let epoll = Epoll::new()?;
        epoll.add(host.as_fd(), HOST, READ)?;
        epoll.add(control.as_fd(), CONTROL, READ)?;
        epoll.add(clock.as_fd(), TIMER, READ)?;
        epoll.add(reporter.timer(), REPORTS, READ)?;
        epoll.add(memory.timer(), MEMORY, READ)?;
        let notices = Signals::prepared()?;
        epoll.add(notices.fd(), NOTICE, READ)?;
        let guard = Guard {
            epoll,
            control,
            _host: host,
            timer: clock,
            data,
            outbox,
            reporter,
            memory,
            notices,
            retires: false,
            on_control,
            clogged,
        };
        let thread = thread::Builder::new().name("kumi-watchdog".into());
        with_signals_blocked(|| thread.spawn(move || guard.run()))??;
        Ok(Watchdog { timer })
    }

    /// Has the outbox flushed after `limit`, unless the main thread did it before. One system call.
    ///
    /// For the first result that waits in the outbox: so it never lingers behind a task that turned out long.
    ///
    /// # Errors
    /// Those of `timerfd_settime`; none is known.
    pub fn flush_within(&self, limit: Duration) -> io::Result<()> {
        arm(&self.timer, limit)
    }
}

/// A pidfd of the host, which must be this process's parent.
///
/// # Errors
/// If process `expected` has ended, or is not our parent: then the host was gone before we looked.
pub fn open_host(expected: i32) -> io::Result<OwnedFd> {
    let host = pidfd_open(expected)?;
    // In this order: still our parent after the descriptor was opened, so it is the parent's.
    // SAFETY: no arguments, cannot fail.
    let parent = unsafe { libc::getppid() };
    if parent == expected {
        return Ok(host);
    }
    let text = format!("the host, process {expected}, is gone: the parent is process {parent} now");
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

/// What the thread holds.
struct Guard<F> {
    epoll: Epoll,
    control: OwnedFd,
    /// Held, since the set looks at it only as long as it is open.
    _host: OwnedFd,
    timer: Arc<OwnedFd>,
    data: OwnedFd,
    outbox: Arc<Mutex<Outbox>>,
    reporter: Arc<Reporter>,
    memory: Arc<Memory>,
    notices: Signals,
    /// The host is to be told that this process was told to end.
    retires: bool,
    on_control: F,
    /// A flush is due, but the data socket was full.
    clogged: bool,
}

impl<F: FnMut(&[u8])> Guard<F> {
    /// Whatever ends the watching, a panic too: a worker that nobody watches could outlive its host.
    fn run(mut self) -> ! {
        let _ = catch_unwind(AssertUnwindSafe(|| self.watch()));
        process::end_tree()
    }

    fn watch(&mut self) -> io::Result<()> {
        let mut piece = vec![0; 64 * 1024];
        let mut ready = Ready::default();
        loop {
            let [host, control, timer, data, reports, memory, notice] = self.wait(&mut ready)?;
            if host || (control && !self.receive(&mut piece)) {
                return Ok(());
            }
            if timer {
                silence(self.timer.as_fd());
            }
            if reports {
                silence(self.reporter.timer());
            }
            if memory {
                silence(self.memory.timer());
                self.memory.look()?;
            }
            if notice {
                while self.notices.take().is_some() {}
                self.retires = true;
            }
            if timer || data || reports || notice {
                self.flush()?;
            }
            if reports || (data && !self.clogged) {
                self.reporter.send_due(self.clogged)?;
            }
        }
    }

    /// Which of host, control, timer, data socket, timer of reports, that of memory and signals have something to say.
    fn wait(&self, ready: &mut Ready) -> io::Result<[bool; 7]> {
        match self.epoll.wait(ready, None) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let said = |key| ready.iter().any(|(one, _)| one == key);
        Ok([HOST, CONTROL, TIMER, DATA, REPORTS, MEMORY, NOTICE].map(said))
    }

    /// Hands on what arrived; false at the end of the stream.
    fn receive(&mut self, piece: &mut [u8]) -> bool {
        // SAFETY: pointer and length are those of one exclusively borrowed slice.
        let count =
            unsafe { libc::recv(self.control.as_raw_fd(), piece.as_mut_ptr().cast(), piece.len(), libc::MSG_DONTWAIT) };
        let bytes = usize::try_from(count).map_err(|_| io::Error::last_os_error());
        match bytes.map(|count| piece.get(..count).unwrap_or_default()) {
            Ok([]) => false,
            Ok(bytes) => {
                (self.on_control)(bytes);
                true
            }
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }

    /// An error means that the host closed the data socket. That is for the main thread to see; our signs are others.
    fn flush(&mut self) -> io::Result<()> {
        let retires = &mut self.retires;
        let sent = match self.outbox.try_lock() {
            Ok(mut outbox) => Some(send(&mut outbox, retires)),
            Err(TryLockError::Poisoned(broken)) => Some(send(&mut broken.into_inner(), retires)),
            Err(TryLockError::WouldBlock) => None,
        };
        self.set_clogged(matches!(sent, Some(Ok(false))))?;
        if sent.is_none() {
            return arm(&self.timer, AGAIN);
        }
        Ok(())
    }

    /// The socket is in the set only while there is something to write: once hung up it would always be ready.
    fn set_clogged(&mut self, clogged: bool) -> io::Result<()> {
        if clogged != self.clogged {
            self.clogged = clogged;
            return if clogged {
                self.epoll.add(self.data.as_fd(), DATA, WRITE)
            } else {
                self.epoll.remove(self.data.as_fd())
            };
        }
        Ok(())
    }
}

/// Sends what waits, and then what is to be told. False: the socket does not take all of it now.
fn send(outbox: &mut Outbox, retires: &mut bool) -> io::Result<bool> {
    let sent = outbox.try_flush()?;
    if !sent || !*retires {
        return Ok(sent);
    }
    let mut frame = Vec::new();
    FromWorker::Retire.encode(&mut frame);
    *retires = !outbox.try_push(&frame);
    outbox.try_flush()
}

/// Reads a timer, so that it is not ready any more. It may be armed anew already, which makes the read fail; as well.
fn silence(timer: BorrowedFd<'_>) {
    let mut count = 0_u64;
    // SAFETY: room for the eight bytes that a timerfd gives; it does not block.
    unsafe { libc::read(timer.as_raw_fd(), ptr::from_mut(&mut count).cast(), size_of::<u64>()) };
}

pub(crate) fn new_timer() -> io::Result<OwnedFd> {
    // SAFETY: integers only; the descriptor is new.
    unsafe { own(libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK)) }
}

/// One shot after `limit`; never zero, which would disarm it.
pub(crate) fn arm(timer: &OwnedFd, limit: Duration) -> io::Result<()> {
    let limit = limit.max(Duration::from_nanos(1));
    let once = libc::itimerspec {
        it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: libc::timespec {
            tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(limit.subsec_nanos() as i32),
        },
    };
    // SAFETY: a valid pointer, read during the call; the old value is not asked for.
    check(unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &once, ptr::null_mut()) }).map(drop)
}
