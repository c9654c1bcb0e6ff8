"""The Parquet files of a run folder: samples and sufficient statistics. pyarrow is imported inside functions.

Rows in = rows out: a table of statistics has exactly one block of rows per selected sample, in sample order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxrbench import __version__
from cxrbench.atomic import replacing
from cxrbench.data.samples import growing
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.metrics import base
from cxrbench.metrics.base import Floats, Statistics
from cxrbench.spool import Ids, blocks
from cxrbench.store import canonical
from cxrbench.types import Image, Sample

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True, slots=True)
class StoredSamples:
    """The task's samples as a run stored them: all of them, and which ones the run was to answer (`--limit`)."""

    samples: Sequence[Sample]
    selected: Set[str]

    @property
    def chosen(self) -> Sequence[Sample]:
        """The samples the run was to answer, in data-set order."""
        if len(self.selected) == len(self.samples):
            return self.samples
        return tuple(sample for sample in self.samples if sample.sample_id in self.selected)


@dataclass(frozen=True, slots=True)
class Scores:
    """Statistics of one metric over the selected samples of a run, as stored.

    rows (m, r, k); `status` (m, r); `about` holds name, preset, signature and the versions that made them.
    """

    sample_ids: tuple[str, ...]
    statistics: Statistics
    about: Mapping[str, Any]


def _unread(how: str, path: Path) -> CxrbenchError:
    again = f"cxrbench score {path.parent.parent}"
    if path.parent.name != "scores":
        again = f"cxrbench run --resume {path.parent}"
    return CxrbenchError(
        f"a file of the run is {how}",
        where=str(path),
        fix=f"restore it from a copy, or make it again: {again}",
        code=Exit.INFRASTRUCTURE,
    )


@contextmanager
def _as_written(path: Path) -> Iterator[None]:
    """Turn what a file of another shape does to its reader into one sentence."""
    import pyarrow

    try:
        yield
    except (
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        pyarrow.ArrowException,
    ):
        # The words of the error may quote the file: they are dropped.
        raise _unread("damaged", path) from None


ROWS = 8_192
"""Rows of a table written and read at a time."""


def write_samples(path: Path, samples: Sequence[Sample], selected: Set[str], source: str = "") -> None:
    """Store samples with everything scoring needs; image paths are not stored, image ids and views are.

    `source` is the fingerprint of the files they were made of, where whoever goes on may take them from here again.
    """
    import pyarrow
    import pyarrow.parquet as pq

    text, flag = pyarrow.string(), pyarrow.bool_()
    schema = pyarrow.schema([(name, flag if name == "selected" else text) for name in _columns((), selected)])
    schema = schema.with_metadata({_MADE: canonical({"source": source, "cxrbench": __version__})})
    with (
        replacing(path) as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for block in blocks(samples, ROWS):
            writer.write_table(pyarrow.table(_columns(block, selected), schema=schema))


_MADE = b"cxrbench"


def made_of(path: Path) -> tuple[str, str]:
    """The `source` of stored samples and the version of cxrbench that wrote them; empty where they are not told."""
    import pyarrow
    import pyarrow.parquet as pq

    try:
        told = json.loads((pq.read_schema(path).metadata or {}).get(_MADE, b"{}"))
        return str(told.get("source", "")), str(told.get("cxrbench", ""))
    except (OSError, ValueError, AttributeError, pyarrow.ArrowException):
        return "", ""


def _columns(samples: Sequence[Sample], selected: Set[str]) -> dict[str, list[Any]]:
    return {
        "sample_id": [s.sample_id for s in samples],
        "study_id": [s.study_id for s in samples],
        "patient_id": [s.patient_id for s in samples],
        "selected": [s.sample_id in selected for s in samples],
        "target": [s.target for s in samples],
        "images": [canonical([[i.image_id, i.view] for i in s.images]) for s in samples],
        "key_image": [s.key_image for s in samples],
        "sections": [canonical(s.sections) for s in samples],
        "subgroups": [canonical(s.subgroups) for s in samples],
        "labels": [canonical(s.labels) for s in samples],
        "question": [s.question for s in samples],
        "options": [canonical(s.options) for s in samples],
    }


def read_samples(path: Path) -> StoredSamples:
    """Read what `write_samples` stored; image paths come back empty."""
    samples, selected = growing(), Ids()
    for sample, chosen in stored_samples(path):
        samples.append(sample)
        if chosen:
            selected.add(sample.sample_id)
    return StoredSamples(samples.finish(), selected)


def stored_samples(path: Path) -> Iterator[tuple[Sample, bool]]:
    """Each sample that `write_samples` stored, and whether the run was to answer it.

    Raises:
        CxrbenchError: the file is missing or damaged, or another program wrote it.
    """
    images, options = _Loaded(_are_images), _Loaded(_are_texts)
    sections, subgroups, labels = _Loaded(_is_table_of_texts), _Loaded(_is_table_of_texts), _Loaded(_are_labels)
    with _as_written(path):
        for batch in _batches(path, ROWS):
            _refuse_other_kinds(batch)
            for row in _rows_of(batch):
                yield (
                    Sample(
                        sample_id=row["sample_id"],
                        study_id=row["study_id"],
                        patient_id=row["patient_id"],
                        target=row["target"],
                        images=tuple([Image(image_id, "", view) for image_id, view in images[row["images"]]]),
                        key_image=row["key_image"],
                        sections=sections[row["sections"]],
                        question=row["question"],
                        options=tuple(options[row["options"]]),
                        subgroups=subgroups[row["subgroups"]],
                        labels=labels[row["labels"]],
                    ),
                    row["selected"],
                )


_TEXTS = ("sample_id", "study_id", "target", "images", "sections", "subgroups", "labels", "options")
_TEXTS_OR_NONE = ("patient_id", "key_image", "question")


def _refuse_other_kinds(batch: pyarrow.RecordBatch) -> None:
    """Whoever made the file may have made columns of something else."""
    import pyarrow.types as kinds

    for name in (*_TEXTS, *_TEXTS_OR_NONE, "selected"):
        column = batch[name]
        none = name in _TEXTS_OR_NONE
        right = kinds.is_boolean(column.type) if name == "selected" else kinds.is_string(column.type)
        if not (right or (none and kinds.is_null(column.type))) or (column.null_count and not none):
            raise TypeError("a column of another kind")


def _are_images(value: Any) -> bool:
    return all(type(image_id) is str and (view is None or type(view) is str) for image_id, view in value)


def _are_texts(value: Any) -> bool:
    return type(value) is list and all(type(each) is str for each in value)


def _is_table_of_texts(value: Any) -> bool:
    return type(value) is dict and all(type(each) is str for each in value.values())


def _are_labels(value: Any) -> bool:
    return type(value) is dict and all(
        type(by_name) is dict and all(type(each) in (int, float) for each in by_name.values())
        for by_name in value.values()
    )


class _Loaded(dict[str, Any]):
    """JSON text -> its value, which nobody changes. Most samples have one of few subgroups, labels, options."""

    def __init__(self, right: Callable[[Any], bool]) -> None:
        super().__init__()
        self._right = right

    def __missing__(self, text: str) -> Any:
        if len(self) > ROWS:
            self.clear()
        value = json.loads(text)
        if not self._right(value):
            raise TypeError("a value of another kind")
        self[text] = value
        return value


def _rows_of(batch: pyarrow.RecordBatch) -> Iterator[dict[str, Any]]:
    columns = batch.to_pydict()
    for cells in zip(*columns.values(), strict=True):
        yield dict(zip(columns, cells, strict=True))


def _batches(path: Path, size: int) -> Iterator[pyarrow.RecordBatch]:
    """A table in parts of so many rows; one that has no row is a part without rows."""
    import pyarrow
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield pyarrow.RecordBatch.from_pylist([], schema=file.schema_arrow)
            yield from file.iter_batches(batch_size=size)
    except FileNotFoundError as error:
        raise _unread("missing", path) from error
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise _unread("damaged", path) from error


def write_scores(path: Path, scores: Scores) -> None:
    """Store statistics: one row per (sample, repeat), columns s0..s(k-1), status and reason."""
    import pyarrow.parquet as pq

    m, r, _ = scores.statistics.rows.shape
    if not m == len(scores.sample_ids) == len(scores.statistics.status) == len(scores.statistics.reasons):
        raise CxrbenchError(
            f"{scores.about['signature']}: {len(scores.sample_ids)} samples went in, {m} rows came out",
            code=Exit.INFRASTRUCTURE,
        )
    if not all(type(reason) is str for reason in scores.statistics.reasons):
        raise CxrbenchError(
            f"{scores.about['signature']}: a reason is no text (empty where a sample is scored)",
            code=Exit.INFRASTRUCTURE,
        )
    about = {"cxrbench": canonical(scores.about)}
    step = max(1, 8 * ROWS // r)
    schema = _score_table(scores, 0, 0).replace_schema_metadata(about).schema
    with replacing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for start in range(0, max(m, 1), step):
            writer.write_table(_score_table(scores, start, start + step).replace_schema_metadata(about))


def _score_table(scores: Scores, start: int, stop: int) -> pyarrow.Table:
    """The rows of some samples."""
    import pyarrow

    rows, status = scores.statistics.rows[start:stop], scores.statistics.status[start:stop]
    m, r, k = rows.shape
    flat: Floats = rows.reshape(m * r, k).astype(np.float64, copy=False)
    return pyarrow.table(
        {
            "sample_id": pyarrow.array([each for each in scores.sample_ids[start:stop] for _ in range(r)], "string"),
            "repeat": np.tile(np.arange(r, dtype=np.int32), m),
            "status": status.reshape(m * r),
            "reason": pyarrow.array(
                [each for each in scores.statistics.reasons[start:stop] for _ in range(r)], "string"
            ),
            **{f"s{column}": flat[:, column] for column in range(k)},
        }
    )


def read_scores(path: Path, like: Sequence[str] = ()) -> Scores:
    """Read what `write_scores` stored. `like` are the sample ids to be expected, which then are not held twice.

    Raises:
        CxrbenchError: the file is missing or damaged, or another program wrote it.
    """
    with _as_written(path):
        return _scores(_batches(path, 8 * ROWS), _Shared(like))


def _scores(batches: Iterator[pyarrow.RecordBatch], shared: _Shared) -> Scores:
    first = next(batches)
    about = json.loads((first.schema.metadata or {}).get(b"cxrbench", b"{}"))
    names = [name for name in first.schema.names if name.startswith("s") and name[1:].isdecimal()]
    if not names or not isinstance(about, dict):
        raise ValueError("no statistics")
    ids: list[str] = []
    reasons: list[str] = []
    rows, status, repeats = bytearray(), bytearray(), 1
    for batch in batches:
        rows += np.stack([_column(batch, name, np.float64) for name in names], axis=1).tobytes()
        status += _column(batch, "status", np.uint8).tobytes()
        repeats = max(repeats, int(_column(batch, "repeat", np.int64).max(initial=0)) + 1)
        ids += map(shared, batch["sample_id"].to_pylist())
        reasons += [text or "" for text in batch["reason"].to_pylist()]  # plug-ins have written none
    if not all(type(text) is str for text in chain(ids, reasons)):
        raise TypeError("a value of another kind")
    found = np.frombuffer(rows, np.float64).reshape(-1, repeats, len(names))
    small = base.as_bytes(found) if len(rows) > base.LARGE else None
    statistics = Statistics(
        found if small is None else small,  # type: ignore[arg-type]  # see Statistics
        np.frombuffer(status, np.uint8).reshape(-1, repeats),
        tuple(reasons[::repeats]),
    )
    return Scores(tuple(ids[::repeats]), statistics, about)


def _column(batch: pyarrow.RecordBatch, name: str, kind: type) -> NDArray[Any]:
    import pyarrow.types as kinds

    column = batch[name]
    right = kinds.is_floating(column.type) if kind is np.float64 else kinds.is_integer(column.type)
    if column.null_count or not right:
        raise ValueError("a number is missing, or something else")
    made: NDArray[Any] = column.to_numpy(zero_copy_only=False).astype(kind)
    return made


class _Shared:
    """Texts as they come, each perhaps several times in a row; those that are expected as the ones that are there."""

    def __init__(self, like: Sequence[str]) -> None:
        self._like, self._at = like, 0

    def __call__(self, text: str) -> str:
        for at in (self._at, self._at + 1):
            if at < len(self._like) and self._like[at] == text:
                self._at = at
                return self._like[at]
        return text
