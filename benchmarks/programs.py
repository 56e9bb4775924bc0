"""Programs of the core's crates that measure without Python, built as the extension is built.

`noops` (crates/kumi-core/src/bin) has the brain alone deal no-op tasks to fake workers; `crowd`
(crates/kumi-net/examples) is a host with its sockets, and a crowd of fake workers that dial in.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from benchmarks.peers import Skipped

ROOT = Path(__file__).parents[1]
SECONDS_TO_BUILD = 300.0


def noops() -> Path:
    """Build the program, if it is not there yet.

    Raises:
        Skipped: There is no cargo.
    """
    return _build("-p", "kumi-core", "--bin", "noops")


def crowd() -> Path:
    """The same."""
    return _build("-p", "kumi-net", "--features", "plain", "--example", "crowd")


def _build(*target: str) -> Path:
    if not shutil.which("cargo"):
        raise Skipped("cargo is not on PATH")
    command = ["cargo", "build", "--release", "--locked", "--quiet", *target, "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=SECONDS_TO_BUILD)
    made = [json.loads(line).get("executable") for line in built.stdout.splitlines()]
    return Path(next(path for path in made if path))
