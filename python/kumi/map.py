"""One function over many elements: submitted ahead of the reader, read in order.

Knows tasks, and of controllers only a callable that submits one element. Elements are taken from the user's iterables
in the thread that reads the Map and in no other: an iterator need not be safe for threads.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from typing import Any, Generic, TypeVar

from kumi.errors import TaskCancelled
from kumi.task import Task

T = TypeVar("T")

# So many elements of an input that has a length are submitted before the first is read: the million short tasks of
# one map keep the workers busy, and a range of a billion does not fill the memory.
AHEAD_MAX = 100_000

Submit = Callable[[tuple[Any, ...], int, bool], Task[T] | None]
"""Submits one element: its arguments, its number, and whether to wait for room in the queue (else None if full)."""


class Map(Iterator[T], Generic[T]):
    """What `map` returns: an iterator over the values, in the order of the input.

    What was submitted runs even if nobody reads. Reading that ends early (`break`, an error, Ctrl-C) cancels what has
    not started, as `close` does; reading on then raises TaskCancelled. An element's error has its number as a note.

    Example:
        >>> kumi.map(pow, [2, 3], [5, 2]).results()
        [32, 9]
    """

    def __init__(
        self, submit: Submit[T], iterables: tuple[Iterable[Any], ...], ahead: int, timeout: float | None
    ) -> None:
        self._submit = submit
        self._elements: Iterator[tuple[Any, ...]] = zip(*iterables, strict=False)
        self._ahead = ahead
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._next_element: tuple[Any, ...] | None = None  # taken from the input, and then the queue was full
        self._tasks: deque[Task[T]] = deque()
        self._submitted = 0
        self._read = 0
        self._left = False
        try:
            self._fill(wait=False)
        except BaseException:
            self._abandon()
            raise

    def results(self) -> list[T]:
        """Waits for all elements and returns their values in order.

        Raises:
            TimeoutError: If `timeout=` was given to `map` and has passed.
            Exception: The error of the first element, in order, that failed; the rest is cancelled.
        """
        return list(self)

    def close(self) -> None:
        """Ends the reading: cancels what has not started."""
        if self._tasks or self._next_element is not None:
            self._left = True
        self._elements = iter(())
        self._next_element = None
        while self._tasks:
            self._tasks.pop().cancel()  # youngest first, so that no worker takes one up meanwhile

    def __iter__(self) -> Generator[T, None, None]:
        """Yields the values. A generator, because it learns of a `break`."""
        try:
            while True:
                try:
                    value = next(self)
                except StopIteration:
                    return
                yield value
        finally:
            self.close()

    def __next__(self) -> T:
        if self._left:
            raise TaskCancelled(f"this map was left after {self._read} of its elements and the rest was cancelled")
        try:
            self._fill(wait=True)
            if self._tasks:
                return self._take()
        except BaseException:
            self._abandon()
            raise
        raise StopIteration

    def __del__(self) -> None:
        if getattr(self, "_read", 0):
            self.close()

    def __repr__(self) -> str:
        return f"<Map {self._submitted} submitted, {self._read} read>"

    def _fill(self, *, wait: bool) -> None:
        """Submits as far ahead as allowed. Waits for room in the queue only where there would be nothing to read."""
        while len(self._tasks) < self._ahead:
            if self._next_element is None:
                self._next_element = next(self._elements, None)
            if self._next_element is None:
                self._elements = iter(())  # a zip asked again after its end would take from the iterables again
                return
            task = self._submit_element(self._next_element, wait and not self._tasks)
            if task is None:
                return
            self._tasks.append(task)
            self._next_element = None
            self._submitted += 1

    def _submit_element(self, element: tuple[Any, ...], wait: bool) -> Task[T] | None:
        try:
            return self._submit(element, self._submitted, wait)
        except Exception as error:
            _add_number(error, self._submitted)
            raise

    def _take(self) -> T:
        task = self._tasks[0]
        if self._deadline is not None and not task.wait(max(0.0, self._deadline - time.monotonic())):
            raise TimeoutError(f"element {self._read} was not done within the {self._timeout} seconds of this map")
        try:
            value = task.result()
        except BaseException as error:
            if task.done():
                _add_number(error, self._read)
            raise
        self._tasks.popleft()
        self._read += 1
        return value

    def _abandon(self) -> None:
        self._left = True
        self.close()


def elements_ahead(iterables: tuple[Iterable[Any], ...], buffersize: int | None, workers: int) -> int:
    """How many elements a map submits before they are read.

    Args:
        iterables: The map's input.
        buffersize: What the user said; None: everything there is if all of the input has a length (up to
            `AHEAD_MAX`), else 32 elements for each worker, which keep it busy also when they are short.
        workers: The most workers there may be.

    Raises:
        TypeError, ValueError: If `buffersize` is not a whole number of at least 1, or there is no input.
    """
    if not iterables:
        raise TypeError("map() needs at least one iterable after the function")
    if buffersize is None:
        return AHEAD_MAX if all(isinstance(iterable, Sized) for iterable in iterables) else 32 * workers
    if isinstance(buffersize, bool) or not isinstance(buffersize, int):
        raise TypeError(f"buffersize must be a whole number of at least 1, or None, not {buffersize!r}")
    if buffersize < 1:
        raise ValueError(f"buffersize must be at least 1, not {buffersize}")
    return buffersize


def _add_number(error: BaseException, number: int) -> None:
    error.add_note(f"in element {number} of the map, counted from 0")
