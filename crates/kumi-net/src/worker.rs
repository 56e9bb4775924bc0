//! The worker's end: what it reads, runs and answers.
//!
//! Messages are read by whoever waits for one, usually the main thread between tasks. While a task runs that has submitted
//! others, there may be more who wait: its own main thread, threads of its own, and the helper, which reads for async code.
//! One of them reads, the others are parked until it has read something. Nothing is locked while anybody waits or runs.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use kumi_core::children::{self, Children};
use kumi_core::frame::Wire;
use kumi_core::{
    Decoder, FromWorker, Interrupts, Job, Lease, Leave, PROTOCOL, Payload, Run, SegmentId, SubmitError, Terms, Time,
    ToWorker, WorkerHalf,
};

use crate::epoll::Bell;
use crate::fds;
use crate::fork;
use crate::inbox::{self, Address};
use crate::memory::Memory;
use crate::outbox::Outbox;
use crate::page::Page;
use crate::process::{MARKER, become_subreaper, end_tree};
use crate::reports::Reporter;
use crate::segments::{Borrowed, Mapping, Segment};
use crate::signals;
use crate::spawn::{CONTROL_FD, DATA_FD, PAGE_FD};
use crate::stock::Stock;
use crate::sys::{check, poll_once, watch, with_signals_blocked};
use crate::wait::{SLICE, Waited, my_bell};
use crate::watchdog::{Watchdog, open_host};

/// How long a finished result may wait for others to be sent with.
pub(crate) const LINGER: Duration = Duration::from_micros(200);

/// See the head of this file.
#[derive(Debug)]
pub struct WorkerEnd {
    state: Mutex<State>,
    page: Arc<Page>,
    outbox: Arc<Mutex<Outbox>>,
    interrupts: Arc<Mutex<Interrupts>>,
    watchdog: Watchdog,
    reporter: Arc<Reporter>,
    memory: Arc<Memory>,
    main: ThreadId,
    /// Of the process that made it.
    generation: u64,
    /// Somebody waits who cannot read: work for the helper.
    needed: Condvar,
}

#[derive(Debug)]
struct State {
    half: WorkerHalf,
    /// `None`: somebody reads.
    reader: Option<Reader>,
    parked: Vec<Arc<Bell>>,
    /// Whom to tell of the end of children, by the token that they will get.
    watchers: BTreeMap<u64, Address>,
    helped: bool,
    /// What ended the reading.
    fault: Option<String>,
    oldest_unsent: Instant,
    frame: Vec<u8>,
    /// Segments whose job is still to be taken.
    arrived: VecDeque<Arc<Borrowed>>,
    /// Our own segments, for results.
    stock: Stock,
    epoch: Instant,
}

/// What one thread at a time reads from.
#[derive(Debug)]
struct Reader {
    data: UnixStream,
    decoder: Decoder<ToWorker>,
    /// The descriptor that came with the message that is being read.
    came: Option<OwnedFd>,
}

/// What is next for the main thread.
#[derive(Debug)]
pub enum Next {
    /// Do this. A part of its payload may lie in memory of the host's.
    Job(Job, Option<Arc<Borrowed>>),
    /// Leave.
    Leave(Leave),
    /// Nothing is here: [`WorkerEnd::wait`].
    Wait,
}

impl Reader {
    /// Reads once. False: nothing came within the limit, or a signal did.
    fn read(&mut self, limit: Option<Duration>) -> io::Result<bool> {
        if let Some(limit) = limit {
            match poll_once(&mut [watch(Some(self.data.as_fd()), libc::POLLIN)], limit) {
                Ok(0) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
                ready => drop(ready?),
            }
        }
        match fds::receive(self.data.as_fd(), self.decoder.space()) {
            Ok((0, _)) => end_tree(),
            Ok((count, fd)) => {
                self.came = fd.or(self.came.take());
                self.decoder.filled(count);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(without_host(error)),
        }
    }
}

impl State {
    fn arrived(&mut self, segment: SegmentId) -> Option<Arc<Borrowed>> {
        let at = self.arrived.iter().position(|borrowed| borrowed.segment() == segment)?;
        self.arrived.remove(at)
    }

    fn take_back_segments(&mut self) {
        while let Some((segment, forked)) = self.half.returned() {
            self.stock.give_back(self.now(), segment, forked);
        }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn tell_watchers(&mut self) {
        for token in self.half.children().take_news() {
            if let Some(address) = self.watchers.remove(&token) {
                address.tell(token);
            }
        }
    }

    fn ring_parked(&self) {
        self.parked.iter().for_each(|bell| bell.ring());
    }
}

impl WorkerEnd {
    /// Takes over what the host passed to this process, starts the watchdog, says hello. In the main thread.
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
        let interrupts: Arc<Mutex<Interrupts>> = Arc::default();
        let reporter = Arc::new(Reporter::new(Arc::clone(&outbox))?);
        let listen = listen(Arc::clone(&interrupts));
        let memory = Arc::new(Memory::new(Arc::clone(&page), Arc::clone(&interrupts))?);
        let (clerk, guard) = (Arc::clone(&reporter), Arc::clone(&memory));
        let watchdog = Watchdog::start(control?, host, Arc::clone(&outbox), clerk, guard, listen)?;
        let state = State {
            half: WorkerHalf::default(),
            reader: Some(Reader { data, decoder: Decoder::default(), came: None }),
            parked: Vec::new(),
            watchers: BTreeMap::new(),
            helped: false,
            fault: None,
            oldest_unsent: Instant::now(),
            frame: Vec::new(),
            arrived: VecDeque::new(),
            stock: Stock::default(),
            epoch: Instant::now(),
        };
        let end = Self {
            state: Mutex::new(state),
            page,
            outbox,
            interrupts,
            watchdog,
            reporter,
            memory,
            main: thread::current().id(),
            generation: fork::generation(),
            needed: Condvar::new(),
        };
        let hello = FromWorker::Hello { version: PROTOCOL, python, pid: std::process::id(), host: host_name };
        end.say(&mut end.lock(), &hello)?;
        end.outbox().flush()?;
        Ok(end)
    }

    /// What sends reports of the running task.
    pub fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, state: &mut State, message: &FromWorker) -> io::Result<bool> {
        state.frame.clear();
        message.encode(&mut state.frame);
        let first = self.outbox().push(&state.frame);
        // A rare large result shall not keep its memory.
        state.frame.shrink_to(1 << 20);
        first
    }

    /// Says something that lies partly in one of our segments.
    fn say_with(&self, state: &mut State, segment: SegmentId, bytes: u64, message: &FromWorker) -> io::Result<bool> {
        let Some(memory) = state.stock.get(segment) else { return Ok(false) };
        state.frame.clear();
        FromWorker::Lend { segment, bytes }.encode(&mut state.frame);
        message.encode(&mut state.frame);
        self.outbox().push_with(&state.frame, memory.fd())?;
        Ok(false)
    }

    /// Says something that the host shall hear now.
    fn tell(&self, state: &mut State, message: Option<FromWorker>) -> io::Result<()> {
        let Some(message) = message else { return Ok(()) };
        self.say(state, &message).and_then(|_| self.outbox().flush()).map_err(without_host)
    }

    /// Says something that may wait for others to be sent with.
    fn mention(&self, state: &mut State, message: &FromWorker) -> io::Result<()> {
        let said = self.say(state, message);
        said.and_then(|first| if first { self.watchdog.flush_within(LINGER) } else { Ok(()) }).map_err(without_host)
    }

    /// What to do next. A task it gives has begun, as far as the host can see.
    ///
    /// # Errors
    /// None is known, save that the socket was closed under us.
    pub fn take(&self) -> io::Result<Next> {
        self.next_step(&mut self.lock()).map_err(without_host)
    }

    fn next_step(&self, state: &mut State) -> io::Result<Next> {
        self.say_answers(state)?;
        while let Some(job) = state.half.next_job() {
            let lent = match &job {
                Job::Run { lent, .. } | Job::Prepare { lent, .. } | Job::Define { lent, .. } => {
                    lent.and_then(|segment| state.arrived(segment))
                }
                Job::Forget { .. } => None,
            };
            match job {
                // The host took it back.
                Job::Run { lease, slot, .. } | Job::Prepare { lease, slot, .. } if !self.page.start(slot, lease.0) => {
                    state.half.finished();
                }
                Job::Run { .. } | Job::Prepare { .. } | Job::Define { .. } | Job::Forget { .. } => {
                    return Ok(Next::Job(job, lent));
                }
            }
        }
        self.say_answers(state)?;
        self.outbox().flush()?;
        Ok(state.half.leaving().map_or(Next::Wait, Next::Leave))
    }

    /// Whether anything was to be said.
    fn say_answers(&self, state: &mut State) -> io::Result<bool> {
        let mut any = false;
        while let Some(answer) = state.half.answer() {
            self.say(state, &answer)?;
            any = true;
        }
        Ok(any)
    }

    /// Waits until `ready` finds something, reading messages, or while another thread does.
    ///
    /// # Errors
    /// The host refused this worker, or sent something that is not a message.
    pub fn wait(&self, deadline: Option<Instant>, ready: impl Fn(&mut WorkerHalf) -> bool) -> io::Result<Waited<()>> {
        let mut state = self.lock();
        // What has come already counts, however short the time.
        let mut looked = false;
        loop {
            if ready(&mut state.half) {
                return Ok(Waited::Done(()));
            }
            if let Some(fault) = &state.fault {
                return Err(io::Error::other(fault.clone()));
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let over = left.is_some_and(|left| left.is_zero());
            if over && looked {
                return Ok(Waited::TimedOut);
            }
            looked = true;
            let went_on;
            (state, went_on) = self.wait_once(state, left)?;
            if !went_on && !over && !ready(&mut state.half) {
                return Ok(Waited::Signal);
            }
        }
    }

    /// Reads once, or is parked until another thread has. False: neither happened, for there was a signal, or time is up.
    fn wait_once<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        left: Option<Duration>,
    ) -> io::Result<(MutexGuard<'a, State>, bool)> {
        let Some(mut reader) = state.reader.take() else {
            let bell = my_bell()?;
            state.parked.push(Arc::clone(&bell));
            drop(state);
            let limit = left.map_or(SLICE, |left| left.min(SLICE));
            let rang = poll_once(&mut [watch(Some(bell.fd()), libc::POLLIN)], limit);
            bell.hush();
            let mut state = self.lock();
            state.parked.retain(|other| !Arc::ptr_eq(other, &bell));
            return Ok((state, matches!(rang, Ok(1))));
        };
        // Free segments are given up in time.
        let trim = state.stock.next_timeout().map(|at| at.since(state.now()));
        drop(state);
        let limit = left.into_iter().chain(trim).min();
        let read = reader.read(limit);
        let mut state = self.lock();
        let done = read.and_then(|read| {
            if read {
                self.hear(&mut state, &mut reader)?;
            } else if trim.is_some() {
                let now = state.now();
                state.stock.trim(now);
            }
            Ok(read)
        });
        if let Err(error) = &done {
            state.fault = Some(error.to_string());
        }
        state.reader = Some(reader);
        state.ring_parked();
        Ok((state, done?))
    }

    fn hear(&self, state: &mut State, reader: &mut Reader) -> io::Result<()> {
        while let Some(message) = reader.decoder.next().map_err(io::Error::other)? {
            if let ToWorker::Lend { segment, bytes } = &message {
                let missing = || io::Error::other("the host lent a segment without its descriptor");
                let mapping = Mapping::open(reader.came.take().ok_or_else(missing)?.as_fd(), *bytes)?;
                let returns = Arc::clone(self.outbox().returns());
                state.arrived.push_back(Arc::new(Borrowed::new(mapping, *segment, returns)));
            }
            if let ToWorker::Welcome { memory, .. } = &message {
                memory.iter().for_each(|bytes| self.memory.set_limit(*bytes));
                heed_notices()?;
            }
            state.half.handle(message).map_err(io::Error::other)?;
        }
        state.take_back_segments();
        state.tell_watchers();
        if self.say_answers(state)? {
            self.outbox().flush()?;
        }
        Ok(())
    }

    /// A segment for a result of so many bytes. `None`: no descriptors or no memory left.
    pub fn reserve(&self, bytes: u64) -> Option<(SegmentId, Arc<Segment>)> {
        self.lock().stock.reserve(bytes)
    }

    /// Which task is to be interrupted. Lock it for one call only.
    pub fn interrupts(&self) -> &Arc<Mutex<Interrupts>> {
        &self.interrupts
    }

    /// The task that was taken last is done.
    ///
    /// # Errors
    /// None is known, save that the socket was closed under us.
    pub fn finish(&self, slot: u16, finished: Finished) -> io::Result<()> {
        self.answer(&mut self.lock(), slot, finished).map_err(without_host)
    }

    /// The call of `everywhere` that was taken last is done; or it failed, with this text and the pickled error.
    ///
    /// # Errors
    /// None is known, save that the socket was closed under us.
    pub fn prepared(&self, slot: u16, lease: Lease, error: String, payload: Payload) -> io::Result<()> {
        let mut state = self.lock();
        let said = self.say(&mut state, &FromWorker::Prepared { lease, error, payload });
        self.page.finish(slot, lease.0);
        state.half.finished();
        said.and_then(|_| self.outbox().flush()).map_err(without_host)
    }

    fn answer(&self, state: &mut State, slot: u16, finished: Finished) -> io::Result<()> {
        let Finished { lease, success, run, payload, segment } = finished;
        self.reporter.last_words(lease)?;
        let message = FromWorker::Finished { lease, success, run, payload };
        let first = match segment {
            Some((segment, bytes)) => self.say_with(state, segment, bytes, &message)?,
            None => self.say(state, &message)?,
        };
        self.page.finish(slot, lease.0);
        state.half.finished();
        state.tell_watchers();
        if !state.half.short_next() {
            return self.outbox().flush();
        }
        if first {
            state.oldest_unsent = Instant::now();
            return self.watchdog.flush_within(LINGER);
        }
        if state.oldest_unsent.elapsed() >= LINGER {
            return self.outbox().flush();
        }
        Ok(())
    }

    /// `<controller>-<number of the launch>`, as soon as the host has welcomed this worker.
    pub fn name(&self) -> String {
        self.lock().half.name().to_owned()
    }

    /// What watches the memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What to put back after each task, as bits; told once, when the host has welcomed this worker.
    pub fn take_reset(&self) -> Option<u8> {
        self.lock().half.take_reset()
    }

    /// Whether this process was forked from the worker. Then nothing of it may be touched.
    pub fn is_foreign(&self) -> bool {
        self.generation != fork::generation()
    }

    /// Whether the calling thread is the one that runs tasks, and runs one.
    pub fn runs_here(&self) -> bool {
        thread::current().id() == self.main && self.lock().half.current().is_some()
    }

    /// A function that the running task's children will name: its number.
    ///
    /// # Errors
    /// None is known, save that the socket was closed under us.
    pub fn declare(&self, label: String, payload: Payload) -> io::Result<u64> {
        let mut state = self.lock();
        let function = state.half.children().new_function();
        self.mention(&mut state, &FromWorker::Declare { function, label, payload })?;
        Ok(function)
    }

    /// No child will name it any more.
    pub fn withdraw(&self, function: u64) {
        // It fails only when the host is gone, and then nothing matters.
        let _ = self.mention(&mut self.lock(), &FromWorker::Withdraw { function });
    }

    /// The running task submits a task, to this group: its number.
    ///
    /// # Errors
    /// None is known, save that the socket was closed under us.
    pub fn submit(
        &self,
        function: u64,
        terms: Terms,
        payload: Payload,
        group: Option<u64>,
    ) -> io::Result<Result<u64, SubmitError>> {
        let mut state = self.lock();
        let main = thread::current().id() == self.main;
        let parent = if main { state.half.current() } else { state.half.outermost() };
        let Some(parent) = parent else { return Ok(Err(SubmitError::Closed)) };
        let submitted = state.half.children().submit(parent, function, terms, payload, group);
        let Some((child, message)) = submitted else { return Ok(Err(SubmitError::Over)) };
        self.mention(&mut state, &message)?;
        Ok(Ok(child))
    }

    /// Does something with what the running tasks have submitted.
    pub fn children<R>(&self, work: impl FnOnce(&mut Children) -> R) -> R {
        work(self.lock().half.children())
    }

    /// Nobody holds the handle of this child any more.
    pub fn release(&self, child: u64) {
        let mut state = self.lock();
        if let Some(message) = state.half.children().release(child) {
            let _ = self.mention(&mut state, &message);
        }
    }

    /// Cancels a child; how it ended is heard soon.
    ///
    /// # Errors
    /// None is known, save that the socket was closed under us.
    pub fn cancel(&self, child: u64) -> io::Result<()> {
        let mut state = self.lock();
        let open = state.half.children().is_open(child);
        self.tell(&mut state, open.then_some(FromWorker::Cancel { child }))
    }

    /// From now on the first failure among these children cancels the rest.
    ///
    /// # Errors
    /// None is known, save that the socket was closed under us.
    pub fn unite_group(&self, group: u64) -> io::Result<()> {
        let mut state = self.lock();
        let messages = state.half.children().unite_group(group);
        messages.into_iter().try_for_each(|message| self.tell(&mut state, Some(message)))
    }

    /// Cancels the children of this group that are open; how they ended is heard soon.
    ///
    /// # Errors
    /// None is known, save that the socket was closed under us.
    pub fn cancel_group(&self, group: u64) -> io::Result<()> {
        let mut state = self.lock();
        let messages = state.half.children().end_group(group);
        messages.into_iter().try_for_each(|message| self.tell(&mut state, Some(message)))
    }

    /// The main thread begins to wait for this child, and is lent to the running task's descendants meanwhile.
    ///
    /// # Errors
    /// None is known, save that the socket was closed under us.
    pub fn begin_wait(&self, child: u64) -> io::Result<()> {
        let mut state = self.lock();
        let message = state.half.begin_wait(child);
        self.tell(&mut state, message)
    }

    /// The main thread waits no longer.
    ///
    /// # Errors
    /// None is known, save that the socket was closed under us.
    pub fn end_wait(&self, child: u64) -> io::Result<()> {
        let mut state = self.lock();
        let message = state.half.end_wait(child);
        self.tell(&mut state, message)
    }

    /// A thread other than the main one begins to wait for this child.
    ///
    /// # Errors
    /// None is known, save that the socket was closed under us.
    pub fn begin_wait_elsewhere(&self, child: u64) -> io::Result<()> {
        let mut state = self.lock();
        let message = state.half.children().begin_wait(child, None);
        self.tell(&mut state, message)
    }

    /// It waits no longer.
    ///
    /// # Errors
    /// None is known, save that the socket was closed under us.
    pub fn end_wait_elsewhere(&self, child: u64) -> io::Result<()> {
        let mut state = self.lock();
        let message = state.half.children().end_wait(child);
        self.tell(&mut state, message)
    }

    /// Has somebody told when this child is done: the token that will come, once. `None`: it is done.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn watch(self: &Arc<Self>, child: u64, address: Address) -> io::Result<Option<u64>> {
        let token = inbox::token();
        let mut state = self.lock();
        if !state.half.children().is_open(child) {
            return Ok(None);
        }
        if !state.helped {
            state.helped = true;
            let end = Arc::clone(self);
            let thread = thread::Builder::new().name("kumi-reader".into());
            with_signals_blocked(|| thread.spawn(move || end.help()))??;
        }
        state.watchers.insert(token, address);
        let message = state.half.children().begin_wait(child, Some(token));
        self.tell(&mut state, message)?;
        self.needed.notify_one();
        Ok(Some(token))
    }

    /// Reads for those who wait and cannot read. It ends with the process, or when the host sends what is no message.
    fn help(&self) {
        loop {
            let mut state = self.lock();
            while !state.half.children().waits_elsewhere() {
                state = self.needed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            if self.wait(None, |half| !half.children().waits_elsewhere()).is_err() {
                return;
            }
        }
    }

    /// How far a child has come.
    pub fn child(&self, child: u64) -> children::State {
        self.lock().half.children().state(child)
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

/// After signal handlers were put back: a worker that is told to end tells its host first.
///
/// # Errors
/// Those of `sigaction`; none is known.
pub fn heed_notices() -> io::Result<()> {
    signals::heed_notices()
}

/// For the main thread: the task that goes on now, for what ran within its wait has ended, is to be interrupted.
pub fn signal_myself() {
    // SAFETY: an integer.
    unsafe { libc::raise(libc::SIGINT) };
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
    /// How it ran.
    pub run: Run,
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
