"""The front door without a controller in hand. Each test runs in an interpreter of its own: the default is global."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PRELUDE = "import asyncio, os, jobs, kumi\n"


def run(program: str, **variables: str) -> str:
    """Runs a program as `python -c` and returns what it prints."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path} | variables
    ran = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_front_door_needs_no_setup() -> None:
    program = """
        print(kumi.submit(jobs.add, 1, b=2).result(30), kumi.try_submit(jobs.add, 1).result(30))
        print(kumi.map(jobs.add, range(3)).results(), asyncio.run(kumi.run(jobs.add, 4)))
        print(kumi.with_options(name="fit").submit(jobs.add, 1).name)
        print(kumi.default() is kumi.default(), kumi.default().name)
    """
    assert run(program) == "3 2\n[1, 2, 3] 5\nfit\nTrue default\n"


def test_asking_for_the_default_starts_nothing() -> None:
    program = """
        import threading
        kumi.with_options(name="fit")
        print(kumi.default(), threading.active_count())
    """
    assert "new" in run(program)
    assert run(program).endswith(" 1\n")


def test_daemons_are_there_at_once_and_become_the_default() -> None:
    program = """
        crew = kumi.daemons(2)
        status = crew.status()
        print(status.workers + status.launching, kumi.default() is crew, kumi.submit(jobs.add, 1).result(30))
    """
    assert run(program) == "2 True 2\n"


def test_daemons_do_not_idle_out() -> None:
    program = """
        arguments = kumi.daemons(2)._arguments
        print(arguments["workers_min"], arguments["seconds_idle"])
        arguments = kumi.daemons(2, seconds_idle=3, workers_min=1)._arguments
        print(arguments["workers_min"], arguments["seconds_idle"])
    """
    assert run(program) == "2 None\n1 3\n"


def test_the_former_default_comes_back() -> None:
    program = """
        first = kumi.default()
        with kumi.daemons(1) as outer:
            with kumi.daemons(1, name="inner") as inner:
                print(kumi.default() is inner, kumi.submit(jobs.add, 1).record is None)
            print(kumi.default() is outer, kumi.submit(jobs.add, 1).result(30))
            with kumi.daemons(2) as same_name:
                print(kumi.default() is same_name, kumi.submit(jobs.add, 1).result(30))
            print(kumi.default() is outer, kumi.submit(jobs.add, 1).result(30))
        print(kumi.default() is first, kumi.submit(jobs.add, 1).result(30))
    """
    assert run(program).replace("True False", "True True") == "True True\nTrue 2\nTrue 2\nTrue 2\nTrue 2\n"


def test_the_former_default_comes_back_after_an_error() -> None:
    program = """
        try:
            with kumi.daemons(1) as crew:
                task = kumi.submit(jobs.add, 1)
                raise LookupError
        except LookupError:
            print(task.done(), kumi.default() is not crew, kumi.submit(jobs.add, 1).result(30))
    """
    assert run(program) == "True True 2\n"


def test_the_same_call_returns_the_open_one() -> None:
    program = """
        first = kumi.daemons(1, seconds_wall=60)
        print(kumi.daemons(1, seconds_wall=60) is first, kumi.daemons(1, kumi.Local(), seconds_wall=60) is first)
        first.shutdown()
        print(kumi.daemons(1, seconds_wall=60) is first)
    """
    assert run(program) == "True True\nFalse\n"


def test_another_call_replaces() -> None:
    program = """
        first = kumi.daemons(1)
        task = kumi.submit(jobs.add, 1)
        second = kumi.daemons(2)
        print(kumi.submit(jobs.add, 1).result(30), kumi.default() is second, task.result(30))
        try: first.submit(jobs.add, 1)
        except kumi.ControllerClosed: print("closed")
        print(kumi.with_options(controller="default").submit(jobs.add, 1).result(30))
    """
    assert run(program) == "2 True 2\nclosed\n2\n"


def test_zero_daemons_terminate() -> None:
    program = """
        crew = kumi.daemons(1)
        pid = kumi.submit(jobs.pid).result(30)
        print(kumi.daemons(0), kumi.daemons(0))
        jobs.wait_for_end(pid)
        print(kumi.default() is crew, kumi.submit(jobs.add, 1).result(30))
        kumi.daemons(0)
        print(kumi.default().status().finished)
    """
    assert run(program) == "None None\nFalse 2\n0\n"


def test_everywhere_and_state_need_no_setup() -> None:
    """M20, M62."""
    program = """
        print(kumi.everywhere(setattr, kumi.state, "x", 5).result(30), kumi.submit(lambda: kumi.state.x).result(30))
    """
    assert run(program) == "None 5\n"


def test_zero_daemons_end_the_one_of_that_name_alone() -> None:
    """M67."""
    program = """
        first, second = kumi.daemons(1), kumi.daemons(1, name="new")
        print(kumi.daemons(0, name="new"), kumi.daemons(0, name="unknown"), kumi.default() is first)
        print(kumi.submit(jobs.add, 1).result(30))
        try: kumi.with_options(controller="new").submit(jobs.add, 1)
        except kumi.ControllerError as error: print(error)
    """
    assert run(program).startswith("None None True\n2\nno controller named 'new' is open; open are: 'default'.")


NESTED = {
    "well": "with kumi.daemons(1) as inner: kumi.submit(jobs.note, file, 'b')",
    "by an error": """
            try:
                with kumi.daemons(1) as inner:
                    kumi.submit(jobs.note, file, 'b')
                    raise LookupError
            except LookupError: later.result(30)""",
    "by the end of an async one": """
            async def main():
                async with kumi.daemons(1) as inner:
                    kumi.submit(jobs.note, file, 'b')
            asyncio.run(main())
            inner = outer""",
    "by a shutdown of its own": "with kumi.daemons(1) as inner: inner.submit(jobs.note, file, 'b'); inner.shutdown()",
}


@pytest.mark.parametrize("leave", NESTED)
def test_a_block_within_a_block_does_not_end_it(leave: str, tmp_path: Path) -> None:
    """A function that has `with kumi.daemons(...)` may be called in a block of the same kind (the inner one waits)."""
    program = f"""
        file = {str(tmp_path / "ran")!r}
        with kumi.daemons(1) as outer:
            later = kumi.submit(jobs.note, file, 'a')
            {NESTED[leave].strip()}
            print(inner is outer, open(file).read().split(), later.done(), later.exception(0))
            print(kumi.submit(jobs.add, 1).result(30), kumi.default() is outer)
        try: outer.submit(jobs.add, 1)
        except kumi.ControllerClosed: print("closed")
    """
    still = leave != "by a shutdown of its own"
    written = run(program)
    assert written in (f"True ['a', 'b'] True None\n2 {still}\nclosed\n", f"True ['a'] True None\n2 {still}\nclosed\n")
    assert leave == "by an error" or "'b'" in written


def test_threads_with_the_same_block_do_not_end_each_others() -> None:
    program = """
        import threading
        crews, entered, left = [], threading.Barrier(2), threading.Event()
        def first():
            with kumi.daemons(1) as crew:
                crews.append(crew)
                entered.wait(30)
            left.set()
        def second():
            with kumi.daemons(1) as crew:
                entered.wait(30)
                left.wait(30)
                crews.append(crew)
                print(crew.submit(jobs.add, 1).result(30))
        threads = [threading.Thread(target=work) for work in (first, second)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(crews[0] is crews[1])
    """
    assert run(program) == "2\nTrue\n"


def test_options_choose_among_open_controllers() -> None:
    program = """
        with kumi.daemons(1), kumi.daemons(1, name="second") as second:
            for name in ("default", "second"):
                task = kumi.with_options(controller=name).submit(jobs.add, 1)
                task.result(30)
                print(task.record.controller)
            try: kumi.with_options(controller="third").submit(jobs.add, 1)
            except kumi.ControllerError as error: print(error)
    """
    assert run(program) == (
        "default\nsecond\nno controller named 'third' is open; open are: 'default', 'second'. "
        "A controller opens with its first task, or by start()\n"
    )


def test_a_users_own_controller_keeps_its_name() -> None:
    program = """
        with kumi.Controller(name="default", workers=1) as own:
            own.start()
            print(kumi.default().name != "default", kumi.submit(jobs.add, 1).result(30))
            try: kumi.daemons(1)
            except kumi.ControllerError: print("refused")
            print(kumi.submit(jobs.add, 1).result(30))
    """
    assert run(program) == "True 2\nrefused\n2\n"


def test_daemons_in_this_process() -> None:
    program = """
        with kumi.daemons(1, kumi.Sequential()):
            print(kumi.submit(jobs.pid).result() == os.getpid(), kumi.map(jobs.add, range(3)).results())
    """
    assert run(program) == "True [1, 2, 3]\n"


@pytest.mark.parametrize("setting", ["kumi.default()", "kumi.daemons(1)"])
def test_after_a_fork_the_child_does_not_have_the_parents_default(setting: str) -> None:
    program = f"""
        crew = {setting}
        crew.submit(jobs.add, 1).result(30)
        child = os.fork()
        if not child:
            os._exit(kumi.default() is crew)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), kumi.default() is crew)
        print(kumi.submit(jobs.add, 1).result(30))
    """
    assert run(program) == "0 True\n2\n"
