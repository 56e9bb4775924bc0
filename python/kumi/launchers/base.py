"""What launchers are, and what they are told of the workers that they start."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kumi._core import Pool
from kumi.errors import ControllerClosed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

JOIN_CODE = "KUMI_JOIN_CODE"  # the environment variable that a join code may stand in
INDEX = "KUMI_INDEX"  # and the one that says which worker of its launch an agent is for
ATTACHED = b"kumi: attached\n"  # what an attached worker writes to both of its outputs before anything else


@dataclass(frozen=True, slots=True)
class Command:
    """How one worker process is started on this machine.

    Attributes:
        argv: The program and its arguments.
        environment: Its whole environment.
        directory: Where it starts; None: where this process is.
        slots: Variables that one living worker at a time has, in place of those in `environment`: such as the names of
            GPUs. Another one gets them when it has ended with all that it started. Empty: all workers are alike.
    """

    argv: list[str]
    environment: dict[str, str] = field(repr=False)
    directory: str | None = None
    slots: list[dict[str, str]] = field(default_factory=list)


@runtime_checkable
class LocalLauncher(Protocol):
    """A launcher of workers on this machine: says how one is started, and the core starts as many as it needs.

    One whose command has `slots` says by an attribute `slots` how many they are, since no more workers can be there.
    """

    def command(self, workers: int, /) -> Command:
        """Renders the command that starts one worker.

        Args:
            workers: The most workers that the controller runs at a time.
        """
        ...


@dataclass(frozen=True, slots=True)
class NewWorker:
    """A worker that a launcher is to start: somewhere, `command()` has to run, with the variables of `environment`.

    The worker calls its controller by itself, and ends by itself when it is wanted no more or its controller is gone.

    Attributes:
        name: What the worker is called, such as "fit-3".
        index: Its number among the workers of this launch, from 0. All else but the name is the same for all of them,
            so that they can be one array job, whose script sets the variable KUMI_INDEX.
        url: Where it calls its controller.
        code: The secret that lets it in: for its environment, never for a command line or a log.
    """

    name: str
    index: int
    url: str
    code: str = field(repr=False)
    tell: Callable[[str], None] = field(repr=False, compare=False)

    def command(self, python: str | os.PathLike[str] | None = None, *, url: str | None = None) -> list[str]:
        """The program and its arguments.

        Args:
            python: The interpreter there, of the same minor version as here, with kumi; None: the one of this process.
            url: Where the worker calls, if it reaches its controller by another way than `url`, such as a tunnel.

        Example:
            >>> worker.command("/opt/python/bin/python3")
            ['/opt/python/bin/python3', '-m', 'kumi', 'worker', 'kumi://10.0.0.7:40123/51ab...']
        """
        return [os.fspath(python or sys.executable), "-m", "kumi", "worker", url or self.url]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that it needs besides those that programs have there. The join code is secret."""
        return {JOIN_CODE: self.code, INDEX: str(self.index)}

    def failed(self, why: str) -> None:
        """Tells the controller, from any thread, that this worker did not start, or is no more.

        Without it the controller learns that from `poll`, or when the worker has not called within `seconds_launch`.

        Args:
            why: For the user.
        """
        self.tell(said(str, why))


@runtime_checkable
class Launcher(Protocol):
    """Starts workers somewhere. One method is enough; `docs/launchers.md` shows how one is written.

    It may also have:

    - `poll(handles)`: for each handle None, or, if what was started has ended, in words why. It is called while workers
      have not called yet, or are not heard of any more, every `seconds_poll` seconds (an attribute; else each second).
    - `terminate(handles)`: ends what these stand for, if it still exists: workers that are wanted no more, and came
      never, or are not heard of any more. All others end by themselves.
    - `seconds_launch`, `host`: what the controller's arguments of these names are unless the user gives them.
    - `slots`: how many workers there can be at a time, if that is known: what `workers` is unless the user gives it.

    All are called in one thread. What they raise is told to the user, and costs the launch, not the controller.
    """

    def launch(self, workers: Sequence[NewWorker], /) -> Sequence[Any] | None:
        """Starts these workers, without waiting until they are there.

        Args:
            workers: What to start.

        Returns:
            A handle for each, for `poll` and `terminate`; None if the launcher has neither.

        Raises:
            Exception: No worker could be started, and why. The controller tries again, later each time, and after a few
                failures its tasks end as LaunchError with these words.
        """
        ...


def slots_of(launcher: object) -> int | None:
    """How many workers there can be at a time; None: any number."""
    return getattr(launcher, "slots", None)


def carry_out_orders(pool: Pool, launcher: LocalLauncher, workers: int) -> None:
    """What the thread `kumi-launcher` does for local workers: tells the core how they are started, which then does it.

    Where the launcher fails, each launch that the core asks for has failed with the launcher's words, and the launcher
    is asked anew for the next one.
    """
    while True:
        try:
            command = launcher.command(workers)
            return pool.spawn_by(command.argv, command.environment, command.directory, command.slots)
        except ControllerClosed:
            return None
        except BaseException as error:  # the launcher may be the user's own
            text = failure(launcher, error)
        orders = pool.next_order(None)
        if orders is None:
            return None
        pool.launch_failed([launch for launch, _ in orders[0]], text)


def in_words(launcher: "DataclassInstance") -> str:
    """What it was made with, as far as that is not what it would be anyway, and nothing that may be secret."""
    given = {each.name: getattr(launcher, each.name) for each in fields(launcher) if each.repr}
    usual = {each.name: each.default for each in fields(launcher)}
    shown = [f"{name}={value!r}" for name, value in given.items() if value != usual[name]]
    return f"{type(launcher).__name__}({', '.join(shown)})"


def failure(launcher: object, error: BaseException) -> str:
    """What a launcher has raised, for people."""
    return f"{said(repr, launcher)} failed: {type(error).__name__}: {said(str, error)}"


def said(how: Callable[[object], str], value: object) -> str:
    """What a user's own object says of itself, as a text that the core takes, whatever comes of asking it.

    Args:
        how: `str` or `repr`.
        value: The object.
    """
    try:
        text = how(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose {how.__name__}() raises {type(error).__name__}>"
    return text.encode(errors="backslashreplace").decode()
