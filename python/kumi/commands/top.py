"""`kumi top` shows what `kumi ps` lists, and tasks per second, over and over."""

import argparse
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kumi.commands.base import Verbs
from kumi.commands.listing import CONTROLLERS, WORKERS, controller_row, nobody, silence, size, worker_row

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from kumi.commands.asking import Found

SECONDS = 1.0  # from one picture to the next
ANY_WIDTH = ("PROGRAM", "TASK")  # columns that are cut where the screen ends
LEAST_WANTED = ("PROGRAM", "LAUNCHER", "QUEUE", "PID", "AGE", "HOST")  # columns that a narrow screen does not show
GAP = 2  # from one column to the next


class Rates:
    """How many tasks a controller finishes in a second, from one picture to the next."""

    def __init__(self) -> None:
        self._before: dict[tuple[int, str], tuple[float, int]] = {}

    def update(self, found: "Found", now: float) -> list[float | None]:
        """The rate of each controller; None for those that were not there before.

        Args:
            found: Who is there.
            now: Seconds of a clock that does not jump.
        """
        counts = {(c["pid"], c["desk"]): (now, c["status"]["finished"]) for c in found.controllers}
        before, self._before = self._before, counts
        return [_rate(before.get(key), count) for key, count in counts.items()]


def _rate(before: tuple[float, int] | None, after: tuple[float, int]) -> float | None:
    if before is None or after[0] <= before[0]:
        return None
    return (after[1] - before[1]) / (after[0] - before[0])


def add(verbs: Verbs) -> None:
    """Enters the verb."""
    top = verbs.add_parser(
        "top",
        help="watch controllers and their workers",
        description="Shows your open controllers on this machine, their workers and what those are at, once a second. "
        "q or Ctrl-C ends it.",
    )
    top.add_argument("--once", action="store_true", help="print one picture and end")
    top.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Shows pictures until the user has seen enough.

    Args:
        options: What `add` has named.

    Returns:
        The exit code.

    Raises:
        ValueError: If rich is not installed, or nobody watches.
    """
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        raise ValueError("this needs the package rich: pip install 'kumi[top]'") from None
    from kumi.commands import asking

    rates, console = Rates(), Console()
    if options.once:
        console.print(picture(asking.look(), rates, console.width))
        return 0
    if not console.is_terminal:
        raise ValueError("this needs a terminal to draw on; --once prints one picture")
    try:
        with keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(picture(asking.look(), rates, console.width), refresh=True)
                if pressed() in {"q", "Q"}:
                    return 0
    except KeyboardInterrupt:
        return 0


def picture(found: "Found", rates: Rates, width: int) -> "Group":
    """What is shown.

    Args:
        found: Who is there.
        rates: What was shown before.
        width: Of the screen, in characters.
    """
    from rich.console import Group
    from rich.text import Text

    speeds = rates.update(found, time.monotonic())
    controllers = []
    for controller, speed in zip(found.controllers, speeds, strict=True):
        queue = size(controller["status"]["queued_bytes"])
        controllers.append(("-" if speed is None else f"{speed:.1f}", queue, *controller_row(controller)))
    if not controllers:
        return Group(Text(silence(found.silent) or nobody()))
    workers = [worker_row(worker) for worker in _by_state(found.controllers)]
    tables = _table(("TASKS/S", "QUEUE", *CONTROLLERS), controllers, width), _table(WORKERS, workers, width)
    return Group(*tables, Text(silence(found.silent)))


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], width: int) -> "Table":
    """Rows below a head. Where they are too wide, what is least wanted is left out."""
    from rich.table import Table
    from rich.text import Text

    columns = [[Text(cell) for cell in column] for column in zip(head, *rows, strict=True)]  # brackets are no markup
    for name in LEAST_WANTED:
        if sum(map(_least, columns)) + GAP * (len(columns) - 1) <= width:
            break
        columns = [column for column in columns if column[0].plain != name]
    left = max(1, width - sum(map(_least, columns[:-1])) - GAP * (len(columns) - 1))
    for cell in columns[-1]:
        cell.truncate(left, overflow="ellipsis")
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP // 2))
    for column in columns:
        table.add_column(column[0], no_wrap=True, overflow="ellipsis")
    for row in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*row)
    return table


def _least(column: "list[Text]") -> int:
    """How many characters wide a column has to be."""
    return column[0].cell_len if column[0].plain in ANY_WIDTH else max(cell.cell_len for cell in column)


def _by_state(controllers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Who works comes first: the screen may be too small for all."""
    workers = [worker for controller in controllers for worker in controller["workers"]]
    return sorted(workers, key=lambda worker: worker["task"] is None)


@contextmanager
def keys() -> Iterator[Callable[[], str]]:
    """As long as the block lasts, keys come singly: gives a function that waits `SECONDS` for one; "" if none came."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield lambda: "".join(select.select([], [], [], SECONDS)[0])
        return
    import termios
    import tty

    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    try:
        tty.setcbreak(stdin)
        yield lambda: os.read(stdin, 1).decode(errors="replace") if select.select([stdin], [], [], SECONDS)[0] else ""
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
