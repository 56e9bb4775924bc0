"""`terminate`: however often, from a signal's handler, from a callback, at the end of the interpreter, and for good."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import jobs
import kumi
import pytest
from test_exit import run

LIMIT = jobs.SECONDS_MAX


def test_any_number_of_threads_may_terminate_at_once(gate: jobs.Gate) -> None:
    crew = kumi.Controller(workers=2)
    running = crew.submit(jobs.hold, gate.path)
    gate.wait()
    threads = [threading.Thread(target=crew.terminate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert running.cancelled()
    assert crew.status().workers == 0


def test_one_that_never_began_ends_too() -> None:
    """C61."""
    crew = kumi.Controller(workers=1)
    crew.terminate()
    crew.terminate()
    assert (crew.pop(), crew.wait(), crew.cancel("*"), crew.status().workers) == (None, False, 0, 0)
    with pytest.raises(kumi.ControllerClosed):
        crew.start()


def test_it_stays_terminated_while_workers_are_being_launched() -> None:
    """X7, D7: nothing starts it again, and it can still be asked."""
    crew = kumi.Controller(workers=2)
    tasks = [crew.push(jobs.add, number) for number in range(100)]
    crew.terminate()
    for enter in (crew.submit, crew.push, crew.try_submit):
        with pytest.raises(kumi.ControllerClosed):
            enter(jobs.add, 1)
    status = crew.status()
    assert (status.workers, status.launching, status.waiting, status.running) == (0, 0, 0, 0)
    assert len(crew.collect()) == len(tasks)
    assert crew.summary().tasks == len(tasks)


@pytest.fixture
def on_signal() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("on_signal")
def test_a_signal_handler_may_terminate_while_the_main_thread_waits(gate: jobs.Gate) -> None:
    crew = kumi.Controller(workers=1)
    running = crew.submit(jobs.hold, gate.path)
    gate.wait()
    signal.signal(signal.SIGUSR1, lambda *_: crew.terminate())
    main = threading.main_thread().ident
    assert main is not None
    threading.Thread(target=signal.pthread_kill, args=(main, signal.SIGUSR1)).start()
    with pytest.raises(kumi.TaskCancelled):
        running.result(LIMIT)
    assert crew.status().workers == 0


@pytest.mark.usefixtures("on_signal")
def test_a_signal_handler_may_terminate_in_the_middle_of_submits() -> None:
    crew = kumi.Controller(workers=1)
    crew.submit(jobs.add, 1).result(LIMIT)
    signal.signal(signal.SIGUSR1, lambda *_: crew.terminate())
    main = threading.main_thread().ident
    assert main is not None
    threading.Thread(target=signal.pthread_kill, args=(main, signal.SIGUSR1)).start()
    tasks = []
    with pytest.raises(kumi.ControllerClosed):
        for number in range(10_000_000):
            tasks.append(crew.push(jobs.add, number))
            if len(tasks) % 100 == 0:
                crew.collect()
    assert all(task.done() for task in tasks)


def test_a_callback_may_terminate() -> None:
    crew = kumi.Controller(workers=1)
    ended = threading.Event()

    def end(_: object) -> None:
        crew.terminate()
        ended.set()

    crew.submit(jobs.add, 1).add_done_callback(end)
    assert ended.wait(LIMIT)
    with pytest.raises(kumi.ControllerClosed):
        crew.submit(jobs.add, 1)


def test_at_the_end_of_the_interpreter(tmp_path: Path) -> None:
    """By the program's own `atexit`, before kumi's and after it."""
    program = """
        import atexit, kumi
        crew = kumi.Controller(workers=1)
        atexit.register(lambda: (crew.terminate(), print("ended", crew.status().workers)))
        print(crew.submit(abs, -3).result(30))
    """
    assert run(tmp_path, program) == (0, "3\nended 0\n", "")
    program = """
        import atexit
        atexit.register(lambda: (crew.terminate(), print("ended")))
        import kumi
        crew = kumi.Controller(workers=1)
        print(crew.submit(abs, -3).result(30))
    """
    assert run(tmp_path, program) == (0, "3\nended\n", "")
