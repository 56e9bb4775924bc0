"""Tasks in the order in which they finish, `kumi.wait`, and maps in async code."""

import asyncio
import concurrent.futures
import io
import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest


def gated(gate: str, number: int) -> int:
    """Element 0 waits at the gate, the others return at once."""
    return jobs.hold(gate, number) if number == 0 else number


def gated_or_bad(gate: str, number: int) -> int:
    if number == 2:
        raise ValueError("bad")
    return gated(gate, number)


def test_tasks_come_as_they_finish(crew: kumi.Controller, gate: jobs.Gate) -> None:
    slow = crew.submit(jobs.hold, gate.path, "slow")
    gate.wait()
    quick = crew.submit(jobs.add, 1)
    completed = kumi.as_completed([slow, quick, slow])
    assert next(completed) is quick
    gate.open()
    assert list(completed) == [slow]
    assert list(completed) == []


def test_who_waits_for_nothing_does_not_wait(crew: kumi.Controller) -> None:
    assert kumi.wait([]) == (set(), set())
    assert list(kumi.as_completed([])) == []
    assert crew.map(jobs.add, []).results() == []
    assert list(crew.records()) == []


def test_as_completed_says_how_many_are_left(crew: kumi.Controller, gate: jobs.Gate) -> None:
    slow = crew.submit(jobs.hold, gate.path)
    with pytest.raises(TimeoutError, match="1 of 2 tasks were not done within 0.5 seconds; they go on"):
        list(kumi.as_completed([slow, crew.submit(jobs.add, 1)], timeout=0.5))
    gate.open()
    slow.result()


def test_ten_thousand_tasks(crew: kumi.Controller) -> None:
    tasks = [crew.submit(jobs.same, number) for number in range(10_000)]
    assert sorted(task.result() for task in kumi.as_completed(tasks)) == list(range(10_000))


def test_as_completed_in_async_code_leaves_the_loop_alone(crew: kumi.Controller, gate: jobs.Gate) -> None:
    async def main() -> list[Any]:
        slow = crew.submit(jobs.hold, gate.path, "slow")
        order = []
        async for task in kumi.as_completed([slow, *(crew.submit(jobs.add, number) for number in range(100))]):
            order.append(task.result())
            if len(order) == 100:
                gate.open()
        return order

    assert asyncio.run(main())[-1] == "slow"


def test_as_completed_in_async_code_times_out(crew: kumi.Controller, gate: jobs.Gate) -> None:
    async def main() -> None:
        async for _ in kumi.as_completed([crew.submit(jobs.hold, gate.path)], timeout=0.2):
            pass

    with pytest.raises(TimeoutError, match="1 of 1"):
        asyncio.run(main())
    gate.open()


def test_wait_is_that_of_the_standard_library(crew: kumi.Controller, gate: jobs.Gate) -> None:
    slow, quick = crew.submit(jobs.hold, gate.path), crew.submit(jobs.add, 1)
    assert kumi.wait([slow, quick], return_when="FIRST_COMPLETED") == ({quick}, {slow})
    bad = crew.submit(jobs.boom)
    assert bad in kumi.wait([slow, bad], return_when="FIRST_EXCEPTION").done
    assert isinstance(bad.exception(), ValueError)
    assert kumi.wait([slow], timeout=0).not_done == {slow}
    gate.open()
    assert kumi.wait([slow, quick]).not_done == set()
    assert set(concurrent.futures.as_completed([slow, quick])) == {slow, quick}


def test_a_map_in_the_order_of_finishing(crew: kumi.Controller, gate: jobs.Gate) -> None:
    seen = []
    for task in crew.map(gated, [gate.path] * 20, range(20)).as_completed():
        seen.append((task.index, task.result()))
        if len(seen) == 19:
            gate.open()
    assert seen[-1] == (0, 0)
    assert sorted(seen) == [(number, number) for number in range(20)]


def test_the_first_failure_ends_a_map_in_the_order_of_finishing(crew: kumi.Controller, gate: jobs.Gate) -> None:
    with pytest.raises(ValueError, match="bad") as caught:
        list(crew.map(gated_or_bad, [gate.path] * 5, range(5)).as_completed())  # element 0 has not finished
    assert caught.value.__notes__ == ["in element 2 of the map, counted from 0"]
    gate.open()


def test_errors_as_values(crew: kumi.Controller) -> None:
    values = crew.map(jobs.boom_at, range(5), [3] * 5, on_error="return").results()
    assert values[:3] + values[4:] == [0, 1, 2, 4]
    assert isinstance(values[3], ValueError)
    tasks = crew.map(jobs.boom_at, range(5), [3] * 5, on_error="return").as_completed()
    assert {task.index for task in tasks if task.exception() is not None} == {3}
    with pytest.raises(ValueError, match="on_error must be"):
        crew.map(jobs.add, [1], on_error="ignore")  # type: ignore[arg-type]


def test_a_lazy_input_is_taken_as_tasks_finish(single: kumi.Controller) -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for number in range(200):
            taken.append(number)
            yield number

    tasks = iter(single.map(jobs.add, numbers(), buffersize=10).as_completed())
    next(tasks)
    assert len(taken) <= 11
    assert len(list(tasks)) == 199


def test_leaving_early_cancels_the_rest(single: kumi.Controller, gate: jobs.Gate, tmp_path: Path) -> None:
    whole = single.map(jobs.note, [str(tmp_path / "ran")] * 50, map(str, range(50)), buffersize=50)
    blocker = None
    for task in whole.as_completed():
        blocker = task
        break
    assert blocker is not None
    with pytest.raises(kumi.TaskCancelled):
        next(whole)


async def ticks(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


def test_maps_in_async_code(crew: kumi.Controller) -> None:
    async def main() -> None:
        assert [value async for value in crew.map(jobs.add, range(300))] == list(range(1, 301))
        assert [value async for value in crew.map(jobs.add, ticks(300))] == list(range(1, 301))
        assert [value async for value in crew.map(jobs.add, ticks(9), [1, 2])] == [1, 3]
        pairs = [(t.index, t.result()) async for t in crew.map(jobs.add, ticks(300)).as_completed()]
        assert sorted(pairs) == [(number, number + 1) for number in range(300)]
        with pytest.raises(ValueError, match="bad 7"):
            [value async for value in crew.map(jobs.boom_at, ticks(20), [7] * 20)]

    asyncio.run(main())


def test_what_has_arrived_is_read_before_more_input_comes(crew: kumi.Controller) -> None:
    """A source that waits for the values of before: nothing but reading on lets it go on."""

    async def main() -> list[int]:
        seen: asyncio.Queue[int] = asyncio.Queue()

        async def source() -> AsyncIterator[int]:
            value = 0
            for _ in range(10):
                yield value
                value = await seen.get()

        values = []
        async for value in crew.map(jobs.add, source()):
            values.append(value)
            seen.put_nowait(value)
        return values

    assert asyncio.run(main()) == list(range(1, 11))


def test_an_async_map_has_a_time_limit_and_leaves_the_loop_alone(crew: kumi.Controller, gate: jobs.Gate) -> None:
    async def main() -> None:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.01)
                beats += 1

        beating = asyncio.ensure_future(beat())
        with pytest.raises(TimeoutError, match="element 0 was not done within the 0.5 seconds"):
            [value async for value in crew.map(jobs.hold, [gate.path], timeout=0.5)]
        assert beats > 5
        beating.cancel()

    asyncio.run(main())
    gate.open()


@pytest.mark.parametrize("leave", ["break", "error", "cancel"])
@pytest.mark.parametrize("completed", [False, True], ids=["in order", "as completed"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["iterable", "asynchronous"])
def test_leaving_an_async_map_early_cancels_the_rest(
    leave: str, completed: bool, asynchronous: bool, single: kumi.Controller, gate: jobs.Gate
) -> None:
    def read() -> Any:
        values = single.map(jobs.hold, itertools.repeat(gate.path), ticks(40) if asynchronous else range(40))
        return values.as_completed() if completed else values

    async def leave_early(seen: asyncio.Event) -> None:
        async for _ in read():
            seen.set()
            if leave == "break":
                break
            if leave == "error":
                raise LookupError
            await asyncio.Event().wait()

    async def main() -> None:
        seen = asyncio.Event()
        reading = asyncio.ensure_future(leave_early(seen))
        gate.open()
        await seen.wait()
        if leave == "cancel":
            reading.cancel()
        await asyncio.wait([reading])
        for _ in range(5):
            await asyncio.sleep(0)  # the loop closes what was left by `break`
        status = single.status()
        assert (status.waiting, status.running) == (0, 0)
        if not reading.cancelled():
            reading.exception()

    asyncio.run(asyncio.wait_for(main(), jobs.SECONDS_MAX))
    assert single.submit(jobs.add, 1).result(jobs.SECONDS_MAX) == 2


def test_an_error_of_the_input_is_the_readers(crew: kumi.Controller) -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise OSError("the input broke")

    async def main() -> None:
        with pytest.raises(OSError, match="the input broke"):
            [value async for value in crew.map(jobs.add, broken())]

    asyncio.run(main())


def test_asynchronous_input_needs_async_for(crew: kumi.Controller) -> None:
    with pytest.raises(TypeError, match="async for"):
        crew.map(jobs.add, ticks(3)).results()


def test_a_bar(crew: kumi.Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert crew.map(jobs.add, range(50)).results(progress=True) == list(range(1, 51))
    assert "50/50" in terminal.getvalue()
    with pytest.raises(ValueError, match="bad 3"):
        crew.map(jobs.boom_at, range(5), [3] * 5, progress=True).results()
    assert list(crew.map(jobs.add, iter([1, 2]), progress=True)) == [2, 3]
    assert "2it" in terminal.getvalue()


def test_a_bar_in_async_code_and_in_the_order_of_finishing(
    crew: kumi.Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)

    async def main() -> None:
        assert [value async for value in crew.map(jobs.same, range(30), progress=True)] == list(range(30))
        assert len([task async for task in crew.map(jobs.same, range(31), progress=True).as_completed()]) == 31
        assert [value async for value in crew.map(jobs.same, ticks(7), progress=True)] == list(range(7))

    asyncio.run(main())
    assert len(list(crew.map(jobs.same, range(32), progress=True).as_completed())) == 32
    for bar in ("30/30", "31/31", "7it", "32/32"):
        assert bar in terminal.getvalue()


def test_a_bar_without_tqdm_says_what_to_install(crew: kumi.Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tqdm"):
        crew.map(jobs.add, [1], progress=True)


def test_executors_of_the_standard_library(crew: kumi.Controller) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(crew, jobs.add, 1) == 2
        assert await asyncio.wrap_future(crew.submit(jobs.add, 2)) == 3

    asyncio.run(main())
    assert isinstance(crew, concurrent.futures.Executor)


def test_dask_keeps_all_workers_busy(gate: jobs.Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of itself it would hand in as many tasks at a time as there are CPUs."""
    import dask
    import dask.base

    monkeypatch.setattr(dask.base, "CPU_COUNT", 1)
    with kumi.Controller(workers=2) as crew, concurrent.futures.ThreadPoolExecutor(1) as thread:
        parts = [dask.delayed(jobs.hold)(gate.path, number) for number in range(2)]
        total = thread.submit(dask.delayed(sum)(parts).compute, scheduler=crew)
        gate.wait(2)
        gate.open(2)
        assert total.result(jobs.SECONDS_MAX) == 1


def test_dask(crew: kumi.Controller) -> None:
    import dask
    import dask.bag

    with dask.config.set(scheduler=crew):
        parts = [dask.delayed(jobs.add)(number, 1) for number in range(10)]
        assert dask.delayed(sum)(parts).compute() == sum(range(1, 11))
        doubled = dask.bag.from_sequence(range(10), npartitions=4).map(lambda x: 2 * x)
        assert doubled.compute() == list(range(0, 20, 2))
        with pytest.raises(ValueError, match="no"):
            dask.delayed(jobs.boom)().compute()
