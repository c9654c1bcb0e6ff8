"""Refuse files that look like they hold credentialed text: marks of de-identification, or ids in the form of MIMIC-CXR.

    python tools/check_no_private_text.py FILE [FILE ...]

Everywhere in the repository, tests and documentation included. What may stand there:

- invented ids: studies 59999000 to 59999999, patients p19999000 to p19999999;
- the ids of the studies that the official section rules name (MIT-LCP/mimic-cxr, public code): where the rules are
  kept, and in the tests of these rules;
- a mark of de-identification (three underscores or more, which stand for a name) in the few files that show the layout.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

STUDY_ID = re.compile(r"(?:(?<![0-9A-Za-z.])|(?<![0-9A-Za-z])s)(5\d{7})(?![0-9A-Za-z])")
PATIENT_ID = re.compile(r"(?<![0-9A-Za-z])p(1\d{7})(?![0-9A-Za-z])")
"""Study ids with and without their letter; eight digits that begin with 1 may be anything, so patient ids with it."""

INVENTED = re.compile(r"[15]9999\d{3}")

PUBLISHED_RULES = ROOT / "cxrbench/data/mimic_section_rules.py"
MAY_NAME_PUBLISHED_IDS = (
    "cxrbench/data/mimic_section_rules.py",
    "tests/data/test_mimic_cxr.py",
    "tests/data/test_mimic_tasks.py",
    "tests/data/test_sections.py",
)

DEIDENTIFIED = re.compile("_{3}")
MAY_SHOW_THE_LAYOUT = (
    "cxrbench/data/rexrank_context.py",
    "docs/data-mimic-cxr.md",
    "tests/data/test_mimic_protocols.py",
    "tests/data/test_rexrank_context.py",
    "tests/metrics/test_conventions.py",
)


def published_ids() -> frozenset[str]:
    """The studies that the official rules treat by hand."""
    return frozenset(STUDY_ID.findall(PUBLISHED_RULES.read_text(encoding="utf-8")))


def problems(path: Path) -> list[str]:
    """One line per suspicious line of a file, which it does not quote; a file with NUL bytes is no text."""
    data = path.read_bytes()
    if b"\0" in data:
        return []
    absolute = path.resolve()
    name = absolute.relative_to(ROOT).as_posix() if absolute.is_relative_to(ROOT) else absolute.as_posix()
    published = published_ids() if name in MAY_NAME_PUBLISHED_IDS else frozenset()
    found = []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
        ids = {*STUDY_ID.findall(line), *PATIENT_ID.findall(line)} - published
        if not all(INVENTED.fullmatch(each) for each in ids):
            found.append(f"{path}:{number}: an id in the form of MIMIC-CXR that is not an invented one (59999xxx)")
        if DEIDENTIFIED.search(line) and name not in MAY_SHOW_THE_LAYOUT:
            found.append(f"{path}:{number}: a mark of de-identification, as in a credentialed report")
    return found


if __name__ == "__main__":
    lines = [line for name in sys.argv[1:] for line in problems(Path(name))]
    print("\n".join(lines))
    raise SystemExit(1 if lines else 0)
