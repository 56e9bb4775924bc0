//! Carrying out what the brain wants.

use std::os::fd::AsFd;
use std::sync::Arc;

use kumi_core::{Action, Begun, Event, FromWorker, ToAgent, ToWorker, WorkerId};

use crate::deliver::{self, Delivery};
use crate::epoll::{READ, WRITE};
use crate::pool::{DATA, Shared, State};
use crate::remote::Errand;
use crate::wait::Wants;

impl Shared {
    /// Carries out what the brain wants, until it wants nothing more.
    pub fn carry_out(&self, state: &mut State) {
        while let Some(action) = state.brain.next_action() {
            match action {
                Action::Send { worker, message } => self.queue(state, worker, message),
                Action::Recall { worker, lease, slot } => {
                    let link = state.by_worker.get(&worker).and_then(|key| state.links.get(key));
                    let back = match link {
                        Some(link) => link.child.recall(slot, lease),
                        // It is being buried: it will begin nothing more.
                        None => state.dying.get(&worker) != Some(&Begun::One(lease)),
                    };
                    let message = FromWorker::Recalled { lease, back };
                    state.brain.handle(self.now(), Event::Said { worker, message });
                }
                Action::Launch { launches } => self.order(state, launches),
                Action::Abandon { launch } => self.abandon(state, launch),
                Action::Kill { worker, again } => {
                    match state.by_worker.get(&worker).and_then(|key| state.links.get(key)) {
                        Some(link) => link.child.kill(),
                        None => state.remote.send(worker, ToAgent::End { again }),
                    }
                }
                Action::Admit { caller, worker } => self.admit(state, caller, worker),
                Action::Refuse { caller, reason } => {
                    state.remote.order(Errand::Refuse { conn: caller, reason });
                }
                Action::Cut { worker } => self.cut_off(state, worker),
                Action::Fence { worker, launch } => {
                    self.fence(state, worker);
                    self.end_launch(state, launch);
                }
                Action::CloseSegment { segment } => {
                    state.garbage.extend(state.segments.remove(&segment));
                    self.wake();
                }
                Action::Unmap { loan } => drop(state.loans.remove(&loan)),
                Action::TooManyResults { bytes } => self.warn_of_results(bytes),
                Action::HandOver { task } => {
                    state.leaving.push_back(task);
                    self.poke(state, Wants::Leaving);
                }
                Action::CallBack { task } => self.call_back(state, task),
                Action::Reported { task } => {
                    self.pass_report_on(state, task);
                    state.tell_followers(task);
                    self.poke(state, Wants::Task(task));
                }
                Action::Resolved { task } => {
                    state.tell_watchers(task);
                    self.poke(state, Wants::Task(task));
                    self.pass_end_on(state, task);
                }
            }
        }
        self.flush_dirty(state);
        self.arm(state);
        let finished = state.brain.counts().finished;
        if state.told != finished {
            state.told = finished;
            self.poke(state, Wants::Any);
            state.tell_vigils();
        }
        if state.brain.ended() && !state.over {
            self.wake();
        }
    }

    fn warn_of_results(&self, bytes: u64) {
        let text = format!(
            "kumi: the results of controller '{}' that your program still holds take {} MB, more than its queue may \
             (queue_gigabytes_max): let go of tasks whose result you have taken, and pop the records of pushed ones\n",
            self.name,
            bytes / 1_000_000
        );
        // To the host's stderr, by the thread that shows what workers write.
        deliver::put(Delivery::Notice(text));
    }

    fn queue(&self, state: &mut State, worker: WorkerId, message: ToWorker) {
        let Some(&key) = state.by_worker.get(&worker) else {
            return state.remote.send(worker, ToAgent::Worker(message));
        };
        if let Some(link) = state.links.get_mut(&key) {
            if let ToWorker::Lend { segment, .. } = &message {
                // The brain lends what it was told to exist.
                let Some(memory) = state.segments.get(segment) else { return };
                link.child.attach(Arc::clone(memory));
            }
            link.child.queue(&message);
            if state.dirty.last() != Some(&key) {
                state.dirty.push(key);
            }
        }
    }

    fn flush_dirty(&self, state: &mut State) {
        while let Some(key) = state.dirty.pop() {
            self.flush(state, key);
        }
    }

    pub fn flush(&self, state: &mut State, key: u64) {
        let Some(link) = state.links.get_mut(&key) else { return };
        let want = !link.child.flush();
        if want == link.child.want_write {
            return;
        }
        link.child.want_write = want;
        if let Some(wires) = self.wires() {
            let events = if want { READ | WRITE } else { READ };
            // It fails only for a socket that was taken out because it ended.
            let _ = wires.sockets.set(link.child.data.as_fd(), key * 4 + DATA, events);
        }
    }

    fn arm(&self, state: &mut State) {
        // An alarm that rings early costs a look; one that is set again at each change costs more.
        let Some(at) = state.brain.next_timeout().filter(|at| state.armed.is_none_or(|armed| *at < armed)) else {
            return;
        };
        if self.wires().is_some_and(|wires| wires.alarm.set(at.since(self.now())).is_ok()) {
            state.armed = Some(at);
        }
    }

    pub fn alarm_rang(&self, state: &mut State) {
        state.armed = None;
        state.brain.handle(self.now(), Event::Tick);
    }
}
