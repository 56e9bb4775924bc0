"""What a controller counts."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

from kumi._core import Status

__all__ = ["GroupSummary", "Status", "Summary"]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a controller has done so far.

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
        workers_left_stopped: because the controller ended,
        workers_lost: or died.
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


@dataclass(frozen=True, slots=True)
class GroupSummary(Summary):
    """What the controllers of a group have done so far: the totals, and each one's own.

    Attributes:
        controller: The names of all.
        members: The summaries that were added up, in the order of the group.
    """

    members: tuple[Summary, ...]

    @classmethod
    def of(cls, members: Sequence[Summary]) -> Self:
        """Adds up the summaries of a group's controllers."""
        names = ", ".join(member.controller for member in members)
        counts = [field.name for field in fields(Summary) if field.name != "controller"]
        totals = {count: sum(getattr(member, count) for member in members) for count in counts}
        return cls(controller=names, members=tuple(members), **totals)
