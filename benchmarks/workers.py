"""Does the brain deal as fast to a thousand workers as to ten?

The brain alone, with fake workers (`programs.py`): a thousand processes need more memory than a small machine has.
`crowd` asks the same of a host with its sockets. Processor time is compared, which neighbours hardly disturb.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Answer, Effort, alternate, compare
from benchmarks.peers import Pool, Skipped
from benchmarks.programs import noops

QUESTION = "Tasks a second that the brain deals to 1,000 fake workers, and hears of"
FEW, MANY = 10, 1000
BUDGET = 0.7
TASKS_PER_SECOND = 1_000_000  # of effort
CAVEATS = [
    "The brain alone: no sockets, no Python. Beside those it is a small part of what a task costs.",
    "All tasks are submitted one by one, then workers are heard in turn, each with all it has finished.",
]


def answer(effort: Effort, _peers: Sequence[type[Pool]]) -> Answer:
    """Measure with many workers and with few, round by round."""
    try:
        made = noops()
    except Skipped as reason:
        return Answer(QUESTION, "at least", [], {"the brain alone": str(reason)}, CAVEATS)
    tasks = int(effort.seconds * TASKS_PER_SECOND)
    pairs = alternate(lambda: _rate(made, FEW, tasks), lambda: _rate(made, MANY, tasks), effort.rounds)
    row = compare(f"to {FEW}", "tasks/s", pairs, budget=BUDGET)
    return Answer(QUESTION, "at least", [row], {}, CAVEATS)


def _rate(made: Path, workers: int, tasks: int) -> float:
    return tasks / (_seconds(made, workers, tasks) - _seconds(made, workers, 0))


def _seconds(made: Path, workers: int, tasks: int) -> float:
    """Return the processor time of one run."""
    child = os.posix_spawn(made, [str(made), "burst", str(workers), str(tasks)], os.environ)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"{made} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime
