"""What the questions about large arrays share: the array, the peers that are asked, and a copy to measure against.

The copy is one `memcpy` between two arrays that are in memory already, by one thread: the least that handing over a
snapshot can cost. Tasks and host read a number of every page, because memory that nobody looks at may not be there yet.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness import Answer, Effort, Row, alternate, compare, rows_of, typical
from benchmarks.peers import Joblib, Kumi, Pool, ProcessPool, Reacher, opened

Ask = Callable[[Reacher], object]  # one task, or some, on a pool; what it returns is kept by who asked
ARRAY_BYTES = 100_000_000
WORKERS = 2
MOST = 3.0  # copies of time
CALLS_WARM = 4
CAVEATS = [
    "The array has 100 MB. The memcpy runs in one thread, between two arrays that were touched before.",
    "A number of every page is read on arrival. joblib gives large arrays to its workers as files that they map.",
]


def answer(
    question: str,
    effort: Effort,
    kinds: Sequence[type[Pool]],
    ask: Ask,
    *,
    target: float | None = MOST,
    more: Callable[[], list[Row]] = list,
) -> Answer:
    """Measure kumi against the copy and those peers that have an answer to large arrays; `more` rows come first."""
    pairs = _with(Kumi, ask, lambda ours: alternate(_copy(effort), _timed(ask, ours, effort), effort.rounds))
    own = compare("one warm memcpy", "ms", pairs, target=target)
    asked = [kind for kind in kinds if kind in (ProcessPool, Joblib)]
    rows, skipped = rows_of(asked, lambda kind: _duel(kind, effort, ask))
    return Answer(question, "at most", [*more(), own, *rows], skipped, CAVEATS)


def array_of(number: int) -> Any:
    """Make an array of 100 MB that says which one it is."""
    return importlib.import_module("numpy").full(ARRAY_BYTES // 8, float(number))


def _duel(kind: type[Any], effort: Effort, ask: Ask) -> Row:
    def beside(ours: Reacher) -> list[tuple[float, float]]:
        return _with(
            kind, ask, lambda pool: alternate(_timed(ask, pool, effort), _timed(ask, ours, effort), effort.rounds)
        )

    return compare(kind.name, "ms", _with(Kumi, ask, beside))


def _with(kind: type[Any], ask: Ask, measure: Callable[[Any], list[tuple[float, float]]]) -> list[tuple[float, float]]:
    with opened(kind, WORKERS) as pool:
        for _ in range(CALLS_WARM):
            ask(pool)
        return measure(pool)


def _timed(ask: Ask, pool: Reacher, effort: Effort) -> Callable[[], float]:
    return lambda: typical(lambda: ask(pool), effort.seconds) * 1e3


def _copy(effort: Effort) -> Callable[[], float]:
    numpy: Any = importlib.import_module("numpy")
    source, target = array_of(1), array_of(2)
    return lambda: typical(lambda: numpy.copyto(target, source), effort.seconds) * 1e3
