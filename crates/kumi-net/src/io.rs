//! The I/O thread: starts and buries worker processes, keeps the time, reads output, and the sockets when nobody waits.

use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};

use kumi_core::marks::Piece;
use kumi_core::{Certificate, Event};

use crate::child::{Heard, LAST_READS};
use crate::deliver;
use crate::desk::Desk;
use crate::epoll::{OFF, READ, Ready};
use crate::link::Link;
use crate::memory;
use crate::pool::{ALARM, DATA, DESK, PROCESS, SOCKETS, STDOUT, Shared, State, WAKE, Wires};
use crate::sys::with_signals_blocked;

pub(crate) fn start(shared: Arc<Shared>, wires: Arc<Wires>) -> io::Result<JoinHandle<()>> {
    let thread = thread::Builder::new().name("kumi-io".into());
    with_signals_blocked(|| thread.spawn(move || run(&shared, &wires)))?
}

fn run(shared: &Shared, wires: &Wires) {
    shared.oom_kills.store(memory::oom_kills(), Ordering::Relaxed);
    let mut desk = take_desk(shared, wires);
    let (mut ready, mut sockets) = (Ready::default(), Ready::default());
    loop {
        // All signals are blocked here, so nothing interrupts; an error could only be a bug, and the next turn sees it.
        let _ = wires.all.wait(&mut ready, None);
        let (mut dead, mut asked) = (Vec::new(), false);
        let mut state = shared.lock();
        for (key, _) in ready.iter() {
            match key {
                // Somebody took the baton meanwhile: what rings in there is for that thread.
                SOCKETS if state.seats.off() => {}
                SOCKETS => {
                    let _ = wires.sockets.wait(&mut sockets, Some(std::time::Duration::ZERO));
                    shared.read_ready(&mut state, &sockets);
                }
                ALARM => {
                    wires.alarm.hush();
                    shared.alarm_rang(&mut state);
                }
                WAKE => {
                    wires.wake.hush();
                    unmute(shared, &mut state, wires);
                }
                DESK => asked = true,
                key if key % 4 == PROCESS => dead.push(key / 4),
                key => {
                    read_output(shared, &mut state, wires, key / 4, (key % 4 - STDOUT) as usize);
                }
            }
        }
        shared.carry_out(&mut state);
        drop(state);
        if let Some(desk) = desk.as_mut().filter(|_| asked) {
            desk.attend(shared);
        }
        shared.open_mail();
        for link in dead {
            bury(shared, wires, link);
        }
        spawn_ordered(shared, wires);
        let mut state = shared.lock();
        let garbage = mem::take(&mut state.garbage);
        drop(state);
        drop(garbage);
        let mut state = shared.lock();
        if state.brain.ended() && state.links.is_empty() {
            return shared.end(&mut state);
        }
    }
}

/// Without one, other terminals do not see this controller.
fn take_desk(shared: &Shared, wires: &Wires) -> Option<Desk> {
    let desk = shared.desk.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    wires.all.add(desk.fd(), DESK, READ).ok()?;
    Some(desk)
}

/// Starts what the brain wants, without the lock: a spawn takes a millisecond.
fn spawn_ordered(shared: &Shared, wires: &Wires) {
    loop {
        let (command, berth, launch, name, marker) = {
            let mut state = shared.lock();
            let (Some(command), Some(launch)) = (state.command.clone(), state.to_spawn.pop()) else {
                return;
            };
            let number = state.brain.launch_number(launch).unwrap_or_default();
            state.spawning.insert(launch);
            let berth = state.berths.take();
            (command, berth, launch, format!("{}-{number}", shared.name), format!("{}-{number}", state.mark))
        };
        let link = match &berth {
            Some(berth) => Link::start(&command.with(berth), launch, name, marker).map_err(|error| error.to_string()),
            None => Err(String::from("all slots (GPUs) of the launcher are taken")),
        };
        let mut state = shared.lock();
        state.spawning.remove(&launch);
        match link {
            Ok(mut link) => {
                link.berth = berth.unwrap_or_default();
                register(&mut state, wires, link);
                if shared.is_abandoned(&state, launch) {
                    let _ = state.links.values().find(|link| link.launch == launch).map(|link| link.child.kill());
                } else {
                    state.brain.handle(shared.now(), Event::Launched { launch });
                }
            }
            Err(error) => {
                berth.into_iter().for_each(|berth| state.berths.give_back(berth));
                let text = Arc::from(format!("a worker could not be started: {error}"));
                state.brain.handle(shared.now(), Event::LaunchFailed { launch, text });
            }
        }
        shared.carry_out(&mut state);
    }
}

/// From now on the threads see what the worker says and does.
fn register(state: &mut State, wires: &Wires, link: Link) {
    let key = state.next_link;
    state.next_link += 1;
    // It fails only without memory. What could be added still tells the end of the worker that is killed then.
    if add_all(wires, &link, key).is_err() {
        link.child.kill();
    }
    state.links.insert(key, link);
}

fn add_all(wires: &Wires, link: &Link, key: u64) -> io::Result<()> {
    wires.all.add(link.child.pidfd.as_fd(), key * 4 + PROCESS, READ)?;
    wires.sockets.add(link.child.data.as_fd(), key * 4 + DATA, READ)?;
    for (index, output) in link.child.outputs.iter().enumerate() {
        wires.all.add(output.pipe.as_fd(), key * 4 + STDOUT + index as u64, READ)?;
    }
    Ok(())
}

/// One reading of one pipe. True: there may be more.
fn read_output(shared: &Shared, state: &mut State, wires: &Wires, key: u64, index: usize) -> bool {
    let Some(link) = state.links.get_mut(&key) else {
        return false;
    };
    let Some(output) = link.child.outputs.get_mut(index).filter(|output| output.open) else {
        return false;
    };
    let stderr = output.stderr;
    let (more, pieces) = output.read();
    if !output.open {
        let _ = wires.all.remove(output.pipe.as_fd());
    }
    let mut full = false;
    for Piece { writer, bytes } in pieces {
        if stderr {
            link.child.remember(&bytes);
            state.brain.wrote(link.launch, || link.child.last_words());
        }
        let written = link.wrote(stderr, bytes);
        full |= deliver::show(&state.route, &link.child.name, writer, written);
    }
    if full {
        mute(shared, state, wires);
    }
    more
}

fn mute(shared: &Shared, state: &State, wires: &Wires) {
    shared.muted.store(true, Ordering::Release);
    set_outputs(state, wires, OFF);
    // Whoever took everything just before did not see that we stopped, and nobody may ever take again.
    if !deliver::is_full() {
        shared.wake();
    }
}

fn unmute(shared: &Shared, state: &mut State, wires: &Wires) {
    if shared.muted.swap(false, Ordering::AcqRel) {
        set_outputs(state, wires, READ);
    }
}

fn set_outputs(state: &State, wires: &Wires, events: u32) {
    for (key, link) in &state.links {
        for (index, output) in link.child.outputs.iter().enumerate().filter(|(_, output)| output.open) {
            let _ = wires.all.set(output.pipe.as_fd(), key * 4 + STDOUT + index as u64, events);
        }
    }
}

/// A worker's process has ended: hears its last words, ends what it left behind, tells the brain.
fn bury(shared: &Shared, wires: &Wires, key: u64) {
    let Some((mut link, begun)) = last_words(shared, wires, key) else {
        return;
    };
    if link.worker.is_none() {
        show_once(shared, &mut link);
    }
    // Without the lock: this looks through all processes of the machine.
    let certificate = link.child.bury(&shared.host.name, shared.memory, &shared.oom_kills);
    let event = match link.worker {
        Some(worker) => Event::Gone { worker, begun, certificate },
        None => Event::LaunchFailed { launch: link.launch, text: Arc::from(obituary(&certificate)) },
    };
    let mut state = shared.lock();
    if let Some(worker) = link.worker {
        state.dying.remove(&worker);
    }
    // Before the brain hears of it: what that launches may have it.
    state.berths.give_back(mem::take(&mut link.berth));
    state.brain.handle(shared.now(), event);
    shared.carry_out(&mut state);
}

/// What a launch that failed has written: not again what the one before wrote too, since launches often fail alike.
fn show_once(shared: &Shared, link: &mut Link) {
    let written = link.end_of_early();
    let mut state = shared.lock();
    if state.written_in_vain != written {
        deliver::show(&state.route, &link.child.name, None, written.clone());
        state.written_in_vain = written;
    }
}

fn last_words(shared: &Shared, wires: &Wires, key: u64) -> Option<(Link, kumi_core::Begun)> {
    let mut state = shared.lock();
    shared.stop_reading(&mut state, key);
    // To the end of what is there; not to the end of the stream, which a forked child may hold open for ever.
    while let Ok(Heard::More) = state.links.get_mut(&key)?.child.hear() {
        shared.take_messages(&mut state, key);
    }
    shared.take_messages(&mut state, key);
    state.links.get_mut(&key)?.child.hear_last();
    shared.take_messages(&mut state, key);
    for index in 0..2 {
        // A child it left behind may write for ever.
        let _ = (0..LAST_READS).find(|_| !read_output(shared, &mut state, wires, key, index));
    }
    shared.carry_out(&mut state);
    let link = state.links.remove(&key)?;
    // By hand: closing does not suffice where a forked child of the host has copies.
    let _ = wires.all.remove(link.child.pidfd.as_fd());
    for output in link.child.outputs.iter().filter(|output| output.open) {
        let _ = wires.all.remove(output.pipe.as_fd());
    }
    let begun = link.child.begun();
    if let Some(worker) = link.worker {
        state.by_worker.remove(&worker);
        state.dying.insert(worker, begun);
    }
    Some((link, begun))
}

/// Why a worker never came, in one text.
fn obituary(certificate: &Certificate) -> String {
    let mut text = format!("a worker process ended before it could connect ({})", certificate.cause);
    if !certificate.stderr.is_empty() {
        text.push_str("; the last it wrote to stderr:\n");
        text.push_str(&certificate.stderr);
    }
    text
}
