"""JSONL files of a run folder: append rows and force them to disk; read what is whole. Touches atomic and claims."""

from __future__ import annotations

import json
import os
import re
import weakref
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from cxrbench.atomic import disk_error, sync_folder
from cxrbench.claims import end_of_rows
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import private_file, private_folder
from cxrbench.reading import open_regular
from cxrbench.spool import Ids
from cxrbench.types import BatchTiming, Prediction

_Row = TypeVar("_Row", Prediction, BatchTiming)


def whole_lines(file: Path, counted: int | None = None) -> Iterator[tuple[int, int, bytes]]:
    """Yield (line number, offset, line) of every whole line, of the first `counted` bytes where some do not count."""
    offset = 0
    with _opened(file) as handle:
        for number, line in enumerate(handle, start=1):
            if not line.endswith(b"\n") or (counted is not None and offset + len(line) > counted):
                return
            yield number, offset, line
            offset += len(line)


def _opened(file: Path) -> BinaryIO:
    try:
        return open_regular(file)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CxrbenchError(
            f"rows of the run cannot be read: {error.strerror}", where=str(file), code=Exit.INFRASTRUCTURE
        ) from error


def _body(line: bytes, file: Path, number: int) -> dict[str, Any]:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _damaged_row(file, number) from error
    if not isinstance(body, dict):
        raise _damaged_row(file, number)
    return body


def _damaged_row(file: Path, number: int) -> CxrbenchError:
    return CxrbenchError(
        "a row is damaged",
        where=f"{file}, line {number}",
        fix="delete that line; the same `cxrbench run` then goes on from what is left",
        code=Exit.INFRASTRUCTURE,
    )


_TUPLES = ("option_logprobs", "option_tokens", "inputs")


def read_prediction(line: bytes, file: Path, number: int) -> Prediction:
    """A row as the prediction it is.

    Raises:
        CxrbenchError: the row is damaged, or has keys this version does not know.
    """
    body = _body(line, file, number)
    for key in _TUPLES:
        if isinstance(body.get(key), list):
            body[key] = tuple(body[key])
    if type(body.get("sample_id")) is not str or type(body.get("outcome")) is not str:
        raise _damaged_row(file, number)
    return _made(Prediction, body, file, number)


def read_batch(line: bytes, file: Path, number: int) -> BatchTiming:
    """A row of times."""
    return _made(BatchTiming, _body(line, file, number), file, number)


def _made(kind: type[_Row], body: dict[str, Any], file: Path, number: int) -> _Row:
    if not body.keys() <= _FIELDS[kind]:
        raise CxrbenchError("a row has keys this cxrbench does not know", where=f"{file}, line {number}")
    try:
        return kind(**body)
    except TypeError as error:
        raise _damaged_row(file, number) from error


_FIELDS = {kind: frozenset(field.name for field in fields(kind)) for kind in (Prediction, BatchTiming)}


def prediction_row(prediction: Prediction) -> dict[str, Any]:
    """The row of a prediction: fields that carry nothing are left out, the sample id and outcome never."""
    row = asdict(prediction)
    return {k: v for k, v in row.items() if k in ("sample_id", "outcome") or (v is not None and v not in ((), {}))}


_SAMPLE = re.compile(rb'\{"sample_id": ("(?:[^"\\]|\\.)*")')


def row_ids(file: Path, counted: int | None = None) -> Iterator[str]:
    """The sample id of every counted row. Only the start of each row is looked at.

    Raises:
        CxrbenchError: a row does not begin as cxrbench writes it.
    """
    for number, _, line in whole_lines(file, counted):
        match = _SAMPLE.match(line)
        if match is None:
            raise CxrbenchError("a row is damaged", where=f"{file}, line {number}", code=Exit.INFRASTRUCTURE)
        yield json.loads(match[1])


_HEAD = re.compile(rb'\{"sample_id": ("(?:[^"\\]|\\.)*"), "outcome": "(\w+)"')


def row_heads(file: Path, counted: int | None = None) -> Iterator[tuple[str, str]]:
    """The sample id and outcome of every counted row; see `row_ids`."""
    for number, _, line in whole_lines(file, counted):
        match = _HEAD.match(line)
        if match is None:
            raise CxrbenchError("a row is damaged", where=f"{file}, line {number}", code=Exit.INFRASTRUCTURE)
        yield json.loads(match[1]), match[2].decode()


OPEN_FILES = 32
"""Shards that are held open for reading at a time: few runs have more, and a process may open only so many files."""


class StoredPredictions(Mapping[str, Prediction]):
    """The counted rows of a run by sample id, on disk: in memory is only where each of them stands.

    Reading it finds damage and doubles; a sample that failed and was asked again has a later row, which counts.
    `counted` maps shard names to the bytes of them that count (see `claims`).
    """

    def __init__(self, files: Sequence[Path], counted: Mapping[str, int]) -> None:
        self._files = tuple(files)
        self._ids = Ids()
        self._where = array("Q")
        self._looked_at = bytearray()
        self._handles: dict[int, int] = {}
        self._closing = weakref.finalize(self, _close_all, self._handles)
        for position, file in enumerate(self._files):
            for number, offset, line in whole_lines(file, counted.get(file.stem)):
                row = read_prediction(line, file, number)
                place, looked_at = position << _OFFSET_BITS | offset, row.failed or row.pixels is not None
                if self._ids.add(row.sample_id):
                    self._where.append(place)
                    self._looked_at.append(looked_at)
                    continue
                if not self[row.sample_id].failed:
                    raise CxrbenchError(
                        "a sample has two rows", where=f"{file}, line {number}", code=Exit.INFRASTRUCTURE
                    )
                earlier = self._ids.place(row.sample_id)
                self._where[earlier], self._looked_at[earlier] = place, looked_at

    def __getitem__(self, sample_id: str) -> Prediction:
        place = self._ids.place(sample_id)
        if place < 0:
            raise KeyError(sample_id)
        position, offset = divmod(self._where[place], 1 << _OFFSET_BITS)
        file = self._files[position]
        row = read_prediction(self._line(position, offset), file, 0)
        if row.sample_id != sample_id:
            raise CxrbenchError("the file was changed while it was read", where=str(file), code=Exit.INFRASTRUCTURE)
        return row

    def blind(self, sample_id: str) -> bool:
        """Whether a sample was answered, and without a picture; known without reading its row."""
        place = self._ids.place(sample_id)
        return place >= 0 and not self._looked_at[place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._ids

    def _line(self, position: int, offset: int) -> bytes:
        handle = self._handles.pop(position, None)
        if handle is None:
            if len(self._handles) >= OPEN_FILES:
                os.close(self._handles.pop(next(iter(self._handles))))
            handle = os.open(self._files[position], os.O_RDONLY | os.O_CLOEXEC)
        self._handles[position] = handle  # last in the order: the one that was used longest ago is closed first
        found = b""
        while b"\n" not in found:
            part = os.pread(handle, _PIECE, offset + len(found))
            if not part:
                break
            found += part
        return found.partition(b"\n")[0]


_OFFSET_BITS = 44
_PIECE = 4096


def _close_all(handles: dict[int, int]) -> None:
    while handles:
        os.close(handles.popitem()[1])


class Appender:
    """Appends JSON lines to one file; after `write` returns they are on disk. `put` and `force` are its two halves.

    A write that fails half-way (full disk) is taken back, so that the file always ends in a whole row. Opening cuts
    off a truncated last line left by a killed process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            private_folder(path.parent)
            new = not path.exists()
            self._file = open(path, "ab", buffering=0, opener=private_file)  # noqa: SIM115 - see close
            if new:
                sync_folder(path.parent)
            self._cut_torn_line()
            self._forced = self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise disk_error(error, path) from error

    def _cut_torn_line(self) -> None:
        with self._path.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            end = end_of_rows(handle.fileno(), size)
        if end != size:
            self._file.truncate(end)
            os.fsync(self._file.fileno())

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows and force them to disk.

        Raises:
            CxrbenchError: the disk is full or refuses; the file is as it was before the call.
        """
        self.put(rows)
        self.force()

    def put(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows: a process that is killed does not lose them, a machine that stops may.

        Raises:
            CxrbenchError: the disk is full or refuses; the file is as it was before the call.
        """
        data = "".join(json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n" for row in rows).encode()
        before = self._file.seek(0, os.SEEK_END)
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._file.truncate(before)
            raise disk_error(error, self._path) from error

    def force(self) -> None:
        """Wait until everything that was appended is on disk.

        Raises:
            CxrbenchError: the disk refuses; the file ends where it was forced last.
        """
        end = self._file.seek(0, os.SEEK_END)
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._forced)
            raise disk_error(error, self._path) from error
        self._forced = end

    def close(self) -> None:
        """Close the file; nothing is left in a buffer by then."""
        self._file.close()


class Forcing:
    """Forces files to disk by a thread of its own: what was appended last, while the next batch is answered.

    A disk takes milliseconds to confirm, a batch of a small model not many more. `wait` comes before the next rows are
    appended, so a machine that stops loses at most the batch whose confirmation is outstanding and the one in flight;
    a process that is killed loses the one in flight alone, for its rows are the system's once they are appended.
    """

    def __init__(self, *files: Appender) -> None:
        self._files = files
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cxrbench-disk")
        self._under_way: Future[None] | None = None

    def __enter__(self) -> Forcing:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def begin(self) -> None:
        """Begin to force what was appended so far."""
        self.wait()
        self._under_way = self._pool.submit(self._force)

    def wait(self) -> None:
        """Wait until what `begin` found is on disk.

        Raises:
            CxrbenchError: as `Appender.force`.
        """
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way.result()

    def _force(self) -> None:
        for file in self._files:
            file.force()
