"""How many no-op tasks a second, submitted one by one, collected in order, on two local workers?"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness import Answer, Effort, Row, alternate, compare, rows_of, seconds_of
from benchmarks.peers import Kumi, Pool, checked, opened

WORKERS = 2
TARGETS = {"ProcessPoolExecutor": 10.0, "multiprocessing.Pool": 3.0}
BUDGETS = {"ProcessPoolExecutor": 20.0, "multiprocessing.Pool": 6.0, "R mirai": 40.0}
CAVEATS = [
    "Every pool works for the same time per round, so a fast one runs more tasks per round than a slow one.",
    "An importable function of one small integer, defaults, no seed; every value is checked inside the measured time.",
    "joblib has no call for a single task and gets batch_size=1; dask and Ray collect by their own bulk calls.",
]


def answer(effort: Effort, peers: Sequence[type[Pool]]) -> Answer:
    """Measure kumi against each peer, round by round."""
    rows, skipped = rows_of(peers, lambda kind: _duel(kind, effort))
    return Answer("No-op tasks per second, two local workers", "at least", rows, skipped, CAVEATS)


def _duel(kind: type[Pool], effort: Effort) -> Row:
    with opened(kind, WORKERS) as theirs, opened(Kumi, WORKERS) as ours:
        their_count, our_count = tasks_in(theirs, effort.seconds), tasks_in(ours, effort.seconds)
        pairs = alternate(lambda: rate(theirs, their_count), lambda: rate(ours, our_count), effort.rounds)
    return compare(kind.name, "tasks/s", pairs, target=TARGETS.get(kind.name), budget=BUDGETS.get(kind.name))


def rate(pool: Pool, count: int) -> float:
    """Return how many of so many no-op tasks a second the pool does."""
    return count / _seconds(pool, count)


def _seconds(pool: Pool, count: int) -> float:
    return seconds_of(lambda: checked(pool, count))


def tasks_in(pool: Pool, seconds: float) -> int:
    """Find by doubling how many tasks fill `seconds`. It also warms the pool: all workers have joined by then."""
    count = 32
    while (spent := _seconds(pool, count)) < seconds / 2:
        count *= 2
    return max(1, round(count * seconds / spent))
