"""Waiting for the pushed tasks of several controllers at once, and taking their records in turn.

Numbers such as C104 are cases of crew's, of which these tests are the counterparts.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest
import trio

LIMIT = jobs.SECONDS_MAX


@pytest.fixture
def group() -> Iterator[kumi.ControllerGroup]:
    """Two controllers, `small` and `large`, of one worker each."""
    small, large = (kumi.Controller(name=name, workers=1) for name in ("small", "large"))
    with kumi.ControllerGroup(small, large) as group:
        yield group


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[dict[str, jobs.Gate]]:
    """A gate for each of the two."""
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
    with jobs.gate_in(tmp_path / "small") as small, jobs.gate_in(tmp_path / "large") as large:
        yield {"small": small, "large": large}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> "Waits":
    return Waits(monkeypatch)


class Waits:
    """Counts how often a group begins to wait for records, and tells of the first time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.begun = threading.Event()
        await_record = kumi.ControllerGroup._await_record

        def counted(group: kumi.ControllerGroup, deadline: float | None) -> bool:
            self.count += 1
            self.begun.set()
            return await_record(group, deadline)

        monkeypatch.setattr(kumi.ControllerGroup, "_await_record", counted)


def hold_each(group: kumi.ControllerGroup, gates: dict[str, jobs.Gate]) -> None:
    for name, gate in gates.items():
        group.with_options(controller=name).push(jobs.hold, gate.path, name)
        gate.wait()


def meanwhile(call: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """Runs a call in a thread; what is returned waits for its value."""
    executor = ThreadPoolExecutor(1)
    future = executor.submit(call, *args)
    executor.shutdown(wait=False)
    return lambda: future.result(LIMIT)


def result(record: kumi.Record[Any] | None) -> Any:
    assert record is not None
    return record.result


# wait


def test_without_tasks_there_is_nothing_to_wait_for(group: kumi.ControllerGroup) -> None:
    """C104, C163: here `wait` says whether there is a record to pop, so it is false for "all" as well."""
    group.start()
    assert group.wait("one") is False
    assert group.wait("all") is False


def test_what_is_done_is_not_waited_for(group: kumi.ControllerGroup) -> None:
    """C164."""
    tasks = [group.with_options(controller=name).push(jobs.add, 1) for name in group.members]
    kumi.wait(tasks, LIMIT)
    assert group.wait("one", 0) is True
    assert group.wait("all", 0) is True


@pytest.mark.parametrize("first", ["small", "large"])
def test_one_is_whichever_is_first_and_all_is_the_last(
    group: kumi.ControllerGroup, gates: dict[str, jobs.Gate], first: str
) -> None:
    """C104, C165, C166."""
    [second] = {"small", "large"} - {first}
    hold_each(group, gates)
    assert group.wait("one", 0.01) is False
    assert group.wait("all", 0.01) is False
    gates[first].open()
    assert group.wait("one", LIMIT) is True
    assert group.wait("all", 0.01) is False
    assert result(group.pop()) == first
    assert group.pop() is None
    gates[second].open()
    assert group.wait("all", LIMIT) is True
    assert result(group.pop()) == second
    assert group.wait("all") is False


@pytest.mark.parametrize("name", ["small", "large"])
def test_waiters_are_woken_by_each(
    group: kumi.ControllerGroup, gates: dict[str, jobs.Gate], waits: Waits, name: str
) -> None:
    hold_each(group, gates)
    waited = meanwhile(group.wait, "one")
    assert waits.begun.wait(LIMIT)
    gates[name].open()
    assert waited() is True
    assert waits.count == 1
    waits.begun.clear()
    assert result(group.pop()) == name
    popped = meanwhile(group.pop, None)
    assert waits.begun.wait(LIMIT)
    for gate in gates.values():
        gate.open()
    assert result(popped()) != name


def test_who_waits_hears_of_what_another_is_given_meanwhile(
    group: kumi.ControllerGroup, gates: dict[str, jobs.Gate], waits: Waits
) -> None:
    """Also of one that opens only then."""
    group.push(jobs.hold, gates["small"].path, "small")
    popped = meanwhile(group.pop, None)
    assert waits.begun.wait(LIMIT)
    assert "new" in repr(group.members["large"])
    group.with_options(controller="large").push(jobs.add, 1)
    assert result(popped()) == 2
    gates["small"].open()


def test_what_is_pushed_while_all_are_waited_for_counts(
    group: kumi.ControllerGroup, gates: dict[str, jobs.Gate]
) -> None:
    """X8: when `wait` has returned true there is nothing that is not done, of any of them."""
    group.with_options(controller="large").push(jobs.hold, gates["large"].path)
    gates["large"].wait()
    waited = meanwhile(group.wait)
    group.push(jobs.hold, gates["small"].path)
    gates["small"].wait()
    gates["large"].open()
    gates["small"].open()
    assert waited() is True
    assert group.status().running == group.status().waiting == 0
    assert len(group.collect()) == 2


def test_a_wait_does_not_look_again_and_again(
    group: kumi.ControllerGroup, gates: dict[str, jobs.Gate], waits: Waits
) -> None:
    """Neither for tasks that were not pushed (X11), nor because one of the controllers has nothing, or has ended."""
    group.with_options(controller="large").push(jobs.hold, gates["large"].path, "large")
    gates["large"].wait()
    for end in (lambda: None, group.members["small"].start, group.members["small"].terminate):
        end()
        assert group.pop(0.02) is None
    assert waits.count <= 6  # each time to wait, and once more to see that the time is over
    others = [group.with_options(controller="large").submit(jobs.add, number) for number in range(5)]
    popped = meanwhile(group.pop, None)
    gates["large"].open()
    assert result(popped()) == "large"
    kumi.wait(others, LIMIT)
    assert waits.count <= 7


def test_a_wait_costs_no_time_of_the_processor(group: kumi.ControllerGroup, gates: dict[str, jobs.Gate]) -> None:
    hold_each(group, gates)
    before = time.thread_time()
    assert group.wait("one", 0.3) is False
    assert group.wait("all", 0.3) is False
    assert time.thread_time() - before < 0.1
    for gate in gates.values():
        gate.open()


def test_who_waits_is_let_out_when_all_are_ended(
    group: kumi.ControllerGroup, gates: dict[str, jobs.Gate], waits: Waits
) -> None:
    hold_each(group, gates)
    records = meanwhile(list, group.records())
    assert waits.begun.wait(LIMIT)
    group.terminate()
    assert [record.status for record in records()] == ["cancel", "cancel"]


def test_what_runs_in_this_process_is_waited_for_as_well(gates: dict[str, jobs.Gate], waits: Waits) -> None:
    here, there = kumi.Controller(kumi.Sequential(), name="here"), kumi.Controller(name="there", workers=1)
    with kumi.ControllerGroup(here, there) as group:
        group.with_options(controller="there").push(jobs.hold, gates["large"].path)
        popped = meanwhile(group.pop, None)
        assert waits.begun.wait(LIMIT)
        group.push(jobs.add, 1)
        assert result(popped()) == 2
        gates["large"].open()


def test_true_means_that_there_is_a_record(group: kumi.ControllerGroup) -> None:
    """D8."""
    views = [group.with_options(controller=name) for name in group.members]
    for number in range(300):
        views[number % 2].push(jobs.add, number)
        assert group.wait("one" if number % 3 else "all", LIMIT) is True
        assert result(group.pop()) == number + 1
        assert group.empty


def test_several_may_take_records_at_once(group: kumi.ControllerGroup) -> None:
    views = [group.with_options(controller=name) for name in group.members]
    for number in range(400):
        views[number % 2].push(jobs.add, number)
    takers = [meanwhile(list, group.records()) for _ in range(3)]
    taken = [record.result for taker in takers for record in taker()]
    assert sorted(taken) == list(range(1, 401))


# pop, collect, records


def test_one_with_many_records_does_not_hide_those_of_another(group: kumi.ControllerGroup) -> None:
    """Groups of crew take from the first as long as it has any."""
    for _ in range(10):
        group.push(jobs.add, 1)
    for _ in range(3):
        group.with_options(controller="large").push(jobs.add, 1)
    assert group.wait(timeout=LIMIT)
    taken = [record.controller for record in group.records()]
    assert taken == ["small", "large"] * 3 + ["small"] * 7


def test_a_busy_one_does_not_hide_another(group: kumi.ControllerGroup) -> None:
    """Each record that is taken is followed by another push to the first."""
    for _ in range(3):
        group.push(jobs.add, 1)
    group.with_options(controller="large").push(jobs.same, "seen")
    assert group.wait(timeout=LIMIT)
    for _ in range(2):
        group.push(jobs.add, 1)
        record = group.pop(LIMIT)
        assert record is not None
        if record.result == "seen":
            break
    else:
        pytest.fail("the record of the second controller was not among the first two")


def test_collect_takes_what_is_done_of_all(group: kumi.ControllerGroup, gates: dict[str, jobs.Gate]) -> None:
    """C101."""
    done = [group.with_options(controller="large").push(jobs.add, number) for number in range(3)]
    group.push(jobs.hold, gates["small"].path, "late")
    kumi.wait(done, LIMIT)
    assert sorted(record.result for record in group.collect()) == [1, 2, 3]
    assert not group.empty
    gates["small"].open()
    assert [record.result for record in group.records()] == ["late"]


def test_collect_raises_the_error_of_the_first_that_was_submitted(group: kumi.ControllerGroup) -> None:
    """C95, C103."""
    group.push(jobs.add, 1).result(LIMIT)
    assert isinstance(group.with_options(controller="large").push(jobs.boom, "first").exception(LIMIT), ValueError)
    assert isinstance(group.push(jobs.boom, "second").exception(LIMIT), ValueError)
    with pytest.raises(ValueError, match="first"):
        group.collect("raise")
    assert sorted(record.status for record in group.collect()) == ["error", "error", "success"]
    assert group.collect("raise") == []


def test_many_rounds_of_the_same_names(group: kumi.ControllerGroup) -> None:
    """C65, C152: each name once in each round. A name is held in one controller, and free in the others."""
    views = [group.with_options(controller=name) for name in group.members]
    for _ in range(3):
        for number in range(100):
            views[number % 2].with_options(name=f"n{number}").push(jobs.same, number)
        views[1].with_options(name="n0").push(jobs.same, 100)
        with pytest.raises(kumi.ControllerError, match="the name 'n0' is held"):
            views[0].with_options(name="n0").push(jobs.add, 1)
        assert sorted(record.result for record in group.records()) == list(range(101))
    assert group.summary().tasks == 303


def test_a_map_of_many_with_errors(group: kumi.ControllerGroup) -> None:
    """C158."""
    values = group.with_options(controller="large").map(jobs.boom_at, range(600), range(0, 1200, 2), on_error="return")
    results = values.results()
    assert isinstance(results[0], ValueError)
    assert results[1:] == list(range(1, 600))


# In async code


async def take_all(group: kumi.ControllerGroup, after_two: Callable[[], None]) -> list[str]:
    taken: list[str] = []
    async for record in group.records():
        taken.append(record.controller)
        if len(taken) == 2:
            after_two()
    return taken


@pytest.mark.parametrize("run", [asyncio.run, lambda awaited: trio.run(lambda: awaited)], ids=["asyncio", "trio"])
def test_records_come_to_event_loops(
    group: kumi.ControllerGroup, gates: dict[str, jobs.Gate], run: Callable[[Any], Any]
) -> None:
    hold_each(group, gates)
    group.with_options(controller="large").push(jobs.add, 1)
    gates["large"].open()
    assert run(take_all(group, gates["small"].open)) == ["large", "large", "small"]
    assert run(take_all(group, gates["small"].open)) == []


def test_an_event_loop_hears_of_what_another_is_given_meanwhile(
    group: kumi.ControllerGroup, gates: dict[str, jobs.Gate]
) -> None:
    group.push(jobs.hold, gates["small"].path, "small")

    async def main() -> None:
        first = asyncio.ensure_future(anext(group.records()))
        await asyncio.sleep(0)  # it waits now
        group.with_options(controller="large").push(jobs.add, 1)
        assert (await asyncio.wait_for(first, LIMIT)).result == 2
        second = asyncio.ensure_future(anext(group.records()))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gates["small"].open()
        assert (await asyncio.wait_for(anext(group.records()), LIMIT)).result == "small"

    asyncio.run(main())
