"""What coroutines wait by, whatever runs them: the words that `loops` and `trio_loop` share."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from kumi._core import Inbox

AT_ONCE = 100  # coroutines that are woken before the loop gets to do something else: about a millisecond's worth

Watch = Callable[[Inbox], int | None]
"""Asks the core for a token, to be put into this inbox when something has come true. None: it is true."""

Forget = Callable[[int], None]
"""Tells the core that the token is not waited for any more."""


class Waiting(Protocol):
    """What the coroutines of one event loop wait by."""

    @property
    def Cancelled(self) -> type[BaseException]:  # noqa: N802
        """What is raised in a coroutine that is cancelled."""

    async def wait(
        self, watch: Watch, seconds: float | None = None, *, shield: bool = False, forget: Forget | None = None
    ) -> bool:
        """Waits without blocking the loop.

        Args:
            watch: What for.
            seconds: How long at most; None: no limit.
            shield: Wait also where trio has cancelled already; asyncio cancels once and does not come back.
            forget: Called with the token that nobody waits for any more.

        Returns:
            Whether it came true in time.
        """

    def turns(self, owner: object) -> AbstractAsyncContextManager[object]:
        """The lock by which the coroutines of this loop take turns with this object."""
