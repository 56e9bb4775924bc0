"""`kumi worker URL` runs a worker for a controller on another machine.

Secrets come from the environment, a file or standard input, never from the command line, which every user of a machine
can read.
"""

import argparse
import getpass
import math
import os
import re
import stat
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from kumi import _core
from kumi.commands import attached
from kumi.commands.base import Verbs, ended_by
from kumi.launchers.base import INDEX, JOIN_CODE
from kumi.launchers.local import render
from kumi.logs import new_run

_CODE = re.compile(r"kumi-[0-9a-f]+-[0-9a-f]{16,}", re.IGNORECASE)
_WAYS = (
    f"put it into the environment variable {JOIN_CODE}, or into a file that only you may read (chmod 600), which "
    "--join-code FILE names, or hand it in by standard input with --join-code -"
)


class Address(NamedTuple):
    """Where a controller listens.

    Attributes:
        host: Its name or address.
        port: Its port.
        fingerprint: Of its certificate, in hexadecimal digits; None: authorities vouch for it.
    """

    host: str
    port: int
    fingerprint: str | None


def add(verbs: Verbs) -> None:
    """Enters the verb."""
    worker = verbs.add_parser(
        "worker",
        help="run a worker for a controller on another machine",
        description="Runs a worker for a controller on another machine, and the next when that dies, to the end.",
        epilog=f"The controller's join_code() makes the code. To keep it secret, {_WAYS}.",
    )
    worker.add_argument("url", metavar="URL", help="kumi://HOST:PORT/FINGERPRINT, as the controller shows it")
    worker.add_argument(
        "--join-code",
        metavar="FILE",
        help=f"file with the join code, - for standard input; else {JOIN_CODE}, or it asks",
    )
    worker.add_argument(
        "--authorities",
        metavar="FILE",
        help="certificates (PEM) of who vouches for the controller, if the URL has no fingerprint; else the system's",
    )
    worker.add_argument(
        "--seconds-connect",
        metavar="SECONDS",
        type=_seconds,
        default=60.0,
        help="for how long to try before the controller has let this worker in (default: 60)",
    )
    worker.add_argument(
        "--log-directory", metavar="DIR", help="where to keep what tasks print; else where `kumi logs` looks for it"
    )
    worker.add_argument(
        "--workers-here",
        metavar="NUMBER",
        type=_number,
        default=1,
        help="how many workers share this machine: the libraries' threads are divided by it (default: 1)",
    )
    worker.add_argument(
        "--attached",
        action="store_true",
        help="for launchers: take variables from standard input, as one line of JSON, and end when that ends",
    )
    worker.set_defaults(run=run)


def refuse_secrets(words: list[str]) -> None:
    """Makes sure that no secret stands among the words of a command line.

    Raises:
        ValueError: If one does.
    """
    if any(_CODE.search(word) for word in words):
        raise ValueError(
            "a join code stands on the command line, where every user of this machine can read it: it is not secret "
            f"any more. Make another one with join_code(), and {_WAYS}"
        )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return seconds


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return number


def run(options: argparse.Namespace) -> int:
    """Runs a worker, and the next when that dies, until the controller wants no more.

    Args:
        options: What `add` has named.

    Returns:
        The exit code: 0, or 128 and the number of the signal that has ended it.
    """
    address = _address(options.url)
    authorities = _authorities(address, options.authorities)
    if options.attached:
        attached.take_variables()
    code, index = _join_code(options.join_code), _index()
    _look_for_modules_here()
    _fill_missing_streams()
    command = render(sys.executable, {}, workers=options.workers_here, remote=True)
    with attached.ends_with_input() if options.attached else nullcontext():
        signal = _core.run_agent(
            address.host,
            address.port,
            code,
            command.argv,
            command.environment,
            fingerprint=address.fingerprint,
            authorities=authorities,
            index=index,
            seconds_connect=options.seconds_connect,
            log_directory=(new_run("worker", options.log_directory), options.log_directory is None),
            talkative=sys.stderr is not None and sys.stderr.isatty(),
        )
    return 0 if signal is None else ended_by("worker", signal)


def _address(url: str) -> Address:
    try:
        parts = urlsplit(url)
        host, port, fingerprint = parts.hostname, parts.port, parts.path.strip("/")
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme != "kumi" or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"URL must be kumi://HOST:PORT/FINGERPRINT, as the controller shows it, not {url!r}")
    return Address(host, port, fingerprint or None)


def _authorities(address: Address, file: str | None) -> bytes:
    """The certificates of those who may vouch for the controller, as PEM."""
    if address.fingerprint is not None:
        if file is not None:
            raise ValueError("--authorities is for a URL without a fingerprint: that alone tells who the controller is")
        return b""
    return Path(file).read_bytes() if file is not None else _authorities_of_system()


def _authorities_of_system() -> bytes:
    import ssl

    paths = ssl.get_default_verify_paths()
    files = [Path(paths.cafile)] if paths.cafile else []
    files += sorted(Path(paths.capath).iterdir()) if paths.capath else []
    texts = (file.read_bytes() for file in files if file.is_file())
    pem = b"\n".join(text for text in texts if b"-----BEGIN CERTIFICATE-----" in text)
    if not pem:
        raise ValueError(
            "URL has no fingerprint, and this system has no list of authorities: take the whole URL that the "
            "controller shows, or give --authorities FILE with the certificate of who vouches for it"
        )
    return pem


def _join_code(file: str | None) -> str:
    in_environment = os.environ.pop(JOIN_CODE, None)  # tasks shall not see it
    if file is None and in_environment is None and sys.stdin is not None and sys.stdin.isatty():
        file = "-"  # somebody is there who can type it
    if file is None:
        if in_environment is None:
            raise ValueError(f"the join code is missing, which the controller's join_code() makes: {_WAYS}")
        code, source = in_environment, f"the environment variable {JOIN_CODE}"
    elif file == "-":
        code, source = _from_stdin(), "standard input"
    else:
        code, source = _from_file(file), f"the file {file}"
    if not _CODE.fullmatch(code.strip()):
        raise ValueError(f"{source} has no join code, which looks like kumi-1-51ab... and is made by join_code()")
    return code.strip()


def _index() -> int | None:
    """Which worker of its launch this is for, if a launcher has started it."""
    text = os.environ.pop(INDEX, None)  # tasks shall not see it
    if text is None:
        return None
    if not text.isdecimal():
        raise ValueError(f"the environment variable {INDEX} must be a whole number from 0, not {text!r}")
    return int(text)


def _from_stdin() -> str:
    if sys.stdin is None:
        return ""
    try:
        return getpass.getpass("join code: ") if sys.stdin.isatty() else sys.stdin.readline()
    except EOFError:
        return ""


def _from_file(file: str) -> str:
    with open(file, encoding="utf-8", errors="replace") as opened:  # noqa: PTH123 - looked at and read as one and the same
        facts = os.fstat(opened.fileno())
        if facts.st_uid != os.geteuid():
            raise ValueError(
                f"the file {file} belongs to another user, who may know the join code: use one of your own"
            )
        if facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            mode = stat.S_IMODE(facts.st_mode)
            raise ValueError(f"the file {file} is open to others (mode {mode:04o}), and has a secret: chmod 600 {file}")
        return opened.readline()


def _look_for_modules_here() -> None:
    """Workers look for modules in the working directory first, as `python` does, and not where the command lies."""
    if not sys.flags.safe_path:
        sys.path[0] = ""


def _fill_missing_streams() -> None:
    """What the worker prints must not go to a descriptor that got the number of a stream which was closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
