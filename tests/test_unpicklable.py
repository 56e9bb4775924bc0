"""What cannot be pickled: refused at once, with the part named and with advice."""

import collections
import concurrent.futures
import ctypes
import dataclasses
import datetime as dt
import functools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kumi import serial
from kumi.errors import SerializationError


def add(left: int, right: int = 1) -> int:
    return left + right


def refusal(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(SerializationError) as caught:
        serial.dumps_call(args, kwargs, add)
    return str(caught.value)


class Guarded:
    def __init__(self) -> None:
        self.fine = [1, 2]
        self.guard = threading.Lock()


class Slotted:
    __slots__ = ("guard",)

    def __init__(self) -> None:
        self.guard = threading.Lock()


class Careful(Guarded):
    """Leaves its guard out, but holds something else that does not go."""

    def __getstate__(self) -> object:
        return {"fine": self.fine, "lock": self.guard} if len(self.fine) > 2 else {"fine": self.fine}


def test_the_part_of_an_argument_is_named() -> None:
    text = refusal(1, {"lock": Guarded()})
    assert text.startswith("argument 2 of 'add' cannot be sent to a worker: args[1]['lock'].guard is a _thread.lock (")
    assert "cannot pickle '_thread.lock' object" in text
    assert "make it inside the function" in text


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda lock: lock, "args[0]"),
        (lambda lock: [0, (1, lock)], "args[0][1][1]"),
        (lambda lock: {lock: 1}, "the key <unlocked _thread.lock"),
        (lambda lock: {lock}, "the element <unlocked _thread.lock"),
        (lambda _: Slotted(), "args[0].guard"),
        (lambda lock: functools.partial(add, lock), "args[0].args[0]"),
        (lambda _: Guarded().__init__, "args[0].__self__.guard"),
        (lambda lock: lambda: lock, "args[0]'s variable 'lock'"),
        (lambda lock: lambda x=lock: x, "args[0]'s default 0"),
        (lambda lock: collections.deque([lock]), "args[0]"),
        (lambda lock: dataclasses.make_dataclass("D", ["field"])([lock]), "args[0].field[0]"),
        (lambda lock: ValueError("a", lock), "args[0].__reduce__()[1][1]"),
    ],
)
def test_the_search_goes_everywhere(make: Callable[[Any], object], path: str) -> None:
    assert f"cannot be sent to a worker: {path}" in refusal(make(threading.Lock()))


def test_keyword_arguments_functions_and_results_are_named() -> None:
    lock = threading.Lock()
    part = "'s variable 'lock' is a _thread.lock"
    assert refusal(1, key=[lock]).startswith("argument 'key' of 'add' cannot be sent to a worker: key[0] is a")

    def uses_lock() -> object:
        return lock

    with pytest.raises(SerializationError, match=rf"function '.*uses_lock' cannot be sent .*{part}"):
        serial.dumps_function(uses_lock)
    with pytest.raises(SerializationError, match=r"the result of the task cannot be sent back: result\['a'\] is a"):
        serial.dumps({"a": lock})


def test_a_global_and_a_class_attribute_are_named() -> None:
    space: dict[str, Any] = {"__name__": "__main__", "lock": threading.Lock()}
    exec("def f(): return lock\nclass C:\n    shared = lock\n", space)
    with pytest.raises(SerializationError, match="function 'f' cannot be sent to a worker: f's global 'lock' is a"):
        serial.dumps_function(space["f"])
    assert "args[0].shared is a _thread.lock" in refusal(space["C"])


def test_what_getstate_leaves_out_is_not_blamed() -> None:
    careful = Careful()
    assert serial.loads_call(serial.dumps_call((careful,), {}))[0][0].fine == [1, 2]
    careful.fine.append(3)
    assert "args[0].lock is a _thread.lock" in refusal(careful)


def test_cycles_and_depth_end() -> None:
    guarded = Guarded()
    guarded.fine.append(guarded)  # type: ignore[arg-type]
    cycle: list[Any] = [guarded]
    cycle.append(cycle)
    assert ".guard is a _thread.lock" in refusal(cycle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert "args[0] is a list (it is nested too deeply)" in refusal(deep)
    assert "flatten it, or pass it in another form" in refusal(deep)
    assert "one process" not in refusal(deep)
    while deep:  # or its end would recurse as deeply
        deep = deep.pop()
    buried: Any = threading.Lock()
    for _ in range(50):
        buried = [buried]
    assert "args[0]" + "[0]" * 10 in refusal(buried)


def test_an_object_whose_pickling_fails_in_its_own_way_is_named() -> None:
    class Rude:
        def __reduce__(self) -> str:
            raise ZeroDivisionError("I do as I like\nreally")

    text = refusal([Rude()])
    assert "args[0][0] is a test_unpicklable." in text
    assert "(I do as I like)" in text


def test_futures_and_generators_get_advice_of_their_own() -> None:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    assert "args[0][0] is a concurrent.futures._base.Future" in refusal([future])
    assert "pass its result instead: task.result()" in refusal([future])
    assert "pass a list, or make the generator inside the function" in refusal(x for x in range(3))


def test_what_belongs_to_no_process_gets_advice_of_its_own() -> None:
    class Holder:
        def __init__(self) -> None:
            self.back = weakref.ref(Guarded)
            self.frame = sys._getframe()

    holder = Holder()
    assert "back is a weakref.ReferenceType (" in refusal(holder)
    assert "pass what it refers to" in refusal(holder)
    assert "pass what you need of it, such as its text" in refusal(holder.frame)
    with pytest.raises(LookupError) as caught:
        raise LookupError
    assert "traceback.format_exc()" in refusal(caught.value.__traceback__)


@pytest.mark.parametrize(
    "value",
    [ctypes.pointer(ctypes.c_int(1)), ctypes.c_void_p(1), dt.datetime_CAPI],
    ids=["pointer", "void", "capsule"],
)
def test_addresses_are_refused_and_not_made_null(value: object) -> None:
    assert "args[0][0] is a " in refusal([value])


def generate() -> Iterator[int]:
    yield 1


async def generate_later() -> Any:
    yield 1


class Generating:
    def __call__(self) -> Iterator[int]:
        yield 1

    method = __call__


@pytest.mark.parametrize(
    "function",
    [generate, generate_later, functools.partial(functools.partial(generate)), Generating(), Generating().method],
)
def test_generator_functions_are_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(SerializationError, match=r"is a generator function.*return a list"):
        serial.dumps_function(function)


def test_a_failure_leaves_nothing_behind() -> None:
    guarded = Guarded()
    trace = weakref.ref(guarded)
    refusal(guarded)
    del guarded
    __import__("gc").collect()
    assert trace() is None
