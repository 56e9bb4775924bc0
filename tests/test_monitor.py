"""What other terminals see of controllers, and do to their workers: `kumi ps`, `kumi kill`, `kumi top`."""

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest
from kumi import cli, desks
from kumi.commands import asking, kill, listing, top

KUMI = (sys.executable, "-m", "kumi")


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command `kumi`, in a process of its own, as from another terminal."""
    return subprocess.run([*KUMI, *words], capture_output=True, text=True, timeout=50, check=False, **options)


def facts_of(pid: int, name: str) -> dict[str, Any]:
    """What `kumi ps --json` says of this controller."""
    listed = run("ps", "--json")
    assert listed.returncode == 0, listed.stderr
    (facts,) = (c for c in json.loads(listed.stdout)["controllers"] if (c["pid"], c["controller"]) == (pid, name))
    assert isinstance(facts, dict)
    return facts


def facts(crew: kumi.Controller) -> dict[str, Any]:
    """The same of one of this process."""
    return facts_of(os.getpid(), crew.name)


@contextlib.contextmanager
def a_host(text: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A program of its own, which says "ready" and then waits for the end of its stdin."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    program = f"import sys, jobs, kumi\n{textwrap.dedent(text)}\nprint('ready', flush=True)\nsys.stdin.read()\n"
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "text": True,
        "env": os.environ | {"PYTHONPATH": path},
    }
    with subprocess.Popen([sys.executable, "-c", program], **pipes, **options) as host:
        try:
            assert host.stdout is not None
            assert host.stdout.readline() == "ready\n"
            yield host
        finally:
            host.kill()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that only this test's controllers use; short enough for the path of a socket."""
    name = Path(f"/tmp/kumi-test-{os.getpid()}-{threading.get_ident()}")
    monkeypatch.setattr(desks, "places", lambda: [name])
    yield name
    if name.is_dir():
        for left in name.iterdir():
            left.unlink()
        name.rmdir()


def test_a_controller_is_listed_with_its_workers_and_what_they_are_at(gate: jobs.Gate) -> None:
    """C140: the lists of controllers and workers grow when one starts."""
    with a_host("crew = kumi.Controller(workers=2, name='big'); crew.start()\n") as host:
        before = facts_of(host.pid, "big")
        assert (before["workers"], before["launcher"], before["workers_max"]) == ([], "Local", 2)
        assert "crew.start()" in before["program"]
    with kumi.Controller(workers=2) as crew:
        task = crew.with_options(name="mass").submit(jobs.hold, gate.path)
        gate.wait()
        assert crew.submit(jobs.add, 1).result() == 2
        after = facts(crew)
        gate.open()
        task.result()
    assert (after["status"]["running"], after["status"]["finished"]) == (1, 1)
    assert after["status"].keys() == {name for name in dir(kumi.Status) if not name.startswith("_")}
    (busy,) = (worker for worker in after["workers"] if worker["state"] == "busy")
    assert busy["name"] == f"{crew.name}-{busy['number']}"
    assert (busy["task"]["name"], busy["task"]["function"], busy["remote"]) == ("mass", "hold", False)
    assert 0 <= busy["task"]["seconds"] <= busy["seconds"] < 60
    assert 1e6 < busy["resident_bytes"] < 1e9


def test_one_that_has_ended_is_not_listed(alone: Path) -> None:
    with kumi.Controller(workers=1) as crew:
        crew.submit(jobs.add, 1).result()
        assert [c["controller"] for c in asking.look().controllers] == [crew.name]
        assert len(list(alone.iterdir())) == 1
    assert asking.look() == asking.Found()
    assert list(alone.iterdir()) == []


def test_one_that_runs_tasks_in_its_own_process_makes_no_socket(alone: Path) -> None:
    with kumi.Controller(kumi.Sequential()) as crew:
        assert crew.submit(jobs.add, 1).result() == 2
        assert not alone.exists()


def test_names_cannot_forge_the_answer_or_the_screen(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = 'a"\\{\n\x1b[31mé'
    with kumi.Controller(workers=1, name=name) as crew:
        crew.start()
        assert [c["controller"] for c in asking.look().controllers] == [name]
        assert cli.main(["ps"]) == 0
        assert 'a"\\{??[31mé' in capsys.readouterr().out


def test_nobody_there_is_said_with_where_was_looked(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ps"]) == 0
    assert (
        capsys.readouterr().out
        == f"No controller of yours is open on this machine, as far as can be seen in {alone}.\n"
    )
    assert cli.main(["top", "--once"]) == 0
    assert "No controller of yours is open" in capsys.readouterr().out
    assert cli.main(["ps", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"controllers": [], "silent": []}


def test_a_worker_that_its_user_kills_costs_its_task_nothing(gate: jobs.Gate) -> None:
    """C142: a process that is told to end ends; here its task goes to another worker."""
    with kumi.Controller(workers=1, name=f"doomed-{os.getpid()}") as crew:
        task = crew.with_options(name="mass", crashes_max=0).submit(jobs.hold, gate.path, 7)
        gate.wait()
        (victim,) = facts(crew)["workers"]
        ended = run("kill", victim["name"])
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout == f"{victim['name']} is ended; its task mass: hold runs again, unless it is `once`\n"
        jobs.wait_for_end(victim["pid"])
        gate.open()
        assert task.result() == 7
        assert task.record is not None
        assert (task.record.attempts, task.record.worker) == (1, f"{crew.name}-2")


def test_a_task_that_is_once_tells_who_ended_its_worker(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1) as crew:
        task = crew.with_options(once=True).submit(jobs.hold, gate.path)
        gate.wait()
        (victim,) = facts(crew)["workers"]
        assert run("kill", str(victim["pid"])).returncode == 0
        with pytest.raises(kumi.CrashError, match="ended from outside by its user \\(kumi kill\\)"):
            task.result()


def test_who_is_not_there_cannot_be_killed() -> None:
    missing = run("kill", "nobody-1", "nobody-2")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.count("kumi kill: no worker 'nobody-") == 2


def test_a_name_that_two_workers_have_is_told_apart_by_process() -> None:
    worker = {"name": "crew-1", "pid": 11, "number": 1}
    twins = [{"pid": 1, "workers": [worker]}, {"pid": 2, "workers": [worker | {"pid": 12}]}]
    with pytest.raises(ValueError, match="several workers are called 'crew-1'.* 11 of controller process 1, 12 of"):
        kill.choose(twins, "crew-1")
    assert kill.choose(twins, "12")[0]["pid"] == 2


def test_a_host_that_holds_its_gil_answers_all_the_same() -> None:
    text = """
        import ctypes, threading
        crew = kumi.Controller(workers=1, name='deep')
        crew.submit(jobs.add, 1).result()
        hold = ctypes.PyDLL("libc.so.6").sleep
        print('ready', flush=True)
        hold(40)
    """
    with a_host(text) as host:
        assert facts_of(host.pid, "deep")["status"]["finished"] == 1


def test_a_host_that_is_stopped_is_said_to_be_silent() -> None:
    with a_host("crew = kumi.Controller(workers=1); crew.start()") as host:
        host.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, host.pid, os.WSTOPPED)
        listed = run("ps")
        assert listed.returncode == 0
        assert f"process {host.pid} has a controller that gives no answer" in listed.stdout


def test_what_a_killed_host_has_left_is_removed() -> None:
    with a_host("crew = kumi.Controller(workers=1); crew.start()") as host:
        (left,) = Path(desks.places()[0]).glob(f"{host.pid}-*.sock")
        host.kill()
        host.wait()
    assert left.exists()
    assert str(host.pid) not in run("ps").stdout
    assert not left.exists()


def test_guests_who_say_nothing_or_nonsense_are_no_harm(alone: Path) -> None:
    with kumi.Controller(workers=1) as crew, contextlib.ExitStack() as guests:
        crew.start()
        (desk,) = alone.iterdir()

        def visit(question: bytes) -> socket.socket:
            guest = guests.enter_context(socket.socket(socket.AF_UNIX))
            guest.settimeout(20)
            guest.connect(str(desk))
            guest.sendall(question)
            return guest

        quiet = [visit(b"") for _ in range(30)]
        assert visit(b"what\n").recv(100) == b'{"error":"no such question"}\n'
        assert visit(b"kill x\n").recv(100) == b'{"error":"no such question"}\n'
        assert visit(b"kill 99\n").recv(100) == b'{"found":false}\n'
        with contextlib.suppress(ConnectionResetError):  # it was cut off before all was read
            assert visit(b"x" * 1000).recv(100) == b""
        assert quiet[0].recv(1) == b"", "the oldest had to go"
        assert len(asking.look().controllers) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_sees_nothing(alone: Path) -> None:
    connect = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(9))"
    with kumi.Controller(workers=1) as crew:
        crew.start()
        (desk,) = alone.iterdir()

        def as_nobody(code: str, argument: Path) -> subprocess.CompletedProcess[str]:
            command = ["/usr/bin/env", "python3", "-c", code, str(argument)]
            return subprocess.run(
                command, user="nobody", capture_output=True, text=True, timeout=50, check=False, cwd="/"
            )

        assert alone.stat().st_mode & 0o777 == 0o700
        assert "PermissionError" in as_nobody("import os, sys; os.listdir(sys.argv[1])", alone).stderr
        assert "PermissionError" in as_nobody(connect, desk).stderr
        # Even if somebody opens the door.
        alone.chmod(0o755)
        desk.chmod(0o777)
        assert as_nobody(connect, desk).stdout == "b''\n"
        assert asking.look() == asking.Found(), "and then it is not safe for its user either"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_a_directory_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 65534, -1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        desks.entered(tmp_path).__enter__()


def test_neither_links_nor_open_directories_are_used(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(NotADirectoryError):
        desks.entered(tmp_path / "link", make=True).__enter__()
    (tmp_path / "open").mkdir(0o755)
    with pytest.raises(PermissionError, match="chmod 700"):
        desks.entered(tmp_path / "open").__enter__()


def test_a_controller_that_cannot_be_seen_works_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(desks, "places", lambda: [tmp_path / "missing" / "deep"])
    with kumi.Controller(workers=1) as crew:
        assert crew.submit(jobs.add, 1).result() == 2
    assert f"`kumi ps` will not see controller '{crew.name}'" in caplog.text
    assert "No such file or directory" in caplog.text


def test_the_runtime_directory_is_the_second_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/elsewhere")
    assert desks.places() == [Path(f"/tmp/kumi-{os.geteuid()}"), Path("/run/elsewhere/kumi")]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "not/absolute")
    assert desks.places() == [Path(f"/tmp/kumi-{os.geteuid()}")]


def test_a_forked_child_is_seen_and_hides_nobody() -> None:
    text = """
        import os, warnings
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        crew = kumi.Controller(workers=1, name='parent')
        crew.start()
        reader, writer = os.pipe()
        if os.fork() == 0:
            with kumi.Controller(workers=1, name=f'child-{os.getppid()}') as own:
                own.start()
                os.write(writer, b'.')
                sys.stdin.read()
            os._exit(0)
        os.read(reader, 1)
    """
    with a_host(text) as host:
        listed = {c["controller"]: c for c in json.loads(run("ps", "--json").stdout)["controllers"]}
        child = listed[f"child-{host.pid}"]["pid"]
        assert facts_of(host.pid, "parent")["pid"] == host.pid != child
        host.kill()
        host.wait()
        # The child has copies of its parent's sockets, at which nobody answers any more.
        after = json.loads(run("ps", "--json").stdout)
        assert child in [c["pid"] for c in after["controllers"]]
        assert host.pid not in [*after["silent"], *(c["pid"] for c in after["controllers"])]
        assert host.stdin is not None
        host.stdin.close()
        jobs.wait_for_end(child)


def test_top_draws_one_picture_for_those_who_want_no_more() -> None:
    with kumi.Controller(workers=1, name="[red]pictured") as crew:
        crew.submit(jobs.add, 1).result()
        shown = run("top", "--once", env=os.environ | {"COLUMNS": "400"})
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "TASKS/S" in shown.stdout
        assert re.search(r"\[red\]pictured-1 +idle ", shown.stdout)


@pytest.mark.parametrize(("width", "has_room"), [(130, True), (80, False)])
def test_top_on_a_narrow_screen_leaves_out_what_matters_least(
    width: int, has_room: bool, alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with kumi.Controller(workers=1, name="narrow") as crew:
        crew.submit(jobs.add, 1).result()
        assert cli.main(["top", "--once"]) == 0
    head, row, *_ = capsys.readouterr().out.splitlines()
    wanted = {"TASKS/S", "CONTROLLER", "WORKERS", "WAITING", "RUNNING", "FINISHED", "FAILED"}
    assert wanted <= set(head.split())
    assert ("PROGRAM" in head, "LAUNCHER" in head) == (has_room, has_room)
    assert "narrow" in row.split()


def test_top_without_a_terminal_says_so() -> None:
    shown = run("top", stdin=subprocess.DEVNULL)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == "kumi top: this needs a terminal to draw on; --once prints one picture\n"


def test_top_without_rich_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert cli.main(["top", "--once"]) == 1
    assert capsys.readouterr().err == "kumi top: this needs the package rich: pip install 'kumi[top]'\n"


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_top_is_drawn_again_and_again_until_q_or_ctrl_c(key: bytes) -> None:
    ours, its = pty.openpty()
    environment = os.environ | {"COLUMNS": "200", "LINES": "40", "TERM": "xterm"}
    with kumi.Controller(workers=1, name=f"drawn-{key.hex()}") as crew:
        crew.submit(jobs.add, 1).result()
        with subprocess.Popen([*KUMI, "top"], stdin=its, stdout=its, stderr=its, env=environment) as shown:
            os.close(its)
            try:
                drawn = b""
                while drawn.count(b"TASKS/S") < 2:
                    drawn += os.read(ours, 1 << 16)
                assert crew.name.encode() in drawn
                if key == b"q":
                    os.write(ours, key)
                else:
                    shown.send_signal(signal.SIGINT)
                assert shown.wait(30) == 0
            finally:
                shown.kill()
                os.close(ours)


def test_rates_are_those_since_the_last_picture() -> None:
    def found(finished: int) -> asking.Found:
        return asking.Found([{"pid": 1, "desk": "1-0.sock", "status": {"finished": finished}}])

    rates = top.Rates()
    assert rates.update(found(10), 100.0) == [None]
    assert rates.update(found(30), 104.0) == [5.0]
    assert rates.update(asking.Found(), 105.0) == []
    assert rates.update(found(40), 106.0) == [None]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (59.9, "59.9 s"), (61, "1:01 min"), (7300, "2:01 h"), (90_000, "1.0 d")]
)
def test_spans_are_short(seconds: float, text: str) -> None:
    assert listing.span(seconds) == text
