//! What two threads do to a few bytes without a lock, in every order and with every reordering that the memory model allows.
//!
//! The files are those of the crate, compiled here once more against loom's atomics. Left out: two processes, which are to the
//! processor what two threads are; the socket, which is a flag here, for a message comes after what was done before it was sent.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use loom::sync::{Arc, Mutex};
use loom::thread;
use nap::Nap;
use slot::{Slot, SlotState};

mod atomics {
    pub use loom::sync::atomic::{AtomicBool, AtomicU64};
}

#[path = "../src/nap.rs"]
mod nap;
#[path = "../src/slot.rs"]
mod slot;

use atomics::{AtomicBool, AtomicU64};

/// One slot, the lease of the last task that was sent, and a byte of the outbox.
struct Page {
    slot: Slot,
    sent: AtomicU64,
    outbox: AtomicU64,
}

fn page() -> Arc<Page> {
    let [slot, sent, outbox] = [0, 0, 0].map(AtomicU64::new);
    Arc::new(Page { slot: Slot(slot), sent, outbox })
}

/// What the worker does with a task: passes it over, or runs it and puts its result into the outbox. Whether it ran.
fn run(page: &Page, lease: u64) -> bool {
    let started = page.slot.start(lease);
    if started {
        assert_eq!(page.slot.state(), Some((lease, SlotState::Started)), "nobody takes what has begun");
        page.outbox.store(lease, Relaxed);
        assert!(page.slot.finish(lease));
    }
    started
}

#[test]
fn a_task_is_started_or_taken_back_and_never_both() {
    loom::model(|| {
        let host = page();
        assert!(host.slot.offer(7));
        let page = Arc::clone(&host);
        let worker = thread::spawn(move || run(&page, 7));
        let recalled = host.slot.recall(7);
        let started = worker.join().unwrap();
        assert!(recalled != started, "recalled {recalled}, started {started}");
        let end = if recalled { SlotState::Recalled } else { SlotState::Finished };
        assert_eq!(host.slot.state(), Some((7, end)));
    });
}

#[test]
fn a_place_that_is_used_again_is_the_new_tasks_alone() {
    loom::model(|| {
        let host = page();
        assert!(host.slot.offer(7));
        let page = Arc::clone(&host);
        let worker = thread::spawn(move || {
            let old = run(&page, 7);
            let new = (page.sent.load(Acquire) == 8).then(|| run(&page, 8));
            (old, new)
        });
        let recalled = host.slot.recall(7).then(|| {
            assert!(host.slot.offer(8));
            host.sent.store(8, Release);
            host.slot.recall(8)
        });
        let (old, new) = worker.join().unwrap();
        assert!(old == recalled.is_none(), "the old one: {old}, {recalled:?}");
        match (recalled, new) {
            (Some(recalled), Some(started)) => assert!(recalled != started),
            (Some(recalled), None) => assert!(recalled, "the worker had not come to it"),
            (None, new) => assert_eq!(new, None),
        }
    });
}

#[test]
fn whoever_sees_that_a_task_has_finished_sees_its_result() {
    loom::model(|| {
        let host = page();
        assert!(host.slot.offer(7));
        let page = Arc::clone(&host);
        let worker = thread::spawn(move || run(&page, 7));
        if host.slot.state() == Some((7, SlotState::Finished)) {
            assert_eq!(host.outbox.load(Relaxed), 7);
        }
        assert!(worker.join().unwrap());
    });
}

#[test]
fn somebody_looks_whenever_a_task_runs() {
    loom::model(|| {
        // He was woken for a task that has ended, and his timer has just rung.
        let nap = Arc::new((Nap::new(), Mutex::new(false), AtomicBool::new(true)));
        assert!(nap.0.disturb());
        let shared = Arc::clone(&nap);
        let watchdog = thread::spawn(move || {
            let (nap, task, timer) = &*shared;
            timer.store(false, Relaxed);
            if nap.is_over(|| *task.lock().unwrap()) {
                timer.store(true, Relaxed);
            }
        });
        let (nap, task, timer) = &*nap;
        for _ in 0..2 {
            *task.lock().unwrap() = false;
            *task.lock().unwrap() = true;
            if nap.disturb() {
                timer.store(true, Relaxed);
            }
        }
        watchdog.join().unwrap();
        assert!(timer.load(Relaxed), "a task runs and nobody will look");
    });
}

/// A bell that a thread waits for.
mod epoll {
    use loom::sync::{Condvar, Mutex};

    #[derive(Default)]
    pub struct Bell {
        rings: Mutex<bool>,
        changed: Condvar,
    }

    impl Bell {
        pub fn ring(&self) {
            *self.rings.lock().unwrap() = true;
            self.changed.notify_all();
        }

        pub fn wait(&self) {
            let mut rings = self.rings.lock().unwrap();
            while !*rings {
                rings = self.changed.wait(rings).unwrap();
            }
        }

        pub fn hush(&self) {
            *self.rings.lock().unwrap() = false;
        }
    }

    impl std::fmt::Debug for Bell {
        fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            to.write_str("Bell")
        }
    }
}

#[path = "../src/seats.rs"]
#[allow(dead_code)] // Here nobody waits for anything but tasks.
mod seats;

use kumi_core::TaskId;
use seats::{Seats, Wants};

/// The brain's lock, and what may become readable: results that workers have sent, and the kick of the leader.
struct House {
    state: Mutex<State>,
    line: Mutex<Line>,
    changed: loom::sync::Condvar,
}

#[derive(Default)]
struct State {
    seats: Seats,
    done: Vec<TaskId>,
}

#[derive(Default)]
struct Line {
    results: Vec<TaskId>,
    kicked: bool,
    hidden: bool,
    over: bool,
}

impl House {
    fn new() -> Arc<Self> {
        let (state, line) = (Mutex::new(State::default()), Mutex::new(Line::default()));
        Arc::new(Self { state, line, changed: loom::sync::Condvar::new() })
    }

    fn change(&self, how: impl FnOnce(&mut Line)) {
        how(&mut self.line.lock().unwrap());
        self.changed.notify_all();
    }

    fn wait_for(&self, is_there: impl Fn(&Line) -> bool) {
        let mut line = self.line.lock().unwrap();
        while !is_there(&line) {
            line = self.changed.wait(line).unwrap();
        }
    }

    fn read(&self, state: &mut State) {
        let results = {
            let mut line = self.line.lock().unwrap();
            line.kicked = false;
            std::mem::take(&mut line.results)
        };
        for task in results {
            state.done.push(task);
            self.poke(state, Wants::Task(task));
        }
    }

    fn poke(&self, state: &State, what: Wants) {
        if state.seats.poke_if(|wants| wants == what) {
            self.change(|line| line.kicked = true);
        }
    }

    fn show_sockets(&self, state: &mut State, on: bool) {
        if state.seats.set_off(!on) {
            self.change(|line| line.hidden = !on);
        }
    }

    /// `Shared::wait`, without limits of time and signals.
    fn wait(&self, task: TaskId) {
        let (wants, bell) = (Wants::Task(task), std::sync::Arc::new(epoll::Bell::default()));
        let mut state = self.state.lock().unwrap();
        let number = state.seats.take(wants, std::sync::Arc::clone(&bell));
        while !state.done.contains(&task) {
            if state.seats.lead(number, wants) {
                self.show_sockets(&mut state, false);
                state.seats.leader_waits(true);
                drop(state);
                self.wait_for(|line| line.kicked || !line.results.is_empty());
                state = self.state.lock().unwrap();
                state.seats.leader_waits(false);
                self.read(&mut state);
            } else {
                drop(state);
                bell.wait();
                bell.hush();
                state = self.state.lock().unwrap();
            }
        }
        if state.seats.leave(number) {
            self.show_sockets(&mut state, true);
        }
    }

    /// The I/O thread, until the house is closed.
    fn serve(&self) {
        loop {
            self.wait_for(|line| line.over || (!line.hidden && !line.results.is_empty()));
            let mut state = self.state.lock().unwrap();
            if !state.seats.off() {
                self.read(&mut state);
            }
            let line = self.line.lock().unwrap();
            if line.over && line.results.is_empty() {
                return;
            }
        }
    }
}

/// Every thread that waits ends: a thread that waits for nothing stops the model.
#[test]
fn whoever_waits_for_a_task_hears_of_its_end() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let house = House::new();
        let [first, second] = [1, 2].map(TaskId::from_number);
        let threads = [first, second].map(|task| {
            let house = Arc::clone(&house);
            thread::spawn(move || house.wait(task))
        });
        for (task, thread) in [first, second].into_iter().zip(threads) {
            house.change(|line| line.results.push(task));
            thread.join().unwrap(); // whoever reads, and for whom
        }
        let state = house.state.lock().unwrap();
        assert!(!state.seats.off(), "nobody waits, and the I/O thread sees nothing");
    });
}

/// Somebody else resolves the task, such as who cancels it: no socket tells.
#[test]
fn whoever_waits_for_a_task_that_is_cancelled_hears_of_it() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let house = House::new();
        let [first, second] = [1, 2].map(TaskId::from_number);
        let threads = [first, second].map(|task| {
            let house = Arc::clone(&house);
            thread::spawn(move || house.wait(task))
        });
        for task in [first, second] {
            let mut state = house.state.lock().unwrap();
            state.done.push(task);
            house.poke(&state, Wants::Task(task));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(!house.state.lock().unwrap().seats.off());
    });
}

/// The baton comes and goes while the I/O thread reads too.
#[test]
fn nothing_that_came_is_left_unread() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let house = House::new();
        let [first, second] = [1, 2].map(TaskId::from_number);
        let reader = Arc::clone(&house);
        let reader = thread::spawn(move || reader.serve());
        let waiter = Arc::clone(&house);
        let waiter = thread::spawn(move || waiter.wait(first));
        house.change(|line| line.results.push(first));
        waiter.join().unwrap();
        house.change(|line| line.results.push(second));
        house.change(|line| line.over = true);
        reader.join().unwrap();
        let state = house.state.lock().unwrap();
        assert!(state.done.contains(&second), "the waiter has left, so the I/O thread reads");
    });
}
