"""Workers that ssh starts: on two machines, each with a real sshd."""

import contextlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kumi
import kumi.testing
import pytest
from conftest import children, ends_in_time
from kumi.launchers import NewWorker, usable_cpus
from sshd import Net, net

LIMIT = 50.0

pytestmark = pytest.mark.timeout(120)  # each worker takes several processes


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with net(tmp_path_factory.mktemp("ssh")) as made:
        yield made


@pytest.fixture
def there(machines: Net) -> Iterator[Net]:
    """The machines. Whatever a test does, in the end no process of it is left on them."""
    yield machines
    left = [pid for pid in machines.pids() if not ends_in_time(pid)]
    assert not left, [Path(f"/proc/{pid}/cmdline").read_text() for pid in left]


def ssh(there: Net, *hosts: str, **arguments: Any) -> kumi.SSH:
    return kumi.SSH(hosts or tuple(there.machines), options=there.options, **arguments)


class Dialled:
    """A launcher whose workers dial this machine by an address that the others know."""

    def __init__(self, launcher: kumi.SSH, host: str) -> None:
        self.launcher = launcher
        self.host = host

    def __getattr__(self, name: str) -> Any:
        return getattr(self.launcher, name)

    def launch(self, workers: Sequence[NewWorker]) -> Any:
        return self.launcher.launch(workers)


def command_lines() -> list[str]:
    """Those of all processes, with NUL between words."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            lines.append(file.read_text(errors="replace"))
    return lines


def where(_: object = None) -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def meet(directory: str, number: int, others: int) -> tuple[str, int, str | None]:
    """Comes back when so many have come, each on a worker of its own."""
    Path(directory, str(number)).touch()
    while len(os.listdir(directory)) < others:
        select.select([], [], [], 0.01)
    return *where(), os.environ.get("OMP_NUM_THREADS")


@pytest.mark.timeout(240)  # some twenty workers, one after the other
@pytest.mark.parametrize("tunnel", [True, False])
def test_it_does_what_controllers_need(there: Net, tunnel: bool) -> None:
    kumi.testing.check_launcher(
        Dialled(ssh(there, tunnel=tunnel), "127.0.0.1" if tunnel else there.host), seconds=LIMIT
    )


@pytest.mark.parametrize("tunnel", [True, False])
def test_workers_are_spread_over_the_hosts_and_share_their_cpus(there: Net, tmp_path: Path, tunnel: bool) -> None:
    launcher = ssh(there, workers_per_host=2, tunnel=tunnel)
    host = None if tunnel else there.host
    with kumi.Controller(launcher, host=host) as crew:
        assert crew.workers == 4
        tasks = [crew.submit(meet, str(tmp_path), number, 4) for number in range(4)]
        places = [task.result(timeout=LIMIT) for task in tasks]
    assert sorted(name for name, _, _ in places) == ["alpha", "alpha", "beta", "beta"]
    assert len({pid for _, pid, _ in places}) == 4
    assert {threads for *_, threads in places} == {str(max(1, usable_cpus() // 2))}


def test_no_secret_stands_on_a_command_line(there: Net) -> None:
    codes: list[str] = []

    class Curious(Dialled):
        def launch(self, workers: Sequence[NewWorker]) -> Any:
            codes.extend(worker.code for worker in workers)
            return super().launch(workers)

    def look() -> tuple[str | None, str]:
        return os.environ.get("TOKEN"), "\n".join(command_lines())

    launcher = Curious(ssh(there, "alpha", environment={"TOKEN": "it's=hidden"}), "127.0.0.1")
    with kumi.Controller(launcher) as crew:
        token, everything = crew.submit(look).result(timeout=LIMIT)
    assert token == "it's=hidden"
    assert "--attached" in everything
    assert "hidden" not in everything
    assert len(codes) == 1
    assert codes[0] not in everything


CANNOT = {
    "no-such-host.invalid": "Could not resolve hostname no-such-host.invalid",
    "closed": "Connection refused",
    "stranger": "Host key verification failed",
    "keyless": "Permission denied (publickey)",
    "restricted": "remote port forwarding failed",
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_ssh_says_reaches_the_user(there: Net, name: str) -> None:
    with kumi.Controller(ssh(there, name)) as crew:
        with pytest.raises(kumi.LaunchError) as caught:
            crew.submit(abs, -1).result(timeout=LIMIT)
    for text in (f"host '{name}': ssh has ended with exit code 255: ", CANNOT[name]):
        assert text in str(caught.value)


def test_an_interpreter_that_is_not_there_or_has_no_kumi_is_told(there: Net, tmp_path: Path) -> None:
    bare = tmp_path / "bare python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    for python, text in (
        ("/no/python", "(?s)host 'alpha': python= is no program there: exit code 127: .*/no/python"),
        (bare, "(?s)host 'alpha': .*exit code 1: .*No module named kumi"),
    ):
        with kumi.Controller(ssh(there, "alpha", python=python)) as crew:
            with pytest.raises(kumi.LaunchError, match=text):
                crew.submit(abs, -1).result(timeout=LIMIT)


def test_without_ssh_nothing_is_launched(there: Net) -> None:
    with kumi.Controller(ssh(there, ssh="/no/ssh")) as crew:
        with pytest.raises(kumi.LaunchError, match="ssh could not be run: .*'/no/ssh'"):
            crew.submit(abs, -1).result(timeout=LIMIT)


@pytest.mark.parametrize("argument", ["ssh", "python"])
def test_a_word_that_no_process_can_have_is_told_at_each_launch(argument: str) -> None:
    with kumi.Controller(kumi.SSH(["alpha"], **{argument: "a\0b"})) as crew:  # type: ignore[arg-type]
        for _ in range(2):
            with pytest.raises(kumi.LaunchError, match="ssh could not be run: embedded null byte"):
                crew.submit(abs, -1).result(timeout=LIMIT)


def test_a_host_that_is_down_does_not_stop_the_others(there: Net) -> None:
    with kumi.Controller(ssh(there, "closed", "alpha")) as crew:
        places = crew.map(where, range(10)).results()
    assert {name for name, _ in places} == {"alpha"}


def test_who_waits_for_a_host_that_is_silent_can_end(there: Net) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(LIMIT)
        options = (*there.options, "-p", str(silent.getsockname()[1]))
        crew = kumi.Controller(kumi.SSH(["127.0.0.1"], options=options))
        task = crew.submit(abs, -1)
        connected, _ = silent.accept()
        with connected:
            crew.terminate()
            assert task.cancelled()
            connected.settimeout(LIMIT)
            while connected.recv(1000):
                pass


def test_a_host_that_stays_silent_is_given_up_by_ssh_and_options_of_the_user_come_first(there: Net) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = (*there.options, "-o", "ConnectTimeout=1", "-p", str(silent.getsockname()[1]))
        with kumi.Controller(kumi.SSH(["127.0.0.1"], options=options)) as crew:
            with pytest.raises(kumi.LaunchError, match="(?s)host '127.0.0.1': ssh has ended with .*timed out"):
                crew.submit(abs, -1).result(timeout=LIMIT)


def test_a_host_never_has_more_workers_than_places(there: Net) -> None:
    """A new worker waits until the connection of the one before has ended, whichever controller that was for."""

    def work() -> None:
        kumi.report("begun")
        time.sleep(2)

    def agents() -> int:
        return sum("--attached" in line.split("\0") and there_is(line) for line in command_lines())

    launcher = ssh(there, "alpha")
    with kumi.Controller(launcher, tasks_max=1) as first, kumi.Controller(launcher, tasks_max=1) as second:
        prints = tuple(Path(crew.url).name for crew in (first, second))

        def there_is(line: str) -> bool:
            return any(print in line for print in prints)

        busy = first.submit(work)
        assert next(iter(busy.reports())) == "begun"
        assert [second.submit(agents).result(timeout=LIMIT) for _ in range(3)] == [1, 1, 1]
        assert busy.done()


def note_and_wait(file: str) -> int:
    """The first time it starts a process, and waits until it is ended."""
    if not Path(file).exists():
        child = subprocess.Popen(["sleep", "1000"])
        Path(file).touch()
        kumi.report((os.getppid(), os.getpid(), child.pid))
        signal.pause()
    return os.getpid()


@pytest.mark.parametrize("tunnel", [True, False])
def test_a_connection_that_is_lost_ends_its_worker_and_the_task_runs_again(
    there: Net, tmp_path: Path, tunnel: bool
) -> None:
    before = set(children())
    host = None if tunnel else there.host
    with kumi.Controller(ssh(there, "alpha", tunnel=tunnel), host=host, seconds_reconnect=3600) as crew:
        task = crew.submit(note_and_wait, str(tmp_path / "first"))
        first: tuple[int, ...] = next(iter(task.reports()))
        (client,) = set(children()) - before
        os.kill(client, signal.SIGKILL)
        assert task.result(timeout=LIMIT) not in first
        assert all(ends_in_time(pid) for pid in first)


def test_a_network_that_falls_silent_costs_a_host_and_not_the_task(there: Net, tmp_path: Path) -> None:
    with kumi.Controller(ssh(there), workers=1, seconds_reconnect=2) as crew:
        task = crew.submit(note_and_wait, str(tmp_path / "first"))
        first: tuple[int, ...] = next(iter(task.reports()))
        alpha = there.machines["alpha"]  # the first, of two that have no worker
        alpha.link.cut()
        try:
            assert task.result(timeout=LIMIT) not in first
            assert all(ends_in_time(pid) for pid in first)
        finally:
            alpha.link.carry()
            for pid in alpha.pids():  # its sshd may not notice for long that there is nobody any more
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_terminate_ends_the_trees_of_processes(there: Net, tmp_path: Path) -> None:
    crew = kumi.Controller(ssh(there))
    tasks = [crew.submit(note_and_wait, str(tmp_path / name)) for name in "ab"]
    trees = [next(iter(task.reports())) for task in tasks]
    crew.terminate()
    assert all(ends_in_time(pid) for tree in trees for pid in tree)


def program(there: Net, text: str) -> subprocess.Popen[str]:
    head = f"import os, signal, kumi\nlauncher = kumi.SSH(['alpha'], options={there.options!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(text)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_workers_end_with_a_program_that_is_killed_even_if_a_fork_of_it_lives_on(there: Net) -> None:
    killed = program(
        there,
        """
        crew = kumi.Controller(launcher, seconds_reconnect=3600)
        task = crew.submit(lambda: (kumi.report(os.getpid()), signal.pause()))
        worker = next(iter(task.reports()))
        if fork := os.fork():
            print(worker, fork, flush=True)
        signal.pause()
        """,
    )
    with killed:
        assert killed.stdout is not None
        worker, fork = map(int, killed.stdout.readline().split())
        killed.kill()
        ended = ends_in_time(worker)
        os.kill(fork, signal.SIGKILL)
        assert ended


def test_what_tasks_print_comes_out_of_the_program_and_what_ssh_says_does_not(there: Net) -> None:
    printing = program(
        there,
        """
        def work():
            print("hello from", os.uname().nodename)
            os.write(2, b"and on stderr\\n")

        crew = kumi.Controller(launcher)  # which ends with the program
        crew.submit(work).result()
        """,
    )
    assert printing.communicate(timeout=LIMIT) == ("hello from alpha\n", "and on stderr\n")
    assert printing.returncode == 0


def test_ctrl_c_does_not_reach_ssh(there: Net) -> None:
    before = set(children())
    with kumi.Controller(ssh(there, "alpha")) as crew:
        crew.submit(abs, -1).result(timeout=LIMIT)
        (client,) = set(children()) - before
        assert os.getsid(client) == client


def test_more_workers_than_places_are_refused() -> None:
    launcher = kumi.SSH({"alpha": 1, "beta": 3})
    assert kumi.Controller(launcher).workers == 4
    assert kumi.Controller(launcher, workers=2).workers == 2
    with pytest.raises(ValueError, match="workers must be at most 4, as many as SSH"):
        kumi.Controller(launcher, workers=5)


def test_it_is_a_value() -> None:
    launcher = kumi.SSH(["alpha"], python=Path("venv/bin/python"), environment={"A": "1"})
    assert launcher == kumi.SSH(("alpha",), python="venv/bin/python", environment={"A": "1"})
    assert launcher != kumi.SSH(["beta"])
    assert "environment" not in repr(launcher)
    assert pickle.loads(pickle.dumps(launcher)) == launcher
    crew = pickle.loads(pickle.dumps(kumi.Controller(launcher, name="far")))
    assert (crew.launcher, crew.workers) == (launcher, 1)
    assert kumi.Controller("local").launcher == kumi.Local()


def test_a_tunnel_is_of_no_use_where_workers_check_the_name_of_the_controller() -> None:
    worker = NewWorker("fit-1", 0, "kumi://head.example:7077", "kumi-1-51ab", lambda _: None)
    with pytest.raises(ValueError, match="tls=.*tunnel=False"):
        kumi.SSH(["alpha"]).launch([worker])


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"hosts": "alpha"}, TypeError, "hosts must be a sequence of names, or a mapping .* not 'alpha'"),
    ({"hosts": []}, ValueError, "hosts must be .* at least one"),
    ({"hosts": ["a", "a"]}, ValueError, "each once, not .*workers_per_host"),
    ({"hosts": ["-oProxyCommand=evil"]}, ValueError, "a name in hosts must be one that ssh takes"),
    ({"hosts": {"a": 0}}, ValueError, r"hosts\['a'\] must be a whole number of at least 1"),
    ({"hosts": {"a": 2}, "workers_per_host": 2}, ValueError, "workers_per_host is for a sequence of hosts"),
    ({"workers_per_host": 0}, ValueError, "workers_per_host must be a whole number of at least 1"),
    ({"python": ""}, TypeError, "python must be the path of an interpreter"),
    ({"tunnel": 1}, TypeError, "tunnel must be True or False, not 1"),
    ({"environment": {"A": 1}}, TypeError, "environment must map strings to strings"),
    ({"environment": {"A": "x" * 60_000}}, ValueError, "environment must have at most 60000 bytes"),
    ({"ssh": None}, TypeError, "ssh must be a non-empty string"),
    ({"options": "-v"}, TypeError, "options must be a sequence of arguments for ssh, not '-v'"),
    ({"options": [1]}, TypeError, "an argument in options must be a non-empty string"),
]


@pytest.mark.parametrize(("arguments", "kind", "text"), WRONG)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        kumi.SSH(**{"hosts": ["alpha"]} | arguments)
