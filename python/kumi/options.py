"""Settings of tasks and the checks of arguments: every complaint names the argument and the range it accepts."""

import math
import operator
from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass, field, fields
from types import ModuleType
from typing import Any, overload

from kumi import serial, tracing
from kumi.seeds import Seeds, Stream
from kumi.timeouts import as_float

Chooser = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], str]
"""Names the controller of a task, by its function and its arguments."""

Most = int | tuple[int | None, int | None, int | None, int | None]

# What holds for causes that `crashes_max` leaves out. None is any number: that a machine was taken away is nobody's
# fault.
CRASHES = {"memory": 5, "time": 5, "spot": None, "other": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `with_options` sets for the tasks submitted through it. None leaves a setting as it is.

    Attributes:
        name: A label, for records and messages; the elements of a map are called `<name>_<number>`.
        controller: The name of the controller that the tasks go to, or what chooses it for each.
        seed: Where the streams of random numbers begin.
        seconds_run: How long a task may run.
        seconds_total: How long a task may take from its submission on.
        crashes_max: How often a task may crash its worker and be run again, or how often by each cause.
        once: Whether a task is never run again once it may have begun.
        seeds: What numbers the streams of the seed.
        trace: The context of the map that the task is an element of, for a program that traces.
        crashes: `crashes_max`, as the core takes it.
        limits: `seconds_run`, `seconds_total` and `once`, as the core takes them; None: nothing of that is set.
    """

    name: str | None = None
    controller: str | Chooser | None = None
    seed: int | None = None
    seconds_run: float | None = None
    seconds_total: float | None = None
    crashes_max: int | Mapping[str, int | None] | None = None
    once: bool | None = None
    trace: tracing.Carrier | None = field(init=False, default=None)
    crashes: Most | None = field(init=False, default=None)
    limits: tuple[float | None, float | None, bool] | None = field(init=False, default=None)
    seeds: Seeds | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        text("name", self.name, none=True)
        _check_whereto(self.controller)
        object.__setattr__(self, "crashes", None if self.crashes_max is None else crashes(self.crashes_max))
        positive("seconds_run", self.seconds_run, none=True)
        positive("seconds_total", self.seconds_total, none=True)
        if self.once is not None and not isinstance(self.once, bool):
            raise TypeError(f"once must be True, False or None, not {self.once!r}")
        object.__setattr__(self, "seeds", numbering(self.seed))
        self._set_limits()

    def over(self, other: "Options") -> "Options":
        """These options, completed by the other ones."""
        made = copy(self)
        for setting in fields(self):
            if getattr(self, setting.name) is None:
                object.__setattr__(made, setting.name, getattr(other, setting.name))
        made._set_limits()
        return made

    def _set_limits(self) -> None:
        limits = (self.seconds_run, self.seconds_total, bool(self.once))
        object.__setattr__(self, "limits", None if limits == (None, None, False) else limits)

    def carried(self, function: object, stream: Stream | None) -> dict[str, Any] | None:
        """What a task submitted with them takes along besides its arguments; None: nothing."""
        trace = self.trace
        if trace is None and tracing.is_on():
            trace = tracing.submitted(serial.label(function), self.name)
        if self.name is None and stream is None and trace is None:
            return None
        carried: dict[str, Any] = {}
        if self.name is not None:
            carried["name"] = self.name
        if stream is not None:
            carried["stream"] = stream
        if trace is not None:
            carried["trace"] = trace
        return carried

    def within(self, trace: tracing.Carrier | None) -> "Options":
        """The options of the elements of a map."""
        if trace is None:
            return self
        made = copy(self)
        object.__setattr__(made, "trace", trace)
        return made

    def numbered(self, number: int) -> "Options":
        """The options of one element of a map."""
        if self.name is None:
            return self
        made = copy(self)
        object.__setattr__(made, "name", f"{self.name}_{number}")
        return made


def _check_whereto(controller: object) -> None:
    if callable(controller):
        return
    if controller is not None and not isinstance(controller, str):
        accepted = "controller must be the name of one, a function that returns the name for each task, or None"
        raise TypeError(f"{accepted}, not {controller!r}")
    text("controller", controller, none=True)


def chosen(chooser: Chooser, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Asks which controller a task goes to, and checks the answer."""
    name = chooser(fn, args, kwargs)
    return text(f"what controller={chooser!r} returns", name)


def numbering(seed: object) -> Seeds | None:
    """Checks a seed: a whole number of at least 0, however large, or None."""
    if seed is None:
        return None
    accepted = "seed must be a whole number of at least 0, or None"
    try:
        number = operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(seed, bool):
        raise TypeError(f"{accepted}, not {seed!r}")
    if number < 0:
        raise ValueError(f"{accepted}, not {seed!r}")
    return Seeds((number,))


@overload
def whole(argument: str, value: object, *, least: int, bits: int = ...) -> int: ...
@overload
def whole(argument: str, value: object, *, least: int, none: bool) -> int | None: ...
def whole(argument: str, value: object, *, least: int, none: bool = False, bits: int = 32) -> int | None:
    """Checks a whole number of at least `least` that fits the core's integers, or None where that is allowed."""
    if value is None and none:
        return None
    accepted = f"{argument} must be a whole number of at least {least} and below 2**{bits}{' or None' * none}"
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{accepted}, not {value!r}")
    if not least <= number < 2**bits:
        # Python refuses to write out numbers of thousands of digits, and nobody would read them.
        shown = repr(value) if abs(number) < 2**64 else f"an integer of {number.bit_length()} bits"
        raise ValueError(f"{accepted}, not {shown}")
    return number


def crashes(value: object) -> Most:
    """Checks `crashes_max`: a number, or a mapping of causes to numbers, in which None stands for any number.

    Returns:
        The number, or those of all causes, in the order that the core takes them in.
    """
    accepted = (
        "crashes_max must be a whole number of at least 0, or a dictionary of such numbers by cause "
        f"({', '.join(CRASHES)}), in which None is any number"
    )
    if not isinstance(value, Mapping):
        try:
            return whole("crashes_max", value, least=0)
        except TypeError:
            raise TypeError(f"{accepted}, not {value!r}") from None
    if not value.keys() <= CRASHES.keys():
        unknown = next(cause for cause in value if cause not in CRASHES)
        raise ValueError(f"{accepted}: {unknown!r} is no cause")
    most = {**CRASHES, **value}
    memory, time, spot, other = (whole(f"crashes_max[{cause!r}]", most[cause], least=0, none=True) for cause in CRASHES)
    return memory, time, spot, other


@overload
def positive(argument: str, value: object, *, zero: bool = ...) -> float: ...
@overload
def positive(argument: str, value: object, *, zero: bool = ..., none: bool) -> float | None: ...
def positive(argument: str, value: object, *, zero: bool = False, none: bool = False) -> float | None:
    """Checks a finite number above 0 (or of at least 0), or None where that is allowed."""
    if value is None and none:
        return None
    accepted = f"{argument} must be a finite number {'of at least' if zero else 'above'} 0{' or None' * none}"
    number = as_float(value)
    if number is None:
        raise TypeError(f"{accepted}, not {value!r}")
    if math.isinf(number) and isinstance(value, int):  # Python refuses to write out numbers of thousands of digits
        raise ValueError(f"{accepted}, not an integer too large for a float")
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"{accepted}, not {value!r}")
    return number


@overload
def text(argument: str, value: object) -> str: ...
@overload
def text(argument: str, value: object, *, none: bool) -> str | None: ...
def text(argument: str, value: object, *, none: bool = False) -> str | None:
    """Checks a non-empty string that can be written out, or None where that is allowed."""
    if value is None and none:
        return None
    accepted = f"{argument} must be a non-empty string{' or None' * none}"
    if not isinstance(value, str):
        raise TypeError(f"{accepted}, not {value!r}")
    if not value:
        raise ValueError(f"{accepted}, not {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{accepted} of characters that UTF-8 can encode, not {value!r}") from None
    return value


def module_names(argument: str, value: object) -> frozenset[str]:
    """Checks a collection of modules or of their names."""
    accepted = f"{argument} must be a collection of modules, or of their names"
    if isinstance(value, str | bytes | ModuleType) or not isinstance(value, Collection):
        raise TypeError(f"{accepted}, such as a list, not {value!r}")
    names = set()
    for one in value:
        name = one.__name__ if isinstance(one, ModuleType) else one
        if not isinstance(name, str):
            raise TypeError(f"{accepted}: {one!r} is neither")
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{accepted}: {name!r} is no name of a module")
        names.add(name)
    return frozenset(names)
