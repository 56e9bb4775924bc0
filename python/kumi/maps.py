"""One function over many elements: submitted ahead of the reader, read in order or as they finish.

Knows tasks, and of controllers only a callable that submits one element. Elements are taken from the user's iterables
in the thread that reads the Map and in no other: an iterator need not be safe for threads.
"""

import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeVar

from kumi._core import Group
from kumi.completed import Finished, seconds_until
from kumi.errors import TaskCancelled
from kumi.progress import Progress
from kumi.task import Task
from kumi.timeouts import seconds

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
S = TypeVar("S")
OnError = Literal["raise", "return"]

# So many elements of an input that has a length are submitted before the first is read: the million short tasks of
# one map keep the workers busy, and a range of a billion does not fill the memory.
AHEAD_MAX = 100_000

Submit = Callable[[tuple[Any, ...], int, bool], Task[T] | None]
"""Submits one element: its arguments, its number, and whether to wait for room in the queue (else None if full)."""


class Map(Iterator[T], Generic[T]):
    """What `map` returns: an iterator over the values, in the order of the input, for `for` and `async for`.

    What was submitted runs even if nobody reads. Reading that ends early (`break`, an error, Ctrl-C) cancels the rest,
    as `close` does; reading on then raises TaskCancelled. While somebody reads, so does the first element that
    fails, whichever it is: its error is raised, with its number as a note, after the values that were done before.

    Example:
        >>> kumi.map(pow, [2, 3], [5, 2]).results()
        [32, 9]
    """

    def __init__(
        self,
        submit: Submit[T],
        group: Group,
        iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...],
        ahead: int,
        *,
        timeout: float | None = None,
        on_error: OnError = "raise",
        progress: bool = False,
        ended: Callable[[], None] | None = None,
    ) -> None:
        self._ended = ended
        self._submit = submit
        self._group = group
        self._united = False
        self._source = _Source(iterables)
        self._ahead = ahead
        self._timeout = seconds(timeout)
        self._deadline = None if self._timeout is None else time.monotonic() + self._timeout
        self._raises = _checked(on_error) == "raise"
        self._progress = Progress(self._source.total, shown=progress)
        self._next_element: tuple[Any, ...] | None = None  # taken from the input, and then the queue was full
        self._coming: asyncio.Future[tuple[Any, ...] | None] | None = None  # the next one of asynchronous input
        self._tasks: deque[Task[T]] = deque()
        self._submitted = 0
        self._read = 0
        self._left = False
        try:
            if not self._source.is_async:
                self._fill()
        except BaseException:
            self._abandon()
            raise

    def results(self, *, progress: bool | None = None) -> list[T]:
        """Waits for all elements and returns their values in order.

        Args:
            progress: Whether to show a bar, which needs tqdm; None: as `map` was told.

        Raises:
            TimeoutError: If `timeout=` was given to `map` and has passed.
            Exception: The error of the first element that failed; the rest was cancelled at once.
            ModuleNotFoundError: If a bar is wanted and tqdm is not installed.
        """
        if progress is not None:
            self._progress.shown = progress
        if not self._progress.shown:
            return list(self)
        values: dict[int, T] = {}
        for task in self.as_completed():
            values[task.index] = self._value_of(task, task.index, ())
        return [values[index] for index in sorted(values)]

    def as_completed(self) -> "MapCompleted[T]":
        """Gives the tasks as they finish, to `for` and to `async for`; `task.index` is the element's number.

        If `map` was told `on_error="raise"`, the first failure is raised, and the rest is cancelled.

        Example:
            >>> for task in kumi.map(pow, [2, 3], [5, 2]).as_completed():
            ...     print(task.index, task.result())
        """
        return MapCompleted(self)

    def close(self) -> None:
        """Ends the reading: cancels what is not done."""
        if self._tasks or self._next_element is not None:
            self._left = True
        self._source.close()
        if self._coming is not None:
            self._coming.cancel()
        self._progress.close()
        self._next_element = None
        self._end()
        if self._tasks:
            self._group.cancel()
            self._tasks.clear()

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
        self._source.refuse_async()
        self._begin()
        try:
            self._fill(wait=True)
            if self._tasks:
                return self._take()
        except BaseException:
            self._abandon()
            raise
        self.close()
        raise StopIteration

    async def __aiter__(self) -> AsyncGenerator[T, None]:
        """Yields the values without blocking the event loop."""
        self._begin()
        try:
            while await self._fill_async():
                yield await self._take_async()
        except BaseException:
            self._abandon()
            raise
        finally:
            self.close()

    def __del__(self) -> None:
        if getattr(self, "_read", 0):
            self.close()
        else:
            self._end()

    def __repr__(self) -> str:
        return f"<Map {self._submitted} submitted, {self._read} read>"

    def _end(self) -> None:
        ended, self._ended = getattr(self, "_ended", None), None
        if ended is not None:
            ended()

    def _begin(self) -> None:
        """Somebody reads: from now on a failure, whichever comes first, ends what nobody will read any more."""
        self._refuse_left()
        if self._raises and not self._united:
            self._united = True
            self._group.unite()

    def _refuse_left(self) -> None:
        if self._left:
            raise TaskCancelled(f"this map was left after {self._read} of its elements and the rest was cancelled")

    def _fill(self, *, wait: bool = False, also: int = 0) -> None:
        """Submits as far ahead as allowed; `also` are in flight besides. Waits for room only if nothing is."""
        while len(self._tasks) + also < self._ahead:
            if self._next_element is None:
                self._next_element = self._source.next()
            if self._next_element is None or not self._submit_next(wait=wait and not self._tasks and not also):
                return

    async def _fill_async(self, also: int = 0) -> bool:
        """Like `_fill`, without blocking the event loop. Returns whether anything is in flight."""
        import asyncio

        while len(self._tasks) + also < self._ahead:
            if self._next_element is None and not await self._take_element(may_wait=not self._tasks and not also):
                break
            if not self._submit_next(wait=False):
                if self._tasks or also:
                    break
                await asyncio.to_thread(self._submit_next, wait=True)
        return bool(self._tasks or also)

    async def _take_element(self, *, may_wait: bool) -> bool:
        """Gets the next element in hand. False if there is none, or none yet and it may not wait."""
        import asyncio

        if not self._source.is_async:
            self._next_element = self._source.next()
            return self._next_element is not None
        self._coming = self._coming or asyncio.ensure_future(self._source.next_async())
        if not may_wait:
            await asyncio.sleep(0)  # input that is there arrives now
            if not self._coming.done():
                return False
        self._next_element, self._coming = await self._coming, None
        return self._next_element is not None

    async def _meanwhile(self, waiting: Awaitable[S], also: int = 0) -> S:
        """Waits, and submits the asynchronous input that arrives meanwhile."""
        import asyncio

        future = asyncio.ensure_future(waiting)
        try:
            while not future.done():
                events: set[asyncio.Future[Any]] = {future}
                if self._coming is not None and not self._coming.done():
                    events.add(self._coming)
                await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
                if not future.done():
                    await self._fill_async(also)
            return future.result()
        finally:
            future.cancel()

    def _submit_next(self, *, wait: bool) -> bool:
        assert self._next_element is not None, "called with an element in hand"
        try:
            task = self._submit(self._next_element, self._submitted, wait)
        except Exception as error:
            _add_number(error, self._submitted)
            raise
        if task is None:
            return False
        self._tasks.append(task)
        self._next_element = None
        self._submitted += 1
        return True

    def _take(self) -> T:
        task = self._tasks[0]
        if self._deadline is not None and not task.wait(seconds_until(self._deadline)):
            self._refuse_late()
        return self._taken()

    async def _take_async(self) -> T:
        import asyncio

        task = self._tasks[0]
        scope = asyncio.timeout(seconds_until(self._deadline))
        try:
            async with scope:
                await (self._meanwhile(task) if self._source.is_async else task)
        except Exception:
            if scope.expired():
                self._refuse_late()
            if not task.done():
                raise  # input that failed
        return self._taken()

    def _taken(self) -> T:
        """The value of the oldest task, which is done or may be waited for."""
        value = self._value_of(self._tasks[0], self._read, enumerate(self._tasks, self._read))
        self._tasks.popleft()
        self._count()
        return value

    def _count(self) -> None:
        self._read += 1
        self._progress.advance()

    def _value_of(self, task: Task[T], number: int, others: Iterable[tuple[int, Task[T]]]) -> T:
        """The value of a task that is done or may be waited for; if it ended because another one failed, that error."""
        try:
            return task.result()
        except Exception as error:
            if not task.done():
                raise
            culprit = self._culprit(others) if self._raises and isinstance(error, TaskCancelled) else None
            if culprit is None or culprit[1] is task:
                _add_number(error, number)
                if self._raises:
                    raise
                return error  # type: ignore[return-value] # as `on_error="return"` asks for
        number, task = culprit
        return self._value_of(task, number, ())

    def _culprit(self, among: Iterable[tuple[int, Task[T]]]) -> tuple[int, Task[T]] | None:
        failed = self._group.first_failure()
        return next(((number, task) for number, task in among if task.id == failed), None)

    def _refuse_late(self) -> NoReturn:
        raise TimeoutError(f"element {self._read} was not done within the {self._timeout} seconds of this map")

    def _abandon(self) -> None:
        self._left = True
        self.close()


class MapCompleted(Generic[T]):
    """What `Map.as_completed` returns: the tasks as they finish, for `for` and `async for`."""

    def __init__(self, made_by: Map[T]) -> None:
        self._map = made_by
        self._finished: Finished[Task[T]] = Finished()
        self._open: dict[int, Task[T]] = {}

    def __iter__(self) -> Generator[Task[T], None, None]:
        whole = self._map
        whole._source.refuse_async()
        whole._begin()
        try:
            while True:
                whole._fill(wait=True, also=len(self._open))
                self._expect()
                if not self._open:
                    return
                yield self._taken(self._finished.get(seconds_until(whole._deadline)))
        finally:
            self._close()

    async def __aiter__(self) -> AsyncGenerator[Task[T], None]:
        whole = self._map
        whole._begin()
        try:
            while await whole._fill_async(len(self._open)):
                self._expect()
                finished = self._finished.get_async(seconds_until(whole._deadline))
                task = await (whole._meanwhile(finished, len(self._open)) if whole._source.is_async else finished)
                self._expect()
                yield self._taken(task)
        finally:
            self._close()

    def _expect(self) -> None:
        """Takes over what the map has submitted."""
        tasks = self._map._tasks
        first = self._map._submitted - len(tasks)
        for index, task in enumerate(tasks, first):
            task.index = index
            self._open[index] = task
            self._finished.expect(task)
        tasks.clear()

    def _taken(self, task: Task[T] | None) -> Task[T]:
        if task is None:
            raise TimeoutError(
                f"{len(self._open)} elements were not done within the {self._map._timeout} seconds of this map"
            )
        if self._map._raises:
            self._map._value_of(task, task.index, self._open.items())
        del self._open[task.index]
        self._map._count()
        return task

    def _close(self) -> None:
        if self._open:
            self._map._left = True
            self._map._group.cancel()
            self._open.clear()
        self._map.close()


class _Source:
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


def elements_ahead(
    iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...], buffersize: int | None, workers: int
) -> int:
    """How many elements a map submits before they are read.

    Args:
        iterables: The map's input.
        buffersize: What the user said; None: everything there is if all of the input has a length (up to
            `AHEAD_MAX`), else 32 elements for each worker, which keep it busy also when they are short.
        workers: The most workers there may be.

    Raises:
        TypeError, ValueError: If `buffersize` is not a whole number of at least 1, or there is no input, or none that
            can be iterated.
    """
    if not iterables:
        raise TypeError("map() needs at least one iterable after the function")
    for iterable in iterables:
        if not isinstance(iterable, Iterable | AsyncIterable) and not hasattr(type(iterable), "__getitem__"):
            raise TypeError(
                f"map() takes iterables after the function, such as lists, not {iterable!r}; for an argument that is "
                "the same each time: itertools.repeat, or a lambda"
            )
    if buffersize is None:
        return AHEAD_MAX if all(isinstance(iterable, Sized) for iterable in iterables) else 32 * workers
    if isinstance(buffersize, bool) or not isinstance(buffersize, int):
        raise TypeError(f"buffersize must be a whole number of at least 1, or None, not {buffersize!r}")
    if buffersize < 1:
        raise ValueError(f"buffersize must be at least 1, not {buffersize}")
    return buffersize


def _checked(on_error: OnError) -> OnError:
    if on_error not in ("raise", "return"):
        raise ValueError(f'on_error must be "raise" or "return", not {on_error!r}')
    return on_error


def _add_number(error: BaseException, number: int) -> None:
    error.add_note(f"in element {number} of the map, counted from 0")
