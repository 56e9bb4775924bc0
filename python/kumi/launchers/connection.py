"""One `ssh` process, and with it one worker on another machine.

It gets what the worker must know as the first line of its standard input, which then stays open: the worker ends when
that ends, whatever has become of ssh or of this process. What is said before the worker is there is told if the start
fails; what comes after is output of the worker, and goes where that of local workers goes.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from kumi.launchers.base import ATTACHED

SECONDS_TO_END = 5.0  # for a worker whose input has ended; then its ssh is killed
BYTES_TOLD = 4096  # of what was said before the end
BYTES_OF_PIPE = 65_536
FAILURE_OF_SSH = 255  # the exit code that ssh has itself; all others are those of the program there
NOT_FOUND = (126, 127)  # those of shells that could not start the program


class Stream:
    """What ssh writes to one of its outputs.

    Attributes:
        attached: The worker is there: what comes from now on is its own.
        tail: The end of what was written.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self.pipe = pipe
        self.attached = False
        self.tail = b""
        os.set_blocking(pipe.fileno(), False)

    def read(self) -> bytes | None:
        """What there is of the worker's output; None: nothing comes any more."""
        try:
            data = os.read(self.pipe.fileno(), BYTES_OF_PIPE)
        except BlockingIOError:
            return b""
        if not data:
            return None
        if not self.attached:
            before, mark, data = (self.tail + data).partition(ATTACHED)
            self.attached, self.tail = bool(mark), b"" if mark else before
        self.tail = (self.tail + data)[-BYTES_TOLD:]
        return data


@dataclass(eq=False, slots=True)
class Connection:
    """See the head of this file. What the launcher returns as the worker's handle.

    Attributes:
        name: Of the worker.
        command: Renders the command line of ssh for a host.
        given: What the worker must know, as one line.
        failed: Told when ssh has ended, with the reason.
        host: Where the worker is; None: it waits for a place.
        why: The reason, when it has ended.
        unwanted: It is to end.
        due: When it is killed, by the monotonic clock; None: not at all.
    """

    name: str
    command: Callable[[str], Sequence[str]] = field(repr=False)
    given: bytes = field(repr=False)
    failed: Callable[[str], None] = field(repr=False)
    host: str | None = None
    why: str | None = None
    unwanted: bool = False
    due: float | None = field(default=None, repr=False)
    streams: tuple[Stream, ...] = field(default=(), repr=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self, host: str) -> int:
        """Runs ssh, out of reach of the terminal's Ctrl-C.

        Returns:
            A descriptor that can be read when it has ended.

        Raises:
            OSError, ValueError: If it cannot be run.
        """
        self.host, words, pipe = host, self.command(host), subprocess.PIPE
        self._process = subprocess.Popen(words, 0, None, pipe, pipe, pipe, start_new_session=True)
        source, *outputs = self._pipes()
        self.streams = tuple(map(Stream, outputs))
        with suppress(BrokenPipeError):  # it has ended already, and will say why
            source.write(self.given)
        try:
            return os.pidfd_open(self._process.pid)
        except OSError:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self.let_go()
            raise

    @property
    def begun(self) -> bool:
        """Whether the worker was there."""
        return any(stream.attached for stream in self.streams)

    def hang_up(self) -> None:
        """Has the worker end, or ssh if that has not reached it. Once SECONDS_TO_END are over, ssh is killed."""
        if self.due is None:
            self._pipes()[0].close()
            self.due = time.monotonic() + SECONDS_TO_END
            if not self.begun:
                self._signal(signal.SIGTERM)
        elif self.due <= time.monotonic():
            self.due = time.monotonic() + SECONDS_TO_END
            self._signal(signal.SIGKILL)

    def let_go(self) -> None:
        """Closes this process's ends of the pipes."""
        for pipe in self._pipes():
            pipe.close()

    def outcome(self) -> str:
        """How ssh has ended, which it has."""
        assert self._process is not None
        code = self._process.wait()
        said = self.streams[-1].tail.decode(errors="replace").strip()
        if self.begun and code != FAILURE_OF_SSH:
            what = "its worker has ended with"
        elif code in NOT_FOUND:
            what = "python= is no program there:"
        else:
            what = "ssh has ended with"
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return f"host {self.host!r}: {what} {how}" + (f": {said}" if said else "")

    def _signal(self, number: int) -> None:
        """Sends a signal to ssh and to what it has started, such as a proxy."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _pipes(self) -> tuple[IO[bytes], ...]:
        """Its standard input, output and error."""
        assert self._process is not None
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        return tuple(pipe for pipe in pipes if pipe is not None)
