//! The outbox: what it sends, what it keeps, and what the page says about it at every moment.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use common::streams;
use kumi_net::outbox::Outbox;
use kumi_net::page::{OUTBOX_BYTES, Page};

fn outbox() -> (Page, Outbox, UnixStream) {
    let host = Page::create().unwrap();
    let page = Page::open(host.fd().try_clone_to_owned().unwrap()).unwrap();
    let (reader, writer) = streams();
    (host, Outbox::new(Arc::new(page), writer.into()), reader)
}

/// Bytes that differ from place to place, so that a shifted piece is noticed.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn read(reader: &mut UnixStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn frames_arrive_together_in_order_and_only_when_flushed() {
    let (host, mut outbox, mut reader) = outbox();
    assert!(outbox.is_empty());
    assert!(outbox.push(b"one").unwrap(), "the first that waits");
    assert!(!outbox.push(b"two").unwrap());
    assert_eq!(host.unsent(0).unwrap(), b"onetwo");
    outbox.flush().unwrap();
    assert!(outbox.is_empty());
    assert_eq!(read(&mut reader, 6), b"onetwo");
    assert_eq!(host.unsent(6).unwrap(), b"");
    assert!(outbox.push(b"three").unwrap(), "first again after a flush");
    assert_eq!(host.unsent(6).unwrap(), b"three");
}

#[test]
fn whatever_part_the_host_received_the_page_holds_the_rest() {
    let (host, mut outbox, mut reader) = outbox();
    outbox.push(&pattern(100)).unwrap();
    outbox.flush().unwrap();
    assert_eq!(read(&mut reader, 100), pattern(100));
    let frame = pattern(OUTBOX_BYTES);
    outbox.push(&frame).unwrap();
    for cut in 0..=frame.len() {
        if cut % 97 == 0 || cut + 3 > frame.len() {
            assert_eq!(host.unsent(100 + cut as u64).unwrap(), frame[cut..]);
        }
    }
    assert_eq!(host.unsent(99), None);
    assert_eq!(host.unsent(101 + frame.len() as u64), None);
}

#[test]
fn a_flush_that_stops_at_any_point_loses_nothing() {
    for already_full in [0, 1, 1000, 5000] {
        let (host, mut outbox, mut reader) = outbox();
        shrink_buffer(&outbox);
        outbox.push(&pattern(already_full)).unwrap();
        let mut expected = pattern(already_full);
        let mut received = Vec::new();
        let mut whole = outbox.try_flush().unwrap();
        for length in [50_000, 3, 5_000] {
            outbox.push(&pattern(length)).unwrap();
            expected.extend(pattern(length));
            whole = outbox.try_flush().unwrap();
        }
        assert!(!whole, "the socket's buffer is smaller than that");
        // The worker dies here. What the socket holds, and then the page:
        drop(outbox);
        reader.read_to_end(&mut received).unwrap();
        assert!(received.len() < expected.len());
        received.extend(host.unsent(received.len() as u64).unwrap());
        assert!(received == expected, "{already_full}: {} bytes instead of {}", received.len(), expected.len());
    }
}

/// The smallest buffer that the kernel allows, so that sends are cut.
fn shrink_buffer(outbox: &Outbox) {
    let bytes: libc::c_int = 1;
    // SAFETY: the option is an int, and its size is given.
    let result = unsafe {
        let place = std::ptr::from_ref(&bytes).cast();
        libc::setsockopt(outbox.socket().as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, place, 4)
    };
    assert_eq!(result, 0);
}

#[test]
fn a_full_region_is_flushed_while_the_host_reads() {
    let (host, mut outbox, mut reader) = outbox();
    let frame = pattern(1000);
    let total = 300 * frame.len();
    let received = thread::spawn(move || read(&mut reader, total));
    for _ in 0..300 {
        outbox.push(&frame).unwrap();
    }
    outbox.flush().unwrap();
    assert_eq!(received.join().unwrap(), frame.repeat(300));
    assert_eq!(host.unsent(total as u64).unwrap(), b"");
}

#[test]
fn a_frame_larger_than_the_region_goes_around_it_and_positions_stay_true() {
    let (host, mut outbox, mut reader) = outbox();
    let large = pattern(OUTBOX_BYTES + 1);
    let received = thread::spawn(move || (read(&mut reader, 5 + OUTBOX_BYTES + 1), reader));
    outbox.push(b"first").unwrap();
    assert!(!outbox.push(&large).unwrap(), "nothing waits to be flushed");
    assert!(outbox.is_empty());
    let (bytes, _reader) = received.join().unwrap();
    assert!(bytes == [b"first", &large[..]].concat());
    outbox.push(b"last").unwrap();
    assert_eq!(host.unsent(bytes.len() as u64).unwrap(), b"last");
}

#[test]
fn death_inside_a_large_frame_leaves_no_wrong_continuation() {
    let (host, mut outbox, mut reader) = outbox();
    outbox.push(b"first").unwrap();
    let large = pattern(3_000_000);
    let worker = thread::spawn(move || outbox.push(&large));
    let received = read(&mut reader, 70_000);
    drop(reader);
    assert!(worker.join().unwrap().is_err(), "the other end is closed");
    assert_eq!(host.unsent(received.len() as u64), None);
}

#[test]
fn a_host_that_is_gone_is_an_error_not_a_signal() {
    let (_, mut outbox, reader) = outbox();
    drop(reader);
    outbox.push(b"anything").unwrap();
    assert_eq!(outbox.flush().unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}
