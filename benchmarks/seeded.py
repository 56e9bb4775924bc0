"""What does `seed=` cost? The same no-op tasks on two local workers, with a seed and without."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness import Answer, Effort, alternate, compare
from benchmarks.peers import Kumi, Pool, opened
from benchmarks.throughput import WORKERS, rate, tasks_in

BUDGET = 0.5
CAVEATS = ["Each task with a seed has a stream of its own; `random` is set for it before it runs, and put back."]


class Seeded(Kumi):
    """The subject, with a seed for all tasks."""

    name = "kumi with seed="

    def start(self) -> None:
        super().start()
        self.submit = self._crew.with_options(seed=1).submit


def answer(effort: Effort, _peers: Sequence[type[Pool]]) -> Answer:
    """Measure both round by round."""
    with opened(Kumi, WORKERS) as plain, opened(Seeded, WORKERS) as seeded:
        counts = tasks_in(plain, effort.seconds), tasks_in(seeded, effort.seconds)
        pairs = alternate(lambda: rate(plain, counts[0]), lambda: rate(seeded, counts[1]), effort.rounds)
    row = compare("kumi without a seed", "tasks/s", pairs, budget=BUDGET)
    return Answer("No-op tasks per second with a seed, two local workers", "at least", [row], {}, CAVEATS)
