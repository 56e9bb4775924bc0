"""Values that many tasks use: stored once, sent once to each worker.

Where the handle stands in what is pickled for a worker, the value stands in what the worker gets. Pickled for anything
else, and in a result, the handle travels as the value itself.
"""

from typing import Any, Generic, TypeVar, cast

from kumi import serial
from kumi._core import Stored
from kumi.modules import ByValue

T = TypeVar("T")


class Shared(Generic[T]):
    """A handle on a value that was stored by `share`."""

    __slots__ = ("__weakref__", "_names_modules", "_stored", "_value", "shares", "type_name")
    _value: T

    def __init__(self, value: T) -> None:
        payload = serial.dumps_shared(value)
        self._stored = Stored(payload)
        self._names_modules = payload.needs_path
        self.shares: tuple[Shared[Any], ...] = payload.shares
        """The handles that stand in the value."""
        self.type_name = type(value).__qualname__

    def stored(self, by_value: ByValue | None) -> tuple[Stored, "tuple[Shared[Any], ...]"]:
        """The value's bytes, and the handles that stand in them.

        Args:
            by_value: Modules that workers shall not import: then the value is pickled again, if it may name one.
        """
        if by_value is None or not self._names_modules:
            return self._stored, self.shares
        payload = serial.dumps_shared(self.value(), by_value)
        return Stored(payload), payload.shares

    def value(self) -> T:
        """The value as a worker gets it, unpickled once."""
        try:
            return self._value
        except AttributeError:
            numbered = dict(enumerate(self.shares))
            with serial.resolving(lambda number: numbered[number].value()):
                self._value = serial.loads_shared(self._stored.payload, self._stored.memory(), len(numbered))
            return self._value

    def __reduce__(self) -> tuple[Any, ...]:
        number = serial.note_share(self)
        return (serial.copied, (self.value(),)) if number is None else (serial.shared, (number,))

    def __repr__(self) -> str:
        return f"<Shared {self.type_name}>"


def share(value: T) -> T:
    """Stores a value for many tasks to use, and returns a handle to submit in its place.

    Wherever the handle stands (as an argument, in containers, closures and partials) the task sees the value. It is
    copied once, here, and sent once to each worker; a worker keeps it. Arrays in it are read-only there, and other
    values are the same object for all tasks of a worker: do not change them. The memory is freed when nobody holds the
    handle and no task that was submitted with it is left.

    Args:
        value: Anything that can be pickled. What is changed in it afterwards is not seen by tasks.

    Returns:
        A handle, typed as the value so that calls check. On this side it is nothing but a handle.

    Raises:
        SerializationError: If the value cannot be pickled; the text names the part.

    Example:
        >>> big = kumi.share(np.ones(10_000_000))
        >>> kumi.map(lambda row: big[row], range(3)).results()
        [1.0, 1.0, 1.0]
    """
    return value if isinstance(value, Shared) else cast("T", Shared(value))
