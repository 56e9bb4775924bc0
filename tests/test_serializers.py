"""Types that users pickle in their own way."""

import os
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import kumi
import pytest
from kumi import serializers


class Handle:
    """Cannot be pickled; remembers where it was made."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.pid = os.getpid()
        self.lock = threading.Lock()


class Special(Handle):
    pass


class Result:
    """Made by workers alone."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.lock = threading.Lock()


def to_bytes(handle: Handle) -> bytes:
    return repr(handle.value).encode()


def value_of(handle: Handle) -> Any:
    return handle.value


def add(*handles: Handle) -> Any:
    assert {handle.pid for handle in handles} == {os.getpid()}
    return sum(handle.value for handle in handles)


def nested(items: dict[str, list[Handle]]) -> dict[str, tuple[Handle]]:
    return {key: (Handle(handle.value + 1),) for key, (handle,) in items.items()}


def make_result(value: int) -> Result:
    return Result(value)


def kind_of(handle: Handle) -> str:
    return type(handle).__name__


def refuse(_: object) -> NoReturn:
    raise ZeroDivisionError("no way")


HOST = os.getpid()


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = dict(serializers.table)
    yield
    serializers.table.clear()
    serializers.adopt(before)


def test_arguments_and_results_also_inside_of_containers(crew: kumi.Controller) -> None:
    """C88."""
    with pytest.raises(kumi.SerializationError):
        crew.submit(value_of, Handle(3))
    kumi.register_serializer(Handle, to_bytes, lambda data: Handle(int(data)))
    assert crew.submit(value_of, Handle(3)).result() == 3
    assert crew.submit(add, Handle(1), Handle(2)).result() == 3
    result = crew.submit(nested, {"k": [Handle(4)]}).result()
    assert (result["k"][0].value, result["k"][0].pid) == (5, os.getpid())
    assert crew.map(value_of, [Handle(1), Handle(2)]).results() == [1, 2]


def test_what_only_workers_make_and_a_function_that_was_used_before(single: kumi.Controller) -> None:
    with pytest.raises(kumi.SerializationError):
        single.submit(make_result, 1).result()
    kumi.register_serializer(Result, lambda made: made.value, Result)
    assert single.submit(make_result, 2).result().value == 2
    assert single.submit(lambda: [Result(3)]).result()[0].value == 3


def test_subclasses_are_meant_unless_registered_themselves(crew: kumi.Controller) -> None:
    kumi.register_serializer(Handle, value_of, Handle)
    assert crew.submit(kind_of, Special(1)).result() == "Handle"
    kumi.register_serializer(Special, value_of, Special)
    assert crew.submit(kind_of, Special(1)).result() == "Special"
    assert crew.submit(kind_of, Handle(1)).result() == "Handle"


class Pair(NamedTuple):
    x: int
    y: int


CONTAINERS: dict[type, Any] = {
    type("Things", (list,), {"__module__": __name__}): [1, 2],
    type("Table", (dict,), {"__module__": __name__}): {"a": 1},
    type("Word", (str,), {"__module__": __name__}): "word",
    type("Number", (int,), {"__module__": __name__}): 5,
    type("Bytes", (bytes,), {"__module__": __name__}): b"x" * 300_000,
    Pair: (1, 2),
}


@pytest.mark.parametrize("kind", CONTAINERS, ids=lambda kind: kind.__name__)
def test_classes_that_derive_from_plain_ones_are_meant_too(crew: kumi.Controller, kind: type) -> None:
    kumi.register_serializer(kind, lambda _: None, lambda _: "made anew")
    value = kind(*CONTAINERS[kind]) if kind is Pair else kind(CONTAINERS[kind])
    seen = crew.submit(lambda *seen: [*seen, value], value, [value]).result()
    assert seen == ["made anew", ["made anew"], "made anew"]


def test_several_are_registered_one_by_one(crew: kumi.Controller) -> None:
    """M43."""
    kumi.register_serializer(Handle, value_of, Handle)
    kumi.register_serializer(Result, lambda made: made.value, Result)
    assert {Handle, Result} <= set(serializers.table)
    assert crew.submit(lambda handle: [Result(handle.value), handle], Handle(1)).result()[0].value == 1


class RegistersWhenPickled:
    """As another thread may just then."""

    def __call__(self, _: object) -> str:
        return ""

    def __reduce__(self) -> tuple[Any, ...]:
        kumi.register_serializer(type("Late", (), {"__module__": __name__}), repr, repr)
        return RegistersWhenPickled, ()


def test_types_are_registered_while_others_are_sent(crew: kumi.Controller) -> None:
    kumi.register_serializer(Handle, RegistersWhenPickled(), repr)
    kumi.register_serializer(Result, repr, repr)
    assert crew.submit(lambda: 1).result() == 1
    assert {"Handle", "Result", "Late"} <= {kind.__name__ for kind in serializers.table}


def test_a_later_registration_replaces(crew: kumi.Controller) -> None:
    kumi.register_serializer(Handle, value_of, Handle)
    kumi.register_serializer(Handle, lambda _: 7, Handle)
    assert crew.submit(value_of, Handle(1)).result() == 7


def test_an_error_never_costs_a_worker(single: kumi.Controller) -> None:
    pid = single.submit(os.getpid).result()
    kumi.register_serializer(Handle, refuse, Handle)
    with pytest.raises(kumi.SerializationError, match="no way"):
        single.submit(value_of, Handle(1))
    kumi.register_serializer(Handle, value_of, refuse)
    with pytest.raises(kumi.SerializationError, match=r"an argument could not be unpickled on the worker.*no way"):
        single.submit(value_of, Handle(1)).result()
    kumi.register_serializer(Result, refuse, Result)
    with pytest.raises(kumi.SerializationError, match="no way"):
        single.submit(make_result, 1).result()
    host = HOST
    kumi.register_serializer(
        Result, lambda made: made.value, lambda value: refuse(value) if os.getpid() == host else Result(value)
    )
    with pytest.raises(kumi.SerializationError, match=r"arrived but cannot be unpickled in this process.*no way"):
        single.submit(make_result, 1).result()
    assert single.submit(os.getpid).result() == pid
    assert single.status().lost == 0


def test_what_cannot_travel_is_said_at_submit(crew: kumi.Controller) -> None:
    lock = threading.Lock()
    kumi.register_serializer(Handle, lambda handle: (lock, handle.value), Handle)
    with pytest.raises(kumi.SerializationError, match="register_serializer was given for Handle cannot be sent"):
        crew.submit(lambda: 1)


@pytest.mark.parametrize("kind", [int, str, list, dict, type, object])
def test_types_that_are_not_open_to_change(kind: type) -> None:
    with pytest.raises(TypeError, match="not open to change"):
        kumi.register_serializer(kind, repr, repr)


def test_what_is_no_type_or_no_function() -> None:
    with pytest.raises(TypeError, match="kind must be a class"):
        kumi.register_serializer("Handle", repr, repr)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="loads must be callable"):
        kumi.register_serializer(Handle, repr, None)  # type: ignore[arg-type]


def test_in_process() -> None:
    kumi.register_serializer(Handle, value_of, Handle)
    with kumi.Controller(kumi.Sequential()) as crew:
        assert crew.submit(value_of, Handle(3)).result() == 3
