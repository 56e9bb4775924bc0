"""Pickling: what comes back, what travels by name and what by value."""

import collections
import functools
import importlib.util
import math
import os
import pickle
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from kumi import pickler, serial
from kumi._core import LARGE
from rig import remote, run_python, write


def add(left: int, right: int = 1) -> int:
    return left + right


def double(function: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(function)
    def doubled(*args: int) -> int:
        return 2 * function(*args)

    return doubled


@double
def decorated(number: int) -> int:
    return number + 1


@functools.lru_cache(maxsize=7)
def cached(number: int) -> int:
    return number + 1


class Adder:
    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, number: int) -> int:
        return number + self.step

    def add(self, number: int) -> int:
        return number + self.step

    @classmethod
    def make(cls, step: int) -> "Adder":
        return cls(step)


@pytest.fixture
def restored_path() -> Iterator[None]:
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("kumi_test_")]:
        del sys.modules[name]


def load_by_hand(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def is_by_name(function: Callable[..., Any]) -> bool:
    return b"_make_function" not in serial.dumps_function(function)


# Calls and values


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1, 2.5, "a", b"b", None, True), {}),
        (((1, "a"), ()), {"k": (None,)}),
        ((), {"k": 1}),
        (([1], {"a": {2}}), {"k": [3]}),
        (((1, (2, [3])),), {}),
        ((10**40, "\ud800"), {}),
    ],
)
def test_calls_come_back(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    copy = serial.loads_call(serial.dumps_call(args, kwargs))
    assert copy == (args, kwargs, None)
    assert [type(value) for value in copy[0]] == [type(value) for value in args]


@pytest.mark.parametrize("value", [None, 1, "a", b"", (1, 2), [1], {"a": 1}, math.sqrt, len, Adder, os.path.join])
def test_values_come_back(value: object) -> None:
    assert serial.loads(serial.dumps(value)) == value


def test_plain_calls_do_without_cloudpickle(tmp_path: Path) -> None:
    code = """
        import sys
        from kumi import serial
        serial.loads_call(serial.dumps_call((1, "a", (2.0, None)), {"k": b""}))
        serial.loads(serial.dumps("value"))
        serial.loads_error(serial.dumps_error(ValueError("no")))
        print("cloudpickle" in sys.modules)
    """
    assert run_python("-c", textwrap.dedent(code), directory=tmp_path) == "False\n"


def test_subclasses_of_plain_types_keep_their_type() -> None:
    class Name(str):
        __slots__ = ()

    (copy,), _, _ = serial.loads_call(serial.dumps_call((Name("a"),), {}))
    assert type(copy) is Name


def test_reducers_registered_late_are_used() -> None:
    class Odd:
        pass

    import copyreg

    serial.dumps([Odd()])
    copyreg.pickle(Odd, lambda _: (int, (7,)))
    try:
        assert serial.loads(serial.dumps([Odd()])) == [7]
    finally:
        del copyreg.dispatch_table[Odd]


# Functions: by name or by value


@pytest.mark.parametrize(
    "function",
    [add, decorated, Adder, Adder(1), Adder(1).add, Adder.make, os.path.join, functools.partial(add, 1), cached],
)
def test_importable_functions_travel_by_name(function: Callable[..., Any]) -> None:
    assert is_by_name(function)


@pytest.mark.parametrize("function", [math.sqrt, len, dict.get, "a".upper, [].append, int])
def test_compiled_functions_travel_by_name(function: Callable[..., Any]) -> None:
    assert is_by_name(function)


def test_functions_of_every_kind_run_elsewhere() -> None:
    offset = 10
    kinds: list[Callable[..., Any]] = [
        add,
        decorated,
        cached,
        functools.partial(add, right=5),
        functools.partial(lambda a, b: a * b, 3),
        Adder(2),
        Adder(3).add,
        lambda x: x + offset,
        math.sqrt,
        functools.partial(functools.partial(max, 2), 9),
    ]
    assert remote(lambda functions: [function(4) for function in functions], kinds) == [
        5, 10, 5, 9, 12, 6, 7, 14, 2.0, 9,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "args", "value"),
    [(add, (1,), 2), (lambda x: -x, (1,), -1), (len, ("abc",), 3), (Adder(2).add, (1,), 3), (cached, (1,), 2)],
)
def test_each_kind_alone_runs_elsewhere(function: Callable[..., Any], args: tuple[Any, ...], value: object) -> None:
    assert remote(function, *args) == value


def test_what_classes_and_functions_often_hold() -> None:
    """Locks up to Python 3.11, and weak references, which know no way to travel."""

    class Model:
        kept: ClassVar[weakref.WeakValueDictionary[str, type]] = weakref.WeakValueDictionary()

        @functools.cached_property
        def fitted(self) -> int:
            """Once."""
            return 6

        def __init_subclass__(cls) -> None:
            Model.kept[cls.__name__] = cls

    class Linear(Model):
        pass

    @functools.singledispatch
    def kind(_: object) -> str:
        return "object"

    @kind.register
    def _(_: int) -> str:
        return "int"

    def use(model: Model) -> tuple[Any, ...]:
        doc = type(model).fitted.__doc__
        return model.fitted, vars(model), doc, kind(1), kind(""), list(Model.kept), Linear.__name__

    assert remote(use, Model()) == (6, {"fitted": 6}, "Once.", "int", "object", ["Linear"], "Linear")


def test_a_replaced_function_travels_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    original = add
    monkeypatch.setattr(sys.modules[__name__], "add", lambda left, right=1: left * right * 100)
    assert not is_by_name(original)
    assert not is_by_name(add)
    assert remote(original, 2) == 3
    assert remote(add, 2) == 200


@pytest.mark.usefixtures("restored_path")
def test_a_module_loaded_by_hand_travels_by_value_with_all_it_holds(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "hidden.py",
        """
        import functools, sys
        FACTOR = 3
        me = sys.modules[__name__]
        class Box:
            def __init__(self, value): self.value = value
            def grown(self): return Box(helper(self.value))
        def helper(x): return x * FACTOR
        def main(box): return box.grown()
        @functools.lru_cache
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
        def through_module(x): return me.helper(x)
        """,
    )
    module = load_by_hand(file, "kumi_test_hidden")
    assert not is_by_name(module.main)
    result = remote(module.main, module.Box(2))
    assert type(result) is module.Box
    assert result.value == 6
    assert remote(lambda boxes: boxes["k"][0].value, {"k": [module.Box(5)]}) == 5
    assert remote(module.fib, 20) == 6765
    assert remote(module.through_module, 2) == 6
    assert remote(functools.partial(module.main), box=module.Box(1)).value == 3
    assert remote(lambda: module.helper(4)) == 12


@pytest.mark.usefixtures("restored_path")
def test_a_module_travels_by_name_while_the_path_leads_to_its_file(tmp_path: Path) -> None:
    write(tmp_path, "one/kumi_test_shadow.py", "def which(): return 'one'")
    write(tmp_path, "two/kumi_test_shadow.py", "def which(): return 'two'")
    sys.path.insert(0, str(tmp_path / "one"))
    import kumi_test_shadow

    assert is_by_name(kumi_test_shadow.which)
    assert remote(kumi_test_shadow.which) == "one"
    sys.path.insert(0, str(tmp_path / "two"))  # now a fresh interpreter would find another file
    assert not is_by_name(kumi_test_shadow.which)
    assert remote(kumi_test_shadow.which) == "one"
    del sys.path[:2]
    assert not is_by_name(kumi_test_shadow.which)
    assert remote(kumi_test_shadow.which) == "one"


@pytest.mark.usefixtures("restored_path")
def test_packages_are_found_without_running_anything(tmp_path: Path) -> None:
    write(tmp_path, "kumi_test_pack/__init__.py", "")
    write(tmp_path, "kumi_test_pack/deep/__init__.py", "")
    write(tmp_path, "kumi_test_pack/deep/mod.py", "def f(): return 'deep'")
    write(tmp_path, "kumi_test_space/mod.py", "def f(): return 'space'")  # no __init__: a namespace
    sys.path.insert(0, str(tmp_path))
    import kumi_test_pack.deep.mod
    import kumi_test_space.mod

    assert is_by_name(kumi_test_pack.deep.mod.f)
    assert is_by_name(kumi_test_space.mod.f)
    assert remote(kumi_test_pack.deep.mod.f) == "deep"
    assert remote(kumi_test_space.mod.f) == "space"
    ran = tmp_path / "ran"
    write(tmp_path, "kumi_test_pack/__init__.py", f"open({str(ran)!r}, 'w')")
    write(tmp_path, "kumi_test_pack/deep/other.py", f"def f(): return 1\nopen({str(ran)!r}, 'w')")
    module = load_by_hand(write(tmp_path, "elsewhere.py", "def f(): return 'by hand'"), "kumi_test_pack.deep.other")
    assert not is_by_name(module.f)
    assert not ran.exists()


@pytest.mark.usefixtures("restored_path")
def test_a_relative_path_entry_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "kumi_test_here.py", "import os\ndef f(): return os.getcwd()")
    monkeypatch.chdir(tmp_path)
    sys.path.insert(0, "")
    import kumi_test_here

    assert is_by_name(kumi_test_here.f)
    monkeypatch.setattr(serial, "_follows_host", False)
    payload = serial.dumps_function(kumi_test_here.f)
    assert os.fsencode(tmp_path) in payload
    assert pickler.host_path()[0] == str(tmp_path)


@pytest.mark.usefixtures("restored_path")
def test_a_relative_path_entry_that_leads_nowhere_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> str:
        raise FileNotFoundError("the working directory is gone")

    monkeypatch.setattr(os, "getcwd", gone)
    sys.path[:] = ["", "relative", Path("/not-a-string"), "/absolute"]  # type: ignore[list-item]
    assert pickler.host_path() == ("/absolute",)


@pytest.mark.usefixtures("restored_path")
def test_loading_leaves_the_path_of_a_host_alone() -> None:
    payload = serial.dumps_function(add)
    sys.path.append("/nonexistent/kumi-test")
    serial.loads_function(payload)
    assert sys.path[-1] == "/nonexistent/kumi-test"


@pytest.mark.usefixtures("restored_path")
def test_a_worker_follows_the_host_to_a_path_of_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments bring the path as well, where they name a module that is not installed."""
    before = list(sys.path)
    write(tmp_path, "kumi_test_late.py", "class Late:\n    pass")
    sys.path.insert(0, str(tmp_path))
    import kumi_test_late

    payload = serial.dumps_call(([kumi_test_late.Late()],), {})
    del sys.modules["kumi_test_late"]
    sys.path[:] = before
    monkeypatch.setattr(serial, "_follows_host", True)
    (items,), _, _ = serial.loads_call(payload)
    assert type(items[0]).__module__ == "kumi_test_late"
    assert sys.path[0] == str(tmp_path)


def test_arguments_of_installed_modules_bring_no_path() -> None:
    for value in ([1], [pytest.approx], [collections.OrderedDict()]):
        assert serial.dumps_call((value,), {})[-1:] == b"."


@pytest.mark.usefixtures("restored_path")
def test_an_editable_installation_counts_as_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = load_by_hand(write(tmp_path, "m.py", "def f(): pass"), "kumi_test_editable")

    class Finder:
        @staticmethod
        def find_spec(name: str, _path: object) -> Any:
            return module.__spec__ if name == "kumi_test_editable" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert not is_by_name(module.f)
    pickler._is_found.cache_clear()
    Finder.__module__ = "__editable___kumi_test_1_0_finder"
    assert is_by_name(module.f)
    pickler._is_found.cache_clear()


# Programs: __main__, the REPL


MAIN = """
import dataclasses, enum, functools
from rig import remote

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int
    colour: Colour = Colour.RED
    count = 0
    def moved(self, by): return dataclasses.replace(self, x=self.x + by * SCALE)

class Special(Point):
    pass

class Trouble(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.a = a

SCALE = 10

@functools.lru_cache
def square(n): return n * n

def work(point): return [point.moved(square(2)), {"k": point}]
def fail(): raise Trouble("one", "two")
def name(): return __name__, __import__("sys").modules["__main__"].__dict__.get("SCALE")

method = Point.moved
moved, same = remote(work, Special(1))
assert type(moved) is Special and type(same["k"]) is Special, moved
assert moved == Special(41) and moved.colour is Colour.RED, moved
assert Point.moved is method, "a copy that came back changed the class of the program"
SCALE = 100
assert moved.moved(1).x == 141, moved.moved(1)
Point.count = 5
assert remote(lambda: Point.count) == 5
assert remote(lambda p: type(p) is Point, Point(1))
try:
    remote(fail)
except Trouble as error:
    assert (str(error), error.a) == ("one and two", "one")
    assert "in fail" in str(error.__cause__)
else:
    raise AssertionError
assert remote(name) == ("__main__", None), "the worker must not have run this program"
assert remote(Point, 3) == Point(3)
print("fine")
"""


def test_a_program_without_main_guard(tmp_path: Path) -> None:
    assert run_python(str(write(tmp_path, "program.py", MAIN)), directory=tmp_path) == "fine\n"


def test_a_repl(tmp_path: Path) -> None:
    lines = """
        from rig import remote
        class Pair(tuple): pass

        def f(x): return Pair((x, offset))

        offset = 5
        value = remote(f, 1)
        print(type(value) is Pair, value, remote(lambda: offset))
    """
    output = run_python("-i", "-q", directory=tmp_path, stdin=textwrap.dedent(lines).lstrip())
    assert output == "True (1, 5) 5\n"


def test_a_class_that_was_forgotten_meanwhile_is_made_anew() -> None:
    def make() -> bytes:
        class Passing:
            def value(self) -> int:
                return 3

        return serial.dumps(Passing())

    payload = make()
    __import__("gc").collect()
    assert serial.loads(payload).value() == 3


def test_a_class_defined_here_is_not_changed_by_its_copy() -> None:
    class Local:
        rank = 1

    payload = serial.dumps(Local())
    Local.rank = 2
    assert type(serial.loads(payload)) is Local
    assert Local.rank == 2


# The rest


@pytest.mark.parametrize(
    ("function", "label"),
    [
        (add, "add"),
        (functools.partial(functools.partial(add), 1), "add"),
        (Adder(1), "Adder"),
        (Adder(1).add, "Adder.add"),
        (len, "len"),
        (None, "NoneType"),
    ],
)
def test_labels(function: object, label: str) -> None:
    assert serial.label(function) == label


def test_payloads_are_pickles_of_protocol_5() -> None:
    assert pickle.loads(serial.dumps_call(([1], 2), {})) == ([1], 2)
    assert serial.dumps([1])[:2] == b"\x80\x05"


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**100),
        1.5,
        math.inf,
        -0.0,
        "",
        "straße \ud800",
        "x" * 300,
        b"",
        b".",
        (),
        (1, "a", b"b", None),
    ],
    ids=repr,
)
def test_plain_values_are_marshalled_and_come_back_as_they_were(value: object) -> None:
    payload = serial.dumps(value)
    assert payload[-1:] == b"M"
    back = serial.loads(payload)
    assert (type(back), repr(back)) == (type(value), repr(value))
    assert serial.loads_call(serial.dumps_call((value,), {"key": value})) == ((value,), {"key": value}, None)


def test_long_plain_values_are_parcels() -> None:
    assert isinstance(serial.dumps("x" * LARGE), serial.Parcel)
    assert isinstance(serial.dumps_call(("x" * LARGE,), {}), serial.Parcel)
