"""The gate on the brain's speed: instructions for a no-op task, beside those that are committed."""

import os
from dataclasses import replace

import pytest

from benchmarks.instructions import WORKLOADS, Counts, count
from benchmarks.peers import Skipped

COMMITTED = Counts("rustc 1.90.0, glibc 2.41, x86_64", dict.fromkeys(WORKLOADS, 1000))


def taking(instructions: int) -> Counts:
    return replace(COMMITTED, instructions=COMMITTED.instructions | {"single 2": instructions})


@pytest.mark.timeout(300)  # the program may have to be built
def test_the_brain_takes_no_more_instructions_than_are_committed() -> None:
    try:
        counted = count()
    except Skipped as reason:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(reason))
    faults = counted.faults(Counts.read())
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("instructions", [981, 1000, 1019])
def test_small_differences_are_allowed(instructions: int) -> None:
    assert taking(instructions).faults(COMMITTED) == []


def test_more_is_a_fault_that_says_how_much_and_what_to_do() -> None:
    (fault,) = taking(1030).faults(COMMITTED)
    assert fault.startswith("single 2: 1,030 instructions a task, committed are 1,000 (+3.0%; rustc 1.90.0")
    assert "--renew" in fault


def test_much_less_is_to_be_committed_too() -> None:
    assert len(taking(900).faults(COMMITTED)) == 1


@pytest.mark.parametrize(("instructions", "faults"), [(500, 0), (1090, 0), (1110, 1)])
def test_another_compiler_is_given_more_room(instructions: int, faults: int) -> None:
    other = replace(taking(instructions), toolchain="rustc 1.85.0, glibc 2.41, x86_64")
    assert len(other.faults(COMMITTED)) == faults
