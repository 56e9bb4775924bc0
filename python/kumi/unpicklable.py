"""Finds the part of a value that cannot be pickled, and says so in a sentence with advice.

Imported after a failure only. The search pickles each part alone and descends into the first that fails, so that it
sees what the pickler sees: `__getstate__` and `__reduce__` are honoured, and what they leave out is not blamed.
"""

import functools
import sys
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import islice
from types import (
    FrameType,
    FunctionType,
    GeneratorType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    TracebackType,
)
from typing import Any
from weakref import ReferenceType

from cloudpickle import cloudpickle as inside  # type: ignore[import-untyped]

from kumi import pickler, serializers

# Both arbitrary: deeper or later than that the sentence would help nobody.
_DEPTH_MAX = 20
_PARTS_MAX = 10_000

_DESCRIPTORS = (GetSetDescriptorType, MemberDescriptorType)
_Part = tuple[str, object]


def explain(path: str, value: object) -> str | None:
    """Says which part of a value cannot be pickled, why, and what to do.

    Args:
        path: What to call the value, such as "args[1]".
        value: Anything.

    Returns:
        A sentence, or None if the value can be pickled.

    Example:
        >>> explain("args[1]", {"lock": threading.Lock()})
        "args[1]['lock'] is a _thread.lock (cannot pickle '_thread.lock' object); if it ..."
    """
    failure = _failure(value)
    if failure is None:
        return None
    trail: list[object] = [value]
    while len(trail) < _DEPTH_MAX and not _is_recursion(failure) and not _is_atom(value):
        step = _first_failing(path, value, trail)
        if step is None:
            break
        path, value, failure = step
        trail.append(value)  # also keeps parts made for the search alive, so that none takes another's identity
    reason = "it is nested too deeply" if _is_recursion(failure) else _first_line(failure)
    return f"{path} is a {type_name(value)} ({reason}); {_advice(value, failure)}"


def type_name(value: object) -> str:
    """The qualified name of a value's type, such as "_thread.lock" or "int"."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _first_failing(path: str, value: object, trail: list[object]) -> tuple[str, object, Exception] | None:
    for name, part in islice(_parts(path, value), _PARTS_MAX):
        failure = _failure(part, trail)
        if failure is not None:
            return name, part, failure
    return None


class _Probe(pickler.Pickler):
    """Pickles nothing of what is known to fail, so that a part is not blamed for a way back to where it stands."""

    def __init__(self, known: Iterable[object]) -> None:
        super().__init__(BytesIO())
        self._known = {id(value) for value in known}

    def persistent_id(self, obj: object) -> str | None:
        return "known" if id(obj) in self._known else None


def _failure(value: object, known: Iterable[object] = ()) -> Exception | None:
    try:
        _Probe(known).dump(value)
    except Exception as error:
        return error
    return None


def _is_recursion(error: BaseException) -> bool:
    return isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError)


def _first_line(error: Exception) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    return (text.splitlines() or [type(error).__name__])[0][:200]


def _parts(path: str, value: Any) -> Iterator[_Part]:
    """What the pickler would look into, each part with its path."""
    if isinstance(value, dict):
        yield from ((f"{path}[{key!r}]", part) for key, part in list(value.items()))
        yield from ((f"the key {key!r} of {path}", key) for key in list(value))
    elif isinstance(value, list | tuple):
        yield from ((f"{path}[{number}]", part) for number, part in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from ((f"the element {part!r} of {path}", part) for part in list(value))
    elif isinstance(value, FunctionType):
        yield from _parts_of_function(path, value)
    elif isinstance(value, MethodType):
        yield from ((f"{path}.__self__", value.__self__), (f"{path}.__func__", value.__func__))
    elif isinstance(value, functools.partial):
        yield from ((f"{path}.{name}", getattr(value, name)) for name in ("func", "args", "keywords"))
    elif isinstance(value, type):
        parts = inside._extract_class_dict(value).items()
        yield from ((f"{path}.{name}", part) for name, part in parts if not isinstance(part, _DESCRIPTORS))
    if not isinstance(value, FunctionType | MethodType | functools.partial | type):
        yield from _parts_of_instance(path, value)


def _parts_of_function(path: str, function: FunctionType) -> Iterator[_Part]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    yield from ((f"{path}'s variable {name!r}", inside._get_cell_contents(cell)) for name, cell in cells)
    yield from ((f"{path}'s default {number}", part) for number, part in enumerate(function.__defaults__ or ()))
    yield from ((f"{path}'s default {name!r}", part) for name, part in (function.__kwdefaults__ or {}).items())
    names = inside._extract_code_globals(function.__code__)
    yield from (
        (f"{path}'s global {name!r}", function.__globals__[name]) for name in names if name in function.__globals__
    )
    yield from ((f"{path}.{name}", part) for name, part in vars(function).items())


def _parts_of_instance(path: str, value: object) -> Iterator[_Part]:
    """What an object's own `__reduce_ex__` says it is made of; nothing if that fails: then it is itself to blame."""
    try:
        reduced = value.__reduce_ex__(5)
    except Exception:
        return
    if not isinstance(reduced, tuple):
        return
    _, arguments, state, *_ = (*reduced, None)
    for attributes in state if isinstance(state, tuple) else (state,):
        if isinstance(attributes, dict):
            yield from ((f"{path}.{name}", part) for name, part in attributes.items())
        elif attributes is not None:
            yield f"the state of {path}", attributes
    yield from ((f"{path}.__reduce__()[1][{number}]", part) for number, part in enumerate(arguments))


def _is_atom(value: object) -> bool:
    """Whether its parts are not to blame: the pickler does not look into them, or nobody wants to hear of them."""
    return _is_future(value) or serializers.find(type(value)) is not None


def _is_future(value: object) -> bool:
    futures = sys.modules.get("concurrent.futures")
    return futures is not None and isinstance(value, futures.Future)


def _advice(value: object, failure: Exception) -> str:
    if _is_recursion(failure):
        return "flatten it, or pass it in another form, such as a file that the function reads"
    if _is_future(value):
        return "wait for the task and pass its result instead: task.result()"
    if serializers.find(type(value)) is not None:
        return "look at the function that register_serializer was given to pickle it"
    return next((text for kinds, text in _ADVICE if isinstance(value, kinds)), _ADVICE_ELSE)


_ADVICE: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (GeneratorType, "pass a list, or make the generator inside the function"),
    (ReferenceType, "pass what it refers to, or leave it out in the object's __getstate__"),
    (
        (FrameType, TracebackType),
        "pass what you need of it, such as its text: traceback.format_stack() or traceback.format_exc()",
    ),
)
_ADVICE_ELSE = (
    "if it belongs to one process, as locks, connections and open files do, make it inside the function, leave it out "
    "in the object's __getstate__, or say how it is pickled: kumi.register_serializer"
)
