"""Spans of OpenTelemetry, for programs that have imported it; for others it costs a look into a dictionary.

A submit is a span of kind PRODUCER and ends at once; a map is one span until it is read or left; the run of a task on
its worker is a span of kind CONSUMER below that. The context travels with the task, in the form that the program's
propagator gives it. May not know: how the spans are exported, on either side.
"""

import sys
from types import CoroutineType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from opentelemetry.trace import Span, Tracer

Carrier = dict[str, str]
"""A context on its way to another process."""


def is_on() -> bool:
    """Whether the program has imported OpenTelemetry: one that is set up for it has."""
    return "opentelemetry.trace" in sys.modules


def submitted(label: str, name: str | None) -> Carrier | None:
    """Says that a task is submitted, and returns its context; None: nobody records it."""
    span = _begin("submit", label, name)
    carrier = _context_of(span)
    span.end()
    return carrier


class MapSpan:
    """The span of a map, from its beginning until it is read or left.

    Attributes:
        carrier: The context for its elements; None: nobody records it.
    """

    def __init__(self, label: str, name: str | None) -> None:
        self._span = _begin("map", label, name)
        self.carrier = _context_of(self._span)

    def end(self) -> None:
        """The map was read or left."""
        self._span.end()


def traced(
    function: "Callable[..., Any]",
    carrier: Carrier,
    number: int,
    attempt: int,
    worker: str,
    run_coroutine: "Callable[[Any], Any]",
) -> "Callable[..., Any]":
    """A task's function, within the span of its run.

    Args:
        function: What the task calls.
        carrier: The context it was submitted with.
        number: The task's id.
        attempt: The how many-th run it is.
        worker: The worker's name.
        run_coroutine: Runs what a coroutine function returns, to its end.
    """
    from opentelemetry import propagate, trace

    def call(*args: "Any", **kwargs: "Any") -> "Any":
        attributes: dict[str, int | str] = {"kumi.task.id": number, "kumi.task.attempt": attempt, "kumi.worker": worker}
        with trace.get_tracer("kumi").start_as_current_span(
            f"run {getattr(function, '__qualname__', type(function).__qualname__)}",
            context=propagate.extract(carrier),
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
        ):
            value = function(*args, **kwargs)
            return run_coroutine(value) if type(value) is CoroutineType else value

    return call


def _begin(what: str, label: str, name: str | None) -> "Span":
    from opentelemetry import trace

    tracer: Tracer = trace.get_tracer("kumi")
    attributes = None if name is None else {"kumi.task.name": name}
    return tracer.start_span(f"{what} {label}", kind=trace.SpanKind.PRODUCER, attributes=attributes)


def _context_of(span: "Span") -> Carrier | None:
    from opentelemetry import propagate, trace

    carrier: Carrier = {}
    propagate.inject(carrier, trace.set_span_in_context(span))
    return carrier or None
