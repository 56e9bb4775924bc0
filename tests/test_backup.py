"""Backup controllers: tasks that have crashed as often as they may go on there, and whoever holds them sees one task.

Numbers such as C112 are cases of R's crew. Its backups count the crashes of a name, whenever it is pushed again; here
the task itself is run again, so each controller counts the crashes that the task has there.
"""

import asyncio
import contextlib
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import kumi
import numpy as np
import pytest
from machines import workers_of

LIMIT = jobs.SECONDS_MAX


@contextlib.contextmanager
def chained(**options: Any) -> Iterator[tuple[kumi.Controller, kumi.Controller]]:
    """A controller that runs nothing twice, and its backup, which is not open before it is needed."""
    backup = kumi.Controller(name="backup", workers=2, crashes_max=0)
    with contextlib.ExitStack() as stack:
        stack.callback(backup.terminate)
        yield stack.enter_context(kumi.Controller(workers=2, crashes_max=0, backup=backup, **options)), backup


@pytest.fixture
def pair() -> Iterator[tuple[kumi.Controller, kumi.Controller]]:
    with chained(name="first") as pair:
        yield pair


Pair = tuple[kumi.Controller, kumi.Controller]


def where() -> str:
    info = kumi.task_info()
    assert info is not None
    return info.controller


def die_in_first(value: Any = None) -> Any:
    """Kills the workers of all controllers but the last."""
    if where() != "backup":
        jobs.kill_self()
    return value


def die_then(what: Callable[..., Any], *args: Any) -> Any:
    die_in_first()
    return what(*args)


def attempt_in_backup() -> int:
    die_in_first()
    info = kumi.task_info()
    assert info is not None
    return info.attempt


def test_nobody_opens_a_backup_that_is_not_needed(pair: Pair) -> None:
    crew, backup = pair
    assert crew.submit(jobs.add, 1).result(LIMIT) == 2
    assert "new" in repr(backup)


def test_what_runs_in_this_process_needs_none() -> None:
    backup = kumi.Controller(name="backup")
    with kumi.Controller(kumi.Sequential(), backup=backup) as crew:
        assert crew.submit(jobs.add, 1).result() == 2
    assert "new" in repr(backup)


def test_the_default_controller_may_have_one() -> None:
    with kumi.Controller(name="backup", workers=1) as backup, kumi.daemons(1, backup=backup, crashes_max=0):
        assert kumi.submit(die_in_first, "value").result(LIMIT) == "value"


def test_the_task_resolves_with_what_happens_at_the_backup(pair: Pair) -> None:
    crew, backup = pair
    task = crew.with_options(name="fit").submit(die_in_first, [1, 2])
    assert task.result(LIMIT) == [1, 2]
    record = task.record
    assert record is not None
    assert (record.name, record.status, record.attempts, record.controller) == ("fit", "success", 2, "backup")
    assert record.worker is not None
    assert record.worker.startswith("backup-")
    assert record.certificate is not None, "of the worker that died of it before"
    assert record.certificate.signal == 9
    assert record.submitted <= record.started <= record.finished  # type: ignore[operator]
    assert (crew.summary().success, crew.summary().crash) == (1, 0)
    assert backup.summary().success == 1
    assert crew.submit(attempt_in_backup).result(LIMIT) == 2, "attempts go on counting"


def test_its_error_is_the_one_that_was_raised_there(pair: Pair) -> None:
    crew, _ = pair
    task = crew.submit(die_then, jobs.boom, "at the backup")
    with pytest.raises(ValueError, match="at the backup"):
        task.result(LIMIT)
    assert task.record is not None
    assert (task.record.status, task.record.controller) == ("error", "backup")


def test_what_crashes_there_too_ends_as_that_crash(pair: Pair) -> None:
    crew, _ = pair
    task = crew.submit(die_then, jobs.exit_hard, 3, "last words")
    error = task.exception(LIMIT)
    assert isinstance(error, kumi.CrashError)
    assert error.certificate is not None
    assert (error.certificate.exit_code, error.certificate.stderr) == (3, "last words")
    assert "2 times in all; the last was backup-" in str(error)
    assert task.record is not None
    assert (task.record.status, task.record.attempts, task.record.controller) == ("crash", 2, "backup")


def test_a_chain_of_backups(tmp_path: Path) -> None:
    """C112: two crashes run again in each of three controllers; after the ninth the task ends as crash."""
    with contextlib.ExitStack() as stack:
        crews: list[kumi.Controller] = []
        for name in ("c", "b", "a"):
            backup = crews[-1] if crews else None
            crew = kumi.Controller(name=name, workers=1, crashes_max=2, backup=backup)
            crews.append(stack.enter_context(crew))
        a = crews[-1]
        a.with_options(name="doomed").push(note_where_and_die, str(tmp_path / "crashes"), 9)
        record = next(iter(a.records()))
        assert (record.name, record.status, record.attempts, record.controller) == ("doomed", "crash", 9, "c")
        assert (tmp_path / "crashes").read_text().split() == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
        assert [crew.summary().workers_lost for crew in crews] == [3, 3, 3]
        lucky = a.submit(note_where_and_die, str(tmp_path / "others"), 5)
        assert lucky.result(LIMIT) == "b"
        assert lucky.record is not None
        assert (lucky.record.attempts, lucky.record.controller) == (6, "b")
        assert [crew.summary().workers_lost for crew in crews] == [3, 5, 6]


def note_where_and_die(file: str, times: int) -> str:
    jobs.note(file, where())
    if len(Path(file).read_text(encoding="utf-8").split()) <= times:
        jobs.kill_self()
    return where()


def test_records_come_once_from_where_the_task_was_pushed(pair: Pair) -> None:
    crew, backup = pair
    for number in range(6):
        crew.with_options(name=f"task_{number}").push(die_in_first if number % 2 else jobs.same, number)
    records = {record.name: record for record in crew.records()}
    assert {record.result for record in records.values()} == {*range(6)}
    places = [records[f"task_{number}"].controller for number in range(6)]
    assert places == ["first", "backup"] * 3
    assert crew.empty
    assert backup.pop() is None


def test_maps_go_on(pair: Pair) -> None:
    crew, _ = pair
    assert crew.map(die_in_first, range(6)).results() == [*range(6)]
    values = crew.map(die_then, [jobs.same, jobs.exit_hard], [3, 3], on_error="return").results()
    assert values[0] == 3
    assert isinstance(values[1], kumi.CrashError)


def test_callbacks_and_awaits_go_on(pair: Pair) -> None:
    crew, _ = pair
    called = threading.Event()
    crew.submit(die_in_first, 1).add_done_callback(lambda _: called.set())
    assert called.wait(LIMIT)

    async def main() -> list[Any]:
        return await asyncio.gather(*(crew.run(die_in_first, number) for number in range(3)))

    assert asyncio.run(main()) == [0, 1, 2]


def report_twice(gate: str) -> str:
    die_in_first()
    kumi.report("begun")
    jobs.hold(gate)
    kumi.report("done")
    return "returned"


def test_reports_come_through(pair: Pair, gate: jobs.Gate) -> None:
    crew, _ = pair
    task = crew.submit(report_twice, gate.path)
    reports = iter(task.reports())
    assert next(reports) == "begun"
    gate.open()
    assert [*reports][-1] == "done"
    assert task.result(LIMIT) == "returned"
    assert task.report == "done"


def test_cancelling_it_cancels_it_there(pair: Pair, gate: jobs.Gate) -> None:
    crew, backup = pair
    task = crew.with_options(name="held").submit(die_then, jobs.hold, gate.path)
    gate.wait()
    assert crew.status().away == 1
    assert crew.submit(die_in_first, "handed over later").result(LIMIT) == "handed over later"
    assert task.running()
    assert crew.cancel("held") == 1
    assert task.cancelled()
    with pytest.raises(kumi.TaskCancelled):
        task.result(LIMIT)
    assert backup.submit(jobs.add, 1).result(LIMIT) == 2
    backup.shutdown()
    assert backup.summary().cancel == 1


def test_cancelling_it_at_the_backup_cancels_it(pair: Pair, gate: jobs.Gate) -> None:
    crew, backup = pair
    task = crew.with_options(name="held").submit(die_then, jobs.hold, gate.path)
    gate.wait()
    assert backup.cancel("he*") == 1
    with pytest.raises(kumi.TaskCancelled):
        task.result(LIMIT)
    assert task.state() == "cancel"


def test_limits_of_time_hold(pair: Pair, gate: jobs.Gate) -> None:
    crew, _ = pair
    total = crew.with_options(seconds_total=3).submit(die_then, jobs.hold, gate.path)
    run = crew.with_options(seconds_run=0.5).submit(die_then, jobs.hold, gate.path)
    with pytest.raises(kumi.TaskTimeout, match=r"seconds_run=0\.5"):
        run.result(LIMIT)
    with pytest.raises(kumi.TaskTimeout, match="seconds_total=3"):
        total.result(LIMIT)


def test_once_tasks_do_not_go_there(pair: Pair) -> None:
    crew, backup = pair
    assert isinstance(crew.with_options(once=True).submit(die_in_first).exception(LIMIT), kumi.CrashError)
    assert "new" in repr(backup)


def submit_within() -> str:
    try:
        return str(kumi.submit(die_in_first, "went on").result())
    except kumi.CrashError:
        return "crash"


def test_tasks_of_tasks_do_not_go_there_but_run_where_their_parent_does(pair: Pair) -> None:
    crew, _ = pair
    assert crew.submit(submit_within).result(LIMIT) == "crash"
    assert crew.submit(die_then, submit_within).result(LIMIT) == "went on"


def draw() -> float:
    die_in_first()
    return float(kumi.rng().random())


def draw_at_once() -> float:
    return float(kumi.rng().random())


def test_random_numbers_are_those_of_the_task(pair: Pair) -> None:
    crew, _ = pair
    expected = kumi.Controller(kumi.Sequential(), seed=1)
    with expected:
        assert crew.with_options(seed=1).submit(draw).result(LIMIT) == expected.submit(draw_at_once).result()


def double(array: Any, shared: Any) -> Any:
    die_in_first()
    return array * 2 + shared


def test_large_arguments_results_and_shared_values_travel(pair: Pair) -> None:
    crew, _ = pair
    array = np.arange(200_000.0)
    inner = kumi.share(np.ones(100_000))
    handle = kumi.share([inner, 5.0])

    def with_handle(array: Any, handle: Any) -> Any:
        return double(array, handle[0][0] + handle[1])

    tasks = [crew.submit(with_handle, array + number, handle) for number in range(3)]
    for number, task in enumerate(tasks):
        assert np.array_equal(task.result(LIMIT), (array + number) * 2 + 6)


def test_a_closure_with_a_large_array_travels(pair: Pair) -> None:
    crew, _ = pair
    array = np.arange(100_000.0)
    assert crew.submit(lambda: double(array, 0).sum()).result(LIMIT) == array.sum() * 2


@pytest.mark.parametrize("far_first", [False, True], ids=["to other machines", "from other machines"])
def test_a_task_goes_on_with_workers_on_other_machines_or_comes_from_there(far_first: bool, tmp_path: Path) -> None:
    """They know nothing of this module, nor of the memory here."""
    backup = kumi.Controller(kumi.Local() if far_first else None, name="backup", **near(not far_first))
    crew = kumi.Controller(None if far_first else kumi.Local(), crashes_max=0, backup=backup, **near(far_first))
    array = np.arange(100_000.0)
    with crew, workers_of(crew if far_first else backup, tmp_path) as workers, contextlib.ExitStack() as stack:
        stack.callback(backup.terminate)
        workers.start()
        task = crew.submit(double, array, kumi.share(array))
        assert np.array_equal(task.result(LIMIT), array * 3)
        assert task.record is not None
        assert task.record.controller == "backup"


def near(dials_in: bool) -> dict[str, Any]:
    return {"host": "127.0.0.1"} if dials_in else {"workers": 1}


def test_closing_waits_for_what_is_at_the_backup(gate: jobs.Gate) -> None:
    with chained(name="first") as (crew, _):
        task = crew.submit(die_then, jobs.hold, gate.path, "value")
        gate.wait()
        gate.open()
    assert task.result(0) == "value"


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("way", ["block", "async block", "shutdown"])
def test_a_group_ends_its_backups_last(way: str, turned: bool) -> None:
    async def leave() -> kumi.Task[Any]:
        async with group:
            return submit()

    def submit() -> kumi.Task[Any]:
        return group.with_options(controller="first").submit(die_in_first, "value")

    backup = kumi.Controller(name="backup", workers=1, crashes_max=0)
    first = kumi.Controller(name="first", workers=1, crashes_max=0, backup=backup)
    group = kumi.ControllerGroup(*((backup, first) if turned else (first, backup)))
    try:
        if way == "async block":
            task = asyncio.run(leave())
        elif way == "block":
            with group:
                task = submit()
        else:
            task = submit()
            group.shutdown()
        assert task.result(0) == "value"
    finally:
        group.terminate()


def test_terminating_cancels_what_is_at_the_backup(pair: Pair, gate: jobs.Gate) -> None:
    crew, backup = pair
    task = crew.submit(die_then, jobs.hold, gate.path)
    gate.wait()
    crew.terminate()
    assert task.cancelled()
    backup.shutdown()
    assert backup.summary().cancel == 1


def test_a_backup_that_ends_leaves_the_crash_and_says_so(pair: Pair, gate: jobs.Gate) -> None:
    crew, backup = pair
    task = crew.submit(die_then, jobs.hold, gate.path)
    gate.wait()
    backup.terminate()
    error = task.exception(LIMIT)
    assert isinstance(error, kumi.CrashError)
    assert "then its backup could not run it: controller 'backup' was terminated" in str(error)
    assert error.certificate is not None
    assert error.certificate.signal == 9
    after = crew.submit(die_in_first).exception(LIMIT)
    assert isinstance(after, kumi.CrashError)
    assert "controller 'backup' cannot be opened" in str(after)
    assert crew.submit(jobs.add, 1).result(LIMIT) == 2


def fail() -> None:
    raise RuntimeError("no set-up")


def test_a_backup_whose_workers_cannot_start_leaves_the_crash_and_says_so() -> None:
    backup = kumi.Controller(name="backup", workers=1, setup=fail)
    with contextlib.ExitStack() as stack:
        stack.callback(backup.terminate)
        crew = stack.enter_context(kumi.Controller(workers=1, crashes_max=0, backup=backup))
        error = crew.submit(jobs.kill_self).exception(LIMIT)
        assert isinstance(error, kumi.CrashError)
        assert "then its backup could not run it" in str(error)
        assert "no set-up" in str(error)


def test_two_controllers_share_a_backup_and_it_works_for_itself() -> None:
    backup = kumi.Controller(name="backup", workers=2, crashes_max=0)
    one, two = (kumi.Controller(name=name, workers=1, crashes_max=0, backup=backup) for name in ("one", "two"))
    with backup, one, two:
        tasks = [crew.submit(die_in_first, number) for number in range(4) for crew in (one, two, backup)]
        assert [task.result(LIMIT) for task in tasks] == [number for number in range(4) for _ in range(3)]


def test_a_poisoned_task_among_good_ones(pair: Pair) -> None:
    crew, _ = pair
    for number in range(40):
        crew.push(jobs.same, number)
    crew.with_options(name="poison").push(jobs.kill_self)
    records = [*crew.records()]
    assert sorted(record.result for record in records if record.status == "success") == [*range(40)]
    (poisoned,) = (record for record in records if record.status == "crash")
    assert (poisoned.name, poisoned.attempts, poisoned.controller) == ("poison", 2, "backup")


def test_many_go_over_at_once_and_either_may_end_meanwhile() -> None:
    for first_ends in (True, False):
        with chained(name=f"first-{first_ends}") as (crew, backup):
            tasks = [crew.submit(die_in_first, number) for number in range(12)]
            assert tasks[0].result(LIMIT) == 0
            (crew if first_ends else backup).terminate()
            for number, task in enumerate(tasks):
                state = (task.wait(LIMIT), task.state())[1]
                assert state in {"success", "cancel" if first_ends else "crash"}
                if state == "success":
                    assert task.result() == number
                elif state == "crash":
                    assert "its backup" in str(task.exception())


def test_a_controller_is_pickled_with_its_backup() -> None:
    crew = kumi.Controller(name="first", workers=1, crashes_max=0, backup=kumi.Controller(name="backup", workers=1))
    again = pickle.loads(pickle.dumps(crew))
    with again:
        task = again.submit(die_in_first, 5)
        assert task.result(LIMIT) == 5
        assert task.record.controller == "backup"
    again._backup.terminate()


@pytest.mark.parametrize(
    ("backup", "error", "words"),
    [
        ("backup", TypeError, "^backup must be a kumi.Controller, or None, not 'backup'"),
        (kumi.Controller, TypeError, "^backup must be a kumi.Controller"),
        (kumi.Controller().with_options(name="x"), TypeError, "^backup must be a kumi.Controller"),
        (kumi.Controller(kumi.Sequential()), ValueError, "^backup must have workers"),
        (kumi.Controller(name="same"), ValueError, "^backup must not lead back .*'same' -> 'same'"),
        (
            kumi.Controller(name="x", backup=kumi.Controller(name="same")),
            ValueError,
            "^backup must not lead back .*'same' -> 'x' -> 'same'",
        ),
    ],
)
def test_what_cannot_be_a_backup(backup: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        kumi.Controller(name="same", backup=backup)


def test_what_has_ended_cannot_be_a_backup() -> None:
    ended = kumi.Controller()
    ended.terminate()
    with pytest.raises(ValueError, match="^backup must be a controller that has not ended"):
        kumi.Controller(backup=ended)


def test_the_end_of_the_program_waits_for_backups(tmp_path: Path) -> None:
    """Whichever was opened first: the one whose tasks may go on elsewhere ends first."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, kumi\n"
        "def die(file):\n"
        "    if kumi.task_info().controller != 'backup':\n"
        "        os.kill(os.getpid(), 9)\n"
        "    open(file, 'w').write('done')\n"
        "backup = kumi.Controller(name='backup', workers=1)\n"
        "backup.start()\n"
        "crew = kumi.Controller(name='first', workers=1, crashes_max=0, backup=backup)\n"
        f"task = crew.submit(die, {str(tmp_path / 'file')!r})\n"
    )
    done = subprocess.run([sys.executable, str(program)], check=False, capture_output=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "file").read_text() == "done"


def test_explain_tells_of_tasks_that_are_at_the_backup(pair: Pair, gate: jobs.Gate) -> None:
    first, _ = pair
    tasks = [first.submit(die_then, jobs.hold, gate.path) for _ in range(2)]
    gate.wait()
    gate.wait()
    assert "2 tasks that crashed too often here are at the backup, controller 'backup'" in first.explain()
    gate.open(2)
    for task in tasks:
        task.result(LIMIT)
    assert "at the backup" not in first.explain()
