//! An agent's worker: a child process like a host's local workers, and the segments that it is lent.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use kumi_core::frame::Wire;
use kumi_core::{Begun, Certificate, FromWorker, Lease, Payload, Time, ToWorker};

use crate::agent::{DATA, PROCESS, STDOUT};
use crate::child::{Child, Heard, LAST_READS};
use crate::epoll::{Epoll, OFF, READ, WRITE};
use crate::hear::refusal;
use crate::memory::oom_kills;
use crate::outlet::Outlet;
use crate::parcel::{self, Split};
use crate::process::new_mark;
use crate::spawn::Command;
use crate::stock::Stock;
use crate::sys::{poll, watch};

/// A worker that has not said hello after this hangs: as a host's `seconds_launch`, unless that was chosen.
const START: Duration = Duration::from_secs(60);
/// How long a killed process may take to end before it is left to the kernel.
const DEATH: Duration = Duration::from_secs(10);

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Ward {
    child: Child,
    python: (u8, u8),
    /// How many bytes of its own it may have.
    memory: Option<u64>,
    oom_kills: AtomicU64,
    stock: Stock,
    /// When it was started, until it has said hello. Nothing is sent before.
    since: Option<Instant>,
}

impl Ward {
    /// Starts the worker.
    pub fn start(command: &Command, python: (u8, u8), welcome: &ToWorker, epoll: &Epoll) -> io::Result<Self> {
        let ToWorker::Welcome { name, memory, .. } = welcome else {
            return Err(io::Error::other("the host has not said what the worker is called"));
        };
        let (memory, mut child) = (*memory, Child::start(command, name.clone(), new_mark()?)?);
        child.queue(welcome);
        let (oom_kills, since) = (AtomicU64::new(oom_kills()), Some(Instant::now()));
        let ward = Self { child, python, memory, oom_kills, stock: Stock::default(), since };
        // It fails only without memory; then the worker is killed, and buried at once.
        ward.watch(epoll).inspect_err(|_| ward.child.kill())?;
        Ok(ward)
    }

    fn watch(&self, epoll: &Epoll) -> io::Result<()> {
        epoll.add(self.child.pidfd.as_fd(), PROCESS, READ)?;
        epoll.add(self.child.data.as_fd(), DATA, READ)?;
        let mut pipes = self.child.outputs.iter().zip(STDOUT..);
        pipes.try_for_each(|(output, key)| epoll.add(output.pipe.as_fd(), key, READ))
    }

    pub fn name(&self) -> &str {
        &self.child.name
    }

    /// To be sent by [`Ward::flush`]. What is large in it goes by shared memory, if there is any.
    pub fn tell(&mut self, mut message: ToWorker) {
        if let Some(payload) = message.payload_mut() {
            if let Some(small) = self.lend(payload) {
                *payload = small;
            }
        }
        self.child.queue(&message);
    }

    /// Lends it the large parts of a payload. Returns the rest.
    fn lend(&mut self, payload: &[u8]) -> Option<Payload> {
        let Split { payload: small, pieces, bytes } = parcel::split(payload)?;
        let (segment, memory) = self.stock.reserve(bytes)?;
        // SAFETY: the payload is borrowed during the call, and the segment is not lent to anybody yet.
        unsafe { memory.write(&pieces) };
        self.child.attach(memory);
        self.child.queue(&ToWorker::Lend { segment, bytes });
        Some(small.into())
    }

    /// Sends what its socket takes.
    pub fn flush(&mut self, epoll: &Epoll) {
        if self.since.is_some() {
            return;
        }
        let want = !self.child.flush();
        if want != self.child.want_write {
            self.child.want_write = want;
            // It fails only for a socket that was taken out because it ended.
            let _ = epoll.set(self.child.data.as_fd(), DATA, if want { READ | WRITE } else { READ });
        }
    }

    pub fn recall(&self, slot: u16, lease: Lease) -> bool {
        self.child.recall(slot, lease)
    }

    /// Its data socket is readable.
    pub fn hear(&mut self, now: Time, epoll: &Epoll, said: &mut impl FnMut(FromWorker)) {
        let heard = self.child.hear();
        self.take_messages(now, said);
        match heard {
            Ok(Heard::All | Heard::More) => return,
            Err(error) if error.kind() == ErrorKind::Other => self.child.expel(error.to_string()),
            // It ends, or closed what is not its to close; either way its process tells the rest.
            Ok(Heard::End) | Err(_) => {}
        }
        let _ = epoll.remove(self.child.data.as_fd());
    }

    fn take_messages(&mut self, now: Time, said: &mut impl FnMut(FromWorker)) {
        loop {
            match self.child.next_message() {
                Ok(Some(hello @ FromWorker::Hello { version, python, .. })) => {
                    if let Some(reason) = refusal(self.python, version, python) {
                        return self.child.expel(reason);
                    }
                    self.since = None;
                    said(hello);
                }
                Ok(Some(FromWorker::Returned { segment, forked })) => self.stock.give_back(now, segment, forked),
                Ok(Some(FromWorker::Lend { .. })) => {
                    return self.child.expel("it lent a segment, and was to send its results whole".into());
                }
                Ok(Some(message)) => said(message),
                Ok(None) => return,
                Err(error) => {
                    return self.child.expel(format!("it sent something that is not a message: {error}"));
                }
            }
        }
    }

    /// One reading of its stdout (0) or stderr (1), which goes to our own. True: there may be more.
    pub fn pass_on(&mut self, index: usize, outlet: &Outlet, epoll: &Epoll) -> bool {
        let Some(output) = self.child.outputs.get_mut(index).filter(|output| output.open) else { return false };
        let stderr = output.stderr;
        let (more, pieces) = output.read();
        if !output.open {
            let _ = epoll.remove(output.pipe.as_fd());
        }
        for piece in pieces {
            if stderr {
                self.child.remember(&piece.bytes);
            }
            outlet.put(Some(&self.child.name), stderr, piece);
        }
        more
    }

    /// Whether its output is read; while it is not, it waits in `print`.
    pub fn read_output(&self, yes: bool, epoll: &Epoll) {
        for (output, key) in self.child.outputs.iter().zip(STDOUT..).filter(|(output, _)| output.open) {
            let _ = epoll.set(output.pipe.as_fd(), key, if yes { READ } else { OFF });
        }
    }

    /// When to come back at the latest, by the instant and by the time of the agent.
    pub fn next_timeout(&self) -> (Option<Instant>, Option<Time>) {
        (self.since.map(|since| since + START), self.stock.next_timeout())
    }

    /// Gives up free segments, and a worker that hangs.
    pub fn tick(&mut self, now: Time) {
        self.stock.trim(now);
        if self.since.take_if(|since| since.elapsed() >= START).is_some() {
            self.kill(Some(format!("it said nothing within {} s of its start", START.as_secs())));
        }
    }

    /// Ends the process; the rest ends when it is buried. `fault`: why, if that is worth telling.
    pub fn kill(&mut self, fault: Option<String>) {
        if self.child.fault.is_none() {
            self.child.fault = fault;
        }
        self.child.kill();
    }

    /// Ends it, now, with all that it has started. What the kernel does not let go of within some seconds is left to it:
    /// the worker's watchdog ends the rest when this process is gone.
    pub fn end(self, now: Time, machine: &str, outlet: &Outlet, epoll: &Epoll) {
        self.child.kill();
        let ended = poll(&mut [watch(Some(self.child.pidfd.as_fd()), libc::POLLIN)], Some(DEATH));
        if matches!(ended, Ok(1)) {
            self.bury(now, machine, outlet, epoll, &mut drop);
        }
    }

    /// Its process has ended: hears its last words and ends what it left behind. Returns what it was at.
    pub fn bury(
        mut self,
        now: Time,
        machine: &str,
        outlet: &Outlet,
        epoll: &Epoll,
        said: &mut impl FnMut(FromWorker),
    ) -> (Option<Lease>, Certificate) {
        let _ = epoll.remove(self.child.pidfd.as_fd());
        // To the end of what is there; not to the end of the stream, which a child it left behind may hold open for ever.
        while let Ok(Heard::More) = self.child.hear() {
            self.take_messages(now, said);
        }
        self.take_messages(now, said);
        self.child.hear_last();
        self.take_messages(now, said);
        for index in 0..2 {
            let _ = (0..LAST_READS).find(|_| !self.pass_on(index, outlet, epoll));
        }
        let begun = match self.child.begun() {
            Begun::One(lease) => Some(lease),
            Begun::Nothing | Begun::Unknown => None,
        };
        (begun, self.child.bury(machine, self.memory, &self.oom_kills))
    }
}
