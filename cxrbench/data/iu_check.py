"""`cxrbench data check iu-xray`: what the roots hold, beside what the full collection holds, and what to do.

A damaged source becomes a line, never an exception, so that one look shows everything. Prints no report text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from cxrbench.data.base import Check, Roots, idle_root
from cxrbench.data.iu_collection import Collection
from cxrbench.data.iu_images import kaggle_name, r2gen_folder
from cxrbench.data.iu_protocols import Listed
from cxrbench.data.iu_reports import Report
from cxrbench.data.iu_sources import KINDS, SOURCE_ROOTS, NotGivenError
from cxrbench.data.samples import make_samples
from cxrbench.errors import CxrbenchError
from cxrbench.spec import TaskSpec, find_task
from cxrbench.types import Study

FULL_REPORTS = 3955
FULL_ROWS = 3851
FULL_PROJECTIONS = 7466
FULL_GOLD = 3851
FULL_SPLITS: Mapping[str, Mapping[str, int]] = {
    "r2gen": {"train": 2069, "validate": 296, "test": 590},
    "rexrank": {"validate": 296, "test": 590},
}
"""Counts of the full collection and the published selections (docs/data-iu-xray.md has their sources)."""

PARTIAL = "tasks over it need --allow-partial, which is recorded; or get the full collection"

TASKS: Mapping[str, tuple[str, ...]] = {
    "openi": ("iu-findings", "iu-impression", "iu-impression-given-findings"),
    "r2gen": ("iu-findings-r2gen",),
    "rexrank": ("iu-findings-rexrank",),
}
"""Form -> the tasks that read it."""

Try = Callable[[Collection], Mapping[str, Sequence[Study]]]
"""Reads a form whole, as a run would: its studies by split."""


def check(roots: Roots, forms: Mapping[str, Try]) -> list[Check]:
    """One line per source, then how the sources agree, the images, and which tasks can run.

    `missing` and `problem` are for what is wrong, and for nothing being usable; a form one does not have is a note.
    """
    collection = Collection(roots)
    try:
        sources = collection.sources
    except CxrbenchError as error:
        return [_problem("sources", error)]
    lines = [_guarded(KINDS[kind][0], look, collection) for kind, look in _LOOKS.items() if kind in sources.paths]
    lines += [_guarded(item, look, collection) for item, look in _COMPARISONS.items()]
    told: dict[str, Check] = {}
    for line in lines:
        if line is not None:
            told.setdefault(line.found, line)  # a damaged source fails every comparison it is in: say so once
    found = [*told.values(), *_idle(collection)]
    if sources.unused:
        names = [f"{path.parent.name}/{path.name}" for path in sources.unused[:5]]
        shown = ", ".join(names) + (", ..." if len(sources.unused) > 5 else "")
        found.append(Check("other files", "note", f"{len(sources.unused)} not used (no form of IU X-ray): {shown}"))
    return found + _tasks(collection, forms)


def _problem(item: str, error: CxrbenchError) -> Check:
    return Check(item, "problem", f"{error.what} ({error.where})" if error.where else error.what, error.fix)


def _guarded(item: str, look: Callable[[Collection], Check | None], collection: Collection) -> Check | None:
    try:
        return look(collection)
    except CxrbenchError as error:
        return _problem(item, error)


def _of(found: int, full: int) -> str:
    return f"{found:,}" if found == full else f"{found:,} (full: {full:,})"


def _counted(item: str, found: str, *, complete: bool) -> Check:
    return Check(item, "ok", found) if complete else Check(item, "note", found, PARTIAL)


def section_counts(reports: Iterable[Report]) -> dict[str, int]:
    """How many reports have both main sections, one, or none."""
    names = {
        (True, True): "both sections",
        (False, True): "impression only",
        (True, False): "findings only",
        (False, False): "neither",
    }
    counts = Counter(names["findings" in report.sections, "impression" in report.sections] for report in reports)
    return {name: counts[name] for name in names.values()}


def image_counts(reports: Iterable[Report]) -> dict[int, int]:
    """How many reports have how many images."""
    return dict(sorted(Counter(len(report.images) for report in reports).items()))


def _xml(collection: Collection) -> Check:
    reports = (collection.xml or {}).values()
    sections = ", ".join(f"{name} {count:,}" for name, count in section_counts(reports).items())
    images = ", ".join(f"{count}: {studies:,}" for count, studies in image_counts(reports).items())
    found = f"{_of(len(reports), FULL_REPORTS)} reports; {sections}; images per study {images}"
    return _counted(KINDS["openi-xml"][0], found, complete=len(reports) == FULL_REPORTS)


def _kaggle(collection: Collection) -> Check | None:
    table = collection.kaggle
    if table is None:
        return None
    if table.damage:
        shown = ", ".join(f"line {line} ({uid}, {column})" for line, uid, column in table.damage[:5])
        found = f"{len(table.damage)} cell(s) destroyed by a spreadsheet: {shown}"
        if collection.xml is not None:
            return Check(KINDS["kaggle-reports"][0], "note", f"{found}; harmless: the texts come from the XML")
        return Check(
            KINDS["kaggle-reports"][0],
            "problem",
            found,
            f"use an undamaged copy, or {collection.sources.add('openi-xml')}",
        )
    count = len(table.reports)
    return _counted(KINDS["kaggle-reports"][0], f"{_of(count, FULL_ROWS)} reports", complete=count == FULL_ROWS)


def _projections(collection: Collection) -> Check | None:
    if collection.projections is None:
        return None
    views = Counter(collection.projections.views.values())
    found = f"{_of(views.total(), FULL_PROJECTIONS)} images: {views['FRONTAL']:,} frontal, {views['LATERAL']:,} lateral"
    return _counted(KINDS["kaggle-projections"][0], found, complete=views.total() == FULL_PROJECTIONS)


def _selection(kind: str) -> Callable[[Collection], Check | None]:
    def look(collection: Collection) -> Check | None:
        records = collection.r2gen if kind == "r2gen" else collection.rexrank
        counts = Counter(record.split for record in records or ())
        full = FULL_SPLITS[kind]
        found = ", ".join(f"{split} {_of(counts[split], full[split])}" for split in full)
        wrong = [split for split in full if counts[split] != full[split]]
        if wrong == ["train"]:
            found += "; what is made from train (seen-in-train, vocabularies, retrieval) is not the published one"
            return Check(KINDS[kind][0], "note", found)
        return _counted(KINDS[kind][0], found, complete=not wrong)

    return look


def _gold(collection: Collection) -> Check:
    found = f"{_of(len(collection.gold), FULL_GOLD)} reports with labels"
    return _counted(KINDS["gold"][0], found, complete=len(collection.gold) == FULL_GOLD)


def _agreement(collection: Collection) -> Check | None:
    """XML beside Kaggle: the same texts, the same images?"""
    xml, table = collection.xml, collection.kaggle
    if xml is None or table is None:
        return None
    broken = {(uid, column) for _, uid, column in table.damage}
    both = [(xml[uid], report) for uid, report in table.reports.items() if uid in xml]
    differ = [
        f"{ours.uid} {name}"
        for ours, theirs in both
        for name in ("findings", "impression", "indication", "comparison")
        if (ours.uid, name) not in broken and ours.sections.get(name) != theirs.sections.get(name)
    ]
    item = "XML against Kaggle"
    if differ:
        shown = ", ".join(differ[:5]) + (", ..." if len(differ) > 5 else "")
        return Check(
            item, "problem", f"{len(differ)} section(s) differ: {shown}", "the XML is used; get both files again"
        )
    return Check(item, "ok", f"{len(both):,} reports in both, every section equal{_unviewed(collection)}")


def _unviewed(collection: Collection) -> str:
    if collection.projections is None or collection.xml is None:
        return ""
    known = collection.projections.views
    count = sum(image not in known for report in collection.xml.values() for image in report.images)
    return f"; {count} image(s) of the XML have no projection" if count else ""


def _selection_agreement(collection: Collection) -> Check | None:
    """The selections beside the XML: findings verbatim, images that exist."""
    xml = collection.xml
    records = [*(collection.r2gen or ()), *(collection.rexrank or ())]
    if xml is None or not records:
        return None
    wrong = [record.study_id for record in records if not _agrees(record, xml)]
    item = "splits against XML"
    if wrong:
        shown = ", ".join(wrong[:5]) + (", ..." if len(wrong) > 5 else "")
        return Check(
            item,
            "problem",
            f"{len(wrong)} study(ies) differ from the XML or are not in it: {shown}",
            "get the split and the XML again",
        )
    return Check(item, "ok", f"{len(records):,} records: findings verbatim as in the XML, images numbered in its order")


def _agrees(record: Listed, xml: Mapping[str, Report]) -> bool:
    report = xml.get(record.uid)
    if report is None or record.sections.get("findings") != report.sections.get("findings"):
        return False
    numbers_fit = all(image.number < len(report.images) for image in record.images)
    return numbers_fit and bool(report.images) and r2gen_folder(report.images[0]) == record.study_id


def _idle(collection: Collection) -> Iterator[Check]:
    """A line for each path that holds nothing of what it was given for."""
    sources = collection.sources
    for root in SOURCE_ROOTS:
        for path in sources.roots.get(root, ()):
            if path.resolve() in sources.idle:
                names = [name for _, under, name in KINDS.values() if under == root]
                hint = f"PATH/{names[0]}"
                yield idle_root("iu-xray", root, path, sources.useful(root), "source of IU X-ray", hint)
    given = sources.roots.get("images", ())
    try:
        files = [Path(file) for file in collection.images.files.values()]
    except CxrbenchError:
        return  # told by the line of the images
    kept = [root for root in given if any(file.is_relative_to(root.resolve()) for file in files)]
    for path in given:
        if path not in kept:
            yield idle_root("iu-xray", "images", path, kept, "image of IU X-ray", "PATH")


def _images(collection: Collection) -> Check | None:
    index = collection.images
    if not index.folders:
        return Check(
            "images",
            "note" if collection.sources.paths else "missing",
            "no image root: only models that look at no image can run",
            collection.sources.add("images"),
        )
    index.refuse_twice()
    openi_named, numbered = index.naming
    found = f"{openi_named:,} files with Open-i's or Kaggle's names, {numbered:,} with R2Gen's"
    if not index.files:
        return None  # every root is told by `_idle`
    if collection.xml is None:
        return Check("images", "ok", found)
    listed = [
        (image, f"{r2gen_folder(report.images[0])}/{number}")
        for report in collection.xml.values()
        for number, image in enumerate(report.images)
    ]
    absent = [(image, name) for image, name in listed if index.find(image, name) is None]
    found += f"; {len(listed) - len(absent):,} of the {len(listed):,} images the XML names are there"
    if not absent:
        return Check("images", "ok", found)
    image, name = absent[0]
    found += f"; the first that is not: {image}.png, {kaggle_name(image)} or {name}.png (each would do)"
    return Check("images", "note", f"{found}; a study without its image is counted as missing_image in a run")


def _tasks(collection: Collection, forms: Mapping[str, Try]) -> list[Check]:
    """Which tasks can run, found by reading their form as a run would, and what the others would need.

    A form that was not given is a note beside one that works, and missing where none does.
    """
    paths = collection.sources.paths
    lines = [line for form, tried in forms.items() for line in _form(collection, form, tried)]
    if any(line.status in ("ok", "note") for line in lines):
        lines = [replace(line, status="note") if line.status == "missing" else line for line in lines]
    if "kaggle-projections" not in paths:
        found = "no image has a view: the first is the key image"
        lines.append(Check("views", "note", found, collection.sources.add("kaggle-projections")))
    return lines


def _form(collection: Collection, form: str, tried: Try) -> Iterator[Check]:
    try:
        studies = tried(collection)
    except CxrbenchError as error:
        status: Literal["missing", "problem"] = "missing" if isinstance(error, NotGivenError) else "problem"
        yield Check(", ".join(TASKS[form]), status, f"not ready: {error.what}", error.fix)
        return
    better, fix = "", ""
    if form != "openi" and "openi-xml" not in collection.sources.paths:
        better, fix = "; the XML would add views (with projections) and abnormal", collection.sources.add("openi-xml")
    for name in TASKS[form]:
        line = _task(find_task(name), studies)
        yield replace(line, found=line.found + better, fix=fix)


def _task(spec: TaskSpec, studies: Mapping[str, Sequence[Study]]) -> Check:
    """How a run of a task would begin: with every sample, with some of them, or with none."""
    here, full = len(make_samples(spec, studies[spec.dataset.split]).samples), spec.expected.n
    if not here:
        return Check(spec.name, "problem", "not ready: no sample is left")
    if full is None or here == full:
        return Check(spec.name, "ok", "ready")
    found = f"{here:,} samples here, {full:,} in full: needs --allow-partial, which is recorded"
    return Check(spec.name, "note", found)


_LOOKS: Mapping[str, Callable[[Collection], Check | None]] = {
    "openi-xml": _xml,
    "kaggle-reports": _kaggle,
    "kaggle-projections": _projections,
    "r2gen": _selection("r2gen"),
    "rexrank": _selection("rexrank"),
    "gold": _gold,
}
_COMPARISONS: Mapping[str, Callable[[Collection], Check | None]] = {
    "XML against Kaggle": _agreement,
    "splits against XML": _selection_agreement,
    "images": _images,
}
