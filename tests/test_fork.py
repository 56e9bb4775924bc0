"""A forked child has none of its parent's controllers, and may open its own."""

import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import os, sys, threading, warnings
import kumi

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # Python 3.12 and later

def in_child(work):
    child = os.fork()
    if child == 0:
        try:
            work()
            sys.stdout.flush()
            os._exit(0)
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def run(code: str) -> str:
    """What a program printed that ended well."""
    program = PRELUDE + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_a_child_opens_its_own_controllers() -> None:
    out = run("""
        assert kumi.submit(abs, -1).result() == 1
        def work():
            assert kumi.submit(abs, -2).result() == 2
            with kumi.Controller(workers=1) as crew:
                assert crew.map(abs, [-3, -4]).results() == [3, 4]
            kumi.daemons(0)
        assert in_child(work) == 0
        assert kumi.submit(abs, -5).result() == 5
        print("both work")
    """)
    assert out == "both work\n"


def test_a_child_of_a_program_that_did_not_use_kumi_yet_uses_it() -> None:
    assert run("assert in_child(lambda: print(kumi.submit(abs, -7).result())) == 0\nkumi.daemons(0)") == "7\n"


def test_what_belongs_to_the_parent_says_so_and_can_be_let_go_of() -> None:
    out = run("""
        crew = kumi.Controller(workers=1)
        task = crew.submit(abs, -1)
        assert task.result() == 1
        other = crew.submit(abs, -2)
        def work():
            global crew, task, other
            assert task.result() == 1 # it was read before
            assert "out of reach" in repr(other)
            for ask in (other.done, other.result, other.cancel, crew.status, lambda: crew.submit(abs, 1)):
                try:
                    ask()
                except kumi.ControllerClosed as error:
                    assert "forked" in str(error), error
                else:
                    raise AssertionError(ask)
            crew.shutdown()
            crew.terminate()
            del crew, task, other
        assert in_child(work) == 0
        assert crew.submit(abs, -3).result() == 3
        crew.terminate()
        print("the parent goes on")
    """)
    assert out == "the parent goes on\n"


@pytest.mark.parametrize("leave", ["sys.exit(7)", "pass"])
def test_a_child_that_leaves_a_block_of_its_parents_leaves_it_alone(leave: str) -> None:
    out = run(f"""
        with kumi.Controller(workers=1) as crew:
            assert crew.submit(abs, -1).result() == 1
            child = os.fork()
            if child:
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
                assert crew.submit(abs, -2).result() == 2
            else:
                {leave}
        if not child:
            os._exit(7)
        print("the parent goes on")
    """)
    assert out == "the parent goes on\n"


def test_a_busy_program_forks_again_and_again() -> None:
    """Other threads are in the middle of something each time; the child must not find their locks."""
    out = run("""
        stop = threading.Event()
        crew = kumi.Controller(workers=2)
        def use():
            while not stop.is_set():
                assert crew.map(abs, [-1] * 20).results() == [1] * 20
        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()
        def work():
            with kumi.Controller(workers=1) as mine:
                assert mine.submit(abs, -1).result() == 1
        codes = [in_child(work) for _ in range(15)]
        stop.set()
        for thread in threads:
            thread.join()
        crew.terminate()
        print(set(codes))
    """)
    assert out == "{0}\n"


def test_a_group_of_the_parent_answers_a_child_at_once() -> None:
    out = run("""
        group = kumi.ControllerGroup(kumi.Controller(name="small", workers=1), kumi.Controller(name="large"))
        group.push(abs, -1).result()
        call = group.everywhere(abs, -1)
        def work():
            for ask in (group.pop, group.wait, group.collect, group.status, call.result, lambda: group.cancel("*")):
                try:
                    ask()
                except kumi.ControllerClosed as error:
                    print("fork" in str(error))
        assert in_child(work) == 0
        print(group.pop().result, call.result(30))
        group.shutdown()
    """)
    assert out == "True\n" * 6 + "1 None\n"
