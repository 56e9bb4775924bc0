"""How long does a task take whose argument is an array of 100 MB?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from benchmarks import large
from benchmarks.harness import Answer, Effort
from benchmarks.peers import Pool, Reacher
from benchmarks.tasks import pages_read


def answer(effort: Effort, peers: Sequence[type[Pool]]) -> Answer:
    """Measure kumi against a copy and each peer."""
    array, numbers = large.array_of(0), count(1)

    def ask(pool: Reacher) -> None:
        array[-1] = number = next(numbers)
        # Another object each time, because joblib would not look at the same one again.
        if pool.each(pages_read, [array[:]]) != [number]:
            raise RuntimeError(f"{pool.name} gave a wrong array to its task")

    return large.answer("One task with an argument of 100 MB", effort, peers, ask)
