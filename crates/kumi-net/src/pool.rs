//! The host's side: one brain, its workers, and everybody who asks it something.
//!
//! One lock guards brain and links together, so a message is read, understood and answered in one go. It is held for
//! microseconds and never across a wait. Whoever needs it while holding Python's GIL uses [`Pool::try_with`].
//! - `act.rs`: carrying out what the brain wants. `hear.rs`: what workers say.
//! - `wait.rs`: threads that wait, and which of them reads the sockets. `inbox.rs`: event loops that wait.
//! - `backup.rs`: tasks that go on in another pool.
//! - `release.rs`: what nobody holds any more.
//! - `orders.rs`: what a launcher that lives in Python is to do.
//! - `io.rs`: the I/O thread: processes, timers, output. `desk.rs`: what other terminals ask it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kumi_core::scaling::Launch;
use kumi_core::{Begun, Dispatcher, GroupId, LaunchId, LoanId, Policy, SegmentId, Staff, TaskId, Time, WorkerId};

use crate::backup::{Guest, Mailbox, Stay};
use crate::berths::{Berth, Berths};
use crate::deliver::{Route, Written};
use crate::desk::Desk;
use crate::epoll::{Alarm, Bell, Epoll, READ};
use crate::fork;
use crate::inbox::{Address, Vigil};
use crate::link::Link;
use crate::orders::Orders;
use crate::process;
use crate::release::Releases;
use crate::remote::Remote;
use crate::seats::Seats;
use crate::segments::{Loaned, Mapping, Segment};
use crate::spawn::Command;
use crate::wait::{Waited, Wants};

/// How long `terminate` waits for the killed workers to be gone. They are gone within milliseconds, unless the kernel
/// hangs in one; then the I/O thread goes on burying alone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kinds of descriptors of one link; the key of an epoll entry is `link * 4 + kind`.
pub(crate) const DATA: u64 = 0;
pub(crate) const STDOUT: u64 = 1;
pub(crate) const PROCESS: u64 = 3;
/// Keys of what belongs to no link.
pub(crate) const KICK: u64 = u64::MAX;
pub(crate) const SOCKETS: u64 = u64::MAX - 1;
pub(crate) const ALARM: u64 = u64::MAX - 2;
pub(crate) const WAKE: u64 = u64::MAX - 3;
pub(crate) const DESK: u64 = u64::MAX - 4;

/// What a pool is told about its host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Name of this machine.
    pub name: String,
    /// Major and minor version of its Python; workers must have the same.
    pub python: (u8, u8),
}

/// A dispatcher at work. Cloning gives another handle on the same one.
#[derive(Clone, Debug)]
pub struct Pool {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub state: Mutex<State>,
    /// From the start to the end: tasks may be held for long after that, and shall not hold descriptors.
    wires: Mutex<Option<Arc<Wires>>>,
    pub name: String,
    pub host: Host,
    /// Who runs the tasks.
    pub staff: Staff,
    /// See [`Policy`].
    pub silence: Duration,
    /// See [`Policy`].
    pub reconnect: Duration,
    /// How many bytes of its own a worker may have.
    pub memory: Option<u64>,
    /// What [`oom_kills`](crate::memory::oom_kills) said last.
    pub oom_kills: AtomicU64,
    /// Of the process that made it.
    generation: u64,
    /// Pipes are not read, until somebody has shown what was read before.
    pub muted: AtomicBool,
    epoch: Instant,
    epoch_wall: SystemTime,
    pub releases: Releases,
    /// Until the I/O thread takes it.
    pub desk: Mutex<Option<Desk>>,
    /// What other pools have said.
    pub mail: Mailbox,
    started: Mutex<bool>,
    /// Of ours: they end when the pool has.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The kernel objects of a started pool.
#[derive(Debug)]
pub(crate) struct Wires {
    /// The data sockets and the kick: read by the waiting thread that has the baton, or else by the I/O thread.
    pub sockets: Epoll,
    /// All the rest, and `sockets` itself: the I/O thread waits here.
    pub all: Epoll,
    /// Wakes the thread that has the baton.
    pub kick: Bell,
    /// Wakes the I/O thread.
    pub wake: Bell,
    pub alarm: Alarm,
}

/// What the lock guards.
#[derive(Debug)]
pub struct State {
    /// Every rule.
    pub brain: Dispatcher,
    pub(crate) links: BTreeMap<u64, Link>,
    pub(crate) by_worker: BTreeMap<WorkerId, u64>,
    /// Workers that are dead and not buried yet, and what they were at.
    pub(crate) dying: BTreeMap<WorkerId, Begun>,
    pub(crate) next_link: u64,
    /// Workers on other machines.
    pub(crate) remote: Remote,
    pub(crate) command: Option<Arc<Command>>,
    pub(crate) berths: Berths,
    /// What every worker of this pool is marked with, beside its number: unguessable, so nobody else is ever killed.
    pub(crate) mark: String,
    pub(crate) to_spawn: Vec<LaunchId>,
    /// Where the workers' output goes.
    pub(crate) route: Arc<Route>,
    /// What the last launch that failed has written, if no worker has joined since.
    pub(crate) written_in_vain: Written,
    /// Being spawned by the I/O thread just now, without the lock.
    pub(crate) spawning: BTreeSet<LaunchId>,
    /// For Python's launcher.
    pub(crate) orders: Orders,
    /// Tasks that are to go to the backup, those that are there, and those of others that are here.
    pub(crate) leaving: VecDeque<TaskId>,
    pub(crate) away: BTreeMap<TaskId, Stay>,
    pub(crate) guests: BTreeMap<TaskId, Guest>,
    /// The memory of our segments, and of the workers' that results lie in.
    pub(crate) segments: BTreeMap<SegmentId, Arc<Segment>>,
    pub(crate) loans: BTreeMap<LoanId, Arc<Mapping>>,
    /// Memory to give up, which takes longer than the lock may be held.
    pub(crate) garbage: Vec<Arc<Segment>>,
    pub(crate) seats: Seats,
    /// Whom to tell, and by which token, when a task is done.
    pub(crate) watchers: BTreeMap<(TaskId, u64), Address>,
    /// The same, when it has reported, or is done.
    pub(crate) followers: BTreeMap<(TaskId, u64), Address>,
    /// Event loops that wait for something else.
    pub(crate) vigils: Vec<Vigil>,
    /// When the alarm rings.
    pub(crate) armed: Option<Time>,
    /// Links with something to send.
    pub(crate) dirty: Vec<u64>,
    /// The number of finished tasks at the last call of those who wait for anything.
    pub(crate) told: u64,
    /// The I/O thread has ended, or never began: nothing will happen any more.
    pub over: bool,
}

static POOLS: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

pub(crate) type PoolsGuard = MutexGuard<'static, Vec<Weak<Shared>>>;

/// All started pools of this process.
pub(crate) fn pools() -> PoolsGuard {
    POOLS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn everyone() -> Vec<Arc<Shared>> {
    let mut pools = pools();
    pools.retain(|pool| pool.strong_count() > 0);
    pools.iter().filter_map(Weak::upgrade).collect()
}

/// Pools that stopped reading their workers' output go on.
pub(crate) fn resume_output() {
    for shared in everyone() {
        if shared.muted.load(Ordering::Acquire) {
            shared.wake();
        }
    }
}

/// Ends what is left of any pool, and waits for so long at most until the workers are buried, with all that they started:
/// an interrupt may have cut short whoever did so before. For the end of the process.
pub fn end_everyone(patience: Duration) {
    let deadline = Instant::now() + patience;
    let left = |pool: &Pool| !pool.is_foreign() && !pool.shared.lock().over;
    let pools: Vec<_> = everyone().into_iter().map(|shared| Pool { shared }).filter(left).collect();
    pools.iter().for_each(Pool::terminate_soon);
    for pool in pools {
        while let Ok(Waited::Signal) = pool.wait(Wants::Any, Some(deadline), |state| state.over.then_some(())) {}
    }
}

/// Wakes every thread that waits in any pool; from now on nobody waits. For the end of the process.
pub fn wake_everyone() {
    for shared in everyone() {
        let mut state = shared.lock();
        state.over = true;
        shared.poke_all(&mut state);
    }
}

impl Pool {
    /// A pool that has no thread, no descriptor and no worker yet.
    pub fn new(policy: Policy, host: Host) -> Self {
        let shared = Arc::new(Shared {
            name: policy.name.clone(),
            host,
            staff: policy.staff,
            silence: policy.silence,
            reconnect: policy.reconnect,
            memory: policy.memory,
            oom_kills: AtomicU64::new(0),
            generation: fork::generation(),
            state: Mutex::new(State {
                brain: Dispatcher::new(policy),
                links: BTreeMap::new(),
                by_worker: BTreeMap::new(),
                dying: BTreeMap::new(),
                next_link: 0,
                remote: Remote::default(),
                command: None,
                berths: Berths::default(),
                mark: String::new(),
                to_spawn: Vec::new(),
                route: Arc::default(),
                written_in_vain: Written::default(),
                spawning: BTreeSet::new(),
                orders: Orders::default(),
                leaving: VecDeque::new(),
                away: BTreeMap::new(),
                guests: BTreeMap::new(),
                segments: BTreeMap::new(),
                loans: BTreeMap::new(),
                garbage: Vec::new(),
                seats: Seats::default(),
                watchers: BTreeMap::new(),
                followers: BTreeMap::new(),
                vigils: Vec::new(),
                armed: None,
                dirty: Vec::new(),
                told: 0,
                over: false,
            }),
            wires: Mutex::new(None),
            muted: AtomicBool::new(false),
            epoch: Instant::now(),
            epoch_wall: SystemTime::now(),
            releases: Releases::default(),
            desk: Mutex::new(None),
            mail: Mailbox::default(),
            started: Mutex::new(false),
            threads: Mutex::new(Vec::new()),
        });
        Self { shared }
    }

    /// Says where the workers' output goes. To be called before the start.
    pub fn route_output(&self, route: Route) {
        self.shared.lock().route = Arc::new(route);
    }

    /// Starts the I/O thread; workers may be asked for from now on. Does nothing the second time.
    ///
    /// # Errors
    /// No descriptors or no threads left.
    pub fn start(&self) -> io::Result<()> {
        let mut started = self.shared.started.lock().unwrap_or_else(PoisonError::into_inner);
        if *started {
            return Ok(());
        }
        let wires = Wires {
            sockets: Epoll::new()?,
            all: Epoll::new()?,
            kick: Bell::new()?,
            wake: Bell::new()?,
            alarm: Alarm::new()?,
        };
        wires.sockets.add(wires.kick.fd(), KICK, READ)?;
        wires.all.add(wires.sockets.fd(), SOCKETS, READ)?;
        wires.all.add(wires.wake.fd(), WAKE, READ)?;
        wires.all.add(wires.alarm.fd(), ALARM, READ)?;
        let mark = process::new_mark()?;
        let wires = Arc::new(wires);
        if self.shared.staff != Staff::Host {
            let thread = crate::io::start(Arc::clone(&self.shared), Arc::clone(&wires))?;
            self.shared.owns(thread);
        }
        self.shared.set_wires(Some(wires));
        *started = true;
        pools().push(Arc::downgrade(&self.shared));
        self.with(|state, now| {
            state.mark = mark;
            state.brain.start(now);
        });
        Ok(())
    }

    /// Does something with the state, and then whatever follows from it.
    pub fn with<R>(&self, work: impl FnOnce(&mut State, Time) -> R) -> R {
        let mut state = self.shared.lock();
        self.shared.work(&mut state, work)
    }

    /// Like [`Pool::with`], but gives the work back instead of waiting for the lock.
    ///
    /// # Errors
    /// Somebody else holds the lock.
    pub fn try_with<R, W: FnOnce(&mut State, Time) -> R>(&self, work: W) -> Result<R, W> {
        let mut state = match self.shared.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(broken)) => broken.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(work),
        };
        self.shared.take_released(&mut state);
        Ok(self.shared.work(&mut state, work))
    }

    /// Waits until `check` finds something. See [`Waited`] for when it returns without.
    ///
    /// # Errors
    /// No descriptors left to wait on.
    pub fn wait<R>(
        &self,
        wants: Wants,
        deadline: Option<Instant>,
        check: impl FnMut(&mut State) -> Option<R>,
    ) -> io::Result<Waited<R>> {
        self.shared.wait(wants, deadline, check)
    }

    /// From now on the core starts local workers by this command, each in a berth of its own if there are any.
    pub fn spawn_by(&self, command: Command, berths: Vec<Berth>) {
        self.with(|state, _| {
            state.command = Some(Arc::new(command));
            state.berths = Berths::new(berths);
            let launches = mem::take(&mut state.orders.launch);
            state.to_spawn.extend(launches);
        });
        self.shared.wake();
    }

    /// A segment for a payload of so many bytes: to be handed over with it, or to be released. `None`: no descriptors or
    /// no memory left, or nobody here to send it to.
    pub fn reserve(&self, bytes: u64) -> Option<(SegmentId, Arc<Segment>)> {
        if self.shared.staff != Staff::Local {
            // Nobody here maps our segments.
            return None;
        }
        let (reserved, memory) = self.with(|state, _| {
            let reserved = state.brain.reserve(bytes)?;
            Some((reserved, state.segments.get(&reserved.segment).cloned()))
        })?;
        // Without the lock: new memory takes milliseconds.
        let created = memory.map_or_else(|| Segment::create(reserved.create.unwrap_or(bytes)).map(Arc::new), Ok);
        self.with(|state, _| match created {
            Ok(memory) => {
                state.segments.insert(reserved.segment, Arc::clone(&memory));
                Some((reserved.segment, memory))
            }
            Err(_) => {
                state.brain.let_go_of_segment(reserved.segment, true);
                None
            }
        })
    }

    /// Memory that was filled before, as a segment of this pool's.
    pub fn adopt(&self, memory: &Arc<Segment>, bytes: u64) -> Option<SegmentId> {
        if self.shared.staff != Staff::Local {
            // Nobody here maps our segments.
            return None;
        }
        self.with(|state, _| {
            let segment = state.brain.adopt(bytes);
            state.segments.insert(segment, Arc::clone(memory));
            Some(segment)
        })
    }

    /// The part of a task's result that lies in shared memory.
    pub fn result_memory(&self, state: &mut State, task: TaskId) -> Option<Loaned> {
        let loan = state.brain.use_loan(task)?;
        let mapping = state.loans.get(&loan)?;
        Some(Loaned::new(self.clone(), loan, Arc::clone(mapping)))
    }

    /// Cancels a task wherever it is. Whether it is cancelled now.
    pub fn cancel(&self, task: TaskId) -> bool {
        self.with(|state, now| {
            state.brain.see(task);
            state.brain.cancel(now, task);
            matches!(state.brain.outcome(task), Some(kumi_core::Outcome::Cancel))
        })
    }

    /// Cancels these tasks wherever they are. How many of them were not done.
    pub fn cancel_each(&self, tasks: &[TaskId]) -> usize {
        self.with(|state, now| {
            let open = tasks.iter().filter(|task| !state.brain.is_done(**task)).count();
            for task in tasks {
                state.brain.see(*task);
                state.brain.cancel(now, *task);
            }
            open
        })
    }

    /// Cancels what is not done of this group. Whoever waits for room for another task of it waits no longer.
    pub fn cancel_group(&self, group: GroupId) {
        self.with(|state, now| {
            state.brain.cancel_group(now, group);
            state.tell_all();
        });
    }

    /// No more tasks of this group will come.
    pub fn keep_promise(&self, group: GroupId) {
        self.with(|state, now| {
            state.brain.keep_promise(now, group);
            state.tell_all();
        });
    }

    /// Cancels every task that has not begun. How many.
    pub fn cancel_all_waiting(&self) -> u64 {
        let mut state = self.shared.lock();
        let before = state.brain.counts().cancel;
        self.shared.work(&mut state, |state, now| state.brain.cancel_all_waiting(now));
        state.brain.counts().cancel - before
    }

    /// Takes no more tasks; workers leave when nothing is left to do.
    pub fn close(&self) {
        self.with(|state, now| state.brain.close(now));
        self.finish_unstarted();
    }

    /// Cancels what is unresolved and kills the workers. Returns when they are gone.
    ///
    /// # Errors
    /// No descriptors left to wait on.
    pub fn terminate(&self) -> io::Result<()> {
        self.terminate_soon();
        let deadline = Instant::now() + PATIENCE;
        while let Waited::Signal = self.wait(Wants::Any, Some(deadline), |state| state.over.then_some(()))? {}
        if self.with(|state, _| state.over) {
            // They hear that it is over and end in no time. The panic of one, if any, was printed by itself.
            mem::take(&mut *self.shared.lock_threads()).into_iter().for_each(|thread| drop(thread.join()));
        }
        Ok(())
    }

    /// Like [`Pool::terminate`], without waiting.
    pub fn terminate_soon(&self) {
        self.with(|state, now| state.brain.terminate(now));
        self.finish_unstarted();
    }

    /// A pool without I/O thread is over at once.
    fn finish_unstarted(&self) {
        let mut state = self.shared.lock();
        if (self.shared.staff == Staff::Host || self.shared.wires().is_none()) && state.brain.ended() {
            self.shared.end(&mut state);
        }
    }

    /// Unix time in seconds of an instant of the brain's clock.
    pub fn unix_seconds(&self, at: Time) -> f64 {
        let start = self.shared.epoch_wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        (start + Duration::from_nanos(at.0)).as_secs_f64()
    }

    /// Whether the pool belongs to a process that this one was forked from. Then nothing of it may be touched.
    pub fn is_foreign(&self) -> bool {
        self.shared.generation != fork::generation()
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Name of this machine.
    pub fn host(&self) -> &str {
        &self.shared.host.name
    }
}

impl State {
    /// Has those who wait for anything look again, although no task has ended.
    fn tell_all(&mut self) {
        self.told = u64::MAX;
    }

    /// Name and process id of each local worker.
    pub fn processes(&self) -> Vec<(String, i32)> {
        let joined = self.links.values().filter(|link| link.worker.is_some());
        joined.map(|link| (link.child.name.clone(), link.child.pid)).collect()
    }
}

impl Shared {
    pub fn now(&self) -> Time {
        Time(u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is our bug; the others go on with what is there rather than die of it.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.take_released(&mut state);
        state
    }

    fn lock_threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread that ends when the pool has ended.
    pub fn owns(&self, thread: JoinHandle<()>) {
        self.lock_threads().push(thread);
    }

    /// The kernel objects, from the start to the end.
    pub fn wires(&self) -> Option<Arc<Wires>> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_wires(&self, wires: Option<Arc<Wires>>) {
        *self.wires.lock().unwrap_or_else(PoisonError::into_inner) = wires;
    }

    /// Nothing will happen any more.
    pub fn end(&self, state: &mut State) {
        state.over = true;
        self.poke_all(state);
        state.tell_vigils();
        state.remote.wake();
        self.set_wires(None);
    }

    /// Has the I/O thread look what there is to do.
    pub fn wake(&self) {
        if let Some(wires) = self.wires() {
            wires.wake.ring();
        }
    }

    pub fn work<R>(&self, state: &mut State, work: impl FnOnce(&mut State, Time) -> R) -> R {
        let result = work(state, self.now());
        self.carry_out(state);
        result
    }

    /// Whether this launch was given up while its process was being started.
    pub fn is_abandoned(&self, state: &State, launch: LaunchId) -> bool {
        !matches!(state.brain.launch_state(launch), Some(Launch::Requested | Launch::Starting))
    }
}
