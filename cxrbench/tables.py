"""The Parquet files of a run folder: samples and sufficient statistics. pyarrow is imported inside functions.

Rows in = rows out: a table of statistics has exactly one block of rows per selected sample, in sample order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrbench.atomic import replacing
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.metrics.base import Floats, Statistics
from cxrbench.store import canonical
from cxrbench.types import Image, Sample

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True, slots=True)
class StoredSamples:
    """The task's samples as a run stored them: all of them, and which ones the run was to answer (`--limit`)."""

    samples: tuple[Sample, ...]
    selected: frozenset[str]

    @property
    def chosen(self) -> tuple[Sample, ...]:
        """The samples the run was to answer, in data-set order."""
        return tuple(sample for sample in self.samples if sample.sample_id in self.selected)


@dataclass(frozen=True, slots=True)
class Scores:
    """Statistics of one metric over the selected samples of a run, as stored.

    rows (m, r, k); `status` (m, r); `about` holds name, preset, signature and the versions that made them.
    """

    sample_ids: tuple[str, ...]
    statistics: Statistics
    about: Mapping[str, Any]


def _write(table: pyarrow.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd")


def _read(path: Path) -> pyarrow.Table:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except FileNotFoundError as error:
        raise CxrbenchError("a file of the run is missing", where=str(path), code=Exit.INFRASTRUCTURE) from error
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise CxrbenchError("a file of the run is damaged", where=str(path), code=Exit.INFRASTRUCTURE) from error


def write_samples(path: Path, samples: Sequence[Sample], selected: frozenset[str]) -> None:
    """Store samples with everything scoring needs; image paths are not stored, image ids and views are."""
    import pyarrow

    columns = {
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
    text, flag = pyarrow.string(), pyarrow.bool_()
    schema = pyarrow.schema([(name, flag if name == "selected" else text) for name in columns])
    _write(pyarrow.table(columns, schema=schema), path)


def read_samples(path: Path) -> StoredSamples:
    """Read what `write_samples` stored; image paths come back empty."""
    rows = _read(path).to_pylist()
    samples = tuple(
        Sample(
            sample_id=row["sample_id"],
            study_id=row["study_id"],
            patient_id=row["patient_id"],
            target=row["target"],
            images=tuple(Image(image_id, "", view) for image_id, view in json.loads(row["images"])),
            key_image=row["key_image"],
            sections=json.loads(row["sections"]),
            question=row["question"],
            options=tuple(json.loads(row["options"])),
            subgroups=json.loads(row["subgroups"]),
            labels=json.loads(row["labels"]),
        )
        for row in rows
    )
    return StoredSamples(samples, frozenset(row["sample_id"] for row in rows if row["selected"]))


def write_scores(path: Path, scores: Scores) -> None:
    """Store statistics: one row per (sample, repeat), columns s0..s(k-1), status and reason."""
    import pyarrow

    m, r, k = scores.statistics.rows.shape
    if not m == len(scores.sample_ids) == len(scores.statistics.status) == len(scores.statistics.reasons):
        raise CxrbenchError(
            f"{scores.about['signature']}: {len(scores.sample_ids)} samples went in, {m} rows came out",
            code=Exit.INFRASTRUCTURE,
        )
    columns: dict[str, Any] = {
        "sample_id": np.repeat(np.array(scores.sample_ids, dtype=object), r).tolist(),
        "repeat": np.tile(np.arange(r, dtype=np.int32), m),
        "status": scores.statistics.status.reshape(m * r),
        "reason": np.repeat(np.array(scores.statistics.reasons, dtype=object), r).tolist(),
    }
    flat: Floats = scores.statistics.rows.reshape(m * r, k)
    columns |= {f"s{column}": flat[:, column] for column in range(k)}
    table = pyarrow.table(columns).replace_schema_metadata({"cxrbench": canonical(scores.about)})
    _write(table, path)


def read_scores(path: Path) -> Scores:
    """Read what `write_scores` stored."""
    table = _read(path)
    about = json.loads((table.schema.metadata or {}).get(b"cxrbench", b"{}"))
    repeats = int(np.max(table["repeat"].to_numpy(), initial=-1)) + 1
    names = [name for name in table.column_names if name.startswith("s") and name[1:].isdigit()]
    flat = np.stack([table[name].to_numpy() for name in names], axis=1) if len(table) else np.zeros((0, len(names)))
    m = len(table) // max(repeats, 1)
    return Scores(
        sample_ids=tuple(table["sample_id"].to_pylist()[:: max(repeats, 1)]),
        statistics=Statistics(
            rows=flat.reshape(m, max(repeats, 1), len(names)),
            status=table["status"].to_numpy().reshape(m, max(repeats, 1)).astype(np.uint8),
            reasons=tuple(table["reason"].to_pylist()[:: max(repeats, 1)]),
        ),
        about=about,
    )
