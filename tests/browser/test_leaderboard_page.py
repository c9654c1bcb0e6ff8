"""The leaderboard in a browser: sort, filter, keyboard, links, downloads, colours, and nothing that leaves the page."""

import csv
import io
import json

import pytest

from cxrbench.report.aggregate import write_summary
from cxrbench.report.board_spec import find_board
from cxrbench.report.leaderboard import make_board
from cxrbench.report.leaderboard_page import html
from tests.board_summaries import F1, RADCLIQ, ROUGE, run, summary
from tests.browser.conftest import NO_CHARTS, on_paper
from tests.test_leaderboard import HOSTILE, board_of

pytestmark = pytest.mark.browser

MODELS = ["delta", "alpha", "charlie", "bravo"]

IN_SIGHT = """(() => {
  const row = document.querySelector("tr.chosen").getBoundingClientRect();
  return row.top >= 0 && row.bottom <= innerHeight;
})()"""


@pytest.fixture(scope="module")
def board_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    runs = [run(i, name, consumed=("1 image",) if i else ("1 image", "indication")) for i, name in enumerate(MODELS)]
    board = board_of(folder, summary(runs), further="rank_across_inputs: true")
    file = folder / "board.html"
    file.write_text(html(board))
    return file


def drawn(page):
    """Wait for both charts."""
    page.locator("[data-views]").first.scroll_into_view_if_needed()
    for name in ("forest", "pareto"):
        page.locator(f"[data-view={name}] svg.main-svg").first.wait_for()


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
    linked = opened(board_file, "#run=0-00000002", viewport={"width": 390, "height": 300})
    assert linked.locator("tr.chosen bdi").inner_text() == "charlie"
    assert linked.evaluate(IN_SIGHT)


def test_a_link_finds_a_row_of_a_task_far_below(opened, tmp_path):
    runs = [run(i, name) for i, name in enumerate(MODELS)]
    tasks = [f"task-{i}" for i in range(4)]
    for task in tasks:
        write_summary(summary(runs, task=task), tmp_path / f"{task}.json")
    listed = "".join(f"  - {{task: {task}, runs: [{task}.json]}}\n" for task in tasks)
    (tmp_path / "many.yaml").write_text(f"name: many\ntitle: Many\ntasks:\n{listed}")
    file = tmp_path / "many.html"
    file.write_text(html(make_board(*find_board(str(tmp_path / "many.yaml")), "public")))
    page = opened(file, "#run=3-00000002")
    assert page.locator("tr.chosen bdi").inner_text() == "charlie"
    page.wait_for_timeout(100)
    assert page.evaluate(IN_SIGHT)


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
    page = opened(board_file, charts=True)
    drawn(page)
    page.locator("[data-view=forest] summary").click()
    rows = page.locator("[data-view=forest] tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["alpha", "charlie", "bravo"]
    assert "−0.100" in rows[0]
    page.locator("[data-do=against]").select_option("1")
    page.locator("[data-view=forest] tbody tr").first.wait_for()
    assert "+0.100" in page.locator("[data-view=forest] tbody tr").first.inner_text()
    assert page.locator("[data-view=slices] tbody tr").count() == 4
    for width in (390, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_colours_follow_the_system_and_the_choice(opened, board_file):
    page = opened(board_file)
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(20, 24, 29)"
    for scheme, first, other, second in (("light", light, "dark", dark), ("dark", dark, "light", light)):
        page.emulate_media(color_scheme=scheme)
        page.get_by_label("Colours").select_option("system")
        assert page.evaluate(background) == first
        page.get_by_label("Colours").select_option(other)
        assert page.evaluate(background) == second
    page.reload()
    assert page.get_by_label("Colours").input_value() == "light"


def test_on_paper_nothing_is_cut_off_and_every_number_stands(opened, board_file):
    page = opened(board_file, charts=True, color_scheme="dark")
    drawn(page)
    assert on_paper(page, 1040) <= 1040  # A4, across, less its margins
    page.wait_for_function("document.querySelector('[data-view=forest] svg.main-svg').clientWidth === 680")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    ink = "getComputedStyle(document.querySelector('[data-view=forest] .xtick text')).fill"
    assert page.evaluate(ink) == "rgb(27, 31, 36)"
    for name in ("forest", "pareto", "labels", "slices"):
        assert page.locator(f"[data-view={name}] tbody tr").count() == (
            0 if name == "labels" else 4 - (name == "forest")
        )
    assert page.locator("[data-view=forest] tbody tr").first.is_visible()
    assert page.locator(".signatures code").first.is_visible()
    assert not page.locator(".controls:visible, nav:visible, button:visible:not(thead *)").count()
    cells = "[...document.querySelectorAll('td, th')].filter(cell => cell.scrollWidth > cell.clientWidth + 1).length"
    assert page.evaluate(cells) == 0
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"


def test_the_dots_of_speed_carry_numbers_and_the_axis_says_them_in_full(opened, tmp_path):
    speeds = (32.1, 34.6, 35.2, 35.2)
    runs = [run(i, MODELS[i], speed={"reports_per_s": speed}) for i, speed in enumerate(speeds[:3])]
    runs.append(run(3, MODELS[3], {key: each.value for key, each in runs[2].values.items()},
                    speed={"reports_per_s": speeds[3]}))  # fmt: skip
    file = tmp_path / "speeds.html"
    file.write_text(html(board_of(tmp_path, summary(runs))))
    page = opened(file, charts=True)
    drawn(page)
    view = page.locator("[data-view=pareto]")
    assert view.locator(".xtick text").all_text_contents() == ["30", "35", "40", "45"]
    assert sorted(text for text in view.locator(".textpoint text").all_text_contents() if text) == ["1+2", "3", "4"]
    assert view.locator(".key span").all_text_contents() == ["1\xa0charlie", "2\xa0bravo", "3\xa0alpha", "4\xa0delta"]
    assert "lie on one another" in view.locator("figcaption").inner_text()


def test_hostile_names_run_nothing(opened, tmp_path):
    board = board_of(tmp_path, summary([run(i, name) for i, name in enumerate(HOSTILE)]))
    file = tmp_path / "hostile.html"
    file.write_text(html(board))
    page = opened(file, charts=True)
    drawn(page)
    page.wait_for_timeout(200)
    assert HOSTILE[0] in names(page)
    # A chart shows a name as text too: no element of it has come into being.
    assert page.locator("img, iframe, a[href^='http'], [onerror]").count() == 0
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download CSV").click()
    assert "\n=cmd" not in waiting.value.path().read_text()
    assert ",'=cmd" in waiting.value.path().read_text()


def test_charts_show_names_as_text_and_make_no_links_of_them(opened, tmp_path):
    named = ["<a href='https://example.com/'>one</a>", "<b>two</b>", "three &lt;i&gt; & more"]
    file = tmp_path / "named.html"
    file.write_text(html(board_of(tmp_path, summary([run(i, name) for i, name in enumerate(named)]))))
    page = opened(file, charts=True)
    drawn(page)
    assert page.locator("svg a, svg [style*='bold']").count() == 0
    ticks = page.locator("[data-view=forest] .ytick text").all_text_contents()
    assert set(ticks) == set(named[1:])


def test_nothing_from_outside_is_fetched_even_when_asked(chromium, board_file):
    # Not `opened`: the browser reports what it refuses on the console.
    page = chromium.new_page()
    page.add_init_script(NO_CHARTS)
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(board_file.as_uri())
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => false, () => true)")
    page.close()
    assert any("Content Security Policy" in line for line in said)


def small_private(folder):
    file = folder / "private.html"
    board = board_of(folder, summary([run(i, name) for i, name in enumerate(MODELS)]), mode="private")
    file.write_text(html(board))
    return file


def test_a_private_board_says_so_on_every_screen(opened, tmp_path):
    page = opened(small_private(tmp_path))
    assert "do not share" in page.locator(".banner").inner_text()
    seen = page.evaluate("getComputedStyle(document.querySelector('.watermark span'), '::before').content")
    assert seen == '"private – do not share"'
    assert page.evaluate("getComputedStyle(document.querySelector('.watermark')).position") == "fixed"
    page.locator("th[data-sort='name'] button").click()  # the watermark lies above and lets clicks through
    assert names(page) == sorted(MODELS)


@pytest.mark.parametrize("which", [pytest.param("demo", marks=pytest.mark.slow), "reported", "private"])
def test_axe_finds_nothing_serious(opened, serious, tmp_path, which):
    file = tmp_path / "board.html"
    if which == "private":
        file = small_private(tmp_path)
    else:
        file.write_text(html(make_board(*find_board(which), "public")))
    page = opened(file, charts=which != "reported")
    if which != "reported":
        drawn(page)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert serious(page) == []
