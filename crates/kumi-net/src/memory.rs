//! How much memory a worker has, with its children: what belongs to them alone, so shared segments do not count.
//!
//! The watchdog looks while a task runs, without the GIL: often where the limit is near, rarely else, never between tasks.
//! Two steps, since the exact number takes milliseconds: the sum of `statm`, where what a fork still shares with its parent
//! counts twice, is looked at first, and `smaps_rollup` only if that sum is above the limit and there are children.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kumi_core::{Interrupts, Lease};

use crate::groups;
use crate::nap::Nap;
use crate::page::Page;
use crate::process::end_tree;
use crate::watchdog::{arm, new_timer};

/// Where no limit is near. A task that is shorter has no peak.
const PACE: Duration = Duration::from_millis(50);
/// At most that often.
const PACE_MIN: Duration = Duration::from_millis(5);
/// How fast memory may grow, in bytes per second: a core that touches huge pages does less.
const GROWTH: f64 = 8e9;
/// More processes than this under one worker are not looked at.
const FAMILY: usize = 4096;

/// See the head of this file.
#[derive(Debug)]
pub struct Memory {
    page: Arc<Page>,
    interrupts: Arc<Mutex<Interrupts>>,
    timer: OwnedFd,
    /// Of the watchdog: the next task sets the timer.
    nap: Nap,
    /// In bytes; the highest number is none.
    limit: AtomicU64,
    /// The most that was seen while a task ran, of those that run and a few that have ended.
    peaks: Mutex<BTreeMap<Lease, u64>>,
}

impl Memory {
    /// One for a worker; the watchdog looks at its timer. It does not look at memory before [`Memory::task_begins`].
    ///
    /// # Errors
    /// No descriptors left.
    pub fn new(page: Arc<Page>, interrupts: Arc<Mutex<Interrupts>>) -> io::Result<Self> {
        let (nap, limit) = (Nap::new(), AtomicU64::new(u64::MAX));
        Ok(Self { page, interrupts, timer: new_timer()?, nap, limit, peaks: Mutex::default() })
    }

    /// From now on a task that takes more ends with its worker.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// Main thread: a task has begun, as the interrupts know already.
    ///
    /// # Errors
    /// Those of `timerfd_settime`; none is known.
    pub fn task_begins(&self) -> io::Result<()> {
        if self.nap.disturb() { arm(&self.timer, self.pace(0)) } else { Ok(()) }
    }

    /// Main thread, after a task: the most bytes that were seen while it ran, unless it was short. What it leaves counts too.
    pub fn peak_of(&self, lease: Lease, took: Duration) -> Option<u64> {
        if took < PACE {
            return None;
        }
        let seen = self.peaks().remove(&lease);
        seen.max(private("self"))
    }

    /// Main thread, after a task: this process has more than it may, so the next task would be blamed for what others left.
    pub fn is_above(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        limit != u64::MAX && private("self").is_some_and(|bytes| bytes > limit)
    }

    pub(crate) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Watchdog: the timer has rung.
    pub(crate) fn look(&self) -> io::Result<()> {
        let mut running = Vec::new();
        let has_work = || {
            running = self.running();
            !running.is_empty()
        };
        if !self.nap.is_over(has_work) {
            return Ok(());
        }
        let used = self.measure();
        self.page.note_peak(used);
        self.note_peaks(&running, used);
        if used > self.limit.load(Ordering::Relaxed) {
            self.end_for(used);
        }
        arm(&self.timer, self.pace(used))
    }

    fn running(&self) -> Vec<Lease> {
        self.interrupts.lock().unwrap_or_else(PoisonError::into_inner).running().to_vec()
    }

    fn peaks(&self) -> MutexGuard<'_, BTreeMap<Lease, u64>> {
        self.peaks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task that ended meanwhile stays noted until we look again.
    fn note_peaks(&self, running: &[Lease], used: u64) {
        let mut peaks = self.peaks();
        peaks.retain(|lease, _| running.contains(lease));
        for lease in running {
            let peak = peaks.entry(*lease).or_default();
            *peak = used.max(*peak);
        }
    }

    fn measure(&self) -> u64 {
        let family = family();
        let total = |read: fn(&str) -> Option<u64>| family.iter().filter_map(|pid| read(pid)).sum();
        let bound: u64 = total(private);
        if bound <= self.limit.load(Ordering::Relaxed) || family.len() == 1 {
            return bound;
        }
        match total(proportional) {
            0 => bound,
            exact => bound.min(exact),
        }
    }

    /// Ends this worker, while the task that took so much runs: it neither ends nor another one begins under this lock.
    fn end_for(&self, used: u64) {
        let interrupts = self.interrupts.lock().unwrap_or_else(PoisonError::into_inner);
        if interrupts.is_busy() {
            self.page.set_above(used);
            end_tree();
        }
    }

    /// How long the limit cannot be reached, at most.
    fn pace(&self, used: u64) -> Duration {
        match self.limit.load(Ordering::Relaxed) {
            u64::MAX => PACE,
            limit => Duration::from_secs_f64(limit.saturating_sub(used) as f64 / GROWTH).clamp(PACE_MIN, PACE),
        }
    }
}

/// This process and its descendants, by what they are called in `/proc`. Orphans are our own children.
fn family() -> Vec<String> {
    let mut family = vec![String::from("self")];
    let mut next = 0;
    while let Some(pid) = family.get(next).filter(|_| next < FAMILY).cloned() {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            family.extend(children.split_ascii_whitespace().filter(|child| !is_borrowing(child)).map(String::from));
        }
        next += 1;
    }
    family
}

/// A child that has not yet executed its program may still use our very memory (`vfork`).
fn is_borrowing(child: &str) -> bool {
    const KCMP_VM: libc::c_int = 1;
    let Ok(child) = child.parse::<libc::pid_t>() else { return false };
    // SAFETY: integers only. Where the kernel does not know it, it fails, and the child counts.
    unsafe { libc::syscall(libc::SYS_kcmp, libc::getpid(), child, KCMP_VM, 0, 0) == 0 }
}

/// Resident bytes that are in no file and no shared memory; what is shared with a parent since a fork counts fully.
fn private(pid: &str) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = statm.split_ascii_whitespace().skip(1).map_while(|number| number.parse::<u64>().ok());
    let (resident, shared) = (pages.next()?, pages.next()?);
    Some(resident.saturating_sub(shared) * page_size())
}

/// The same, where what several processes share is divided among them.
fn proportional(pid: &str) -> Option<u64> {
    let sums = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kibibytes = sums.lines().find_map(|line| line.strip_prefix("Pss_Anon:")?.strip_suffix("kB"))?;
    Some(kibibytes.trim().parse::<u64>().ok()? * 1024)
}

fn page_size() -> u64 {
    // SAFETY: an integer.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Whether there is evidence that a worker was killed for want of memory: the kernel has killed somebody for that since
/// we looked last, which `kills` remembers, or the worker had nearly as much as it may.
pub(crate) fn was_short(limit: Option<u64>, peak: Option<u64>, kills: &AtomicU64) -> bool {
    let now = oom_kills();
    let near = limit.zip(peak).is_some_and(|(limit, peak)| peak > limit / 10 * 9);
    kills.swap(now, Ordering::Relaxed) < now || near
}

/// How often the kernel has killed for want of memory, in this control group and on this machine, as far as it tells.
pub(crate) fn oom_kills() -> u64 {
    let files = std::iter::once(PathBuf::from("/proc/vmstat"));
    let counts = files.chain(groups::files("memory.events", "memory.oom_control")).filter_map(|file| {
        let counters = fs::read_to_string(file).ok()?;
        counters.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())
    });
    counts.sum()
}
