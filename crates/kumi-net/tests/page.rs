//! The shared page: slots, the outbox header, and what a hostile worker may write.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::thread;

use kumi_net::page::{OUTBOX_BYTES, Page, SLOTS, SlotState};

/// Where `base` stands in the page; `end` and the region follow.
const HEADER: u64 = SLOTS as u64 * 8;

fn both_sides() -> (Page, Page) {
    let host = Page::create().unwrap();
    let worker = Page::open(host.fd().try_clone_to_owned().unwrap()).unwrap();
    (host, worker)
}

/// The page as a file, for writing what no honest worker writes.
fn raw(page: &Page) -> File {
    page.fd().try_clone_to_owned().unwrap().into()
}

#[test]
fn a_task_goes_from_waiting_to_finished() {
    let (host, worker) = both_sides();
    assert_eq!(host.state(7), None);
    assert!(host.offer(7, 0));
    assert_eq!(worker.state(7), Some((0, SlotState::Waiting)));
    assert!(worker.start(7, 0));
    assert!(!host.recall(7, 0), "started tasks stay");
    assert_eq!(host.state(7), Some((0, SlotState::Started)));
    assert!(worker.finish(7, 0));
    assert_eq!(host.state(7), Some((0, SlotState::Finished)));
    assert!(host.offer(7, 1), "a finished slot is free");
}

#[test]
fn a_recalled_task_cannot_start_even_when_its_slot_is_used_again() {
    let (host, worker) = both_sides();
    assert!(host.offer(3, 10));
    assert!(host.recall(3, 10));
    assert!(!worker.start(3, 10));
    assert!(host.offer(3, 11));
    assert!(!worker.start(3, 10));
    assert!(!host.recall(3, 10));
    assert!(worker.start(3, 11));
    assert!(!worker.finish(3, 10));
}

#[test]
fn slots_and_leases_out_of_range_are_refused() {
    let (page, _) = both_sides();
    for slot in [SLOTS as u16, u16::MAX] {
        assert!(!page.offer(slot, 1) && !page.recall(slot, 1) && !page.start(slot, 1) && !page.finish(slot, 1));
        assert_eq!(page.state(slot), None);
    }
    assert!(!page.offer(0, u64::MAX));
    assert!(!page.offer(0, (1 << 62) - 1));
    assert_eq!(page.state(0), None);
    assert!(page.offer(0, (1 << 62) - 2));
    assert_eq!(page.state(0), Some(((1 << 62) - 2, SlotState::Waiting)));
}

#[test]
fn start_and_recall_never_both_win() {
    let (host, worker) = both_sides();
    let barrier = Barrier::new(2);
    const ROUNDS: u64 = 2_000;
    let (started, recalled): (Vec<bool>, Vec<bool>) = thread::scope(|scope| {
        let side = scope.spawn(|| {
            let race = |lease| {
                barrier.wait();
                let won = worker.start((lease % 5) as u16, lease);
                barrier.wait();
                won
            };
            (0..ROUNDS).map(race).collect()
        });
        let race = |lease| {
            assert!(host.offer((lease % 5) as u16, lease));
            barrier.wait();
            let won = host.recall((lease % 5) as u16, lease);
            barrier.wait();
            won
        };
        let recalled = (0..ROUNDS).map(race).collect();
        (side.join().unwrap(), recalled)
    });
    for (lease, (started, recalled)) in started.iter().zip(&recalled).enumerate() {
        assert!(started ^ recalled, "lease {lease}: started {started}, recalled {recalled}");
    }
}

#[test]
fn only_a_sealed_memory_of_the_right_size_is_a_page() {
    let page = Page::create().unwrap();
    assert!(raw(&page).set_len(10).is_err(), "nobody can shrink it under the host");
    assert!(raw(&page).set_len(1 << 20).is_err());

    // SAFETY: a constant name; the descriptor is new.
    let unsealed = unsafe {
        let fd = libc::memfd_create(c"other".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        <File as std::os::fd::FromRawFd>::from_raw_fd(fd)
    };
    unsealed.set_len(raw(&page).metadata().unwrap().len()).unwrap();
    let error = Page::open(unsealed.into()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    assert!(Page::open(File::open("/dev/null").unwrap().into()).is_err());
}

#[test]
fn a_hostile_header_gives_no_bytes_or_some_of_the_region_but_never_a_panic() {
    let page = Page::create().unwrap();
    let file = raw(&page);
    let size = OUTBOX_BYTES as u64;
    let edges = [0, 1, 2, size - 1, size, size + 1, 1 << 32, u64::MAX - size, u64::MAX - 1, u64::MAX];
    for base in edges {
        for end in edges {
            file.write_all_at(&base.to_ne_bytes(), HEADER).unwrap();
            file.write_all_at(&end.to_ne_bytes(), HEADER + 8).unwrap();
            for received in edges {
                let fits = base <= received && received <= end && end - base <= size;
                let bytes = page.unsent(received).map(|bytes| bytes.len() as u64);
                assert_eq!(bytes, fits.then(|| end - received), "base {base}, end {end}, received {received}");
            }
        }
    }
}

#[test]
fn hostile_slots_are_only_wrong_never_a_panic() {
    let page = Page::create().unwrap();
    for word in [1_u64, 2, 3, 4, u64::MAX, u64::MAX - 1, 1 << 63] {
        raw(&page).write_all_at(&word.to_ne_bytes(), 0).unwrap();
        let _ = page.state(0);
        assert!(!page.recall(0, 99));
        assert!(page.offer(0, 5), "the host's word stands, whatever the worker wrote");
        assert_eq!(page.state(0), Some((5, SlotState::Waiting)));
    }
}
