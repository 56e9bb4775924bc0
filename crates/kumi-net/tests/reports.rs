//! Reports: the latest arrives, and nobody waits for the host, however full its socket is.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use common::streams;
use kumi_core::frame::Wire;
use kumi_core::{Decoder, FromWorker, Lease};
use kumi_net::memory::Memory;
use kumi_net::outbox::Outbox;
use kumi_net::page::Page;
use kumi_net::reports::Reporter;
use kumi_net::watchdog::{Watchdog, open_host};

/// A worker's end with its watchdog, and the host's end of its socket.
fn worker() -> (Arc<Mutex<Outbox>>, Arc<Reporter>, UnixStream) {
    let page = Arc::new(Page::open(Page::create().unwrap().fd().try_clone_to_owned().unwrap()).unwrap());
    let (reader, writer) = streams();
    let outbox = Arc::new(Mutex::new(Outbox::new(Arc::clone(&page), writer.into())));
    let reporter = Arc::new(Reporter::new(Arc::clone(&outbox)).unwrap());
    let memory = Arc::new(Memory::new(page, Arc::default()).unwrap());
    let (control, host_control) = streams();
    // If it closed, the watchdog would end this process.
    std::mem::forget(host_control);
    // SAFETY: no arguments, cannot fail.
    let host = open_host(unsafe { libc::getppid() }).unwrap();
    Watchdog::start(control.into(), host, Arc::clone(&outbox), Arc::clone(&reporter), memory, |_| ()).unwrap();
    (outbox, reporter, reader)
}

fn say(reporter: &Reporter, lease: u64, value: u8) {
    reporter.report(Lease(lease), Arc::from([value; 1000])).unwrap();
}

/// Reads until this report, and returns all that came.
fn reports_until(reader: &mut UnixStream, lease: u64, value: u8) -> Vec<(u64, u8)> {
    let mut decoder = Decoder::<FromWorker>::default();
    let mut seen = Vec::new();
    while seen.last() != Some(&(lease, value)) {
        let count = reader.read(decoder.space()).unwrap();
        decoder.filled(count);
        while let Some(message) = decoder.next().unwrap() {
            if let FromWorker::Report { lease, payload } = message {
                seen.push((lease.0, payload[0]));
            }
        }
    }
    seen
}

#[test]
fn the_first_comes_at_once_and_the_last_after_the_pause() {
    let (_outbox, reporter, mut reader) = worker();
    for value in 1..=200 {
        say(&reporter, 7, value);
    }
    let seen = reports_until(&mut reader, 7, 200);
    assert_eq!(seen[0], (7, 1));
    assert!(seen.len() < 20, "{seen:?}");
}

#[test]
fn each_task_has_a_report_of_its_own() {
    let (_outbox, reporter, mut reader) = worker();
    say(&reporter, 1, 1);
    say(&reporter, 1, 2);
    say(&reporter, 2, 3);
    say(&reporter, 2, 4);
    assert_eq!(reports_until(&mut reader, 2, 4), [(1, 1), (1, 2), (2, 4)]);
}

#[test]
fn a_full_socket_holds_up_nobody() {
    let (outbox, reporter, mut reader) = worker();
    let mut beat = Vec::new();
    (0..1000).for_each(|_| FromWorker::Heartbeat.encode(&mut beat));
    {
        let mut outbox = outbox.lock().unwrap();
        while outbox.try_flush().unwrap() {
            outbox.push(&beat).unwrap();
        }
        // The region as well, as far as it goes without waiting.
        for _ in 0..12 {
            outbox.push(&beat).unwrap();
        }
    }
    for value in 1..=50 {
        say(&reporter, 9, value);
    }
    assert_eq!(reports_until(&mut reader, 9, 50).last(), Some(&(9, 50)));
}
