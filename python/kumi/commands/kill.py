"""`kumi kill WORKER` ends a worker of a controller on this machine. Its task runs again on another one, unblamed."""

import argparse
import sys
from typing import Any

from kumi.commands.base import Verbs, say
from kumi.commands.listing import plain, task_name


def add(verbs: Verbs) -> None:
    """Enters the verb."""
    kill = verbs.add_parser(
        "kill",
        help="end a worker, whatever it is at",
        description="Ends workers at once. What they were at runs again on other workers, and the controller may "
        "start new ones in their place. To end a worker after its task, send its process SIGTERM.",
    )
    kill.add_argument(
        "workers", metavar="WORKER", nargs="+", help="its name, or its process id, as `kumi ps` shows them"
    )
    kill.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ends the workers that are named.

    Args:
        options: What `add` has named.

    Returns:
        The exit code: 1 if one of them could not be ended.
    """
    from kumi.commands import asking

    found = asking.look()
    failed = False
    for word in options.workers:
        try:
            controller, worker = choose(found.controllers, word)
            if not asking.kill(controller, worker):
                raise ValueError(f"worker {word!r} is gone already")
        except (OSError, ValueError) as error:
            silent = f" (process {controller['pid']} gives no answer)" if isinstance(error, TimeoutError) else ""
            say("kill", f"{error}{silent}", 1)
            failed = True
        else:
            sys.stdout.write(f"{plain(worker['name'])} is ended{fate(worker)}\n")
    return int(failed)


def choose(controllers: list[dict[str, Any]], word: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The worker of that name or process id, and its controller.

    Args:
        controllers: As their desks tell of them.
        word: What the user has named.

    Raises:
        ValueError: If there is none, or more than one.
    """
    everybody = [(controller, worker) for controller in controllers for worker in controller["workers"]]
    chosen = [(c, worker) for c, worker in everybody if word in (worker["name"], str(worker["pid"]))]
    if not chosen:
        raise ValueError(f"no worker {word!r} of yours is on this machine's controllers: see `kumi ps`")
    if len(chosen) > 1:
        several = ", ".join(f"{worker['pid']} of controller process {c['pid']}" for c, worker in chosen)
        raise ValueError(f"several workers are called {word!r}: name one by its process id, {several}")
    return chosen[0]


def fate(worker: dict[str, Any]) -> str:
    """What becomes of the task that the worker was at."""
    task = worker["task"]
    return "" if task is None else f"; its task {plain(task_name(task))} runs again, unless it is `once`"
