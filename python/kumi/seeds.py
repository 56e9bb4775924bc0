"""Random streams: a task with a seed finds its generators set, the same wherever and in whatever order tasks run.

A stream is the seed and the numbers that lead from there to the task: the one of the map and of its element, the one of
the task among those submitted one by one, and before them its parent's, if a task submitted it. May not know: where
tasks run.
"""

import sys
from functools import cache, wraps
from itertools import count
from struct import unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from numpy.random import Generator

Stream = tuple[int, ...]
"""The seed, and the path."""

_FOREIGN: Stream = (-1,)  # what nobody's stream is


class _Random:
    """The module `random`: what sets its generator, and in which form."""

    setters = "seed", "setstate"
    person = b"random"

    @staticmethod
    def seed(digest: bytes) -> int:
        return int.from_bytes(digest, "little")

    @staticmethod
    def state(module: "Any") -> object:
        return module.getstate()


class _NumpyRandom:
    """The same of `numpy.random`."""

    setters = "seed", "set_state"
    person = b"numpy"

    @staticmethod
    def seed(digest: bytes) -> tuple[int, ...]:
        return unpack("<8I", digest)

    @staticmethod
    def state(module: "Any") -> object:
        return module.get_state(legacy=False)


MODULES: "dict[str, type[_Random] | type[_NumpyRandom]]" = {"random": _Random, "numpy.random": _NumpyRandom}
"""What has global generators."""


class Seeds:
    """Numbers the streams of one seed: what a controller, a view or a running task holds that has one.

    Example:
        >>> seeds = Seeds((7,))
        >>> seeds.next(), seeds.next()
        ((7, 0), (7, 1))
    """

    def __init__(self, root: Stream) -> None:
        self._root = root
        self._numbers = count()
        self._unused: list[Stream] = []

    def __repr__(self) -> str:
        return f"Seeds({self._root})"

    def next(self) -> Stream:
        """The stream of the next task, or map."""
        try:
            return self._unused.pop()
        except IndexError:
            return (*self._root, next(self._numbers))

    def give_back(self, stream: Stream | None) -> None:
        """Keeps the latest stream for the next task: the queue was full."""
        if stream is not None:
            self._unused.append(stream)


def generator(stream: Stream | None) -> "Generator":
    """A numpy generator for a stream; None: one as random as the system can make it.

    Streams of different paths are independent (O'Neill, "Developing a seed_seq alternative", 2015).
    """
    from numpy.random import SeedSequence, default_rng

    if stream is None:
        return default_rng()
    root, *path = stream
    # The last number is none of a task: what `Generator.spawn` makes of this differs from what nested tasks get.
    return default_rng(SeedSequence(root, spawn_key=(*path, 2**32 - 1)))


class Generators:
    """The global generators of this process, of the module `random` and of `numpy.random`.

    Attributes:
        stream: What they were set for last; None: for nothing.
    """

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self._watch = _Watch(self)

    def set(self, stream: Stream | None, *, keep: bool) -> "_States | None":
        """Sets them for a task that begins; None: it has no stream, and must not find one that others have found.

        Args:
            stream: The task's.
            keep: Whether somebody waits for the task who uses them too, and is to find them as they were.

        Returns:
            What to call `put_back` of when the task is done; None: nothing is kept.
        """
        states = _States(self) if keep else None
        self.stream = stream
        missing = [name for name in MODULES if not self.set_one(name)]
        if missing:
            self._watch.begin()
        return states

    def set_one(self, name: str) -> bool:
        """Sets those of one module, if it is imported: one that is not costs its tasks nothing."""
        module = sys.modules.get(name)
        if module is not None:
            stream, kind = self.stream, MODULES[name]
            module.seed(None if stream is None else kind.seed(_digest(stream, kind.person)))
            self.stream = stream
        return module is not None

    def forget(self) -> None:
        """Whatever they are set to is not for the task that comes next: it has them set."""
        self.stream = _FOREIGN

    def go_on(self, stream: Stream | None) -> None:
        """A task goes on that they were set for, before others ran while it waited."""
        self.stream = stream
        if not all(name in sys.modules for name in MODULES):
            self._watch.begin()

    def guard(self) -> None:
        """Has them set anew after a task that sets them itself. To be called when one of `MODULES` was imported."""
        for name, kind in MODULES.items():
            module = sys.modules.get(name)
            for setter in kind.setters:
                found = getattr(module, setter, None)
                if found is not None and not hasattr(found, "__wrapped__"):
                    setattr(module, setter, self._noting(found))

    def _noting(self, setter: "Callable[..., Any]") -> "Callable[..., Any]":
        @wraps(setter)
        def noting(*args: object, **kwargs: object) -> object:
            self.forget()
            return setter(*args, **kwargs)

        return noting

    def put_back(self, stream: Stream | None, states: "dict[str, Any]") -> None:
        """Makes them what they were when `_States` looked; what was imported since is set as if it had been there."""
        is_task = stream is not None and stream is not _FOREIGN
        self.stream = stream if is_task else None
        for name, kind in MODULES.items():
            if name in states:
                getattr(sys.modules[name], kind.setters[1])(states[name])
            else:
                self.set_one(name)
        self.stream = stream
        if not is_task:
            self._watch.end()


class _States:
    """How the generators were before a task."""

    def __init__(self, generators: Generators) -> None:
        self._generators = generators
        self._stream = generators.stream
        there = {name: sys.modules[name] for name in MODULES if name in sys.modules}
        self._states = {name: MODULES[name].state(module) for name, module in there.items()}

    def put_back(self) -> None:
        self._generators.put_back(self._stream, self._states)


class _Watch:
    """An import hook: a task that imports generators itself finds them as if they had been there before."""

    def __init__(self, generators: Generators) -> None:
        self._generators = generators

    def begin(self) -> None:
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def end(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self,
        name: str,
        _path: "Sequence[str] | None" = None,
        _target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        if name not in MODULES:
            return None
        self.end()
        from importlib.util import find_spec

        spec = find_spec(name)
        if not all(other in sys.modules for other in MODULES if other != name):
            self.begin()
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_and_set(module: "ModuleType") -> None:
                execute(module)
                self._generators.set_one(name)

            spec.loader.exec_module = exec_and_set  # type: ignore[method-assign]
        return spec


def _digest(stream: Stream, person: bytes) -> bytes:
    """256 bits. Both generators are the same Mersenne Twister, and must not be set to the same."""
    digest: bytes = _blake2b()(repr(stream).encode(), digest_size=32, person=person).digest()
    return digest


@cache
def _blake2b() -> "Any":
    from hashlib import blake2b  # to ask for it each time takes longer than the digest

    return blake2b
