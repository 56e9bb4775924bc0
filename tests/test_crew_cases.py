"""Cases of R's crew that no other test here is the counterpart of, and one test for each defect found there.

D1-D9 and X1-X17 are those defects, C13-C167 cases; others stand in the docstrings of the tests that cover them.
"""

import gc
import os
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest
from conftest import children

LIMIT = jobs.SECONDS_MAX

settings: dict[str, str] = {}


def change_settings(value: str) -> dict[str, str]:
    settings["changed"] = value
    return settings


def draw() -> float:
    return float(kumi.rng().random())


def draw_at(gate: str) -> float:
    jobs.hold(gate)
    return draw()


def warn_and_maybe_fail(number: int) -> int:
    if number % 2 == 0:
        warnings.warn(f"number {number}", stacklevel=1)
    if number % 6 == 1:
        raise ValueError(f"bad {number}")
    return number


def launcher_of(directory: Path, body: str) -> kumi.Local:
    """Launches by a shell script: `body`, and then the interpreter of the tests."""
    file = directory / "python"
    file.write_text(f'#!/bin/sh\n{body}\nexec {sys.executable} "$@"\n')
    file.chmod(0o755)
    return kumi.Local(python=file)


# Defects.


def test_a_task_that_took_too_long_has_a_record_like_others(single: kumi.Controller) -> None:
    """D1, X1: the status says so, and neither it nor the others are lost."""
    single.with_options(name="slow", seconds_run=0.1).push(time.sleep, 600)
    single.with_options(name="quick").push(jobs.add, 1)
    assert single.wait("all", LIMIT)
    slow, quick = single.collect()
    assert (slow.name, slow.status, slow.result, type(slow.error)) == ("slow", "timeout", None, kumi.TaskTimeout)
    assert (quick.name, quick.status, quick.result) == ("quick", "success", 2)
    assert (single.summary().timeout, single.summary().success) == (1, 1)


def test_each_seed_gives_numbers_of_its_own(crew: kumi.Controller) -> None:
    """D2, X2: also two seeds of the same sign."""
    drawn = {seed: crew.with_options(seed=seed).map(lambda _: draw(), range(3)).results() for seed in (1, 2, 999)}
    assert len({number for numbers in drawn.values() for number in numbers}) == 9
    assert crew.with_options(seed=999).map(lambda _: draw(), range(3)).results() == drawn[999]


def test_workers_that_are_launched_together_draw_different_numbers(gate: jobs.Gate) -> None:
    """D3: each of them draws once, at the same time."""
    with kumi.Controller(workers=4) as crew:
        tasks = [crew.submit(draw_at, gate.path) for _ in range(4)]
        gate.wait(4)
        gate.open(4)
        assert len({task.result(LIMIT) for task in tasks}) == 4
        assert len({task.record.worker for task in tasks if task.record}) == 4


def test_collected_garbage_costs_no_busy_worker(gate: jobs.Gate) -> None:
    """D4, X4: not even after workers that have come and gone."""
    with kumi.Controller(workers=3, tasks_max=1) as crew:
        crew.map(jobs.add, range(6)).results()
        tasks = [crew.submit(jobs.hold, gate.path, number) for number in range(3)]
        gate.wait(3)
        for _ in range(3):
            gc.collect()
        gate.open(3)
        assert [task.result(LIMIT) for task in tasks] == [0, 1, 2]
        assert [task.record.attempts for task in tasks if task.record] == [1, 1, 1]
    assert crew.status().lost == 0


def test_launches_that_take_long_are_not_repeated(tmp_path: Path, gate: jobs.Gate) -> None:
    """D5, X5: however often somebody looks and submits meanwhile. Those that come late are those that were wanted."""
    body = (
        f"echo launched >> {tmp_path}/launches; printf . > {gate.path}/begun\n"
        f"dd bs=1 count=1 status=none < {gate.path}/go > /dev/null"
    )
    with kumi.Controller(launcher_of(tmp_path, body), workers=3, seconds_idle=None) as crew:
        tasks = [crew.push(jobs.same, number) for number in range(10)]
        gate.wait(3)
        for number in range(10, 20):
            assert (crew.status().workers, crew.status().launching) == (0, 3)
            assert crew.wait("one", 0) is False
            tasks.append(crew.push(jobs.same, number))
        gate.open(3)
        assert [task.result(LIMIT) for task in tasks] == [*range(20)]
        crew.collect()
    assert (tmp_path / "launches").read_text().count("launched") == 3


def test_one_task_that_crashes_for_good_hides_no_others(crew: kumi.Controller) -> None:
    """D6: the controller goes on as before, with maps as well."""
    crew.with_options(name="before").push(jobs.add, 1)
    crew.with_options(name="poison", crashes_max=0).push(jobs.kill_self)
    crew.with_options(name="after").push(jobs.add, 2)
    assert crew.wait("all", LIMIT)
    for _ in range(2):
        with pytest.raises(kumi.CrashError):
            crew.collect(on_error="raise")
    assert crew.map(jobs.add, range(3)).results() == [1, 2, 3]
    assert {record.name: record.status for record in crew.collect()} == {
        "before": "success",
        "poison": "crash",
        "after": "success",
    }
    crew.push(jobs.add, 3)
    assert [record.get() for record in crew.records()] == [4]


def test_who_is_terminated_while_it_launches_stays_so() -> None:
    """D7, X7: whatever others submit meanwhile; and it answers afterwards."""

    def submit_until_closed() -> None:
        with pytest.raises(kumi.ControllerClosed):
            while True:
                crew.push(time.sleep, 0.001)

    for _ in range(3):
        crew = kumi.Controller(workers=2, seconds_idle=0)
        with ThreadPoolExecutor(2) as threads:
            submitting = [threads.submit(submit_until_closed) for _ in range(2)]
            crew.push(jobs.add, 1)
            crew.wait("one", LIMIT)
            crew.terminate()
            for one in submitting:
                one.result(LIMIT)
        status = crew.status()
        assert (status.workers, status.launching, status.waiting, status.running) == (0, 0, 0, 0)
        assert len(crew.collect()) == crew.summary().tasks
        assert crew.empty


def test_in_process_the_same_arguments_count() -> None:
    """D9, C113: what is reset, limited and counted is as with workers."""

    def leave(value: str) -> None:
        os.environ["KUMI_TEST_LEFT"] = value

    def left() -> str | None:
        return os.environ.get("KUMI_TEST_LEFT")

    with kumi.Controller(kumi.Sequential(), reset=False) as crew:
        crew.submit(leave, "kept").result()
        assert crew.submit(left).result() == "kept"
    with kumi.Controller(kumi.Sequential(), reset=True, seed=3) as crew:
        crew.submit(leave, "gone").result()
        assert crew.submit(left).result() == "kept"
        here = crew.submit(draw).result()
    del os.environ["KUMI_TEST_LEFT"]
    with kumi.Controller(workers=1, seed=3) as crew:
        crew.submit(leave, "gone").result()
        assert crew.submit(left).result() is None
        assert crew.submit(draw).result() == here


# Cases.


class Spy:
    """A launcher of a user's own."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def command(self, workers: int, /) -> Any:
        self.asked.append(workers)
        return kumi.Local(environment={"KUMI_TEST_SPY": "seen"}).command(workers)


def test_a_launcher_of_a_users_own() -> None:
    """C38: its processes run the tasks, and are gone when the controller is."""
    crew = kumi.Controller(spy := Spy(), workers=2)
    assert crew.submit(jobs.environment, "KUMI_TEST_SPY").result(LIMIT) == "seen"
    pid = crew.submit(jobs.pid).result(LIMIT)
    assert pid in children()
    crew.terminate()
    assert pid not in children()
    assert spy.asked == [2]


def test_every_other_launch_fails_silently(tmp_path: Path) -> None:
    """C46: tasks that need a new worker each succeed all the same, and wait for no launch's time to be over."""
    file = tmp_path / "launches"
    body = f"echo x >> {file}; [ $(($(wc -l < {file}) % 2)) = 0 ] || exit 1"
    with kumi.Controller(launcher_of(tmp_path, body), workers=1, tasks_max=1) as crew:
        assert [crew.submit(jobs.same, number).result(LIMIT) for number in range(7)] == [*range(7)]
        assert crew.summary().workers_launched == 7
    assert len(file.read_text().split()) == 14


def test_workers_that_left_come_again_for_later_tasks() -> None:
    """C47: they leave at once when nothing waits, and not before."""
    with kumi.Controller(workers=2, seconds_idle=0) as crew:
        for first in (0, 100):
            for number in range(first, first + 100):
                crew.push(jobs.same, number)
            records = [*crew.records()]
            assert sorted(record.get() for record in records) == [*range(first, first + 100)]
            for pid in {record.pid for record in records if record.pid}:
                jobs.wait_for_end(pid)
    assert 2 <= crew.summary().workers_launched < 50
    assert crew.summary().workers_left_idle >= 2


def test_what_a_task_sets_is_not_set_here(crew: kumi.Controller) -> None:
    """C50."""
    assert crew.submit(change_settings, "there").result(LIMIT) == {"changed": "there"}
    assert settings == {}


def test_a_map_opens_its_controller_and_leaves_pushed_tasks_alone() -> None:
    """C73, C74."""
    with kumi.Controller(workers=1) as crew:
        assert crew.map(jobs.add, [1, 2]).results() == [2, 3]
        crew.with_options(name="pushed").push(jobs.add, 3)
        assert crew.map(jobs.add, [1, 2]).results() == [2, 3]
        assert crew.status().uncollected == 1
        assert [(record.name, record.get()) for record in crew.records()] == [("pushed", 4)]


def test_who_waits_for_what_is_done_does_not_wait(single: kumi.Controller) -> None:
    """C164: and it stays true until the record is taken."""
    single.push(jobs.add, 1)
    assert single.wait("all", LIMIT)
    for _ in range(3):
        assert single.wait("all", 0)
        assert single.wait("one", 0)
    assert len(single.collect()) == 1
    assert not single.wait("one", 0)


# Load.


@pytest.mark.parametrize("limits", [{"seconds_idle": 0.005}, {"tasks_max": 50}], ids=["C152", "C153"])
def test_pushes_and_pops_in_turns_while_workers_come_and_go(limits: dict[str, Any]) -> None:
    """C152, C153: each name comes once, and nothing is left."""
    total, names = 1000, Counter[str | None]()
    with kumi.Controller(workers=4, **limits) as crew:
        for number in range(total):
            crew.with_options(name=f"task_{number}").push(time.sleep, 0.001)
            while (record := crew.pop()) is not None:
                names[record.name] += 1
        names.update(record.name for record in crew.records())
        status = crew.status()
    assert names == Counter(f"task_{number}" for number in range(total))
    assert (status.waiting, status.running, status.uncollected, status.success) == (0, 0, 0, total)
    assert status.lost == 0


def test_errors_and_warnings_of_a_large_map_are_counted_exactly(crew: kumi.Controller) -> None:
    """C154: three times, in the order of the input."""
    before = crew.summary()
    for turn in range(1, 4):
        tasks = sorted(
            crew.map(warn_and_maybe_fail, range(600), on_error="return").as_completed(), key=lambda t: t.index
        )
        states = ["error" if number % 6 == 1 else "success" for number in range(600)]
        records = [task.record for task in tasks]
        assert [record.status for record in records if record] == states
        assert [record.result for record in records if record and not record.error] == [
            number for number in range(600) if number % 6 != 1
        ]
        assert sum(len(record.warnings) for record in records if record) == 300
        summary = crew.summary()
        assert (summary.success - before.success, summary.error - before.error) == (turn * 500, turn * 100)


def test_a_map_with_a_worker_for_each_element() -> None:
    """C155."""
    with kumi.Controller(workers=2, tasks_max=1) as crew:
        assert crew.map(jobs.same, range(12)).results() == [*range(12)]
        assert crew.summary().workers_launched == 12


def test_one_is_done_while_others_are_not(gate: jobs.Gate) -> None:
    """C161: with a new worker for each."""
    with kumi.Controller(workers=2, tasks_max=1) as crew:
        for number in range(6):
            crew.push(jobs.hold, gate.path, number)
        gate.wait(2)
        gate.open()
        assert crew.wait("one", LIMIT)
        status = crew.status()
        assert status.success == 1
        assert status.waiting + status.running == 5
        gate.open(5)
        assert sorted(record.get() for record in crew.records()) == [*range(6)]
