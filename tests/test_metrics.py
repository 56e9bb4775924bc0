"""How much workers take: measured in them, kept in a file, summed up and drawn by `kumi metrics`."""

import json
import math
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest
from kumi import cli, logs, metrics
from machines import workers_of

LIMIT = 50
MEGABYTES, FILES = 64, 20


def samples_of(file: str, task: int | None) -> list[metrics.Sample]:
    return [sample for sample in metrics.read(Path(file)) if sample.task == task] if os.path.exists(file) else []


def _take(file: str) -> int:
    """Takes CPU, memory and files until that was measured three times."""
    held = b"1" * (MEGABYTES * 1_000_000)
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(FILES)]
    info, deadline = kumi.task_info(), time.monotonic() + LIMIT
    assert info is not None
    child = "kept = b'1' * 30_000_000; print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", child], **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        before = len(samples_of(file, info.id))
        while len(samples_of(file, info.id)) < before + 3 and time.monotonic() < deadline:
            math.fsum(range(100_000))
        process.communicate(b"\n")
    for one in files:
        os.close(one)
    return len(held) and info.id


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The directory of a run, and the id of a task in it that took much."""
    place = tmp_path_factory.mktemp("logs")
    with kumi.Controller(workers=1, name="m", log_directory=place, seconds_metrics=0.05) as crew:
        crew.start()
        file = f"{crew.log_directory}/m-1{metrics.SUFFIX}"
        task = crew.with_options(name="fit").submit(_take, file).result(LIMIT)
    [run] = logs.runs(place)
    return run, task


def test_each_sample_says_what_ran(measured: tuple[Path, int]) -> None:
    """C55: a sample has its task."""
    run, task = measured
    [file] = run.iterdir()
    assert (file.stat().st_mode & 0o777, run.stat().st_mode & 0o777) == (0o600, 0o700)
    samples = list(metrics.read(file))
    of_task = [sample for sample in samples if sample.task == task]
    assert len(of_task) >= 3
    assert {sample.worker for sample in samples} == {"m-1"}
    assert {sample.name for sample in of_task} <= {None, "fit"}, "its name comes with its arguments"
    assert of_task[-1].name == "fit"
    assert {sample.task for sample in samples} <= {task, None}
    assert [sample.time for sample in samples] == sorted(sample.time for sample in samples)
    assert {"time", "worker", "pid", "task", "name", "cpu", "resident", "files", "processes"} == set(
        json.loads(file.read_text().splitlines()[0])
    )


def test_peaks_are_those_of_the_task_with_its_children(measured: tuple[Path, int]) -> None:
    run, task = measured
    samples = [sample for file in run.iterdir() for sample in metrics.read(file)]
    [peak] = metrics.peaks(samples, of_tasks=True)
    assert (peak.task, peak.name, peak.worker) == (task, "fit", "m-1")
    assert (MEGABYTES + 30) * 1e6 < peak.resident < 1e9
    assert FILES < peak.files < FILES + 100
    assert 1 < peak.cpu < 100 * (os.cpu_count() or 1) + 50
    assert max(sample.processes for sample in samples) >= 2
    [worker] = metrics.peaks(samples, of_tasks=False)
    assert worker.resident >= peak.resident


def test_the_command_prints_and_draws(
    measured: tuple[Path, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, task = measured
    picture = tmp_path / "out.png"
    assert cli.main(["metrics", str(run), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "m-1 " in out
    assert f"fit ({task}) on m-1" in out
    assert cli.main(["metrics", str(run / f"m-1{metrics.SUFFIX}"), "--json"]) == 0
    worker, of_task = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (worker["task"], of_task["task"], of_task["name"]) == (None, task, "fit")


def test_no_file_and_a_wrong_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """C56: what is no metric is told by its line."""
    assert cli.main(["metrics", str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err
    assert cli.main(["metrics", str(tmp_path)]) == 1
    assert "nothing was measured" in capsys.readouterr().err
    wrong = tmp_path / "wrong"
    for text in ("not json\n", '{"time": 1}\n', "3\n"):
        wrong.write_text(text)
        assert cli.main(["metrics", str(wrong)]) == 1
        assert f"{wrong}, line 1, is not what workers measure" in capsys.readouterr().err


def test_a_line_that_was_cut_off_is_left_out(measured: tuple[Path, int], tmp_path: Path) -> None:
    [file] = measured[0].iterdir()
    text = file.read_text()
    cut = tmp_path / "cut"
    cut.write_text(text[:-5])
    assert len(list(metrics.read(cut))) == len(text.splitlines()) - 1


def test_a_worker_on_another_machine_measures_there(tmp_path: Path) -> None:
    """C31: where the file goes follows from the place of the logs."""
    with kumi.Controller(None, host="127.0.0.1", workers=1, name="far", seconds_metrics=0.05) as crew:
        with workers_of(crew, tmp_path) as workers:
            workers.start(1, XDG_STATE_HOME=str(tmp_path))
            run = os.path.basename(crew.log_directory or "")
            file = tmp_path / "kumi" / "logs" / run / f"far-1{metrics.SUFFIX}"
            task = crew.submit(_take, str(file)).result(LIMIT)
            crew.shutdown()
    assert len(samples_of(str(file), task)) >= 3


def test_without_it_nothing_is_measured(tmp_path: Path) -> None:
    with kumi.Controller(workers=1, log_directory=tmp_path) as crew:
        names = crew.submit(lambda: [thread.name for thread in __import__("threading").enumerate()]).result(LIMIT)
        assert not crew.submit(lambda: "psutil" in __import__("sys").modules).result(LIMIT)
    assert "kumi-metrics" not in names
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(metrics, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'kumi\\[metrics\\]'"):
        kumi.Controller(seconds_metrics=1)
    file = tmp_path / "one"
    file.write_text(json.dumps(metrics.Sample(1, "w", 2, None, None, 3, 4, 5, 6)._asdict()) + "\n")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["metrics", str(file), "--plot", "out.png"]) == 1
    assert "pip install matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", [0, -1, math.nan, "1", True])
def test_seconds_are_checked(seconds: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="seconds_metrics must be a finite number above 0 or None"):
        kumi.Controller(seconds_metrics=seconds)


def test_it_needs_a_place() -> None:
    with pytest.raises(ValueError, match="log_directory must not be False"):
        kumi.Controller(seconds_metrics=1, log_directory=False)


def test_the_arguments_survive_pickling(tmp_path: Path) -> None:
    crew = pickle.loads(pickle.dumps(kumi.Controller(seconds_metrics=1, log_directory=tmp_path, log_forward=True)))
    assert isinstance(crew, kumi.Controller)


def test_in_process_nothing_is_measured(tmp_path: Path) -> None:
    with kumi.Controller(kumi.Sequential(), log_directory=tmp_path, seconds_metrics=0.01) as crew:
        assert crew.submit(jobs.add, 1).result() == 2
    assert not list(tmp_path.iterdir())
