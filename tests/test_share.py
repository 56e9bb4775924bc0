"""`kumi.share`: wherever the handle stands the task sees the value, read-only, stored once."""

import gc
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import kumi
import numpy as np
import pandas as pd
import pytest
from kumi._core import LARGE
from test_large import MIB, mappings, memory_files, total, writable


def add(a: np.ndarray, b: np.ndarray) -> float:
    return float(a.sum() + b.sum())


def look(value: Any) -> tuple[float, bool]:
    array = value["list"][0]
    return float(array.sum()), bool(array.flags.writeable)


def address(array: np.ndarray) -> tuple[int, int]:
    return os.getpid(), array.ctypes.data


def same_object(a: Any, b: Any) -> bool:
    return a is b


def crash_once(array: np.ndarray, file: str) -> float:
    jobs.die_times(file, 1)
    return float(array.sum())


def shares_a_share() -> list[Any]:
    return [kumi.share(np.ones(1000)), 1]


@pytest.fixture(params=[kumi.Local(), kumi.Sequential()], ids=["Local", "Sequential"])
def either(request: pytest.FixtureRequest) -> Any:
    with kumi.Controller(request.param, workers=1) as crew:
        yield crew


def wait_until(what: Callable[[], bool], crew: kumi.Controller) -> bool:
    """Whether it is so after some round trips: what a worker returns comes with its next message at the latest."""
    for _ in range(1000):
        gc.collect()
        if what():
            return True
        crew.submit(jobs.pid).result()
    return False


@pytest.mark.parametrize("count", [3, LARGE // 8, MIB])
def test_the_value_is_seen_wherever_the_handle_stands(either: kumi.Controller, count: int) -> None:
    big = kumi.share(np.ones(count))
    assert either.submit(total, big).result() == count
    assert either.submit(add, big, b=big).result() == 2 * count
    assert either.submit(look, {"list": [big]}).result() == (count, False)
    assert either.submit(lambda: float(big.sum())).result() == count
    assert either.submit(partial(add, big), big).result() == 2 * count
    assert either.map(lambda number: float(big[number]), range(3)).results() == [1.0] * 3
    assert not either.submit(writable, big).result()


def test_what_is_no_array_is_shared_too(either: kumi.Controller) -> None:
    frame = pd.DataFrame({"a": range(100_000)})
    for value in ({"a": 1}, "text", b"x" * MIB, list(range(100_000)), None):
        assert either.submit(jobs.same, kumi.share(value)).result() == value
    pd.testing.assert_frame_equal(either.submit(jobs.same, kumi.share(frame)).result(), frame)
    assert either.submit(same_object, kumi.share([1]), kumi.share([1])).result() is False
    one = kumi.share([1])
    assert either.submit(same_object, one, [one][0]).result() is True


def test_a_share_may_hold_another(either: kumi.Controller) -> None:
    inner = kumi.share(np.ones(MIB))
    outer = kumi.share([inner, np.ones(10)])
    assert either.submit(lambda: [float(array.sum()) for array in outer]).result() == [MIB, 10]
    assert either.submit(jobs.same, outer).result()[0].sum() == MIB


def test_it_is_a_snapshot(either: kumi.Controller) -> None:
    array = np.ones(MIB)
    big = kumi.share(array)
    array[:] = 2
    assert either.submit(total, big).result() == MIB


def test_a_share_of_a_share_is_itself() -> None:
    big = kumi.share(np.ones(3))
    assert kumi.share(big) is big
    assert repr(big) == "<Shared ndarray>"


def test_elsewhere_it_is_the_value(single: kumi.Controller) -> None:
    big = kumi.share(np.ones(3))
    assert pickle.loads(pickle.dumps(big)).tolist() == [1, 1, 1]
    assert single.submit(shares_a_share).result()[0].sum() == 1000


def test_eight_tasks_make_one_copy_in_all() -> None:
    with kumi.Controller(workers=2) as crew:
        files = memory_files()
        big = kumi.share(np.ones(MIB))
        assert len(memory_files() - files) == 1
        seen = crew.map(address, [big] * 8).results()
        assert len(memory_files() - files) == 1
        assert len(set(seen)) == len({pid for pid, _ in seen}), "mapped once in each worker"


def test_two_controllers_share_one_copy() -> None:
    big = kumi.share(np.ones(MIB))
    files = memory_files()
    with kumi.Controller(workers=1) as one, kumi.Controller(workers=1) as two:
        assert one.submit(total, big).result() == two.submit(total, big).result() == MIB
        assert not memory_files() - files
    with kumi.Controller(workers=1) as three:
        assert three.submit(total, big).result() == MIB


def test_it_is_freed_with_the_last_handle_and_task(single: kumi.Controller, gate: jobs.Gate) -> None:
    gc.collect()
    files = memory_files()
    blocker = single.submit(jobs.hold, gate.path)
    big = kumi.share(np.ones(MIB))
    task = single.submit(partial(add, big), big)
    other = single.submit(total, big)
    del big
    gc.collect()
    assert len(memory_files() - files) == 1
    gate.open()
    assert (blocker.result(), task.result(), other.result()) == (None, 2 * MIB, MIB)
    del task, other  # a task keeps its function
    assert wait_until(lambda: not memory_files() - files, single)
    assert single.submit(mappings).result() == 0


def test_a_handle_that_nobody_submitted_is_freed() -> None:
    gc.collect()
    files = memory_files()
    big = kumi.share(np.ones(MIB))
    assert len(memory_files() - files) == 1
    del big
    assert not memory_files() - files


def test_sequential_frees_it_too() -> None:
    with kumi.Controller(kumi.Sequential()) as crew:
        gc.collect()
        files, maps = memory_files(), mappings()
        big = kumi.share(np.ones(MIB))
        assert crew.submit(total, big).result() == MIB
        del big
        gc.collect()
        assert not memory_files() - files
        assert mappings() <= maps


def test_a_new_worker_gets_it_too(single: kumi.Controller, tmp_path: Path) -> None:
    big = kumi.share(np.ones(MIB))
    assert single.submit(crash_once, big, str(tmp_path / "times")).result() == MIB
    assert single.submit(total, big).result() == MIB


def test_what_cannot_be_pickled_is_named() -> None:
    with pytest.raises(kumi.SerializationError, match="the value cannot be shared"):
        kumi.share(jobs.Unpicklable())
