"""The pushed tasks, from `push` until their records are taken, and what can be asked of them."""

import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Literal

from kumi.errors import ControllerError
from kumi.options import text
from kumi.task import Record, Task
from kumi.timeouts import seconds


class Kept:
    """Holds the pushed tasks of one controller by their ids and names."""

    def __init__(self) -> None:
        # Held while a task is submitted, so that whoever hears of its end finds it here; recursive, because what
        # runs in this process may push within a push.
        self._lock = threading.RLock()
        self._tasks: dict[int, Task[Any]] = {}
        self._names: set[str] = set()

    def add(self, name: str | None, submit: Callable[[], Task[Any]]) -> Task[Any]:
        """Submits a task and holds it.

        Raises:
            ControllerError: If a task of that name is held already.
        """
        with self._lock:
            if name in self._names:
                raise ControllerError(f"the name {name!r} is held by a task whose record was not popped yet")
            names = set() if name is None else {name}
            self._names |= names  # already now, in case that the task pushes one itself
            try:
                task = submit()
                self._tasks[task.id] = task
            except BaseException:
                self._names -= names
                raise
            return task

    def take(self, number: int) -> Task[Any] | None:
        """Hands out a task. None if its push was interrupted, so that nobody ever got it."""
        with self._lock:
            task = self._tasks.pop(number, None)
            if task is not None and task.name is not None:
                self._names.discard(task.name)
            return task

    def first_failed(self) -> Task[Any] | None:
        """The first task, in the order of submission, that has failed, if any has."""
        with self._lock:
            tasks = list(self._tasks.values())
        return next((task for task in tasks if task.done() and task.state() != "success"), None)


class Records(Iterator[Record[Any]], AsyncIterator[Record[Any]]):
    """What `records` returns: takes records as tasks finish, until no pushed task is left.

    Args:
        pop: Takes a record, waiting for so many seconds at most; None: until there is one or none is left.
        wait: Waits in async code; False: none is left.
    """

    def __init__(self, pop: Callable[[float | None], Record[Any] | None], wait: Callable[[], Awaitable[bool]]) -> None:
        self._pop = pop
        self._wait = wait

    def __next__(self) -> Record[Any]:
        record = self._pop(None)
        if record is None:
            raise StopIteration
        return record

    async def __anext__(self) -> Record[Any]:
        while (record := self._pop(0)) is None:
            if not await self._wait():
                raise StopAsyncIteration
        return record


class Keeper(ABC):
    """What can be asked of pushed tasks: the same of a controller and of a group of them."""

    @property
    @abstractmethod
    def empty(self) -> bool:
        """Whether no pushed task is left whose record was not popped, finished or not."""

    def wait(self, mode: Literal["all", "one"] = "all", timeout: float | None = None) -> bool:
        """Waits for pushed tasks.

        Args:
            mode: "all": until every one is done; "one": until one is.
            timeout: Seconds to wait at most; None: no limit.

        Returns:
            Whether it came so, and there is a record to pop. False at once if nothing was pushed.
        """
        if mode not in ("all", "one"):
            raise ValueError(f'mode must be "all" or "one", not {mode!r}')
        return self._wait_pushed(mode == "all", seconds(timeout))

    def pop(self, timeout: float | None = 0) -> Record[Any] | None:
        """Takes the record of the next pushed task that is done, in the order in which they finish.

        Of a group: from each controller that has one in turn.

        Args:
            timeout: Seconds to wait for one at most; None: until there is one, or no pushed task is left.
        """
        return self._take(seconds(timeout))

    def collect(self, on_error: Literal["return", "raise"] = "return") -> list[Record[Any]]:
        """Takes the records of all pushed tasks that are done, without waiting.

        Args:
            on_error: "return": a task that failed is a record like others; "raise": its error is raised, that of the
                first in the order of submission, and all the records stay where they are.
        """
        if on_error not in ("return", "raise"):
            raise ValueError(f'on_error must be "return" or "raise", not {on_error!r}')
        failed = self._first_failed() if on_error == "raise" else None
        if failed is not None:
            failed.result()
        return list(iter(self.pop, None))

    def records(self) -> Records:
        """Takes records as tasks finish, and waits until no pushed task is left. For `for` and for `async for`."""
        return Records(self.pop, self._wait_kept)

    def records_frame(self, library: Literal["pandas", "polars"] | None = None) -> Any:
        """Takes records as `collect` does, and returns them as a data frame.

        It has one row for each record and one column for each of its fields, with the same types whatever the rows are.

        Args:
            library: "pandas" or "polars"; None: pandas if it is installed, else polars.

        Raises:
            ModuleNotFoundError: If it is not installed. No record was taken then.
            ValueError: If no such library is known.

        Example:
            >>> crew.records_frame().groupby("status")["seconds"].sum()
        """
        from kumi.frames import maker

        make = maker(library)
        return make(self.collect())

    def cancel(self, *patterns: str) -> int:
        """Cancels tasks by name, waiting and running ones.

        Args:
            patterns: Names, or patterns of the shell's kind: `"fit_*"`, `"fold_[12]"`. `"*"` is every task, also those
                without a name.

        Returns:
            How many were cancelled. Those of a map count each; what they have submitted themselves does not.

        Example:
            >>> crew.with_options(name="fit").map(fit, folds)
            >>> crew.cancel("fit_*")
            5
        """
        for pattern in patterns:
            text("pattern", pattern)
        return self._cancel(patterns)

    @abstractmethod
    def _wait_pushed(self, every: bool, limit: float | None) -> bool:
        """Waits for so many seconds at most, as `wait` does."""

    @abstractmethod
    def _take(self, limit: float | None) -> Record[Any] | None:
        """Takes a record, and waits for so many seconds at most, as `pop` does."""

    @abstractmethod
    def _first_failed(self) -> Task[Any] | None:
        """The pushed task that was submitted first, of those that have failed and were not popped."""

    @abstractmethod
    async def _wait_kept(self) -> bool:
        """Whether a record may be popped now, after having waited for that if need be."""

    @abstractmethod
    def _cancel(self, patterns: tuple[str, ...]) -> int:
        """Cancels the tasks with such names, as `cancel` does."""
