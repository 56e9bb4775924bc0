"""What a controller counts."""

from dataclasses import dataclass

from kumi._core import Status

__all__ = ["Status", "Summary"]


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
        workers_left_idle: How many of them left because there was no work,
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
