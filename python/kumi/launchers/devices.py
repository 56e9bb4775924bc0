"""Which GPUs a worker sees: the names of devices, dealt out in slots. Looks at the environment alone, at no device."""

import os
from collections.abc import Iterable

# CUDA's variable, which ROCm's HIP understands as well, and HIP's own: they must not contradict each other.
VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
# Of the layer below HIP: what it hides is not counted above, so devices are numbered within what it leaves.
BELOW = "ROCR_VISIBLE_DEVICES"

MOST = 1024  # of one machine; arbitrary, so that a slip of the pen is not counted out

Gpus = int | tuple[int | str, ...]


def checked(gpus: object) -> Gpus:
    """What the user wrote, if it can name devices: how many, or which, by index or by UUID."""
    accepted = f"gpus must be a number from 1 to {MOST}, or a list of different indices or names such as 'GPU-5f3a...'"
    if isinstance(gpus, int) and not isinstance(gpus, bool):
        if not 1 <= gpus <= MOST:
            raise ValueError(f"{accepted}, not {gpus!r}")
        return gpus
    if isinstance(gpus, bool | str | bytes) or not isinstance(gpus, Iterable):
        raise TypeError(f"{accepted}, not {gpus!r}")
    names = tuple(gpus)
    for name in names:
        if isinstance(name, bool) or not isinstance(name, int | str):
            raise TypeError(f"{accepted}: {name!r} is neither")
        if not _is_name(name):
            raise ValueError(f"{accepted}: {name!r} is neither")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{accepted}, not {gpus!r}")
    return names


def _is_name(name: int | str) -> bool:
    if isinstance(name, int):
        return 0 <= name < MOST
    return name[:1].isalpha() and not set(name) & set(", \0")


def named(gpus: Gpus) -> list[str]:
    """The names of the devices, as their variable has them: indices are within what this process sees itself.

    Raises:
        ValueError: If this process does not see so many.
    """
    source, seen = _seen()
    wanted = range(gpus) if isinstance(gpus, int) else gpus
    names = []
    for name in wanted:
        if seen is not None and isinstance(name, int) and name >= len(seen):
            raise ValueError(f"gpus asks for device {name}, but {source} shows this process {len(seen)}, from 0 on")
        names.append(name if isinstance(name, str) else str(name) if seen is None else seen[name])
    if len(set(names)) < len(names):
        raise ValueError(f"gpus names a device twice: {', '.join(names)}")
    return names


def _seen() -> tuple[str, list[str] | None]:
    """The variable that says which devices this process sees, and their names; None: all there are."""
    for variable in VARIABLES:
        if variable in os.environ:
            return variable, _listed(variable)
    if BELOW in os.environ:
        return BELOW, [str(index) for index in range(len(_listed(BELOW)))]
    return "", None


def _listed(variable: str) -> list[str]:
    """What stands in it, up to the first that is none: so does CUDA read it."""
    names = []
    for name in os.environ[variable].split(","):
        if name.strip() in ("", "-1"):
            break
        names.append(name.strip())
    return names


def slots(gpus: Gpus, each: int) -> list[dict[str, str]]:
    """The variables of each worker.

    Args:
        gpus: The devices.
        each: How many a worker has.

    Example:
        >>> slots((0, 1), 1)[1]["CUDA_VISIBLE_DEVICES"]
        '1'
    """
    names = named(gpus)
    shares = [names[first : first + each] for first in range(0, len(names) - each + 1, each)]
    return [dict.fromkeys(VARIABLES, ",".join(share)) for share in shares]
