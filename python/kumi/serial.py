"""Bytes from calls, values, functions and errors, and back.

Plain values take a path that costs a fraction of a microsecond, by `marshal` (decision 019); everything else goes
through `pickler`, which is imported when first needed, as is whatever else takes time to import, for a worker pays for
it before its first task. Hence also `_pickle`, the C part of `pickle`, which alone is imported in half the time.

The last byte of a payload says what it is: "M", and it is a plain value; else a pickle, after which there may follow
what the worker has to know of the host: its `sys.path` and its table of `serializers`, pickled, then their length in
four bytes, then "P". Every pickle ends with "."; it and `marshal` ignore what follows. A payload with large parts is a
`Parcel` until the core has put those where the other side finds them (see large.rs of kumi-py); it ends with a table.
"""

import os
import sys
from _pickle import dumps as _dumps
from _pickle import loads as _loads
from _thread import _local
from functools import partial
from marshal import dumps as _dumps_plain
from marshal import loads as _loads_plain

from kumi._core import LARGE, memory_bytes
from kumi.errors import RemoteError, SerializationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from traceback import TracebackException
    from typing import Any

    from kumi._core import Function, Memory
    from kumi.modules import ByValue

_PLAIN = frozenset({type(None), bool, int, float, str})
_PLAIN_IN_TUPLE = _PLAIN | {bytes}
TRACEBACK_MAX = 50_000  # characters, for records of many tasks are kept; what says most stands at both ends
_MARSHAL = 2  # the version of its format: later ones also note what stands in a value twice, which takes longer
_STOP, _PLAIN_LETTER, _PATH, _SHARES, _TABLES = ord("."), ord("M"), ord("P"), ord("S"), b"BHb"
_ALIGN = 64
_GENERATOR = 0x20 | 0x200  # inspect.CO_GENERATOR and CO_ASYNC_GENERATOR, without importing inspect
_HOME = os.path.dirname(__file__)  # noqa: PTH120 - pathlib would cost every worker its import
_FRAMES_HIDDEN = frozenset(f"{_HOME}{os.sep}{name}.py" for name in ("pickler", "serial", "worker"))
_LAST_WORDS = _dumps(("MemoryError", "what the task raised could not even be described", "", None), 5)

_follows_host = False
# In a worker on another machine: where it looks first, and then.
_own_path: list[str] = []
_host_path: list[str] = []
# Of each thread: the handles in what it pickles; how it finds shared values, and their numbers in what it loads.
_here = _local()


class Parcel:
    """A payload that is more than bytes.

    Attributes:
        head: The pickle, in pieces.
        buffers: What the pickle leaves out. The core copies them; they must stay until then.
        shares: The handles of shared values that stand in it.
        needs_path: It names a module that is not installed.
        uses: What the core knows those by, once somebody has told it.
    """

    __slots__ = ("buffers", "head", "needs_path", "shares", "uses")

    def __init__(
        self,
        head: "Sequence[bytes | memoryview]",
        buffers: "Sequence[memoryview]" = (),
        shares: "tuple[Any, ...]" = (),
        needs_path: bool = False,
    ) -> None:
        self.head = head
        self.buffers = buffers
        self.shares = shares
        self.needs_path = needs_path
        self.uses: list[Function] = []


def dumps_call(
    args: "tuple[Any, ...]",
    kwargs: "dict[str, Any]",
    function: object = None,
    carried: "dict[str, Any] | None" = None,
    by_value: "ByValue | None" = None,
) -> bytes | Parcel:
    """Pickles the arguments of one call.

    Args:
        args: The positional arguments.
        kwargs: The keyword arguments.
        function: What will be called, for the text of an error.
        carried: What the task has besides them, of plain values, for `current.carry`; None: nothing.
        by_value: Modules whose functions and classes travel by value; None: none.

    Raises:
        SerializationError: If an argument cannot be pickled; it names the part.

    Example:
        >>> loads_call(dumps_call((1, 2), {"scale": 3}))
        ((1, 2), {'scale': 3}, None)
    """
    call = args if not kwargs and carried is None else [args, kwargs, carried]
    if _are_plain(args) and (not kwargs or _are_plain(kwargs.values())):
        payload = _dumps_plain(call, _MARSHAL) + b"M"
        return payload if len(payload) < LARGE else Parcel([_dumps(call, 5)])
    try:
        return _dump(call, for_worker=True, by_value=by_value)
    except Exception as error:
        parts = [(f"argument {number + 1}", f"args[{number}]", value) for number, value in enumerate(args)]
        parts += [(f"argument {name!r}", name, value) for name, value in kwargs.items()]
        raise _refusal(f"of {label(function)!r} cannot be sent to a worker", parts, error) from error


def loads_call(
    payload: bytes, memory: "Memory | None" = None
) -> "tuple[tuple[Any, ...], dict[str, Any], dict[str, Any] | None]":
    """Unpickles the arguments of one call, and what it carries besides.

    Args:
        payload: What `dumps_call` returned, or the core made of it.
        memory: Where the rest of it lies.

    Raises:
        BaseException: Whatever unpickling them raises.
    """
    call = loads(payload, memory)
    if type(call) is tuple:
        return call, {}, None
    args, kwargs, carried = call
    return args, kwargs, carried


def dumps(value: object, what: str = "result") -> bytes | Parcel:
    """Pickles what a task returned, or says otherwise.

    Raises:
        SerializationError: If it cannot be pickled; it names the part.

    Example:
        >>> loads(dumps([1, 2]))
        [1, 2]
    """
    if _are_plain((value,)):
        payload = _dumps_plain(value, _MARSHAL) + b"M"  # type: ignore[arg-type]
        return payload if len(payload) < LARGE else Parcel([_dumps(value, 5)])
    try:
        return _dump(value)
    except Exception as error:
        raise _refusal("of the task cannot be sent back", [(f"the {what}", what, value)], error) from error


def loads(payload: bytes, memory: "Memory | None" = None) -> "Any":
    """Unpickles any payload.

    Args:
        payload: What `dumps` returned, or the core made of it.
        memory: Where the rest of it lies. Arrays in it are not copied; they keep it alive.

    Raises:
        BaseException: Whatever unpickling it raises.
    """
    letter = payload[-1]
    if letter == _PLAIN_LETTER:
        return _loads_plain(payload)
    return _loads(payload) if letter == _STOP else _load_large(payload, memory)


def dumps_function(function: "Callable[..., Any]", by_value: "ByValue | None" = None) -> bytes | Parcel:
    """Pickles a function with all it holds, by name where a fresh interpreter finds it, else by value.

    Args:
        function: Anything callable.
        by_value: As `dumps_call` takes it.

    Raises:
        SerializationError: If it cannot be pickled (it names the part), or would return a generator.

    Example:
        >>> loads_function(dumps_function(lambda x: x + 1))(2)
        3
    """
    if _makes_generator(function):
        raise SerializationError(
            f"{label(function)!r} is a generator function, and a generator cannot be sent back: "
            "return a list, or submit a function for each part"
        )
    table = _dump_table(by_value)
    try:
        return _dump(function, for_worker=True, table=table, by_value=by_value)
    except Exception as error:
        name = label(function)
        raise _refusal("cannot be sent to a worker", [(f"function {name!r}", name, function)], error) from error


def loads_function(payload: bytes, memory: "Memory | None" = None) -> "Callable[..., Any]":
    """Unpickles a function.

    Args:
        payload: What `dumps_function` returned, or the core made of it.
        memory: Where the rest of it lies.

    Raises:
        BaseException: Whatever unpickling it raises, which includes importing its module.
    """
    function: Callable[..., Any] = loads(payload, memory)
    return function


def dumps_shared(value: object, by_value: "ByValue | None" = None) -> Parcel:
    """Pickles a value that tasks will share, with all its buffers apart.

    Args:
        value: Anything.
        by_value: As `dumps_call` takes it.

    Raises:
        SerializationError: If it cannot be pickled; it names the part.
    """
    try:
        return _dump_parcel(value, least=0, for_worker=True, by_value=by_value)
    except Exception as error:
        raise _refusal("cannot be shared", [("the value", "value", value)], error) from error


def loads_shared(payload: bytes, memory: "Memory | None" = None, shares: int = 0) -> "Any":
    """Unpickles a value that tasks share; its arrays are read-only.

    Args:
        payload: What the core made of `dumps_shared`.
        memory: Where the rest of it lies.
        shares: How many handles stand in it, if the payload does not tell.

    Raises:
        BaseException: Whatever unpickling it raises.
    """
    return _load_large(payload, memory, list(range(shares)), read_only=True)


def note_share(handle: object) -> int | None:
    """For a handle that is pickled: its number in this pickle. None: this pickle is for nobody who knows handles."""
    handles: list[object] | None = getattr(_here, "handles", None)
    if handles is None:
        return None
    for number, known in enumerate(handles):
        if known is handle:
            return number
    handles.append(handle)
    return len(handles) - 1


def shared(number: int) -> "Any":
    """What a handle becomes on the other side: the value of that number in the payload that is being loaded."""
    return _here.resolve(_here.numbers[number])


def copied(value: "Any") -> "Any":
    """What a handle becomes where nobody knows handles: a copy of the value."""
    return value


def resolve_by(resolve: "Callable[[int], Any] | None") -> "Callable[[int], Any] | None":
    """In this thread shared values are found by this from now on. Returns what did it before."""
    before: Callable[[int], Any] | None = getattr(_here, "resolve", None)
    _here.resolve = resolve
    return before


class resolving:  # noqa: N801 - used as a function; contextlib would cost every worker its import
    """In this block and thread shared values are found by this."""

    def __init__(self, resolve: "Callable[[int], Any]") -> None:
        self._resolve: Callable[[int], Any] | None = resolve

    def __enter__(self) -> None:
        self._before = resolve_by(self._resolve)

    def __exit__(self, *_: object) -> None:
        resolve_by(self._before)


def label(function: object) -> str:
    """What to call a function: its qualified name, or that of what it wraps, or its type's.

    Example:
        >>> label(functools.partial(math.sqrt, 2))
        'sqrt'
    """
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def dumps_error(error: BaseException) -> bytes:
    """Pickles what a task raised, with its traceback as text. Never raises.

    The original travels along where it survives being pickled and may be raised at the other end; see `RemoteError`.

    Example:
        >>> loads_error(dumps_error(ValueError("no")))
        ValueError('no')
    """
    try:
        body = None if _must_stay(error) else _body_of(error)
        return _dumps((*_summary_of(error), body), 5)
    except BaseException:  # no memory, no stack: somebody waits for an answer all the same
        return _LAST_WORDS


def traceback_in(payload: bytes) -> str:
    """The traceback, as text, of what `dumps_error` pickled."""
    return str(_loads(payload)[2])


def loads_error(payload: bytes) -> BaseException:
    """Unpickles what a task raised: the original, or a `RemoteError`, whose `__cause__` shows the remote traceback.

    Args:
        payload: What `dumps_error` returned.
    """
    cause_type, text, traceback, body = _loads(payload)
    error = None if body is None else _load_original(body)
    if error is None:
        error = RemoteError(cause_type, text, traceback)
    error.__cause__ = _RemoteTraceback(traceback)
    return error


def error_summary(payload: bytes) -> tuple[str, str, str]:
    """What a task raised, in words, without unpickling the original.

    Args:
        payload: What `dumps_error` returned.

    Returns:
        The qualified name of its type, its message, its traceback.
    """
    cause_type, text, traceback, _ = _loads(payload)
    return cause_type, text, traceback


def describe(error: BaseException) -> str:
    """An exception's type and message in one line or more, whatever its `__str__` does.

    Example:
        >>> describe(ValueError("no"))
        'ValueError: no'
    """
    return f"{name_of(type(error))}: {text_of(error)}"


def text_of(error: object) -> str:
    """The message of an exception or a warning, whatever its `__str__` does."""
    try:
        return str.__str__(str(error))  # of a subclass of str only the text
    except BaseException:
        return f"<{type(error).__name__} whose __str__ fails>"


def name_of(kind: type) -> str:
    """A type's qualified name, without the module if that is `builtins`."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def follow_host(remote: bool = False) -> None:
    """For worker processes: from now on `sys.path` becomes the host's whenever a payload brings it.

    Handles of shared values that a task makes travel as the values: they belong to the process that made them.

    Args:
        remote: The host is on another machine, where things lie elsewhere: its entries come behind those of here.
    """
    global _follows_host  # noqa: PLW0603 - one fact about the process
    _follows_host = True
    _own_path[:] = sys.path if remote else []


class _RemoteTraceback(Exception):
    """Shows a traceback from another process where Python shows the cause of an error."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def _are_plain(values: "Iterable[object]") -> bool:
    for value in values:
        kind = type(value)
        if kind in _PLAIN:
            continue
        if kind is bytes and len(value) < LARGE:  # type: ignore[arg-type]
            continue
        if not (kind is tuple and _PLAIN_IN_TUPLE.issuperset(map(type, value))):  # type: ignore[call-overload]
            return False
    return True


def _dump(
    value: object, *, for_worker: bool = False, table: bytes | None = None, by_value: "ByValue | None" = None
) -> bytes | Parcel:
    parcel = _dump_parcel(value, LARGE, for_worker, table, by_value)
    if parcel.buffers or parcel.shares or sum(map(len, parcel.head)) >= LARGE:
        return parcel
    return b"".join(parcel.head)


def _dump_parcel(
    value: object, least: int, for_worker: bool, table: bytes | None = None, by_value: "ByValue | None" = None
) -> Parcel:
    from kumi import pickler

    # Whoever is in the middle of another pickle (an object's `__reduce__` may submit a task) goes on with its own.
    handles: list[object] | None = [] if for_worker and not _follows_host else None
    before, _here.handles = getattr(_here, "handles", None), handles
    try:
        pieces, buffers, needs_path = pickler.dump(value, least, by_value)
    finally:
        _here.handles = before
    if buffers:
        _refuse_more_than_memory(sum(buffer.nbytes for buffer in buffers))
    if for_worker and (table is not None or needs_path):
        host = _dumps((tuple(_host_path) or pickler.host_path(), table), 5)
        pieces.append(host + len(host).to_bytes(4, "little") + b"P")
    return Parcel(pieces, buffers, tuple(handles or ()), needs_path)


def _refuse_more_than_memory(size: int) -> None:
    """Of a file that is mapped, say: the copy would not fail, but cost the machine all its memory."""
    if size > (most := memory_bytes()):
        raise MemoryError(
            f"{size / 1e9:.1f} GB of data cannot be sent from where {most / 1e9:.1f} GB of memory may be used: "
            "send what they can be read from, such as the name of a file, or a part at a time"
        )


def _dump_whole(value: object, by_value: "ByValue | None" = None) -> bytes:
    from kumi import pickler

    return b"".join(pickler.dump(value, None, by_value).pieces)


def _dump_table(by_value: "ByValue | None") -> bytes:
    from kumi import serializers

    table = dict(serializers.table)  # another thread may register meanwhile
    if not table:
        return b""
    try:
        return _dump_whole(table, by_value)
    except Exception as error:
        kinds = ", ".join(kind.__qualname__ for kind in table)
        text = f"what register_serializer was given for {kinds} cannot be sent to a worker: {describe(error)}"
        raise SerializationError(text) from error


def _load_large(
    payload: bytes, memory: "Memory | None", numbers: "Sequence[int]" = (), *, read_only: bool = False
) -> "Any":
    rest = memoryview(payload)
    if rest[-1] == _SHARES:
        rest, numbers = _cut(rest)
    pickle, buffers = _open(rest, memory)
    if read_only:
        buffers = [memoryview(buffer).toreadonly() for buffer in buffers]
    if pickle[-1] == _PATH and _follows_host:
        _adopt_host(pickle)
    # A shared value may name others, which are loaded in the middle of this.
    before, _here.numbers = getattr(_here, "numbers", ()), numbers
    try:
        return _loads(pickle, buffers=buffers)
    finally:
        _here.numbers = before


def _cut(payload: memoryview) -> "tuple[memoryview, list[int]]":
    """Cuts off a table: numbers, how many, and a letter."""
    start = len(payload) - 5 - 8 * int.from_bytes(payload[-5:-1], "little")
    return payload[:start], payload[start:-5].cast("Q").tolist()


def _open(payload: memoryview, memory: "Memory | None") -> "tuple[memoryview, list[Any]]":
    """The pickle in a payload, and the buffers that it leaves out."""
    letter = payload[-1]
    if letter not in _TABLES:
        return payload, []
    payload, lengths = _cut(payload)
    if memory is None:
        start = len(payload) - sum(lengths)
        # Copies, because arrays may be written to and begin at even addresses.
        return payload[:start], [bytearray(part) for part in _parts(payload[start:], lengths, 1)]
    parts = _parts(memoryview(memory), lengths, _ALIGN)
    return (parts[0], parts[1:]) if letter == ord("H") else (payload, parts)


def _parts(whole: memoryview, lengths: list[int], align: int) -> list[memoryview]:
    parts, end = [], 0
    for length in lengths:
        start = -(-end // align) * align
        end = start + length
        parts.append(whole[start:end])
    return parts


def _adopt_host(payload: memoryview) -> None:
    length = int.from_bytes(payload[-5:-1], "little")
    path, table = _loads(payload[-5 - length : -5])
    if _own_path:
        _host_path[:] = path  # what this worker submits may run on any machine
    path = [*_own_path, *(entry for entry in path if entry not in _own_path)]
    if sys.path != path:
        sys.path[:] = path
    import importlib

    importlib.invalidate_caches()  # the module may have been written a moment ago
    if table:
        from kumi import serializers

        serializers.adopt(_loads(table))


def _refusal(text: str, parts: "list[tuple[str, str, object]]", error: Exception) -> SerializationError:
    """Says which of the named parts is to blame for an error."""
    if isinstance(error, MemoryError):
        raise error  # no part is to blame
    from kumi import unpicklable

    for name, path, value in parts:
        explanation = unpicklable.explain(path, value)
        if explanation is not None:
            return SerializationError(f"{name} {text}: {explanation}")
    # Each can be pickled alone, or can be now.
    return SerializationError(f"{' with '.join(name for name, _, _ in parts)} {text}: {describe(error)}")


def _makes_generator(function: object) -> bool:
    while isinstance(function, partial):
        function = function.func
    called = function if hasattr(function, "__code__") else type(function).__call__
    code = getattr(called, "__code__", None)
    return code is not None and bool(code.co_flags & _GENERATOR)


def _must_stay(error: BaseException) -> bool:
    """Whether it would end or confuse a program that gets it out of `Task.result`."""
    if not isinstance(error, Exception) or isinstance(error, StopIteration | StopAsyncIteration):
        return True
    # By name, because importing concurrent.futures to find out costs more than the task.
    return any(kind.__name__ == "CancelledError" for kind in type(error).__mro__)


class _Bare:
    """Pickles an exception without calling its `__init__`, which may want other arguments than `args`."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> "tuple[Any, ...]":
        return _rebuild, (type(self.error), self.error.args, vars(self.error))


def _rebuild(kind: type[BaseException], args: "tuple[Any, ...]", state: "dict[str, Any]") -> BaseException:
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error


def _body_of(error: BaseException) -> bytes | None:
    """Pickles an exception in the first way that it survives, or not at all."""
    is_plain = type(error).__module__ == "builtins" and not vars(error) and _are_plain(error.args)
    for form in (error, _Bare(error)):
        try:
            body = _dumps(form, 5) if is_plain else _dump_whole(form)
            copy = _loads(body)
        except BaseException:  # the exception's own code may fail as it likes
            continue
        if type(copy) is type(error) and text_of(copy) == text_of(error):
            return body
    return None


def _load_original(body: bytes) -> BaseException | None:
    try:
        error = loads(body)
    except Exception:  # its class may be missing here
        return None
    return error if isinstance(error, BaseException) else None


def _summary_of(error: BaseException) -> tuple[str, str, str]:
    name, text = name_of(type(error)), text_of(error)
    try:
        return name, text, _traceback_of(error)
    except BaseException:  # the exception's attributes may fail as they like
        return name, text, f"{name}: {text}\n"


def _traceback_of(error: BaseException) -> str:
    from traceback import TracebackException

    told = TracebackException(type(error), error, error.__traceback__, compact=True)
    _hide_frames(told)
    text, half = "".join(told.format()), TRACEBACK_MAX // 2
    if len(text) <= TRACEBACK_MAX:
        return text
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _hide_frames(told: "TracebackException | None") -> None:
    """Takes kumi's own frames from the top of a traceback and of those that led to it."""
    while told is not None:
        while told.stack and told.stack[0].filename in _FRAMES_HIDDEN:
            del told.stack[0]
        told = told.__cause__ or told.__context__
