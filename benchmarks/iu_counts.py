"""Counts of IU X-ray: what the published files and the literature state beside what cxrbench finds in a copy.

    python benchmarks/iu_counts.py DIR [--full]

DIR holds the collection (anything `cxrbench data add iu-xray --reports DIR` takes). What is found is compared with the
copy the tests use, which leaves out 300 of the 3,955 studies (R2Gen's and ReXrank's test and validation parts are
whole), or with the full collection (--full). Ends with 1 when a count differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from cxrbench.data.base import Slice
from cxrbench.data.iu_check import image_counts, section_counts
from cxrbench.data.iu_collection import Collection
from cxrbench.data.iu_xray import IuXray
from cxrbench.data.samples import make_samples
from cxrbench.spec import find_task

STATED: Mapping[str, tuple[int | None, int | None]] = {
    # count: (in the tests' copy, in full); None: not stated
    "XML reports": (3655, 3955),
    "XML both sections": (None, 3419),
    "XML impression only": (None, 502),
    "XML findings only": (None, 6),
    "XML neither": (None, 28),
    "XML studies with 0 images": (None, 104),
    "XML studies with 1 images": (None, 446),
    "XML studies with 2 images": (None, 3208),
    "XML studies with 3 images": (None, 181),
    "XML studies with 4 images": (None, 15),
    "XML studies with 5 images": (None, 1),
    "XML images": (None, 7470),
    "XML reports with XXXX": (None, 3411),
    "Kaggle reports": (3574, 3851),
    "Kaggle reports that differ from the XML": (0, 0),
    "Kaggle projections": (6941, 7466),
    "Kaggle frontal": (None, 3818),
    "Kaggle lateral": (None, 3648),
    "XML images without a projection": (4, 4),
    "R2Gen train": (1899, 2069),
    "R2Gen validate": (296, 296),
    "R2Gen test": (590, 590),
    "R2Gen studies not (findings and >= 2 images)": (0, 0),
    "(findings and >= 2 images) not in R2Gen": (0, 0),
    "R2Gen test findings verbatim in train": (None, 274),
    "R2Gen test findings distinct": (398, 398),
    "R2Gen test findings with XXXX": (212, 212),
    "R2Gen test 0.png not frontal": (57, 57),
    "R2Gen test without a frontal": (3, 3),
    "R2Gen test with two frontals": (7, 7),
    "ReXrank validate": (296, 296),
    "ReXrank test": (590, 590),
    "ReXrank studies not in R2Gen's split": (0, 0),
    "gold labels": (3574, 3851),
    "gold normal": (None, 1379),
    "task iu-findings": (None, 3337),
    "task iu-impression": (None, 3820),
    "task iu-impression-given-findings": (None, 3331),
    "task iu-findings-r2gen": (590, 590),
    "task iu-findings-rexrank": (590, 590),
}


def counts(folder: Path) -> Iterator[tuple[str, int]]:
    collection = Collection({"reports": (folder,)})
    yield from reports(collection)
    yield from kaggle(collection)
    yield from selections(collection)
    yield "gold labels", len(collection.gold)
    yield "gold normal", sum(labels["normal"] == 1 for labels in collection.gold.values())
    for task in (name.removeprefix("task ") for name in STATED if name.startswith("task ")):
        spec = find_task(task)
        studies = IuXray().studies({"reports": (folder,)}, Slice(spec.dataset.split, spec.dataset.options))
        yield f"task {task}", len(make_samples(spec, studies).samples)


def reports(collection: Collection) -> Iterator[tuple[str, int]]:
    found = list(collection.xml.values())
    yield "XML reports", len(found)
    for name, count in section_counts(found).items():
        yield f"XML {name}", count
    for images, count in image_counts(found).items():
        yield f"XML studies with {images} images", count
    yield "XML images", sum(len(report.images) for report in found)
    yield "XML reports with XXXX", sum(any("XXXX" in text for text in r.sections.values()) for r in found)


def kaggle(collection: Collection) -> Iterator[tuple[str, int]]:
    tables, xml, views = collection.kaggle.reports, collection.xml, collection.projections.views
    yield "Kaggle reports", len(tables)
    yield "Kaggle reports that differ from the XML", sum(r.sections != xml[uid].sections for uid, r in tables.items())
    yield "Kaggle projections", len(views)
    for view in ("FRONTAL", "LATERAL"):
        yield f"Kaggle {view.lower()}", sum(each == view for each in views.values())
    yield "XML images without a projection", sum(i not in views for r in xml.values() for i in r.images)


def selections(collection: Collection) -> Iterator[tuple[str, int]]:
    parts = {split: [r for r in collection.r2gen if r.split == split] for split in ("train", "validate", "test")}
    for split, records in parts.items():
        yield f"R2Gen {split}", len(records)
    xml = collection.xml
    rule = {uid for uid, r in xml.items() if "findings" in r.sections and len(r.images) >= 2}
    listed = {record.uid for record in collection.r2gen}
    yield "R2Gen studies not (findings and >= 2 images)", len(listed - rule)
    yield "(findings and >= 2 images) not in R2Gen", len(rule - listed)
    train, test = ([r.sections["findings"] for r in parts[split]] for split in ("train", "test"))
    yield "R2Gen test findings verbatim in train", sum(text in set(train) for text in test)
    yield "R2Gen test findings distinct", len(set(test))
    yield "R2Gen test findings with XXXX", sum("XXXX" in text for text in test)
    views = [[collection.view(xml[r.uid].images[image.number]) for image in r.images] for r in parts["test"]]
    yield "R2Gen test 0.png not frontal", sum(view[0] != "FRONTAL" for view in views)
    yield "R2Gen test without a frontal", sum("FRONTAL" not in view for view in views)
    yield "R2Gen test with two frontals", sum(view.count("FRONTAL") == 2 for view in views)
    for split in ("validate", "test"):
        yield f"ReXrank {split}", sum(record.split == split for record in collection.rexrank)
    ours = {(record.study_id, record.split) for record in collection.r2gen}
    yield "ReXrank studies not in R2Gen's split", sum((r.study_id, r.split) not in ours for r in collection.rexrank)


def main() -> int:
    parser = argparse.ArgumentParser(description="Counts of IU X-ray: stated and found")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--full", action="store_true", help="the folder holds the full collection")
    arguments = parser.parse_args()
    wrong = 0
    print(f"{'':46}{'stated: copy':>14}{'full':>8}{'found':>8}")
    for name, found in counts(arguments.folder):
        copy, full = STATED[name]
        expected = full if arguments.full else copy
        differs = expected is not None and expected != found
        wrong += differs
        shown = "".join(f"{'-' if n is None else n:>{width}}" for n, width in ((copy, 14), (full, 8), (found, 8)))
        print(f"{name:46}{shown}{'   differs' if differs else ''}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
