"""`kumi worker`: how it is called, what its worker is like, and how it ends. Sessions and deaths are tested in Rust."""

import os
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
from kumi import serial
from scripted import CODE, DATA, MODULE, SECONDS, Host, fingerprint, kumi

NOWHERE = f"kumi://127.0.0.1:1/{'0' * 64}"
ENVIRONMENT = os.environ | {"KUMI_JOIN_CODE": CODE}


FACTS = """[
    (os := __import__("os")).environ.get("KUMI_JOIN_CODE"),
    (sys := __import__("sys")).path[:1] + sys.path[-1:],
    os.getcwd(),
    os.environ["MARK"],
    os.environ["OMP_NUM_THREADS"],
    sys.executable,
]"""


def test_worker_is_like_a_local_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, "/only/there"])
    environment = ENVIRONMENT | {"MARK": "seen", "OMP_NUM_THREADS": "3"}
    with Host() as host, kumi("worker", host.url, env=environment, cwd=tmp_path) as agent:
        host.admit()
        host.run(1, eval, FACTS)
        lease, success, payload = host.answer()
        assert (lease, success) == (1, True)
        here = str(tmp_path)
        assert serial.loads(payload) == [None, [here, "/only/there"], here, "seen", "3", sys.executable]
        host.run(2, lambda: print("out") or print("err", file=sys.stderr))  # type: ignore[func-returns-value]
        assert host.answer()[:2] == (2, True)
        host.stop()
        assert agent.communicate(timeout=SECONDS) == ("out\n", "err\n")
        assert agent.returncode == 0


def test_the_script_is_the_same(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("kumi")
    with Host() as host, kumi("worker", host.url, command=[script], env=ENVIRONMENT, cwd=tmp_path) as agent:
        host.admit()
        host.run(1, eval, "__import__('sys').path[0]")
        assert serial.loads(host.answer()[2]) == str(tmp_path)
        host.stop()
        assert agent.wait(SECONDS) == 0


def test_what_it_submits_brings_the_path_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, "/only/there"])
    with Host() as host, kumi("worker", host.url, env=ENVIRONMENT, cwd=tmp_path) as agent:
        host.admit()
        host.run(1, eval, "__import__('kumi').submit(len, 'four') and None")
        while (message := host.next())[0] != 140:  # Declare
            assert message[0] in {129, 152}
        assert b"/only/there" in message[1]
        assert str(tmp_path).encode() not in message[1]
        agent.kill()


def test_without_streams_it_works_as_well() -> None:
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *MODULE]
    with Host() as host, kumi("worker", host.url, command=closed, env=ENVIRONMENT) as agent:
        host.admit()
        host.run(1, print, "x" * 100_000)
        assert host.answer()[:2] == (1, True)
        host.stop()
        assert agent.wait(SECONDS) == 0


def test_signals_that_are_ignored_end_nothing() -> None:
    nohup = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *MODULE]
    with Host() as host, kumi("worker", host.url, command=nohup, env=ENVIRONMENT) as agent:
        host.admit()
        agent.send_signal(signal.SIGHUP)
        host.run(1, len, "four")
        assert host.answer()[:2] == (1, True)
        host.stop()
        assert agent.wait(SECONDS) == 0


def test_one_address_of_a_name_suffices() -> None:
    with Host() as host, kumi("worker", host.url.replace("127.0.0.1", "localhost"), env=ENVIRONMENT) as agent:
        host.admit()
        host.stop()
        assert agent.wait(SECONDS) == 0


def nap() -> None:
    import time

    print("asleep")
    time.sleep(50)


def test_a_busy_task_is_interrupted() -> None:
    with Host() as host, kumi("worker", host.url, env=ENVIRONMENT) as agent:
        host.admit()
        host.run(1, nap)
        assert agent.stdout is not None
        assert agent.stdout.readline() == "asleep\n"
        host.interrupt(1)
        assert host.answer()[:2] == (1, False)
        host.stop()
        assert agent.wait(SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(number: signal.Signals) -> None:
    with Host() as host, kumi("worker", host.url, env=ENVIRONMENT) as agent:
        host.admit()
        host.run(1, nap)
        assert agent.stdout is not None
        assert agent.stdout.readline() == "asleep\n"
        agent.send_signal(number)
        host.bury()
        _, text = agent.communicate(timeout=SECONDS)
        assert (agent.returncode, text) == (128 + number, f"kumi worker: ended by {number.name}\n")


def test_on_a_terminal_it_tells_what_goes_on() -> None:
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        with Host() as host, kumi("worker", host.url, env=ENVIRONMENT, stderr=theirs) as agent:
            os.close(theirs)
            host.admit()
            host.run(1, len, "four")
            host.answer()
            host.stop()
            assert agent.wait(SECONDS) == 0
            assert terminal.read(4096).decode().splitlines() == [
                f"kumi worker: connected to {host.address} as crew-1",
                "kumi worker: worker crew-1 has ended: exited with code 0",
            ]


def test_on_a_terminal_it_asks_for_the_code_and_does_not_show_it() -> None:
    ours, theirs = os.openpty()
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        # In a session of its own, without which it would ask at the terminal of the tests.
        with Host() as host, kumi("worker", host.url, stdin=theirs, start_new_session=True) as agent:
            os.close(theirs)
            assert agent.stderr is not None
            assert agent.stderr.read(len("join code: ")) == "join code: "
            terminal.write(f"{CODE}\n".encode())
            host.accept()
            host.refuse("not today")
            host.__exit__()
            _, text = agent.communicate(timeout=SECONDS)
        assert text.strip() == "kumi worker: the host has refused this worker: not today"


def test_code_from_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "code"
    file.write_text(f"{CODE}\n")
    file.chmod(0o600)
    with Host() as host, kumi("worker", host.url, "--join-code", str(file)) as agent:
        host.accept()
        host.refuse("not today")
        host.__exit__()
        _, text = agent.communicate(timeout=SECONDS)
        assert (agent.returncode, text) == (1, "kumi worker: the host has refused this worker: not today\n")


def test_code_from_standard_input() -> None:
    with Host() as host, kumi("worker", host.url, "--join-code", "-") as agent:
        assert agent.stdin is not None
        agent.stdin.write(f"{CODE}\n")
        agent.stdin.flush()
        host.accept()


def failure(*arguments: str, **options: Any) -> str:
    """What `kumi worker` says when it fails: one line."""
    with kumi("worker", *arguments, **options) as agent:
        out, text = agent.communicate(timeout=SECONDS)
    assert (agent.returncode, out) == (1, "")
    assert text.startswith("kumi worker: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text.removeprefix("kumi worker: ")


@pytest.mark.parametrize(
    "url",
    [
        *("", "node7", "http://node7:80/", "kumi://node7", "kumi://node7:0/", "kumi://node7:x/", "kumi://node7:70000/"),
        *("kumi://:7/", "kumi://me@node7:7/", "kumi://node7:7/?x", "kumi://[::1/"),
    ],
)
def test_a_malformed_url(url: str) -> None:
    expected = f"URL must be kumi://HOST:PORT/FINGERPRINT, as the controller shows it, not {url!r}\n"
    assert failure(url, env=ENVIRONMENT) == expected


def test_a_malformed_fingerprint() -> None:
    text = failure("kumi://node7:7/5a5a", env=ENVIRONMENT)
    assert text == '"5a5a" is no fingerprint, which has 64 hexadecimal digits\n'


def test_no_code() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "KUMI_JOIN_CODE"}
    assert failure(NOWHERE, env=environment).startswith("the join code is missing, which the controller's join_code()")


@pytest.mark.parametrize("code", ["", "secret", CODE[:-1], CODE + "0"])
def test_a_malformed_code_is_not_shown(code: str) -> None:
    text = failure(NOWHERE, env=os.environ | {"KUMI_JOIN_CODE": code})
    assert "join" in text
    assert not code or code[-20:] not in text


@pytest.mark.parametrize("arguments", [[NOWHERE, CODE], [NOWHERE, "--join-code", CODE], [f"--join-code={CODE}"]])
def test_a_code_on_the_command_line_is_refused(arguments: list[str]) -> None:
    text = failure(*arguments)
    assert text.startswith("a join code stands on the command line, where every user of this machine can read it")
    assert CODE[-20:] not in text


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "code"
    file.write_text(CODE)
    file.chmod(0o640)
    text = failure(NOWHERE, "--join-code", str(file))
    assert text == f"the file {file} is open to others (mode 0640), and has a secret: chmod 600 {file}\n"


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    assert "No such file" in failure(NOWHERE, "--join-code", str(tmp_path / "code"))
    assert "No such file" in failure("kumi://node7:7", "--authorities", str(tmp_path / "pem"), env=ENVIRONMENT)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # nobody else can listen there
        text = failure(f"kumi://{address}/{'0' * 64}", "--seconds-connect", "0.2", env=ENVIRONMENT)
    assert text.startswith(f"{address}: the host could not be reached for 0.2 s: ")
    assert text.endswith("; the last attempt: 127.0.0.1: Connection refused (os error 111)\n")


def test_a_name_that_does_not_resolve() -> None:
    text = failure(f"kumi://nobody.invalid:7/{'0' * 64}", "--seconds-connect", "0.1", env=ENVIRONMENT)
    assert text.startswith("nobody.invalid:7: the host could not be reached for 0.1 s: ")


def test_another_certificate() -> None:
    with Host() as host, kumi("worker", f"kumi://{host.address}/{'0' * 64}", env=ENVIRONMENT) as agent:
        with pytest.raises(ssl.SSLError, match="(?i)alert"):
            host.accept()
        text = agent.communicate(timeout=SECONDS)[1]
    assert agent.returncode == 1
    assert text.startswith(f"kumi worker: {host.address} is not the host of this URL: ")
    assert fingerprint() in text
    assert "0" * 64 in text


def test_authorities_vouch_for_a_name() -> None:
    arguments = ["--authorities", str(DATA / "authority.pem")]
    with Host() as host, kumi("worker", f"kumi://{host.address}", *arguments, env=ENVIRONMENT) as agent:
        with pytest.raises(ssl.SSLError, match="(?i)alert"):
            host.accept()
        text = agent.communicate(timeout=SECONDS)[1]
    assert agent.returncode == 1
    assert text.startswith(f"kumi worker: {host.address} is not the host of this URL: ")
    assert "node7.example" in text


def test_the_authorities_of_the_system_are_asked() -> None:
    files = {"SSL_CERT_FILE": str(DATA / "authority.pem"), "SSL_CERT_DIR": "/nowhere"}
    with Host() as host, kumi("worker", f"kumi://{host.address}/", env=ENVIRONMENT | files) as agent:
        with pytest.raises(ssl.SSLError, match="(?i)alert"):
            host.accept()
        assert "node7.example" in agent.communicate(timeout=SECONDS)[1]
    none = dict.fromkeys(files, "/nowhere")
    text = failure("kumi://node7:7", env=ENVIRONMENT | none)
    assert text.startswith("URL has no fingerprint, and this system has no list of authorities: ")


def test_authorities_and_a_fingerprint_contradict_each_other() -> None:
    assert failure(NOWHERE, "--authorities", "x", env=ENVIRONMENT).startswith("--authorities is for a URL without")
