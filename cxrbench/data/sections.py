"""Sections of a MIMIC-CXR report by the official rules, with the 54 studies that are treated by hand.

Pure functions over text; standard library only. The rules are those of MIT-LCP/mimic-cxr (txt/section_parser.py and
txt/create_section_files.py, MIT licence), written anew: a header is a line that begins with exactly one space, holds
capitals and ends in a colon; names are normalised by the tables of `mimic_section_rules`; the last section of a name
counts. tests/data/section_reports.py holds what the original gives, benchmarks/mimic_scale.py --official compares and
times this module beside a copy of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cxrbench.data.mimic_section_rules import FINDINGS_PARTS, FORCED_RANGES, FORCED_SECTIONS, NAME_PARTS, SECTION_NAMES
from cxrbench.errors import CxrbenchError
from cxrbench.types import SECTIONS

PREAMBLE = "preamble"
FULL_REPORT = "full report"
LAST_PARAGRAPH = "last_paragraph"

_HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")
_BLANK_PARAGRAPH = "\n \n"


@dataclass(frozen=True, slots=True)
class Section:
    """A section as it stands in the report: normalised name, text not yet stripped, index of its first character."""

    name: str
    text: str
    start: int

    @property
    def end(self) -> int:
        """Index behind the last character."""
        return self.start + len(self.text)


def section_name(header: str) -> str:
    """Normalise a header: exact table, then parts of names, then words that name an examination.

    >>> section_name("REASON FOR EXAM"), section_name("PORTABLE AP CHEST RADIOGRAPH"), section_name("WET READ ")
    ('indication', 'findings', 'wet read')
    """
    name = header.lower().strip()
    if name in SECTION_NAMES:
        return SECTION_NAMES[name]
    for part in NAME_PARTS:
        if part in name:
            return part
    return "findings" if any(part in name for part in FINDINGS_PARTS) else name


def _cut(text: str) -> list[Section]:
    """Cut a report at its headers. After a header the search goes on from the next line on."""
    header = _HEADER.search(text)
    if header is None:
        return [Section(FULL_REPORT, text, 0)]
    found = [Section(PREAMBLE, text[: header.start(1)], 0)]
    while header is not None:
        start = header.end()
        following = _HEADER.search(text, max(text.find("\n", start), start))
        end = len(text) if following is None else following.start()
        found.append(Section(section_name(header.group(1)), text[start:end], start))
        header = following
    return found


def split_report(text: str) -> list[Section]:
    """All sections of a report in their order.

    Empty impression and findings sections are left out. When neither remains, the last section is cut at its first
    blank paragraph and what follows becomes `last_paragraph`, whose start is, as in the original, the end of the cut
    section (before the blank paragraph).
    """
    found = [part for part in _cut(text) if part.name not in ("impression", "findings") or part.text.strip()]
    if not any(part.name in ("impression", "findings") for part in found):
        last = found[-1]
        head, blank, rest = last.text.partition(_BLANK_PARAGRAPH)
        if blank:
            found[-1] = Section(last.name, head, last.start)
            found.append(Section(LAST_PARAGRAPH, rest, last.start + len(head)))
    return found


def last_of_each(parts: list[Section]) -> dict[str, Section]:
    """Section name -> the last section of that name."""
    return {part.name: part for part in parts}


def _forced(name: str, parts: Mapping[str, Section]) -> Section:
    if name not in parts:
        raise CxrbenchError(
            f"a report that the official rules read by hand has no section {name!r}: its text is not the published one",
            fix="download the report again (mimic-cxr-reports.zip)",
        )
    return parts[name]


def overridden(study_id: str) -> bool:
    """Whether the study is one of the 54 that the official rules treat by hand.

    The official script leaves these studies out of `mimic_cxr_sectioned.csv`.
    """
    return study_id in FORCED_RANGES or study_id in FORCED_SECTIONS


def study_sections(study_id: str, text: str) -> dict[str, str]:
    """The sections a study offers, stripped, non-empty, by the names of `types.SECTIONS`.

    For a study treated by hand the forced text is the whole description: it becomes `findings`, there is no
    `impression`, and any section that shares characters with it is left out, so that no model is offered its answer.
    """
    parts = last_of_each(split_report(text))
    if study_id in FORCED_RANGES:
        start, end = FORCED_RANGES[study_id]
        forced = Section("findings", text[start:end], start)
    elif study_id in FORCED_SECTIONS:
        forced = _forced(FORCED_SECTIONS[study_id], parts)
    else:
        return {name: parts[name].text.strip() for name in SECTIONS if name in parts and parts[name].text.strip()}
    kept = {"findings": forced.text.strip()}
    for name in SECTIONS:
        part = parts.get(name)
        if part is None or name in ("findings", "impression"):
            continue
        if part.end <= forced.start or part.start >= forced.end:
            kept[name] = part.text.strip()
    return {name: value for name, value in kept.items() if value}
