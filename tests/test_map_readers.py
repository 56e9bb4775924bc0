"""Several readers of one map, or of one `as_completed`: threads, or coroutines of a loop. Each value is given once."""

import asyncio
import itertools
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jobs
import kumi
import pytest

LIMIT = jobs.SECONDS_MAX
COUNT = 1000

Several = Callable[[kumi.Controller], Any]
SEVERAL: dict[str, Several] = {
    "a map": lambda crew: crew.map(jobs.same, range(COUNT)),
    "a map of a generator": lambda crew: crew.map(jobs.same, iter(range(COUNT))),
    "a map, a few ahead": lambda crew: crew.map(jobs.same, range(COUNT), buffersize=3),
    "a map as completed": lambda crew: crew.map(jobs.same, range(COUNT)).as_completed(),
    "a map of a generator as completed": lambda crew: crew.map(jobs.same, iter(range(COUNT))).as_completed(),
    "as completed": lambda crew: kumi.as_completed([crew.submit(jobs.same, number) for number in range(COUNT)]),
}


@pytest.fixture(autouse=True)
def threads_change_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def value_of(given: Any) -> int:
    return int(given.result() if isinstance(given, kumi.Task) else given)


@pytest.mark.parametrize("several", SEVERAL)
def test_threads_share_what_there_is(several: str, crew: kumi.Controller) -> None:
    shared = SEVERAL[several](crew)

    def read(_: int) -> list[int]:
        return [value_of(given) for given in shared]

    with ThreadPoolExecutor(4) as threads:
        seen = [*itertools.chain(*threads.map(read, range(4), timeout=LIMIT))]
    assert sorted(seen) == list(range(COUNT))


async def ticks() -> AsyncIterator[int]:
    for number in range(COUNT):
        yield number


@pytest.mark.parametrize("several", [*SEVERAL, "a map of asynchronous input"])
def test_coroutines_share_what_there_is(several: str, crew: kumi.Controller) -> None:
    async def main() -> list[int]:
        shared = SEVERAL[several](crew) if several in SEVERAL else crew.map(jobs.same, ticks())
        seen: list[int] = []

        async def read() -> None:
            async for given in shared:
                seen.append(value_of(given))
                await asyncio.sleep(0)

        async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as readers:
            for _ in range(4):
                readers.create_task(read())
        return seen

    assert sorted(asyncio.run(main())) == list(range(COUNT))


def test_numbers_of_elements_are_right_whoever_reads(crew: kumi.Controller) -> None:
    values = crew.map(jobs.same, range(COUNT))
    assert [next(values), next(values)] == [0, 1]
    completed = values.as_completed()

    def read(_: int) -> list[bool]:
        return [task.index == task.result() for task in completed]

    with ThreadPoolExecutor(4) as threads:
        seen = [*itertools.chain(*threads.map(read, range(4), timeout=LIMIT))]
    assert seen == [True] * (COUNT - 2)


def test_one_reader_meets_the_failure_and_the_others_learn_that_the_map_was_left(crew: kumi.Controller) -> None:
    values = crew.map(jobs.boom_at, range(COUNT), [500] * COUNT)
    ends: list[str] = []

    def read() -> None:
        try:
            for _ in values:
                pass
        except Exception as error:
            ends.append(type(error).__name__)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(ends) == ["TaskCancelled"] * 3 + ["ValueError"]


@pytest.mark.parametrize("completed", [False, True])
def test_a_map_is_closed_while_another_thread_reads(completed: bool, single: kumi.Controller, gate: jobs.Gate) -> None:
    values = single.map(jobs.hold, [gate.path] * 10)
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(lambda: list(values.as_completed() if completed else values))
        gate.wait()
        values.close()
        with pytest.raises(kumi.TaskCancelled):
            reading.result(LIMIT)
    assert single.status().waiting == 0


@pytest.mark.parametrize("on_error", ["raise", "return"])
def test_a_map_is_closed_by_who_reads_it_as_completed(on_error: Any, single: kumi.Controller, gate: jobs.Gate) -> None:
    values = single.map(jobs.hold, [gate.path] * 10, on_error=on_error)
    gate.open()
    tasks = iter(values.as_completed())
    next(tasks)
    values.close()
    assert (single.status().waiting, single.status().running) == (0, 0)
    with pytest.raises(kumi.TaskCancelled, match="1 of its elements"):
        next(tasks)
