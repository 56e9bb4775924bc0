"""Eight tasks share one array of 100 MB: how often is it copied, and how long does it take?

Copies are counted as memory: the growth of this process and its workers together while the tasks' array is kept, where
what several of them map counts once (PSS).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from benchmarks import large
from benchmarks.harness import Answer, Effort, Row, compare
from benchmarks.machine import family_bytes
from benchmarks.peers import Kumi, Pool, Reacher, opened
from benchmarks.tasks import pages_read

TASKS = 8
COPIES_MOST = 1.5  # between one and two; that the workers load numpy counts too


def answer(effort: Effort, peers: Sequence[type[Pool]]) -> Answer:
    """Count copies, and measure kumi against one copy and each peer."""
    array, numbers = large.array_of(0), count(1)

    def ask(pool: Reacher) -> object:
        array[-1] = number = next(numbers)
        value = pool.share(array[:])
        if pool.each(pages_read, [value] * TASKS) != [number] * TASKS:
            raise RuntimeError(f"{pool.name} gave a wrong array to its tasks")
        return value

    def copies() -> list[Row]:
        allowed = large.ARRAY_BYTES / 1e6
        pairs = [(allowed, _growth(ask)) for _ in range(3)]
        return [compare("memory of one copy", "MB", pairs, target=COPIES_MOST)]

    question = f"{TASKS} tasks that share an array of 100 MB"
    return large.answer(question, effort, peers, ask, target=None, more=copies)


def _growth(ask: large.Ask) -> float:
    with opened(Kumi, large.WORKERS) as pool:
        before = family_bytes()
        value = ask(pool)
        grown = family_bytes() - before
        del value
    return grown / 1e6
