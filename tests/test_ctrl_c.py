"""Ctrl-C out of every wait: tasks go on and can be collected; a map that is read is cancelled, and nothing else.

In programs of their own, whose main thread gets the signal while it waits for what cannot end meanwhile. How Ctrl-C
ends programs is in test_exit.py. Numbers such as M184 are cases of mirai's, of which these tests are the counterparts.
"""

from pathlib import Path

import jobs
from rig import run_python, write

PRELUDE = """
import asyncio, concurrent.futures, os, signal, sys, threading
import jobs, kumi

def interrupted(wait):
    threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        wait()
    except KeyboardInterrupt:
        return True
    return False

gate = sys.argv[1]
crew = kumi.Controller(workers=1)
group = kumi.ControllerGroup(crew, kumi.Controller())
task = crew.push(jobs.hold, gate, "held")
open(gate + "/begun", "rb", buffering=0).read(1)
"""

WAITS = [
    "task.result()",
    "task.result(60)",
    "task.exception()",
    "kumi.wait([task])",
    "list(kumi.as_completed([task]))",
    "concurrent.futures.wait([task])",
    "list(concurrent.futures.as_completed([task]))",
    "list(task.reports())",
    "crew.wait()",
    "crew.wait('one', 60)",
    "crew.pop(None)",
    "next(crew.records())",
    "group.wait()",
    "group.wait('one', 60)",
    "group.pop(None)",
]
MAPS = ["list(values)", "values.results()", "values.results(progress=True)", "list(values.as_completed())"]
OPEN = 'open(gate + "/go", "wb", buffering=0).write(b".")\n'


def run(directory: Path, gate: jobs.Gate, program: str) -> list[str]:
    file = write(directory, "program.py", PRELUDE + program)
    return run_python(str(file), gate.path, directory=directory).splitlines()


def test_waits_leave_tasks_alone(gate: jobs.Gate, tmp_path: Path) -> None:
    """M184."""
    asked = "".join(f"print(interrupted(lambda: {wait}), task.state())\n" for wait in WAITS)
    *told, last = run(tmp_path, gate, asked + OPEN + "print(task.result(30), crew.wait(), crew.pop().result)")
    assert told == ["True running"] * len(WAITS)
    assert last == "held True held"


def test_maps_that_are_read_are_cancelled_and_nothing_else(gate: jobs.Gate, tmp_path: Path) -> None:
    program = "other = crew.map(jobs.same, range(5))\n"
    for read in MAPS:
        program += "values = crew.map(jobs.hold, [gate] * 20)\n"
        program += f"print(interrupted(lambda: {read}), task.state(), crew.status().waiting)\n"
    program += OPEN + "print(task.result(30), other.results(), crew.summary().cancel)"
    *told, last = run(tmp_path, gate, program)
    assert told == ["True running 5"] * len(MAPS)
    assert last == f"held [0, 1, 2, 3, 4] {20 * len(MAPS)}"
