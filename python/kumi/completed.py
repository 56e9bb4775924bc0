"""Tasks in the order in which they finish, for threads and for event loops."""

import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ALL_COMPLETED, Future
from concurrent.futures import wait as _wait
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar, cast

from kumi import loops
from kumi.timeouts import seconds

if TYPE_CHECKING:
    import asyncio

F = TypeVar("F", bound="Future[Any]")
ReturnWhen = Literal["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"]


class DoneAndNotDone(NamedTuple, Generic[F]):
    """What `wait` returns."""

    done: set[F]
    not_done: set[F]


class Turns:
    """Has readers of the same thing take turns: whoever waits for the next one is alone.

    Example:
        >>> turns = Turns()
        >>> with turns.of_threads():
        ...     value = next(iterator)
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def of_threads(self) -> AbstractContextManager[object]:
        """The turn of this thread. In a forked child, where a thread of the parent's may have it for ever, any."""
        return self._lock if self._pid == os.getpid() else nullcontext()

    def of_coroutines(self) -> AbstractAsyncContextManager[object]:
        """The turn of this coroutine, among those of its loop."""
        return loops.here().turns(self)


class Finished(Generic[F]):
    """A box into which tasks come when they finish. One thread, or one coroutine, at a time takes them out."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[F] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken: asyncio.Event | None = None

    def expect(self, task: F) -> None:
        """From now on the task comes here, once."""
        task.add_done_callback(self._put)

    def get(self, timeout: float | None) -> F | None:
        """Waits for a task to finish and takes it; None if none did in time."""
        try:
            return self._tasks.get(timeout=timeout)
        except Empty:
            return None

    async def get_async(self, timeout: float | None) -> F | None:
        """Like `get`, without blocking the event loop."""
        import asyncio

        if self._loop is None:
            self._woken = asyncio.Event()
            self._loop = asyncio.get_running_loop()  # last: another thread looks for it
        assert self._woken is not None, "it was made before the loop was noted"
        deadline = None if timeout is None else self._loop.time() + timeout
        while True:
            self._woken.clear()
            try:
                return self._tasks.get_nowait()
            except Empty:
                pass
            try:
                async with asyncio.timeout_at(deadline):
                    await self._woken.wait()
            except TimeoutError:
                return None

    def _put(self, task: Any) -> None:
        self._tasks.put(task)
        # Whoever comes to wait later looks into the queue first. One call wakes for all that have come.
        if self._loop is not None and self._woken is not None and not self._woken.is_set():
            _call_soon(self._loop, self._woken.set)


class Completed(Generic[F]):
    """What `as_completed` returns: an iterator, for `for` and `async for`."""

    def __init__(self, tasks: Iterable[F], timeout: float | None) -> None:
        self._expected = _futures(tasks)
        self._timeout = seconds(timeout)
        self._deadline = moment(self._timeout)
        self._finished: Finished[F] = Finished()
        for task in self._expected:
            self._finished.expect(task)
        self._left = len(self._expected)
        self._turns = Turns()

    def __iter__(self) -> Iterator[F]:
        return self

    def __next__(self) -> F:
        with self._turns.of_threads():
            if not self._left:
                raise StopIteration
            return self._taken(self._finished.get(seconds_until(self._deadline)))

    def __aiter__(self) -> AsyncIterator[F]:
        return self

    async def __anext__(self) -> F:
        loops.refuse_trio()
        async with self._turns.of_coroutines():
            if not self._left:
                raise StopAsyncIteration
            return self._taken(await self._finished.get_async(seconds_until(self._deadline)))

    def _taken(self, task: F | None) -> F:
        if task is None:
            raise TimeoutError(
                f"{self._left} of {len(self._expected)} tasks were not done within {self._timeout} seconds; they go on"
            )
        self._left -= 1
        return task


def as_completed(tasks: Iterable[F], timeout: float | None = None) -> Completed[F]:
    """Gives tasks in the order in which they finish, to `for` and to `async for`.

    Args:
        tasks: Tasks, or any Futures; each is given once, also if several threads, or coroutines of one loop, read.
        timeout: Seconds from now within which the last one must have been given; None: no limit.

    Raises:
        TimeoutError: By the iteration, if `timeout` has passed. The tasks go on.

    Example:
        >>> for task in kumi.as_completed([kumi.submit(pow, 2, 10)]):
        ...     print(task.result())
        1024
    """
    return Completed(tasks, timeout)


def wait(fs: Iterable[F], timeout: float | None = None, return_when: ReturnWhen = ALL_COMPLETED) -> DoneAndNotDone[F]:
    """Waits for tasks, as `concurrent.futures.wait` does.

    Args:
        fs: Tasks, or any Futures.
        timeout: Seconds to wait at most; None: no limit.
        return_when: "ALL_COMPLETED", "FIRST_COMPLETED" or "FIRST_EXCEPTION".

    Returns:
        Those that are done and those that are not, as a named tuple `(done, not_done)` of sets.

    Example:
        >>> done, not_done = kumi.wait([kumi.submit(pow, 2, 10)])
    """
    done, not_done = _wait(_futures(fs), seconds(timeout), return_when)
    return DoneAndNotDone(cast("set[F]", done), cast("set[F]", not_done))


def _futures(tasks: Iterable[F]) -> set[F]:
    if isinstance(tasks, Future):
        raise TypeError(f"these must be several tasks, such as a list, not one: {tasks!r}")
    found: set[F] = set()
    for task in tasks:
        if not isinstance(task, Future):
            raise TypeError(f"these must be tasks, or other Futures, not {task!r}")
        found.add(task)
    return found


def moment(seconds: float | None) -> float | None:
    """When so many seconds are over, by `time.monotonic`; None if they never are."""
    return None if seconds is None else time.monotonic() + seconds


def seconds_until(deadline: float | None) -> float | None:
    """What is left of the time until a moment of `time.monotonic`; None if there is no such moment."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _call_soon(loop: "asyncio.AbstractEventLoop", call: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        if not loop.is_closed():
            raise
        # Nobody is left to be woken.
