"""The leaderboard in a browser: sort, filter, keyboard, links, downloads, colours, and nothing that leaves the page."""

import csv
import io
import json

import pytest

from cxrbench.report.board_spec import find_board
from cxrbench.report.leaderboard import make_board
from cxrbench.report.leaderboard_page import html
from tests.board_summaries import F1, RADCLIQ, ROUGE, run, summary
from tests.browser.conftest import AXE
from tests.test_leaderboard import HOSTILE, board_of

pytestmark = pytest.mark.browser

MODELS = ["delta", "alpha", "charlie", "bravo"]


@pytest.fixture
def board_file(tmp_path):
    runs = [run(i, name, consumed=("1 image",) if i else ("1 image", "indication")) for i, name in enumerate(MODELS)]
    board = board_of(tmp_path, summary(runs), further="rank_across_inputs: true")
    file = tmp_path / "board.html"
    file.write_text(html(board))
    return file


def names(page):
    return page.locator("tbody.measured tr:visible bdi").all_inner_texts()


def test_a_click_on_a_heading_sorts_best_first_then_turns_round(opened, board_file):
    page = opened(board_file)
    assert names(page) == ["delta", "alpha", "charlie", "bravo"]  # by the first column, best first
    lower = page.locator("th[data-sort='2']")
    lower.get_by_role("button").click()
    assert names(page) == ["bravo", "charlie", "alpha", "delta"]  # lower is better
    assert lower.get_attribute("aria-sort") == "ascending"
    lower.get_by_role("button").click()
    assert names(page) == ["delta", "alpha", "charlie", "bravo"]
    assert page.locator("th[aria-sort]").count() == 1
    page.locator("th[data-sort='name'] button").click()
    assert names(page) == sorted(MODELS)
    assert "sorted by Model" in page.locator("[data-status]").inner_text()


def test_filters_hide_rows_and_say_how_many_are_left(opened, board_file):
    page = opened(board_file)
    page.get_by_label("Filter").fill("A")
    assert set(names(page)) == set(MODELS)
    page.get_by_label("Filter").fill("alph")
    assert names(page) == ["alpha"]
    assert "1 of 4 runs shown" in page.get_by_role("status").inner_text()
    page.get_by_label("Filter").fill("")
    page.locator("[data-do=inputs]").select_option("1 image, indication")
    assert names(page) == ["delta"]


def test_the_keyboard_reaches_and_sorts(opened, board_file):
    page = opened(board_file)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('th')?.dataset.sort") == "2":
            break
    page.keyboard.press("Enter")
    assert names(page) == ["bravo", "charlie", "alpha", "delta"]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_the_address_brings_back_what_was_seen(opened, board_file):
    page = opened(board_file)
    page.locator("th[data-sort='name'] button").click()
    page.get_by_label("Filter").fill("l")
    page.locator("[data-do=against]").select_option("1")
    fragment = page.evaluate("location.hash")
    again = opened(board_file, fragment)
    assert names(again) == ["alpha", "charlie", "delta"]
    assert again.get_by_label("Filter").input_value() == "l"
    assert again.locator("[data-do=against]").input_value() == "1"
    linked = opened(board_file, "#run=0-00000002")
    assert linked.locator("tr.chosen bdi").inner_text() == "charlie"


def test_downloads_hold_the_numbers(opened, board_file):
    page = opened(board_file)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download CSV").click()
    assert waiting.value.suggested_filename == "small-demo-findings.csv"
    rows = list(csv.DictReader(io.StringIO(waiting.value.path().read_text())))
    assert len(rows) == 4 * 3
    first = next(row for row in rows if row["model"] == "alpha" and row["column"] == F1)
    assert (float(first["value"]), first["rank_first"], first["rank_last"]) == (0.8, "2", "2")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download JSON").click()
    body = json.loads(waiting.value.path().read_text())
    assert [each["key"] for each in body["columns"]] == [F1, ROUGE, RADCLIQ]


def test_charts_are_drawn_and_have_their_numbers_as_tables(opened, board_file):
    page = opened(board_file)
    page.locator("[data-views]").scroll_into_view_if_needed()
    page.locator("[data-view=forest] svg.main-svg").first.wait_for()
    page.locator("[data-view=pareto] svg.main-svg").first.wait_for()
    page.locator("[data-view=forest] summary").click()
    rows = page.locator("[data-view=forest] tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["alpha", "charlie", "bravo"]
    assert "−0.100" in rows[0]
    page.locator("[data-do=against]").select_option("1")
    page.locator("[data-view=forest] tbody tr").first.wait_for()
    assert "+0.100" in page.locator("[data-view=forest] tbody tr").first.inner_text()
    assert page.locator("[data-view=slices] tbody tr").count() == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_the_choice(opened, board_file, scheme):
    page = opened(board_file, color_scheme=scheme)
    background = "getComputedStyle(document.body).backgroundColor"
    expected = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}
    assert page.evaluate(background) == expected[scheme]
    other = "dark" if scheme == "light" else "light"
    page.get_by_label("Colours").select_option(other)
    assert page.evaluate(background) == expected[other]


@pytest.mark.parametrize("width", [1440, 390])
def test_the_page_is_no_wider_than_the_window(opened, board_file, width):
    page = opened(board_file, viewport={"width": width, "height": 900})
    page.locator("[data-views]").scroll_into_view_if_needed()
    page.locator("[data-view=forest] svg.main-svg").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_hostile_names_run_nothing(opened, tmp_path):
    board = board_of(tmp_path, summary([run(i, name) for i, name in enumerate(HOSTILE)]))
    file = tmp_path / "hostile.html"
    file.write_text(html(board))
    page = opened(file)
    page.locator("[data-views]").scroll_into_view_if_needed()
    page.locator("[data-view=forest] svg.main-svg").first.wait_for()
    page.locator("[data-view=pareto] svg.main-svg").first.wait_for()
    page.wait_for_timeout(200)
    assert HOSTILE[0] in names(page)
    # A chart shows a name as text too: no element of it has come into being.
    assert page.locator("img, iframe, a[href^='http'], [onerror]").count() == 0
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download CSV").click()
    assert "\n=cmd" not in waiting.value.path().read_text()
    assert ",'=cmd" in waiting.value.path().read_text()


def test_nothing_from_outside_is_fetched_even_when_asked(chromium, board_file):
    # Not `opened`: the browser reports what it refuses on the console.
    page = chromium.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(board_file.as_uri())
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => false, () => true)")
    page.close()
    assert any("Content Security Policy" in line for line in said)


@pytest.mark.parametrize("name", ["demo", "reported"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened, tmp_path, name, scheme):
    if not AXE.is_file():
        pytest.skip("axe-core is not here: npm pack axe-core, unpack it, CXRBENCH_AXE=package/axe.min.js")
    file = tmp_path / "board.html"
    file.write_text(html(make_board(*find_board(name), "public")))
    page = opened(file, color_scheme=scheme)
    if name == "demo":
        page.locator("[data-views]").first.scroll_into_view_if_needed()
        page.locator("[data-view=forest] svg.main-svg").first.wait_for()
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run({resultTypes: ['violations']}).then(done => done.violations)")
    assert [(each["id"], each["impact"], each["nodes"][0]["html"][:200]) for each in found
            if each["impact"] in ("serious", "critical")] == []  # fmt: skip
