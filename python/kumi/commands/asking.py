"""Asks the open controllers of this user on this machine. Believes nothing that takes longer than a moment."""

import asyncio
import json
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kumi import desks

SECONDS = 2.0  # a host that has not answered by then is stopped, or its machine is
BYTES_MAX = 1 << 28  # of one answer: a hundred thousand workers


class Desk(NamedTuple):
    """Where one controller is asked.

    Attributes:
        pid: Of its process.
        path: Of its socket, as long as `Desks` is open.
    """

    pid: int
    path: Path


@dataclass(frozen=True)
class Found:
    """What the controllers of this user say.

    Attributes:
        controllers: What each has answered to `facts`, see docs/monitor.md, with its `desk` and its `program`.
        silent: Process ids of those that have not answered.
    """

    controllers: list[dict[str, Any]] = field(default_factory=list)
    silent: list[int] = field(default_factory=list)


class Desks(ExitStack):
    """Those that are there now, as long as the `with` block lasts."""

    def find(self) -> list[Desk]:
        """All desks, the oldest process first."""
        found = []
        for place in desks.places():
            try:
                directory = self.enter_context(desks.entered(place))
                names = [path.name for path in directory.iterdir()]
            except OSError:
                continue  # it is not there, or not safe: nobody uses it
            for name in names:
                pid, _, rest = name.partition("-")
                if pid.isdecimal() and rest.endswith(".sock"):
                    found.append(Desk(int(pid), directory / name))
        return sorted(found)


def look() -> Found:
    """Asks everybody who is there. What dead processes have left is removed."""
    with Desks() as room:
        return asyncio.run(_look(room.find()))


def kill(controller: dict[str, Any], worker: dict[str, Any]) -> bool:
    """Ends a worker.

    Args:
        controller: As `look` has found it.
        worker: One of its workers.

    Returns:
        Whether it was still there.

    Raises:
        OSError: If its controller does not answer any more.
    """
    with Desks() as room:
        for desk in room.find():
            if (desk.pid, desk.path.name) == (controller["pid"], controller["desk"]):
                answer = asyncio.run(_ask(desk, f"kill {worker['number']}"))
                return bool(answer["found"])
    return False


async def _look(found: list[Desk]) -> Found:
    answers = await asyncio.gather(*(_ask(desk, "facts") for desk in found), return_exceptions=True)
    result = Found()
    for desk, answer in zip(found, answers, strict=True):
        if isinstance(answer, dict):
            result.controllers.append(answer | {"desk": desk.path.name, "program": _program(desk.pid)})
        elif isinstance(answer, FileNotFoundError):
            pass  # it has ended meanwhile
        elif isinstance(answer, ConnectionRefusedError) or not Path(f"/proc/{desk.pid}").exists():
            desk.path.unlink(missing_ok=True)
        elif isinstance(answer, OSError | ValueError):
            result.silent.append(desk.pid)
        else:
            raise answer
    return result


async def _ask(desk: Desk, question: str) -> dict[str, Any]:
    """The answer.

    Raises:
        OSError, ValueError: If there is none in time, or it is none.
    """
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_unix_connection(desk.path, limit=BYTES_MAX)
        try:
            writer.write(f"{question}\n".encode())
            line = await reader.readline()
        finally:
            writer.close()
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise ValueError(f"not an answer: {line[:80]!r}")
    return answer


def _program(pid: int) -> str:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
