"""One function over many elements: submitted ahead of the reader, read in order or as they finish.

Knows tasks, and of controllers only a callable that submits one element.
"""

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator, Iterable, Iterator, Sized
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeVar

from kumi import loops
from kumi._core import Group
from kumi.completed import Finished, Turns, moment, seconds_until
from kumi.errors import TaskCancelled
from kumi.feed import AT_ONCE, Feed, Source, Submit, add_number
from kumi.progress import Progress
from kumi.task import Task
from kumi.timeouts import seconds

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
S = TypeVar("S")
OnError = Literal["raise", "return"]
Others = Callable[[], Iterable[tuple[int, Task[T]]]]
"""Gives the tasks of a map that are in flight, with their numbers."""


class Map(Iterator[T], Generic[T]):
    """What `map` returns: an iterator over the values, in the order of the input, for `for` and `async for`.

    What was submitted runs even if nobody reads. Reading that ends early (`break`, an error, Ctrl-C) cancels the rest,
    as `close` does; reading on then raises TaskCancelled. While somebody reads, the first element that fails, whichever
    it is, cancels the rest as well: its error is raised, with its number as a note, after the values that were done
    before. With `on_error="return"` errors come as values. Several threads, or coroutines of one loop, may read: each
    value, or the error, is given to one of them; the others learn of an error by TaskCancelled.

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
        goes_on: Callable[[Feed[T]], bool] | None = None,
        timeout: float | None = None,
        on_error: OnError = "raise",
        progress: bool = False,
        ended: Callable[[], None] | None = None,
    ) -> None:
        self._ended = ended
        self._group = group
        self._reading = False
        self._source = Source(iterables)
        self._feed = Feed(submit, group, self._source)
        self._ahead = ahead
        self._timeout = seconds(timeout)
        self._deadline = moment(self._timeout)
        self._raises = _checked(on_error) == "raise"
        self._progress = Progress(self._source.total, shown=progress)
        self._coming: asyncio.Future[tuple[Any, ...] | None] | None = None  # the next one of asynchronous input
        self._left = False
        self._turns = Turns()
        self._open: dict[int, Task[T]] = {}  # what was taken over to be read as it finishes, and has not been given
        try:
            if not self._source.is_async:
                self._feed.fill(ahead)
                if goes_on is not None and goes_on(self._feed):
                    self._feed.go_on()
        except BaseException:
            self._abandon()
            raise

    def results(self, *, progress: bool | None = None) -> list[T]:
        """Waits for all elements that nobody has read, and returns their values in order.

        Args:
            progress: Whether to show a bar, which needs tqdm; None: as `map` was told.

        Raises:
            TimeoutError: If `timeout=` was given to `map` and has passed.
            TaskCancelled: If reading has ended early before.
            Exception: The error of the first element that failed; the rest was cancelled at once.
            ModuleNotFoundError: If a bar is wanted and tqdm is not installed.
        """
        if progress is not None:
            self._progress.shown = progress
        if not self._progress.shown:
            return list(self)
        values: dict[int, T] = {}
        for task in self.as_completed():
            values[task.index] = self._value_of(task, task.index)
        return [values[index] for index in sorted(values)]

    def as_completed(self) -> "MapCompleted[T]":
        """Gives the tasks as they finish, to `for` and to `async for`; `task.index` is the element's number.

        Of elements that nobody has read. Unless `map` was told `on_error="return"`, the first failure is raised, and
        the rest is cancelled. Several may read what this returns, and leave early, as with the map itself.

        Example:
            >>> for task in kumi.map(pow, [2, 3], [5, 2]).as_completed():
            ...     print(task.index, task.result())
        """
        return MapCompleted(self)

    def close(self) -> None:
        """Ends the reading, of whoever reads: cancels what is not done. To close again does nothing.

        Example:
            >>> values = kumi.map(pow, [2, 3], [5, 2])
            >>> next(values)
            32
            >>> values.close()
        """
        feed = self._feed
        unfinished = bool(feed.tasks or self._open) or feed.goes_on
        if unfinished or feed.next_element is not None:
            self._left = True
        feed.stop()
        self._source.close()
        if self._coming is not None:
            self._coming.cancel()
        self._progress.close()
        self._end()
        if unfinished:
            self._group.cancel()
            feed.tasks.clear()
            self._open.clear()

    def __iter__(self) -> Generator[T, None, None]:
        """Yields the values. A generator, because it learns of a `break`."""
        try:
            while True:
                try:
                    value = self.__next__()
                except StopIteration:
                    return
                yield value
        finally:
            self.close()

    def __next__(self) -> T:
        with self._turns.of_threads():
            if not self._reading or self._left or self._source.is_async:
                self._source.refuse_async()
                self._begin()
            feed = self._feed
            try:
                if not feed.exhausted:
                    self._fill()
                if feed.tasks:
                    return self._take()
            except BaseException:
                self._abandon()
                raise
            self.close()
            raise StopIteration

    async def __aiter__(self) -> AsyncGenerator[T, None]:
        """Yields the values without blocking the event loop."""
        loops.refuse_trio()
        try:
            while True:
                async with self._turns.of_coroutines():
                    self._begin()
                    if not await self._fill_async():
                        return
                    value = await self._take_async()
                yield value
        except BaseException:
            self._abandon()
            raise
        finally:
            self.close()

    def __del__(self) -> None:
        feed = getattr(self, "_feed", None)
        if feed is None:
            return
        if feed.read:
            self.close()
            feed.show_error()
        else:
            feed.forget()
            self._end()

    def __repr__(self) -> str:
        return f"<Map {self._feed.submitted} submitted, {self._feed.read} read>"

    def _end(self) -> None:
        ended, self._ended = getattr(self, "_ended", None), None
        if ended is not None:
            ended()

    def _begin(self) -> None:
        """Somebody reads: from now on a failure, whichever comes first, ends what nobody will read any more."""
        self._refuse_left()
        if self._raises and not self._reading:
            self._group.unite()
        self._reading = True

    def _refuse_left(self) -> None:
        if self._left:
            raise TaskCancelled(f"this map was left after {self._feed.read} of its elements and the rest was cancelled")

    def _fill(self, also: int = 0) -> None:
        """Sees to it that something is in flight, if there is anything left; `also` are besides."""
        feed = self._feed
        goes_on = feed.goes_on
        feed.raise_error()
        if not goes_on:
            feed.fill(self._ahead, wait=True, also=also)
        elif not feed.tasks and not also:
            if not feed.wait_for_task(seconds_until(self._deadline)):
                self._refuse_late()
            feed.raise_error()

    async def _fill_async(self, also: int = 0) -> bool:
        """Like `_fill`, without blocking the event loop. Returns whether anything is in flight."""
        import asyncio

        feed = self._feed
        feed.raise_error()
        if feed.goes_on:
            if not feed.tasks and not also:
                await asyncio.to_thread(feed.wait_for_task)
                feed.raise_error()
            return bool(feed.tasks or also)
        while len(feed.tasks) + also < self._ahead:
            if feed.next_element is None and not await self._take_element(may_wait=not feed.tasks and not also):
                break
            if not feed.submit_next(wait=False):
                if feed.tasks or also:
                    break
                await asyncio.to_thread(feed.submit_next, wait=True)
        return bool(feed.tasks or also)

    async def _take_element(self, *, may_wait: bool) -> bool:
        """Gets the next element in hand. False if there is none, or none yet and it may not wait."""
        import asyncio

        feed = self._feed
        if not self._source.is_async:
            feed.next_element = self._source.next()
            return feed.next_element is not None
        self._coming = self._coming or asyncio.ensure_future(self._source.next_async())
        if not may_wait:
            await asyncio.sleep(0)  # input that is there arrives now
            if not self._coming.done():
                return False
        feed.next_element, self._coming = await self._coming, None
        return feed.next_element is not None

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

    def _take(self) -> T:
        task = self._oldest()
        if self._deadline is not None and not task.wait(seconds_until(self._deadline)):
            self._refuse_late()
        return self._taken(task)

    async def _take_async(self) -> T:
        import asyncio

        task = self._oldest()
        scope = asyncio.timeout(seconds_until(self._deadline))
        try:
            async with scope:
                await (self._meanwhile(task) if self._source.is_async else task)
        except Exception:
            if scope.expired():
                self._refuse_late()
            if not task.done():
                raise  # input that failed
        return self._taken(task)

    def _oldest(self) -> Task[T]:
        try:
            return self._feed.tasks[0]
        except IndexError:  # another thread has closed the map
            self._refuse_left()
            raise

    def _taken(self, task: Task[T]) -> T:
        """The value of the oldest task, which is done or may be waited for."""
        value = self._value_of(task, self._feed.read, self._in_flight)
        with suppress(IndexError):  # another thread has closed the map
            self._feed.tasks.popleft()
        self._count()
        return value

    def _count(self) -> None:
        self._feed.count()
        self._progress.advance()

    def _value_of(self, task: Task[T], number: int, others: Others[T] | None = None) -> T:
        """The value of a task that is done or may be waited for.

        If the task was cancelled because one of the others, or the input, has failed: that error.
        """
        try:
            return task.result()
        except Exception as error:
            if not task.done():
                raise
            culprit = self._culprit(others) if others is not None and isinstance(error, TaskCancelled) else None
            if culprit is None or culprit[1] is task:
                add_number(error, number)
                if self._raises:
                    raise
                return error  # type: ignore[return-value] # as `on_error="return"` asks for
        number, task = culprit
        return self._value_of(task, number)

    def _culprit(self, others: Others[T]) -> tuple[int, Task[T]] | None:
        self._feed.raise_error()
        failed = self._group.first_failure() if self._raises else None
        return None if failed is None else next((found for found in others() if found[1].id == failed), None)

    def _in_flight(self) -> Iterable[tuple[int, Task[T]]]:
        return enumerate(tuple(self._feed.tasks), self._feed.read)  # a copy: a thread may add to them

    def _taken_over(self) -> Iterable[tuple[int, Task[T]]]:
        return tuple(self._open.items())

    def _refuse_late(self) -> NoReturn:
        raise TimeoutError(f"element {self._feed.read} was not done within the {self._timeout} seconds of this map")

    def _abandon(self) -> None:
        self._left = True
        self.close()


class MapCompleted(Generic[T]):
    """What `Map.as_completed` returns: the tasks as they finish, for `for` and `async for`."""

    def __init__(self, made_by: Map[T]) -> None:
        self._map = made_by
        self._finished: Finished[Task[T]] = Finished()
        self._next: int | None = None

    def __iter__(self) -> Generator[Task[T], None, None]:
        self._map._source.refuse_async()
        try:
            while (task := self._take()) is not None:
                yield task
        finally:
            self._map.close()

    async def __aiter__(self) -> AsyncGenerator[Task[T], None]:
        loops.refuse_trio()
        try:
            while (task := await self._take_async()) is not None:
                yield task
        finally:
            self._map.close()

    def _take(self) -> Task[T] | None:
        """Waits for the next one to finish. None if there is none."""
        whole = self._map
        with whole._turns.of_threads():
            self._begin()
            whole._fill(also=len(whole._open))
            self._expect()
            return self._taken(self._finished.get(seconds_until(whole._deadline))) if whole._open else None

    async def _take_async(self) -> Task[T] | None:
        """Like `_take`, without blocking the event loop."""
        whole = self._map
        async with whole._turns.of_coroutines():
            self._begin()
            if not await whole._fill_async(len(whole._open)):
                return None
            self._expect()
            finished = self._finished.get_async(seconds_until(whole._deadline))
            task = await (whole._meanwhile(finished, len(whole._open)) if whole._source.is_async else finished)
            self._expect()
            return self._taken(task)

    def _begin(self) -> None:
        self._map._begin()
        if self._next is None:
            self._next = self._map._feed.read

    def _expect(self) -> None:
        """Takes over what the map has submitted."""
        assert self._next is not None, "the reading has begun"
        whole = self._map
        while whole._feed.tasks:
            task = whole._feed.tasks.popleft()
            task.index = self._next
            self._next += 1
            whole._open[task.index] = task
            self._finished.expect(task)

    def _taken(self, task: Task[T] | None) -> Task[T]:
        whole = self._map
        if task is None:
            raise TimeoutError(
                f"{len(whole._open)} elements were not done within the {whole._timeout} seconds of this map"
            )
        if whole._raises:
            whole._value_of(task, task.index, whole._taken_over)
        whole._open.pop(task.index, None)  # another thread may have closed the map
        whole._count()
        return task


def have_lengths(iterables: Iterable[object]) -> bool:
    """Whether it is known how many elements there are."""
    return all(isinstance(iterable, Sized) for iterable in iterables)


def elements_ahead(
    iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...], buffersize: int | None, workers: int
) -> int:
    """How many elements a map submits before they are read.

    Args:
        iterables: The map's input.
        buffersize: What the user said; None: everything there is if all of the input has a length (up to
            `AT_ONCE`), else 32 elements for each worker, which keep it busy also when they are short.
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
        return AT_ONCE if have_lengths(iterables) else 32 * workers
    if isinstance(buffersize, bool) or not isinstance(buffersize, int):
        raise TypeError(f"buffersize must be a whole number of at least 1, or None, not {buffersize!r}")
    if buffersize < 1:
        raise ValueError(f"buffersize must be at least 1, not {buffersize}")
    return buffersize


def _checked(on_error: OnError) -> OnError:
    if on_error not in ("raise", "return"):
        raise ValueError(f'on_error must be "raise" or "return", not {on_error!r}')
    return on_error
