"""The guard against credentialed text looks everywhere, and what is in the repository passes it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import check_no_private_text as guard

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("baselines", "benchmarks", "cxrbench", "docs", "leaderboards", "licences", "tasks", "tests", "tools")
TOOL = ROOT / "tools/check_no_private_text.py"

MARK, REAL = "_" * 3, "5" + "1234567"
"""Put together here, so that this file passes."""

ALARMING = [
    f"{MARK} year old, s{REAL}",
    f"Seen by Dr. {MARK}.",
    f"{MARK}F with cough",
    f"{MARK}{MARK}-year-old",
    f"s{REAL}",
    f'{{"study_id": {REAL}}}',
    f"{REAL},frontal",
    f"files/p19/p19999001/s{REAL}/x.jpg",
    f"s{REAL}_frontal.png",
    f"cxr_{REAL}.txt",
    f"p{'1' + '0000032'}",
    f"s59999001 and s{REAL}",
]
HARMLESS = [
    "s59999001 of p19999001: 59999999",
    "__init__ and a_b__c",
    f"0.{REAL}",
    f"ab{REAL}",
    f"{REAL}0",
    f"{REAL[:-1]}",
    "20251124 10000000",
    "XXXX-year-old with cough",
]


@pytest.fixture
def page(monkeypatch, tmp_path):
    """Write a file of the repository, wherever it may lie; returns what the guard says of it."""
    root, rules = tmp_path / "checkout", guard.PUBLISHED_RULES
    monkeypatch.setattr(guard, "ROOT", root)

    def check(name, content):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return guard.problems(file)

    assert rules.is_file()
    return check


@pytest.mark.parametrize(
    "name", ["docs/x.md", "tests/data/test_x.py", "benchmarks/x.py", "cxrbench/data/x.py", "tools/x.py", "README.md"]
)
@pytest.mark.parametrize("line", ALARMING, ids=range(len(ALARMING)))
def test_it_looks_everywhere(page, name, line):
    found = page(name, f"first line\n{line}\n")
    assert found
    assert all(":2: " in each for each in found)
    assert not any(word in each for each in found for word in (MARK, REAL))


@pytest.mark.parametrize("line", HARMLESS, ids=range(len(HARMLESS)))
def test_invented_ids_and_other_numbers_pass(page, line):
    assert page("docs/x.md", line) == []


def test_a_file_that_shows_the_layout_may_not_name_studies(page):
    (name,) = (name for name in guard.MAY_SHOW_THE_LAYOUT if name.startswith("docs/"))
    assert page(name, f"Indication: {MARK}-year-old") == []
    assert len(page(name, f"Indication: {MARK}-year-old, s{REAL}")) == 1


def test_the_tests_of_the_official_rules_may_name_their_studies_and_no_others(page):
    known = sorted(guard.published_ids())
    assert len(known) == 54
    assert page("tests/data/test_sections.py", f"{known[0]} {known[-1]}") == []
    assert page("tests/data/test_sections.py", f"{known[0]} {REAL}")
    assert page("tests/data/test_csv_rows.py", known[0])


def test_text_that_is_not_utf8_is_looked_at_and_binaries_are_not(page):
    assert page("docs/x.txt", f"caf\xe9 s{REAL}".encode("latin-1"))
    assert page("docs/x.bin", b"\0" + MARK.encode()) == []


def test_the_lists_of_exceptions_name_files_that_need_them():
    for name in guard.MAY_SHOW_THE_LAYOUT:
        assert guard.DEIDENTIFIED.search((ROOT / name).read_text(encoding="utf-8")), name
    for name in guard.MAY_NAME_PUBLISHED_IDS:
        assert guard.published_ids() & set(guard.STUDY_ID.findall((ROOT / name).read_text(encoding="utf-8"))), name


def test_the_repository_passes():
    files = [file for place in PLACES for file in (ROOT / place).rglob("*") if file.is_file()]
    files = [*files, *(file for file in ROOT.iterdir() if file.is_file())]
    assert len(files) > 200
    assert [line for file in files if "__pycache__" not in file.parts for line in guard.problems(file)] == []


def test_the_command_fails_on_a_page_and_says_where(tmp_path):
    (tmp_path / "page.md").write_text(f"# Data\n\n{MARK} year old, s{REAL}\n")
    done = subprocess.run([sys.executable, TOOL, "page.md"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert [line.split(" ")[0] for line in done.stdout.splitlines()] == ["page.md:3:", "page.md:3:"]
    (tmp_path / "page.md").write_text("# Data\n")
    done = subprocess.run([sys.executable, TOOL, "page.md"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "")
