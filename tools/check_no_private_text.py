"""Refuse files that look like they hold credentialed report text: `___` in prose, or MIMIC study ids outside tests.

    python tools/check_no_private_text.py FILE [FILE ...]

Tests, benchmarks and the data readers name the layout with invented ids (s59999xxx); everything else has no reason to.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

STUDY_ID = re.compile(r"\bs5\d{7}\b")
DEIDENTIFIED = re.compile(r"[A-Za-z,.] ___[ ,.;]")
MAY_SHOW_THE_LAYOUT = ("tests/", "benchmarks/", "cxrbench/data/", "docs/", "tools/")


def problems(path: Path) -> list[str]:
    """Return one line per suspicious place of a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return []
    if path.as_posix().startswith(MAY_SHOW_THE_LAYOUT):
        return []
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if STUDY_ID.search(line) or DEIDENTIFIED.search(line):
            found.append(f"{path}:{number}: looks like credentialed text or a study id")
    return found


if __name__ == "__main__":
    lines = [line for name in sys.argv[1:] for line in problems(Path(name))]
    print("\n".join(lines))
    raise SystemExit(1 if lines else 0)
