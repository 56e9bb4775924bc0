"""Limits of time, and what may not be repeated: work really stops, and says which limit it was."""

import ctypes
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest

LIMIT = jobs.SECONDS_MAX
LONG = 600.0


def hang_natively() -> None:
    """In C code that holds the GIL and takes no notice of signals: a lock that nobody will release."""
    mutex, library = ctypes.create_string_buffer(64), ctypes.PyDLL(None)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def be_deaf() -> None:
    while True:
        try:
            time.sleep(LONG)
        except BaseException:
            continue


def multiply(_: object = None) -> None:
    import numpy as np

    big = np.ones((3000, 3000))
    while True:
        big @= big


def run_child(file: str) -> None:
    child = subprocess.Popen(["sleep", "600"])
    jobs.note(file, str(child.pid))
    be_deaf()


def exit_first(file: str) -> int:
    jobs.note(file, "begun")
    os._exit(3)


@pytest.mark.parametrize("function", [time.sleep, multiply])
def test_a_task_is_stopped_when_it_has_run_for_long_enough(single: kumi.Controller, function: Any) -> None:
    task = single.with_options(name="fit", seconds_run=0.2).submit(function, LONG)
    with pytest.raises(
        kumi.TaskTimeout, match=r"'fit' \(.*\) was stopped when it had run for seconds_run=0.2: raise the"
    ):
        task.result(LIMIT)
    assert not isinstance(task.exception(), TimeoutError), "which says that somebody's waiting took too long"
    assert task.record is not None
    assert (task.record.status, task.record.attempts) == ("timeout", 0)
    assert single.submit(jobs.add, 1).result(LIMIT) == 2
    assert single.status().workers == 1


@pytest.mark.parametrize("function", [hang_natively, be_deaf])
def test_what_does_not_yield_is_killed_and_replaced(function: Any) -> None:
    with kumi.Controller(workers=1, seconds_kill=0.5) as crew:
        before = crew.submit(jobs.pid).result(LIMIT)
        task = crew.with_options(seconds_run=0.2).submit(function)
        waiting = crew.submit(jobs.pid)
        assert isinstance(task.exception(LIMIT), kumi.TaskTimeout)
        assert waiting.result(LIMIT) != before
        assert waiting.record is not None
        assert waiting.record.attempts == 1


def test_its_children_end_with_it(tmp_path: Path) -> None:
    with kumi.Controller(workers=1, seconds_kill=0.5) as crew:
        task = crew.with_options(seconds_run=0.5).submit(run_child, str(tmp_path / "pid"))
        assert isinstance(task.exception(LIMIT), kumi.TaskTimeout)
        assert crew.submit(jobs.add, 1).result(LIMIT) == 2
        jobs.wait_for_end(int((tmp_path / "pid").read_text()))


def test_waiting_counts_for_the_total_and_not_for_the_run(single: kumi.Controller, gate: jobs.Gate) -> None:
    held = single.submit(jobs.hold, gate.path)
    gate.wait()
    waits = single.with_options(seconds_total=0.2).submit(jobs.add, 1)
    runs = single.with_options(seconds_run=0.2).submit(jobs.add, 1)
    with pytest.raises(kumi.TaskTimeout, match=r"had not even begun, .* within seconds_total=0.2 of its submission"):
        waits.result(LIMIT)
    assert not runs.done()
    gate.open()
    assert runs.result(LIMIT) == 2
    assert held.exception(LIMIT) is None


def test_the_total_stops_a_running_task(single: kumi.Controller) -> None:
    task = single.with_options(seconds_total=0.2).submit(time.sleep, LONG)
    with pytest.raises(kumi.TaskTimeout, match=r"was stopped because it was not done within seconds_total=0.2"):
        task.result(LIMIT)


def test_each_element_of_a_map_has_its_own_limit(crew: kumi.Controller) -> None:
    found = crew.with_options(seconds_run=0.3).map(time.sleep, [0, LONG, 0], on_error="return").results()
    assert (found[0], found[2]) == (None, None)
    assert isinstance(found[1], kumi.TaskTimeout)


@pytest.mark.parametrize("limits", [{"seconds_run": 0.02}, {"seconds_total": 0.05}])
def test_in_process_a_task_that_took_too_long_ends_in_the_same_way(limits: dict[str, Any]) -> None:
    with kumi.Controller(kumi.Sequential()) as crew:
        assert isinstance(crew.with_options(**limits).submit(time.sleep, 0.1).exception(), kumi.TaskTimeout)
        assert crew.with_options(**limits).submit(jobs.add, 1).result() == 2


def test_many_limits_that_were_kept_stop_nobody(crew: kumi.Controller) -> None:
    view = crew.with_options(seconds_run=LONG, seconds_total=LONG)
    assert view.map(jobs.add, range(5000)).results() == list(range(1, 5001))


def test_what_may_run_only_once_is_not_run_again(crew: kumi.Controller, tmp_path: Path) -> None:
    file = tmp_path / "runs"
    task = crew.with_options(once=True).submit(exit_first, str(file))
    with pytest.raises(kumi.CrashError, match="it is not run again because `once=True` forbids that"):
        task.result(LIMIT)
    assert file.read_text().count("begun") == 1


def test_a_nested_task_has_limits_too(single: kumi.Controller) -> None:
    def parent() -> str:
        return str(kumi.with_options(seconds_run=0.2).submit(time.sleep, LONG).exception())

    assert "had run for seconds_run=0.2" in single.submit(parent).result(LIMIT)


@pytest.mark.parametrize("name", ["seconds_run", "seconds_total"])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError), (True, TypeError)])
def test_limits_are_positive_numbers(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"{name} must be a finite number above 0"):
        kumi.with_options(**{name: value})


def test_once_is_yes_or_no() -> None:
    with pytest.raises(TypeError, match="once must be True, False or None, not 2"):
        kumi.with_options(once=2)  # type: ignore[arg-type]


def test_tasks_are_cancelled_by_their_names(single: kumi.Controller, gate: jobs.Gate) -> None:
    """C11, C80."""
    running = single.with_options(name="hold").submit(jobs.hold, gate.path)
    gate.wait()
    fits = [single.with_options(name=f"fit_{number}").submit(jobs.add, number) for number in range(3)]
    folds = single.with_options(name="fold").map(jobs.add, range(2), on_error="return")
    plain = single.submit(jobs.add, 1)
    pushed = single.with_options(name="[x]").push(jobs.add, 1)
    assert single.cancel("nobody", "fit") == 0
    assert single.cancel("fit_[01]", "fit_1") == 2
    assert [task.state() for task in fits] == ["cancel", "cancel", "waiting"]
    assert single.cancel("fold_*") == 2
    assert [type(error) for error in folds] == [kumi.TaskCancelled] * 2
    assert single.cancel("[x]") == 1, "a name that looks like a pattern is a name"
    assert single.cancel("hold") == 1
    assert running.state() == "cancel"
    assert single.cancel("*") == 2
    assert (plain.state(), fits[2].state(), pushed.state()) == ("cancel", "cancel", "cancel")
    assert single.cancel("*") == 0
    assert single.submit(jobs.add, 1).result(LIMIT) == 2


def test_all_elements_of_a_map_are_cancelled_and_the_worker_stays(
    single: kumi.Controller, gate: jobs.Gate, tmp_path: Path
) -> None:
    """M139."""
    worker, file = single.submit(jobs.pid).result(LIMIT), tmp_path / "ran"
    values = single.with_options(name="fit").map(hold_and_note, [gate.path] * 10, [str(file)] * 10, on_error="return")
    gate.wait()
    assert single.cancel("fit_*") == 10
    assert [type(error) for error in values] == [kumi.TaskCancelled] * 10
    assert single.cancel("fit_*") == 0
    assert single.submit(jobs.pid).result(LIMIT) == worker
    assert not file.exists()
    assert (single.summary().cancel, single.summary().workers_launched) == (10, 1)


def hold_and_note(gate: str, file: str) -> None:
    jobs.hold(gate)
    jobs.note(file, "ran")


def test_a_controller_that_was_not_opened_has_nothing_to_cancel() -> None:
    """C61."""
    crew = kumi.Controller()
    assert crew.cancel("*") == 0
    with pytest.raises(TypeError, match="pattern must be a non-empty string"):
        crew.cancel(3)  # type: ignore[arg-type]
