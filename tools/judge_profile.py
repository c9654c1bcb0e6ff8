"""Write the sensitivity profile of docs/judges.md: its table and its picture, from one study.

python tools/judge_profile.py            # writes docs/judges-profile.svg and the table between its marks
python tools/judge_profile.py --check    # exit 1 when they are not what it would write

Every metric that needs no judge, with its default preset, on 100 phantom studies; those that give no value there stand
below the table with the reason. About half a minute on two cores. METEOR needs Java and the extra `coco`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cxrbench import registry
from cxrbench.cli.judge_study import profile_table
from cxrbench.judge_study import planted_study
from cxrbench.report.sensitivity import draw

ROOT = Path(__file__).resolve().parent.parent
PAGE, PICTURE = ROOT / "docs" / "judges.md", ROOT / "docs" / "judges-profile.svg"
BEGIN, END = "<!-- made by tools/judge_profile.py -->\n", "<!-- end -->\n"
STUDIES = 100
PRESETS = {"bertscore": "tiny"}
"""Where the default preset names an encoder that is not shipped."""
OF_A_FILE = "FILE"
"""Default preset of metrics that are whatever file the user names."""
OF_QUESTIONS = ("vqa", "choice", "choice-letter")


def metrics() -> list[str]:
    """Every metric of reports that needs no judge and no file."""
    made = {name: registry.load("metrics", name) for name in registry.entries("metrics") if name not in OF_QUESTIONS}
    names = [
        name
        for name, kind in made.items()
        if kind.form == "text" and not kind.judge and not kind.default_preset.startswith(OF_A_FILE)
    ]
    return [f"{name}:{PRESETS[name]}" if name in PRESETS else name for name in names]


def main() -> None:
    """Write the table and the picture, or with --check hold them against what would be written."""
    found = planted_study(STUDIES, metrics())
    left = [f"{key.partition(':')[0]} ({reason})" for key, reason in found["not_scored"].items()]
    below = f"\nNot there: {'; '.join(left)}.\n" if left else ""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page = f"{before}{BEGIN}{profile_table(found, markdown=True)}{below}{END}{after}"
    made = {PAGE: page, PICTURE: draw(found)}
    if "--check" in sys.argv:
        stale = [str(file) for file, text in made.items() if file.read_text(encoding="utf-8") != text]
        sys.exit(f"not what the tool writes: {', '.join(stale)}" if stale else 0)
    for file, text in made.items():
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
