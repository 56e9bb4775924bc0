"""Limits of workers: after so many tasks, so much time or without work they leave, and nothing is lost by it.

Memory: a task that takes more than a worker may have ends, and nobody else.
"""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import hungry
import jobs
import kumi
import numpy as np
import pytest

LIMIT = jobs.SECONDS_MAX


@pytest.mark.parametrize("tasks_max", [1, 3, 100])
def test_no_worker_runs_more_tasks_than_it_may_and_none_is_lost(tasks_max: int) -> None:
    with kumi.Controller(workers=2, tasks_max=tasks_max) as crew:
        results = crew.map(hungry.pid_and_self, range(20)).results()
        assert [value for value, _ in results] == [*range(20)]
    assert max(Counter(pid for _, pid in results).values()) <= tasks_max
    assert crew.summary().crash == 0


def test_at_its_wall_a_worker_finishes_its_task_and_a_successor_comes() -> None:
    with kumi.Controller(workers=1, seconds_wall=0.5) as crew:
        long = crew.submit(hungry.slow, -1, 1.0)
        results = crew.map(hungry.slow, range(40)).results()
        value, first = long.result(LIMIT)
        assert value == -1
        assert long.record is not None
        assert long.record.attempts == 1, "what runs at the wall is not begun again"
        assert [value for value, _ in results] == [*range(40)]
        workers = {pid for _, pid in results}
        assert first not in workers, "it was over its time when the next one could have begun"
        assert len(workers) >= 2
        assert crew.status().lost == 0


def test_without_work_workers_leave_and_come_again() -> None:
    with kumi.Controller(workers=2, seconds_idle=0.05) as crew:
        first = {pid for _, pid in crew.map(hungry.slow, range(4)).results()}
        for pid in first:
            jobs.wait_for_end(pid)
        again = {pid for _, pid in crew.map(hungry.slow, range(4)).results()}
        assert not first & again
    assert crew.status().left_idle >= 2


def test_idle_workers_that_are_to_stay_stay() -> None:
    with kumi.Controller(workers=2, workers_min=1, seconds_idle=0.05) as crew:
        workers = {pid for _, pid in crew.map(hungry.slow, range(8)).results()}
        if len(workers) == 2:
            left = threading.Event()
            threads = [threading.Thread(target=lambda pid=pid: (jobs.wait_for_end(pid), left.set())) for pid in workers]
            for thread in threads:
                thread.start()
            assert left.wait(LIMIT)
        assert crew.submit(jobs.pid).result(LIMIT) in workers
    for thread in threads if len(workers) == 2 else []:
        thread.join(LIMIT)


def test_libraries_get_their_share_of_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in kumi.launchers.local.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    share = str(max(1, kumi.launchers.usable_cpus() // 2))
    launcher = kumi.Local(environment={"OPENBLAS_NUM_THREADS": "5"})
    with kumi.Controller(launcher, workers=2) as crew:
        found = crew.map(jobs.environment, ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]).results()
    assert found == [share, "5", "7"]


# Memory


def limited(gigabytes: float = 0.4, **options: Any) -> kumi.Controller:
    return kumi.Controller(workers=1, memory_gigabytes_max=gigabytes, **options)


@pytest.mark.parametrize("function", [hungry.fill_and_sleep, hungry.fill_in_child])
def test_a_task_that_takes_too_much_memory_ends_with_its_worker(function: Any) -> None:
    with limited() as crew:
        worker = crew.submit(jobs.pid).result(LIMIT)
        task = crew.with_options(crashes_max=0).submit(function, 600)
        error = task.exception(LIMIT)
        assert isinstance(error, kumi.CrashError)
        assert "memory limit" in str(error)
        assert "memory_gigabytes_max is 0.4. Give it less to do, or its worker more memory; " in str(error)
        assert error.certificate is not None
        assert error.certificate.peak_gigabytes is not None
        assert error.certificate.peak_gigabytes > 0.4
        assert crew.submit(jobs.pid).result(LIMIT) != worker
        assert task.record is not None
        assert task.record.status == "crash"


def test_such_a_task_is_run_again_as_often_as_others_that_crash() -> None:
    with limited() as crew:
        task = crew.with_options(crashes_max=1).submit(hungry.fill_and_sleep, 600)
        assert isinstance(task.exception(LIMIT), kumi.CrashError)
        assert task.record is not None
        assert task.record.attempts == 2


def test_what_is_shared_does_not_count() -> None:
    big = np.ones(300 * hungry.MEGABYTE // 8)

    def look(array: "np.ndarray[Any, Any]") -> float:
        time.sleep(0.3)
        return float(array.sum())

    with limited(0.2) as crew:
        shared = kumi.share(big)
        assert crew.submit(look, big).result(LIMIT) == big.size
        assert crew.submit(look, shared).result(LIMIT) == big.size
        assert crew.submit(hungry.fork_with, 80, 4, 0.3).result(LIMIT) == 80 * hungry.MEGABYTE
        assert crew.status().launched == 1


def test_what_a_task_leaves_is_not_blamed_on_the_next_one() -> None:
    with limited() as crew:
        workers = set()
        for _ in range(5):
            workers.add(crew.submit(hungry.leave, 150).result(LIMIT))
            innocent = crew.with_options(crashes_max=0).submit(hungry.fill_and_sleep, 30, 0.1)
            assert innocent.result(LIMIT) == 30 * hungry.MEGABYTE
        assert len(workers) >= 2


def test_a_worker_that_somebody_kills_is_not_said_to_have_been_short_of_memory() -> None:
    with kumi.Controller(workers=1) as crew:
        task = crew.with_options(crashes_max=0).submit(hungry.sleep_and_die, 0.3)
        error = task.exception(LIMIT)
        assert isinstance(error, kumi.CrashError)
        assert error.certificate is not None
        assert "memory" not in error.certificate.cause
        assert error.certificate.peak_gigabytes is not None
        assert 0.001 < error.certificate.peak_gigabytes < 0.5


def group_for(megabytes: int) -> Path:
    """A new control group for memory; skips the test where none may be made."""
    path = Path(f"/sys/fs/cgroup/memory/kumi-test-{os.getpid()}-{megabytes}")
    try:
        path.mkdir(exist_ok=True)
        (path / "memory.limit_in_bytes").write_text(str(megabytes * 2**20))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    return path


def test_a_worker_that_the_kernel_killed_for_memory() -> None:
    group = group_for(300)
    try:
        with kumi.Controller(workers=1) as crew:
            error = crew.with_options(crashes_max=0).submit(hungry.enter_and_fill, str(group), 600).exception(LIMIT)
        assert isinstance(error, kumi.CrashError)
        assert "killed by signal 9 (SIGKILL), likely out of memory" in str(error)
    finally:
        group.rmdir()


def test_the_queue_is_bounded_by_what_a_container_may_have() -> None:
    group = group_for(1024)
    enter = f"import pathlib; pathlib.Path({str(group / 'cgroup.procs')!r}).write_text('0')\n"
    program = "import kumi\nwith kumi.Controller(workers=1) as crew: print(crew.status().queued_bytes_max)"
    try:
        ended = subprocess.run([sys.executable, "-c", enter + program], capture_output=True, timeout=LIMIT, check=True)
    finally:
        group.rmdir()
    assert int(ended.stdout) == 2**28


@pytest.mark.parametrize("value", [0, -1, True, "1"])
def test_a_limit_is_a_number_above_0(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="memory_gigabytes_max must be a finite number above 0"):
        kumi.Controller(memory_gigabytes_max=value)


# Peaks


def peak_of(task: kumi.Task[Any]) -> float | None:
    task.result(LIMIT)
    assert task.record is not None
    return task.record.peak_gigabytes


def test_a_record_tells_the_peak_of_its_task_unless_that_was_short(single: kumi.Controller) -> None:
    peak = peak_of(single.submit(hungry.leave_and_sleep, 300, 0.1))
    assert peak is not None
    assert 0.3 < peak < 1
    assert peak_of(single.submit(abs, -1)) is None


def test_what_a_task_gave_back_counts_for_it_and_not_for_the_next(single: kumi.Controller) -> None:
    # Somebody looks every 50 ms, if the machine lets him.
    peaks = (peak_of(single.submit(hungry.fill_and_sleep, 300, seconds)) for seconds in (0.2, 1.0, 5.0))
    assert any(peak is not None and 0.3 < peak < 1 for peak in peaks)
    peak = peak_of(single.submit(hungry.fill_and_sleep, 0, 0.1))
    assert peak is not None
    assert 0.001 < peak < 0.3


def test_a_child_has_a_peak(single: kumi.Controller) -> None:
    """Its parent as well, at least as much if somebody looked meanwhile."""
    task = single.submit(hungry.peak_of_child, 300)
    peak, child = peak_of(task), task.result()
    assert peak is not None
    assert child is not None
    assert 0.3 < child < 1


def test_in_this_process_there_is_no_peak() -> None:
    with kumi.Controller(kumi.Sequential()) as crew:
        assert peak_of(crew.submit(hungry.slow, 0, 0.1)) is None
