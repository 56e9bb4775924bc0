"""Workers on other machines, which dial in: all that local ones can, and what is different. Here over loopback."""

import asyncio
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import kumi
import numpy as np
import pytest
from kumi import serializers
from machines import Workers, workers_of
from rig import write

FINGERPRINT = 64


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kumi.Controller]:
    """A controller with two workers that know nothing of this project, for tests that leave them alive."""
    with (
        kumi.Controller(None, host="127.0.0.1") as crew,
        workers_of(crew, tmp_path_factory.mktemp("far")) as workers,
    ):
        workers.start(2)
        yield crew


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Workers]:
    """A controller, and a worker of its own that the test starts, which has five seconds to come back after a cut."""
    with (
        kumi.Controller(None, host="127.0.0.1", seconds_reconnect=2) as crew,
        workers_of(crew, tmp_path) as workers,
    ):
        yield workers


def double(x: int) -> int:
    return 2 * x


def draw() -> tuple[float, float]:
    return random.random(), float(kumi.rng().random())


def tree(depth: int) -> int:
    return 1 if depth == 0 else sum(kumi.map(tree, [depth - 1] * 2).results())


def test_tasks_run_there_as_they_do_here(far: kumi.Controller) -> None:
    """C4."""
    assert far.submit(double, 3).result() == 6
    assert far.map(double, range(1000)).results() == [2 * x for x in range(1000)]
    with pytest.raises(ValueError, match="no") as caught:
        far.submit(jobs.boom).result()
    assert "in boom" in "".join(getattr(caught.value, "__notes__", [])) + str(caught.value.__cause__)


def test_their_records_tell_warnings_and_peaks(far: kumi.Controller) -> None:
    def warn() -> None:
        warnings.warn("far", stacklevel=1)
        time.sleep(0.1)  # shorter ones have no peak

    for task in [far.submit(warn), far.submit(warn), far.submit(warn)]:
        task.result()
        assert task.record is not None
        assert [one.message for one in task.record.warnings] == ["far"]
        assert task.record.peak_gigabytes is not None
        assert 0.001 < task.record.peak_gigabytes < 1


def test_coroutines_wait_for_them(far: kumi.Controller) -> None:
    async def main() -> list[int]:
        return list(await asyncio.gather(*[far.run(double, x) for x in range(100)]))

    assert asyncio.run(main()) == [2 * x for x in range(100)]


def test_large_arrays_go_there_and_come_back(far: kumi.Controller) -> None:
    array = np.arange(1_000_000.0)
    there = far.submit(np.multiply, array, 2).result()
    assert np.array_equal(there, array * 2)
    there[0] = 1  # they can be written to
    shared = kumi.share(array)
    assert far.map(lambda part: float(part.sum()), [shared] * 4).results() == [float(array.sum())] * 4


def test_a_seed_gives_the_same_numbers_there(far: kumi.Controller) -> None:
    there = far.with_options(seed=7).map(lambda _: draw(), range(20)).results()
    for workers in (1, 2, 3):
        with kumi.Controller(workers=workers) as crew:
            assert crew.with_options(seed=7).map(lambda _: draw(), range(20)).results() == there
    with kumi.Controller(kumi.Sequential()) as crew:
        assert crew.with_options(seed=7).map(lambda _: draw(), range(20)).results() == there


def test_tasks_of_tasks_come_back_to_the_controller(far: kumi.Controller) -> None:
    assert far.submit(tree, 4).result() == 16


def test_reports_are_told(far: kumi.Controller) -> None:
    def work() -> None:
        kumi.report("half")

    task = far.submit(work)
    task.result()
    assert task.report == "half"


def test_a_running_task_is_interrupted(far: kumi.Controller, gate: jobs.Gate) -> None:
    task = far.submit(jobs.hold, gate.path)
    gate.wait()
    assert task.cancel()
    slow = far.with_options(seconds_run=0.05).submit(time.sleep, 30)
    with pytest.raises(kumi.TaskTimeout):
        slow.result()
    assert far.submit(double, 1).result() == 2
    assert far.summary().workers_lost == 0


def test_modules_of_the_project_travel_and_installed_ones_do_not(
    far: kumi.Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "kumi_test_far.py", "def where(): return __name__, 'kumi_test_far' in __import__('sys').modules")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import kumi_test_far  # type: ignore[import-not-found]

    assert far.submit(kumi_test_far.where).result() == ("kumi_test_far", False)
    assert far.submit(lambda: np.__file__).result() == np.__file__


def test_a_class_of_the_project_comes_back_as_itself(far: kumi.Controller) -> None:
    assert type(far.submit(jobs.same, jobs.PoisonOnArrival).result()) is type
    assert far.submit(jobs.same, Point(1)).result() == Point(1)
    assert type(far.submit(jobs.same, Point(1)).result()) is Point


class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    __hash__ = None  # type: ignore[assignment]


def test_what_is_shared_brings_its_classes(far: kumi.Controller) -> None:
    point = kumi.share([Point(3)])
    nested = kumi.share({"points": point})
    assert far.submit(lambda: (point[0].x, nested["points"][0].x)).result() == (3, 3)
    imported = far.submit(lambda: getattr(sys.modules.get("test_remote"), "Point", None) is type(point[0]))
    assert imported.result() is False


def test_records_say_which_machine_it_was(far: kumi.Controller) -> None:
    task = far.submit(jobs.pid)
    pid = task.result()
    record = task.record
    assert record is not None
    assert (record.pid, record.host) == (pid, os.uname().nodename)
    assert record.worker is not None
    assert record.worker.startswith(f"{far.name}-")


def test_state_is_there_before_the_first_task(tmp_path: Path) -> None:
    """M101."""

    def load(value: int) -> None:
        kumi.state.value = value

    with kumi.Controller(None, host="127.0.0.1", setup=lambda: load(1)) as crew, workers_of(crew, tmp_path) as workers:
        asked = crew.submit(lambda: kumi.state.value)
        workers.start(1)
        assert asked.result() == 1
        spread = crew.everywhere(load, 2)
        assert crew.submit(lambda: kumi.state.value).result() == 2
        spread.result()
        workers.start(1)
        assert set(crew.map(lambda _: kumi.state.value, range(100)).results()) == {2}


def test_a_worker_is_ended_with_its_controller_and_leaves_nothing(alone: Workers) -> None:
    alone.start()
    child = alone.crew.submit(jobs.start_child).result()
    worker = alone.crew.submit(jobs.pid).result()
    alone.crew.shutdown()
    assert alone.wait() == [0]
    for pid in (child, worker):
        jobs.wait_for_end(pid)


def test_a_crash_says_where_and_why(alone: Workers) -> None:
    alone.start(2)
    crash = alone.crew.with_options(crashes_max=0).submit(jobs.exit_hard, 3, "last words\n")
    with pytest.raises(kumi.CrashError) as caught:
        crash.result()
    certificate = caught.value.certificate
    assert certificate is not None
    assert (certificate.exit_code, certificate.host) == (3, os.uname().nodename)
    assert certificate.stderr == "last words"
    assert alone.crew.submit(double, 1).result() == 2


def test_a_worker_that_its_task_kills_has_a_successor_of_the_same_agent(alone: Workers) -> None:
    alone.start()
    doomed = alone.crew.with_options(crashes_max=2).submit(jobs.exit_hard, 3)
    with pytest.raises(kumi.CrashError):
        doomed.result()
    after = alone.crew.submit(double, 1)
    assert after.result() == 2
    assert doomed.record is not None
    assert after.record is not None
    assert doomed.record.attempts == 3
    assert after.record.worker == f"{alone.crew.name}-4", "one worker after another"
    assert alone.processes[0].poll() is None, "its join code has lent one use"
    assert (alone.crew.status().workers, alone.crew.status().lost) == (1, 3)


def test_a_deaf_task_is_killed_there_with_what_it_started(tmp_path: Path, gate: jobs.Gate) -> None:
    def deaf(path: str) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        jobs.begin(path)
        while True:
            time.sleep(1)

    with (
        kumi.Controller(None, host="127.0.0.1", seconds_kill=0.2) as crew,
        workers_of(crew, tmp_path) as workers,
    ):
        workers.start()
        worker = crew.submit(jobs.pid).result()
        child = crew.submit(jobs.start_child).result()
        task = crew.submit(deaf, gate.path)
        gate.wait()
        task.cancel()
        for pid in (worker, child):
            jobs.wait_for_end(pid)
        assert crew.submit(jobs.pid).result() != worker, "its agent goes on with another"


def test_an_agent_goes_on_when_a_worker_has_done_its_share(tmp_path: Path) -> None:
    with kumi.Controller(None, host="127.0.0.1", tasks_max=1) as crew, workers_of(crew, tmp_path) as workers:
        workers.start()
        assert len(set(crew.map(lambda _: os.getpid(), range(10)).results())) == 10
        assert crew.status().left_limit >= 9


def test_an_agent_goes_on_when_a_module_of_its_own_machine_was_edited(alone: Workers) -> None:
    def ask() -> tuple[Any, int]:
        return __import__("kumi_test_there").VALUE, os.getpid()

    write(alone.directory, "kumi_test_there.py", "VALUE = 1")
    alone.start()
    one, pid = alone.crew.submit(ask).result()
    write(alone.directory, "kumi_test_there.py", "VALUE = 'two'")
    two, other = alone.crew.submit(ask).result()
    assert (one, two) == (1, "two")
    assert pid != other
    assert alone.crew.status().lost == 0


def test_a_setup_that_fails_there_is_told_and_later_workers_run_later_tasks(tmp_path: Path) -> None:
    licence = tmp_path / "licence"

    def read() -> None:
        licence.read_text()

    with kumi.Controller(None, host="127.0.0.1", setup=read) as crew, workers_of(crew, tmp_path) as workers:
        task = crew.submit(double, 1)
        workers.start()
        with pytest.raises(kumi.LaunchError) as caught:
            task.result(20)
        told = str(caught.value)
        assert "setup" in told
        assert "in read" in told
        assert f"No such file or directory: '{licence}'" in told
        licence.touch()
        assert crew.submit(double, 2).result(30) == 4
        assert workers.processes[0].poll() is None


def test_tasks_wait_for_workers_that_nobody_has_started(tmp_path: Path) -> None:
    with (
        kumi.Controller(None, host="127.0.0.1", seconds_launch=0.05) as crew,
        workers_of(crew, tmp_path) as workers,
    ):
        task = crew.submit(double, 1)
        with pytest.raises(TimeoutError):
            task.result(0.5)
        workers.start()
        assert task.result() == 2


@pytest.mark.parametrize("state", ["idle", "busy", "restarting"])
def test_an_agent_ends_with_its_controller_whatever_its_worker_does(
    state: str, tmp_path: Path, gate: jobs.Gate
) -> None:
    """At once: far below `seconds_reconnect`, for which it would look for a host that is lost."""
    with kumi.Controller(None, host="127.0.0.1") as crew, workers_of(crew, tmp_path) as workers:
        workers.start()
        crew.submit(double, 1).result()
        if state == "busy":
            crew.submit(jobs.hold, gate.path)
            gate.wait()
        elif state == "restarting":
            with pytest.raises(kumi.CrashError):
                crew.with_options(crashes_max=0).submit(jobs.exit_hard, 3).result()
        crew.terminate()
        assert workers.wait() == [0]


def test_an_agent_that_is_killed_takes_its_worker_along_and_the_task_runs_elsewhere(
    alone: Workers, tmp_path: Path, gate: jobs.Gate
) -> None:
    alone.start()
    task = alone.crew.submit(jobs.hold, gate.path, 5)
    once = alone.crew.with_options(once=True, name="once")
    gate.wait()
    worker = alone.crew.submit
    alone.processes[0].kill()
    alone.start()
    gate.wait()
    gate.open()
    assert task.result() == 5
    assert task.record is not None
    assert task.record.attempts == 1, "nobody's crash"
    assert worker(double, 2).result() == 4
    doomed = once.submit(jobs.hold, gate.path)
    gate.wait()
    alone.processes[1].kill()
    with pytest.raises(kumi.CrashError, match="did not come back within 2"):
        doomed.result()


HOST = """
    import os, sys, kumi, time
    crew = kumi.Controller(None, host="127.0.0.1", seconds_reconnect=1)
    print(crew.url, crew.join_code(), flush=True)
    def burn(file):
        with open(file, "w") as f: print(os.getpid(), file=f)
        os.rename(file, file + ".done")
        while True: time.sleep(1)
    crew.submit(burn, sys.argv[1]).result()
"""


def test_workers_of_a_host_that_is_killed_end_by_themselves(tmp_path: Path) -> None:
    """C151."""
    file = tmp_path / "pid"
    command = [sys.executable, "-c", textwrap.dedent(HOST), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        url, code = host.stdout.readline().split()
        agent = subprocess.Popen(
            [sys.executable, "-m", "kumi", "worker", url],
            env=os.environ | {"KUMI_JOIN_CODE": code},
            stderr=subprocess.PIPE,
            text=True,
        )
        done = Path(f"{file}.done")
        until(done.exists)
        host.kill()
    assert agent.wait(20) == 1
    assert agent.stderr is not None
    assert "the host could not be reached for 1 s" in agent.stderr.read()
    agent.stderr.close()
    jobs.wait_for_end(int(done.read_text()))


def until(found: Any) -> None:
    """Waits for what tells nobody when it comes: a file."""
    deadline = time.monotonic() + 20
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hold_the_gil(seconds: int) -> None:
    ctypes.PyDLL("libc.so.6").sleep(seconds)


def test_neither_side_needs_its_gil_to_stay_in_touch(alone: Workers) -> None:
    """A worker that is silent for a second, half of `seconds_reconnect`, is cut off."""
    alone.start()
    there = alone.crew.submit(hold_the_gil, 3)
    hold_the_gil(4)
    assert there.result() is None
    assert there.record is not None
    assert there.record.attempts == 1
    status = alone.crew.status()
    assert (status.workers, status.lost, status.launched) == (1, 0, 1)


def test_a_join_code_lets_in_one_unless_it_says_more(alone: Workers) -> None:
    code = alone.crew.join_code()
    alone.start(1, KUMI_JOIN_CODE=code)
    alone.crew.submit(double, 1).result()
    alone.start(1, KUMI_JOIN_CODE=code)
    assert alone.processes[1].wait(20) == 1
    assert "the join code is used up: make another one with join_code(uses=...)" in alone.written()


def test_both_sides_are_told_why_a_worker_was_not_let_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], certificates: Path
) -> None:
    told = ""

    def is_told(text: str) -> bool:
        nonlocal told
        told += capsys.readouterr().err
        return text in told

    with kumi.Controller(None, host="127.0.0.1") as crew, workers_of(crew, tmp_path) as workers:
        spoilt = crew.join_code()[:-4] + "0000"
        workers.start(2, KUMI_JOIN_CODE=spoilt)
        assert workers.wait() == [1, 1]
        assert "the host has refused this worker: the join code is not one of this controller's" in workers.written()
        until(lambda: is_told(f"controller {crew.name!r} has not let in a worker on {os.uname().nodename} (process "))
        stranger = [sys.executable, "-m", "kumi", "worker", crew.url.rpartition("/")[0]]
        refused = subprocess.run(
            [*stranger, "--authorities", str(certificates / "root.pem")],
            env=os.environ | {"KUMI_JOIN_CODE": crew.join_code()},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert refused.returncode == 1
        assert "is not the host of this URL" in refused.stderr
        until(lambda: is_told("has not let in a worker at 127.0.0.1: it does not trust the certificate: start it with"))
    assert (
        told.count("the join code is not one of this controller's, or its launch is over: make one with join_code()")
        == 1
    ), "each once"


def test_no_more_workers_than_are_wanted_are_let_in(tmp_path: Path) -> None:
    with kumi.Controller(None, host="127.0.0.1", workers=1) as crew, workers_of(crew, tmp_path) as workers:
        workers.start(1)
        assert crew.submit(double, 1).result() == 2
        workers.start(1)
        assert workers.processes[1].wait(20) == 1
        assert "as many workers as it may (workers=)" in workers.written()


def test_what_tasks_print_is_written_by_the_agent(alone: Workers) -> None:
    alone.start()
    alone.crew.submit(jobs.say, "hello from there").result()
    alone.crew.shutdown()
    alone.wait()
    assert alone.written().count("hello from there") == 2


def test_daemons_says_how_workers_are_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """M56, M71, M97, M140: it returns at once, with the port filled in, and no worker."""
    with kumi.daemons(launcher=None, host="127.0.0.1", name="hands") as crew:
        assert kumi.daemons(launcher=None, host="127.0.0.1", name="hands") is crew
        status = crew.status()
        assert (status.workers, status.launching, status.waiting, status.running, status.finished) == (0,) * 5
        assert not crew.url.startswith("kumi://127.0.0.1:0")
        told = capsys.readouterr().err
        assert f"kumi worker {crew.url}\n" in told
        assert told.count("kumi worker") == 1, "the second call opens nothing"
        assert "kumi-" not in told.replace(str(tmp_path), ""), "the code is a secret, and this is no terminal"
        with workers_of(crew, tmp_path) as workers:
            workers.start()
            assert kumi.submit(double, 4).result() == 8


def test_a_url_has_address_port_and_fingerprint(far: kumi.Controller) -> None:
    assert far.url.startswith("kumi://127.0.0.1:")
    assert len(far.url.rpartition("/")[2]) == FINGERPRINT
    with kumi.Controller(None) as anywhere:
        assert not anywhere.url.startswith("kumi://0.0.0.0"), "others cannot dial that"


def test_a_controller_that_ends_waits_for_workers_and_says_how_to_start_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("kumi.controller.SECONDS_UNTIL_NOTICE", 0.01)
    with kumi.Controller(None, host="127.0.0.1") as crew, workers_of(crew, tmp_path) as workers:
        task = crew.submit(double, 1)
        workers.start(1)
        crew.shutdown()
        assert task.result() == 2
        assert f"1 waiting, 0 workers; `kumi worker {crew.url}` starts one\n" in capsys.readouterr().err


# Certificates of the user's own.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a chain of two that it has signed for 127.0.0.1, the key in three forms."""
    if shutil.which("openssl") is None and not os.environ.get("CI"):
        pytest.skip("openssl is missing: apt-get install openssl")
    folder = tmp_path_factory.mktemp("certificates")
    write(folder, "ca.cnf", "basicConstraints=critical,CA:true\n")
    write(folder, "host.cnf", "subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for command in (
        "req -x509 -newkey ed25519 -nodes -keyout root.key -out root.pem -subj /CN=root -days 9",
        "req -newkey ed25519 -nodes -keyout middle.key -out middle.csr -subj /CN=middle",
        "x509 -req -in middle.csr -CA root.pem -CAkey root.key -out middle.pem -extfile ca.cnf -days 9",
        "req -newkey rsa:2048 -nodes -keyout host.key -out host.csr -subj /CN=host",
        "x509 -req -in host.csr -CA middle.pem -CAkey middle.key -out host.pem -extfile host.cnf -days 9",
        "pkcs8 -topk8 -in host.key -out sealed.key -passout pass:secret",
        "rsa -aes256 -traditional -in host.key -out old.key -passout pass:secret",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    (folder / "chain.pem").write_text((folder / "host.pem").read_text() + (folder / "middle.pem").read_text())
    return folder


@pytest.mark.parametrize(("key", "password"), [("host.key", None), ("sealed.key", "secret")])
def test_a_certificate_of_the_users_own(certificates: Path, tmp_path: Path, key: str, password: str | None) -> None:
    """C136."""
    tls = kumi.TLS(certificates / "chain.pem", certificates / key, password)
    assert "secret" not in repr(tls)
    with kumi.Controller(None, host="127.0.0.1", tls=tls) as crew, workers_of(crew, tmp_path) as workers:
        assert crew.url.count("/") == 2, "authorities vouch for it, so it needs no fingerprint"
        workers.start(1, "--authorities", str(certificates / "root.pem"))
        assert crew.submit(double, 4).result() == 8
        workers.start(1)
        assert workers.processes[1].wait(20) == 1, "the system's authorities do not know it"
        assert "certificate" in workers.written()


class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __reduce__(self) -> Any:
        raise TypeError("it stays where it is")


def test_types_travel_in_the_users_way_behind_an_encrypted_key(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M106, M112, C137."""
    monkeypatch.setattr(serializers, "table", dict(serializers.table))
    kumi.register_serializer(Celsius, lambda value: str(value.degrees).encode(), lambda data: Celsius(float(data)))
    tls = kumi.TLS(certificates / "chain.pem", certificates / "sealed.key", "secret")
    with kumi.Controller(None, host="127.0.0.1", tls=tls) as crew, workers_of(crew, tmp_path) as workers:
        workers.start(1, "--authorities", str(certificates / "root.pem"))
        warmer = crew.submit(lambda values: [Celsius(value.degrees + 1) for value in values], [Celsius(20)])
        assert [value.degrees for value in warmer.result()] == [21]


@pytest.mark.parametrize(
    ("files", "password", "text"),
    [
        (("chain.pem", "sealed.key"), None, "it is encrypted, and no password is given"),
        (("chain.pem", "sealed.key"), "wrong", "the password is wrong"),
        (("chain.pem", "old.key"), "secret", "openssl pkcs8 -topk8"),
        (("chain.pem", "root.key"), None, "KeyMismatch"),
        (("chain.pem", None), None, "the private key"),
        (("host.key", "host.key"), None, "the certificate: no certificate in it"),
        (("missing.pem", None), None, "No such file"),
    ],
)
def test_a_certificate_that_cannot_be_used(
    certificates: Path, files: tuple[str, str | None], password: str | None, text: str
) -> None:
    """C131, C133, C134."""
    certificate, key = files
    tls = kumi.TLS(certificates / certificate, key and certificates / key, password)
    crew = kumi.Controller(None, host="127.0.0.1", tls=tls)
    with pytest.raises(kumi.ControllerError, match=f"cannot listen on .*{text}"):
        crew.start()


# Bad input.


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(kumi.ControllerError, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign"):
        kumi.Controller(None, host="192.0.2.1").start()


def test_a_port_that_is_taken(far: kumi.Controller) -> None:
    port = int(far.url.split(":")[2].split("/")[0])
    with pytest.raises(kumi.ControllerError, match="Address already in use"):
        kumi.Controller(None, host="127.0.0.1", port=port).start()


@pytest.mark.parametrize(("argument", "value"), [("host", "127.0.0.1"), ("port", 7000), ("tls", kumi.TLS("x.pem"))])
def test_what_is_for_other_machines_is_refused_for_this_one(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{argument} is for workers that call from elsewhere, and those of"):
        kumi.Controller(workers=1, **{argument: value})


@pytest.mark.parametrize("host", [3, print, ""])
def test_a_host_that_is_no_name(host: Any) -> None:
    """M13."""
    with pytest.raises((TypeError, ValueError), match=r"^host must be a non-empty string or None"):
        kumi.Controller(None, host=host)


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_out_of_range(port: int) -> None:
    with pytest.raises(ValueError, match=r"^port must be a whole number of at least 0 and below 2\*\*16"):
        kumi.Controller(None, port=port)


def test_tls_wants_paths() -> None:
    """C131."""
    with pytest.raises(TypeError, match="^certificate must be the path of a file, not 3"):
        kumi.TLS(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^tls must be a kumi.TLS, or None, not 'x'"):
        kumi.Controller(None, tls="x")  # type: ignore[arg-type]


def test_a_controller_with_a_launcher_has_no_url() -> None:
    with (
        kumi.Controller(workers=1) as crew,
        pytest.raises(kumi.ControllerError, match="listens for no workers from elsewhere"),
    ):
        crew.join_code()


@pytest.mark.parametrize(("argument", "value"), [("uses", 0), ("seconds", 0)])
def test_a_join_code_of_nothing(far: kumi.Controller, argument: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{argument} must be a"):
        far.join_code(**{argument: value})
