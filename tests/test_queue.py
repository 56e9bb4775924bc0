"""The bound of the queue in bytes: what counts, and what is let in. How submit, run and map wait is told elsewhere.

Numbers such as M190 are cases of mirai's, of which these tests are the counterparts.
"""

import mmap
from typing import Any

import jobs
import kumi
import numpy as np
import pytest
from kumi._core import memory_bytes

LIMIT = jobs.SECONDS_MAX
EACH = 400  # bytes that a task counts besides its payload


def test_as_many_are_let_in_as_there_is_room_for(gate: jobs.Gate) -> None:
    """M190: of 200 tries, each of half of what there is room for."""
    with kumi.Controller(workers=1, queue_gigabytes_max=1e-3) as crew:
        tries = [crew.try_submit(jobs.hold, gate.path, b"x" * 490_000) for _ in range(200)]
        tasks = [task for task in tries if task is not None]
        assert len(tasks) == 2
        gate.open(2)
        assert [len(task.result(LIMIT)) for task in tasks] == [490_000] * 2


def test_one_that_is_too_large_is_let_in_alone(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1, queue_gigabytes_max=1e-3) as crew:
        large = crew.try_submit(jobs.hold, gate.path, b"x" * 3_000_000)
        assert large is not None
        assert crew.try_submit(jobs.add, 1) is None
        gate.open()
        assert len(large.result(LIMIT)) == 3_000_000
        small = crew.submit(jobs.hold, gate.path)
        assert crew.try_submit(jobs.same, b"x" * 3_000_000) is None
        gate.open()
        small.result(LIMIT)


def more_than_memory() -> "np.ndarray[Any, Any]":
    """Twice what there is, of which nothing is ever touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, 2 * memory_bytes(), flags=flags, prot=mmap.PROT_READ), np.uint8)


def test_what_is_larger_than_the_memory_is_refused(single: kumi.Controller) -> None:
    huge = more_than_memory()
    for enter in (lambda: single.submit(len, huge), lambda: single.submit(lambda: len(huge)), lambda: kumi.share(huge)):
        with pytest.raises(MemoryError, match=r"GB of data cannot be sent from where .* GB of memory may be used: "):
            enter()
    with pytest.raises(MemoryError, match="send what they can be read from"):
        single.submit(more_than_memory).result(LIMIT)
    assert single.submit(jobs.add, 1).result(LIMIT) == 2
    assert single.summary().workers_launched == 1


@pytest.mark.parametrize("value", [b"x" * 100_000, np.zeros(100_000)], ids=["inline", "in shared memory"])
def test_what_is_done_does_not_count(single: kumi.Controller, gate: jobs.Gate, value: object) -> None:
    """M116, M191."""
    size = len(value) if isinstance(value, bytes) else 800_000
    running = single.submit(jobs.hold, gate.path, value)
    gate.wait()
    waiting = [single.submit(jobs.same, value) for _ in range(2)]
    assert 3 * (size + EACH) <= single.status().queued_bytes < 3 * (size + EACH + 1000)
    assert waiting[1].cancel()
    assert 2 * (size + EACH) <= single.status().queued_bytes < 2 * (size + EACH + 1000)
    gate.open()
    for task in (running, waiting[0]):
        task.result(LIMIT)
    status = single.status()
    assert status.queued_bytes == 0
    assert status.result_bytes >= 2 * size
