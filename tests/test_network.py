"""Workers on another machine behind a real link, which is cut, slow, or loses packets: a network namespace."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import jobs
import kumi
import pytest
from machines import Link, link, workers_of

SECONDS_CUT = 1.0


@pytest.fixture(scope="module")
def there() -> Iterator[Link]:
    with link() as made:
        yield made


@pytest.fixture(autouse=True)
def whole(there: Link) -> Iterator[None]:
    yield
    there.carry()


def note_and_hold(file: str, number: int, gate: str) -> int:
    jobs.note(file, str(number))
    jobs.hold(gate)
    return number


def note_and_work(file: str, number: int) -> int:
    jobs.note(file, str(number))
    time.sleep(0.01)
    return number


def lines(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()]


def cut_for(there: Link, seconds: float) -> None:
    there.cut()
    time.sleep(seconds)  # that long is the link cut: nothing is waited for
    there.carry()


def test_a_short_cut_costs_nothing(there: Link, tmp_path: Path) -> None:
    """Tasks go on meanwhile, none is run twice, and no worker is lost."""
    notes = tmp_path / "notes"
    with kumi.Controller(None, host=there.host) as crew, workers_of(crew, tmp_path, there.prefix) as workers:
        workers.start(2)
        crew.submit(jobs.add, 1).result()
        tasks = [crew.submit(note_and_work, str(notes), number) for number in range(200)]
        once = [crew.with_options(once=True).submit(note_and_work, str(notes), 1000 + number) for number in range(20)]
        cut_for(there, SECONDS_CUT)
        assert [task.result(timeout=30) for task in tasks] == [*range(200)]
        assert [task.result(timeout=30) for task in once] == [*range(1000, 1020)]
        assert sorted(lines(notes)) == [*range(200), *range(1000, 1020)]
        status = crew.status()
        assert (status.workers, status.launched, status.lost) == (2, 2, 0)


def test_a_connection_that_is_reset_is_made_again(there: Link, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with kumi.Controller(None, host=there.host) as crew, workers_of(crew, tmp_path, there.prefix) as workers:
        workers.start(1)
        crew.submit(jobs.add, 1).result()
        tasks = [crew.submit(note_and_work, str(notes), number) for number in range(100)]
        for _ in range(5):
            # Both ends are told that their connection is over.
            subprocess.run(["ss", "-K", "src", there.host], check=True, capture_output=True)
            assert crew.submit(jobs.add, 1).result(timeout=30) == 2
        assert [task.result(timeout=30) for task in tasks] == [*range(100)]
        assert sorted(lines(notes)) == [*range(100)]
        assert crew.status().launched == 1


def test_a_long_cut_has_the_tasks_run_elsewhere(there: Link, tmp_path: Path, gate: jobs.Gate) -> None:
    """Save those that must not be run again. What the lost worker still says does not count."""
    notes = tmp_path / "notes"
    with (
        kumi.Controller(None, host=there.host, seconds_reconnect=1) as crew,
        workers_of(crew, tmp_path, there.prefix) as far,
    ):
        far.start(2)
        again = crew.submit(note_and_hold, str(notes), 1, gate.path)
        once = crew.with_options(once=True).submit(note_and_hold, str(notes), 2, gate.path)
        gate.wait(2)
        there.cut()
        with pytest.raises(kumi.CrashError, match="did not come back within 1"):
            once.result(timeout=30)
        there.carry()
        # The lost ones find no host for so long, and end; others come.
        assert [process.wait(20) for process in far.processes] == [1, 1]
        far.start(1)
        gate.wait()
        gate.open()
        assert again.result(timeout=30) == 1
        assert again.record is not None
        assert again.record.attempts == 1, "it was nobody's crash"
        assert sorted(lines(notes)) == [1, 1, 2]
        status = crew.status()
        assert (status.launched, status.lost) == (3, 2)


def test_a_slow_link_that_loses_packets_loses_no_task(there: Link, tmp_path: Path) -> None:
    there.carry(delay=0.02, jitter=0.01, loss=0.05)  # so that frames pass each other, too
    with kumi.Controller(None, host=there.host) as crew, workers_of(crew, tmp_path, there.prefix) as workers:
        workers.start(2)
        assert crew.map(jobs.add, range(500)).results() == [*range(1, 501)]
        large = bytes(1_500_000)
        assert crew.submit(jobs.same, large).result(timeout=60) == large
        with pytest.raises(kumi.TaskTimeout):
            crew.with_options(seconds_run=0.1).submit(time.sleep, 60).result(timeout=30)
        assert crew.status().lost == 0


def test_over_a_link_that_is_not_there_a_worker_says_so(there: Link, tmp_path: Path) -> None:
    with kumi.Controller(None, host=there.host) as crew, workers_of(crew, tmp_path, there.prefix) as workers:
        there.cut()
        workers.start(1, "--seconds-connect", "1")
        assert workers.processes[0].wait(20) == 1
        assert "kumi worker: " in workers.written()
        assert there.host in workers.written()
