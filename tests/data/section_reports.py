"""Invented reports for the official section rules, and what the official script makes of them, as hashes.

`golden_sections.txt` was written by running MIT-LCP/mimic-cxr's own txt/section_parser.py (commit 3190146 of 13 July
2020) over these texts, and the choice its txt/create_section_files.py makes among the sections. To write it again from
a copy of that repository, which is not part of this one:

    python tests/data/section_reports.py DIR-OF-MIMIC-CXR

A line is a case number and 16 hex digits of SHA-256 over the JSON of [every section as (name, text, start), the last
impression and the last findings, stripped]; for a study placed by hand [the text placed, stripped] in their stead.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cxrbench.data.mimic_section_rules import FINDINGS_PARTS, FORCED_RANGES, FORCED_SECTIONS, SECTION_NAMES

GOLDEN = Path(__file__).with_name("golden_sections.txt")
BY_RULE = 400
"""Reports under an id that is read by rule; the 54 placed by hand follow."""

_TEXT = "the heart lungs are clear large no effusion small left right base tube ends above carina stable"
_WORDS = _TEXT.split()
_HEADERS = [name.upper() for name in (*SECTION_NAMES, *FINDINGS_PARTS, "note", "final addendum", "chest film ap")]
_GAPS = ("\n", "\n ", "\n \n", "\n \n ", " \n", ": ", "\t", "\n\n", "\n  ", ":", "\n _\n")


class Dice:
    """The same numbers in every version of Python: Knuth's 64-bit linear congruence, upper half."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def below(self, count: int) -> int:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return (self.state >> 32) % count

    def pick(self, items: Any) -> Any:
        return items[self.below(len(items))]


def _sentence(dice: Dice) -> str:
    return " ".join(dice.pick(_WORDS) for _ in range(1 + dice.below(14))).capitalize() + "."


def _plain(dice: Dice) -> str:
    """The usual layout: headers after one blank, paragraphs apart by a line of one blank."""
    parts = ["                                 FINAL REPORT", f" {dice.pick(_HEADERS)}:  CHEST (PA AND LAT)"]
    for name, share in (("INDICATION", 9), ("COMPARISON", 8), ("FINDINGS", 7), ("IMPRESSION", 8)):
        if dice.below(10) < share:
            lines = "\n ".join(_sentence(dice) for _ in range(dice.below(5)))
            parts.append(f" {name}: \n \n {lines}" if dice.below(2) else f" {name}:  {lines}")
    return "\n \n".join([*parts, *(f" {_sentence(dice)}" for _ in range(dice.below(3)))]) + "\n"


def _wild(dice: Dice) -> str:
    """Headers, gaps and words in any order: what the rules may meet at their edges."""
    pieces = []
    for _ in range(dice.below(30)):
        kind = dice.below(20)
        if kind < 7:
            pieces.append(f"\n {dice.pick(_HEADERS)}:{dice.pick((' ', chr(10), '', '  '))}")
        else:
            pieces.append(dice.pick(_GAPS) if kind < 12 else _sentence(dice))
    return "".join(pieces)


def cases() -> Iterator[tuple[str, str]]:
    """(study id, report): `BY_RULE` invented ids, then every study placed by hand, with the section it needs."""
    dice = Dice(20200713)
    for number in range(BY_RULE):
        yield f"{59_999_001 + number}", _plain(dice) if dice.below(5) < 2 else _wild(dice)
    for study in FORCED_RANGES:
        yield study, "".join(_plain(dice) for _ in range(6))
    for study, name in FORCED_SECTIONS.items():
        yield study, f"{_plain(dice)} {name.upper()}:  {_sentence(dice)}\n \n {_sentence(dice)}\n{_wild(dice)}"


def digest(found: Any) -> str:
    """16 hex digits of a result."""
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def _official(folder: Path) -> Iterator[str]:
    spec = importlib.util.spec_from_file_location("section_parser", folder / "txt" / "section_parser.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    names, ranges = script.custom_mimic_cxr_rules()
    for number, (study, text) in enumerate(cases()):
        sections, found, starts = script.section_text(text)
        last = {name: section.strip() for name, section in zip(found, sections, strict=True)}
        if f"s{study}" in ranges:
            start, end = ranges[f"s{study}"]
            result: list[Any] = [text[start:end].strip()]
        elif f"s{study}" in names:
            result = [last[names[f"s{study}"]]]
        else:
            parts = list(zip(found, sections, starts, strict=True))
            result = [parts, last.get("impression", ""), last.get("findings", "")]
        yield f"{number} {digest(result)}\n"


if __name__ == "__main__":
    GOLDEN.write_text("".join(_official(Path(sys.argv[1]))), encoding="ascii")
