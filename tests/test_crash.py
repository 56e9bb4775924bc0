"""Tasks that kill their workers, and workers that cannot start: blamed, retried, told, survived."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest

LIMIT = jobs.SECONDS_MAX


@pytest.fixture
def crew() -> Iterator[kumi.Controller]:
    with kumi.Controller(workers=1, crashes_max=0) as crew:
        yield crew


@pytest.mark.parametrize(
    ("fn", "args", "signal_number", "exit_code", "words"),
    [
        (jobs.kill_self, (), signal.SIGKILL, None, "SIGKILL"),
        (jobs.segfault, (), signal.SIGSEGV, None, "SIGSEGV"),
        (jobs.exit_hard, (3,), None, 3, "3"),
        (jobs.exit_hard, (0,), None, 0, "0"),
    ],
    ids=["SIGKILL", "segfault", "os._exit(3)", "os._exit(0)"],
)
def test_a_crash_is_told_and_survived(
    crew: kumi.Controller, fn: Any, args: Any, signal_number: int | None, exit_code: int | None, words: str
) -> None:
    task = crew.submit(fn, *args)
    with pytest.raises(kumi.CrashError) as caught:
        task.result(LIMIT)
    assert not isinstance(caught.value, kumi.LaunchError)
    certificate = caught.value.certificate
    assert certificate is not None
    assert (certificate.signal, certificate.exit_code) == (signal_number, exit_code)
    assert words in certificate.cause
    assert words in str(caught.value)
    record = task.record
    assert record is not None
    assert (record.status, record.attempts, record.error) == ("crash", 1, caught.value)
    assert record.certificate is not None
    assert record.certificate.pid == certificate.pid
    assert task.state() == "crash"
    assert crew.submit(jobs.add, 1).result(LIMIT) == 2, "the pool goes on"
    assert crew.summary().workers_lost == 1


def test_the_last_words_on_stderr_are_in_the_certificate(crew: kumi.Controller) -> None:
    error = crew.submit(jobs.exit_hard, 3, "these were my last words\n").exception(LIMIT)
    assert isinstance(error, kumi.CrashError)
    assert error.certificate is not None
    assert "these were my last words" in error.certificate.stderr


def test_a_segfault_tells_where(crew: kumi.Controller) -> None:
    error = crew.submit(jobs.segfault).exception(LIMIT)
    assert isinstance(error, kumi.CrashError)
    assert error.certificate is not None
    assert "segfault" in error.certificate.stderr


def test_a_task_is_retried_up_to_crashes_max(tmp_path: Path) -> None:
    with kumi.Controller(workers=1, crashes_max=2) as crew:
        task = crew.submit(jobs.kill_self, str(tmp_path / "tries"))
        assert isinstance(task.exception(LIMIT), kumi.CrashError)
        record = task.record
    pids = (tmp_path / "tries").read_text().split()
    assert len(pids) == len(set(pids)) == 3
    assert record is not None
    assert record.attempts == 3


def test_crashes_max_of_a_task_goes_before_the_controllers(crew: kumi.Controller, tmp_path: Path) -> None:
    view = crew.with_options(crashes_max=1)
    assert view.submit(jobs.die_times, str(tmp_path / "tries"), 1).result(LIMIT) == 2


def test_a_task_that_recovers_succeeds(tmp_path: Path) -> None:
    with kumi.Controller(workers=1, crashes_max=3) as crew:
        task = crew.submit(jobs.die_times, str(tmp_path / "tries"), 2)
        assert task.result(LIMIT) == 3
        assert task.record is not None
        assert (task.record.status, task.record.attempts) == ("success", 3)
        assert task.record.certificate is not None
        assert crew.summary().workers_lost == 2


def test_only_the_guilty_is_blamed(crew: kumi.Controller, tmp_path: Path) -> None:
    """With `crashes_max=0` an innocent task that was blamed once would end as crash."""
    file = tmp_path / "ran"
    before = [crew.submit(jobs.note, str(file), f"before {i}") for i in range(200)]
    guilty = crew.submit(jobs.kill_self)
    after = [crew.submit(jobs.note, str(file), f"after {i}") for i in range(200)]
    assert isinstance(guilty.exception(LIMIT), kumi.CrashError)
    assert [task.exception(LIMIT) for task in before + after] == [None] * 400
    lines = file.read_text().splitlines()
    assert set(lines) == {f"{when} {i}" for when in ("before", "after") for i in range(200)}
    assert [line for line in lines if line.startswith("before")] == [f"before {i}" for i in range(200)], "each once"


def test_many_guilty_among_many_innocent() -> None:
    with kumi.Controller(workers=2, crashes_max=0) as crew:
        tasks = [crew.submit(jobs.kill_self) if i % 20 == 10 else crew.submit(jobs.same, i) for i in range(100)]
        states = [(task.exception(LIMIT), task.state())[1] for task in tasks]
    assert states == ["crash" if i % 20 == 10 else "success" for i in range(100)]


def test_a_worker_killed_from_outside_loses_nothing(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1, crashes_max=1) as crew:
        pid = crew.submit(jobs.pid).result(LIMIT)
        task = crew.submit(jobs.hold, gate.path, "value")
        gate.wait()
        os.kill(pid, signal.SIGKILL)
        gate.wait()
        gate.open()
        assert task.result(LIMIT) == "value"
        assert crew.submit(jobs.pid).result(LIMIT) != pid


def test_an_idle_worker_killed_from_outside_costs_no_task(crew: kumi.Controller) -> None:
    pid = crew.submit(jobs.pid).result(LIMIT)
    os.kill(pid, signal.SIGKILL)
    jobs.wait_for_end(pid)
    assert crew.submit(jobs.add, 1).result(LIMIT) == 2


def test_callbacks_and_awaits_end_for_crashes(crew: kumi.Controller) -> None:
    async def main() -> None:
        with pytest.raises(kumi.CrashError):
            await asyncio.wait_for(crew.run(jobs.kill_self), LIMIT)

    asyncio.run(main())


def test_a_crash_in_a_map_has_its_number(crew: kumi.Controller) -> None:
    with pytest.raises(kumi.CrashError) as caught:
        crew.map(jobs.exit_hard, [5]).results()
    assert any("element 0 " in note for note in caught.value.__notes__)


def test_pushed_tasks_that_crash_are_records(crew: kumi.Controller) -> None:
    crew.with_options(name="bad").push(jobs.kill_self)
    assert crew.wait("all", LIMIT)
    (record,) = crew.collect()
    assert (record.name, record.status) == ("bad", "crash")
    with pytest.raises(kumi.CrashError):
        record.get()
    assert crew.summary().crash == 1


def test_children_of_a_killed_worker_die(crew: kumi.Controller, gate: jobs.Gate) -> None:
    child = crew.submit(jobs.start_child).result(LIMIT)
    worker = crew.submit(jobs.pid).result(LIMIT)
    os.kill(worker, signal.SIGKILL)
    jobs.wait_for_end(child)


# Workers that cannot start


def interpreter(directory: Path, body: str) -> str:
    file = directory / "python"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return str(file)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo 'licence expired' >&2; exit 9", "licence expired"),
        ("exit 9", "9"),
        ("kill -KILL $$", "SIGKILL"),
    ],
)
def test_a_broken_interpreter_is_told_within_seconds(tmp_path: Path, body: str, words: str) -> None:
    local = kumi.Local(python=interpreter(tmp_path, body))
    with kumi.Controller(local, workers=2) as crew:
        tasks = [crew.submit(jobs.add, i) for i in range(5)]
        for task in tasks:
            with pytest.raises(kumi.LaunchError, match=words):
                task.result(LIMIT)
            assert task.state() == "crash"


def test_an_interpreter_that_is_not_there(tmp_path: Path) -> None:
    with kumi.Controller(kumi.Local(python=str(tmp_path / "nowhere")), workers=1) as crew:
        with pytest.raises(kumi.LaunchError, match="nowhere|No such file"):
            crew.submit(jobs.add, 1).result(LIMIT)
        with pytest.raises(kumi.LaunchError):
            crew.map(jobs.add, [1, 2]).results()


def test_an_import_error_at_the_start_is_told(tmp_path: Path) -> None:
    body = f'exec {sys.executable} -c "import no_such_module_here"'
    with kumi.Controller(kumi.Local(python=interpreter(tmp_path, body)), workers=1) as crew:
        with pytest.raises(kumi.LaunchError, match="no_such_module_here"):
            crew.submit(jobs.add, 1).result(LIMIT)


def test_a_launcher_that_fails_is_told() -> None:
    class Broken:
        def command(self, workers: int, /) -> Any:
            raise LookupError(f"no room for {workers}")

    with kumi.Controller(Broken(), workers=3) as crew:
        with pytest.raises(kumi.LaunchError, match="LookupError: no room for 3"):
            crew.submit(jobs.add, 1).result(LIMIT)


def test_an_interpreter_that_recovers_is_used(tmp_path: Path) -> None:
    """Fails once, then works: one failed launch is no reason to give up."""
    body = f'[ -e {tmp_path}/failed ] || {{ touch {tmp_path}/failed; exit 1; }}; exec {sys.executable} "$@"'
    with kumi.Controller(kumi.Local(python=interpreter(tmp_path, body)), workers=1) as crew:
        assert crew.submit(jobs.add, 1).result(LIMIT) == 2


def test_a_stopped_worker_ends_with_its_host() -> None:
    """It cannot notice by itself: the kernel wakes it."""
    program = (
        "import kumi, os, signal\n"
        "worker = kumi.submit(os.getpid).result()\n"
        "print(worker, flush=True)\n"
        "os.kill(worker, signal.SIGSTOP)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    host = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert host.returncode == -signal.SIGKILL, host.stderr
    jobs.wait_for_end(int(host.stdout))


def test_what_a_dying_process_forked_is_ended_too() -> None:
    """The one in the middle ends just when the host looks for what its worker left behind."""
    for _ in range(10):
        reader, writer = os.pipe()
        with kumi.Controller(workers=1) as crew:
            crew.submit(_double_fork, f"/proc/{os.getpid()}/fd/{writer}").result(30)
        os.close(writer)
        with open(reader, "rb") as pipe:  # at its end when nobody holds the other end
            assert select.select([pipe], [], [], 30)[0]
            assert pipe.read() == b""


def _double_fork(path: str) -> None:
    pipe = os.open(path, os.O_WRONLY)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.pause()
        os._exit(0)
    os.close(pipe)


def test_launches_that_fail_alike_are_heard_once(tmp_path: Path) -> None:
    """And their number is told. What tasks print comes as before."""
    program = (
        "import kumi, sys\n"
        f"broken = kumi.Local(python={interpreter(tmp_path, 'echo busy; echo licence expired >&2; exit 9')!r})\n"
        "with kumi.Controller(broken, workers=2) as crew:\n"
        "    print(crew.submit(abs, 1).exception(), file=sys.stderr)\n"
    )
    host = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert host.stdout.count("busy") == 1
    assert host.stderr.count("licence expired\n") == 2, "once as it came, and once in the error"
    assert "5 launches failed in a row, the last one so" in host.stderr


def test_what_a_worker_writes_before_it_joins_is_not_lost(tmp_path: Path) -> None:
    body = f'echo early; echo early >&2; exec {sys.executable} "$@"'
    program = (
        "import kumi\n"
        f"with kumi.Controller(kumi.Local(python={interpreter(tmp_path, body)!r}), workers=1) as crew:\n"
        "    crew.submit(print, 'late').result()\n"
    )
    host = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True)
    assert host.stdout == "early\nlate\n"
    assert host.stderr == "early\n"
