"""What workers print: kept in files, found by worker and by task, shown by the host or not."""

import json
import os
import pty
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest
from kumi import cli, logs, metrics
from machines import workers_of

LIMIT = 30


def run_of(place: Path) -> Path:
    """The directory of the only run that has left one."""
    [run] = logs.runs(place)
    return run


def lines_of(place: Path) -> list[logs.Line]:
    run = run_of(place)
    return [line for worker in logs.workers(run) for line in logs.read(run, worker)]


@pytest.fixture
def told(crew: kumi.Controller, gate: jobs.Gate) -> Callable[[], None]:
    """Waits until what workers that are gone have written is kept and shown: then a later delivery has come as well."""

    def wait() -> None:
        arrived = threading.Event()
        crew.submit(jobs.hold, gate.path).add_done_callback(lambda _: arrived.set())
        gate.wait()
        gate.open()
        assert arrived.wait(LIMIT)

    return wait


def program(code: str, state: Path, **streams: Any) -> subprocess.CompletedProcess[str]:
    """Runs a program, whose logs go to a place of its own."""
    code = "import kumi, jobs, os, sys, subprocess\n" + textwrap.dedent(code)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    environment |= {"XDG_STATE_HOME": str(state), "PYTHONPATH": str(Path(__file__).parent)}
    streams = streams or {"capture_output": True, "text": True}
    return subprocess.run([sys.executable, "-c", code], env=environment, timeout=50, check=True, **streams)


def kumi_logs(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["logs", *words]) == 0
    return capsys.readouterr().out


# What is kept


def test_output_is_kept_by_default(tmp_path: Path) -> None:
    """C41. One file for each worker, called after it, in a directory that nobody else may read."""
    done = program(
        "with kumi.Controller(workers=1, name='c') as crew: crew.submit(jobs.say, 'hello').result()", tmp_path
    )
    assert (done.stdout, done.stderr) == ("hello\n", "hello\n"), "where nobody watches it comes out as it came"
    run = run_of(tmp_path / "kumi" / "logs")
    assert run.name.startswith("c-2")
    assert run.stat().st_mode & 0o777 == 0o700
    assert [(file.name, file.stat().st_mode & 0o777) for file in run.iterdir()] == [("c-1.log", 0o600)]
    assert [line[1:] for line in logs.read(run, "c-1")] == [
        ("c-1", stream, 0, "say", "hello") for stream in ("stdout", "stderr")
    ]


def test_nothing_is_made_where_nothing_is_printed(tmp_path: Path, told: Callable[[], None]) -> None:
    with kumi.Controller(workers=1, log_directory=tmp_path / "logs") as crew:
        assert crew.log_directory is None
        assert crew.map(jobs.add, range(100)).results() == list(range(1, 101))
        assert Path(crew.log_directory or "").parent == tmp_path / "logs"
    told()
    assert not (tmp_path / "logs").exists()


def test_logs_can_be_left_out(tmp_path: Path) -> None:
    done = program(
        "with kumi.Controller(workers=1, log_directory=False) as crew: crew.submit(jobs.say, 'hello').result()",
        tmp_path,
    )
    assert done.stdout == "hello\n"
    assert not list(tmp_path.iterdir())


def test_tasks_in_this_process_leave_none() -> None:
    with kumi.Controller(kumi.Sequential()) as crew:
        assert crew.submit(abs, -1).result() == 1
        assert crew.log_directory is None


def test_lines_belong_to_their_tasks(tmp_path: Path, told: Callable[[], None]) -> None:
    """C43, C58: by name and by stream, whatever else ran on the same worker."""
    with kumi.Controller(workers=2, log_directory=tmp_path, log_forward=False) as crew:
        crew.with_options(name="fit").map(jobs.say, [f"text {i}" for i in range(200)]).results()
    told()
    lines = lines_of(tmp_path)
    for stream in ("stdout", "stderr"):
        found = {(line.name, line.text) for line in lines if line.stream == stream}
        assert found == {(f"fit_{i}", f"text {i}") for i in range(200)}
    assert len(lines) == 400
    assert len({line.task for line in lines}) == 200


def _print_in_many_ways() -> None:
    print("text")
    sys.stdout.buffer.write(b"bytes\n")
    sys.stdout.flush()
    subprocess.run(["echo", "child"], check=True)
    os.system("echo shell")
    print("no end", end="")


def test_whatever_way_it_is_printed(tmp_path: Path, told: Callable[[], None]) -> None:
    """Also by a process that the task has started, and what it left in the buffer. Not by native code alone."""
    with kumi.Controller(workers=1, log_directory=tmp_path, log_forward=False) as crew:
        crew.with_options(name="many").submit(_print_in_many_ways).result()
        crew.with_options(name="native").submit(os.write, 1, b"native\n").result()
        crew.with_options(name="child").submit(subprocess.call, ["echo", "alone"]).result()
        crew.with_options(name="next").submit(print, "other").result()
    told()
    found = [(line.name, line.text) for line in lines_of(tmp_path)]
    assert found == [
        ("many", "text"),
        ("many", "bytes"),
        ("many", "child"),
        ("many", "shell"),
        (None, "native"),
        ("child", "alone"),
        ("next", "other"),
        ("many", "no end"),  # a line that nobody has ended
    ]


def _outer() -> None:
    print("before")
    kumi.with_options(name="inner").submit(print, "within").result()
    print("after")


def test_a_task_within_the_wait_of_another(tmp_path: Path, told: Callable[[], None]) -> None:
    with kumi.Controller(workers=1, log_directory=tmp_path, log_forward=False) as crew:
        crew.with_options(name="outer").submit(_outer).result()
    told()
    found = [(line.name, line.text) for line in lines_of(tmp_path)]
    assert found == [("outer", "before"), ("inner", "within"), ("outer", "after")]


@pytest.mark.parametrize("letter", ["x", "\u4e2d"])
def test_a_controllers_name_may_be_longer_than_that_of_a_file(
    letter: str, tmp_path: Path, told: Callable[[], None]
) -> None:
    options: Any = {"log_directory": tmp_path, "log_forward": False, "seconds_metrics": 0.01}
    with kumi.Controller(workers=1, name=letter * 300, **options) as crew:
        crew.start()
        crew.submit(_print_when_measured, crew.log_directory).result(LIMIT)
    told()
    [line] = lines_of(tmp_path)
    assert line.text == "measured"


def _print_when_measured(run: str) -> None:
    while not list(Path(run).glob(f"*{metrics.SUFFIX}")):
        threading.Event().wait(0.01)
    print("measured")


def test_any_name_and_any_text(tmp_path: Path, told: Callable[[], None]) -> None:
    name, text = "a\tb\nc \x1b\\ \ud7ff ü", "\x1b[31mrot\x1b[0m\t\x1b_kumi;no;\x1b\\ \x1b"
    with kumi.Controller(workers=1, name="../x/y", log_directory=tmp_path, log_forward=False) as crew:
        crew.with_options(name=name).submit(print, text).result()
    told()
    [line] = lines_of(tmp_path)
    assert (line.worker, line.text) == ("_.._x_y-1", text)
    assert line.name == "a b c  \\ \ud7ff ü".replace("\ud7ff", " ")


def test_the_last_words_have_no_marks() -> None:
    with kumi.Controller(workers=1, log_forward=False) as crew:
        task = crew.with_options(crashes_max=0).submit(
            eval, "print('dying', file=sys.stderr) or os._exit(3)", jobs.__dict__
        )
        error = task.exception(LIMIT)
    assert isinstance(error, kumi.CrashError)
    assert error.certificate.stderr == "dying"


def test_what_cannot_be_kept_is_shown(tmp_path: Path) -> None:
    (tmp_path / "kumi").write_text("in the way")
    done = program(
        """
        with kumi.Controller(workers=1, log_forward=False) as crew:
            crew.submit(print, "first").result()
            crew.submit(print, "second").result()
        """,
        tmp_path,
    )
    assert done.stdout == "first\nsecond\n"
    assert done.stderr.count("is not kept in") == 1, "said once"
    assert "log_directory= chooses another place" in done.stderr


def test_an_agent_keeps_what_its_workers_print(tmp_path: Path) -> None:
    with kumi.Controller(None, host="127.0.0.1", workers=1, name="far") as crew:
        with workers_of(crew, tmp_path) as workers:
            workers.start(1, "--log-directory", str(tmp_path / "there"))
            crew.with_options(name="fit").submit(jobs.say, "hello").result(LIMIT)
            crew.shutdown()
            workers.wait()
            assert workers.written().splitlines().count("hello") == 2
    assert run_of(tmp_path / "there").name.startswith("worker-2")
    found = {(line.stream, line.name, line.text) for line in lines_of(tmp_path / "there")}
    assert found == {("stdout", "fit", "hello"), ("stderr", "fit", "hello")}


# What is shown


def test_forwarded_lines_say_whose_they_are(tmp_path: Path) -> None:
    done = program(
        """
        with kumi.Controller(workers=1, name="c", log_forward=True) as crew:
            crew.with_options(name="fit").submit(print, "one\\ntwo").result()
            crew.submit(jobs.say, "three").result()
            crew.submit(os.write, 1, b"native").result()
            crew.with_options(name="last").submit(print, "four").result()
        """,
        tmp_path,
    )
    assert done.stdout == "[fit] one\n[fit] two\n[say] three\n[c-1] native\n[last] four\n"
    assert done.stderr == "[say] three\n"


def test_what_is_not_forwarded_is_kept(tmp_path: Path) -> None:
    done = program(
        "with kumi.Controller(workers=1, log_forward=False) as crew: crew.submit(jobs.say, 'hello').result()", tmp_path
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert [line.text for line in lines_of(tmp_path / "kumi" / "logs")] == ["hello", "hello"]


def test_in_a_terminal_lines_say_whose_they_are(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    try:
        text = (
            "with kumi.Controller(workers=1) as crew: crew.with_options(name='fit').submit(jobs.say, 'hello').result()"
        )
        done = program(text, tmp_path, stdout=slave, stderr=subprocess.PIPE, text=True)
        assert os.read(master, 1000) == b"[fit] hello\r\n"
        assert done.stderr == "hello\n", "nobody sees that one"
    finally:
        os.close(master)
        os.close(slave)


# The command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs of two runs."""
    state = tmp_path_factory.mktemp("state")
    for number in (1, 2):
        program(
            f"""
            with kumi.Controller(workers=1, name="c{number}", log_forward=False) as crew:
                crew.with_options(name="fit").submit(jobs.say, "hello from {number}").result()
                crew.submit(print, "unnamed").result()
                crew.submit(os.write, 1, b"native").result()
            """,
            state,
        )
    return state / "kumi" / "logs"


@pytest.fixture
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(place.parent.parent))


def test_runs_are_listed_newest_first(there: None, capsys: pytest.CaptureFixture[str]) -> None:
    _, *rows = kumi_logs(capsys).splitlines()
    assert [row.split()[-1] for row in rows] == ["c2-1", "c1-1"]
    facts = [json.loads(line) for line in kumi_logs(capsys, "--json").splitlines()]
    assert [(fact["workers"], fact["running"]) for fact in facts] == [(["c2-1"], False), (["c1-1"], False)]
    assert all(Path(fact["path"]).name == fact["run"] for fact in facts)


def test_a_worker_and_a_task_are_found(there: None, capsys: pytest.CaptureFixture[str]) -> None:
    shown = kumi_logs(capsys, "c1-1").splitlines()
    assert sorted(shown) == ["[fit] hello from 1", "[fit] hello from 1", "[print] unnamed", "native"]
    assert kumi_logs(capsys, "fit") == "hello from 2\n" * 2, "the newest"
    assert kumi_logs(capsys, "fit", "--run", "c1", "--stream", "stderr") == "hello from 1\n"
    [line] = [json.loads(line) for line in kumi_logs(capsys, "print", "--json").splitlines()]
    assert (line["worker"], line["stream"], line["text"]) == ("c2-1", "stdout", "unnamed")
    assert kumi_logs(capsys, str(line["task"])) == "unnamed\n"


def test_a_worker_is_found_by_the_name_that_it_has_elsewhere(
    tmp_path: Path, told: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with kumi.Controller(workers=1, name="my fit", log_directory=tmp_path, log_forward=False) as crew:
        crew.submit(print, "hello").result()
    told()
    for name in ("my fit-1", "my_fit-1"):
        assert kumi_logs(capsys, name, "--run", "my fit", "--directory", str(tmp_path)) == "[print] hello\n"


def test_what_is_not_there_is_an_error(there: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["logs", "fot"]) == 1
    assert "nothing is kept of 'fot'" in capsys.readouterr().err
    assert cli.main(["logs", "fit", "--directory", str(tmp_path / "none")]) == 1
    assert "nothing is kept of 'fit'" in capsys.readouterr().err
    assert cli.main(["logs", "fit", "--run", "fot"]) == 1
    assert "nothing is kept of 'fit' of the run or controller 'fot' in " in capsys.readouterr().err


def test_where_nothing_is_kept_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "none")
    assert kumi_logs(capsys, "--directory", place) == f"Nothing is kept in {place}.\n"
    assert kumi_logs(capsys, "--directory", place, "--json") == ""


def test_whoever_reads_may_have_enough(place: Path) -> None:
    command = [sys.executable, "-m", "kumi", "logs", "c1-1", "--directory", str(place)]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, timeout=LIMIT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# Arguments


@pytest.mark.parametrize("directory", [True, 3, b"bytes", "", "a\0b"])
def test_a_directory_that_is_none(directory: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="log_directory must be a path"):
        kumi.Controller(log_directory=directory)


@pytest.mark.parametrize("forward", [1, "yes", []])
def test_forward_is_yes_or_no(forward: Any) -> None:
    with pytest.raises(TypeError, match="log_forward must be True, False or None"):
        kumi.Controller(log_forward=forward)
