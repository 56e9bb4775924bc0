"""A group of controllers: who is in it, where its tasks go, and how it ends. How it waits is in test_group_waits.py.

Numbers such as C92 are cases of crew's, of which these tests are the counterparts.
"""

import asyncio
import concurrent.futures
import contextlib
import gc
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jobs
import kumi
import pytest
import trio

LIMIT = jobs.SECONDS_MAX


@pytest.fixture(scope="module")
def group() -> Iterator[kumi.ControllerGroup]:
    """Two controllers, `small` and `large`, of one worker each, that tests of this file share."""
    with new_group("small", "large") as group:
        yield group


@pytest.fixture
def own() -> Iterator[kumi.ControllerGroup]:
    """Two controllers, `one` and `two`, for counts and ends."""
    with new_group() as own:
        yield own


def new_group(first: str = "one", second: str = "two") -> kumi.ControllerGroup:
    return kumi.ControllerGroup(kumi.Controller(name=first, workers=1), kumi.Controller(name=second, workers=1))


def controller_of_task() -> str:
    info = kumi.task_info()
    assert info is not None
    return info.controller


def processes(group: kumi.ControllerGroup) -> list[int]:
    """The worker of each, which runs from now on."""
    return [group.with_options(controller=name).submit(jobs.pid).result(LIMIT) for name in group.members]


def by_size(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return "large" if kwargs.get("size", args[0] if args else 0) > 10 else "small"


def place(size: int = 0) -> tuple[str, int]:
    return controller_of_task(), size


# Who is in it


def test_making_one_opens_nothing() -> None:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    group = new_group()
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before
    assert [*group.members] == ["one", "two"]
    assert repr(group).count(" new, ") == 2
    assert "'one'" in repr(group)


def test_it_answers_before_it_is_open() -> None:
    """C61, C91, C163."""
    group = new_group()
    assert group.empty
    assert group.pop() is None
    assert group.pop(timeout=None) is None
    assert group.collect() == []
    assert list(group.records()) == []
    assert group.wait() is False
    assert group.wait("one") is False
    assert group.cancel("*") == 0
    assert group.status().workers == 0
    assert (group.summary().tasks, group.summary().controller) == (0, "one, two")


def nested() -> object:
    return kumi.ControllerGroup(new_group())  # type: ignore[arg-type]


def named_alike() -> object:
    return kumi.ControllerGroup(kumi.Controller(name="a"), kumi.Controller(name="b"), kumi.Controller(name="a"))


BAD_GROUPS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (kumi.ControllerGroup, ValueError, "at least one controller"),
    (nested, TypeError, "a group cannot be in a group: make one of all the controllers"),
    (lambda: kumi.ControllerGroup([kumi.Controller()]), TypeError, r"ControllerGroup\(small, large\), not of \["),  # type: ignore[arg-type]
    (lambda: kumi.ControllerGroup(kumi.Local()), TypeError, "a group is made of controllers"),  # type: ignore[arg-type]
    (named_alike, ValueError, "must not have the same name, 'a'"),
]


@pytest.mark.parametrize(("make", "error", "text"), BAD_GROUPS)
def test_what_is_no_group_is_refused(make: Callable[[], object], error: type[Exception], text: str) -> None:
    """X16."""
    with pytest.raises(error, match=text):
        make()


def test_a_controller_is_in_one_group_at_a_time() -> None:
    """C106: an open controller may come into a group, but not into a second one."""
    with kumi.Controller(name="one", workers=1) as one, kumi.Controller(name="two") as two:
        one.push(jobs.add, 1).result(LIMIT)
        group = kumi.ControllerGroup(two, one)
        record = group.pop()
        assert record is not None
        assert record.result == 2
        with pytest.raises(ValueError, match="controller 'one' is in another group, which would pop its records: <Con"):
            kumi.ControllerGroup(one)
        with pytest.raises(ValueError, match="controller 'two' is in another group"):
            kumi.ControllerGroup(two)
        del group
        gc.collect()
        assert [*kumi.ControllerGroup(one).members] == ["one"]


def test_it_pickles_as_its_controllers() -> None:
    group = new_group()
    copied = pickle.loads(pickle.dumps(group))
    assert [*copied.members] == ["one", "two"]
    assert [crew.workers for crew in copied.members.values()] == [1, 1]
    assert copied.members["one"] is not group.members["one"]


def test_arguments_are_checked_as_a_controllers_are(group: kumi.ControllerGroup) -> None:
    with pytest.raises(ValueError, match='mode must be "all" or "one", not \'two\''):
        group.wait("two")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="timeout must be a number of seconds"):
        group.wait(timeout="soon")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="timeout must be a number of seconds"):
        group.pop("soon")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_error must be"):
        group.collect("stop")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pattern must be a non-empty string"):
        group.cancel(3)  # type: ignore[arg-type]
    accepted = "controller must be the name of one, a function that returns the name for each task, or None, not "
    for none in (3, group.members["small"]):
        with pytest.raises(TypeError, match=accepted):
            group.with_options(controller=none)  # type: ignore[arg-type]


# Where tasks go


def test_the_first_is_the_default(group: kumi.ControllerGroup) -> None:
    """C92, C100."""
    assert isinstance(group, concurrent.futures.Executor)
    large = group.with_options(controller="large")
    assert group.submit(controller_of_task).result(LIMIT) == "small"
    assert large.submit(controller_of_task).result(LIMIT) == "large"
    assert group.map(place, [1, 2]).results() == [("small", 1), ("small", 2)]
    assert large.map(place, [1, 2]).results() == [("large", 1), ("large", 2)]
    tried = large.try_submit(controller_of_task)
    assert tried is not None
    assert tried.result(LIMIT) == "large"
    assert asyncio.run(large.run(controller_of_task)) == "large"
    assert large.submit(jobs.pid).result(LIMIT) != group.submit(jobs.pid).result(LIMIT)


def test_only_the_one_that_was_pushed_to_is_not_empty(own: kumi.ControllerGroup) -> None:
    """C92, C101, C110."""
    first, second = own.members.values()
    own.with_options(controller="two", name="x").push(controller_of_task).result(LIMIT)
    assert (own.empty, first.empty, second.empty) == (False, True, False)
    assert own.status().uncollected == own.status().finished == 1
    [record] = own.collect()
    assert (record.result, record.controller, record.name) == ("two", "two", "x")
    assert own.empty
    own.push(jobs.add, 1).result(LIMIT)
    assert (own.empty, first.empty, second.empty) == (False, False, True)
    assert own.status().finished == 2


def test_options_can_be_given_one_after_the_other(group: kumi.ControllerGroup) -> None:
    large = group.with_options(controller="large")
    assert large.with_options(name="x").submit(controller_of_task).result(LIMIT) == "large"
    assert large.with_options(controller="small").submit(controller_of_task).result(LIMIT) == "small"
    draws = [group.with_options(controller=name, seed=1).submit(kumi.rng) for name in group.members]
    assert draws[0].result(LIMIT).integers(1000) == draws[1].result(LIMIT).integers(1000)


def test_a_callable_chooses_for_each_task(group: kumi.ControllerGroup) -> None:
    view = group.with_options(controller=by_size)
    assert view.submit(place, 1).result(LIMIT) == ("small", 1)
    assert view.submit(place, 11).result(LIMIT) == ("large", 11)
    assert view.submit(place, size=12).result(LIMIT) == ("large", 12)
    assert view.push(place, 13).result(LIMIT) == ("large", 13)
    assert [record.controller for record in group.records()] == ["large"]
    assert asyncio.run(view.run(place, 14)) == ("large", 14)
    seen = []

    def choose(*call: Any) -> str:
        seen.append(call)
        return "large"

    sizes = [1, 20]
    assert group.with_options(controller=choose).map(place, sizes).results() == [("large", 1), ("large", 20)]
    assert seen == [(place, (sizes,), {})]


def test_a_callable_chooses_among_open_controllers_without_a_group(group: kumi.ControllerGroup) -> None:
    group.start()  # does nothing if another test has
    assert kumi.with_options(controller=by_size).submit(place, 11).result(LIMIT) == ("large", 11)


def test_a_choice_that_is_none_is_refused(group: kumi.ControllerGroup) -> None:
    unknown = "no controller named 'medium' is in this group; in it are: 'small', 'large'"
    with pytest.raises(kumi.ControllerError, match=unknown):
        group.with_options(controller="medium").submit(jobs.add, 1)
    with pytest.raises(kumi.ControllerError, match=unknown):
        group.with_options(controller=lambda *_: "medium").push(jobs.add, 1)
    with pytest.raises(
        TypeError, match=r"what controller=<function .*choose.* returns must be a non-empty string, not"
    ):
        choose: Any = lambda *_: 3  # noqa: E731
        choose.__qualname__ = "choose"
        group.with_options(controller=choose).map(jobs.add, [1])
    with pytest.raises(ZeroDivisionError):
        group.with_options(controller=lambda *_: str(1 // 0)).submit(jobs.add, 1)
    assert group.empty


def test_a_task_reaches_its_own_controller_alone(group: kumi.ControllerGroup) -> None:
    def inside(name: str) -> str:
        return kumi.with_options(controller=name).submit(controller_of_task).result()

    assert group.submit(inside, "small").result(LIMIT) == "small"
    with pytest.raises(kumi.ControllerError, match=r"named 'large' is open; .* reaches the one that runs it, 'small'"):
        group.submit(inside, "large").result(LIMIT)


def test_one_may_run_tasks_in_this_process() -> None:
    here = kumi.Controller(kumi.Sequential(), name="here")
    with kumi.ControllerGroup(here, kumi.Controller(name="there", workers=1)) as group:
        group.push(jobs.pid)
        group.with_options(controller="there").push(jobs.pid)
        found = {record.controller: record.result for record in group.records()}
        assert found["here"] == os.getpid() != found["there"]


# Every worker of every controller


def test_everywhere_is_every_worker_of_every_controller(group: kumi.ControllerGroup) -> None:
    processes(group)
    call = group.everywhere(setattr, kumi.state, "x", 5)
    assert call.result(LIMIT) is None
    assert call.done()
    assert call.exception() is None
    assert not concurrent.futures.wait([call], LIMIT).not_done
    group.with_options(controller="large").everywhere(setattr, kumi.state, "x", 6).result(LIMIT)
    seen = [group.with_options(controller=name).submit(lambda: kumi.state.x) for name in group.members]
    assert [task.result(LIMIT) for task in seen] == [5, 6]


def fail_in(pid: int) -> None:
    if os.getpid() == pid:
        raise ValueError("no in this one")


@pytest.mark.parametrize("run", [asyncio.run, lambda awaited: trio.run(lambda: awaited)], ids=["asyncio", "trio"])
def test_everywhere_fails_with_the_error_of_one(group: kumi.ControllerGroup, run: Callable[[Any], Any]) -> None:
    small, large = processes(group)
    call = group.everywhere(fail_in, large)
    with pytest.raises(ValueError, match="no in this one"):
        call.result(LIMIT)
    assert isinstance(call.exception(LIMIT), ValueError)

    async def main() -> None:
        await group.everywhere(jobs.add, 1)
        with pytest.raises(ValueError, match="no in this one"):
            await group.everywhere(fail_in, small)

    run(main())


def test_everywhere_that_fails_unseen_is_told() -> None:
    with pytest.warns(RuntimeWarning, match="of controller 'two' failed, and nobody asked"), new_group() as group:
        _, large = processes(group)
        call = group.everywhere(fail_in, large)
        assert not concurrent.futures.wait([call], LIMIT).not_done
        del call


def test_everywhere_can_be_cancelled_and_waited_for_shortly(own: kumi.ControllerGroup, gate: jobs.Gate) -> None:
    held = own.submit(jobs.hold, gate.path)
    gate.wait()
    call = own.everywhere(jobs.add, 1)
    with pytest.raises(TimeoutError, match="had not made the call within 0.01 seconds"):
        call.result(0.01)
    assert not call.done()

    async def main() -> None:
        async with asyncio.timeout(0.01):
            await call

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert call.done()  # whoever awaited it was cancelled
    with pytest.raises(kumi.TaskCancelled):
        call.result(LIMIT)
    gate.open()
    held.result(LIMIT)


def test_what_cannot_be_sent_everywhere_is_sent_nowhere(own: kumi.ControllerGroup) -> None:
    own.members["two"].terminate()
    with pytest.raises(kumi.ControllerClosed):
        own.everywhere(jobs.add, 1)
    assert own.submit(jobs.add, 1).result(LIMIT) == 2
    assert own.summary().tasks == 1


# All of them


def test_cancel_holds_for_all(own: kumi.ControllerGroup, gate: jobs.Gate) -> None:
    """C80: crew's groups cannot cancel."""
    views = [own.with_options(controller=name) for name in own.members]
    tasks = [view.with_options(name=f"fit_{number}").push(jobs.hold, gate.path) for number, view in enumerate(views)]
    tasks += [view.push(jobs.add, 1) for view in views]
    gate.wait(2)
    assert own.cancel("fit_*") == 2
    assert own.cancel("*") in range(3)  # by now the others may have run
    assert own.wait(timeout=LIMIT)
    assert [task.state() for task in tasks[:2]] == ["cancel", "cancel"]
    assert len(own.collect()) == 4


def test_the_summary_has_a_row_for_each_and_the_totals(own: kumi.ControllerGroup) -> None:
    """C91."""
    own.push(jobs.add, 1)
    own.push(jobs.boom)
    own.with_options(controller="two").push(jobs.add, 1)
    assert own.wait(timeout=LIMIT)
    total = own.summary()
    assert isinstance(total, kumi.Summary)
    assert [(one.controller, one.tasks, one.error) for one in total.members] == [("one", 2, 1), ("two", 1, 0)]
    assert (total.controller, total.tasks, total.success, total.error) == ("one, two", 3, 2, 1)
    assert total.workers_launched == 2
    assert list(total.members) == [crew.summary() for crew in own.members.values()]


def test_the_status_is_that_of_all_together(own: kumi.ControllerGroup, gate: jobs.Gate) -> None:
    """C110."""
    for name in own.members:
        own.with_options(controller=name).push(jobs.hold, gate.path)
    gate.wait(2)
    status, each = own.status(), [crew.status() for crew in own.members.values()]
    assert (status.running, status.uncollected, status.workers) == (2, 2, 2)
    assert status == each[0] + each[1]
    assert status.queued_bytes_max == sum(one.queued_bytes_max for one in each)
    gate.open(2)
    assert own.wait(timeout=LIMIT)


# Its end


def test_it_starts_and_ends_all() -> None:
    """C91, C94."""
    crews = [kumi.Controller(name=name, workers=1, workers_min=1) for name in ("one", "two")]
    group = kumi.ControllerGroup(*crews)
    group.start()
    group.start()
    assert repr(group).count(" open, ") == 2
    workers = processes(group)
    group.terminate()
    group.terminate()
    for pid in workers:
        jobs.wait_for_end(pid)
    for name in group.members:
        with pytest.raises(kumi.ControllerClosed, match=name):
            group.with_options(controller=name).submit(jobs.add, 1)
    assert repr(group).count(" closed, ") == 2


def test_shutdown_waits_for_all_or_cancels_what_waits(gate: jobs.Gate) -> None:
    group = new_group()
    views = [group.with_options(controller=name) for name in group.members]
    running = [view.submit(jobs.hold, gate.path, "done") for view in views]
    gate.wait(2)
    waiting = [view.submit(jobs.add, 1) for view in views]
    group.shutdown(wait=False, cancel_futures=True)
    assert [task.cancelled() for task in waiting] == [True, True]
    with pytest.raises(kumi.ControllerClosed):
        group.submit(jobs.add, 1)
    gate.open(2)
    group.shutdown()
    assert [task.result(0) for task in running] == ["done", "done"]
    assert group.status().workers == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_leaving_a_block_waits_and_leaving_by_an_exception_cancels(asynchronous: bool, gate: jobs.Gate) -> None:
    def submit(group: kumi.ControllerGroup, call: Callable[..., Any], *args: Any) -> list[kumi.Task[Any]]:
        return [group.with_options(controller=name).submit(call, *args) for name in group.members]

    async def leave(group: kumi.ControllerGroup, call: Callable[..., Any], *args: Any, fail: bool) -> None:
        block: Any = group if asynchronous else contextlib.nullcontext()
        async with block:
            with contextlib.nullcontext() if asynchronous else group:
                tasks.extend(submit(group, call, *args))
                if fail:
                    gate.wait(2)
                    raise KeyError("left")

    tasks: list[kumi.Task[Any]] = []
    asyncio.run(leave(new_group(), jobs.add, 1, fail=False))
    assert [task.result(0) for task in tasks] == [2, 2]
    tasks.clear()
    with pytest.raises(KeyError, match="left"):
        asyncio.run(leave(new_group(), jobs.hold, gate.path, fail=True))
    assert [task.cancelled() for task in tasks] == [True, True]


def test_a_block_around_it_keeps_its_controller_open() -> None:
    with kumi.Controller(name="one", workers=1) as first:
        with kumi.ControllerGroup(first, kumi.Controller(name="two", workers=1)) as group:
            tasks = [group.with_options(controller=name).submit(jobs.add, 1) for name in group.members]
        assert [task.result(0) for task in tasks] == [2, 2]
        assert first.submit(jobs.add, 1).result(LIMIT) == 2
        with pytest.raises(kumi.ControllerClosed):
            group.with_options(controller="two").submit(jobs.add, 1)


def test_an_error_while_one_ends_ends_the_others_at_once(gate: jobs.Gate) -> None:
    group = new_group()
    failing = group.members["one"]

    def fail(*_: object) -> None:
        kumi.Controller.terminate(failing)
        raise OSError("in the middle")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(failing, "shutdown", fail)
        with pytest.raises(OSError, match="in the middle"), group:
            group.submit(jobs.add, 1).result(LIMIT)
            held = group.with_options(controller="two").submit(jobs.hold, gate.path)
            gate.wait()
    assert held.cancelled()


def test_a_crash_in_one_is_no_matter_of_the_others(own: kumi.ControllerGroup) -> None:
    survivor = own.with_options(controller="two").submit(jobs.pid).result(LIMIT)
    crash = own.with_options(crashes_max=0).submit(jobs.kill_self).exception(LIMIT)
    assert isinstance(crash, kumi.CrashError)
    assert crash.certificate.signal == signal.SIGKILL
    assert own.with_options(controller="two").submit(jobs.pid).result(LIMIT) == survivor
    assert [one.crash for one in own.summary().members] == [1, 0]


def test_a_group_is_saturated_when_each_controller_is(own: kumi.ControllerGroup) -> None:
    """Covers C109 and C160."""
    own.with_options(controller="two").push(abs, -1)
    assert (own.members["one"].saturated, own.members["two"].saturated, own.saturated) == (False, True, False)
    own.push(abs, -1)
    assert own.saturated
    assert len(list(own.records())) == 2
    assert not own.saturated


def test_each_controller_is_explained(own: kumi.ControllerGroup) -> None:
    first = [line.split()[1] for line in own.explain().splitlines() if line.startswith("controller ")]
    assert first == ["'one'", "'two'"]
