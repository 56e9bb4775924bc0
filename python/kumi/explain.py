"""Words for why a controller has so many workers, and what waits for what. Decides nothing: the core has the facts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from kumi._core import Status

FULL = 0.95  # of its bound: from there on it is said that the queue is full, for the next task may well not fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the words are made of.

    Attributes:
        name: The controller's name.
        source: Where workers come from: "launcher", "hand" (other machines), or "here": tasks run in this process.
        launcher: The launcher, in words.
        url: Where workers started by hand dial in; None before the start.
        closed: Whether it takes no more tasks.
        started: Whether it is open, or was.
        most: The most workers at a time; None: any number.
        slots: How many workers the launcher can have at a time; None: any number.
        least: How many are kept without work.
        seconds_idle: When an idle one leaves; None: never.
        seconds_reconnect: For how long one may be without a connection.
        workers: Workers that have joined and are not gone.
        joined: Of those, how many take tasks, and are not above `most`;
        busy: how many of these have one;
        idle: how many have none;
        extra: workers above `most`, for tasks that wait where their own workers cannot help them.
        launching: Launches that have not led to a worker yet.
        waiting: Tasks that have not begun,
        running: and tasks that have.
        away: Tasks that go on at the backup,
        backup: and its name.
        uncollected: Pushed tasks whose records were not taken.
        queued_bytes: Of tasks that are not done;
        queued_bytes_max: and their bound.
        failures: Launches that failed in a row.
        failure: Why the last one did; empty: none did.
        pause: Seconds until the next one is tried; None: nothing is waited for.
        gave_up: Whether none is tried before there is a new task.
        cut: Workers without a connection.
        calls: Calls of `everywhere` that are not done.
        needy: Tasks that wait for others in async code or in a thread of their own.
    """

    name: str = "crew"
    source: Literal["launcher", "hand", "here"] = "launcher"
    launcher: str = "Local()"
    url: str | None = None
    closed: bool = False
    started: bool = True
    most: int | None = 4
    slots: int | None = None
    least: int = 0
    seconds_idle: float | None = 300
    seconds_reconnect: float = 60
    workers: int = 0
    joined: int = 0
    busy: int = 0
    idle: int = 0
    extra: int = 0
    launching: int = 0
    waiting: int = 0
    running: int = 0
    away: int = 0
    backup: str = ""
    uncollected: int = 0
    queued_bytes: int = 0
    queued_bytes_max: int = 10**9
    failures: int = 0
    failure: str = ""
    pause: float | None = None
    gave_up: bool = False
    cut: int = 0
    calls: int = 0
    needy: int = 0

    @classmethod
    def of(cls, status: Status, found: dict[str, Any], **settings: Any) -> "Situation":
        """From what the core says, and the controller's settings."""
        counts = ("workers", "idle", "extra", "launching", "waiting", "running", "away", "uncollected")
        shown = {name: getattr(status, name) for name in (*counts, "queued_bytes", "queued_bytes_max")}
        return cls(**shown, **found, **settings)


def explain(s: Situation) -> str:
    """One sentence or two in each line.

    Example:
        >>> print(explain(Situation(waiting=3, running=1, workers=1, joined=1, busy=1, most=1)))
        controller 'crew' has 1 worker, of 1 allowed: 1 busy
        3 tasks wait and 1 runs
        more workers than 1 are not allowed (workers=): what waits begins when a task is done; resize() allows more
    """
    lines = [_workers(s), _tasks(s), *_reasons(s), *_others(s)]
    return "\n".join(line for line in lines if line)


def _workers(s: Situation) -> str:
    if s.source == "here":
        return f"controller {s.name!r} has no workers: tasks run in this process, inside the call that submits them"
    allowed = "any number" if s.most is None else s.most
    leaving = max(0, s.workers - s.joined - s.extra)
    parts = [(s.busy, "busy"), (s.idle, "idle"), (leaving, "leaving"), (s.extra, "extra"), (s.launching, "launching")]
    listed = ", ".join(f"{number} {word}" for number, word in parts if number)
    return f"controller {s.name!r} has {_count(s.workers, 'worker')}, of {allowed} allowed{': ' * bool(listed)}{listed}"


def _tasks(s: Situation) -> str:
    if not s.waiting and not s.running:
        return "no task waits and none runs"
    waits, runs = "waits" if s.waiting == 1 else "wait", "runs" if s.running == 1 else "run"
    return f"{_count(s.waiting, 'task')} {waits} and {s.running} {runs}"


def _reasons(s: Situation) -> Iterator[str]:
    """Why there are not more workers, or fewer."""
    if s.closed:
        yield "it is closed: it takes no more tasks, and workers leave when nothing is left to do"
    if s.source == "here":
        return
    if not s.started:
        yield "" if s.closed else "it is not open yet: its first task, or start(), opens it"
        return
    if s.source == "hand":
        yield from _by_hand(s)
    else:
        yield from _launches(s)
    if s.most is not None and s.joined > s.most:
        yield f"{s.joined} workers are more than {s.most} (resize): each leaves as soon as it has no task"
    elif s.idle and not s.closed:
        yield _idle(s)


def _by_hand(s: Situation) -> Iterator[str]:
    if not s.closed or s.waiting:
        yield f"workers are started by hand: `kumi worker {s.url}`, with a code of join_code()"
    if s.waiting and not s.workers:
        yield "what waits begins when the first one has joined"
    elif s.most is not None and s.waiting and s.joined >= s.most:
        yield _at_cap(s)
    if s.failure and s.failures:
        yield f"the last worker that failed, failed so: {s.failure}"


def _launches(s: Situation) -> Iterator[str]:
    if s.gave_up:
        yield "no launch is tried before there is another task, for the last ones have failed"
    elif s.failures:
        soon = "" if s.pause is None else f"; the next one is tried in {s.pause:.3g} s"
        yield f"{_count(s.failures, 'launch', 'launches')} failed in a row{soon}"
    if s.failure and (s.failures or s.gave_up):
        yield f"the last one failed so: {s.failure}"
    if s.launching and s.waiting:
        yield f"{_count(s.launching, 'worker')} of {s.launcher} {_is(s.launching)} on the way for what waits"
    elif s.waiting and s.most is not None and s.joined >= s.most:
        yield _at_cap(s)
    if not s.workers and not s.launching and not s.waiting and not s.closed and not s.gave_up:
        yield "workers are launched when there are tasks"


def _at_cap(s: Situation) -> str:
    more = "resize() allows more" if s.slots is None or s.most != s.slots else f"{s.launcher} has slots for no more"
    return f"more workers than {s.most} are not allowed (workers=): what waits begins when a task is done; {more}"


def _idle(s: Situation) -> str:
    kept = f", but for {s.least} that {_is(s.least)} kept (workers_min=)" if s.least else ""
    if s.seconds_idle is None:
        return "idle workers stay (seconds_idle=None)"
    return f"idle workers leave after {s.seconds_idle:g} s without a task (seconds_idle=){kept}"


def _others(s: Situation) -> Iterator[str]:
    """What else is waited for."""
    share = s.queued_bytes / s.queued_bytes_max
    if share >= FULL:
        yield (
            f"the queue is full: {_megabytes(s.queued_bytes)} of {_megabytes(s.queued_bytes_max)} "
            "(queue_gigabytes_max=); submit waits for room"
        )
    elif s.queued_bytes >= 10**6:
        yield f"the queue holds {_megabytes(s.queued_bytes)} of {_megabytes(s.queued_bytes_max)} (queue_gigabytes_max=)"
    if s.away:
        yield (
            f"{_count(s.away, 'task')} that crashed too often here {_is(s.away)} at the backup, controller "
            f"{s.backup!r}, whose explain() says more"
        )
    if s.calls:
        yield f"{_count(s.calls, 'call')} of everywhere {_is(s.calls)} not done yet by all workers that are here"
    if s.needy:
        waits = "waits" if s.needy == 1 else "wait"
        yield f"{_count(s.needy, 'task')} {waits} for others in async code or in a thread: extra workers run those"
    if s.cut:
        has = "has" if s.cut == 1 else "have"
        yield (
            f"{_count(s.cut, 'worker')} {has} no connection, and {s.seconds_reconnect:g} s to come back "
            "(seconds_reconnect=); nothing is dealt there meanwhile"
        )
    if s.uncollected:
        yield f"{_count(s.uncollected, 'pushed task')} {_is(s.uncollected)} not popped or collected yet"


def _count(number: int, noun: str, nouns: str | None = None) -> str:
    return f"{number or 'no'} {noun if number == 1 else nouns or noun + 's'}"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.3g} MB" if count < 10**9 else f"{count / 1e9:,.3g} GB"
