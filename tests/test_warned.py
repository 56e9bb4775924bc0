"""What a record tells of warnings: everything that the task raised, whatever its process was shown before."""

import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kumi
import pytest


def warn(text: str = "careful", category: type[Warning] = UserWarning, times: int = 1) -> str:
    for _ in range(times):
        warnings.warn(text, category, stacklevel=1)
    return text


def warn_and_fail() -> None:
    warn()
    raise ValueError("no")


def warn_of_many(count: int) -> None:
    for number in range(count):
        warn(f"number {number}")


def warn_always(count: int) -> None:
    warnings.simplefilter("always")
    warn(times=count)


def warn_by(action: Any) -> None:
    warnings.simplefilter(action)
    warn(times=2)


def warn_secretly() -> list[str]:
    with warnings.catch_warnings(record=True) as kept:
        warnings.simplefilter("always")
        warn()
    return [str(one.message) for one in kept]


def warn_within(depth: int) -> list[tuple[kumi.Warned, ...]]:
    """Warns before and after a task that it waits for; its child's warnings, and that one's, and so on."""
    warn()
    inner: list[tuple[kumi.Warned, ...]] = []
    if depth > 0:
        child = kumi.submit(warn_within, depth - 1)
        inner = child.result()
        assert child.record is not None
        inner.append(child.record.warnings)
    warn()
    return inner


def warn_of_text(text: str) -> None:
    warnings.warn_explicit(text, RuntimeWarning, "é" * 1000, 3)


def capture_into_log(path: str) -> None:
    logging.basicConfig(filename=path)
    logging.captureWarnings(capture=True)


@pytest.fixture(params=["worker", "sequential"])
def one(request: pytest.FixtureRequest, single: kumi.Controller) -> Iterator[kumi.Controller]:
    """A controller with one worker, and one that runs tasks in this process."""
    if request.param == "worker":
        yield single
        return
    with warnings.catch_warnings(record=True), kumi.Controller(kumi.Sequential()) as crew:
        warnings.simplefilter("default")  # in these tests they are errors
        yield crew


def recorded(crew: kumi.Controller, function: Callable[..., Any], *args: Any) -> kumi.Record[Any]:
    task = crew.submit(function, *args)
    task.exception()
    assert task.record is not None
    return task.record


def texts(record: kumi.Record[Any]) -> list[str]:
    return [one.message for one in record.warnings]


def test_a_record_tells_a_warning(one: kumi.Controller) -> None:
    """C16."""
    record = recorded(one, warn)
    assert record.result == "careful"
    (warned,) = record.warnings
    line = warn.__code__.co_firstlineno + 2
    assert warned == kumi.Warned("UserWarning", "careful", __file__[-200:], line)
    assert str(warned) == f"{__file__[-200:]}:{line}: UserWarning: careful"
    assert record.warnings_more == 0


def test_each_record_tells_it_again(one: kumi.Controller) -> None:
    assert [texts(recorded(one, warn)) for _ in range(3)] == [["careful"]] * 3


def test_within_a_task_it_is_told_once_as_python_does(one: kumi.Controller) -> None:
    assert texts(recorded(one, warn, "often", UserWarning, 5)) == ["often"]


@pytest.mark.parametrize(("action", "told"), [("default", 1), ("module", 1), ("once", 1), ("always", 2), ("ignore", 0)])
def test_filters_count(one: kumi.Controller, action: str, told: int) -> None:
    assert [len(recorded(one, warn_by, action).warnings) for _ in range(2)] == [told, told]


@pytest.mark.parametrize("text", ["", "half of a pair: \ud800"], ids=["C17", "C19"])
def test_any_text_is_told(one: kumi.Controller, text: str) -> None:
    """C17, C19: also none at all, and what cannot be encoded."""
    record = recorded(one, warn, text)
    assert record.result == text
    assert texts(record) == [text]


def test_a_task_without_warnings_has_none(one: kumi.Controller) -> None:
    recorded(one, warn)
    record = recorded(one, abs, -1)
    assert (record.warnings, record.warnings_more) == ((), 0)


def test_a_task_that_fails_tells_what_it_warned_of_before(one: kumi.Controller) -> None:
    """C62."""
    record = recorded(one, warn_and_fail)
    assert record.status == "error"
    assert texts(record) == ["careful"]
    assert "ValueError: no" in str(record.traceback)


def test_the_first_twenty_are_told_and_the_others_counted(one: kumi.Controller) -> None:
    record = recorded(one, warn_of_many, 25)
    assert texts(record) == [f"number {number}" for number in range(20)]
    assert record.warnings_more == 5
    record = recorded(one, warn_always, 30)
    assert (len(record.warnings), record.warnings_more) == (20, 10)


def test_long_texts_are_cut(one: kumi.Controller) -> None:
    (warned,) = recorded(one, warn_of_text, "x" * 100_000).warnings
    assert (warned.category, warned.message, warned.file) == ("RuntimeWarning", "x" * 400, "é" * 200)


def test_the_longest_ones_arrive(one: kumi.Controller) -> None:
    def warn_at_length() -> None:
        for number in range(30):
            warn_of_text(f"{number} " + "\U0001f600" * 1000)

    record = recorded(one, warn_at_length)
    assert (len(record.warnings), record.warnings_more) == (20, 10)


def test_what_a_task_catches_is_its_own(one: kumi.Controller) -> None:
    record = recorded(one, warn_secretly)
    assert record.result == ["careful"]
    assert record.warnings == ()


def test_a_warning_whose_text_fails_does_not_cost_the_worker(single: kumi.Controller) -> None:
    class Mute(UserWarning):
        asked = 0

        def __str__(self) -> str:
            Mute.asked += 1
            if Mute.asked > 1:
                raise RuntimeError("no words")
            return "once"

    def warn_mutely() -> None:
        warnings.warn(Mute(), stacklevel=1)

    record = recorded(single, warn_mutely)
    assert record.status == "error"  # of Python's own attempt to show it
    assert texts(record) == ["<Mute whose __str__ fails>"]
    assert single.submit(abs, -1).result() == 1


def test_nested_tasks_tell_their_own(one: kumi.Controller) -> None:
    record = recorded(one, warn_within, 2)
    assert texts(record) == ["careful"]
    assert [[one.message for one in inner] for inner in record.result] == [["careful"]] * 2


def test_setup_and_log_make_no_difference(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with kumi.Controller(workers=1, setup=lambda: (capture_into_log(str(log)), warn())) as crew:
        assert [texts(recorded(crew, warn)) for _ in range(2)] == [["careful"]] * 2
    assert log.read_text().count("careful") == 1


def test_stderr_shows_it_once_for_each_worker(capfd: pytest.CaptureFixture[str]) -> None:
    with kumi.Controller(workers=1) as crew:
        for _ in range(3):
            assert texts(recorded(crew, warn)) == ["careful"]
        assert len(recorded(crew, warn_always, 2).warnings) == 2
    assert capfd.readouterr().err.count("UserWarning: careful") == 3


SHOWN = """
import warnings
import kumi
from careful import warn

with kumi.Controller(kumi.Sequential()) as crew:
    warn("before")
    print([len(crew.submit(warn, text).record.warnings) for text in ("before", "in", "in")])
    for text in ("before", "in", "after", "after"):
        warn(text)
print(type(vars(warnings)["_showwarnmsg"]).__name__)
"""


def test_in_process_tasks_change_nothing_of_what_the_program_shows(tmp_path: Path) -> None:
    (tmp_path / "careful.py").write_text("import warnings\ndef warn(text):\n    warnings.warn(text)\n")
    script = tmp_path / "shown.py"
    script.write_text(SHOWN)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.splitlines() == ["[1, 1, 1]", "function"]
    shown = [line.rpartition(" ")[2] for line in ended.stderr.splitlines() if "UserWarning" in line]
    assert shown == ["before", "in", "after"]
