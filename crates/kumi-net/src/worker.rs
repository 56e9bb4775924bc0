//! The worker's end: what its main thread reads, runs and answers.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use kumi_core::frame::Wire;
use kumi_core::{
    Decoder, FromWorker, Interrupts, Job, Lease, Leave, PROTOCOL, Payload, SegmentId, Store, Time, ToWorker, WorkerHalf,
};

use crate::fds;
use crate::outbox::Outbox;
use crate::page::Page;
use crate::process::{MARKER, become_subreaper, end_tree};
use crate::reports::Reporter;
use crate::segments::{Borrowed, Mapping, Segment, spare_bytes};
use crate::spawn::{CONTROL_FD, DATA_FD, PAGE_FD};
use crate::sys::{check, poll_once, watch};
use crate::watchdog::{Watchdog, open_host};

/// How long a finished result may wait for others to be sent with.
pub(crate) const LINGER: Duration = Duration::from_micros(200);

/// See the head of this file.
#[derive(Debug)]
pub struct WorkerEnd {
    half: WorkerHalf,
    decoder: Decoder<ToWorker>,
    data: UnixStream,
    page: Arc<Page>,
    outbox: Arc<Mutex<Outbox>>,
    interrupts: Arc<Mutex<Interrupts>>,
    watchdog: Watchdog,
    reporter: Arc<Reporter>,
    name: Arc<OnceLock<String>>,
    oldest_unsent: Instant,
    frame: Vec<u8>,
    /// The descriptor that came with the message that is being read, and segments whose job is still to be taken.
    came: Option<OwnedFd>,
    arrived: VecDeque<Arc<Borrowed>>,
    /// Our own segments, for results.
    store: Store,
    segments: BTreeMap<SegmentId, Segment>,
    epoch: Instant,
}

/// What is next for the main thread.
#[derive(Debug)]
pub enum Next {
    /// Do this. A part of its payload may lie in memory of the host's.
    Job(Job, Option<Arc<Borrowed>>),
    /// Leave.
    Leave(Leave),
    /// Nothing is here: [`WorkerEnd::fill`].
    Wait,
}

impl WorkerEnd {
    /// Takes over what the host passed to this process, starts the watchdog, says hello.
    ///
    /// # Errors
    /// This process was not started as a worker, or its host is gone.
    pub fn inherit(python: (u8, u8), host_name: String) -> io::Result<Self> {
        let host = std::env::var(MARKER).ok().and_then(|mark| mark.split('-').next()?.parse().ok());
        let host =
            host.ok_or_else(|| io::Error::other(format!("{MARKER} is not set: only a controller starts workers")))?;
        let [data, control, page] = [DATA_FD, CONTROL_FD, PAGE_FD].map(inherited);
        wake_when_host_dies()?;
        let host = open_host(host)?;
        become_subreaper()?;
        let (data, page) = (UnixStream::from(data?), Arc::new(Page::open(page?)?));
        let outbox = Arc::new(Mutex::new(Outbox::new(Arc::clone(&page), data.try_clone()?.into())));
        let interrupts = Arc::default();
        let reporter = Arc::new(Reporter::new(Arc::clone(&outbox))?);
        let listen = listen(Arc::clone(&interrupts));
        let watchdog = Watchdog::start(control?, host, Arc::clone(&outbox), Arc::clone(&reporter), listen)?;
        let mut end = Self {
            half: WorkerHalf::default(),
            decoder: Decoder::default(),
            data,
            page,
            outbox,
            interrupts,
            watchdog,
            reporter,
            name: Arc::default(),
            oldest_unsent: Instant::now(),
            frame: Vec::new(),
            came: None,
            arrived: VecDeque::new(),
            store: Store::new(spare_bytes()),
            segments: BTreeMap::new(),
            epoch: Instant::now(),
        };
        end.say(&FromWorker::Hello { version: PROTOCOL, python, pid: std::process::id(), host: host_name })?;
        end.outbox().flush()?;
        Ok(end)
    }

    /// What sends reports of the running task.
    pub fn reporter(&self) -> Arc<Reporter> {
        Arc::clone(&self.reporter)
    }

    /// What the host calls this worker, as soon as it has welcomed it.
    pub fn name(&self) -> Arc<OnceLock<String>> {
        Arc::clone(&self.name)
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&mut self, message: &FromWorker) -> io::Result<bool> {
        self.frame.clear();
        message.encode(&mut self.frame);
        let first = self.outbox.lock().unwrap_or_else(PoisonError::into_inner).push(&self.frame);
        // A rare large result shall not keep its memory.
        self.frame.shrink_to(1 << 20);
        first
    }

    /// Says something that lies partly in one of our segments.
    fn say_with(&mut self, segment: SegmentId, bytes: u64, message: &FromWorker) -> io::Result<bool> {
        let Some(memory) = self.segments.get(&segment) else { return Ok(false) };
        self.frame.clear();
        FromWorker::Lend { segment, bytes }.encode(&mut self.frame);
        message.encode(&mut self.frame);
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        outbox.push_with(&self.frame, memory.fd())?;
        Ok(false)
    }

    /// What to do next. A task it gives has begun, as far as the host can see.
    ///
    /// # Errors
    /// None is known, save that the socket was closed under us.
    pub fn take(&mut self) -> io::Result<Next> {
        self.next_step().map_err(without_host)
    }

    fn next_step(&mut self) -> io::Result<Next> {
        while let Some(answer) = self.half.answer() {
            self.say(&answer)?;
        }
        while let Some(job) = self.half.next_job() {
            let lent = match &job {
                Job::Run { lent, .. } | Job::Define { lent, .. } => lent.and_then(|segment| self.arrived(segment)),
                Job::Forget { .. } => None,
            };
            match job {
                // The host took it back.
                Job::Run { lease, slot, .. } if !self.page.start(slot, lease.0) => self.half.finished(),
                Job::Run { .. } | Job::Define { .. } | Job::Forget { .. } => return Ok(Next::Job(job, lent)),
            }
        }
        self.outbox().flush()?;
        Ok(self.half.leaving().map_or(Next::Wait, Next::Leave))
    }

    fn arrived(&mut self, segment: SegmentId) -> Option<Arc<Borrowed>> {
        let at = self.arrived.iter().position(|borrowed| borrowed.segment() == segment)?;
        self.arrived.remove(at)
    }

    /// Waits for messages. A signal ends the wait as well.
    ///
    /// # Errors
    /// The host refused this worker, or sent something that is not a message.
    pub fn fill(&mut self) -> io::Result<()> {
        if !self.wait_and_trim()? {
            return Ok(());
        }
        let count = match fds::receive(self.data.as_fd(), self.decoder.space()) {
            Ok((0, _)) => end_tree(),
            Ok((count, fd)) => {
                self.came = fd.or(self.came.take());
                count
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(without_host(error)),
        };
        self.decoder.filled(count);
        while let Some(message) = self.decoder.next().map_err(io::Error::other)? {
            if let ToWorker::Lend { segment, bytes } = &message {
                let missing = || io::Error::other("the host lent a segment without its descriptor");
                let mapping = Mapping::open(self.came.take().ok_or_else(missing)?.as_fd(), *bytes)?;
                let returns = Arc::clone(self.outbox().returns());
                self.arrived.push_back(Arc::new(Borrowed::new(mapping, *segment, returns)));
            }
            if let ToWorker::Welcome { name } = &message {
                let _ = self.name.set(name.clone());
            }
            self.half.handle(message).map_err(io::Error::other)?;
        }
        while let Some((segment, forked)) = self.half.returned() {
            if forked {
                self.store.close(segment);
            } else {
                self.store.put_back(self.now(), segment);
            }
        }
        self.close_segments();
        Ok(())
    }

    /// While free segments are kept, waits for messages until the oldest was kept for long enough. False: nothing came.
    fn wait_and_trim(&mut self) -> io::Result<bool> {
        let Some(at) = self.store.next_timeout() else { return Ok(true) };
        match poll_once(&mut [watch(Some(self.data.as_fd()), libc::POLLIN)], at.since(self.now())) {
            Ok(0) => {
                self.store.trim(self.now(), false);
                self.close_segments();
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            ready => ready.map(|_| true),
        }
    }

    fn close_segments(&mut self) {
        while let Some(segment) = self.store.next_closed() {
            self.segments.remove(&segment);
        }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// A segment for a result of so many bytes. `None`: no descriptors or no memory left.
    pub fn reserve(&mut self, bytes: u64) -> Option<(SegmentId, &Segment)> {
        let reserved = self.store.reserve(bytes)?;
        self.close_segments();
        if let Some(size) = reserved.create {
            match Segment::create(size) {
                Ok(segment) => drop(self.segments.insert(reserved.segment, segment)),
                Err(_) => {
                    self.store.close(reserved.segment);
                    self.close_segments();
                }
            }
        }
        Some((reserved.segment, self.segments.get(&reserved.segment)?))
    }

    /// Which task is to be interrupted. Lock it for one call only.
    pub fn interrupts(&self) -> &Arc<Mutex<Interrupts>> {
        &self.interrupts
    }

    /// The task that was taken last is done.
    ///
    /// # Errors
    /// None is known, save that the socket was closed under us.
    pub fn finish(&mut self, slot: u16, finished: Finished) -> io::Result<()> {
        self.answer(slot, finished).map_err(without_host)
    }

    fn answer(&mut self, slot: u16, finished: Finished) -> io::Result<()> {
        let Finished { lease, success, started, took, payload, segment } = finished;
        self.reporter.last_words(lease)?;
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let message = FromWorker::Finished { lease, success, started, nanoseconds, payload };
        let first = match segment {
            Some((segment, bytes)) => self.say_with(segment, bytes, &message)?,
            None => self.say(&message)?,
        };
        self.page.finish(slot, lease.0);
        self.half.finished();
        if !self.half.short_next() {
            return self.outbox().flush();
        }
        if first {
            self.oldest_unsent = Instant::now();
            return self.watchdog.flush_within(LINGER);
        }
        if self.oldest_unsent.elapsed() >= LINGER {
            return self.outbox().flush();
        }
        Ok(())
    }
}

/// What the watchdog does with what comes on *control*: the main thread, which calls this, is signalled if its task is to
/// be interrupted.
fn listen(interrupts: Arc<Mutex<Interrupts>>) -> impl FnMut(&[u8]) + Send + 'static {
    // SAFETY: no arguments, cannot fail.
    let main_thread = unsafe { libc::pthread_self() };
    let mut decoder = Decoder::<ToWorker>::default();
    move |bytes| {
        decoder.feed(bytes);
        loop {
            match decoder.next() {
                Ok(Some(ToWorker::Interrupt { lease })) => {
                    if interrupts.lock().unwrap_or_else(PoisonError::into_inner).want(lease) {
                        // SAFETY: the main thread lives as long as its process.
                        unsafe { libc::pthread_kill(main_thread, libc::SIGINT) };
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => end_tree(),
            }
        }
    }
}

/// Nobody is left to work for, or to tell: a worker whose host is gone ends with all its children. Other errors come back.
fn without_host(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => end_tree(),
        _ => error,
    }
}

/// A finished task.
#[derive(Debug)]
pub struct Finished {
    /// As dealt.
    pub lease: Lease,
    /// Whether the payload is a value; otherwise an error.
    pub success: bool,
    /// Unix time in nanoseconds.
    pub started: u64,
    /// How long it ran.
    pub took: Duration,
    /// Pickled.
    pub payload: Payload,
    /// Which of our segments the rest of it lies in, and how many bytes of it.
    pub segment: Option<(SegmentId, u64)>,
}

/// A worker that somebody stopped must still notice that its host died: the kernel wakes it then, and the watchdog does
/// the rest. The signal comes when the thread that started us ends, which is the host's I/O thread: not before its pool.
fn wake_when_host_dies() -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGCONT) }).map(drop)
}

/// A descriptor that the host passed, from now on closed in whatever this process executes.
fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes integers; fails for a descriptor that is not open.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and the host made it for us alone; the caller takes each number once.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    debug_assert!(fd.as_raw_fd() > 2);
    Ok(fd)
}
