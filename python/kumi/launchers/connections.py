"""The `ssh` processes of one launcher: how many there are on each host, and who starts, hears and ends them."""

import os
import selectors
import threading
import time
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from kumi.deliver import deliverer
from kumi.errors import ControllerClosed
from kumi.launchers.connection import Connection, Stream

NOT_NEEDED = "it was not needed any more"


class Connections:
    """See the head of this file. One thread does it all, `kumi-ssh`: it starts with the first and ends with the last.

    Args:
        places: The most workers on each host. What is more waits until one has ended.
    """

    def __init__(self, places: Mapping[str, int]) -> None:
        self.places = places
        self._lock = threading.Lock()  # guards the next three
        self._new: list[Connection] = []
        self._thread: threading.Thread | None = None
        self._bell = -1
        # The thread's own:
        self._waiting: list[Connection] = []
        self._live: dict[Connection, int] = {}  # with the descriptors by which their ends are seen
        self._failures: Counter[str] = Counter()  # of each host, since a worker was there
        _everyone.add(self)

    def open(self, connections: Sequence[Connection]) -> None:
        """Starts each of them as soon as there is a place: on the host that failed least lately, and has the fewest."""
        with self._lock:
            self._new += connections
            if self._thread is None:
                self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._thread = threading.Thread(target=self._run, name="kumi-ssh", daemon=True)
                self._thread.start()
                deliverer.add(self._thread)
            os.eventfd_write(self._bell, 1)

    def close(self, connections: Sequence[Connection]) -> None:
        """Has these end, which takes SECONDS_TO_END at most."""
        for connection in connections:
            connection.unwanted = True
        with self._lock:
            if self._thread is not None:
                os.eventfd_write(self._bell, 1)

    def forget(self) -> None:
        """In a forked child: all of it stays with the parent, and the ends of the pipes must be the parent's alone."""
        for connection in self._live:
            connection.let_go()
        self.__init__(self.places)  # type: ignore[misc]

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector, suppress(ControllerClosed):  # Python is ending
            selector.register(self._bell, selectors.EVENT_READ, partial(os.eventfd_read, self._bell))
            while self._take_new():
                self._end_unwanted()
                self._start_waiting(selector)
                for key, _ in selector.select(self._seconds_left()):
                    key.data()

    def _take_new(self) -> bool:
        """Whether there is anything left to do."""
        with self._lock:
            self._waiting += self._new
            self._new.clear()
            if not self._waiting and not self._live:
                os.close(self._bell)
                self._thread = None
            return self._thread is not None

    def _end_unwanted(self) -> None:
        for connection in self._live:
            if connection.unwanted:
                connection.hang_up()
        for connection in [connection for connection in self._waiting if connection.unwanted]:
            self._waiting.remove(connection)
            self._tell(connection, NOT_NEEDED)

    def _start_waiting(self, selector: selectors.BaseSelector) -> None:
        while self._waiting and (host := self._free_host()) is not None:
            self._start(self._waiting.pop(0), host, selector)

    def _free_host(self) -> str | None:
        live = Counter(connection.host for connection in self._live)
        free = [host for host, most in self.places.items() if live[host] < most]
        return min(free, key=lambda host: (self._failures[host], live[host]), default=None)

    def _start(self, connection: Connection, host: str, selector: selectors.BaseSelector) -> None:
        try:
            end = self._live[connection] = connection.start(host)
        except (OSError, ValueError) as error:  # a word of its command line may be none that a process can have
            self._failures[host] += 1
            self._tell(connection, f"ssh could not be run: {error}")
            return
        selector.register(end, selectors.EVENT_READ, partial(self._bury, connection, selector))
        for stream in connection.streams:
            hear = partial(self._hear, connection, stream, selector)
            selector.register(stream.pipe, selectors.EVENT_READ, hear)

    def _hear(self, connection: Connection, stream: Stream, selector: selectors.BaseSelector) -> None:
        if connection.why is not None:
            return  # its end was seen in the same moment
        output = stream.read()
        if output is None:
            selector.unregister(stream.pipe)
        elif output:
            deliverer.echo(connection.name, stream is connection.streams[-1], output)

    def _bury(self, connection: Connection, selector: selectors.BaseSelector) -> None:
        for stream in connection.streams:
            if stream.pipe in selector.get_map():
                self._hear(connection, stream, selector)  # all there is: a pipe does not hold more
            if stream.pipe in selector.get_map():
                selector.unregister(stream.pipe)  # something that ssh has left behind has it too
        end = self._live.pop(connection)
        selector.unregister(end)
        os.close(end)
        assert connection.host is not None
        self._failures[connection.host] = 0 if connection.begun else self._failures[connection.host] + 1
        why = connection.outcome()
        connection.let_go()
        self._tell(connection, why)

    def _tell(self, connection: Connection, why: str) -> None:
        connection.why = why
        connection.failed(why)

    def _seconds_left(self) -> float | None:
        dues = [connection.due for connection in self._live if connection.due is not None]
        return max(0.0, min(dues) - time.monotonic()) if dues else None


_everyone: weakref.WeakSet[Connections] = weakref.WeakSet()


def _after_fork() -> None:
    for connections in list(_everyone):
        connections.forget()


os.register_at_fork(after_in_child=_after_fork)
