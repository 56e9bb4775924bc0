"""Workers on other machines that ssh reaches."""

import json
import os
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from kumi.launchers.base import NewWorker, in_words
from kumi.launchers.connection import Connection
from kumi.launchers.connections import Connections
from kumi.launchers.local import check_environment, interpreter
from kumi.options import text, whole

LOOPBACK = "127.0.0.1"
PORTS = range(10_000, 32_768)  # below those that Linux gives to whoever asks for any
BYTES_GIVEN_MAX = 60_000  # what a pipe takes before anybody reads

# Nobody is there who could type a password. A connection that is shared with others would end with them. The options
# that the user gives come first, and the first counts.
ALWAYS = ("-T", "-x", "-oBatchMode=yes", "-oControlPath=none", "-oConnectTimeout=30")


@dataclass(frozen=True, slots=True)
class SSH:
    """Launches workers on other machines by `ssh`, each by a connection of its own; a worker ends with its connection.

    What your `~/.ssh/config` says of a host holds: its address, port, user, key, jumps. Nobody is asked for passwords,
    so a key must open the host. There, the same minor version of Python and the same version of kumi must be installed.
    The join code and the variables of `environment` pass through the connection, and stand on no command line.

    Args:
        hosts: Names as `ssh` takes them, such as "node1" or "me@node1"; or a mapping of names to the most workers that
            each may have.
        workers_per_host: That number for all hosts, if `hosts` is no mapping.
        python: The interpreter there; what is no absolute path is looked for from the home directory on, or is a
            command, such as "python3". None: the path of the one that runs this program.
        tunnel: Whether workers reach the controller through their ssh connection. If not, they call `host` and `port`
            of the controller by themselves, and need a way to it.
        environment: Variables to set for the workers. A library's number of threads (OMP_NUM_THREADS and its kin) is
            set to usable CPUs there // workers on that host unless it is set here or there.
        ssh: The program.
        options: More arguments for it, such as `["-i", "key"]`.

    Raises:
        TypeError, ValueError: If an argument is not of the kind or in the range that the message names.

    Example:
        >>> crew = kumi.Controller(kumi.SSH(["node1", "node2"], workers_per_host=8, python="venv/bin/python"))
    """

    hosts: Sequence[str] | Mapping[str, int]
    workers_per_host: int = 1
    python: str | os.PathLike[str] | None = None
    tunnel: bool = True
    environment: Mapping[str, str] | None = field(default=None, repr=False)  # may be secret
    ssh: str = "ssh"
    options: Sequence[str] = ()
    _connections: Connections = field(init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        return in_words(self)

    def __post_init__(self) -> None:
        each = whole("workers_per_host", self.workers_per_host, least=1)
        hosts = _hosts(self.hosts)
        if isinstance(hosts, dict) and each != 1:
            raise ValueError("workers_per_host is for a sequence of hosts: a mapping has the numbers itself")
        if not isinstance(self.tunnel, bool):
            raise TypeError(f"tunnel must be True or False, not {self.tunnel!r}")
        check_environment(self.environment)
        checked = {
            "hosts": hosts,
            "workers_per_host": each,
            "python": interpreter(self.python),
            "ssh": text("ssh", self.ssh),
            "options": _words(self.options),
            "_connections": Connections(hosts if isinstance(hosts, dict) else dict.fromkeys(hosts, each)),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if len(self._given({})) > BYTES_GIVEN_MAX:
            raise ValueError(f"environment must have at most {BYTES_GIVEN_MAX} bytes")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, one.name) for one in fields(self) if one.init)

    @property
    def slots(self) -> int:
        """The most workers at a time, on all hosts."""
        return sum(self._connections.places.values())

    @property
    def host(self) -> str | None:
        """Where the controller listens, unless it is told."""
        return LOOPBACK if self.tunnel else None

    def launch(self, workers: Sequence[NewWorker], /) -> list[Connection]:
        """Starts these workers, each as soon as a host has a place for it.

        Raises:
            ValueError: If they cannot reach the controller through a tunnel, for want of a fingerprint in its URL.
        """
        if self.tunnel and not urlsplit(workers[0].url).path.strip("/"):
            raise ValueError("with a certificate of your own (tls=) workers check the name of the host: tunnel=False")
        connections = [
            Connection(worker.name, partial(self._command, worker), self._given(worker.environment), worker.failed)
            for worker in workers
        ]
        self._connections.open(connections)
        return connections

    def poll(self, handles: Sequence[Connection], /) -> list[str | None]:
        """Which of the workers have ended, and why."""
        return [connection.why for connection in handles]

    def terminate(self, handles: Sequence[Connection], /) -> None:
        """Ends these workers with all that they have started."""
        self._connections.close(handles)

    def _command(self, worker: NewWorker, host: str) -> list[str]:
        """The command line of ssh; the worker's own is one word of it, for the shell there."""
        forward, url = self._way(worker.url) if self.tunnel else ([], worker.url)
        shared = ["--attached", "--workers-here", str(self._connections.places[host])]
        there = shlex.join(["exec", *worker.command(self.python, url=url), *shared])
        return [self.ssh, *self.options, *ALWAYS, *forward, "--", host, there]

    def _way(self, url: str) -> tuple[list[str], str]:
        """Options of ssh for a tunnel to the controller, and where its other end is."""
        # A port that is taken there fails the launch, and the next one tries another. Whoever connects to it there, as
        # any user of that host can, has to prove the join code.
        port = secrets.choice(PORTS)
        place = urlsplit(url)
        forward = ["-oExitOnForwardFailure=yes", "-R", f"{LOOPBACK}:{port}:{place.netloc}"]
        return forward, place._replace(netloc=f"{LOOPBACK}:{port}").geturl()

    def _given(self, variables: Mapping[str, str]) -> bytes:
        return json.dumps({**(self.environment or {}), **variables}).encode() + b"\n"


def _hosts(value: object) -> tuple[str, ...] | dict[str, int]:
    accepted = "hosts must be a sequence of names, or a mapping of names to numbers of workers"
    if isinstance(value, str | bytes) or not isinstance(value, Sequence | Mapping):
        raise TypeError(f"{accepted}, not {value!r}")
    names = tuple(_host(name) for name in value)
    if not names:
        raise ValueError(f"{accepted}, and have at least one")
    if isinstance(value, Mapping):
        return {name: whole(f"hosts[{name!r}]", value[name], least=1) for name in names}
    if len(set(names)) < len(names):
        raise ValueError(f"{accepted}, each once, not {value!r}; for several workers there: workers_per_host")
    return names


def _host(value: object) -> str:
    name = text("a name in hosts", value)
    if name.startswith("-") or "\0" in name:
        raise ValueError(f"a name in hosts must be one that ssh takes, not {name!r}")
    return name


def _words(value: object) -> tuple[str, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f"options must be a sequence of arguments for ssh, not {value!r}")
    return tuple(text("an argument in options", word) for word in value)
