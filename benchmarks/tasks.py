"""What the workers run: importable functions, small enough that only the pool's own cost is left."""

from __future__ import annotations

import functools
import importlib
import os
import select
import time
from typing import Any


def echo(value: int) -> int:
    """Return `value`: a no-op whose result can still be checked."""
    return value


def draw(_: int) -> float:
    """Return a random number. `random` comes with the first call, so that other tasks do not find it."""
    return float(importlib.import_module("random").random())


def moment(_: int) -> float:
    """Work for some 50 us; return when it is done, in seconds of Unix time."""
    sum(range(3000))
    return time.time()


def process_id() -> int:
    """Return the process that runs this task. A Python function, because Ray takes no builtin ones."""
    return os.getpid()


def pages_read(array: Any) -> float:
    """Read a number of every page of an array of floats, and the last one, which is returned."""
    array[::512].sum()
    return float(array[-1])


@functools.cache
def _array(size: int) -> Any:
    return importlib.import_module("numpy").zeros(size // 8) + 1


def array_kept(wanted: tuple[int, int]) -> Any:
    """Return an array of so many bytes, made by an earlier call, whose last number is the other one that is wanted."""
    size, number = wanted
    array = _array(size)
    array[-1] = number
    return array


def hold(path: str, seconds: float) -> bool:
    """Keep the worker busy until something is written to the FIFO at `path`, at most `seconds`; say if it was."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
