//! Starting processes: what they inherit, and what a failure says.
#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use common::{read_to_end, streams, wait_for};
use kumi_net::page::Page;
use kumi_net::process::{Ending, bury, peek};
use kumi_net::spawn::{Command, Spawned, spawn};

fn command(argv: &[&str]) -> Command {
    let strings = |list: &[&str]| list.iter().map(|one| CString::new(*one).unwrap()).collect();
    let environment = strings(&["PATH=/usr/bin:/bin", "GREETING=hello there"]);
    Command { argv: strings(argv), environment, directory: None }
}

/// The process and the host's ends of its data and control socket.
fn start(command: &Command) -> std::io::Result<(Spawned, UnixStream, UnixStream)> {
    let (data, data_end) = streams();
    let (control, control_end) = streams();
    let page = Page::create().unwrap();
    Ok((spawn(command, data_end.into(), control_end.into(), page.fd())?, data, control))
}

fn ending(process: &Spawned) -> Ending {
    wait_for(&process.pidfd);
    bury(process.pid, process.pidfd.as_fd(), "spawn-test")
}

/// What a shell prints that runs `script`.
fn output(script: &str) -> String {
    let (process, _data, _control) = start(&command(&["sh", "-c", script])).unwrap();
    let text = read_to_end(&process.stdout);
    assert_eq!((ending(&process), read_to_end(&process.stderr).as_str()), (Ending::Exited(0), ""));
    text
}

#[test]
fn sockets_and_page_are_descriptors_3_4_and_5() {
    let script = "read line <&3; echo data $line; echo back >&3; read line <&4; echo control $line; wc -c <&5";
    let (process, mut data, mut control) = start(&command(&["sh", "-c", script])).unwrap();
    data.write_all(b"one\n").unwrap();
    control.write_all(b"two\n").unwrap();
    let expected = format!("data one\ncontrol two\n{}\n", 512 * 8 + 32 + 65536);
    assert_eq!(read_to_end(&process.stdout), expected);
    let mut answer = String::new();
    // Until the end: the host keeps none of the worker's ends open.
    data.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "back\n");
    assert_eq!(ending(&process), Ending::Exited(0));
}

/// What this process was started with and therefore gives on; all that it opens itself has CLOEXEC.
fn inherited(fd: &i32) -> bool {
    // SAFETY: an integer that need not be a descriptor any more.
    let flags = unsafe { libc::fcntl(*fd, libc::F_GETFD) };
    flags != -1 && flags & libc::FD_CLOEXEC == 0
}

#[test]
fn nothing_else_of_the_host_is_open() {
    let (_keep, _open) = streams();
    let (process, _data, _control) = start(&command(&["ls", "/proc/self/fd"])).unwrap();
    let text = read_to_end(&process.stdout);
    let open = text.lines().map(|line| line.parse().unwrap());
    // 6 is the directory that ls reads.
    let other: Vec<i32> = open.filter(|fd| *fd > 6 && !inherited(fd)).collect();
    assert_eq!((other, ending(&process)), (vec![], Ending::Exited(0)));
}

#[test]
fn environment_is_what_was_given_and_nothing_else() {
    assert_eq!(output("echo $GREETING $HOME$CARGO"), "hello there\n");
}

#[test]
fn standard_input_is_empty() {
    assert_eq!(output("cat; echo end"), "end\n");
}

#[test]
fn directory_is_entered() {
    let mut there = command(&["sh", "-c", "pwd"]);
    there.directory = Some(c"/usr".into());
    let (process, _data, _control) = start(&there).unwrap();
    assert_eq!(read_to_end(&process.stdout), "/usr\n");
    ending(&process);
}

#[test]
fn the_process_leads_a_session_of_its_own() {
    let (process, _data, _control) = start(&command(&["sh", "-c", "cut -d' ' -f5,6 /proc/$$/stat"])).unwrap();
    assert_eq!(read_to_end(&process.stdout), format!("{0} {0}\n", process.pid));
    ending(&process);
}

#[test]
fn signals_are_neither_blocked_nor_ignored() {
    // This thread blocks all, and the Rust runtime ignores SIGPIPE.
    kumi_net::process::block_all_signals().unwrap();
    let text = output("grep -E 'Sig(Blk|Ign)' /proc/self/status | cut -f2");
    // glibc ignores two of its own, 32 and 33, in every process that it spawns.
    let masks: Vec<u64> = text.lines().map(|line| u64::from_str_radix(line, 16).unwrap() & !(3 << 31)).collect();
    assert_eq!(masks, [0, 0], "{text}");
}

#[test]
fn standard_error_has_a_pipe_of_its_own() {
    let (process, _data, _control) = start(&command(&["sh", "-c", "echo oh no >&2; exit 3"])).unwrap();
    assert_eq!(read_to_end(&process.stderr), "oh no\n");
    assert_eq!(read_to_end(&process.stdout), "");
    assert_eq!(ending(&process), Ending::Exited(3));
}

#[test]
fn the_pidfd_tells_when_it_has_ended() {
    let (process, mut data, _control) = start(&command(&["sh", "-c", "read line <&3"])).unwrap();
    assert!(!peek(process.pidfd.as_fd()).unwrap());
    data.write_all(b"go\n").unwrap();
    assert_eq!(ending(&process), Ending::Exited(0));
    assert!(peek(process.pidfd.as_fd()).unwrap());
}

#[test]
fn a_missing_program_is_named() {
    let error = start(&command(&["/no/such/python", "-m", "kumi"])).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(error.to_string(), "cannot start /no/such/python: No such file or directory (os error 2)");
}

#[test]
fn a_program_that_may_not_run_is_named() {
    let error = start(&command(&["/etc/passwd"])).unwrap_err();
    assert_eq!(error.to_string(), "cannot start /etc/passwd: Permission denied (os error 13)");
}

#[test]
fn a_missing_directory_is_named() {
    let mut nowhere = command(&["/bin/sh", "-c", "true"]);
    nowhere.directory = Some(c"/no/such/place".into());
    let text = start(&nowhere).unwrap_err().to_string();
    assert!(text.ends_with("; its working directory /no/such/place is none"), "{text}");
}

#[test]
fn an_empty_command_is_an_error() {
    assert_eq!(start(&command(&[])).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}
