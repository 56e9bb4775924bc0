"""`kumi metrics FILE` prints what workers and tasks took at most, and draws it over time."""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from kumi import metrics
from kumi.commands.base import Verbs, print_lines
from kumi.metrics import Peak, Sample


def add(verbs: Verbs) -> None:
    """Enters the verb."""
    verb = verbs.add_parser(
        "metrics",
        help="show how much CPU and memory workers and tasks took",
        description="Prints the most CPU, memory and open files of workers and tasks that a controller with "
        "seconds_metrics has measured.",
    )
    verb.add_argument("files", metavar="FILE", nargs="+", type=Path, help=f"NAME{metrics.SUFFIX}, or a run's directory")
    verb.add_argument("--plot", metavar="PNG", type=Path, help="draw CPU and memory over time into this file")
    verb.add_argument("--json", action="store_true", help="print one JSON object a line")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the peaks.

    Args:
        options: What `add` has named.

    Returns:
        The exit code.

    Raises:
        OSError, ValueError: If a file cannot be read, or drawn.
    """
    samples = [sample for given in options.files for file in _files(given) for sample in metrics.read(file)]
    if not samples:
        raise ValueError("nothing was measured: workers measure every seconds_metrics of their controller")
    if options.plot is not None:
        _draw(samples, options.plot)
    workers, tasks = metrics.peaks(samples, of_tasks=False), metrics.peaks(samples, of_tasks=True)
    if options.json:
        print_lines(json.dumps(peak._asdict()) for peak in (*workers, *tasks))
        return 0
    print_lines(_table("WORKER", workers, lambda peak: peak.worker))
    if tasks:
        print_lines(["", *_table("TASK", tasks, lambda peak: f"{peak.name or 'task'} ({peak.task}) on {peak.worker}")])
    return 0


def _files(given: Path) -> list[Path]:
    return sorted(given.glob(f"*{metrics.SUFFIX}")) if given.is_dir() else [given]


def _table(title: str, peaks: list[Peak], label: Callable[[Peak], str]) -> Iterator[str]:
    width = max(len(title), *(len(label(peak)) for peak in peaks))
    yield f"{title:<{width}}  {'SECONDS':>9}  {'CPU %':>7}  {'MB':>9}  {'FILES':>6}  SAMPLES"
    for peak in peaks:
        figures = f"{peak.seconds:>9.1f}  {peak.cpu:>7.1f}  {peak.resident / 1e6:>9.1f}  {peak.files:>6}"
        yield f"{label(peak):<{width}}  {figures}  {peak.samples}"


def _draw(samples: list[Sample], target: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ValueError("--plot draws with matplotlib, which is not installed: pip install matplotlib") from None
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    begin = min(sample.time for sample in samples)
    for worker in dict.fromkeys(sample.worker for sample in samples):
        its = [sample for sample in samples if sample.worker == worker]
        seconds = [sample.time - begin for sample in its]
        above.plot(seconds, [sample.cpu for sample in its], label=worker)
        below.plot(seconds, [sample.resident / 1e6 for sample in its], label=worker)
    above.set_ylabel("CPU, % of one core")
    below.set(xlabel="seconds", ylabel="memory, MB")
    above.legend()
    figure.savefig(target)
