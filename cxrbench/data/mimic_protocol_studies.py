"""Studies from the annotation files of LLaVA-Rad, R2Gen and ReXrank, joined with PhysioNet's tables where given.

The protocol's file decides which images and which text count. The tables, when they are there, add views the file
lacks, dates, prior studies and labels; MIMIC-IV adds demographics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxrbench.data.base import Roots
from cxrbench.data.mimic_demographics import read_patients
from cxrbench.data.mimic_exams import Exam, exams
from cxrbench.data.mimic_files import ImageFiles, file_size, spaced
from cxrbench.data.mimic_physionet import ADD, Known, exam_study, need_split, open_images
from cxrbench.data.mimic_protocols import Grouped, Record, annotation_files, group, protocol_split, records
from cxrbench.data.mimic_tables import find_tables, image_table, label_tables
from cxrbench.errors import CxrbenchError
from cxrbench.types import Demographics, Image, Study

PUBLISHED: Mapping[str, str] = {
    "llavarad": "chat_test_MIMIC_CXR_all_gpt4extract_rulebased_v1.json (PhysioNet llava-rad-mimic-cxr-annotation)",
    "r2gen": "R2Gen's annotation.json for MIMIC-CXR",
    "rexrank": "ReXrank's ReXRank_MIMICCXR_test.json",
}
"""Form -> the file that carries it, in words for messages."""


def need_annotations(roots: Roots, form: str) -> list[Path]:
    """The annotation files of a form; an error when there are none."""
    files = annotation_files(roots.get("annotations", ()), form)
    if not files:
        raise CxrbenchError(
            f"mimic-cxr has no annotation file of the form {form}: {PUBLISHED[form]}",
            where=", ".join(map(str, roots.get("annotations", ()))),
            fix=f"{ADD} --annotations FILE",
        )
    return files


def _records_of(roots: Roots, form: str, split: str, options: Mapping[str, Any]) -> list[Record]:
    """The records of a split; `test_generate_method` keeps those of one method in the test split, as LLaVA-Rad does."""
    found = [record for path in need_annotations(roots, form) for record in records(form, path)]
    kept = [record for record in found if record.split == split]
    if not kept:
        raise CxrbenchError(
            f"the annotation files of the form {form} hold no {split} split",
            where=", ".join(map(str, need_annotations(roots, form))),
            fix=f"{ADD} --annotations FILE (add the file of that split)",
        )
    method = options.get("test_generate_method")
    if method is None or split != "test":
        return kept
    return [record for record in kept if record.columns.get("generate_method") == method]


def _exams(roots: Roots, patients: set[str]) -> tuple[dict[str, Exam], Known]:
    """What the tables and MIMIC-IV say of the patients: examinations by study id, labels, demographics."""
    tables = find_tables(roots)
    people = read_patients(roots.get("demographics", ()), patients)
    if not {"split", "metadata"} <= set(tables):
        return {}, Known(tuple(label_tables(tables)), people)
    frame = image_table(tables, patients=patients)
    known = Known(tuple(label_tables(tables, frame["study_id"].unique())), people)
    return {exam.study_id: exam for exam in exams(frame)}, known


def _images(joined: Grouped, exam: Exam | None, files: ImageFiles, form: str) -> list[Image]:
    """The record's images with paths. LLaVA-Rad's own views count, since its rule uses them; else the table's first."""
    table = dict(exam.images) if exam is not None else {}
    patient, study = joined.first.patient_id, joined.first.study_id
    found = []
    for image_id, stated in joined.images:
        view = stated if form == "llavarad" and stated else table.get(image_id) or stated
        found.append(Image(image_id, files.path(patient, study, image_id), view))
    return found


def _study(joined: Grouped, exam: Exam | None, files: ImageFiles, known: Known, form: str) -> Study:
    record = joined.first
    base = exam or Exam(record.patient_id, record.study_id, record.split, (), None, order="unknown")
    images = _images(joined, exam, files, form)
    study = exam_study(replace(base, split=record.split), record.sections, files, known, record.columns, images)
    who = study.demographics
    age = who.age if who.age is not None else record.age
    return replace(study, demographics=Demographics(who.sex or record.sex, age, who.race))


def protocol_studies(roots: Roots, form: str, split: str, options: Mapping[str, Any]) -> Iterator[Study]:
    """Yield the studies of a protocol's split in the order of its file."""
    split = need_split(protocol_split(split) or split)
    kept = _records_of(roots, form, split, options)
    files = open_images(roots, options.get("image_ext"))
    found, known = _exams(roots, {record.patient_id for record in kept})
    for joined in group(kept):
        yield _study(joined, found.get(joined.first.study_id), files, known, form)


def image_sizes(roots: Roots, form: str, split: str, options: Mapping[str, Any], count: int) -> list[int]:
    """Sizes of at most `count` images of a protocol's split, evenly spaced in its order; -1 for a missing one."""
    files = open_images(roots, options.get("image_ext"))
    kept = _records_of(roots, form, need_split(protocol_split(split) or split), options)
    images = [(record.patient_id, record.study_id, image) for record in kept for image, _ in record.images]
    return [file_size(files.path(*each)) for each in spaced(images, count)]
