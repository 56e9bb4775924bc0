//! Endings, and burial: nothing that a worker started outlives it.
#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

use common::{read_to_end, read_until, streams, wait_for};
use kumi_net::page::Page;
use kumi_net::process::{Ending, bury, peek};
use kumi_net::spawn::{self, Spawned, spawn};

/// A shell with that marker which runs `script`, and the host's end of its data socket.
fn worker(marker: &str, script: &str) -> (Spawned, UnixStream) {
    let (data, data_end) = streams();
    let (_, control_end) = streams();
    let environment = vec![c"PATH=/usr/bin:/bin".into(), CString::new(format!("KUMI_WORKER={marker}")).unwrap()];
    let argv = vec![c"sh".into(), c"-c".into(), CString::new(script).unwrap()];
    let command = spawn::Command { argv, environment, directory: None };
    let page = Page::create().unwrap();
    (spawn(&command, data_end.into(), control_end.into(), page.fd()).unwrap(), data)
}

/// Unique to this process and place: tests run at the same time.
fn marker(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

fn bury_now(process: &Spawned, marker: &str) -> Ending {
    wait_for(&process.pidfd);
    bury(process.pid, process.pidfd.as_fd(), marker)
}

#[test]
fn endings_are_told_in_words() {
    for (script, words) in [
        ("exit 0", "exited with code 0"),
        ("exit 3", "exited with code 3"),
        ("kill -KILL $$", "killed by signal 9 (SIGKILL)"),
        ("kill -SEGV $$", "killed by signal 11 (SIGSEGV)"),
        ("kill -40 $$", "killed by signal 40"),
    ] {
        let marker = marker("words");
        let (process, _data) = worker(&marker, script);
        assert_eq!(bury_now(&process, &marker).to_string(), words, "{script}");
    }
}

#[test]
fn what_is_only_about_to_start_ends_too() {
    for round in 0..50 {
        let marker = marker(&format!("about-{round}"));
        let (process, _data) = worker(&marker, "exit 0");
        wait_for(&process.pidfd);
        // It has left the program it was, and is not yet the one it will be: for a moment it has no environment.
        let mut child = Command::new("sleep").arg("600").env("KUMI_WORKER", &marker).spawn().unwrap();
        bury(process.pid, process.pidfd.as_fd(), &marker);
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ended.is_some(), "round {round}");
    }
}

#[test]
fn who_was_reaped_by_somebody_else_ended_unknown() {
    let marker = marker("reaped");
    let (process, _data) = worker(&marker, "exit 3");
    wait_for(&process.pidfd);
    // SAFETY: integers and a null pointer; our own child.
    let reaped = unsafe { libc::waitpid(process.pid, std::ptr::null_mut(), 0) };
    assert_eq!(reaped, process.pid);
    let ending = bury_now(&process, &marker);
    assert_eq!(ending.to_string(), "ended, but nobody could learn how");
}

#[test]
fn the_group_and_all_with_the_marker_are_killed() {
    let marker = marker("buried");
    // One child in the group, one in a session of its own, one whose parent is gone, one that starts others without end.
    let script = "
        (echo up; exec sleep 1000) &
        setsid sh -c 'echo up; exec sleep 1000' &
        (setsid sh -c 'echo up; exec sleep 1000' &)
        setsid sh -c 'echo up; while :; do setsid sleep 1000 & sleep 0.001; done' &
        read line <&3
        kill -KILL $$";
    let (process, data) = worker(&marker, script);
    read_until(&process.stdout, |text| text.matches("up").count() == 4);
    assert!(!peek(process.pidfd.as_fd()).unwrap());
    drop(data);
    assert_eq!(bury_now(&process, &marker), Ending::Signalled(libc::SIGKILL));
    // The pipe ends only when nobody holds it any more.
    read_to_end(&process.stdout);
}

#[test]
fn a_worker_with_another_marker_lives_on() {
    let (short, long) = (marker("neighbour"), format!("{}0", marker("neighbour")));
    let (neighbour, data) = worker(&long, "echo up; read line <&3");
    read_until(&neighbour.stdout, |text| text.contains("up"));
    let (process, _data) = worker(&short, "exit 0");
    bury_now(&process, &short);
    assert!(!peek(neighbour.pidfd.as_fd()).unwrap());
    drop(data);
    assert_eq!(bury_now(&neighbour, &long), Ending::Exited(1));
}
