"""How long is the round trip of one no-op task, beside the least the kernel allows between two processes?

The least is a ping-pong of eight bytes over a Unix socketpair. The host's threads are pinned to one core and the
worker's to another, because a kernel that puts both on one core makes the trip several times shorter, as it likes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.harness import Answer, Effort, Row, alternate, compare, rows_of, typical
from benchmarks.machine import pin, two_cores, unpinned_after
from benchmarks.peers import SECONDS_LIMIT, Kumi, Pool, Skipped, Submitter, opened

QUESTION = "Round trip of one no-op task, one worker, median"
TARGET = 2.0
BUDGET = 1.6
TRIPS_WARM = 20
BLOCKS_PER_ROUND = 4  # short blocks: a burst of other work on the machine spoils few of them
CAVEATS = [
    "The raw ping-pong is written in Python on both sides, about 1 us slower than in C.",
    "Host and worker are pinned to different cores; helper processes of a peer (Ray's, for one) are not.",
]
PONG = """
import socket, sys
end = socket.socket(fileno=int(sys.argv[1]))
while data := end.recv(8):
    end.send(data)
"""


class PingPong(Submitter):
    """Two processes and a socketpair, nothing else."""

    name = "raw socket ping-pong"

    def start(self) -> None:
        self._end, far = socket.socketpair()
        with far:
            command = [sys.executable, "-IS", "-c", PONG, str(far.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[far.fileno()])

    def run(self, count: int) -> list[int]:
        for _ in range(count):
            self.trip()
        return list(range(count))

    def trip(self) -> None:
        self._end.send(b"8 bytes.")
        if self._end.recv(8) != b"8 bytes.":
            raise RuntimeError("the ping-pong lost a message")

    def worker(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._end.close()
        self._process.wait(SECONDS_LIMIT)


def answer(effort: Effort, peers: Sequence[type[Pool]]) -> Answer:
    """Measure kumi against the raw ping-pong and each peer, block by block."""
    cores = two_cores()
    if cores is None:
        return Answer(QUESTION, "at most", [], {PingPong.name: "one core only"}, CAVEATS)
    rows, skipped = rows_of([PingPong, *peers], lambda kind: _duel(kind, effort, *cores))
    same_core = (
        f"The raw ping-pong with both processes on one core takes {_one_core(effort, cores[0]):.1f} us (not judged)."
    )
    return Answer(QUESTION, "at most", rows, skipped, [*CAVEATS, same_core])


def _duel(kind: type[Pool], effort: Effort, host: int, worker: int) -> Row:
    if not issubclass(kind, Submitter):
        raise Skipped("no call here for a single task")
    with _pinned(kind, host, worker) as theirs, _pinned(Kumi, host, worker) as ours:
        seconds, blocks = effort.seconds / BLOCKS_PER_ROUND, effort.rounds * BLOCKS_PER_ROUND
        pairs = alternate(lambda: _trip_us(theirs, seconds), lambda: _trip_us(ours, seconds), blocks)
    judged = kind is PingPong
    return compare(kind.name, "us", pairs, target=TARGET if judged else None, budget=BUDGET if judged else None)


@contextmanager
def _pinned(kind: type[Submitter], host: int, worker: int) -> Iterator[Submitter]:
    with unpinned_after(), opened(kind, workers=1) as pool:
        pin(os.getpid(), {host})
        pin(pool.worker(), {worker})
        for _ in range(TRIPS_WARM):
            pool.trip()
        yield pool


def _trip_us(pool: Submitter, seconds: float) -> float:
    """Return the median trip of those that fit into `seconds`, in microseconds."""
    return typical(pool.trip, seconds) * 1e6


def _one_core(effort: Effort, core: int) -> float:
    with _pinned(PingPong, core, core) as pool:
        return _trip_us(pool, effort.seconds)
