"""GPU slots: which devices a worker sees, and that no two living workers see the same one.

No device is needed: what is looked at are the variables by which CUDA and ROCm choose them, and who has them when.
"""

import os
import pickle
from pathlib import Path
from typing import Any

import families
import hungry
import jobs
import kumi
import pytest

LIMIT = jobs.SECONDS_MAX
VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*VARIABLES, "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)


def slots(local: kumi.Local) -> list[str]:
    """What each worker is told, which is the same in both variables."""
    told = local.command(1).slots
    assert all(set(slot) == set(VARIABLES) and len(set(slot.values())) == 1 for slot in told)
    return [slot[VARIABLES[0]] for slot in told]


@pytest.mark.parametrize(
    ("local", "told"),
    [
        (kumi.Local(gpus=1), ["0"]),
        (kumi.Local(gpus=3), ["0", "1", "2"]),
        (kumi.Local(gpus=[2, 0]), ["2", "0"]),
        (kumi.Local(gpus=(0, 1, 2, 3), gpus_per_worker=2), ["0,1", "2,3"]),
        (kumi.Local(gpus=5, gpus_per_worker=2), ["0,1", "2,3"]),
        (kumi.Local(gpus=["GPU-5f3a", "MIG-0b1c"]), ["GPU-5f3a", "MIG-0b1c"]),
        (kumi.Local(gpus=3, gpus_per_worker=3), ["0,1,2"]),
    ],
)
def test_devices_are_dealt_out_in_slots(local: kumi.Local, told: list[str]) -> None:
    assert slots(local) == told
    assert local.slots == len(told)
    assert kumi.Controller(local).workers == len(told), "workers=None: as many as have GPUs"


@pytest.mark.parametrize("variable", VARIABLES)
def test_indices_count_within_what_this_process_sees(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "5, GPU-77,3,-1,9")
    assert slots(kumi.Local(gpus=2)) == ["5", "GPU-77"]
    assert slots(kumi.Local(gpus=[2, 1])) == ["3", "GPU-77"]
    with pytest.raises(ValueError, match=f"gpus asks for device 3, but {variable} shows this process 3, from 0 on"):
        kumi.Local(gpus=4)
    with pytest.raises(ValueError, match="names a device twice: GPU-77, GPU-77"):
        kumi.Local(gpus=[1, "GPU-77"])


def test_where_no_device_is_to_be_seen_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match="shows this process 0"):
        kumi.Local(gpus=1)


def test_what_rocr_hides_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hides devices from HIP, which numbers the others from 0 on."""
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "4,6")
    assert slots(kumi.Local(gpus=2)) == ["0", "1"]
    with pytest.raises(ValueError, match="ROCR_VISIBLE_DEVICES shows this process 2"):
        kumi.Local(gpus=3)


def test_without_gpus_workers_see_what_the_host_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with kumi.Controller(kumi.Local(), workers=1) as crew:
        seen = [crew.submit(jobs.environment, name).result(LIMIT) for name in VARIABLES]
    assert seen == ["7", None]


def test_workers_see_their_own_and_not_what_the_host_sees(monkeypatch: pytest.MonkeyPatch, gate: jobs.Gate) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    with kumi.Controller(kumi.Local(gpus=2)) as crew:
        tasks = [crew.submit(hungry.hold_devices, gate.path) for _ in range(2)]
        gate.wait(2)
        gate.open(2)
        seen = sorted(task.result(LIMIT) for task in tasks)
    assert seen == [("3", "3"), ("4", "4")]


def test_no_two_living_workers_have_the_same_device_however_often_they_are_replaced(tmp_path: Path) -> None:
    with kumi.Controller(kumi.Local(gpus=3), tasks_max=1) as crew:
        claims = crew.map(hungry.claim_devices, [str(tmp_path)] * 24).results()
        assert crew.summary().workers_launched == 24
    assert {device for claim in claims for device in claim} <= {"0", "1", "2"}


def test_nor_when_workers_die(tmp_path: Path) -> None:
    with kumi.Controller(kumi.Local(gpus=4, gpus_per_worker=2)) as crew:
        claims = crew.map(hungry.claim_devices_and_die_once, [str(tmp_path)] * 12).results()
        assert crew.summary().workers_lost >= 12
    assert {tuple(claim) for claim in claims} <= {("0", "1"), ("2", "3")}


def test_a_device_is_free_when_what_its_worker_has_started_is_gone_too(tmp_path: Path) -> None:
    """A child in a session of its own holds the device after its parent's death, until that is buried."""
    with kumi.Controller(kumi.Local(gpus=1)) as crew:
        error = crew.with_options(crashes_max=0).submit(hungry.leave_devices_to_a_child, str(tmp_path)).exception(LIMIT)
        assert isinstance(error, kumi.CrashError)
        assert crew.submit(hungry.claim_devices, str(tmp_path)).result(LIMIT) == ["0"]


def test_more_workers_than_have_gpus_are_refused() -> None:
    local = kumi.Local(gpus=4, gpus_per_worker=2)
    with pytest.raises(ValueError, match="workers must be at most 2, as many as Local.* has slots for, not 3"):
        kumi.Controller(local, workers=3)
    crew = kumi.Controller(local, workers=1)
    crew.resize(2)
    with pytest.raises(ValueError, match="workers must be at most 2"):
        crew.resize(3)


def test_a_task_that_waits_in_async_code_gets_an_extra_worker_only_if_a_gpu_is_free() -> None:
    with kumi.Controller(kumi.Local(gpus=2), workers=1) as crew:
        assert crew.submit(families.run_gathered, 2).result(LIMIT) == [1, 2]
    with kumi.Controller(kumi.Local(gpus=1)) as crew:
        error = crew.submit(families.run_gathered, 2).exception(LIMIT)
        assert isinstance(error, kumi.LaunchError)
        assert "all slots for workers (gpus=) are taken" in str(error)
        assert crew.submit(lambda: kumi.map(jobs.add, [1, 2]).results()).result(LIMIT) == [2, 3], (
            "its own worker runs it"
        )


def test_a_launcher_pickles_with_its_gpus() -> None:
    local = kumi.Local(gpus=[0, 1], gpus_per_worker=2)
    assert pickle.loads(pickle.dumps(local)) == local


@pytest.mark.parametrize("gpus", [0, -1, 10**9, [], [0, 0], [-1], ["0"], [""], ["GPU 1"], ["GPU-1,GPU-2"], ["-1"]])
def test_what_names_no_devices_is_refused(gpus: Any) -> None:
    with pytest.raises(ValueError, match="gpus must be a number from 1 to 1024, or a list of different indices"):
        kumi.Local(gpus=gpus)


@pytest.mark.parametrize("gpus", [True, 1.5, "0,1", b"0", [None], [1.0], [True], object()])
def test_what_is_no_list_of_devices_is_refused(gpus: Any) -> None:
    with pytest.raises(TypeError, match="gpus must be a number from 1 to 1024, or a list of different indices"):
        kumi.Local(gpus=gpus)


@pytest.mark.parametrize(
    ("each", "error", "text"),
    [
        (0, ValueError, "gpus_per_worker must be a whole number of at least 1, not 0"),
        (0.5, TypeError, "gpus_per_worker must be a whole number of at least 1, not 0.5"),
        (True, TypeError, "gpus_per_worker must be a whole number"),
        (3, ValueError, "gpus_per_worker must be at most the number of gpus, which is 2, not 3"),
    ],
)
def test_a_share_that_no_worker_can_have_is_refused(each: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        kumi.Local(gpus=2, gpus_per_worker=each)


def test_a_share_of_nothing_and_two_ways_to_say_it_are_refused() -> None:
    with pytest.raises(ValueError, match="gpus_per_worker=2 is for workers with GPUs of their own"):
        kumi.Local(gpus_per_worker=2)
    with pytest.raises(ValueError, match="environment must not set HIP_VISIBLE_DEVICES, which gpus= sets"):
        kumi.Local(gpus=2, environment={"HIP_VISIBLE_DEVICES": os.devnull})
