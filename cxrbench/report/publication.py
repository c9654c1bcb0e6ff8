"""What goes to a static host: a public board, its aggregate summaries, checksums. Nothing per sample, nothing else.

A host serves every file of a folder, so a folder with anything else in it is refused, and everything that a folder
would publish passes one guard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from cxrbench.atomic import write_atomic
from cxrbench.errors import CxrbenchError
from cxrbench.gate_evidence import read_baseline, refuse_public
from cxrbench.report.aggregate import summary_bytes, suppress
from cxrbench.report.leaderboard import Board
from cxrbench.report.leaderboard_page import html

SUMS = "SHA256SUMS"
PER_SAMPLE = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".sqlite")
"""Suffixes of files that hold samples."""


def publish(folder: Path, board: Board, beside: Sequence[Path] = ()) -> list[str]:
    """Fill a folder; returns the names of its files.

    Raises:
        CxrbenchError: the folder holds other files, the board is private, a file beside it holds numbers of samples of
            credentialed data or is no baseline, or the folder cannot be written.
    """
    if board.mode != "public":
        raise CxrbenchError("a private board is not published", where=board.spec.name, fix="build it with --public")
    _refuse_foreign(folder)
    files: dict[str, bytes] = {"index.html": html(board).encode()}
    for task in board.tasks:
        for at, summary in enumerate(task.summaries):
            name = f"summaries/{task.part.task}{f'-{at + 1}' if at else ''}.json"
            files[name] = summary_bytes(suppress(summary, task.summaries))
    for file in beside:
        refuse_public(read_baseline(file), str(file))
        if f"baselines/{file.name}" in files:
            raise CxrbenchError("two files have one name", where=str(file), fix="rename one of them")
        files[f"baselines/{file.name}"] = file.read_bytes()
    _remove_stale(folder, set(files))
    for name, data in files.items():
        _write_public(folder / name, data)
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    _write_public(folder / SUMS, sums.encode())
    for place in (folder, *(folder / name for name in ("summaries", "baselines"))):
        if place.is_dir():
            place.chmod(0o755)
    return [*sorted(files), SUMS]


def _write_public(file: Path, data: bytes) -> None:
    write_atomic(file, data)
    file.chmod(0o644)


def _listed(folder: Path) -> set[str]:
    """Names in the checksums of an earlier publication."""
    file = folder / SUMS
    if not file.is_file():
        return set()
    return {line.partition("  ")[2] for line in file.read_text(encoding="utf-8").splitlines()}


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds anything a publication did not put there."""
    if folder.exists() and not folder.is_dir():
        raise CxrbenchError("this is no folder", where=str(folder), fix="name a new or an empty folder")
    if not folder.exists():
        return
    known = _listed(folder) | {SUMS}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or (not path.is_dir() and name not in known):
            kind = "a file that can hold samples" if path.suffix in PER_SAMPLE else "a file of another origin"
            raise CxrbenchError(
                f"the folder holds {kind}, which a host would serve too",
                where=str(path),
                fix="name a new or an empty folder",
            )


def _remove_stale(folder: Path, kept: set[str]) -> None:
    """Remove what an earlier publication listed and this one does not have."""
    for name in sorted(_listed(folder) - kept):
        path = folder / name
        if folder.resolve() in path.resolve().parents:
            path.unlink(missing_ok=True)
