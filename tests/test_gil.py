"""A host, or a task, in a C call that keeps the GIL: the core goes on all the same."""

import ctypes
import time
from pathlib import Path

import jobs
import kumi


def hold_the_gil(seconds: int) -> None:
    """Sleeps in C without letting go of the GIL."""
    ctypes.PyDLL("libc.so.6").sleep(seconds)


def test_submitted_tasks_go_on_while_the_host_holds_the_gil(crew: kumi.Controller) -> None:
    crew.submit(time.time).result()
    tasks = [crew.submit(time.time) for _ in range(10_000)]
    began = time.time()
    hold_the_gil(10)
    last = max(task.result() for task in tasks)
    assert last < began + 5, "tasks waited for the host"
    assert crew.summary().workers_lost == 0


def test_a_dead_worker_is_replaced_while_the_host_holds_the_gil(single: kumi.Controller, tmp_path: Path) -> None:
    single.submit(jobs.pid).result()
    doomed = single.submit(jobs.die_times, str(tmp_path / "begun"), 2)
    after = single.submit(time.time)
    began = time.time()
    hold_the_gil(5)
    ended = time.time()
    assert doomed.result() == 3
    assert began < after.result() < ended - 1, "the new worker waited for the host"
    assert single.summary().workers_lost == 2


def test_a_worker_that_holds_its_gil_is_not_lost(single: kumi.Controller) -> None:
    task = single.submit(hold_the_gil, 2)
    assert task.result() is None
    assert task.record is not None
    assert task.record.attempts == 1
    assert single.summary().workers_lost == 0
