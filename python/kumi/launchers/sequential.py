"""No workers at all."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from kumi import current, serial
from kumi._core import Pool

if TYPE_CHECKING:
    from kumi.serial import Parcel


@dataclass(frozen=True, slots=True)
class Sequential:
    """Runs every task in this process, inside the call that submits it: for debugging.

    Arguments and results are pickled all the same, so that a program that works here works with workers too.

    Example:
        >>> with kumi.Controller(kumi.Sequential()) as crew:
        ...     crew.submit(abs, -3).result()
        3
    """


class Guest(Protocol):
    """What runs tasks in a process that is not there for them."""

    def load(self, payload: bytes, /) -> Any:
        """Unpickles a function."""

    def prepare(self, function: Any, payload: bytes, /) -> "tuple[str, bytes]":
        """Calls it for what it leaves behind in the process. The traceback and the pickled error, if it fails."""

    def run_as_guest(self, function: Any, payload: bytes, /) -> "tuple[bool, bytes | Parcel, bytes]":
        """Calls it, and puts back what that has changed in the process. Success, outcome, and what it warned of."""


# A worker keeps a function that it has unpickled, with whatever that remembers between calls; so does this process.
@lru_cache(maxsize=128)
def _loaded(load: Callable[[bytes], Any], function: bytes) -> Any:
    return load(function)


def run_one(pool: Pool, executor: Guest, resolve: Callable[[int], Any]) -> None:
    """Runs the oldest task that waits: the caller's own, unless another thread has taken that and left its own."""
    job = pool.next_job()
    if job is None:
        return
    number, function, payload, everywhere = job
    started, clock = time.time(), time.perf_counter()
    success, outcome, warned = True, serial.dumps(None), b""
    with serial.resolving(resolve):
        call = _loaded(executor.load, function)
        if everywhere:
            error, failure = executor.prepare(call, payload)
            success, outcome = (False, failure) if error else (success, outcome)
        else:
            with current.Here(pool, number):
                success, outcome, warned = executor.run_as_guest(call, payload)
    pool.finish_job(number, success, outcome, (started, time.perf_counter() - clock), warned)
