"""kumi in a notebook: cells are run by a real kernel of Jupyter."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
from jupyter_client.manager import start_new_kernel

LIMIT = jobs.SECONDS_MAX


class Notebook:
    """A kernel, and what its cells have said."""

    def __init__(self) -> None:
        self.kernel, self.client = start_new_kernel(kernel_name="python3")

    def send(self, code: str) -> str:
        """Begins a cell."""
        return str(self.client.execute(textwrap.dedent(code)))

    def run(self, code: str) -> tuple[str, list[dict[str, Any]]]:
        """Runs a cell: how it ended ("ok", or an error's name), and what it has shown."""
        return self.end_of(self.send(code))

    def end_of(self, cell: str) -> tuple[str, list[dict[str, Any]]]:
        shown: list[dict[str, Any]] = []
        ended = "ok"
        while True:
            message = self.client.get_iopub_msg(timeout=LIMIT)
            if message["parent_header"].get("msg_id") != cell:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return ended, shown
            if kind == "error":
                ended = content["ename"]
            shown.append(content)

    def interrupt(self) -> None:
        """As the button does."""
        self.kernel.interrupt_kernel()

    def close(self) -> None:
        self.client.stop_channels()
        self.kernel.shutdown_kernel()


def text(shown: list[dict[str, Any]]) -> str:
    """What a cell has written, and the text of its value."""
    return "".join(content.get("text", "") + content.get("data", {}).get("text/plain", "") for content in shown)


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    notebook = Notebook()
    try:
        notebook.run(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import jobs, kumi")
        notebook.run("crew = kumi.daemons(2)")
        yield notebook
    finally:
        notebook.close()


def value(notebook: Notebook, code: str) -> str:
    ended, shown = notebook.run(code)
    assert ended == "ok", shown
    return text(shown)


def test_functions_and_classes_of_cells(notebook: Notebook) -> None:
    notebook.run("""
        factor = 2
        class Point:
            def __init__(self, x):
                self.x = x * factor
        def point(x):
            return Point(x)
    """)
    assert value(notebook, "[point.x for point in kumi.map(point, range(3)).results()]") == "[0, 2, 4]"
    assert value(notebook, "type(kumi.submit(point, 1).result()) is Point") == "True"
    notebook.run("factor = 5")
    assert value(notebook, "kumi.submit(point, 1).result().x") == "5"
    notebook.run("def point(x): return -x")
    assert value(notebook, "kumi.submit(point, 1).result()") == "-1"


def test_await_in_a_cell(notebook: Notebook) -> None:
    assert value(notebook, "await kumi.run(lambda x: x + 1, 1)") == "2"
    assert value(notebook, "[value async for value in kumi.map(lambda x: x * 10, range(3))]") == "[0, 10, 20]"
    assert value(notebook, "sorted([t.index async for t in kumi.map(abs, range(3)).as_completed()])") == "[0, 1, 2]"
    assert value(notebook, "kumi.submit(abs, -3).result()") == "3"  # where a loop runs already


def test_what_tasks_print_appears(notebook: Notebook) -> None:
    assert "from a task" in value(
        notebook,
        """
        import threading
        task = kumi.submit(print, "from a task")
        told = threading.Event()
        task.add_done_callback(lambda _: told.set())  # called by the thread that shows output
        told.wait()
        """,
    )


def test_an_error_shows_the_line_of_its_cell(notebook: Notebook) -> None:
    notebook.run("def divide(x):\n    return 1 / x")
    ended, shown = notebook.run("kumi.map(divide, [1, 0]).results()")
    assert ended == "ZeroDivisionError"
    traceback = "\n".join(line for content in shown for line in content.get("traceback", ()))
    assert "in element 1 of the map" in traceback
    assert "in divide" in traceback


def test_the_progress_of_a_map_is_a_widget(notebook: Notebook) -> None:
    ended, shown = notebook.run("values = kumi.map(abs, range(50)).results(progress=True)")
    assert ended == "ok"
    assert any("application/vnd.jupyter.widget-view+json" in content.get("data", {}) for content in shown), shown
    assert value(notebook, "len(values)") == "50"


def test_without_widgets_progress_is_text() -> None:
    notebook = Notebook()
    try:
        notebook.run("import sys; sys.modules['ipywidgets'] = None; import kumi")
        ended, shown = notebook.run("values = kumi.map(abs, range(50)).results(progress=True)")
        assert (ended, "50/50" in text(shown)) == ("ok", True), shown
    finally:
        notebook.close()


def test_an_interrupted_cell_leaves_its_task_to_be_collected(notebook: Notebook, gate: jobs.Gate) -> None:
    cell = notebook.send(f"task = kumi.submit(jobs.hold, {gate.path!r}, 'held'); task.result()")
    gate.wait()
    notebook.interrupt()
    assert notebook.end_of(cell)[0] == "KeyboardInterrupt"
    assert value(notebook, "task.state()") == "'running'"
    gate.open()
    assert value(notebook, "task.result()") == "'held'"


def test_an_interrupted_cell_leaves_no_map_behind(notebook: Notebook, gate: jobs.Gate) -> None:
    cell = notebook.send(f"values = kumi.map(jobs.hold, [{gate.path!r}] * 20); list(values)")
    gate.wait(2)
    notebook.interrupt()
    assert notebook.end_of(cell)[0] == "KeyboardInterrupt"
    assert value(notebook, "crew.status().waiting") == "0"
    assert value(notebook, "kumi.submit(abs, -1).result()") == "1"
    gate.open(2)
