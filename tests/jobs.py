"""What the tests run on workers, in a module that a worker imports fast, and a gate at which tasks wait."""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

SECONDS_MAX = 30.0


class Gate:
    """Tasks say here that they have begun, and go on when the test lets them. No clock is involved.

    When the gate is closed those that wait go on, and those that come later fail.
    """

    def __init__(self, directory: Path) -> None:
        self.path = str(directory)
        os.mkfifo(directory / "begun")
        os.mkfifo(directory / "go")
        self._begun = os.open(directory / "begun", os.O_RDWR)
        self._go = os.open(directory / "go", os.O_RDWR)

    def wait(self, tasks: int = 1) -> None:
        """Returns when so many tasks have begun since the last call."""
        for _ in range(tasks):
            assert select.select([self._begun], [], [], SECONDS_MAX)[0], "the task did not begin in time"
            os.read(self._begun, 1)

    def has_begun(self) -> bool:
        return bool(select.select([self._begun], [], [], 0)[0])

    def open(self, tasks: int = 1) -> None:
        """Lets so many tasks go on."""
        os.write(self._go, b"." * tasks)

    def close(self) -> None:
        # Names first: as long as they are there somebody is at the other end, so that no task is caught opening one.
        for name in ("begun", "go"):
            Path(self.path, name).unlink()
        os.close(self._begun)
        os.close(self._go)


@contextlib.contextmanager
def gate_in(directory: Path) -> Iterator[Gate]:
    gate = Gate(directory)
    try:
        yield gate
    finally:
        gate.close()


def wait_for_end(pid: int) -> None:
    """Returns when the process is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], SECONDS_MAX)[0], f"process {pid} did not end"
    finally:
        os.close(descriptor)


def begin(gate: str) -> None:
    with open(f"{gate}/begun", "wb", buffering=0) as begun:
        begun.write(b".")


def hold(gate: str, value: Any = None) -> Any:
    begin(gate)
    with open(f"{gate}/go", "rb", buffering=0) as go:
        go.read(1)
    return value


def add(a: int, b: int = 1) -> int:
    return a + b


def echo(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def same(value: Any) -> Any:
    return value


def pid() -> int:
    return os.getpid()


def environment(name: str) -> str | None:
    return os.environ.get(name)


def path() -> list[str]:
    return sys.path


def boom(text: str = "no") -> NoReturn:
    raise ValueError(text)


def boom_at(number: int, bad: int) -> int:
    if number == bad:
        raise ValueError(f"bad {number}")
    return number


def leave(code: Any = 0) -> NoReturn:
    sys.exit(code)


def say(text: str) -> None:
    print(text)
    print(text, file=sys.stderr)


def note(file: str, text: str) -> None:
    """One line in a file that the test reads: by how much work was done, and how often."""
    with open(file, "a", encoding="utf-8") as f:
        f.write(text + "\n")


def kill_self(file: str | None = None) -> NoReturn:
    if file is not None:
        note(file, str(os.getpid()))
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def start_child() -> int:
    """Starts a process that would outlive the task by far, and returns its process id."""
    return subprocess.Popen(["sleep", "600"], start_new_session=True).pid


def segfault() -> None:
    ctypes.string_at(0)


def exit_hard(code: int, last_words: str = "") -> NoReturn:
    sys.stderr.write(last_words)
    sys.stderr.flush()
    os._exit(code)


def die_times(file: str, times: int) -> int:
    """Dies so many times and then returns how often it was begun."""
    note(file, "begun")
    begun = len(Path(file).read_text(encoding="utf-8").splitlines())
    if begun <= times:
        kill_self()
    return begun


class Unpicklable:
    def __reduce__(self) -> NoReturn:
        raise TypeError("this object stays where it is")


class PoisonOnArrival:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse_arrival, ()


def _refuse_arrival() -> NoReturn:
    raise OSError("it broke on the way")


def make_unpicklable() -> Unpicklable:
    return Unpicklable()


class OddError(Exception):
    """Cannot be rebuilt from its args."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"odd {code}")
        self.code = code
        self.detail = detail


def raise_odd() -> NoReturn:
    raise OddError(7, detail="x")


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("held back")
        self.held = Unpicklable()


def raise_unpicklable() -> NoReturn:
    raise UnpicklableError
