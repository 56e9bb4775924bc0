"""Workers are killed, stopped and told to leave at random while thousands of short tasks run, and each task ends once.

KUMI_KILLS, as `make chaos` sets it, says how many: a hundred tasks for each. What the killer chooses comes from
KUMI_SEED, which a failure prints; whom it hits at what depends on the machine as well.
"""

import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import jobs
import kumi
from conftest import children

TASKS = 100 * int(os.environ.get("KUMI_KILLS", "40"))
SEED = int(os.environ.get("KUMI_SEED") or random.SystemRandom().randrange(10**6))
WORKERS = 8
TASKS_PER_SIGNAL = 60
STOPPED_MAX = 3  # the others go on, so that the turn for the next signal comes
QUIET = 200  # the last tasks, which end in peace


def work(number: int, seconds: float, notes: str) -> int:
    """The task: notes who begins it, leaves a process behind now and then, and takes its time."""
    info = kumi.task_info()
    assert info is not None
    jobs.note(notes, f"{info.worker} {number}")
    if number % 200 == 0:
        jobs.start_child()
    time.sleep(seconds)
    return number


class Resolved:
    """Counts how often each task was said to be done, and lets somebody wait for a number of them."""

    def __init__(self) -> None:
        self.times: Counter[int] = Counter()
        self._total = 0
        self._more = threading.Condition()

    def note(self, number: int) -> None:
        with self._more:
            self.times[number] += 1
            self._total += 1
            self._more.notify_all()

    def wait(self, total: int) -> None:
        with self._more:
            assert self._more.wait_for(lambda: self._total >= total, jobs.SECONDS_MAX), f"stuck at {self._total} tasks"


class Killer:
    """Sends a signal to a worker whenever some more tasks are done, and looks whether there are too many workers."""

    def __init__(self, crew: kumi.Controller, resolved: Resolved, mark: bytes) -> None:
        self._crew, self._resolved, self._mark = crew, resolved, mark
        self._choose = random.Random(SEED)
        self._stopped: set[str] = set()
        self.hits: dict[signal.Signals, set[str]] = {
            number: set() for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
        }

    def run(self) -> None:
        turn = 0
        try:
            while (turn := turn + self._choose.randrange(1, 2 * TASKS_PER_SIGNAL)) < TASKS - QUIET:
                self._resolved.wait(turn)
                self._check_cap()
                self._wake({name for name in sorted(self._stopped) if self._choose.random() < 0.3})
                self._strike()
        finally:
            self._wake(self._stopped)

    def _check_cap(self) -> None:
        status = self._crew.status()
        assert status.workers + status.launching <= WORKERS, status
        assert sum(is_marked(pid, self._mark) for pid in children()) <= WORKERS

    def _strike(self) -> None:
        number = self._choose.choice([*self.hits])
        workers = sorted(self._crew._live_pool().processes())
        if workers and (number != signal.SIGSTOP or len(self._stopped) < STOPPED_MAX):
            name, pid = self._choose.choice(workers)
            self.hits[number].add(name)
            self._stopped |= {name} if number == signal.SIGSTOP else set()
            send(pid, number)

    def _wake(self, names: set[str]) -> None:
        for name, pid in self._crew._live_pool().processes():
            if name in names:
                send(pid, signal.SIGCONT)
        self._stopped = self._stopped - names


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def is_marked(pid: int, mark: bytes) -> bool:
    """Whether that process is alive and belongs to the controller with this mark."""
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def check_who_ran(records: list[kumi.Record[int]], notes: Path, killed: set[str]) -> None:
    """Each run that came to nothing was the last one of a worker that was killed, and the task's attempts count it."""
    ended_on = {record.result: record.worker for record in records}
    begun: dict[str, list[int]] = defaultdict(list)
    for line in notes.read_text().splitlines():
        worker, number = line.split()
        begun[worker].append(int(number))
    for worker, numbers in begun.items():
        assert len(set(numbers)) == len(numbers)
        lost = [number for number in numbers if ended_on[number] != worker]
        assert lost == [] or (worker in killed and lost == numbers[-1:]), (worker, lost)
    times = Counter(number for numbers in begun.values() for number in numbers)
    assert [record for record in records if not 1 <= times[record.get()] <= record.attempts] == []
    assert sum(record.attempts - 1 for record in records) <= len(killed)
    again = [record for record in records if record.attempts > 1]
    assert {record.certificate.signal for record in again if record.certificate} == {signal.SIGKILL}


def test_no_task_is_lost_and_none_counts_twice_whatever_workers_suffer(tmp_path: Path) -> None:
    print(f"KUMI_SEED={SEED}")
    notes, resolved, choose = tmp_path / "begun", Resolved(), random.Random(SEED)
    with kumi.Controller(workers=WORKERS, crashes_max=TASKS) as crew, ThreadPoolExecutor(1) as thread:
        worker = crew.submit(jobs.environment, "KUMI_WORKER").result(jobs.SECONDS_MAX)
        mark = f"KUMI_WORKER={worker.rpartition('-')[0]}-".encode()
        killer = Killer(crew, resolved, mark)
        killing = thread.submit(killer.run)
        for number in range(TASKS):
            task = crew.push(work, number, choose.uniform(0.001, 0.02), str(notes))
            task.add_done_callback(lambda _, number=number: resolved.note(number))
        records = [*iter(partial(crew.pop, jobs.SECONDS_MAX), None)]
        killing.result()
        assert len(records) == TASKS, crew.status()
    assert sorted(record.get() for record in records) == [*range(TASKS)]
    assert resolved.times == Counter(range(TASKS))
    status = crew.status()
    assert (status.finished, status.success) == (TASKS + 1, TASKS + 1)
    assert all(killer.hits.values())
    assert status.left_limit > 0, "who is told to leave leaves"
    check_who_ran(records, notes, killer.hits[signal.SIGKILL])
    processes = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    assert [pid for pid in processes if is_marked(pid, mark)] == []
