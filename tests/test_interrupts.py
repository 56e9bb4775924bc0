"""Cancelling a task that runs: it stops, whatever it is doing, and no other task notices."""

import asyncio
import ctypes
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest

LIMIT = jobs.SECONDS_MAX
LONG = 600.0


@pytest.fixture(scope="module")
def brisk() -> Iterator[kumi.Controller]:
    """One worker, which is killed soon if it does not yield."""
    with kumi.Controller(workers=1, seconds_kill=1) as crew:
        yield crew


def cancelled(task: kumi.Task[Any]) -> None:
    """Cancels a running task, which takes no time."""
    assert task.running()
    assert task.cancel()
    assert (task.state(), task.running(), task.done()) == ("cancel", False, True)
    with pytest.raises(kumi.TaskCancelled):
        task.result(0)


def yielded(crew: kumi.Controller, task: kumi.Task[Any]) -> bool:
    """Whether the worker of this task lives on."""
    assert task.record is not None
    return crew.submit(jobs.pid).result(LIMIT) == task.record.pid


# Workers that yield


def begin_and_sleep(gate: str) -> None:
    jobs.begin(gate)
    time.sleep(LONG)


def begin_and_compute(gate: str) -> None:
    jobs.begin(gate)
    while True:
        pass


async def begin_and_await(gate: str) -> None:
    jobs.begin(gate)
    await asyncio.sleep(LONG)


def begin_and_wait_for_a_child(gate: str) -> None:
    jobs.begin(gate)
    subprocess.run(["sleep", str(LONG)], check=True)


@pytest.mark.parametrize(
    "function", [begin_and_sleep, begin_and_compute, begin_and_await, begin_and_wait_for_a_child, jobs.hold]
)
def test_a_running_task_stops_and_its_worker_lives_on(brisk: kumi.Controller, gate: jobs.Gate, function: Any) -> None:
    task = brisk.submit(function, gate.path)
    gate.wait()
    cancelled(task)
    assert yielded(brisk, task)


def test_what_a_task_does_at_its_end_is_done(brisk: kumi.Controller, gate: jobs.Gate, tmp_path: Path) -> None:
    def clean_up(file: str, path: str) -> None:
        try:
            begin_and_sleep(path)
        finally:
            jobs.note(file, "cleaned up")

    task = brisk.submit(clean_up, str(tmp_path / "notes"), gate.path)
    gate.wait()
    cancelled(task)
    assert yielded(brisk, task)
    assert (tmp_path / "notes").read_text() == "cleaned up\n"


class SleepsAtItsEnd:
    """Python drops what a destructor raises, the first interrupt too."""

    def __init__(self, gate: str) -> None:
        self.gate = gate

    def __del__(self) -> None:
        begin_and_sleep(self.gate)


def test_an_interrupt_that_a_destructor_swallows_is_repeated(brisk: kumi.Controller, gate: jobs.Gate) -> None:
    def drop(path: str) -> None:
        SleepsAtItsEnd(path)
        begin_and_compute(path)

    task = brisk.submit(drop, gate.path)
    gate.wait()
    cancelled(task)
    assert yielded(brisk, task)


class SleepsWhenPickled:
    def __init__(self, gate: str) -> None:
        self.gate = gate

    def __reduce__(self) -> Any:
        begin_and_sleep(self.gate)
        raise AssertionError("unreachable")


def test_the_pickling_of_a_result_is_interrupted(brisk: kumi.Controller, gate: jobs.Gate) -> None:
    task = brisk.submit(SleepsWhenPickled, gate.path)
    gate.wait()
    cancelled(task)
    assert yielded(brisk, task)


# Workers that are replaced


def test_an_interrupted_import_costs_the_worker_and_nobody_is_blamed(
    single: kumi.Controller, gate: jobs.Gate, tmp_path: Path
) -> None:
    (tmp_path / "slow_module.py").write_text(
        f"import time\nwith open({gate.path + '/begun'!r}, 'wb', buffering=0) as begun: begun.write(b'.')\n"
        f"with open({gate.path + '/go'!r}, 'rb', buffering=0) as go: go.read(1)\n"
    )

    def load(directory: str) -> int:
        sys.path.insert(0, directory)
        import slow_module  # type: ignore[import-not-found]

        return len(slow_module.__name__)

    task = single.submit(load, str(tmp_path))
    gate.wait()
    cancelled(task)
    again = single.submit(load, str(tmp_path))
    gate.wait()
    gate.open()
    assert again.result(LIMIT) == 11
    assert not yielded(single, task)
    assert single.summary().workers_lost == 0


class SleepsOnArrival:
    def __init__(self, gate: str) -> None:
        self.gate = gate

    def __reduce__(self) -> Any:
        return jobs.hold, (self.gate,)


def test_a_function_whose_unpickling_was_interrupted_is_not_spoilt(single: kumi.Controller, gate: jobs.Gate) -> None:
    held = SleepsOnArrival(gate.path)

    def use() -> bool:
        return held is None  # type: ignore[comparison-overlap]

    tasks = [single.submit(use) for _ in range(2)]
    gate.wait()
    cancelled(tasks[0])
    gate.wait()
    gate.open()
    assert tasks[1].result(LIMIT) is True
    assert not yielded(single, tasks[0])
    assert single.summary().workers_lost == 0


def test_an_argument_whose_unpickling_was_interrupted_costs_the_worker(
    single: kumi.Controller, gate: jobs.Gate
) -> None:
    task = single.submit(jobs.same, SleepsOnArrival(gate.path))
    gate.wait()
    cancelled(task)
    assert not yielded(single, task)


def begin_natively(gate: str) -> None:
    """In C code that no signal ends, with the GIL: a lock that nobody will ever release."""
    mutex, library = ctypes.create_string_buffer(64), ctypes.PyDLL(None)
    library.pthread_mutex_lock(mutex)
    begin_deaf(gate, lambda: library.pthread_mutex_lock(mutex))


def begin_deaf(gate: str, stay: Callable[[], object] = lambda: time.sleep(LONG)) -> None:
    """Deaf from before it says that it has begun: it may be interrupted at once."""
    begun = False
    while True:
        try:
            if not begun:
                begun = True
                jobs.begin(gate)
            stay()
        except BaseException:
            continue


@pytest.mark.parametrize("function", [begin_natively, begin_deaf])
def test_a_worker_that_does_not_yield_is_killed_and_replaced(
    brisk: kumi.Controller, gate: jobs.Gate, function: Any
) -> None:
    before = brisk.summary().workers_lost
    task = brisk.submit(function, gate.path)
    waiting = brisk.submit(jobs.add, 1)
    gate.wait()
    cancelled(task)
    assert waiting.result(LIMIT) == 2
    assert waiting.record is not None
    assert waiting.record.attempts == 1
    assert not yielded(brisk, task)
    assert brisk.summary().workers_lost == before, "its end is nobody's fault"


def test_what_a_killed_task_started_ends_with_it(brisk: kumi.Controller, gate: jobs.Gate, tmp_path: Path) -> None:
    def start(file: str, path: str) -> None:
        jobs.note(file, str(jobs.start_child()))
        begin_deaf(path)

    task = brisk.submit(start, str(tmp_path / "pids"), gate.path)
    gate.wait()
    cancelled(task)
    jobs.wait_for_end(int((tmp_path / "pids").read_text()))


def test_sigint_from_elsewhere_ends_the_worker_between_tasks(single: kumi.Controller, gate: jobs.Gate) -> None:
    worker = single.submit(jobs.pid).result(LIMIT)
    task = single.submit(jobs.hold, gate.path, 5)
    gate.wait()
    os.kill(worker, signal.SIGINT)
    gate.open()
    assert task.result(LIMIT) == 5
    assert not yielded(single, task)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGXCPU])
def test_a_worker_that_is_told_to_end_answers_its_task_first_and_nobody_crashes(
    single: kumi.Controller, gate: jobs.Gate, number: signal.Signals
) -> None:
    worker = single.submit(jobs.pid).result(LIMIT)
    task = single.submit(jobs.hold, gate.path, 5)
    behind = [single.submit(jobs.pid) for _ in range(3)]
    gate.wait()
    os.kill(worker, number)
    gate.open()
    assert task.result(LIMIT) == 5
    jobs.wait_for_end(worker)
    assert all(other.result(LIMIT) for other in behind)
    assert [other.record.attempts for other in (task, *behind) if other.record is not None] == [1] * 4
    single.shutdown()
    assert (single.status().left_limit, single.status().lost) == (1, 0)


def test_an_idle_worker_that_is_told_to_end_does_so(single: kumi.Controller) -> None:
    for _ in range(5):
        worker = single.submit(jobs.pid).result(LIMIT)
        os.kill(worker, signal.SIGTERM)
        jobs.wait_for_end(worker)
    single.shutdown()
    assert (single.status().left_limit, single.status().lost) == (5, 0)


def test_a_task_s_own_handler_comes_first_and_the_worker_s_comes_back(single: kumi.Controller) -> None:
    def handle() -> list[int]:
        came: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
        os.kill(os.getpid(), signal.SIGTERM)
        return came

    assert single.submit(handle).result(LIMIT) == [signal.SIGTERM]
    worker = single.submit(jobs.pid).result(LIMIT)
    os.kill(worker, signal.SIGTERM)
    jobs.wait_for_end(worker)
    single.shutdown()
    assert (single.status().left_limit, single.status().lost) == (1, 0)


def test_sigterm_ends_children_that_a_task_forked(brisk: kumi.Controller) -> None:
    def fork() -> tuple[int, int, int]:
        child = os.fork()
        if child == 0:
            time.sleep(LONG)
            os._exit(7)
        os.kill(child, signal.SIGTERM)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(LONG,))
        process.start()
        process.terminate()
        process.join()
        return ended, process.exitcode or 0, os.getpid()

    child, process, worker = brisk.submit(fork).result(LIMIT)
    assert (child, process) == (-signal.SIGTERM, -signal.SIGTERM)
    assert brisk.submit(jobs.pid).result(LIMIT) == worker, "it was not meant"


def test_sigint_ends_a_child_that_a_task_forked(brisk: kumi.Controller) -> None:
    def fork() -> int:
        child = os.fork()
        if child == 0:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(LONG)
            except KeyboardInterrupt:
                os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert brisk.submit(fork).result(LIMIT) == 7


# Nobody else is hit


def spin(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "done"


def test_random_cancels_hit_their_task_alone() -> None:
    choose = random.Random(int(os.environ.get("KUMI_SEED", "1")))
    with kumi.Controller(workers=4) as crew:
        crew.submit(jobs.pid).result(LIMIT)
        ends = {"success": 0, "cancel": 0}
        for _ in range(1000):
            spans = [choose.choice([0.0, 0.0, 0.0005, 0.001]) for _ in range(4)]
            tasks = [crew.submit(spin, span) for span in spans]
            victim = choose.choice(tasks)
            spin(choose.uniform(0, 0.0015))
            hit = victim.cancel()
            for task in tasks:
                if task is victim and hit:
                    assert task.state() == "cancel"
                else:
                    assert task.result(LIMIT) == "done"
                ends[task.state()] += 1
        summary = crew.summary()
    assert min(ends.values()) > 20, ends
    assert (summary.workers_lost, summary.crash, summary.error) == (0, 0, 0)
