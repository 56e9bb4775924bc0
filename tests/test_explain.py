"""`explain`: why there are so many workers, and what waits for what. The words as a table, and on real controllers."""

from typing import Any

import families
import jobs
import kumi
import pytest
from kumi.explain import Situation, explain

LIMIT = jobs.SECONDS_MAX


def at(**facts: Any) -> list[str]:
    return explain(Situation(**facts)).splitlines()


WORKERS = [
    ({}, "controller 'crew' has no workers, of 4 allowed"),
    ({"workers": 1, "joined": 1, "busy": 1}, "controller 'crew' has 1 worker, of 4 allowed: 1 busy"),
    ({"workers": 3, "joined": 2, "busy": 1, "idle": 1}, "has 3 workers, of 4 allowed: 1 busy, 1 idle, 1 leaving"),
    ({"launching": 2, "waiting": 2}, "has no workers, of 4 allowed: 2 launching"),
    ({"workers": 2, "joined": 1, "busy": 1, "extra": 1}, "has 2 workers, of 4 allowed: 1 busy, 1 extra"),
    ({"source": "hand", "most": None}, "has no workers, of any number allowed"),
    ({"source": "here"}, "has no workers: tasks run in this process, inside the call that submits them"),
]
TASKS = [
    ({}, "no task waits and none runs"),
    ({"waiting": 1}, "1 task waits and 0 run"),
    ({"waiting": 2, "running": 1}, "2 tasks wait and 1 runs"),
    ({"running": 3}, "no tasks wait and 3 run"),
]


@pytest.mark.parametrize(("facts", "text"), WORKERS)
def test_the_first_line_counts_workers(facts: dict[str, Any], text: str) -> None:
    assert at(**facts)[0].endswith(text)


@pytest.mark.parametrize(("facts", "text"), TASKS)
def test_the_second_line_counts_tasks(facts: dict[str, Any], text: str) -> None:
    assert at(**facts)[1] == text


FULL = {"workers": 4, "joined": 4, "busy": 4, "running": 4, "waiting": 9}
CAP = "more workers than 4 are not allowed (workers=): what waits begins when a task is done; resize() allows more"
IDLE = {"workers": 1, "joined": 1, "idle": 1}
FAILS = {"waiting": 1, "failures": 2, "failure": "exit code 1"}


@pytest.mark.parametrize(
    ("facts", "lines"),
    [
        ({}, ["workers are launched when there are tasks"]),
        ({"started": False}, ["it is not open yet: its first task, or start(), opens it"]),
        ({"closed": True}, ["it is closed: it takes no more tasks, and workers leave when nothing is left to do"]),
        (
            {"closed": True, "started": False},
            ["it is closed: it takes no more tasks, and workers leave when nothing is left to do"],
        ),
        ({"waiting": 1, "launching": 1}, ["1 worker of Local() is on the way for what waits"]),
        ({"waiting": 2, "launching": 2}, ["2 workers of Local() are on the way for what waits"]),
        (FULL, [CAP]),
        (FULL | {"slots": 8}, [CAP]),
        (FULL | {"slots": 4}, [CAP.replace("resize() allows more", "Local() has slots for no more")]),
        (
            FULL | {"joined": 5, "busy": 5},
            [CAP, "5 workers are more than 4 (resize): each leaves as soon as it has no task"],
        ),
        (IDLE, ["idle workers leave after 300 s without a task (seconds_idle=)"]),
        (
            IDLE | {"least": 1},
            ["idle workers leave after 300 s without a task (seconds_idle=), but for 1 that is kept (workers_min=)"],
        ),
        (IDLE | {"seconds_idle": None}, ["idle workers stay (seconds_idle=None)"]),
        (
            FAILS | {"pause": 0.25},
            ["2 launches failed in a row; the next one is tried in 0.25 s", "the last one failed so: exit code 1"],
        ),
        (
            FAILS | {"launching": 1},
            [
                "2 launches failed in a row",
                "the last one failed so: exit code 1",
                "1 worker of Local() is on the way for what waits",
            ],
        ),
        (
            {"gave_up": True, "failures": 5, "failure": "exit code 1"},
            [
                "no launch is tried before there is another task, for the last ones have failed",
                "the last one failed so: exit code 1",
            ],
        ),
        (
            {"source": "hand", "url": "kumi://h:1/f", "waiting": 1},
            [
                "workers are started by hand: `kumi worker kumi://h:1/f`, with a code of join_code()",
                "what waits begins when the first one has joined",
            ],
        ),
        (
            FULL | {"source": "hand", "url": "kumi://h:1/f", "failure": "boom", "failures": 1},
            [
                "workers are started by hand: `kumi worker kumi://h:1/f`, with a code of join_code()",
                CAP,
                "the last worker that failed, failed so: boom",
            ],
        ),
    ],
)
def test_then_comes_why_there_are_not_more_or_fewer(facts: dict[str, Any], lines: list[str]) -> None:
    assert at(**facts)[2:] == lines


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"queued_bytes": 10**6 - 1}, None),
        ({"queued_bytes": 2 * 10**6}, "the queue holds 2 MB of 1 GB (queue_gigabytes_max=)"),
        (
            {"queued_bytes": 96 * 10**7},
            "the queue is full: 960 MB of 1 GB (queue_gigabytes_max=); submit waits for room",
        ),
        (
            {"away": 1, "backup": "large"},
            "1 task that crashed too often here is at the backup, controller 'large', whose explain() says more",
        ),
        ({"calls": 1}, "1 call of everywhere is not done yet by all workers that are here"),
        ({"needy": 2}, "2 tasks wait for others in async code or in a thread: extra workers run those"),
        (
            {"cut": 1},
            "1 worker has no connection, and 60 s to come back (seconds_reconnect=); nothing is dealt there meanwhile",
        ),
        ({"uncollected": 3}, "3 pushed tasks are not popped or collected yet"),
    ],
)
def test_at_last_what_else_is_waited_for(facts: dict[str, Any], line: str | None) -> None:
    assert at(source="here", **facts)[2:] == ([] if line is None else [line])


def test_nothing_to_do(single: kumi.Controller) -> None:
    assert "it is not open yet" in single.explain()
    single.submit(jobs.add, 1).result(LIMIT)
    text = single.explain()
    assert "has 1 worker, of 1 allowed: 1 idle" in text
    assert "no task waits and none runs" in text
    assert "idle workers leave after 300 s" in text


def test_busy_below_the_cap_and_at_it(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=2, name="busy") as crew:
        crew.submit(jobs.hold, gate.path)
        gate.wait()
        assert crew.explain() == "controller 'busy' has 1 worker, of 2 allowed: 1 busy\nno tasks wait and 1 runs"
        crew.submit(jobs.hold, gate.path)
        gate.wait()
        crew.push(jobs.hold, gate.path)
        text = crew.explain()
        assert "has 2 workers, of 2 allowed: 2 busy\n1 task waits and 2 run\n" in text
        assert "more workers than 2 are not allowed" in text
        assert text.endswith("1 pushed task is not popped or collected yet")
        crew.resize(1)
        assert "2 workers are more than 1 (resize)" in crew.explain()
        gate.open(3)


def test_launches_that_fail() -> None:
    with kumi.Controller(kumi.Local(python="/bin/false"), workers=1) as crew:
        assert isinstance(crew.submit(jobs.add, 1).exception(LIMIT), kumi.LaunchError)
        text = crew.explain()
    assert "no launch is tried before there is another task" in text
    assert "the last one failed so: a worker process ended before it could connect (exited with code 1)" in text


def test_by_hand_without_workers() -> None:
    with kumi.Controller(None, host="127.0.0.1") as crew:
        task = crew.submit(jobs.add, 1)
        text = crew.explain()
        task.cancel()
    assert "has no workers, of any number allowed" in text
    assert f"`kumi worker {crew.url}`" in text
    assert "what waits begins when the first one has joined" in text


def test_closed(gate: jobs.Gate) -> None:
    crew = kumi.Controller(workers=1)
    crew.submit(jobs.hold, gate.path)
    gate.wait()
    crew.shutdown(wait=False)
    assert "1 busy\nno tasks wait and 1 runs\nit is closed" in crew.explain()
    gate.open()
    crew.terminate()
    assert "has no workers, of 1 allowed\nno task waits and none runs\nit is closed" in crew.explain()


def test_in_this_process() -> None:
    with kumi.Controller(kumi.Sequential()) as crew:
        crew.submit(jobs.add, 1).result(LIMIT)
        assert "tasks run in this process" in crew.explain()


def test_a_call_that_a_worker_is_at(single: kumi.Controller, gate: jobs.Gate) -> None:
    single.submit(jobs.add, 1).result(LIMIT)
    call = single.everywhere(jobs.hold, gate.path)
    gate.wait()
    assert "1 call of everywhere is not done yet" in single.explain()
    gate.open()
    call.result(LIMIT)
    assert "everywhere" not in single.explain()


def test_a_full_queue(gate: jobs.Gate) -> None:
    with kumi.Controller(workers=1, queue_gigabytes_max=0.001) as crew:
        crew.submit(jobs.hold, gate.path)
        gate.wait()
        while crew.try_submit(len, bytes(20_000)) is not None:
            pass
        assert "the queue is full" in crew.explain()
        gate.open()


def test_tasks_that_wait_in_async_code(single: kumi.Controller, gate: jobs.Gate) -> None:
    parent = single.submit(families.await_hold, gate.path)
    gate.wait()
    assert "1 task waits for others in async code or in a thread" in single.explain()
    gate.open()
    assert parent.result(LIMIT) is None
