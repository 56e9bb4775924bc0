"""Which functions a pool has been given already, so that each is pickled and sent as rarely as possible."""

import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

from kumi import serial, serializers
from kumi._core import Function, Inner, Pool
from kumi.modules import ByValue
from kumi.shared import Shared

BY_NAME_MAX = 1024  # these are small
BY_VALUE_MAX = 64  # these may hold anything, and the pool keeps the bytes


class Prepared(NamedTuple):
    """A function and what the core knows it by."""

    call: Callable[..., Any]
    handle: Function


class Functions:
    """The functions of one pool.

    One that travels by name is known again by its identity: its module's file says what it does. One that travels by
    value is pickled at each call, because what it holds may have changed, and known again by its bytes; with large
    parts it is not known again.

    Args:
        pool: Where they are defined.
        by_value: Modules whose functions and classes travel by value; None: none.
    """

    def __init__(self, pool: Pool | Inner, by_value: ByValue | None = None) -> None:
        self._pool = pool
        self._modules_by_value = by_value
        self._lock = threading.RLock()  # a signal's handler may come in between, and submit itself
        # By id, which stays its own as long as the function is held here.
        self._by_name: dict[int, Prepared] = {}
        self._by_value: OrderedDict[bytes, Function] = OrderedDict()
        self._shared: WeakKeyDictionary[Shared[Any], Function] = WeakKeyDictionary()
        serializers.caches.add(self)

    def forget(self) -> None:
        """Has each function pickled anew when it is used next, with all that is registered by then."""
        with self._lock:
            self._by_name.clear()
            self._by_value.clear()

    def get(self, function: Callable[..., Any]) -> Prepared:
        """Sees to it that the pool has this function.

        Raises:
            TypeError: If it cannot be called.
            SerializationError: If it cannot be pickled.
        """
        known = self._by_name.get(id(function))
        return self._define(function) if known is None else known

    def tell(self, parcel: serial.Parcel) -> None:
        """Has the pool know the shared values that stand in a payload."""
        parcel.uses = [self._share(handle) for handle in parcel.shares]

    def resolve(self, number: int) -> Any:
        """The shared value that the core knows by this number. For tasks that run in this process."""
        with self._lock:
            handle = next(handle for handle, made in self._shared.items() if made.number == number)
        return handle.value()

    def _share(self, handle: Shared[Any]) -> Function:
        with self._lock:
            known = self._shared.get(handle)
        if known is None:
            stored, shares = handle.stored(self._modules_by_value)
            inner = [self._share(other) for other in shares]
            with self._lock:
                pool = cast("Pool", self._pool)  # what a task shares travels by value
                made = pool.share(stored, inner, f"share({handle.type_name})")
                known = self._shared.setdefault(handle, made)
        return known

    def _define(self, function: Callable[..., Any]) -> Prepared:
        if not callable(function):
            raise TypeError(f"fn must be callable, not {function!r}")
        payload = serial.dumps_function(function, self._modules_by_value)
        if isinstance(payload, serial.Parcel):
            # It holds much memory, until its last task is done; to find out whether it has changed would take long.
            self.tell(payload)
            return Prepared(function, self._pool.define(payload, serial.label(function)))
        if _goes_by_name(function, payload):
            return self._define_by_name(function, payload)
        return self._define_by_value(function, payload)

    def _define_by_name(self, function: Callable[..., Any], payload: bytes) -> Prepared:
        made = self._pool.define(payload, serial.label(function))
        with self._lock:
            if len(self._by_name) >= BY_NAME_MAX:
                del self._by_name[next(iter(self._by_name))]
            return self._by_name.setdefault(id(function), Prepared(function, made))

    def _define_by_value(self, function: Callable[..., Any], payload: bytes) -> Prepared:
        from hashlib import blake2b

        digest = blake2b(payload, digest_size=20).digest()
        with self._lock:
            known = self._by_value.get(digest)
            if known is None:
                known = self._by_value[digest] = self._pool.define(payload, serial.label(function))
                if len(self._by_value) > BY_VALUE_MAX:
                    self._by_value.popitem(last=False)
            self._by_value.move_to_end(digest)
            return Prepared(function, known)


def _goes_by_name(function: Callable[..., Any], payload: bytes) -> bool:
    """Whether the payload is nothing but the name of the function. Other callables may change under the same name."""
    if isinstance(function, BuiltinFunctionType):
        if not isinstance(function.__self__, ModuleType):
            return False  # a method of some object, pickled with that object
    elif not isinstance(function, FunctionType | type):
        return False
    try:
        return payload.startswith(pickle.dumps(function, 5))
    except Exception:  # it cannot be looked up by its name, for whatever reason
        return False
