"""The worker's end of a connection by which a launcher holds it, such as that of ssh: its standard input.

The first line has variables, which may be secret, and so stand on no command line. When the input ends, for whatever
reason, the launcher has hung up, and the worker ends as by SIGTERM.
"""

import json
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kumi.launchers.base import ATTACHED
from kumi.launchers.local import check_environment

STDIN, STDOUT, STDERR = range(3)
CHUNK = 65_536


def take_variables() -> None:
    """Sets the variables, and says on both outputs that the worker is there.

    Raises:
        ValueError: If the first line is no JSON object of strings.
    """
    with open(STDIN, "rb", buffering=0, closefd=False) as source:
        line = source.readline()
    try:
        variables = {**json.loads(line)}
        check_environment(variables)
    except (TypeError, ValueError):  # which may have a secret in its text
        raise ValueError(
            "with --attached the first line of standard input must be a JSON object of variables"
        ) from None
    os.environ.update(variables)
    for stream in (STDOUT, STDERR):
        with suppress(OSError):  # nobody listens
            os.write(stream, ATTACHED)


@contextmanager
def ends_with_input() -> Iterator[None]:
    """Within the block this process gets SIGTERM when its standard input ends."""
    over, tell = os.pipe()
    watch = threading.Thread(target=_watch, args=(over,), name="kumi-attached", daemon=True)
    watch.start()
    try:
        yield
    finally:
        os.close(tell)
        watch.join()
        os.close(over)


def _watch(over: int) -> None:
    while True:
        ready, _, _ = select.select([STDIN, over], [], [])
        if over in ready:
            return
        try:
            more = os.read(STDIN, CHUNK)
        except OSError:
            more = b""
        if not more:
            os.kill(os.getpid(), signal.SIGTERM)
            return
