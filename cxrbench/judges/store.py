"""What judges answered, raw and for good: one SQLite file per data set, beside the feature store.

A row is found by a hash of everything that was asked (rubric, endpoint, model, settings, messages, repeat). It is
written before the next request of its lane starts, so a killed command asks nothing twice that was answered. Only
answers that could be read count as done; others are kept to be looked at and are asked anew by the next command.
`cxrbench cache purge --dataset NAME` deletes it. Workers of a scoring write what they are told into parts (parts.py),
which are merged. Touches parts, errors and privacy only.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter

from cxrbench.atomic import on_local_disk
from cxrbench.claims import EXACT
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.parts import damaged, rows_of
from cxrbench.privacy import claim_folder, private_file
from cxrbench.shares import key_of

FORMAT = 1
FILE = "judges.sqlite"
PATIENCE = 60.0
_ASKED = 500


@dataclass(frozen=True, slots=True)
class Stored:
    """One answer: its text, the response body as it came, and what it took. `about` is JSON of who was asked and how.

    `cost` is in the currency of the prices, None where none were given; `seconds` is the answered attempt's.
    """

    __pydantic_config__: ClassVar[ConfigDict] = {**EXACT, "revalidate_instances": "always"}
    text: str
    readable: bool
    about: str
    finish_reason: str = "none"
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    seconds: float = 0.0
    attempts: int = 1
    model: str | None = None
    fingerprint: str | None = None
    body: bytes | None = None
    at: float = 0.0


_COLUMNS = tuple(field.name for field in fields(Stored))


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a question (16 bytes: the prompt and the judge, whichever way of asking) that a worker asked.

    `answer` belongs under `key`; both are None where no completion came. `reason` is why there is no verdict, empty
    where there is one.
    """

    question: bytes
    key: bytes | None
    answer: Stored | None
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """As a row of a part."""
        body = asdict(self.answer) if self.answer is not None else None
        if body is not None and body["body"] is not None:
            body["body"] = base64.b64encode(body["body"]).decode("ascii")
        key = self.key.hex() if self.key is not None else None
        return {"question": self.question.hex(), "key": key, "answer": body, "reason": self.reason}


def told_of(part: Path) -> Iterator[Told]:
    """What a worker was told by judges.

    Raises:
        CxrbenchError: a row is damaged.
    """
    for row in rows_of(part):
        if "question" not in row:
            continue
        try:
            yield _told(row)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise damaged(part) from None


def _told(row: Mapping[str, Any]) -> Told:
    key, answer = (key_of(row["key"]), _answer(row["answer"])) if row["key"] is not None else (None, None)
    if not isinstance(row["reason"], str) or (answer is None and row["answer"] is not None):
        raise TypeError("no worker writes this")
    return Told(key_of(row["question"]), key, answer, row["reason"])


def _answer(body: Mapping[str, Any]) -> Stored:
    """An answer of a part: it is kept for good, so it is looked at before."""
    raw = body["body"]
    given = {**body, "body": base64.b64decode(raw, validate=True) if raw is not None else None}
    answer: Stored = _exactly().validate_python(Stored(**given))
    about = json.loads(answer.about)
    if not isinstance(about["who"], dict) or not isinstance(about["rubric"], str):
        raise TypeError("nobody was asked")
    return answer


@cache
def _exactly() -> TypeAdapter[Stored]:
    return TypeAdapter(Stored)


class JudgeStore:
    """Open while a judge is asked; a context manager. `folder` None keeps answers in memory only."""

    def __init__(self, folder: Path | None) -> None:
        self.file = folder / FILE if folder is not None else None
        with self._telling():
            if self.file is not None:
                claim_folder(self.file.parent)
                with open(self.file, "ab", opener=private_file):
                    pass
            # The client's loop writes from its own thread while the thread that opened the store waits for it.
            self._base = sqlite3.connect(
                self.file or ":memory:", timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            self._prepare()

    def _prepare(self) -> None:
        # A commit outlives the process that made it, though not a power cut: then its requests are asked again.
        self._base.execute("PRAGMA trusted_schema = OFF")  # a file from elsewhere may bring views and triggers
        if self.file is not None:
            self._choose_journal("wal" if on_local_disk(self.file) else "delete")
        self._base.execute("PRAGMA synchronous = NORMAL")
        (version,) = self._base.execute("PRAGMA user_version").fetchone()
        (tables,) = self._base.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and not tables:
            columns = ", ".join(_COLUMNS)
            self._base.execute(f"CREATE TABLE IF NOT EXISTS answer (key BLOB PRIMARY KEY, {columns}) WITHOUT ROWID")
            self._base.execute(f"PRAGMA user_version = {FORMAT}")
        elif version not in (0, FORMAT):
            raise CxrbenchError(
                f"the store of judges' answers is of version {version}, this cxrbench reads version {FORMAT}",
                where=str(self.file),
                fix="the release that made it, or cxrbench cache purge, after which judges are asked again",
                code=Exit.INFRASTRUCTURE,
            )
        self._base.execute(f"CREATE TABLE IF NOT EXISTS earlier (key BLOB, {', '.join(_COLUMNS)})")
        self._base.execute("CREATE INDEX IF NOT EXISTS earlier_key ON earlier (key)")

    def _choose_journal(self, mode: str) -> None:
        """Switch a new file to write-ahead logging, which needs memory that all its processes share: on one machine.

        Of processes that switch it together SQLite lets one and refuses the others without waiting.
        """
        until = time.monotonic() + PATIENCE
        while True:
            try:
                if self._base.execute("PRAGMA journal_mode").fetchone() != (mode,):  # changing it, no other may read
                    self._base.execute(f"PRAGMA journal_mode = {mode}")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(0.01)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Stored]:
        """What is kept under each key; keys without an answer are left out."""
        found: dict[bytes, Stored] = {}
        with self._telling():
            for start in range(0, len(keys), _ASKED):
                part = list(keys[start : start + _ASKED])
                marks = ",".join("?" * len(part))
                query = f"SELECT key, {', '.join(_COLUMNS)} FROM answer WHERE key IN ({marks})"  # noqa: S608
                for key, text, readable, *rest in self._base.execute(query, part):
                    if not isinstance(text, str):
                        raise sqlite3.DatabaseError("an answer that is no text")
                    found[key] = Stored(text, bool(readable), *rest)
        return found

    def unread(self, keys: Sequence[bytes]) -> list[Stored]:
        """All that was answered under these keys and could not be read: it was paid for as well."""
        found: list[Stored] = []
        columns = ", ".join(_COLUMNS)
        with self._telling():
            for start in range(0, len(keys), _ASKED):
                part = list(keys[start : start + _ASKED])
                marks = ",".join("?" * len(part))
                query = (
                    f"SELECT {columns} FROM earlier WHERE key IN ({marks}) UNION ALL "  # noqa: S608
                    f"SELECT {columns} FROM answer WHERE NOT readable AND key IN ({marks})"
                )
                found += [Stored(*row) for row in self._base.execute(query, [*part, *part])]
        return found

    def askers(self, tags: Sequence[str]) -> list[dict[str, Any]]:
        """The identities of all who were asked by rubrics with these tags, each once, in the order of their text."""
        with self._telling():
            rows = [json.loads(about) for (about,) in self._base.execute("SELECT DISTINCT about FROM answer")]
        found = {json.dumps(row["who"], sort_keys=True): row["who"] for row in rows if row["rubric"] in tags}
        return [found[text] for text in sorted(found)]

    def put(self, key: bytes, answer: Stored) -> None:
        """Keep an answer; one that could not be read gives way, and is kept as an earlier one."""
        marks = ",".join("?" * (1 + len(_COLUMNS)))
        row = (key, *astuple(answer)[:-1], time.time())
        with self._telling(), self._base:  # both or neither
            self._base.execute("BEGIN IMMEDIATE")
            self._base.execute("INSERT INTO earlier SELECT * FROM answer WHERE key = ?", (key,))
            self._base.execute(f"INSERT OR REPLACE INTO answer VALUES ({marks})", row)  # noqa: S608

    def merge(self, part: Path) -> int:
        """Keep what a worker was answered, all or nothing; returns how many answers were new. Again changes nothing.

        The last one under a key counts, but for one that could not be read after one that could; the other is kept as
        an earlier one.
        """
        marks = ",".join("?" * (1 + len(_COLUMNS)))
        count = 0
        with self._telling(), self._on_disk(), self._base:
            self._base.execute("BEGIN IMMEDIATE")
            for told in told_of(part):
                if told.key is None or told.answer is None or self._has(told.key, told.answer.at):
                    continue
                count += 1
                row = (told.key, *astuple(told.answer))
                query = "SELECT readable FROM answer WHERE key = ?"
                (before,) = self._base.execute(query, (told.key,)).fetchone() or (None,)
                if before and not told.answer.readable:
                    self._base.execute(f"INSERT INTO earlier VALUES ({marks})", row)  # noqa: S608
                    continue
                self._base.execute("INSERT INTO earlier SELECT * FROM answer WHERE key = ?", (told.key,))
                self._base.execute(f"INSERT OR REPLACE INTO answer VALUES ({marks})", row)  # noqa: S608
        return count

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """What is committed in the block outlives a power cut: the part it comes from is removed next."""
        self._base.execute("PRAGMA synchronous = EXTRA")
        try:
            yield
        finally:
            self._base.execute("PRAGMA synchronous = NORMAL")

    def _has(self, key: bytes, at: float) -> bool:
        query = "SELECT 1 FROM answer WHERE key = ? AND at = ? UNION ALL SELECT 1 FROM earlier WHERE key = ? AND at = ?"
        return self._base.execute(query, (key, at, key, at)).fetchone() is not None

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def __enter__(self) -> JudgeStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise CxrbenchError(
                f"judges' answers cannot be kept or read ({error})",
                where=str(self.file),
                fix="free space, or XDG_CACHE_HOME=DIR of a folder that can be written; what was answered is kept",
                code=Exit.INFRASTRUCTURE,
            ) from error
