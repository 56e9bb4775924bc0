"""Tasks in coroutines of trio, and of anyio on either of its backends."""

import gc
import itertools
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import anyio
import jobs
import kumi
import pytest
import trio
import trio.testing
from kumi.waiting import AT_ONCE

LIMIT = jobs.SECONDS_MAX


@pytest.fixture
def held(single: kumi.Controller, gate: jobs.Gate) -> Iterator[kumi.Controller]:
    """A controller whose one worker is busy until the gate opens."""
    task = single.submit(jobs.hold, gate.path, "held")
    gate.wait()
    yield single
    gate.open()
    assert task.result(LIMIT) == "held"


def run(main: Any) -> Any:
    async def limited() -> Any:
        with trio.fail_after(LIMIT):
            return await main()

    return trio.run(limited)


def test_await_returns_and_raises(crew: kumi.Controller) -> None:
    async def main() -> None:
        assert await crew.submit(jobs.add, 1) == 2
        assert await crew.run(jobs.add, 2) == 3
        done = crew.submit(jobs.add, 3)
        done.result(LIMIT)
        assert await done == 4
        with pytest.raises(ValueError, match="no"):
            await crew.run(jobs.boom)

    run(main)


def test_a_cancelled_scope_cancels_the_task(held: kumi.Controller) -> None:
    tasks = [held.submit(jobs.add, 1) for _ in range(2)]

    async def main() -> None:
        with trio.move_on_after(0.01) as scope:
            await tasks[0]
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(result_of, tasks[1])
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    run(main)
    assert [task.state() for task in tasks] == ["cancel"] * 2


def test_awaiting_a_cancelled_task_is_not_being_cancelled(held: kumi.Controller) -> None:
    task = held.submit(jobs.add, 1)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel, task)
            with pytest.raises(kumi.TaskCancelled):
                await task

    run(main)


async def cancel(task: kumi.Task[Any]) -> None:
    task.cancel()


async def result_of(task: kumi.Task[Any]) -> None:
    await task


def test_thousands_are_awaited_without_threads_and_others_go_on(held: kumi.Controller, gate: jobs.Gate) -> None:
    tasks = [held.submit(jobs.same, i) for i in range(3000)]
    finished, at_turns = 0, [0]

    async def one(task: kumi.Task[int], number: int) -> None:
        nonlocal finished
        assert await task == number
        finished += 1

    async def turns() -> None:
        while finished < len(tasks):
            at_turns.append(finished)
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        threads = threading.active_count()
        async with trio.open_nursery() as nursery:
            for number, task in enumerate(tasks):
                nursery.start_soon(one, task, number)
            await trio.testing.wait_all_tasks_blocked()
            assert threading.active_count() == threads
            nursery.start_soon(turns)
            gate.open()

    run(main)
    gate.open()
    steps = [after - before for before, after in itertools.pairwise(at_turns)]
    # The order within a turn is random: one batch may end a turn and another one begin the next.
    assert max(steps) <= 2 * AT_ONCE


def test_runs_wait_for_room_and_give_up_when_cancelled(gate: jobs.Gate) -> None:
    results: list[bytes] = []

    async def one(crew: kumi.Controller) -> None:
        results.append(await crew.run(jobs.same, b"x" * 1000))

    async def main(crew: kumi.Controller) -> None:
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.01):
                await crew.run(jobs.same, b"y" * 1000)
            for _ in range(5):
                nursery.start_soon(one, crew)
            await trio.testing.wait_all_tasks_blocked()
            gate.open()

    with kumi.Controller(workers=1, queue_gigabytes_max=1e-6) as crew:
        crew.submit(jobs.hold, gate.path)
        gate.wait()
        run(lambda: main(crew))
    assert results == [b"x" * 1000] * 5


def test_blocks_and_records(gate: jobs.Gate) -> None:
    async def main() -> list[Any]:
        async with kumi.Controller(workers=1) as crew, trio.open_nursery() as nursery:
            crew.push(jobs.hold, gate.path, 7)
            nursery.start_soon(open_soon)
            return [record.result async for record in crew.records()]

    async def open_soon() -> None:
        await trio.to_thread.run_sync(gate.wait)
        gate.open()

    assert run(main) == [7]


def test_leaving_a_block_in_a_cancelled_scope_cancels(gate: jobs.Gate) -> None:
    tasks: list[kumi.Task[Any]] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            async with kumi.Controller(workers=1) as crew:
                tasks.append(crew.submit(jobs.hold, gate.path))
                await trio.to_thread.run_sync(gate.wait)
                scope.cancel()
        with pytest.raises(kumi.ControllerClosed):
            crew.submit(jobs.add, 1)

    run(main)
    assert tasks[0].state() == "cancel"


def test_submit_refuses_to_stop_the_loop(gate: jobs.Gate) -> None:
    async def main(crew: kumi.Controller) -> None:
        with pytest.raises(kumi.QueueFull, match="await"):
            crew.submit(jobs.same, b"x" * 1000)

    with kumi.Controller(workers=1, queue_gigabytes_max=1e-6) as crew:
        crew.submit(jobs.hold, gate.path)
        gate.wait()
        run(lambda: main(crew))
        gate.open()


def test_runs_of_trio_that_have_ended_are_forgotten(crew: kumi.Controller) -> None:
    seen: list[weakref.ref[Any]] = []

    async def main() -> None:
        await crew.run(jobs.add, 1)
        seen.append(weakref.ref(trio.lowlevel.current_root_task()))

    run(main)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        run(main)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert [root() for root in seen] == [None] * 11


def test_what_needs_asyncio_says_so(crew: kumi.Controller) -> None:
    async def read(several: Any) -> None:
        async for _ in several:
            pass

    with pytest.raises(RuntimeError, match="needs asyncio"):
        run(lambda: read(crew.map(jobs.add, [1])))
    with pytest.raises(RuntimeError, match="needs asyncio"):
        run(lambda: read(crew.map(jobs.add, [1]).as_completed()))
    with pytest.raises(RuntimeError, match="needs asyncio"):
        run(lambda: read(kumi.as_completed([crew.submit(jobs.add, 1)])))
    assert run(lambda: trio.to_thread.run_sync(crew.map(jobs.add, [1]).results)) == [2]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio(backend: str, held: kumi.Controller, gate: jobs.Gate) -> None:
    task = held.submit(jobs.add, 1)
    values: list[int] = []

    async def one(number: int) -> None:
        values.append(await held.run(jobs.add, number))

    async def main() -> None:
        with anyio.move_on_after(0.01):
            await task
        gate.open()
        with anyio.fail_after(LIMIT):
            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(one, number)

    anyio.run(main, backend=backend)
    gate.open()
    assert task.state() == "cancel"
    assert sorted(values) == list(range(1, 21))
