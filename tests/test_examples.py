"""The twins of what R users write: each runs, prints what it should, and stands in docs/coming-from-r.md as it is."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TWINS = sorted((ROOT / "examples" / "from_r").glob("*.py"))
DOCUMENT = (ROOT / "docs" / "coming-from-r.md").read_text()
BLOCK = re.compile(r"^```python(?: no-run)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

PRINTED = {
    "basic_task": "False\n14\n",
    "batch": "[('task_1', 'A'), ('task_2', 'B'), ('task_3', 'C')]\n",
    "chunks": "{'a': 50000, 'b': 50000}\n",
    "errors": "Task risky failed: division by zero\nTask failed: division by zero\n",
    "groups": "heavy_task large 9\nquick_task small 2\n",
    "local_workers": "task1 success 42\n[]\n",
    "many_tasks": "[3, 7, 11]\n",
    "parallel_map": "[3, 7, 11]\n",
    "persistent_workers": "338350\n",
    "progress": "".join(f"\rProgress: {done}/100" for done in range(1, 101)) + "\n",
    "throttling": "5050\n",
}


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.stem)
def test_a_twin_prints_what_it_should(twin: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", twin]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=50, check=False)
    assert (ran.returncode, ran.stderr.decode()) == (0, "")
    assert ran.stdout.decode().replace("True", "False") == PRINTED[twin.stem]  # a task may be done before it is asked


def test_the_document_shows_each_twin_and_nothing_that_is_in_no_example() -> None:
    shown = BLOCK.findall(DOCUMENT)
    assert [twin.stem for twin in TWINS if twin.read_text() not in shown] == []
    examples = [file.read_text() for file in (ROOT / "examples").rglob("*.py")]
    assert [
        block
        for block in shown
        if not any(block in text or textwrap.indent(block, "    ") in text for text in examples)
    ] == []
