"""Launchers of others: what they are told, what they may get wrong, and who hears of it."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import kumi
import kumi.testing
import pytest
from kumi.launchers import NewWorker, Rounds

ROOT = Path(__file__).parent.parent
FILE = re.compile(r"^```\w+ (\S+\.\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


STARTED: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    yield
    for process in STARTED:
        process.kill()
        process.wait()
    STARTED.clear()


def spawn(words: list[str], variables: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(words, env=os.environ | (variables or {}))
    STARTED.append(process)
    return process


class Plain:
    """Starts workers on this machine, as the one of the document does."""

    def start(self, worker: NewWorker) -> subprocess.Popen[bytes]:
        return spawn(worker.command(), worker.environment)

    def launch(self, workers: Sequence[NewWorker]) -> Any:
        return [self.start(worker) for worker in workers]


class Asked(Plain):
    """It can also be asked what became of them, and end them."""

    seconds_poll = 0.05

    def __init__(self) -> None:
        self.ended: list[subprocess.Popen[bytes]] = []

    def poll(self, handles: Sequence[subprocess.Popen[bytes]]) -> list[str | None]:
        codes = [process.poll() for process in handles]
        return [None if code is None else f"it ended with code {code}" for code in codes]

    def terminate(self, handles: Sequence[subprocess.Popen[bytes]]) -> None:
        for process in handles:
            process.terminate()
            self.ended.append(process)


class Queued(Asked):
    """A scheduler in whose queue jobs wait for ever."""

    def start(self, worker: NewWorker) -> subprocess.Popen[bytes]:
        return spawn(["sleep", "1000"], worker.environment)


@pytest.fixture
def launcher() -> Asked:
    return Asked()


def agent() -> int:
    """In a task: the process that keeps the worker's connection."""
    return os.getppid()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The one of the document."""
    place = tmp_path / "package"
    place.mkdir()
    for name, text in FILE.findall((ROOT / "docs" / "launchers.md").read_text()):
        (place / name).write_text(text)
    return place


def test_the_package_of_the_document_is_found_by_name_once_it_is_installed(package: Path, tmp_path: Path) -> None:
    place = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*install, "--target", place, package], check=True, capture_output=True, timeout=50)
    program = (
        "import os, kumi\n"
        "with kumi.Controller('niced', workers=1) as crew:\n"
        "    assert crew.submit(os.nice, 0).result() == min(os.nice(0) + 10, 19)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(place)}
    words = [sys.executable, "-c", program]
    ran = subprocess.run(words, env=environment, check=False, capture_output=True, text=True, timeout=50)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.timeout(180)  # some dozen processes, one after the other
def test_the_launcher_of_the_document_is_short_and_does_what_controllers_need(package: Path) -> None:
    """Covers C38: a user's launcher, with handles, whose process is gone in the end."""
    text = (package / "kumi_niced.py").read_text()
    assert len(text.splitlines()) <= 20
    names: dict[str, Any] = {}
    exec(compile(text, "kumi_niced.py", "exec"), names)
    niced = names["Niced"]()

    class Watched:
        """The same, and the processes are waited for in the end."""

        poll, terminate = staticmethod(niced.poll), staticmethod(niced.terminate)

        def launch(self, workers: Sequence[NewWorker]) -> Any:
            handles = niced.launch(workers)
            STARTED.extend(handles)
            return handles

    kumi.testing.check_launcher(Watched(), seconds=50)


def test_an_unknown_name_lists_those_that_are_there() -> None:
    with pytest.raises(ValueError, match="no launcher named 'moon' is installed; installed are: local, sequential"):
        kumi.Controller("moon", workers=1)
    assert kumi.Controller("local").launcher == kumi.Local()


def test_workers_are_launched_by_need_and_called_what_their_launcher_was_told(launcher: Asked) -> None:
    with kumi.Controller(launcher, workers=2, name="fit") as crew:
        assert crew.status().workers == 0
        assert crew.submit(pow, 2, 10).result() == 1024
        record = crew.push(abs, -1).record
        assert crew.wait()
        record = crew.pop()
        assert record is not None
        assert record.worker == "fit-1"
    assert [process.wait() for process in STARTED] == [0], "it has left by itself"
    assert launcher.ended == []


def test_a_worker_is_told_no_secret_that_its_tasks_could_see(launcher: Asked) -> None:
    told: list[NewWorker] = []

    class Curious(Asked):
        def launch(self, workers: Sequence[NewWorker]) -> Any:
            told.extend(workers)
            return [launcher.start(worker) for worker in workers]

    with kumi.Controller(Curious(), workers=1) as crew:
        variables = crew.submit(lambda: dict(os.environ)).result()
    assert not {"KUMI_JOIN_CODE", "KUMI_INDEX"} & variables.keys()
    assert told[0].code not in " ".join([repr(told), *told[0].command(), *map(str, variables.values())])


def test_what_a_launcher_raises_reaches_tasks_and_it_is_asked_again_later() -> None:
    class Broken:
        fails = 5

        def launch(self, workers: Sequence[NewWorker]) -> Any:
            if self.fails:
                self.fails -= 1
                raise OSError("the queue is closed for maintenance")
            return [spawn(worker.command(), worker.environment) for worker in workers]

    with kumi.Controller(Broken(), workers=1) as crew:
        first = crew.push(abs, -1)
        with pytest.raises(kumi.LaunchError, match=r"Broken.*OSError: the queue is closed for maintenance"):
            first.result()
        assert crew.wait()
        record = crew.pop()
        assert record is not None
        assert "maintenance" in str(record.error)
        assert crew.summary().crash == 1
        assert crew.submit(abs, -2).result() == 2


class Wordless:
    """It cannot even say what it is, and what it raises is no text that can be written."""

    def __repr__(self) -> str:
        raise AttributeError("it was not made to its end")

    def fail(self) -> Any:
        raise RuntimeError(b"no node \xff".decode(errors="surrogateescape"))


def test_words_of_a_launcher_that_cannot_be_told_cost_a_launch_and_not_the_controller() -> None:
    class Elsewhere(Wordless):
        def launch(self, workers: Sequence[NewWorker]) -> Any:
            self.fail()

    class Here(Wordless):
        def command(self, workers: int) -> Any:
            self.fail()

    for launcher in (Elsewhere(), Here()):
        crew = kumi.Controller(launcher, workers=1)
        with pytest.raises(
            kumi.LaunchError, match=r"<\w+ whose repr\(\) raises AttributeError> failed: .* no node \\udcff"
        ):
            crew.submit(abs, -1).result(timeout=50)
        crew.terminate()


def test_a_reason_that_cannot_be_told_is_one_too() -> None:
    class Odd(Queued):
        def poll(self, handles: Sequence[Any]) -> list[Any]:
            return [Wordless()] * len(handles)

    class Telling:
        def launch(self, workers: Sequence[NewWorker]) -> None:
            for worker in workers:
                worker.failed("no image \udcff")

    for other, text in ((Odd(), r"<Wordless whose str\(\) raises"), (Telling(), r"no image \\udcff")):
        with (
            kumi.Controller(other, workers=1, seconds_launch=3600) as crew,
            pytest.raises(kumi.LaunchError, match=text),
        ):
            crew.submit(abs, -1).result(timeout=50)


@pytest.mark.parametrize(("handles", "text"), [([1, 2], "launch returned 2 handles for 1 workers"), (7, "TypeError")])
def test_handles_that_are_not_one_for_each_worker_are_an_error(handles: Any, text: str) -> None:
    class Odd:
        def launch(self, workers: Sequence[NewWorker]) -> Any:
            return handles

    with kumi.Controller(Odd(), workers=1) as crew, pytest.raises(kumi.LaunchError, match=text):
        crew.submit(abs, -1).result()


def test_a_job_that_dies_before_its_worker_calls_is_noticed_by_asking(launcher: Asked) -> None:
    class Dying(Asked):
        def start(self, worker: NewWorker) -> subprocess.Popen[bytes]:
            return spawn([sys.executable, "-c", "raise SystemExit(3)"], worker.environment)

    with kumi.Controller(Dying(), workers=1, seconds_launch=3600) as crew:
        with pytest.raises(kumi.LaunchError, match="it ended with code 3"):
            crew.submit(abs, -1).result(timeout=50)


class Busy:
    """A core that wants another worker every second, of which all come but the first. Only what `Rounds` asks of it."""

    name = "busy"
    clock = 0

    def next_order(self, timeout: float | None) -> tuple[list[tuple[int, int]], list[int]] | None:
        self.clock += 1
        return None if self.clock > 100 else ([(self.clock, self.clock)], [])

    def issue(self, launches: list[int]) -> str:
        return "code"

    def launched(self, launches: list[int]) -> None:
        pass

    def launch_failed(self, launches: list[int], text: str) -> None:
        raise AssertionError(text)

    def launches(self) -> list[tuple[int, bool]]:
        return [(launch, launch == 1) for launch in range(1, self.clock + 1)]


def test_launches_that_never_cease_keep_nobody_from_being_asked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int | str, ...]] = []

    class Counting:
        seconds_poll = 10

        def launch(self, workers: Sequence[NewWorker]) -> list[str]:
            return [worker.name for worker in workers]

        def poll(self, handles: Sequence[str]) -> list[str | None]:
            asked.append((pool.clock, *handles))
            return [None]

    pool = Busy()
    monkeypatch.setattr("kumi.launchers.rounds.time", SimpleNamespace(monotonic=lambda: pool.clock))
    Rounds(cast("Any", pool), Counting(), "kumi://nowhere:1").run()
    assert asked == [(second, "busy-1") for second in range(11, 100, 10)]


def test_a_launcher_that_hears_of_an_end_says_so_itself() -> None:
    class Telling:
        def launch(self, workers: Sequence[NewWorker]) -> None:
            for worker in workers:
                threading.Thread(target=worker.failed, args=["its image does not exist"]).start()

    with kumi.Controller(Telling(), workers=1, seconds_launch=3600) as crew:
        with pytest.raises(kumi.LaunchError, match="its image does not exist"):
            crew.submit(abs, -1).result(timeout=50)


def test_a_worker_that_is_cut_off_is_given_up_as_soon_as_the_launcher_knows(launcher: Asked) -> None:
    with kumi.Controller(launcher, workers=1, seconds_reconnect=3600) as crew:
        first = crew.submit(agent).result()
        task = crew.submit(_wait_unless_alone, first)
        for _ in task.reports():
            break
        os.kill(first, signal.SIGKILL)
        assert task.result(timeout=50) != first


def _wait_unless_alone(first: int) -> int:
    """The first time it runs until its worker is ended."""
    if os.getppid() == first:
        kumi.report("begun")
        signal.pause()
    return os.getppid()


def test_what_waits_in_a_queue_is_ended_with_the_controller() -> None:
    """Covers C94 for launched workers: none is left."""
    launcher = Queued()
    crew = kumi.Controller(launcher, workers=3)
    tasks = [crew.submit(abs, -number) for number in range(5)]
    until_status(crew, lambda: len(STARTED) == 3)
    crew.terminate()
    assert all(task.cancelled() for task in tasks)
    assert set(launcher.ended) == set(STARTED)
    assert {process.wait() for process in STARTED} == {-signal.SIGTERM}


def until_status(crew: kumi.Controller, holds: Callable[[], bool]) -> None:
    """Waits for what nobody tells."""
    event = threading.Event()
    for _ in range(3000):
        if holds():
            return
        event.wait(0.01)
    raise AssertionError(f"{crew.status()}")


def test_a_worker_that_does_not_come_in_time_is_ended_and_told() -> None:
    launcher = Queued()
    with kumi.Controller(launcher, workers=1, seconds_launch=0.1) as crew:
        with pytest.raises(kumi.LaunchError, match=r"no worker came within 0.1 s \(seconds_launch\)"):
            crew.submit(abs, -1).result(timeout=50)
    assert set(launcher.ended) == set(STARTED)


def test_what_poll_and_terminate_raise_is_told_once_and_costs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    class Silent(Queued):
        def poll(self, handles: Sequence[Any]) -> list[str | None]:
            raise RuntimeError("no answer")

        def terminate(self, handles: Sequence[Any]) -> None:
            super().terminate(handles)
            raise RuntimeError("no answer either")

    crew = kumi.Controller(Silent(), name="quiet", workers=1, seconds_launch=0.3)
    with pytest.raises(kumi.LaunchError):
        crew.submit(abs, -1).result(timeout=50)
    crew.terminate()
    told = capfd.readouterr().err
    assert told.count("controller 'quiet': ") == 2
    assert told.count("RuntimeError: no answer: it cannot be asked what became of its workers") == 1
    assert told.count("RuntimeError: no answer either: workers that are not needed any more may go on") == 1


def test_a_worker_that_comes_after_it_was_given_up_is_matched_and_works() -> None:
    """Covers X5: late joiners are matched to their launch, and never are there more workers than the cap."""

    class Late(Plain):
        held: list[NewWorker]

        def launch(self, workers: Sequence[NewWorker]) -> None:
            self.held = [*workers]

    launcher = Late()
    with kumi.Controller(launcher, workers=1, seconds_launch=0.05) as crew:
        with pytest.raises(kumi.LaunchError):
            crew.submit(abs, -1).result(timeout=50)
        for worker in launcher.held:
            launcher.start(worker)
        until_status(crew, lambda: crew.status().workers == 1)
        assert crew.submit(abs, -2).result(timeout=50) == 2


def test_a_script_that_runs_twice_gives_one_worker(launcher: Asked) -> None:
    """Covers X5: two of one launch are one worker."""

    class Twice(Asked):
        def launch(self, workers: Sequence[NewWorker]) -> Any:
            return [[launcher.start(worker), launcher.start(worker)][0] for worker in workers]

    with kumi.Controller(Twice(), workers=2, seconds_launch=20) as crew:
        assert sorted(crew.map(abs, range(20)).results()) == list(range(20))
        assert crew.summary().workers_launched <= 2


@pytest.mark.parametrize("host", [None, "127.0.0.1"])
def test_a_launcher_may_say_where_to_listen_and_for_how_long_to_wait(host: str | None) -> None:
    class Near(Plain):
        host = "localhost"
        seconds_launch = 0.05

        def launch(self, workers: Sequence[NewWorker]) -> None:
            pass

    with kumi.Controller(Near(), workers=1, host=host) as crew:
        assert crew.url.startswith(f"kumi://{host or 'localhost'}:")
        with pytest.raises(kumi.LaunchError, match="within 0.05 s"):
            crew.submit(abs, -1).result(timeout=50)


def test_workers_elsewhere_must_be_counted() -> None:
    with pytest.raises(ValueError, match="workers must be given with .*Plain.*: the most workers it may start"):
        kumi.Controller(Plain())
    with pytest.raises(TypeError, match="launcher must be a launcher"):
        kumi.Controller(Plain, workers=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), "1"])
def test_a_time_to_ask_by_is_checked(seconds: Any) -> None:
    class Restless(Asked):
        seconds_poll = seconds

    with pytest.raises((TypeError, ValueError), match="seconds_poll of the launcher must be a finite number above 0"):
        kumi.Controller(Restless(), workers=1)


def test_the_check_says_what_is_wrong_with_a_launcher() -> None:
    class Handless(Asked):
        def launch(self, workers: Sequence[NewWorker]) -> None:
            super().launch(workers)

    class Liar(Asked):
        def poll(self, handles: Sequence[Any]) -> list[str | None]:
            return [None] * len(handles)

    class Gloomy(Asked):
        seconds_poll = 3600  # nobody but the check asks it

        def poll(self, handles: Sequence[Any]) -> list[str | None]:
            return ["gone"] * len(handles)

    class Terse(Asked):
        def poll(self, handles: Sequence[Any]) -> Any:
            return [process.poll() for process in handles]

    class Failing(Asked):
        def poll(self, handles: Sequence[Any]) -> Any:
            raise OSError("squeue is not there")

    for launcher, text in (
        (Failing(), "Failing.* failed: OSError: squeue is not there: it cannot be asked"),
        (Handless(), "launch must return a handle for each worker"),
        (Liar(), "poll does not tell that what terminate was given has ended"),
        (Gloomy(), "poll tells of the end of a worker that has just run a task"),
        (Terse(), "poll must answer for each handle None, or in words why it has ended, not "),
    ):
        with pytest.raises(AssertionError, match=text):
            kumi.testing.check_launcher(launcher, seconds=5)


@pytest.mark.parametrize("launcher", [None, Plain, kumi.Local(), kumi.Sequential(), "ssh"])
def test_the_check_is_for_launchers_with_a_method_launch(launcher: Any) -> None:
    with pytest.raises(TypeError, match=r"launcher must be an object with a method launch\(workers\), not "):
        kumi.testing.check_launcher(launcher)


def test_the_check_takes_some_time() -> None:
    with pytest.raises(ValueError, match="^seconds must be a finite number above 0"):
        kumi.testing.check_launcher(Plain(), seconds=-1)
