"""What a task may ask and say where it runs."""

from dataclasses import dataclass

from kumi import current, serial


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
    always arrives, unless the worker dies. Never waits. The host reads it by `Task.report` and `Task.reports()`.

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
