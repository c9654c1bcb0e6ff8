"""MIMIC-CXR in the form PhysioNet distributes it: reports, tables and images become studies.

Reads the reports of the requested split and no others, in chunks, and keeps none. Messages never quote a report and
name a study by an HMAC only.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from cxrbench.data.base import Roots
from cxrbench.data.mimic_demographics import Patients, read_patients
from cxrbench.data.mimic_exams import Exam, exams
from cxrbench.data.mimic_files import (
    ImageFiles,
    Reports,
    ReportTree,
    decode_report,
    find_reports,
    hashed_name,
    readers,
)
from cxrbench.data.mimic_tables import SPLITS, LabelTable, find_tables, image_table, label_tables
from cxrbench.data.sections import overridden, study_sections
from cxrbench.errors import CxrbenchError, suggest
from cxrbench.types import Image, Study

CHUNK = 256

REPORT: Mapping[str, str] = {
    "by-rule": "sections by the official rules",
    "by-hand": "one of the 54 studies whose findings the official rules place by hand",
    "missing": "there is no report file",
    "not-text": "the report file has a byte that is not UTF-8",
}
"""Values of the column `report`."""

ADD = "cxrbench data add mimic-cxr"


def need_split(split: str, known: Iterable[str] = SPLITS) -> str:
    """Return `split`, or raise an error that names the splits there are."""
    if split not in known:
        names = ", ".join(known)
        raise CxrbenchError(
            f"mimic-cxr has no split {split!r}{suggest(split, known)}", where="dataset.split", fix=f"one of {names}"
        )
    return split


def open_images(roots: Roots, extension: str | None = None) -> ImageFiles:
    """The image files under the roots.

    Raises:
        CxrbenchError: no images root, or none of them holds the tree of patients and studies.
    """
    given = roots.get("images", ())
    files = ImageFiles(given, extension)
    if not files.places:
        raise CxrbenchError(
            "mimic-cxr has no images root" if not given else "the images root holds no tree of p10/p1.../s5.../ images",
            where=", ".join(map(str, given)),
            fix=f"{ADD} --images DIR (the folder that holds files/, or a resized copy with the same layout)",
        )
    return files


def open_reports(roots: Roots) -> Reports:
    """The reports under the roots; an error when there are none."""
    given = roots.get("reports", ())
    found = next((each for root in given if (each := find_reports(root, given)) is not None), None)
    if found is None:
        raise CxrbenchError(
            "mimic-cxr has no reports root" if not given else "the reports root holds neither a tree nor the archive",
            where=", ".join(map(str, given)),
            fix=f"{ADD} --reports DIR (the folder that holds files/, or mimic-cxr-reports.zip)",
        )
    return found


def need_tables(roots: Roots, *kinds: str) -> dict[str, Path]:
    """The tables under the roots; an error when one of `kinds` is missing."""
    tables = find_tables(roots)
    for kind in kinds:
        if kind not in tables:
            raise CxrbenchError(
                f"mimic-cxr has no {kind} table (mimic-cxr-2.0.0-{kind}.csv.gz of MIMIC-CXR-JPG)",
                where=", ".join(map(str, roots.get("tables", ()))),
                fix=f"{ADD} --tables DIR",
            )
    return tables


@dataclass(frozen=True, slots=True)
class Known:
    """What tables say of studies besides images: labels by source and demographics by patient."""

    labels: tuple[LabelTable, ...] = ()
    patients: Patients = field(default_factory=Patients)

    def labels_of(self, study_id: str) -> dict[str, Mapping[str, float]]:
        """Labels by source, for the sources that have the study."""
        found = ((table.source, table.of(study_id)) for table in self.labels)
        return {source: labels for source, labels in found if labels is not None}


def abnormal(labels: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """The column `abnormal` by the CheXpert table: no when it says No Finding, else yes; absent without a row."""
    if "chexpert" not in labels:
        return {}
    return {"abnormal": "no" if labels["chexpert"].get("No Finding") == 1.0 else "yes"}


def find_strange_bytes(reports: Reports) -> str:
    """What to do about a report that is not text; the command names the file, which a message may not."""
    if not isinstance(reports, ReportTree):
        return "download the archive again"
    # In a UTF-8 locale grep takes bytes for characters and passes over those that are none.
    command = f"LC_ALL=C grep -rlP '[^\\x00-\\x7F]' --include='s*.txt' {shlex.quote(str(reports.base))}"
    return f"find it with: {command}; and download it again"


class PhysioNet:
    """The roots of the PhysioNet form, opened when first needed."""

    def __init__(self, roots: Roots, options: Mapping[str, Any]) -> None:
        self.roots = roots
        self.extension = options.get("image_ext")
        self.allow_missing = options.get("reports", "all") == "present"

    @cached_property
    def tables(self) -> dict[str, Path]:
        """Kind -> file; the split and metadata tables are there."""
        return need_tables(self.roots, "split", "metadata")

    @cached_property
    def reports(self) -> Reports:
        """Where the reports are."""
        return open_reports(self.roots)

    @cached_property
    def images(self) -> ImageFiles:
        """Where the images are."""
        return open_images(self.roots, self.extension)

    @cached_property
    def key(self) -> bytes:
        """The key of hashed names: made from the split table, so only holders of the data can link them."""
        return hashlib.sha256(self.tables["split"].read_bytes()).digest()

    def frame(self, split: str | None) -> Any:
        """The image table of a split's patients, or of everyone."""
        return image_table(self.tables, split)

    def known(self, frame: Any) -> Known:
        """Labels and demographics of the studies of an image table."""
        labels = label_tables(self.tables, frame["study_id"].unique())
        patients = read_patients(self.roots.get("demographics", ()), frame["patient_id"].unique())
        return Known(tuple(labels), patients)

    def studies(self, split: str) -> Iterator[Study]:
        """Yield the studies of a split by patient and study id; reads their reports and nothing else of the tree."""
        frame = self.frame(need_split(split))
        part = (exam for exam in exams(frame) if exam.split == split)
        yield from map(self.accept, self.assemble(part, self.known(frame)))

    def assemble(self, found: Iterator[Exam], known: Known) -> Iterator[Study]:
        """Read reports chunk by chunk and put studies together; the column `report` says how it went (`REPORT`)."""
        _ = self.images  # a missing images root is said before the first report is read
        with readers() as pool:
            while chunk := list(islice(found, CHUNK)):
                keys = [(exam.patient_id, exam.study_id) for exam in chunk]
                for exam, raw in zip(chunk, self.reports.read_many(keys, pool), strict=True):
                    state, sections = self._read(exam, raw)
                    yield exam_study(exam, sections, self.images, known, {"report": state})

    def accept(self, study: Study) -> Study:
        """Return the study, or raise an error when its report is missing or is not text."""
        state = study.columns["report"]
        if state == "not-text":
            raise CxrbenchError(
                f"a report of the split {study.split!r} is not UTF-8 text ({hashed_name(self.key, study.study_id)})",
                where=self.reports.label,
                fix=find_strange_bytes(self.reports),
            )
        if state == "missing" and not self.allow_missing:
            raise CxrbenchError(
                f"a report of the split {study.split!r} is missing ({hashed_name(self.key, study.study_id)})",
                where=self.reports.label,
                fix="cxrbench data check mimic-cxr, then download what is missing; a partial copy needs "
                "dataset.options: {reports: present}, and its scores compare with no one else's",
            )
        return study

    def _read(self, exam: Exam, raw: bytes | None) -> tuple[str, dict[str, str]]:
        """(how the report was read, its sections)."""
        if raw is None:
            return "missing", {}
        try:
            sections = study_sections(exam.study_id, decode_report(raw))
        except UnicodeDecodeError:
            return "not-text", {}
        except CxrbenchError as error:
            name = hashed_name(self.key, exam.study_id)
            raise CxrbenchError(f"{error.what} ({name})", where=self.reports.label, fix=error.fix) from None
        return "by-hand" if overridden(exam.study_id) else "by-rule", sections


def exam_images(exam: Exam, files: ImageFiles) -> tuple[Image, ...]:
    """The images of an examination with their paths."""
    return tuple(
        Image(image_id, files.path(exam.patient_id, exam.study_id, image_id), view) for image_id, view in exam.images
    )


def exam_study(
    exam: Exam,
    sections: Mapping[str, str],
    files: ImageFiles,
    known: Known,
    columns: Mapping[str, str],
    images: Sequence[Image] | None = None,
) -> Study:
    """Put together what tables, labels and demographics say of an examination; `images` replaces its own."""
    time = None if exam.moment is None else exam.moment.iso
    labels = known.labels_of(exam.study_id)
    return Study(
        study_id=exam.study_id,
        patient_id=exam.patient_id,
        split=exam.split,
        images=exam_images(exam, files) if images is None else tuple(images),
        sections=sections,
        time=time,
        labels=labels,
        demographics=known.patients.of(exam.patient_id, time),
        priors=exam.priors,
        columns={
            **columns,
            "prior": exam.order,
            "view_code": exam.view_codes,
            **abnormal(labels),
            **known.patients.columns(exam.patient_id),
        },
    )
