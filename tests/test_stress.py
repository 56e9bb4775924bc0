"""Many threads wait, time out, cancel and submit at once while workers die: each task resolves once, as it should."""

import os
import random
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_futures
from contextlib import suppress

import kumi

THREADS = 6
ROUNDS = 150


def echo(number: int, seconds: float) -> int:
    """The task: `time.sleep` is its work."""
    time.sleep(seconds)
    return number


def use(crew: kumi.Controller, thread: int) -> int:
    """One thread's rounds; how many results it checked."""
    choose = random.Random(thread)
    checked = 0
    for turn in range(ROUNDS):
        numbers = [(thread * ROUNDS + turn) * 10 + offset for offset in range(choose.randrange(1, 6))]
        tasks = [crew.submit(echo, number, choose.choice([0, 0, 0, 0.001, 0.004])) for number in numbers]
        for number, task in zip(numbers, tasks, strict=True):
            if choose.random() < 0.1 and task.cancel():
                assert task.cancelled()
                continue
            if choose.random() < 0.2:
                with suppress(TimeoutError):
                    assert task.result(timeout=choose.choice([0, 0.0005])) == number
            if choose.random() < 0.1:
                wait_futures([task], timeout=20)
            assert task.result(timeout=20) == number
            checked += 1
    return checked


def kill(crew: kumi.Controller, stop: threading.Event) -> int:
    """Kills whichever worker answers first, again and again; how often it did."""
    killed = 0
    while not stop.wait(0.05):
        task: Future[int] = crew.submit(os.getpid)
        os.kill(task.result(timeout=20), signal.SIGKILL)
        killed += 1
    return killed


def test_counts_are_exact_at_every_moment() -> None:
    number = 5_000
    with kumi.Controller(workers=2) as crew:
        tasks = []
        for submitted in range(1, number + 1):
            tasks.append(crew.submit(abs, -submitted))
            status = crew.status()
            assert status.waiting + status.running + status.finished == submitted
            assert status.success == status.finished
        assert sum(task.result() for task in tasks) == number * (number + 1) // 2
        crew.everywhere(abs, 1).result()
        tasks[0].cancel()
        status = crew.status()
    assert (status.finished, status.success, status.cancel) == (number + 1, number + 1, 0)


def test_threads_tasks_and_deaths() -> None:
    stop = threading.Event()
    with kumi.Controller(workers=3, crashes_max=1000) as crew, ThreadPoolExecutor(THREADS + 1) as threads:
        deaths = threads.submit(kill, crew, stop)
        counts = [threads.submit(use, crew, thread) for thread in range(THREADS)]
        wait_futures(counts)
        stop.set()
        assert sum(count.result() for count in counts) > THREADS * ROUNDS
        assert deaths.result() > 0
        assert crew.wait("all") is False
        status = crew.status()
    assert status.lost > 0
    assert (status.waiting, status.running, status.queued_bytes) == (0, 0, 0)
    assert status.success + status.cancel == status.finished
