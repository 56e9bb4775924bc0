"""Random numbers: decided by the seed and the place of a task, and by nothing else."""

import importlib
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import kumi
import numpy as np
import pytest


def draw(*_: object) -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(kumi.rng().random())


def draw_around_children() -> list[Any]:
    first, tasks, second = draw(), [kumi.submit(draw) for _ in range(2)], draw()
    return [first, second, *(task.result() for task in tasks), draw(), *kumi.map(draw, range(2)), draw()]


def draw_around_one_with_a_seed() -> tuple[float, float, float]:
    kumi.with_options(seed=1).submit(draw).result()
    return draw()


def draw_after_dying(file: str) -> tuple[float, float, float]:
    jobs.die_times(file, 1)
    return draw()


WAYS: dict[str, Callable[[], kumi.Controller]] = {
    "one worker": lambda: kumi.Controller(workers=1),
    "two workers": lambda: kumi.Controller(workers=2),
    "three workers": lambda: kumi.Controller(workers=3),
    "this process": lambda: kumi.Controller(kumi.Sequential()),
}


@pytest.fixture(params=WAYS, scope="module")
def anyhow(request: pytest.FixtureRequest) -> Iterator[kumi.Controller]:
    with WAYS[request.param]() as crew:
        yield crew


@pytest.fixture(scope="module")
def expected() -> list[tuple[float, float, float]]:
    with kumi.Controller(kumi.Sequential()) as crew:
        return crew.with_options(seed=7).map(draw, range(20)).results()


def test_a_map_draws_the_same_wherever_it_runs(anyhow: kumi.Controller, expected: list[Any]) -> None:
    """C20."""
    drawn = anyhow.with_options(seed=7).map(draw, range(20)).results()
    assert drawn == expected
    assert len({value for values in drawn for value in values}) == 60, "each stream, and each generator, is its own"


def test_workers_that_join_later_draw_the_same(expected: list[Any]) -> None:
    """M146."""
    with kumi.Controller(workers=2, tasks_max=7) as crew:
        crew.everywhere(draw)
        assert crew.with_options(seed=7).map(draw, range(20)).results() == expected
        assert crew.summary().workers_launched >= 3


@pytest.mark.parametrize("launcher", [kumi.Local(), kumi.Sequential()])
def test_a_programs_own_generators_are_left_alone(launcher: kumi.Local | kumi.Sequential) -> None:
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    with kumi.Controller(launcher, workers=1, seed=3) as crew:
        crew.map(draw, range(3)).results()
        crew.submit(draw).result()
    assert (random.random(), np.random.random()) == expected


def test_tasks_are_numbered_as_they_are_submitted(anyhow: kumi.Controller) -> None:
    def drawn(seed: int) -> list[Any]:
        view = anyhow.with_options(seed=seed)
        tasks = [view.submit(draw), view.with_options(name="second").submit(draw), view.try_submit(draw)]
        maps = [view.map(draw, range(2)), view.map(draw, range(2))]
        return [*(task.result(jobs.SECONDS_MAX) for task in tasks if task), *(value for m in maps for value in m)]

    first = drawn(1)
    assert len(set(first)) == 7, "a second map does not repeat the first"
    assert drawn(1) == first
    assert not set(drawn(2)) & set(first)


@pytest.fixture(scope="module")
def expected_of_families() -> list[list[Any]]:
    with kumi.Controller(kumi.Sequential()) as crew:
        return [crew.with_options(seed=1).submit(draw_around_children).result()]


def test_nested_tasks_draw_the_same_wherever_they_run(
    anyhow: kumi.Controller, expected_of_families: list[list[Any]]
) -> None:
    view = anyhow.with_options(seed=1)
    families = [task.result(jobs.SECONDS_MAX) for task in [view.submit(draw_around_children) for _ in range(3)]]
    assert families[:1] == expected_of_families
    assert len({drawn for family in families for drawn in family}) == 24, "no stream is used twice"


def test_a_nested_task_with_a_seed_leaves_its_parent_as_random_as_before(anyhow: kumi.Controller) -> None:
    drawn = [anyhow.submit(draw_around_one_with_a_seed).result(jobs.SECONDS_MAX) for _ in range(3)]
    assert len({value for values in drawn for value in values}) == 9


def test_a_controllers_seed_is_for_all_its_tasks() -> None:
    def drawn(workers: int) -> list[Any]:
        with kumi.Controller(workers=workers, seed=5) as crew:
            pushed = crew.push(draw)
            return [pushed.result(), crew.submit(draw).result(), *crew.map(draw, range(3))]

    first = drawn(1)
    assert len(set(first)) == 5
    assert drawn(2) == first


def test_the_path_of_a_task_stands_in_its_record(crew: kumi.Controller) -> None:
    """C20."""
    view = crew.with_options(seed=2**100)
    tasks = [view.submit(draw), *view.map(draw, range(2)).as_completed()]
    tasks[0].result()
    assert [task.record.seed for task in sorted(tasks, key=lambda task: task.id) if task.record] == [
        (2**100, 0),
        (2**100, 1, 0),
        (2**100, 1, 1),
    ]
    plain = crew.submit(draw)
    plain.result()
    assert plain.record is not None
    assert plain.record.seed is None


def test_a_task_that_runs_again_draws_the_same(crew: kumi.Controller, tmp_path: Path) -> None:
    again = crew.with_options(seed=3).submit(draw_after_dying, str(tmp_path / "deaths"))
    assert again.result(jobs.SECONDS_MAX) == crew.with_options(seed=3).submit(draw).result()
    assert again.record is not None
    assert again.record.attempts == 2


@pytest.mark.parametrize("name", ["random", "numpy.random"])
@pytest.mark.parametrize("waits", [False, True])
def test_generators_that_a_task_imports_itself_are_set_too(single: kumi.Controller, name: str, waits: bool) -> None:
    def draw_lately() -> tuple[bool, float]:
        if waits:  # for one that finds the generators set for itself, and leaves them as they were
            kumi.submit(abs, -1).result()
        had = name in sys.modules
        module = importlib.import_module(name)
        return had, float(module.random())

    had, first = single.with_options(seed=11).submit(draw_lately).result(jobs.SECONDS_MAX)
    assert not had
    had, second = single.with_options(seed=11).submit(draw_lately).result(jobs.SECONDS_MAX)
    assert had
    assert first == second


def test_generators_that_a_task_imports_in_this_process_are_as_random_as_ever() -> None:
    program = """
import sys
import kumi

def draw():
    import random
    return random.random()

with kumi.Controller(kumi.Sequential()) as crew:
    assert "random" not in sys.modules
    crew.with_options(seed=1).submit(draw).result()
print(draw())
"""
    drawn = {subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE).stdout for _ in "ab"}
    assert len(drawn) == 2


def test_tasks_without_a_seed_draw_what_nobody_else_draws(single: kumi.Controller) -> None:
    """C23, D3."""
    drawn = [single.submit(draw).result()]
    for _ in range(2):
        single.with_options(seed=1).submit(draw).result()
        drawn.append(single.with_options(name="plain").submit(draw).result())
    drawn += single.map(draw, range(3)).results()
    assert len({value for values in drawn for value in values}) == 18


def test_in_process_the_programs_own_generators_go_on_as_if_nothing_had_been() -> None:
    """C20."""

    def program(crew: kumi.Controller | None) -> list[float]:
        random.seed(1)
        np.random.seed(1)
        values = [random.random(), float(np.random.normal())]
        if crew is not None:
            crew.with_options(seed=1).map(draw, range(3)).results()
        return [*values, random.random(), float(np.random.normal())]

    before = random.getstate(), np.random.get_state()
    try:
        with kumi.Controller(kumi.Sequential()) as crew:
            assert program(crew) == program(None)
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def test_rng_is_the_same_at_each_call_in_a_task(crew: kumi.Controller) -> None:
    assert crew.with_options(seed=1).submit(lambda: kumi.rng() is kumi.rng()).result()
    assert crew.submit(lambda: kumi.rng() is kumi.rng()).result()
    assert kumi.rng() is not kumi.rng()


def test_a_place_that_a_full_queue_refused_is_the_next_ones(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1, queue_gigabytes_max=1e-6) as crew:
        held = crew.submit(jobs.hold, gate.path)
        gate.wait()
        view = crew.with_options(seed=1)
        tasks = []
        while (task := view.try_submit(draw)) is not None:
            tasks.append(task)
        gate.open()
        held.result(jobs.SECONDS_MAX)
        tasks.append(view.submit(draw))
        drawn = [task.result(jobs.SECONDS_MAX) for task in tasks]
    with kumi.Controller(kumi.Sequential()) as crew:
        view = crew.with_options(seed=1)
        assert [view.submit(draw).result() for _ in tasks] == drawn


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (1.5, TypeError), ("1", TypeError), (True, TypeError)])
def test_a_seed_is_a_whole_number(seed: Any, error: type[Exception]) -> None:
    for make in (kumi.with_options, kumi.Controller):
        with pytest.raises(error, match="seed must be a whole number of at least 0"):
            make(seed=seed)
