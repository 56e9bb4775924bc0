"""The doors: what `import kumi` gives, that it is documented, and that it is cheap and inert."""

import inspect
import subprocess
import sys

import kumi
import pytest

FACE = {
    *("Controller", "Local", "Map", "Record", "Sequential", "Status", "Summary", "Task"),
    *("as_completed", "wait", "daemons", "default", "map", "register_serializer", "report", "rng", "run", "share"),
    *("submit", "task_info", "try_submit", "with_options"),
    *("ControllerClosed", "ControllerError", "CrashError", "KumiError", "LaunchError", "QueueFull", "RemoteError"),
    *("SerializationError", "TaskCancelled", "TaskInfo", "TaskTimeout"),
}


def test_the_face_is_exactly_this() -> None:
    assert set(kumi.__all__) == FACE
    assert len(kumi.__all__) == len(FACE)


@pytest.mark.parametrize("name", sorted(FACE))
def test_every_name_is_there_and_documented(name: str) -> None:
    assert inspect.getdoc(getattr(kumi, name))


@pytest.mark.parametrize("kind", [kumi.Controller, kumi.Task, kumi.Map, kumi.Record, kumi.Local])
def test_every_public_method_is_documented(kind: type) -> None:
    bare = [
        name
        for name, member in inspect.getmembers(kind, lambda m: inspect.isfunction(m) or isinstance(m, property))
        if not name.startswith("_") and not inspect.getdoc(member)
    ]
    assert bare == []


def test_the_front_door_is_the_controllers() -> None:
    for name in ("submit", "try_submit", "run", "map", "with_options"):
        assert inspect.signature(getattr(kumi, name)) == inspect.signature(getattr(kumi.default(), name))


def test_importing_starts_nothing_and_loads_little() -> None:
    program = (
        "import os, sys, threading\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "import kumi\n"
        "slow = {'asyncio', 'cloudpickle', 'multiprocessing', 'numpy', 'subprocess'} & set(sys.modules)\n"
        "print(threading.active_count(), len(os.listdir('/proc/self/fd')) - before, sorted(slow))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True)
    assert ran.stdout == "1 0 []\n"
