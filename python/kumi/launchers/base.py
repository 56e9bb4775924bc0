"""What every launcher can do."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from kumi._core import Pool
from kumi.errors import ControllerClosed


@dataclass(frozen=True, slots=True)
class Command:
    """How one worker process is started.

    Attributes:
        argv: The program and its arguments.
        environment: Its whole environment.
        directory: Where it starts; None: where this process is.
    """

    argv: list[str]
    environment: dict[str, str] = field(repr=False)
    directory: str | None = None


@runtime_checkable
class Launcher(Protocol):
    """A launcher of workers on this machine: says how one is started, and the core starts as many as it needs."""

    def command(self, workers: int, /) -> Command:
        """Renders the command that starts one worker.

        Args:
            workers: The most workers that the controller runs at a time.
        """
        ...


def carry_out_orders(pool: Pool, launcher: Launcher, workers: int) -> None:
    """What the thread `kumi-launcher` does: tells the core how workers are started, which then launches by itself.

    Where the launcher fails, each launch that the core asks for has failed with the launcher's words, and the launcher
    is asked anew for the next one.
    """
    while True:
        try:
            command = launcher.command(workers)
            return pool.spawn_by(command.argv, command.environment, command.directory)
        except ControllerClosed:
            return None
        except BaseException as error:  # the launcher may be the user's own
            text = f"{launcher!r} failed: {type(error).__name__}: {error}"
        launches = pool.next_order()
        if launches is None:
            return None
        pool.launch_failed(launches, text)
