"""The data set `iu-xray`: Indiana University chest X-rays (Open-i, NLMCXR) in every form people have it on disk.

A task says with `dataset.options.form` which selection it means:

    openi     every study of the collection (Open-i's XML, or Kaggle's two tables)      split: all
    r2gen     R2Gen's annotation.json, findings only, two images                        train, validate, test
    rexrank   ReXrank's JSON files: R2Gen's test and validation studies, all sections   validate, test

Open-i has no patient ids, so samples are the clusters. `Study.columns` has `uid`, `mesh` (manual MeSH coding, joined by
`;`) and `abnormal` (`no` where the coding is exactly `normal`), the last two where XML or Kaggle's table was given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from cxrbench.data import iu_check
from cxrbench.data.base import Check, Progress, Root, Roots, Slice
from cxrbench.data.iu_collection import Collection, Index, load_index, save_index
from cxrbench.data.iu_images import r2gen_folder
from cxrbench.data.iu_protocols import Listed
from cxrbench.data.iu_reports import Report
from cxrbench.data.iu_sources import NotGivenError, recognise_root
from cxrbench.data.iu_tables import refuse_damage
from cxrbench.errors import CxrbenchError, suggest
from cxrbench.types import Access, Image, Study

SPLITS: Mapping[str, tuple[str, ...]] = {
    "openi": ("all",),
    "r2gen": ("train", "validate", "test"),
    "rexrank": ("validate", "test"),
}
GOLD = "openi-gold"
"""Name of NegBio's gold labels in `Study.labels`."""


class IuXray:
    """Indiana University chest X-ray collection."""

    name = "iu-xray"
    access: Access = "open"
    may_be_open = True
    patient_ids = False
    citation = (
        "Demner-Fushman D, Kohli MD, Rosenman MB, et al. Preparing a collection of radiology examinations for "
        "distribution and retrieval. J Am Med Inform Assoc 2016;23(2):304-310. doi:10.1093/jamia/ocv080"
    )
    licence = "CC BY-NC-ND 4.0 (Indiana University): no commercial use, no sharing of altered reports or images"
    roots: Mapping[str, Root] = {
        "reports": Root("Open-i's XML: NLMCXR_reports.tgz, or the folder ecgen-radiology unpacked from it"),
        "tables": Root(
            "Kaggle's indiana_reports.csv and indiana_projections.csv (views), openi_gld_std14.csv (labels)"
        ),
        "annotations": Root("R2Gen's annotation.json; ReXrank's ReXRank_IUXray_test.json and _valid.json"),
        "images": Root("folder of images under Open-i's, Kaggle's or R2Gen's names (.png, .jpg or .dcm)"),
    }
    options: Mapping[str, tuple[str, ...]] = {"form": tuple(SPLITS)}

    def recognise(self, path: Path) -> str | None:
        """Name the root `path` looks like, or None."""
        return recognise_root(path)

    def studies(self, roots: Roots, part: Slice, prepared: Path | None = None) -> Iterator[Study]:
        """Yield the studies of a split: by number in the form `openi`, else in the order of the file.

        An image that is not there has the name its source gives it for a path, so it is counted as missing.

        Raises:
            CxrbenchError: a source of the form is missing or damaged, or an image has two files.
        """
        yield from _studies(Collection(roots, prepared), _form(part), part.split)

    def check(self, roots: Roots) -> list[Check]:
        """What was found, what is missing, what to do. A form is ready when every split of it can be read."""
        return iu_check.check(roots, {form: partial(_try, form=form) for form in SPLITS})

    def prepare(self, roots: Roots, out: Path, progress: Progress) -> list[Check]:
        """Write the parsed XML and the listing of the images to `out`; nothing else of the set takes time to read."""
        collection = Collection(roots)
        progress(0, 2)
        reports = collection.xml
        progress(1, 2)
        images = collection.images
        images.refuse_twice()
        path = save_index(out, collection.index_key, Index(reports, images))
        progress(2, 2)
        found = f"{len(reports or {}):,} XML reports and {len(images.files):,} image files in {path}"
        return [Check("index", "ok", found)]

    def index_in_use(self, roots: Roots, prepared: Path) -> bool:
        """Whether reports and images are read from the index in `prepared`."""
        return load_index(prepared, Collection(roots).index_key) is not None

    def fingerprint(self, roots: Roots, part: Slice) -> str:
        """16 hex digits over the studies, with each image file's name and size in place of where it lies.

        Equal for the XML folder and the archive, and on every machine with the same data.
        """
        digest = hashlib.sha256()
        for study in self.studies(roots, part):
            record = asdict(study)
            record["images"] = [(image.image_id, image.view, *_name_and_size(image.path)) for image in study.images]
            digest.update(json.dumps(record, sort_keys=True).encode())
        return digest.hexdigest()[:16]


def _form(part: Slice) -> str:
    """The form a task names, with its split checked."""
    form = str(part.options.get("form", ""))
    if form not in SPLITS:
        named = f"{form!r}{suggest(form, SPLITS)} is none of them" if form else "the task names none"
        raise CxrbenchError(
            f"iu-xray has the forms {', '.join(SPLITS)}; {named}",
            where="key dataset.options.form of the task",
            fix="use iu-findings, iu-findings-r2gen or iu-findings-rexrank as a pattern",
        )
    if part.split not in SPLITS[form]:
        raise CxrbenchError(
            f"the form {form} of iu-xray has no split {part.split!r}{suggest(part.split, SPLITS[form])}",
            where="key dataset.split of the task",
            fix=f"use one of: {', '.join(SPLITS[form])}",
        )
    return form


def _studies(collection: Collection, form: str, split: str) -> Iterator[Study]:
    collection.images.refuse_twice()
    if form == "openi":
        yield from _openi(collection)
        return
    for record in _listed(collection, form):
        if record.split == split:
            yield _study(collection, record)


def _try(collection: Collection, form: str) -> dict[str, list[Study]]:
    """Every study of a form by split, made as a run would; an error says why a run could not."""
    return {split: list(_studies(collection, form, split)) for split in SPLITS[form]}


def _openi(collection: Collection) -> Iterator[Study]:
    """Every study: texts and images of the XML, or else of Kaggle's tables; views of the projections."""
    reports = collection.xml if collection.xml is not None else _kaggle_reports(collection)
    for report in reports.values():
        folder = r2gen_folder(report.images[0]) if report.images and collection.xml is not None else None
        images = tuple(
            Image(
                image_id,
                collection.images.find(image_id, f"{folder}/{number}") or collection.images.absent(image_id),
                collection.view(image_id),
            )
            for number, image_id in enumerate(report.images)
        )
        yield Study(
            study_id=report.uid,
            patient_id=None,
            split="all",
            images=images,
            sections=report.sections,
            labels=_labels(collection, report.uid),
            columns=_columns(report.uid, report),
        )


def _kaggle_reports(collection: Collection) -> dict[str, Report]:
    """Kaggle's reports with the images its projections name."""
    if collection.kaggle is None:
        raise NotGivenError(
            "this task reads the reports of the collection, and neither Open-i's XML nor Kaggle's tables were given",
            fix=f"{collection.sources.add('openi-xml')}, or for Kaggle's form "
            "cxrbench data add iu-xray --tables PATH/indiana_reports.csv --tables PATH/indiana_projections.csv",
        )
    refuse_damage(collection.kaggle, collection.sources.need("kaggle-reports", ""))
    collection.sources.need("kaggle-projections", "Kaggle's reports do not say which images belong to them")
    openi_named, numbered = collection.images.naming
    if numbered and not openi_named:
        _refuse_order(collection, "the images have R2Gen's names (<study>/0.png) and the reports come from Kaggle")
    named = collection.projections.images if collection.projections is not None else {}
    return {
        uid: Report(uid, report.sections, report.mesh, named.get(uid, ()))
        for uid, report in collection.kaggle.reports.items()
    }


def _refuse_order(collection: Collection, situation: str) -> None:
    raise NotGivenError(
        f"{situation}: which image is meant by a number is known from Open-i's XML only",
        fix=collection.sources.add("openi-xml"),
    )


def _listed(collection: Collection, form: str) -> list[Listed]:
    """R2Gen's or ReXrank's studies, after the numbers of their images are known to mean files."""
    records = collection.r2gen if form == "r2gen" else collection.rexrank
    if records is None:
        collection.sources.need(form, f"this task reads the form {form} of iu-xray")
        return []
    openi_named, numbered = collection.images.naming
    if openi_named and not numbered and collection.xml is None:
        _refuse_order(
            collection, "the images have Open-i's or Kaggle's names and the split numbers them (<study>/0.png)"
        )
    return records


def _study(collection: Collection, record: Listed) -> Study:
    report = collection.report(record.uid)
    order = collection.xml[record.uid].images if collection.xml is not None and record.uid in collection.xml else ()
    images = []
    for image in record.images:
        if order and image.number >= len(order):
            raise CxrbenchError(
                f"the split names image {image.name}, and the XML of {record.uid} has {len(order)} image(s)",
                where=str(collection.sources.get("openi-xml")),
                fix="use the split and the XML as published; cxrbench data check iu-xray compares them",
            )
        openi = order[image.number] if order else None
        path = collection.images.find(openi, image.name, prefer_numbered=True)
        path = path or collection.images.absent(f"{image.name}.png")
        images.append(Image(image.name, path, collection.view(openi) or image.view))
    return Study(
        study_id=record.study_id,
        patient_id=None,
        split=record.split,
        images=tuple(images),
        sections=record.sections,
        labels=_labels(collection, record.uid),
        columns=_columns(record.uid, report),
    )


def _labels(collection: Collection, uid: str) -> dict[str, Mapping[str, float]]:
    return {GOLD: collection.gold[uid]} if uid in collection.gold else {}


def _columns(uid: str, report: Report | None) -> dict[str, str]:
    columns = {"uid": uid}
    if report is not None and report.mesh:
        columns["mesh"] = ";".join(report.mesh)
        if report.abnormal is not None:
            columns["abnormal"] = report.abnormal
    return columns


def _name_and_size(path: str) -> tuple[str, int]:
    """Folder and name of an image file and its size; nothing and -1 where it is not there."""
    file = Path(path)
    try:
        return "/".join(file.parts[-2:]), file.stat().st_size
    except OSError:
        return "", -1
