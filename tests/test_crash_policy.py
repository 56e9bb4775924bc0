"""How often a task that crashes is run again: by what it dies of, and what that costs the others: nothing.

Numbers such as C83 are cases of R's crew, D6 one of its defects.
"""

import pickle
from typing import Any

import hungry
import jobs
import kumi
import pytest

LIMIT = jobs.SECONDS_MAX


def limited(**options: Any) -> kumi.Controller:
    return kumi.Controller(workers=1, memory_gigabytes_max=0.4, **options)


def crash_of(task: kumi.Task[Any]) -> tuple[int, str]:
    """How often a task that ends as crash was begun, and what its last crash counts as."""
    error = task.exception(LIMIT)
    assert isinstance(error, kumi.CrashError)
    record = task.record
    assert record is not None
    assert record.status == "crash"
    assert error.certificate is not None
    assert record.certificate is not None
    assert record.certificate.kind == error.certificate.kind
    return record.attempts, error.certificate.kind


def test_each_cause_has_a_number_of_its_own() -> None:
    with limited(crashes_max={"memory": 0, "other": 2}) as crew:
        assert crash_of(crew.submit(hungry.fill_and_sleep, 600)) == (1, "memory")
        assert crash_of(crew.submit(jobs.kill_self)) == (3, "other")


def test_a_number_counts_all_causes(tmp_path: Any) -> None:
    with limited(crashes_max=1) as crew:
        assert crash_of(crew.submit(hungry.fill_then_die, str(tmp_path / "begun"), 600)) == (2, "other")


def test_none_is_any_number_of_times(tmp_path: Any) -> None:
    with kumi.Controller(workers=1, crashes_max=0) as crew:
        stubborn = crew.with_options(crashes_max={"other": None})
        task = stubborn.submit(jobs.die_times, str(tmp_path / "tries"), 8)
        assert task.result(LIMIT) == 9
        assert task.record is not None
        assert task.record.attempts == 9


def test_causes_that_are_left_out_have_the_usual_numbers() -> None:
    with kumi.Controller(workers=1, crashes_max={"memory": 0, "spot": 0}) as crew:
        assert crash_of(crew.submit(jobs.kill_self)) == (6, "other")


def submit_within(most: Any) -> tuple[int, str]:
    return crash_of(kumi.with_options(crashes_max=most).submit(jobs.kill_self))


def test_tasks_of_tasks_have_it_too() -> None:
    with kumi.Controller(workers=1) as crew:
        assert crew.submit(submit_within, {"memory": 7, "other": 1}).result(LIMIT) == (2, "other")


def test_a_certificate_travels_with_its_kind() -> None:
    with kumi.Controller(workers=1, crashes_max=0) as crew:
        error = crew.submit(jobs.kill_self).exception(LIMIT)
    assert isinstance(error, kumi.CrashError)
    assert error.certificate is not None
    again = pickle.loads(pickle.dumps(error.certificate))
    assert (again.kind, again.cause) == ("other", error.certificate.cause)


@pytest.mark.parametrize(
    ("most", "error", "words"),
    [
        ("5", TypeError, "not '5'"),
        ([("memory", 0)], TypeError, r"not \[\('memory', 0\)\]"),
        ({"oom": 0}, ValueError, r"by cause \(memory, time, spot, other\).*'oom' is no cause"),
        ({3: 0}, ValueError, "3 is no cause"),
        (
            {"memory": -1},
            ValueError,
            r"^crashes_max\['memory'\] must be a whole number of at least 0 .* or None, not -1",
        ),
        ({"time": 2**32}, ValueError, r"^crashes_max\['time'\] must be"),
        ({"spot": 1.5}, TypeError, r"^crashes_max\['spot'\] must be .*, not 1.5"),
        ({"other": True}, TypeError, r"^crashes_max\['other'\] must be .*, not True"),
    ],
)
def test_what_is_no_policy_is_refused(most: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        kumi.Controller(crashes_max=most)
    with pytest.raises(error, match=words):
        kumi.Controller().with_options(crashes_max=most)


def test_a_controller_is_pickled_with_its_policy() -> None:
    again = pickle.loads(pickle.dumps(kumi.Controller(workers=1, crashes_max={"other": 1})))
    with again as crew:
        assert crash_of(crew.submit(jobs.kill_self)) == (2, "other")


def test_what_went_well_is_never_crowded_out_by_what_crashes(tmp_path: Any) -> None:
    """D6, C83: `collect` gives every good result, however often a task has crashed; so does each later one."""
    with kumi.Controller(workers=2, crashes_max=2) as crew:
        for number in range(60):
            crew.push(jobs.same, number)
            if number == 20:
                crew.with_options(name="poison").push(jobs.kill_self, str(tmp_path / "tries"))
        assert crew.wait("all", LIMIT)
        records = crew.collect()
        assert sorted(record.result for record in records if record.status == "success") == [*range(60)]
        (poisoned,) = (record for record in records if record.status != "success")
        assert (poisoned.name, poisoned.status, poisoned.attempts) == ("poison", "crash", 3)
        assert poisoned.certificate is not None
        assert poisoned.certificate.signal == 9
        assert len((tmp_path / "tries").read_text().split()) == 3
        assert (crew.summary().success, crew.summary().crash) == (60, 1)
        crew.push(jobs.same, "later")
        assert [record.result for record in crew.records()] == ["later"]


def test_records_come_as_they_finish_beside_a_task_that_crashes() -> None:
    """D6: an iteration over records goes on past a crash."""
    with kumi.Controller(workers=2, crashes_max=1) as crew:
        crew.push(jobs.kill_self)
        for number in range(20):
            crew.push(jobs.same, number)
        records = [*crew.records()]
    assert sorted(record.result for record in records if record.status == "success") == [*range(20)]
    assert [record.attempts for record in records if record.status == "crash"] == [2]


def same_or_die(number: int, bad: int) -> int:
    if number == bad:
        jobs.kill_self()
    return number


def test_a_map_that_returns_errors_gives_all_other_values() -> None:
    """D6: and the controller is as good as before for the next map."""
    with kumi.Controller(workers=2, crashes_max=1) as crew:
        values: list[Any] = crew.map(same_or_die, range(40), [13] * 40, on_error="return").results()
        assert isinstance(values[13], kumi.CrashError)
        assert values[13].certificate is not None
        assert "2 times in all" in str(values[13])
        assert values[:13] + values[14:] == [*range(13), *range(14, 40)]
        assert crew.map(jobs.same, range(5)).results() == [*range(5)]


def test_crashes_are_counted_for_each_task_not_for_each_name(tmp_path: Any) -> None:
    """C85: a name that has crashed and then succeeded begins anew, six rounds long."""
    with kumi.Controller(workers=1, crashes_max=1) as crew:
        for number in range(6):
            crew.with_options(name="same").push(jobs.die_times, str(tmp_path / str(number)), 1)
            assert crew.wait("all", LIMIT)
            record = crew.pop()
            assert record is not None
            assert (record.name, record.status, record.attempts) == ("same", "success", 2)
