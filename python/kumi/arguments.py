"""What a controller is given, checked: each function takes what the user gave, and returns what is made of it."""

from collections.abc import Callable
from typing import Literal, cast

from kumi import remote
from kumi._core import memory_bytes
from kumi.launchers import Launcher, LocalLauncher, Sequential, find, seconds_poll, usable_cpus
from kumi.options import text, whole
from kumi.remote import TLS

Staff = Literal["host", "local", "launched", "by hand"]

SECONDS_LAUNCH = 60.0
BYTES_UNBOUNDED = 2**63 - 1
WORKERS_ANY = 1_000_000  # as many as come from other machines


def a_launcher(value: object) -> Launcher | LocalLauncher | Sequential | None:
    """Where workers come from."""
    if isinstance(value, str):
        value = find(value)()
    seconds_poll(value)
    if value is None or (isinstance(value, Launcher | LocalLauncher | Sequential) and not isinstance(value, type)):
        return value
    hint = f"; for that many workers: workers={value}" if isinstance(value, int) else ""
    raise TypeError(f"launcher must be a launcher, such as kumi.Local(), or None, not {value!r}{hint}")


def staff(launcher: object) -> Staff:
    """Who runs the tasks."""
    if launcher is None:
        return "by hand"
    if isinstance(launcher, Sequential):
        return "host"
    return "local" if isinstance(launcher, LocalLauncher) else "launched"


def workers(value: object, launcher: object, slots: int | None) -> int:
    """The most workers at a time."""
    most: int | None = whole("workers", value, least=1, none=True)
    check_slots(most or 1, launcher, slots)
    if most or slots:
        return most or slots or 0
    kind = staff(launcher)
    if kind == "by hand":
        return WORKERS_ANY
    if kind == "launched":
        raise ValueError(f"workers must be given with {launcher!r}: the most workers it may start at a time")
    return usable_cpus()


def check_slots(workers: int, launcher: object, slots: int | None) -> None:
    """No more workers than the launcher can have."""
    if slots is not None and workers > slots:
        raise ValueError(f"workers must be at most {slots}, as many as {launcher!r} has slots for, not {workers}")


def seconds_launch(value: float | None, launcher: object) -> float:
    """For how long a worker may take to join; checked by whoever asks."""
    return cast("float", getattr(launcher, "seconds_launch", SECONDS_LAUNCH)) if value is None else value


def address(launcher: object, host: object, port: object, tls: object) -> tuple[str, int, TLS | None] | None:
    """Where workers call, if they do."""
    if staff(launcher) in {"host", "local"}:
        for name, value in (("host", host), ("port", port or None), ("tls", tls)):
            if value is not None:
                raise ValueError(f"{name} is for workers that call from elsewhere, and those of {launcher!r} do not")
        return None
    if tls is not None and not isinstance(tls, TLS):
        raise TypeError(f"tls must be a kumi.TLS, or None, not {tls!r}")
    number = whole("port", port, least=0, bits=16)
    given = text("host", host, none=True) or getattr(launcher, "host", None)
    return given or remote.ANYWHERE, number, tls


def a_setup(value: object) -> Callable[[], object] | None:
    """What each worker does first."""
    if value is not None and not callable(value):
        raise TypeError(f"setup must be callable without arguments, not {value!r}")
    return value


def workers_min(value: object, workers: int) -> int:
    """The fewest workers."""
    number = whole("workers_min", value, least=0)
    if number > workers:
        raise ValueError(f"workers_min must be a whole number from 0 to workers, which is {workers}, not {value!r}")
    return number


def in_bytes(gigabytes: float | None) -> int | None:
    """In place of so many times 10^9."""
    return None if gigabytes is None else max(1, int(min(gigabytes * 1e9, BYTES_UNBOUNDED)))


def queue_bytes(gigabytes: float | None, launcher: object) -> int:
    """The bound of the queue."""
    if isinstance(launcher, Sequential):
        return BYTES_UNBOUNDED  # it would wait for room that only itself can make
    if gigabytes is not None:
        return cast("int", in_bytes(gigabytes))
    return memory_bytes() // 4


def calls_from_elsewhere(launcher: object) -> bool:
    """Whether its workers do."""
    return staff(launcher) in {"launched", "by hand"}
