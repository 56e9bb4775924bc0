"""What the workers run: importable functions, small enough that only the pool's own cost is left."""

from __future__ import annotations

import os
import select


def echo(value: int) -> int:
    """Return `value`: a no-op whose result can still be checked."""
    return value


def process_id() -> int:
    """Return the process that runs this task. A Python function, because Ray takes no builtin ones."""
    return os.getpid()


def hold(path: str, seconds: float) -> bool:
    """Keep the worker busy until something is written to the FIFO at `path`, at most `seconds`; say if it was."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
