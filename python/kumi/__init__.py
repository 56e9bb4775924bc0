"""kumi runs Python functions asynchronously on other processes.

Example:
    >>> import kumi
    >>> kumi.submit(pow, 2, 10).result()
    1024
    >>> kumi.map(pow, [2, 3], [5, 2]).results()
    [32, 9]
"""

from kumi.completed import as_completed, wait
from kumi.controller import Controller
from kumi.default import daemons, default, map, run, submit, try_submit, with_options
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
from kumi.inside import TaskInfo, report, rng, task_info
from kumi.launchers import Local, Sequential
from kumi.map import Map
from kumi.serializers import register_serializer
from kumi.share import share
from kumi.status import Status, Summary
from kumi.task import Record, Task

__all__ = [
    "Controller",
    "ControllerClosed",
    "ControllerError",
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
    "as_completed",
    "daemons",
    "default",
    "map",
    "register_serializer",
    "report",
    "rng",
    "run",
    "share",
    "submit",
    "task_info",
    "try_submit",
    "wait",
    "with_options",
]
