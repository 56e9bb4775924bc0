"""What is mapped over: tables, names, functions, dates, arrays.

Numbers such as M74 are cases of mirai's, of which these tests are the counterparts.
"""

import datetime as dt
import itertools
from collections.abc import Callable
from typing import Any

import jobs
import kumi
import numpy as np
import pandas as pd
import pytest

TABLE = pd.DataFrame(
    {"a": [1, 2, 3], "b": [3, 2, 1], "day": pd.date_range("2024-02-28", periods=3)}, index=["x", "y", "z"]
)


def test_rows_of_a_table_with_a_constant(crew: kumi.Controller) -> None:
    """M74."""
    by_name = crew.map(lambda row, more: row.a + row.b + more, TABLE.itertuples(), itertools.repeat(3))
    assert by_name.results() == [7, 7, 7]
    assert crew.map(lambda *row: sum(row), TABLE.a, TABLE.b, itertools.repeat(3)).results() == [7, 7, 7]
    assert crew.map(sum, zip(TABLE.a, TABLE.b, [3] * 3, strict=True)).results() == [7, 7, 7]
    assert crew.map(lambda row: row[1].a, TABLE.iterrows()).results() == [1, 2, 3]


def test_names_are_kept_beside_values(crew: kumi.Controller) -> None:
    """M73, M85."""
    words = {"a": "x", "b": "y"}
    assert dict(zip(words, crew.map(str.upper, words.values()), strict=True)) == {"a": "X", "b": "Y"}
    assert dict(crew.map(lambda item: (item[0], 2 * item[1]), words.items())) == {"a": "xx", "b": "yy"}
    assert pd.Series(crew.map(abs, -TABLE.a).results(), TABLE.index).equals(TABLE.a)


def test_days_stay_days(crew: kumi.Controller) -> None:
    """M77."""
    assert crew.map(type, TABLE.day).results() == [pd.Timestamp] * 3
    one = pd.Timedelta(days=1)
    assert crew.map(lambda day: day + one, TABLE.day).results() == list(TABLE.day + one)
    days = [dt.date(2024, 2, 28), dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)]
    assert crew.map(jobs.same, days).results() == days


def test_functions_are_elements_and_not_called(crew: kumi.Controller) -> None:
    """M76."""
    functions: list[Callable[[int], int]] = [abs, lambda x: 2 * x, jobs.add]
    assert crew.map(lambda f: f(-2), functions).results() == [2, -4, -1]
    back: list[Any] = crew.map(jobs.same, functions).results()
    assert back[0] is abs
    assert back[1](3) == 6
    assert crew.map(jobs.same, [int, jobs]).results() == [int, jobs]


@pytest.mark.parametrize("length", [1, 10])
def test_elements_of_different_lengths(crew: kumi.Controller, length: int) -> None:
    """M82."""
    values = crew.map(lambda n: list(range(n)), range(1, length + 1)).results()
    assert [len(value) for value in values] == list(range(1, length + 1))


def test_arrays_are_mapped_over_their_first_axis(crew: kumi.Controller) -> None:
    square = np.arange(9.0).reshape(3, 3)
    assert crew.map(np.sum, square).results() == [3, 12, 21]
    assert crew.map(float, square[0]).results() == [0, 1, 2]
