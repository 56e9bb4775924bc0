"""Workers that cannot be taken: of another version, or that never come. Said on both sides, with what to do."""

import fcntl
import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import jobs
import kumi
import pytest
from kumi._core import PROTOCOL

LIMIT = jobs.SECONDS_MAX
PYTHON = sys.version_info[:2]
OTHER_PROTOCOL = (
    f"speaks version 99 of the protocol, the host version {PROTOCOL}: install the same version of kumi for both"
)
OTHER_PYTHON = "runs Python 3.9, the host Python {}.{}: functions cannot travel between them; give the launcher python="

STRANGER = """
    #!{interpreter}
    # Says hello as docs/protocol.md has it, and ends when it has been answered.
    import os, struct
    hello = struct.pack("<BIBBIH", 129, {version}, {major}, {minor}, os.getpid(), 5) + b"there"
    os.write(3, struct.pack("<I", len(hello)) + hello)
    os.read(3, 1)
"""


def executable(file: Path, text: str) -> str:
    file.write_text(textwrap.dedent(text).lstrip())
    file.chmod(0o755)
    return str(file)


@pytest.mark.parametrize(
    ("version", "python", "words"),
    [(99, PYTHON, OTHER_PROTOCOL), (PROTOCOL, (3, 9), OTHER_PYTHON.format(*PYTHON))],
    ids=["protocol", "Python"],
)
def test_a_worker_of_another_version(version: int, python: tuple[int, int], words: str, tmp_path: Path) -> None:
    major, minor = python
    text = STRANGER.format(interpreter=sys.executable, version=version, major=major, minor=minor)
    launcher = kumi.Local(python=executable(tmp_path / "stranger", text))
    with kumi.Controller(launcher, workers=1) as crew:
        with pytest.raises(kumi.LaunchError, match=re.escape(f"the worker {words}")):
            crew.submit(jobs.add, 1).result(LIMIT)
        assert crew.summary().workers_launched == 0


def page_of_worker() -> tuple[int, int]:
    """Size and seals of the page that a worker has been given."""
    return os.fstat(5).st_size, fcntl.fcntl(5, fcntl.F_GET_SEALS)


def start_worker(page: tuple[int, int]) -> tuple["subprocess.Popen[str]", list[socket.socket]]:
    """A worker whose host is this process, and this end of its two sockets."""
    pairs = [socket.socketpair() for _ in range(2)]
    memory = os.memfd_create("page", os.MFD_ALLOW_SEALING)
    os.truncate(memory, page[0])
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, page[1])
    passed = [*(theirs.fileno() for _, theirs in pairs), memory]
    lift = f"import os\nfor to, fd in enumerate({passed}, 3): os.dup2(fd, to)\n"
    worker = subprocess.Popen(
        [sys.executable, "-c", lift + "from kumi.worker import main\nmain()"],
        pass_fds=passed,
        env=os.environ | {"KUMI_WORKER": f"{os.getpid()}-1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(memory)
    for _, theirs in pairs:
        theirs.close()
    return worker, [ours for ours, _ in pairs]


def test_a_worker_that_is_refused_tells_why(single: kumi.Controller) -> None:
    worker, (data, control) = start_worker(single.submit(page_of_worker).result(LIMIT))
    reason = "the reason of the host"
    with worker, data, control:
        assert data.recv(4096)[4] == 129, "it says hello"
        text = len(reason).to_bytes(2, "little") + reason.encode()
        data.sendall((1 + len(text)).to_bytes(4, "little") + b"\x02" + text)
        assert worker.stderr is not None
        assert worker.stderr.read() == f"{reason}\n"
        assert worker.wait(LIMIT) == 1


def test_workers_that_never_come_are_told_and_ended(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    python = executable(tmp_path / "python", f"#!/bin/sh\necho $$ >> {file}\nexec sleep 600\n")
    with kumi.Controller(kumi.Local(python=python), workers=1, seconds_launch=0.05) as crew:
        with pytest.raises(kumi.LaunchError, match=r"no worker came within 0.05 s \(seconds_launch\)"):
            crew.submit(jobs.add, 1).result(LIMIT)
    for pid in file.read_text().split():
        jobs.wait_for_end(int(pid))


def test_what_they_wrote_is_told(tmp_path: Path) -> None:
    python = executable(tmp_path / "python", "#!/bin/sh\necho waiting for a licence >&2\nexec sleep 600\n")
    with kumi.Controller(kumi.Local(python=python), workers=5, seconds_launch=2) as crew:
        error = crew.map(jobs.add, range(5), on_error="return").results()[0]
    assert isinstance(error, kumi.LaunchError)
    assert str(error).endswith(
        "no worker came within 2 s (seconds_launch); the last it wrote to stderr:\nwaiting for a licence"
    )
