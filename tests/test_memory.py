"""The host has as much memory as before, however many tasks it pushes and pops: 100,000, or as many as one asks for."""

import os
from pathlib import Path

import pytest
from rig import run_python

TASKS = int(os.environ.get("KUMI_PUSHED", "100000"))
GROWTH_MAX = 3.0  # megabytes; 30 bytes for each of so many tasks would be found

PROGRAM = """
import sys, jobs, kumi

def megabytes():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096 / 1e6

def push_and_pop(crew, count):
    taken = 0
    for number in range(count):
        crew.with_options(name=f"task {number}").push(jobs.add, number)
        if number % 1000 == 999:
            taken += sum(record.result == int(record.name[5:]) + 1 for record in crew.records())
    return taken

tasks = int(sys.argv[1])
with kumi.Controller(workers=2) as crew:
    before = push_and_pop(crew, 20_000), megabytes()
    after = push_and_pop(crew, tasks), megabytes()
print(before[0], after[0], after[1] - before[1])
"""


@pytest.mark.timeout(60 + TASKS / 1000)
def test_memory_is_flat_over_pushed_and_popped_tasks(tmp_path: Path) -> None:
    first, then, growth = run_python("-c", PROGRAM, str(TASKS), directory=tmp_path, seconds=50 + TASKS / 1000).split()
    assert (int(first), int(then)) == (20_000, TASKS)
    assert float(growth) < GROWTH_MAX
