"""One function over many elements: order, how far ahead, and what an end before the end does."""

import asyncio
import itertools
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest
from kumi.feed import AHEAD_MAX

LIMIT = jobs.SECONDS_MAX


def read_by_for(values: kumi.Map[int]) -> list[int]:
    return list(values)


def read_by_results(values: kumi.Map[int]) -> list[int]:
    return values.results()


def read_as_completed(values: kumi.Map[int]) -> list[int]:
    return [task.result() for task in values.as_completed()]


def read_by_async_for(values: kumi.Map[int]) -> list[int]:
    async def read() -> list[int]:
        return [value async for value in values]

    return asyncio.run(read())


class Elements:
    """An iterator that knows how many were taken, and by which threads."""

    def __init__(self, end: int | None = None) -> None:
        self.taken = 0
        self.threads: set[int] = set()
        self.end = end

    def __iter__(self) -> "Elements":
        return self

    def __next__(self) -> int:
        if self.taken == self.end:
            raise StopIteration
        self.threads.add(threading.get_ident())
        self.taken += 1
        return self.taken - 1


def test_values_come_in_order(crew: kumi.Controller) -> None:
    """C71."""
    assert crew.map(jobs.add, range(500)).results() == list(range(1, 501))
    assert list(crew.map(jobs.add, range(500))) == list(range(1, 501))


def test_several_inputs_end_with_the_shortest(crew: kumi.Controller) -> None:
    assert crew.map(jobs.add, [1, 2, 3], [10, 20]).results() == [11, 22]
    assert crew.map(jobs.add, itertools.count(), [10, 20]).results() == [10, 21]


def test_empty_input_gives_nothing(crew: kumi.Controller) -> None:
    assert crew.map(jobs.add, []).results() == []
    assert crew.map(jobs.add, iter([])).results() == []


def test_a_map_is_an_iterator(crew: kumi.Controller) -> None:
    values = crew.map(jobs.add, range(4))
    assert isinstance(values, Iterator)
    assert next(values) == 1
    assert list(values) == [2, 3, 4]
    assert list(values) == []
    assert next(values, "end") == "end"


def test_lambdas_and_what_they_hold(crew: kumi.Controller) -> None:
    factor = 7
    assert crew.map(lambda x: x * factor, range(3)).results() == [0, 7, 14]


def test_the_function_is_pickled_once(crew: kumi.Controller) -> None:
    class Counting:
        pickled = 0

        def __reduce__(self) -> tuple[type, tuple[int]]:
            Counting.pickled += 1
            return int, (5,)

    counting = Counting()
    assert crew.map(lambda x: (x, counting), range(50)).results() == [(x, 5) for x in range(50)]
    assert Counting.pickled == 1


def test_chunksize_is_accepted(crew: kumi.Controller) -> None:
    assert crew.map(jobs.add, range(5), chunksize=3).results() == [1, 2, 3, 4, 5]


def test_elements_are_named_after_the_map(crew: kumi.Controller, gate: jobs.Gate) -> None:
    """C71."""
    gate.open(2)
    values = crew.with_options(name="fit").map(jobs.hold, [gate.path] * 2)
    assert [task.name for task in values._feed.tasks] == ["fit_0", "fit_1"]
    values.results()


# How far ahead


def test_input_with_a_length_is_submitted_whole(single: kumi.Controller, gate: jobs.Gate) -> None:
    values = single.map(jobs.hold, [gate.path] * 40, range(40))
    status = single.status()
    assert status.waiting + status.running == 40
    gate.open(40)
    assert values.results() == list(range(40))


def test_a_map_nobody_reads_runs(single: kumi.Controller, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    single.map(jobs.note, [str(file)] * 3, "abc")
    single.submit(jobs.add, 1).result(LIMIT)  # the one worker has done all of it when it has done this
    assert sorted(file.read_text().split()) == ["a", "b", "c"]


def test_other_input_is_taken_buffersize_ahead_by_the_reader(single: kumi.Controller) -> None:
    elements = Elements()
    values = single.map(jobs.add, elements, buffersize=3)
    assert elements.taken == 3
    assert [next(values), next(values)] == [1, 2]
    assert 3 <= elements.taken <= 5
    values.close()
    assert elements.threads == {threading.get_ident()}


def test_other_input_is_bounded_without_being_told(single: kumi.Controller) -> None:
    elements = Elements()
    single.map(jobs.add, elements).close()
    assert 2 <= elements.taken <= 1000


CONSTANT_MEMORY = """
    import resource, sys, kumi

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    elements, read = int(sys.argv[1]), sys.argv[2]
    with kumi.Controller(workers=2) as crew:
        values = crew.map(abs, iter(range(elements)))
        each = iter(values) if read == "in order" else (task.result() for task in values.as_completed())
        for number, value in enumerate(each):
            if number == elements // 10:
                before = peak()
    print(number + 1, peak() - before)
"""


@pytest.mark.parametrize("read", ["in order", "as completed"])
def test_a_generator_is_read_in_constant_memory(read: str) -> None:
    """In megabytes of this process, after the first tenth."""
    command = [sys.executable, "-c", textwrap.dedent(CONSTANT_MEMORY), "50000", read]
    done = subprocess.run(command, capture_output=True, text=True, timeout=80, check=False)
    assert done.stderr == ""
    count, grown = done.stdout.split()
    assert int(count) == 50_000
    assert float(grown) < 5


def test_buffersize_holds_for_input_with_a_length(single: kumi.Controller, gate: jobs.Gate) -> None:
    gate.open(10)
    values = single.map(jobs.hold, [gate.path] * 10, range(10), buffersize=2)
    assert single.status().finished + single.status().waiting + single.status().running <= 2
    assert values.results() == list(range(10))


def test_an_endless_range_is_not_submitted_whole() -> None:
    with kumi.Controller(workers=1) as crew:
        values = crew.map(jobs.add, range(10**12))
        assert next(values) == 1
        assert crew.status().waiting <= AHEAD_MAX
        values.close()


def test_a_full_queue_delays_the_input_and_never_blocks_map(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1, queue_gigabytes_max=5e-6) as crew:
        values = crew.map(jobs.hold, [gate.path] * 100, range(100))
        assert crew.status().waiting < 50
        gate.open(100)
        assert values.results() == list(range(100))


def test_what_the_queue_has_no_room_for_is_submitted_though_nobody_reads(tmp_path: Path) -> None:
    file = tmp_path / "ran"
    with kumi.Controller(workers=1, queue_gigabytes_max=5e-6) as crew:
        values = crew.map(jobs.note, [str(file)] * 100, map_texts(100))
        assert crew.status().waiting < 50
        done_in_time(lambda: values._feed.submitted == 100 and not values._feed.goes_on)
        assert crew.submit(jobs.add, 1).result(LIMIT) == 2
        assert file.read_text().split() == list(map_texts(100))
        assert len(values.results()) == 100


def map_texts(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def done_in_time(condition: Callable[[], bool]) -> None:
    """For what no event tells: that a thread has done something that only its own attributes show."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("end", ["block", "async block", "no wait"])
def test_a_block_ends_when_all_of_a_map_that_nobody_reads_is_done(held: bool, end: str, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    crew = kumi.Controller(workers=1, queue_gigabytes_max=5e-6)

    def begin() -> None:
        values = crew.map(jobs.note, [str(file)] * 200, map_texts(200))
        if held:
            kept.append(values)

    async def block() -> None:
        async with crew:
            begin()

    kept: list[Any] = []
    if end == "async block":
        asyncio.run(block())
    else:
        begin()
        crew.shutdown(wait=end == "block")
        with pytest.raises(kumi.ControllerClosed):
            crew.submit(jobs.add, 1)
        crew._live_pool().wait_ended(LIMIT)
    assert file.read_text().split() == map_texts(200)
    crew.terminate()


def test_a_map_that_is_read_only_partly_does_not_hold_up_the_end_of_its_block() -> None:
    with kumi.Controller(workers=1, queue_gigabytes_max=5e-6) as crew:
        values = crew.map(jobs.same, range(10**12))
        assert next(values) == 0
    assert threads_that_feed() == []


def test_a_program_ends_when_all_of_its_map_is_done(tmp_path: Path) -> None:
    code = f"""
        import kumi, pathlib
        def note(number):
            with open({str(tmp_path / "ran")!r}, "a") as file:
                file.write(f"{{number}}\\n")
        crew = kumi.Controller(workers=1, queue_gigabytes_max=5e-6)
        crew.map(note, range(200))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "ran").read_text().split() == map_texts(200)


@pytest.mark.parametrize("read", [read_by_for, read_by_results, read_as_completed, read_by_async_for])
def test_what_a_thread_submits_is_read_in_every_way(read: Callable[[kumi.Map[int]], list[int]]) -> None:
    with kumi.Controller(workers=2, queue_gigabytes_max=5e-6) as crew:
        assert sorted(read(crew.map(jobs.same, range(3000)))) == list(range(3000))
        assert threads_that_feed() == []


def threads_that_feed() -> list[str]:
    done_in_time(lambda: not any(thread.name == "kumi-feed" for thread in threading.enumerate()))
    return [thread.name for thread in threading.enumerate() if thread.name == "kumi-feed"]


def test_a_million_elements_are_submitted_though_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """With smaller numbers: a thread goes on from 100 to 1000 ahead, and from there when half of that is read."""
    for name, number in (("AHEAD_MAX", 1000), ("_AHEAD_AGAIN", 500)):
        monkeypatch.setattr(f"kumi.feed.{name}", number)
    monkeypatch.setattr("kumi.maps.AT_ONCE", 100)
    with kumi.Controller(workers=1) as crew:
        values = crew.map(jobs.same, range(10_000))
        assert values._feed.submitted >= 100
        done_in_time(lambda: values._feed._thread_waits)
        assert values._feed.submitted == 1000
        assert [next(values) for _ in range(500)] == list(range(500))
        done_in_time(lambda: values._feed.submitted == 1500)
        assert list(values) == list(range(500, 10_000))
        assert threads_that_feed() == []


class Breaks(list[int]):
    def __iter__(self) -> Iterator[int]:
        yield from range(60)
        raise LookupError("the input's own")


def test_an_error_that_a_thread_comes_upon_is_the_readers(crew: kumi.Controller, gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1, queue_gigabytes_max=5e-6) as small:
        values = small.map(jobs.hold, [gate.path] * 100, Breaks(range(100)))
        gate.open(59)  # the last of them is not done
        with pytest.raises(LookupError, match="the input's own"):
            values.results()
        with pytest.raises(kumi.TaskCancelled):
            next(values)
        with pytest.raises(kumi.SerializationError) as caught:
            small.map(jobs.add, range(100), [*range(99), jobs.Unpicklable()]).results()
        assert any("element 99 " in note for note in caught.value.__notes__)


@pytest.mark.parametrize("held", [True, False])
def test_an_error_that_a_thread_comes_upon_is_shown_if_nobody_reads(
    held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[type[BaseException] | None] = []
    monkeypatch.setattr("threading.excepthook", lambda told: shown.append(told.exc_type))
    with kumi.Controller(workers=1, queue_gigabytes_max=5e-6) as small:
        values = small.map(jobs.same, Breaks(range(100)))
        if not held:
            del values
    if held:
        assert shown == []
        del values
    assert shown == [LookupError]


@pytest.mark.parametrize("way", ["close", "terminate", "break"])
def test_a_map_that_is_left_ends_its_thread(way: str, gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1, queue_gigabytes_max=5e-6) as crew:
        values = crew.map(jobs.hold, [gate.path] * 500, range(500))
        gate.open(2)
        if way == "close":
            values.close()
        elif way == "break":
            for _ in values:
                break
        else:
            crew.terminate()
            with pytest.raises(kumi.KumiError):
                values.results()
        assert threads_that_feed() == []
        assert crew.status().waiting == 0
        gate.open(100)


def test_a_forked_child_does_not_wait_for_a_thread_of_its_parents() -> None:
    code = """
        import kumi, os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        with kumi.Controller(workers=1, queue_gigabytes_max=5e-6) as crew:
            values = crew.map(abs, range(500))
            next(values)
            child = os.fork()
            if child == 0:
                try:
                    values.results()
                except kumi.ControllerClosed:
                    os._exit(7)
                os._exit(8)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(values.results()))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, timeout=50, check=False)
    assert (done.stdout, done.stderr) == (b"7 499\n", b"")


# Errors, and ends before the end


def test_an_error_carries_its_number_and_cancels_the_rest(single: kumi.Controller, gate: jobs.Gate) -> None:
    gate.open(5)
    values = single.map(jobs.hold, [gate.path] * 5 + ["/nowhere"] + [gate.path] * 200, range(206))
    got = []
    with pytest.raises(FileNotFoundError, match="nowhere") as caught:
        for value in values:
            got.append(value)  # noqa: PERF402 - what came before the error counts
    assert got == [0, 1, 2, 3, 4]
    assert any("element 5 " in note for note in caught.value.__notes__)
    with pytest.raises(kumi.TaskCancelled):
        next(values)
    gate.open(200)
    single.shutdown()
    assert single.summary().cancel >= 199, "all but the one that the worker had begun"


def gated_or_bad(gate: str, number: int, bad: int) -> int:
    """Element 0 waits at the gate, and one is bad."""
    return jobs.boom_at(int(jobs.hold(gate, number)) if number == 0 else number, bad)


@pytest.mark.parametrize("read", [read_by_for, read_by_results, read_as_completed, read_by_async_for])
def test_the_first_that_fails_ends_a_map_while_others_run(
    read: Callable[[kumi.Map[int]], list[int]], gate: jobs.Gate
) -> None:
    with kumi.Controller(workers=2) as crew:
        values = crew.map(gated_or_bad, [gate.path] * 2000, range(2000), [900] * 2000)
        with pytest.raises(ValueError, match="bad 900") as caught:
            read(values)  # element 0 has not finished
        assert caught.value.__notes__ == ["in element 900 of the map, counted from 0"]
        assert crew.status().waiting == 0
        with pytest.raises(kumi.TaskCancelled):
            next(values)
        gate.open()


def test_a_failure_from_before_the_reading_ends_it(crew: kumi.Controller, gate: jobs.Gate) -> None:
    values = crew.map(gated_or_bad, [gate.path] * 10, range(10), [5] * 10)
    gate.wait()
    crew.map(jobs.add, range(10)).results()  # done after element 5
    with pytest.raises(ValueError, match="bad 5"):
        next(values)
    gate.open()


def test_what_was_done_before_a_failure_is_given(single: kumi.Controller) -> None:
    got = []
    with pytest.raises(ValueError, match="bad 7"):
        for value in single.map(jobs.boom_at, range(300), [7] * 300):
            got.append(value)  # noqa: PERF402 - what came before the error counts
    assert got == list(range(7))


def test_a_failure_ends_no_map_that_nobody_reads(single: kumi.Controller, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    values = single.map(note_or_bad, [str(file)] * 5, range(5))
    single.submit(jobs.add, 1).result(LIMIT)
    assert file.read_text().split() == ["1", "2", "3", "4"]
    with pytest.raises(ValueError, match="bad 0"):
        next(values)


def note_or_bad(file: str, number: int) -> None:
    jobs.note(file, str(jobs.boom_at(number, 0)))


def test_of_several_failures_none_is_told_when_one_was_raised(crew: kumi.Controller) -> None:
    values = crew.map(jobs.boom_at, range(4), range(4))
    crew.map(jobs.add, range(10)).results()
    with pytest.raises(ValueError, match="bad"):
        values.results()
    del values
    assert crew._live_pool().overlooked(False) is None


def test_errors_as_values_end_nothing(crew: kumi.Controller) -> None:
    values = crew.map(jobs.boom_at, range(50), [3] * 50, on_error="return").results()
    assert [number for number, value in enumerate(values) if isinstance(value, ValueError)] == [3]


@pytest.mark.parametrize("ends", ["cancels", "dies"])
def test_a_task_that_ends_otherwise_is_a_failure_too(ends: str, crew: kumi.Controller, gate: jobs.Gate) -> None:
    if ends == "cancels":
        values = crew.with_options(name="element").map(jobs.hold, [gate.path] * 5)
        gate.wait(2)
        assert crew.cancel("element_4", "element_3") == 2
        with pytest.raises(kumi.TaskCancelled, match="element_[34]"):
            next(values)
    else:
        values = crew.with_options(crashes_max=0).map(hold_or_die, [gate.path] * 5, range(5))
        with pytest.raises(kumi.CrashError) as caught:
            next(values)
        assert caught.value.__notes__ == ["in element 1 of the map, counted from 0"]
    gate.open(5)


def hold_or_die(gate: str, number: int) -> None:
    jobs.kill_self() if number == 1 else jobs.hold(gate)


def test_cancelling_by_name_counts_every_element_of_a_map_that_is_read(
    single: kumi.Controller, gate: jobs.Gate
) -> None:
    gate.open()
    values = single.with_options(name="fit").map(jobs.hold, [gate.path] * 5)
    assert next(values) is None
    gate.wait(2)
    assert single.cancel("fit_*") == 4
    gate.open()


def first_failure_of_a_map_in_a_task(gate: str) -> list[str]:
    values = kumi.map(gated_or_bad, [gate] * 50, range(50), [30] * 50)
    try:
        values.results()
    except ValueError as error:
        return [str(error), *error.__notes__]
    return []


def test_the_first_that_fails_ends_a_map_of_a_task(gate: jobs.Gate) -> None:
    """The other worker, which is idle, is held by element 0; the task's own one comes to element 30."""
    with kumi.Controller(workers=2) as crew:
        held = [crew.submit(jobs.hold, gate.path) for _ in range(2)]
        gate.wait(2)
        gate.open(2)
        kumi.wait(held)
        seen = crew.submit(first_failure_of_a_map_in_a_task, gate.path).result(LIMIT)
        assert (seen[0], seen[-1]) == ("bad 30", "in element 30 of the map, counted from 0")
        gate.open()


def test_in_this_process_a_map_ends_with_its_first_failure() -> None:
    with kumi.Controller(kumi.Sequential()) as crew, pytest.raises(ValueError, match="bad 3"):
        crew.map(jobs.boom_at, range(10), [3] * 10).results()


def test_break_cancels_what_has_not_started(single: kumi.Controller, gate: jobs.Gate) -> None:
    gate.open()
    values = single.map(jobs.hold, [gate.path] * 20, range(20))
    for value in values:
        assert value == 0
        break
    assert single.status().waiting == 0
    gate.open(20)
    with pytest.raises(kumi.TaskCancelled, match="1 of its elements"):
        next(values)


def test_close_cancels_what_has_not_started(single: kumi.Controller, gate: jobs.Gate) -> None:
    values = single.map(jobs.hold, [gate.path] * 20)
    gate.wait()
    values.close()
    gate.open(20)
    assert single.status().waiting == 0
    single.shutdown()
    assert single.summary().cancel >= 18


def test_dropping_a_map_in_the_middle_cancels(single: kumi.Controller, gate: jobs.Gate) -> None:
    gate.open()
    values = single.map(jobs.hold, [gate.path] * 20)
    next(values)
    del values
    assert single.status().waiting == 0
    gate.open(20)


def test_an_interrupt_of_the_reader_cancels(single: kumi.Controller, gate: jobs.Gate) -> None:
    gate.open()

    def read() -> None:
        for _ in single.map(jobs.hold, [gate.path] * 20):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read()
    assert single.status().waiting == 0
    gate.open(20)


def test_timeout_counts_from_the_call(single: kumi.Controller, gate: jobs.Gate) -> None:
    values = single.map(jobs.hold, [gate.path] * 3, timeout=0.05)
    with pytest.raises(TimeoutError):
        values.results()
    assert single.status().waiting == 0
    gate.open(3)


def test_an_input_that_fails_is_the_readers_error_and_cancels(single: kumi.Controller, gate: jobs.Gate) -> None:
    def failing() -> Iterator[str]:
        yield gate.path
        yield gate.path
        raise LookupError("the input's own")

    with pytest.raises(LookupError, match="the input's own"):
        single.map(jobs.hold, failing())
    gate.open(2)
    assert single.status().waiting == 0


def test_an_element_that_cannot_be_pickled_is_named_and_cancels(single: kumi.Controller, gate: jobs.Gate) -> None:
    with pytest.raises(kumi.SerializationError, match="argument 2") as caught:
        single.map(jobs.hold, [gate.path] * 3, [1, 2, jobs.Unpicklable()])
    assert any("element 2 " in note for note in caught.value.__notes__)
    gate.open(2)
    assert single.status().waiting == 0
    assert single.submit(jobs.add, 1).result(LIMIT) == 2


@pytest.mark.parametrize("buffersize", [0, -1])
def test_buffersize_out_of_range(crew: kumi.Controller, buffersize: int) -> None:
    with pytest.raises(ValueError, match="buffersize must be at least 1"):
        crew.map(jobs.add, [1], buffersize=buffersize)


@pytest.mark.parametrize("buffersize", [1.5, "2", True])
def test_buffersize_of_another_kind(crew: kumi.Controller, buffersize: int) -> None:
    with pytest.raises(TypeError, match="buffersize must be"):
        crew.map(jobs.add, [1], buffersize=buffersize)


def test_no_input_at_all(crew: kumi.Controller) -> None:
    with pytest.raises(TypeError, match="at least one iterable"):
        crew.map(jobs.add)


def test_a_non_callable(crew: kumi.Controller) -> None:
    with pytest.raises(TypeError, match="callable"):
        crew.map(3, [1])  # type: ignore[arg-type]
