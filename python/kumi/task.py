"""One call of a function, seen from the host: a lazy `concurrent.futures.Future`, and the record of how it ended.

A Future's condition, waiters and callbacks come into being when somebody touches them: a million tasks that nobody
watches cost a million small objects and no locks. Until then everything is asked of the core. Afterwards only the
thread `kumi-deliver` changes the Future, under its condition, because `concurrent.futures.wait` counts on that.
"""

import logging
import marshal
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeVar, cast

from kumi import loops, reports, serial
from kumi._core import CANCEL, CRASH, ERROR, LAUNCH, SUCCESS, TIMEOUT, Certificate, Facts, Handle, Memory
from kumi.deliver import deliverer
from kumi.errors import (
    ControllerClosed,
    CrashError,
    KumiError,
    LaunchError,
    SerializationError,
    TaskCancelled,
    TaskTimeout,
)
from kumi.timeouts import seconds

if TYPE_CHECKING:
    from kumi.seeds import Stream

T = TypeVar("T")
Ending = Literal["success", "error", "crash", "cancel", "timeout"]

_LOGGER = logging.getLogger("concurrent.futures")  # where the standard library reports a callback that fails
_LAZY = frozenset({"_condition", "_state", "_waiters", "_done_callbacks"})


class _Failure:
    """Tells an error that a task ended with from an error that it returned."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Task(Handle, Future[T]):
    """One call of a function on a worker. Made by `submit`, `push` and `run`, never by hand.

    It is a `concurrent.futures.Future`, so `concurrent.futures.wait`, `as_completed` and `asyncio.wrap_future` take
    it, and it can be awaited. Its result lives as long as it does.

    Example:
        >>> task = kumi.submit(pow, 2, 10)
        >>> task.result(timeout=60)
        1024
        >>> task.record.status
        'success'
    """

    __init__ = object.__init__  # it is made by `Handle.__new__`, and the parts of a Future come later

    index: int  # the element's number, of tasks that `Map.as_completed` gives
    _stream: "Stream | None" = None
    _limits: tuple[float | None, float | None, bool] = (None, None, False)

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Makes the parts of a Future when somebody, usually the standard library, touches the first of them."""
            if name in _LAZY:
                return self._parts()[name]
            if name == "_result":
                kept = self._ending(0)
                return None if type(kept) is _Failure else kept
            if name == "_exception":
                kept = self._ending(0)
                return kept.error if type(kept) is _Failure else None
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def result(self, timeout: float | None = None) -> T:
        """Waits for the task and returns what the function returned.

        Args:
            timeout: Seconds that this call waits at most; None: until the task is done. The task goes on regardless.

        Raises:
            TimeoutError: If the task is not done in time.
            TaskCancelled, TaskTimeout, CrashError, SerializationError: If the task ended so.
            Exception: Whatever the function raised, with the traceback of the worker attached.
        """
        kept = self._ending(timeout)
        if type(kept) is not _Failure:
            return kept  # type: ignore[return-value]  # `cast` would cost as much as the rest
        try:
            raise kept.error
        finally:
            del self, kept  # the traceback holds this frame: without this, error and task would hold each other

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Waits for the task and returns the error it ended with, or None if it returned.

        Args:
            timeout: Seconds that this call waits at most; None: until the task is done.

        Raises:
            TimeoutError: If the task is not done in time.
            TaskCancelled: If the task was cancelled.
        """
        kept = self._ending(timeout)
        if type(kept) is not _Failure:
            return None
        try:
            if isinstance(kept.error, TaskCancelled):
                raise kept.error
            return kept.error
        finally:
            del self, kept

    def cancel(self) -> bool:
        """Cancels the task, running or not, unless it is done. Returns whether it is cancelled.

        It is resolved at once. A running one gets a KeyboardInterrupt behind the scenes; a worker that does not yield
        within the controller's `seconds_kill` is killed with its children and replaced.
        """
        return super().cancel()

    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
        return self.state() == "cancel"

    def running(self) -> bool:
        """Whether a worker is at it right now."""
        return self.state() == "running"

    @property
    def record(self) -> "Record[T] | None":
        """Everything known about the task, or None until it is done."""
        facts = self.facts()
        return None if facts is None else Record._of(self, facts)

    @property
    def report(self) -> Any:
        """What the task reported last by `kumi.report`, or None. It stays when the task is done. In a task: None.

        Raises:
            SerializationError: If this process cannot unpickle it.
        """
        news = self.last_report()
        return None if news is None else reports.loads(news[1])

    def reports(self) -> "reports.Reports":
        """What the task reports, as it comes, until the task is done: for `for`, which waits, and for `async for`.

        Example:
            >>> for share_done in task.reports():
            ...     print(share_done)
        """
        return reports.Reports(self)

    def add_done_callback(self, fn: Callable[["Future[T]"], object]) -> None:
        """Has `fn` called with the task when it is done, by the thread that delivers; at once if it is done already."""
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {fn!r}")
        if getattr(fn, "__module__", None) == "asyncio.tasks":  # of `asyncio.wait`, which the call would never wake
            raise TypeError("asyncio.wait takes asyncio's futures alone: give it asyncio.ensure_future(task) for each")
        super().add_done_callback(fn)

    def __await__(self) -> Generator[Any, None, T]:
        """Waits without blocking the event loop. Cancelling the awaiter cancels the task; see `result` for errors."""
        if not self.done():
            yield from self._wait_in_loop().__await__()
        return self.result()

    async def _wait_in_loop(self) -> None:
        waiting = loops.here()
        try:
            await waiting.wait(self.watch)
        except waiting.Cancelled:
            self.cancel()
            raise

    def __repr__(self) -> str:
        name = "" if self.name is None else f"{self.name!r} "
        try:
            state: str = self.state()
        except ControllerClosed:  # in a forked child, or when Python is ending
            state = "out of reach"
        return f"<Task {name}{self.label} {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Task cannot be pickled: it belongs to its controller's process; pass its result() instead")

    def set_running_or_notify_cancel(self) -> NoReturn:
        """Not for a Task: its controller alone resolves it."""
        _refuse_to_be_set()

    def set_result(self, result: T) -> NoReturn:  # noqa: ARG002 - the standard library's signature
        """Not for a Task: its controller alone resolves it."""
        _refuse_to_be_set()

    def set_exception(self, exception: BaseException | None) -> NoReturn:  # noqa: ARG002
        """Not for a Task: its controller alone resolves it."""
        _refuse_to_be_set()

    def _ending(self, timeout: float | None) -> T | _Failure:
        """Decodes once: whoever asks gets the same object."""
        kept: T | _Failure = self.ending(None if timeout is None else seconds(timeout), _decode)
        return kept

    def _parts(self) -> dict[str, Any]:
        """The parts of a Future, made now unless another thread was first."""
        with deliverer.lock:
            parts = self.__dict__
            if "_state" not in parts:
                state = PENDING if deliverer.watch(self) else _final(self.state())
                parts.update(_condition=threading.Condition(), _waiters=[], _done_callbacks=[], _state=state)
            return parts

    def _deliver(self) -> None:
        """Resolves the Future that came into being while the task was not done. For the deliverer's thread alone."""
        state = self.state()
        with self._condition:
            self._state = _final(state)
            for waiter in self._waiters:
                if state == "success":
                    waiter.add_result(self)
                elif state == "cancel":
                    waiter.add_cancelled(self)
                else:
                    waiter.add_exception(self)
            self._condition.notify_all()
        for callback in self._done_callbacks:
            try:
                callback(self)
            except BaseException:  # one user's callback, SystemExit included, must not cost another's delivery
                _LOGGER.exception("exception calling callback for %r", self)
        self._done_callbacks.clear()

    if TYPE_CHECKING:
        _condition: threading.Condition
        _state: str
        _waiters: list[Any]
        _done_callbacks: list[Callable[[Future[T]], object]]


@dataclass(frozen=True, slots=True)
class Warned:
    """One warning that a task raised and Python showed.

    Attributes:
        category: The name of its class, with the module if that is not `builtins`.
        message: Its text, the first 400 characters.
        file: The file of the code that it blames, the last 200 characters.
        line: The line there.

    Example:
        >>> print(task.record.warnings[0])
        model.py:12: UserWarning: did not converge
    """

    category: str
    message: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.category}: {self.message}"


@dataclass(frozen=True, slots=True, eq=False)
class Record(Generic[T]):
    """Everything known about a finished task.

    Attributes:
        name: The label it was given, or None.
        function: The function's qualified name.
        status: How it ended: "success", "error", "crash", "cancel" or "timeout".
        result: What the function returned; None unless the status is "success".
        error: What `Task.result` raises; None if the status is "success".
        traceback: The remote traceback, without its middle if it is longer than 50,000 characters, or the words for a
            failure that has none; None if the status is "success".
        submitted: When it was submitted, in seconds of Unix time, as are `started` and `finished`.
        started: When a worker last began it; None if none did.
        finished: When it was resolved.
        seconds: How long the function ran, by the worker's clock; None if it never returned.
        queue_seconds: Seconds from submission to start; None if it never started.
        worker: The worker's name, `<controller>-<number>`; None if it never started.
        host: The machine the worker ran on.
        pid: The worker's process id.
        warnings: What it warned of, in its order, the first 20, as far as filters of warnings let it be shown. For
            this each task begins as if nothing had been shown before it. Empty if it neither returned nor raised.
        warnings_more: How many more there were.
        report: What it reported last; None if it reported nothing.
        attempts: How often a worker ran it: to its end, or to the worker's death; with a backup all of them.
        seed: The stream of its random numbers, as `with_options(seed=...)` began it: the seed, and the numbers that
            lead from there to the task; None: it had none.
        controller: The name of the controller where it has ended: its own, or a backup.
        peak_gigabytes: The most memory that its worker, with its children, was seen to have of its own while it ran,
            looked at every 50 ms or more often and at the end; None if it ran for less, in your own process, or
            neither returned nor raised.
        certificate: How the last worker that died of it died; None if none did.
    """

    name: str | None
    function: str
    status: Ending
    result: T | None
    error: BaseException | None
    traceback: str | None
    submitted: float
    started: float | None
    finished: float
    seconds: float | None
    queue_seconds: float | None
    worker: str | None
    host: str | None
    pid: int | None
    warnings: tuple[Warned, ...]
    warnings_more: int
    report: Any
    attempts: int
    seed: tuple[int, ...] | None
    controller: str
    peak_gigabytes: float | None
    certificate: Certificate | None

    def get(self) -> T:
        """Returns the result, or raises the error."""
        if self.error is not None:
            raise self.error
        return cast("T", self.result)

    @classmethod
    def _of(cls, task: Task[T], facts: Facts) -> "Record[T]":
        kept = task._ending(None)
        failure = kept if isinstance(kept, _Failure) else None
        warned, more = marshal.loads(facts.warnings) if facts.warnings else ((), 0)
        lost = failure is not None and facts.status == "success"  # the result arrived and cannot be read here
        return cls(
            name=task.name,
            function=facts.function,
            status="error" if lost else facts.status,
            result=None if failure else cast("T", kept),
            error=None if failure is None else failure.error,
            traceback=None if failure is None else _traceback(task, failure.error),
            submitted=facts.submitted,
            started=facts.started,
            finished=facts.finished,
            seconds=facts.seconds,
            queue_seconds=None if facts.started is None else max(0.0, facts.started - facts.submitted),
            worker=facts.worker,
            host=facts.host,
            pid=facts.pid,
            warnings=tuple(Warned(*one) for one in warned),
            warnings_more=more,
            report=_report(task),
            attempts=facts.attempts,
            seed=task._stream,
            controller=facts.controller or task.pool.name,
            peak_gigabytes=facts.peak_gigabytes,
            certificate=facts.certificate,
        )


def _report(task: Task[Any]) -> Any:
    try:
        return task.report
    except SerializationError as error:  # the record tells the rest all the same
        return error


def _refuse_to_be_set() -> NoReturn:
    raise InvalidStateError("a Task is resolved by its controller alone; for a Future of your own make another one")


def _final(state: str) -> str:
    return CANCELLED_AND_NOTIFIED if state == "cancel" else FINISHED


def _decode(task: Task[T], code: int, payload: bytes, memory: Memory | None) -> T | _Failure:
    if code == SUCCESS:
        try:
            value: T = serial.loads(payload, memory)
            return value
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # unpickling may run any code, and must not end the program that reads a result
            return _Failure(_unreadable(task, error))
    if code == ERROR:
        return _Failure(serial.loads_error(payload))
    return _Failure(_failure(task, code, payload.decode(errors="replace")))


def _failure(task: Task[Any], code: int, text: str) -> KumiError:
    """The error of a task that neither returned nor raised."""
    what = f"task {task.label}" if task.name is None else f"task {task.name!r} ({task.label})"
    if code == CANCEL and text:
        return TaskCancelled(f"{what} is out of reach: {text}")
    if code == CANCEL:
        return TaskCancelled(
            f"{what} was cancelled: by cancel(), or because its controller, {task.pool.name!r}, was terminated, "
            "as happens to one that nobody holds any more"
        )
    if code == TIMEOUT:
        return _timeout(task, what, text)
    if code == LAUNCH:
        return LaunchError(
            f"no worker can be started for {what}. The reason follows; often a setting of the launcher, or `setup`. "
            f"{text}"
        )
    return _crash(task, what, text)


def overlooked(controller: str, count: int, name: str | None, label: str, code: int, payload: bytes) -> str:
    """Says that tasks failed without anybody asking how they ended, from what `Pool.overlooked` returns."""
    tasks = "a task" if count == 1 else f"{count} tasks"
    first = label if name is None else f"{name!r} ({label})"
    if code == ERROR:
        why = serial.traceback_in(payload)
    else:
        text = payload.decode(errors="replace")
        why = {CRASH: "its worker died: ", LAUNCH: "no worker: ", TIMEOUT: "it was stopped by "}.get(code, "") + text
    return (
        f"{tasks} of controller {controller!r} failed, and nobody asked for the result, the exception or the record. "
        f"{'It was' if count == 1 else 'The first was'} {first}:\n{why.rstrip()}"
    )


def _timeout(task: Task[Any], what: str, limit: str) -> TaskTimeout:
    run, total, _ = task._limits
    if limit == "seconds_run":
        return TaskTimeout(
            f"{what} was stopped when it had run for seconds_run={run:g}: raise the limit, or give it less"
        )
    facts = task.facts()
    began = facts is not None and facts.worker is not None
    state = "was stopped because it was not done" if began else "had not even begun, for want of a free worker,"
    return TaskTimeout(
        f"{what} {state} within seconds_total={total:g} of its submission: raise the limit, give it less to do, or "
        "have more workers"
    )


def _crash(task: Task[Any], what: str, cause: str) -> CrashError:
    facts = task.facts()
    assert facts is not None, "a task that is done has facts"
    certificate, times = facts.certificate, facts.attempts
    text = (
        f"{what} crashed its worker, {times} {'times' if times > 1 else 'time'} in all; the last was {facts.worker} "
        f"(process {facts.pid} on {facts.host}): {cause}. "
    )
    if certificate is not None and certificate.kind == "memory":
        text += "Give it less to do, or its worker more memory; "
    else:
        text += "Either the function ended the process, or the machine did; "
    if task._limits[2]:
        text += "it is not run again because `once=True` forbids that"
    else:
        text += "`crashes_max` says how often such a task is run again"
    if certificate is not None and certificate.stderr:
        text += f". The last lines on its stderr:\n{certificate.stderr}"
    return CrashError(text, certificate)


def _unreadable(task: Task[Any], cause: BaseException) -> SerializationError:
    error = SerializationError(
        f"the result of {task!r} arrived but cannot be unpickled in this process: {type(cause).__name__}: {cause}"
    )
    error.__cause__ = cause
    return error


def _traceback(task: Task[Any], error: BaseException) -> str:
    outcome = task.outcome()
    if outcome is not None and outcome[0] == ERROR:
        return str(serial.error_summary(outcome[1])[2])
    return str(error)
