"""How what a task raises comes home: as itself where it can, else in words, always with its traceback."""

import asyncio
import concurrent.futures
import enum
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from kumi import serial
from kumi.errors import CrashError, RemoteError, SerializationError, TaskCancelled
from rig import run_python, write


class Picky(Exception):
    """Wants other arguments than it keeps: plain pickle cannot bring it back."""

    def __init__(self, name: str, *, code: int) -> None:
        super().__init__(f"{name}: {code}")
        self.code = code


class Prefixing(Exception):
    """Plain pickle brings it back wrong."""

    def __init__(self, text: str) -> None:
        super().__init__(f"bad {text}")


class Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Holding(Exception):
    pass


class CancelledError(Exception):
    pass


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def returned(error: BaseException) -> BaseException:
    return serial.loads_error(serial.dumps_error(raised(error)))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no", 3),
        KeyError("k"),
        OSError(2, "No such file", "a.txt"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        ImportError("no", name="a", path="b"),
        Picky("a", code=3),
        Prefixing("thing"),
        ExceptionGroup("some", [ValueError(1), KeyError(2)]),
        SerializationError("no"),
        CrashError("gone"),
        type("Dynamic", (ValueError,), {})("dynamic"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_back_as_they_are(error: Exception) -> None:
    copy = returned(error)
    assert type(copy) is type(error)
    assert (str(copy), repr(copy.args)) == (str(error), repr(error.args))
    assert {**vars(copy)} == {**vars(error)}
    assert f"{type(error).__name__}" in str(copy.__cause__)
    assert "in raised" in str(copy.__cause__)


@pytest.mark.parametrize(
    ("error", "cause_type", "text"),
    [
        (SystemExit(3), "SystemExit", "3"),
        (KeyboardInterrupt(), "KeyboardInterrupt", ""),
        (GeneratorExit(), "GeneratorExit", ""),
        (StopIteration(1), "StopIteration", "1"),
        (StopAsyncIteration(), "StopAsyncIteration", ""),
        (asyncio.CancelledError(), "asyncio.exceptions.CancelledError", ""),
        (concurrent.futures.CancelledError("a"), "concurrent.futures._base.CancelledError", "a"),
        (TaskCancelled("a"), "kumi.errors.TaskCancelled", "a"),
        (CancelledError("b"), "test_remote_errors.CancelledError", "b"),
        (Holding(threading.Lock()), "test_remote_errors.Holding", None),
        (Mute(), "test_remote_errors.Mute", "<Mute whose __str__ fails>"),
        (BaseExceptionGroup("g", [SystemExit(1)]), "BaseExceptionGroup", "g (1 sub-exception)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_errors_that_must_not_come_back_as_they_are(error: BaseException, cause_type: str, text: str | None) -> None:
    copy = returned(error)
    if isinstance(error, Mute):
        assert type(copy) is Mute  # it can be pickled after all
        return
    assert type(copy) is RemoteError
    assert copy.cause_type == cause_type
    assert text is None or copy.text == text
    assert "in raised" in copy.traceback
    assert "in raised" in str(copy.__cause__)


def test_notes_and_explicit_causes_are_kept() -> None:
    def chain() -> None:
        try:
            raise KeyError("the first")
        except KeyError as error:
            raise ValueError("the second") from error

    try:
        chain()
    except ValueError as error:
        error.add_note("a note")
        payload = serial.dumps_error(error)
    copy = serial.loads_error(payload)
    assert copy.__notes__ == ["a note"]
    text = str(copy.__cause__)
    assert text.index("KeyError: 'the first'") < text.index("direct cause") < text.index("ValueError: the second")
    assert "a note" in text


def test_the_summary_needs_no_original() -> None:
    payload = serial.dumps_error(raised(Picky("a", code=3)))
    name, text, traceback = serial.error_summary(payload)
    assert (name, text) == ("test_remote_errors.Picky", "a: 3")
    assert traceback.startswith("Traceback (most recent call last):")
    assert traceback.endswith("Picky: a: 3\n")


def test_a_long_traceback_loses_its_middle() -> None:
    """X17: the error itself is whole."""
    payload = serial.dumps_error(raised(ValueError("x" * 5_000_000 + " the end")))
    traceback = serial.traceback_in(payload)
    assert len(traceback) < serial.TRACEBACK_MAX + 100
    assert traceback.startswith("Traceback (most recent call last):")
    assert "characters left out" in traceback
    assert traceback.endswith("x the end\n")
    assert len(str(serial.loads_error(payload))) == 5_000_008


def test_an_error_whose_class_is_missing_here(tmp_path: Path) -> None:
    write(tmp_path, "kumi_test_gone.py", "class Gone(Exception): pass")
    sys.path.insert(0, str(tmp_path))
    import kumi_test_gone

    payload = serial.dumps_error(kumi_test_gone.Gone("a"))
    del sys.modules["kumi_test_gone"], sys.path[0]
    copy = serial.loads_error(payload)
    assert type(copy) is RemoteError
    assert (copy.cause_type, copy.text) == ("kumi_test_gone.Gone", "a")


def test_an_error_shows_its_remote_traceback_when_nobody_catches_it(tmp_path: Path) -> None:
    code = """
        import traceback
        from rig import remote
        def fail(): return 1 / 0
        try: remote(fail)
        except ZeroDivisionError: print(traceback.format_exc())
    """
    output = run_python(str(write(tmp_path, "program.py", code)), directory=tmp_path)
    assert "def fail(): return 1 / 0" in output
    assert "The above exception was the direct cause" in output


class Flag(enum.Flag):
    A = 1
    B = 2


def test_errors_keep_attributes_of_any_kind() -> None:
    error = ValueError("a")
    error.flag, error.function = Flag.A | Flag.B, lambda: 3  # type: ignore[attr-defined]
    copy: Any = returned(error)
    assert copy.flag is Flag.A | Flag.B
    assert copy.function() == 3
