"""Tasks that failed without anybody asking: told when a block or a program ends well."""

import asyncio
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest
from rig import run_python

LIMIT = jobs.SECONDS_MAX


@pytest.fixture(params=[kumi.Local(), kumi.Sequential()], ids=["workers", "this process"])
def crew(request: pytest.FixtureRequest) -> kumi.Controller:
    return kumi.Controller(request.param, workers=1, name="crew")


def test_the_end_of_a_block_tells_what_nobody_asked_for(crew: kumi.Controller) -> None:
    with pytest.warns(RuntimeWarning) as caught:
        with crew:
            crew.with_options(name="first").submit(jobs.boom, "lost")
            crew.map(jobs.boom_at, range(3), [1] * 3)
            crew.submit(jobs.add, 1)
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith("2 tasks of controller 'crew' failed, and nobody asked for the result, the exception or the")
    assert "The first was 'first' (boom):\nTraceback" in text
    assert text.endswith("ValueError: lost")
    assert Path(warning.filename) == Path(__file__)


def asks(ask: Callable[[kumi.Task[Any]], object]) -> Callable[[kumi.Controller], object]:
    def use(crew: kumi.Controller) -> None:
        task = crew.submit(jobs.boom)
        kumi.wait([task], LIMIT)
        ask(task)

    return use


def suppressed(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="no|bad|a"):
        call()


NOTICED: dict[str, Callable[[kumi.Controller], object]] = {
    "result": lambda crew: suppressed(crew.submit(jobs.boom).result),
    "exception": asks(kumi.Task.exception),
    "record": asks(lambda task: task.record),
    "run": lambda crew: suppressed(lambda: asyncio.run(crew.run(jobs.boom))),
    "map": lambda crew: suppressed(crew.map(jobs.boom_at, range(3), [2] * 3).results),
    "the first of a map": lambda crew: suppressed(crew.map(jobs.boom, "abc").results),
    "map, errors as values": lambda crew: crew.map(jobs.boom_at, range(3), [1] * 3, on_error="return").results(),
    "pop": lambda crew: (crew.push(jobs.boom), crew.wait("all", LIMIT), crew.pop()),
    "cancelled": lambda crew: crew.submit(jobs.boom).cancel(),
    "cancelled when it was done": asks(kumi.Task.cancel),
}


@pytest.mark.parametrize("notice", NOTICED)
def test_what_was_noticed_is_not_told(crew: kumi.Controller, notice: str) -> None:
    with warnings.catch_warnings(), crew:
        warnings.simplefilter("error")
        NOTICED[notice](crew)


def child_that_fails() -> None:
    kumi.wait([kumi.submit(jobs.boom)], LIMIT)


def test_what_a_task_submits_is_its_own_business() -> None:
    with warnings.catch_warnings(), kumi.Controller(workers=1) as crew:
        warnings.simplefilter("error")
        crew.submit(child_that_fails).result(LIMIT)


def test_at_the_end_of_a_block_who_holds_a_task_may_still_ask(crew: kumi.Controller) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with crew:
            tasks = [crew.submit(jobs.boom)]
            crew.push(jobs.boom)
    suppressed(tasks[0].result)
    assert [record.status for record in crew.collect()] == ["error"]


def test_a_block_that_fails_tells_nothing_else(crew: kumi.Controller) -> None:
    with warnings.catch_warnings(), pytest.raises(LookupError), crew:
        warnings.simplefilter("error")
        kumi.wait([crew.submit(jobs.boom)], LIMIT)
        raise LookupError


def test_async_blocks() -> None:
    async def main() -> None:
        async with kumi.Controller(workers=1) as crew:
            crew.submit(jobs.boom, "lost")

    with pytest.warns(RuntimeWarning, match="(?s)a task of controller .* It was boom:.*ValueError: lost"):
        asyncio.run(main())


def test_what_did_not_raise_is_told_in_words(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="It was kill_self:\nits worker died: killed by signal 9"):
        with kumi.Controller(workers=1, crashes_max=0) as crew:
            crew.submit(jobs.kill_self)
    with pytest.warns(RuntimeWarning, match="It was sleep:\nit was stopped by seconds_run"):
        with kumi.Controller(workers=1) as crew:
            crew.with_options(seconds_run=0.01).submit(__import__("time").sleep, 30)
    with pytest.warns(RuntimeWarning, match="It was add:\nno worker: 5 launches failed in a row"):
        with kumi.Controller(kumi.Local(python=str(tmp_path / "none")), workers=1) as crew:
            crew.submit(jobs.add, 1)


@pytest.mark.parametrize("ends", ["well", "by an error"])
def test_the_end_of_a_program_tells_also_what_is_held(tmp_path: Path, ends: str) -> None:
    program = (
        "import sys, kumi\n"
        "sys.stderr = sys.stdout\n"
        "held = kumi.submit(int, 'held')\n"
        "kumi.submit(int, '1')\n"
        "kumi.wait([held])\n"
    )
    if ends == "by an error":
        program += "sys.last_value = LookupError()  # as an error that nobody has caught leaves it\n"
    out = run_python("-c", program, directory=tmp_path)
    if ends == "well":
        assert "RuntimeWarning: a task of controller 'default' failed, and nobody asked" in out
        assert "It was int:\nValueError: invalid literal" in out
    else:
        assert out == ""
