//! Starting a local worker: one `posix_spawn`, never a fork of the host.
//!
//! A fork of a process with threads and Python in it may copy a lock that is held, and it copies page tables; posix_spawn does
//! neither. The worker gets a session of its own, a clean signal mask, default handlers and these descriptors, nothing else of ours:
//! 0 `/dev/null`, 1 and 2 pipes, [`DATA_FD`], [`CONTROL_FD`], [`PAGE_FD`].

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use libc::{c_char, c_int, c_short};

use crate::sys::{check, own, pidfd_open, signal_set};

/// The worker's descriptor of the data socket, read by its main thread alone.
pub const DATA_FD: RawFd = 3;
/// The worker's descriptor of the control socket, read by its watchdog alone.
pub const CONTROL_FD: RawFd = 4;
/// The worker's descriptor of the shared page.
pub const PAGE_FD: RawFd = 5;

/// Above all descriptors with a fixed number, so that none of them is overwritten before it was copied.
const FREE_FD: c_int = 10;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments. A program without a slash is looked for in the host's `PATH`.
    pub argv: Vec<CString>,
    /// The whole environment, each entry `NAME=value`.
    pub environment: Vec<CString>,
    /// Working directory; `None`: the host's.
    pub directory: Option<CString>,
}

impl Command {
    /// The same with more variables, which must not be there yet.
    pub fn with(&self, variables: &[CString]) -> Self {
        let mut command = self.clone();
        command.environment.extend_from_slice(variables);
        command
    }
}

/// A process that was started and is not yet reaped.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id, which is also its group and session.
    pub pid: i32,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
    /// Read end of its standard output, non-blocking.
    pub stdout: OwnedFd,
    /// Read end of its standard error, non-blocking.
    pub stderr: OwnedFd,
}

/// Starts `command` with its ends of the two sockets, which are closed here, and the page.
///
/// # Errors
/// The text names the program, and the directory if that is what is missing. Nothing is left running.
pub fn spawn(command: &Command, data: OwnedFd, control: OwnedFd, page: BorrowedFd<'_>) -> io::Result<Spawned> {
    let (stdout, stdout_write) = pipe()?;
    let (stderr, stderr_write) = pipe()?;
    let places = [
        (lift(stdout_write.as_fd())?, 1),
        (lift(stderr_write.as_fd())?, 2),
        (lift(data.as_fd())?, DATA_FD),
        (lift(control.as_fd())?, CONTROL_FD),
        (lift(page)?, PAGE_FD),
    ];
    let mut actions = Actions::new()?;
    actions.open_null(0)?;
    for (source, place) in &places {
        actions.copy(source, *place)?;
    }
    if let Some(directory) = &command.directory {
        actions.enter(directory)?;
    }
    let pid = start(command, &actions, &Attributes::clean()?)?;
    match pidfd_open(pid) {
        Ok(pidfd) => Ok(Spawned { pid, pidfd, stdout, stderr }),
        Err(error) => Err(abandon(pid, error)),
    }
}

/// The one call that makes a process.
fn start(command: &Command, actions: &Actions, attributes: &Attributes) -> io::Result<c_int> {
    let Some(program) = command.argv.first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program to start: argv is empty"));
    };
    let (argv, environment) = (pointers(&command.argv), pointers(&command.environment));
    let mut pid = 0;
    // SAFETY: both arrays are null-terminated and point into `command`, which outlives the call; actions and attributes are
    // initialised; the C side only reads.
    let code = unsafe {
        libc::posix_spawnp(&mut pid, program.as_ptr(), &actions.0, &attributes.0, argv.as_ptr(), environment.as_ptr())
    };
    if code == 0 { Ok(pid) } else { Err(explain(command, program, &io::Error::from_raw_os_error(code))) }
}

/// The bare errno does not say what was missing: program, interpreter of a script, or directory.
fn explain(command: &Command, program: &CStr, error: &io::Error) -> io::Error {
    let mut text = format!("cannot start {}: {error}", program.to_string_lossy());
    let exists = |directory: &CStr| Path::new(std::ffi::OsStr::from_bytes(directory.to_bytes())).is_dir();
    if let Some(directory) = command.directory.as_deref().filter(|directory| !exists(directory)) {
        text = format!("{text}; its working directory {} is none", directory.to_string_lossy());
    }
    io::Error::new(error.kind(), text)
}

/// A process that cannot be watched must not run.
fn abandon(pid: c_int, error: io::Error) -> io::Error {
    // SAFETY: `pid` is our own unreaped child, so the number is still its own.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, ptr::null_mut(), 0);
    }
    io::Error::new(error.kind(), format!("cannot watch the process just started: {error}"))
}

fn pointers(strings: &[CString]) -> Vec<*mut c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// Read end (non-blocking) and write end.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: room for two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    let [read, write] = ends;
    // SAFETY: both have just been made and are nobody else's.
    let (read, write) = unsafe { (OwnedFd::from_raw_fd(read), OwnedFd::from_raw_fd(write)) };
    // SAFETY: plain integers on a descriptor that we own. The write end keeps its own flags: the worker's prints block.
    check(unsafe { libc::fcntl(read.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok((read, write))
}

/// A copy that no fixed place overwrites.
fn lift(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: plain integers on a descriptor that lives; the result is new.
    unsafe { own(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, FREE_FD)) }
}

/// posix_spawn's functions return their error instead of setting errno.
fn done(code: c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// What the new process does with its descriptors and directory before it runs the program.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Actions> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: a valid pointer; initialised on success, and glibc and musl hold no pointers into the struct itself.
        unsafe {
            done(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
            Ok(Actions(actions.assume_init()))
        }
    }

    fn open_null(&mut self, place: RawFd) -> io::Result<()> {
        // SAFETY: initialised in `new`; the path is a constant, copied by the call.
        done(unsafe {
            libc::posix_spawn_file_actions_addopen(&mut self.0, place, c"/dev/null".as_ptr(), libc::O_RDONLY, 0)
        })
    }

    /// The copy loses CLOEXEC; its source keeps it.
    fn copy(&mut self, source: &OwnedFd, place: RawFd) -> io::Result<()> {
        // SAFETY: initialised in `new`; the rest are integers.
        done(unsafe { libc::posix_spawn_file_actions_adddup2(&mut self.0, source.as_raw_fd(), place) })
    }

    fn enter(&mut self, directory: &CStr) -> io::Result<()> {
        // SAFETY: initialised in `new`; the path is copied by the call.
        done(unsafe { libc::posix_spawn_file_actions_addchdir_np(&mut self.0, directory.as_ptr()) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// A new session, no signal blocked, no signal ignored or handled: whatever the host did to its own.
    fn clean() -> io::Result<Attributes> {
        let flags = c_int::from(libc::POSIX_SPAWN_SETSID) | libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        let mut attributes = MaybeUninit::uninit();
        let mut none = MaybeUninit::uninit();
        let catchable = signal_set(&[libc::SIGKILL, libc::SIGSTOP]);
        // SAFETY: valid pointers; `attributes` and `none` are initialised by their first call, the sets are copied.
        unsafe {
            done(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            let mut attributes = Attributes(attributes.assume_init());
            libc::sigemptyset(none.as_mut_ptr());
            done(libc::posix_spawnattr_setsigmask(&mut attributes.0, none.as_ptr()))?;
            done(libc::posix_spawnattr_setsigdefault(&mut attributes.0, &catchable))?;
            done(libc::posix_spawnattr_setflags(&mut attributes.0, flags as c_short))?;
            Ok(attributes)
        }
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `clean`, destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&mut self.0) };
    }
}
