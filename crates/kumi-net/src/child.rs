//! A worker's process, seen by who has started it, a host or an agent: its sockets, its page, its output, its death.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use kumi_core::frame::Wire;
use kumi_core::marks::{Marks, Piece};
use kumi_core::{Begun, Cause, Certificate, Decoder, FrameError, FromWorker, Lease, ToWorker};

use crate::fds;
use crate::memory;
use crate::page::{Page, SLOTS, SlotState};
use crate::process::{self, Ending, MARKER};
use crate::segments::{Mapping, Segment};
use crate::spawn::{self, Command, Spawned};

/// How often a dead worker's pipe is read once more: a full pipe takes one reading.
pub(crate) const LAST_READS: u32 = 16;

/// How much of a worker's stderr is kept for its death certificate, in bytes: some twenty lines.
const TAIL: usize = 4096;

/// A worker's stdout or stderr.
#[derive(Debug)]
pub(crate) struct Output {
    pub pipe: OwnedFd,
    pub stderr: bool,
    pub open: bool,
    marks: Marks,
}

impl Output {
    fn new(pipe: OwnedFd, stderr: bool) -> Self {
        Self { pipe, stderr, open: true, marks: Marks::default() }
    }

    /// One reading: whether there may be more, and what was there. At the end of the pipe it is not open any more.
    pub fn read(&mut self) -> (bool, Vec<Piece>) {
        match read_pipe(self.pipe.as_fd()) {
            None => {
                self.open = false;
                (false, self.marks.end())
            }
            Some(bytes) => (!bytes.is_empty(), self.marks.feed(&bytes)),
        }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Child {
    pub name: String,
    /// What the worker's environment is marked with, and that of all its descendants.
    marker: String,
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub data: UnixStream,
    /// For what cannot wait for the main thread. Ends with this value, which tells the worker's watchdog that we let go.
    control: UnixStream,
    pub page: Page,
    pub outputs: [Output; 2],
    pub want_write: bool,
    /// Why we killed it, if we did.
    pub fault: Option<String>,
    killed: Cell<bool>,
    expelled: bool,
    decoder: Decoder<FromWorker>,
    received: u64,
    out: Vec<u8>,
    sent: usize,
    /// Segments whose descriptors go with the bytes from this place in `out` on.
    lends: VecDeque<(usize, Arc<Segment>)>,
    /// The descriptor that has come, for the message `Lend` that comes with it.
    came: Option<OwnedFd>,
    tail: Vec<u8>,
}

/// What reading a socket came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Everything that was there was read.
    All,
    /// There may be more; let others have their turn.
    More,
    /// The other end has closed it.
    End,
}

impl Child {
    /// Starts a worker process. `marker` begins with this process's number and a `-`.
    pub fn start(command: &Command, name: String, marker: String) -> io::Result<Self> {
        let mut command = command.clone();
        command.environment.push(CString::new(format!("{MARKER}={marker}")).map_err(io::Error::other)?);
        let (data, its_data) = UnixStream::pair()?;
        let (control, its_control) = UnixStream::pair()?;
        data.set_nonblocking(true)?;
        control.set_nonblocking(true)?;
        let page = Page::create()?;
        let Spawned { pid, pidfd, stdout, stderr } =
            spawn::spawn(&command, its_data.into(), its_control.into(), page.fd())?;
        let outputs = [Output::new(stdout, false), Output::new(stderr, true)];
        Ok(Self {
            name,
            marker,
            pid,
            pidfd,
            data,
            control,
            page,
            outputs,
            want_write: false,
            fault: None,
            killed: Cell::new(false),
            expelled: false,
            decoder: Decoder::default(),
            received: 0,
            out: Vec::new(),
            sent: 0,
            lends: VecDeque::new(),
            came: None,
            tail: Vec::new(),
        })
    }

    /// Puts a message into the send buffer; [`Child::flush`] sends it.
    pub fn queue(&mut self, message: &ToWorker) {
        match message {
            // The worker may take it from the page as soon as it sees the frame: the page comes first.
            ToWorker::Run { lease, slot, .. } | ToWorker::Prepare { lease, slot, .. } => {
                // The brain deals HELD_MAX slots, which the page has.
                let _ = self.page.offer(*slot, lease.0);
            }
            ToWorker::Interrupt { .. } => return self.send_past_main_thread(message),
            ToWorker::Welcome { .. }
            | ToWorker::Refuse { .. }
            | ToWorker::Define { .. }
            | ToWorker::Forget { .. }
            | ToWorker::Recall { .. }
            | ToWorker::Ping
            | ToWorker::Resolved { .. }
            | ToWorker::Stop { .. }
            | ToWorker::Lend { .. }
            | ToWorker::Returned { .. } => {}
        }
        message.encode(&mut self.out);
    }

    /// A few bytes that the watchdog reads at once. If the socket is full all the same, the worker is stuck, and killed in the end.
    fn send_past_main_thread(&self, message: &ToWorker) {
        let mut frame = Vec::new();
        message.encode(&mut frame);
        let _ = send(self.control.as_fd(), &frame);
    }

    /// The message that is queued next is `Lend`: the segment's descriptor goes with it.
    pub fn attach(&mut self, segment: Arc<Segment>) {
        self.lends.push_back((self.out.len(), segment));
    }

    /// Sends what the socket takes. True: all of it. A worker that is gone takes everything: its end is told elsewhere.
    pub fn flush(&mut self) -> bool {
        while self.sent < self.out.len() {
            match self.send() {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.raw_os_error() == Some(libc::ETOOMANYREFS) {
                        self.fault = Some("more descriptors are under way than this user may have open".into());
                        self.kill();
                    }
                    break;
                }
            }
        }
        self.out.clear();
        self.lends.clear();
        self.sent = 0;
        // A rare large payload shall not keep its memory.
        self.out.shrink_to(1 << 20);
        true
    }

    /// Sends once: up to the next descriptor, or from one on.
    fn send(&mut self) -> io::Result<usize> {
        let next = self.lends.front().map_or(self.out.len(), |(place, _)| *place);
        if next > self.sent {
            return send(self.data.as_fd(), self.out.get(self.sent..next).unwrap_or_default());
        }
        let end = self.lends.get(1).map_or(self.out.len(), |(place, _)| *place);
        let bytes = self.out.get(self.sent..end).unwrap_or_default();
        let Some((_, segment)) = self.lends.front() else { return Ok(0) };
        let count = fds::send(self.data.as_fd(), bytes, segment.fd(), 0)?;
        self.lends.pop_front();
        Ok(count)
    }

    /// Reads once from the socket.
    pub fn hear(&mut self) -> io::Result<Heard> {
        let space = self.decoder.space();
        let room = space.len();
        match fds::receive(self.data.as_fd(), space) {
            Ok((0, _)) => Ok(Heard::End),
            Ok((count, fd)) => {
                if fd.is_some() && mem::replace(&mut self.came, fd).is_some() {
                    return Err(io::Error::other("it sent a descriptor that belongs to no message"));
                }
                self.decoder.filled(count);
                self.received += count as u64;
                // With a descriptor a reading ends early.
                Ok(if count < room && self.came.is_none() { Heard::All } else { Heard::More })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Heard::All),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Heard::More),
            Err(error) => Err(error),
        }
    }

    /// Maps what the worker lends with the message that has just been read.
    pub fn map(&mut self, bytes: u64) -> io::Result<Mapping> {
        let fd = self.came.take().ok_or_else(|| io::Error::other("it lent a segment without its descriptor"))?;
        Mapping::open(fd.as_fd(), bytes)
    }

    /// After the worker's death: what it had composed but not sent counts as well.
    pub fn hear_last(&mut self) {
        if let Some(unsent) = self.page.unsent(self.received) {
            self.received += unsent.len() as u64;
            self.decoder.feed(&unsent);
        }
    }

    /// The next message it sent.
    pub fn next_message(&mut self) -> Result<Option<FromWorker>, FrameError> {
        if self.expelled { Ok(None) } else { self.decoder.next() }
    }

    /// It does not keep to the protocol: it is killed, and nothing that it has still to say counts.
    pub fn expel(&mut self, fault: String) {
        self.expelled = true;
        self.fault = Some(fault);
        self.kill();
    }

    /// Takes a task back, if the worker has not begun it.
    pub fn recall(&self, slot: u16, lease: Lease) -> bool {
        self.page.recall(slot, lease.0)
    }

    /// What a dead worker was at, by its page.
    pub fn begun(&self) -> Begun {
        let started = (0..SLOTS as u16).filter_map(|slot| match self.page.state(slot) {
            Some((lease, SlotState::Started)) => Some(Lease(lease)),
            Some((_, SlotState::Waiting | SlotState::Finished | SlotState::Recalled)) | None => None,
        });
        // One thread writes the page and begins one task at a time; if it lies, the newest is as good as any.
        started.max().map_or(Begun::Nothing, Begun::One)
    }

    /// Keeps the end of what the worker writes to stderr.
    pub fn remember(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        if let Some(surplus) = self.tail.len().checked_sub(TAIL) {
            self.tail.drain(..surplus);
        }
    }

    /// The last lines of its stderr.
    pub fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let text = text.trim_end();
        // The first line is cut where the tail begins, unless the tail is all there is.
        let whole = if self.tail.len() < TAIL { text } else { text.split_once('\n').map_or(text, |(_, rest)| rest) };
        whole.to_owned()
    }

    /// It has ended: ends what it left behind, reaps it, and says how it died. This looks through all processes of the
    /// machine. `limit`: how many bytes of its own it might have; `oom_kills`: what [`memory::oom_kills`] said last.
    pub fn bury(&self, host: &str, limit: Option<u64>, oom_kills: &AtomicU64) -> Certificate {
        let ending = process::bury(self.pid, self.pidfd.as_fd(), &self.marker);
        let (exit_code, signal) = match ending {
            Ending::Exited(code) => (Some(code), None),
            Ending::Signalled(signal) => (None, Some(signal)),
            Ending::Unknown => (None, None),
        };
        let peak = self.page.peak();
        let slain = signal == Some(libc::SIGKILL) && !self.killed.get();
        let (kind, cause) = match (&self.fault, self.page.above(), limit) {
            (Some(fault), _, _) => (Cause::Other, format!("{ending}, because {fault}")),
            (None, Some(above), Some(limit)) => {
                let (above, limit) = (above as f64 / 1e9, limit as f64 / 1e9);
                let had = format!("with its children it had {above:.3} GB of its own");
                (Cause::Memory, format!("memory limit: {had}, and memory_gigabytes_max is {limit}"))
            }
            (None, _, _) if slain && memory::was_short(limit, peak, oom_kills) => {
                (Cause::Memory, format!("{ending}, likely out of memory"))
            }
            (None, _, _) => (Cause::Other, ending.to_string()),
        };
        Certificate {
            cause,
            kind,
            pid: u32::try_from(self.pid).ok(),
            host: Some(host.to_owned()),
            exit_code,
            signal,
            peak,
            stderr: self.last_words(),
        }
    }

    /// Ends the process; its children follow when it is buried.
    pub fn kill(&self) {
        self.killed.set(true);
        // SAFETY: the descriptor is an open pidfd; no signal information is passed. That it is dead already is fine.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of one borrowed slice.
    let count = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Reads what a pipe has, up to a bound. `None`: the pipe has ended.
fn read_pipe(pipe: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 1 << 16];
    // SAFETY: the buffer is valid for its length.
    let count = unsafe { libc::read(pipe.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) };
    match usize::try_from(count) {
        Ok(0) => None,
        Ok(count) => {
            bytes.truncate(count);
            Some(bytes)
        }
        Err(_) => match io::Error::last_os_error().kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Some(Vec::new()),
            _ => None,
        },
    }
}
