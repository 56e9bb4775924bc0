"""Large arguments and results: through shared memory, as snapshots, and nothing of it is left behind."""

import contextlib
import fcntl
import gc
import multiprocessing
import os
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import kumi
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from kumi import serial
from kumi._core import LARGE
from rig import run_python

MIB = 1 << 20

kept: dict[str, Any] = {}


def total(array: np.ndarray) -> float:
    return float(array.sum())


def writable(array: np.ndarray) -> bool:
    return bool(array.flags.writeable)


def write_into(array: np.ndarray) -> float:
    array[:] = 9
    return float(array.sum())


def ones(count: int) -> np.ndarray:
    return np.ones(count)


def keep(array: np.ndarray) -> None:
    kept["array"] = array


def first_kept() -> float:
    return float(kept["array"][0])


def forget() -> None:
    kept.clear()


def sum_in_fork(array: np.ndarray, later: str) -> int:
    """A child that outlives the task and looks at the array when the FIFO `later` lets it."""
    child = os.fork()
    if child == 0:
        with open(f"{later}/go", "rb", buffering=0) as go:
            go.read(1)
        Path(later, "sum").write_text(str(array.sum()))
        jobs.begin(later)
        os._exit(0)
    return child


def sum_by_multiprocessing(array: np.ndarray) -> list[float]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(total, [array, array * 2])


def memory_files() -> set[int]:
    """The segments that this process has open. A controller of other tests may close its spare ones at any time."""
    return {inode for fd in os.listdir("/proc/self/fd") if (inode := _segment(f"/proc/self/fd/{fd}")) is not None}


def _segment(link: str) -> int | None:
    try:
        return os.stat(link).st_ino if "memfd:kumi-segment" in os.readlink(link) else None
    except FileNotFoundError:
        return None


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:kumi-segment")


def refuse_segments() -> None:
    """From now on this process finds no descriptor for a segment of its own."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


# What arrives is what was sent, and is the receiver's own.


@pytest.mark.parametrize("count", [1, 1000, LARGE // 8 - 1, LARGE // 8, 2 * MIB])
def test_an_array_is_writable_at_every_size_and_a_copy(crew: kumi.Controller, count: int) -> None:
    array = np.arange(count, dtype=float)
    assert crew.submit(writable, array).result()
    assert crew.submit(write_into, array).result() == 9 * count
    assert array[0] == 0
    back = crew.submit(jobs.same, array).result()
    assert np.array_equal(back, array)
    assert back.flags.writeable
    back[:] = 1
    assert array.sum() == count * (count - 1) / 2


VALUES: dict[str, Callable[[], Any]] = {
    "bytes": lambda: os.urandom(MIB),
    "bytearray": lambda: bytearray(os.urandom(MIB)),
    "text": lambda: "é" * MIB,
    "many small things": lambda: [(number, str(number)) for number in range(50_000)],
    "bytes in a tuple": lambda: (b"x" * MIB, 1),
    "Fortran order": lambda: np.asfortranarray(np.arange(600_000).reshape(300, 2000)),
    "not contiguous": lambda: np.arange(600_000)[::3],
    "structured": lambda: np.zeros(100_000, dtype=[("a", "i4"), ("b", "f8")]),
    "several": lambda: [np.arange(100_000), {"a": np.ones(70_001, dtype="u4")}, b"z" * LARGE, np.zeros(1)],
    "empty beside large": lambda: [np.zeros(0), np.zeros(MIB)],
    "twice the same": lambda: [np.zeros(MIB)] * 2,
}


@pytest.mark.parametrize("name", VALUES)
def test_values_arrive_as_they_were(crew: kumi.Controller, name: str) -> None:
    value = VALUES[name]()
    back = crew.submit(jobs.same, value).result()
    assert type(back) is type(value)
    np.testing.assert_equal(back, value)
    if name == "twice the same":
        assert back[0] is back[1]


def test_pandas_and_pyarrow(crew: kumi.Controller) -> None:
    frame = pd.DataFrame({"a": np.arange(100_000), "b": np.random.default_rng(1).random(100_000), "c": "text"})
    back = crew.submit(jobs.same, frame).result()
    pd.testing.assert_frame_equal(back, frame)
    back["a"] += 1
    assert frame["a"][0] == 0
    table = pa.table({"x": np.arange(200_000), "y": [str(number) for number in range(200_000)]})
    assert crew.submit(jobs.same, table).result().equals(table)


def test_torch(crew: kumi.Controller) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(200_000)
    assert torch.equal(crew.submit(jobs.same, tensor).result(), tensor)


def test_a_read_only_array_stays_so(crew: kumi.Controller) -> None:
    for count in (10, MIB):
        array = np.zeros(count)
        array.flags.writeable = False
        assert not crew.submit(writable, array).result()


def test_functions_may_hold_large_things(crew: kumi.Controller) -> None:
    array = np.ones(MIB)
    assert crew.submit(lambda: float(array.sum())).result() == MIB
    assert crew.map(lambda number: float(array[number]), range(100)).results() == [1.0] * 100
    array[0] = 5
    assert crew.submit(lambda: float(array[0])).result() == 5


def test_sequential_gives_copies_too() -> None:
    array = np.zeros(MIB)
    with kumi.Controller(kumi.Sequential()) as crew:
        assert crew.submit(write_into, array).result() == 9 * MIB
        assert crew.submit(jobs.same, array).result().flags.writeable
    assert array[0] == 0


# Snapshots.


def test_what_is_changed_after_submit_is_not_seen(single: kumi.Controller, gate: jobs.Gate) -> None:
    blocker = single.submit(jobs.hold, gate.path)
    array = np.zeros(MIB)
    task = single.submit(total, array)
    array[:] = 1
    gate.open()
    assert (blocker.result(), task.result()) == (None, 0)


def test_a_retry_sees_the_same(single: kumi.Controller, tmp_path: Path) -> None:
    def spoil_and_die(array: np.ndarray, file: str) -> float:
        seen = float(array.sum())
        array[:] = 7
        jobs.die_times(file, 2)
        return seen

    array = np.ones(MIB)
    task = single.submit(spoil_and_die, array, str(tmp_path / "times"))
    array[:] = 2
    assert task.result() == MIB


def test_an_array_kept_past_its_task_never_sees_later_data(single: kumi.Controller) -> None:
    single.submit(keep, np.full(MIB, 1.0)).result()
    for number in range(5):
        assert single.submit(total, np.full(MIB, 2.0 + number)).result() == (2 + number) * MIB
        assert single.submit(first_kept).result() == 1
    single.submit(forget).result()


def test_results_that_are_kept_never_see_later_data(single: kumi.Controller) -> None:
    results = [single.submit(np.full, MIB, float(number)).result() for number in range(10)]
    views = [result[5:10] for result in results]
    del results
    gc.collect()
    for number in range(10):
        single.submit(np.full, MIB, 100.0).result()
        assert views[number].tolist() == [number] * 5


def test_forks_of_a_worker_never_see_later_data(single: kumi.Controller, gate: jobs.Gate) -> None:
    single.submit(sum_in_fork, np.ones(MIB), gate.path).result()
    for number in range(3):
        single.submit(total, np.full(MIB, 2.0 + number)).result()
    gate.open()
    gate.wait()
    assert Path(gate.path, "sum").read_text() == str(float(MIB))
    assert single.submit(sum_by_multiprocessing, np.ones(MIB)).result() == [MIB, 2 * MIB]


def test_forks_of_the_host_never_see_later_data(single: kumi.Controller, gate: jobs.Gate) -> None:
    result = single.submit(ones, MIB).result()
    child = os.fork()
    if child == 0:
        try:
            with open(f"{gate.path}/go", "rb", buffering=0) as go:
                go.read(1)
            os._exit(int(result.sum() != MIB))
        finally:
            os._exit(2)
    del result
    for number in range(3):
        single.submit(np.full, MIB, 2.0 + number).result()
    gate.open()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Memory, descriptors and mappings.


def test_segments_are_used_again(single: kumi.Controller) -> None:
    files = memory_files()
    for _ in range(20):
        single.submit(total, np.ones(MIB)).result()
    assert 0 < len(memory_files() - files) <= 2
    assert single.submit(mappings).result() == 0
    maps = mappings()
    for _ in range(20):
        single.submit(ones, MIB).result()
    assert mappings() - maps <= 2
    assert len(single.submit(memory_files).result()) <= 2


def test_nothing_is_left_when_the_controller_has_ended() -> None:
    files, maps = memory_files(), mappings()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with kumi.Controller(workers=2) as crew:
        results = crew.map(jobs.same, [np.full(MIB, float(number)) for number in range(8)]).results()
        assert memory_files() - files
    assert not memory_files() - files
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert [result[0] for result in results] == list(range(8))
    del results
    assert mappings() <= maps


def test_results_can_be_read_when_the_controller_has_ended() -> None:
    with kumi.Controller(workers=1) as crew:
        task = crew.submit(ones, MIB)
    assert task.result().sum() == MIB


def test_the_queue_counts_the_bytes_of_segments(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1, queue_gigabytes_max=0.02) as crew:
        crew.submit(jobs.hold, gate.path)
        assert crew.try_submit(total, np.ones(MIB)) is not None
        assert crew.status().queued_bytes > 8 * MIB
        assert crew.try_submit(total, np.ones(2 * MIB)) is None
        assert crew.status().queued_bytes < 9 * MIB
        gate.open()
    assert crew.status().queued_bytes == 0


def test_results_are_counted(single: kumi.Controller) -> None:
    task = single.submit(ones, MIB)
    task.result()
    assert single.status().result_bytes > 8 * MIB
    del task
    gc.collect()
    assert single.status().result_bytes == 0


def test_without_descriptors_everything_travels_inline(tmp_path: Path) -> None:
    program = """
        import resource, kumi, numpy as np, test_large
        with kumi.Controller(workers=1) as crew:
            assert crew.submit(test_large.total, np.ones(1000)).result() == 1000
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            assert crew.submit(test_large.total, np.ones(1 << 20)).result() == 1 << 20
            assert crew.submit(test_large.writable, np.ones(1 << 20)).result()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            crew.submit(test_large.ones, 1000).result()
            crew.submit(test_large.refuse_segments).result()
            result = crew.submit(test_large.ones, 1 << 20).result()
            assert result.flags.writeable and result.sum() == 1 << 20
            assert crew.status().lost == 0
    """
    (tmp_path / "program.py").write_text("\n".join(line[8:] for line in program.splitlines()))
    run_python("program.py", directory=tmp_path)


def test_more_than_256_segments_travel_inline(single: kumi.Controller, gate: jobs.Gate) -> None:
    files = memory_files()
    single.submit(jobs.hold, gate.path)
    tasks = [single.submit(total, np.full(LARGE // 8, float(number))) for number in range(300)]
    assert len(memory_files() - files) == 256
    gate.open()
    assert [task.result() for task in tasks] == [number * LARGE // 8 for number in range(300)]


# Parcels, without workers.


def test_a_large_bytes_is_not_copied_when_it_is_pickled() -> None:
    value = os.urandom(MIB)
    for made in (serial.dumps_call((value,), {}), serial.dumps([value]), serial.dumps(value)):
        assert isinstance(made, serial.Parcel)
        assert any(piece is value for piece in made.head)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_kills_in_the_middle_of_transfers_leave_nothing() -> None:
    """KUMI_KILLS says how many; without it, as many as fit a test run."""
    files = memory_files()
    with kumi.Controller(workers=2, crashes_max=1000) as crew:
        array, expected = np.ones(MIB), float(MIB)
        tasks = [crew.submit(jobs.same, array) for _ in range(4)]
        descriptors = resident = 0
        for number in range(int(os.environ.get("KUMI_KILLS", "40"))):
            while not (alive := crew._live_pool().processes()):
                tasks.append(crew.submit(jobs.same, array))
                tasks[-1].result()
            tasks += [crew.submit(jobs.same, array) for _ in range(3)]
            with contextlib.suppress(ProcessLookupError):
                os.kill(alive[number % len(alive)][1], signal.SIGKILL)
            if number % 3 == 0:
                assert all(task.result()[0] == 1 and task.result().sum() == expected for task in tasks)
                tasks.clear()
            if number == 18:
                descriptors, resident = len(os.listdir("/proc/self/fd")), resident_bytes()
        assert all(task.result().sum() == expected for task in tasks)
        tasks.clear()
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 20
        # What one kill in twenty could leave behind of its 8 MiB array would be more, in the long form.
        assert resident_bytes() <= resident + 256 * MIB
        assert crew.status().result_bytes < MIB
    assert memory_files() <= files


def lie(kind: str) -> None:
    """Says to the host, past the outbox, what no worker says; then waits to be killed."""
    lend = (17).to_bytes(4, "little") + bytes([160]) + (7).to_bytes(8, "little") + MIB.to_bytes(8, "little")
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.ftruncate(loose, MIB)
    small = os.memfd_create("small", os.MFD_ALLOW_SEALING)
    os.ftruncate(small, 4096)
    fcntl.fcntl(small, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | 0x10)
    sent = {"unsealed": [loose], "too small": [small], "none": [], "two": [loose, small], "many": [loose] * 50}[kind]
    with socket.socket(fileno=os.dup(3)) as host:
        socket.send_fds(host, [lend], sent)
        signal.pause()


@pytest.mark.parametrize("kind", ["unsealed", "too small", "none", "two", "many"])
def test_a_worker_that_lies_about_a_segment_is_lost_and_nothing_else(single: kumi.Controller, kind: str) -> None:
    single.submit(jobs.pid).result()
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(kumi.CrashError, match="descriptor|seal|smaller"):
        single.with_options(crashes_max=0).submit(lie, kind).result()
    assert single.submit(total, np.ones(MIB)).result() == MIB
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2
