"""Do workers get on with what was submitted while the host is in a C call that holds the GIL?

The host sleeps, once in Python, which lets go of the GIL, and once in C, which does not. Tasks return when they ran, so
the rate is the workers' own: from the end of submitting to the last task, whenever the host collects.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence

from benchmarks.harness import Answer, Effort, alternate, compare, seconds_of
from benchmarks.peers import Kumi, Pool, opened
from benchmarks.tasks import moment
from benchmarks.throughput import WORKERS

BUDGET = 0.95
TASKS_PER_SECOND = 10_000  # of effort: what two workers do in half the time
CALM = 4.0  # the host sleeps so many times longer than the tasks should take
CAVEATS = ["Tasks of some 50 us, so that most of them wait when all are submitted."]

Sleep = Callable[[float], object]


def answer(effort: Effort, _peers: Sequence[type[Pool]]) -> Answer:
    """Measure both round by round."""
    count = int(effort.seconds * TASKS_PER_SECOND)
    with opened(Kumi, WORKERS) as pool:
        seconds = CALM * seconds_of(lambda: pool.each(moment, [0] * count))
        pairs = alternate(
            lambda: _rate(pool, count, time.sleep, seconds),
            lambda: _rate(pool, count, sleep_with_gil, seconds),
            effort.rounds,
        )
    row = compare("while it does not", "tasks/s", pairs, budget=BUDGET)
    return Answer("Tasks per second of two workers while the host holds the GIL", "at least", [row], {}, CAVEATS)


def sleep_with_gil(seconds: float) -> None:
    """Sleep without letting go of the GIL."""
    ctypes.PyDLL(None).poll(None, 0, int(seconds * 1000))


def _rate(pool: Kumi, count: int, sleep: Sleep, seconds: float) -> float:
    tasks = [pool.submit(moment, 0) for _ in range(count)]
    began = time.time()
    sleep(seconds)
    ran = [end for end in pool.collect(tasks) if end > began]
    return len(ran) / (max(ran) - began)
