"""What went wrong, or nearly, where threads, signals, forks and the ends of processes meet."""

import gc
import os
import signal
import sys
import threading
import weakref
from pathlib import Path

import jobs
import kumi
import pytest
from rig import run_python, write


def leave_a_thread() -> int:
    """The task of a user who forgot a thread; Python would wait for it before it exits."""
    threading.Thread(target=threading.Event().wait).start()
    return os.getpid()


def start_heir() -> int:
    """Leaves a process that keeps the worker's stdout open."""
    jobs.start_child()
    return os.getpid()


class BrokenStream:
    """What a notebook or a window may put in the place of stdout."""

    def __init__(self) -> None:
        self.used = threading.Event()

    def write(self, _: str) -> int:
        self.used.set()
        raise RuntimeError("the window was closed")


def test_callbacks_run_to_their_end_before_the_program_ends(tmp_path: Path) -> None:
    program = """
        import threading, kumi
        def tell(task):
            threading.main_thread().join()  # it has begun to end
            print(task.result())
        with kumi.Controller(workers=1) as crew:
            for i in range(200): crew.submit(abs, i).add_done_callback(tell)
    """
    out = run_python(str(write(tmp_path, "program.py", program)), directory=tmp_path)
    assert sorted(map(int, out.split())) == list(range(200))


def test_a_stream_that_fails_costs_no_callback(single: kumi.Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, told = BrokenStream(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", broken)
        single.submit(print, "x")
        assert broken.used.wait(jobs.SECONDS_MAX)
    single.submit(abs, 1).add_done_callback(lambda _: told.set())
    assert told.wait(jobs.SECONDS_MAX)


def test_a_watch_that_was_interrupted_costs_no_callback(single: kumi.Controller, gate: jobs.Gate) -> None:
    told = threading.Event()
    assert single.submit(jobs.hold, gate.path).watch()  # Ctrl-C, before the token was noted
    single.submit(abs, 1).add_done_callback(lambda _: told.set())
    gate.open()
    assert told.wait(jobs.SECONDS_MAX)


def test_a_controller_that_was_shut_down_without_waiting_is_not_kept_for_ever() -> None:
    crews: list[weakref.ref[kumi.Controller]] = []
    for _ in range(3):
        crew = kumi.Controller(workers=1)
        crew.submit(abs, 1).result(jobs.SECONDS_MAX)
        crew.shutdown(wait=False)
        assert crew._live_pool().wait_ended(jobs.SECONDS_MAX)
        crews.append(weakref.ref(crew))
        del crew
    gc.collect()
    assert [crew() for crew in crews[:-1]] == [None, None]


def test_nothing_of_a_dead_worker_is_watched_where_a_forked_child_has_its_pipes(tmp_path: Path) -> None:
    program = """
        import contextlib, jobs, kumi, os, signal, test_races
        from pathlib import Path
        def watched():
            count = 0
            for name in os.listdir("/proc/self/fdinfo"):
                with contextlib.suppress(FileNotFoundError):  # the directory itself
                    count += Path("/proc/self/fdinfo", name).read_text().count("tfd:")
            return count
        with kumi.Controller(workers=1) as crew:
            worker = crew.submit(test_races.start_heir).result(30)
            before, child = watched(), os.fork()
            if not child: signal.pause()
            os.kill(worker, signal.SIGKILL)
            assert crew.submit(jobs.pid).result(30) != worker
            print(watched() - before)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    """
    file = write(tmp_path, "program.py", program)
    assert run_python("-W", "ignore", str(file), directory=tmp_path) == "0\n"


def test_a_handler_of_a_signal_may_ask_a_controller(tmp_path: Path) -> None:
    program = """
        import kumi, signal
        crew = kumi.Controller(workers=1)
        made, asked = crew._made_pool, []
        def interrupted():
            crew._made_pool = made
            signal.raise_signal(signal.SIGUSR1)
            return made()
        def ask(*_):
            asked.append(crew.status().workers)
            crew.terminate()
        signal.signal(signal.SIGUSR1, ask)
        crew._made_pool = interrupted
        print(crew.status().workers, asked)
    """
    assert run_python(str(write(tmp_path, "program.py", program)), directory=tmp_path) == "0 [0]\n"


def test_a_result_that_nobody_holds_gives_its_memory_back_at_once(single: kumi.Controller) -> None:
    size = 16 << 20

    def frees() -> bool:
        task = single.submit(jobs.boom, "x" * size)  # an error, which never lies in shared memory
        task.exception(jobs.SECONDS_MAX)
        before = resident()
        del task
        return before - resident() > 3 * size // 2  # what Python had of it, and what the core had

    # Several times: where another thread has the core just then, the next one that comes gives it back.
    assert any(frees() for _ in range(5))


def test_a_worker_that_an_error_ends_waits_for_no_thread(single: kumi.Controller) -> None:
    worker = single.submit(leave_a_thread).result(jobs.SECONDS_MAX)
    os.kill(worker, signal.SIGINT)
    assert single.submit(jobs.pid).result(jobs.SECONDS_MAX) != worker


def resident() -> int:
    """Bytes of memory that this process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_tasks_that_outlive_their_controllers_hold_no_descriptors() -> None:
    def use() -> kumi.Task[int]:
        with kumi.Controller(workers=1) as crew:
            return crew.submit(abs, -1)

    tasks = [use()]
    before = len(os.listdir("/proc/self/fd"))
    tasks += [use() for _ in range(5)]
    assert [task.result() for task in tasks] == [1] * 6
    assert len(os.listdir("/proc/self/fd")) == before
