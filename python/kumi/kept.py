"""The pushed tasks of one controller, from `push` until their records are taken."""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from kumi.errors import ControllerError
from kumi.task import Record, Task


class Kept:
    """Holds pushed tasks by their ids and names."""

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

    def raise_first(self) -> None:
        """Raises the error of the first task that has failed, if any has."""
        with self._lock:
            tasks = list(self._tasks.values())
        for task in tasks:
            if task.done() and task.state() != "success":
                task.result()


class Records(Iterator[Record[Any]], AsyncIterator[Record[Any]]):
    """What `Controller.records` returns: takes records as tasks finish, until no pushed task is left.

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
