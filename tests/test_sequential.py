"""Everything in this process: the same face, results, errors and records as with workers."""

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest
from rig import run_python, write


@pytest.fixture
def crew() -> Iterator[kumi.Controller]:
    with kumi.Controller(kumi.Sequential()) as crew:
        yield crew


def test_a_task_is_done_when_submit_returns(crew: kumi.Controller) -> None:
    task = crew.submit(jobs.pid)
    assert task.done()
    assert task.result() == os.getpid()


def test_no_thread_and_no_process_is_started() -> None:
    threads = threading.active_count()
    with kumi.Controller(kumi.Sequential()) as crew:
        assert crew.submit(jobs.add, 1).result() == 2
        assert threading.active_count() == threads
        assert crew.status().workers == 0


def test_arguments_and_results_pass_through_pickle(crew: kumi.Controller) -> None:
    things = [1, [2]]
    result = crew.submit(jobs.same, things).result()
    assert result == things
    assert result[1] is not things[1]
    with pytest.raises(kumi.SerializationError, match="argument 1"):
        crew.submit(jobs.same, jobs.Unpicklable())
    assert isinstance(crew.submit(jobs.make_unpicklable).exception(), kumi.SerializationError)


def test_errors_are_the_tasks_own(crew: kumi.Controller) -> None:
    task = crew.submit(jobs.boom)
    with pytest.raises(ValueError, match="no"):
        task.result()
    assert task.record is not None
    assert task.record.status == "error"
    assert "in boom" in (task.record.traceback or "")
    left = crew.submit(jobs.leave, 3).exception()
    assert isinstance(left, kumi.RemoteError)
    assert left.cause_type == "SystemExit"


def test_a_function_that_cannot_be_unpickled_is_the_tasks_error(crew: kumi.Controller) -> None:
    poison = jobs.PoisonOnArrival()
    task = crew.submit(lambda: poison)
    assert isinstance(task.exception(), kumi.SerializationError)
    assert crew.submit(jobs.add, 1).result() == 2


def fibonacci(n: int) -> int:
    """Found by name in this very process: `default` is the same here and in the task."""
    return n if n < 2 else kumi.submit(fibonacci, n - 1).result() + kumi.submit(fibonacci, n - 2).result()


def test_tasks_submit_tasks() -> None:
    with kumi.daemons(1, kumi.Sequential(), name="in-here"):
        assert kumi.submit(fibonacci, 7).result() == 13


def test_map_and_callbacks_and_the_standard_library(crew: kumi.Controller) -> None:
    """C116."""
    assert crew.map(jobs.add, range(5)).results() == [1, 2, 3, 4, 5]
    assert list(crew.map(jobs.add, iter(range(5)), buffersize=2)) == [1, 2, 3, 4, 5]
    tasks = [crew.submit(jobs.add, i) for i in range(3)]
    assert concurrent.futures.wait(tasks, 0).not_done == set()
    called: list[Any] = []
    tasks[0].add_done_callback(called.append)
    assert called == [tasks[0]]


def test_async(crew: kumi.Controller) -> None:
    async def main() -> tuple[int, int]:
        return await crew.run(jobs.add, 1), await crew.submit(jobs.add, 2)

    assert asyncio.run(main()) == (2, 3)


def test_pushed_tasks(crew: kumi.Controller) -> None:
    """C115."""
    crew.with_options(name="a").push(jobs.add, 1)
    crew.with_options(name="b").push(jobs.boom)
    assert crew.wait("all", 0)
    records = crew.collect()
    assert [(record.name, record.status) for record in records] == [("a", "success"), ("b", "error")]
    assert crew.empty
    assert crew.pop() is None


def test_counts(crew: kumi.Controller) -> None:
    crew.submit(jobs.add, 1)
    assert crew.submit(jobs.boom).exception() is not None
    status = crew.status()
    assert (status.waiting, status.running, status.finished) == (0, 0, 2)
    summary = crew.summary()
    assert (summary.tasks, summary.success, summary.error, summary.workers_launched) == (2, 1, 1, 0)


def test_the_record(crew: kumi.Controller) -> None:
    record = crew.with_options(name="one").submit(jobs.add, 1).record
    assert record is not None
    assert (record.name, record.function, record.result, record.controller) == ("one", "add", 2, crew.name)
    assert record.started is not None
    assert record.submitted <= record.started + 1e-3
    assert record.started <= record.finished + 1e-3
    assert record.seconds is not None
    assert record.seconds >= 0


def test_many_threads(crew: kumi.Controller) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        sums = threads.map(lambda _: sum(crew.submit(jobs.add, i).result(30) for i in range(50)), range(8))
        assert list(sums) == [sum(range(51))] * 8


def test_after_the_end() -> None:
    crew = kumi.Controller(kumi.Sequential())
    task = crew.submit(jobs.add, 1)
    crew.shutdown()
    assert task.result() == 2
    with pytest.raises(kumi.ControllerClosed):
        crew.submit(jobs.add, 1)


@pytest.mark.parametrize("here", [True, False])
def test_a_debugger_works_in_this_process_and_a_worker_says_so(here: bool, tmp_path: Path) -> None:
    program = """
        import sys, kumi
        def look(value):
            breakpoint()
            return 2 * value
        launcher = kumi.Sequential() if sys.argv[1] == "True" else kumi.Local()
        with kumi.Controller(launcher, workers=1) as crew:
            print(repr(crew.submit(look, 21).exception()), crew.submit(look, 21).exception() or "fine")
    """
    file = write(tmp_path, "program.py", program)
    out = run_python(str(file), str(here), directory=tmp_path, stdin="p 'value is', value\nc\nc\n")
    if here:
        assert "('value is', 21)" in out
        assert out.endswith("None fine\n")
    else:
        assert out.startswith(
            "RuntimeError('a worker has no terminal for a debugger: to stop here, run the program with"
        )


@pytest.mark.parametrize(("value", "here"), [("1", True), ("0", False), ("", False)])
def test_an_environment_variable_has_any_program_run_its_tasks_itself(value: str, here: bool) -> None:
    program = """
import os, kumi
with kumi.daemons(2), kumi.Controller(kumi.Local(), workers=1) as crew:
    print({kumi.submit(os.getpid).result(), crew.submit(os.getpid).result()} == {os.getpid()})
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"KUMI_SYNC": value},
        check=True,
        capture_output=True,
        text=True,
        timeout=jobs.SECONDS_MAX,
    )
    assert ran.stdout == f"{here}\n"
