"""A run as one table: CSV, Parquet or a `datasets` folder; and ReXrank's submission file, out and in.

A table holds report texts: it is its owner's alone (0600) and has the access of its data.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrbench.atomic import replacing, write_atomic
from cxrbench.bridges.json_line import json_line
from cxrbench.data import strict_json
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.metrics.base import SCORED
from cxrbench.privacy import private_folder
from cxrbench.scores import load_scores
from cxrbench.scoring import Scored
from cxrbench.store import RunFolder
from cxrbench.tables import read_samples
from cxrbench.types import Prediction, Sample

PREDICTED = "model_prediction"
"""ReXrank's key for what a model wrote."""

TEXTS: Mapping[str, str] = {
    "findings": "section_findings",
    "impression": "section_impression",
    "report": "report",
}
"""Reference texts of a ReXrank record, by what a task's target is called here."""


FORMULA = ("=", "+", "-", "@", "\t", "\r")

DESCRIBED = frozenset(
    {"sample_id", "study_id", "patient_id", "prediction", "reference", "outcome", "finish_reason"}
    | {"prompt_tokens", "output_tokens", "latency_s"}
)
"""Columns every table has; a data set's own column of such a name gets `column:` in front."""


def run_rows(run: RunFolder) -> list[dict[str, Any]]:
    """One row per sample of the run, in the data set's order: ids, texts, outcome, counts, times, numbers.

    Numbers of metrics are named `bleu:raw/bleu_4` and are those of the sample alone; None where it has none.
    """
    stored, predictions = read_samples(run.samples_file).chosen, run.predictions()
    numbers = {
        f"{scored.metric.key}/{name}": values
        for scored in load_scores(run)
        if scored.statistics is not None and scored.metric.additive and scored.metric.scope == "sample"
        for name, values in _each(scored).items()
    }
    subgroups = sorted({name for sample in stored for name in sample.subgroups})
    return [
        {
            **_described(sample, predictions.get(sample.sample_id)),
            **{f"column:{name}" if name in DESCRIBED else name: sample.subgroups.get(name) for name in subgroups},
            **{name: values.get(sample.sample_id) for name, values in numbers.items()},
        }
        for sample in stored
    ]


def _each(scored: Scored) -> dict[str, dict[str, float | None]]:
    """The primary numbers of every sample that was scored."""
    if scored.statistics is None:
        return {}
    good = (scored.statistics.status == SCORED).all(axis=1)
    rows = scored.rows()[good]
    ids = [each for each, ok in zip(scored.sample_ids, good, strict=True) if ok]
    primary = [name for name, about in scored.metric.values.items() if about.primary]
    found = scored.metric.value(rows) if len(rows) else {}
    return {
        name: {each: None if np.isnan(number) else float(number) for each, number in zip(ids, found[name], strict=True)}
        for name in primary
        if name in found
    }


def _described(sample: Sample, row: Prediction | None) -> dict[str, Any]:
    return {
        "sample_id": sample.sample_id,
        "study_id": sample.study_id,
        "patient_id": sample.patient_id,
        "prediction": None if row is None or row.failed else row.text,
        "reference": sample.target,
        "outcome": "not answered" if row is None else row.outcome,
        "finish_reason": None if row is None else row.finish_reason,
        "prompt_tokens": None if row is None else row.prompt_tokens,
        "output_tokens": None if row is None else row.output_tokens,
        "latency_s": None if row is None else row.times.get("latency"),
    }


def write_table(run: RunFolder, out: Path, kind: str) -> int:
    """Write the run as `kind` (csv, parquet, datasets); returns how many rows."""
    rows = run_rows(run)
    if not rows:
        raise CxrbenchError("the run has no samples", where=str(run.path), code=Exit.UNDECIDED)
    private_folder(out.parent)
    if kind == "csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
        write_atomic(out, text.getvalue().encode("utf-8", "surrogatepass"))
    elif kind == "parquet":
        import pyarrow
        import pyarrow.parquet as pq

        with replacing(out) as file:
            pq.write_table(pyarrow.Table.from_pylist(rows), file, compression="zstd")
    else:
        _write_datasets(rows, out)
    return len(rows)


def _cell(value: Any) -> Any:
    """A text a spreadsheet would take for a formula gets an apostrophe in front; Parquet has the text as it is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _write_datasets(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    import datasets

    if out.exists():
        raise CxrbenchError("the folder is there already", where=str(out), fix="another -o, or remove it")
    private_folder(out)
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        datasets.Dataset.from_list([dict(row) for row in rows]).save_to_disk(str(out))
    finally:
        if shown:
            datasets.enable_progress_bars()
    for file in out.rglob("*"):
        file.chmod(0o700 if file.is_dir() else 0o600)  # datasets makes files by the process's umask


# ---- ReXrank


def read_records(file: Path) -> dict[str, dict[str, Any]]:
    """ReXrank's file: study id -> record.

    Raises:
        CxrbenchError: no JSON by the rules of strict_json.py, or no object of objects.
    """
    body = strict_json.read(file)
    if not isinstance(body, dict) or not body or not all(isinstance(each, dict) for each in body.values()):
        raise CxrbenchError("ReXrank's file is one JSON object: study id -> record", where=str(file))
    return body


def export_rexrank(run: RunFolder, out: Path, records: Path | None) -> tuple[int, int, int]:
    """Write ReXrank's submission file; returns (studies with a prediction, without, answered but not in `records`).

    `records` is ReXrank's own input file, whose records are kept and get the prediction; without it a record is the
    prediction alone. A study without an answer stands there without the key, as it would be scored against nothing.

    Raises:
        CxrbenchError: several samples of one study, or not one study of `records` in the run.
    """
    samples, predictions = read_samples(run.samples_file).chosen, run.predictions()
    studies = [sample.study_id for sample in samples]
    if len(set(studies)) != len(studies):
        raise CxrbenchError(
            "ReXrank has one text per study, the run several", where=str(run.path), fix="a run of a task by study"
        )
    base = read_records(records) if records is not None else {study: {} for study in studies}
    if not set(base) & set(studies):
        raise CxrbenchError("not one study of the file is in the run", where=str(records))
    texts = {
        sample.study_id: row.text
        for sample in samples
        if (row := predictions.get(sample.sample_id)) is not None and not row.failed
    }
    body = {
        study: {**record, **({PREDICTED: texts[study]} if study in texts else {})} for study, record in base.items()
    }
    private_folder(out.parent)
    write_atomic(out, (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
    given = sum(PREDICTED in record for record in body.values())
    return given, len(body) - given, len(set(texts) - set(base))


def import_rexrank(file: Path, out: Path, reference: str | None) -> tuple[int, int, int]:
    """Write a submission as a predictions file; returns (rows, records without a prediction, without the reference).

    `reference` (a key of `TEXTS`) takes the reference along, for scoring without a task. A record that lacks it is left
    out: ReXrank's files hold studies without findings and others without an impression, and an empty reference would
    be scored as if the radiologist had said nothing.

    Raises:
        CxrbenchError: not one record has a prediction, or not one of these the reference.
    """
    records = read_records(file)
    rows: list[bytes] = []
    answered = 0
    for study, record in records.items():
        said = record.get(PREDICTED)
        if not isinstance(said, str):
            continue
        answered += 1
        row = {"sample_id": study, "prediction": said}
        if reference is not None:
            row["reference"] = _reference(record, TEXTS[reference], str(file))
            if not row["reference"].strip():
                continue
        rows.append(json_line(row, f"{file}, study {answered}"))
    if not answered:
        raise CxrbenchError(f"not one record has the key {PREDICTED!r}", where=str(file), fix="a submission of ReXrank")
    if not rows and reference is not None:
        raise CxrbenchError(
            f"not one record with a prediction has a text under {TEXTS[reference]!r}",
            where=str(file),
            fix="another --reference; or none, and references by `cxrbench score FILE --task TASK`",
        )
    private_folder(out.parent)
    write_atomic(out, b"".join(rows))
    return len(rows), len(records) - answered, answered - len(rows)


def _reference(record: Mapping[str, Any], key: str, where: str) -> str:
    """The reference of a record, empty where it has none."""
    text = record.get(key)
    if text is not None and not isinstance(text, str):
        raise CxrbenchError(f"the key {key!r} of a record holds no text", where=where)
    return text or ""
