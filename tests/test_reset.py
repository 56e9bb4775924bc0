"""What a task changes in its process is put back; what the modules that it imports change is not."""

import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import kumi
import numpy as np
import pytest
from kumi import reset, seeds
from kumi._core import Untouched

LIMIT = jobs.SECONDS_MAX


@pytest.fixture(params=["worker", "this process"], scope="module")
def anywhere(request: pytest.FixtureRequest) -> Iterator[kumi.Controller]:
    launcher = kumi.Local() if request.param == "worker" else kumi.Sequential()
    with kumi.Controller(launcher, workers=1) as crew:
        yield crew


def one_worker(chosen: Any = True) -> kumi.Controller:
    return kumi.Controller(workers=1, reset=chosen)


def handler(*_: object) -> None:
    return None


def change(directory: str) -> None:
    os.chdir(directory)
    os.environ["KUMI_TEST_NEW"] = "1"
    os.environ["KUMI_TEST_CHANGED"] = "2"
    os.environ.pop("KUMI_TEST_GONE", None)
    warnings.simplefilter("error")
    signal.signal(signal.SIGUSR1, handler)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    random.seed(1)
    np.random.seed(1)


def look() -> dict[str, Any]:
    names = ("KUMI_TEST_NEW", "KUMI_TEST_CHANGED", "KUMI_TEST_GONE")
    return {
        "directory": os.getcwd(),
        "environment": [(os.environ.get(name), environment_of_children(name)) for name in names],
        "warnings": [*map(str, warnings.filters)],
        "signals": [str(signal.getsignal(signal.SIGUSR1)), str(signal.getsignal(signal.SIGINT))],
    }


def environment_of_children(name: str) -> str:
    return subprocess.run(["printenv", name], stdout=subprocess.PIPE, text=True, check=False).stdout


def draw() -> tuple[float, float]:
    return random.random(), float(np.random.random())


@pytest.fixture(autouse=True, scope="module")
def variables() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUMI_TEST_CHANGED", "1")
        patch.setenv("KUMI_TEST_GONE", "1")
        yield


def test_what_a_task_changes_is_put_back(anywhere: kumi.Controller, tmp_path: Path) -> None:
    """C29, D9."""
    before = anywhere.submit(look).result(LIMIT)
    for _ in range(2):
        anywhere.submit(change, str(tmp_path)).result(LIMIT)
        assert anywhere.submit(look).result(LIMIT) == before


def test_so_it_is_after_an_error(anywhere: kumi.Controller, tmp_path: Path) -> None:
    def change_and_fail(directory: str) -> None:
        change(directory)
        raise LookupError

    before = anywhere.submit(look).result(LIMIT)
    with pytest.raises(LookupError):
        anywhere.submit(change_and_fail, str(tmp_path)).result(LIMIT)
    assert anywhere.submit(look).result(LIMIT) == before


def test_a_task_that_seeds_the_generators_does_not_seed_the_next_one(anywhere: kumi.Controller) -> None:
    def seed_and_draw() -> tuple[float, float]:
        random.seed(5)
        np.random.seed(5)
        return draw()

    def take_states_and_draw() -> tuple[float, float]:
        random.setstate(random.Random(5).getstate())
        np.random.set_state(np.random.RandomState(5).get_state())
        return draw()

    seeded = anywhere.submit(seed_and_draw).result(LIMIT)
    drawn = [anywhere.submit(draw).result(LIMIT)]
    for function in (seed_and_draw, take_states_and_draw):
        assert anywhere.submit(function).result(LIMIT) == seeded
        drawn.append(anywhere.submit(draw).result(LIMIT))
    assert len({*seeded, *(value for values in drawn for value in values)}) == 8


def test_a_task_with_a_seed_draws_the_same_after_one_that_seeds(anywhere: kumi.Controller) -> None:
    view = anywhere.with_options(seed=3)
    first = view.map(draw, range(0)).results() or anywhere.with_options(seed=3).submit(draw).result(LIMIT)
    anywhere.submit(random.seed, 1).result(LIMIT)
    assert anywhere.with_options(seed=3).submit(draw).result(LIMIT) == first


@pytest.mark.parametrize("part", [*reset.PARTS, None])
def test_only_what_was_chosen_is_put_back(part: str | None, tmp_path: Path) -> None:
    with one_worker([part] if part else False) as crew:
        before = crew.submit(look).result(LIMIT)
        crew.submit(change, str(tmp_path)).result(LIMIT)
        drawn = crew.submit(draw).result(LIMIT)
        after = crew.submit(look).result(LIMIT)
    assert {name for name in before if before[name] == after[name]} == ({part} & {*before})
    assert (drawn[0] == random.Random(1).random()) == (part != "random")


def test_what_os_putenv_sets_goes_too() -> None:
    """`os.environ` knows nothing of it; children see it."""

    def put(*names: str) -> list[str]:
        for name in names:
            os.putenv(name, "direct")
        os.unsetenv("KUMI_TEST_GONE")
        return seen()

    def seen() -> list[str]:
        return list(map(environment_of_children, ("KUMI_TEST_NEW", "KUMI_TEST_CHANGED", "KUMI_TEST_GONE")))

    def outer() -> list[list[str]]:
        mine = put("KUMI_TEST_NEW")
        return [mine, kumi.submit(seen).result(), kumi.submit(put, "KUMI_TEST_CHANGED").result(), seen()]

    with kumi.Controller(workers=1) as crew:
        before = ["", "1\n", "1\n"]
        for _ in range(2):
            assert crew.submit(seen).result(LIMIT) == before
            assert crew.submit(put, "KUMI_TEST_NEW", "KUMI_TEST_CHANGED").result(LIMIT) == ["direct\n", "direct\n", ""]
        mine = ["direct\n", "1\n", ""]
        assert crew.submit(outer).result(LIMIT) == [mine, before, ["", "direct\n", ""], mine]
        assert crew.submit(seen).result(LIMIT) == before
        crew.everywhere(put, "KUMI_TEST_NEW").result(LIMIT)
        assert crew.submit(seen).result(LIMIT) == mine
        crew.submit(put, "KUMI_TEST_CHANGED").result(LIMIT)
        assert crew.submit(seen).result(LIMIT) == mine
    with one_worker({"directory"}) as crew:
        crew.submit(put, "KUMI_TEST_NEW").result(LIMIT)
        assert crew.submit(seen).result(LIMIT) == mine


def test_state_is_left_alone(single: kumi.Controller) -> None:
    def count() -> int:
        sys.modules["counter"] = sys.modules.get("counter", [])  # type: ignore[arg-type, assignment]
        sys.modules["counter"].append(1)  # type: ignore[attr-defined]
        return len(sys.modules["counter"])  # type: ignore[arg-type]

    assert [single.submit(count).result(LIMIT) for _ in range(3)] == [1, 2, 3]


def test_a_directory_that_was_renamed_or_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    with one_worker() as crew:
        assert crew.submit(os.getcwd).result(LIMIT) == str(home)
        home.rename(tmp_path / "moved")
        crew.submit(os.chdir, "/").result(LIMIT)
        assert crew.submit(os.getcwd).result(LIMIT) == str(tmp_path / "moved")
        (tmp_path / "moved").rmdir()
        crew.submit(os.chdir, "/").result(LIMIT)
        with pytest.raises(FileNotFoundError):
            crew.submit(os.getcwd).result(LIMIT)
        assert crew.submit(jobs.add, 1).result(LIMIT) == 2
        assert crew.status().launched == 1


def test_an_alarm_that_a_task_left_hits_nobody(single: kumi.Controller) -> None:
    def arm() -> int:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        return os.getpid()

    worker = single.submit(arm).result(LIMIT)
    single.submit(time.sleep, 0.2).result(LIMIT)
    assert single.submit(jobs.pid).result(LIMIT) == worker


def test_a_task_that_ignores_interrupts_leaves_the_next_one_interruptible(
    single: kumi.Controller, gate: jobs.Gate
) -> None:
    worker = single.submit(jobs.pid).result(LIMIT)
    single.submit(signal.signal, signal.SIGINT, signal.SIG_IGN).exception(LIMIT)
    held = single.submit(jobs.hold, gate.path)
    gate.wait()
    held.cancel()
    assert single.submit(jobs.pid).result(LIMIT) == worker


MODULE = """
    import os, random, signal, warnings
    from random import seed
    os.environ["KUMI_TEST_NEW"] = "by import"
    warnings.filterwarnings("ignore", message="of the library")
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.chdir("/")

    def touch_and_look():
        seen = look()
        os.environ["KUMI_TEST_NEW"] = "by task"
        warnings.simplefilter("error")
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        os.chdir("/tmp")
        seed(1)
        return seen

    def look():
        filters = [(f[0], f[1] and f[1].pattern) for f in warnings.filters]
        return os.environ["KUMI_TEST_NEW"], filters[:2], signal.getsignal(signal.SIGUSR1), os.getcwd()
"""


@pytest.mark.parametrize("way", ["inside the task", "by name"])
@pytest.mark.parametrize("launcher", [kumi.Local(), kumi.Sequential()])
def test_what_a_module_does_when_it_is_imported_stays(
    way: str, launcher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"imports_{way[:2]}_{type(launcher).__name__}"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    jobs.note(str(tmp_path / f"{name}.py"), __import__("textwrap").dedent(MODULE))

    def inside() -> Any:
        return __import__(name).touch_and_look()

    before = reset.State(reset.ALL)
    try:
        with kumi.Controller(launcher, workers=1) as crew:
            function: Callable[..., Any] = inside
            if way == "by name" and isinstance(launcher, kumi.Local):
                with reset.kept(reset.ALL, seeds.Generators()):
                    function = __import__(name).touch_and_look
                before.put_back()
            seen = [crew.submit(function).result(LIMIT) for _ in range(3)]
            drawn = crew.submit(draw).result(LIMIT)
    finally:
        before.put_back()
        sys.modules.pop(name, None)
    variable, filters, disposition, directory = seen[0]
    assert (variable, disposition, directory) == ("by import", signal.SIG_IGN, "/")
    assert ("ignore", "of the library") in filters
    assert seen == [seen[0]] * 3
    assert drawn[0] != random.Random(1).random()


def test_a_check_that_finds_nothing_is_cheap() -> None:
    """Half a microsecond is what it may take; a busy machine gets ten times as much here."""
    untouched = reset.State(reset.ALL).untouched()
    assert type(untouched) is Untouched
    assert untouched.check()
    best = min(_seconds(untouched.check) for _ in range(20))
    assert best < 5e-6


def _seconds(function: Callable[[], object], times: int = 1000) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - begun) / times


@pytest.mark.parametrize("value", ["signals", b"signals", 1, 3.5, None])
def test_a_choice_of_the_wrong_kind(value: Any) -> None:
    with pytest.raises(TypeError, match="reset must be True, False, or a collection of some of 'directory'"):
        kumi.Controller(reset=value)


def test_a_choice_of_no_known_part() -> None:
    with pytest.raises(ValueError, match="'handlers' is none of them"):
        kumi.Controller(reset={"handlers"})
    assert reset.chosen({"directory", "random"}) == reset.DIRECTORY | reset.RANDOM
    assert (reset.chosen(True), reset.chosen(False), reset.chosen(())) == (reset.ALL, 0, 0)


def test_a_task_within_a_task_finds_and_leaves_everything_as_it_was(anywhere: kumi.Controller, tmp_path: Path) -> None:
    """In one worker, which runs the second while the first waits for it."""

    def outer(directory: str) -> list[Any]:
        before = look()
        change(directory)
        mine = look()
        state = random.getstate()
        seen = kumi.submit(look).result()
        kumi.submit(change, "/").result()
        drawn = kumi.submit(draw).result()
        return [before, mine, seen, look(), random.getstate() == state, drawn[0] == random.Random(1).random()]

    before, mine, seen, again, same_numbers, same_draw = anywhere.submit(outer, str(tmp_path)).result(LIMIT)
    assert mine == again
    assert mine != before
    assert seen == (before if isinstance(anywhere.launcher, kumi.Local) else mine)
    assert same_numbers
    assert not same_draw
    assert anywhere.submit(look).result(LIMIT) == before
