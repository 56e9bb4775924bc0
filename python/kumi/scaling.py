"""A thin door to the rule by which controllers launch workers, for tests and the curious; the core has the rule."""

from dataclasses import asdict, dataclass

from kumi._core import decide as _decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the rule looks at.

    Attributes:
        waiting: Tasks that no worker has begun.
        running: Workers that hold tasks.
        joined: Workers that take tasks.
        leaving: Workers that take no more tasks and are not gone yet; they count against `workers`.
        expected: Workers launched that have not joined yet.
        failures: Launches that failed in a row.
        seconds_since_failure: Seconds since the last of them; None if there was none.
    """

    waiting: int = 0
    running: int = 0
    joined: int = 0
    leaving: int = 0
    expected: int = 0
    failures: int = 0
    seconds_since_failure: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the user wants: never more than `workers`, and never fewer than `workers_min`."""

    workers: int
    workers_min: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do.

    Attributes:
        launch: Workers to launch now.
        seconds_again: Seconds until the rule should be asked again; None: when something has changed.
        give_up: Whether nothing can be launched and the tasks that wait must be told.
    """

    launch: int
    seconds_again: float | None
    give_up: bool


def decide(snapshot: Snapshot, policy: Policy) -> Decision:
    """Says how many workers to launch.

    Example:
        >>> decide(Snapshot(waiting=9, joined=1), Policy(workers=4)).launch
        3
    """
    return Decision(*_decide(**asdict(snapshot), **asdict(policy)))
