"""The reader study's form in a browser: answers kept, exported, loaded again, and read back to the right system."""

import json

import pytest

from cxrbench.report.reader_study import write_study
from cxrbench.report.reader_study_analysis import analyse
from cxrbench.report.reader_study_files import read_key, read_responses
from cxrbench.report.reader_study_terms import SCALES
from tests.browser.conftest import AXE
from tests.reader_runs import make_runs, poison
from tests.test_reader_study import FEW, made

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A form of four cases and one repeat, its key's file, its key."""
    folder = tmp_path_factory.mktemp("study")
    found = made(make_runs(folder), n=4, repeats=1, pictures="all")
    write_study(found, folder / "form.html", folder / "key.json")
    return folder / "form.html", folder / "key.json", found.key


def fill(page, key, *, better):
    """Answer everything: system `better` gets 5 and no error, the other 2 and one significant miss."""
    for item in key["items"].values():
        for position, system in enumerate(item["order"]):
            if item["repeats"] is None:
                for scale in SCALES:
                    page.check(f"#{scale}-{position}-{5 if system == better else 2}")
                if system == better:
                    page.check(f"#none-{position}")
                else:
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
    assert page.locator("#count").inner_text() == "5 of 5 answered"
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
    assert found["preferences"][0]["losses"] == 4
    assert found["repeats"]["R 1"] == {"same": 1, "n": 1, "share": 1}


def test_answers_are_kept_and_can_move_to_another_browser(opened, study, tmp_path):
    form, _, key = study
    page = opened(form)
    page.fill("#reader", "R")
    fill(page, key, better=0)
    page.reload()
    assert page.locator("#count").inner_text() == "5 of 5 answered"
    assert page.input_value("#reader") == "R"
    file = tmp_path / "answers.json"
    file.write_bytes(export(page).read_bytes())
    other = opened(form)
    assert other.locator("#count").inner_text() == "0 of 5 answered"
    other.set_input_files("#load", file)
    other.wait_for_function("document.getElementById('status').textContent === 'Loaded.'")
    assert other.locator("#count").inner_text() == "5 of 5 answered"
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
    assert page.locator("#case h2").inner_text() == "Case 4 of 5"
    page.keyboard.press("p")
    assert page.locator("#case h2").inner_text() == "Case 3 of 5"


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


@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_is_wider_than_the_screen(opened, study, width):
    page = opened(study[0], viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened, study, scheme):
    if not AXE.is_file():
        pytest.skip("axe-core is not here: npm pack axe-core, unpack it, CXRBENCH_AXE=package/axe.min.js")
    page = opened(study[0], color_scheme=scheme)
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run({resultTypes: ['violations']}).then(done => done.violations)")
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in serious] == []
