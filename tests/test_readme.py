"""The documents tell the truth: their Python runs, their links lead somewhere.

Every block fenced as ```python in README.md and docs/ is run; one that cannot run alone is fenced as ```python no-run.
The blocks of one document are one program, as a reader would type them one after the other.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

FENCE = re.compile(r"^```(.*)$")
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(rf"{BLOCK.pattern}|`[^`\n]*`", BLOCK.flags)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def program(text: str) -> str:
    """The document's Python blocks, each line at its own number, so that a traceback points into the document."""
    lines, fence = [], None
    for line in text.splitlines():
        opening = FENCE.match(line)
        if opening:
            fence = opening[1].strip() if fence is None else None
        lines.append("" if opening or fence != "python" else line)
    return "\n".join(lines) + "\n"


def anchors(document: Path) -> set[str]:
    """The names that links may put after `#`, made from headings as GitHub makes them."""
    headings = HEADING.findall(BLOCK.sub("", document.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def leads_somewhere(document: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = document.parent / path if path else document
    return target.exists() and (not anchor or anchor in anchors(target))


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def test_blocks_keep_their_line_numbers_and_others_are_left_out() -> None:
    text = "Text\n```python\nx = 1\n```\n```python no-run\nsubmit(...)\n```\n```\nplain\n```\n```python\ny = x\n```\n"
    assert program(text).splitlines() == ["", "", "x = 1", *[""] * 8, "y = x", ""]


@pytest.mark.parametrize(
    "document", [document for document in DOCUMENTS if program(document.read_text()).strip()], ids=name
)
def test_python_in_document_runs(document: Path, tmp_path: Path) -> None:
    script = tmp_path / f"{document.stem}.py"
    script.write_text(program(document.read_text()))
    result = subprocess.run(
        [sys.executable, "-W", "error", script], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=50
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_to_files_and_headings_lead_somewhere(document: Path) -> None:
    links = LINK.findall(CODE.sub("", document.read_text()))
    assert [link for link in links if "://" not in link and not leads_somewhere(document, link)] == []
