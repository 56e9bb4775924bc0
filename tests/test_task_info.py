"""What a task knows of itself, on a worker and in this process."""

import dataclasses
import os
import threading
from pathlib import Path

import jobs
import kumi
import pytest


def info() -> kumi.TaskInfo | None:
    return kumi.task_info()


def info_after_crashes(file: str, times: int) -> kumi.TaskInfo | None:
    jobs.die_times(file, times)
    return kumi.task_info()


def info_of_thread() -> tuple[kumi.TaskInfo | None, kumi.TaskInfo | None]:
    found: list[kumi.TaskInfo | None] = []
    thread = threading.Thread(target=lambda: found.append(kumi.task_info()))
    thread.start()
    thread.join()
    return kumi.task_info(), found[0]


async def info_of_coroutine() -> kumi.TaskInfo | None:
    return kumi.task_info()


def info_of_forked_child() -> bool:
    """Whether a child that the task forks knows itself to be no task, and its report goes nowhere."""
    child = os.fork()
    if child == 0:
        kumi.report("of the child")
        os._exit(0 if kumi.task_info() is None else 1)
    return os.waitpid(child, 0)[1] == 0


def test_outside_of_a_task_there_is_none() -> None:
    assert kumi.task_info() is None
    kumi.report(1)


def test_a_task_knows_itself(crew: kumi.Controller) -> None:
    """C29."""
    task = crew.with_options(name="one").submit(info)
    found = task.result()
    assert found is not None
    assert task.record is not None
    assert found == kumi.TaskInfo(task.id, "one", crew.name, task.record.worker or "", 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "two"  # type: ignore[misc]


def test_tasks_without_a_name_do_not_get_that_of_the_one_before(single: kumi.Controller) -> None:
    named = single.with_options(name="a")
    tasks = [submitter.submit(info) for submitter in (named, single, named, single)]
    found = [task.result() for task in tasks]
    assert [one and one.name for one in found] == ["a", None, "a", None]
    assert [one and one.id for one in found] == [task.id for task in tasks]


def test_elements_of_a_map_have_numbered_names(crew: kumi.Controller) -> None:
    names = crew.with_options(name="m").map(lambda _: kumi.task_info(), range(3)).results()
    assert [one and one.name for one in names] == ["m_0", "m_1", "m_2"]


def test_attempts_are_counted(crew: kumi.Controller, tmp_path: Path) -> None:
    found = crew.submit(info_after_crashes, str(tmp_path / "begun"), 2).result()
    assert found is not None
    assert found.attempt == 3


def test_threads_and_coroutines_of_a_task_are_the_task(crew: kumi.Controller) -> None:
    task = crew.submit(info_of_thread)
    mine, its = task.result()
    assert mine == its
    assert mine is not None
    assert mine.id == task.id
    later = crew.submit(info_of_coroutine)
    found = later.result()
    assert found is not None
    assert found.id == later.id


def test_a_child_that_a_task_forks_is_no_task(crew: kumi.Controller) -> None:
    task = crew.submit(info_of_forked_child)
    assert task.result()
    assert task.report is None


def submit_within(name: str) -> tuple[kumi.TaskInfo | None, kumi.TaskInfo | None, kumi.TaskInfo | None]:
    before = kumi.task_info()
    within = kumi.with_options(name=name).submit(info).result()
    return before, within, kumi.task_info()


def test_in_this_process() -> None:
    with kumi.daemons(1, kumi.Sequential(), name="here") as crew:
        task = crew.with_options(name="outer").submit(submit_within, "inner")
        before, within, after = task.result()
        assert before == after == kumi.TaskInfo(task.id, "outer", "here", "here-0", 1)
        assert within is not None
        assert (within.name, within.controller) == ("inner", "here")
        assert within.id != task.id
        assert kumi.task_info() is None
