"""Workers that dial in, a thousand of them: what do they cost the host beside ten, and what does TLS cost?

Light fake workers, all in one thread (`programs.py`): a thousand processes need more memory than a small machine has.
kumi knows no connections without TLS; a feature of the core that is never in the product measures what they would be.
Processor time is compared, which neighbours hardly disturb: of all for TLS, of the host alone for many workers.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Answer, Effort, alternate, compare
from benchmarks.peers import Pool, Skipped
from benchmarks.programs import crowd

QUESTION = "Small tasks a second of processor time, to workers that dial in"
FEW, MANY = 10, 1000
BUDGET_TLS, BUDGET_MANY = 0.75, 0.7
TASKS_PER_SECOND = 1_500_000  # of effort: hundreds for each of a thousand workers, so that beginnings count little
SECONDS_LIMIT = 300.0
CAVEATS = [
    "All tasks are submitted one by one; a worker answers each at once. No Python, which costs the same with each.",
    "A thousand fake workers in one thread answer later than real ones, and tasks are taken back from them meanwhile.",
]


@dataclass(frozen=True)
class Cost:
    """Seconds of processor time."""

    host: float
    workers: float


def answer(effort: Effort, _peers: Sequence[type[Pool]]) -> Answer:
    """Measure each pair round by round."""
    try:
        made = crowd()
    except Skipped as reason:
        return Answer(QUESTION, "at least", [], {"workers that dial in": str(reason)}, CAVEATS)
    tasks = int(effort.seconds * TASKS_PER_SECOND)

    def of_all(kind: str) -> float:
        cost = _cost(made, kind, FEW, tasks)
        return tasks / (cost.host + cost.workers)

    def of_host(workers: int) -> float:
        return tasks / _cost(made, "tls", workers, tasks).host

    tls = alternate(lambda: of_all("plain"), lambda: of_all("tls"), effort.rounds)
    many = alternate(lambda: of_host(FEW), lambda: of_host(MANY), effort.rounds)
    rows = [
        compare("TLS, to plain TCP", "tasks/s", tls, budget=BUDGET_TLS),
        compare(f"{MANY} workers, to {FEW}", "tasks/s", many, budget=BUDGET_MANY),
    ]
    return Answer(QUESTION, "at least", rows, {}, CAVEATS)


def _cost(made: Path, kind: str, workers: int, tasks: int) -> Cost:
    command = [str(made), kind, str(workers), str(tasks)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=SECONDS_LIMIT)
    _, host, its = map(float, ran.stdout.split())
    return Cost(host, its)
