"""Where the open controllers of a user are asked from other terminals: sockets in a directory nobody else may enter.

Each open controller has one, its desk, which its I/O thread serves. Decides where they lie, and what is safe enough.
"""

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kumi._core import Pool

_LOGGER = logging.getLogger(__name__)


def places() -> list[Path]:
    """The directories that may be used, the best first. `XDG_RUNTIME_DIR` is removed when its user logs out."""
    user = os.geteuid()
    first = Path(f"/tmp/kumi-{user}")
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{user}")
    return [first, Path(runtime, "kumi")] if Path(runtime).is_absolute() else [first]


@contextmanager
def entered(place: Path, *, make: bool = False) -> Iterator[Path]:
    """Holds a directory open, so that what is looked at is what is used.

    Args:
        place: The directory.
        make: Whether to make it if it is missing.

    Yields:
        A path to it that is good as long as it is held.

    Raises:
        OSError: If it is missing, is no directory, or others may enter it.
    """
    if make:
        with suppress(FileExistsError):
            place.mkdir(0o700)
    held = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        facts = os.fstat(held)
        if facts.st_uid != os.geteuid():
            raise PermissionError(f"{place} belongs to another user")
        if facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise PermissionError(f"{place} is open to others: chmod 700 {place}")
        yield Path(f"/proc/self/fd/{held}")
    finally:
        os.close(held)


def open_desk(pool: Pool, launcher: object) -> None:
    """Has `kumi ps` see a pool that is about to start. If it cannot, a warning is logged: the pool works all the same.

    Args:
        pool: Not started yet.
        launcher: Where its workers come from; None: they are started by hand.
    """
    name = "by hand" if launcher is None else type(launcher).__name__
    faults = []
    for place in places():
        try:
            with entered(place, make=True) as directory:
                pool.open_desk(str(directory), name)
                return
        except OSError as error:
            faults.append(str(error))
    _LOGGER.warning("`kumi ps` will not see controller %r, as no socket can be made: %s", pool.name, "; ".join(faults))
