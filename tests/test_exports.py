"""The doors: what `import kumi` gives, that it is documented, and that it is cheap and inert."""

import ast
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import kumi
import pytest

FACE = {
    *(
        "SSH",
        "TLS",
        "Controller",
        "ControllerGroup",
        "Local",
        "Map",
        "Record",
        "Sequential",
        "Status",
        "Summary",
        "Task",
    ),
    *("as_completed", "wait", "daemons", "default", "map", "register_serializer", "report", "rng", "run", "share"),
    *("everywhere", "state", "submit", "task_info", "try_submit", "with_options"),
    *("ControllerClosed", "ControllerError", "CrashError", "KumiError", "LaunchError", "QueueFull", "RemoteError"),
    *("SerializationError", "TaskCancelled", "TaskInfo", "TaskTimeout", "Warned"),
}


def test_the_face_is_exactly_this() -> None:
    assert set(kumi.__all__) == FACE
    assert len(kumi.__all__) == len(FACE)


@pytest.mark.parametrize("name", sorted(FACE))
def test_every_name_is_there_and_documented(name: str) -> None:
    assert inspect.getdoc(getattr(kumi, name))


@pytest.mark.parametrize(
    "kind", [kumi.Controller, kumi.ControllerGroup, kumi.Task, kumi.Map, kumi.Record, kumi.Local, kumi.SSH]
)
def test_every_public_method_is_documented(kind: type) -> None:
    bare = [
        name
        for name, member in inspect.getmembers(kind, lambda m: inspect.isfunction(m) or isinstance(m, property))
        if not name.startswith("_") and not inspect.getdoc(member)
    ]
    assert bare == []


@pytest.mark.parametrize("name", ["id", "name", "label", "state", "done", "wait"])
def test_what_a_task_has_of_the_core_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(kumi.Task, name))


def test_the_front_door_is_the_controllers() -> None:
    for name in ("submit", "try_submit", "run", "map", "with_options"):
        assert inspect.signature(getattr(kumi, name)) == inspect.signature(getattr(kumi.default(), name))


def test_type_checkers_see_the_same_names_as_programs() -> None:
    tree = ast.parse(Path(kumi.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "importlib"]
    seen = {alias.name: node.module for node in imports for alias in node.names if node.module != "_thread"}
    assert seen == {name: f"kumi.{module}" for name, module in kumi._MODULES.items()}
    assert {*seen} == FACE
    assert {*dir(kumi)} >= FACE
    with pytest.raises(AttributeError, match="module 'kumi' has no attribute 'nothing'"):
        _ = kumi.nothing


def test_no_module_takes_the_place_of_a_function() -> None:
    modules = {module.name for module in pkgutil.iter_modules(kumi.__path__)}
    assert modules & FACE == set()


def test_importing_starts_nothing_and_loads_nothing() -> None:
    """What `import kumi` loads is what it costs: a time would depend on the machine."""
    program = """
import os, sys, threading, importlib, _thread
before, descriptors = {*sys.modules}, len(os.listdir("/proc/self/fd"))
import kumi
print(threading.active_count(), len(os.listdir("/proc/self/fd")) - descriptors, sorted({*sys.modules} - before))
kumi.submit
slow = {"asyncio", "cloudpickle", "multiprocessing", "numpy", "subprocess"}
print(threading.active_count(), sorted(slow & {*sys.modules}))
"""
    assert said(program) == "1 0 ['kumi']\n1 []\n"


def test_a_worker_imports_little() -> None:
    """Each worker pays for it before its first task."""
    program = "import sys, kumi.worker; print(sorted(name for name in sys.modules if name.startswith('kumi.')))"
    names = (
        "_core",
        "current",
        "errors",
        "marked",
        "modules",
        "reset",
        "seeds",
        "serial",
        "tracing",
        "warned",
        "worker",
    )
    assert said(program) == f"{[f'kumi.{name}' for name in names]}\n"


def test_threads_may_use_a_name_first_at_the_same_time_and_fork() -> None:
    program = """
import os, threading, kumi
together = threading.Barrier(5)
found = []
def use():
    together.wait(30)
    found.append(kumi.map)
threads = [threading.Thread(target=use) for _ in range(4)]
for thread in threads:
    thread.start()
together.wait(30)
child = os.fork()
if child == 0:
    assert kumi.submit(abs, -1).result(30) == 1
    kumi.daemons(0)
    os._exit(0)
for thread in threads:
    thread.join()
print(os.waitpid(child, 0)[1], len(found), {kumi.map} == {*found}, kumi.map is kumi.front.map)
"""
    assert said(program) == "0 4 True True\n"


def said(program: str) -> str:
    """What a fresh interpreter prints that runs this program."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=True).stdout
