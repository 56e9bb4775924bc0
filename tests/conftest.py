"""What tests share, and what holds for all of them: when the last one has ended, no process of kumi's is left."""

import os
import select
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import jobs
import kumi
import pytest

SECONDS_TO_LEAVE = 10.0


def pytest_configure(config: pytest.Config) -> None:
    """What tasks of tests print is not kept among the user's logs."""
    state = tempfile.TemporaryDirectory(prefix="kumi-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(state.cleanup)
    os.environ["XDG_STATE_HOME"] = state.name


@pytest.fixture(scope="module")
def crew() -> Iterator[kumi.Controller]:
    """A controller of two workers that a file's tests share."""
    with kumi.Controller(workers=2) as crew:
        yield crew


@pytest.fixture
def single() -> Iterator[kumi.Controller]:
    """A controller of its own with one worker, for counts."""
    with kumi.Controller(workers=1) as crew:
        yield crew


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[jobs.Gate]:
    """Holds tasks until the test lets them go."""
    with jobs.gate_in(tmp_path) as gate:
        yield gate


@pytest.fixture(autouse=True, scope="session")
def nothing_left_behind() -> Iterator[None]:
    """Fails the last test if workers outlive the controllers of this test process.

    Tests close the controllers they open. Only the default controller may still be open here, since whoever calls
    `kumi.submit` does not hold it.
    """
    yield
    kumi.daemons(0)
    left = [command_line(pid) for pid in children() if not ends_in_time(pid)]
    assert not left, f"processes left behind: {left}"


def children() -> list[int]:
    """Process ids of this process's children, whichever thread started them."""
    found: list[int] = []
    for file in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            found += map(int, file.read_text().split())
    return found


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def ends_in_time(pid: int) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], SECONDS_TO_LEAVE)[0])
    finally:
        os.close(descriptor)
