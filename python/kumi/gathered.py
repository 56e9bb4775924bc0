"""Several tasks as one Future: what a call is that the workers of several controllers make."""

import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from typing import Any

from kumi import loops
from kumi.completed import moment, seconds_until
from kumi.task import Task
from kumi.timeouts import seconds


class Gathered(Future[None]):
    """Several tasks as one: done, with None or the first error in their order, when all of them are. Can be awaited.

    Args:
        tasks: Of any controllers.

    Example:
        >>> kumi.ControllerGroup(small, large).everywhere(setattr, kumi.state, "factor", 3).result()
    """

    def __init__(self, tasks: Sequence[Task[Any]]) -> None:
        super().__init__()
        self._tasks = tuple(tasks)
        self._left = len(self._tasks)
        self._counting = threading.Lock()
        for task in self._tasks:
            task.add_done_callback(self._count)

    def result(self, timeout: float | None = None) -> None:
        """Waits for the tasks, for so many seconds at most. Raises the error of the first that failed.

        Raises:
            TimeoutError: If they are not done in time.
        """
        error = self.exception(timeout)
        try:
            if error is not None:
                raise error
        finally:
            del self, error  # the traceback holds this frame: without this, the two would hold each other

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Waits as `result` does, and returns the error of the first that failed."""
        deadline = moment(seconds(timeout))
        if not all(task.wait(seconds_until(deadline)) for task in self._tasks):
            raise TimeoutError(f"the workers of all controllers had not made the call within {timeout} seconds")
        # Asked for only now: a failure that nobody asks for is told as that of a single task is.
        records = (task.record for task in self._tasks)
        return next((record.error for record in records if record is not None and record.error is not None), None)

    def done(self) -> bool:
        """Whether all of them are done."""
        return all(task.done() for task in self._tasks)

    def cancel(self) -> bool:
        """Cancels the tasks that are not done. Returns whether any was cancelled."""
        cancelled = [task.cancel() for task in self._tasks]
        return any(cancelled)

    def __await__(self) -> Generator[Any, None, None]:
        """Waits without blocking the event loop. Cancelling the awaiter cancels the tasks."""
        yield from self._wait_in_loop().__await__()
        for task in self._tasks:
            task.result()

    async def _wait_in_loop(self) -> None:
        waiting = loops.here()
        try:
            for task in self._tasks:
                await waiting.wait(task.watch)
        except waiting.Cancelled:
            self.cancel()
            raise

    def _count(self, _: "Future[Any]") -> None:
        with self._counting:
            self._left -= 1
            if self._left:
                return
        self.set_result(None)
