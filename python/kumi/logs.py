"""Where the output of workers is kept: a directory for each run of a controller or agent, a file for each worker.

The core writes them (`log.rs`); here is where, and how they are read.
"""

import itertools
import os
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_RUN_NAME_MAX = 100  # bytes of a controller's name in that of a directory
_FILE_NAME_MAX = 200  # bytes of a worker's name in that of a file: file systems take names of 255 bytes
_RUN = re.compile(r".*-\d{8}-\d{6}-(?P<process>\d+)-\d+")
_numbers = itertools.count(1)


def new_run(name: str, place: str | None) -> str:
    """The path of a directory for a run that begins now, which the core makes when there is something to put into it.

    Args:
        name: Of the controller.
        place: Where it is to be; None: `default_place`.
    """
    began = time.strftime("%Y%m%d-%H%M%S")
    short = file_name(name).encode()[:_RUN_NAME_MAX].decode(errors="ignore")
    run = f"{short}-{began}-{os.getpid()}-{next(_numbers)}"
    return os.path.join(place or default_place(), run)  # noqa: PTH118 - pathlib is slow to import


def file_name(name: str) -> str:
    """A name with nothing in it that file systems, or shells, take for something else; of a long one, the end."""
    return re.sub(r"[^\w.-]", "_", name).encode()[-_FILE_NAME_MAX:].decode(errors="ignore")


def default_place() -> str:
    """Where logs go if nobody says where: `$XDG_STATE_HOME/kumi/logs`, which means `~/.local/state/kumi/logs`.

    A user without a home has them among the temporary files.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    for place in (state, os.path.expanduser("~/.local/state")):  # noqa: PTH111 - pathlib is slow to import
        if os.path.isabs(place):  # noqa: PTH117
            return os.path.join(place, "kumi", "logs")  # noqa: PTH118
    return os.path.join(os.environ.get("TMPDIR") or "/tmp", f"kumi-{os.getuid()}", "logs")  # noqa: PTH118


class Line(NamedTuple):
    """A line that a worker has written.

    Attributes:
        time: When it came, as ISO 8601 has it, in UTC.
        worker: Its name, as the file has it.
        stream: "stdout" or "stderr".
        task: The id of the task that wrote it; None: nobody knows.
        name: The task's name, if it has one.
        text: What was written, without the end of the line.
    """

    time: str
    worker: str
    stream: str
    task: int | None
    name: str | None
    text: str


def runs(place: "Path") -> "list[Path]":
    """The directories of runs in a place, newest first."""
    found = [path for path in place.iterdir() if _RUN.fullmatch(path.name) and path.is_dir()] if place.is_dir() else []
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def goes_on(run: "Path") -> bool:
    """Whether the process whose run it is lives."""
    match = _RUN.fullmatch(run.name)
    return match is not None and os.path.exists(f"/proc/{match['process']}")  # noqa: PTH110 - pathlib is slow to import


def workers(run: "Path") -> list[str]:
    """The workers that have written something in a run."""
    return sorted(path.name.removesuffix(".log") for path in run.glob("*.log"))


def read(run: "Path", worker: str) -> Iterator[Line]:
    """What a worker has written, line by line, oldest first."""
    begun: dict[tuple[str, str], Line] = {}
    for file in (run / f"{worker}.log.1", run / f"{worker}.log"):
        if not file.exists():
            continue
        with file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            for text in lines:
                yield from _joined(begun, worker, text.removesuffix("\n"))
    yield from begun.values()


def _joined(begun: dict[tuple[str, str], Line], worker: str, entry: str) -> Iterator[Line]:
    """The line that an entry completes; what has only begun is kept."""
    when, stream, task, name, text = (entry.split("\t", 4) + [""] * 5)[:5]
    key = (stream.rstrip("+"), task)
    line = begun.pop(key, None) or Line(when, worker, key[0], int(task) if task else None, name or None, "")
    line = line._replace(text=line.text + text)
    if stream.endswith("+"):
        begun[key] = line
    else:
        yield line
