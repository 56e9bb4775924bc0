"""The one thread, `kumi-deliver`, that brings news from the core to Python: finished tasks and output of workers.

Never a thread that waits for a task, which might hold a lock that a callback wants, and never one of the core's own.
"""

import codecs
import logging
import sys
import threading
from typing import Protocol, TextIO

from kumi._core import end_deliveries, next_deliveries
from kumi.errors import ControllerClosed

_LOGGER = logging.getLogger(__name__)
_UTF8 = codecs.getincrementaldecoder("utf-8")


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
        self._decoders: dict[tuple[str, bool], codecs.IncrementalDecoder] = {}  # in the middle of a character

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

    def join(self, seconds: float) -> None:
        """Lets what has been delivered reach its callbacks and streams, when Python ends."""
        if self._thread is not None:
            end_deliveries()
            self._thread.join(seconds)

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
                    self._resolve(item) if isinstance(item, int) else self._echo(*item)
        except ControllerClosed:  # Python is ending, and a callback took longer than that waits
            return

    def _resolve(self, token: int) -> None:
        with self.lock:
            task = self._watched.pop(token, None)
        if task is not None:  # else Ctrl-C came between the core's note of it and ours
            task._deliver()

    def _echo(self, worker: str, is_stderr: bool, output: bytes) -> None:
        stream: TextIO | None = sys.stderr if is_stderr else sys.stdout
        decoder = self._decoders.pop((worker, is_stderr), None) or _UTF8(errors="replace")
        text = decoder.decode(output)
        if decoder.getstate()[0]:
            self._decoders[worker, is_stderr] = decoder
        try:
            if stream is not None:
                stream.write(text)
                stream.flush()
        except Exception:  # the stream may be the user's own, and whoever waits for a callback must not lose it
            _LOGGER.debug("output of worker %s could not be written", worker, exc_info=True)


deliverer = Deliverer()
