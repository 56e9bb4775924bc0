"""The Rust core: dispatcher, local workers, waiting. This stub is its manual; `mypy.stubtest` compares it.

Everything here is thread-safe. Whatever waits does so without the GIL, ends early on a signal handler's exception
(Ctrl-C), and is woken by `Pool.terminate`. Whatever is asked of a pool raises `kumi.ControllerClosed` when the pool
takes no more tasks, in a child that was forked from the pool's process, and when Python is ending. Times are seconds;
instants are Unix time as a float.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, Self, TypeAlias, final, type_check_only

from typing_extensions import Buffer

PROTOCOL: int
"""Version of the wire protocol, checked when a worker says hello."""

LARGE: int
"""Bytes from which on a buffer is large: it is put into shared memory, if there is any."""

@final
class Memory:
    """The part of a payload that lies in another process' shared memory, as a writable buffer.

    What is written to it is seen by nobody else. It is given back with the last view of it.
    """

    def __buffer__(self, flags: int, /) -> memoryview: ...

@type_check_only
class Parcel(Protocol):
    """A payload with large parts, as Python hands it in. Not a class of the binary: see `kumi.serial`."""

    @property
    def head(self) -> Sequence[Buffer]: ...
    @property
    def buffers(self) -> Sequence[Buffer]: ...
    @property
    def uses(self) -> Sequence[Function]: ...

@final
class Function:
    """A pickled function that the pool sends once to each worker. Forgotten with its last task and this handle."""

    @property
    def label(self) -> str: ...
    @property
    def number(self) -> int:
        """What payloads that use a shared value call it."""

@final
class Stored:
    """The bytes of a shared value, in memory that any number of pools can lend to their workers."""

    def __new__(cls, payload: bytes | Parcel, /) -> Self:
        """Copies the payload."""
    @property
    def payload(self) -> bytes: ...
    def memory(self) -> Memory | None:
        """Where the rest of it lies: a new mapping."""

# At most so many crashes in all, or by each cause (None: any number): memory, time, spot, other.
_CrashesMax: TypeAlias = int | tuple[int | None, int | None, int | None, int | None]

@final
class Group:
    """Tasks that belong together, as the elements of a map do. Without it they go on, each for itself."""

    def __new__(cls, pool: Pool | Inner, /) -> Self: ...
    def unite(self) -> None:
        """From now on the first task that does not succeed cancels the rest; at once, if one has not."""
    def promise(self) -> None:
        """More tasks will come: the pool is not done before `keep_promise`, and takes them also when it is closed."""
    def keep_promise(self) -> None:
        """No more will come."""
    def first_failure(self) -> int | None:
        """The `id` of the first task that did not succeed."""
    def cancel(self) -> None:
        """Cancels what is not done, youngest first. Whoever submits to it from now on gets `kumi.QueueFull`."""

class Handle:
    """One task, seen from the host; `kumi.Task` derives from it. Making one submits the task.

    With the last reference the core forgets the task's result (the task itself still runs).
    `crashes_max=None` means what the pool says. `limits`: `seconds_run`, `seconds_total`
    and `once`. `kept` tasks are counted as pushed and come out of `Pool.pop`.
    `everywhere`: every worker makes the call before its next task, now and later; the result is None.
    `wait`: block while the queue is full, instead of raising `kumi.QueueFull`.
    `group`: of the same pool.
    """

    def __new__(
        cls,
        pool: Pool | Inner,
        function: Function,
        payload: bytes | Parcel,
        name: str | None,
        crashes_max: _CrashesMax | None,
        limits: tuple[float | None, float | None, bool] | None,
        kept: bool,
        wait: bool,
        everywhere: bool = False,
        group: Group | None = None,
        /,
    ) -> Self: ...
    @property
    def id(self) -> int:
        """The task's number, unique within its pool."""
    @property
    def pool(self) -> Pool | Inner: ...
    @property
    def name(self) -> str | None:
        """The label it was given, or None."""
    @property
    def label(self) -> str:
        """The function's label."""
    def state(self) -> Literal["waiting", "running", "success", "error", "crash", "cancel", "timeout"]: ...
    def done(self) -> bool:
        """Whether it has ended, however."""
    def wait(self, timeout: float | None, /) -> bool:
        """Whether the task was done within `timeout` seconds (None: no limit)."""
    def ending(self, timeout: float | None, decode: Callable[[Self, int, bytes, Memory | None], Any], /) -> Any:
        """Waits until the task is done, and returns what `decode` makes of it and its outcome; always the same object.

        Raises:
            TimeoutError: It was not done within `timeout` seconds (None: no limit).
        """
    def outcome(self) -> tuple[int, bytes, Memory | None] | None:
        """None until done; then one of the constants SUCCESS, ERROR, ... and what belongs to it.

        The bytes are the pickled value (SUCCESS; the rest of it may lie in the memory), the pickled error (ERROR), or
        UTF-8 text saying what happened.
        """
    def cancel(self) -> bool:
        """Cancels the task, running or not. False if it is done."""
    def watch(self, inbox: Inbox | None = None, /) -> int | None:
        """Asks to be told when done: a token that will come once, to the inbox or else out of `next_deliveries`.

        None if done already.
        """
    def last_report(self) -> tuple[int, bytes] | None:
        """What the task reported last, pickled, and how often it has."""
    def next_report(self, seen: int, /) -> tuple[int, bytes] | None:
        """Waits until the task has reported more often than this. None when it is done and has not."""
    def watch_report(self, seen: int, inbox: Inbox, /) -> int | None:
        """Asks to be told when the task has reported more often than this, or is done. None if so already."""
    def facts(self) -> Facts | None:
        """Everything the core knows about a finished task. None until done."""

SUCCESS: int
ERROR: int
CRASH: int
CANCEL: int
TIMEOUT: int
LAUNCH: int
"""No worker can be started: a kind of crash (`state()` says "crash")."""

@final
class Certificate:
    """Why a worker died. Fields that nobody could find out are None. It can be pickled."""

    def __new__(
        cls,
        cause: str,
        kind: str,
        pid: int | None,
        host: str | None,
        exit_code: int | None,
        signal: int | None,
        peak_gigabytes: float | None,
        stderr: str,
        /,
    ) -> Self: ...
    def __repr__(self) -> str: ...
    @property
    def cause(self) -> str:
        """In words: "killed by signal 9 (SIGKILL)", "exited with code 3", ..."""
    @property
    def kind(self) -> Literal["memory", "time", "spot", "other"]:
        """What it counts as for `crashes_max`.

        "memory": `memory_gigabytes_max`, or the machine had too little, as far as can be seen; "time": a limit of the
        scheduler that runs the worker; "spot": the machine was taken away.
        """
    @property
    def pid(self) -> int | None: ...
    @property
    def host(self) -> str | None: ...
    @property
    def exit_code(self) -> int | None: ...
    @property
    def signal(self) -> int | None: ...
    @property
    def peak_gigabytes(self) -> float | None:
        """The most memory of its own that it was seen to have, with its children, in 10^9 bytes.

        Looked at every 50 ms or more often while a task runs; None if no task ran for so long.
        """
    @property
    def stderr(self) -> str:
        """The last lines that the worker wrote to stderr."""

@final
class Facts:
    """What the core knows about a finished task: the stuff of `kumi.Record`."""

    @property
    def status(self) -> Literal["success", "error", "crash", "cancel", "timeout"]: ...
    @property
    def function(self) -> str:
        """The function's label."""
    @property
    def submitted(self) -> float: ...
    @property
    def started(self) -> float | None: ...
    @property
    def finished(self) -> float: ...
    @property
    def seconds(self) -> float | None:
        """How long the function ran, by the worker's clock."""
    @property
    def worker(self) -> str | None:
        """The worker's name, `<controller>-<number of its launch>`."""
    @property
    def pid(self) -> int | None: ...
    @property
    def host(self) -> str | None: ...
    @property
    def attempts(self) -> int:
        """How often a worker ran it: to its end, or to the worker's death."""
    @property
    def certificate(self) -> Certificate | None:
        """Of the last worker that died of this task, if any did."""
    @property
    def controller(self) -> str | None:
        """The name of the backup that it has ended with; None: it has ended here."""
    @property
    def peak_gigabytes(self) -> float | None:
        """The most memory of its own that its worker was seen to have meanwhile, if it was not short."""
    @property
    def warnings(self) -> bytes:
        """What it warned of, as `warned.Heard.dumps` returns it; empty: of nothing."""

@final
class Status:
    """A controller's counts at one instant, or, as a sum, those of several."""

    def __repr__(self) -> str: ...
    def __add__(self, other: Status, /) -> Status: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    @property
    def workers(self) -> int:
        """Workers that have joined and have not left."""
    @property
    def idle(self) -> int:
        """Of those, how many hold no task."""
    @property
    def extra(self) -> int:
        """Of the workers, how many are there only because a task waits in async code or in a thread of its own."""
    @property
    def launching(self) -> int:
        """Workers asked for that have not joined yet."""
    @property
    def waiting(self) -> int:
        """Tasks that no worker has begun."""
    @property
    def running(self) -> int: ...
    @property
    def away(self) -> int:
        """Tasks that go on with the backup."""
    @property
    def finished(self) -> int:
        """Tasks resolved since the start, however they ended."""
    @property
    def uncollected(self) -> int:
        """Pushed tasks whose record has not been popped, finished or not."""
    @property
    def queued_bytes(self) -> int:
        """Payload of tasks waiting or running, plus 400 bytes for each."""
    @property
    def queued_bytes_max(self) -> int:
        """The bound of that: `queue_gigabytes_max`. None that is ever reached where tasks run in this process."""
    @property
    def result_bytes(self) -> int:
        """Pickled results and errors of finished tasks that the program still holds."""
    @property
    def success(self) -> int: ...
    @property
    def error(self) -> int: ...
    @property
    def crash(self) -> int: ...
    @property
    def cancel(self) -> int: ...
    @property
    def timeout(self) -> int: ...
    @property
    def launched(self) -> int:
        """Workers that have ever joined."""
    @property
    def left_idle(self) -> int:
        """Workers that left because there was no work, or because there were too many of them (`resize`)."""
    @property
    def left_limit(self) -> int:
        """Workers that left because of `seconds_wall` or `tasks_max`."""
    @property
    def left_stopped(self) -> int:
        """Workers that left because the controller ended, or that were killed, as by `kumi kill`."""
    @property
    def lost(self) -> int:
        """Workers that died."""

@final
class Inbox:
    """What one event loop, or a waiting thread, is told: a descriptor that it watches, and tokens.

    Its descriptor is closed with it.
    """

    def __new__(cls) -> Self: ...
    def fileno(self) -> int:
        """Readable while there is something to take."""
    def take(self, most: int, /) -> list[int]:
        """The oldest tokens, so many at most. Never waits."""

@final
class Pool:
    """One dispatcher with its workers. Nothing starts before `start`."""

    def __new__(
        cls,
        *,
        name: str,
        workers: int,
        workers_min: int,
        seconds_idle: float | None,
        seconds_wall: float | None,
        seconds_launch: float,
        seconds_kill: float,
        tasks_max: int | None,
        memory_bytes: int | None,
        reset: int,
        crashes_max: _CrashesMax,
        backup: bool,
        queue_bytes: int,
        staff: Literal["host", "local", "launched", "by hand"],
        seconds_reconnect: float,
        slots: int | None,
    ) -> Self: ...
    @property
    def name(self) -> str: ...
    def route_output(self, log_directory: tuple[str, bool] | None, forward: bool | None, /) -> None:
        """Where the output of workers goes. To be called before the start.

        Args:
            log_directory: Where it is kept, and whether to remove those of earlier runs beside it; None: nowhere.
            forward: Whether the host shows it; None: the host decides.
        """
    def start(self) -> None:
        """Starts the I/O thread; the brain may ask for workers from now on."""
    def open_desk(self, directory: str, launcher: str, /) -> None:
        """Has other terminals see this pool, from its start to its end. Not where tasks run in this process.

        Args:
            directory: Nobody but this user may enter it.
            launcher: What to say of the launcher.

        Raises:
            OSError: If no socket can be made there.
        """
    def spawn_by(
        self, argv: list[str], environment: dict[str, str], directory: str | None, slots: list[dict[str, str]], /
    ) -> None:
        """Says how a local worker is started: the core does it from now on, also while Python holds the GIL.

        `slots` are variables that one living worker at a time has, in place of those in `environment`; empty: there are
        none such. A worker's are free again when it is buried with its children.
        """
    def listen(
        self, host: str, port: int, /, certificate: bytes | None, key: bytes | None, password: str | None
    ) -> tuple[str, int, str | None]:
        """Lets workers from other machines dial in. Once.

        Args:
            host: An address of this machine, or a name of one.
            port: 0: one that is free.
            certificate: The user's own, with those that vouch for it, as PEM; None: a fresh one is made.
            key: Its private key, as PEM.
            password: What the key is encrypted by; None: it is not.

        Returns:
            The address and the port, and the fingerprint of the certificate if it is fresh.

        Raises:
            OSError: If that is no address of this machine, or is taken, or certificate and key cannot be used.
        """
    def join_code(self, uses: int, seconds: float, /) -> str:
        """Lets in so many agents that have this text, within this time."""
    def next_leaving(self) -> list[int] | None:
        """Waits for tasks that are to go to the backup. None when the pool has ended."""
    def hand_over(self, task: int, to: Pool, /) -> None:
        """Hands over a task that is to go, unless it has ended meanwhile; what becomes of it comes back by itself."""
    def strand(self, task: int, text: str, /) -> None:
        """Says why a task that is to go cannot: it ends as the crash that it was."""
    def next_order(self, timeout: float | None, /) -> tuple[list[tuple[int, int]], list[int]] | None:
        """Waits for what the brain wants and the core cannot carry out by itself.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Launches to carry out, with the numbers that their workers are named after, and launches of which whatever
            still exists is to be ended and then reported as failed. Both may be empty. None when the pool has ended.
        """
    def launches(self) -> list[tuple[int, bool]]:
        """The launches that are not over, and of each whether only its launcher knows what has become of it."""
    def issue(self, launches: list[int], /) -> str:
        """The join code of these launches: the agent of index i becomes the worker of the i-th."""
    def revoke(self, code: str, /) -> None:
        """Lets nobody in by this join code any more."""
    def launched(self, launches: list[int], /) -> None:
        """Reports that the processes, or jobs, of these launches exist."""
    def launch_failed(self, launches: list[int], text: str, /) -> None:
        """Reports that these launches failed, with the launcher's own words."""
    def define(self, payload: bytes | Parcel, label: str, /) -> Function:
        """Takes in a pickled function. Raises ValueError if it names a shared value of another pool."""
    def share(self, stored: Stored, uses: list[Function], label: str, /) -> Function:
        """Takes in a shared value, and those that it names itself. Forgotten like a function."""
    def report_job(self, id: int, payload: bytes, /) -> None:
        """In-process pools only: what a task begun by `next_job` says of itself. Raises ValueError if it is long."""
    def next_job(self) -> tuple[int, bytes, bytes, bool] | None:
        """In-process pools only: begins the oldest waiting task. Its id, its pickled function, its arguments.

        And whether it is a call that every worker makes, for what it leaves behind.
        """
    def finish_job(
        self, id: int, success: bool, payload: bytes | Parcel, ran: tuple[float, float], warnings: bytes, /
    ) -> None:
        """In-process pools only: resolves a task begun by `next_job`, which ran from then on for so many seconds.

        `warnings` is what `warned.Heard.dumps` returned, or empty.
        """
    def pop(self, timeout: float | None, /) -> int | None:
        """Takes the id of the kept task that finished first. None if none came in time, or none is left."""
    def wait_kept(self, every: bool, timeout: float | None, /) -> bool:
        """Whether, within the time, there was something to pop and (`every`) no kept task was unfinished."""
    def wait_done(self, timeout: float | None, /) -> bool:
        """Whether every task was resolved within the time."""
    def wait_ended(self, timeout: float | None, /) -> bool:
        """After `close`: whether, within the time, all workers had left and the I/O thread had ended."""
    def watch_room(self, payload: bytes | Parcel, inbox: Inbox, /) -> int | None:
        """Asks to be told when the queue has room for this: a token that will come once. None if it has."""
    def watch_kept(self, inbox: Inbox, /) -> int | None:
        """The same, for when there is a record to pop, or none left to wait for."""
    def watch_record(self, inbox: Inbox, token: int | None, /) -> int | None:
        """The same, for when there is a record to pop, also if nothing is there yet that it could be of.

        `token`: one of another pool's, to be told as well. So whoever waits for several pools waits for one token.
        """
    def watch_done(self, inbox: Inbox, /) -> int | None:
        """The same, for when every task is resolved."""
    def watch_ended(self, inbox: Inbox, /) -> int | None:
        """The same, for when all workers have left and the I/O thread has ended."""
    def forget(self, token: int, /) -> None:
        """The token of one of the former is not waited for any more."""
    def cancel_waiting(self) -> int:
        """Cancels every task that no worker has begun; says how many."""
    def names(self) -> list[tuple[int, str | None]]:
        """Ids and names of the tasks that are not done, in no particular order."""
    def cancel(self, ids: list[int], /) -> int:
        """Cancels these tasks; says how many were not done."""
    def overlooked(self, held: bool, /) -> tuple[int, str | None, str, int, bytes] | None:
        """Tasks that failed without anybody asking how they ended, each told once; `held`: also those still held.

        How many; of the first its name, its function's label, and code and payload as `Handle.outcome` returns them.
        """
    def status(self) -> Status: ...
    def situation(self) -> tuple[Status, dict[str, Any]]:
        """What else there is to say of workers and tasks: see `kumi.explain.Situation`. Looks through all workers."""
    def processes(self) -> list[tuple[str, int]]:
        """Name and process id of each local worker that is alive."""
    def resize(self, workers: int, workers_min: int, /) -> None:
        """Changes these two. Workers above the cap leave as soon as they hold nothing."""
    def close(self) -> None:
        """Takes no more tasks; workers leave when nothing is left to do. Returns at once."""
    def terminate_soon(self) -> None:
        """Does what `terminate` does, and returns at once."""
    def terminate(self) -> None:
        """Cancels what is unresolved, kills workers with their children, ends the I/O thread. Returns when done."""

@final
class Inner:
    """The host's dispatcher, as tasks reach it that run in this worker. What `Handle` takes in place of a pool there.

    Nothing is ever too much for its queue. A wait in the main thread runs what the waiting task has submitted. Whatever
    is asked of it raises `kumi.ControllerClosed` in a process that a task forked, and where no task is running.
    """

    @property
    def name(self) -> str:
        """The controller's name."""
    def define(self, payload: bytes | Parcel, label: str, /) -> Function: ...

def next_deliveries() -> list[int | str | tuple[str, bool, bytes, tuple[int, str] | None, bool | None]] | None:
    """For the one thread that brings news to Python: waits, then returns what has happened. None when Python is ending.

    An int is a token of `Handle.watch`; a string is for stderr; a tuple is output of a worker that is to be shown: its
    name, whether it is stderr, the bytes, the id and the name of the task if that is known, and `forward`.
    """

def end_deliveries() -> None:
    """For the end of Python, after every pool has ended: `next_deliveries` returns what is there, and then None."""

def leave() -> None:
    """For the end of Python: ends pools that an interrupt has left, and lets out who waits; 2 s at most for each."""

def before_fork() -> None:
    """For `os.register_at_fork`: what all pools share is left in order for the child."""

def after_fork_in_parent() -> None:
    """For `os.register_at_fork`, after `before_fork`."""

def after_fork_in_child() -> None:
    """For `os.register_at_fork`, after `before_fork`: the parent's pools can be asked nothing here; new ones can."""

@final
class Worker:
    """A worker process's end. One per process, made in the main thread."""

    def __new__(cls) -> Self:
        """Takes over the descriptors that the host passed. Raises OSError where there are none."""
    def shared(self, number: int, load: Callable[[bytes, Memory | None], Any], /) -> Any:
        """A shared value, unpickled by `load` when it is first asked for."""
    @property
    def name(self) -> str:
        """What the host calls it. Empty before the host has said so."""
    def function(self) -> Any | None:
        """What the task that runs calls. None if none runs, or it is not unpickled yet."""
    def take_interrupt(self) -> bool:
        """For SIGINT's handler: whether to interrupt the running task. A signal from elsewhere has the worker leave."""
    def leave_soon(self) -> None:
        """Has `serve` return when the running task is answered: the process is not fit for another one."""
    def inner(self) -> Inner:
        """The controller of the tasks that run here."""
    def serve(self, execute: Executor, /) -> str:
        """Runs tasks until the host says stop, or this process is not fit for the next one; returns the reason."""

@final
class Untouched:
    """How a process is before a task; asked afterwards whether it still is."""

    def __new__(
        cls,
        directory: int | None,
        environment: dict[bytes, bytes] | None,
        filters: tuple[dict[str, Any], list[Any]] | None,
        /,
    ) -> Self:
        """None stands for what is not looked at.

        Args:
            directory: A descriptor of the working directory, which is copied.
            environment: The dict that `os.environ` stands for.
            filters: The dict of the module `warnings`, and its list of filters.
        """
    def touch(self) -> None:
        """Has `check` say no."""
    def check(self) -> bool:
        """Goes back to the directory. Says whether that worked and everything else is the same objects as before."""

@type_check_only
class Executor(Protocol):
    """What `Worker.serve` calls. Not a class of the binary: any object with these methods."""

    def load(self, payload: bytes, memory: Memory | None, /) -> Any:
        """Unpickles a function; its errors become errors of the task."""
    def run(self, function: Any, payload: bytes, memory: Memory | None = None, /) -> tuple[bool, bytes | Parcel]:
        """Calls `function`: (True, pickled value) or (False, pickled error). Never raises."""
    def prepare(self, function: Any, payload: bytes, memory: Memory | None = None, /) -> tuple[str, bytes]:
        """Calls `function`: two empty ones, or the traceback and the pickled error. Never raises."""
    def is_stale(self) -> bool:
        """Whether code that was imported has been edited since. Asked when messages have come."""
    def reset(self, parts: int, /) -> Untouched:
        """The host has said what to put back after each task. Called once, before the first."""
    def put_back(self) -> Untouched:
        """Puts that back. Called between tasks, when `Untouched.check` says that something has changed."""
    def pause(self) -> Any:
        """Puts it back for a task that is run while another one waits. Returns what `resume` needs."""
    def resume(self, paused: Any, /) -> None:
        """Has the process as it was for the task that waited."""

def running() -> tuple[int, int, str, dict[str, Any]] | None:
    """The task that this worker runs: its id, its attempt, the worker's name, and notes that last as long as it does.

    None in a process that is no worker, between tasks, and in a child that a task forked.
    """

def memory_bytes() -> int:
    """How much memory this process may use: what the machine has, or its control groups grant if that is less."""

def nested() -> bool:
    """Whether the task that runs in this worker runs within the wait of another."""

def report(payload: bytes, /) -> None:
    """What the task that this worker runs says of itself. Never waits. Raises ValueError if it is long."""

def run_agent(
    host: str,
    port: int,
    code: str,
    argv: list[str],
    environment: dict[str, str],
    /,
    *,
    fingerprint: str | None,
    authorities: bytes,
    index: int | None,
    seconds_connect: float,
    log_directory: tuple[str, bool] | None,
    talkative: bool,
) -> int | None:
    """Runs one worker after another for the controller that listens there, in the main thread, until that ends it.

    Raises ValueError for what cannot be read, and OSError, such as ConnectionError, for what failed; the text is for
    the user. When this returns or raises, nothing of the worker is left.

    Args:
        host: Where to connect to, and whose name the certificate must be for if it is known by authorities.
        port: See above.
        code: The join code.
        argv: The program that is the worker, and its arguments.
        environment: Its whole environment.
        fingerprint: Of the host's certificate, in hexadecimal digits.
        authorities: Certificates (PEM) of who vouches for the host's, if there is no fingerprint.
        index: Which of the workers of one launch this is: the only one it runs. None: it was started by hand.
        seconds_connect: For how long to try before the host has let it in. Later the host says for how long.
        log_directory: As `Pool.route_output` takes it.
        talkative: Say on stderr when it has joined, when it has ended, and what it waits for.

    Returns:
        The number of the signal that has ended it; None: none did.
    """

def decide(
    *,
    workers: int,
    workers_min: int,
    waiting: int,
    running: int,
    joined: int,
    leaving: int,
    expected: int,
    failures: int,
    seconds_since_failure: float | None,
) -> tuple[int, float | None, bool]:
    """The scaling rule: how many to launch now, seconds until it should be asked again or None, whether to give up."""
