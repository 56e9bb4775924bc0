"""What a task warns of, for its record, while stderr shows what it would show anyway.

Python shows a warning once for each place in the code: in a *registry* of the place's module it notes that it has. But
a record must not depend on what ran before in its process. So what a task leaves in the registries is hidden from the
next: put under a key by which we, but not Python, know that it was shown. When filters change, Python drops it all, as
it would without us. Until something is shown this costs nothing. May not know: where tasks run.
"""

import sys
import warnings
from contextlib import contextmanager
from marshal import dumps as _dumps

from kumi import current, serial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Registry = dict[Any, Any]
    Place = tuple[Registry, tuple[Any, ...]]

# All arbitrary: how many warnings a record keeps, and how much of each; no more bytes than the core's `WARNINGS_MAX`.
_MOST, _TEXT, _FILE, _CATEGORY = 20, 400, 200, 100
_HIDDEN = "shown, but not in this task"


class Heard:
    """What one task has warned of, and where Python has noted that it was shown."""

    def __init__(self) -> None:
        self._first: list[tuple[str, str, str, int]] = []
        self._more = 0
        self.places: list[Place] = []

    def add(self, message: "warnings.WarningMessage", places: "Iterable[Place]") -> None:
        """Takes in what is about to be shown."""
        self.places += places
        if len(self._first) == _MOST:
            self._more += 1
            return
        category, text = serial.name_of(message.category), serial.text_of(message.message)
        self._first.append((category[:_CATEGORY], text[:_TEXT], message.filename[-_FILE:], message.lineno))

    def hide(self) -> None:
        """What was shown in this task counts for the next one as not shown."""
        _hide(self.places)

    def show(self) -> None:
        """This task goes on: what was shown in it counts again."""
        _show(self.places)

    def dumps(self) -> bytes:
        """For the record: the first ones, each as category, text, file and line, and how many more. Empty: none."""
        return b"" if not self._first else _dumps((self._first, self._more), 2)

    def close(self) -> bytes:
        """The task has ended in a process that is there for tasks. Returns what `dumps` does."""
        self.hide()
        return self.dumps()


def here() -> Heard | None:
    """What the task that runs here has warned of; None: of nothing, or none runs."""
    running = current.running()
    return None if running is None else running[3].get("warned")


def listen() -> None:
    """From now on notes what tasks warn of in this process, which is there for them."""
    _listener().stays = True


@contextmanager
def listening(notes: "dict[str, Any]") -> "Iterator[Heard]":
    """In this block a task runs in a process that is not there for tasks, and is not to notice.

    Args:
        notes: What lasts as long as the task.
    """
    listener = _listener()
    heard = notes["warned"] = Heard()
    shown = [place for registry in _registries() for place in _places_in(registry, hidden=False)]
    shown += [place for guest in listener.guests for place in guest.places]
    _hide(shown)
    listener.guests.append(heard)
    try:
        yield heard
    finally:
        listener.guests.remove(heard)
        heard.hide()
        _show(shown)
        listener.has_heard |= bool(heard.places)
        listener.leave()


class _Listener:
    """Stands where `warnings` looks for what shows a warning, and lets that show it."""

    def __init__(self) -> None:
        self.show: Callable[[warnings.WarningMessage], None] = vars(warnings)["_showwarnmsg"]
        self.stays = self.has_heard = False
        self.guests: list[Heard] = []  # of tasks in a process that is not there for them
        self._write = vars(warnings)["_showwarnmsg_impl"]

    def leave(self) -> None:
        """Goes, unless it is still needed. To the program, what was shown in tasks was shown."""
        if self.guests or self.stays:
            return
        if self.has_heard:
            for registry in _registries():
                _show(_places_in(registry, hidden=True))
        vars(warnings)["_showwarnmsg"] = self.show

    def __call__(self, message: "warnings.WarningMessage") -> None:
        # Else `catch_warnings(record=True)` has it, and what the task keeps for itself is not for the record.
        if vars(warnings)["_showwarnmsg_impl"] is self._write:
            running = current.running()
            self._note(message, None if running is None else running[3])
        else:
            self.show(message)

    def _note(self, message: "warnings.WarningMessage", notes: "dict[str, Any] | None") -> None:
        places = list(_places(message))
        if notes is not None:
            notes.setdefault("warned", Heard()).add(message, places)
        if not (places and _is_hidden(*places[-1])):
            self.show(message)
        if notes is None:
            _hide(places)


def _listener() -> _Listener:
    if not isinstance(vars(warnings)["_showwarnmsg"], _Listener):
        vars(warnings)["_showwarnmsg"] = _Listener()
    listener: _Listener = vars(warnings)["_showwarnmsg"]
    return listener


def _places(message: "warnings.WarningMessage") -> "Iterator[Place]":
    """Where Python has just noted that it shows this; the last of them kept it from doing so again."""
    text, category = serial.text_of(message.message), message.category
    registry = _registry_of(message)
    for noted, key in (
        (registry, (text, category, message.lineno)),
        (registry, (text, category, 0)),  # by the filter "module"
        (vars(warnings)["onceregistry"], (text, category)),
    ):
        if key in noted:
            yield noted, key


def _registry_of(message: "warnings.WarningMessage") -> "Registry":
    frame = sys._getframe()
    while frame is not None:
        if frame.f_lineno == message.lineno and frame.f_code.co_filename == message.filename:
            return _registry_in(frame.f_globals)
        frame = frame.f_back  # type: ignore[assignment]
    return _registry_in(vars(sys))  # where Python notes what no frame is to blame for


def _registry_in(variables: "dict[str, Any]") -> "Registry":
    registry = variables.get("__warningregistry__")
    return registry if isinstance(registry, dict) else {}


def _registries() -> "list[Registry]":
    found = [variables["__warningregistry__"] for variables in _variables() if "__warningregistry__" in variables]
    return [vars(warnings)["onceregistry"], *(registry for registry in found if isinstance(registry, dict))]


def _variables() -> "list[dict[str, Any]]":
    """Those of all modules."""
    modules = list(sys.modules.values())
    try:
        return [module.__dict__ for module in modules]
    except AttributeError:  # somebody has put something else there
        return [getattr(module, "__dict__", {}) for module in modules]


def _places_in(registry: "Registry", *, hidden: bool) -> "list[Place]":
    keys = [key for key in list(registry) if isinstance(key, tuple) and (key[0] == _HIDDEN) == hidden]
    return [(registry, key[1] if hidden else key) for key in keys]


def _hide(places: "Iterable[Place]") -> None:
    for registry, key in places:
        if registry.pop(key, None):
            registry[_HIDDEN, key] = True


def _show(places: "Iterable[Place]") -> None:
    for registry, key in places:
        if registry.pop((_HIDDEN, key), None):
            registry[key] = True


def _is_hidden(registry: "Registry", key: "tuple[Any, ...]") -> bool:
    return (_HIDDEN, key) in registry
