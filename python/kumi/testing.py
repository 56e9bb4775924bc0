"""For authors of launchers: `check_launcher` says whether one does what controllers rely on."""

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from kumi.controller import Controller
from kumi.errors import CrashError
from kumi.launchers import Launcher, NewWorker
from kumi.launchers.base import failure
from kumi.options import positive
from kumi.task import Task

SECONDS_BETWEEN_POLLS = 0.2  # the launcher can only be asked


def check_launcher(launcher: Launcher, *, seconds: float = 60) -> None:
    """Starts workers by this launcher, has them run tasks, die and leave, and looks that nothing is left behind.

    Args:
        launcher: What is to be checked. At most two workers are started at a time.
        seconds: How long the launcher may take for a worker, from `launch` to its first task, and to end one.

    Raises:
        AssertionError: If something is not as it should be, with what that is.
        kumi.LaunchError: If no worker came, with the launcher's own words.
        TypeError: If it is no such launcher: it has no `launch`, or is a class.

    Example:
        >>> kumi.testing.check_launcher(MyLauncher())
    """
    if isinstance(launcher, type) or not isinstance(launcher, Launcher):
        raise TypeError(f"launcher must be an object with a method launch(workers), not {launcher!r}")
    seconds = positive("seconds", seconds)
    for check in (_handles, _together, _replaced, _one_after_the_other, _known_to_end, _none_is_left):
        check(_Spy(launcher), seconds)


class _Spy:
    """A launcher that notes what another one was asked, and has answered."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self.workers: list[NewWorker] = []
        self.handles: list[Any] = []
        self.returned: list[object] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._launcher, name)

    def __repr__(self) -> str:
        return repr(self._launcher)

    def launch(self, workers: Sequence[NewWorker]) -> Sequence[Any] | None:
        self.workers += workers
        handles = self._launcher.launch(workers)
        self.returned.append(handles)
        self.handles += handles or ()
        return handles

    def can(self, method: str) -> bool:
        return callable(getattr(self._launcher, method, None))

    def open(self, seconds: float, **options: Any) -> Controller:
        return Controller(self, **{"workers": 2, "seconds_launch": seconds, "crashes_max": 0} | options)

    def ask(self, handles: list[Any]) -> list[Any]:
        """What `poll` says of each of these, of the kind that it has to be."""
        try:
            answers = list(self._launcher.poll(handles))  # type: ignore[attr-defined]
        except Exception as error:
            raise AssertionError(f"{failure(self, error)}: it cannot be asked what became of its workers") from error
        fine = len(answers) == len(handles) and all(why is None or isinstance(why, str) for why in answers)
        _check(fine, self, f"poll must answer for each handle None, or in words why it has ended, not {answers!r}")
        return answers

    def wait_until_ended(self, seconds: float) -> list[Any]:
        """The handles whose workers have not ended in this time, as far as the launcher can tell."""
        end = time.monotonic() + seconds
        left = list(self.handles)
        while left and time.monotonic() < end:
            answers = self.ask(left)
            left = [handle for handle, why in zip(left, answers, strict=True) if why is None]
            if left:
                time.sleep(SECONDS_BETWEEN_POLLS)
        return left


def _check(fine: object, spy: _Spy, text: str) -> None:
    if not fine:
        raise AssertionError(f"{spy!r}: {text}")


def _result(task: Task[Any], spy: _Spy, seconds: float, text: str) -> Any:
    try:
        return task.result(timeout=seconds)
    except TimeoutError:
        raise AssertionError(f"{spy!r}: {text} within {seconds} s") from None


def _handles(spy: _Spy, seconds: float) -> None:
    """What `launch` returns is of use for what else there is."""
    with spy.open(seconds, workers=1) as crew:
        value = _result(crew.submit(pow, 2, 10), spy, seconds, "no worker ran a task")
    _check(value == 1024, spy, f"a task gave {value!r} in place of 1024")  # noqa: PLR2004
    _check(len(spy.workers) == 1, spy, f"{len(spy.workers)} workers were asked for; the first one should have come")
    if spy.can("poll") or spy.can("terminate"):
        text = "it has poll or terminate, so launch must return a handle for each worker"
        _check(all(handles is not None for handles in spy.returned), spy, text)


def _together(spy: _Spy, seconds: float) -> None:
    """Two workers at a time."""
    with spy.open(seconds) as crew:
        long = crew.submit(time.sleep, 3600)
        _result(crew.submit(abs, -1), spy, 2 * seconds, "no second worker came while the first was busy")
        long.cancel()


def _replaced(spy: _Spy, seconds: float) -> None:
    """A worker that dies makes room for another one."""
    with spy.open(seconds, workers=1) as crew:
        died: Task[Any] = crew.submit(_die)
        try:
            _result(died, spy, seconds, "the death of a worker was not noticed")
        except CrashError as error:
            _check(type(error) is CrashError, spy, str(error))
        _result(crew.submit(abs, -1), spy, seconds, "a worker that had died was not replaced")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _one_after_the_other(spy: _Spy, seconds: float) -> None:
    """Each worker is a process of its own, and leaves when it has done its part."""
    with spy.open(seconds, workers=1, tasks_max=1) as crew:
        tasks = [crew.submit(abs, number) for number in range(3)]
        for task in tasks:
            _result(task, spy, seconds, "no new worker came for the next task")
        names = {task.record.worker for task in tasks if task.record is not None}
    _check(len(names) == len(tasks), spy, f"tasks_max=1, and {len(tasks)} tasks were run by {sorted(map(str, names))}")


def _known_to_end(spy: _Spy, seconds: float) -> None:
    """`terminate` ends workers, and `poll` says so."""
    if not (spy.can("terminate") and spy.can("poll")):
        return
    with spy.open(seconds, workers=1, crashes_max=5) as crew:
        _result(crew.submit(abs, -1), spy, seconds, "no worker ran a task")
        _check(None in spy.ask(spy.handles), spy, "poll tells of the end of a worker that has just run a task")
        spy.terminate(spy.handles)
        left = spy.wait_until_ended(seconds)
        _check(not left, spy, f"poll does not tell that what terminate was given has ended: {left!r}")
        _result(crew.submit(abs, -1), spy, 2 * seconds, "a worker that was ended was not replaced")


def _none_is_left(spy: _Spy, seconds: float) -> None:
    """What has not come yet, and what is at work, ends with the controller."""
    crew = spy.open(seconds, workers=1)
    crew.submit(abs, -1).cancel()
    crew.terminate()
    crew = spy.open(seconds)
    busy, other = crew.submit(time.sleep, 3600), crew.submit(abs, -1)
    _result(other, spy, 2 * seconds, "no second worker came while the first was busy")
    crew.terminate()
    _check(busy.cancelled(), spy, "a task went on after terminate")
    if spy.can("poll"):
        left = spy.wait_until_ended(seconds)
        _check(not left, spy, f"after the controller's end these are left: {left!r}")
