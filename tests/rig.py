"""A worker process of one call, without the core: what the tests of pickling need at the other end."""

import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kumi import serial

_CHILD = """
import pickle, sys
from kumi import serial, worker
serial.follow_host()
function, call = pickle.load(sys.stdin.buffer)
output, sys.stdout = sys.stdout.buffer, sys.stderr
executor = worker.Executor()
output.write(pickle.dumps(executor.run(executor.load(function), call)))
"""


def send(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[bool, bytes]:
    """Runs a call in a fresh interpreter; returns what `Executor.run` returned there."""
    payloads = serial.dumps_function(function), serial.dumps_call(args, kwargs, function)
    command = [sys.executable, "-P", "-c", _CHILD]
    child = subprocess.run(command, input=pickle.dumps(payloads), stdout=subprocess.PIPE, check=True, timeout=50)
    return pickle.loads(child.stdout)


def remote(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The same, but returns or raises as a Task would."""
    succeeded, payload = send(function, *args, **kwargs)
    if succeeded:
        return serial.loads(payload)
    raise serial.loads_error(payload)


def write(directory: Path, name: str, text: str) -> Path:
    """Writes a source file and the directories above it."""
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text))
    return file


def run_python(*arguments: str, directory: Path, stdin: str | None = None, seconds: float = 50) -> str:
    """Runs a fresh interpreter that can import this file; returns what it printed."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": path},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
