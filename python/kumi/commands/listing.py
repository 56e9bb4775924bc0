"""What `kumi ps` and `kumi top` show, as rows of text."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kumi import desks

CONTROLLERS = ("CONTROLLER", "PID", "LAUNCHER", "WORKERS", "WAITING", "RUNNING", "FINISHED", "FAILED", "AGE", "PROGRAM")
WORKERS = ("WORKER", "STATE", "PID", "HOST", "AGE", "TASKS", "MEMORY", "SINCE", "TASK")
PROGRAM_MAX = 60  # characters of a command line, so that the columns before it keep their room; `ps --json` has all
ANY = 1_000_000  # as the most workers: as many as come

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def controller_row(facts: dict[str, Any]) -> tuple[str, ...]:
    """One controller, in the columns of `CONTROLLERS`.

    Args:
        facts: As its desk tells them: see docs/monitor.md.
    """
    counts = facts["status"]
    most = "any" if facts["workers_max"] >= ANY else str(facts["workers_max"])
    return (
        plain(facts["controller"]),
        str(facts["pid"]),
        plain(facts["launcher"]),
        f"{counts['workers']}/{most}",
        str(counts["waiting"]),
        str(counts["running"]),
        str(counts["finished"]),
        str(counts["error"] + counts["crash"] + counts["timeout"]),
        span(facts["seconds"]),
        plain(facts["program"])[:PROGRAM_MAX],
    )


def worker_row(worker: dict[str, Any]) -> tuple[str, ...]:
    """One worker, in the columns of `WORKERS`.

    Args:
        worker: As the desk of its controller tells of it.
    """
    task = worker["task"]
    memory = resident(worker)
    return (
        plain(worker["name"]),
        worker["state"],
        str(worker["pid"] or "-"),
        plain(worker["host"] or "-"),
        span(worker["seconds"]),
        str(worker["finished"]),
        "-" if memory is None else size(memory),
        "-" if task is None else span(task["seconds"]),
        "-" if task is None else plain(task_name(task)),
    )


def task_name(task: dict[str, Any]) -> str:
    """A task's label, if it has one, and what it calls."""
    return f"{task['name']}: {task['function']}" if task["name"] else str(task["function"])


def resident(worker: dict[str, Any]) -> int | None:
    """How many bytes a worker has for itself now. None: it is on another machine, or gone.

    Args:
        worker: As the desk of its controller tells of it.
    """
    if worker["remote"] or not worker["pid"]:
        return None
    try:
        _, pages, shared, *_ = Path(f"/proc/{int(worker['pid'])}/statm").read_text().split()
    except (OSError, ValueError):
        return None
    return (int(pages) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def span(seconds: float) -> str:
    """A time, as short as it can be told."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)}:{int(seconds % _MINUTE):02} min"
    if seconds < _DAY:
        return f"{int(seconds // _HOUR)}:{int(seconds % _HOUR // _MINUTE):02} h"
    return f"{seconds / _DAY:.1f} d"


def size(count: float) -> str:
    """A number of bytes, in the decimal units that the options of a controller have."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"  # noqa: PLR2004 - a gigabyte


def plain(text: str) -> str:
    """A text in one line, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows below a head, in columns; the last one is as wide as it wants."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[-1] = 0
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def silence(pids: Iterable[int]) -> str:
    """What to say of controllers that have not answered."""
    return "".join(
        f"process {pid} has a controller that gives no answer: the process is stopped, or very busy\n" for pid in pids
    )


def nobody() -> str:
    """What to say where there is no controller."""
    where = " and ".join(map(str, desks.places()))
    return f"No controller of yours is open on this machine, as far as can be seen in {where}.\n"
