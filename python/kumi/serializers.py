"""Types that users pickle in their own way, and who has to hear of it.

Host and workers each have a table. The host's travels with every function, so that a worker knows how to send back what
its tasks make. What was pickled so carries the function that unpickles it.
"""

from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# Python's pickle writes these without asking anybody, or kumi has rules for them.
_FIXED = frozenset(
    {object, type, ModuleType, type(None), bool, int, float, str, bytes, bytearray, list, tuple, dict, set, frozenset}
)


class Serializer(NamedTuple):
    """How one type is pickled."""

    dumps: "Callable[[Any], Any]"
    loads: "Callable[[Any], Any]"


class Cache(Protocol):
    """Something that keeps pickles made with the table."""

    def forget(self) -> None:
        """Drops them, for the table has changed."""


table: dict[type, Serializer] = {}
caches: WeakSet[Cache] = WeakSet()


def register_serializer(kind: type[T], dumps: "Callable[[T], Any]", loads: "Callable[[Any], T]") -> None:
    """From now on has objects of a type pickled your way, as arguments and results, also inside of containers.

    For types that cannot be pickled, or for which you know a better way. Subclasses are meant too, unless they are
    registered themselves; a type that is registered again gets the new way. An error in `dumps` or `loads` is the
    task's error, or that of `submit`.

    Args:
        kind: The type.
        dumps: Makes of such an object something that can be pickled, usually `bytes`.
        loads: Makes the object of that again, in the other process. Travels like any function.

    Raises:
        TypeError: If `kind` is no class, or one whose pickling is not open to change, or a function cannot be called.

    Example:
        >>> kumi.register_serializer(Model, Model.to_bytes, Model.from_bytes)
        >>> kumi.submit(fit, Model()).result()
        <Model>
    """
    if not isinstance(kind, type):
        raise TypeError(f"kind must be a class, not {kind!r}")
    if kind in _FIXED:
        raise TypeError(f"how {kind.__name__!r} is pickled is not open to change: register a class of your own")
    for name, function in (("dumps", dumps), ("loads", loads)):
        if not callable(function):
            raise TypeError(f"{name} must be callable, not {function!r}")
    adopt({kind: Serializer(dumps, loads)})


def adopt(more: dict[type, Serializer]) -> None:
    """Adds to this process' table."""
    table.update(more)
    for cache in list(caches):
        cache.forget()


def find(kind: type) -> Serializer | None:
    """How objects of exactly this type are pickled, if somebody registered it or a class that it derives from."""
    return next((table[base] for base in kind.__mro__ if base in table), None)
