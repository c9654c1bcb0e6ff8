"""The feature store: what a learned annotator said of a text, kept so that no text is annotated twice.

One SQLite file per data set, in the cache folder of its owner alone, because annotations contain the report's words;
`cxrbench cache purge --dataset NAME` deletes it. A row is found by a hash of everything that could change it: the
annotator, the version of its code, its weights, settings and precision (`scope`), and the text. It has one writer:
workers of a scoring write parts (parts.py), which are merged. Never touches the run folder.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.parts import Part, damaged, rows_of
from cxrbench.privacy import claim_folder, private_file
from cxrbench.shares import Share, key_of

FORMAT = 1
"""Version of the file. A store of another version is refused, never read as something it is not."""

FILE = "features.sqlite"
PATIENCE = 60.0
"""Seconds to wait for another process that writes the same store."""

_ASKED = 500
"""Keys asked for at a time: below the number of variables every build of SQLite allows."""

_MERGED = 10_000
"""Rows merged at a time: of the largest annotations some 40 MB, well within the patience of others."""


def row_key(scope: str, text: str) -> bytes:
    """The key of what `scope` says of `text`: 16 bytes of BLAKE2b.

    >>> row_key("a", "bc") == row_key("ab", "c")
    False
    """
    named = f"{len(scope)}\0{scope}\0{text}"
    return hashlib.blake2b(named.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Store:
    """A feature store in a folder (0700).

    Raises:
        CxrbenchError: the file is damaged, of another version, locked for too long, or the disk is full.
    """

    share: Share | None = None
    """Which texts are annotated here; None: all."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE

    def usable(self) -> bool:
        """Whether rows can be kept here; makes the folder. A store that is damaged is usable: its error names it."""
        try:
            claim_folder(self.file.parent)
        except (OSError, CxrbenchError):
            return False
        return True

    def get(self, scope: str, texts: Sequence[str]) -> dict[str, bytes]:
        """What is kept of each text; texts of which nothing is kept are left out."""
        if not self.file.exists():
            return {}
        found: dict[str, bytes] = {}
        with self._open() as base:
            for start in range(0, len(texts), _ASKED):
                keys = {row_key(scope, text): text for text in texts[start : start + _ASKED]}
                marks = ",".join("?" * len(keys))
                rows = base.execute(f"SELECT key, value FROM feature WHERE key IN ({marks})", list(keys))  # noqa: S608
                found |= {keys[key]: value for key, value in rows}
        return found

    def put(self, scope: str, values: Mapping[str, bytes]) -> None:
        """Keep what is said of each text, all or nothing; what was kept of the same texts is replaced."""
        self._keep([(row_key(scope, text), value) for text, value in values.items()])

    def merge(self, part: Path) -> int:
        """Keep what a worker handed over; returns how many rows that were. Once more changes nothing.

        A scoring of another run may read and write between two blocks of rows.

        Raises:
            CxrbenchError: as the class says, or the part is damaged; of such a part nothing is kept.
        """
        for _ in _rows(part):
            pass  # damage is found before anything is kept
        rows, count = _rows(part), 0
        while block := list(itertools.islice(rows, _MERGED)):
            count += self._keep(block, at_once=True)
        return count

    def _keep(self, rows: Iterable[tuple[bytes, bytes]], *, at_once: bool = False) -> int:
        """`at_once`: a power cut takes nothing of it back, because what it comes from is removed next."""
        if not self.file.exists():
            claim_folder(self.file.parent)
            with open(self.file, "ab", opener=private_file):
                pass
        with self._open() as base:
            if at_once:
                base.execute("PRAGMA synchronous = EXTRA")
            base.execute("BEGIN IMMEDIATE")  # closing without COMMIT, as an error does, takes all back
            count = base.executemany("INSERT OR REPLACE INTO feature VALUES (?, ?)", rows).rowcount
            base.execute("COMMIT")
        return count

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.file, timeout=PATIENCE, isolation_level=None)) as base:
                base.execute("PRAGMA trusted_schema = OFF")  # a file from elsewhere may bring views and triggers
                self._check(base)
                yield base
        except sqlite3.Error as error:
            raise self._refused(error) from error

    def _check(self, base: sqlite3.Connection) -> None:
        """Make the table in a new file; refuse a file of another version."""
        (version,) = base.execute("PRAGMA user_version").fetchone()
        if version == FORMAT:
            return
        base.execute("BEGIN IMMEDIATE")
        (version,) = base.execute("PRAGMA user_version").fetchone()  # another process may have made it meanwhile
        (tables,) = base.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and not tables:
            base.execute("CREATE TABLE feature (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
            base.execute(f"PRAGMA user_version = {FORMAT}")
            base.execute("COMMIT")
        elif version != FORMAT:
            base.execute("ROLLBACK")
            raise CxrbenchError(
                f"the feature store is of version {version}, this cxrbench reads version {FORMAT}",
                where=str(self.file),
                fix="cxrbench cache purge, which costs nothing but annotating again",
                code=Exit.INFRASTRUCTURE,
            )
        else:
            base.execute("COMMIT")

    def _refused(self, error: sqlite3.Error) -> CxrbenchError:
        said = str(error)
        if "full" in said:
            what, fix = "the disk is full; no annotation was kept by halves", "free space and repeat the same command"
        elif "locked" in said:
            what, fix = "another process has been writing the feature store", "wait for it, then repeat the command"
        elif "readonly" in said or "unable to open" in said:
            what, fix = "the feature store cannot be written", "XDG_CACHE_HOME=DIR of a folder that can be written"
        elif "I/O" in said:
            what = (
                f"the file system refused to read or write the feature store ({said}): full, over a quota, or failing"
            )
            fix = "free space or check the disk, then repeat the same command"
        else:
            what = f"the feature store is damaged ({said})"
            fix = "cxrbench cache purge, which costs nothing but annotating again"
        return CxrbenchError(what, where=str(self.file), fix=fix, code=Exit.INFRASTRUCTURE)


class SharedStore(Store):
    """The store of a data set as a worker sees it: read from, while what is new goes into the worker's own part.

    `told` is called after each write with the number of rows.
    """

    def __init__(self, kept: Store, share: Share, part: Part | None, told: Callable[[int], None]) -> None:
        super().__init__(kept.file.parent)
        self.share: Share = share
        self._part, self._told = part, told

    def put(self, scope: str, values: Mapping[str, bytes]) -> None:
        """Hand over what is said of each text."""
        assert self._part is not None, "a dry share annotates nothing"
        keys = {text: row_key(scope, text) for text in values}
        self._part.put({"key": keys[text].hex(), "value": _packed(value)} for text, value in values.items())
        self.share.held.update(keys.values())
        self._told(len(keys))


def _packed(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _rows(part: Path) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of the annotations of a part."""
    for row in rows_of(part):
        if "value" in row:
            try:
                yield key_of(row["key"]), base64.b64decode(row["value"], validate=True)
            except (ValueError, TypeError, KeyError):
                raise damaged(part) from None


def keys_of(part: Path) -> set[bytes]:
    """The keys of the annotations of a part."""
    return {key for key, _ in _rows(part)}
