"""What becomes of a controller's workers' output, and of what they measure: its arguments that say so."""

import os
from collections.abc import Callable
from functools import partial
from typing import Literal

from kumi import logs
from kumi._core import Pool
from kumi.options import positive

Directory = str | os.PathLike[str] | Literal[False] | None


class Output:
    """Checks the arguments, and has the core and the workers do what they say.

    Args:
        name: The controller's.
        log_directory: As `Controller` takes it, and so the next two.
        log_forward: See there.
        seconds_metrics: See there.

    Attributes:
        run: The directory of this run of the controller, from its start on; None: before, or if nothing is kept.

    Raises:
        TypeError, ValueError: If an argument is not of the kind or in the range that the message names.
        ModuleNotFoundError: If workers are to measure, and what that needs is not installed.
    """

    def __init__(
        self, name: str, log_directory: Directory, log_forward: bool | None, seconds_metrics: float | None
    ) -> None:
        if log_forward is not None and not isinstance(log_forward, bool):
            raise TypeError(f"log_forward must be True, False or None, not {log_forward!r}")
        self._name, self._forward = name, log_forward
        self._kept = log_directory is not False
        self._place = _place(log_directory) if self._kept else None
        self._seconds = positive("seconds_metrics", seconds_metrics, none=True)
        if self._seconds is not None:
            _check_can_measure(self._kept)
        self.run: str | None = None

    def begin(self, pool: Pool) -> None:
        """The controller starts."""
        if self._kept:
            self.run = logs.new_run(self._name, self._place)
        pool.route_output(None if self.run is None else (self.run, self._place is None), self._forward)

    def measuring(self) -> Callable[[], None] | None:
        """What each worker is to call before its first task, once; None: nothing."""
        if self._seconds is None or self.run is None:
            return None
        from kumi import metrics

        seconds, self._seconds = self._seconds, None
        return partial(metrics.begin, seconds, self._place, os.path.basename(self.run))  # noqa: PTH119 - slow to import


def _check_can_measure(kept: bool) -> None:
    from kumi import metrics

    if not kept:
        raise ValueError("seconds_metrics writes to a file beside the logs: log_directory must not be False")
    metrics.check_installed()


def _place(value: object) -> str | None:
    if value is None:
        return None
    accepted = "log_directory must be a path, None for the usual place, or False for no logs"
    try:
        path = os.fspath(value)  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(f"{accepted}, not {value!r}") from None
    if not isinstance(path, str):
        raise TypeError(f"{accepted}, not {value!r}")
    if not path or "\0" in path:
        raise ValueError(f"{accepted}, not {value!r}")
    return os.path.abspath(path)  # noqa: PTH100 - pathlib is slow to import
