"""What a task says of itself while it runs."""

import asyncio
import itertools
import os
import signal
import threading
import time
from typing import Any

import jobs
import kumi
import pytest


def report_all(values: list[Any]) -> int:
    for value in values:
        kumi.report(value)
    return len(values)


def report_and_hold(gate: str, *values: Any) -> str:
    report_all(list(values))
    jobs.hold(gate)
    return "done"


def report_in_steps(gate: str, steps: int) -> None:
    for step in range(steps):
        kumi.report(step)
        jobs.hold(gate)


def report_and_raise() -> None:
    kumi.report("so far")
    raise ValueError("no")


def report_and_die(gate: str) -> None:
    kumi.report("last words")
    jobs.hold(gate)
    os.kill(os.getpid(), signal.SIGKILL)


def report_fast(seconds: float) -> int:
    """Reports for so long without a pause, and says how often."""
    end = time.monotonic() + seconds
    for number in itertools.count():
        kumi.report(number)
        if time.monotonic() > end:
            return number
    raise AssertionError("unreachable")


def report_from_threads(threads: int, times: int) -> None:
    def work() -> None:
        for number in range(times):
            kumi.report(number)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    kumi.report("last")


def test_the_last_report_stays_when_the_task_is_done(crew: kumi.Controller) -> None:
    task = crew.submit(report_all, [1, {"a": 2}, (3, "c")])
    assert task.result() == 3
    assert task.report == (3, "c")
    assert task.record is not None
    assert task.record.report == (3, "c")


def test_without_a_report_there_is_none(crew: kumi.Controller) -> None:
    task = crew.submit(jobs.add, 1)
    assert list(task.reports()) == []
    assert task.report is None
    assert task.record is not None
    assert task.record.report is None


def test_it_comes_while_the_task_runs(crew: kumi.Controller, gate: jobs.Gate) -> None:
    task = crew.submit(report_and_hold, gate.path, 0.5)
    gate.wait()
    assert next(iter(task.reports())) == 0.5
    assert task.report == 0.5
    assert not task.done()
    gate.open()
    assert task.result() == "done"


def test_what_is_said_within_the_pause_comes_too(crew: kumi.Controller, gate: jobs.Gate) -> None:
    task = crew.submit(report_and_hold, gate.path, *range(1000))
    gate.wait()
    for value in task.reports():
        if value == 999:
            break
    assert not task.done()
    gate.open()


def test_steps_are_followed_as_they_come(crew: kumi.Controller, gate: jobs.Gate) -> None:
    task = crew.submit(report_in_steps, gate.path, 5)
    seen = []
    for value in task.reports():
        seen.append(value)
        gate.wait()
        gate.open()
    assert seen == [0, 1, 2, 3, 4]
    assert task.done()


def test_several_readers_each_see_the_end(crew: kumi.Controller, gate: jobs.Gate) -> None:
    task = crew.submit(report_in_steps, gate.path, 3)
    lasts: list[Any] = []
    readers = [threading.Thread(target=lambda: lasts.append(list(task.reports())[-1])) for _ in range(4)]
    for reader in readers:
        reader.start()
    for _ in range(3):
        gate.wait()
        gate.open()
    for reader in readers:
        reader.join(30)
    assert lasts == [2] * 4


def test_async_readers(crew: kumi.Controller, gate: jobs.Gate) -> None:
    async def follow(task: kumi.Task[None]) -> list[Any]:
        return [value async for value in task.reports()]

    async def main() -> list[list[Any]]:
        task = crew.submit(report_in_steps, gate.path, 3)
        readers = [asyncio.ensure_future(follow(task)) for _ in range(3)]
        async for value in task.reports():
            await asyncio.to_thread(gate.wait)
            assert value in {0, 1, 2}
            gate.open()
        return await asyncio.gather(*readers)

    seen = asyncio.run(main())
    assert [one[-1] for one in seen] == [2, 2, 2]


def test_an_async_reader_of_a_task_that_is_done(crew: kumi.Controller) -> None:
    async def main(task: kumi.Task[int]) -> list[Any]:
        return [value async for value in task.reports()]

    task = crew.submit(report_all, ["only"])
    task.result()
    assert asyncio.run(main(task)) == ["only"]
    silent = crew.submit(report_all, [])
    assert asyncio.run(main(silent)) == []


def test_an_async_reader_can_be_cancelled(crew: kumi.Controller, gate: jobs.Gate) -> None:
    async def follow(task: kumi.Task[str]) -> None:
        async for _ in task.reports():
            pass

    async def main() -> None:
        task = crew.submit(report_and_hold, gate.path, 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(follow(task), 0.1)
        assert not task.done()
        gate.open()
        assert await task == "done"

    asyncio.run(main())


def test_a_task_that_fails_keeps_its_report(crew: kumi.Controller) -> None:
    task = crew.submit(report_and_raise)
    assert isinstance(task.exception(), ValueError)
    assert task.report == "so far"
    assert list(task.reports()) == ["so far"]


def test_a_worker_that_dies_leaves_the_report_it_sent(single: kumi.Controller, gate: jobs.Gate) -> None:
    task = single.with_options(crashes_max=0).submit(report_and_die, gate.path)
    gate.wait()
    gate.open()
    assert isinstance(task.exception(), kumi.CrashError)
    assert list(task.reports()) == ["last words"]


def test_at_most_twenty_a_second_and_the_last_one(crew: kumi.Controller) -> None:
    task = crew.submit(report_fast, 0.5)
    seen = list(task.reports())
    assert seen[-1] == task.result()
    assert seen == sorted(seen)
    took = task.record.seconds if task.record is not None else None
    assert took is not None
    assert 2 <= len(seen) <= 20 * took + 2


def test_reports_of_many_short_tasks_are_not_mixed_up(crew: kumi.Controller) -> None:
    tasks = [crew.submit(report_all, [number, -number]) for number in range(300)]
    for number, task in enumerate(tasks):
        task.result()
        assert task.report == -number


def test_threads_of_a_task_report(crew: kumi.Controller) -> None:
    task = crew.submit(report_from_threads, 4, 200)
    task.result()
    assert task.report == "last"


def test_what_is_too_long_or_cannot_be_pickled_is_the_callers_error(crew: kumi.Controller) -> None:
    with pytest.raises(ValueError, match="32768 at most"):
        crew.submit(report_all, [b"x" * 40_000]).result()
    with pytest.raises(ValueError, match="small value"):
        crew.submit(report_all, [b"x" * 10_000_000]).result()
    with pytest.raises(kumi.SerializationError, match="the report of the task"):
        crew.submit(lambda: kumi.report(jobs.Unpicklable())).result()
    longest = crew.submit(report_all, [b"x" * 32_000])
    longest.result()
    assert longest.report == b"x" * 32_000


def test_a_report_that_cannot_be_read_costs_nothing_else(crew: kumi.Controller) -> None:
    task = crew.submit(lambda: kumi.report(jobs.PoisonOnArrival()))
    assert task.result() is None
    with pytest.raises(kumi.SerializationError, match="a report arrived"):
        _ = task.report
    assert task.record is not None
    assert isinstance(task.record.report, kumi.SerializationError)


def test_held_reports_are_counted(single: kumi.Controller) -> None:
    task = single.submit(report_all, [b"x" * 10_000])
    task.result()
    assert 10_000 < single.status().result_bytes < 11_000
    del task
    assert single.status().result_bytes == 0


def test_in_this_process() -> None:
    with kumi.Controller(kumi.Sequential()) as crew:
        task = crew.submit(report_all, [1, 2])
        assert task.report == 2
        assert list(task.reports()) == [2]
        with pytest.raises(ValueError, match="at most"):
            crew.submit(report_all, [b"x" * 40_000]).result()
