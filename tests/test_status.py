"""What a controller counts: a frozen picture of one instant, at any time, in microseconds."""

import timeit

import jobs
import kumi
import pytest

LIMIT = jobs.SECONDS_MAX
FIELDS = (
    *("workers", "idle", "extra", "launching", "waiting", "running", "away", "finished", "uncollected"),
    *("queued_bytes", "queued_bytes_max", "result_bytes", "success", "error", "crash", "cancel", "timeout", "launched"),
    *("left_idle", "left_limit", "left_stopped", "lost"),
)


def test_it_is_made_of_whole_numbers_and_frozen(single: kumi.Controller) -> None:
    """M55."""
    status = single.status()
    assert {type(getattr(status, field)) for field in FIELDS} == {int}
    assert {name for name in dir(status) if not name.startswith("_")} == set(FIELDS)
    assert repr(status).startswith(
        "Status(workers=0, idle=0, launching=0, waiting=0, running=0, finished=0, uncollected=0"
    )
    for name in ("workers", "new"):
        with pytest.raises(AttributeError):
            setattr(status, name, 1)


def test_it_does_not_change_and_can_be_compared(single: kumi.Controller) -> None:
    before = single.status()
    assert before == single.status()
    assert hash(before) == hash(single.status())
    single.submit(jobs.add, 1).result(LIMIT)
    assert before != single.status()
    assert (before.finished, single.status().finished) == (0, 1)


def test_records_that_nobody_has_taken_are_counted(single: kumi.Controller, gate: jobs.Gate) -> None:
    single.push(jobs.add, 1)
    single.push(jobs.hold, gate.path)
    single.submit(jobs.add, 1)
    gate.wait()
    assert single.status().uncollected == 2
    assert single.pop() is not None
    assert (single.status().uncollected, single.empty) == (1, False)
    gate.open()
    assert single.pop(LIMIT) is not None
    assert (single.status().uncollected, single.empty) == (0, True)


def test_asking_takes_microseconds(single: kumi.Controller) -> None:
    """Two, with ten thousand tasks waiting; a busy machine gets ten times as much here."""
    for _ in range(10_000):
        single.submit(jobs.add, 1)
    assert min(timeit.repeat(single.status, number=200, repeat=20)) / 200 < 20e-6
