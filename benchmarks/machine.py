"""Where the figures come from: facts about this machine, and pinning of processes to its cores (Linux)."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path


def facts() -> dict[str, object]:
    """Return what a reader must know to judge the figures; the load is that of one minute before the run."""
    cpu = Path("/proc/cpuinfo").read_text()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _field(cpu, "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gigabytes": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "virtual": " hypervisor" in cpu,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def caveats(facts: dict[str, object]) -> list[str]:
    """Return the sentences that these facts oblige us to print."""
    found = []
    if facts["virtual"]:
        found.append(
            "A virtual machine: waking another core costs more than on bare metal, and neighbours may interfere."
        )
    if float(str(facts["load_before"])) > 0.5:
        found.append(
            f"The machine was busy before the run (load {facts['load_before']}): trust ratios, not absolute figures."
        )
    if int(str(facts["cores"])) <= 2:
        found.append(
            "Host and two workers share two cores: the host's own work slows the workers, for every pool alike."
        )
    return found


def two_cores() -> tuple[int, int] | None:
    """Return two usable cores, of different physical cores where there are such, or None where there is only one."""
    first, *others = sorted(os.sched_getaffinity(0))
    apart = [core for core in others if core not in _siblings(first)]
    return (first, (apart or others)[0]) if others else None


@contextlib.contextmanager
def unpinned_after() -> Iterator[None]:
    """Give every thread of this process its cores back at the end of the block."""
    before = os.sched_getaffinity(0)
    try:
        yield
    finally:
        pin(os.getpid(), before)


def pin(process: int, cores: set[int]) -> None:
    """Pin all present threads of `process` to `cores`; threads that end meanwhile need none."""
    for thread in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def family_bytes() -> int:
    """Return the memory of this process and its children, in bytes; what several of them map counts once."""
    rollups = [(Path("/proc") / str(member) / "smaps_rollup").read_text() for member in ["self", *children()]]
    return sum(int(_field(rollup, "Pss").split()[0]) * 1024 for rollup in rollups)


def children() -> set[int]:
    """Return the process ids of this process's children, whichever thread started them."""
    return {int(child) for thread in Path("/proc/self").glob("task/*/children") for child in thread.read_text().split()}


def processor_seconds(process: int) -> float:
    """Return for how long the present threads of `process` have run."""
    threads = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def _field(text: str, name: str) -> str:
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), platform.machine())


def _siblings(core: int) -> set[int]:
    """Return the hardware threads that share a physical core with `core`; empty where the kernel does not say."""
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    if not path.exists():
        return set()
    ranges = (part.split("-") for part in path.read_text().strip().split(","))
    return {core for ends in ranges for core in range(int(ends[0]), int(ends[-1]) + 1)}
