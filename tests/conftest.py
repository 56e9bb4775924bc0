"""What holds for all tests: when the last one has ended, no process that kumi started is left."""

import os
import select
from collections.abc import Iterator
from pathlib import Path

import kumi
import pytest

SECONDS_TO_LEAVE = 10.0


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
    return [int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]


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
