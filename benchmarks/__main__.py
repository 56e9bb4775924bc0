"""`python -m benchmarks`: run the questions, print and write what they found."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import (
    cost,
    crowd,
    gil,
    large_argument,
    large_result,
    machine,
    memory,
    million,
    round_trip,
    seeded,
    shared,
    start,
    throughput,
    workers,
)
from benchmarks.harness import FULL, QUICK, Answer, Ask, Effort, in_fresh_process, write
from benchmarks.peers import PEERS, Kumi, Pool

QUESTIONS: dict[str, Ask] = {
    "throughput": throughput.answer,
    "cost": cost.answer,
    "seeded": seeded.answer,
    "round_trip": round_trip.answer,
    "start": start.answer,
    "memory": memory.answer,
    "million": million.answer,
    "large_argument": large_argument.answer,
    "large_result": large_result.answer,
    "shared": shared.answer,
    "workers": workers.answer,
    "crowd": crowd.answer,
    "gil": gil.answer,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen questions; return 1 if `--check` was given and a target is not shown to be met."""
    options = _parser().parse_args(arguments)
    peers = [kind for kind in PEERS if not options.peer or kind.name in options.peer]
    facts = machine.facts()
    answers = [_ask(name, QUICK if options.quick else FULL, peers) for name in options.names or QUESTIONS]
    measured: list[type[Pool]] = [Kumi, *peers]
    versions = {kind.name: kind.version() for kind in measured if not kind.missing()}
    print(write(options.out, facts, versions, machine.caveats(facts), answers))
    unmet = [sentence for answer in answers for sentence in answer.unmet()]
    for sentence in unmet:
        print(f"not met: {sentence}", file=sys.stderr)
    return int(options.check and bool(unmet))


def _ask(name: str, effort: Effort, peers: Sequence[type[Pool]]) -> Answer:
    print(f"{name}:", file=sys.stderr, flush=True)
    return in_fresh_process(QUESTIONS[name], effort, peers)


def _question(name: str) -> str:
    if name not in QUESTIONS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(QUESTIONS)}")
    return name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure kumi beside its peers.")
    parser.add_argument(
        "names", nargs="*", type=_question, metavar="name", help=f"of {', '.join(QUESTIONS)}; default all"
    )
    parser.add_argument("--quick", action="store_true", help="few short rounds: a smoke run, its figures are rough")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the JSON and the Markdown")
    parser.add_argument(
        "--peer", action="append", choices=[kind.name for kind in PEERS], help="only this peer; may be repeated"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 unless every target is met by steady figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
