"""How programs end: exit codes, what is waited for, and what is left behind. Each program is a process of its own."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jobs
import pytest

SECONDS_MAX = 2.0  # until a program that was interrupted has ended, with all that it started


def start(directory: Path, program: str) -> "subprocess.Popen[str]":
    """Starts a program from a file, as a user would: its functions belong to `__main__`."""
    file = directory / "program.py"
    file.write_text(textwrap.dedent(program))
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    pipe = subprocess.PIPE
    command = [sys.executable, str(file)]
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, process_group=0)


def run(directory: Path, program: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a program."""
    with start(directory, program) as process:
        try:
            out, err = process.communicate(timeout=jobs.SECONDS_MAX)
        finally:
            process.kill()
    return process.returncode, out, err


def test_a_script_without_a_main_guard(tmp_path: Path) -> None:
    program = """
        import kumi
        from dataclasses import dataclass
        print("top level")
        FACTOR = 3

        @dataclass
        class Point:
            x: int
            def scaled(self): return Point(self.x * FACTOR)

        class OwnError(Exception): pass

        def scale(point): return point.scaled()
        def fail(): raise OwnError("mine")

        print(kumi.submit(scale, Point(2)).result(30) == Point(6))
        print(kumi.map(lambda x: x * FACTOR, range(3)).results())
        try: kumi.submit(fail).result(30)
        except OwnError as error: print(repr(error))
    """
    assert run(tmp_path, program) == (0, "top level\nTrue\n[0, 3, 6]\nOwnError('mine')\n", "")


def test_the_end_of_a_program_waits_for_its_tasks(tmp_path: Path) -> None:
    program = f"""
        import jobs, kumi
        for i in range(5): kumi.submit(jobs.note, {str(tmp_path / "ran")!r}, str(i))
    """
    assert run(tmp_path, program) == (0, "", "")
    assert len((tmp_path / "ran").read_text().split()) == 5


def test_a_program_that_fails_does_not_wait(tmp_path: Path) -> None:
    with jobs.gate_in(tmp_path) as gate:
        program = f"""
            import jobs, kumi
            kumi.submit(jobs.hold, {gate.path!r})
            raise LookupError("the program's own")
        """
        code, _, err = run(tmp_path, program)
    assert code == 1
    assert "the program's own" in err


@pytest.mark.parametrize("code", [0, 5])
def test_the_exit_code_is_the_programs(tmp_path: Path, code: int) -> None:
    program = f"""
        import sys, kumi
        kumi.submit(abs, -1).result(30)
        sys.exit({code})
    """
    assert run(tmp_path, program) == (code, "", "")


def test_threads_that_wait_at_the_end_do_no_harm(tmp_path: Path) -> None:
    """Of all that may wait in the core: results, records, room in the queue, deliveries."""
    program = """
        import asyncio, threading, time, kumi
        crew = kumi.Controller(workers=1)
        tasks = [crew.submit(time.sleep, 0.2) for _ in range(3)]
        crew.push(time.sleep, 0.1)
        tasks[0].add_done_callback(lambda task: None)
        for wait in [task.result for task in tasks] * 3 + [crew.wait, lambda: crew.pop(None), tasks[2].exception]:
            threading.Thread(target=wait, daemon=True).start()
        threading.Thread(target=lambda: asyncio.run(crew.run(time.sleep, 0.1)), daemon=True).start()
    """
    code, _, err = run(tmp_path, program)
    assert code == 0, err


def test_a_daemon_thread_in_result_at_a_failing_end(tmp_path: Path) -> None:
    with jobs.gate_in(tmp_path) as gate:
        program = f"""
            import threading, jobs, kumi
            task = kumi.submit(jobs.hold, {gate.path!r})
            threading.Thread(target=lambda: task.exception(), daemon=True).start()
            raise SystemError("the program's own")
        """
        code, _, err = run(tmp_path, program)
    assert code == 1
    assert "SystemError: the program's own" in err


def test_atexit_handlers_and_finalizers_of_the_program_do_no_harm(tmp_path: Path) -> None:
    program = """
        import atexit
        atexit.register(lambda: late())  # runs after kumi's own, which is registered later
        import sys, kumi

        crew = kumi.Controller(workers=1)
        task = crew.submit(abs, -3)
        atexit.register(lambda: print("early", task.result(30)))

        def late():
            print("late", task.result(30))
            try: crew.submit(abs, -4)
            except kumi.ControllerClosed: print("closed")

        class Finalizer:
            def __del__(self): crew.terminate()

        sys.modules["kept to the very end"] = Finalizer()
    """
    code, out, err = run(tmp_path, program)
    assert (code, out) == (0, "early 3\nlate 3\nclosed\n"), err


def test_what_tasks_print_is_not_lost_at_the_end(tmp_path: Path) -> None:
    program = """
        import jobs, kumi
        kumi.submit(jobs.say, "said at the end")
    """
    code, out, err = run(tmp_path, program)
    assert code == 0
    assert "said at the end" in out + err


def test_an_interrupt_ends_a_program_that_waits(tmp_path: Path) -> None:
    with jobs.gate_in(tmp_path) as gate:
        program = f"""
            import jobs, kumi
            with kumi.Controller(workers=1) as crew:
                crew.submit(jobs.hold, {gate.path!r}).result()
        """
        with start(tmp_path, program) as process:
            gate.wait()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=jobs.SECONDS_MAX)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in err


@pytest.mark.parametrize("whom", ["the program", "its process group, as a terminal does"])
def test_an_interrupt_out_of_result_leaves_the_task_alone(tmp_path: Path, whom: str) -> None:
    with jobs.gate_in(tmp_path) as gate:
        program = f"""
            import jobs, kumi
            with kumi.Controller(workers=1) as crew:
                task = crew.submit(jobs.hold, {gate.path!r}, 5)
                try: task.result()
                except KeyboardInterrupt: print(task.state(), flush=True)
                print(task.result(30))
        """
        with start(tmp_path, program) as process:
            gate.wait()
            if whom == "the program":
                process.send_signal(signal.SIGINT)
            else:
                os.killpg(process.pid, signal.SIGINT)
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            gate.open()
            out, err = process.communicate(timeout=jobs.SECONDS_MAX)
    assert (process.returncode, out) == (0, "5\n"), err


def test_a_killed_host_leaves_no_worker(tmp_path: Path) -> None:
    with jobs.gate_in(tmp_path) as gate:
        program = f"""
            import jobs, kumi
            crew = kumi.Controller(workers=2)
            print(crew.submit(jobs.start_child).result(30), crew.submit(jobs.pid).result(30), flush=True)
            for _ in range(2): crew.submit(jobs.hold, {gate.path!r})
            crew.submit(jobs.hold, {gate.path!r}).result()
        """
        with start(tmp_path, program) as process:
            assert process.stdout is not None
            pids = [int(pid) for pid in process.stdout.readline().split()]
            gate.wait(2)
            process.kill()
            for pid in pids:
                jobs.wait_for_end(pid)


def test_an_interactive_session(tmp_path: Path) -> None:
    lines = textwrap.dedent("""
        import kumi
        def double(x): return 2 * x

        print("got", kumi.submit(double, 21).result(30))
        1 / 0
        task = kumi.submit(double, 4)
        print("still", task.result(30))
    """)
    ran = subprocess.run(
        [sys.executable, "-i", "-q"], input=lines, capture_output=True, text=True, timeout=50, check=False, cwd=tmp_path
    )
    assert "got 42" in ran.stdout
    assert "still 8" in ran.stdout
    assert ran.returncode == 0, ran.stderr


DEAF = """
import os, subprocess, sys, time

def be_deaf(gate):
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    with open(f"{gate}/pids", "a") as file: file.write(f"{os.getpid()} {child.pid}\\n")
    with open(f"{gate}/begun", "wb", buffering=0) as begun: begun.write(b".")
    while True:
        try: time.sleep(600)
        except BaseException: pass
"""

WAITS = {
    "in a with block": "with kumi.Controller(workers=2) as crew: start(crew); crew.submit(abs, -1).result()",
    "at the end of a with block": "with kumi.Controller(workers=2) as crew: start(crew)",
    "at the end of the program": "one, two = kumi.Controller(workers=1), kumi.Controller(workers=1); start(one, two)",
    "in a map": "kumi.daemons(2); list(kumi.map(be_deaf, [gate] * 2))",
    "in async code": """
import asyncio
async def main():
    async with kumi.Controller(workers=2) as crew:
        await asyncio.gather(crew.run(be_deaf, gate), crew.run(be_deaf, gate))
asyncio.run(main())
""",
}


@pytest.mark.parametrize("where", WAITS)
@pytest.mark.parametrize("times", [1, 2])
def test_interrupts_end_everything_within_two_seconds(tmp_path: Path, where: str, times: int) -> None:
    """Deaf tasks, their children too, wherever the program waits."""
    with jobs.gate_in(tmp_path) as gate:
        program = "\n".join(
            [
                DEAF,
                f"import kumi\ngate = {gate.path!r}",
                "def start(*crews):\n    for crew in crews * (3 - len(crews)): crew.submit(be_deaf, gate)",
                WAITS[where],
            ]
        )
        with start(tmp_path, program) as process:
            gate.wait(2)
            pids = [int(pid) for pid in Path(gate.path, "pids").read_text().split()]
            assert len(pids) == 4
            began = time.monotonic()
            for _ in range(times):
                process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=jobs.SECONDS_MAX)
            for pid in pids:
                jobs.wait_for_end(pid)
            took = time.monotonic() - began
    assert process.returncode != 0 or where == "at the end of the program", "where Python reports it and goes on"
    assert "KeyboardInterrupt" in err
    assert took < SECONDS_MAX, err


def test_after_an_interrupt_that_was_caught_a_second_one_ends_everything(tmp_path: Path) -> None:
    """The first leaves the tasks alone, out of what waits for them."""
    with jobs.gate_in(tmp_path) as gate:
        program = f"""{DEAF}
import kumi
crew = kumi.Controller(workers=2)
tasks = [crew.submit(be_deaf, {gate.path!r}) for _ in range(2)]
try: kumi.wait(tasks)
except KeyboardInterrupt: print([task.state() for task in tasks], flush=True)
tasks[0].result()
"""
        with start(tmp_path, program) as process:
            gate.wait(2)
            process.send_signal(signal.SIGINT)
            assert process.stdout is not None
            assert process.stdout.readline() == "['running', 'running']\n"
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=jobs.SECONDS_MAX)
            for pid in Path(gate.path, "pids").read_text().split():
                jobs.wait_for_end(int(pid))
            took = time.monotonic() - began
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in err
    assert took < SECONDS_MAX, err


ENDS = {
    "a program": "crew.submit(jobs.hold, gate)",
    "a block": "with crew: crew.submit(jobs.hold, gate)",
    "an async block": """
async def main():
    async with crew: crew.submit(jobs.hold, gate)
asyncio.run(main())
""",
    "a block within a block": """
with crew:
    with crew: crew.submit(jobs.hold, gate)
    crew.submit(jobs.add, 1).result()
""",
}


@pytest.mark.parametrize("what", ENDS)
def test_an_end_that_takes_long_says_what_it_waits_for(what: str, tmp_path: Path) -> None:
    with jobs.gate_in(tmp_path) as gate:
        program = f"import asyncio, jobs, kumi, kumi.controller\ngate = {gate.path!r}\n"
        program += "kumi.controller.SECONDS_UNTIL_NOTICE = 0.01\ncrew = kumi.Controller(workers=1, name='crew')\n"
        with start(tmp_path, program + ENDS[what]) as process:
            assert process.stderr is not None
            notice = process.stderr.readline()
            gate.open()
            out, err = process.communicate(timeout=jobs.SECONDS_MAX)
    assert notice.startswith("kumi: controller 'crew' waits until its tasks are done: ")
    assert (process.returncode, out, err) == (0, "", "")
