"""Bad arguments: refused at once, by name, with what would be accepted."""

import asyncio
import decimal
import fractions
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import kumi
import numpy as np
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
    ("tasks_max", 2.0, r"whole number of at least 1 and below 2\*\*32 or None"),
    ("crashes_max", None, "whole number of at least 0"),
    ("crashes_max", False, "whole number of at least 0"),
    ("queue_gigabytes_max", "1", "finite number above 0 or None"),
    ("seconds_reconnect", None, "finite number above 0"),
    ("modules_by_value", "json", "collection of modules, or of their names, such as a list"),
    ("modules_by_value", kumi, "collection of modules, or of their names, such as a list"),
    ("modules_by_value", 3, "collection of modules, or of their names, such as a list"),
    ("modules_by_value", [3], "collection of modules, or of their names: 3 is neither"),
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
    ("seconds_reconnect", 0, "finite number above 0"),
    ("tasks_max", 0, "whole number of at least 1"),
    ("crashes_max", -1, "whole number of at least 0"),
    ("queue_gigabytes_max", 0, "finite number above 0"),
    ("modules_by_value", ["no name"], "collection of modules, or of their names"),
    ("name", "", "non-empty string"),
    ("name", "\ud800", "non-empty string or None of characters that UTF-8 can encode"),
]


@pytest.mark.parametrize(("argument", "value", "accepted"), WRONG_KIND)
def test_a_value_of_the_wrong_kind(argument: str, value: Any, accepted: str) -> None:
    with pytest.raises(TypeError, match=f"^{argument} must be a.* {accepted}") as caught:
        kumi.Controller(**{"workers": 3, argument: value})
    assert repr(value).strip("[]") in str(caught.value)


@pytest.mark.parametrize(("argument", "value", "accepted"), OUT_OF_RANGE)
def test_a_value_out_of_range(argument: str, value: Any, accepted: str) -> None:
    """C32."""
    with pytest.raises(ValueError, match=f"^{argument} must be a.* {accepted}") as caught:
        kumi.Controller(**{"workers": 3, argument: value})
    assert repr(value).strip("[]") in str(caught.value)


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
        *(("seconds_idle", np.float32(1)), ("seconds_kill", np.int64(1)), ("seconds_wall", fractions.Fraction(1, 3))),
        *(("workers", np.int64(3)), ("seconds_launch", decimal.Decimal("0.5"))),
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


@pytest.mark.parametrize("launcher", [4, b"local", kumi.Local, kumi.Sequential])
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


@pytest.mark.parametrize("environment", [{"": "b"}, {"A=B": "c"}, {"A\0": "b"}, {"A": "b\0"}])
def test_local_wants_variables_that_can_be_set(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="^environment must map names without '='"):
        kumi.Local(environment=environment)


def test_local_does_not_show_what_may_be_secret() -> None:
    crew = kumi.Controller(kumi.Local(environment={"TOKEN": "hidden"}))
    assert "Local()" in repr(crew)
    assert "hidden" not in repr(crew)


def test_launchers_show_what_they_were_given() -> None:
    assert repr(kumi.Local(gpus=4, gpus_per_worker=2)) == "Local(gpus=4, gpus_per_worker=2)"
    assert repr(kumi.SSH(["a", "b"], workers_per_host=1, tunnel=False)) == "SSH(hosts=('a', 'b'), tunnel=False)"


def test_local_takes_a_path() -> None:
    assert kumi.Local(python=Path(sys.executable)) == kumi.Local(python=sys.executable)


def test_a_number_in_place_of_the_launcher_is_told_where_it_belongs() -> None:
    with pytest.raises(TypeError, match=r"not 4; for that many workers: workers=4"):
        kumi.Controller(4)  # type: ignore[arg-type]


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
        ({"once": 1}, TypeError),
        ({"once": []}, TypeError),
        ({"seed": 1.5}, TypeError),
        ({"seconds_run": np.array([1, 2])}, TypeError),
        ({"seconds_total": True}, TypeError),
        ({"no_such_option": 1}, TypeError),
    ],
)
def test_options(options: dict[str, Any], error: type[Exception]) -> None:
    """X10."""
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
    for unhashable in ([], {}):
        with pytest.raises(ValueError, match="mode must be"):
            crew.wait(unhashable)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="on_error must be"):
            crew.collect(unhashable)  # type: ignore[arg-type]


WAITS: dict[str, Callable[[kumi.Controller, Any], Any]] = {
    "result": lambda crew, timeout: crew.submit(jobs.add, 1).result(timeout),
    "exception": lambda crew, timeout: crew.submit(jobs.add, 1).exception(timeout),
    "Controller.wait": lambda crew, timeout: crew.push(jobs.add, 1) and crew.wait("all", timeout),
    "pop": lambda crew, timeout: crew.push(jobs.add, 1) and crew.pop(timeout),
    "map": lambda crew, timeout: crew.map(jobs.add, [1], timeout=timeout).results(),
    "wait": lambda crew, timeout: kumi.wait([crew.submit(jobs.add, 1)], timeout),
    "as_completed": lambda crew, timeout: list(kumi.as_completed([crew.submit(jobs.add, 1)], timeout)),
}


@pytest.mark.parametrize("wait", WAITS)
def test_a_timeout_is_a_number_of_seconds(crew: kumi.Controller, wait: str) -> None:
    for bad in ("1", [1], True, np.array([1, 2])):
        with pytest.raises(TypeError, match="^timeout must be a number of seconds, or None for no limit, not"):
            WAITS[wait](crew, bad)
    with pytest.raises(ValueError, match=r"^timeout must be .* not nan"):
        WAITS[wait](crew, float("nan"))
    for good in (float("inf"), 1e300, 10**400, 30, np.float32(30), decimal.Decimal(30), fractions.Fraction(30), None):
        assert WAITS[wait](crew, good) is not False
    crew.collect()


def test_what_is_waited_for_are_several_tasks(crew: kumi.Controller) -> None:
    task = crew.submit(jobs.add, 1)
    waits: tuple[Callable[[Any], object], ...] = (kumi.wait, kumi.as_completed)
    for wait in waits:
        with pytest.raises(TypeError, match=r"^these must be several tasks, such as a list, not one: <Task add"):
            wait(task)
        for bad in (None, 3, "abc"):
            with pytest.raises(TypeError, match=f"^these must be tasks, or other Futures, not {bad!r}"):
                wait([task, bad])


def test_a_callback_can_be_called(crew: kumi.Controller) -> None:
    with pytest.raises(TypeError, match="^fn must be callable, not None"):
        crew.submit(jobs.add, 1).add_done_callback(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("fn", [None, 3, "add", [jobs.add]])
def test_a_function_can_be_called(crew: kumi.Controller, fn: Any) -> None:
    ways: tuple[Callable[..., object], ...] = (crew.submit, crew.try_submit, crew.push, crew.everywhere)
    for way in ways:
        with pytest.raises(TypeError, match="^fn must be callable, not "):
            way(fn, 1)
    with pytest.raises(TypeError, match="^fn must be callable, not "):
        crew.map(fn, [1])
    with pytest.raises(TypeError, match="^fn must be callable, not "):
        asyncio.run(crew.run(fn, 1))


def test_a_call_without_a_function(crew: kumi.Controller) -> None:
    """M4."""
    ways: tuple[Callable[..., object], ...] = (crew.submit, crew.try_submit, crew.push, crew.run, crew.map, kumi.submit)
    for way in (*ways, crew.everywhere):
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'fn'"):
            way()


@pytest.mark.parametrize("bad", [None, 3, jobs.add])
def test_the_input_of_a_map_can_be_iterated(crew: kumi.Controller, bad: Any) -> None:
    for iterables in ([bad], [[1], bad]):
        with pytest.raises(
            TypeError, match=r"^map\(\) takes iterables after the function, such as lists, not .*repeat"
        ):
            crew.map(jobs.add, *iterables)


@pytest.mark.parametrize("bad", ["stop", None, []])
def test_what_a_map_does_about_errors(crew: kumi.Controller, bad: Any) -> None:
    with pytest.raises(ValueError, match='^on_error must be "raise" or "return", not'):
        crew.map(jobs.add, [1], on_error=bad)


def test_calls_that_do_not_fit_the_function_are_its_own_errors(crew: kumi.Controller) -> None:
    with pytest.raises(TypeError, match=r"add\(\) missing 1 required positional argument: 'a'"):
        crew.submit(jobs.add).result()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"add\(\) got an unexpected keyword argument 'c'"):
        crew.submit(jobs.add, 1, c=2).result()  # type: ignore[call-arg]


def test_names_are_patterns(crew: kumi.Controller) -> None:
    for bad in (None, 3, b"x", ["x"]):
        with pytest.raises(TypeError, match="^pattern must be a non-empty string"):
            crew.cancel(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^pattern must be a non-empty string"):
        crew.cancel("")
    assert crew.cancel("[") == 0  # no pattern, so it is a name


def test_what_state_lacks_is_told_with_what_sets_it(crew: kumi.Controller) -> None:
    with pytest.raises(AttributeError, match=r"kumi.state has no 'model' in this process: `setup=`"):
        crew.submit(_model).result()


def _model() -> object:
    return kumi.state.model


def test_an_unknown_controller_is_told_with_those_that_are_open() -> None:
    with kumi.Controller(kumi.Sequential(), name="a-known-one") as crew:
        crew.start()
        with pytest.raises(kumi.ControllerError, match="'nowhere'.*'a-known-one'"):
            crew.with_options(controller="nowhere").submit(jobs.add, 1)
