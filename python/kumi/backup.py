"""Where tasks go that have crashed as often as they may: another controller, opened when the first of them comes.

The core decides which they are, and brings back what becomes of them. Here is what needs Python: checking the argument
`backup`, and opening the other controller.
"""

from contextlib import suppress
from typing import Any, Protocol, TypeVar

from kumi._core import Pool
from kumi.errors import ControllerClosed
from kumi.launchers import Launcher, LocalLauncher, Sequential, said


class Backup(Protocol):
    """A controller, as far as it matters here."""

    name: str
    launcher: Launcher | LocalLauncher | Sequential | None
    _arguments: dict[str, Any]
    _closed: bool

    @property
    def _backup(self) -> "Backup | None":
        """Its own."""

    def _open_for_others(self) -> Pool:
        """Opens it, unless it is open."""


B = TypeVar("B", bound=Backup)


def checked(value: object, name: str, kind: type[B]) -> B | None:
    """Checks the argument `backup` of the controller of that name."""
    if value is None:
        return None
    if not isinstance(value, kind):
        raise TypeError(f"backup must be a kumi.Controller, or None, not {value!r}")
    if isinstance(value._arguments["launcher"], Sequential):
        raise ValueError(f"backup must have workers, or what kills workers would end your program, not {value!r}")
    if value._closed:
        raise ValueError(f"backup must be a controller that has not ended, not {value!r}")
    names = [name, *(member.name for member in chain(value))]
    if name in names[1:]:
        way = " -> ".join(map(repr, names))
        raise ValueError(f"backup must not lead back to a controller of the same name: {way}")
    return value


def chain(first: Backup | None) -> list[Backup]:
    """A backup, its own backup, and so on. It ends: a controller is there before those whose backup it is."""
    members: list[Backup] = []
    while first is not None:
        members.append(first)
        first = first._backup
    return members


def carry_over(pool: Pool, backup: Backup) -> None:
    """What the thread `kumi-backup` does: hands over what is to go, until the pool has ended."""
    with suppress(ControllerClosed):  # Python is ending, or this process was forked
        while (tasks := pool.next_leaving()) is not None:
            for task in tasks:
                _hand_over(pool, task, backup)


def _hand_over(pool: Pool, task: int, backup: Backup) -> None:
    try:
        other = backup._open_for_others()
    except BaseException as error:  # what opening runs may be the user's own
        pool.strand(task, f"controller {backup.name!r} cannot be opened: {said(str, error)}")
    else:
        pool.hand_over(task, other)
