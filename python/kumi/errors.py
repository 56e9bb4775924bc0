"""The errors that kumi raises. Each one says whose fault it is and what to do.

What a task's function raises arrives as it is, as the original type; these classes are for everything else. May not
know: anything. Nothing is imported here that costs time, because every worker imports this file.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import CancelledError

    from kumi._core import Certificate

__all__ = [
    "ControllerClosed",
    "ControllerError",
    "CrashError",
    "KumiError",
    "LaunchError",
    "QueueFull",
    "RemoteError",
    "SerializationError",
    "TaskCancelled",
    "TaskTimeout",
]


class KumiError(Exception):
    """Base of all errors of kumi's own. Its subclasses say whose fault it is."""


class RemoteError(KumiError):
    """The function's fault: it raised something that cannot, or must not, be raised again here.

    That is: an exception that cannot be pickled; `SystemExit`, `KeyboardInterrupt` and whatever else is not an
    `Exception`; `StopIteration`, `StopAsyncIteration` and `CancelledError`, which would end or confuse the program
    that waits. Read `traceback`, mend the function, or let it raise an exception made of plain values.

    Attributes:
        cause_type: Qualified name of the original's type, such as "SystemExit" or "shop.errors.OutOfStock".
        text: The original's message.
        traceback: The original's traceback, as text.

    Example:
        >>> kumi.submit(sys.exit, 3).result()
        Traceback (most recent call last):
        kumi.errors.RemoteError: the task raised SystemExit: 3
    """

    def __init__(self, cause_type: str, text: str, traceback: str) -> None:
        super().__init__(cause_type, text, traceback)
        self.cause_type = cause_type
        self.text = text
        self.traceback = traceback

    def __str__(self) -> str:
        return f"the task raised {self.cause_type}" + (f": {self.text}" if self.text else "")


class CrashError(KumiError):
    """The fault of what the function did to its process, or of the machine: the worker died while it ran the task.

    Read the certificate: a signal, an exit code, the last lines on stderr. `crashes_max` says how often such a task
    is run again, and `backup` of its controller where it goes on then.

    Attributes:
        certificate: How the last worker died; None if nobody could find out.
    """

    def __init__(self, text: str, certificate: "Certificate | None" = None) -> None:
        super().__init__(text)
        self.certificate = certificate


class LaunchError(CrashError):
    """The launcher's fault, or its settings': no worker can be started. The text holds the launcher's own words."""


class TaskTimeout(KumiError):
    """The task ran into a limit of its work, such as `seconds_run`. Raise the limit, or give it less to do.

    Not a `TimeoutError`: that one says that a call, `result(timeout=1)`, has waited long enough, and the task goes on.
    """


class SerializationError(KumiError, TypeError):
    """The caller's or the function's fault: something cannot be pickled. The text names the part and what to do.

    Raised by `submit` for functions and arguments; the task's own error for a result that cannot be sent back, and for
    a function or arguments that cannot be unpickled on the worker.
    """


class ControllerError(KumiError):
    """The caller's fault: a controller was asked for something it cannot do, such as an unknown name."""


class ControllerClosed(ControllerError, RuntimeError):
    """The caller's fault: the controller has ended, or belongs to the parent of this process. Open another one.

    A `RuntimeError` too, which is what Executors of the standard library raise after their shutdown.
    """


class QueueFull(ControllerError):
    """The queue has no room and the call may not wait. Use `await controller.run(...)`, or try again later."""


if TYPE_CHECKING:

    class TaskCancelled(KumiError, CancelledError):
        """The task was cancelled before it ended, by its program."""


def __getattr__(name: str) -> type[KumiError]:
    """Makes `TaskCancelled` when it is first asked for: its base costs 10 ms to import and workers rarely need it."""
    if name != "TaskCancelled":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from concurrent.futures import CancelledError

    doc = "The task was cancelled before it ended, by its program."
    made = type(name, (KumiError, CancelledError), {"__doc__": doc, "__module__": __name__})
    # Two threads may come here at once; all must get the same class.
    return globals().setdefault(name, made)  # type: ignore[no-any-return]
