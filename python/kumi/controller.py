"""What a user holds: a queue of tasks and the workers that run them, behind the face of an Executor.

Decides nothing about tasks and workers: the core does that. Here are the life of a controller, from its first task to
the end of the interpreter, and the pushed tasks whose records it keeps.
"""

import fnmatch
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from types import ModuleType, TracebackType
from typing import Any, Self, cast
from weakref import WeakSet

from kumi import arguments, current, desks, loops, remote, serial
from kumi._core import Group, Inbox, Pool
from kumi.backup import carry_over, chain, checked
from kumi.deliver import deliverer
from kumi.errors import ControllerClosed, ControllerError, LaunchError, QueueFull
from kumi.feed import Feed
from kumi.functions import Functions, Prepared
from kumi.inner import running_here
from kumi.kept import Keeper, Kept
from kumi.launchers import (
    AnyLauncher,
    Launcher,
    Local,
    LocalLauncher,
    Rounds,
    Sequential,
    carry_out_orders,
    run_one,
    slots_of,
)
from kumi.modules import ByValue
from kumi.options import Options, crashes, module_names, numbering, positive, text, whole
from kumi.output import Directory, Output
from kumi.registry import registry
from kumi.remote import TLS
from kumi.reset import chosen
from kumi.seeds import Stream
from kumi.status import Status, Summary
from kumi.submitter import Submitter
from kumi.task import Record, Task, overlooked
from kumi.worker import Executor as TaskExecutor

SECONDS_UNTIL_GONE = 5.0  # a bound for the case that a worker that was killed hangs in the kernel
SECONDS_UNTIL_NOTICE = 10.0  # a program that waits longer than this at its end says for what
SYNC = "KUMI_SYNC"  # the environment variable that has all controllers run their tasks in this process

_LOCAL = Local()


class Controller(Submitter, Keeper, Executor):
    """A queue of tasks and the workers that run them: a `concurrent.futures.Executor`.

    Making one checks the arguments and does nothing else; the first task, or `start`, opens it. Workers are launched
    when there is work and leave when there is none. Leaving a `with` block waits for what was submitted; leaving it by
    an exception cancels it. Of blocks within blocks the outermost ends the controller: leaving one within waits, but an
    exception cancels nothing there. A controller can be pickled, as its arguments.

    Args:
        launcher: Where workers come from: `Local()`, `SSH()`, or `Sequential()` to run tasks in this process, or
            another one, or the name by which another package has entered one. None: from other machines, where `kumi
            worker` is started by hand.
        name: Unique among the open controllers; None: one is made up.
        workers: The most workers at a time; None: as many as there are usable CPUs, or as can have GPUs
            (`Local(gpus=...)`), or as come from other machines. With other launchers of workers elsewhere it has to be
            given, unless they know it, as `SSH` does.
        workers_min: Workers that are kept even when there is no work.
        seconds_idle: After so long without a task a worker leaves; None: never.
        seconds_wall: After so long a worker leaves, once its task is done; None: never.
        seconds_launch: A worker that has not joined after so long counts as failed; None: as the launcher says, or 60.
        seconds_kill: A worker that has not stopped a cancelled task, or left, after so long is killed with its tree.
        tasks_max: After so many tasks a worker leaves; None: never.
        reset: What is put back after each task as it was before: True: everything that this names, False: nothing, or
            some of "directory" (the working directory), "environment" (variables), "warnings" (filters), "signals"
            (handlers), "random" (the generators of `random` and `numpy.random`, which are set anew). What a module does
            when it is imported stays, and so does `kumi.state`, and what native code does by itself, such as handlers
            of its own.
        crashes_max: How often a task may crash its worker and be run again. A number counts all crashes, or a
            dictionary each cause for itself: `{"memory": 0, "time": 0, "spot": None, "other": 5}`; None: any number.
            "memory" is `memory_gigabytes_max`, or a machine that had too little; "time" the limit of a scheduler;
            "spot" a machine that was taken away. Causes left out are 5, and "spot" None; a number does not count it.
        backup: Another controller, where a task goes on that has crashed once more than `crashes_max` allows, before it
            ends as a crash. It opens when the first one comes, counts its own `crashes_max`, and may have a backup in
            turn. Whoever holds the task, and its record, see nothing of that but the record's `controller`; limits of
            time go on. Tasks with `once=True`, and those that tasks have submitted, do not go there. If the backup has
            ended, they end as the crash that they were. Ending this controller ends what it has there; the backup
            itself stays open, as others do. There a task runs by the backup's settings, such as `setup`.
        seed: As `with_options` takes it, for all tasks; None: each run draws other numbers.
        queue_gigabytes_max: Bound of the arguments in the queue, in 10^9 bytes; None: a quarter of the
            memory that the machine has, or its control group, such as that of a container.
        memory_gigabytes_max: How much memory a worker may have, with the processes that it has started, in 10^9 bytes.
            A task that takes more ends as a crash, with its worker. What is shared does not count: large arguments,
            `kumi.share`. None: any amount. Not watched where tasks run in this process.
        setup: Called by each worker before its first task; if it fails, the launch of the worker has failed.
        modules_by_value: Modules, or their names, that workers do not import: their functions and classes, and those of
            modules within them, are sent as they are here. What workers could not find, such as functions of scripts
            and notebooks, is sent so anyway, and to other machines all modules of your project: those below the working
            directory or that of the main program. Compiled code cannot be.
        host: The address or name of this machine by which workers on other machines reach it; None: any address.
        port: Where it listens for them; 0: at a port that is free.
        tls: The certificate that it shows them; None: one that is made for it alone, and known by its fingerprint.
        seconds_reconnect: When the connection to a worker on another machine is cut, the worker works on, and has so
            long to come back. Then its tasks are run by others. A worker that is silent for half of that, or for 30 s,
            is cut off.
        log_directory: Where what workers print is kept, in a directory for each run; None: where `kumi logs` looks for
            it, which is `~/.local/state/kumi/logs`; False: nowhere. Workers on other machines keep theirs there.
        log_forward: Whether this process writes out what workers on this machine print. True: with the name of the task
            before each line; None: so where that goes to a terminal or notebook, elsewhere as it came; False: not.
        seconds_metrics: How often each worker measures its CPU, memory and open files, into a file beside its log that
            `kumi metrics` reads; it needs psutil. None: never. Not measured where tasks run in this process.

    Raises:
        TypeError, ValueError: If an argument is not of the kind or in the range that the message names.

    Example:
        >>> with kumi.Controller(workers=4, seconds_idle=10) as crew:
        ...     crew.submit(pow, 2, 10).result()
        1024
    """

    def __init__(  # noqa: PLR0913 - all but the first are keywords
        self,
        launcher: AnyLauncher = _LOCAL,
        *,
        name: str | None = None,
        workers: int | None = None,
        workers_min: int = 0,
        seconds_idle: float | None = 300,
        seconds_wall: float | None = None,
        seconds_launch: float | None = None,
        seconds_kill: float = 5,
        tasks_max: int | None = None,
        reset: bool | Collection[str] = True,
        crashes_max: int | Mapping[str, int | None] = 5,
        backup: "Controller | None" = None,
        seed: int | None = None,
        queue_gigabytes_max: float | None = None,
        memory_gigabytes_max: float | None = None,
        setup: Callable[[], object] | None = None,
        modules_by_value: Collection[str | ModuleType] = (),
        host: str | None = None,
        port: int = 0,
        tls: TLS | None = None,
        seconds_reconnect: float = 60,
        log_directory: Directory = None,
        log_forward: bool | None = None,
        seconds_metrics: float | None = None,
    ) -> None:
        self._arguments = {key: value for key, value in locals().items() if key not in {"self", "__class__"}}
        given = arguments.a_launcher(launcher)
        self.launcher = given if os.environ.get(SYNC, "0") in {"", "0"} else Sequential()
        self._slots = whole("slots of the launcher", slots_of(self.launcher), least=1, none=True)
        self.workers = arguments.workers(workers, self.launcher, self._slots)
        self.workers_min = arguments.workers_min(workers_min, self.workers)
        address = arguments.address(given, host, port, tls)
        self._listens_at = address if arguments.calls_from_elsewhere(self.launcher) else None
        self.name = text("name", name, none=True) or registry.make_up_name()
        self._backup = checked(backup, self.name, Controller)
        self._reset = chosen(reset)
        self._make_pool = partial(
            Pool,
            name=self.name,
            workers=self.workers,
            workers_min=self.workers_min,
            seconds_idle=positive("seconds_idle", seconds_idle, zero=True, none=True),
            seconds_wall=positive("seconds_wall", seconds_wall, none=True),
            seconds_launch=positive("seconds_launch", arguments.seconds_launch(seconds_launch, self.launcher)),
            seconds_kill=positive("seconds_kill", seconds_kill),
            tasks_max=whole("tasks_max", tasks_max, least=1, none=True),
            memory_bytes=arguments.in_bytes(positive("memory_gigabytes_max", memory_gigabytes_max, none=True)),
            reset=self._reset,
            crashes_max=crashes(crashes_max),
            backup=backup is not None,
            queue_bytes=arguments.queue_bytes(
                positive("queue_gigabytes_max", queue_gigabytes_max, none=True), self.launcher
            ),
            staff=arguments.staff(self.launcher),
            seconds_reconnect=positive("seconds_reconnect", seconds_reconnect),
            slots=self._slots,
        )
        self._output = Output(self.name, log_directory, log_forward, seconds_metrics)
        self._seconds_until_gone = seconds_kill + SECONDS_UNTIL_GONE
        self._setup = arguments.a_setup(setup)
        named = self._arguments["modules_by_value"] = module_names("modules_by_value", modules_by_value)
        elsewhere = any(arguments.calls_from_elsewhere(member.launcher) for member in (self, *chain(self._backup)))
        self._by_value = ByValue(named, elsewhere=elsewhere) if named or elsewhere else None
        self._url: str | None = None  # from the start on, if workers dial in
        self._life = threading.RLock()  # guards the next three; a signal's handler may come in between
        self._pool: Pool | None = None
        self._functions: Functions | None = None  # from the start on
        self._closed = False
        self._terminated = False
        self._executor: TaskExecutor | None = None  # if tasks run in this process
        self._launcher_thread: threading.Thread | None = None
        self._pid: int | None = None  # of the process that started it
        self._blocks: list[None] = []  # one for each `with` that it is in: a list, whose changes need no lock
        self._hides: Controller | None = None  # see Registry.add
        self._group: Callable[[], object] | None = None  # that it is in: a weak reference
        self._kept = Kept()
        self._seeds = numbering(seed)
        self._feeding: WeakSet[Feed[Any]] = WeakSet()

    def start(self) -> None:
        """Opens the controller, which the first task does otherwise. `workers_min` workers are launched.

        Raises:
            ControllerError: If another open controller has the same name.
            ControllerClosed: If the controller has ended.
        """
        self._open()

    @property
    def url(self) -> str:
        """Where workers on other machines dial in: what `kumi worker` takes. Opens the controller.

        Raises:
            ControllerError: If it listens for none, because it has a launcher.
        """
        if self._url is None:
            self._open()
        if self._url is None:
            text = f"controller {self.name!r} has {self.launcher!r}: it listens for no workers from elsewhere"
            raise ControllerError(text)
        return self._url

    def join_code(self, uses: int = 1, seconds: float = 86_400) -> str:
        """Makes a secret that lets in workers from other machines, for `kumi worker`. Opens the controller.

        Each use is one `kumi worker`, which may run several workers one after the other: when one dies, or has to make
        room for a new one, it goes on with the next.

        Whoever has it can run tasks of this controller, and sees their arguments: hand it on as you do with passwords.

        Args:
            uses: How many times `kumi worker` may be started with it.
            seconds: Until when.

        Raises:
            ControllerError: If the controller listens for none.
            TypeError, ValueError: If an argument is not of the kind or in the range that the message names.

        Example:
            >>> code = crew.join_code(uses=2, seconds=600)
        """
        uses = whole("uses", uses, least=1)
        seconds = positive("seconds", seconds)
        assert self.url
        return self._live_pool().join_code(uses, seconds)

    @property
    def log_directory(self) -> str | None:
        """Where what its workers print is kept, from its start on. It is made when one of them prints something.

        None: before, or if nothing is kept on this machine, as with `log_directory=False` or `Sequential()`.
        """
        return self._output.run

    def status(self) -> Status:
        """Counts of workers and tasks at this instant. Takes microseconds."""
        with self._told_if_closed(), self._life:
            return self._made_pool().status()

    def summary(self) -> Summary:
        """What the controller has done so far. Can also be asked when it has ended."""
        s, found = self._situation()
        left = (s.left_idle, s.left_limit, s.left_stopped, s.lost)
        ends = (s.finished, s.success, s.error, s.crash, s.cancel, s.timeout)
        return Summary(self.name, *ends, s.launched, *left, found["failure"] or None)

    def explain(self) -> str:
        """Says in words why there are so many workers, and what waits for what. For people: the words may change.

        Example:
            >>> print(crew.explain())
            controller 'crew' has 1 worker, of 1 allowed: 1 busy
            3 tasks wait and 1 runs
            more workers than 1 are not allowed (workers=): what waits begins when a task is done; resize() allows more
        """
        from kumi.explain import Situation, explain

        by_hand, here = self.launcher is None, isinstance(self.launcher, Sequential)
        status, found = self._situation()
        situation = Situation.of(
            status,
            found,
            name=self.name,
            source="hand" if by_hand else "here" if here else "launcher",
            launcher=repr(self.launcher),
            url=self._url,
            most=None if self.workers == arguments.WORKERS_ANY else self.workers,
            slots=self._slots,
            least=self.workers_min,
            seconds_idle=self._arguments["seconds_idle"],
            seconds_reconnect=self._arguments["seconds_reconnect"],
            backup="" if self._backup is None else self._backup.name,
        )
        return explain(situation)

    def _situation(self) -> tuple[Status, dict[str, Any]]:
        with self._told_if_closed(), self._life:
            return self._made_pool().situation()

    @property
    def empty(self) -> bool:
        """Whether no pushed task is left whose record was not popped, finished or not."""
        return self.status().uncollected == 0

    @property
    def saturated(self) -> bool:
        """Whether as many pushed tasks are left whose records were not popped, finished or not, as workers may run.

        For programs that push no more than can be run at a time, and take records as they come:

            while crew.saturated:
                take(crew.pop(timeout=None))
            crew.push(simulate, next(inputs))

        Where no number of workers was given and they come from other machines, it is the number of those that are here
        now, and one if there is none.
        """
        status = self.status()
        most = max(1, status.workers) if self.workers == arguments.WORKERS_ANY else self.workers
        return status.uncollected >= most

    @property
    def _max_workers(self) -> int:
        """How many tasks to hand in at a time, for those who know Executors of the standard library, such as dask."""
        return self.workers

    def resize(self, workers: int | None = None, workers_min: int | None = None) -> None:
        """Changes how many workers there may be, from now on, whatever is going on.

        More are launched at once if tasks wait for them. Of fewer, those without a task leave at once, and of the
        others whichever is done first: none is ended in the middle of a task, and none begins another one. The number
        of threads that a worker's libraries use (OMP_NUM_THREADS and its kin) stays as it was set when the controller
        was opened. Where tasks run in your own process, the number does not matter.

        Args:
            workers: The most workers at a time; None: as many as before.
            workers_min: Workers that are kept even when there is no work; None: as many as before.

        Raises:
            ControllerClosed: If the controller has ended.
            TypeError, ValueError: If an argument is not of the kind or in the range that the message names.

        Example:
            >>> crew.resize(8)
        """
        most = whole("workers", workers, least=1, none=True)
        with self._life:
            if self._closed:
                raise self._closed_error("it has ended")
            most = most or self.workers
            arguments.check_slots(most, self.launcher, self._slots)
            least = arguments.workers_min(self.workers_min if workers_min is None else workers_min, most)
            with self._told_if_closed():
                self._made_pool().resize(most, least)
            self.workers, self.workers_min = most, least
            given = {"workers": workers, "workers_min": workers_min}
            self._arguments |= {name: value for name, value in given.items() if value is not None}

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the controller: it takes no more tasks, and workers leave when nothing is left to do.

        Args:
            wait: Whether to wait for that.
            cancel_futures: Whether to cancel the tasks that have not started.
        """
        pool = self._close()
        if pool is None:
            return
        with self._life:
            feeding = tuple(self._feeding)
        for feed in feeding:
            feed.stop() if cancel_futures else feed.hurry()
        pool.close()
        if cancel_futures:
            pool.cancel_waiting()
        registry.keep(self, partial(pool.wait_ended, 0))
        if wait:
            self._wait_done(pool)
            pool.wait_ended(self._seconds_until_gone)
            self.terminate()

    def terminate(self) -> None:
        """Ends the controller at once: cancels its tasks, and kills its workers with their children."""
        pool = self._close()
        if pool is not None and not self._terminated:
            pool.terminate()
            self._wait_for_launcher()
            self._terminated = True  # from now on there is nothing to do, and when Python ends the core would refuse
        registry.remove(self, ended=True)

    def _wait_for_launcher(self) -> None:
        """Until the launcher has ended what it has started, or does not come back from that."""
        thread = self._launcher_thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._seconds_until_gone)

    def __enter__(self) -> Self:
        self._blocks.append(None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_outermost():
            if kind is None and (pool := self._open_pool()) is not None:
                self._wait_done(pool)
            return
        try:
            if kind is None:
                self.shutdown()
                self._tell_overlooked()
        finally:
            self.terminate()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends as `__exit__` does, without blocking the event loop."""
        if not self._is_outermost():
            if kind is None and (pool := self._open_pool()) is not None:
                await self._await_done(pool)
            return
        wait = loops.here().wait
        pool = self._close()
        if pool is None:
            return
        try:
            if kind is None:
                self.shutdown(wait=False)
                await self._await_done(pool)
                await wait(pool.watch_ended, SECONDS_UNTIL_GONE)
                self._tell_overlooked()
        finally:
            pool.terminate_soon()
            await wait(pool.watch_ended, SECONDS_UNTIL_GONE, shield=True)
            self.terminate()

    def _is_outermost(self) -> bool:
        """Leaves a block. Whether the controller ends with it, rather than with a block of a caller's around it."""
        del self._blocks[-1:]  # none, if it was never entered, as by ExitStack.push
        return not self._blocks

    @property
    def _places(self) -> int:
        """In how many controllers its tasks may run."""
        return len(chain(self))

    def __del__(self) -> None:
        if getattr(self, "_pid", None) != os.getpid() or self._closed:
            return
        # In a thread, for this may run anywhere, and terminating waits.
        threading.Thread(target=self._live_pool().terminate, name="kumi-terminate", daemon=True).start()
        text = f"{self!r} is held by nobody any more: its tasks are cancelled"
        warnings.warn(text, ResourceWarning, stacklevel=1, source=self)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self._arguments), ()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "new" if self._functions is None else "open"
        workers = "any" if self.workers == arguments.WORKERS_ANY else self.workers
        return f"<Controller {self.name!r} {state}, {self.launcher!r}, workers={workers}>"

    def _target(self, _fn: object, _args: object, _kwargs: object, /) -> "Controller":
        return self

    def _find(self, name: str) -> "Controller":
        return cast("Controller", registry.find(name))

    def _prepare(self, fn: Callable[..., Any]) -> Prepared:
        try:
            return (self._functions or self._open()).get(fn)
        except ControllerClosed as error:
            raise self._closed_error(error) from None

    def _enter(
        self,
        function: Prepared,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Options,
        stream: Stream | None,
        *,
        wait: bool,
        kept: bool = False,
        group: Group | None = None,
    ) -> Task[Any] | None:
        carried = options.carried(function.call, stream)
        payload = serial.dumps_call(args, kwargs, function.call, carried, self._by_value)
        return self._hand_in(function, payload, options, stream, wait, kept, False, group)

    def _new_group(self) -> Group:
        return Group(self._live_pool())

    def _feeds(self, feed: Feed[Any]) -> bool:
        if self._executor is not None:
            return False  # the thread that submits runs the tasks
        with self._life:
            self._feeding.add(feed)
        return True

    def _hand_in(
        self,
        function: Prepared,
        payload: bytes | serial.Parcel,
        options: Options,
        stream: Stream | None,
        wait: bool,
        kept: bool,
        everywhere: bool = False,
        group: Group | None = None,
    ) -> Task[Any] | None:
        pool, handle, limits = self._pool, function.handle, options.limits
        name, crashes_max = options.name, options.crashes
        assert pool is not None, "a function is prepared by a controller that was started"
        if type(payload) is not bytes:
            cast("Functions", self._functions).tell(cast("serial.Parcel", payload))
        task: Task[Any] | None
        try:
            try:
                task = Task(pool, handle, payload, name, crashes_max, limits, kept, False, everywhere, group)
            except QueueFull:
                task = None
            if task is None:
                if not wait:
                    return None
                _refuse_to_block_a_loop()
                task = Task(pool, handle, payload, name, crashes_max, limits, kept, True, everywhere, group)
        except ControllerClosed as error:
            raise self._closed_error(error) from None
        if stream is not None:
            task._stream = stream
        if limits is not None:
            task._limits = limits
        if self._executor is not None:
            before = running_here.set(self)
            try:
                run_one(pool, self._executor, cast("Functions", self._functions).resolve)
            finally:
                running_here.reset(before)
        return task

    async def _enter_when_room(
        self,
        function: Prepared,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Options,
        stream: Stream | None,
    ) -> Task[Any]:
        """One coroutine of a loop at a time pickles its call and waits: they stay in order, and few calls are kept."""
        pool, waiting = self._live_pool(), loops.here()
        async with waiting.turns(self):
            carried = options.carried(function.call, stream)
            payload = serial.dumps_call(args, kwargs, function.call, carried, self._by_value)
            while (task := self._hand_in(function, payload, options, stream, wait=False, kept=False)) is None:
                await waiting.wait(partial(pool.watch_room, payload), forget=pool.forget)
            return task

    def _everywhere(
        self, function: Prepared, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options
    ) -> Task[Any]:
        payload = serial.dumps_call(args, kwargs, function.call, None, self._by_value)
        task = self._hand_in(function, payload, options, None, wait=True, kept=False, everywhere=True)
        return cast("Task[Any]", task)

    def _push(
        self,
        function: Prepared,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Options,
        stream: Stream | None,
    ) -> Task[Any]:
        enter = partial(self._enter, function, args, kwargs, options, stream, wait=True, kept=True)
        return self._kept.add(options.name, cast("Callable[[], Task[Any]]", enter))

    def _open(self) -> Functions:
        with self._life:
            if self._closed:
                raise self._closed_error("it has ended")
            if self._functions is None:
                registry.add(self, hides=self._hides)
                try:
                    self._functions = self._start()
                except BaseException:
                    registry.remove(self, ended=True)
                    raise
            return self._functions

    def _open_for_others(self) -> Pool:
        self._open()
        return self._live_pool()

    def _start(self) -> Functions:
        pool = self._made_pool()
        functions = Functions(pool, self._by_value)
        if self._listens_at is not None:
            self._url = self._listen(pool, *self._listens_at)
        self._pid = os.getpid()
        if isinstance(self.launcher, Sequential):
            self._executor = TaskExecutor(self._reset)
            current.may_run = True
        else:
            self._output.begin(pool)
            if (measure := self._output.measuring()) is not None:
                self._submit_setup(pool, functions, measure)
        if self._setup is not None:
            # Before there is a worker: each does it when it joins.
            self._submit_setup(pool, functions, self._setup)
            self._setup = None  # not again, if what follows fails and the controller is opened another time
        if self._executor is None:
            desks.open_desk(pool, self.launcher)
        pool.start()
        if self._executor is None:
            deliverer.start()
        if (work := self._launching(pool)) is not None:
            self._launcher_thread = threading.Thread(target=work, name="kumi-launcher", daemon=True)
            self._launcher_thread.start()
        if self._executor is None and self._backup is not None:
            given = (pool, self._backup)
            threading.Thread(target=carry_over, args=given, name="kumi-backup", daemon=True).start()
        return functions

    def _launching(self, pool: Pool) -> Callable[[], None] | None:
        """What its launcher's thread does. That must not hold the controller, or nobody could ever let go of it."""
        launcher = self.launcher
        if isinstance(launcher, LocalLauncher):
            return partial(carry_out_orders, pool, launcher, self.workers)
        if isinstance(launcher, Launcher):
            return Rounds(pool, launcher, cast("str", self._url)).run
        return None

    def _listen(self, pool: Pool, host: str, port: int, tls: TLS | None) -> str:
        try:
            certificate, key, password = (None, None, None) if tls is None else tls.read()
            _, port, fingerprint = pool.listen(host, port, certificate=certificate, key=key, password=password)
        except OSError as error:
            raise ControllerError(f"controller {self.name!r} cannot listen on {host}:{port}: {error}") from error
        return remote.url(host, port, fingerprint)

    def _submit_setup(self, pool: Pool, functions: Functions, setup: Callable[[], object]) -> None:
        function = functions.get(setup)
        payload = serial.dumps_call((), {}, setup)
        task: Task[Any] = Task(pool, function.handle, payload, None, None, None, False, False, True)
        if self._executor is not None:
            run_one(pool, self._executor, functions.resolve)
            if (error := task.exception()) is not None:
                raise LaunchError(f"setup failed, so no task can run: {error!r}") from error

    def _made_pool(self) -> Pool:
        if self._pool is None:
            self._pool = self._make_pool()
        return self._pool

    def _live_pool(self) -> Pool:
        assert self._pool is not None, "a controller that was started has a pool"
        return self._pool

    def _open_pool(self) -> Pool | None:
        return self._pool if self._is_usable() and self._functions is not None else None

    def _close(self) -> Pool | None:
        """Takes no more tasks. Returns the pool if there is one that may have to be ended."""
        if not self._is_usable() and not self._closed:
            return None  # in a forked child, where its lock may be held for ever by a thread of the parent's
        with self._life:
            self._closed = True
            registry.remove(self, ended=False)
            return None if self._functions is None else self._pool

    def _is_usable(self) -> bool:
        return not self._closed and self._pid in {None, os.getpid()}

    def _wait_done(self, pool: Pool) -> None:
        if not pool.wait_done(SECONDS_UNTIL_NOTICE):
            self._say_what_is_left(pool)
            pool.wait_done(None)

    async def _await_done(self, pool: Pool) -> None:
        wait = loops.here().wait
        if not await wait(pool.watch_done, SECONDS_UNTIL_NOTICE):
            self._say_what_is_left(pool)
            await wait(pool.watch_done)

    def _say_what_is_left(self, pool: Pool) -> None:
        status = pool.status()
        none = "" if self._url is None or status.workers else f"; `kumi worker {self._url}` starts one"
        away = f"{status.away} with its backup, " if status.away else ""
        sys.stderr.write(
            f"kumi: controller {self.name!r} waits until its tasks are done: {status.running} running, "
            f"{status.waiting} waiting, {away}{status.workers} workers{none}\n"
        )

    def _tell_overlooked(self, *, held: bool = False) -> None:
        """Warns of tasks that failed unseen: those nobody can ask any more, or, if `held`, all."""
        # A forked child has nothing to tell of its parent's tasks.
        found = self._live_pool().overlooked(held) if self._pid == os.getpid() else None
        if found is not None:
            warnings.warn(overlooked(self.name, *found), RuntimeWarning, stacklevel=3)

    def _wait_pushed(self, every: bool, limit: float | None) -> bool:
        with self._told_if_closed():
            return self._functions is not None and self._live_pool().wait_kept(every, limit)

    def _take(self, limit: float | None) -> Record[Any] | None:
        if self._functions is None:
            return None
        with self._told_if_closed():
            while (number := self._live_pool().pop(limit)) is not None:
                task = self._kept.take(number)
                if task is not None:
                    return task.record
        return None

    def _first_failed(self) -> Task[Any] | None:
        return self._kept.first_failed()

    def _cancel(self, patterns: tuple[str, ...]) -> int:
        if self._functions is None:
            return 0
        with self._told_if_closed():
            pool = self._live_pool()
            everything = "*" in patterns
            matches = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns) or "(?!)").match
            wanted = [
                number
                for number, name in pool.names()
                if everything or (name is not None and (name in patterns or matches(name)))
            ]
            return pool.cancel(sorted(wanted, reverse=True))  # youngest first, so that no worker takes one up meanwhile

    def _watch_record(self, inbox: Inbox, token: int | None) -> int | None:
        """See `Pool.watch_record`. Also before the start."""
        with self._told_if_closed(), self._life:
            return self._made_pool().watch_record(inbox, token)

    def _forget(self, token: int) -> None:
        with self._told_if_closed(), self._life:
            self._made_pool().forget(token)

    async def _wait_kept(self) -> bool:
        if self.empty:
            return False
        pool = self._live_pool()
        with self._told_if_closed():
            await loops.here().wait(pool.watch_kept, forget=pool.forget)
        return True

    @contextmanager
    def _told_if_closed(self) -> Iterator[None]:
        """For what can be asked of a closed controller too, but not in a forked child or when Python is ending."""
        try:
            yield
        except ControllerClosed as error:
            raise self._closed_error(error) from None

    def _closed_error(self, reason: object) -> ControllerClosed:
        return ControllerClosed(f"controller {self.name!r} is closed: {reason}; open another one")


def _refuse_to_block_a_loop() -> None:
    if loops.running():
        raise QueueFull("the queue is full, and waiting would stop the event loop: use `await controller.run(...)`")
