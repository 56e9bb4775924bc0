"""Several controllers behind one face.

Each has its own queue and workers, and decides for itself. Here is what they share: who is chosen, and who is asked.
"""

import math
import operator
import select
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, ExitStack
from functools import reduce
from types import MappingProxyType, TracebackType
from typing import Any, Self

from kumi import loops
from kumi._core import Inbox
from kumi.backup import chain
from kumi.completed import moment, seconds_until
from kumi.controller import Controller
from kumi.errors import ControllerError
from kumi.kept import Keeper
from kumi.status import GroupSummary, Status
from kumi.submitter import Submitter
from kumi.task import Record, Task

_MILLISECONDS_MAX = 2**31 - 1  # what a poll takes; who has longer polls again


class ControllerGroup(Submitter, Keeper, Executor):
    """Several controllers behind the face of one: a `concurrent.futures.Executor`.

    Tasks go to the first controller, the default, unless `with_options(controller=...)` names another one of the group,
    or gives a function that names one for each task. `everywhere` means every worker of every controller. All else is
    said of all of them: `wait` waits for what was pushed to any, `pop` takes from each in turn, so that one with many
    records does not hide those of the others, `cancel`, `shutdown` and blocks of `with` hold for all.

    Making a group opens nothing: each controller opens with its first task. A group can be pickled, as its controllers.

    Args:
        controllers: At least one, each of another name. They may be open. None may be in another group, which would
            pop the records of this one.

    Raises:
        TypeError: If one of them is no controller; groups cannot be in groups.
        ValueError: If there is none, if two have the same name, or if one is in another group.

    Example:
        >>> small = kumi.Controller(name="small", workers=4)
        >>> large = kumi.Controller(name="large", workers=1, memory_gigabytes_max=32)
        >>> with kumi.ControllerGroup(small, large) as group:
        ...     group.push(pow, 2, 10)
        ...     group.with_options(controller="large").push(pow, 3, 10)
        ...     results = {record.controller: record.result for record in group.records()}
        >>> results
        {'small': 1024, 'large': 59049}
    """

    def __init__(self, *controllers: Controller) -> None:
        self._controllers = _checked(controllers)
        self._by_name = {controller.name: controller for controller in controllers}
        self._turn = 0  # who is asked first for a record
        _claim(self._controllers, self)

    @property
    def members(self) -> Mapping[str, Controller]:
        """The controllers by their names, the default first."""
        return MappingProxyType(self._by_name)

    def start(self) -> None:
        """Opens all controllers; without it each opens with its first task.

        Raises:
            ControllerError: If another open controller has the same name as one of them.
            ControllerClosed: If one has ended.
        """
        for controller in self._controllers:
            controller.start()

    def status(self) -> Status:
        """Counts of workers and tasks of all controllers together; `members` has each.

        A task that has gone on at its backup counts as finished at both, if both are in the group: and so in `summary`.
        """
        return reduce(operator.add, [controller.status() for controller in self._controllers])

    def summary(self) -> GroupSummary:
        """What the controllers have done so far: the totals and, as `members`, the summary of each.

        Example:
            >>> group.summary().tasks, [(one.controller, one.tasks) for one in group.summary().members]
            (2, [('small', 1), ('large', 1)])
        """
        return GroupSummary.of([controller.summary() for controller in self._controllers])

    @property
    def empty(self) -> bool:
        """Whether no controller has a pushed task left whose record was not popped, finished or not."""
        return all(controller.empty for controller in self._controllers)

    @property
    def saturated(self) -> bool:
        """Whether each controller is: see `Controller.saturated`. Of one alone: `group.members["large"].saturated`."""
        return all(controller.saturated for controller in self._controllers)

    def explain(self) -> str:
        """What `Controller.explain` says of each, one after the other."""
        return "\n".join(controller.explain() for controller in self._controllers)

    @property
    def _max_workers(self) -> int:
        return self._controllers[0]._max_workers

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends all controllers: they take no more tasks, and workers leave when nothing is left to do.

        One that is the backup of another takes what crashes there until that has ended, if this is waited for.

        Args:
            wait: Whether to wait for that.
            cancel_futures: Whether to cancel the tasks that have not started.
        """
        order = self._to_the_end()
        # A backup waits for its turn, to take what crashes until then.
        backups = {one for controller in order if wait for one in chain(controller._backup)}
        for controller in order:
            if controller not in backups:
                controller.shutdown(wait=False, cancel_futures=cancel_futures)
        for controller in order if wait else ():
            controller.shutdown(cancel_futures=cancel_futures and controller in backups)

    def terminate(self) -> None:
        """Ends all controllers at once: cancels their tasks, and kills their workers with their children."""
        with ExitStack() as each:  # also when Ctrl-C comes
            for controller in reversed(self._controllers):
                each.callback(controller.terminate)

    def __enter__(self) -> Self:
        for controller in self._controllers:
            controller.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leaves the block of each, backups last; an error in one, or Ctrl-C, ends those that are left."""
        each = ExitStack()
        for controller in reversed(self._to_the_end()):
            each.push(controller)
        each.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends as `__exit__` does, without blocking the event loop."""
        each = AsyncExitStack()
        for controller in reversed(self._to_the_end()):
            each.push_async_exit(controller)
        await each.__aexit__(kind, error, traceback)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._controllers

    def __repr__(self) -> str:
        return f"<ControllerGroup {', '.join(map(repr, self._controllers))}>"

    def _target(self, _fn: object, _args: object, _kwargs: object, /) -> Controller:
        return self._controllers[0]

    def _targets(self, _fn: object, _args: object, _kwargs: object, /) -> Sequence[Controller]:
        return self._controllers

    def _find(self, name: str) -> Controller:
        try:
            return self._by_name[name]
        except KeyError:
            names = ", ".join(map(repr, self._by_name))
            raise ControllerError(f"no controller named {name!r} is in this group; in it are: {names}") from None

    def _wait_pushed(self, every: bool, limit: float | None) -> bool:
        deadline, enough, wait = moment(limit), any, self._await_record
        if every:
            enough, wait = all, self._await_all
        while pushed := [controller for controller in self._controllers if not controller.empty]:
            if enough(controller._wait_pushed(every, 0) for controller in pushed):
                return True
            if not wait(deadline):
                return False
        return False

    def _take(self, limit: float | None) -> Record[Any] | None:
        deadline = moment(limit)
        while (record := self._take_now()) is None:
            if self.empty or not self._await_record(deadline):
                return None
        return record

    def _take_now(self) -> Record[Any] | None:
        """Takes a record if there is one, of the controllers in turn."""
        first, count = self._turn, len(self._controllers)
        for number in range(first, first + count):
            record = self._controllers[number % count]._take(0)
            if record is not None:
                self._turn = (number + 1) % count
                return record
        return None

    def _first_failed(self) -> Task[Any] | None:
        failed = [task for controller in self._controllers if (task := controller._first_failed()) is not None]
        return min(failed, key=_submitted, default=None)

    def _cancel(self, patterns: tuple[str, ...]) -> int:
        return sum(controller._cancel(patterns) for controller in self._controllers)

    def _to_the_end(self) -> list[Controller]:
        """In which order they end: those first whose tasks may still go to another one."""
        return sorted(self._controllers, key=lambda controller: -controller._places)

    def _await_all(self, deadline: float | None) -> bool:
        """Waits until each controller has done what was pushed to it. False at once if the time is over."""
        if seconds_until(deadline) == 0:
            return False
        for controller in self._controllers:
            controller._wait_pushed(True, seconds_until(deadline))
        return True

    def _await_record(self, deadline: float | None) -> bool:
        """Waits for a record of any controller. False at once if the time is over; else it is worth a look."""
        left = seconds_until(deadline)
        if left == 0:
            return False
        inbox = Inbox()
        with _Watch(self._controllers) as watch:
            if watch(inbox) is not None:
                poll = select.poll()
                poll.register(inbox.fileno(), select.POLLIN)
                poll.poll(None if left is None else min(math.ceil(left * 1000), _MILLISECONDS_MAX))
        return True

    async def _wait_kept(self) -> bool:
        if self.empty:
            return False
        with _Watch(self._controllers) as watch:
            await loops.here().wait(watch)
        return True


class _Watch:
    """Has one token come as soon as any of these controllers has a record to pop: a `waiting.Watch`, for one wait."""

    def __init__(self, controllers: Sequence[Controller]) -> None:
        self._controllers = controllers
        self._token: int | None = None

    def __call__(self, inbox: Inbox) -> int | None:
        for controller in self._controllers:
            token = controller._watch_record(inbox, self._token)
            if token is None:
                return None
            self._token = token
        return self._token

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            for controller in self._controllers:
                controller._forget(self._token)


def _checked(controllers: tuple[Controller, ...]) -> tuple[Controller, ...]:
    if not controllers:
        raise ValueError("a group needs at least one controller: ControllerGroup(small, large)")
    names = set()
    for one in controllers:
        if isinstance(one, ControllerGroup):
            raise TypeError(f"a group cannot be in a group: make one of all the controllers, not of {one!r}")
        if not isinstance(one, Controller):
            raise TypeError(f"a group is made of controllers, ControllerGroup(small, large), not of {one!r}")
        if one.name in names:
            raise ValueError(f"two controllers of a group must not have the same name, {one.name!r}")
        names.add(one.name)
    return controllers


def _claim(controllers: Sequence[Controller], group: ControllerGroup) -> None:
    """A record is popped once, so a controller is in one group, as long as that is held."""
    for one in controllers:
        other = None if one._group is None else one._group()
        if other is not None:
            raise ValueError(f"controller {one.name!r} is in another group, which would pop its records: {other!r}")
    for one in controllers:
        one._group = weakref.ref(group)


def _submitted(task: Task[Any]) -> float:
    facts = task.facts()
    assert facts is not None, "it has failed"
    return facts.submitted
