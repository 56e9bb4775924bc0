"""The command line: `kumi VERB`. Each verb is a module of `kumi.commands`."""

import argparse
import signal
import sys
from collections.abc import Sequence

from kumi.commands import kill, logs, metrics, ps, top, worker
from kumi.commands.base import ended_by, say

VERBS = (worker, ps, top, logs, metrics, kill)


def main(arguments: Sequence[str] | None = None) -> int:
    """What the command `kumi` does.

    Args:
        arguments: The words after `kumi`; None: those of this process.

    Returns:
        The exit code: 0 if all went well, for `worker` if the controller has ended, or wants no more workers; 1 if
        anything failed, which stderr says; and 128 and the number of the signal if one has ended it.

    Example:
        >>> main(["worker", "kumi://node1.example:7000/51ab...", "--join-code", "code.txt"])
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb = words[0] if words else ""
    try:
        worker.refuse_secrets(words)
        options = _parser().parse_args(words)
        return int(options.run(options))
    except (OSError, ValueError) as error:
        return say(verb, str(error), 1)
    except KeyboardInterrupt:  # before there is a worker, which such signals end in their own way
        return ended_by(verb, signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kumi", description="Runs Python functions on other processes.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        verb.add(verbs)
    return parser
