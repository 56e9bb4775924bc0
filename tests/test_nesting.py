"""Tasks that submit tasks to the controller that runs them."""

import contextlib
import json
import os
import random
import signal
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import families
import jobs
import kumi
import pytest

LIMIT = jobs.SECONDS_MAX


@pytest.fixture(params=[1, 2], ids=["1 worker", "2 workers"])
def few(request: pytest.FixtureRequest) -> Iterator[kumi.Controller]:
    with kumi.Controller(workers=request.param) as crew:
        yield crew


def test_maps_within_maps_three_levels_deep(few: kumi.Controller) -> None:
    assert few.submit(families.total, 3, 4).result(LIMIT) == 64
    assert few.status().extra == 0
    assert few.summary().workers_launched <= few.workers


def test_eight_parents_on_two_workers_each_with_a_map(crew: kumi.Controller) -> None:
    assert crew.map(families.total, [2] * 8, [3] * 8).results() == [9] * 8


def test_a_chain_of_waits_runs_in_the_one_worker(single: kumi.Controller) -> None:
    pids = single.submit(families.where, 20).result(LIMIT)
    assert len(pids) == 21
    assert len(set(pids)) == 1


def test_other_workers_take_what_a_task_submits(crew: kumi.Controller, gate: jobs.Gate) -> None:
    """Both children are held at a time: one in the worker of the waiting task, one in the other."""
    task = crew.submit(families.hold_children, gate.path, os.devnull)
    gate.wait(2)
    gate.open(2)
    task.result(LIMIT)


def test_a_thousand_children(few: kumi.Controller) -> None:
    assert few.submit(families.children, 1000).result(LIMIT) == 1000


def test_the_default_in_a_task_is_its_own_controller() -> None:
    with kumi.Controller(workers=1, name="a-b") as crew:
        assert crew.submit(families.name).result(LIMIT) == ("a-b", "<controller 'a-b' of the task that runs here>")


def test_closures_and_lambdas_nest(single: kumi.Controller) -> None:
    factor = 3

    def multiply(numbers: list[int]) -> list[int]:
        return kumi.map(lambda number: number * factor, numbers).results()

    assert single.submit(multiply, [1, 2]).result(LIMIT) == [3, 6]


def test_an_error_of_a_child_reaches_its_parent_with_traceback(few: kumi.Controller) -> None:
    assert few.submit(families.child_error).result(LIMIT) == "ValueError: of a child: True"
    error = few.submit(families.child_error_unhandled).exception(LIMIT)
    assert isinstance(error, ValueError)
    text = "".join(traceback.format_exception(error))
    assert "boom" in text
    assert "child_error_unhandled" in text


def test_a_child_has_a_record(single: kumi.Controller) -> None:
    record = single.submit(families.record).result(LIMIT)
    assert record["value"] == 2
    assert (record["name"], record["controller"]) == ("child", single.name)
    assert (record["worker"], record["pid"]) == (f"{single.name}-1", record["own"])
    assert record["attempts"] == 1
    assert record["times"] == sorted(record["times"])


def test_a_crash_of_a_child_is_the_childs_and_costs_its_parent_nothing(tmp_path: Path) -> None:
    """On one worker the child first runs within its parent's wait, and takes it along; then apart."""
    file = tmp_path / "begun"
    with kumi.Controller(workers=1, crashes_max=0) as crew:
        task = crew.submit(families.crash_in_child, str(file))
        assert task.result(LIMIT) == "CrashError 2"
        assert task.record is not None
        assert (task.record.attempts, task.record.certificate) == (1, None)
    lines = file.read_text().split()
    assert lines.count("parent") == 2
    assert lines.count("child") == 3


def test_a_crash_that_a_parent_lets_through_arrives_with_its_certificate(few: kumi.Controller) -> None:
    """As does the record of it."""
    error = few.submit(families.crash_unhandled).exception(LIMIT)
    assert type(error) is kumi.CrashError
    assert error.certificate is not None
    assert (error.certificate.exit_code, error.certificate.signal) == (3, None)
    record = few.submit(families.record_of_a_crash).result(LIMIT)
    assert (record.status, record.certificate.exit_code) == ("crash", 3)


def test_a_cancelled_parent_takes_children_on_other_workers_along(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=2) as crew:
        task = crew.submit(families.hold_children, gate.path, os.devnull)
        gate.wait(2)  # one in the parent's worker, one in the other
        task.cancel()
        assert [crew.submit(jobs.add, number).result(LIMIT) for number in range(20)] == list(range(1, 21))
        summary = crew.summary()
        assert (summary.cancel, summary.workers_launched, summary.workers_lost) == (4, 2, 0)


def test_a_crashed_parent_takes_its_children_along(tmp_path: Path, gate: jobs.Gate) -> None:
    """When it runs again nothing of the first attempt is left, save what its worker cannot know of."""
    file = tmp_path / "first"
    with kumi.Controller(workers=1, crashes_max=1) as crew:
        task = crew.submit(families.hold_children_and_die, gate.path, str(file))
        gate.wait()
        gate.open()
        assert task.result(LIMIT) is None
        assert crew.summary().cancel == 2
        assert crew.submit(jobs.add, 1).result(LIMIT) == 2
    assert file.read_text() == ""


def test_the_children_of_a_task_that_ends_badly_are_cancelled(single: kumi.Controller, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    error = single.submit(families.leave_children, str(file), True).exception(LIMIT)
    assert isinstance(error, ValueError)
    assert single.submit(jobs.add, 1).result(LIMIT) == 2
    assert not file.exists()
    assert single.summary().cancel == 3


def test_the_children_of_a_task_that_returns_go_on(few: kumi.Controller, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    assert few.submit(families.leave_children, str(file), False).result(LIMIT) == "left"
    few.shutdown()
    assert sorted(file.read_text().split()) == ["0", "1", "2"]


def test_terminate_takes_everything_along(tmp_path: Path, gate: jobs.Gate) -> None:
    file = tmp_path / "ran"
    with kumi.Controller(workers=2) as crew:
        task = crew.submit(families.hold_children, gate.path, str(file))
        gate.wait(2)
        crew.terminate()
        assert task.cancelled()
        status = crew.status()
        assert (status.waiting, status.running, status.cancel) == (0, 0, 4)
    assert not file.exists()


def test_a_closed_controller_finishes_what_its_tasks_still_submit(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1) as crew:
        task = crew.submit(families.hold_children, gate.path, os.devnull, 1)
        gate.wait()
        crew.shutdown(wait=False)
        gate.open()
        task.result(LIMIT)


@pytest.mark.parametrize("function", [families.run_gathered, families.gathered], ids=["asyncio.run", "coroutine"])
def test_async_code_awaits_children_on_one_worker(single: kumi.Controller, function: object) -> None:
    assert single.submit(function, 10).result(LIMIT) == list(range(1, 11))
    assert single.summary().workers_launched == 2


def test_one_extra_worker_serves_a_task_that_awaits_again_and_again(single: kumi.Controller) -> None:
    pids = single.submit(families.one_after_the_other, 10).result(LIMIT)
    assert len(set(pids)) == 1


def test_async_code_nests(few: kumi.Controller) -> None:
    assert few.submit(families.deep_gathered, 3).result(LIMIT) == 8


def test_an_extra_worker_is_counted_and_leaves_at_once(single: kumi.Controller, gate: jobs.Gate) -> None:
    async def held(path: str) -> None:
        await kumi.run(jobs.hold, path)

    task = single.submit(held, gate.path)
    gate.wait()
    status = single.status()
    assert (status.workers, status.extra, status.running) == (2, 1, 2)
    gate.open()
    task.result(LIMIT)
    single.shutdown()
    assert single.status().extra == 0


@pytest.mark.parametrize("function", [families.as_completed, families.waited, families.in_threads])
def test_waits_that_are_not_the_main_threads(few: kumi.Controller, function: object) -> None:
    result = few.submit(function, 5).result(LIMIT)
    assert result == {families.as_completed: [0, 1, 2, 3, 4], families.waited: 5}.get(function, [1, 2, 3, 4, 5])


def test_a_callback_is_called_while_the_main_thread_is_busy(few: kumi.Controller) -> None:
    assert few.submit(families.called_back).result(LIMIT) == [2]


def test_a_child_is_cancelled(few: kumi.Controller, gate: jobs.Gate) -> None:
    cancelled, running, done = few.submit(families.cancel_child, gate.path).result(LIMIT)
    assert cancelled == running == "True cancel True"
    assert done == "False success False"


def test_a_wait_has_a_limit(single: kumi.Controller) -> None:
    text = single.submit(families.time_out).result(LIMIT)
    assert "was not done within 0 seconds; it goes on" in text
    assert text.endswith(" 2")


def test_who_only_asks_sees_what_has_come(crew: kumi.Controller) -> None:
    assert crew.submit(families.polled).result(LIMIT) == 2


def test_children_are_taken_when_the_queue_is_full(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1, queue_gigabytes_max=5e-6) as crew:
        task = crew.submit(families.total, 2, 20)
        fillers = [crew.try_submit(jobs.hold, gate.path) for _ in range(20)]
        assert None in fillers
        waiting = [filler for filler in fillers if filler is not None]
        assert task.result(LIMIT) == 400
        gate.open(len(waiting))
        for filler in waiting:
            filler.result(LIMIT)


def test_what_was_begun_is_finished_before_what_waits(single: kumi.Controller, tmp_path: Path) -> None:
    file = tmp_path / "order"
    first = single.submit(families.leave_children, str(file), False)
    second = single.submit(families.total, 2, 2)
    assert (first.result(LIMIT), second.result(LIMIT)) == ("left", 4)
    assert single.submit(families.children, 3).result(LIMIT) == 3


def test_a_recursion_without_end_ends(single: kumi.Controller) -> None:
    """By Python's own limit in the one process, or by the number of generations."""
    error = single.submit(families.endless).exception(LIMIT)
    assert isinstance(error, kumi.LaunchError | RecursionError)
    assert single.submit(jobs.add, 1).result(LIMIT) == 2


def test_a_thread_that_outlives_its_task_is_told(single: kumi.Controller, gate: jobs.Gate) -> None:
    single.submit(families.leave_a_thread, gate.path).result(LIMIT)
    gate.wait()
    gate.open()
    submitted, asked = single.submit(families.wake_from_outside).result(LIMIT)
    assert submitted.startswith("<Task add")
    assert asked.startswith("TaskCancelled")
    assert "the task that submitted it has ended" in asked


def test_a_fork_of_a_task_is_told_what_to_do(single: kumi.Controller) -> None:
    text = single.submit(families.forked).result(LIMIT)
    assert text.count("ControllerClosed") == 2
    assert "a fork is no task" in text
    assert "kumi.daemons(2)" in text


def test_a_task_opens_a_controller_of_its_own(single: kumi.Controller) -> None:
    other, environment = single.submit(families.other_controller).result(LIMIT)
    assert other != single.submit(jobs.pid).result(LIMIT)
    assert environment.startswith(f"{os.getpid()}-")


def test_each_element_of_a_map_opens_controllers_within_each_other(crew: kumi.Controller) -> None:
    assert crew.map(families.controllers_within_each_other, range(3)).results() == [
        (True, 1, value) for value in range(3)
    ]


def test_what_a_task_may_not_do_with_its_controller(single: kumi.Controller) -> None:
    shutdown, push, unknown = single.submit(families.not_for_tasks).result(LIMIT)
    assert "cannot end the controller that runs it" in shutdown
    assert "cannot push" in push
    assert "no controller named 'nobody'" in unknown


def test_large_values_pass_from_task_to_task(few: kumi.Controller) -> None:
    assert few.submit(families.large, 1_000_000).result(LIMIT) == 2_000_000


def test_a_value_that_a_task_shares_is_copied(single: kumi.Controller) -> None:
    assert single.submit(families.shared).result(LIMIT) == 3


def test_a_task_of_a_child_cannot_be_passed_on(single: kumi.Controller) -> None:
    def passes_a_task() -> None:
        kumi.submit(jobs.same, kumi.submit(jobs.add, 1))

    error = single.submit(passes_a_task).exception(LIMIT)
    assert isinstance(error, kumi.SerializationError)


def test_in_this_process_nested_tasks_give_the_same() -> None:
    with kumi.Controller(kumi.Sequential(), name="here") as crew:
        assert crew.submit(families.total, 3, 4).result() == 64
        assert crew.submit(families.run_gathered, 3).result() == [1, 2, 3]
        assert crew.submit(families.child_error).result() == "ValueError: of a child: True"
        assert crew.submit(lambda: kumi.default().name).result() == "here"
        assert crew.summary().tasks == 1 + 4 + 16 + 64 + 4 + 2 + 1
    assert "here" not in json.dumps([kumi.default().name])


def test_in_this_process_a_task_may_open_another_controller() -> None:
    def opens() -> tuple[str, str]:
        with kumi.daemons(1, kumi.Sequential(), name="other"):
            inside = kumi.submit(lambda: kumi.default().name).result()
        return inside, kumi.default().name

    with kumi.Controller(kumi.Sequential(), name="here") as crew:
        assert crew.submit(opens).result() == ("other", "here")


# Interrupts: tasks on one worker, each within the wait of the one before


@pytest.mark.parametrize("depth", [1, 2])
def test_a_cancelled_task_stops_with_what_runs_within_its_wait(
    single: kumi.Controller, gate: jobs.Gate, depth: int
) -> None:
    task = single.submit(families.sleep_within, gate.path, depth)
    gate.wait()
    assert task.cancel()
    assert task.record is not None
    assert single.submit(jobs.pid).result(LIMIT) == task.record.pid, "its worker yields"
    summary = single.summary()
    assert (summary.cancel, summary.workers_launched) == (1 + depth, 1)


@pytest.mark.parametrize("depth", [0, 1])
def test_what_runs_within_a_wait_is_stopped_and_who_waits_goes_on(
    single: kumi.Controller, gate: jobs.Gate, depth: int
) -> None:
    ending, pid, attempt = single.submit(families.outlive, gate.path, depth).result(LIMIT)
    assert (ending, attempt) == ("TaskTimeout", 1)
    assert single.submit(jobs.pid).result(LIMIT) == pid
    summary = single.summary()
    assert (summary.timeout, summary.cancel, summary.workers_launched) == (1, depth, 1)


def test_a_thread_cancels_what_runs_within_the_main_threads_wait(
    single: kumi.Controller, gate: jobs.Gate, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    os.mkfifo(note)
    task = single.submit(families.cancel_from_a_thread, gate.path, str(note))
    gate.wait()
    with note.open("wb", buffering=0) as go:
        go.write(b".")
    ending, pid = task.result(LIMIT)
    assert ending == "TaskCancelled"
    assert single.submit(jobs.pid).result(LIMIT) == pid


def test_a_worker_is_killed_for_what_does_not_yield_and_who_waits_there_is_innocent(
    gate: jobs.Gate, tmp_path: Path
) -> None:
    with kumi.Controller(workers=1, seconds_kill=0.5, crashes_max=0) as crew:
        task = crew.submit(families.outlive_the_deaf, gate.path, str(tmp_path / "first"))
        assert task.result(LIMIT) == "again"
        assert task.record is not None
        assert (task.record.attempts, task.record.certificate) == (1, None)
        summary = crew.summary()
        assert (summary.timeout, summary.crash, summary.workers_lost) == (1, 0, 0)


def test_a_cancelled_task_that_does_not_yield_while_it_waits_costs_its_worker(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1, seconds_kill=0.5) as crew:
        task = crew.submit(families.swallow, gate.path)
        gate.wait()
        task.cancel()
        assert task.record is not None
        assert crew.submit(jobs.pid).result(LIMIT) != task.record.pid


def test_a_once_task_whose_worker_dies_of_its_child_is_not_begun_again(tmp_path: Path) -> None:
    file = tmp_path / "begun"
    with kumi.Controller(workers=1) as crew:
        task = crew.with_options(once=True).submit(families.crash_below, str(file))
        assert isinstance(task.exception(LIMIT), kumi.CrashError)
    assert file.read_text().split() == ["parent"]


def test_a_coroutine_that_blocks_on_async_children_does_not_keep_them_from_running(single: kumi.Controller) -> None:
    """They run on an extra worker: in its own thread an event loop is running already."""
    assert single.submit(families.block_on_async_code, 2).result(LIMIT) == [[1, 2], [1, 2]]


def test_each_task_knows_who_it_is(single: kumi.Controller) -> None:
    before, child, after = single.submit(families.infos).result(LIMIT)
    assert before == after
    assert (child.name, child.worker, child.attempt) == ("child", before.worker, 1)
    assert child.id != before.id


def test_workers_killed_at_random_cost_no_tree_of_tasks_its_result(tmp_path: Path) -> None:
    choose = random.Random(int(os.environ.get("KUMI_SEED", "1")))
    file, done, kinds = tmp_path / "pids", threading.Event(), ["map", "submit", "as_completed", "async", "threads"]
    file.touch()

    def kill() -> None:
        while not done.wait(choose.uniform(0.05, 0.3)):
            pid = choose.choice(file.read_text().split() or ["none"])
            with contextlib.suppress(OSError):
                if f"KUMI_WORKER={os.getpid()}-".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    os.kill(int(pid), signal.SIGKILL)

    with kumi.Controller(workers=2, crashes_max=1000) as crew:
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            for _ in range(3):
                shapes = [(choose.randint(1, 3), 2, choose.sample(kinds, 3)) for _ in range(4)]
                tasks = [crew.submit(families.tree, *shape, str(file)) for shape in shapes]
                assert [task.result(LIMIT) for task in tasks] == [2**depth for depth, _, _ in shapes]
        finally:
            done.set()
            killer.join()
