"""A Task is a Future: for whoever holds it, for the standard library, and for asyncio."""

import asyncio
import concurrent.futures
import copy
import gc
import logging
import pickle
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest

LIMIT = jobs.SECONDS_MAX


@pytest.fixture(scope="module")
def crew() -> Iterator[kumi.Controller]:
    with kumi.Controller(workers=1) as crew:
        yield crew


@pytest.fixture
def held(crew: kumi.Controller, gate: jobs.Gate) -> Iterator[kumi.Task[Any]]:
    """A task that keeps the only worker busy."""
    task = crew.submit(jobs.hold, gate.path, "held")
    gate.wait()
    yield task
    gate.open()
    assert task.result(LIMIT) == "held"


# What it returns and raises


def test_every_argument_belongs_to_the_function(crew: kumi.Controller) -> None:
    """M52: also those that are called as something of kumi's own."""
    named = {"fn": 2, "self": 3, "timeout": 4, "name": 5, "wait": 6, "seed": 7, "stream": 8, "trace": 9, "args": 10}
    assert crew.submit(jobs.echo, 1, **named).result(LIMIT) == ((1,), named)


@pytest.mark.parametrize("value", [None, 0, "", b"", [], {"a": (1, 2.5)}, ValueError("returned, not raised")])
def test_any_value_is_a_result(crew: kumi.Controller, value: Any) -> None:
    task = crew.submit(jobs.same, value)
    assert repr(task.result(LIMIT)) == repr(value)
    assert task.exception(LIMIT) is None
    assert task.done()


def test_the_result_is_decoded_once(crew: kumi.Controller) -> None:
    task = crew.submit(jobs.same, [1, 2])
    assert task.result(LIMIT) is task.result(LIMIT)


def test_an_error_is_the_original_with_the_remote_traceback(crew: kumi.Controller) -> None:
    task = crew.submit(jobs.boom, "my words")
    with pytest.raises(ValueError, match="my words") as caught:
        task.result(LIMIT)
    assert task.exception() is caught.value
    assert "in boom" in "".join(traceback.format_exception(caught.value))
    assert task.record is not None
    assert "in boom" in (task.record.traceback or "")


def test_an_error_keeps_its_attributes(crew: kumi.Controller) -> None:
    error = crew.submit(jobs.raise_odd).exception(LIMIT)
    assert isinstance(error, jobs.OddError)
    assert (error.code, error.detail) == (7, "x")


def test_an_error_that_cannot_travel_arrives_in_words(crew: kumi.Controller) -> None:
    error = crew.submit(jobs.raise_unpicklable).exception(LIMIT)
    assert isinstance(error, kumi.RemoteError)
    assert error.cause_type.endswith("UnpicklableError")
    assert "held back" in str(error)
    assert "raise_unpicklable" in error.traceback


@pytest.mark.parametrize("code", [0, 3, "text", None])
def test_sys_exit_is_an_error_of_the_task(crew: kumi.Controller, code: Any) -> None:
    before = crew.submit(jobs.pid).result(LIMIT)
    task = crew.submit(jobs.leave, code)
    error = task.exception(LIMIT)
    assert isinstance(error, kumi.RemoteError)
    assert error.cause_type == "SystemExit"
    assert task.state() == "error"
    assert crew.submit(jobs.pid).result(LIMIT) == before


def test_waiting_ends_with_the_builtin_timeout_and_the_task_goes_on(crew: kumi.Controller, gate: jobs.Gate) -> None:
    task = crew.submit(jobs.hold, gate.path, 5)
    for wait in (task.result, task.exception):
        with pytest.raises(TimeoutError):
            wait(0)
        with pytest.raises(TimeoutError) as caught:
            wait(timeout=0.01)
        assert caught.value.__context__ is None, "users shall see nothing of how it is waited for"
    assert not task.done()
    gate.open()
    assert task.result(LIMIT) == 5


def test_many_threads_wait_for_one_task(crew: kumi.Controller, gate: jobs.Gate) -> None:
    task = crew.submit(jobs.hold, gate.path, [1])
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(task.result, LIMIT) for _ in range(8)]
        gate.open()
        values = [future.result(LIMIT) for future in waiting]
    assert all(value is values[0] for value in values)


# What it costs


def test_a_task_that_its_own_result_leads_back_to_is_collected(crew: kumi.Controller) -> None:
    task = crew.submit(list)
    task.result(LIMIT).append(task)
    gone = weakref.ref(task)
    del task
    gc.collect()
    assert gone() is None


def test_threads_that_ask_at_once_get_the_same_object(crew: kumi.Controller) -> None:
    task = crew.submit(list)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: task.result(LIMIT), range(64)))
    assert all(result is results[0] for result in results)


def test_a_task_nobody_watches_has_no_parts_of_a_future(crew: kumi.Controller) -> None:
    task = crew.submit(jobs.add, 1)
    assert task.result(LIMIT) == 2
    assert task.__dict__ == {}
    assert sys.getsizeof(task) <= 96


def test_an_error_and_its_task_do_not_hold_each_other(crew: kumi.Controller) -> None:
    task = crew.submit(jobs.boom)
    with pytest.raises(ValueError):  # noqa: PT011 - which error it is does not matter here
        task.result(LIMIT)
    gc.collect()
    held = [referrer for referrer in gc.get_referrers(task) if type(referrer).__name__ == "frame"]
    assert all(frame.f_code.co_name != "result" for frame in held)


# States


def test_states_of_a_task_that_runs_and_of_one_that_waits(crew: kumi.Controller, held: kumi.Task[Any]) -> None:
    waiting = crew.submit(jobs.add, 1)
    assert (held.state(), held.running(), held.done(), held.cancelled()) == ("running", True, False, False)
    assert (waiting.state(), waiting.running(), waiting.done()) == ("waiting", False, False)
    assert held.record is None
    assert waiting.cancel()


def test_cancelling_a_task_that_waits(crew: kumi.Controller, held: kumi.Task[Any]) -> None:
    task = crew.submit(jobs.add, 1)
    assert task.cancel()
    assert task.cancel(), "it still is cancelled"
    assert (task.state(), task.done(), task.cancelled(), task.running()) == ("cancel", True, True, False)
    for ask in (task.result, task.exception):
        with pytest.raises(kumi.TaskCancelled):
            ask(LIMIT)
    with pytest.raises(concurrent.futures.CancelledError):
        task.result()
    assert task.record is not None
    assert task.record.status == "cancel"
    assert isinstance(task.record.error, kumi.TaskCancelled)


def test_a_finished_task_is_not_cancelled(crew: kumi.Controller) -> None:
    task = crew.submit(jobs.add, 1)
    task.result(LIMIT)
    assert not task.cancel()
    assert task.result() == 2


def test_nobody_else_resolves_a_task(crew: kumi.Controller) -> None:
    task = crew.submit(jobs.add, 1)
    for refused in (lambda: task.set_result(3), lambda: task.set_exception(None), task.set_running_or_notify_cancel):
        with pytest.raises(concurrent.futures.InvalidStateError):
            refused()
    assert task.result(LIMIT) == 2


def test_a_task_cannot_be_pickled_or_passed_to_a_task(crew: kumi.Controller) -> None:
    task = crew.submit(jobs.add, 1)
    with pytest.raises(TypeError, match="Task"):
        pickle.dumps(task)
    with pytest.raises(TypeError, match="Task"):
        copy.copy(task)
    with pytest.raises(kumi.SerializationError, match="Task"):
        crew.submit(jobs.same, [task])


def test_unknown_attributes_are_missing(crew: kumi.Controller) -> None:
    task = crew.submit(jobs.add, 1)
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = task.no_such_thing
    assert task.__dict__ == {}


def test_repr_tells_name_function_and_state(crew: kumi.Controller) -> None:
    task = crew.with_options(name="fit").submit(jobs.add, 1)
    task.result(LIMIT)
    assert repr(task) == "<Task 'fit' add success>"


# Records


def test_record_of_a_success(crew: kumi.Controller) -> None:
    """C8, C13."""
    before = time.time()
    task = crew.with_options(name="fit").submit(jobs.pid)
    pid = task.result(LIMIT)
    record = task.record
    assert record is not None
    assert (record.name, record.function, record.status, record.result) == ("fit", "pid", "success", pid)
    assert (record.error, record.traceback, record.certificate) == (None, None, None)
    assert (record.pid, record.attempts, record.controller) == (pid, 1, crew.name)
    assert record.worker is not None
    assert record.worker.startswith(crew.name)
    assert record.host
    assert record.started is not None
    assert before - 1 <= record.submitted <= record.started <= record.finished <= time.time() + 1
    assert record.seconds is not None
    assert 0 <= record.seconds <= LIMIT
    assert record.queue_seconds == pytest.approx(record.started - record.submitted)
    assert record.get() == pid
    with pytest.raises(AttributeError):
        record.name = "other"  # type: ignore[misc]


def test_record_of_an_error(crew: kumi.Controller) -> None:
    """C10, C14."""
    task = crew.submit(jobs.boom)
    error = task.exception(LIMIT)
    record = task.record
    assert record is not None
    assert (record.status, record.result, record.error) == ("error", None, error)
    with pytest.raises(ValueError, match="no"):
        record.get()


# The standard library


def test_wait_for_all_first_and_first_exception(crew: kumi.Controller, gate: jobs.Gate) -> None:
    tasks = [crew.submit(jobs.add, 1), crew.submit(jobs.boom), crew.submit(jobs.hold, gate.path)]
    first = concurrent.futures.wait(tasks, LIMIT, concurrent.futures.FIRST_COMPLETED)
    assert first.done
    failed = concurrent.futures.wait(tasks, LIMIT, concurrent.futures.FIRST_EXCEPTION)
    assert tasks[1] in failed.done
    assert isinstance(tasks[1].exception(), ValueError)
    assert tasks[2] in failed.not_done
    gate.open()
    assert concurrent.futures.wait(tasks, LIMIT) == (set(tasks), set())


def test_wait_gives_up_in_time(crew: kumi.Controller, held: kumi.Task[Any]) -> None:
    assert concurrent.futures.wait([held], 0.01) == (set(), {held})


def test_wait_ends_for_cancelled_tasks(crew: kumi.Controller, held: kumi.Task[Any]) -> None:
    tasks = [crew.submit(jobs.add, i) for i in range(3)]
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(concurrent.futures.wait, tasks, LIMIT)
        for task in tasks:
            task.cancel()
        assert waiting.result(LIMIT).not_done == set()


def test_as_completed_takes_all_kinds_of_futures(crew: kumi.Controller) -> None:
    done = crew.submit(jobs.add, 10)
    done.result(LIMIT)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        futures = [done, *(crew.submit(jobs.add, i) for i in range(20)), threads.submit(jobs.add, 100)]
        values = [future.result() for future in concurrent.futures.as_completed(futures, LIMIT)]
    assert sorted(values) == sorted([11, *range(1, 21), 101])


def test_wait_is_never_early_when_tasks_end_meanwhile(crew: kumi.Controller) -> None:
    for _ in range(20):
        tasks = [crew.submit(jobs.add, i) for i in range(30)]
        assert concurrent.futures.wait(tasks, LIMIT).not_done == set()
        assert all(task.done() for task in tasks)


def test_run_in_executor_and_wrap_future(crew: kumi.Controller) -> None:
    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(crew, jobs.add, 1), await asyncio.wrap_future(crew.submit(jobs.add, 2))

    assert asyncio.run(main()) == (2, 3)


# Callbacks


def called_back(task: kumi.Task[Any], then: Callable[[], object] = lambda: None) -> tuple[Any, str]:
    """What a callback gets, and in which thread, if `then` is done after it was added."""
    calls: list[tuple[Any, str]] = []
    came = threading.Event()

    def note(future: Any) -> None:
        calls.append((future, threading.current_thread().name))
        came.set()

    task.add_done_callback(note)
    then()
    assert came.wait(LIMIT)
    assert len(calls) == 1
    return calls[0]


def test_a_callback_runs_in_the_delivering_thread(crew: kumi.Controller, gate: jobs.Gate) -> None:
    task = crew.submit(jobs.hold, gate.path)
    assert called_back(task, gate.open) == (task, "kumi-deliver")


def test_a_callback_on_a_finished_task_runs_at_once(crew: kumi.Controller) -> None:
    task = crew.submit(jobs.add, 1)
    task.result(LIMIT)
    assert called_back(task) == (task, threading.current_thread().name)


def test_callbacks_run_in_order_and_a_failing_one_is_told_and_stops_nothing(
    crew: kumi.Controller, gate: jobs.Gate, caplog: pytest.LogCaptureFixture
) -> None:
    task = crew.submit(jobs.hold, gate.path)
    order: list[int] = []
    came = threading.Event()

    def fail(_: Any) -> None:
        raise ValueError("the callback's own")

    def leave(_: Any) -> None:
        raise SystemExit

    for callback in (lambda _: order.append(1), fail, leave, lambda _: order.append(2), lambda _: came.set()):
        task.add_done_callback(callback)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        gate.open()
        assert came.wait(LIMIT)
    assert order == [1, 2]
    assert "the callback's own" in caplog.text
    assert called_back(crew.submit(jobs.add, 1))[0].result() == 2, "the thread lives"


def test_a_callback_outlives_the_callers_reference(crew: kumi.Controller, gate: jobs.Gate) -> None:
    got: list[Any] = []
    came = threading.Event()
    task = crew.submit(jobs.hold, gate.path, 5)
    task.add_done_callback(lambda future: (got.append(future.result()), came.set()))
    del task
    gate.open()
    assert came.wait(LIMIT)
    assert got == [5]


def test_a_task_nobody_holds_still_runs(crew: kumi.Controller, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    crew.submit(jobs.note, str(file), "it ran")
    crew.submit(jobs.add, 1).result(LIMIT)  # the one worker has done the former when it has done this
    assert file.read_text() == "it ran\n"
