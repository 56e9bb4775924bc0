"""The task that runs here, as this process knows it. Every worker imports this file; `inside` is what users see.

A worker's core keeps the task that runs. In a process that runs tasks by itself each thread has its own, and so has
what asyncio starts in it.
"""

from _contextvars import ContextVar

from kumi._core import nested as _nested
from kumi._core import report as _report
from kumi._core import running as _running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from kumi._core import Pool
    from kumi.seeds import Seeds


class Here:
    """A task that this process runs by itself, for as long as the block lasts.

    Args:
        pool: Whose task it is.
        number: The task's id.
    """

    def __init__(self, pool: "Pool", number: int) -> None:
        self.running = (number, 1, f"{pool.name}-0", dict[str, "Any"]())
        self._pool = pool

    def report(self, payload: bytes) -> None:
        """What the task says of itself."""
        self._pool.report_job(self.running[0], payload)

    def __enter__(self) -> None:
        self._token = _here.set(self)

    def __exit__(self, *_: object) -> None:
        _here.reset(self._token)


may_run = False  # whether tasks run in this process at all; set where they begin to

_here: "ContextVar[Here | None]" = ContextVar("kumi_here", default=None)


def running() -> "tuple[int, int, str, dict[str, Any]] | None":
    """The task that runs here, as `_core.running` tells it; None: none does."""
    here = _here.get()
    return _running() if here is None else here.running


def reporter() -> "Callable[[bytes], None]":
    """What takes the reports of the task that runs here."""
    here = _here.get()
    return _report if here is None else here.report


def carry(carried: "dict[str, Any]") -> None:
    """Gives the task that runs here what came with its arguments."""
    found = running()
    if found is not None:
        found[3].update(carried)


def seeds() -> "Seeds | None":
    """What numbers the streams of the tasks that the task that runs here submits; None: it has no stream itself."""
    found = running()
    if found is None:
        return None
    notes = found[3]
    if "seeds" not in notes and "stream" in notes:
        from kumi.seeds import Seeds

        notes["seeds"] = Seeds(notes["stream"])
    return notes.get("seeds")


def is_interlude() -> bool:
    """Whether something else in this process waits for the task that runs here, to go on afterwards."""
    return _here.get() is not None or _nested()
