"""A host that is killed takes everything along within a second: workers, and whatever their tasks started.

KUMI_KILLS, as `make chaos` sets it, has it killed more often than a few times.
"""

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import jobs
import pytest

SECONDS = 1.0
ROUNDS = int(os.environ.get("KUMI_KILLS", "40")) // 10

HOST = """
    import sys, kumi, progeny
    with kumi.Controller(workers=2) as crew:
        tasks = [crew.submit(progeny.start_all) for _ in range(2)]
        print(*[pid for task in tasks for pid in task.result(30)], flush=True)
        crew.map(progeny.burn, range(2)).results()
"""

PROGENY = """
    import os, signal, subprocess, time

    SLEEP = ["sleep", "600"]

    def start_all():
        pids = [os.getpid(), subprocess.Popen(SLEEP).pid, subprocess.Popen(SLEEP, start_new_session=True).pid]
        stopped = subprocess.Popen(SLEEP, start_new_session=True).pid
        os.kill(stopped, signal.SIGSTOP)
        time.sleep(0.05)  # so that both workers get one
        return [*pids, stopped, daemon()]

    def daemon():
        # Two forks and a session of its own, with nothing of kumi's in its environment.
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.setsid()
            child = subprocess.Popen(SLEEP, env={"PATH": os.environ["PATH"]})
            os.write(writer, str(child.pid).encode())
            os._exit(0)
        os.close(writer)
        os.wait()
        return int(os.read(reader, 20))

    def burn(_):
        while True: pass
"""


@pytest.fixture
def burners() -> Iterator[None]:
    """Keep every CPU busy."""
    count = 2 * (os.cpu_count() or 1)
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    yield
    for process in started:
        process.kill()
        process.wait()


def seconds_to_end(pids: list[int], host: "subprocess.Popen[str]") -> float:
    """Kills the host; returns how long it took until all of these were dead."""
    descriptors = [os.pidfd_open(pid) for pid in pids]
    begun = time.monotonic()
    host.send_signal(signal.SIGKILL)
    try:
        for pid, descriptor in zip(pids, descriptors, strict=True):
            assert select.select([descriptor], [], [], jobs.SECONDS_MAX)[0], f"process {pid} lives on"
        return time.monotonic() - begun
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_killed_host_takes_everything_along(tmp_path: Path, burners: None) -> None:
    (tmp_path / "progeny.py").write_text(textwrap.dedent(PROGENY))
    file = tmp_path / "host.py"
    file.write_text(textwrap.dedent(HOST))
    took = []
    for _ in range(ROUNDS):
        with subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True) as host:
            assert host.stdout is not None
            try:
                pids = [int(pid) for pid in host.stdout.readline().split()]
                assert len(pids) == 10
                os.kill(pids[0], signal.SIGSTOP)  # one of the workers
                took.append(seconds_to_end(sorted(set(pids)), host))
            finally:
                host.kill()
    print("seconds until all were dead:", *(f"{seconds:.3f}" for seconds in took))
    assert max(took) < SECONDS
