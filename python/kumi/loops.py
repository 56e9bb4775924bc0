"""Waiting in async code, under asyncio or trio, whichever is running. Neither is imported for it.

Each event loop has one inbox, a descriptor that it watches beside its others. The core puts a token there when what
belongs to it has come true. So thousands of coroutines need no thread, and are woken in batches.
"""

import sys
import weakref
from typing import TYPE_CHECKING

from kumi._core import Inbox
from kumi.waiting import AT_ONCE, Forget, Waiting, Watch

if TYPE_CHECKING:
    import asyncio


def here() -> Waiting:
    """What the running coroutine waits by.

    Raises:
        RuntimeError: If neither asyncio nor trio is running.
    """
    if _in_trio():
        from kumi import trio_loop

        return trio_loop.here()
    import asyncio

    return _of_asyncio(asyncio.get_running_loop())


def running() -> bool:
    """Whether an event loop runs in this thread, so that the thread must not wait."""
    asyncio = sys.modules.get("asyncio.events")
    return _in_trio() or (asyncio is not None and asyncio._get_running_loop() is not None)


def refuse_trio() -> None:
    """For what asyncio alone can do.

    Raises:
        RuntimeError: In a coroutine of trio.
    """
    if _in_trio():
        raise RuntimeError(
            "`async for` over a map or over as_completed needs asyncio; under trio await the tasks, each in a task of "
            "a nursery, or read the map in a thread: trio.to_thread.run_sync(values.results)"
        )


def _in_trio() -> bool:
    # Another thread may be in the middle of importing it.
    in_trio_task = getattr(sys.modules.get("trio.lowlevel"), "in_trio_task", None)
    return in_trio_task is not None and in_trio_task()


class _Asyncio:
    """Waiting for one loop of asyncio. Held by the loop's reader alone, so it goes, descriptor included, with it."""

    def __init__(self, loop: "asyncio.AbstractEventLoop") -> None:
        from asyncio import CancelledError

        self.Cancelled = CancelledError
        self._loop = loop
        self._inbox = Inbox()
        self._waiting: dict[int, asyncio.Future[bool]] = {}
        self._turns: weakref.WeakKeyDictionary[object, asyncio.Lock] = weakref.WeakKeyDictionary()
        loop.add_reader(self._inbox.fileno(), self._take)

    async def wait(
        self,
        watch: Watch,
        seconds: float | None = None,
        *,
        shield: bool = False,  # noqa: ARG002 - see Waiting
        forget: Forget | None = None,
    ) -> bool:
        token = watch(self._inbox)
        if token is None:
            return True
        woken: asyncio.Future[bool] = self._loop.create_future()
        self._waiting[token] = woken
        alarm = None if seconds is None else self._loop.call_later(seconds, _set, woken, False)
        came = False
        try:
            came = await woken
        finally:
            del self._waiting[token]
            if alarm is not None:
                alarm.cancel()
            if not came and forget is not None:
                forget(token)
        return came

    def turns(self, owner: object) -> "asyncio.Lock":
        from asyncio import Lock

        return self._turns.setdefault(owner, Lock())

    def _take(self) -> None:
        for token in self._inbox.take(AT_ONCE):
            woken = self._waiting.get(token)
            if woken is not None:
                _set(woken, True)


# By weak references on both sides: a value that was held here would hold its loop.
_by_loop: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Asyncio]]" = weakref.WeakKeyDictionary()


def _of_asyncio(loop: "asyncio.AbstractEventLoop") -> _Asyncio:
    reference = _by_loop.get(loop)
    waiting = None if reference is None else reference()
    if waiting is None:
        waiting = _Asyncio(loop)
        _by_loop[loop] = weakref.ref(waiting)
    return waiting


def _set(woken: "asyncio.Future[bool]", came: bool) -> None:
    if not woken.done():
        woken.set_result(came)
