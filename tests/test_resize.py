"""How many workers there may be, changed while there are some."""

import os
import pickle
import select
from contextlib import suppress
from typing import Any

import hungry
import jobs
import kumi
import pytest

LIMIT = jobs.SECONDS_MAX


def wait_for_ends(pids: list[int], count: int) -> None:
    """Returns when so many of these processes are gone."""
    watched = []
    try:
        for pid in pids:
            with suppress(ProcessLookupError):
                watched.append(os.pidfd_open(pid))
        left = watched
        while len(pids) - len(left) < count:
            ended = select.select(left, [], [], LIMIT)[0]
            assert ended, f"only {len(pids) - len(left)} of {pids} ended"
            left = [one for one in left if one not in ended]
    finally:
        for one in watched:
            os.close(one)


def workers_of(tasks: list[kumi.Task[Any]]) -> list[int]:
    return [task.record.pid for task in tasks if task.record is not None and task.record.pid is not None]


def test_more_workers_come_while_tasks_run(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1) as crew:
        tasks = [crew.submit(jobs.hold, gate.path, number) for number in range(3)]
        gate.wait()
        crew.resize(3)
        gate.wait(2)
        assert crew.status().running == 3
        gate.open(3)
        assert [task.result(LIMIT) for task in tasks] == [0, 1, 2]
    assert crew.workers == 3


def test_busy_workers_are_not_ended_and_the_cap_holds_in_the_end(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=3, seconds_idle=None) as crew:
        tasks = [crew.submit(jobs.hold, gate.path, number) for number in range(3)]
        gate.wait(3)
        crew.resize(1)
        later = crew.map(hungry.pid_and_self, range(50))
        assert (crew.status().workers, crew.status().running) == (3, 3)
        gate.open(3)
        assert [task.result(LIMIT) for task in tasks] == [0, 1, 2]
        wait_for_ends(workers_of(tasks), 2)
        last = crew.map(hungry.pid_and_self, range(50))
        assert [value for value, _ in later.results()] == [*range(50)]
        assert len({pid for _, pid in last.results()}) == 1, "only one goes on"
        assert (crew.summary().crash, crew.summary().workers_lost) == (0, 0)


def test_idle_workers_leave_although_they_never_idle_out(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=3, workers_min=3, seconds_idle=None) as crew:
        tasks = [crew.submit(jobs.hold, gate.path, number) for number in range(3)]
        gate.wait(3)
        gate.open(3)
        assert [task.result(LIMIT) for task in tasks] == [0, 1, 2]
        crew.resize(1, workers_min=1)
        wait_for_ends(workers_of(tasks), 2)
        assert crew.submit(jobs.add, 1).result(LIMIT) == 2


def test_the_minimum_is_launched_at_once(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=2) as crew:
        crew.start()
        crew.resize(workers_min=2)
        status = crew.status()
        assert status.workers + status.launching == 2
        assert (crew.workers, crew.workers_min) == (2, 2)


def test_before_the_start_it_counts_from_the_start_on(gate: jobs.Gate) -> None:
    """C61."""
    crew = kumi.Controller(workers=1)
    crew.resize(2)
    assert crew.status().workers == 0
    with crew:
        for _ in range(3):
            crew.submit(jobs.hold, gate.path)
        gate.wait(2)
        status = crew.status()
        assert (status.workers, status.running, status.waiting) == (2, 2, 1)
        gate.open(3)


def test_a_controller_pickles_as_it_was_changed() -> None:
    crew = kumi.Controller(workers=1)
    crew.resize(5, workers_min=2)
    twin = pickle.loads(pickle.dumps(crew))
    assert (twin.workers, twin.workers_min) == (5, 2)


def test_where_tasks_run_in_this_process_the_number_does_not_matter() -> None:
    with kumi.Controller(kumi.Sequential(), workers=1) as crew:
        crew.resize(4)
        assert crew.map(jobs.add, range(3)).results() == [1, 2, 3]
        assert crew.status().workers == 0


def test_workers_by_hand_are_bounded_anew() -> None:
    with kumi.Controller(None, host="127.0.0.1") as crew:
        crew.resize(2)
        assert (crew.workers, crew.status().launching) == (2, 0)


def test_after_the_end_it_says_so() -> None:
    crew = kumi.Controller(workers=1)
    crew.submit(jobs.add, 1).result(LIMIT)
    crew.terminate()
    with pytest.raises(kumi.ControllerClosed, match=f"{crew.name!r} is closed: it has ended"):
        crew.resize(2)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((0,), ValueError, "workers must be a whole number of at least 1"),
        ((1.5,), TypeError, "workers must be a whole number"),
        (("2",), TypeError, "workers must be a whole number"),
        ((True,), TypeError, "workers must be a whole number"),
        ((2, -1), ValueError, "workers_min must be a whole number of at least 0"),
        ((2, 3), ValueError, "workers_min must be a whole number from 0 to workers, which is 2, not 3"),
    ],
)
def test_what_is_no_number_of_workers_is_refused_and_changes_nothing(
    arguments: tuple[Any, ...], error: type[Exception], text: str
) -> None:
    crew = kumi.Controller(workers=3, workers_min=1)
    with pytest.raises(error, match=text):
        crew.resize(*arguments)
    assert (crew.workers, crew.workers_min) == (3, 1)


def test_fewer_than_the_minimum_is_refused() -> None:
    crew = kumi.Controller(workers=3, workers_min=2)
    with pytest.raises(ValueError, match="workers_min must be .* which is 1, not 2"):
        crew.resize(1)
    crew.resize(1, workers_min=1)
    assert (crew.workers, crew.workers_min) == (1, 1)
