"""The benchmark harness: a smoke run of every question, and its judging and reporting on made-up figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks.harness import Answer, alternate, compare, markdown, rows_of
from benchmarks.peers import Pool, checked, opened

ROOT = Path(__file__).parents[1]


class Wrong(Pool):
    """Loses the last value."""

    name = "wrong"

    def start(self) -> None:
        self.closed = False

    def run(self, count: int) -> list[int]:
        return list(range(count - 1))

    def close(self) -> None:
        self.closed = True


class Needed(Wrong):
    """Stands for the subject, which is never skipped."""

    optional = False


class Absent(Wrong):
    name = "absent"
    package = "surely-not-installed"


def an_answer(target: float) -> Answer:
    rows = [
        compare("first", "us", [(10.0, 20.0), (10.0, 15.0), (20.0, 50.0)], target=target, budget=1.5),
        compare("second", "us", [(3.0, 1.0)]),
    ]
    return Answer("How long?", "at most", rows, {"third": "is not installed"}, ["Made up."])


def smoke(tmp_path: Path, names: list[str], peers: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Run the questions in a fresh process; return each one's rows, in the order of `names`."""
    only = [f"--peer={name}" for name in peers]
    run = [sys.executable, "-m", "benchmarks", *names, "--quick", "--out", str(tmp_path), *only]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (tmp_path / "benchmarks.md").read_text().strip()
    report = json.loads((tmp_path / "benchmarks.json").read_text())
    assert set(report) == {"machine", "versions", "caveats", "answers"}
    assert set(report["versions"]) == {"kumi", *peers}
    return dict(zip(names, (answer["rows"] for answer in report["answers"]), strict=True))


def test_a_quick_run_measures_and_reports(tmp_path: Path) -> None:
    peers = ["ProcessPoolExecutor", "multiprocessing.Pool"]
    rows = smoke(tmp_path, ["throughput", "cost", "round_trip"], peers)
    against = {name: [row["against"] for row in found] for name, found in rows.items()}
    assert against["throughput"] == peers
    assert against["cost"] == [f"{peer}: {side}" for peer in peers for side in ("host", "workers")]
    # With one core there is nobody to play ping-pong with.
    assert against["round_trip"] in (["raw socket ping-pong", *peers], [])
    assert [row["target"] for row in rows["throughput"]] == [10, 3]
    for row in (row for found in rows.values() for row in found):
        assert min(row["theirs"], row["kumi"]) > 0
        assert row["lowest"] <= row["ratio"] <= row["highest"]
        assert row["target_met"] is None or row["target"]


def test_memory_and_start_are_judged_against_their_allowances(tmp_path: Path) -> None:
    rows = smoke(tmp_path, ["memory", "start"], ["multiprocessing.Pool"])
    assert rows["memory"][0]["against"] == "400 bytes + payload allowed"
    assert rows["memory"][0]["kumi"] > 0
    launch, bare_launch, imported, loaded = rows["start"][:4]
    assert (launch["budget"], bare_launch["budget"]) == (2, None)
    assert (imported["budget"], imported["theirs"], loaded["theirs"]) == (1, 60, 60)


def test_large_arrays_are_judged_against_a_copy(tmp_path: Path) -> None:
    rows = smoke(tmp_path, ["large_argument", "large_result", "shared"], ["multiprocessing.Pool"])
    copied = [found[-1] for found in rows.values()]
    assert [(row["against"], row["target"]) for row in copied] == [
        ("one warm memcpy", 3),
        ("one warm memcpy", 3),
        ("one warm memcpy", None),
    ]
    assert all(row["theirs"] > 0 and row["kumi"] > 0 for row in copied)
    memory = rows["shared"][0]
    assert (memory["against"], memory["theirs"], memory["target"]) == ("memory of one copy", 100, 1.5)
    assert 0.9 < memory["ratio"] < 1.5


def test_kumi_is_judged_against_itself_and_the_clock(tmp_path: Path) -> None:
    rows = smoke(tmp_path, ["seeded", "million", "workers", "gil"], ["multiprocessing.Pool"])
    found = {name: [(row["against"], row["budget"]) for row in rows] for name, rows in rows.items()}
    assert found == {
        "seeded": [("no-op, without a seed", 0.5), ("a task that draws, without a seed", None)],
        "million": [("2 s allowed for 200,000 tasks", 1)],
        "workers": [("to 10", 0.7)],
        "gil": [("while it does not", 0.95)],
    }
    assert all(row["theirs"] > 0 and row["kumi"] > 0 for row in (row for found in rows.values() for row in found))


def test_workers_that_dial_in_are_judged_by_processor_time(tmp_path: Path) -> None:
    rows = smoke(tmp_path, ["crowd"], ["multiprocessing.Pool"])["crowd"]
    assert [(row["against"], row["budget"]) for row in rows] == [
        ("TLS, to plain TCP", 0.75),
        ("1000 workers, to 10", 0.7),
    ]
    assert all(row["theirs"] > 0 and row["kumi"] > 0 for row in rows)


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    row = an_answer(target=2.0).rows[0]
    assert (row.theirs, row.kumi, row.ratio, row.lowest, row.highest) == (10, 20, 2, 1.5, 2.5)


def test_rounds_alternate_who_begins() -> None:
    order: list[str] = []

    def measured(name: str, figure: float) -> float:
        order.append(name)
        return figure

    pairs = alternate(lambda: measured("theirs", 1.0), lambda: measured("kumi", 2.0), rounds=2)
    assert order == ["theirs", "kumi", "kumi", "theirs"]
    assert pairs == [(1, 2), (1, 2)]


def test_markdown_tells_ratios_limits_and_what_was_skipped() -> None:
    text = markdown({"cores": 2}, {"kumi": "1.0"}, ["Shared machine."], [an_answer(target=2.0)])
    assert "| first | 10 us | 20 us | **2x** | 1.5 to 2.5 | ≤ 2x met | ≤ 1.5x MISSED |" in text
    assert "| second | 3 us | 1 us | **0.333x** | 0.333 to 0.333 |  |  |" in text
    for sentence in (
        "cores: 2.",
        "kumi 1.0.",
        "- Shared machine.",
        "- Not measured: third: is not installed.",
        "- Made up.",
    ):
        assert sentence in text


@pytest.mark.parametrize(("target", "check", "status"), [(1.9, True, 1), (1.9, False, 0), (2.0, True, 0)])
def test_check_fails_on_a_missed_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: float, check: bool, status: int
) -> None:
    monkeypatch.setattr(command, "_ask", lambda *_: an_answer(target))
    assert command.main(["start", "--out", str(tmp_path), *(["--check"] if check else [])]) == status


def test_rounds_that_disagree_prove_nothing() -> None:
    wild = Answer("How long?", "at most", [compare("first", "us", [(10, 1), (10, 5), (10, 50)], target=2)])
    assert wild.met(wild.rows[0], 2) is None
    assert wild.unmet() == ["How long?: 0.5x first (rounds 0.1 to 5), must be at most 2x"]
    assert "≤ 2x UNSTEADY" in markdown({}, {}, [], [wild])


def test_an_unknown_question_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["speed"])
    assert (
        "'speed' is none of throughput, cost, seeded, round_trip, start, memory, million, large_argument, "
        "large_result, shared, workers, crowd, gil" in capsys.readouterr().err
    )


def test_wrong_values_are_an_error() -> None:
    pool = Wrong(2)
    with pytest.raises(RuntimeError, match="wrong gave wrong values"):
        checked(pool, 3)


def test_peers_that_cannot_run_are_skipped_with_the_reason() -> None:
    def measure(kind: type[Pool]) -> object:
        with opened(kind, 1):
            raise AssertionError("never opens")

    rows, skipped = rows_of([Absent, Wrong], measure)  # type: ignore[arg-type]
    assert rows == []
    assert skipped["absent"] == "surely-not-installed is not installed"
    assert "wrong gave wrong values" in skipped["wrong"]


def test_the_subject_is_never_skipped() -> None:
    with pytest.raises(RuntimeError, match="wrong values"), opened(Needed, 1):
        pass
