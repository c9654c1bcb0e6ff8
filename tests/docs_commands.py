"""Every `cxrbench ...` command that stands in the README and in docs/, with its place; nothing is run here."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"\s*```(\w*)")
SHELL = ("", "sh", "bash", "yaml")
"""Languages of fenced blocks that may hold commands (yaml: the steps of a workflow)."""
COMMAND = re.compile(r"(?:^|&& )\s*(?:- run: )?(?:\.venv/bin/)?cxrbench (?=\S)")
INLINE = re.compile(r"`cxrbench (\S[^`]*)`")


@dataclass(frozen=True)
class Command:
    """One command as a reader would type it, without `cxrbench`; `inline` stands in a sentence, not in a block."""

    page: str
    line: int
    text: str
    inline: bool

    @property
    def words(self) -> list[str]:
        """Its words; brackets of what may be left out are taken away, comments and redirections are no part of it."""
        text = re.sub(r"\[(--[^\]]*)\]", r"\1", self.text)
        words = shlex.split(text, comments=True)
        if ">" in words:
            words = words[: words.index(">")]
        return [word for word in words if word not in ("[RUN", "...]")]

    @property
    def target(self) -> str | None:
        """The file its output goes to."""
        found = re.search(r" > (\S+)", self.text.partition("#")[0])
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: cxrbench {self.text}"


def pages() -> list[Path]:
    """README.md and the pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[Command]:
    """All of a page, in order."""
    found = []
    for number, text, block in _lines(page.read_text(encoding="utf-8")):
        if not block:
            found += [Command(page.name, number, each, True) for each in INLINE.findall(text)]
        elif begun := COMMAND.search(text):
            found.append(Command(page.name, number, text[begun.end() :].strip(), False))
    return found


def _lines(body: str) -> list[tuple[int, str, bool]]:
    """(line number, text, in a block of commands); lines that end in a backslash are joined, others' blocks left out.

    The lines of a paragraph are joined too: a command in a sentence may be broken at the end of a line.
    """
    made: list[tuple[int, str, bool]] = []
    fence: str | None = None
    joins = False
    for number, line in enumerate(body.splitlines(), 1):
        if mark := FENCE.match(line):
            fence = mark[1] if fence is None else None
            joins = False
            continue
        block = fence is not None or line.startswith("    ")
        if fence is not None and fence not in SHELL:
            continue
        if joins:
            first, text, kind = made[-1]
            made[-1] = (first, f"{text.removesuffix(chr(92))} {line.strip()}", kind)
        else:
            made.append((number, line, block))
        joins = line.endswith("\\") if block else bool(line.strip()) and fence is None and not line.startswith("|")
        if not block and joins:
            joins = _goes_on(body, number)
    return made


def _goes_on(body: str, number: int) -> bool:
    """Whether the line after this one is of the same paragraph."""
    lines = body.splitlines()
    return number < len(lines) and bool(lines[number].strip()) and not lines[number].startswith(("    ", "```", "|"))
