"""How much of the host's memory does one waiting task take?

A process of its own per pool: one worker is held busy, tasks are queued behind it, and the growth of the resident
memory is divided by their number. Handles are kept, as a user would keep them.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from benchmarks import peers
from benchmarks.harness import Answer, Effort, Row, alternate, compare, rows_of
from benchmarks.machine import resident_bytes
from benchmarks.peers import SECONDS_LIMIT, Kumi, Pool, Skipped, Submitter, opened
from benchmarks.tasks import echo, hold

BYTES_BUDGET = 400
PAYLOAD = len(pickle.dumps((echo, (100_000,), {}), protocol=5))
TASKS_WARM = 1000
TASKS_PER_SECOND = 250_000  # of effort, at most; a slow pool queues fewer
TASKS_FEWEST = 1000
CAVEATS = [
    f"Payload included: one pickled call is {PAYLOAD} bytes. Only the process that submits is counted.",
    "Pages count, not bytes: a library that had free memory to spare before the tasks came looks a little better.",
]


def answer(effort: Effort, kinds: Sequence[type[Pool]]) -> Answer:
    """Measure kumi against its allowance and each peer."""
    pairs = [(BYTES_BUDGET + PAYLOAD, _in_child(Kumi, effort)) for _ in range(2)]
    own = compare(f"{BYTES_BUDGET} bytes + payload allowed", "bytes", pairs, budget=1.0)
    rows, skipped = rows_of(kinds, lambda kind: _duel(kind, effort))
    return Answer("Host memory per waiting task", "at most", [own, *rows], skipped, CAVEATS)


def bytes_per_task(kind: type[Submitter], most: int, seconds: float) -> float:
    """Queue up to `most` tasks, for at most `seconds`, behind a held worker; return what each added to this process."""
    with opened(kind, 1, TASKS_WARM) as pool, _held(pool):
        gc.collect()
        before = resident_bytes()
        handles = _queued(pool, most, seconds)
        gc.collect()
        return (resident_bytes() - before) / len(handles)


def _queued(pool: Submitter, most: int, seconds: float) -> list[object]:
    handles: list[object] = []
    end = perf_counter() + seconds
    while len(handles) < TASKS_FEWEST or (len(handles) < most and perf_counter() < end):
        handles.append(pool.submit(echo, len(handles)))
    return handles


@contextmanager
def _held(pool: Submitter) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "gate")
        os.mkfifo(path)
        gate = os.open(path, os.O_RDWR)
        pool.submit(hold, str(path), SECONDS_LIMIT)
        try:
            yield
        finally:
            os.write(gate, b"!")
            os.close(gate)


def _duel(kind: type[Pool], effort: Effort) -> Row:
    if not issubclass(kind, Submitter):
        raise Skipped("no call here for a single task")
    return compare(kind.name, "bytes", alternate(lambda: _in_child(kind, effort), lambda: _in_child(Kumi, effort), 2))


def _in_child(kind: type[Submitter], effort: Effort) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", kind.__name__]
    limits = [str(int(effort.seconds * TASKS_PER_SECOND)), str(effort.seconds * 5)]
    child = subprocess.run([*command, *limits], check=False, capture_output=True, text=True, timeout=2 * SECONDS_LIMIT)
    if child.returncode and kind.optional:
        raise Skipped(child.stderr.strip().splitlines()[-1])
    if child.returncode:
        raise RuntimeError(f"measuring kumi's memory failed:\n{child.stderr}")
    return float(child.stdout)


if __name__ == "__main__":
    print(bytes_per_task(getattr(peers, sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
