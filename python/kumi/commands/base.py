"""What every verb of the command line has in common."""

import argparse
import os
import signal
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Verbs = object


def print_lines(lines: Iterable[str]) -> None:
    """Prints what a verb was asked for, as long as somebody reads it.

    Args:
        lines: Without their ends.
    """
    try:
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()
    except BrokenPipeError:  # as `head` does when it has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # lest Python complains when it ends


def say(verb: str, text: str, code: int) -> int:
    """Tells on stderr how a verb has ended.

    Args:
        verb: The word after `kumi`.
        text: What to tell.
        code: The exit code.

    Returns:
        The exit code.
    """
    if sys.stderr is not None:
        sys.stderr.write(f"kumi {verb}: {text}\n")
    return code


def ended_by(verb: str, number: int) -> int:
    """Tells which signal has ended a verb.

    Args:
        verb: The word after `kumi`.
        number: Of the signal.

    Returns:
        The exit code that shells give it.
    """
    return say(verb, f"ended by {signal.Signals(number).name}", 128 + number)
