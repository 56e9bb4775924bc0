"""Where worker processes come from."""

from kumi.launchers.base import Command, Launcher, carry_out_orders
from kumi.launchers.local import Local, usable_cpus
from kumi.launchers.sequential import Sequential, run_one

__all__ = ["Command", "Launcher", "Local", "Sequential", "carry_out_orders", "run_one", "usable_cpus"]
