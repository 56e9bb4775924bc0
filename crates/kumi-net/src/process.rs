//! The end of processes: who ended how, and that nothing outlives it.
//!
//! Two sides use it. The host buries a dead worker: its group and everything that carries its marker are killed before its number
//! is given back to the system. The worker, when its host is gone, kills all its descendants, then itself.
//! Every process is signalled through a pidfd that was opened before we looked whose process it is, so a number used again in the
//! meantime never hits a stranger.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use libc::c_int;

use crate::proof;
use crate::sys::{check, pidfd_open, poll, watch};

pub use crate::sys::block_all_signals;

/// Name of the environment variable that marks a worker and all that it starts.
pub const MARKER: &str = "KUMI_WORKER";

/// How long to go on until nothing is left, and to wait for those just killed before looking for others. Both arbitrary: a
/// process that hangs in the kernel for longer dies without us looking on.
const PATIENCE: Duration = Duration::from_secs(2);
const ROUND: Duration = Duration::from_millis(100);
/// When to look again at a process in the middle of starting a program. Arbitrary; it happens rarely.
const MOMENT: Duration = Duration::from_millis(1);

static SERIAL: AtomicU64 = AtomicU64::new(1);

/// A mark for workers of this process that nobody else has and nobody can guess.
pub(crate) fn new_mark() -> io::Result<String> {
    let random = u64::from_ne_bytes(proof::random()?);
    Ok(format!("{}-{}-{random:016x}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed)))
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// Somebody else in the host waited for it first, or the host ignores SIGCHLD.
    Unknown,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Exited(code) => write!(f, "exited with code {code}"),
            Ending::Signalled(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "killed by signal {signal} ({name})"),
                None => write!(f, "killed by signal {signal}"),
            },
            Ending::Unknown => f.write_str("ended, but nobody could learn how"),
        }
    }
}

/// The signals that end a process by default and occur in practice.
pub(crate) fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}

/// Whether the process has ended, reaped or not. Never waits.
///
/// # Errors
/// Those of `poll`.
pub fn peek(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(poll(&mut [watch(Some(pidfd), libc::POLLIN)], Some(Duration::ZERO))? > 0)
}

/// Ends what a dead worker left behind, then reaps the worker: call it when `pidfd` is readable, and reap nowhere else.
///
/// First its process group, then every process of this user with `KUMI_WORKER=marker` in its environment, until none is left
/// (for at most two seconds: what the kernel does not let go of by then has been killed all the same). The search reads `/proc`, about
/// 10 us for each process of the machine.
pub fn bury(pid: i32, pidfd: BorrowedFd<'_>, marker: &str) -> Ending {
    // If somebody else reaped it, its number may lead another group by now.
    if pid > 1 && send_signal(pidfd, 0).is_ok() {
        // SAFETY: integers only. The worker is unreaped, so the number still names its group.
        unsafe { libc::kill(-pid, libc::SIGKILL) };
    }
    let entry = format!("{MARKER}={marker}");
    let mut seen_ended = HashSet::new();
    kill_until_none(|| {
        let Marked { found, ended, nameless } = marked(&entry);
        // One that ended while we looked may have forked another that was not there yet when we began to look.
        let news = !ended.is_subset(&seen_ended);
        seen_ended.extend(ended);
        if found.is_empty() && !nameless.is_empty() {
            // Nobody tells when a program has begun.
            await_ends(&nameless, MOMENT);
        }
        (news || !found.is_empty() || !nameless.is_empty()).then_some(found)
    });
    wait(pidfd)
}

/// Kills all descendants of this process until none is left. Needs [`become_subreaper`]: then orphans are our children.
///
/// It reaps whatever ends, so nobody else in this process learns how its children ended: only for the very end.
pub fn kill_descendants() {
    kill_until_none(|| reap_children().then(descendants));
}

/// Ends this process and everything it started. Never returns; any thread may call it, several at once too.
///
/// A main thread that finds its host gone calls it instead of exiting: an exit would cut short the watchdog's own call.
pub fn end_tree() -> ! {
    // A main thread that starts one program after the other would outrun us. Where the kernel refuses, we do what we can.
    let _ = forbid_new_processes();
    kill_descendants();
    loop {
        // SAFETY: integers only. The whole group goes in one instant; the second call is for a process that leads no group.
        unsafe {
            libc::kill(-libc::getpid(), libc::SIGKILL);
            libc::kill(libc::getpid(), libc::SIGKILL);
        }
    }
}

/// From now on orphaned descendants become children of this process instead of init's.
///
/// # Errors
/// Those of `prctl`; none is known on Linux.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Kills what `find` finds, and again, until `find` says `None` or patience ends; once even if looking took all of that.
fn kill_until_none(mut find: impl FnMut() -> Option<Vec<OwnedFd>>) {
    let deadline = Instant::now() + PATIENCE;
    while let Some(found) = find() {
        for process in &found {
            // Fails if it has just ended, which is as good.
            let _ = send_signal(process.as_fd(), libc::SIGKILL);
        }
        if Instant::now() >= deadline {
            return;
        }
        await_ends(&found, ROUND);
    }
}

/// Waits until all have ended, but not for longer.
fn await_ends(processes: &[OwnedFd], limit: Duration) {
    let deadline = Instant::now() + limit;
    for process in processes {
        let left = deadline.saturating_duration_since(Instant::now());
        // An error cannot be mended here; the next round looks again.
        let _ = poll(&mut [watch(Some(process.as_fd()), libc::POLLIN)], Some(left));
    }
}

/// From now on every thread of this process that forks gets EPERM instead. There is no way back.
///
/// An error, not a freeze: a thread frozen inside `fork` would keep the allocator's locks, and we need them.
fn forbid_new_processes() -> io::Result<()> {
    const FORKS: &[libc::c_long] = &[
        libc::SYS_clone,
        libc::SYS_clone3,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork,
    ];
    let step = |code: u32, k: u32, skip: usize| libc::sock_filter { code: code as u16, jt: skip as u8, jf: 0, k };
    // The number of the system call stands at offset 0; whoever forks skips the rest of the list and the line that allows.
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    program.extend(FORKS.iter().enumerate().map(|(i, call)| step(equal, *call as u32, FORKS.len() - i)));
    program.push(step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0));
    program.push(step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let (mode, all_threads) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: integers, and a filter that points to as many instructions as it says, copied during the call. Without
    // no_new_privs only root may install one.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: as above. A positive answer names a thread that could not be included.
    match check(unsafe { libc::syscall(libc::SYS_seccomp, mode, all_threads, &filter) } as c_int)? {
        0 => Ok(()),
        thread => Err(io::Error::other(format!("thread {thread} has a filter of its own"))),
    }
}

/// What a search for an entry in environments has found among the processes of this user other than this one.
#[derive(Default)]
struct Marked {
    /// They have it.
    found: Vec<OwnedFd>,
    /// They have ended, or may have, before it could be read.
    ended: HashSet<i32>,
    /// They are in the middle of `execve`: the old environment is gone and the new one is not there yet.
    nameless: Vec<OwnedFd>,
}

fn marked(entry: &str) -> Marked {
    // SAFETY: no arguments, cannot fail.
    let (me, user) = unsafe { (libc::getpid(), libc::geteuid()) };
    let mut all = Marked::default();
    for pid in processes().filter(|pid| *pid != me) {
        match fs::metadata(format!("/proc/{pid}")) {
            Ok(data) if data.uid() != user => continue,
            Ok(_) | Err(_) => {}
        }
        let pidfd = pidfd_open(pid);
        // Empty for a zombie, so the dead worker itself is not found.
        match (fs::read(format!("/proc/{pid}/environ")), pidfd) {
            (Ok(environment), Ok(pidfd)) if !environment.is_empty() => {
                if environment.split(|byte| *byte == 0).any(|one| one == entry.as_bytes()) {
                    all.found.push(pidfd);
                }
            }
            (Ok(_), Ok(pidfd)) if Kin::read(pid).is_some_and(|kin| kin.starts_program) => all.nameless.push(pidfd),
            _ => {
                all.ended.insert(pid);
            }
        }
    }
    all
}

/// All living descendants of this process.
fn descendants() -> Vec<OwnedFd> {
    let table: Vec<Kin> = processes().filter_map(Kin::read).collect();
    let mut family = HashSet::from([std::process::id() as i32]);
    let mut known = 0;
    while known < family.len() {
        known = family.len();
        family.extend(table.iter().filter(|kin| family.contains(&kin.parent)).map(|kin| kin.pid).collect::<Vec<_>>());
    }
    let living = table.iter().filter(|kin| family.contains(&kin.parent) && !kin.zombie);
    living
        .filter_map(|kin| {
            let pidfd = pidfd_open(kin.pid).ok()?;
            Kin::read(kin.pid).is_some_and(|now| now.born == kin.born).then_some(pidfd)
        })
        .collect()
}

/// Flags of processes in the kernel's `sched.h`.
const ENDING: u32 = 0x4;
const OF_KERNEL: u32 = 0x0020_0000;

/// One process and where it comes from.
struct Kin {
    pid: i32,
    parent: i32,
    zombie: bool,
    /// Its start in clock ticks: tells it from a later process with the same number.
    born: u64,
    /// It is in the middle of `execve`. A kernel's thread, or what is ending, has no environment either, and will get none.
    starts_program: bool,
}

impl Kin {
    fn read(pid: i32) -> Option<Kin> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything, parentheses and line ends too.
        let name_end = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let zombie = matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        let flags: u32 = fields.nth(4)?.parse().ok()?;
        let born = fields.nth(12)?.parse().ok()?;
        let environment_end: u64 = fields.nth(28)?.parse().ok()?;
        let starts_program = environment_end == 0 && flags & (ENDING | OF_KERNEL) == 0 && !zombie;
        Some(Kin { pid, parent, zombie, born, starts_program })
    }
}

/// The numbers of all processes; none where `/proc` cannot be read.
fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Reaps what has ended; says whether children are left. With orphans coming to us, no children means no descendants.
fn reap_children() -> bool {
    loop {
        // SAFETY: no status is asked for; the rest are integers.
        match check(unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG | libc::__WALL) }) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

fn send_signal(pidfd: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    let no_details = ptr::null::<libc::siginfo_t>();
    // SAFETY: integers, and a null pointer which the call allows.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_details, 0) } as c_int)
        .map(drop)
}

/// Reaps the process and says how it ended.
fn wait(pidfd: BorrowedFd<'_>) -> Ending {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let id = pidfd.as_raw_fd() as libc::id_t;
    loop {
        // SAFETY: a valid pointer to room for the answer.
        match check(unsafe { libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), libc::WEXITED) }) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ending::Unknown,
        }
    }
    // SAFETY: the call succeeded, so the fields of a SIGCHLD are filled in.
    let (code, status) = unsafe { (info.assume_init_ref().si_code, info.assume_init_ref().si_status()) };
    if code == libc::CLD_EXITED { Ending::Exited(status) } else { Ending::Signalled(status) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use super::Kin;

    #[test]
    fn who_runs_a_program_is_not_taken_for_one_that_is_to_start_it() {
        let mut bare = Command::new("/bin/cat");
        let mut bare = bare.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        bare.stdin.as_mut().unwrap().write_all(b".").unwrap();
        bare.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let [me, other] = [std::process::id(), bare.id()].map(|pid| Kin::read(pid as i32).unwrap());
        assert!(!me.starts_program && me.born > 0 && me.parent > 0);
        assert!(!other.starts_program, "an empty environment is one");
        assert_eq!(other.parent, me.pid);
        drop(bare.stdin.take());
        bare.wait().unwrap();
        if let Some(kernel) = Kin::read(2).filter(|kin| kin.parent == 0) {
            assert!(!kernel.starts_program);
        }
    }
}
