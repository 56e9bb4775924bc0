"""What a controller counts."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

from kumi._core import Status

__all__ = ["GroupSummary", "Status", "Summary"]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a controller has done so far. As a `str` it is a table.

    Attributes:
        controller: Its name.
        tasks: Tasks that are finished, however they ended.
        success: How many of them succeeded,
        error: raised an error,
        crash: died with their workers, or found no worker,
        cancel: were cancelled,
        timeout: or ran into a limit.
        workers_launched: Workers that ever joined.
        workers_left_idle: How many of them left because there was no work, or because of `Controller.resize`,
        workers_left_limit: because of `seconds_wall` or `tasks_max`, an edited module or an interrupted import,
        workers_left_stopped: because the controller ended, or they were killed, as by `kumi kill`,
        workers_lost: or died.
        launch_failure: Why a launch of a worker failed last; None if none did.

    Example:
        >>> print(crew.summary())
        controller  tasks  success  error  crash  cancel  timeout
        crew           12       11      1      0       0        0
        workers: 2 launched, 1 left idle, 0 by a limit, 0 stopped, 0 lost
    """

    controller: str
    tasks: int
    success: int
    error: int
    crash: int
    cancel: int
    timeout: int
    workers_launched: int
    workers_left_idle: int
    workers_left_limit: int
    workers_left_stopped: int
    workers_lost: int
    launch_failure: str | None = None

    def __str__(self) -> str:
        return _told([self])


@dataclass(frozen=True, slots=True)
class GroupSummary(Summary):
    """What the controllers of a group have done so far: the totals, and each one's own.

    Attributes:
        controller: The names of all.
        members: The summaries that were added up, in the order of the group.
    """

    members: tuple[Summary, ...] = ()

    @classmethod
    def of(cls, members: Sequence[Summary]) -> Self:
        """Adds up the summaries of a group's controllers."""
        names = ", ".join(member.controller for member in members)
        counts = [field.name for field in fields(Summary) if field.type is int]
        totals = {count: sum(getattr(member, count) for member in members) for count in counts}
        failures = [member.launch_failure for member in members if member.launch_failure is not None]
        return cls(controller=names, launch_failure=next(iter(failures), None), members=tuple(members), **totals)

    def __str__(self) -> str:
        return _told([*self.members, self])


def _told(summaries: Sequence[Summary]) -> str:
    """A table of tasks with one row for each, and of the last one what there is to tell of workers."""
    names = [field.name for field in fields(Summary)]
    tasks = names[: names.index("workers_launched")]
    columns = [[name, *(str(getattr(one, name)) for one in summaries)] for name in tasks]
    widths = [max(map(len, column)) for column in columns]
    # The first is a name, the others are numbers.
    pads = [str.ljust, *[str.rjust] * (len(columns) - 1)]
    padded = [[pad(cell, width) for cell in column] for pad, column, width in zip(pads, columns, widths, strict=True)]
    lines = ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
    last = summaries[-1]
    lines.append(
        f"workers: {last.workers_launched} launched, {last.workers_left_idle} left idle, "
        f"{last.workers_left_limit} by a limit, {last.workers_left_stopped} stopped, {last.workers_lost} lost"
    )
    if last.launch_failure is not None:
        lines.append(f"the last failed launch: {last.launch_failure}")
    return "\n".join(lines)
