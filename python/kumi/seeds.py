"""Random streams: a task with a seed finds its generators set, the same wherever and in whatever order tasks run.

A stream is the seed and the numbers that lead from there to the task: the one of the map and of its element, the one of
the task among those submitted one by one, and before them its parent's, if a task submitted it. May not know: where
tasks run.
"""

import sys
from functools import wraps
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

GUARDED = {"random": ("seed", "setstate"), "numpy.random": ("seed", "set_state")}
"""What sets the global generators, by the module that has them."""

_FOREIGN: Stream = (-1,)  # what nobody's stream is


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
        import random

        states = _States(self) if keep else None
        random.seed(None if stream is None else int.from_bytes(_digest(stream, b"random"), "little"))
        self.stream = stream
        if not self.set_numpy():
            self._watch.begin()
        return states

    def set_numpy(self) -> bool:
        """Sets those of numpy, if it is imported."""
        numpy = sys.modules.get("numpy.random")
        if numpy is not None:
            stream = self.stream
            numpy.seed(None if stream is None else unpack("<8I", _digest(stream, b"numpy")))
            self.stream = stream
        return numpy is not None

    def forget(self) -> None:
        """Whatever they are set to is not for the task that comes next: it has them set."""
        self.stream = _FOREIGN

    def guard(self) -> None:
        """Has them set anew after a task that sets them itself. To be called when one of `GUARDED` was imported."""
        for name, setters in GUARDED.items():
            module = sys.modules.get(name)
            for setter in setters:
                found = getattr(module, setter, None)
                if found is not None and not hasattr(found, "__wrapped__"):
                    setattr(module, setter, self._noting(found))

    def _noting(self, setter: "Callable[..., Any]") -> "Callable[..., Any]":
        @wraps(setter)
        def noting(*args: object, **kwargs: object) -> object:
            self.forget()
            return setter(*args, **kwargs)

        return noting

    def _put_back(self, stream: Stream | None, numpy: "Any") -> None:
        self.stream = stream
        self._watch.end()
        if numpy is not None:
            sys.modules["numpy.random"].set_state(numpy)
        else:
            self.set_numpy()  # it came with the task
        self.stream = stream


class _States:
    """How the generators were before a task."""

    def __init__(self, generators: Generators) -> None:
        import random

        numpy = sys.modules.get("numpy.random")
        self._generators = generators
        self._stream = generators.stream
        self._random = random.getstate()
        self._numpy = None if numpy is None else numpy.get_state(legacy=False)

    def put_back(self) -> None:
        import random

        random.setstate(self._random)
        self._generators._put_back(self._stream, self._numpy)


class _Watch:
    """An import hook: a task that imports numpy's generators itself finds them as if they had been there before."""

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
        if name != "numpy.random":
            return None
        self.end()
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_and_set(module: "ModuleType") -> None:
                execute(module)
                self._generators.set_numpy()

            spec.loader.exec_module = exec_and_set  # type: ignore[method-assign]
        return spec


def _digest(stream: Stream, whose: bytes) -> bytes:
    """256 bits. Both generators are the same Mersenne Twister, and must not be set to the same."""
    from hashlib import blake2b

    return blake2b(repr(stream).encode(), digest_size=32, person=whose).digest()
