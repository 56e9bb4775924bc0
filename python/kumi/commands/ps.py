"""`kumi ps` lists the open controllers of this user on this machine, their workers and what those are at."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from kumi.commands.base import Verbs
from kumi.commands.listing import CONTROLLERS, WORKERS, controller_row, nobody, resident, silence, table, worker_row

if TYPE_CHECKING:
    from kumi.commands.asking import Found


def add(verbs: Verbs) -> None:
    """Enters the verb."""
    ps = verbs.add_parser(
        "ps",
        help="list controllers and their workers",
        description="Lists your open controllers on this machine, their workers and what those are at.",
    )
    ps.add_argument("--json", action="store_true", help="everything that is known, as one JSON object")
    ps.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Lists what is there.

    Args:
        options: What `add` has named.

    Returns:
        The exit code.
    """
    from kumi.commands import asking

    found = asking.look()
    sys.stdout.write(as_json(found) if options.json else as_text(found))
    return 0


def as_json(found: "Found") -> str:
    """All facts, with the memory of the workers on this machine."""
    for controller in found.controllers:
        for worker in controller["workers"]:
            worker["resident_bytes"] = resident(worker)
    return json.dumps({"controllers": found.controllers, "silent": found.silent}, indent=2) + "\n"


def as_text(found: "Found") -> str:
    """Two tables, and who has not answered."""
    parts = []
    if found.controllers:
        parts.append(table(CONTROLLERS, map(controller_row, found.controllers)) + "\n")
    workers = [worker for controller in found.controllers for worker in controller["workers"]]
    if workers:
        parts.append(table(WORKERS, map(worker_row, workers)) + "\n")
    if found.silent:
        parts.append(silence(found.silent))
    return "\n".join(parts) or nobody()
