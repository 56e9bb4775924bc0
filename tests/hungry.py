"""Tasks that take time and memory, in a module that a worker imports fast."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jobs
import kumi

MEGABYTE = 10**6
CHILD = "kept = b'1' * {bytes}; import sys; print(len(kept), flush=True); sys.stdin.read()"
LEFT: list[bytes] = []


def slow(value: int, seconds: float = 0.02) -> tuple[int, int]:
    time.sleep(seconds)
    return value, os.getpid()


def pid_and_self(value: int) -> tuple[int, int]:
    return value, os.getpid()


def fill(megabytes: int) -> bytes:
    return b"1" * (megabytes * MEGABYTE)


def fill_and_sleep(megabytes: int, seconds: float = jobs.SECONDS_MAX) -> int:
    kept = fill(megabytes)
    time.sleep(seconds)
    return len(kept)


def fill_in_child(megabytes: int, seconds: float = jobs.SECONDS_MAX) -> None:
    program = CHILD.format(bytes=megabytes * MEGABYTE)
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(seconds)


def fork_with(megabytes: int, children: int, seconds: float) -> int:
    """Children that share all of their parent's memory, and touch none of it."""
    kept = fill(megabytes)
    pids = []
    for _ in range(children):
        pid = os.fork()
        if pid == 0:
            time.sleep(seconds)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return len(kept)


def leave(megabytes: int) -> int:
    """Takes memory for as long as the worker lives."""
    LEFT.append(fill(megabytes))
    return os.getpid()


def leave_and_sleep(megabytes: int, seconds: float) -> None:
    leave(megabytes)
    time.sleep(seconds)


def peak_of_child(megabytes: int) -> float | None:
    """Waits for a child that takes memory for as long as it needs to be seen."""
    child = kumi.submit(leave_and_sleep, megabytes, 0.1)
    child.result()
    LEFT.clear()
    assert child.record is not None
    return child.record.peak_gigabytes


def sleep_and_die(seconds: float) -> None:
    time.sleep(seconds)
    jobs.kill_self()


def enter_and_fill(group: str, megabytes: int) -> None:
    """Moves the worker into a control group, and takes more than that may have."""
    Path(group, "cgroup.procs").write_text(str(os.getpid()))
    time.sleep(0.1)
    fill(megabytes)
