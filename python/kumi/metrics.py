"""How much CPU and memory workers use, and how many files they have open: measured by a thread in each of them.

It writes one JSON object a line to a file beside the worker's log. Here is also how such files are read, and what
tasks and workers took at most. May not know: how the thread is brought to its worker.
"""

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from kumi import current
from kumi.logs import default_place, file_name
from kumi.worker import serving, task_name

if TYPE_CHECKING:
    from pathlib import Path

    import psutil

SUFFIX = ".metrics.jsonl"


def check_installed() -> None:
    """Makes sure that this Python can measure.

    Raises:
        ModuleNotFoundError: If psutil is missing.
    """
    if find_spec("psutil") is None:
        text = "seconds_metrics measures with psutil, which is not installed: pip install 'kumi[metrics]'"
        raise ModuleNotFoundError(text, name="psutil")


def begin(seconds: float, place: str | None, run: str) -> None:
    """Measures this worker from now on, until the process ends. Called once in each worker, before its first task.

    Args:
        seconds: How often.
        place: Where logs are; None: where they are if nobody says where.
        run: The name of the directory in there.
    """
    check_installed()
    worker = serving()
    assert worker is not None, "it is called in a worker"
    directory = os.path.join(place or default_place(), run)  # noqa: PTH118 - pathlib is slow to import
    os.makedirs(directory, mode=0o700, exist_ok=True)  # noqa: PTH103
    file = os.path.join(directory, file_name(worker.name) + SUFFIX)  # noqa: PTH118
    threading.Thread(target=_measure, args=(seconds, worker.name, file), name="kumi-metrics", daemon=True).start()


def _measure(seconds: float, worker: str, path: str) -> None:
    never, tree = threading.Event(), _Tree()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8", buffering=1) as file:  # noqa: PTH123 - an open one
        while not never.wait(seconds):
            found = current.running()
            task = {"task": None, "name": None} if found is None else {"task": found[0], "name": task_name() or None}
            facts = {"time": round(time.time(), 3), "worker": worker, "pid": os.getpid()} | task | tree.sample()
            file.write(json.dumps(facts) + "\n")


class _Tree:
    """This process and those that it has started."""

    def __init__(self) -> None:
        from psutil import Process

        self._root = Process()
        self._took = self._cpu_seconds([self._root])
        self._at = time.monotonic()

    def sample(self) -> dict[str, float]:
        """CPU since the last sample in percent of one core, memory in bytes, open files, and how many processes."""
        processes = [self._root, *self._root.children(recursive=True)]
        took, at = self._cpu_seconds(processes), time.monotonic()
        cpu = max(0.0, took - self._took) / max(at - self._at, 1e-6) * 100
        self._took, self._at = took, at
        resident = sum(_asked(process, lambda one: one.memory_info().rss) for process in processes)
        files = sum(_asked(process, lambda one: one.num_fds()) for process in processes)
        return {"cpu": round(cpu, 1), "resident": int(resident), "files": int(files), "processes": len(processes)}

    @staticmethod
    def _cpu_seconds(processes: "Iterable[psutil.Process]") -> float:
        # With what ended children took, so that it does not shrink when they end.
        return sum(_asked(process, lambda one: sum(one.cpu_times()[:4])) for process in processes)


def _asked(process: "psutil.Process", ask: Any) -> float:
    from psutil import Error

    try:
        return float(ask(process))
    except Error:  # it has ended, or has become somebody else's
        return 0.0


class Sample(NamedTuple):
    """What was measured of a worker, with its children, at a moment.

    Attributes:
        time: Seconds since 1970.
        worker: Its name.
        pid: Its process.
        task: The id of the task that ran; None: none did.
        name: What that is called; None also in its first moments.
        cpu: Percent of one core, since the sample before.
        resident: Bytes of memory.
        files: How many are open.
        processes: The worker and those that it has started.
    """

    time: float
    worker: str
    pid: int
    task: int | None
    name: str | None
    cpu: float
    resident: int
    files: int
    processes: int


class Peak(NamedTuple):
    """The most that was measured of a worker or task. Figures as in `Sample`; `seconds`: from its first to its last."""

    worker: str
    task: int | None
    name: str | None
    samples: int
    seconds: float
    cpu: float
    resident: int
    files: int


def read(file: "Path") -> Iterator[Sample]:
    """What was measured of one worker.

    Raises:
        ValueError: If a line of the file is something else.
    """
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):
                return  # its worker was killed in the middle of it
            try:
                yield Sample(**json.loads(line))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{file}, line {number}, is not what workers measure: {error}") from None


def peaks(samples: Iterable[Sample], *, of_tasks: bool) -> list[Peak]:
    """The most that was measured of each worker, or of each task on each worker, in the order of their beginning."""
    groups: dict[tuple[str, int | None], list[Sample]] = {}
    for sample in samples:
        if not of_tasks:
            groups.setdefault((sample.worker, None), []).append(sample)
        elif sample.task is not None:
            groups.setdefault((sample.worker, sample.task), []).append(sample)
    return [_peak(group, task) for (_, task), group in groups.items()]


def _peak(group: list[Sample], task: int | None) -> Peak:
    first, last = group[0], group[-1]
    most = [max(getattr(sample, figure) for sample in group) for figure in ("cpu", "resident", "files")]
    name = None if task is None else last.name
    return Peak(first.worker, task, name, len(group), round(last.time - first.time, 3), *most)
