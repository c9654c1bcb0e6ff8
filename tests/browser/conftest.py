"""A real Chromium: Debian's, driven by Playwright. Where either is missing the tests skip and say what is missing.

One browser for all tests; what takes long in a page (charts) is drawn only where a test looks at it.
"""

import os
import shutil
from pathlib import Path

import pytest

BROWSER = os.environ.get("CXRBENCH_CHROMIUM") or shutil.which("chromium")
AXE = Path(os.environ.get("CXRBENCH_AXE", "/nonexistent"))
"""axe.min.js of the npm package axe-core."""

PATIENCE = 120_000
"""Milliseconds: a busy machine is no failure."""

SCREEN = {"width": 1280, "height": 900}

NO_CHARTS = "window.IntersectionObserver = class { observe() {} disconnect() {} }"
"""Charts are drawn when they come into sight; here nothing ever does."""


@pytest.fixture(scope="session")
def chromium():
    """A running browser."""
    if not BROWSER:
        pytest.skip("no chromium on the PATH: apt-get install chromium, or CXRBENCH_CHROMIUM=FILE")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'cxrbench[browser]'")
    with playwright.sync_playwright() as driver:
        # As root (in a container) Chromium has no sandbox of its own.
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def _room(chromium, *, charts, **settings):
    """A page of a browser context of its own."""
    context = chromium.new_context(accept_downloads=True, **({"viewport": SCREEN} | settings))
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    if not charts:
        page.add_init_script(NO_CHARTS)
    return page


@pytest.fixture(scope="session")
def rooms():
    """Pages that stay open from test to test, since to open one takes longer than most tests."""
    return {}


@pytest.fixture
def opened(chromium, rooms):
    """Open a file; afterwards nothing may have been said on the console, and nothing asked of a network.

    The second page of a test, and one with settings, has a browser context of its own; the first is used again.
    """
    said, asked, listening, used, own = [], [], [], set(), []
    listeners = {
        "console": lambda message: said.append(f"{message.type}: {message.text}"),
        "pageerror": lambda error: said.append(str(error)),
        "dialog": lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()),
        "request": lambda request: asked.append(request.url),
    }

    def call(file, fragment="", *, charts=False, **settings):
        if settings or charts in used:
            page = _room(chromium, charts=charts, **settings)
            own.append(page)
        else:
            used.add(charts)
            page = rooms.get(charts) or rooms.setdefault(charts, _room(chromium, charts=charts))
        for event, listener in listeners.items():
            page.on(event, listener)
        listening.append(page)
        page.goto(f"{file.as_uri()}{fragment}")
        return page

    yield call
    for page in listening:
        for event, listener in listeners.items():
            page.remove_listener(event, listener)
    for page in own:
        page.context.close()
    for charts in used:
        rooms[charts].evaluate("localStorage.clear()")
        rooms[charts].goto("about:blank")
        rooms[charts].emulate_media(media="null", color_scheme="null")
        rooms[charts].set_viewport_size(SCREEN)
    assert said == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "blob", "data"}


@pytest.fixture
def serious():
    """What axe finds in a page that is serious or critical, in light and in dark colours."""
    if not AXE.is_file():
        pytest.skip("axe-core is not here: npm pack axe-core, unpack it, CXRBENCH_AXE=package/axe.min.js")

    def call(page):
        page.evaluate(AXE.read_text())
        found = []
        for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
            page.emulate_media(color_scheme=scheme)
            asked = {"resultTypes": ["violations"]} | rules
            for each in page.evaluate("asked => axe.run(asked).then(done => done.violations)", asked):
                if each["impact"] in ("serious", "critical"):
                    found.append((scheme, each["id"], each["nodes"][0]["html"][:200]))
        return found

    return call


def on_paper(page, width):
    """Set a page as the printer does, on paper so many pixels wide; returns how wide it became."""
    page.set_viewport_size({"width": width, "height": 700})
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    return page.evaluate("document.documentElement.scrollWidth")
