"""Section extraction by the official rules: golden cases, the studies treated by hand, and properties of any text."""

from __future__ import annotations

import pytest
import section_reports
from hypothesis import given
from hypothesis import strategies as st

from cxrbench.data import sections
from cxrbench.data.mimic_section_rules import FINDINGS_PARTS, FORCED_RANGES, FORCED_SECTIONS, SECTION_NAMES
from cxrbench.data.sections import overridden, section_name, split_report, study_sections
from cxrbench.errors import CxrbenchError
from cxrbench.types import SECTIONS

# Expected values are what MIT-LCP/mimic-cxr's section_parser.section_text gives for these invented texts.
GOLDEN = [
    pytest.param(
        "                 FINAL REPORT\n EXAMINATION:  CHEST (PORTABLE AP)\n \n INDICATION:  Cough\n \n FINDINGS: \n \n"
        " Clear.\n \n IMPRESSION: \n \n Normal.\n",
        [
            ("preamble", "                 FINAL REPORT\n ", 0),
            ("examination", " CHEST (PORTABLE AP)\n ", 44),
            ("indication", " Cough\n ", 80),
            ("findings", "\n \n Clear.\n ", 100),
            ("impression", "\n \n Normal.\n", 126),
        ],
        id="five headers",
    ),
    pytest.param("No header at all.\n", [("full report", "No header at all.\n", 0)], id="no header"),
    pytest.param(
        " x\n CHEST, PA LATERAL:\n \n INDICATION:   Cough.\n \n Heart is large.\n \n Lungs clear.\n",
        [
            ("preamble", " x\n ", 0),
            ("indication", "  Cough.", 38),
            ("last_paragraph", " Heart is large.\n \n Lungs clear.\n", 46),
        ],
        id="empty findings title, last paragraph",
    ),
    pytest.param(
        " x\n FINDINGS: one\n FINDINGS: two\n FINDINGS: \n",
        [("preamble", " x\n ", 0), ("findings", "one", 14), ("findings", "two", 29)],
        id="several findings, the empty one is left out",
    ),
    pytest.param(
        " x\n PFI: a\n NDICATION: b\n WET READ: c\n IMPRESSION AND RECOMMENDATION: d\n",
        [
            ("preamble", " x\n ", 0),
            ("history", "a", 9),
            ("impression", "b", 23),
            ("wet read", "c", 36),
            ("impression", "d\n", 70),
        ],
        id="names",
    ),
    pytest.param(
        " x\n TECHNIQUE:\n CHEST: seen\n HISTORY: old\n",
        [("preamble", " x\n ", 0), ("technique", " CHEST: seen", 15), ("history", "old\n", 38)],
        id="a header right behind a header's line end is not seen",
    ),
]


@pytest.mark.parametrize(("text", "expected"), GOLDEN)
def test_golden(text: str, expected: list[tuple[str, str, int]]) -> None:
    assert [(part.name, part.text, part.start) for part in split_report(text)] == expected


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("FINDINGS AND IMPRESSION", "impression"),
        ("FINDINGS/ IMPRESSION", "impression"),
        ("REASON FOR EXAMINATION", "indication"),
        ("PFI", "history"),
        ("PRIOR HISTORY", "history"),
        ("COMPARISON STUDY", "comparison"),
        ("ADDENDUM BY", "addendum"),
        ("AP CHEST", "findings"),
        ("BILATERAL RIBS", "findings"),
        ("CHEST, TWO VIEWS", "findings"),
        ("EXAM", "examination"),
        ("NOTE", "note"),
        # The parts of main names are looked at before words for an examination, impression before findings.
        ("CHEST FINDINGS IMPRESSION", "impression"),
        ("COMPARISON CHEST", "comparison"),
    ],
)
def test_section_name(header: str, name: str) -> None:
    assert section_name(header) == name


def test_the_tables_have_the_documented_size() -> None:
    assert (len(FORCED_SECTIONS), len(FORCED_RANGES)) == (23, 31)
    assert sum(start == end for start, end in FORCED_RANGES.values()) == 8
    assert not set(FORCED_SECTIONS) & set(FORCED_RANGES)
    assert (len(SECTION_NAMES), len(FINDINGS_PARTS)) == (58, 18)


def test_the_last_section_of_a_name_counts() -> None:
    text = " x\n FINDINGS: first\n INDICATION: why\n FINDINGS: second\n"
    assert study_sections("59999001", text) == {"findings": "second", "indication": "why"}


def ours(study: str, text: str) -> list[object]:
    """What `section_reports.digest` was given, from this package."""
    found = study_sections(study, text)
    if overridden(study):
        return [found.get("findings", "")]
    parts = [(part.name, part.text, part.start) for part in split_report(text)]
    return [parts, found.get("impression", ""), found.get("findings", "")]


def test_every_result_is_that_of_the_official_script() -> None:
    golden = dict(line.split() for line in section_reports.GOLDEN.read_text(encoding="ascii").splitlines())
    found = {str(number): section_reports.digest(ours(*case)) for number, case in enumerate(section_reports.cases())}
    assert len(golden) == section_reports.BY_RULE + len(FORCED_RANGES) + len(FORCED_SECTIONS)
    assert [number for number in golden if golden[number] != found.get(number)] == []


def test_the_invented_reports_reach_every_rule() -> None:
    parts = [part for _, text in section_reports.cases() for part in split_report(text)]
    assert {part.name for part in parts} >= set(SECTION_NAMES.values()) | {"last_paragraph", "full report", "note"}
    assert any(study_sections(study, text) == {} for study, text in section_reports.cases())


def test_a_forced_range_is_the_findings_and_nothing_that_overlaps_is_offered() -> None:
    study, (start, end) = "50525523", FORCED_RANGES["50525523"]
    head = " x\n INDICATION: cough\n TECHNIQUE: "
    text = head + "t" * (start - 10 - len(head)) + " the heart is large" + "." * (end - start) + "\n COMPARISON: none\n"
    found = study_sections(study, text)
    assert found["findings"] == text[start:end].strip()
    assert found["indication"] == "cough"
    assert "technique" not in found
    assert "impression" not in found


def test_an_empty_range_means_no_findings_at_all() -> None:
    study = next(study for study, span in FORCED_RANGES.items() if span == (0, 0))
    text = " x\n INDICATION: cough\n FINDINGS: none here\n IMPRESSION: nor here\n"
    assert study_sections(study, text) == {"indication": "cough"}


@pytest.mark.parametrize("study", FORCED_SECTIONS)
def test_a_forced_section_is_the_findings_and_is_not_offered(study: str) -> None:
    name = FORCED_SECTIONS[study]
    text = f" x\n {name.upper()}: early\n COMPARISON: none\n {name.upper()}: The lungs are clear.\n"
    found = study_sections(study, text)
    assert found == {"findings": "The lungs are clear.", "comparison": "none"}
    assert overridden(study)
    assert not overridden("59999001")


def test_a_forced_section_that_is_not_there_is_an_error() -> None:
    with pytest.raises(CxrbenchError, match="has no section 'recommendations'"):
        study_sections("50913680", " x\n FINDINGS: a\n")


_WORDS = st.sampled_from(
    ["FINDINGS", "IMPRESSION", "CHEST, PA", "INDICATION", "clear", "a", ":", ": ", "\n", "\n ", "\n \n", " ", "_"]
)
REPORTS = st.one_of(st.text(), st.lists(_WORDS, max_size=40).map("".join))


@given(REPORTS)
def test_sections_lie_where_they_say_and_in_order(text: str) -> None:
    parts = split_report(text)
    assert parts
    cut = [part for part in parts if part.name != sections.LAST_PARAGRAPH]
    assert all(text[part.start : part.end] == part.text for part in cut)
    assert [part.start for part in parts] == sorted(part.start for part in parts)
    assert all(text.startswith("\n \n" + part.text, part.start) for part in parts if part not in cut)


@given(REPORTS)
def test_what_a_study_offers_is_stripped_text_of_the_report(text: str) -> None:
    found = study_sections("59999001", text)
    assert set(found) <= set(SECTIONS)
    assert all(value and value == value.strip() and value in text for value in found.values())


@given(st.sampled_from(sorted(FORCED_RANGES)), REPORTS)
def test_a_forced_range_never_leaks_into_what_is_offered(study: str, text: str) -> None:
    start, end = FORCED_RANGES[study]
    found = study_sections(study, text)
    assert found.get("findings", "") == text[start:end].strip()
    assert "impression" not in found
