"""Records as a table: a data frame of pandas or polars. Knows of either no more than how one is made."""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

from kumi.task import Record

Library = Literal["pandas", "polars"]
LIBRARIES = ("pandas", "polars")  # the first that is there, if nobody chooses

# The fields of a Record and what each is made of, so that a column has the same type whatever its rows are.
KINDS: dict[str, type] = {
    "name": str,
    "function": str,
    "status": str,
    "result": object,
    "error": object,
    "traceback": str,
    "submitted": float,
    "started": float,
    "finished": float,
    "seconds": float,
    "queue_seconds": float,
    "worker": str,
    "host": str,
    "pid": int,
    "warnings": object,
    "warnings_more": int,
    "report": object,
    "attempts": int,
    "seed": object,
    "controller": str,
    "peak_gigabytes": float,
    "certificate": object,
}
PANDAS = {str: "string", int: "Int64", float: "float64", object: "object"}
POLARS = {str: "String", int: "Int64", float: "Float64", object: "Object"}


def maker(library: Library | None) -> Callable[[Sequence[Record[Any]]], Any]:
    """What makes a frame of records: one row for each, one column for each field.

    Raises:
        ValueError: If no such library is known.
        ModuleNotFoundError: If it, or either, is not installed.

    Example:
        >>> maker(None)(crew.collect())
    """
    if library is not None and library not in LIBRARIES:
        raise ValueError(f'library must be "pandas", "polars" or None, not {library!r}')
    wanted = LIBRARIES if library is None else (library,)
    found = next((name for name in wanted if find_spec(name) is not None), None)
    if found is None:
        text = f"records_frame needs {' or '.join(wanted)}, which is not installed: `pip install {wanted[0]}`"
        raise ModuleNotFoundError(text, name=wanted[0])
    return {"pandas": _pandas, "polars": _polars}[found]


def _column(records: Sequence[Record[Any]], name: str) -> list[Any]:
    return [getattr(record, name) for record in records]


def _pandas(records: Sequence[Record[Any]]) -> Any:
    pandas = import_module("pandas")
    columns = {name: pandas.Series(_column(records, name), dtype=PANDAS[kind]) for name, kind in KINDS.items()}
    return pandas.DataFrame(columns)


def _polars(records: Sequence[Record[Any]]) -> Any:
    polars = import_module("polars")
    kinds = {name: getattr(polars, POLARS[kind]) for name, kind in KINDS.items()}
    return polars.DataFrame([polars.Series(name, _column(records, name), kind) for name, kind in kinds.items()])
