"""The rule by which workers are launched, as a table."""

import pytest
from kumi.scaling import Policy, Snapshot, decide

FOUR = Policy(workers=4)


@pytest.mark.parametrize(
    ("snapshot", "launch"),
    [
        (Snapshot(), 0),
        (Snapshot(waiting=1), 1),
        (Snapshot(waiting=4), 4),
        (Snapshot(waiting=1_000_000), 4),
        (Snapshot(waiting=9, expected=3), 1),
        (Snapshot(waiting=9, expected=4), 0),
        (Snapshot(waiting=9, joined=4), 0),
        (Snapshot(waiting=9, running=2, joined=2), 2),
        (Snapshot(waiting=1, running=1, joined=1), 1),
        (Snapshot(running=2, joined=2), 0),
        (Snapshot(running=1, joined=4), 0),
        (Snapshot(waiting=9, joined=3, expected=2), 0),
    ],
)
def test_the_difference_of_demand_and_supply_is_launched(snapshot: Snapshot, launch: int) -> None:
    decision = decide(snapshot, FOUR)
    assert decision.launch == launch
    assert not decision.give_up


@pytest.mark.parametrize("joined", range(6))
@pytest.mark.parametrize("expected", range(6))
@pytest.mark.parametrize("waiting", [0, 1, 3, 100])
def test_never_above_the_cap(waiting: int, expected: int, joined: int) -> None:
    """X5, D5."""
    decision = decide(Snapshot(waiting=waiting, joined=joined, expected=expected), FOUR)
    assert decision.launch >= 0
    assert decision.launch == 0 or joined + expected + decision.launch <= FOUR.workers


def test_asking_twice_does_not_launch_twice() -> None:
    """X5, D5."""
    first = decide(Snapshot(waiting=2), FOUR)
    assert decide(Snapshot(waiting=2, expected=first.launch), FOUR).launch == 0


@pytest.mark.parametrize(("joined", "launch"), [(0, 2), (1, 1), (2, 0), (3, 0)])
def test_the_minimum_is_kept_without_work(joined: int, launch: int) -> None:
    assert decide(Snapshot(joined=joined), Policy(workers=4, workers_min=2)).launch == launch


def test_after_a_failure_it_waits_and_then_tries_one() -> None:
    soon = decide(Snapshot(waiting=9, failures=2, seconds_since_failure=0.0), FOUR)
    assert soon.launch == 0
    assert soon.seconds_again is not None
    assert soon.seconds_again > 0
    later = Snapshot(waiting=9, failures=2, seconds_since_failure=soon.seconds_again)
    assert decide(later, FOUR).launch == 1


def test_the_pause_grows_with_each_failure() -> None:
    pauses = [
        decide(Snapshot(waiting=9, failures=n, seconds_since_failure=0.0, joined=1), FOUR).seconds_again
        for n in range(1, 5)
    ]
    assert None not in pauses
    assert pauses == sorted(pauses)  # type: ignore[type-var]
    assert len(set(pauses)) == len(pauses)


def test_only_one_probe_at_a_time() -> None:
    probing = Snapshot(waiting=9, failures=2, seconds_since_failure=1000.0, expected=1)
    assert decide(probing, FOUR).launch == 0


def test_it_gives_up_after_five_failures_with_no_worker() -> None:
    assert decide(Snapshot(waiting=1, failures=5, seconds_since_failure=0.0), FOUR).give_up
    assert not decide(Snapshot(waiting=1, failures=4, seconds_since_failure=0.0), FOUR).give_up
    assert not decide(Snapshot(waiting=1, failures=5, seconds_since_failure=0.0, joined=1), FOUR).give_up
