"""Records as data frames."""

import dataclasses
import importlib.util
import math
from collections.abc import Iterator
from typing import Any

import jobs
import kumi
import numpy as np
import pandas as pd
import polars as pl
import pytest
from kumi.frames import KINDS

LIMIT = jobs.SECONDS_MAX


def array(size: int) -> Any:
    return np.arange(size)


@pytest.fixture
def crew() -> Iterator[kumi.Controller]:
    """With one record of each kind."""
    with kumi.Controller(workers=1, name="tabled") as crew:
        crew.with_options(name="sum", seed=7).push(jobs.add, 1)
        crew.with_options(name="raises").push(jobs.boom, "bad luck")
        crew.with_options(name="crashes", crashes_max=0).push(jobs.kill_self)
        crew.push(array, 3)
        crew.push(array, 3)
        assert crew.wait("all", LIMIT)
        yield crew


def test_every_field_of_a_record_is_a_column() -> None:
    assert tuple(KINDS) == tuple(field.name for field in dataclasses.fields(kumi.Record))


def test_pandas_is_what_one_gets(crew: kumi.Controller) -> None:
    frame = crew.records_frame()
    assert isinstance(frame, pd.DataFrame)
    assert tuple(frame.columns) == tuple(KINDS)
    assert list(frame["status"]) == ["success", "error", "crash", "success", "success"]
    assert list(frame["name"].fillna("-")) == ["sum", "raises", "crashes", "-", "-"]
    assert frame["result"][0] == 2
    assert isinstance(frame["error"][1], ValueError)
    assert frame["certificate"][2].signal == 9
    assert [value.tolist() for value in frame["result"][3:]] == [[0, 1, 2]] * 2
    assert frame["seed"][0] == (7, 0)
    assert math.isnan(frame["seconds"][2])
    assert (frame["finished"] >= frame["submitted"]).all()
    assert set(frame["controller"]) == {"tabled"}


def test_polars_on_request(crew: kumi.Controller) -> None:
    frame = crew.records_frame(library="polars")
    assert isinstance(frame, pl.DataFrame)
    assert tuple(frame.columns) == tuple(KINDS)
    assert frame["status"].to_list() == ["success", "error", "crash", "success", "success"]
    assert frame["name"].to_list() == ["sum", "raises", "crashes", None, None]
    assert frame["result"][0] == 2
    assert [frame["result"][row].tolist() for row in (3, 4)] == [[0, 1, 2]] * 2
    assert frame["seconds"][2] is None


def test_it_takes_records_as_collect_does(crew: kumi.Controller) -> None:
    assert len(crew.records_frame()) == 5
    assert crew.empty
    assert len(crew.records_frame()) == 0


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_columns_are_of_the_same_types_whatever_the_rows_are(crew: kumi.Controller, library: Any) -> None:
    full, empty = crew.records_frame(library), crew.records_frame(library)
    assert list(full.dtypes) == list(empty.dtypes)
    assert tuple(empty.columns) == tuple(KINDS)


def test_what_is_not_installed_is_told_and_no_record_is_lost(
    crew: kumi.Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    missing = {"pandas"}
    monkeypatch.setattr("kumi.frames.find_spec", lambda name: None if name in missing else find(name))
    with pytest.raises(ModuleNotFoundError, match="needs pandas, which is not installed: `pip install pandas`"):
        crew.records_frame("pandas")
    assert isinstance(crew.records_frame(), pl.DataFrame), "what is there"
    missing.add("polars")
    crew.push(jobs.add, 1)
    assert crew.wait("all", LIMIT)
    with pytest.raises(ModuleNotFoundError, match="needs pandas or polars"):
        crew.records_frame()
    assert len(crew.collect()) == 1


@pytest.mark.parametrize("library", ["arrow", "", 3])
def test_another_library_is_refused(library: Any) -> None:
    with pytest.raises(ValueError, match='library must be "pandas", "polars" or None'):
        kumi.Controller(workers=1).records_frame(library)
