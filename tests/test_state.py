"""What a worker keeps from task to task: `kumi.state`, and what `setup` puts there."""

import os
import pickle
import threading
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest


def count() -> int:
    kumi.state.calls = getattr(kumi.state, "calls", 0) + 1
    return int(kumi.state.calls)


def prepare() -> None:
    kumi.state.factor = 3
    kumi.state.pid = os.getpid()


def scaled(x: int) -> tuple[int, bool]:
    return kumi.state.factor * x, kumi.state.pid == os.getpid()


def refuse() -> None:
    raise ValueError("no such model")


def die() -> None:
    os._exit(7)


def fail_the_first_time(directory: str) -> None:
    marker = Path(directory, "tried")
    if not marker.exists():
        marker.touch()
        raise OSError("the licence server is busy")


async def prepare_later() -> None:
    kumi.state.factor = 5


def test_state_stays_from_task_to_task(single: kumi.Controller) -> None:
    assert [single.submit(count).result() for _ in range(3)] == [1, 2, 3]


def test_each_worker_has_its_own_and_the_host_has_one_too(crew: kumi.Controller) -> None:
    kumi.state.here = "host"
    assert crew.submit(lambda: getattr(kumi.state, "here", None)).result() is None
    del kumi.state.here
    assert pickle.loads(pickle.dumps(kumi.state)) is kumi.state


def test_setup_comes_before_the_first_task_of_each_worker() -> None:
    with kumi.Controller(workers=2, setup=prepare) as crew:
        assert list(crew.map(scaled, range(6))) == [(3 * x, True) for x in range(6)]
        assert crew.status().finished == 6
        assert crew.summary().success == 6


def test_a_worker_that_comes_later_is_set_up_as_well() -> None:
    with kumi.Controller(workers=1, tasks_max=1, setup=prepare) as crew:
        assert [crew.submit(scaled, 1).result() for _ in range(3)] == [(3, True)] * 3


def test_setup_may_be_a_closure_or_a_coroutine_function() -> None:
    table = {"factor": 4}
    with kumi.Controller(workers=1, setup=lambda: setattr(kumi.state, "factor", table["factor"])) as crew:
        assert crew.submit(lambda: kumi.state.factor).result() == 4
    with kumi.Controller(workers=1, setup=prepare_later) as crew:
        assert crew.submit(lambda: kumi.state.factor).result() == 5


def change_process(directory: str) -> None:
    os.chdir(directory)
    os.environ["KUMI_TEST_SETUP"] = "set"


def process() -> tuple[str, str | None]:
    found = str(Path.cwd()), os.environ.get("KUMI_TEST_SETUP")
    os.chdir("/")
    os.environ["KUMI_TEST_SETUP"] = "changed"
    return found


def test_what_setup_changes_in_the_process_is_what_all_tasks_find(tmp_path: Path) -> None:
    directory = str(tmp_path)
    with kumi.Controller(workers=1, setup=lambda: change_process(directory)) as crew:
        assert [crew.submit(process).result() for _ in range(2)] == [(directory, "set")] * 2


@pytest.mark.parametrize("launcher", [kumi.Local(), kumi.Sequential()], ids=["local", "sequential"])
def test_a_setup_that_fails_is_an_error_of_the_launch_with_its_traceback(launcher: Any) -> None:
    with kumi.Controller(launcher, workers=1, setup=refuse) as crew:
        with pytest.raises(kumi.LaunchError) as caught:
            crew.submit(jobs.add, 1).result(timeout=30)
    text = "".join([str(caught.value), repr(caught.value.__cause__)])
    assert "no such model" in text
    if not isinstance(launcher, kumi.Sequential):
        assert "in refuse" in text
        assert "setup" in text


def test_a_setup_that_kills_the_worker_is_an_error_of_the_launch() -> None:
    with kumi.Controller(workers=1, setup=die) as crew, pytest.raises(kumi.LaunchError, match="while it was set up"):
        crew.submit(jobs.add, 1).result(timeout=30)


def test_a_setup_that_fails_once_is_tried_again(tmp_path: Path) -> None:
    directory = str(tmp_path)
    with kumi.Controller(workers=1, setup=lambda: fail_the_first_time(directory)) as crew:
        assert crew.submit(jobs.add, 1).result(timeout=30) == 2


def test_a_setup_that_cannot_be_pickled_is_refused_at_the_first_submit_and_again() -> None:
    lock = threading.Lock()
    crew = kumi.Controller(workers=1, setup=lambda: lock)
    for _ in range(2):
        with pytest.raises(kumi.SerializationError):
            crew.submit(jobs.add, 1)
    crew.shutdown()


def test_setup_must_be_callable() -> None:
    with pytest.raises(TypeError, match="setup must be callable"):
        kumi.Controller(workers=1, setup=3)  # type: ignore[arg-type]


def test_setup_cannot_submit_tasks() -> None:
    def submits() -> None:
        kumi.submit(jobs.add, 1).result()

    with kumi.Controller(workers=1, setup=submits) as crew, pytest.raises(kumi.LaunchError, match="cannot submit"):
        crew.submit(jobs.add, 1).result(timeout=30)


def test_a_controller_pickles_with_its_setup() -> None:
    crew = pickle.loads(pickle.dumps(kumi.Controller(workers=1, setup=prepare)))
    with crew:
        assert crew.submit(scaled, 2).result() == (6, True)


def test_setup_in_this_process() -> None:
    with kumi.Controller(kumi.Sequential(), setup=prepare) as crew:
        assert crew.submit(scaled, 2).result() == (6, True)
        assert crew.status().finished == 1
    vars(kumi.state).clear()


def test_a_controller_ends_while_its_workers_are_set_up(gate: jobs.Gate) -> None:
    path = gate.path
    with kumi.Controller(workers=1, setup=lambda: jobs.hold(path)) as crew:
        task = crew.submit(jobs.add, 1)
        gate.wait()
        status = crew.status()
        assert (status.workers, status.launching, status.finished) == (0, 1, 0)
        crew.terminate()
        with pytest.raises(kumi.TaskCancelled):
            task.result()
