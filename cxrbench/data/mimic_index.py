"""The prepared index of MIMIC-CXR: one Parquet file per split, a row per study, so that no tree is read twice.

It holds report text: the folder is for its owner only (mode 0700). It is used only while tables, archive, roots and
section rules are those it was built from, and 200 reports of a tree have the size and time they had; otherwise the
studies are read directly, with the same result. A change of other reports, or of images, is not noticed before the
next `prepare`. pyarrow is imported inside functions.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from cxrbench.data.base import Check, Progress, Roots
from cxrbench.data.mimic_demographics import find_file
from cxrbench.data.mimic_exams import Exam, exams
from cxrbench.data.mimic_files import ReportTree, ReportZip, readers, spaced, spread, study_folder
from cxrbench.data.mimic_physionet import PhysioNet
from cxrbench.data.mimic_section_rules import RULES_VERSION
from cxrbench.data.mimic_tables import SPLITS
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import claim_folder, private_file
from cxrbench.types import Demographics, Image, Study

FORMAT = 4
BATCH = 1024
_META = "mimic-index.json"
_LOOKED_AT = 200
"""Reports of a tree whose size and time are compared before the index is used: a few milliseconds."""

_NESTED = ("images", "sections", "labels", "columns", "demographics", "priors")
"""Fields of a study that are stored as JSON: their keys differ from study to study."""


def index_key(roots: Roots, source: PhysioNet) -> str:
    """Hash of what an index is built from: paths, sizes and times of tables and archive, roots and section rules."""
    files = sorted(source.tables.values()) + _demographic_files(roots)
    if isinstance(source.reports, ReportZip):
        files.append(source.reports.path)
    parts: list[Any] = [FORMAT, RULES_VERSION, source.reports.label]
    parts += [[str(base), extension] for base, extension in source.images.places]
    for path in files:
        state = path.stat()
        parts.append([str(path.absolute()), state.st_size, state.st_mtime_ns])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _state(path: Path) -> list[int]:
    """Size and time of a file; nothing where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _reports_seen(source: PhysioNet, everything: Sequence[Exam]) -> dict[str, list[int]]:
    """Path below the tree -> size and time, of reports evenly spaced over all studies. An archive is in the key."""
    if not isinstance(source.reports, ReportTree):
        return {}
    paths = (f"{study_folder(each.patient_id, each.study_id)}.txt" for each in spaced(everything, _LOOKED_AT))
    return {path: _state(source.reports.base / path) for path in paths}


def _reports_changed(source: PhysioNet, seen: Mapping[str, list[int]]) -> bool:
    if not isinstance(source.reports, ReportTree):
        return False
    base = source.reports.base
    return any(_state(base / path) != state for path, state in seen.items())


def _demographic_files(roots: Roots) -> list[Path]:
    given = roots.get("demographics", ())
    return [path for stem in ("patients", "admissions") if (path := find_file(given, stem)) is not None]


def _row(study: Study) -> dict[str, Any]:
    plain = {name: getattr(study, name) for name in ("study_id", "patient_id", "split", "time")}
    nested = {
        "images": [[image.image_id, image.path, image.view] for image in study.images],
        "sections": dict(study.sections),
        "labels": {source: dict(labels) for source, labels in study.labels.items()},
        "columns": dict(study.columns),
        "demographics": asdict(study.demographics),
        "priors": list(study.priors),
    }
    return plain | {name: json.dumps(nested[name]) for name in _NESTED}


def _study(row: Mapping[str, Any]) -> Study:
    nested = {name: json.loads(row[name]) for name in _NESTED}
    return Study(
        study_id=row["study_id"],
        patient_id=row["patient_id"],
        split=row["split"],
        time=row["time"],
        images=tuple(Image(*each) for each in nested["images"]),
        sections=nested["sections"],
        labels=nested["labels"],
        demographics=Demographics(**nested["demographics"]),
        priors=tuple(nested["priors"]),
        columns=nested["columns"],
    )


def _write(path: Path, studies: Iterable[Study], each: Callable[[list[Study]], None]) -> None:
    """Write studies to a Parquet file in batches; the file appears under its name only when it is whole."""
    import pyarrow
    import pyarrow.parquet

    names = ("study_id", "patient_id", "split", "time", *_NESTED)
    schema = pyarrow.schema([(name, pyarrow.string()) for name in names])
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    stream = iter(studies)
    try:
        with (
            open(unfinished, "wb", opener=private_file) as file,
            pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            while batch := list(islice(stream, BATCH)):
                writer.write_table(pyarrow.Table.from_pylist([_row(study) for study in batch], schema=schema))
                each(batch)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def build_index(roots: Roots, out: Path, progress: Progress) -> Counter[str]:
    """Build the index of all splits under `out`; returns what was counted.

    Raises:
        CxrbenchError: a root or table is missing, or the folder cannot be written. A report that is missing or is
            not text is counted here and refused when a task asks for its study (`PhysioNet.accept`).
    """
    source = PhysioNet(roots, {})
    key = index_key(roots, source)
    frame = source.frame(None)
    known = source.known(frame)
    everything = list(exams(frame))
    seen = _reports_seen(source, everything)
    counted: Counter[str] = Counter()

    def note(batch: list[Study]) -> None:
        counted.update(_count(batch, source))
        progress(counted["studies"], len(everything))

    try:
        claim_folder(out)
        (out / _META).unlink(missing_ok=True)
        for split in SPLITS:
            part = (exam for exam in everything if exam.split == split)
            _write(_file(out, split), source.assemble(part, known), note)
        unfinished = out / f".{_META}.{os.getpid()}"
        with open(unfinished, "w", encoding="utf-8", opener=private_file) as file:
            json.dump({"key": key, "reports": seen, "counted": dict(counted)}, file)
        unfinished.replace(out / _META)
    except OSError as error:
        raise CxrbenchError(
            f"the index cannot be written: {error.strerror}", where=str(out), code=Exit.INFRASTRUCTURE
        ) from error
    return counted


def _count(batch: list[Study], source: PhysioNet) -> Counter[str]:
    """What `prepare` tells of a batch; lists the folders of its images to see which are missing."""

    def absent(study: Study) -> int:
        ids = (image.image_id for image in study.images)
        return source.images.missing(study.patient_id or "", study.study_id, ids)

    with readers() as pool:
        counted = Counter({"missing images": sum(spread(absent, batch, pool)), "studies": len(batch)})
    counted["images"] = sum(len(study.images) for study in batch)
    counted.update(f"report {study.columns['report']}" for study in batch)
    counted.update(f"with {name}" for study in batch for name in study.sections)
    counted.update(f"prior {study.columns['prior']}" for study in batch)
    return counted


def _file(out: Path, split: str) -> Path:
    return out / f"mimic-index-{split}.parquet"


def index_matches(prepared: Path | None, roots: Roots, source: PhysioNet) -> bool:
    """Whether `prepared` holds an index built from exactly these roots by these rules, as far as cheap signs tell."""
    if prepared is None or not (prepared / _META).is_file():
        return False
    try:
        meta = json.loads((prepared / _META).read_text(encoding="utf-8"))
    except ValueError:
        return False
    if not isinstance(meta, dict) or meta.get("key") != index_key(roots, source):
        return False
    return not _reports_changed(source, meta["reports"])


def read_index(prepared: Path, split: str) -> Iterator[Study]:
    """Yield the studies of a split from the index, in the order in which they are read directly."""
    import pyarrow.parquet

    path = _file(prepared, split)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                yield from map(_study, batch.to_pylist())
    except (OSError, ValueError) as error:
        raise CxrbenchError(
            "the prepared index is damaged", where=str(path), fix="cxrbench data prepare mimic-cxr"
        ) from error


def prepare_checks(counted: Counter[str], out: Path) -> list[Check]:
    """What `data prepare` says it did."""
    text = ", ".join(f"{counted[f'with {name}']:,} with {name}" for name in ("findings", "impression", "indication"))
    lines = [
        Check("index", "ok", f"{counted['studies']:,} studies, {counted['images']:,} images; {text}; in {out}"),
        Check(
            "prior studies",
            "note" if counted["prior tie"] or counted["prior undated"] or counted["prior invalid"] else "ok",
            f"{counted['prior yes']:,} with, {counted['prior no']:,} without, {counted['prior tie']:,} at the same "
            f"time as another, {counted['prior undated']:,} of a patient with a study without a date, "
            f"{counted['prior invalid']:,} with one whose StudyDate is no date",
        ),
    ]
    for item, counter, found in (
        ("reports", "report missing", "named by the tables are not there"),
        ("reports", "report not-text", "have a byte that is not UTF-8; a task that meets one stops"),
        ("images", "missing images", "named by the tables are not there"),
    ):
        if counted[counter]:
            fix = f"download the {item} again, then: cxrbench data prepare mimic-cxr"
            status: Literal["missing", "problem"] = "problem" if "not-text" in counter else "missing"
            lines.append(Check(item, status, f"{counted[counter]:,} {item} {found}", fix))
    return lines
