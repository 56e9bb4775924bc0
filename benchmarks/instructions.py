"""How many instructions does the brain take for one no-op task? A test holds them to `instructions.toml`.

    python -m benchmarks.instructions            # prints what it counts beside what is committed
    python -m benchmarks.instructions --renew    # writes it, after a change that is worth its price

Callgrind counts them. Decision 018 tells why instructions, and why this tolerance.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import Skipped
from benchmarks.programs import noops

FILE = Path(__file__).with_name("instructions.toml")
WORKLOADS = ("burst 2", "single 2", "burst 1000", "half 1")
TASKS = 20_000
ALIKE = 0.02  # with the same compiler and C library; another processor may copy memory by other instructions
OTHERWISE = 0.10  # rustc 1.85 makes 2 to 5% more of them than 1.95; a quarter of all is the C library's malloc
SECONDS_LIMIT = 60.0
HEAD = """\
# Instructions of the brain for one no-op task, counted by callgrind: see instructions.py, which writes this file.
"""


@dataclass(frozen=True)
class Counts:
    """Instructions for one task, by workload, and the compiler and C library that they are true for."""

    toolchain: str
    instructions: dict[str, int]

    @classmethod
    def read(cls) -> Counts:
        """Return what is committed."""
        return cls(**tomllib.loads(FILE.read_text()))

    def write(self) -> None:
        """Write them where they are committed."""
        lines = [f'"{workload}" = {count}' for workload, count in self.instructions.items()]
        table = "\n".join(["[instructions]", *lines])
        FILE.write_text(f'{HEAD}toolchain = "{self.toolchain}"\n\n{table}\n')

    def faults(self, committed: Counts) -> list[str]:
        """Return a sentence for each workload that takes more than is committed, or less with the same toolchain."""
        alike = self.toolchain == committed.toolchain
        most = 1 + (ALIKE if alike else OTHERWISE)
        least = 1 - ALIKE if alike else 0.0
        shares = {name: count / committed.instructions[name] for name, count in self.instructions.items()}
        return [
            f"{name}: {self.instructions[name]:,} instructions a task, committed are {committed.instructions[name]:,}"
            f" ({share - 1:+.1%}; {self.toolchain}). If that is meant, renew: python -m benchmarks.instructions --renew"
            for name, share in shares.items()
            if not least <= share <= most
        ]


def count() -> Counts:
    """Count.

    Raises:
        Skipped: There is no valgrind, or no cargo.
    """
    if not shutil.which("valgrind"):
        raise Skipped("valgrind is not on PATH")
    made = noops()
    return Counts(_toolchain(), {workload: _per_task(made, workload) for workload in WORKLOADS})


def _per_task(made: Path, workload: str) -> int:
    return round((_instructions(made, workload, TASKS) - _instructions(made, workload, 0)) / TASKS)


def _instructions(made: Path, workload: str, tasks: int) -> int:
    command = [
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        str(made),
        *workload.split(),
        str(tasks),
    ]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS_LIMIT)
    collected = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode or collected is None:
        raise RuntimeError(f"`noops {workload} {tasks}` failed under valgrind:\n{run.stderr}")
    return int(collected[1])


def _toolchain() -> str:
    rustc = subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True, timeout=SECONDS_LIMIT)
    return ", ".join([" ".join(rustc.stdout.split()[:2]), " ".join(platform.libc_ver()), platform.machine()])


def main() -> None:
    """Print the counts, or write them."""
    counted = count()
    if "--renew" in sys.argv[1:]:
        counted.write()
    committed = Counts.read()
    print(f"{counted.toolchain}; committed for {committed.toolchain}")
    for workload, instructions in counted.instructions.items():
        print(f"{workload:12} {instructions:8,} {committed.instructions[workload]:8,}")


if __name__ == "__main__":
    main()
