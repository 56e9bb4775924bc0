"""The modules of this process: which are installed, and whether the user's own still are what their files say.

A worker looks for edits each time messages have come: a task that was submitted after an edit comes after it, so it
never meets the code of before. That costs about a microsecond for each of the user's own modules, once for a burst.
Given up: inotify. It has few places for each user, hears nothing of edits on other machines, and saves little.
"""

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from types import ModuleType

_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_STANDARD = os.path.dirname(os.__file__) + os.sep  # noqa: PTH120 - pathlib would cost every worker its import
_NANOSECONDS_LATE = 10_000_000  # how far behind the clock the kernel's stamps on files may be

_Stamp = tuple[int, int, int]


def is_installed(file: str) -> bool:
    """Whether every interpreter like this one looks there anyway.

    Example:
        >>> is_installed(os.__file__)
        True
    """
    return file.startswith(_STANDARD) or any(part in file for part in _INSTALLED)


class ByValue:
    """Which modules are not imported by workers, because their functions and classes are sent as they are.

    Args:
        names: Modules, each with those within it.
        elsewhere: Workers are on other machines, where the user's own modules are not: those below the working
            directory, or below that of the main program, that are not installed.

    Example:
        >>> ByValue({"mine"}).has("mine.part", "/home/me/mine/part.py")
        True
    """

    def __init__(self, names: "Collection[str]" = (), elsewhere: bool = False) -> None:
        self._names = tuple(names)
        self._elsewhere = elsewhere

    def has(self, name: str, file: str | None) -> bool:
        """Whether the module of this name, from this file, is one of them."""
        if any(f"{name}.".startswith(f"{one}.") for one in self._names):
            return True
        if not self._elsewhere or file is None or is_installed(file):
            return False
        return any(os.path.realpath(file).startswith(folder) for folder in _project_folders())


def _project_folders() -> "Iterator[str]":
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if main is not None:
        yield os.path.join(os.path.dirname(os.path.realpath(main)), "")  # noqa: PTH118, PTH120
    try:
        yield os.path.join(os.path.realpath(os.getcwd()), "")  # noqa: PTH109, PTH118
    except OSError:  # it is gone
        return


class Edits:
    """Watches the files of the modules that are imported from now on, save those that are installed.

    Example:
        >>> Edits().found()
        False
    """

    def __init__(self) -> None:
        self._names = set(sys.modules)
        self._looked = time.time_ns()
        self._stamps: dict[str, _Stamp] = {}

    def found(self) -> bool:
        """Whether the file of a module has changed since the import. If so the bytecode of all of them is removed.

        For Python knows bytecode by the second of the edit and the length of the file, and would take that of before
        for that of an edit in the same second. A file that is gone is no edit.
        """
        is_edited = any((now := _stamp(file)) is not None and now != stamp for file, stamp in self._stamps.items())
        if len(sys.modules) != len(self._names):
            is_edited |= self._note_new()
        self._looked = time.time_ns()
        if is_edited:
            for file in self._stamps:
                _remove_bytecode(file)
        return is_edited

    def _note_new(self) -> bool:
        """Returns whether one of them may have been edited between its import and now."""
        files = [_file_of(name, sys.modules.get(name)) for name in sys.modules.keys() - self._names]
        self._names = set(sys.modules)
        new = {file: stamp for file in files if file is not None and (stamp := _stamp(file)) is not None}
        self._stamps.update(new)
        earliest, latest = self._looked - _NANOSECONDS_LATE, time.time_ns() + _NANOSECONDS_LATE
        return any(earliest < modified < latest for modified, _, _ in new.values())


def _file_of(name: str, module: "ModuleType | None") -> str | None:
    file = getattr(module, "__file__", None)
    is_own = isinstance(file, str) and file.endswith(".py") and name.partition(".")[0] != "kumi"
    return file if is_own and not is_installed(str(file)) else None


def _stamp(file: str) -> _Stamp | None:
    try:
        status = os.stat(file)  # noqa: PTH116 - pathlib would cost every worker its import
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _remove_bytecode(file: str) -> None:
    from importlib.util import cache_from_source

    try:
        os.unlink(cache_from_source(file))  # noqa: PTH108
    except (OSError, NotImplementedError):  # there is none, or it is not ours
        return
