"""The worker's half: whatever a task does ends as bytes, and the process leaves when it is told to."""

import asyncio
import functools
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest
from kumi import serial
from kumi.errors import RemoteError, SerializationError
from kumi.worker import Executor
from rig import remote, send


def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    executor = Executor()
    loaded = executor.load(serial.dumps_function(function))
    succeeded, payload = executor.run(loaded, serial.dumps_call(args, kwargs))
    return serial.loads(payload) if succeeded else serial.loads_error(payload)


def test_results_and_arguments_pass() -> None:
    assert run(pow, 2, 10) == 1024
    assert run(lambda *args, **kwargs: (args, kwargs), 1, [2], k=3) == ((1, [2]), {"k": 3})
    assert run(lambda: None) is None


async def later(value: int) -> int:
    await asyncio.sleep(0)
    return value + 1


class Awaited:
    async def __call__(self, value: int) -> int:
        return await later(value)


@pytest.mark.parametrize("function", [later, functools.partial(later), Awaited(), Awaited().__call__])
def test_coroutine_functions_are_run_to_their_end(function: Callable[..., Any]) -> None:
    assert run(function, 1) == 2


def test_errors_of_coroutines_are_errors_of_the_task() -> None:
    async def fail() -> None:
        raise KeyError("k")

    assert repr(run(fail)) == "KeyError('k')"


class Mute(BaseException):
    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


class Hostile(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit


def throw(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("make", "cause_type"),
    [
        (lambda: SystemExit(3), "SystemExit"),
        (KeyboardInterrupt, "KeyboardInterrupt"),
        (GeneratorExit, "GeneratorExit"),
        (lambda: StopIteration(1), "StopIteration"),
        (Mute, "test_worker.Mute"),
    ],
)
def test_nothing_that_a_task_raises_leaves_run(make: Callable[[], BaseException], cause_type: str) -> None:
    error = run(lambda: throw(make()))
    assert type(error) is RemoteError
    assert error.cause_type == cause_type


def test_an_error_whose_pickling_exits_arrives_all_the_same() -> None:
    error = run(lambda: throw(Hostile("a")))
    assert type(error) is Hostile
    assert error.args == ("a",)


def test_leaving_the_program_is_an_error_of_the_task() -> None:
    assert str(run(sys.exit, "no more")) == "the task raised SystemExit: no more"
    with pytest.raises(RemoteError, match="SystemExit: 3"):
        remote(lambda: exit(3))  # noqa: PLR1722 - what users write


def test_errors_of_memory_and_stack_are_errors_of_the_task() -> None:
    def sink(depth: int) -> int:
        return sink(depth + 1) + 1

    assert type(run(sink, 0)) is RecursionError
    assert type(run(lambda: throw(MemoryError()))) is MemoryError

    def nest() -> Any:
        value: Any = []
        for _ in range(100_000):
            value = [value]
        return value

    succeeded, payload = send(nest)
    assert not succeeded
    error = serial.loads_error(payload)
    assert type(error) is SerializationError
    assert "the result of the task cannot be sent back: result is a list (it is nested too deeply)" in str(error)


class Exhausting:
    def __reduce__(self) -> Any:
        raise MemoryError("much too much")


def test_memory_that_runs_out_while_pickling_is_the_tasks_error() -> None:
    error = run(lambda: [Exhausting()])
    assert type(error) is MemoryError
    assert str(error) == "much too much"


def test_a_result_that_cannot_be_pickled_is_named() -> None:
    error = run(lambda: {"a": [threading.Lock()]})
    assert type(error) is SerializationError
    assert "the result of the task cannot be sent back: result['a'][0] is a _thread.lock" in str(error)


class Bomb:
    def __reduce__(self) -> Any:
        return throw, (ZeroDivisionError("on arrival"),)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (serial.dumps_call(([Bomb()],), {}), "ZeroDivisionError: on arrival"),
        (b"\x80\x05c__main__\nNothing\n.", "AttributeError"),
        (b"\x80\x05cno_such_module\nf\n.", "ModuleNotFoundError: No module named 'no_such_module'"),
        (b"nonsense.", "UnpicklingError"),
        (b"\x80\x05N.", "TypeError"),
    ],
)
def test_arguments_that_cannot_be_unpickled_are_the_tasks_error(payload: bytes, text: str) -> None:
    succeeded, answer = Executor().run(print, payload)
    assert not succeeded
    error = serial.loads_error(answer)
    assert type(error) is SerializationError
    assert "an argument could not be unpickled on the worker: " in str(error)
    assert text in str(error)


def test_a_function_that_cannot_be_unpickled_is_an_error_of_each_of_its_tasks() -> None:
    executor = Executor()
    function = executor.load(b"\x80\x05cno_such_module\nf\n.")
    texts = set()
    for _ in range(3):
        succeeded, answer = executor.run(function, serial.dumps_call((1,), {"k": 2}))
        assert not succeeded
        error = serial.loads_error(answer)
        assert type(error) is SerializationError
        texts.add(f"{error}{error.__cause__}")
    (text,) = texts  # no frames are added from task to task
    assert "the function could not be unpickled on the worker: ModuleNotFoundError" in text
    assert executor.run(executor.load(serial.dumps_function(abs)), serial.dumps_call((-1,), {}))[0]


def test_a_module_that_exits_when_imported_costs_one_task(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kumi_test_exits.py").write_text("raise SystemExit(4)")
    monkeypatch.syspath_prepend(str(tmp_path))
    function = Executor().load(b"\x80\x05ckumi_test_exits\nf\n.")
    succeeded, answer = Executor().run(function, serial.dumps_call((), {}))
    assert not succeeded
    assert "SystemExit: 4" in str(serial.loads_error(answer))


def test_tracebacks_begin_with_the_function() -> None:
    def fail() -> None:
        raise ValueError("no") from KeyError("k")

    error = run(fail)
    text = str(error.__cause__)
    assert "in fail" in text
    assert f"{os.sep}kumi{os.sep}" not in text
    assert "KeyError: 'k'" in text


def test_tracebacks_of_unpicklable_results_hide_kumi() -> None:
    _, _, text = serial.error_summary(Executor().run(lambda: [threading.Lock()], serial.dumps_call((), {}))[1])
    assert f"kumi{os.sep}worker.py" not in text


def test_arguments_are_released_after_each_task() -> None:
    """A worker that waits for work must not hold the last task's data."""
    import weakref

    class Big:
        pass

    seen: list[weakref.ref[Any]] = []

    def look(big: Any) -> None:
        seen.append(weakref.ref(big))

    def fail(big: Any) -> None:
        seen.append(weakref.ref(big))
        raise ValueError

    executor = Executor()
    for function in (look, fail):
        executor.run(function, serial.dumps_call(([Big()][0],), {}))
    assert [reference() for reference in seen] == [None, None]


# Whole processes

FAKE_CORE = """
import kumi._core as core

class Worker:
    def serve(self, executor):
        act(executor)
        return "told to stop"

core.Worker = Worker

def act(executor): pass
"""


def run_main(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs `worker.main` in a process of its own, on a core that calls `act` in place of serving."""
    program = FAKE_CORE + textwrap.dedent(code) + "\nfrom kumi.worker import main\nmain()\nprint('not reached')\n"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False, **options
    )


def test_main_serves_and_exits() -> None:
    code = """
        import atexit
        atexit.register(print, "at exit")
        def act(executor):
            from kumi import serial
            assert serial._follows_host
            print("serving", executor.run(pow, serial.dumps_call((2, 3), {}))[0])
    """
    done = run_main(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "serving True\nat exit\n", "")


def test_main_does_not_wait_for_threads_left_behind() -> None:
    code = """
        import threading
        def act(executor):
            threading.Thread(target=threading.Event().wait).start()
            print("left a thread")
    """
    done = run_main(code)
    assert (done.returncode, done.stdout) == (0, "left a thread\n")


def test_main_by_hand_says_how_workers_are_started() -> None:
    done = run_main("def refuse(): raise OSError('KUMI_WORKER is not set')\ncore.Worker = refuse")
    assert done.returncode == 1
    assert "started by a controller" in done.stderr
    assert "KUMI_WORKER is not set" in done.stderr


def test_main_ends_with_the_error_of_a_broken_core() -> None:
    done = run_main("def act(executor): raise RuntimeError('socket lost')")
    assert done.returncode == 1
    assert "RuntimeError: socket lost" in done.stderr


@pytest.mark.parametrize(
    ("ending", "code", "stderr"),
    [
        ("return", 0, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(7)", 7, ""),
        ("raise SystemExit('good bye')", 1, "good bye\n"),
        ("raise ValueError('in the child')", 1, "ValueError: in the child\n"),
        ("return lock", 0, ""),
    ],
)
def test_a_forked_child_that_comes_back_leaves(ending: str, code: int, stderr: str) -> None:
    done = run_main(f"""
        import os, threading
        lock = threading.Lock()
        def fork():
            child = os.fork()
            if child == 0:
                print("in the child")
                {ending}
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        def act(executor):
            from kumi import serial
            succeeded, payload = executor.run(fork, serial.dumps_call((), {{}}))
            print("answer", succeeded, serial.loads(payload))
    """)
    assert done.stdout == f"in the child\nanswer True {code}\n"
    assert done.stderr.endswith(stderr)
    assert bool(done.stderr) == bool(stderr)


def test_main_in_a_worker_is_not_the_users() -> None:
    assert remote(lambda: hasattr(sys.modules["__main__"], "FAKE_CORE")) is False
