"""Machines that are reached by ssh: network namespaces, each with a name and a real sshd of its own."""

import contextlib
import os
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import SECONDS_TO_LEAVE, Link, link, run

NAMES = ("alpha", "beta")


class Machine:
    """A namespace in which an sshd listens.

    Args:
        name: As `socket.gethostname` tells it there, and as ssh knows it.
        there: The way to it.
        keys: The directory with all keys.
    """

    def __init__(self, name: str, there: Link, keys: Path) -> None:
        self.name = name
        self.link = there
        self.address = there.host.removesuffix("1") + "2"
        self.log: deque[str] = deque(maxlen=100)
        config = keys / f"sshd_{name}"
        config.write_text(
            f"ListenAddress {self.address}\nHostKey {keys}/host\nAuthorizedKeysFile {keys}/authorized\n"
            f"Banner {keys}/banner\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\n"
        )
        run(*there.prefix, "ip", "route", "add", "default", "via", there.host)
        start = f"echo {name} > /proc/sys/kernel/hostname && exec setpriv --pdeathsig KILL {_sshd()} -D -e -f {config}"
        self._process = subprocess.Popen(
            [*there.prefix, "unshare", "--uts", "sh", "-c", start], stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        started = any("Server listening" in line or self.log.append(line) for line in self._process.stderr)
        if not started:
            self._process.wait()
            raise OSError(f"sshd does not start: {' '.join(self.log)}")
        self._reader = threading.Thread(target=self.log.extend, args=(self._process.stderr,))
        self._reader.start()

    def pids(self) -> list[int]:
        """All processes there but the sshd that listens."""
        answer = subprocess.run(
            ["ip", "netns", "pids", self.link.prefix[-1]], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in answer.stdout.split() if int(pid) != self._process.pid]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(SECONDS_TO_LEAVE)
        self._reader.join(SECONDS_TO_LEAVE)
        assert self._process.stderr is not None
        self._process.stderr.close()


class Net:
    """The machines, and what ssh needs to reach them.

    Attributes:
        machines: By their names.
        options: For ssh, so that it takes no notice of the user's own files.
        host: The address of this machine, as all of them know it.
    """

    def __init__(self, machines: list[Machine], directory: Path) -> None:
        self.machines = {machine.name: machine for machine in machines}
        self.directory = directory
        self.options = ("-F", str(directory / "config"))
        self.host = machines[0].link.host

    def pids(self) -> list[int]:
        return [pid for machine in self.machines.values() for pid in machine.pids()]


@contextlib.contextmanager
def net(directory: Path) -> Iterator[Net]:
    """Two machines, alpha and beta. Skips the test where they cannot be, except in CI."""
    missing = [program for program in ("ssh", "ssh-keygen") if shutil.which(program) is None]
    missing += [] if Path(_sshd()).exists() else [_sshd()]
    if missing or os.geteuid() != 0:
        if os.environ.get("CI"):
            raise OSError(f"needs root, and apt-get install openssh-server openssh-client; missing: {missing}")
        pytest.skip(f"no machines with an sshd here: not root, or missing: {missing}")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(link(number)) for number in (1, 2)]
        _make_keys(directory)
        machines = []
        for name, there in zip(NAMES, links, strict=True):
            machines.append(Machine(name, there, directory))
            stack.callback(machines[-1].stop)
        _write_config(directory, machines)
        yield Net(machines, directory)


def _sshd() -> str:
    return shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin") or "/usr/sbin/sshd"


def _make_keys(directory: Path) -> None:
    for name in ("host", "user", "restricted", "unknown"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
        subprocess.run(command, check=True, timeout=SECONDS_TO_LEAVE)
    user, restricted = ((directory / f"{name}.pub").read_text() for name in ("user", "restricted"))
    (directory / "authorized").write_text(f"{user}restrict {restricted}")
    (directory / "banner").write_text("Welcome to a shared machine.\n")


def _write_config(directory: Path, machines: list[Machine]) -> None:
    """Names that lead to the machines, and some by which they cannot be entered."""
    alpha = machines[0].address
    hosts = {machine.name: f"HostName {machine.address}" for machine in machines} | {
        "closed": f"HostName {alpha}\nPort 1",
        "stranger": f"HostName {alpha}\nUserKnownHostsFile /dev/null",
        "keyless": f"HostName {alpha}\nIdentityFile {directory}/unknown",
        "restricted": f"HostName {alpha}\nIdentityFile {directory}/restricted",
        "* !keyless !restricted": f"IdentityFile {directory}/user",
        "*": (
            f"User root\nIdentitiesOnly yes\nIdentityAgent none\nStrictHostKeyChecking yes\n"
            f"UserKnownHostsFile {directory}/known\nGlobalKnownHostsFile /dev/null"
        ),
    }
    (directory / "config").write_text("".join(f"Host {name}\n{text}\n" for name, text in hosts.items()))
    key = (directory / "host.pub").read_text()
    (directory / "known").write_text("".join(f"{machine.address} {key}" for machine in machines))
