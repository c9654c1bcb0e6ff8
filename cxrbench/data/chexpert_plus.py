"""The data set `chexpert-plus`: CheXpert Plus, radiographs of Stanford with their reports and who the patients are.

One table (df_chexpert_plus_240401.csv) with a row per image: `path_to_image`, say
train/patient00001/study1/view1_frontal.jpg, names split, patient and study; sections, age, sex, race and ethnicity are
columns. Images are PNG, JPG or DICOM under the same paths with endings of their own. Labels (findings_fixed.json,
impression_fixed.json) are a JSON object per line. `patient_report_date_order` is not taken for time: whether it orders
studies could not be verified. The layout is what the table's schema and loaders of others say; no copy has been read
here. Standard library only.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxrbench.data.base import Check, Progress, Root, Roots, Slice, idle_root
from cxrbench.data.chexpert_plus_files import IMAGE_PATH, Labels, Pictures, label_files, table_files, table_in
from cxrbench.data.csv_rows import lines_of, open_rows
from cxrbench.errors import CxrbenchError, suggest
from cxrbench.reading import open_regular
from cxrbench.types import Access, Demographics, Image, Study

SPLITS: Mapping[str, str] = {"train": "train", "validate": "valid"}
"""Our names of the splits, and the table's."""

OFFICIAL_IMAGES: Mapping[str, int] = {"train": 223_228, "validate": 234}
"""Rows per split as counted by others; a note where another number is found, no refusal."""

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "findings": ("section_findings",),
    "impression": ("section_impression",),
    "indication": ("section_clinical_history", "section_history"),
    "comparison": ("section_comparison",),
    "technique": ("section_technique",),
    "history": ("section_history",),
}
"""Our sections, and the columns they are read from: the first that says anything."""

COLUMNS: Mapping[str, str] = {
    "ethnicity": "ethnicity",
    "insurance-type": "insurance_type",
    "interpreter-needed": "interpreter_needed",
}
"""Further subgroup columns, and the table's names; a table without one has none."""

NOT_RECORDED = frozenset({"", "unknown", "race and ethnicity unknown", "patient refused", "declines to state", "nan"})
"""Values that say nothing is known, in small letters."""

SEXES: Mapping[str, str] = {"female": "F", "male": "M"}

_NEEDED = ("path_to_image", "frontal_lateral", "ap_pa", "age", "sex", "race", "section_findings", "section_impression")


@dataclass(slots=True)
class _Gathered:
    """A study while the rows of its images come in."""

    line: int
    split: str
    patient: str
    texts: dict[str, str]
    who: Demographics
    columns: dict[str, str]
    images: list[tuple[str, str]] = field(default_factory=list)


class CheXpertPlus:
    """See `cxrbench.data.base.Dataset`."""

    name = "chexpert-plus"
    access: Access = "credentialed"
    may_be_open = False
    patient_ids = True
    one_age_from = 90
    """As in CheXpert's own tables, whose ages end at 90; these are its patients."""
    citation = (
        "Chambon P, Delbrouck J-B, Sounack T, et al. CheXpert Plus: Augmenting a Large Chest X-ray Dataset with Text "
        "Radiology Reports, Patient Demographics and Additional Image Formats. arXiv:2405.19538, 2024"
    )
    licence = "Stanford University School of Medicine research use agreement: no redistribution"
    roots: Mapping[str, Root] = {
        "tables": Root("df_chexpert_plus_240401.csv, or the folder that holds it", required=True),
        "images": Root("the folder that holds train/ and valid/ (PNG, JPG or DICOM), or one above it"),
        "annotations": Root("findings_fixed.json, impression_fixed.json (CheXbert's labels), or their folder"),
    }
    options: Mapping[str, tuple[str, ...]] = {}

    def recognise(self, path: Path) -> str | None:
        """The table, the labels, or a folder of either, else the images."""
        if table_files((path,)):
            return "tables"
        if label_files((path,)):
            return "annotations"
        return "images" if path.is_dir() and Pictures((path,)).bases else None

    def studies(self, roots: Roots, part: Slice, prepared: Path | None = None) -> Iterator[Study]:
        """Yield the studies of a split in the order of the table.

        Raises:
            CxrbenchError: the table is not known, damaged, or contradicts itself.
        """
        if part.split not in SPLITS:
            raise CxrbenchError(
                f"chexpert-plus has no split {part.split!r}{suggest(part.split, SPLITS)}",
                where="key dataset.split of the task", fix=f"one of: {', '.join(SPLITS)}",
            )  # fmt: skip
        found = _gather(table_in(roots), SPLITS[part.split])
        pictures = Pictures(roots.get("images", ()))
        shown = {path for body in found.values() for path, _ in body.images}
        labels = Labels.read(label_files(roots.get("annotations", ())), shown)
        for study_id, body in found.items():
            yield _study(study_id, body, pictures, labels, part.split)

    def check(self, roots: Roots) -> list[Check]:
        """Both splits: studies, patients, sections, demographics, images that are not there."""
        lines: list[Check] = []
        for root, used, holds in (
            ("tables", table_files, "table of CheXpert Plus"),
            ("annotations", label_files, "file of CheXbert's labels"),
        ):
            kept = [path for path in roots.get(root, ()) if used((path,))]
            idle = [path for path in roots.get(root, ()) if path not in kept]
            lines += [idle_root(self.name, root, path, kept, holds, "FILE") for path in idle]
        try:
            for split in SPLITS:
                lines += _checked(split, list(self.studies(roots, Slice(split))), roots)
        except CxrbenchError as error:
            status: Any = "problem" if roots.get("tables") else "missing"
            what = f"{error.what} ({error.where})" if error.where else error.what
            lines.append(Check("table", status, what, error.fix))
        return lines

    def prepare(self, roots: Roots, out: Path, progress: Progress) -> list[Check]:
        """Nothing to prepare: the table is read in seconds."""
        return [Check(self.name, "note", "there is nothing to prepare")]

    def fingerprint(self, roots: Roots, part: Slice) -> str:
        """16 hex digits over the content of the table and of the labels, and the sizes of 256 images of the split."""
        digest = hashlib.sha256(part.split.encode())
        for file in (table_in(roots), *label_files(roots.get("annotations", ()))):
            with open_regular(file) as handle:
                for block in iter(lambda: handle.read(1 << 20), b""):
                    digest.update(block)
        images = [image.path for study in self.studies({**roots, "annotations": ()}, part) for image in study.images]
        for path in images[:: max(1, len(images) // 256)]:
            try:
                digest.update(str(Path(path).stat().st_size).encode())
            except OSError:
                digest.update(b"missing")
        return digest.hexdigest()[:16]


def _gather(table: Path, split: str) -> dict[str, _Gathered]:
    """Studies by id, of one split, in the order of the table."""
    found: dict[str, _Gathered] = {}
    try:
        with open_regular(table) as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="") as text:
            header, rows = open_rows(lines_of(text, str(table)), str(table), _NEEDED)
            for line, cells in rows:
                _add(found, dict(zip(header, cells, strict=True)), split, f"{table}, line {line:,}", line)
    except UnicodeDecodeError:
        raise CxrbenchError("the table is not UTF-8", where=str(table), fix="use the file as downloaded") from None
    except OSError as error:
        raise CxrbenchError(f"the table cannot be read: {error.strerror}", where=str(table)) from error
    return found


def _add(found: dict[str, _Gathered], row: Mapping[str, str], split: str, where: str, line: int) -> None:
    named = IMAGE_PATH.fullmatch(row["path_to_image"])
    if named is None:
        raise CxrbenchError(
            "path_to_image is not of the form train/patient00001/study1/view1_frontal.jpg", where=where,
            fix="use the file as downloaded",
        )  # fmt: skip
    if named["split"] != split:
        return
    study_id = f"{named['patient']}-{named['study']}"
    texts = _sections(row)
    body = found.get(study_id)
    if body is None:
        who = Demographics(_sex(row["sex"]), _age(row["age"], where), _known(row["race"]))
        body = found[study_id] = _Gathered(line, split, named["patient"], texts, who, _columns(row))
    elif body.texts != texts:
        raise CxrbenchError(
            f"two images of one study have different reports (the other one in line {body.line:,})", where=where,
            fix="use the file as downloaded",
        )  # fmt: skip
    if any(path == named["stem"] for path, _ in body.images):
        raise CxrbenchError("the image has two rows", where=where, fix="use the file as downloaded")
    body.images.append((named["stem"], _view(row["frontal_lateral"], row["ap_pa"])))


def _sections(row: Mapping[str, str]) -> dict[str, str]:
    read = {name: [row.get(column, "") for column in columns] for name, columns in SECTIONS.items()}
    return {name: told for name, texts in read.items() if (told := next((t for t in texts if t.strip()), ""))}


def _known(value: str) -> str | None:
    return None if value.strip().lower() in NOT_RECORDED else value.strip()


def _sex(value: str) -> str | None:
    """F or M; another value as recorded, so that a task lists it or shows it as unlisted."""
    return SEXES.get(value.strip().lower(), _known(value))


def _age(value: str, where: str) -> float | None:
    """Years; None where the cell is empty."""
    if _known(value) is None:
        return None
    if not re.fullmatch(r"\d{1,3}(\.\d+)?", value.strip()):
        raise CxrbenchError("the age is no number of years", where=where, fix="use the file as downloaded")
    return float(value)


def _columns(row: Mapping[str, str]) -> dict[str, str]:
    read = {name: _known(row.get(column, "")) for name, column in COLUMNS.items()}
    return {name: value for name, value in read.items() if value is not None}


def _view(side: str, direction: str) -> str:
    """AP or PA where the table says so, FRONTAL or LATERAL where it says no more, empty where it says nothing."""
    side, direction = side.strip().upper(), direction.strip().upper()
    if side == "FRONTAL" and direction in ("AP", "PA"):
        return direction
    return side if side in ("FRONTAL", "LATERAL") else ""


def _study(study_id: str, body: _Gathered, pictures: Pictures, labels: Labels, split: str) -> Study:
    told = labels.of([path for path, _ in body.images])
    no_finding = told.get("chexbert-impression", {}).get("No Finding")
    abnormal = {} if "chexbert-impression" not in told else {"abnormal": "no" if no_finding == 1 else "yes"}
    return Study(
        study_id=study_id,
        patient_id=body.patient,
        split=split,
        images=tuple(Image(path, pictures.find(path), view) for path, view in body.images),
        sections=body.texts,
        labels=told,
        demographics=body.who,
        columns={**body.columns, **abnormal},
    )


def _checked(split: str, studies: Sequence[Study], roots: Roots) -> Iterator[Check]:
    images = [image.path for study in studies for image in study.images]
    patients = {study.patient_id for study in studies}
    has = Counter(name for study in studies for name in study.sections)
    text = (
        f"{len(studies):,} studies, {len(images):,} images, {len(patients):,} patients; "
        f"{has['findings']:,} with findings, {has['impression']:,} with an impression"
    )
    official = OFFICIAL_IMAGES[split]
    if len(images) == official:
        yield Check(split, "ok", text)
    else:
        yield Check(split, "note", f"{text}; the published table has {official:,} images")
    who = Counter(
        name for study in studies for name in ("sex", "age", "race") if getattr(study.demographics, name) is not None
    )
    known = ", ".join(f"{name} {who[name]:,}" for name in ("sex", "age", "race"))
    yield Check(f"demographics {split}", "ok", f"studies of which is known: {known}")
    looked = images[:: max(1, len(images) // 300)]
    there = sum(Path(path).is_file() for path in looked)
    status: Any = "ok" if there == len(looked) else "note" if there else "missing"
    fix = "" if there else "cxrbench data add chexpert-plus --images DIR (holds train/ and valid/)"
    yield Check(f"images {split}", status, f"{there:,} of {len(looked):,} images looked for are there", fix)
