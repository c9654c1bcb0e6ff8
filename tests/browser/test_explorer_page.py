"""The explorer in a browser: filters, keyboard, links, marks, harm that stays text, nothing that leaves the page."""

import pytest

from cxrbench.config import load_config
from cxrbench.report.explorer import explore
from tests.browser.conftest import on_paper
from tests.reader_runs import HOSTILE, annotated, judge, make_runs, poison
from tests.test_explorer import data_of, quiet

pytestmark = pytest.mark.browser

ROWS = "#list [role=option]"


def write(folder, runs, pictures="all"):
    made = explore(runs, load_config(None), {}, pictures, quiet, public=False)
    file = folder / "page.html"
    file.write_bytes(made.html)
    return file, data_of(made.html)


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A page of two runs whose labels and entities are known and that a judge has read, and its data."""
    folder = tmp_path_factory.mktemp("marked")
    runs = make_runs(folder, test=24, metrics="rouge-l:raw")
    judge(runs, "chexprompt")
    with pytest.MonkeyPatch.context() as patch:  # that real annotations are found is tested without a browser
        patch.setattr("cxrbench.report.explorer.marked", annotated)
        return write(folder, runs)


@pytest.fixture(scope="module")
def harmful(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harmful")
    (run,) = make_runs(folder, test=8, models=("random-report",))
    return write(folder, [poison(run)], "none")


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    folder = tmp_path_factory.mktemp("private")
    return write(folder, make_runs(folder, test=8, access="credentialed"))


def listed(page):
    return int(page.locator("#status").inner_text().split(" of ")[0].replace(",", ""))


def present(labels, at):
    return labels[at] in "13"


def test_search_and_filters_list_the_samples_they_name(opened, marked):
    file, data = marked
    page = opened(file)
    assert listed(page) == 24
    assert page.locator(ROWS).count() < 24  # rows out of sight are not in the page
    page.fill("#query", "effusion")
    some = [
        s for s in data["samples"] if any("effusion" in t.lower() for t in (s["text"], *(r["text"] for r in s["runs"])))
    ]
    assert listed(page) == len(some)
    page.click("#reset")
    page.select_option("#error", "missed")
    missed = [
        s
        for s in data["samples"]
        if any(present(s["labels"], i) and not present(s["runs"][0]["labels"], i) for i in range(13))
    ]
    assert listed(page) == len(missed) > 0
    page.select_option("#label", "Pleural Effusion")
    at = data["labels"].index("Pleural Effusion")
    assert listed(page) == sum(present(s["labels"], at) and not present(s["runs"][0]["labels"], at) for s in missed)
    page.click("#reset")
    page.select_option("#column", "rouge-l:raw/rouge_l")
    page.fill("#high", "0.3")
    column = [each["key"] for each in data["columns"]].index("rouge-l:raw/rouge_l")
    assert listed(page) == sum(s["runs"][0]["values"][column] <= 0.3 for s in data["samples"])
    page.click("#reset")
    page.select_option("#group", "sex=F")
    assert listed(page) == sum(s["groups"]["sex"] == "F" for s in data["samples"])
    page.click("#reset")
    page.check("#disagree")
    apart = [
        s
        for s in data["samples"]
        if any(present(s["runs"][0]["labels"], i) != present(s["runs"][1]["labels"], i) for i in range(14))
    ]
    assert listed(page) == len(apart) > 0


def test_order_by_a_value_and_by_distance(opened, marked):
    file, data = marked
    page = opened(file)
    page.select_option("#column", "rouge-l:raw/rouge_l")
    column = [each["key"] for each in data["columns"]].index("rouge-l:raw/rouge_l")
    values = {s["id"]: [run["values"][column] for run in s["runs"]] for s in data["samples"]}
    page.select_option("#order", "worst")
    first = page.locator(ROWS).first.locator("b").inner_text()
    assert values[first][0] == min(each[0] for each in values.values())
    page.select_option("#order", "apart")
    first = page.locator(ROWS).first.locator("b").inner_text()
    assert abs(values[first][0] - values[first][1]) == pytest.approx(max(abs(a - b) for a, b in values.values()))


def test_keys_walk_through_the_samples_and_the_link_finds_one_again(opened, marked):
    file, data = marked
    page = opened(file)
    for _ in range(9):
        page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.locator("#detail h2").inner_text() == data["samples"][8]["id"]
    chosen = page.locator(f"{ROWS}[aria-selected=true]")
    assert chosen.get_attribute("aria-posinset") == "9"
    assert chosen.is_visible()
    assert page.locator("#list").get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    fragment = page.evaluate("location.hash")
    assert data["samples"][8]["key"] in fragment
    assert data["samples"][8]["id"] not in fragment  # a link names a sample by a hash
    again = opened(file, fragment)
    assert again.locator("#detail h2").inner_text() == data["samples"][8]["id"]
    page.keyboard.press("/")
    page.keyboard.type("jk")
    assert page.input_value("#query") == "jk"  # letters typed into the search are no commands


def test_missed_and_invented_entities_are_marked(opened, marked):
    file, data = marked
    page = opened(file)
    sample = data["samples"][0]

    def texts(place, kind):
        return [each.lower() for each in page.locator(f"{place} >> mark.{kind}").all_inner_texts()]

    for focus in (0, 1):
        page.keyboard.press(str(focus + 1))
        reports = ".report >> nth={}"
        lost = {sample["text"][a:b].lower() for a, b, _, bits in sample["marks"] if not bits >> focus & 1}
        assert set(texts(reports.format(0), "missed")) == lost
        run = sample["runs"][focus]
        added = {run["text"][a:b].lower() for a, b, _, bit in run["marks"] if not bit}
        assert set(texts(reports.format(1 + focus), "invented")) == added
    page.keyboard.press("m")
    assert page.locator(".said mark").count() == 0
    assert page.locator(".said .apart").count() > 0
    page.keyboard.press("m")
    assert page.locator(".said .apart").count() == 0
    assert page.locator(".report >> nth=0").locator(".said").inner_text() == sample["text"]


def test_images_are_drawn_and_enlarged(opened, marked):
    page = opened(marked[0])
    image = page.locator(".pictures img").first
    image.wait_for()
    assert page.evaluate("document.querySelector('.pictures img').decode().then(() => true)")
    page.keyboard.press("z")
    assert page.locator("#zoom-image").is_visible()
    before = page.locator("#zoom-image").bounding_box()["width"]
    page.keyboard.press("+")
    assert page.locator("#zoom-image").bounding_box()["width"] > before
    page.keyboard.press("Escape")
    assert not page.locator("#zoom").is_visible()


def test_harm_is_shown_as_text(opened, harmful):
    file, data = harmful
    page = opened(file)
    for position in range(len(data["samples"])):
        assert page.locator("#detail h2").inner_text().startswith("ph1-")
        body = page.locator(".report >> nth=1").locator(".said").inner_text()
        for word in HOSTILE[position % len(HOSTILE)].split()[:1]:
            assert "<U" not in word
            assert body.startswith(word[:3]) or "\0" in word
        page.keyboard.press("j")
    assert page.evaluate("typeof window.hit") == "undefined"
    assert (
        page.locator("#detail script, #detail img, #detail iframe, #detail a, #detail style, #detail svg").count() == 0
    )
    assert page.evaluate("document.querySelector('base') === null")
    assert page.locator("body").is_visible()


def test_unseen_characters_are_seen(opened, harmful):
    page = opened(harmful[0])
    for _ in range(2):
        page.keyboard.press("j")
    said = page.locator(".report >> nth=1").locator(".said")
    assert "U+202E" in said.inner_text()
    assert "\u202e" not in said.inner_text()
    page.keyboard.press("j")
    assert "U+0000" in said.inner_text()


def test_a_report_of_a_megabyte_is_shown_in_part_and_whole_on_demand(opened, harmful):
    page = opened(harmful[0])
    for _ in range(5):
        page.keyboard.press("j")
    said = page.locator(".report >> nth=1").locator(".said")
    assert len(said.inner_text()) < 30_000
    assert "too long to align words" in page.locator(".report >> nth=1").inner_text()
    said.locator("button").click()
    assert len(said.inner_text()) > 900_000


def test_a_private_page_says_so_on_every_screen(opened, private):
    page = opened(private[0])
    assert "do not share" in page.locator(".banner").inner_text()
    seen = page.evaluate("getComputedStyle(document.querySelector('.watermark span'), '::before').content")
    assert seen == '"credentialed – do not share"'
    assert page.evaluate("getComputedStyle(document.querySelector('.watermark')).position") == "fixed"


@pytest.mark.parametrize("which", ["marked", "harmful", "private"])
def test_nothing_is_wider_than_the_screen(opened, request, which):
    page = opened(request.getfixturevalue(which)[0])
    for width in (390, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.scrollHeight") <= 800  # the list and the sample scroll, not the page
    assert page.locator("#disagree-label").is_visible() == (which == "marked")  # others have one run, or no labels


def test_what_a_judge_wrote_and_counted_is_shown_and_filtered_by(opened, marked):
    file, data = marked
    page = opened(file)
    sample = next(s for s in data["samples"] if s["runs"][0]["judged"][0][0] and s["runs"][0]["judged"][0][0][4])
    kind = data["judged"][0]["categories"].index("significant omission finding")
    page.select_option("#error", f"j0.{kind}")
    some = [s for s in data["samples"] if (s["runs"][0]["judged"][0][0] or [0] * 15)[kind] > 0]
    assert listed(page) == len(some) > 0
    address = page.evaluate("location.hash")
    again = opened(file, address)
    assert listed(again) == len(some)
    again.close()
    page.select_option("#error", "j0.x")
    assert listed(page) == sum(s["runs"][0]["judged"][0][0] is None for s in data["samples"]) > 0
    assert "not scored: unreadable" in page.locator(".report >> nth=1").inner_text()
    page.click("#reset")
    page.fill("#query", sample["runs"][0]["judged"][0][2][0][1][:80].replace("\n", " ").strip())
    assert listed(page) >= 1
    page.evaluate("key => { location.hash = `s=${key}` }", sample["key"])
    page.wait_for_function("key => location.hash.includes(key)", arg=sample["key"])
    said = page.locator(".report >> nth=1").locator(".judge").first
    assert "chexprompt:default" in said.inner_text()
    assert "judge openai:m" in said.inner_text()
    assert f"significant omission finding {sample['runs'][0]['judged'][0][0][4]}" in said.inner_text()
    assert sample["runs"][0]["text"] in said.locator(".said").inner_text()


def test_on_paper_the_sample_stands_alone_and_whole(opened, marked):
    page = opened(marked[0])
    assert on_paper(page, 700) <= 700
    assert not page.locator("#list:visible, #controls:visible, button:visible:not([data-zoom])").count()
    assert page.locator(".report").count() == 3
    assert page.evaluate("getComputedStyle(document.getElementById('detail')).overflowY") == "visible"


def test_colours_are_kept(opened, marked):
    page = opened(marked[0])
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.select_option("#theme", "dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.reload()
    assert page.input_value("#theme") == "dark"


@pytest.mark.parametrize("which", ["marked", "harmful", "private"])
def test_axe_finds_nothing_serious(opened, serious, request, which):
    page = opened(request.getfixturevalue(which)[0])
    assert serious(page) == []
    page.click("#help-open")
    assert serious(page) == []
