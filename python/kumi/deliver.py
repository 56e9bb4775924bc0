"""The one thread, `kumi-deliver`, that brings news from the core to Python: finished tasks and output of workers.

Never a thread that waits for a task, which might hold a lock that a callback wants, and never one of the core's own.
"""

import codecs
import logging
import sys
import threading
import time
from typing import Protocol, TextIO

from kumi._core import end_deliveries, next_deliveries
from kumi.errors import ControllerClosed

_LOGGER = logging.getLogger(__name__)
_UTF8 = codecs.getincrementaldecoder("utf-8")

Writer = tuple[int, str]  # a task's id, and its name, which may be empty
Source = tuple[str, Writer | None]
Output = tuple[str, bool, bytes, Writer | None, bool | None]  # worker, whether stderr, what, whose, whether to show it


class Watched(Protocol):
    """A task, as far as it matters here."""

    def watch(self) -> int | None:
        """Asks the core for a delivery; None if the task is done."""

    def _deliver(self) -> None:
        """Called once, in this thread, when the task is done."""


class Deliverer:
    """Owns the one thread that brings news from the core to Python: finished Futures and output of workers."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal's handler may come in between, and ask a task itself
        self._watched: dict[int, Watched] = {}
        self._thread: threading.Thread | None = None
        self._helpers: list[threading.Thread] = []
        self._showing = threading.Lock()  # guards the next three
        self._decoders: dict[tuple[str, bool], codecs.IncrementalDecoder] = {}  # in the middle of a character
        self._written: dict[bool, TextIO] = {}  # and not flushed yet: stderr and stdout
        self._lines: dict[bool, Source | None] = {}  # who is in the middle of a line, of stderr or stdout

    def start(self) -> None:
        """Starts the thread, unless it runs."""
        with self.lock:
            self._start()

    def watch(self, task: Watched) -> bool:
        """Sees to it that the task is told when it is done; false if it is. To be called with the lock held."""
        token = task.watch()
        if token is None:
            return False
        self._watched[token] = task
        self._start()
        return True

    def add(self, thread: threading.Thread) -> None:
        """Another thread that brings output of workers, by `echo`, and ends when they have ended."""
        self._helpers = [*filter(threading.Thread.is_alive, self._helpers), thread]

    def join(self, seconds: float) -> None:
        """Lets what has been delivered reach its callbacks and streams, when Python ends."""
        until = time.monotonic() + seconds
        if self._thread is not None:
            end_deliveries()
        for thread in (*self._helpers, self._thread):
            if thread is not None:
                thread.join(max(0.0, until - time.monotonic()))

    def forget(self) -> None:
        """Starts anew in a forked child: the thread stayed with the parent."""
        self.__init__()  # type: ignore[misc]

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._deliver_all, name="kumi-deliver", daemon=True)
            self._thread.start()

    def _deliver_all(self) -> None:
        try:
            while (news := next_deliveries()) is not None:
                for item in news:
                    if isinstance(item, int):
                        self._flush()
                        self._resolve(item)
                    else:
                        self._show(item)
                self._flush()
        except ControllerClosed:  # Python is ending, and a callback took longer than that waits
            return

    def _resolve(self, token: int) -> None:
        with self.lock:
            task = self._watched.pop(token, None)
        if task is not None:  # else Ctrl-C came between the core's note of it and ours
            task._deliver()

    def echo(self, worker: str, is_stderr: bool, output: bytes) -> None:
        """Shows what a worker has written, whose output comes by a thread of its own."""
        self._show((worker, is_stderr, output, None, None))
        self._flush()

    def _show(self, item: str | Output) -> None:
        with self._showing:
            self._write(True, "kumi", item) if isinstance(item, str) else self._echo(*item)

    def _echo(self, worker: str, is_stderr: bool, output: bytes, writer: Writer | None, forward: bool | None) -> None:
        decoder = self._decoders.pop((worker, is_stderr), None) or _UTF8(errors="replace")
        text = decoder.decode(output)
        if decoder.getstate()[0]:
            self._decoders[worker, is_stderr] = decoder
        if text and (forward or (forward is None and _is_watched(sys.stderr if is_stderr else sys.stdout))):
            text = self._labelled(text, is_stderr, (worker, writer))
        self._write(is_stderr, worker, text)

    def _flush(self) -> None:
        """Has what was written appear, before callbacks that follow are called."""
        with self._showing:
            while self._written:
                _, stream = self._written.popitem()
                try:
                    stream.flush()
                except Exception:  # see `_write`
                    _LOGGER.debug("output of workers could not be flushed", exc_info=True)

    def _labelled(self, text: str, is_stderr: bool, source: "Source") -> str:
        """With its task, or else its worker, at the beginning of each line."""
        worker, writer = source
        label = f"[{worker}] " if writer is None else f"[{writer[1] or f'task {writer[0]}'}] "
        before = self._lines.get(is_stderr)
        begin = "" if before == source else label if before is None else f"\n{label}"
        lines = text.removesuffix("\n")
        self._lines[is_stderr] = source if lines == text else None
        return begin + lines.replace("\n", f"\n{label}") + text[len(lines) :]

    def _write(self, is_stderr: bool, worker: str, text: str) -> None:
        stream: TextIO | None = sys.stderr if is_stderr else sys.stdout
        try:
            if stream is not None:
                stream.write(text)
                self._written[is_stderr] = stream
        except Exception:  # the stream may be the user's own, and whoever waits for a callback must not lose it
            _LOGGER.debug("output of worker %s could not be written", worker, exc_info=True)


def _is_watched(stream: TextIO | None) -> bool:
    """Whether somebody sees what is written there, in a terminal or a notebook."""
    if type(stream).__module__.startswith("ipykernel"):
        return True
    try:
        return stream is not None and stream.isatty()
    except Exception:  # the stream may be the user's own
        return False


deliverer = Deliverer()
