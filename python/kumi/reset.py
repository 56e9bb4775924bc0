"""What a task changes in its process, put back when it is done.

The line is drawn at imports: what a module does when it is imported, it does once for the whole process, and tasks that
come later rely on it, so that stays. What a task does itself goes. May not know: where tasks run.
"""

import _signal  # type: ignore[import-not-found]  # `signal` would make enumerations of all its numbers first
import os
import sys
import warnings
from contextlib import contextmanager
from itertools import takewhile

from kumi._core import Untouched
from kumi.seeds import MODULES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from _typeshed import StrOrBytesPath

    from kumi.seeds import Generators, Stream

    Paused = tuple["State", Stream | None, dict[bytes, bytes | None]]

PARTS = ("directory", "environment", "warnings", "signals", "random")
DIRECTORY, ENVIRONMENT, WARNINGS, SIGNALS, RANDOM = (1 << place for place in range(len(PARTS)))
ALL = (1 << len(PARTS)) - 1

_putenv, _unsetenv = os.putenv, os.unsetenv
_VARIABLES: "dict[bytes, bytes]" = vars(os.environ)["_data"]
_TIMERS = {
    _signal.SIGALRM: _signal.ITIMER_REAL,
    _signal.SIGVTALRM: _signal.ITIMER_VIRTUAL,
    _signal.SIGPROF: _signal.ITIMER_PROF,
}


def chosen(reset: object) -> int:
    """Checks the argument `reset` of a controller, and makes bits of it.

    Example:
        >>> chosen({"directory", "warnings"})
        5
    """
    if isinstance(reset, bool):
        return ALL if reset else 0
    accepted = f"reset must be True, False, or a collection of some of {', '.join(map(repr, PARTS))}"
    if isinstance(reset, str | bytes) or not hasattr(type(reset), "__iter__"):
        raise TypeError(f"{accepted}, not {reset!r}")
    bits = 0
    for part in reset:  # type: ignore[attr-defined]
        if part not in PARTS:
            raise ValueError(f"{accepted}: {part!r} is none of them")
        bits |= 1 << PARTS.index(part)
    return bits


class State:
    """How this process is at a moment, in some parts.

    Args:
        parts: Which, as `chosen` returns them.
    """

    def __init__(self, parts: int) -> None:
        self.directory = _Directory.here() if parts & DIRECTORY else None
        self.environment = dict(_VARIABLES) if parts & ENVIRONMENT else None
        self.filters = list(warnings.filters) if parts & WARNINGS else None
        self.handlers = _handlers() if parts & SIGNALS else {}
        self._list: list[Any] = vars(warnings)["filters"]

    def untouched(self) -> Untouched:
        """What tells whether the process still is as it was made by `put_back`."""
        return Untouched(
            None if self.directory is None else self.directory.descriptor,
            None if self.environment is None else _VARIABLES,
            None if self.filters is None else (vars(warnings), self._list),
        )

    def put_back(self) -> None:
        """Makes the process as it was, where it is not.

        Raises:
            OSError: If the working directory cannot be entered any more.
        """
        for signal, handler in self.handlers.items():
            if _signal.getsignal(signal) is not handler:
                _put_back_handler(signal, handler)
        if self.environment is not None:
            _put_back_variables(self.environment)
        if self.filters is not None and (warnings.filters is not self._list or self._list != self.filters):
            warnings.filters = self._list
            warnings.resetwarnings()  # tells the core of `warnings` that what it remembers is out of date
            self._list[:] = self.filters
        if self.directory is not None:
            os.fchdir(self.directory.descriptor)

    def accept(self, before: "State", after: "State") -> None:
        """Takes over what happened between two moments: that is not put back."""
        for signal, handler in after.handlers.items():
            if before.handlers[signal] is not handler and signal in self.handlers:
                self.handlers[signal] = handler
        if self.environment is not None:
            was, now = before.environment or {}, after.environment or {}
            for name in was.keys() - now.keys():
                self.environment.pop(name, None)
            self.environment.update(now.items() - was.items())
        if self.filters is not None:
            self.filters[:] = _with_changes(self.filters, before.filters or [], after.filters or [])
        if self.directory is not None and not _Directory.is_same(before.directory, after.directory):
            self.directory = after.directory


class _Directory:
    """A working directory, which stays reachable under whatever name, or none."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def here(cls) -> "_Directory | None":
        try:
            return cls(os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError:  # it is gone, or no descriptor is left
            return None

    @staticmethod
    def is_same(one: "_Directory | None", other: "_Directory | None") -> bool:
        if one is None or other is None:
            return one is other
        first, second = os.fstat(one.descriptor), os.fstat(other.descriptor)
        return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)

    def __del__(self) -> None:
        try:
            os.close(self.descriptor)
        except OSError:  # a task closed what is not its own
            return


def _handlers() -> "dict[int, Any]":
    """Python's own handlers. Those that a library installed by itself are None, and not ours to touch."""
    return {signal: _signal.getsignal(signal) for signal in range(1, _signal.NSIG)}


def _put_back_handler(signal: int, handler: "Any") -> None:
    if handler is None:
        return
    try:
        _signal.signal(signal, handler)
    except ValueError:  # not the main thread, where no handlers can have been set
        return
    if signal in _TIMERS:
        _signal.setitimer(_TIMERS[signal], 0)  # lest it kills this process


def _put_back_variables(environment: "dict[bytes, bytes]") -> None:
    for name in _VARIABLES.keys() - environment.keys():
        _unsetenv(name)
        del _VARIABLES[name]
    for name, value in environment.items():
        if _VARIABLES.get(name) != value:
            _putenv(name, value)
            _VARIABLES[name] = value


def _with_changes(filters: "list[Any]", before: "list[Any]", after: "list[Any]") -> "list[Any]":
    added = [one for one in after if one not in before]
    first = list(takewhile(lambda one: one not in before, after))
    kept = [one for one in filters if one not in added and (one in after or one not in before)]
    return [*first, *kept, *added[len(first) :]]


class _Direct:
    """Variables set by `os.putenv` and its kin, of which `os.environ` knows nothing. In a worker, from the start on.

    What native code sets by itself stays: its runtime may need that.
    """

    def __init__(self, touch: "Callable[[], None]") -> None:
        self._touch = touch
        self._kept: dict[bytes, bytes | None] = {}
        self._changed: dict[bytes, bytes | None] = {}
        os.putenv, os.unsetenv = self._put, self._unset

    def keep(self) -> None:
        """What was set until now stays."""
        self._kept |= self._take()

    def put_back(self, environment: "dict[bytes, bytes]") -> "dict[bytes, bytes | None]":
        """Undoes what was set since then, and returns it."""
        changed = self._take()
        _put_variables({name: self._kept.get(name, environment.get(name)) for name in changed})
        return changed

    def set(self, variables: "dict[bytes, bytes | None]") -> None:
        """Sets what was undone."""
        _put_variables(variables)
        self._changed |= variables

    def _take(self) -> "dict[bytes, bytes | None]":
        changed, self._changed = self._changed, {}
        return changed

    def _put(self, name: "StrOrBytesPath", value: "StrOrBytesPath", /) -> None:
        _putenv(name, value)
        self._note(name, os.fsencode(value))

    def _unset(self, name: "StrOrBytesPath", /) -> None:
        _unsetenv(name)
        self._note(name, None)

    def _note(self, name: "StrOrBytesPath", value: bytes | None) -> None:
        (self._kept if _imports.runs else self._changed)[os.fsencode(name)] = value
        self._touch()


def _put_variables(variables: "dict[bytes, bytes | None]") -> None:
    for name, value in variables.items():
        if value is None:
            _unsetenv(name)
        else:
            _putenv(name, value)


class Reset:
    """Puts a worker process back after each task. There is one at most in a process.

    Args:
        parts: What to put back, as `chosen` returns it.
        generators: Those of the process.
    """

    def __init__(self, parts: int, generators: "Generators") -> None:
        self._parts = parts
        self._generators = generators
        self._state = State(parts)
        self._untouched: Untouched | None = None
        self._direct = _Direct(self._touch) if parts & ENVIRONMENT else None
        if parts & SIGNALS:
            _signal.signal = self._noting(_signal.signal)  # to look at all handlers after each task would take long
        if parts & RANDOM:
            _imports.guard = generators.guard
            generators.guard()
        _imports.begin(self._state)

    def begin(self) -> Untouched:
        """What tells after a task whether to call `put_back`."""
        self._untouched = self._state.untouched()
        return self._untouched

    def put_back(self) -> None:
        """Makes the process as it was before the first task, but for what imports did."""
        self._state.put_back()
        self._put_back_direct()

    def keep(self) -> None:
        """From now on puts the process back to what it is now."""
        if self._direct is not None:
            self._direct.keep()
        _imports.end(self._state)
        self._state = State(self._parts)
        _imports.begin(self._state)

    def pause(self) -> "Paused":
        """Puts the process back for a task that is run while another one waits. Returns what `resume` needs."""
        state = State(self._parts)
        _imports.begin(state)
        self._state.put_back()
        paused = state, self._generators.stream, self._put_back_direct()
        if self._parts & RANDOM:
            self._generators.forget()
        return paused

    def resume(self, paused: "Paused") -> None:
        """Makes the process what it was before `pause`."""
        state, stream, direct = paused
        _imports.end(state)
        self._put_back_direct()
        state.put_back()
        if self._direct is not None:
            self._direct.set(direct)
        if self._parts & RANDOM:
            self._generators.go_on(stream)

    def _noting(self, set_handler: "Callable[[int, Any], Any]") -> "Callable[[int, Any], Any]":
        def signal(signalnum: int, handler: "Any", /) -> "Any":
            self._touch()
            return set_handler(signalnum, handler)

        signal.__doc__, signal.__module__ = set_handler.__doc__, set_handler.__module__
        return signal

    def _touch(self) -> None:
        if self._untouched is not None:
            self._untouched.touch()

    def _put_back_direct(self) -> "dict[bytes, bytes | None]":
        return {} if self._direct is None else self._direct.put_back(self._state.environment or {})


@contextmanager
def kept(parts: int, generators: "Generators") -> "Iterator[None]":
    """Puts the process back at the end of the block, but for what imports did in there.

    Args:
        parts: What to put back, as `chosen` returns it.
        generators: Those of the process. Whoever runs a task in the block puts them back.
    """
    if parts & RANDOM:
        generators.forget()
    state = State(parts)
    _imports.begin(state)
    try:
        yield
    finally:
        _imports.end(state)
        state.put_back()


class _Imports:
    """An import hook: what happens while a module is imported is noted as the import's doing."""

    def __init__(self) -> None:
        self._states: list[State] = []
        self.guard: Callable[[], None] | None = None
        self.runs = False  # a module is being imported

    def begin(self, state: State) -> None:
        self._states.append(state)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def end(self, state: State) -> None:
        self._states.remove(state)
        if not self._states and self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if self.runs and (self.guard is None or name not in MODULES):
            return None  # what the import that runs imports belongs to it
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]
                return spec
        return None

    def execute(self, loader: "Any", module: "ModuleType") -> None:
        if self.runs:
            loader.exec_module(module)
        else:
            self._note(loader, module)
        if self.guard is not None:
            self.guard()

    def _note(self, loader: "Any", module: "ModuleType") -> None:
        self.runs = True
        try:
            before = State(ALL)
            loader.exec_module(module)
            after = State(ALL)
            for state in self._states:
                state.accept(before, after)
        finally:
            self.runs = False


class _Loader:
    """Stands in for the loader of a module until that runs."""

    def __init__(self, loader: "Any", imports: _Imports) -> None:
        self._loader = loader
        self._imports = imports

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._loader, name)

    def create_module(self, spec: "ModuleSpec") -> "ModuleType | None":
        create = getattr(self._loader, "create_module", None)
        return None if create is None else create(spec)

    def exec_module(self, module: "ModuleType") -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._imports.execute(self._loader, module)


_imports = _Imports()
