"""Calls that every worker makes before its next task: those that are there and those that join later."""

import asyncio
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import jobs
import kumi
import numpy as np
import pytest


def put(name: str, value: Any) -> None:
    setattr(kumi.state, name, value)


def get(name: str) -> Any:
    return getattr(kumi.state, name, None)


def append(value: Any) -> None:
    if not hasattr(kumi.state, "seen"):
        kumi.state.seen = []
    kumi.state.seen.append(value)


def seen_and_hold(gate: str) -> list[Any]:
    seen = list(get("seen") or [])
    jobs.hold(gate)
    return seen


def put_and_hold(gate: str, name: str, value: Any) -> None:
    put(name, value)
    jobs.hold(gate)


def fail_on(pid: int) -> None:
    if os.getpid() == pid:
        raise ValueError(f"not on {pid}")
    put("spared", True)


def die_on(pid: int) -> None:
    if os.getpid() == pid:
        os._exit(9)
    put("spared", True)


def pid_and_hold(gate: str) -> int:
    jobs.hold(gate)
    return os.getpid()


def report_pid_and_hold(gate: str) -> None:
    kumi.report(os.getpid())
    jobs.hold(gate)


def two_workers(crew: kumi.Controller, gate: jobs.Gate) -> list[int]:
    """Has both workers come, and returns who they are."""
    tasks = [crew.submit(pid_and_hold, gate.path) for _ in range(2)]
    gate.wait(2)
    gate.open(2)
    return [task.result() for task in tasks]


def test_every_worker_makes_every_call_once_and_in_order(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=2) as crew:
        first = two_workers(crew, gate)
        calls = [crew.everywhere(append, value) for value in range(3)]
        assert [call.result() for call in calls] == [None] * 3
        tasks = [crew.submit(seen_and_hold, gate.path) for _ in range(2)]
        gate.wait(2)
        gate.open(2)
        assert [task.result() for task in tasks] == [[0, 1, 2]] * 2
        assert len(set(first)) == 2
        crew.everywhere(append, 3)
        assert crew.submit(get, "seen").result() == [0, 1, 2, 3]


def test_a_worker_that_joins_later_makes_all_calls_before_its_first_task() -> None:
    with kumi.Controller(workers=1, tasks_max=1) as crew:
        for value in range(3):
            crew.everywhere(append, value)
            assert crew.submit(get, "seen").result() == list(range(value + 1))


def test_with_nobody_there_the_task_is_done_at_once() -> None:
    with kumi.Controller(workers=1) as crew:
        call = crew.everywhere(put, "x", 1)
        assert call.done()
        assert call.result() is None
        assert crew.status().launching == 0
        assert crew.submit(get, "x").result() == 1


def test_a_call_waits_for_the_task_that_runs_and_later_tasks_wait_for_it(
    single: kumi.Controller, gate: jobs.Gate
) -> None:
    running = single.submit(jobs.hold, gate.path)
    gate.wait()
    call = single.everywhere(put, "x", 1)
    later = single.submit(get, "x")
    assert not call.done()
    assert call.running()
    gate.open()
    assert later.result() == 1
    assert call.done()
    running.result()


def test_what_fails_on_one_worker_is_the_tasks_error_and_is_not_repeated(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=2) as crew:
        pids = two_workers(crew, gate)
        call = crew.everywhere(fail_on, pids[0])
        with pytest.raises(ValueError, match=f"not on {pids[0]}"):
            call.result()
        assert crew.summary().error == 1
    with kumi.Controller(workers=1, tasks_max=1) as crew:
        crew.submit(jobs.pid).result()
        crew.everywhere(append, "before").result()
        assert crew.submit(get, "seen").result() == ["before"]


def test_a_failed_call_is_withdrawn(single: kumi.Controller) -> None:
    single.submit(jobs.pid).result()
    with pytest.raises(ValueError, match="no"):
        single.everywhere(jobs.boom).result()
    single.submit(os._exit, 3).exception()
    assert single.submit(jobs.add, 1).result() == 2


def test_a_call_that_nobody_can_make_any_more_is_an_error_of_launches() -> None:
    with kumi.Controller(workers=1) as crew:
        crew.everywhere(jobs.boom, "on joining").result()
        with pytest.raises(kumi.LaunchError, match="on joining"):
            crew.submit(jobs.add, 1).result(timeout=30)


def test_a_worker_that_dies_of_a_call_holds_nobody_up(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=2) as crew:
        pids = two_workers(crew, gate)
        assert crew.everywhere(die_on, pids[0]).result() is None
        assert crew.submit(get, "spared").result() is True


def test_a_worker_that_dies_before_a_call_holds_nobody_up(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=2) as crew:
        two_workers(crew, gate)
        busy = crew.submit(report_pid_and_hold, gate.path)
        gate.wait()
        call = crew.everywhere(put, "x", 1)
        later = [crew.submit(get, "x") for _ in range(20)]
        os.kill(next(iter(busy.reports())), signal.SIGKILL)
        assert call.result(jobs.SECONDS_MAX) is None
        gate.wait()  # it was not to blame, or not yet too often
        gate.open()
        assert [task.result(jobs.SECONDS_MAX) for task in later] == [1] * 20
        busy.result(jobs.SECONDS_MAX)


def test_if_all_workers_die_of_a_call_it_crashes(single: kumi.Controller) -> None:
    pid = single.submit(jobs.pid).result()
    with pytest.raises(kumi.CrashError) as caught:
        single.everywhere(die_on, pid).result()
    assert caught.value.certificate is not None
    assert single.submit(jobs.add, 1).result() == 2


def test_a_call_can_be_cancelled_while_it_runs(single: kumi.Controller, gate: jobs.Gate) -> None:
    before = single.submit(jobs.pid).result()
    call = single.everywhere(put_and_hold, gate.path, "x", 1)
    gate.wait()
    assert call.cancel()
    with pytest.raises(kumi.TaskCancelled):
        call.result()
    assert single.submit(jobs.pid).result() == before


def test_a_call_that_waits_can_be_cancelled(single: kumi.Controller, gate: jobs.Gate) -> None:
    running = single.submit(jobs.hold, gate.path)
    gate.wait()
    call = single.everywhere(put, "x", 1)
    assert call.cancel()
    gate.open()
    running.result()
    assert single.submit(get, "x").result() is None


def test_a_newcomers_call_does_not_hold_up_a_terminate(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1) as crew:
        crew.everywhere(put_and_hold, gate.path, "x", 1).result()
        task = crew.submit(get, "x")
        gate.wait()
        crew.terminate()
        with pytest.raises(kumi.TaskCancelled):
            task.result()


def test_a_call_with_large_arguments_is_replayed() -> None:
    data = np.arange(1_000_000)
    with kumi.Controller(workers=1, tasks_max=1) as crew:
        crew.everywhere(put, "data", data)
        data[:] = 0
        assert [crew.submit(lambda: int(kumi.state.data.sum())).result() for _ in range(2)] == [499999500000] * 2


def test_a_call_may_name_a_shared_value() -> None:
    with kumi.Controller(workers=1, tasks_max=1) as crew:
        crew.everywhere(put, "data", kumi.share(np.arange(1_000_000)))
        assert [crew.submit(lambda: int(kumi.state.data.sum())).result() for _ in range(2)] == [499999500000] * 2


def test_a_lambda_a_coroutine_function_and_an_argument_that_cannot_be_pickled(single: kumi.Controller) -> None:
    async def later(value: int) -> None:
        await asyncio.sleep(0)
        put("x", value)

    single.submit(jobs.pid).result()
    single.everywhere(later, 5).result()
    assert single.submit(get, "x").result() == 5
    single.everywhere(lambda: put("x", 6)).result()
    assert single.submit(get, "x").result() == 6
    with pytest.raises(kumi.SerializationError):
        single.everywhere(put, "x", jobs.make_unpicklable())


def test_a_call_has_no_task_info_and_its_reports_go_nowhere(single: kumi.Controller) -> None:
    def call() -> None:
        put("info", kumi.task_info())
        kumi.report(1)

    single.submit(jobs.pid).result()
    single.everywhere(call).result()
    assert single.submit(get, "info").result() is None


def test_a_call_has_a_name_and_a_record(single: kumi.Controller) -> None:
    call = single.with_options(name="load").everywhere(put, "x", 1)
    call.result()
    record = call.record
    assert record is not None
    assert (record.name, record.status, record.function) == ("load", "success", "put")


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(kumi.rng().random())


@pytest.mark.parametrize("launcher", [kumi.Local(), kumi.Sequential()], ids=["local", "sequential"])
def test_a_call_that_draws_changes_no_number_of_a_task(launcher: Any) -> None:
    """M197: it takes no number of the seed, and what it draws is not missed by the tasks."""
    with kumi.Controller(launcher, workers=1, seed=3) as crew:
        expected = [crew.submit(draw).result() for _ in range(3)]
    with kumi.Controller(launcher, workers=1, seed=3) as crew:
        drawn = []
        for _ in range(3):
            crew.everywhere(draw).result()
            drawn.append(crew.submit(draw).result())
    assert drawn == expected
    assert len({number for numbers in drawn for number in numbers}) == 9


def test_a_task_cannot_call_everywhere(crew: kumi.Controller) -> None:
    with pytest.raises(kumi.ControllerError, match="a task cannot call everywhere"):
        crew.submit(lambda: kumi.everywhere(put, "x", 1)).result()


def test_a_task_that_waits_for_its_own_is_not_held_up(single: kumi.Controller, gate: jobs.Gate) -> None:
    path = gate.path

    def parent() -> int:
        jobs.hold(path)
        return kumi.submit(jobs.add, 1).result()

    task = single.submit(parent)
    gate.wait()
    call = single.everywhere(put, "x", 1)
    gate.open()
    assert task.result(timeout=30) == 2
    assert call.result(timeout=30) is None
    assert single.submit(get, "x").result() == 1


def test_from_async_code() -> None:
    async def main() -> Any:
        with kumi.Controller(workers=1) as crew:
            await crew.run(jobs.pid)
            await crew.everywhere(put, "x", 1)
            return await crew.run(get, "x")

    assert asyncio.run(main()) == 1


def test_the_front_door() -> None:
    with kumi.Controller(workers=1) as crew:
        crew.start()
        kumi.with_options(controller=crew.name).everywhere(put, "x", 7)
        assert crew.submit(get, "x").result() == 7


def test_in_this_process() -> None:
    with kumi.Controller(kumi.Sequential()) as crew:
        assert crew.everywhere(put, "x", 1).result() is None
        assert crew.submit(get, "x").result() == 1
        with pytest.raises(ValueError, match="no"):
            crew.everywhere(jobs.boom).result()
    vars(kumi.state).clear()


def test_a_worker_made_stale_by_an_edit_makes_room_without_counting_as_failed(tmp_path: Path) -> None:
    module = tmp_path / "kumi_edited_setup.py"
    module.write_text("VALUE = 1\n")
    directory = str(tmp_path)

    def load() -> None:
        import sys

        sys.path.insert(0, directory)
        import kumi_edited_setup  # type: ignore[import-not-found]

        kumi.state.value = kumi_edited_setup.VALUE

    with kumi.Controller(workers=1, workers_min=1, setup=load) as crew:
        crew.start()
        assert crew.submit(get, "value").result() == 1
        for value in range(2, 8):
            module.write_text(f"VALUE = {value}\n")
            os.utime(module, ns=(time.time_ns(), time.time_ns() + value * 10**9))
            assert crew.submit(get, "value").result(timeout=30) == value


def test_a_flag_that_is_flipped_is_seen_by_all() -> None:
    """M142."""
    with kumi.Controller(workers=4) as crew:
        for flag in (True, False, True):
            assert crew.everywhere(put, "flag", flag).result() is None
            assert crew.map(get, ["flag"] * 10).results() == [flag] * 10


def test_a_thousand_calls_reach_a_worker_that_comes_later() -> None:
    with kumi.Controller(workers=1) as crew:
        for value in range(1000):
            crew.everywhere(append, value)
        assert crew.submit(lambda: kumi.state.seen == list(range(1000))).result()
