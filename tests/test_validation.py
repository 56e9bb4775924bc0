"""Bad arguments: refused at once, by name, with what would be accepted."""

from typing import Any

import jobs
import kumi
import pytest

WRONG_KIND = [
    ("workers", 1.5, "whole number of at least 1"),
    ("workers", True, "whole number of at least 1"),
    ("workers", "2", "whole number of at least 1"),
    ("workers_min", None, "whole number of at least 0"),
    ("workers_min", 0.5, "whole number of at least 0"),
    ("seconds_idle", "1", "finite number of at least 0 or None"),
    ("seconds_idle", True, "finite number of at least 0 or None"),
    ("seconds_wall", [1], "finite number above 0 or None"),
    ("seconds_launch", None, "finite number above 0"),
    ("tasks_max", 2.0, r"whole number of at least 1 and below 2\*\*32 or None"),
    ("crashes_max", None, "whole number of at least 0"),
    ("crashes_max", False, "whole number of at least 0"),
    ("queue_gigabytes_max", "1", "finite number above 0 or None"),
    ("name", 3, "non-empty string"),
    ("name", ["unhashable"], "non-empty string"),
    ("name", b"bytes", "non-empty string"),
]
OUT_OF_RANGE = [
    ("workers", 0, "whole number of at least 1"),
    ("workers", -2, "whole number of at least 1"),
    ("workers_min", -1, "whole number of at least 0"),
    ("workers_min", 4, "to workers, which is 3"),
    ("seconds_idle", -1, "finite number of at least 0"),
    ("seconds_idle", float("inf"), "finite number"),
    ("seconds_idle", float("nan"), "finite number"),
    ("seconds_wall", 0, "finite number above 0"),
    ("seconds_launch", 0, "finite number above 0"),
    ("seconds_kill", 0, "finite number above 0"),
    ("seconds_launch", -1.0, "finite number above 0"),
    ("tasks_max", 0, "whole number of at least 1"),
    ("crashes_max", -1, "whole number of at least 0"),
    ("queue_gigabytes_max", 0, "finite number above 0"),
    ("name", "", "non-empty string"),
]


@pytest.mark.parametrize(("argument", "value", "accepted"), WRONG_KIND)
def test_a_value_of_the_wrong_kind(argument: str, value: Any, accepted: str) -> None:
    with pytest.raises(TypeError, match=f"^{argument} must be a.* {accepted}") as caught:
        kumi.Controller(**{"workers": 3, argument: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("argument", "value", "accepted"), OUT_OF_RANGE)
def test_a_value_out_of_range(argument: str, value: Any, accepted: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument} must be a.* {accepted}") as caught:
        kumi.Controller(**{"workers": 3, argument: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("digits", [30, 400, 5000])
@pytest.mark.parametrize("argument", ["workers", "tasks_max", "crashes_max"])
def test_a_whole_number_too_large_for_the_core(argument: str, digits: int) -> None:
    for value in (10**digits, -(10**digits)):
        with pytest.raises(
            ValueError, match=rf"^{argument} must be .* at least . and below 2\*\*32.*, not an integer of"
        ):
            kumi.Controller(**{argument: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("digits", [400, 5000])
@pytest.mark.parametrize("argument", ["seconds_idle", "seconds_wall", "seconds_launch", "queue_gigabytes_max"])
def test_a_number_too_large_for_a_float(argument: str, digits: int) -> None:
    for value in (10**digits, -(10**digits)):
        with pytest.raises(ValueError, match=f"^{argument} must be a finite number .* 0.*, not an integer too large"):
            kumi.Controller(**{argument: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("workers", 1), ("workers", None), ("workers_min", 3)),
        *(("seconds_idle", 0), ("seconds_idle", 0.5), ("seconds_idle", None), ("seconds_wall", 1e-3)),
        *(
            ("tasks_max", None),
            ("tasks_max", 1),
            ("crashes_max", 0),
            ("crashes_max", 2**32 - 1),
            ("queue_gigabytes_max", 0.1),
            ("name", "ü"),
        ),
    ],
)
def test_the_edges_are_accepted(argument: str, value: Any) -> None:
    kumi.Controller(**{"workers": 3, argument: value})


@pytest.mark.parametrize("launcher", [None, 4, "local", kumi.Local, kumi.Sequential])
def test_a_launcher_that_is_none(launcher: Any) -> None:
    with pytest.raises(TypeError, match=r"^launcher must be a launcher, such as kumi.Local\(\)"):
        kumi.Controller(launcher)


@pytest.mark.parametrize("python", ["", 3])
def test_local_wants_the_path_of_an_interpreter(python: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="^python must be"):
        kumi.Local(python=python)


@pytest.mark.parametrize("environment", [["A=1"], {"A": 1}, {1: "A"}])
def test_local_wants_strings_in_the_environment(environment: Any) -> None:
    with pytest.raises(TypeError, match="^environment must"):
        kumi.Local(environment=environment)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": ""}, ValueError),
        ({"name": 3}, TypeError),
        ({"controller": ""}, ValueError),
        ({"controller": 3}, TypeError),
        ({"crashes_max": -1}, ValueError),
        ({"crashes_max": 2**32}, ValueError),
        ({"crashes_max": 1.5}, TypeError),
        ({"no_such_option": 1}, TypeError),
    ],
)
def test_options(options: dict[str, Any], error: type[Exception]) -> None:
    (name,) = options
    with pytest.raises(error, match=name):
        kumi.Controller().with_options(**options)


@pytest.mark.parametrize("name", ["", 3, None])
def test_daemons_wants_a_name(name: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="^name must be"):
        kumi.daemons(1, name=name)


@pytest.mark.parametrize("workers", [-1, False])
def test_daemons_wants_workers(workers: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="^workers must be"):
        kumi.daemons(workers)


def test_daemons_refuses_unknown_options() -> None:
    with pytest.raises(TypeError, match="no_such_option"):
        kumi.daemons(1, no_such_option=1)


def test_modes_are_checked() -> None:
    crew = kumi.Controller()
    with pytest.raises(ValueError, match='mode must be "all" or "one"'):
        crew.wait("two")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='on_error must be "return" or "raise"'):
        crew.collect(on_error="stop")  # type: ignore[arg-type]


def test_an_unknown_controller_is_told_with_those_that_are_open() -> None:
    with kumi.Controller(kumi.Sequential(), name="a-known-one") as crew:
        crew.start()
        with pytest.raises(kumi.ControllerError, match="'nowhere'.*'a-known-one'"):
            crew.with_options(controller="nowhere").submit(jobs.add, 1)
