"""The controller behind `kumi.submit` and its kin, and `daemons`, which sets it."""

import os
import sys
import threading
from dataclasses import dataclass, field
from typing import Any, Literal, cast, overload

from kumi.controller import Controller
from kumi.inner import current, running_here
from kumi.launchers import AnyLauncher, Local
from kumi.options import text
from kumi.registry import registry
from kumi.remote import how_to_join
from kumi.submitter import Queue, Submitter

NAME = "default"
USES, HOURS = 1000, 24  # of the join code that `daemons` shows
SECONDS_IDLE = 30.0  # of the controller that opens when nothing was set up

_LOCAL = Local()


@dataclass(frozen=True, slots=True)
class _Entry:
    crew: Controller
    call: tuple[object, ...] | None  # of `daemons`
    inside: Queue | None = field(default_factory=running_here.get)  # whose task made it, in this process


class _Defaults:
    """The controllers that are or were the default, the present one last. The former ones come back."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._entries: list[_Entry] = []

    def get(self) -> Controller:
        """The present default: in a task its own controller, or what it has opened itself. Else one opens."""
        with self._lock:
            self._settle()
            if not self._entries or self._entries[-1].inside is not running_here.get():
                # To whoever submits the two are the same.
                own = cast("Controller | None", current())
                if own is not None:
                    return own
            if not self._entries:
                name = None if NAME in registry.names() else NAME
                self._entries.append(_Entry(Controller(_LOCAL, name=name, seconds_idle=SECONDS_IDLE), None))
            return self._entries[-1].crew

    def set(self, call: tuple[object, ...], made: Controller) -> Controller:
        """Opens a controller and makes it the default, or the open one that the same call has made."""
        with self._lock:
            self._settle()
            former = self._named(made.name)
            if former is not None and former.call == call:
                self._entries.remove(former)
                self._entries.append(former)
                return former.crew
            made._hides = None if former is None else former.crew
            made.start()
            self._entries.append(_Entry(made, call))
            return made

    def end(self, name: str) -> None:
        """Terminates the controller of that name, if one is open."""
        with self._lock:
            self._settle()
            former = self._named(name)
        if former is not None:
            former.crew.terminate()

    def _named(self, name: str) -> _Entry | None:
        return next((e for e in reversed(self._entries) if e.crew.name == name), None)

    def _settle(self) -> None:
        """Drops what has ended, and ends what was replaced.

        One controller replaces another of the same name when it is used without `with`: in a block it only hides the
        other, which comes back afterwards. Whether there is a block shows a moment after `daemons` has returned.
        """
        self._entries = [entry for entry in self._entries if entry.crew._is_usable()]
        top = self._entries[-1].crew if self._entries else None
        if top is not None and top._hides is not None and not top._blocks:
            if not top._hides._blocks:
                top._hides.shutdown(wait=False)
            top._hides = None


class _Front(Submitter):
    """The module `kumi` as a way to hand in work."""

    def _target(self, _fn: object, _args: object, _kwargs: object, /) -> Queue:
        return _defaults.get()

    def _find(self, name: str) -> Queue:
        own: Queue = _defaults.get()
        return own._find(name)


_defaults = _Defaults()
os.register_at_fork(after_in_child=_defaults.__init__)  # type: ignore[misc]

_front = _Front()
submit = _front.submit
everywhere = _front.everywhere
try_submit = _front.try_submit
run = _front.run
map = _front.map
with_options = _front.with_options


def default() -> Controller:
    """The controller that `kumi.submit` and its kin go to. With nothing set up it is `Controller(seconds_idle=30)`.

    Inside a task it is the controller that runs the task. There it takes tasks (`submit`, `map`, `run`,
    `with_options`), and leaves all else to the program that opened it.

    Example:
        >>> kumi.default().status().running
        0
    """
    return _defaults.get()


@overload
def daemons(  # type: ignore[overload-overlap] # an int in general makes one
    workers: Literal[0],
    launcher: AnyLauncher = ...,
    *,
    name: str = ...,
) -> None: ...
@overload
def daemons(
    workers: int | None = ...,
    launcher: AnyLauncher = ...,
    *,
    name: str = ...,
    **controller_options: Any,
) -> Controller: ...
def daemons(
    workers: int | None = None,
    launcher: AnyLauncher = _LOCAL,
    *,
    name: str = NAME,
    **controller_options: Any,
) -> Controller | None:
    """Opens a controller and makes it the default.

    Its workers start at once and do not leave when idle. In a `with` statement the controller ends with the block and
    the former default comes back. The same call again returns the open controller, so that a function may have such a
    statement within its caller's: the outermost block ends it. Another call with the same name replaces the controller:
    the former one takes no more tasks and ends when its own are done.

    Args:
        workers: The most workers at a time; None: as `Controller` has it; 0: terminate the controller that
            is open under this name.
        launcher: Where workers come from. None: from other machines. The controller listens for them, at `host=` and
            `port=`, and writes to stderr how they are started by hand.
        name: The controller's name, for `with_options(controller=...)`.
        controller_options: Further arguments of `Controller`.

    Raises:
        TypeError, ValueError: If `Controller` does not accept an argument.
        ControllerError: If an open controller that `daemons` did not make has this name.

    Example:
        >>> with kumi.daemons(4):
        ...     squares = kumi.map(pow, range(100), [2] * 100).results()
    """
    text("name", name)
    if workers == 0 and not isinstance(workers, bool):
        _defaults.end(name)
        return None
    made = Controller(launcher, name=name, workers=workers, **controller_options)
    if isinstance(made.launcher, Local):
        always_on: dict[str, Any] = {"workers_min": made.workers, "seconds_idle": None}
        made = Controller(launcher, name=name, workers=workers, **(always_on | controller_options))
    crew = _defaults.set((workers, launcher, controller_options), made)
    if crew is made and crew.launcher is None:
        uses = min(crew.workers, USES)
        sys.stderr.write(how_to_join(crew.name, crew.url, crew.join_code(uses, HOURS * 3600), uses, HOURS))
    return crew
