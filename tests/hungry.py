"""Tasks that take time and memory, in a module that a worker imports fast."""

import fcntl
import os
import signal
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


def fill_then_die(file: str, megabytes: int) -> None:
    """Takes too much memory the first time, and kills its worker the next."""
    jobs.note(file, "begun")
    if len(Path(file).read_text(encoding="utf-8").split()) > 1:
        jobs.kill_self()
    fill_and_sleep(megabytes)


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


CLAIMED: list[int] = []


def devices() -> list[str]:
    return os.environ["CUDA_VISIBLE_DEVICES"].split(",")


def hold_devices(gate: str) -> tuple[str, str]:
    jobs.hold(gate)
    return os.environ["CUDA_VISIBLE_DEVICES"], os.environ["HIP_VISIBLE_DEVICES"]


def claim_devices(directory: str) -> list[str]:
    """Fails if another process has one of this worker's devices, which are its own until it ends."""
    if not CLAIMED:
        for device in devices():
            CLAIMED.append(os.open(f"{directory}/{device}", os.O_CREAT | os.O_RDWR))
            fcntl.flock(CLAIMED[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    return devices()


def claim_devices_and_die_once(directory: str) -> list[str]:
    claimed = claim_devices(directory)
    info = kumi.task_info()
    if info is not None and info.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return claimed


def leave_devices_to_a_child(directory: str) -> None:
    """The child holds what its parent has claimed, and shows that it is there before the parent ends."""
    claim_devices(directory)
    program = "import sys, time; print(1, flush=True); time.sleep(100)"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, pass_fds=CLAIMED, start_new_session=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    os._exit(3)
