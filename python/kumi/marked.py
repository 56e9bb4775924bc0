"""What tasks print in a worker, with marks in between that say whose it is: the host takes them out again.

A mark is written when a task prints something, or starts a process, for the first time, and another one when it has
ended. So a task that prints nothing costs nothing, and what native code writes by itself belongs to the task only after
its first mark. The core knows what a mark looks like (`marks.rs`). May not know: who reads it.
"""

import io
import os
import sys
from functools import wraps

from kumi._core import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from _typeshed import ReadableBuffer

_NAME_MAX = 1000  # characters: a mark has to fit into a pipe at once
_OVER = b"\x1b_kumi;;\x1b\\"


class _Marked(io.BufferedWriter):
    """What the text that a task prints goes to, whether by `print` or as bytes.

    Args:
        raw: Where it goes from here.
        unmark: To be called when a task that was marked ends.
        name: Says what the task that runs is called.
        at_once: Whether each piece is written as it comes.
    """

    def __init__(
        self, raw: io.RawIOBase, unmark: "Callable[[], None]", name: "Callable[[], str]", at_once: bool
    ) -> None:
        super().__init__(raw)
        self._unmark = unmark
        self._name = name
        self._at_once = at_once
        self._task: int | None = None  # whose the stream is by its last mark

    def write(self, data: "ReadableBuffer", /) -> int:
        self.mark()
        written = super().write(data)
        if self._at_once:
            self.flush()
        return written

    def mark(self) -> None:
        """What comes next is of the task that runs."""
        found = running()
        if found is None or found[0] == self._task:
            return
        found[3]["unmark"] = self._unmark  # for the core
        name = self._name()[:_NAME_MAX]
        name = name if name.isprintable() else "".join(one if one.isprintable() else " " for one in name)
        super().write(f"\x1b_kumi;{found[0]};{name}\x1b\\".encode(errors="replace"))
        self._task = found[0]

    def unmark(self) -> None:
        """What comes next is of nobody known."""
        if self._task is not None:
            self._task = None
            super().write(_OVER)
            self.flush()


class Streams:
    """The standard streams of a worker process, which go through here from now on.

    Args:
        name: Says what the task that runs is called.
    """

    def __init__(self, name: "Callable[[], str]") -> None:
        self._name = name
        self._streams = []
        for which in ("stdout", "stderr"):
            stream = getattr(sys, which)
            if isinstance(stream, io.TextIOWrapper):
                marked = self._marked(stream)
                setattr(sys, which, marked)
                setattr(sys, f"__{which}__", marked)
                self._streams.append(marked.buffer)
        _before_processes(self._mark)

    def unmark(self) -> None:
        """The task that ran has ended."""
        for stream in self._streams:
            try:
                stream.unmark()
            except (OSError, ValueError):  # a task has closed what is not its own
                continue

    def _mark(self) -> None:
        for stream in self._streams:
            try:
                stream.mark()
                stream.flush()
            except (OSError, ValueError):
                continue

    def _marked(self, stream: io.TextIOWrapper) -> "Any":
        encoding, errors, at_once = stream.encoding, stream.errors, stream.write_through
        binary: Any = stream.detach()
        raw = binary.detach() if isinstance(binary, io.BufferedWriter) else binary
        buffer = _Marked(raw, self.unmark, self._name, at_once)
        # All text goes to the buffer as it comes, in between the marks; whole lines go on from there.
        return io.TextIOWrapper(buffer, encoding, errors, line_buffering=True, write_through=True)


def _before_processes(mark: "Callable[[], None]") -> None:
    """Has the streams marked before a task starts a process that writes to them."""
    import _posixsubprocess  # what `subprocess` and `multiprocessing` are made of

    def before(start: "Callable[..., Any]") -> "Callable[..., Any]":
        @wraps(start)
        def marked(*args: "Any", **kwargs: "Any") -> "Any":
            mark()
            return start(*args, **kwargs)

        return marked

    system = before(os.system)
    fork_exec = _posixsubprocess.fork_exec = before(_posixsubprocess.fork_exec)
    if "subprocess" in sys.modules:  # which has it under a name of its own
        vars(sys.modules["subprocess"])["_fork_exec"] = fork_exec
    for module in ("os", "posix"):  # in both, for it is pickled by its name in the latter
        sys.modules[module].__dict__["system"] = system
    os.register_at_fork(before=mark)
