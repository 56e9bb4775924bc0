"""How long from a new pool to its first value, beside an interpreter that loads kumi? How long does that take?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from time import perf_counter

from benchmarks.harness import Answer, Effort, Row, alternate, compare, rows_of, seconds_of
from benchmarks.peers import SECONDS_LIMIT, Kumi, Pool, Skipped, Submitter, opened

LAUNCH_BUDGET = 2.0
IMPORT_MILLISECONDS = 60.0
IMPORT = "import kumi"
# `import kumi` loads next to nothing: most comes with the first name that is used.
LOADING = "import kumi; kumi.submit"
TIMED = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"
CAVEATS = [
    "A new pool of one worker, its first task, its value; closing is not counted. Bytecode and disk caches are warm.",
    "ProcessPoolExecutor, multiprocessing.Pool and pebble fork where that is Python's default: no interpreter starts.",
]


def answer(effort: Effort, peers: Sequence[type[Pool]]) -> Answer:
    """Measure kumi's launch against interpreters that load kumi and each peer's launch, and imports against 60 ms."""
    _python(LOADING)  # warms the caches
    own = [
        _against(LOADING, effort, LAUNCH_BUDGET),
        _against(IMPORT, effort, None),
        _import(IMPORT, effort, 1.0),
        _import(LOADING, effort, None),
    ]
    rows, skipped = rows_of(peers, lambda kind: _duel(kind, effort))
    return Answer("New pool to first value, and import", "at most", own + rows, skipped, CAVEATS)


def _against(code: str, effort: Effort, budget: float | None) -> Row:
    pairs = alternate(lambda: seconds_of(lambda: _python(code)) * 1e3, lambda: _first_value(Kumi), effort.rounds)
    return compare(f'launch: python -c "{code}"', "ms", pairs, budget=budget)


def _import(code: str, effort: Effort, budget: float | None) -> Row:
    pairs = [(IMPORT_MILLISECONDS, float(_python(TIMED.format(code))) * 1e3) for _ in range(effort.rounds)]
    return compare(f"`{code}`: {IMPORT_MILLISECONDS:g} ms", "ms", pairs, budget=budget)


def _duel(kind: type[Pool], effort: Effort) -> Row:
    if not issubclass(kind, Submitter):
        raise Skipped("no call here for a single task")
    _first_value(kind)  # imports the library and warms the caches
    pairs = alternate(lambda: _first_value(kind), lambda: _first_value(Kumi), min(effort.rounds, 3))
    return compare(f"launch: {kind.name}", "ms", pairs)


def _first_value(kind: type[Pool]) -> float:
    """Return milliseconds from making the pool to its first value."""
    began = perf_counter()
    with opened(kind, workers=1, tasks=1):
        return (perf_counter() - began) * 1e3


def _python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS_LIMIT).stdout
