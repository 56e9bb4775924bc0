"""Timing, judging and printing: what every question shares.

A row compares kumi with one other thing, measured alternately in the same rounds. Its ratio is the median of the
rounds' own ratios, which a machine that grows slower or faster during the run does not move; so it may differ a little
from the quotient of the two medians printed beside it.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context, set_start_method
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal, TypeVar

from benchmarks.peers import Pool, Skipped

F = TypeVar("F")  # a figure, or several


@dataclass(frozen=True)
class Effort:
    """How long to measure: `rounds` per comparison, each of about `seconds` per side."""

    rounds: int
    seconds: float


FULL = Effort(rounds=7, seconds=0.4)
SPREAD_MOST = 4.0  # a row whose best and worst round lie further apart tells of the machine, not of the pools
QUICK = Effort(rounds=3, seconds=0.08)


@dataclass(frozen=True)
class Row:
    """kumi against one other thing. `target` is judged by `--check`; `budget` is where kumi must come in the end."""

    against: str
    unit: str
    theirs: float
    kumi: float
    ratio: float
    lowest: float
    highest: float
    target: float | None = None
    budget: float | None = None

    @property
    def steady(self) -> bool:
        """Whether the rounds agree well enough to judge by them."""
        return self.highest <= SPREAD_MOST * self.lowest


@dataclass(frozen=True)
class Answer:
    """What one question found. Its rows' ratios (kumi / other) shall be `at least` or `at most` their limits."""

    question: str
    bound: Literal["at least", "at most"]
    rows: list[Row]
    skipped: dict[str, str] = field(default_factory=dict)
    caveats: list[str] = field(default_factory=list)

    def met(self, row: Row, limit: float | None) -> bool | None:
        """Return whether the row keeps within the limit; None without one, or where its rounds disagree too much."""
        if limit is None or not row.steady:
            return None
        return row.ratio >= limit if self.bound == "at least" else row.ratio <= limit

    def unmet(self) -> list[str]:
        """Return a sentence for each target that this run does not show to be met."""
        rows = [row for row in self.rows if row.target is not None and not self.met(row, row.target)]
        return [
            f"{self.question}: {_short(row.ratio)}x {row.against}"
            f" (rounds {_short(row.lowest)} to {_short(row.highest)}), must be {self.bound} {row.target:g}x"
            for row in rows
        ]


Ask = Callable[[Effort, Sequence[type[Pool]]], Answer]


def compare(
    against: str,
    unit: str,
    pairs: Sequence[tuple[float, float]],
    *,
    target: float | None = None,
    budget: float | None = None,
) -> Row:
    """Make a row of the rounds' `(theirs, kumi)` figures."""
    theirs, kumi = zip(*pairs, strict=True)
    ratios = [ours / other for other, ours in pairs]
    return Row(against, unit, median(theirs), median(kumi), median(ratios), min(ratios), max(ratios), target, budget)


def alternate(theirs: Callable[[], F], kumi: Callable[[], F], rounds: int) -> list[tuple[F, F]]:
    """Measure both once per round, and let the other one begin in every second round."""
    pairs = []
    for number in range(rounds):
        gc.collect()
        if number % 2:
            ours, other = kumi(), theirs()
        else:
            other, ours = theirs(), kumi()
        pairs.append((other, ours))
    return pairs


def seconds_of(call: Callable[[], object]) -> float:
    """Return how long one call takes."""
    began = perf_counter()
    call()
    return perf_counter() - began


def typical(call: Callable[[], object], seconds: float) -> float:
    """Return the median seconds of the calls that fit into `seconds`, of one at least."""
    end = perf_counter() + seconds
    calls = [seconds_of(call)]
    while perf_counter() < end:
        calls.append(seconds_of(call))
    return median(calls)


def rows_of(peers: Iterable[type[Pool]], measure: Callable[[type[Pool]], Row]) -> tuple[list[Row], dict[str, str]]:
    """Measure kumi against each peer; return the rows, and for each peer that cannot be measured here why."""
    rows, skipped = [], {}
    for kind in peers:
        print(f"  {kind.name} ...", file=sys.stderr, flush=True)
        try:
            if reason := kind.missing():
                raise Skipped(reason)
            rows.append(measure(kind))
        except Skipped as reason_given:
            skipped[kind.name] = str(reason_given)
    return rows, skipped


def in_fresh_process(ask: Ask, effort: Effort, peers: Sequence[type[Pool]]) -> Answer:
    """Ask in a process of its own: some peers leave threads behind, among which others would have to fork."""
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        return fresh.submit(_as_usual, ask, effort, peers).result()


def _as_usual(ask: Ask, effort: Effort, peers: Sequence[type[Pool]]) -> Answer:
    # A spawned process would let the pools under test spawn theirs too; this gives Python's own default back.
    set_start_method(None, force=True)
    return ask(effort, peers)


def write(
    folder: Path, facts: dict[str, object], versions: dict[str, str], caveats: Sequence[str], answers: Sequence[Answer]
) -> str:
    """Write `benchmarks.json` and `benchmarks.md` into `folder`; return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": facts,
        "versions": versions,
        "caveats": [*caveats],
        "answers": [_plain(answer) for answer in answers],
    }
    (folder / "benchmarks.json").write_text(json.dumps(report, indent=2) + "\n")
    text = markdown(facts, versions, caveats, answers)
    (folder / "benchmarks.md").write_text(text)
    return text


def markdown(
    facts: dict[str, object], versions: dict[str, str], caveats: Sequence[str], answers: Sequence[Answer]
) -> str:
    """Return the whole report as Markdown."""
    machine = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in facts.items())
    measured = ", ".join(f"{name} {version}" for name, version in versions.items())
    head = f"# Benchmarks\n\nMachine: {machine}.\n\nMeasured: {measured}.\n"
    return "\n".join([head, *(f"- {caveat}" for caveat in caveats), "", *map(_section, answers)])


def _section(answer: Answer) -> str:
    sign = "≥" if answer.bound == "at least" else "≤"
    head = [
        f"## {answer.question}\n",
        "| against | its figure | kumi | kumi / it | lowest to highest | target | budget |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    rows = [_line(answer, row, sign) for row in answer.rows]
    if not all(row.steady for row in answer.rows if row.target or row.budget):
        rows.append(
            f"\nUNSTEADY: best and worst round are more than {SPREAD_MOST:g}x apart; repeat on a quiet machine."
        )
    notes = [f"- Not measured: {name}: {reason}." for name, reason in answer.skipped.items()]
    return "\n".join([*head, *rows, "", *notes, *(f"- {caveat}" for caveat in answer.caveats), ""])


def _line(answer: Answer, row: Row, sign: str) -> str:
    cells = [
        row.against,
        f"{_short(row.theirs)} {row.unit}",
        f"{_short(row.kumi)} {row.unit}",
        f"**{_short(row.ratio)}x**",
        f"{_short(row.lowest)} to {_short(row.highest)}",
        *(_limit(limit, answer.met(row, limit), sign) for limit in (row.target, row.budget)),
    ]
    return f"| {' | '.join(cells)} |"


def _limit(limit: float | None, met: bool | None, sign: str) -> str:
    verdict = {True: "met", False: "MISSED", None: "UNSTEADY"}[met]
    return "" if limit is None else f"{sign} {limit:g}x {verdict}"


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def _plain(answer: Answer) -> dict[str, object]:
    verdicts = [
        {"target_met": answer.met(row, row.target), "budget_met": answer.met(row, row.budget)} for row in answer.rows
    ]
    rows = [asdict(row) | verdict for row, verdict in zip(answer.rows, verdicts, strict=True)]
    return asdict(answer) | {"rows": rows}
