"""Tasks that submit tasks, for test_nesting.py, in a module that a worker imports fast."""

import asyncio
import concurrent.futures
import os
import threading
import time
from pathlib import Path
from typing import Any

import jobs
import kumi

LIMIT = jobs.SECONDS_MAX


def total(depth: int, width: int) -> int:
    """How many leaves a tree of tasks has."""
    if depth == 0:
        return 1
    return sum(kumi.map(total, [depth - 1] * width, [width] * width).results())


def where(depth: int) -> list[int]:
    """Process ids of a chain of tasks, each of which waits for the next."""
    inner = [] if depth == 0 else kumi.submit(where, depth - 1).result()
    return [os.getpid(), *inner]


def endless(depth: int = 1) -> int:
    return int(kumi.submit(endless, depth + 1).result())


def name() -> tuple[str, str]:
    own: Any = kumi.default()
    return own.name, repr(own)


def children(count: int) -> int:
    return sum(task.result() for task in [kumi.submit(jobs.same, 1) for _ in range(count)])


def child_error() -> str:
    task = kumi.submit(jobs.boom, "of a child")
    error = task.exception()
    assert task.record is not None
    assert (task.record.status, task.record.function) == ("error", "boom")
    return f"{type(error).__name__}: {error}: {'jobs.py' in (task.record.traceback or '')}"


def child_error_unhandled() -> None:
    kumi.submit(jobs.boom, "of a child").result()


def record() -> dict[str, Any]:
    task = kumi.with_options(name="child").submit(jobs.add, 1)
    value = task.result()
    found = task.record
    assert found is not None
    return {
        "value": value,
        "name": found.name,
        "controller": found.controller,
        "worker": found.worker,
        "pid": found.pid,
        "own": os.getpid(),
        "attempts": found.attempts,
        "times": [found.submitted, found.started, found.finished, time.time()],
    }


def crash_in_child(file: str, gate: str | None = None) -> str:
    """A child that dies each time; says how often this task itself was begun, and how the child ended."""
    jobs.note(file, "parent")
    task = kumi.with_options(crashes_max=1).submit(note_and_die, file)
    error = task.exception()
    return f"{type(error).__name__} {getattr(task.record, 'attempts', None)}"


def note_and_die(file: str) -> None:
    jobs.note(file, "child")
    jobs.kill_self()


def controllers_within_each_other(value: int) -> tuple[bool, int, int]:
    with kumi.daemons(1) as outer:
        with kumi.daemons(1) as inner:
            first = kumi.submit(abs, -1).result()
        return inner is outer, first, outer.submit(abs, -value).result()


def crash_unhandled() -> None:
    kumi.with_options(crashes_max=0).submit(os._exit, 3).result()


def record_of_a_crash() -> Any:
    task = kumi.with_options(crashes_max=0).submit(os._exit, 3)
    task.exception()
    return task.record


def hold_children(gate: str, file: str, count: int = 2) -> None:
    """Children that wait at the gate, and one more that must never run."""
    tasks = [kumi.submit(jobs.hold, gate) for _ in range(count)]
    last = kumi.submit(jobs.note, file, "ran")
    for task in [*tasks, last]:
        task.result()


def hold_children_and_die(gate: str, file: str) -> None:
    if Path(file).exists():
        return
    Path(file).touch()
    kumi.submit(jobs.hold, gate)
    kumi.submit(jobs.note, file, "orphan")
    jobs.hold(gate)
    jobs.kill_self()


def leave_children(file: str, fails: bool) -> str:
    for number in range(3):
        kumi.submit(jobs.note, file, str(number))
    if fails:
        raise ValueError("no")
    return "left"


async def gathered(count: int) -> list[int]:
    return await asyncio.gather(*(kumi.run(jobs.add, number) for number in range(count)))


def run_gathered(count: int) -> list[int]:
    return asyncio.run(gathered(count))


async def one_after_the_other(count: int) -> list[int]:
    return [await kumi.run(jobs.pid) for _ in range(count)]


async def deep_gathered(depth: int) -> int:
    if depth == 0:
        return 1
    return sum(await asyncio.gather(*(kumi.run(deep_gathered, depth - 1) for _ in range(2))))


def as_completed(count: int) -> list[int]:
    tasks = [kumi.submit(jobs.same, number) for number in range(count)]
    return sorted(task.result() for task in concurrent.futures.as_completed(tasks, timeout=LIMIT))


def waited(count: int) -> int:
    tasks = [kumi.submit(jobs.same, number) for number in range(count)]
    done, _ = concurrent.futures.wait(tasks, timeout=LIMIT)
    return len(done)


def called_back() -> list[int]:
    """A callback runs though this task's main thread does something else."""
    called: list[int] = []
    event = threading.Event()

    def note(task: Any) -> None:
        called.append(task.result())
        event.set()

    kumi.submit(jobs.add, 1).add_done_callback(note)
    assert event.wait(LIMIT)
    return called


def in_threads(count: int) -> list[int]:
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda number: kumi.submit(jobs.add, number).result(LIMIT), range(count)))


def cancel_child(gate: str) -> list[str]:
    """Of a child that waits, of one that runs elsewhere, of one that is done."""
    done = kumi.submit(jobs.add, 1)
    done.result()
    running, waiting = kumi.submit(jobs.hold, gate), kumi.submit(jobs.add, 1)
    return [f"{task.cancel()} {task.state()} {task.cancelled()}" for task in (waiting, running, done)]


def time_out() -> str:
    task = kumi.submit(jobs.add, 1)
    try:
        task.result(timeout=0)
    except TimeoutError as error:
        return f"{error} {task.result()}"
    return "in time"


def polled() -> int:
    """A child that runs elsewhere is seen to be done by who only asks."""
    task = kumi.submit(jobs.add, 1)
    end = time.monotonic() + LIMIT
    while not task.done():
        assert time.monotonic() < end
    return task.result()


_left: list[Any] = []


def leave_a_thread(gate: str) -> None:
    """A thread that goes on after its task, and then submits and asks."""
    task = kumi.submit(jobs.hold, gate)
    go, done = threading.Event(), threading.Event()
    said: list[str] = []

    def work() -> None:
        go.wait(LIMIT)
        for ask in (lambda: kumi.submit(jobs.add, 1), task.result):
            try:
                said.append(repr(ask()))
            except Exception as error:
                said.append(f"{type(error).__name__}: {error}")
        done.set()

    threading.Thread(target=work, daemon=True).start()
    _left[:] = [go, done, said]
    jobs.begin(gate)


def wake_from_outside() -> list[str]:
    """Run between tasks, when nothing runs: the thread that was left says what became of its wishes."""
    go, done, said = _left
    threading.Thread(target=lambda: (time.sleep(0), go.set()), daemon=True).start()
    assert done.wait(LIMIT)
    return list(said)


def forked() -> str:
    """What a fork of a task is told."""
    read, write = os.pipe()
    task = kumi.submit(jobs.add, 1)
    pid = os.fork()
    if pid == 0:
        text = ""
        for ask in (lambda: kumi.submit(jobs.add, 1), task.result):
            try:
                ask()
            except BaseException as error:
                text += f"{type(error).__name__}: {error}\n"
        os.write(write, text.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    task.result()
    return os.read(read, 1 << 16).decode()


def other_controller() -> tuple[int, str]:
    own: Any = kumi.default()
    with kumi.daemons(1):
        other = kumi.submit(jobs.pid).result()
        assert kumi.default() is not own
    assert kumi.default() is own
    return other, kumi.submit(jobs.environment, "KUMI_WORKER").result() or ""


def not_for_tasks() -> list[str]:
    own: Any = kumi.default()
    said = []
    for ask in (
        own.shutdown,
        lambda: own.push(jobs.add, 1),
        lambda: kumi.with_options(controller="nobody").submit(abs, 1),
    ):
        try:
            ask()
        except kumi.ControllerError as error:
            said.append(str(error))
    return said


def large(length: int) -> int:
    import numpy as np

    array = np.ones(length)
    return int(kumi.submit(doubled, array).result().sum())


def doubled(array: Any) -> Any:
    return array * 2


def shared() -> int:
    import numpy as np

    big = kumi.share(np.ones(1000))
    return int(sum(kumi.map(lambda row: big[row], range(3)).results()))


# Interrupts: tasks on one worker, each within the wait of the one before


def sleep_within(gate: str, depth: int = 1) -> str:
    """Waits for a child that waits for a child, and so on; the last one sleeps."""
    if depth == 0:
        jobs.begin(gate)
        time.sleep(600)
    return str(kumi.submit(sleep_within, gate, depth - 1).result())


def outlive(gate: str, depth: int) -> tuple[str, int, int]:
    """Waits for a child that takes longer than it may. `depth`: how many sleep below it."""
    child = kumi.with_options(seconds_run=0.6).submit(sleep_within, gate, depth)
    error = child.exception()
    info = kumi.task_info()
    assert info is not None
    return type(error).__name__, os.getpid(), info.attempt


def cancel_from_a_thread(gate: str, note: str) -> tuple[str, int]:
    """A thread cancels what runs within the main thread's wait."""
    child = kumi.submit(jobs.hold, gate)

    def cancel() -> None:
        with open(note, "rb", buffering=0) as go:
            go.read(1)
        child.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    ending = _ending(child)
    thread.join()
    return ending, os.getpid()


def _ending(task: Any) -> str:
    try:
        return f"returned {task.result()}"
    except kumi.TaskCancelled as error:
        return type(error).__name__


def never_yield(gate: str) -> None:
    begun = False
    while True:
        try:
            if not begun:
                begun = True
                jobs.begin(gate)
            time.sleep(600)
        except BaseException:
            continue


def outlive_the_deaf(gate: str, file: str) -> str:
    """Its child does not yield, so the worker is killed, this task with it; it is begun again elsewhere."""
    if Path(file).exists():
        return "again"
    Path(file).touch()
    return type(kumi.with_options(seconds_run=0.2).submit(never_yield, gate).exception()).__name__


def swallow(gate: str) -> None:
    """Does not yield while it waits."""
    while True:
        try:
            kumi.submit(sleep_within, gate, 0).result()
        except BaseException:
            never_yield(gate)


def crash_below(file: str) -> None:
    jobs.note(file, "parent")
    kumi.submit(jobs.kill_self).result()


async def block_on_async_code(count: int) -> list[int]:
    """What does not belong into a coroutine: it keeps its loop from running. The children open loops of their own."""
    return [kumi.submit(gathered, count).result(LIMIT), kumi.submit(run_gathered, count).result(LIMIT)]  # type: ignore[list-item]


def infos() -> list[Any]:
    before = kumi.task_info()
    child = kumi.with_options(name="child").submit(kumi.task_info).result()
    return [before, child, kumi.task_info()]


def tree(depth: int, width: int, kinds: list[str], pids: str) -> int:
    """How many leaves a tree of tasks has whose generations wait in different ways."""
    jobs.note(pids, str(os.getpid()))
    if depth == 0:
        return 1
    kind = kinds[depth % len(kinds)]
    arguments = [(depth - 1, width, kinds, pids)] * width
    if kind == "map":
        return sum(kumi.map(tree, *zip(*arguments, strict=True)).results())
    if kind == "async":

        async def gather() -> list[int]:
            return await asyncio.gather(*(kumi.run(tree, *each) for each in arguments))

        return sum(asyncio.run(gather()))
    if kind == "threads":
        with concurrent.futures.ThreadPoolExecutor(width) as pool:
            return sum(pool.map(lambda each: kumi.submit(tree, *each).result(), arguments))
    tasks = [kumi.submit(tree, *each) for each in arguments]
    return sum(task.result() for task in (kumi.as_completed(tasks) if kind == "as_completed" else tasks))


async def await_hold(gate: str) -> None:
    await kumi.run(jobs.hold, gate)
