"""Workers that are started by hand, here or on what passes for another machine: a network namespace."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import kumi
import pytest

SECONDS_TO_LEAVE = 20.0


class Workers:
    """`kumi worker` processes of one controller, and what they have written.

    Args:
        crew: The controller, or its URL.
        directory: Where they start: not the project's.
        prefix: What goes before the command, such as `ip netns exec`.
    """

    def __init__(self, crew: kumi.Controller, directory: Path, prefix: Sequence[str] = ()) -> None:
        self.crew = crew
        self.directory = directory
        self.prefix = prefix
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int = 1, *options: str, **environment: str) -> None:
        code = self.crew.join_code(uses=count)
        # One that comes too late shall not try for long.
        patience = ("--seconds-connect", "4")
        command = [*self.prefix, sys.executable, "-m", "kumi", "worker", self.crew.url, *patience, *options]
        for _ in range(count):
            with self.log().open("ab") as log:
                process = subprocess.Popen(
                    command,
                    cwd=self.directory,
                    env=os.environ | {"KUMI_JOIN_CODE": code} | environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            self.processes.append(process)

    def log(self) -> Path:
        return self.directory / "workers.log"

    def written(self) -> str:
        return self.log().read_text() if self.log().exists() else ""

    def wait(self) -> list[int]:
        """Exit codes, when all have ended."""
        return [process.wait(SECONDS_TO_LEAVE) for process in self.processes]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        self.wait()


@contextlib.contextmanager
def workers_of(crew: kumi.Controller, directory: Path, prefix: Sequence[str] = ()) -> Iterator[Workers]:
    """Workers that end with the block at the latest, well if their controller ends them before."""
    workers = Workers(crew, directory, prefix)
    try:
        yield workers
    except BaseException:
        print(workers.written())
        raise
    finally:
        crew.terminate()
        try:
            workers.wait()
        finally:
            workers.kill()


class Link:
    """A namespace that is another machine, and the cable to it.

    Attributes:
        host: This machine's address on the link.
        prefix: What goes before a command that is to run on the other machine.
    """

    def __init__(self, number: int) -> None:
        self._name = f"kumi{number}"
        self._net = f"10.213.{number % 256}"
        self._cable: subprocess.Popen[str] | None = None
        self.host = f"{self._net}.1"
        self.prefix = ("ip", "netns", "exec", self._name)

    def make(self) -> None:
        near, far = f"{self._name}n", f"{self._name}f"
        run("ip", "netns", "add", self._name)
        program = str(Path(__file__).with_name("cable.py"))
        command = [*_sudo(), sys.executable, program, near, far]
        self._cable = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._hear("ready")
        run("ip", "link", "set", far, "netns", self._name)
        run("ip", "address", "add", f"{self.host}/24", "dev", near)
        run("ip", "link", "set", near, "up")
        for command in (f"address add {self._net}.2/24 dev {far}", f"link set {far} up", "link set lo up"):
            run(*self.prefix, "ip", *command.split())

    def cut(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        self._order("cut")

    def carry(self, delay: float = 0, jitter: float = 0, loss: float = 0) -> None:
        """Each frame takes so many seconds, more or less, and that share of them is lost."""
        self._order(f"carry {delay} {jitter} {loss}")

    def delete(self) -> None:
        if self._cable is not None:
            self._cable.communicate(timeout=SECONDS_TO_LEAVE)  # its devices end with it
        run("ip", "netns", "del", self._name)

    def _order(self, what: str) -> None:
        assert self._cable is not None
        assert self._cable.stdin is not None
        self._cable.stdin.write(f"{what}\n")
        self._cable.stdin.flush()
        self._hear("done")

    def _hear(self, what: str) -> None:
        assert self._cable is not None
        assert self._cable.stdout is not None
        heard = self._cable.stdout.readline()
        if heard != f"{what}\n":
            raise OSError("there is no cable: TAP devices need root and /dev/net/tun")


def run(*command: str) -> None:
    """Runs a command as root."""
    done = subprocess.run([*_sudo(), *command], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr}")


def _sudo() -> list[str]:
    return [] if os.geteuid() == 0 else ["sudo", "-n"]


@contextlib.contextmanager
def link(number: int = 0) -> Iterator[Link]:
    """Another machine. Skips the test where none can be made, except in CI.

    Args:
        number: From 0 to 2, if there are several.
    """
    # Of tests that run beside each other each has numbers of its own.
    made = Link(int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) + 100 + 50 * number)
    try:
        if shutil.which("ip", path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
            raise OSError("ip is missing: apt-get install iproute2")
        with contextlib.suppress(OSError):
            made.delete()  # what a test that was killed has left
        made.make()
    except OSError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no network namespaces here: {error}")
    try:
        yield made
    finally:
        made.delete()
