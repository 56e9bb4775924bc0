"""What a running task says of itself, as the host reads it: the latest, then each newer one, until the task is done."""

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

from kumi import loops, serial
from kumi._core import Handle
from kumi.errors import SerializationError


class Reports:
    """What `Task.reports` returns: an iterable, for `for` and for `async for`.

    Gives the latest report, if there is one, and then each newer one as it comes, until the task is done. What is
    replaced before the reader has come back for it is passed over.

    Example:
        >>> async for share_done in task.reports():
        ...     progress_bar.update(share_done)
    """

    def __init__(self, task: Handle) -> None:
        self._task = task

    def __iter__(self) -> Iterator[Any]:
        seen = 0
        while (news := self._task.next_report(seen)) is not None:
            seen, payload = news
            yield loads(payload)

    async def __aiter__(self) -> AsyncIterator[Any]:
        seen = 0
        while True:
            done = self._task.done()  # asked first: what comes between is found by the next look
            news = self._task.last_report()
            if news is not None and news[0] > seen:
                seen, payload = news
                yield loads(payload)
            elif done:
                return
            else:
                await loops.here().wait(partial(self._task.watch_report, seen))


def loads(payload: bytes) -> Any:
    """Unpickles a report.

    Raises:
        SerializationError: If this process cannot.
    """
    try:
        return serial.loads(payload)
    except Exception as error:
        text = f"a report arrived but cannot be unpickled in this process: {serial.describe(error)}"
        raise SerializationError(text) from error
