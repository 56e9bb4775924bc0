"""The web examples in a real browser: pages answer clicks while tasks run, show progress, and cancel."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, cast

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

EXAMPLES = Path(__file__).parent.parent / "examples"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LONG, SHORT = "1000000", "20"  # rounds: never done by itself, and half a second
MILLISECONDS = 20_000

expect.set_options(timeout=MILLISECONDS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        text = "no Chromium: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]  # may run as root, in a small container
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=options) as browser:
        yield browser


@contextmanager
def page_of(app: str, browser: Browser) -> Iterator[Page]:
    """The app in a process of its own, and a page that shows it."""
    options = ["--port", "0", "--timeout-graceful-shutdown", "1"]
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), *options, f"{app}:app"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            with browser.new_page() as page:
                page.set_default_timeout(MILLISECONDS)
                page.goto(address(server))
                yield page
            server.terminate()
            said = server.communicate(timeout=MILLISECONDS / 1000)[1]
        finally:
            server.kill()  # ends its workers too
    assert "Traceback" not in said or "graceful shutdown exceeded" in said, said


def address(server: subprocess.Popen[str]) -> str:
    """Where the server listens, once it does."""
    said = []
    for line in cast("TextIO", server.stderr):
        said.append(line)
        if found := re.search(r"running on (http://\S+)", line):
            return found[1]
    pytest.fail("the server did not start:\n" + "".join(said))


def test_fastapi(browser: Browser) -> None:
    with page_of("fastapi_app", browser) as page:
        state, progress = page.locator("#state"), page.locator("#progress")
        page.fill("#rounds", LONG)
        page.click("#start")
        expect(progress).not_to_have_attribute("value", "0")
        before = progress.get_attribute("value")
        for number in range(1, 6):
            page.click("#click")
            expect(page.locator("#clicks")).to_have_text(str(number))
        expect(progress).not_to_have_attribute("value", str(before))
        expect(state).to_have_text("running")
        page.click("#cancel")
        expect(state).to_have_text("cancel")

        page.fill("#rounds", SHORT)
        page.click("#start")
        expect(state).to_have_text(re.compile(r"pi is about 3\.1"))
        expect(progress).to_have_attribute("value", "1")

        page.fill("#rounds", LONG)
        page.click("#start")
        expect(state).to_have_text("running")  # and the server ends nevertheless


@pytest.mark.parametrize("card", ["extended", "plain"])
def test_shiny(browser: Browser, card: str) -> None:
    with page_of("shiny_app", browser) as page:
        state, progress = page.locator(f"#{card}-state"), page.locator(f"#{card}-shown")
        expect(page.locator("#clicks")).to_have_text("0 clicks")
        page.fill(f"#{card}-rounds", LONG)
        page.click(f"#{card}-start")
        expect(state).to_have_text("running")
        expect(progress).to_have_text("0%")
        for number in range(1, 6):
            page.click("#click")
            expect(page.locator("#clicks")).to_have_text(f"{number} clicks")
        expect(state).to_have_text("running")
        page.click(f"#{card}-cancel")
        expect(state).to_have_text("cancelled")

        page.fill(f"#{card}-rounds", SHORT)
        page.click(f"#{card}-start")
        expect(state).to_have_text(re.compile(r"pi is about 3\.1"))
        expect(progress).to_have_text("100%")
