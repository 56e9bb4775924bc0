"""Workers that a launcher holds by their standard input."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import kumi
import pytest
from conftest import ends_in_time
from kumi.launchers import usable_cpus
from kumi.launchers.base import ATTACHED

LIMIT = 50.0
HOST = "127.0.0.1"


@pytest.fixture
def attached(tmp_path: Path) -> Iterator[tuple[kumi.Controller, "subprocess.Popen[bytes]"]]:
    """A controller and its worker, which has not been told yet who it is."""
    with kumi.Controller(None, host=HOST, crashes_max=0) as crew:
        words = [sys.executable, "-m", "kumi", "worker", crew.url, "--attached", "--workers-here", "1000"]
        variables = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
        pipe = subprocess.PIPE
        with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, cwd=tmp_path, env=variables) as process:
            yield crew, process
            crew.terminate()


def tell(process: "subprocess.Popen[bytes]", **variables: str) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(variables).encode() + b"\n")
    process.stdin.flush()


def test_its_variables_come_by_its_input_and_it_says_that_it_has_them(
    attached: "tuple[kumi.Controller, subprocess.Popen[bytes]]",
) -> None:
    crew, process = attached
    tell(process, KUMI_JOIN_CODE=crew.join_code(), KUMI_INDEX="0", TOKEN="it's = hidden")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == process.stderr.readline() == ATTACHED
    variables = crew.submit(lambda: dict(os.environ)).result(timeout=LIMIT)
    assert variables["TOKEN"] == "it's = hidden"
    assert variables["OMP_NUM_THREADS"] == str(max(1, usable_cpus() // 1000))
    assert not {"KUMI_JOIN_CODE", "KUMI_INDEX"} & variables.keys()
    crew.terminate()
    assert process.wait(LIMIT) == 0


def test_it_ends_with_its_input(attached: "tuple[kumi.Controller, subprocess.Popen[bytes]]") -> None:
    crew, process = attached
    tell(process, KUMI_JOIN_CODE=crew.join_code())
    task = crew.submit(wait_for_ever)
    tree = next(iter(task.reports()))
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(LIMIT) == 128 + 15
    assert all(ends_in_time(pid) for pid in tree)
    with pytest.raises(kumi.CrashError, match="its agent was told to end by SIGTERM"):
        task.result(timeout=LIMIT)


def wait_for_ever() -> None:
    child = subprocess.Popen(["sleep", "1000"])
    kumi.report((os.getpid(), child.pid))
    child.wait()


@pytest.mark.parametrize("given", [b"", b"null\n", b'{"KUMI_JOIN_CODE": 5}\n', b"kumi-1-51ab51ab51ab51ab51ab\n"])
def test_one_that_is_told_nonsense_says_so_and_no_secret(given: bytes) -> None:
    words = [sys.executable, "-m", "kumi", "worker", f"kumi://{HOST}:1/{64 * '0'}", "--attached"]
    ended = subprocess.run(words, input=given, capture_output=True, timeout=LIMIT, check=False)
    assert ended.returncode == 1
    assert b"the first line of standard input must be a JSON object of variables" in ended.stderr
    assert b"51ab" not in ended.stderr


def test_a_number_of_workers_below_one_is_refused() -> None:
    words = [sys.executable, "-m", "kumi", "worker", f"kumi://{HOST}:1/{64 * '0'}", "--workers-here", "0"]
    ended = subprocess.run(words, capture_output=True, timeout=LIMIT, check=False)
    assert ended.returncode == 2
    assert b"--workers-here: must be a whole number from 1, not '0'" in ended.stderr
