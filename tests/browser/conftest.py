"""A real Chromium: Debian's, driven by Playwright. Where either is missing the tests skip and say what is missing."""

import os
import shutil
from pathlib import Path

import pytest

BROWSER = os.environ.get("CXRBENCH_CHROMIUM") or shutil.which("chromium")
AXE = Path(os.environ.get("CXRBENCH_AXE", "/nonexistent"))
"""axe.min.js of the npm package axe-core."""


@pytest.fixture(scope="session")
def chromium():
    """A running browser."""
    if not BROWSER:
        pytest.skip("no chromium on the PATH: apt-get install chromium, or CXRBENCH_CHROMIUM=FILE")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'cxrbench[browser]'")
    with playwright.sync_playwright() as driver:
        # As root (in a container) Chromium has no sandbox of its own.
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """Open a file; afterwards nothing may have been said on the console, and nothing asked of a network."""
    contexts, said, asked = [], [], []

    def call(file, fragment="", **settings):
        context = chromium.new_context(
            accept_downloads=True, **({"viewport": {"width": 1280, "height": 900}} | settings)
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{file.as_uri()}{fragment}")
        return page

    yield call
    for context in contexts:
        context.close()
    assert said == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "blob", "data"}
