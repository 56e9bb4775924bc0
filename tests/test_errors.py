"""The error tree: what catches what, what survives pickling, what the import costs."""

import asyncio
import concurrent.futures
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from kumi import errors
from kumi._core import Certificate

SAMPLES = [
    errors.KumiError("a"),
    errors.RemoteError("SystemExit", "3", "Traceback ..."),
    errors.CrashError(
        "a", Certificate("killed by signal 9 (SIGKILL)", "memory", 7, "there", None, 9, 0.5, "last words")
    ),
    errors.CrashError("a"),
    errors.LaunchError("a", Certificate("exited with code 3", "other", None, None, 3, None, None, "")),
    errors.TaskTimeout("a"),
    errors.TaskCancelled("a"),
    errors.SerializationError("a"),
    errors.ControllerError("a"),
    errors.ControllerClosed("a"),
    errors.QueueFull("a"),
]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_survives_pickling(error: errors.KumiError) -> None:
    error.add_note("a note")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.args, repr(vars(copy))) == (str(error), error.args, repr(vars(error)))


def test_the_samples_are_complete() -> None:
    assert {type(error).__name__ for error in SAMPLES} == set(errors.__all__)
    assert all(isinstance(error, errors.KumiError) for error in SAMPLES)


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (errors.LaunchError, errors.CrashError),
        (errors.TaskCancelled, concurrent.futures.CancelledError),
        (errors.SerializationError, TypeError),
        (errors.ControllerClosed, errors.ControllerError),
        (errors.ControllerClosed, RuntimeError),
        (errors.QueueFull, errors.ControllerError),
    ],
)
def test_what_catches_what(error: type, base: type) -> None:
    assert issubclass(error, base)


def test_what_must_not_be_confused() -> None:
    assert not issubclass(errors.TaskTimeout, TimeoutError)
    assert not issubclass(errors.TaskCancelled, asyncio.CancelledError)


def test_a_remote_error_tells_the_type_and_the_text() -> None:
    error = errors.RemoteError("SystemExit", "3", "trace")
    assert str(error) == "the task raised SystemExit: 3"
    assert (error.cause_type, error.text, error.traceback) == ("SystemExit", "3", "trace")
    assert str(errors.RemoteError("KeyboardInterrupt", "", "")) == "the task raised KeyboardInterrupt"


def test_a_crash_without_certificate() -> None:
    assert errors.CrashError("gone").certificate is None


def test_task_cancelled_is_one_class_with_a_manual() -> None:
    assert errors.TaskCancelled is errors.TaskCancelled
    assert "cancelled" in (errors.TaskCancelled.__doc__ or "")
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = errors.Nonsense


def test_what_a_worker_imports_is_light() -> None:
    """Of these files alone: what `import kumi` loads is another matter."""
    code = """
import sys, types
old = set(sys.modules)
package = sys.modules["kumi"] = types.ModuleType("kumi")
package.__path__ = [sys.argv[1]]
import kumi.worker
print(*set(sys.modules) - old)
"""
    home = str(Path(errors.__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, home], capture_output=True, text=True, check=True, timeout=50)
    loaded = set(done.stdout.split())
    assert {"kumi.errors", "kumi.serial"} <= loaded
    assert not loaded & {"asyncio", "cloudpickle", "concurrent.futures", "dataclasses", "logging", "re", "traceback"}
