"""The pickler for everything that is not plain: decides what travels by name and what by value.

By name travels what a fresh interpreter with the host's present `sys.path` finds in the same file; all else (lambdas,
`__main__`, notebooks, modules loaded by hand or changed since, those that the user names) by value, by cloudpickle,
wherever it stands in an argument. Nothing is imported or executed to find out.

Imported when first needed: cloudpickle costs a worker 16 ms that most tasks have no use for. What is overridden here
belongs to cloudpickle's inside (`_dynamic_class_reduce` and its kin), unchanged since cloudpickle 1.3 of 2020 and
guarded by the tests; its public `register_pickle_by_value` is global, and would change other libraries' pickles.
"""

import copyreg
import functools
import os
import sys
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES, FrozenImporter, ModuleSpec, PathFinder
from pickle import PickleBuffer
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import cloudpickle  # type: ignore[import-untyped]
from cloudpickle import cloudpickle as inside

from kumi import serializers
from kumi.modules import ByValue, is_installed

_FILENAME = 10  # where `CodeType` takes the name of the file
_EXTENSIONS = tuple(EXTENSION_SUFFIXES)
_DEFINITIONS = (FunctionType, type, MethodType, ModuleType, functools._lru_cache_wrapper)
_OWN = frozenset({"kumi", "cloudpickle"})

# Classes that came out of a pickle here. Those defined here are never touched by a copy that comes back.
_received: WeakSet[type] = WeakSet()


class Pieces(list[Any]):
    """A file to write to that keeps what is written as it comes: a large `bytes` is not copied."""

    def write(self, piece: Any) -> None:
        """Called by the C pickler."""
        self.append(piece if type(piece) is bytes else PickleBuffer(piece).raw())


class Pickled(NamedTuple):
    """What `dump` returns.

    Attributes:
        pieces: The pickle: `bytes` and views of bytes.
        buffers: What it leaves out, in the order in which it is needed to load it.
        needs_path: Whether who loads it needs this process' `sys.path`, since it names a module that is not installed.
    """

    pieces: Pieces
    buffers: list[memoryview]
    needs_path: bool


def dump(value: object, least: int | None = None, by_value: ByValue | None = None) -> Pickled:
    """Pickles anything that can be pickled.

    Args:
        value: Anything.
        least: Buffers of at least so many bytes (of arrays, say) are left out of the pickle; None: none is.
        by_value: Modules that the other end shall not import; None: none.

    Raises:
        Exception: Whatever the value's parts raise; `unpicklable` finds out which part.

    Example:
        >>> pickle.loads(b"".join(dump(lambda: 3).pieces))()
        3
    """
    pieces, buffers = Pieces(), list[memoryview]()

    def keep(buffer: PickleBuffer) -> bool:
        """Called by the C pickler; false: it has been taken."""
        view = buffer.raw()
        if least is None or view.nbytes < least:
            return True
        buffers.append(view)
        return False

    pickler = Pickler(pieces, None if least is None else keep, by_value)
    pickler.dump(value)
    return Pickled(pieces, buffers, pickler.needs_path)


def host_path() -> tuple[str, ...]:
    """`sys.path` as another process can use it: strings only, the working directory in place of "" and of ".".

    Relative entries are left out if the working directory is gone.

    Example:
        >>> all(os.path.isabs(entry) for entry in host_path())
        True
    """
    try:
        return _absolute(tuple(sys.path), os.getcwd())  # noqa: PTH109
    except OSError:
        return tuple(entry for entry in sys.path if isinstance(entry, str) and os.path.isabs(entry))  # noqa: PTH117


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler with another idea of what can be imported elsewhere."""

    needs_path = False

    def __init__(
        self, file: Any, keep: Callable[[PickleBuffer], bool] | None = None, by_value: ByValue | None = None
    ) -> None:
        # A dict of its own: the ChainMap that it replaces makes an object of a common class three times as slow.
        self.dispatch_table = {**copyreg.dispatch_table, **cloudpickle.Pickler._dispatch_table, CodeType: _reduce_code}
        super().__init__(file, protocol=5, buffer_callback=keep)
        self._path: tuple[str, ...] | None = None
        self._by_value = by_value

    def reducer_override(self, obj: Any) -> Any:
        """Called by the C pickler for each object that is not of a basic type."""
        kind = type(obj)
        if serializers.table and (own := serializers.find(kind)) is not None:
            return own.loads, (own.dumps(obj),)
        if not issubclass(kind, _DEFINITIONS):
            return _HELD[kind](obj) if kind in _HELD else NotImplemented
        if issubclass(kind, ModuleType):
            return self._reduce_module(obj)
        if kind is functools._lru_cache_wrapper:
            return self._reduce_cached(obj)
        return _reduce_method(obj) if kind is MethodType else self._reduce_definition(obj)

    def _reduce_definition(self, obj: Any) -> Any:
        """For functions and classes."""
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented and not self._is_found(obj.__module__):
            reduced = (
                self._dynamic_function_reduce(obj) if type(obj) is FunctionType else inside._dynamic_class_reduce(obj)
            )
        if reduced is not NotImplemented and reduced[-1] is inside._class_setstate:
            maker, arguments, state, *_ = reduced
            return _make_class, (maker, *arguments), state, None, None, _fill_class
        return reduced

    def _reduce_module(self, module: ModuleType) -> Any:
        name = module.__name__
        if name == "__main__" or (sys.modules.get(name) is module and self._is_found(name)):
            return inside.subimport, (name,)
        state = {key: value for key, value in vars(module).items() if key not in _MACHINERY}
        return ModuleType, (name,), state

    def _reduce_cached(self, cached: Any) -> Any:
        """For what `functools.lru_cache` returns, which knows no way to travel but by name."""
        found = inside._lookup_module_and_qualname(cached)
        if found is not None and self._is_found(found[0].__name__):
            return NotImplemented
        options = cached.cache_parameters()
        return _make_cached, (cached.__wrapped__, options["maxsize"], options["typed"])

    def _is_found(self, name: str | None) -> bool:
        if name is None or name.partition(".")[0] in _OWN:
            return True
        file = _file_of(name)
        if self._by_value is not None and not _is_compiled(file) and self._by_value.has(name, file):
            return False
        if self._path is None:
            self._path = host_path()
        found = _is_found(name, file, self._path)
        self.needs_path |= found and file is not None and not is_installed(file)
        return found


def _reduce_code(code: CodeType) -> Any:
    """With the name of its file, which cloudpickle leaves out since 3.1.3: tracebacks would show no lines."""
    make, parts = inside._code_reduce(code)
    at = _FILENAME
    return make, (*parts[:at], "".join(code.co_filename), *parts[at + 1 :])  # a copy, as of all strings there


def _reduce_method(method: MethodType) -> Any:
    """By name if it is a class method: the function in it is no attribute of anything, and would go by value."""
    owner, name = method.__self__, getattr(method.__func__, "__name__", "")
    if isinstance(owner, type) and getattr(owner, name, None) == method:
        return getattr, (owner, name)
    return NotImplemented


def _reduce_cached_property(made: Any) -> Any:
    """Up to Python 3.11 there is a lock in it."""
    return _make_cached_property, (made.func, made.attrname)


def _make_cached_property(function: Any, name: str | None) -> Any:
    made = functools.cached_property(function)
    if name is not None:
        made.__set_name__(object, name)
    return made


# What classes and functions often hold, and which knows no way to travel.
_HELD: dict[type, Callable[[Any], Any]] = {
    functools.cached_property: _reduce_cached_property,
    WeakKeyDictionary: lambda made: (WeakKeyDictionary, (dict(made),)),  # `functools.singledispatch` has one
    WeakValueDictionary: lambda made: (WeakValueDictionary, (dict(made),)),
}

_MACHINERY = frozenset({"__builtins__", "__cached__", "__loader__", "__spec__"})


def _make_class(maker: Any, *arguments: Any) -> Any:
    """Makes a class, to be filled by `_fill_class`, unless this process knows it already."""
    known = inside._DYNAMIC_CLASS_TRACKER_BY_ID.get(arguments[-2])
    if known is not None:
        return known
    made = maker(*arguments)
    _received.add(made)
    return made


def _fill_class(made: type, state: Any) -> type:
    """Gives a received class its present attributes; one that was defined here keeps its own."""
    if made in _received:
        inside._class_setstate(made, state)
    return made


def _make_cached(function: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


@functools.lru_cache(16)
def _absolute(path: tuple[object, ...], directory: str) -> tuple[str, ...]:
    return tuple(os.path.normpath(os.path.join(directory, entry)) for entry in path if isinstance(entry, str))  # noqa: PTH118


def _file_of(name: str) -> str | None:
    return getattr(sys.modules.get(name), "__file__", None)


def _is_compiled(file: str | None) -> bool:
    """Such code has no other way to travel than by name."""
    return file is not None and file.endswith(_EXTENSIONS)


@functools.lru_cache(4096)
def _is_found(name: str, file: str | None, path: tuple[str, ...]) -> bool:
    """Whether a fresh interpreter with this path finds the module `name` in `file`, where this process has it from."""
    if name in sys.builtin_module_names or FrozenImporter.find_spec(name) is not None:
        return True
    if _is_compiled(file):
        return True
    parent = name.rpartition(".")[0]
    if parent and not _is_found(parent, _file_of(parent), path):
        return False
    if file is None and not hasattr(sys.modules.get(name), "__path__"):
        return bool(parent)  # made by its parent when that is imported, as compiled packages do
    spec = _find_spec(name, getattr(sys.modules.get(parent), "__path__", path))
    return spec is not None and _is_same(spec.origin, file)


def _find_spec(name: str, path: Any) -> ModuleSpec | None:
    try:
        found = PathFinder.find_spec(name, list(path))
    except Exception:  # finders of other libraries may fail as they like
        return None
    return found or _find_editable(name)


def _find_editable(name: str) -> ModuleSpec | None:
    """For `pip install --editable`, which may leave a finder instead of an entry in the path, in every interpreter."""
    for finder in sys.meta_path:
        if getattr(finder, "__module__", "").startswith("__editable__") and (spec := finder.find_spec(name, None)):
            return spec
    return None


def _is_same(origin: str | None, file: str | None) -> bool:
    if origin is None or file is None or origin == file:
        return origin == file
    try:
        return os.path.samefile(origin, file)  # noqa: PTH121
    except OSError:
        return False
