"""The controller of a task, seen from inside of it: what the task submits goes to the controller that runs it.

In a worker that is the host's controller, which the core reaches; where tasks run in the host's own process it is the
controller itself. May not know: how a default is chosen, how controllers open and end.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import ContextVar
from typing import Any, NoReturn, cast

from kumi import serial, worker
from kumi._core import Group
from kumi._core import Inner as CoreInner
from kumi.errors import ControllerClosed, ControllerError, QueueFull
from kumi.feed import Feed
from kumi.functions import Functions, Prepared
from kumi.launchers import usable_cpus
from kumi.options import Options
from kumi.registry import registry
from kumi.seeds import Seeds, Stream
from kumi.submitter import Queue, Submitter
from kumi.task import Task

running_here: ContextVar[Queue | None] = ContextVar("running_here", default=None)
"""The controller whose task runs here, in the host's own process."""


class Inner(Submitter, Executor):
    """What `kumi.default()` is in a task on a worker: it submits to the controller that runs the task.

    While a task waits for what it has submitted, its worker runs that, so nothing deadlocks at any depth. What waits in
    async code, or in a thread that the task has started, gets a worker of its own above the controller's number.
    Nothing holds up a submit: the bound of the queue is for those who submit from outside. What a task has submitted
    is cancelled with it, unless the task returns: then it goes on and nobody is told its result, or what it reports.

    Attributes:
        name: The controller's name.
        workers: How many CPUs there are here, which is how far maps of unknown length look ahead.
    """

    def __init__(self, pool: CoreInner) -> None:
        self.name = pool.name
        self.workers = usable_cpus()
        self._pool = pool
        self._seeds: Seeds | None = None  # a task's own seed numbers what it submits
        self._functions = Functions(pool)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> NoReturn:  # noqa: ARG002
        """Not for a task: the program that opened the controller ends it.

        Raises:
            ControllerError: Always.
        """
        raise ControllerError(
            f"a task cannot end the controller that runs it, {self.name!r}: do not use it in a `with` statement, and "
            "leave shutdown() to the program that opened it"
        )

    def __repr__(self) -> str:
        return f"<controller {self.name!r} of the task that runs here>"

    def _target(self, _fn: object, _args: object, _kwargs: object, /) -> "Inner":
        return self

    def _find(self, name: str) -> Queue:
        if name == self.name:
            return self
        try:
            return cast("Queue", registry.find(name))
        except ControllerError as error:
            text = f"{error}. A task reaches the one that runs it, {self.name!r}, and those that it has opened itself"
            raise ControllerError(text) from None

    def _prepare(self, fn: Callable[..., Any]) -> Prepared:
        try:
            return self._functions.get(fn)
        except ControllerClosed as error:
            raise self._closed_error(error) from None

    def _enter(
        self,
        function: Prepared,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Options,
        stream: Stream | None,
        *,
        wait: bool,  # noqa: ARG002 - there is always room
        group: Group | None = None,
    ) -> Task[Any] | None:
        payload = serial.dumps_call(args, kwargs, function.call, options.carried(function.call, stream))
        try:
            task: Task[Any] = Task(
                self._pool,
                function.handle,
                payload,
                options.name,
                options.crashes,
                options.limits,
                False,
                False,
                False,
                group,
            )
        except QueueFull:  # a group that takes no more
            return None
        except ControllerClosed as error:
            raise self._closed_error(error) from None
        if stream is not None:
            task._stream = stream
        if options.limits is not None:
            task._limits = options.limits
        return task

    async def _enter_when_room(
        self,
        function: Prepared,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Options,
        stream: Stream | None,
    ) -> Task[Any]:
        task = self._enter(function, args, kwargs, options, stream, wait=False)
        assert task is not None, "it belongs to no group"
        return task

    def _new_group(self) -> Group:
        return Group(self._pool)

    def _feeds(self, _: Feed[Any]) -> bool:
        return False  # a thread would have to end before its task does

    def _push(self, *_: object) -> NoReturn:
        raise ControllerError(
            "a task cannot push: records are kept for the program that opened the controller; use submit, and the "
            "task's own record"
        )

    def _everywhere(self, *_: object) -> NoReturn:
        raise ControllerError(
            "a task cannot call everywhere, for it would have to wait for itself: leave that to the program that "
            "opened the controller, or give it to the controller as setup"
        )

    def _closed_error(self, reason: ControllerClosed) -> ControllerClosed:
        return ControllerClosed(f"controller {self.name!r} cannot be reached from here: {reason}")


_lock = threading.Lock()
_made: list[Inner] = []


def current() -> Queue | None:
    """The controller of the task that runs here; None outside of tasks."""
    here = running_here.get()
    if here is not None:
        return here
    serving = worker.serving()
    if serving is None:
        return None
    with _lock:
        if not _made:
            _made.append(Inner(serving.inner()))
        return _made[0]
