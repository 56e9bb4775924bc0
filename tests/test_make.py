"""The Makefile as a newcomer meets it: `make help`, and one line for whatever the machine lacks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Stand-ins for the programs that `make dev` looks for: as it wants them, then as it must refuse them.
PYTHON = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
CARGO = "#!/bin/sh\necho cargo 1.85.0\n"
COMPILER = "#!/bin/sh\n"
OLD_PYTHON = "#!/bin/sh\nexit 1\n"
OLD_CARGO = "#!/bin/sh\necho cargo 1.63.0\n"
PYTHON_WITHOUT_VENV = f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n'


def make(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs make, which finds programs only in the folder `path` (None: as usual)."""
    environment = {"PATH": os.environ["PATH"] if path is None else str(path)}
    command = [shutil.which("make") or "make", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=30)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH with all that `make dev` needs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "awk").symlink_to(shutil.which("awk") or "/usr/bin/awk")
    for name, text in {"python3": PYTHON, "cargo": CARGO, "cc": COMPILER}.items():
        put(folder / name, text)
    return folder


def put(program: Path, text: str) -> None:
    program.write_text(text)
    program.chmod(0o755)


def test_help_lists_the_verbs_and_what_they_do() -> None:
    lines = [line.split(maxsplit=2) for line in make("help").stdout.splitlines()]
    assert [verb for _, verb, _ in lines] == ["dev", "lint", "test", "sim", "chaos", "bench", "fuzz", "demo", "docs"]


def test_make_alone_gives_help() -> None:
    assert make().stdout == make("help").stdout


@pytest.mark.parametrize(
    ("program", "stand_in", "advice"),
    [
        ("python3", None, "kumi needs Python 3.11 or later: apt-get install python3 python3-venv"),
        ("python3", OLD_PYTHON, "kumi needs Python 3.11 or later: apt-get install python3 python3-venv"),
        ("python3", PYTHON_WITHOUT_VENV, "kumi needs the venv module of Python: apt-get install python3-venv"),
        ("cargo", None, "kumi needs cargo: apt-get install cargo (1.85 or later) or https://rustup.rs"),
        ("cargo", OLD_CARGO, "kumi needs cargo: apt-get install cargo (1.85 or later) or https://rustup.rs"),
        ("cc", None, "kumi needs a C linker: apt-get install gcc libc6-dev"),
    ],
)
def test_missing_program_is_told_in_one_line(
    programs: Path, tmp_path: Path, program: str, stand_in: str | None, advice: str
) -> None:
    (programs / program).unlink()
    if stand_in is not None:
        put(programs / program, stand_in)
    result = make("dev", f"VENV={tmp_path / 'venv'}", path=programs)
    output = (result.stdout + result.stderr).splitlines()
    assert result.returncode == 2
    assert len(output) == 1
    assert advice in output[0]
    assert not (tmp_path / "venv").exists()


def test_machine_with_all_programs_lacks_nothing(programs: Path, tmp_path: Path) -> None:
    result = make("dev", "--dry-run", f"VENV={tmp_path / 'venv'}", path=programs)
    assert result.returncode == 0, result.stderr
    assert "maturin develop --release" in result.stdout
