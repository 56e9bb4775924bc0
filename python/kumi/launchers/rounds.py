"""The thread that has a launcher start workers, ask after them and end them, as the core wants it."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from kumi._core import Pool
from kumi.errors import ControllerClosed
from kumi.launchers.base import Launcher, NewWorker, failure, said
from kumi.options import positive

SECONDS_POLL = 1.0
LOOSE_MAX = 1000  # so many that cannot be ended may still come
NOT_NEEDED = "it was not needed any more"


def seconds_poll(launcher: object) -> float:
    """How often it is asked after its workers.

    Raises:
        TypeError, ValueError: If what it says is no such time.
    """
    return positive("seconds_poll of the launcher", getattr(launcher, "seconds_poll", SECONDS_POLL))


@dataclass(slots=True)
class Round:
    """Workers that were launched together.

    Attributes:
        code: What lets them in.
        left: Those of which something may still exist.
    """

    code: str
    left: set[int]


class Rounds:
    """Carries out what the core wants of one launcher, until the controller has ended.

    Args:
        pool: Of the controller.
        launcher: What starts the workers; it may be the user's own and raise anything.
        url: Where workers call.
    """

    def __init__(self, pool: Pool, launcher: Launcher, url: str) -> None:
        self._pool = pool
        self._launcher = launcher
        self._url = url
        self._poll_handles = getattr(launcher, "poll", None)
        self._end_handles = getattr(launcher, "terminate", None)
        self._seconds_poll = seconds_poll(launcher)
        self._handles: dict[int, Any] = {}
        self._rounds: dict[int, Round] = {}  # by each of their launches
        self._loose: dict[int, None] = {}  # of those, what is not wanted any more and may still come, oldest first
        self._asked = time.monotonic()
        self._told: set[str] = set()

    def run(self) -> None:
        """What the thread does."""
        with suppress(ControllerClosed):  # Python is ending
            unsure: list[int] = []
            while (orders := self._pool.next_order(self._seconds_poll if unsure else None)) is not None:
                launches, ends = orders
                if launches:
                    self._launch(launches)
                    if not unsure:
                        self._asked = time.monotonic()  # of those it asks later
                if ends:
                    self._end(ends)
                unsure = self._look()
                if unsure and time.monotonic() - self._asked >= self._seconds_poll:
                    self._poll(unsure)

    def _launch(self, launches: list[tuple[int, int]]) -> None:
        ids = [launch for launch, _ in launches]
        code = self._pool.issue(ids)
        workers = [self._worker(code, index, *launch) for index, launch in enumerate(launches)]
        try:
            returned = self._launcher.launch(workers)
            handles = None if returned is None else list(returned)
            if handles is not None and len(handles) != len(ids):
                self._try_to_end(handles)
                raise ValueError(f"launch returned {len(handles)} handles for {len(ids)} workers")
        except BaseException as error:
            self._pool.revoke(code)  # whatever was started nevertheless must not stay
            self._pool.launch_failed(ids, failure(self._launcher, error))
            return
        if handles is not None:
            self._handles.update(zip(ids, handles, strict=True))
        self._rounds.update(dict.fromkeys(ids, Round(code, set(ids))))
        self._pool.launched(ids)

    def _worker(self, code: str, index: int, launch: int, number: int) -> NewWorker:
        tell = partial(self._pool.launch_failed, [launch])
        return NewWorker(f"{self._pool.name}-{number}", index, self._url, code, tell)

    def _end(self, launches: list[int]) -> None:
        known = [launch for launch in launches if launch in self._handles]
        ended = self._try_to_end([self._handles[launch] for launch in known])
        for launch in self._rounds.keys() & launches:
            if ended and launch in known:
                self._forget(launch)
            else:
                # Of what cannot be ended a worker may still come, and finds work then.
                self._loose[launch] = None
                self._handles.pop(launch, None)
        while len(self._loose) > LOOSE_MAX:
            oldest = next(iter(self._loose))
            del self._loose[oldest]
            self._forget(oldest)
        self._pool.launch_failed(launches, NOT_NEEDED)

    def _try_to_end(self, handles: Sequence[Any]) -> bool:
        if self._end_handles is None:
            return False
        try:
            if handles:
                self._end_handles(handles)
            return True
        except BaseException as error:
            self._say(f"{failure(self._launcher, error)}: workers that are not needed any more may go on")
            return False

    def _look(self) -> list[int]:
        """Forgets launches whose workers have told their end. Those of which only the launcher may know something."""
        states = dict(self._pool.launches())
        for launch in [launch for launch in self._rounds if launch not in states and launch not in self._loose]:
            self._forget(launch)
        if self._poll_handles is None:
            return []
        return [launch for launch in self._handles if states[launch]]

    def _forget(self, launch: int) -> None:
        self._handles.pop(launch, None)
        round = self._rounds.pop(launch)
        round.left.discard(launch)
        if not round.left:
            self._pool.revoke(round.code)

    def _poll(self, launches: list[int]) -> None:
        assert self._poll_handles is not None
        try:
            answers = list(self._poll_handles([self._handles[launch] for launch in launches]))
            if len(answers) != len(launches):
                raise ValueError(f"poll returned {len(answers)} answers for {len(launches)} handles")
        except BaseException as error:
            self._say(f"{failure(self._launcher, error)}: it cannot be asked what became of its workers")
            answers = []
        for launch, why in zip(launches, answers, strict=False):
            if why is not None:
                self._pool.launch_failed([launch], said(str, why))
        self._asked = time.monotonic()

    def _say(self, text: str) -> None:
        if text not in self._told and sys.stderr is not None:
            self._told.add(text)
            with suppress(Exception):  # the stream may be the user's own
                sys.stderr.write(f"kumi: controller {self._pool.name!r}: {text}\n")
