"""How long from a new pool to its first value, beside an interpreter that imports kumi? How long is that import?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from time import perf_counter

from benchmarks.harness import Answer, Effort, Row, alternate, compare, rows_of, seconds_of
from benchmarks.peers import SECONDS_LIMIT, Kumi, Pool, Skipped, Submitter, opened

LAUNCH_BUDGET = 2.0
IMPORT_MILLISECONDS = 60.0
TIMED_IMPORT = "import time; began = time.perf_counter(); import kumi; print(time.perf_counter() - began)"
CAVEATS = [
    "A new pool of one worker, its first task, its value; closing is not counted. Bytecode and disk caches are warm.",
    "ProcessPoolExecutor, multiprocessing.Pool and pebble fork where that is Python's default: no interpreter starts.",
]


def answer(effort: Effort, peers: Sequence[type[Pool]]) -> Answer:
    """Measure kumi's launch against the bare import and each peer's launch, and the import against its allowance."""
    _python("import kumi")  # warms the caches
    own = [_against_import(effort), _import(effort)]
    rows, skipped = rows_of(peers, lambda kind: _duel(kind, effort))
    return Answer("New pool to first value, and import", "at most", own + rows, skipped, CAVEATS)


def _against_import(effort: Effort) -> Row:
    pairs = alternate(_milliseconds_of_import, lambda: _first_value(Kumi), effort.rounds)
    return compare('launch: python -c "import kumi"', "ms", pairs, budget=LAUNCH_BUDGET)


def _import(effort: Effort) -> Row:
    pairs = [(IMPORT_MILLISECONDS, float(_python(TIMED_IMPORT)) * 1e3) for _ in range(effort.rounds)]
    return compare(f"import: {IMPORT_MILLISECONDS:g} ms allowed", "ms", pairs, budget=1.0)


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


def _milliseconds_of_import() -> float:
    return seconds_of(lambda: _python("import kumi")) * 1e3


def _python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS_LIMIT).stdout
