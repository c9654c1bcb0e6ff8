"""Errors written for the person who reads them: what happened, where, what to do.

This room may touch the standard library only. Everything that can go wrong because of input, settings or the
machine is raised as `CxrbenchError`; the command line prints it without a traceback (`--debug` shows one).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line; the same meaning for every command."""

    OK = 0
    REGRESSION = 1
    """A regression, or a check that failed."""
    USAGE = 2
    """The call or an input file is wrong."""
    UNDECIDED = 3
    """Undecided or incomplete: a required number could not be made."""
    INFRASTRUCTURE = 4
    """Disk, memory, permissions, another process, or a defect of cxrbench."""


class CxrbenchError(Exception):
    """The one error class.

    Args:
        what: one sentence: what happened.
        where: file, line, key or sample; empty when there is no place to point at.
        fix: what to do, if possible the exact command to type.
        code: exit code of the command line.

    >>> print(CxrbenchError("task 'x' is not known", where="tasks/", fix="cxrbench list tasks"))
    task 'x' is not known
      where: tasks/
      to do: cxrbench list tasks
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "", code: Exit = Exit.USAGE) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix
        self.code = code

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  to do: {self.fix}")
        return "\n".join(lines)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for a close match in `known`, else an empty string.

    >>> suggest("bleau", ["bleu", "rouge"])
    " (did you mean 'bleu'?)"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
