"""`cxrbench data check mimic-cxr`: what lies under the roots, what is missing, what to do.

Counts only, never a word of a report or an id of a patient. Reads the tables whole, and looks for a few hundred
reports and images.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from cxrbench.data.base import Check, Roots, idle_root
from cxrbench.data.mimic_demographics import find_file, read_patients
from cxrbench.data.mimic_exams import ORDERS, exams
from cxrbench.data.mimic_files import ImageFiles, Reports, find_reports, spaced
from cxrbench.data.mimic_physionet import ADD
from cxrbench.data.mimic_protocols import FORMS, annotation_files, group, records
from cxrbench.data.mimic_tables import (
    KNOWN_VIEWS,
    LABEL_SOURCES,
    OFFICIAL_STUDIES,
    find_tables,
    header,
    holds_tables,
    image_table,
    label_tables,
)
from cxrbench.errors import CxrbenchError
from cxrbench.spec import find_task

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
    lines = list(_guarded("tables", lambda: _tables(roots, tables, lack)))
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


def _idle(roots: Roots, root: str, used: Callable[[Path], bool], holds: str, hint: str) -> Iterator[Check]:
    """A line for each path of a root that holds nothing of it."""
    kept = [path for path in roots.get(root, ()) if used(path)]
    for path in roots.get(root, ()):
        if path not in kept:
            yield idle_root("mimic-cxr", root, path, kept, holds, hint)


Lack = Literal["missing", "note"]
"""How it stands when something of the PhysioNet form was not given."""


def _lack(roots: Roots) -> Lack:
    given = roots.get("annotations", ())
    return "note" if any(annotation_files(given, form) for form in FORMS) else "missing"


def _tables(roots: Roots, tables: dict[str, Path], lack: Lack) -> Iterator[Check]:
    version = "v2.1.0" if "test-set-labeled" in tables else "v2.0.0, or v2.1.0 without its test-set-labeled table"
    if tables:
        yield Check("tables", "ok", f"{version}; found {', '.join(sorted(tables))}")
    yield from _idle(roots, "tables", holds_tables, "table of MIMIC-CXR", "DIR (the tables of MIMIC-CXR-JPG)")
    kept = "".join(f"--tables {shlex.quote(str(path))} " for path in roots.get("tables", ()) if holds_tables(path))
    for kind in ("split", "metadata"):
        if kind not in tables:
            fix = f"{ADD} {kept}--tables DIR (the folder with mimic-cxr-2.0.0-{kind}.csv.gz of MIMIC-CXR-JPG)"
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
            fix = "tasks over it need --allow-partial, which is recorded; or use the published split table"
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
    plain = not (orders["tie"] or orders["undated"] or orders["invalid"])
    yield Check("prior studies", "ok" if plain else "note", text)


def _labels(tables: dict[str, Path]) -> Iterator[Check]:
    for table in label_tables(tables):
        yield Check(f"labels {table.source}", "ok", f"{len(table.rows):,} studies, {len(table.names)} labels")
    if "test-set-labeled" in tables and "Airspace Opacity" in header(tables["test-set-labeled"]):
        yield Check(
            "labels mimic-test-labeled",
            "note",
            "the table has no subject_id and says Airspace Opacity; it is joined by study_id and read as Lung Opacity",
        )
    for kind, source in LABEL_SOURCES.items():
        if kind not in tables:
            lost = "the slice abnormal is unknown for every study" if kind == "chexpert" else "no task needs it"
            yield Check(f"labels {source}", "note", f"no table: {lost}")


def _keys(frame: Any) -> list[tuple[str, str]]:
    studies = frame.drop_duplicates("study_id")
    return list(zip(studies["patient_id"], studies["study_id"], strict=True))


def _reports(roots: Roots, frame: Any, lack: Lack) -> Iterator[Check]:
    given = roots.get("reports", ())
    hint = "DIR (holds files/p10/...), or the file mimic-cxr-reports.zip"
    sources = {root: find_reports(root) for root in given}
    yield from _idle(
        roots, "reports", lambda root: sources[root] is not None, "tree of reports and no archive of them", hint
    )
    usable = [(root, source) for root, source in sources.items() if source is not None]
    if not usable:
        if not given:
            found = "no reports root: every task on the PhysioNet form needs it"
            yield Check("reports", lack, found, f"{ADD} --reports {hint}")
        return
    for root, _ in usable[1:]:
        yield Check("reports", "note", f"{root} is not used: reports are read from the first root that has them")
    yield _report_count(usable[0][1], frame)


def _report_count(found: Reports, frame: Any) -> Check:
    if frame is None:
        return Check("reports", "ok", found.label)
    keys = spaced(_keys(frame), PROBES)
    there = sum(size >= 0 for size in found.sizes(keys))
    text = f"{found.label}; {there:,} of {len(keys):,} studies looked for have their report"
    if there == len(keys):
        return Check("reports", "ok", text)
    return Check("reports", "missing", text, "download the rest: wget -c of mimic-cxr, or mimic-cxr-reports.zip")


def _images(roots: Roots, frame: Any) -> Iterator[Check]:
    given = roots.get("images", ())
    files = ImageFiles(given)
    what = "tree of patients with .jpg, .png or .dcm images"
    hint = "DIR (the folder that holds files/p10/...)"
    yield from _idle(roots, "images", lambda root: root not in files.unused, what, hint)
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
    for form in FORMS:
        for path in annotation_files(given, form):
            if path.stat().st_size > _BIG:
                yield Check(f"annotations {form}", "ok", f"{path.name} (too large to be counted here)")
            else:
                yield from _guarded(f"annotations {form}", lambda path=path, form=form: _counted(form, path))  # type: ignore[misc]
    yield from _idle(
        roots,
        "annotations",
        lambda root: any(annotation_files((root,), form) for form in FORMS),
        f"file of the forms {', '.join(FORMS)}",
        "FILE",
    )


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
        full = find_task("mimic-findings-rexrank").expected.n
        if splits["test"] != full:
            text += f"; {full:,} test in full: mimic-findings-rexrank needs --allow-partial, which is recorded"
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
    names = ("patients", "admissions")
    useful = [root for root in given if any(find_file((root,), name) for name in names)]
    yield from _idle(
        roots, "demographics", lambda root: root in useful, "table of MIMIC-IV", "DIR (holds hosp/patients.csv.gz)"
    )
    if not useful:
        return
    if frame is None:
        path = find_file(given, "patients")
        yield Check("demographics", "ok" if path else "missing", str(path) if path else "no patients.csv.gz")
        return
    everyone = frame["patient_id"].unique()
    counts = read_patients(given, everyone).linked(everyone)
    kinds = ("linked", "unlinked", "race known", "race conflicting", "race unknown")
    text = ", ".join(f"{kind} {counts[kind]:,}" for kind in kinds)
    status = "note" if counts["unlinked"] or counts["race conflicting"] else "ok"
    yield Check("demographics", status, f"{text} of {len(everyone):,} patients; 91 stands for every age over 89")  # type: ignore[arg-type]
    if find_file(given, "admissions") is None:
        yield Check("demographics", "note", "no admissions.csv.gz: race is unknown for everybody")
