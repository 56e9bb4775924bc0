"""A controller: an Executor that opens when needed, keeps what was pushed, and ends as it was told."""

import asyncio
import concurrent.futures
import contextlib
import gc
import io
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import kumi
import kumi.controller
import numpy as np
import pytest

LIMIT = jobs.SECONDS_MAX


# Before anything is submitted


def resources() -> tuple[int, int, set[int]]:
    children = {int(p) for f in Path("/proc/self/task").glob("*/children") for p in f.read_text().split()}
    return threading.active_count(), len(os.listdir("/proc/self/fd")), children


def test_construction_is_inert() -> None:
    """C1, C130."""
    before = resources()
    crews = [kumi.Controller(workers=2, workers_min=2) for _ in range(20)]
    crews.append(kumi.Controller(None, host="127.0.0.1"))
    assert resources() == before
    assert all("new" in repr(crew) for crew in crews)


def test_an_unstarted_controller_answers() -> None:
    """C61, C163."""
    crew = kumi.Controller(workers=2)
    assert crew.empty
    assert crew.pop() is None
    assert crew.pop(timeout=None) is None
    assert crew.collect() == []
    assert list(crew.records()) == []
    assert crew.wait() is False
    assert crew.wait("one") is False
    status = crew.status()
    assert (status.workers, status.waiting, status.running, status.finished) == (0, 0, 0, 0)
    assert crew.summary().tasks == 0


def test_an_unstarted_controller_ends_at_once() -> None:
    for end in (kumi.Controller.shutdown, kumi.Controller.terminate):
        crew = kumi.Controller()
        end(crew)
        with pytest.raises(kumi.ControllerClosed):
            crew.submit(jobs.add, 1)


def test_a_controller_pickles_as_its_arguments() -> None:
    """C2, C40."""
    crew = kumi.Controller(kumi.Local(environment={"A": "1"}), name="first", workers=3, seconds_idle=7, tasks_max=9)
    copied = pickle.loads(pickle.dumps(crew))
    assert copied._arguments == crew._arguments
    assert (copied.name, copied.workers, copied.launcher) == ("first", 3, crew.launcher)


def test_names_are_made_up_and_differ() -> None:
    """C34, C143."""
    names = {kumi.Controller().name for _ in range(5)}
    assert len(names) == 5


def test_workers_defaults_to_the_usable_cpus() -> None:
    assert kumi.Controller().workers <= len(os.sched_getaffinity(0))


# Submitting


def test_it_is_an_executor(crew: kumi.Controller) -> None:
    assert isinstance(crew, concurrent.futures.Executor)
    assert isinstance(crew.submit(jobs.add, 1), concurrent.futures.Future)


def test_tasks_run_in_other_processes(crew: kumi.Controller) -> None:
    """C4."""
    assert crew.submit(jobs.pid).result(LIMIT) != os.getpid()


def test_workers_know_the_modules_of_the_host(crew: kumi.Controller) -> None:
    assert set(filter(None, sys.path)) <= set(crew.submit(jobs.path).result(LIMIT))


def test_lambdas_closures_and_local_classes(crew: kumi.Controller) -> None:
    """C52."""

    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

        def twice(self) -> int:
            return 2 * self.x

    y = 5
    assert crew.submit(lambda x: x + y, 3).result(LIMIT) == 8
    assert crew.submit(Local(4).twice).result(LIMIT) == 8
    assert crew.submit(Local, 6).result(LIMIT).twice() == 12


def test_a_closure_is_sent_as_it_is_at_each_submit(crew: kumi.Controller) -> None:
    value = 1

    def get() -> int:
        return value

    first = crew.submit(get)
    value = 2
    assert (first.result(LIMIT), crew.submit(get).result(LIMIT)) == (1, 2)


def test_a_callable_object_is_sent_as_it_is_at_each_submit(crew: kumi.Controller) -> None:
    class Adder:
        by = 1

        def __call__(self, x: int) -> int:
            return x + self.by

    adder = Adder()
    assert crew.submit(adder, 1).result(LIMIT) == 2
    adder.by = 10
    assert crew.submit(adder, 1).result(LIMIT) == 11


def test_methods_of_builtin_objects_are_sent_as_they_are(crew: kumi.Controller) -> None:
    things = ["a"]
    assert crew.submit(things.count, "a").result(LIMIT) == 1
    things.append("a")
    assert crew.submit(things.count, "a").result(LIMIT) == 2


def test_unhashable_callables(crew: kumi.Controller) -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self) -> int:
            return 3

    assert crew.submit(Unhashable()).result(LIMIT) == 3


def test_a_thousand_tasks(crew: kumi.Controller) -> None:
    tasks = [crew.submit(jobs.add, i) for i in range(1000)]
    assert [task.result(LIMIT) for task in tasks] == list(range(1, 1001))


def test_many_threads_submit(crew: kumi.Controller) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        sums = threads.map(lambda n: sum(crew.submit(jobs.add, i).result(LIMIT) for i in range(n)), [50] * 8)
        assert list(sums) == [sum(range(51))] * 8


def test_what_cannot_be_pickled_is_named_and_costs_nothing(crew: kumi.Controller) -> None:
    with pytest.raises(kumi.SerializationError, match="argument 2.*cannot be sent") as caught:
        crew.submit(jobs.echo, 1, {"deep": [jobs.Unpicklable()]})
    assert "deep" in str(caught.value)
    with pytest.raises(kumi.SerializationError, match="argument 'key'"):
        crew.submit(jobs.echo, 1, key=threading.Lock())
    lock = threading.Lock()
    with pytest.raises(kumi.SerializationError, match="function"):
        crew.submit(lambda: lock)
    assert crew.submit(jobs.add, 1).result(LIMIT) == 2


def test_what_cannot_travel_back_or_arrive_is_the_tasks_own_error(single: kumi.Controller) -> None:
    worker = single.submit(jobs.pid).result(LIMIT)
    for task in (single.submit(jobs.make_unpicklable), single.submit(jobs.same, jobs.PoisonOnArrival())):
        assert isinstance(task.exception(LIMIT), kumi.SerializationError)
        assert task.record is not None
        assert task.record.status == "error"
    assert single.submit(jobs.pid).result(LIMIT) == worker
    assert single.summary().workers_lost == 0


def test_a_result_that_cannot_be_read_here_is_an_error(crew: kumi.Controller) -> None:
    task = crew.submit(jobs.PoisonOnArrival)
    with pytest.raises(kumi.SerializationError, match="it broke on the way"):
        task.result(LIMIT)
    assert task.record is not None
    assert (task.record.status, task.record.error) == ("error", task.exception())


@pytest.mark.parametrize("fn", [None, 3, "jobs.add"])
def test_a_non_callable(crew: kumi.Controller, fn: Any) -> None:
    for enter in (crew.submit, crew.try_submit, crew.push):
        with pytest.raises(TypeError, match="callable"):
            enter(fn, 1)


# A full queue


@pytest.fixture
def full(gate: jobs.Gate) -> Iterator[kumi.Controller]:
    """A controller whose one worker is busy and whose queue has no room, until the gate opens."""
    with kumi.Controller(workers=1, queue_gigabytes_max=5e-6) as crew:
        crew.submit(jobs.hold, gate.path)
        gate.wait()
        while crew.try_submit(jobs.same, b"x" * 1000) is not None:
            pass
        yield crew
        gate.open()


def test_try_submit_says_no_at_once(full: kumi.Controller) -> None:
    assert full.status().queued_bytes <= 5000
    assert full.try_submit(jobs.same, b"x" * 1000) is None


def test_refusals_are_quick_and_leave_nothing(full: kumi.Controller, gate: jobs.Gate) -> None:
    before = full.status()
    assert before.queued_bytes_max == 5000
    begun = time.monotonic()
    assert [full.try_submit(jobs.same, b"x" * 1000) for _ in range(100)] == [None] * 100
    assert time.monotonic() - begun < 5  # it takes some milliseconds, and a busy machine its time
    assert full.status().queued_bytes == before.queued_bytes
    gate.open()
    assert full.submit(jobs.same, "room again").result(LIMIT) == "room again"
    task = full.try_submit(jobs.same, b"x" * 1000)
    assert task is not None
    assert task.result(LIMIT) == b"x" * 1000


def test_submit_waits_for_room(full: kumi.Controller, gate: jobs.Gate) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        entering = thread.submit(full.submit, jobs.same, b"y" * 1000)
        with pytest.raises(TimeoutError):
            entering.result(0.05)
        gate.open()
        assert entering.result(LIMIT).result(LIMIT) == b"y" * 1000
    gate.open()


def test_submit_refuses_to_stop_an_event_loop(full: kumi.Controller) -> None:
    async def main() -> None:
        with pytest.raises(kumi.QueueFull, match="await"):
            full.submit(jobs.same, b"x" * 1000)

    asyncio.run(main())


def test_run_waits_for_room_without_blocking_the_loop(full: kumi.Controller, gate: jobs.Gate) -> None:
    async def main() -> None:
        runs = [asyncio.create_task(full.run(jobs.same, b"%d" % i * 1000)) for i in range(5)]
        await asyncio.sleep(0)
        gate.open()
        assert await asyncio.gather(*runs) == [b"%d" % i * 1000 for i in range(5)]

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_a_run_cancelled_while_it_waits_for_room_leaves_no_task(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1, queue_gigabytes_max=2e-6) as crew:
        for _ in range(2):
            crew.submit(jobs.hold, gate.path)
        gate.wait()
        while crew.try_submit(jobs.hold, gate.path) is not None:
            pass
        waiting = crew.status().waiting

        async def main() -> None:
            run = asyncio.create_task(crew.run(jobs.hold, gate.path))
            await asyncio.sleep(0.01)  # into its wait for room; sooner is as good
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            gate.open()  # the next one makes room when it begins, and keeps the worker

        asyncio.run(main())
        gate.open(waiting)
    assert crew.summary().success == waiting + 1


def test_a_task_larger_than_the_queue_is_taken_when_the_queue_is_empty() -> None:
    with kumi.Controller(workers=1, queue_gigabytes_max=1e-6) as crew:
        assert len(crew.submit(jobs.same, b"x" * 100_000).result(LIMIT)) == 100_000


def test_ending_wakes_who_waits_for_room(full: kumi.Controller) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        entering = thread.submit(full.submit, jobs.same, b"y" * 1000)
        full.terminate()
        error = entering.exception(LIMIT)
        assert isinstance(error, kumi.ControllerClosed) or isinstance(entering.result(), kumi.Task)


# Pushed tasks


def test_push_wait_pop(single: kumi.Controller) -> None:
    """C49."""
    task = single.with_options(name="first").push(jobs.add, 1)
    assert not single.empty
    assert single.wait("all", LIMIT)
    record = single.pop()
    assert record is not None
    assert (record.name, record.result, record.get()) == ("first", 2, 2)
    assert task.result() == 2
    assert single.pop() is None
    assert single.empty
    assert single.wait("all") is False


def test_wait_all_means_there_is_something_to_pop(crew: kumi.Controller) -> None:
    """D8, X8: of 1,000 times, each."""
    for _ in range(1000):
        crew.push(jobs.add, 1)
        assert crew.wait("all", LIMIT)
        assert crew.pop() is not None


def test_wait_one_and_its_timeout(single: kumi.Controller, gate: jobs.Gate) -> None:
    """C165, C166."""
    single.push(jobs.hold, gate.path)
    gate.wait()
    assert single.wait("one", 0.01) is False
    assert single.pop(0.01) is None
    gate.open()
    assert single.wait("one", LIMIT)
    single.push(jobs.hold, gate.path)
    gate.wait()
    assert single.wait("one", 0)
    assert single.wait("all", 0.01) is False
    gate.open()
    assert single.wait("all", LIMIT)
    assert len(single.collect()) == 2


def test_only_pushed_tasks_are_waited_for(single: kumi.Controller, gate: jobs.Gate) -> None:
    """X11."""
    single.push(jobs.add, 1)
    held = single.submit(jobs.hold, gate.path)
    assert single.wait("all", LIMIT)
    assert len(single.collect()) == 1
    assert single.wait("all", LIMIT) is False
    gate.open()
    held.result(LIMIT)


def test_records_come_in_the_order_of_finishing(crew: kumi.Controller, gate: jobs.Gate) -> None:
    crew.with_options(name="slow").push(jobs.hold, gate.path)
    gate.wait()
    crew.with_options(name="fast").push(jobs.add, 1)
    records = crew.records()
    assert next(records).name == "fast"
    gate.open()
    assert [record.name for record in records] == ["slow"]


def test_a_name_is_held_until_its_record_is_popped(crew: kumi.Controller) -> None:
    """C82."""
    view = crew.with_options(name="held")
    view.push(jobs.add, 1)
    for _ in range(2):
        with pytest.raises(kumi.ControllerError, match="'held'"):
            view.push(jobs.add, 2)
        crew.wait("all", LIMIT)
    assert view.submit(jobs.add, 3).result(LIMIT) == 4, "a name is but a label elsewhere"
    assert [record.result for record in crew.collect()] == [2]
    view.push(jobs.add, 5)
    crew.wait("all", LIMIT)
    assert [record.result for record in crew.collect()] == [6]


def test_a_name_is_free_again_after_a_failed_push(crew: kumi.Controller) -> None:
    view = crew.with_options(name="again")
    with pytest.raises(kumi.SerializationError):
        view.push(jobs.same, jobs.Unpicklable())
    view.push(jobs.add, 1)
    assert crew.wait("all", LIMIT)
    crew.collect()


def test_collect_returns_or_raises(crew: kumi.Controller) -> None:
    """C68, C70."""
    for i in range(3):
        crew.push(jobs.boom_at, i, 1)
    assert crew.wait("all", LIMIT)
    for _ in range(2):
        with pytest.raises(ValueError, match="bad 1"):
            crew.collect(on_error="raise")
    records = crew.collect()
    assert sorted(record.status for record in records) == ["error", "success", "success"]
    assert crew.collect(on_error="raise") == []


def test_three_rounds_with_the_same_names(crew: kumi.Controller) -> None:
    """C65."""
    for _ in range(3):
        for i in range(100):
            crew.with_options(name=f"task_{i}").push(jobs.same, i)
        assert sorted(record.result for record in crew.records()) == list(range(100))


def test_a_pushed_task_nobody_holds_is_kept(crew: kumi.Controller) -> None:
    crew.push(jobs.add, 41)
    gc.collect()
    record = crew.pop(LIMIT)
    assert record is not None
    assert record.result == 42


def test_interleaved_push_and_pop_loses_nothing(crew: kumi.Controller) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: [crew.push(jobs.same, i) for i in range(500)])
        results: set[int] = set()
        deadline = time.monotonic() + LIMIT
        while len(results) < 500 and time.monotonic() < deadline:
            if (record := crew.pop(1)) is not None:
                results.add(record.result)
    assert results == set(range(500))


# Options


def test_options_add_up(crew: kumi.Controller) -> None:
    view = crew.with_options(name="outer").with_options(crashes_max=0)
    assert view.submit(jobs.add, 1).name == "outer"
    assert view.with_options(name="inner").submit(jobs.add, 1).name == "inner"


def test_controllers_are_chosen_by_name(crew: kumi.Controller) -> None:
    """C59."""
    with kumi.Controller(name="other", workers=1) as other:
        other.start()
        task = crew.with_options(controller="other").submit(jobs.add, 1)
        task.result(LIMIT)
        assert task.record is not None
        assert task.record.controller == "other"
    with pytest.raises(kumi.ControllerError, match=f"'other'.*open are: .*{crew.name}"):
        crew.with_options(controller="other").submit(jobs.add, 1)


def test_a_name_in_use_is_refused(single: kumi.Controller) -> None:
    """C5."""
    single.start()
    with pytest.raises(kumi.ControllerError, match=f"{single.name!r}"):
        kumi.Controller(name=single.name, workers=1).start()
    single.shutdown()
    with kumi.Controller(name=single.name, workers=1) as again:
        again.start()


# Workers


def test_libraries_threads_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "13")
    with kumi.Controller(kumi.Local(environment={"OPENBLAS_NUM_THREADS": "7"}), workers=1) as crew:
        get = [crew.submit(jobs.environment, f"{n}_NUM_THREADS").result(LIMIT) for n in ("OMP", "MKL", "OPENBLAS")]
    assert get == [str(kumi.Controller().workers), "13", "7"]


def test_the_environment_of_tasks_is_clean(crew: kumi.Controller) -> None:
    assert crew.submit(jobs.environment, "KUMI_SYS_PATH").result(LIMIT) is None


def test_workers_leave_when_idle() -> None:
    with kumi.Controller(workers=1, seconds_idle=0) as crew:
        pids = {crew.submit(jobs.pid).result(LIMIT) for _ in range(2)}
        for pid in pids:
            jobs.wait_for_end(pid)
    summary = crew.summary()  # by now the host has seen the ends as well
    assert (summary.workers_left_idle, summary.workers_left_stopped, summary.workers_lost) == (len(pids), 0, 0)


def test_a_worker_leaves_after_tasks_max() -> None:
    """C29."""
    with kumi.Controller(workers=1, tasks_max=2) as crew:
        pids = [crew.submit(jobs.pid).result(LIMIT) for _ in range(6)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 2]
    assert crew.summary().workers_lost == 0


def test_workers_min_start_without_a_task() -> None:
    with kumi.Controller(workers=2, workers_min=1) as crew:
        crew.start()
        assert crew.status().workers + crew.status().launching >= 1


def test_results_that_pile_up_are_counted_and_told_once(capfd: pytest.CaptureFixture[str], gate: jobs.Gate) -> None:
    arrived = threading.Event()
    with kumi.Controller(workers=1, queue_gigabytes_max=1e-5) as crew:
        tasks = [crew.submit(bytes, 6000) for _ in range(4)]
        assert [len(task.result(LIMIT)) for task in tasks] == [6000] * 4
        assert crew.status().result_bytes >= 24_000
        held = crew.submit(jobs.hold, gate.path)
        held.add_done_callback(lambda _: arrived.set())
        gate.wait()
        gate.open()
        assert arrived.wait(LIMIT), "what was told before a delivery has been written by then"
        del tasks
        assert crew.status().result_bytes < 6000
    assert capfd.readouterr().err.count("your program still holds") == 1


def test_what_tasks_print_arrives(crew: kumi.Controller, capfd: pytest.CaptureFixture[str], gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1) as own:
        own.submit(jobs.say, "hello from afar").result(LIMIT)
    arrived = threading.Event()
    task = crew.submit(jobs.hold, gate.path)
    task.add_done_callback(lambda _: arrived.set())
    gate.wait()
    gate.open()
    assert arrived.wait(LIMIT), "what was told before a delivery has been written by then"
    out, err = capfd.readouterr()
    assert "hello from afar" in out + err


# Ends


def test_a_block_waits_for_what_was_submitted(tmp_path: Path) -> None:
    with kumi.Controller(workers=1) as crew:
        tasks = [crew.submit(jobs.note, str(tmp_path / "ran"), str(i)) for i in range(20)]
    assert all(task.done() for task in tasks)
    assert (tmp_path / "ran").read_text().split() == [str(i) for i in range(20)]
    assert tasks[0].result() is None, "what is finished stays readable"
    assert crew.summary().success == 20
    assert "closed" in repr(crew)


@pytest.mark.parametrize("launcher", [kumi.Local(), kumi.Sequential()])
def test_what_is_finished_stays_readable(launcher: Any) -> None:
    """Whatever its size: large results lie in memory that belonged to the workers."""
    values = [3, b"x" * 1_000_000, np.arange(100_000.0)]
    crew = kumi.Controller(launcher, workers=1)
    tasks = [crew.submit(jobs.same, value) for value in values]
    crew.push(jobs.same, values[-1])
    crew.push(jobs.boom)
    assert kumi.wait(tasks, LIMIT).not_done == set()
    assert crew.wait("all", LIMIT)
    crew.terminate()
    assert tasks[0].result() == values[0]
    assert tasks[1].result() == values[1]
    assert (tasks[2].result() == values[2]).all()
    good, bad = crew.collect()
    assert (good.get() == values[2]).all()
    with pytest.raises(ValueError, match="no"):
        bad.get()
    assert crew.summary().success == 4


def test_without_a_worker_tasks_can_be_cancelled(tmp_path: Path) -> None:
    """The one that is launched never comes."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 600\n")
    python.chmod(0o755)
    with kumi.Controller(kumi.Local(python=python), workers=1) as crew:
        tasks = [crew.submit(jobs.add, number) for number in range(3)]
        assert crew.status().workers == 0
        assert tasks[1].cancel()
        assert crew.cancel("*") == 2
        for task in tasks:
            with pytest.raises(kumi.TaskCancelled):
                task.result(0)
        assert crew.status().queued_bytes == 0


def test_a_controller_that_was_never_entered_ends_as_a_block_does() -> None:
    with contextlib.ExitStack() as stack:
        crew = kumi.Controller(workers=1)
        stack.push(crew)
        task = crew.submit(jobs.add, 1)
    assert task.result(0) == 2
    with pytest.raises(kumi.ControllerClosed):
        crew.submit(jobs.add, 1)


def test_an_exception_leaves_nothing_running(gate: jobs.Gate) -> None:
    def leave_by_error() -> None:
        with kumi.Controller(workers=1) as crew:
            tasks.extend(crew.submit(jobs.hold, gate.path) for _ in range(3))
            gate.wait()
            raise LookupError("the block's own")

    tasks: list[kumi.Task[Any]] = []
    with pytest.raises(LookupError, match="the block's own"):
        leave_by_error()
    assert [task.state() for task in tasks] == ["cancel"] * 3
    with pytest.raises(kumi.TaskCancelled):
        tasks[0].result(LIMIT)


def test_terminate_kills_the_workers(gate: jobs.Gate) -> None:
    """C53, C142."""
    crew = kumi.Controller(workers=1)
    pid = crew.submit(jobs.pid).result(LIMIT)
    crew.submit(jobs.hold, gate.path)
    gate.wait()
    waiting = crew.push(jobs.add, 1)
    crew.terminate()
    crew.terminate()
    jobs.wait_for_end(pid)
    assert waiting.cancelled()
    assert [record.status for record in crew.collect()] == ["cancel"], "records stay readable"


def test_after_the_end_nothing_is_accepted() -> None:
    crew = kumi.Controller(workers=1)
    crew.submit(jobs.add, 1).result(LIMIT)
    crew.shutdown()
    crew.shutdown()
    for enter in (crew.submit, crew.try_submit, crew.push, crew.map):
        with pytest.raises(kumi.ControllerClosed, match=f"{crew.name!r}"):
            enter(jobs.add, [1])
    with pytest.raises(RuntimeError):
        crew.submit(lambda: 1)


def test_shutdown_without_waiting_lets_tasks_end(gate: jobs.Gate) -> None:
    crew = kumi.Controller(workers=1)
    running, waiting = crew.submit(jobs.hold, gate.path, 1), crew.submit(jobs.add, 1)
    crew.shutdown(wait=False)
    del crew
    gc.collect()
    gate.open()
    assert (running.result(LIMIT), waiting.result(LIMIT)) == (1, 2)


def test_shutdown_cancels_futures_that_wait(gate: jobs.Gate) -> None:
    crew = kumi.Controller(workers=1)
    running = crew.submit(jobs.hold, gate.path, 1)
    gate.wait()
    waiting = [crew.submit(jobs.add, 1) for _ in range(3)]
    crew.shutdown(wait=False, cancel_futures=True)
    assert [task.state() for task in waiting] == ["cancel"] * 3
    gate.open()
    assert running.result(LIMIT) == 1
    crew.shutdown()


def test_a_long_end_says_what_it_waits_for(gate: jobs.Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    class OpensTheGate(io.StringIO):
        def write(self, text: str) -> int:
            gate.open()
            return super().write(text)

    stderr = OpensTheGate()
    monkeypatch.setattr(kumi.controller, "SECONDS_UNTIL_NOTICE", 0.0)
    monkeypatch.setattr(sys, "stderr", stderr)
    crew = kumi.Controller(workers=1, name="patient")
    crew.submit(jobs.hold, gate.path)
    gate.wait()
    crew.shutdown()
    assert "'patient' waits until its tasks are done: 1 running, 0 waiting" in stderr.getvalue()


def test_a_controller_nobody_holds_is_terminated_with_a_warning(gate: jobs.Gate) -> None:
    crew = kumi.Controller(workers=1)
    task = crew.submit(jobs.hold, gate.path)
    with pytest.warns(ResourceWarning, match="held by nobody"):
        del crew
        gc.collect()
    with pytest.raises(kumi.TaskCancelled):
        task.result(LIMIT)


def test_an_unused_controller_nobody_holds_is_no_matter(recwarn: pytest.WarningsRecorder) -> None:
    crew = kumi.Controller()
    del crew
    gc.collect()
    assert len(recwarn) == 0


def test_after_a_fork_the_child_has_no_controllers() -> None:
    program = (
        "import os, sys, kumi\n"
        "crew = kumi.Controller(workers=1)\n"
        "task = crew.submit(abs, -3); task.result(30)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    try: crew.submit(abs, -3)\n"
        "    except kumi.ControllerClosed: sys.exit(7)\n"
        "    sys.exit(8)\n"
        "code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "print(code, crew.submit(abs, -4).result(30))\n"
        "crew.shutdown()\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert (ran.stdout, ran.returncode) == ("7 4\n", 0), ran.stderr
