"""The brain alone: a program of kumi-core that has it deal no-op tasks to fake workers, without hands and Python.

See `crates/kumi-core/src/bin/noops.rs` for what it runs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from benchmarks.peers import Skipped

ROOT = Path(__file__).parents[1]
SECONDS_TO_BUILD = 300.0


def program() -> Path:
    """Build the program as the extension is built, if it is not there yet.

    Raises:
        Skipped: There is no cargo.
    """
    if not shutil.which("cargo"):
        raise Skipped("cargo is not on PATH")
    command = ["cargo", "build", "--release", "--locked", "--quiet", "-p", "kumi-core", "--bin", "noops"]
    command.append("--message-format=json")
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=SECONDS_TO_BUILD)
    made = [json.loads(line).get("executable") for line in built.stdout.splitlines()]
    return Path(next(path for path in made if path))
