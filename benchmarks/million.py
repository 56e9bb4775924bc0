"""How long does a map of a million no-op tasks take on two workers, until `results()` has collected all?"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness import Answer, Effort, compare, seconds_of
from benchmarks.peers import Kumi, Pool, opened
from benchmarks.tasks import echo
from benchmarks.throughput import WORKERS

TASKS = 1_000_000
SECONDS_BUDGET = 10.0
TASKS_PER_SECOND = 2_500_000  # of effort, at most
CAVEATS = [
    "Sized input: up to a million of the tasks wait at once. Every value is checked, outside of the measured time."
]


class Mapping(Kumi):
    """The subject, by `map`."""

    def run(self, count: int) -> list[int]:
        """Submit at once, then collect."""
        values: list[int] = self._crew.map(echo, range(count)).results()
        return values


def answer(effort: Effort, _peers: Sequence[type[Pool]]) -> Answer:
    """Measure against ten seconds a million; fewer tasks have as much less."""
    count = min(TASKS, int(effort.seconds * TASKS_PER_SECOND))
    allowed = SECONDS_BUDGET * count / TASKS
    with opened(Mapping, WORKERS) as pool:
        pairs = [(allowed, _seconds(pool, count)) for _ in range(effort.rounds // 2)]
    row = compare(f"{allowed:g} s allowed for {count:,} tasks", "s", pairs, budget=1.0)
    return Answer("A million waiting tasks", "at most", [row], {}, CAVEATS)


def _seconds(pool: Mapping, count: int) -> float:
    values: list[int] = []
    seconds = seconds_of(lambda: values.extend(pool.run(count)))
    if values != list(range(count)):
        raise RuntimeError("a map lost a value")
    return seconds
