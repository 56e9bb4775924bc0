"""How long does a task take whose result is an array of 100 MB, when earlier results were dropped?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from benchmarks import large
from benchmarks.harness import Answer, Effort
from benchmarks.peers import Pool, Reacher
from benchmarks.tasks import array_kept, pages_read


def answer(effort: Effort, peers: Sequence[type[Pool]]) -> Answer:
    """Measure kumi against a copy and each peer."""
    numbers = count(1)

    def ask(pool: Reacher) -> None:
        number = next(numbers)
        if [pages_read(array) for array in pool.each(array_kept, [(large.ARRAY_BYTES, number)])] != [number]:
            raise RuntimeError(f"{pool.name} gave a wrong array back")

    return large.answer("One task with a result of 100 MB, earlier ones dropped", effort, peers, ask)
