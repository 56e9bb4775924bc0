"""Tasks and controllers where the standard library takes a Future or an Executor."""

import asyncio
import concurrent.futures
import functools
import inspect
import threading
from collections.abc import AsyncIterable, Awaitable, Iterable, Iterator
from typing import Any

import jobs
import kumi
import pytest

LIMIT = jobs.SECONDS_MAX


@pytest.fixture
def held(single: kumi.Controller, gate: jobs.Gate) -> Iterator[kumi.Task[str]]:
    """A task that is running, and goes on when the gate opens."""
    task = single.submit(jobs.hold, gate.path, "held")
    gate.wait()
    yield task
    gate.open()


def total(executor: concurrent.futures.Executor, numbers: Iterable[int]) -> int:
    """Code that knows nothing of kumi."""
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        first = threads.submit(jobs.add, 1)
        second = executor.submit(jobs.add, 2)
        concurrent.futures.wait([first, second], LIMIT)
        return sum(executor.map(jobs.add, numbers, timeout=LIMIT, chunksize=10)) + first.result() + second.result()


def test_code_for_any_executor(crew: kumi.Controller) -> None:
    assert total(crew, range(50)) == sum(range(1, 51)) + 5
    assert total(crew, iter(range(50))) == sum(range(1, 51)) + 5


def test_map_has_the_arguments_of_an_executors_map(single: kumi.Controller, gate: jobs.Gate) -> None:
    assert list(single.map(pow, [2, 3, 4], [5, 2], chunksize=2, timeout=LIMIT, buffersize=1)) == [32, 9]
    values = single.map(jobs.hold, [gate.path], timeout=0.01)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(values)
    gate.open()


def test_what_tasks_and_maps_say_they_are(crew: kumi.Controller) -> None:
    """M41."""
    task, values = crew.submit(jobs.add, 1), crew.map(jobs.add, [1])
    assert isinstance(task, Awaitable)
    assert inspect.iscoroutinefunction(crew.run)
    assert isinstance(values, Iterator)
    for several in (values, values.as_completed(), kumi.as_completed([task]), crew.records(), task.reports()):
        assert isinstance(several, Iterable)
        assert isinstance(several, AsyncIterable)
    assert values.results() == [2]
    assert task.result(LIMIT) == 2


def test_looking_at_a_task_waits_for_nothing(held: kumi.Task[str]) -> None:
    """M40: as debuggers and completion do, which ask for all attributes."""
    found = dict(inspect.getmembers(held))
    assert {"result", "record", "report", "cancel"} <= set(found)
    assert (found["record"], held.state()) == (None, "running")
    assert held.__dict__ == {}


def test_waits_that_end_too_early_leave_the_task_alone(held: kumi.Task[str], gate: jobs.Gate) -> None:
    for wait in (held.result, held.exception):
        with pytest.raises(concurrent.futures.TimeoutError):
            wait(timeout=0.01)
    with pytest.raises(concurrent.futures.TimeoutError, match=r"1 \(of 1\) futures unfinished"):
        list(concurrent.futures.as_completed([held], timeout=0.01))
    assert held.running()
    gate.open()
    assert held.result(LIMIT) == "held"
    assert held.exception(0) is None


def test_a_cancelled_task_is_a_cancelled_future(held: kumi.Task[str], single: kumi.Controller) -> None:
    task = single.submit(jobs.add, 1)
    told = threading.Event()
    task.add_done_callback(lambda _: told.set())
    assert task.cancel()
    assert task.cancelled()
    assert task.done()
    assert not task.running()
    assert told.wait(LIMIT)
    for ask in (task.result, task.exception):
        with pytest.raises(concurrent.futures.CancelledError):
            ask(0)
    assert list(concurrent.futures.as_completed([task], LIMIT)) == [task]
    assert held.cancel(), "a running one too, which others cannot"
    assert held.cancelled()


def test_run_in_executor(crew: kumi.Controller, single: kumi.Controller, gate: jobs.Gate) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(ValueError, match="no"):
            await loop.run_in_executor(crew, jobs.boom)
        assert await loop.run_in_executor(crew, functools.partial(jobs.add, 1, b=5)) == 6
        many = [loop.run_in_executor(crew, jobs.add, number) for number in range(100)]
        assert await asyncio.gather(*many) == list(range(1, 101))

    asyncio.run(main())


def test_a_wrapped_future_passes_a_cancellation_on(held: kumi.Task[str], single: kumi.Controller) -> None:
    waiting = single.submit(jobs.add, 1)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(waiting), 0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(held), 0.01)

    asyncio.run(main())
    concurrent.futures.wait([waiting, held], LIMIT)
    assert waiting.cancelled()
    assert held.cancelled()


def test_a_time_limit_on_an_await_cancels(held: kumi.Task[str], single: kumi.Controller) -> None:
    tasks = [single.submit(jobs.add, 1) for _ in range(2)]

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tasks[0], 0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await tasks[1]

    asyncio.run(main())
    assert [task.state() for task in tasks] == ["cancel"] * 2
    assert held.running()


def test_what_takes_asyncios_futures_alone_says_so(held: kumi.Task[str]) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match=r"give it asyncio.ensure_future\(task\) for each"):
            await asyncio.wait([held])  # type: ignore[type-var] # what users write
        awaited = asyncio.ensure_future(held)
        assert await asyncio.wait([awaited], timeout=0.01) == (set(), {awaited})
        awaited.cancel()

    asyncio.run(main())


def test_what_asyncio_does_with_several(crew: kumi.Controller) -> None:
    async def one(number: int) -> int:
        return await crew.run(jobs.boom_at, number, 3)

    async def main() -> list[Any]:
        seen = [await next_one for next_one in asyncio.as_completed([one(number) for number in range(3)])]
        assert sorted(seen) == [0, 1, 2]
        done, waiting = await asyncio.wait([asyncio.ensure_future(one(number)) for number in range(3)])
        assert (len(done), waiting) == (3, set())
        return list(await asyncio.gather(*(one(number) for number in range(5)), return_exceptions=True))

    values = asyncio.run(main())
    assert (values[:3], values[4]) == ([0, 1, 2], 4)
    assert isinstance(values[3], ValueError)
