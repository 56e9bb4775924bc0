"""Tasks in coroutines of asyncio: the loop is woken by the core, in batches, and never blocked."""

import asyncio
import contextlib
import gc
import itertools
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest
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


async def result_of(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def soon(awaitable: Awaitable[Any]) -> Any:
    async with asyncio.timeout(LIMIT):
        return await awaitable


# Awaiting


def test_await_returns_and_raises(crew: kumi.Controller) -> None:
    async def main() -> None:
        assert await crew.submit(jobs.add, 1) == 2
        done = crew.submit(jobs.add, 2)
        done.result(LIMIT)
        assert await done == 3
        with pytest.raises(ValueError, match="no"):
            await crew.submit(jobs.boom)
        with pytest.raises(kumi.CrashError):
            await crew.with_options(crashes_max=0).submit(jobs.kill_self)
        assert await asyncio.gather(*(crew.submit(jobs.add, i) for i in range(50))) == list(range(1, 51))

    asyncio.run(soon(main()))


def test_run_from_the_module(crew: kumi.Controller) -> None:
    async def main() -> list[int]:
        async with kumi.daemons(1, name="async-default") as made:
            assert kumi.default() is made
            return await asyncio.gather(kumi.run(jobs.add, 1), kumi.run(jobs.add, 2), made.run(jobs.add, 3))

    assert asyncio.run(soon(main())) == [2, 3, 4]


def test_tasks_that_wait_that_are_done_and_that_follow_each_other_notify(held: kumi.Controller) -> None:
    """What a promise's two handlers would be told, whenever they are set."""

    async def main() -> None:
        done, failed = (held.with_options(controller="kumi-promises").submit(f) for f in (jobs.pid, jobs.boom))
        for task in (done, failed):
            task.exception(LIMIT)
        waiting = held.submit(jobs.add, 1)
        told: list[Any] = []
        futures = [asyncio.ensure_future(result_of(task)) for task in (done, failed, waiting)]
        for future in futures:
            future.add_done_callback(lambda future: told.append(future.exception()))
        await asyncio.wait(futures[:2])
        await asyncio.sleep(0)
        assert [type(error) for error in told] == [type(None), ValueError]
        assert not futures[2].done()
        futures[2].cancel()
        await asyncio.wait(futures)

    with kumi.Controller(workers=1, name="kumi-promises") as other:
        other.start()
        asyncio.run(soon(main()))


def test_elements_of_a_map_can_be_handled_one_by_one(crew: kumi.Controller) -> None:
    async def element(number: int) -> int | str:
        try:
            return await crew.run(jobs.boom_at, number, 2)
        except ValueError as error:
            return str(error)

    async def main() -> list[int | str]:
        return list(await asyncio.gather(*(element(number) for number in range(4))))

    assert asyncio.run(soon(main())) == [0, 1, "bad 2", 3]


def test_a_slow_callback_holds_up_no_coroutine(held: kumi.Controller, gate: jobs.Gate) -> None:
    entered, leave = threading.Event(), threading.Event()

    def linger(_: Any) -> None:
        entered.set()
        leave.wait(LIMIT)

    held.submit(jobs.add, 1).add_done_callback(linger)
    gate.open()
    assert entered.wait(LIMIT)
    try:
        assert asyncio.run(soon(held.run(jobs.add, 2))) == 3
    finally:
        leave.set()
        gate.open()


def test_without_a_loop_there_is_nothing_to_wait_by(held: kumi.Controller) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        held.submit(jobs.add, 1).__await__().send(None)


# Cancelling


def test_awaiting_a_cancelled_task_is_not_being_cancelled(held: kumi.Controller) -> None:
    async def main() -> None:
        task = held.submit(jobs.add, 1)
        awaiting = [asyncio.create_task(result_of(task)) for _ in range(2)]
        await asyncio.sleep(0)
        task.cancel()
        errors = await asyncio.gather(*awaiting, return_exceptions=True)
        assert [type(error) for error in errors] == [kumi.TaskCancelled] * 2

    asyncio.run(soon(main()))


def test_cancelling_the_awaiter_cancels_the_task(held: kumi.Controller) -> None:
    tasks = [held.submit(jobs.add, 1) for _ in range(4)]

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(result_of(tasks[0]), 0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await tasks[1]
        awaiting = asyncio.create_task(result_of(tasks[2]))
        both = asyncio.gather(awaiting, tasks[3])
        await asyncio.sleep(0)
        both.cancel()
        with pytest.raises(asyncio.CancelledError):
            await awaiting

    asyncio.run(soon(main()))
    assert [task.state() for task in tasks] == ["cancel"] * 4


def test_cancelling_the_awaiter_stops_a_task_that_runs(single: kumi.Controller, gate: jobs.Gate) -> None:
    task = single.submit(jobs.hold, gate.path)
    gate.wait()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await task
        assert await single.run(jobs.add, 1) == 2, "the worker is free again"

    asyncio.run(soon(main()))
    assert task.state() == "cancel"


def test_a_shielded_task_goes_on(held: kumi.Controller, gate: jobs.Gate) -> None:
    task = held.submit(jobs.add, 1)

    async def main() -> None:
        inner = asyncio.ensure_future(result_of(task))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.shield(inner)
        assert task.state() == "waiting"
        gate.open()
        assert await inner == 2

    asyncio.run(soon(main()))
    gate.open()


def test_a_failure_in_a_task_group_cancels_its_siblings(held: kumi.Controller) -> None:
    waiting: list[kumi.Task[int]] = []

    async def sibling() -> None:
        waiting.append(held.submit(jobs.add, 1))
        await waiting[0]

    async def fail() -> None:
        raise ValueError("mine")

    async def main() -> None:
        with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="mine")):
            async with asyncio.TaskGroup() as group:
                group.create_task(sibling())
                group.create_task(fail())

    asyncio.run(soon(main()))
    assert waiting[0].state() == "cancel"


def test_a_task_group_collects(crew: kumi.Controller) -> None:
    async def main() -> list[int]:
        async with asyncio.TaskGroup() as group:
            made = [group.create_task(crew.run(jobs.add, i)) for i in range(10)]
        return [task.result() for task in made]

    assert asyncio.run(soon(main())) == list(range(1, 11))


# Thousands


def test_ten_thousand_tasks_are_awaited_without_threads_and_the_loop_goes_on(
    held: kumi.Controller, gate: jobs.Gate
) -> None:
    """Between two turns of the loop at most one batch of them is resumed, however many have finished."""
    tasks = [held.submit(jobs.same, i) for i in range(10_000)]
    finished, at_turns = 0, [0]

    async def one(task: kumi.Task[int]) -> int:
        nonlocal finished
        value = await task
        finished += 1
        return value

    def turn() -> None:
        at_turns.append(finished)
        if finished < len(tasks):
            asyncio.get_running_loop().call_soon(turn)

    async def main() -> list[int]:
        threads = threading.active_count()
        awaiting = asyncio.gather(*(one(task) for task in tasks))
        turn()
        await asyncio.sleep(0)
        assert threading.active_count() == threads
        gate.open()
        return await awaiting

    assert asyncio.run(soon(main())) == list(range(10_000))
    gate.open()
    steps = [after - before for before, after in itertools.pairwise(at_turns)]
    assert max(steps) <= AT_ONCE


# Room in the queue


def test_runs_wait_for_room_in_their_order_and_without_a_thread(gate: jobs.Gate, tmp_path: Path) -> None:
    file = tmp_path / "order"

    async def main(crew: kumi.Controller) -> None:
        threads = threading.active_count()
        runs = [asyncio.create_task(crew.run(jobs.note, str(file), f"{i} " + "x" * 1000)) for i in range(20)]
        await asyncio.sleep(0)
        assert threading.active_count() == threads
        gate.open()
        await asyncio.gather(*runs)

    with kumi.Controller(workers=1, queue_gigabytes_max=5e-6) as crew:
        crew.submit(jobs.hold, gate.path)
        gate.wait()
        asyncio.run(soon(main(crew)))
    assert [int(line.split()[0]) for line in file.read_text().splitlines()] == list(range(20))


def test_a_run_cancelled_while_it_waits_for_room_leaves_no_task_and_lets_the_next_one_in(gate: jobs.Gate) -> None:
    async def main(crew: kumi.Controller) -> None:
        before = crew.status().waiting
        runs = [asyncio.create_task(crew.run(jobs.same, b"x" * 1000)) for _ in range(3)]
        await asyncio.sleep(0)
        for run in runs[:2]:
            run.cancel()
        await asyncio.wait(runs[:2])
        assert crew.status().waiting == before
        gate.open()
        assert await runs[2] == b"x" * 1000

    with kumi.Controller(workers=1, queue_gigabytes_max=3e-6) as crew:
        crew.submit(jobs.hold, gate.path)
        gate.wait()
        while crew.try_submit(jobs.same, b"x" * 1000) is not None:
            pass
        waiting = crew.status().waiting
        asyncio.run(soon(main(crew)))
    assert crew.summary().success == waiting + 2


def test_a_run_that_waits_for_room_learns_of_the_end(gate: jobs.Gate) -> None:
    async def main(crew: kumi.Controller) -> None:
        run = asyncio.create_task(crew.run(jobs.same, b"x" * 1000))
        await asyncio.sleep(0)
        crew.terminate()
        with pytest.raises(kumi.ControllerClosed):
            await run

    with kumi.Controller(workers=1, queue_gigabytes_max=1e-6) as crew:
        crew.submit(jobs.hold, gate.path)
        gate.wait()
        asyncio.run(soon(main(crew)))


# Blocks and records


def test_leaving_a_block_waits_without_blocking_the_loop(gate: jobs.Gate) -> None:
    async def main() -> list[str]:
        async with kumi.Controller(workers=1) as crew:
            tasks = [crew.submit(jobs.hold, gate.path) for _ in range(2)]
            await asyncio.to_thread(gate.wait)
            asyncio.get_running_loop().call_later(0.01, gate.open, 2)  # runs only if leaving does not block the loop
        with pytest.raises(kumi.ControllerClosed):
            crew.submit(jobs.add, 1)
        return [task.state() for task in tasks]

    assert asyncio.run(soon(main())) == ["success"] * 2


def test_leaving_a_block_by_an_error_or_a_cancellation_cancels(gate: jobs.Gate) -> None:
    tasks: list[kumi.Task[Any]] = []

    async def block(leaving: asyncio.Event | None) -> None:
        async with kumi.Controller(workers=1) as crew:
            tasks.append(crew.submit(jobs.hold, gate.path))
            await asyncio.to_thread(gate.wait)
            if leaving is None:
                raise ValueError("mine")
            leaving.set()

    async def main() -> None:
        with pytest.raises(ValueError, match="mine"):
            await block(None)
        leaving = asyncio.Event()
        waits = asyncio.create_task(block(leaving))
        await leaving.wait()
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits

    asyncio.run(soon(main()))
    assert [task.state() for task in tasks] == ["cancel"] * 2


def test_a_block_in_which_nothing_was_done() -> None:
    async def main() -> None:
        async with kumi.Controller(workers=1) as crew:
            pass
        assert "closed" in repr(crew)

    asyncio.run(soon(main()))


def test_records_come_as_tasks_finish(held: kumi.Controller, gate: jobs.Gate) -> None:
    async def main() -> list[Any]:
        for i in range(5):
            held.push(jobs.add, i)
        asyncio.get_running_loop().call_later(0.01, gate.open)
        found = [record.result async for record in held.records()]
        assert [record async for record in held.records()] == []
        return found

    assert asyncio.run(soon(main())) == [1, 2, 3, 4, 5]
    gate.open()


def test_records_of_a_controller_that_was_never_used() -> None:
    async def main() -> list[Any]:
        return [record async for record in kumi.Controller(workers=1).records()]

    assert asyncio.run(soon(main())) == []


# Loops


def descriptors() -> int:
    """How many descriptors loops and what is made for them have open here; workers come and go meanwhile."""
    gc.collect()
    kinds = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            kinds.append(os.readlink(f"/proc/self/fd/{number}"))
    return kinds.count("anon_inode:[eventfd]") + kinds.count("anon_inode:[eventpoll]")


def test_loops_that_have_ended_are_forgotten(crew: kumi.Controller) -> None:
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await crew.run(jobs.add, 1)

    asyncio.run(main())
    before = descriptors()
    for _ in range(20):
        asyncio.run(soon(main()))
    gc.collect()
    assert descriptors() == before
    assert [loop() for loop in loops] == [None] * 21


def test_a_loop_that_was_closed_while_coroutines_waited_is_forgotten(
    gate: jobs.Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a task, for room in the queue, behind another one for room, and for a record."""
    # A lock of asyncio complains of the closed loop; pytest would keep the complaint, and all that its traceback holds.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)

    async def read(crew: kumi.Controller) -> None:
        async for _ in crew.records():
            pass

    with kumi.Controller(workers=1, queue_gigabytes_max=1e-6) as crew:
        task = crew.push(jobs.hold, gate.path)
        gate.wait()
        assert crew.pop() is None  # a thread keeps what it has waited by
        before = descriptors()
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda _loop, _context: None)
        full = [crew.run(jobs.same, b"x" * 1000) for _ in range(2)]
        waiting = [loop.create_task(work) for work in (result_of(task), *full, read(crew))]
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        gone = weakref.ref(loop)
        del loop, full, waiting
        gc.collect()
        assert gone() is None
        assert descriptors() == before
        gate.open()
        assert task.result(LIMIT) is None
        assert asyncio.run(soon(crew.run(jobs.add, 1))) == 2


def test_loops_of_several_threads(crew: kumi.Controller) -> None:
    results: dict[int, list[int]] = {}

    async def main(number: int) -> list[int]:
        return await asyncio.gather(*(crew.run(jobs.add, number, i) for i in range(200)))

    def work(number: int) -> None:
        results[number] = asyncio.run(soon(main(number)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert results == {number: list(range(number, number + 200)) for number in range(4)}


def test_one_task_is_awaited_in_two_loops(held: kumi.Controller, gate: jobs.Gate) -> None:
    task = held.submit(jobs.add, 1)
    results: list[int] = []
    begun = threading.Barrier(3)

    async def main() -> None:
        begun.wait(LIMIT)
        results.append(await task)

    threads = [threading.Thread(target=asyncio.run, args=(soon(main()),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.wait(LIMIT)
    gate.open()
    for thread in threads:
        thread.join(LIMIT)
    gate.open()
    assert results == [2, 2]


def run_program(code: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_a_forked_child_awaits_in_a_loop_of_its_own() -> None:
    out = run_program("""
        import asyncio, os, warnings, kumi

        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of forks beside threads

        async def main():
            async with kumi.Controller(workers=1) as crew:
                waiting = asyncio.ensure_future(crew.run(abs, -1))
                await asyncio.sleep(0)
                child = os.fork()
                if child == 0:
                    import threading
                    thread = threading.Thread(target=lambda: print(asyncio.run(in_child()), flush=True))
                    thread.start()
                    thread.join()
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                print(await waiting)

        async def in_child():
            async with kumi.Controller(workers=1) as crew:
                return await crew.run(abs, -2)

        asyncio.run(main())
    """)
    assert out == "2\n1\n"


def test_nothing_is_imported_for_it_that_is_not_running() -> None:
    out = run_program("""
        import asyncio, sys, kumi
        print(asyncio.run(kumi.run(abs, -1)), {"trio", "anyio", "sniffio"} & set(sys.modules))
    """)
    assert out == "1 set()\n"


def test_ctrl_c_in_a_program_that_awaits_ends_it(tmp_path: Path) -> None:
    with jobs.gate_in(tmp_path) as gate:
        program = f"""
            import asyncio, sys, kumi
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            import jobs
            async def main():
                async with kumi.Controller(workers=1) as crew:
                    await crew.run(jobs.hold, {gate.path!r})
            try:
                asyncio.run(main())
            except KeyboardInterrupt:
                print("interrupted")
        """
        command = [sys.executable, "-c", textwrap.dedent(program)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            gate.wait()
            process.send_signal(2)
            assert process.communicate(timeout=LIMIT) == ("interrupted\n", "")
