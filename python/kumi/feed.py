"""The input of a map, and how its elements become tasks: by who reads the map, or, for long input, by a thread.

An iterator need not be safe for threads: at any time there is one thread that takes elements from it. That is the one
that calls `map` and then the reader's. If all of the input has a length, and not all of it could be submitted at once,
a thread of the map's own goes on, so that nobody need read. What it takes may be many, so it stops far ahead of the
reader.
"""

import threading
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Generic, TypeVar

from kumi._core import Group
from kumi.errors import ControllerClosed, QueueFull
from kumi.task import Task

T = TypeVar("T")

# So many elements of an input that has a length are submitted by `map` itself, and so many ahead of the reader in all:
# the million short tasks of one map keep the workers busy, and a range of a billion does not fill the memory.
AT_ONCE = 100_000
AHEAD_MAX = 1_000_000
_AHEAD_AGAIN = AHEAD_MAX // 2  # where a thread that has stopped there goes on

Submit = Callable[[tuple[Any, ...], int, bool], Task[T] | None]
"""Submits one element: its arguments, its number, and whether to wait for room in the queue (else None if full)."""


class Feed(Generic[T]):
    """The elements of a map, and those of its tasks that were not taken out yet.

    Attributes:
        tasks: In the order of the input.
        submitted: How many there were so far.
        read: How many of them the reader has counted.
        next_element: Taken from the input, and then the queue was full.
        exhausted: Whether the reader has come upon the end of the input, so that there is nothing to be looked for.
    """

    def __init__(self, submit: Submit[T], group: Group, source: "Source") -> None:
        self.tasks: deque[Task[T]] = deque()
        self.submitted = 0
        self.read = 0
        self.next_element: tuple[Any, ...] | None = None
        self.exhausted = False
        self._submit = submit
        self._group = group
        self._source = source
        self._error: BaseException | None = None  # what the thread came upon
        self._thread: threading.Thread | None = None
        self._ended = False  # the thread has
        self._stopped = False
        self._bounded = True
        self._forgotten = False
        self._changed = threading.Condition()
        self._reader_waits = False
        self._thread_waits = False

    def fill(self, ahead: int, *, wait: bool = False, also: int = 0) -> None:
        """Submits as far ahead as allowed; `also` are in flight besides. Waits for room only if nothing is."""
        while len(self.tasks) + also < ahead:
            if self.next_element is None:
                self.next_element = self._source.next()
            self.exhausted = self.next_element is None
            if self.exhausted or not self.submit_next(wait=wait and not self.tasks and not also):
                return

    def submit_next(self, *, wait: bool) -> bool:
        """Submits the element in hand. False if there was no room."""
        assert self.next_element is not None, "called with an element in hand"
        try:
            task = self._submit(self.next_element, self.submitted, wait)
        except Exception as error:
            add_number(error, self.submitted)
            raise
        if task is None:
            return False
        if not self._forgotten:
            self.tasks.append(task)
        self.next_element = None
        self.submitted += 1
        if self._reader_waits:
            self._tell()
        return True

    def count(self) -> None:
        """The reader has one more."""
        self.read += 1
        if self._thread_waits and self.submitted - self.read <= _AHEAD_AGAIN:
            self._tell()

    def go_on(self) -> None:
        """Has a thread submit what is left of the input."""
        if self.next_element is None:
            self.next_element = self._source.next()
        if self.next_element is not None:
            self._group.promise()
            self._thread = threading.Thread(target=self._submit_rest, name="kumi-feed", daemon=True)
            self._thread.start()

    @property
    def goes_on(self) -> bool:
        """Whether a thread submits, and nobody else may."""
        return self._thread is not None and not self._ended and self._thread.is_alive()

    def wait_for_task(self, timeout: float | None = None) -> bool:
        """Waits until the thread has submitted a task, or has ended. False if it has not in time."""
        with self._changed:
            self._reader_waits = True
            try:
                return self._changed.wait_for(lambda: bool(self.tasks) or not self.goes_on, timeout)
            finally:
                self._reader_waits = False

    def raise_error(self) -> None:
        """Raises what the thread came upon, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """No more is submitted."""
        self._stopped = True
        self._tell()

    def forget(self) -> None:
        """Nobody will read: all is submitted, and no task is kept."""
        with self._alone():
            self._forgotten, self._bounded = True, False
        self._tell()
        self.tasks.clear()
        self.show_error()

    def show_error(self) -> None:
        """Shows what the thread came upon, since nobody will read it."""
        with self._alone():
            error, self._error = self._error, None
        if error is not None and not isinstance(error, ControllerClosed):
            _show(error)

    def hurry(self) -> None:
        """The controller ends: what nobody reads is submitted without bound, and what is read only partly is left."""
        if self.read:
            self._stopped = True
        self._bounded = False
        self._tell()

    def _submit_rest(self) -> None:
        try:
            while self._may_go_on():
                if self.next_element is None:
                    self.next_element = self._source.next()
                if self.next_element is None:
                    break
                self.submit_next(wait=True)
        except QueueFull:
            pass  # the map was left
        except BaseException as error:  # the input's own code may raise anything, and that is the reader's
            self._fail(error)
        finally:
            self._ended = True
            self._tell()
            with suppress(ControllerClosed):  # Python is ending
                self._group.keep_promise()

    def _may_go_on(self) -> bool:
        def may() -> bool:
            return self._stopped or not self._bounded or self.submitted - self.read <= _AHEAD_AGAIN

        if self._bounded and self.submitted - self.read >= AHEAD_MAX:
            with self._changed:
                self._thread_waits = True
                self._changed.wait_for(may)
                self._thread_waits = False
        return not self._stopped

    def _fail(self, error: BaseException) -> None:
        with self._alone():
            self._error = error
            forgotten = self._forgotten
        if forgotten:
            self.show_error()  # before the tasks are cancelled: after that the controller may end, and Python
        with suppress(ControllerClosed):  # Python is ending
            self._group.cancel()

    def _alone(self) -> AbstractContextManager[object]:
        """Without the thread. In a forked child there is none, and its lock may be held for ever."""
        return self._changed if self._thread is not None and self._thread.is_alive() else nullcontext()

    def _tell(self) -> None:
        with self._alone() as changed:
            if changed is not None:
                self._changed.notify_all()


def _show(error: BaseException) -> None:
    """As an error that ends a thread is shown."""
    told = (type(error), error, error.__traceback__, threading.current_thread())
    threading.excepthook(threading.ExceptHookArgs(told))


class Source:
    """The elements of a map, out of its iterables."""

    def __init__(self, iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...]) -> None:
        self.is_async = any(not isinstance(each, Iterable) and isinstance(each, AsyncIterable) for each in iterables)
        lengths = [len(each) for each in iterables if isinstance(each, Sized)]
        self.total = min(lengths) if lengths and len(lengths) == len(iterables) else None
        self._iterators: list[Any] = []
        if self.is_async:
            self._iterators = [iter(each) if isinstance(each, Iterable) else aiter(each) for each in iterables]
        else:
            self._elements: Iterator[tuple[Any, ...]] = zip(*iterables, strict=False)

    def next(self) -> tuple[Any, ...] | None:
        """The next element; None if there is none."""
        element = next(self._elements, None)
        if element is None:
            self.close()  # a zip asked again after its end would take from the iterables again
        return element

    async def next_async(self) -> tuple[Any, ...] | None:
        """Like `next`, and waits for asynchronous input."""
        if not self.is_async:
            return self.next()
        element = []
        for iterator in self._iterators:
            try:
                element.append(next(iterator) if isinstance(iterator, Iterator) else await anext(iterator))
            except (StopIteration, StopAsyncIteration):
                self.close()
                return None
        return tuple(element) if element else None

    def refuse_async(self) -> None:
        """Refuses to be read without an event loop if the input needs one."""
        if self.is_async:
            raise TypeError("this map has asynchronous input: read it with `async for`")

    def close(self) -> None:
        """There are no more elements."""
        self._elements = iter(())
        self._iterators = []


def add_number(error: BaseException, number: int) -> None:
    """Tells which element it is about."""
    error.add_note(f"in element {number} of the map, counted from 0")
