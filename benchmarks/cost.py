"""How much processor time does one no-op task take, in the host and in its workers?

Neighbours on the machine hardly disturb that, so it tells more of a change than tasks per second do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from benchmarks.harness import Answer, Effort, Row, alternate, compare, rows_of
from benchmarks.machine import children, processor_seconds
from benchmarks.peers import Dask, Kumi, Mirai, Pool, Ray, Skipped, checked, opened
from benchmarks.throughput import WORKERS, tasks_in

ELSEWHERE = (Mirai, Dask, Ray)
CAVEATS = ["Tasks as in the first table. Processor time of all threads, in the kernel too, as its scheduler counts it."]

Measured = tuple[float, float]


def answer(effort: Effort, peers: Sequence[type[Pool]]) -> Answer:
    """Measure kumi against each peer, once for the hosts and once for the workers."""
    rows: list[Row] = []

    def measure(kind: type[Pool]) -> Row:
        host, workers = _duel(kind, effort)
        rows.append(host)
        return workers

    found, skipped = rows_of(peers, measure)
    both = [row for pair in zip(rows, found, strict=True) for row in pair]
    return Answer("Processor time for one no-op task, two local workers", "at most", both, skipped, CAVEATS)


def _duel(kind: type[Pool], effort: Effort) -> tuple[Row, Row]:
    if issubclass(kind, ELSEWHERE):
        raise Skipped("its workers are not children of this process")
    with opened(kind, WORKERS) as theirs:
        their_count, their_workers = tasks_in(theirs, effort.seconds), children()
        with opened(Kumi, WORKERS) as ours:
            our_count, our_workers = tasks_in(ours, effort.seconds), children() - their_workers
            pairs = alternate(
                lambda: _spent(theirs, their_count, their_workers),
                lambda: _spent(ours, our_count, our_workers),
                effort.rounds,
            )
    hosts, workers = ([(other[side], kumi[side]) for other, kumi in pairs] for side in (0, 1))
    return compare(f"{kind.name}: host", "us", hosts), compare(f"{kind.name}: workers", "us", workers)


def _spent(pool: Pool, count: int, workers: set[int]) -> Measured:
    """Return microseconds for one task, of this process and of the workers together."""
    before = _now(workers)
    checked(pool, count)
    host, others = (after - earlier for after, earlier in zip(_now(workers), before, strict=True))
    return host / count * 1e6, others / count * 1e6


def _now(workers: set[int]) -> Measured:
    return processor_seconds(os.getpid()), sum(map(processor_seconds, workers))
