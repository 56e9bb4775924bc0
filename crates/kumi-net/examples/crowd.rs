//! A host and a crowd of light fake workers that dial in: how many tasks a second go to them and come back.
//!
//! ```text
//! cargo run --release -p kumi-net --features plain --example crowd -- tls 1000 200000
//! ```
//!
//! `tls` or `plain`, workers, tasks. Prints the seconds from the first submit to the last result, and those of processor
//! time that the host took for it, and the crowd. All fake workers are one thread, which answers each task at once.
#![allow(clippy::expect_used, clippy::panic, reason = "a program to measure with")]

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::thread::JoinHandleExt;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{env, thread};

use kumi_core::agent_message::ANSWER;
use kumi_core::frame::Wire;
use kumi_core::{
    CrashesMax, Decoder, FromAgent, FromWorker, NewTask, PROTOCOL, Policy, Run, Session, Staff, ToAgent, ToWorker,
};
use kumi_net::pool::{Host, Pool};
use kumi_net::proof::{self, JoinCode};
use kumi_net::stream::{Heard, Stream};
use kumi_net::tls::{self, Fingerprint, Identity, Trust};
use kumi_net::wait::{Waited, Wants};

const HOUR: Duration = Duration::from_secs(3600);
const LIMIT: Duration = Duration::from_secs(300);

type Dial = Box<dyn Fn() -> Stream + Send>;

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    let [kind, workers, tasks] = words.as_slice() else { panic!("usage: crowd tls|plain WORKERS TASKS") };
    let (workers, tasks) = (workers.parse().expect("a number"), tasks.parse().expect("a number"));
    let pool = Pool::new(policy(workers), Host { name: "here".into(), python: (3, 11) });
    pool.start().expect("descriptors");
    let dial = listen(&pool, kind);
    let code = pool.issue_code(u32::MAX, HOUR).expect("random numbers");
    let (told, joined) = mpsc::channel();
    let crowd = thread::Builder::new().name("fakes".into()).spawn(move || {
        let mut crowd = Crowd::new(workers, &dial, &code);
        told.send(()).expect("the host waits");
        crowd.serve();
    });
    let crowd = crowd.expect("a thread");
    let its_clock = clock_of(&crowd);
    joined.recv_timeout(LIMIT).expect("a crowd");
    // Functions are known, and how long they take, before anything is measured.
    run(&pool, 100 * workers);
    let (began, all, its) = (Instant::now(), read(libc::CLOCK_PROCESS_CPUTIME_ID), read(its_clock));
    run(&pool, tasks);
    let (all, its) = (read(libc::CLOCK_PROCESS_CPUTIME_ID) - all, read(its_clock) - its);
    println!("{} {} {}", began.elapsed().as_secs_f64(), (all - its).as_secs_f64(), its.as_secs_f64());
    // Nobody in the crowd would answer if it were told to end.
    std::process::exit(0);
}

fn policy(workers: u64) -> Policy {
    Policy {
        name: "crowd".into(),
        workers,
        workers_min: 0,
        berths: None,
        idle: None,
        wall: None,
        launch: HOUR,
        kill: HOUR,
        heartbeat: Duration::from_secs(5),
        silence: Duration::from_secs(30),
        reconnect: Duration::from_secs(60),
        tasks_max: None,
        crashes_max: CrashesMax::Together(0),
        backup: false,
        queue_bytes: u64::MAX,
        spare_bytes: 0,
        reset: 0,
        memory: None,
        staff: Staff::ByHand,
    }
}

fn listen(pool: &Pool, kind: &str) -> Dial {
    let connect = |address: SocketAddr| TcpStream::connect(address).expect("a connection");
    match kind {
        "tls" => {
            let identity = Identity::fresh().expect("random numbers");
            let config = tls::client(Trust::Fingerprint(Fingerprint::of(&identity.chain[0]))).expect("a configuration");
            let address = pool.listen("127.0.0.1", 0, identity).expect("a port");
            Box::new(move || Stream::dialled(connect(address), &config, "127.0.0.1").expect("a stream"))
        }
        "plain" => {
            let address = pool.listen_by("127.0.0.1", 0, Stream::plain).expect("a port");
            Box::new(move || Stream::plain(connect(address)).expect("a stream"))
        }
        other => panic!("tls or plain, not {other}"),
    }
}

/// Submits so many tasks and waits for them.
fn run(pool: &Pool, tasks: u64) {
    let function = pool.with(|state, _| state.brain.define(Arc::from(*b"f"), Arc::from("f")));
    let payload: Arc<[u8]> = Arc::from([7; 20]);
    let before = pool.with(|state, _| state.brain.counts().finished);
    for _ in 0..tasks {
        let new = NewTask::new(function, Arc::clone(&payload));
        let task = pool.with(|state, now| state.brain.submit(now, new)).expect("room");
        pool.release_task(task);
    }
    wait_until(pool, |counts| counts.finished == before + tasks);
}

fn wait_until(pool: &Pool, done: impl Fn(&kumi_core::Counts) -> bool) {
    let deadline = Some(Instant::now() + LIMIT);
    loop {
        let found = pool.wait(Wants::Any, deadline, |state| done(&state.brain.counts()).then_some(()));
        match found.expect("descriptors") {
            Waited::Done(()) => return,
            Waited::Signal => {}
            Waited::TimedOut => panic!("it took longer than {LIMIT:?}"),
        }
    }
}

fn clock_of(thread: &thread::JoinHandle<()>) -> libc::clockid_t {
    let mut clock = 0;
    // SAFETY: a thread that lives, and a valid local.
    unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) };
    clock
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid local.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// All fake workers, in one thread.
struct Crowd {
    workers: Vec<Fake>,
    epoll: i32,
}

struct Fake {
    stream: Stream,
    decoder: Decoder<ToAgent>,
    talk: Session<FromAgent, ToAgent>,
    out: Vec<u8>,
    watches_write: bool,
}

impl Crowd {
    fn new(workers: u64, dial: &Dial, code: &JoinCode) -> Self {
        // SAFETY: a flag.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        let workers: Vec<_> = (0..workers).map(|number| Fake::join(number, dial(), code)).collect();
        let crowd = Self { workers, epoll };
        (0..crowd.workers.len()).for_each(|index| crowd.watch(index, libc::EPOLL_CTL_ADD, false));
        crowd
    }

    fn watch(&self, index: usize, operation: i32, write: bool) {
        let events = if write { libc::EPOLLIN | libc::EPOLLOUT } else { libc::EPOLLIN };
        let mut event = libc::epoll_event { events: events as u32, u64: index as u64 };
        let fd = self.workers[index].stream.as_fd().as_raw_fd();
        // SAFETY: descriptors that live, and a valid local.
        assert_eq!(unsafe { libc::epoll_ctl(self.epoll, operation, fd, &raw mut event) }, 0);
    }

    /// To the end of the process.
    fn serve(&mut self) {
        let mut ready = [libc::epoll_event { events: 0, u64: 0 }; 64];
        loop {
            // SAFETY: room for as many events.
            let count = unsafe { libc::epoll_wait(self.epoll, ready.as_mut_ptr(), 64, -1) };
            for event in ready.iter().take(usize::try_from(count).unwrap_or(0)) {
                let index = event.u64 as usize;
                if !self.workers[index].work() {
                    return;
                }
                let write = self.workers[index].stream.wants_write();
                if write != self.workers[index].watches_write {
                    self.workers[index].watches_write = write;
                    self.watch(index, libc::EPOLL_CTL_MOD, write);
                }
            }
        }
    }
}

impl Fake {
    fn join(number: u64, stream: Stream, code: &JoinCode) -> Self {
        let (decoder, talk) = (Decoder::default(), Session::default());
        let mut fake = Self { stream, decoder, talk, out: Vec::new(), watches_write: false };
        let binding = loop {
            fake.stream.flush().expect("a host");
            match fake.stream.binding() {
                Some(binding) => break binding,
                None => fake.read(),
            }
        };
        let hello = FromWorker::Hello { version: PROTOCOL, python: (3, 11), pid: 1, host: "there".into() };
        let claim = FromAgent::Prove { ticket: code.ticket, index: 0, incarnation: number, proof: [0; 32] };
        FromAgent::Worker(hello).encode(&mut fake.out);
        proof::prove(&code.secret, &binding, claim).encode(&mut fake.out);
        fake.write();
        loop {
            match fake.decoder.next().expect("a message") {
                Some(ToAgent::Session { .. }) => return fake,
                Some(other) => panic!("not let in: {other:?}"),
                None => fake.read(),
            }
        }
    }

    fn read(&mut self) {
        let mut ready = libc::pollfd { fd: self.stream.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut ready, 1, ANSWER.as_millis() as i32) };
        assert!(matches!(self.stream.hear(&mut self.decoder), Ok(Heard::All | Heard::More)), "the host hung up");
    }

    fn write(&mut self) {
        self.stream.write(&self.out).and_then(|()| self.stream.flush()).expect("a host");
        self.out.clear();
    }

    /// Answers what has come. False: the host has ended.
    fn work(&mut self) -> bool {
        if !matches!(self.stream.hear(&mut self.decoder), Ok(Heard::All | Heard::More)) || self.stream.flush().is_err()
        {
            return false;
        }
        while let Ok(Some(message)) = self.decoder.next() {
            if !self.talk.hear(&message).expect("in step") {
                continue;
            }
            let answer = match message {
                ToAgent::Worker(ToWorker::Run { lease, .. }) => FromWorker::Finished {
                    lease,
                    success: true,
                    run: Run { started: 1, nanoseconds: 100, notes: None },
                    payload: Arc::from([1; 4]),
                },
                ToAgent::Worker(ToWorker::Recall { lease }) => FromWorker::Recalled { lease, back: false },
                ToAgent::Worker(ToWorker::Ping) => FromWorker::Heartbeat,
                _ => continue,
            };
            self.talk.send(FromAgent::Worker(answer));
        }
        while self.talk.write(&mut self.out) {}
        if !self.out.is_empty() {
            self.write();
        }
        true
    }
}
