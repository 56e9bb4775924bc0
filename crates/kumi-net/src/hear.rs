//! What workers say: reading their sockets, by whoever has the baton, and welcoming them.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::Arc;

use kumi_core::{Event, Face, FromWorker, PROTOCOL, SegmentId, ToWorker};

use crate::child::Heard;
use crate::deliver::{self, Written};
use crate::epoll::{Ready, WRITE};
use crate::pool::{KICK, Shared, State};

/// Maps the segment that the worker's next result lies in.
fn borrow(state: &mut State, key: u64, segment: SegmentId, bytes: u64) -> io::Result<()> {
    let Some(link) = state.links.get_mut(&key) else { return Ok(()) };
    let mapping = link.child.map(bytes)?;
    let loan = link.worker.and_then(|worker| state.brain.borrow(worker, segment, bytes));
    let loan = loan.ok_or_else(|| io::Error::other("it lent a segment out of place"))?;
    state.loans.insert(loan, Arc::new(mapping));
    Ok(())
}

impl Shared {
    /// Reads what is ready, by whoever has the baton.
    pub fn read_ready(&self, state: &mut State, ready: &Ready) {
        for (key, events) in ready.iter() {
            if key == KICK {
                if let Some(wires) = self.wires() {
                    wires.kick.hush();
                }
                continue;
            }
            if events & WRITE != 0 {
                self.flush(state, key / 4);
            }
            if events & !WRITE != 0 {
                self.read(state, key / 4);
            }
        }
        self.carry_out(state);
    }

    fn read(&self, state: &mut State, key: u64) {
        let Some(link) = state.links.get_mut(&key) else { return };
        let heard = link.child.hear();
        self.take_messages(state, key);
        match heard {
            Ok(Heard::All | Heard::More) => {}
            Err(error) if error.kind() == ErrorKind::Other => self.expel(state, key, error.to_string()),
            // It ends, or closed what is not its to close; either way its process tells the rest.
            Ok(Heard::End) | Err(_) => self.stop_reading(state, key),
        }
    }

    pub fn stop_reading(&self, state: &mut State, key: u64) {
        if let (Some(link), Some(wires)) = (state.links.get(&key), self.wires()) {
            let _ = wires.sockets.remove(link.child.data.as_fd());
        }
    }

    pub fn take_messages(&self, state: &mut State, key: u64) {
        let now = self.now();
        while let Some(link) = state.links.get_mut(&key) {
            match link.child.next_message() {
                Ok(Some(FromWorker::Hello { version, python, pid, host })) if link.worker.is_none() => {
                    self.welcome(state, key, version, python, Face { name: String::new(), pid, host });
                }
                Ok(Some(FromWorker::Lend { segment, bytes })) => {
                    if let Err(error) = borrow(state, key, segment, bytes) {
                        return self.expel(state, key, error.to_string());
                    }
                }
                Ok(Some(message)) => {
                    if let Some(worker) = link.worker {
                        state.brain.handle(now, Event::Said { worker, message });
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    return self.expel(state, key, format!("it sent something that is not a message: {error}"));
                }
            }
        }
    }

    /// This worker does not keep to the protocol.
    fn expel(&self, state: &mut State, key: u64, fault: String) {
        if let Some(link) = state.links.get_mut(&key) {
            link.child.expel(fault);
        }
        self.stop_reading(state, key);
    }

    fn welcome(&self, state: &mut State, key: u64, version: u32, python: (u8, u8), face: Face) {
        let Some(link) = state.links.get_mut(&key) else { return };
        if let Some(reason) = refusal(self.host.python, version, python) {
            link.child.fault = Some(reason.clone());
            link.child.queue(&ToWorker::Refuse { reason });
            return self.flush(state, key);
        }
        let face = Face { name: link.child.name.clone(), ..face };
        let launch = link.launch;
        let early = link.end_of_early();
        deliver::show(&state.route, &link.child.name, None, early);
        state.written_in_vain = Written::default();
        match state.brain.join(self.now(), launch, face) {
            Some(worker) => {
                link.worker = Some(worker);
                state.by_worker.insert(worker, key);
            }
            None => link.child.kill(),
        }
    }
}

/// Why a worker that says this of itself does not belong to a host with Python `ours`.
pub(crate) fn refusal(ours: (u8, u8), version: u32, python: (u8, u8)) -> Option<String> {
    if version != PROTOCOL {
        return Some(format!(
            "the worker speaks version {version} of the protocol, the host version {PROTOCOL}: \
             install the same version of kumi for both"
        ));
    }
    (python != ours).then(|| {
        format!(
            "the worker runs Python {}.{}, the host Python {}.{}: functions cannot travel between them; \
             give the launcher python= of the host's version",
            python.0, python.1, ours.0, ours.1
        )
    })
}
