"""Which classifier reads handwritten digits best? A search on two workers, with an accident in the middle.

Run it as `make demo`, or `python examples/digits.py --quick` for a short form. It prints the five best configurations
and draws `demo.png`: the cross-validated accuracy of every configuration, and which worker ran which task when.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import kumi
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import ParameterGrid, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

FAMILIES = {
    "SVC": (SVC, {"C": [0.1, 1, 10, 100], "gamma": [0.0001, 0.0003, 0.001, 0.003]}),
    "RandomForest": (
        RandomForestClassifier,
        {"n_estimators": [50, 100, 200], "max_depth": [5, 10, None], "max_features": [4, 8], "random_state": [0]},
    ),
    "KNeighbors": (KNeighborsClassifier, {"n_neighbors": [1, 2, 3, 5, 8, 13], "weights": ["uniform", "distance"]}),
}
COLORS = {"SVC": "tab:blue", "RandomForest": "tab:green", "KNeighbors": "tab:orange"}


def main() -> None:
    options = parse_arguments()
    models = configurations()
    if options.quick:
        models = dict(list(models.items())[::5])

    with kumi.Controller(kumi.Local(), workers=2, seconds_idle=2) as crew:
        for name, model in models.items():
            crew.with_options(name=name).push(accuracy, model, folds=2 if options.quick else 5)
        records = collect(crew, total=len(models))
        wait_until_workers_left(crew, records)
        status = crew.status()

    again = [record.name for record in records if record.attempts > 1]
    print(f"All {len(records)} tasks are done; begun again after the kill: {', '.join(again) or 'none'}.\n")
    print_best(records)
    draw(records, options.output)
    print(f"\nWrote {options.output}.")
    print(
        f"{status.launched} workers were started, {status.left_idle} left because idle, {status.lost} died; "
        f"{count_alive(records)} are alive."
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer configurations and folds")
    parser.add_argument("--output", type=Path, default=Path("demo.png"), help="where to draw (default: %(default)s)")
    return parser.parse_args()


def configurations() -> dict[str, ClassifierMixin]:
    """Every model of the search under its name, such as "SVC C=1 gamma=0.001"."""
    return {
        " ".join([family, *(f"{key}={value}" for key, value in grid.items() if key != "random_state")]): model(**grid)
        for family, (model, choices) in FAMILIES.items()
        for grid in ParameterGrid(choices)
    }


def accuracy(model: ClassifierMixin, folds: int) -> float:
    """The task: the share of images that `model` reads rightly, cross-validated. Runs on a worker."""
    images, digits = load_digits(return_X_y=True)
    return float(cross_val_score(model, images, digits, cv=folds).mean())


def collect(crew: kumi.Controller, total: int) -> list[kumi.Record]:
    """All records, in the order in which tasks finish. Half-way through, the worker that sent the latest is killed."""
    records: list[kumi.Record] = []
    for record in crew.records():
        records.append(record)
        show_progress(len(records), total, crew.status().workers)
        if len(records) == total // 2:
            print(f"\nKilling worker {record.worker} (process {record.pid}) with SIGKILL, whatever it is doing.")
            os.kill(record.pid, signal.SIGKILL)
    return records


def show_progress(done: int, total: int, workers: int) -> None:
    """One line that changes on a terminal; elsewhere, one line each time."""
    start, end = ("\r", "" if done < total else "\n") if sys.stdout.isatty() else ("", "\n")
    print(f"{start}{done} of {total} tasks done, {workers} workers up", end=end, flush=True)


def wait_until_workers_left(crew: kumi.Controller, records: Iterable[kumi.Record], timeout: float = 30) -> None:
    """Returns when no worker is up. Nobody announces that, so this looks ten times a second."""
    print("Waiting for the workers to leave, which they do after two idle seconds.")
    deadline = time.monotonic() + timeout
    while crew.status().workers or count_alive(records):
        if time.monotonic() > deadline:
            sys.exit(f"Workers are still up after {timeout} seconds: {crew.status()}")
        time.sleep(0.1)


def count_alive(records: Iterable[kumi.Record]) -> int:
    """How many of the workers that ran tasks still are processes."""
    return sum(is_alive(pid) for pid in {record.pid for record in records})


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    return True


def print_best(records: Iterable[kumi.Record], count: int = 5) -> None:
    print(f"{'accuracy':>8}  {'seconds':>7}  {'worker':<12}  configuration")
    for record in sorted(records, key=kumi.Record.get, reverse=True)[:count]:
        print(f"{record.get():8.4f}  {record.seconds:7.2f}  {record.worker:<12}  {record.name}")


def draw(records: list[kumi.Record], path: Path) -> None:
    figure = Figure(figsize=(11, 0.2 * len(records) + 4), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[len(records), 12])
    draw_accuracies(above, records)
    draw_schedule(below, records)
    keys = [Patch(color=color, label=family) for family, color in COLORS.items()]
    keys.append(Patch(facecolor="white", edgecolor="red", label="begun again after the kill"))
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
    figure.savefig(path, dpi=120)


def draw_accuracies(axes: Axes, records: Iterable[kumi.Record]) -> None:
    """One point for each configuration, the best on top."""
    ranked = sorted(records, key=kumi.Record.get)
    axes.scatter([record.get() for record in ranked], [record.name for record in ranked], c=colors(ranked))
    axes.set(title="Accuracy of every configuration", xlabel="cross-validated accuracy")
    axes.margins(y=0.02)
    axes.grid(alpha=0.3)


def draw_schedule(axes: Axes, records: Iterable[kumi.Record]) -> None:
    """A Gantt chart: one bar for each task, one row for each worker, the first on top."""
    ran = sorted(records, key=lambda record: record.started)
    begin = ran[0].started
    axes.barh(
        y=[record.worker for record in ran],
        width=[record.seconds for record in ran],
        left=[record.started - begin for record in ran],
        color=colors(ran),
        edgecolor=["red" if record.attempts > 1 else "white" for record in ran],
    )
    axes.invert_yaxis()
    axes.set(title="Which worker ran which task when", xlabel="seconds since the first task began")


def colors(records: Iterable[kumi.Record]) -> list[str]:
    return [COLORS[str(record.name).split()[0]] for record in records]


if __name__ == "__main__":
    main()
