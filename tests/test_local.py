"""Where local workers start: what they inherit, and hosts in unusual places."""

import os
import subprocess
import sys
from pathlib import Path

import jobs
import kumi
import pytest
from rig import run_python, write

NESTED = "import kumi, os; print(kumi.submit(pow, 2, 10).result(30), kumi.submit(os.getppid).result(30) == os.getpid())"


def run_program(file: str) -> str:
    """A task that starts a program, as anybody would."""
    return subprocess.run([sys.executable, file], capture_output=True, text=True, check=True, timeout=50).stdout


def map_inside(numbers: int) -> tuple[list[int], int]:
    """A task that uses kumi itself. Returns the result and the process id of a worker of its own."""
    squares = kumi.map(pow, range(numbers), [2] * numbers).results()
    return squares, kumi.submit(jobs.pid).result(jobs.SECONDS_MAX)


FLAGS = """
import sys, kumi
def flags(): return sys.flags.optimize, sys.warnoptions, sys.flags.utf8_mode, __debug__
print(flags() == kumi.submit(flags).result(30), flags())
"""


def test_workers_run_with_the_options_of_the_interpreter(tmp_path: Path) -> None:
    """So that asserts, by name and by value, and warnings are there what they are here."""
    options = ["-O", "-W", "error::UserWarning", "-X", "utf8"]
    out = run_python(*options, str(write(tmp_path, "program.py", FLAGS)), directory=tmp_path)
    assert out == "True (1, ['error::UserWarning'], 1, False)\n"


@pytest.mark.parametrize("environment", [None, {"KUMI_WORKER": "y"}])
def test_the_mark_of_an_outer_worker_is_not_handed_on(
    environment: dict[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUMI_WORKER", "x")
    assert "KUMI_WORKER" not in kumi.Local(environment=environment).command(1).environment
    with kumi.Controller(kumi.Local(environment=environment), workers=1) as crew:
        mark = crew.submit(jobs.environment, "KUMI_WORKER").result(jobs.SECONDS_MAX)
    assert mark is not None
    assert mark.startswith(f"{os.getpid()}-")


def test_a_task_may_start_a_program_that_uses_kumi(crew: kumi.Controller, tmp_path: Path) -> None:
    file = write(tmp_path, "uses_kumi.py", NESTED)
    assert crew.submit(run_program, str(file)).result(jobs.SECONDS_MAX) == "1024 True\n"


def test_a_task_may_use_kumi_and_its_workers_end_with_its_worker() -> None:
    with kumi.Controller(workers=1) as crew:
        squares, pid = crew.submit(map_inside, 5).result(jobs.SECONDS_MAX)
        assert crew.submit(map_inside, 3).result(jobs.SECONDS_MAX)[0] == [0, 1, 4]  # the same worker again
    assert squares == [0, 1, 4, 9, 16]
    jobs.wait_for_end(pid)


def test_the_workers_of_a_task_end_when_its_worker_is_killed() -> None:
    with kumi.Controller(workers=1) as crew:
        _, pid = crew.submit(map_inside, 1).result(jobs.SECONDS_MAX)
        with pytest.raises(kumi.CrashError):
            crew.with_options(crashes_max=0).submit(jobs.kill_self).result(jobs.SECONDS_MAX)
        jobs.wait_for_end(pid)


@pytest.mark.skipif(sys.version_info[:3] == (3, 13, 0), reason="there it can import no extension, whoever made it")
def test_a_host_whose_directory_is_gone(tmp_path: Path) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()
    program = (
        "import os, sys, kumi\n"
        "assert '' in sys.path\n"
        "os.environ.pop('PYTHONPATH', None)\n"  # with a relative entry in it Python itself would not start there
        "os.rmdir(os.getcwd())\n"
        "print(kumi.submit(pow, 2, 10).result(30), kumi.submit(lambda: 'by value').result(30))\n"
    )
    assert run_python("-c", program, directory=directory) == "1024 by value\n"
