"""The demo, in its short form: it loses a worker, loses no task, and leaves no process."""

import re
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parent.parent / "examples" / "digits.py"
PNG = b"\x89PNG\r\n\x1a\n"


def test_demo_loses_a_worker_and_no_task(tmp_path: Path) -> None:
    picture = tmp_path / "demo.png"
    command = [sys.executable, DEMO, "--quick", "--output", picture]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=55)
    assert result.returncode == 0, result.stderr

    assert "All 10 tasks are done" in result.stdout
    assert result.stdout.count("tasks done, ") == 10
    assert len(re.findall(r"^ +0\.9\d+ .+=", result.stdout, re.MULTILINE)) == 5
    launched, left, died, alive = map(int, re.findall(r"\d+", result.stdout.splitlines()[-1]))
    assert (launched, died, alive) == (left + 1, 1, 0)
    assert picture.read_bytes().startswith(PNG)
