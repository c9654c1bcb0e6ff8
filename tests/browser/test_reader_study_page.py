"""The reader study's form in a browser: answers kept, exported, loaded again, and read back to the right system."""

import json

import pytest

from cxrbench.report.reader_study import write_study
from cxrbench.report.reader_study_analysis import analyse
from cxrbench.report.reader_study_files import read_key, read_responses
from cxrbench.report.reader_study_terms import SCALES
from tests.browser.conftest import on_paper
from tests.reader_runs import make_runs, poison
from tests.test_reader_study import FEW, made

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A form of three cases and one repeat, its key's file, its key."""
    folder = tmp_path_factory.mktemp("study")
    found = made(make_runs(folder), n=3, repeats=1, pictures="all")
    write_study(found, folder / "form.html", folder / "key.json")
    return folder / "form.html", folder / "key.json", found.key


def fill(page, key, *, better, screens=4):
    """Answer: system `better` gets 5 and no error, the other 2 and one significant miss."""
    click = "names => names.forEach(name => document.getElementById(name).click())"  # as one call: each takes 30 ms
    for item in list(key["items"].values())[:screens]:
        for position, system in enumerate(item["order"]):
            if item["repeats"] is None:
                named = [f"{scale}-{position}-{5 if system == better else 2}" for scale in SCALES]
                page.evaluate(click, [*named, *([f"none-{position}"] if system == better else [])])
                if system != better:
                    page.get_by_label(f"finding that is missing, significant, report {'AB'[position]}").fill("1")
        page.check(f"#prefer-0-1-{'first' if item['order'][0] == better else 'second'}")
        page.keyboard.press("n")


def export(page):
    with page.expect_download() as waiting:
        page.click("#export")
    return waiting.value.path()


def test_what_is_clicked_is_what_is_analysed(opened, study, tmp_path):
    form, key_file, key = study
    page = opened(form)
    page.fill("#reader", "R 1")
    fill(page, key, better=1)
    assert page.locator("#count").inner_text() == "4 of 4 answered"
    file = tmp_path / "answers.json"
    file.write_bytes(export(page).read_bytes())
    assert "every case is answered" in page.locator("#status").inner_text()
    known = read_key(key_file)
    found = analyse(known, read_responses([file], known), FEW)
    names = [system["name"] for system in key["systems"]]
    assert found["systems"][names[1]]["ratings"]["correctness"]["mean"] == 5
    assert found["systems"][names[0]]["ratings"]["completeness"]["mean"] == 2
    assert found["systems"][names[0]]["errors"]["significant"]["missed_finding"]["mean"] == 1
    assert found["systems"][names[1]]["errors"]["significant"]["total"]["mean"] == 0
    assert found["preferences"][0]["losses"] == 3
    assert found["repeats"]["R 1"] == {"same": 1, "n": 1, "share": 1}


def test_answers_are_kept_and_can_move_to_another_browser(opened, study, tmp_path):
    form, _, key = study
    page = opened(form)
    page.fill("#reader", "R")
    fill(page, key, better=0, screens=1)
    page.reload()
    assert page.locator("#count").inner_text() == "1 of 4 answered"
    assert page.input_value("#reader") == "R"
    file = tmp_path / "answers.json"
    file.write_bytes(export(page).read_bytes())
    other = opened(form)
    assert other.locator("#count").inner_text() == "0 of 4 answered"
    other.set_input_files("#load", file)
    other.wait_for_function("document.getElementById('status').textContent === 'Loaded.'")
    assert other.locator("#count").inner_text() == "1 of 4 answered"
    again = tmp_path / "again.json"
    again.write_bytes(export(other).read_bytes())
    assert json.loads(again.read_text()) == json.loads(file.read_text())


def test_a_foreign_file_changes_nothing(opened, study, tmp_path):
    file = tmp_path / "other.json"
    file.write_text('{"what": "cxrbench reader study responses", "format": 1, "study": "x", "reader": "", "items": {}}')
    page = opened(study[0])
    page.set_input_files("#load", file)
    page.wait_for_function("document.getElementById('status').textContent.includes('no answers of this study')")


def test_no_export_without_a_name_and_errors_can_be_taken_back(opened, study):
    page = opened(study[0])
    page.click("#export")
    assert "initials" in page.locator("#status").inner_text()
    first = page.get_by_label("finding that is missing, significant, report A")
    first.fill("2")
    page.check("#none-0")
    assert first.input_value() == ""
    first.fill("1")
    assert not page.is_checked("#none-0")


def test_the_key_u_goes_to_what_is_not_answered(opened, study):
    page = opened(study[0])
    page.keyboard.press("n")
    page.keyboard.press("n")
    page.keyboard.press("u")
    assert page.locator("#case h2").inner_text() == "Case 4 of 4"
    page.keyboard.press("p")
    assert page.locator("#case h2").inner_text() == "Case 3 of 4"


def test_harm_is_shown_as_text(opened, tmp_path):
    (run,) = make_runs(tmp_path, test=8, models=("random-report",))
    found = made([poison(run)], n=7, repeats=0, parts=("ratings",))
    write_study(found, tmp_path / "form.html", tmp_path / "key.json")
    page = opened(tmp_path / "form.html")
    for _ in range(7):
        assert page.locator(".said").first.is_visible()
        page.keyboard.press("n")
    assert page.evaluate("typeof window.hit") == "undefined"
    assert page.locator("#case script, #case img, #case iframe, #case a, #case style, #case svg").count() == 0


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """A form of credentialed data."""
    folder = tmp_path_factory.mktemp("closed")
    found = made(make_runs(folder, test=8, access="credentialed"), n=2, repeats=0, pictures="all")
    write_study(found, folder / "form.html", folder / "key.json")
    return folder / "form.html", folder / "key.json", found.key


def test_nothing_is_wider_than_the_screen_or_the_paper(opened, closed):
    page = opened(closed[0])
    assert "do not share" in page.locator(".banner").inner_text()
    for width in (390, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert on_paper(page, 700) <= 700
    assert not page.locator(".steps:visible, .progress:visible, #export:visible").count()
    assert page.locator(".watermark").is_visible()


@pytest.mark.parametrize("which", ["study", "closed"])
def test_axe_finds_nothing_serious(opened, serious, request, which):
    form = request.getfixturevalue(which)[0]
    page = opened(form)
    assert serious(page) == []
    page.evaluate("document.querySelectorAll('[type=radio], [type=checkbox]').forEach(each => each.click())")
    assert serious(page) == []
