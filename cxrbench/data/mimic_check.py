"""`cxrbench data check mimic-cxr`: what lies under the roots, what is missing, what to do.

Counts only, never a word of a report or an id of a patient. Reads the tables whole, and looks for a few hundred
reports and images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from cxrbench.data.base import Check, Roots
from cxrbench.data.mimic_demographics import find_file, read_patients
from cxrbench.data.mimic_exams import ORDERS, exams
from cxrbench.data.mimic_files import ImageFiles, find_reports, spaced
from cxrbench.data.mimic_physionet import ADD
from cxrbench.data.mimic_protocols import FORMS, annotation_files, group, records
from cxrbench.data.mimic_tables import KNOWN_VIEWS, OFFICIAL_STUDIES, find_tables, header, image_table, label_tables
from cxrbench.errors import CxrbenchError

PROBES = 300
"""How many reports and images are looked for; evenly spaced over all studies."""

_BIG = 1 << 29
"""Annotation files above half a GiB are recognised but not counted."""


def _guarded(item: str, make: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """The lines of `make`; an error becomes a line, so that one broken table does not hide the rest."""
    try:
        yield from make()
    except CxrbenchError as error:
        where = f" ({error.where})" if error.where else ""
        yield Check(item, "problem", f"{error.what}{where}", error.fix)


def check_roots(roots: Roots) -> list[Check]:
    """All lines of the check, in the order in which a reader would set things up.

    `missing` and `problem` are for what is wrong, and for nothing being usable. Where a protocol's file is there, the
    PhysioNet form is one that is simply not there, and what it lacks is a note.
    """
    try:
        tables = find_tables(roots)
    except CxrbenchError as error:
        return [Check("tables", "problem", f"{error.what} ({error.where})", error.fix)]
    lack = _lack(roots)
    lines = list(_guarded("tables", lambda: _tables(tables, lack)))
    frame = None
    if {"split", "metadata"} <= set(tables):
        try:
            frame = image_table(tables)
        except CxrbenchError as error:
            lines.append(Check("tables", "problem", f"{error.what} ({error.where})", error.fix))
    if frame is not None:
        lines += _guarded("split", lambda: _splits(frame))
        lines += _guarded("views", lambda: _views(frame))
        lines += _guarded("dates", lambda: _dates(frame))
    lines += _guarded("labels", lambda: _labels(tables))
    lines += _guarded("reports", lambda: _reports(roots, frame, lack))
    lines += _guarded("images", lambda: _images(roots, frame))
    lines += _guarded("annotations", lambda: _annotations(roots))
    lines += _guarded("demographics", lambda: _demographics(roots, frame))
    return lines


Lack = Literal["missing", "note"]
"""How it stands when something of the PhysioNet form was not given."""


def _lack(roots: Roots) -> Lack:
    given = roots.get("annotations", ())
    return "note" if any(annotation_files(given, form) for form in FORMS) else "missing"


def _tables(tables: dict[str, Path], lack: Lack) -> Iterator[Check]:
    version = "v2.1.0" if "test-set-labeled" in tables else "v2.0.0, or v2.1.0 without its test-set-labeled table"
    if tables:
        yield Check("tables", "ok", f"{version}; found {', '.join(sorted(tables))}")
    for kind in ("split", "metadata"):
        if kind not in tables:
            fix = f"{ADD} --tables DIR (the folder with mimic-cxr-2.0.0-{kind}.csv.gz of MIMIC-CXR-JPG)"
            found = "not given: every task on the PhysioNet form needs it; protocols' tasks get views and dates from it"
            yield Check(f"{kind} table", lack, found, fix)


def _splits(frame: Any) -> Iterator[Check]:
    studies = frame.drop_duplicates("study_id")
    counts = studies["split"].value_counts().to_dict()
    patients = frame.groupby("split")["patient_id"].nunique().to_dict()
    images = frame["split"].value_counts().to_dict()
    for split, official in OFFICIAL_STUDIES.items():
        found = counts.get(split, 0)
        text = f"{found:,} studies, {images.get(split, 0):,} images, {patients.get(split, 0):,} patients"
        if found == official:
            yield Check(f"split {split}", "ok", text)
        else:
            fix = "use the published mimic-cxr-2.0.0-split.csv.gz"
            yield Check(f"split {split}", "note", f"{text}; the official split has {official:,} studies", fix)


def _views(frame: Any) -> Iterator[Check]:
    counts = frame["view"].value_counts()
    text = ", ".join(f"{view or 'empty'} {count:,}" for view, count in counts.items())
    strange = sum(count for view, count in counts.items() if view not in KNOWN_VIEWS)
    if strange:
        yield Check("views", "note", f"{text}; {strange:,} images have a ViewPosition that is not a known one")
    else:
        yield Check("views", "ok", f"{text} (an empty ViewPosition stays empty)")


def _dates(frame: Any) -> Iterator[Check]:
    orders = Counter(exam.order for exam in exams(frame))
    text = "; ".join(f"{orders[order]:,}: {ORDERS[order]}" for order in ORDERS if orders[order])
    yield Check("prior studies", "note" if orders["tie"] or orders["undated"] else "ok", text)


def _labels(tables: dict[str, Path]) -> Iterator[Check]:
    for table in label_tables(tables):
        yield Check(f"labels {table.source}", "ok", f"{len(table.rows):,} studies, {len(table.names)} labels")
    if "test-set-labeled" in tables and "Airspace Opacity" in header(tables["test-set-labeled"]):
        yield Check(
            "labels mimic-test-labeled",
            "note",
            "the table has no subject_id and says Airspace Opacity; it is joined by study_id and read as Lung Opacity",
        )
    missing = [kind for kind in ("chexpert", "test-set-labeled") if kind not in tables]
    if missing:
        yield Check(
            "labels", "note", f"no table: {', '.join(missing)} (needed by label metrics and the abnormal slice)"
        )


def _keys(frame: Any) -> list[tuple[str, str]]:
    studies = frame.drop_duplicates("study_id")
    return list(zip(studies["patient_id"], studies["study_id"], strict=True))


def _reports(roots: Roots, frame: Any, lack: Lack) -> Iterator[Check]:
    given = roots.get("reports", ())
    found = next((each for each in map(find_reports, given) if each is not None), None)
    if found is None:
        fix = f"{ADD} --reports DIR (holds files/p10/...), or the file mimic-cxr-reports.zip"
        if given:
            places = ", ".join(map(str, given))
            yield Check("reports", "problem", f"neither a tree nor the archive under {places}", fix)
        else:
            yield Check("reports", lack, "no reports root: every task on the PhysioNet form needs it", fix)
        return
    if frame is None:
        yield Check("reports", "ok", found.label)
        return
    keys = spaced(_keys(frame), PROBES)
    there = sum(size >= 0 for size in found.sizes(keys))
    text = f"{found.label}; {there:,} of {len(keys):,} studies looked for have their report"
    if there == len(keys):
        yield Check("reports", "ok", text)
    else:
        yield Check("reports", "missing", text, "download the rest: wget -c of mimic-cxr, or mimic-cxr-reports.zip")


def _images(roots: Roots, frame: Any) -> Iterator[Check]:
    given = roots.get("images", ())
    files = ImageFiles(given)
    for root in files.unused:
        fix = f"{ADD} --images DIR (the folder that holds files/p10/...)"
        yield Check("images", "problem", f"no tree of patients with .jpg, .png or .dcm images under {root}", fix)
    if not files.places:
        if not given:
            fix = f"{ADD} --images DIR (JPG, DICOM or resized tree)"
            yield Check("images", "missing", "no images root: every task needs it", fix)
        return
    text = "; ".join(f"{extension} under {base}" for base, extension in files.places)
    if frame is None:
        yield Check("images", "ok", text)
        return
    rows = spaced(list(zip(frame["patient_id"], frame["study_id"], frame["image_id"], strict=True)), PROBES)
    there = sum(any(path.exists() for path in files.candidates(*row)) for row in rows)
    text += f"; {there:,} of {len(rows):,} images looked for are there"
    if there == len(rows):
        yield Check("images", "ok", text)
    elif there:
        text += " (one that is not counts as missing_image in a run)"
        yield Check("images", "note", text, "cxrbench data prepare mimic-cxr counts them all")
    else:
        yield Check("images", "missing", text, f"{ADD} --images DIR (the images of these tables)")


def _annotations(roots: Roots) -> Iterator[Check]:
    given = roots.get("annotations", ())
    seen = 0
    for form in FORMS:
        for path in annotation_files(given, form):
            seen += 1
            if path.stat().st_size > _BIG:
                yield Check(f"annotations {form}", "ok", f"{path.name} (too large to be counted here)")
            else:
                yield from _guarded(f"annotations {form}", lambda path=path, form=form: _counted(form, path))  # type: ignore[misc]
    if given and not seen:
        forms = ", ".join(FORMS)
        yield Check("annotations", "problem", f"no file of the forms {forms} under the annotations root")


def _counted(form: str, path: Path) -> Iterator[Check]:
    found = records(form, path)
    splits = Counter(record.split for record in found)
    text = ", ".join(f"{count:,} {split}" for split, count in splits.items())
    methods = Counter(
        f"{record.split} {record.columns['generate_method']}" for record in found if "generate_method" in record.columns
    )
    if methods:
        text += f"; {', '.join(f'{name} {count:,}' for name, count in sorted(methods.items()))}"
    if form == "rexrank":
        text += f"; {sum('indication' not in record.sections for record in found):,} without an indication"
    yield Check(f"annotations {form}", "ok", f"{path.name}: {text}")
    studies = len({(record.split, record.study_id) for record in found})
    apart = len(group(found)) - studies
    if apart > 0:
        text = f"{path.name}: {apart:,} groups of images have another text than the rest of their study, and keep it"
        yield Check(f"annotations {form}", "note", text)


def _demographics(roots: Roots, frame: Any) -> Iterator[Check]:
    given = roots.get("demographics", ())
    if not given:
        fix = f"{ADD} --demographics DIR-OF-MIMIC-IV"
        yield Check("demographics", "note", "no MIMIC-IV root: sex, age and race are unknown for everybody", fix)
        return
    if frame is None:
        path = find_file(given, "patients")
        yield Check("demographics", "ok" if path else "missing", str(path) if path else "no patients.csv.gz")
        return
    everyone = frame["patient_id"].unique()
    counts = read_patients(given, everyone).linked(everyone)
    names = ("linked", "unlinked", "race known", "race conflicting", "race unknown")
    text = ", ".join(f"{name} {counts[name]:,}" for name in names)
    status = "note" if counts["unlinked"] or counts["race conflicting"] else "ok"
    yield Check("demographics", status, f"{text} of {len(everyone):,} patients; 91 stands for every age over 89")  # type: ignore[arg-type]
    if find_file(given, "admissions") is None:
        yield Check("demographics", "note", "no admissions.csv.gz: race is unknown for everybody")
