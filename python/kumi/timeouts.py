"""Numbers of seconds, as users give them. `timeout` is only ever how long a call waits, not how long work may take."""

import math

# What the standard library's locks and queues take; it is longer than anybody waits.
LONGEST = 2.0**32


def seconds(timeout: object) -> float | None:
    """Checks the argument `timeout`. Below 0 there is no waiting, as in the standard library; above 136 years no limit.

    Raises:
        TypeError, ValueError: If it is no number.

    Example:
        >>> seconds(2), seconds(float("inf")), seconds(None)
        (2.0, None, None)
    """
    if timeout is None or (type(timeout) is float and timeout < LONGEST):
        return timeout  # what nearly everybody gives
    accepted = "timeout must be a number of seconds, or None for no limit"
    number = as_float(timeout)
    if number is None:
        raise TypeError(f"{accepted}, not {timeout!r}")
    if math.isnan(number):
        raise ValueError(f"{accepted}, not {timeout!r}")
    return number if number < LONGEST else None


def as_float(value: object) -> float | None:
    """Any kind of real number as a float, infinite if it is too large for one; None if it is something else.

    Example:
        >>> as_float(fractions.Fraction(1, 2)), as_float("0.5"), as_float(True)
        (0.5, None, None)
    """
    if isinstance(value, bool) or not (hasattr(type(value), "__float__") or hasattr(type(value), "__index__")):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):  # an array of several
        return None
