"""What a controller says of itself: `summary` and `saturated`."""

import dataclasses

import jobs
import kumi
import pytest

LIMIT = jobs.SECONDS_MAX


def test_a_summary_counts_every_end_and_is_frozen(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1, name="counted") as crew:
        crew.submit(jobs.add, 1).result(LIMIT)
        assert isinstance(crew.submit(jobs.boom).exception(LIMIT), ValueError)
        assert isinstance(crew.with_options(crashes_max=0).submit(jobs.kill_self).exception(LIMIT), kumi.CrashError)
        held = crew.submit(jobs.hold, gate.path)
        gate.wait()
        assert held.cancel()
        summary = crew.summary()
    assert (summary.controller, summary.tasks) == ("counted", 4)
    assert (summary.success, summary.error, summary.crash, summary.cancel, summary.timeout) == (1, 1, 1, 1, 0)
    assert summary.workers_lost == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        summary.tasks = 5  # type: ignore[misc]


def test_its_text_is_a_table() -> None:
    with kumi.Controller(workers=1, name="crew") as crew:
        crew.map(jobs.add, range(12)).results()
        text = str(crew.summary())
    head, row = (line.split() for line in text.splitlines()[:2])
    assert head == ["controller", "tasks", "success", "error", "crash", "cancel", "timeout"]
    assert row == ["crew", "12", "12", "0", "0", "0", "0"]
    assert text.splitlines()[2:] == ["workers: 1 launched, 0 left idle, 0 by a limit, 0 stopped, 0 lost"]
    starts = [line.index(word) + len(word) for line, word in zip(text.splitlines(), ("tasks", "12"), strict=False)]
    assert starts[0] == starts[1], "numbers stand below the ends of their heads"


def test_a_summary_can_be_asked_before_and_after() -> None:
    """Not zeroed by the end."""
    crew = kumi.Controller(workers=1)
    assert crew.summary().tasks == 0
    with crew:
        crew.submit(jobs.add, 1).result(LIMIT)
    assert crew.summary().tasks == 1


def test_a_summary_tells_why_no_worker_could_be_launched() -> None:
    with kumi.Controller(kumi.Local(python="/bin/false"), workers=1) as crew:
        assert crew.summary().launch_failure is None
        assert isinstance(crew.submit(jobs.add, 1).exception(LIMIT), kumi.LaunchError)
        failure = crew.summary().launch_failure
        assert failure is not None
        assert "exited with code 1" in failure
        assert str(crew.summary()).endswith(f"the last failed launch: {failure}")


def test_saturated_counts_pushed_tasks_that_were_not_collected(gate: jobs.Gate) -> None:
    """C110."""
    with kumi.Controller(workers=2) as crew:
        assert not crew.saturated
        crew.submit(jobs.add, 1).result(LIMIT)
        crew.submit(jobs.hold, gate.path)
        gate.wait()
        assert not crew.saturated, "only what is pushed counts"
        crew.push(jobs.add, 1)
        assert not crew.saturated
        crew.push(jobs.add, 2)
        assert crew.saturated
        assert crew.wait("all", LIMIT)
        assert crew.saturated, "finished tasks count until their records are taken"
        crew.pop()
        assert not crew.saturated
        gate.open()


def test_throttling_by_saturation_keeps_few_tasks_at_a_time() -> None:
    with kumi.Controller(workers=2) as crew:
        records, most = [], 0
        for number in range(100):
            while crew.saturated and (record := crew.pop(LIMIT)) is not None:
                records.append(record)
            crew.push(jobs.add, number)
            most = max(most, crew.status().uncollected)
        records.extend(crew.records())
    assert sorted(record.result for record in records) == [*range(1, 101)]
    assert most == 2


def test_each_controller_is_saturated_by_its_own_tasks(gate: jobs.Gate) -> None:
    """C160."""
    with kumi.Controller(workers=1) as one, kumi.Controller(workers=1) as two:
        one.push(jobs.add, 1)
        assert (one.saturated, two.saturated) == (True, False)


def test_saturated_follows_resize() -> None:
    with kumi.Controller(workers=1) as crew:
        crew.push(jobs.add, 1)
        assert crew.saturated
        crew.resize(2)
        assert not crew.saturated


def test_workers_by_hand_saturate_by_how_many_there_are() -> None:
    """Without a number: as if there were one, as long as there is none."""
    with kumi.Controller(None, host="127.0.0.1") as crew:
        assert not crew.saturated
        task = crew.push(jobs.add, 1)
        assert crew.saturated
        task.cancel()


def test_one_that_is_new_or_closed_can_be_asked() -> None:
    crew = kumi.Controller(workers=1)
    assert (crew.empty, crew.saturated) == (True, False)
    crew.terminate()
    assert (crew.empty, crew.saturated) == (True, False)
