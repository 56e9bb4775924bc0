"""What does `seed=` cost? The same no-op tasks on two local workers, with a seed and without."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.harness import Answer, Effort, Row, alternate, compare, seconds_of
from benchmarks.peers import Kumi, Pool, opened
from benchmarks.tasks import draw
from benchmarks.throughput import WORKERS, rate, tasks_in

BUDGET = 0.5
CAVEATS = [
    "Each task has a stream of its own. In the first row workers have not imported `random`, so nothing is set.",
    "In the second they have; setting its Mersenne Twister alone takes some 4 us.",
]


class Seeded(Kumi):
    """The subject, with a seed for all tasks."""

    name = "kumi with seed="

    def start(self) -> None:
        super().start()
        self.submit = self._crew.with_options(seed=1).submit


def answer(effort: Effort, _peers: Sequence[type[Pool]]) -> Answer:
    """Measure both round by round, with tasks that do nothing and with tasks that draw a number."""
    rows = [
        _row("no-op, without a seed", effort, rate, BUDGET),
        _row("a task that draws, without a seed", effort, _rate_of_draws, None),
    ]
    return Answer("Tasks per second with a seed, two local workers", "at least", rows, {}, CAVEATS)


def _row(against: str, effort: Effort, measure: Callable[[Kumi, int], float], budget: float | None) -> Row:
    with opened(Kumi, WORKERS) as plain, opened(Seeded, WORKERS) as seeded:
        count = tasks_in(seeded, effort.seconds)
        pairs = alternate(lambda: measure(plain, count), lambda: measure(seeded, count), effort.rounds)
    return compare(against, "tasks/s", pairs, budget=budget)


def _rate_of_draws(pool: Kumi, count: int) -> float:
    return count / seconds_of(lambda: pool.each(draw, [0] * count))
