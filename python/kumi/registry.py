"""Which controllers are open, and how they end with the interpreter. Knows of a controller only that it can end."""

import atexit
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Protocol

from kumi._core import after_fork_in_child, after_fork_in_parent, before_fork, leave
from kumi.deliver import deliverer
from kumi.errors import ControllerError

SECONDS_TO_LEAVE = 2.0  # what the last output and callbacks get when the interpreter ends


class Member(Protocol):
    """A controller, as far as it matters here."""

    name: str

    @property
    def _places(self) -> int:
        """In how many controllers its tasks may run."""

    def shutdown(self, wait: bool = True) -> None:
        """Waits for what was submitted and ends."""

    def terminate(self) -> None:
        """Ends at once."""

    def _tell_overlooked(self, *, held: bool) -> None:
        """Warns of tasks that failed unseen."""


class Registry:
    """The open controllers of this process, oldest first. Only those that are ending are kept alive."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may come in between, and end a controller
        self._open: weakref.WeakValueDictionary[int, Member] = weakref.WeakValueDictionary()
        self._ending: dict[Member, Callable[[], bool]] = {}
        self._numbers = itertools.count(1)

    def add(self, member: Member, *, hides: Member | None = None) -> None:
        """Enters a controller that opens.

        Args:
            member: The controller.
            hides: An open one whose name it takes over as long as it is open.

        Raises:
            ControllerError: If another open controller has its name.
        """
        with self._lock:
            if any(other.name == member.name and other is not hides for other in self._open.values()):
                raise ControllerError(f"a controller named {member.name!r} is open already: choose another name")
            self._open[id(member)] = member

    def keep(self, member: Member, has_ended: Callable[[], bool]) -> None:
        """Keeps a controller alive that takes no more tasks and has some left, until another one comes after its end.

        Args:
            member: The controller.
            has_ended: Says whether nothing is left of its tasks and workers.
        """
        with self._lock:
            self._ending = {other: ended for other, ended in self._ending.items() if not ended()}
            self._ending[member] = has_ended

    def remove(self, member: Member, *, ended: bool) -> None:
        """Forgets the name of a controller that takes no more tasks and, if it has ended, the controller."""
        with self._lock:
            self._open.pop(id(member), None)
            if ended:
                self._ending.pop(member, None)

    def find(self, name: str) -> Member:
        """The open controller of that name.

        Raises:
            ControllerError: If there is none; it lists those that are open.
        """
        with self._lock:
            members = list(self._open.values())
        for member in reversed(members):
            if member.name == name:
                return member
        names = ", ".join(sorted({repr(member.name) for member in members})) or "none"
        raise ControllerError(
            f"no controller named {name!r} is open; open are: {names}. "
            "A controller opens with its first task, or by start()"
        )

    def names(self) -> set[str]:
        """The names of the open controllers."""
        with self._lock:
            return {member.name for member in self._open.values()}

    def make_up_name(self) -> str:
        """A name that no open controller has."""
        taken = self.names()
        return next(name for name in (f"kumi-{number}" for number in self._numbers) if name not in taken)

    def end(self) -> None:
        """Ends all controllers with the interpreter: waits for the tasks, unless an error has ended the program."""
        with self._lock:
            members = {*self._open.values(), *self._ending}
        try:
            # Those first whose tasks may still go to another one.
            for member in () if _failed() else sorted(members, key=lambda member: -member._places):
                member.shutdown()
                member._tell_overlooked(held=True)
        finally:
            for member in members:
                # Another Ctrl-C means: now. That is what happens, to all of them.
                with suppress(KeyboardInterrupt):
                    member.terminate()

    def forget(self) -> None:
        """In a forked child: the controllers stayed with the parent, and so did whoever held the lock."""
        self.__init__()  # type: ignore[misc]


registry = Registry()


def _failed() -> bool:
    """Whether the program ends by an error that nobody caught. An interactive interpreter survives those."""
    return hasattr(sys, "last_value") and not hasattr(sys, "ps1")


def _before_fork() -> None:
    """A fork in the middle of another thread's import leaves the child a module that never comes.

    So what threads that use a controller import at some time is imported now, if it is not yet.
    """
    if registry.names():
        import_module("kumi.unpicklable")  # and with it `kumi.pickler`
    before_fork()


def _after_fork() -> None:
    after_fork_in_child()
    registry.forget()
    deliverer.forget()


# Run from the last to the first, each whatever happened in the one before: callbacks may still ask the core.
atexit.register(leave)
atexit.register(deliverer.join, SECONDS_TO_LEAVE)
atexit.register(registry.end)
os.register_at_fork(before=_before_fork, after_in_parent=after_fork_in_parent, after_in_child=_after_fork)
