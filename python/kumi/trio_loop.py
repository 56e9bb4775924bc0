"""Waiting in coroutines of trio. Imported where trio runs; see `loops`."""

import math
import weakref

import trio
from trio.lowlevel import (
    Abort,
    RaiseCancelT,
    RunVar,
    current_task,
    reschedule,
    spawn_system_task,
    wait_readable,
    wait_task_rescheduled,
)

from kumi._core import Inbox
from kumi.waiting import AT_ONCE, Forget, Watch


class _Trio:
    """Waiting for one run of trio. Goes with it."""

    Cancelled = trio.Cancelled

    def __init__(self) -> None:
        self._inbox = Inbox()
        self._waiting: dict[int, trio.lowlevel.Task] = {}
        self._turns: weakref.WeakKeyDictionary[object, trio.Lock] = weakref.WeakKeyDictionary()
        spawn_system_task(self._take, name="kumi")

    async def wait(
        self, watch: Watch, seconds: float | None = None, *, shield: bool = False, forget: Forget | None = None
    ) -> bool:
        """See `waiting.Waiting`."""
        deadline = math.inf if seconds is None else trio.current_time() + seconds
        with trio.CancelScope(deadline=deadline, shield=shield):
            token = watch(self._inbox)
            if token is not None:
                await self._wait(token, forget)
            return True
        return False

    def turns(self, owner: object) -> trio.Lock:
        """See `waiting.Waiting`."""
        return self._turns.setdefault(owner, trio.Lock())

    async def _wait(self, token: int, forget: Forget | None) -> None:
        def leave(_: RaiseCancelT) -> Abort:
            del self._waiting[token]
            if forget is not None:
                forget(token)
            return Abort.SUCCEEDED

        self._waiting[token] = current_task()
        await wait_task_rescheduled(leave)

    async def _take(self) -> None:
        while True:
            await wait_readable(self._inbox)
            for token in self._inbox.take(AT_ONCE):
                task = self._waiting.pop(token, None)
                if task is not None:
                    reschedule(task)


_of_this_run: RunVar[_Trio] = RunVar("kumi")


def here() -> _Trio:
    """What the coroutines of this run wait by."""
    try:
        return _of_this_run.get()
    except LookupError:
        _of_this_run.set(waiting := _Trio())
        return waiting
