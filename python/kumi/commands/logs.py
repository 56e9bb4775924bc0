"""`kumi logs` lists whose output is kept; `kumi logs WORKER` and `kumi logs TASK` print it."""

import argparse
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from kumi import logs
from kumi.commands.base import Verbs, print_lines


def add(verbs: Verbs) -> None:
    """Enters the verb."""
    verb = verbs.add_parser(
        "logs",
        help="show what workers and tasks have printed",
        description="Lists the controllers whose workers have printed something, or prints that of a worker or a task.",
    )
    verb.add_argument("what", metavar="WORKER|TASK", nargs="?", help="a worker's name, or a task's name or id")
    verb.add_argument(
        "--run", dest="of", metavar="RUN", help="of this run, as `kumi logs` lists them, or of this controller"
    )
    verb.add_argument("--stream", choices=("stdout", "stderr"), help="only what was printed there")
    verb.add_argument("--directory", metavar="DIR", help="where they are: log_directory of the controller")
    verb.add_argument("--json", action="store_true", help="print one JSON object a line")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints what is asked for.

    Args:
        options: What `add` has named.

    Returns:
        The exit code.

    Raises:
        ValueError: If there is nothing of that worker or task.
    """
    place = Path(options.directory or logs.default_place())
    runs = [one for one in logs.runs(place) if _is_meant(one, options.of)]
    if options.what is None:
        nothing = [] if runs or options.json else [f"Nothing is kept {_where(place, options.of)}."]
        print_lines(nothing or _listed(runs, as_json=options.json))
        return 0
    for one in runs:
        worker = next((name for name in logs.workers(one) if _is_called(name, options.what)), None)
        lines = _of_task(one, options.what) if worker is None else logs.read(one, worker)
        if (first := next(lines, None)) is not None:
            chosen = (line for line in chain([first], lines) if options.stream in {None, line.stream})
            print_lines(_shown(line, as_json=options.json, with_task=worker is not None) for line in chosen)
            return 0
    raise ValueError(
        f"nothing is kept of {options.what!r} {_where(place, options.of)}: it has printed nothing, or is called "
        "otherwise, or was removed since; `kumi logs` lists what there is"
    )


def _where(place: Path, of: str | None) -> str:
    return f"in {place}" if of is None else f"of the run or controller {of!r} in {place}"


def _is_meant(run: Path, wanted: str | None) -> bool:
    controller = run.name.rsplit("-", 4)[0]
    return wanted is None or _is_called(run.name, wanted) or _is_called(controller, wanted)


def _is_called(file: str, name: str) -> bool:
    """Whether this is the file, or directory, of that worker or controller: some characters are others there."""
    return file in {name, logs.file_name(name)}


def _of_task(run: Path, task: str) -> Iterator[logs.Line]:
    """A task may have run on several workers, one after the other."""
    for worker in logs.workers(run):
        for line in logs.read(run, worker):
            if line.name == task or str(line.task) == task:
                yield line


def _shown(line: logs.Line, *, as_json: bool, with_task: bool) -> str:
    if as_json:
        return json.dumps(line._asdict(), ensure_ascii=False)
    if not with_task or line.task is None:
        return line.text
    return f"[{line.name or f'task {line.task}'}] {line.text}"


def _listed(runs: list[Path], *, as_json: bool) -> Iterator[str]:
    if not as_json:
        yield f"{'RUN':<40} {'':<7} {'KB':>8}  WORKERS"
    for run in runs:
        names = logs.workers(run)
        size = sum(file.stat().st_size for file in run.iterdir())
        if as_json:
            facts = {"run": run.name, "path": str(run), "running": logs.goes_on(run), "bytes": size, "workers": names}
            yield json.dumps(facts)
        else:
            state = "running" if logs.goes_on(run) else "ended"
            yield f"{run.name:<40} {state:<7} {size / 1000:>8.1f}  {' '.join(names)}"
