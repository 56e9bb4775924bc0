"""Where worker processes come from."""

from kumi.launchers.base import Command, Launcher, LocalLauncher, NewWorker, carry_out_orders, said, slots_of
from kumi.launchers.local import Local, usable_cpus
from kumi.launchers.plugins import find
from kumi.launchers.rounds import Rounds, seconds_poll
from kumi.launchers.sequential import Sequential, run_one

AnyLauncher = Launcher | LocalLauncher | Sequential | str | None  # what a controller takes

__all__ = [
    "AnyLauncher",
    "Command",
    "Launcher",
    "Local",
    "LocalLauncher",
    "NewWorker",
    "Rounds",
    "Sequential",
    "carry_out_orders",
    "find",
    "run_one",
    "said",
    "seconds_poll",
    "slots_of",
    "usable_cpus",
]
