"""Spans of OpenTelemetry: one tree from the program to its tasks, and nothing for programs that do not trace."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import kumi
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

EXPORTED = InMemorySpanExporter()


@pytest.fixture(scope="module", autouse=True)
def provider() -> None:
    """One for this process: OpenTelemetry allows no other afterwards."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(EXPORTED))
    trace.set_tracer_provider(provider)


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    EXPORTED.clear()
    yield EXPORTED
    EXPORTED.clear()


def export_here() -> None:
    """Worker processes are set up as any program is."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(EXPORTED))
        trace.set_tracer_provider(provider)


def exported() -> list[dict[str, Any]]:
    """The worker's spans so far, for the host."""
    found = [facts(span) for span in EXPORTED.get_finished_spans()]
    EXPORTED.clear()
    return found


def facts(span: ReadableSpan) -> dict[str, Any]:
    assert span.context is not None
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace": span.context.trace_id,
        "id": span.context.span_id,
        "parent": None if span.parent is None else span.parent.span_id,
        "attributes": dict(span.attributes or {}),
        "status": span.status.status_code.name,
        "events": [event.name for event in span.events],
    }


def current_trace() -> int:
    return trace.get_current_span().get_span_context().trace_id


async def current_trace_of_coroutine() -> int:
    return current_trace()


def nested() -> int:
    return kumi.submit(current_trace).result()


def test_a_task_runs_below_its_submit(single: kumi.Controller, spans: InMemorySpanExporter) -> None:
    single.submit(export_here).result(jobs.SECONDS_MAX)
    single.submit(exported).result()
    spans.clear()
    with trace.get_tracer("test").start_as_current_span("program") as program:
        task = single.with_options(name="first").submit(current_trace)
        assert task.result() == program.get_span_context().trace_id
    failed = single.submit(jobs.boom, "no")
    failed.exception()
    submit, outer, second = (facts(span) for span in spans.get_finished_spans())
    assert (submit["name"], submit["kind"]) == ("submit current_trace", "PRODUCER")
    assert (submit["parent"], outer["name"]) == (outer["id"], "program")
    assert submit["attributes"] == {"kumi.task.name": "first"}
    run, crashed, *_ = (span for span in single.submit(exported).result() if "exported" not in span["name"])
    assert (run["name"], run["kind"], run["status"]) == ("run current_trace", "CONSUMER", "UNSET")
    assert (run["trace"], run["parent"]) == (submit["trace"], submit["id"])
    assert task.record is not None
    assert run["attributes"] == {
        "kumi.task.id": task.id,
        "kumi.task.attempt": 1,
        "kumi.worker": task.record.worker,
    }
    assert (crashed["parent"], crashed["status"], crashed["events"]) == (second["id"], "ERROR", ["exception"])


@pytest.mark.parametrize("function", [current_trace_of_coroutine, nested])
def test_the_context_reaches_coroutines_and_nested_tasks(single: kumi.Controller, function: Any) -> None:
    with trace.get_tracer("test").start_as_current_span("program") as program:
        assert single.submit(function).result(jobs.SECONDS_MAX) == program.get_span_context().trace_id


def test_a_map_is_one_span(crew: kumi.Controller, spans: InMemorySpanExporter) -> None:
    values = crew.map(lambda _: current_trace(), range(3)).results()
    (made,) = (facts(span) for span in spans.get_finished_spans())
    assert made["name"].startswith("map ")
    assert values == [made["trace"]] * 3
    spans.clear()
    left = crew.map(jobs.add, range(3))
    assert not spans.get_finished_spans()
    for _ in left:
        break
    assert len(spans.get_finished_spans()) == 1
    unread = crew.map(jobs.add, range(3))
    del unread
    assert len(spans.get_finished_spans()) == 2


def test_runs_of_a_map_stand_below_its_span(spans: InMemorySpanExporter) -> None:
    """M149, M152: so many spans and no more."""
    with kumi.Controller(kumi.Sequential()) as crew:
        crew.map(jobs.add, range(3)).results()
        for _ in range(2):
            assert crew.submit(jobs.boom).exception() is not None
    found = [facts(span) for span in spans.get_finished_spans()]
    (whole,) = (span for span in found if span["name"].startswith("map "))
    assert (whole["name"], whole["kind"], whole["parent"]) == ("map add", "PRODUCER", None)
    runs = [span for span in found if span["name"] == "run add"]
    assert [span["parent"] for span in runs] == [whole["id"]] * 3
    assert len({span["attributes"]["kumi.task.id"] for span in runs}) == 3
    names = ["map add", *["run add"] * 3, *["run boom"] * 2, *["submit boom"] * 2]
    assert sorted(span["name"] for span in found) == names


def test_in_process_as_well(spans: InMemorySpanExporter) -> None:
    with kumi.Controller(kumi.Sequential()) as crew:
        crew.submit(jobs.add, 1).result()
    submit, run = (facts(span) for span in spans.get_finished_spans())
    assert (run["name"], run["parent"]) == ("run add", submit["id"])


def test_who_does_not_trace_imports_nothing_of_it(tmp_path: Path) -> None:
    program = """
import sys, kumi
def modules(): return [name for name in sys.modules if name.startswith("opentelemetry")]
print(modules(), kumi.submit(modules).result(), kumi.map(lambda _: modules(), [1]).results())
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=jobs.SECONDS_MAX
    )
    assert ran.stdout == "[] [] [[]]\n"


def test_a_program_that_imports_the_api_alone_traces_nothing(tmp_path: Path) -> None:
    program = """
import opentelemetry.trace, sys, kumi
def modules(): return [name for name in sys.modules if name.startswith("opentelemetry")]
print(kumi.submit(modules).result(), kumi.map(lambda _: modules(), [1]).results())
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=jobs.SECONDS_MAX
    )
    assert ran.stdout == "[] [[]]\n"
