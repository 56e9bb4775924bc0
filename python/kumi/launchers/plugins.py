"""Launchers that other packages bring along, by name."""

from typing import Any

GROUP = "kumi.launchers"


def find(name: str) -> Any:
    """The launcher of this name: kumi's own, or that of another package, entered there as `kumi.launchers`.

    Args:
        name: Such as "local", or as the package says.

    Returns:
        What the package has entered: a class of launchers, or a function that makes one.

    Raises:
        ValueError: If there is none; it lists those that are there.

    Example:
        >>> launcher = kumi.launchers.find("local")()
    """
    from importlib.metadata import entry_points

    found = entry_points(group=GROUP)
    if name in found.names:
        return found[name].load()
    names = ", ".join(sorted(found.names)) or "none"
    raise ValueError(f"no launcher named {name!r} is installed; installed are: {names}")
