"""What a task may ask and say where it runs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kumi import current, seeds, serial

if TYPE_CHECKING:
    from numpy.random import Generator


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """What a task knows of itself.

    Attributes:
        id: Its number, unique within its controller: `Task.id` on the host.
        name: The label it was given, or None.
        controller: The controller's name.
        worker: The worker's name, `<controller>-<number>`; the number is 0 in the host's own process.
        attempt: The how many-th time it is run, from 1 on: more if a worker died of it.
    """

    id: int
    name: str | None
    controller: str
    worker: str
    attempt: int


def task_info() -> TaskInfo | None:
    """Tells a task who it is. None outside of a task.

    Example:
        >>> def name():
        ...     return kumi.task_info().name
        >>> kumi.with_options(name="fit").submit(name).result()
        'fit'
    """
    running = current.running()
    if running is None:
        return None
    number, attempt, worker, notes = running
    return TaskInfo(number, notes.get("name"), worker.rpartition("-")[0], worker, attempt)


def report(value: object) -> None:
    """Sends a small value from a running task to the host, such as how far it is. Does nothing outside of a task.

    The latest counts: what is said within a twentieth of a second is replaced by what is said later, and the last one
    always arrives, unless the worker dies. Never waits. The host reads it by `Task.report` and `Task.reports()`; a task
    that has submitted this one does not get to know it.

    Args:
        value: What can be pickled into at most 32 KiB.

    Raises:
        ValueError: If it is larger.
        SerializationError: If it cannot be pickled.

    Example:
        >>> def work():
        ...     for step in range(10):
        ...         kumi.report(step / 10)
        >>> task = kumi.submit(work)
        >>> list(task.reports())[-1]
        0.9
    """
    if current.running() is None:
        return
    payload = serial.dumps(value, "report")
    if type(payload) is not bytes:
        raise ValueError("a report is a small value: large arrays and shared values cannot be reported")
    current.reporter()(payload)


def rng() -> "Generator":
    """The numpy generator of the task that runs here, the same at each call. Outside of a task: a new one at each call.

    It depends on the seed that `with_options(seed=...)` or the controller was given, and on the place of the task among
    those that were submitted with it, but not on the worker. Without a seed it is as random as the system can make it.

    Raises:
        ModuleNotFoundError: If numpy is not installed.

    Example:
        >>> def throw(dice):
        ...     return int(kumi.rng().integers(1, 7, size=dice).sum())
        >>> with kumi.daemons(2):
        ...     first = kumi.with_options(seed=1).map(throw, [2] * 3).results()
    """
    running = current.running()
    notes: dict[str, Any] = {} if running is None else running[3]
    if "rng" not in notes:
        notes["rng"] = seeds.generator(notes.get("stream"))
    made: Generator = notes["rng"]
    return made
