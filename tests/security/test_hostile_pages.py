"""Texts and names of strangers in what is shown: pages and JUnit hold them as text, and nothing of them runs."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from cxrbench.config import load_config
from cxrbench.gate_report import _clean
from cxrbench.report.explorer import explore
from cxrbench.report.page import data_json, policy, render
from tests import commands
from tests.reader_runs import HOSTILE, make_runs, poison

cli = commands.cli
RUNS = re.compile(r"^on|^srcdoc$|^formaction$", re.IGNORECASE)


class Tags(HTMLParser):
    """Element names, and attributes that could run or fetch something."""

    def __init__(self, text):
        super().__init__()
        self.names, self.harm = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        for name, value in attributes:
            place = (value or "").strip().lower()
            if RUNS.match(name) or (name in ("href", "src", "action", "data") and not place.startswith(("#", "data:"))):
                self.harm.append((tag, name, value))


def quiet(*_):
    pass


@pytest.mark.slow
def test_a_poisoned_run_becomes_a_page_of_texts(cli, tmp_path):
    (clean,) = make_runs(tmp_path / "a", test=len(HOSTILE), models=("random-report",))
    plain = Tags(explore([clean], load_config(None), {}, "none", quiet, public=False).html.decode())
    (run,) = make_runs(tmp_path / "b", test=len(HOSTILE), models=("random-report",))
    html = explore([poison(run)], load_config(None), {}, "none", quiet, public=False).html.decode()
    found = Tags(html)
    assert sorted(set(found.names)) == sorted(set(plain.names))
    assert found.names.count("script") == plain.names.count("script")
    assert not found.harm
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", html)


@pytest.mark.parametrize("text", [*HOSTILE[:5], "</SCRIPT >", "<!--<script>", "]]>", "\u2028\u2029", "\ud800"])
def test_data_of_a_page_cannot_end_their_element(text):
    made = str(data_json({text: [text]}))
    assert not set(made) & set("<>&\u2028\u2029")
    assert made.isascii()


def test_templates_escape_what_is_not_their_own():
    import jinja2

    from cxrbench.report import page

    environment = jinja2.Environment(autoescape=True)
    assert environment.from_string("{{ a }}").render(a="<b>") == "&lt;b&gt;"
    source = (page.FOLDER.parent / "page.py").read_text()
    assert "autoescape=True" in source
    for file in page.FOLDER.glob("*.j2"):
        text = file.read_text()
        assert "|safe" not in text.replace(" ", ""), file.name
        assert "autoescape" not in text, file.name
    with pytest.raises(jinja2.TemplateNotFound):
        render("../page.py")


def test_the_policy_of_a_page_names_its_scripts_and_no_place():
    made = policy("alert(1)")
    assert "default-src 'none'" in made
    assert "'unsafe-inline'" not in made.split("script-src")[1].split(";")[0]
    assert "http" not in made


def test_the_throughput_page_shows_names_as_text():
    from cxrbench.throughput.page import _draw, _section
    from cxrbench.throughput.page_plots import quality

    harm = "</script><img src=x onerror=alert(1)>"
    points = [{"model": harm, "reports_per_s": 1.0, "metric": harm, "value": 0.5}]
    body = _section(harm, _draw("quality", quality(points)))
    assert "<img" not in body
    assert not Tags(body).harm
    assert body.count("</script>") == body.count("<script")


def test_what_a_gate_writes_for_viewers_is_well_formed():
    for text in HOSTILE:
        root = ET.Element("testcase", name=_clean(text))
        again = ET.fromstring(ET.tostring(root, encoding="unicode"))
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", again.get("name"))
