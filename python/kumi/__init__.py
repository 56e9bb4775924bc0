"""kumi runs Python functions asynchronously on other processes.

Example:
    >>> import kumi
    >>> kumi.submit(pow, 2, 10).result()
    1024
    >>> kumi.map(pow, [2, 3], [5, 2]).results()
    [32, 9]
"""

import os
from _thread import RLock
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kumi.completed import as_completed, wait
    from kumi.controller import Controller
    from kumi.errors import (
        ControllerClosed,
        ControllerError,
        CrashError,
        KumiError,
        LaunchError,
        QueueFull,
        RemoteError,
        SerializationError,
        TaskCancelled,
        TaskTimeout,
    )
    from kumi.front import daemons, default, everywhere, map, run, submit, try_submit, with_options
    from kumi.group import ControllerGroup
    from kumi.inside import TaskInfo, report, rng, task_info
    from kumi.launchers import Local, Sequential
    from kumi.launchers.ssh import SSH
    from kumi.maps import Map
    from kumi.namespace import state
    from kumi.remote import TLS
    from kumi.serializers import register_serializer
    from kumi.shared import share
    from kumi.status import Status, Summary
    from kumi.task import Record, Task, Warned

__all__ = [
    "SSH",
    "TLS",
    "Controller",
    "ControllerClosed",
    "ControllerError",
    "ControllerGroup",
    "CrashError",
    "KumiError",
    "LaunchError",
    "Local",
    "Map",
    "QueueFull",
    "Record",
    "RemoteError",
    "Sequential",
    "SerializationError",
    "Status",
    "Summary",
    "Task",
    "TaskCancelled",
    "TaskInfo",
    "TaskTimeout",
    "Warned",
    "as_completed",
    "daemons",
    "default",
    "everywhere",
    "map",
    "register_serializer",
    "report",
    "rng",
    "run",
    "share",
    "state",
    "submit",
    "task_info",
    "try_submit",
    "wait",
    "with_options",
]

# What is imported above, said once more for the running program: who only imports kumi, and each worker, pays for
# nothing else. No module is named as a function is, such as `map`: importing it would put it in the function's place.
_NAMES = {
    "completed": ("as_completed", "wait"),
    "controller": ("Controller",),
    "errors": (
        *("ControllerClosed", "ControllerError", "CrashError", "KumiError", "LaunchError", "QueueFull", "RemoteError"),
        *("SerializationError", "TaskCancelled", "TaskTimeout"),
    ),
    "front": ("daemons", "default", "everywhere", "map", "run", "submit", "try_submit", "with_options"),
    "group": ("ControllerGroup",),
    "inside": ("TaskInfo", "report", "rng", "task_info"),
    "launchers": ("Local", "Sequential"),
    "launchers.ssh": ("SSH",),
    "maps": ("Map",),
    "namespace": ("state",),
    "remote": ("TLS",),
    "serializers": ("register_serializer",),
    "shared": ("share",),
    "status": ("Status", "Summary"),
    "task": ("Record", "Task", "Warned"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

# A fork in the middle of another thread's import would leave the child a module that never comes.
_importing = RLock()
os.register_at_fork(before=_importing.acquire, after_in_parent=_importing.release, after_in_child=_importing.release)


def __getattr__(name: str) -> object:
    """Imports what is used for the first time."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    with _importing:
        value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
