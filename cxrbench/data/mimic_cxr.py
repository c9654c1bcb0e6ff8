"""MIMIC-CXR and MIMIC-CXR-JPG as a data set: PhysioNet's trees and tables, and the files of three protocols.

`form` in a task's data set options decides what is read: `physionet` (reports, official split and sections),
`llavarad`, `r2gen` or `rexrank` (that protocol's annotation file). Access is credentialed: nothing here puts report
text or an id in clear into a message. Never torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxrbench.data.base import Check, Progress, Root, Roots, Slice
from cxrbench.data.mimic_check import check_roots
from cxrbench.data.mimic_demographics import ONE_AGE_FROM, find_file
from cxrbench.data.mimic_files import file_size, find_reports, image_extensions, spaced, tree_bases
from cxrbench.data.mimic_index import build_index, index_matches, prepare_checks, read_index
from cxrbench.data.mimic_physionet import PhysioNet, need_split
from cxrbench.data.mimic_protocol_studies import image_sizes, need_annotations, protocol_studies
from cxrbench.data.mimic_protocols import FORMS, sniff
from cxrbench.data.mimic_section_rules import RULES_VERSION
from cxrbench.data.mimic_tables import content_hash, find_tables, is_csv, kind_of, split_table
from cxrbench.errors import CxrbenchError, suggest
from cxrbench.types import Access, Study

_STATTED = 4096
"""How many reports of a split have their size in its fingerprint: all of validate and test."""

_IMAGES = 256


class MimicCxr:
    """MIMIC-CXR. Study and patient ids are the digits of the tables, image ids the dicom ids; patients are clusters.

    Subgroup columns: `report` (mimic_physionet.REPORT), `prior` (mimic_exams.ORDERS), `view_code`
    (ViewCodeSequence_CodeMeaning), `generate_method` (LLaVA-Rad's files), and `abnormal`: no where the CheXpert
    table says No Finding, else yes. Views are ViewPosition in capitals, empty where it is empty.
    """

    name = "mimic-cxr"
    access: Access = "credentialed"
    may_be_open = False
    patient_ids = True
    one_age_from = ONE_AGE_FROM
    citation = (
        "Johnson et al., MIMIC-CXR, a de-identified publicly available database of chest radiographs with free-text "
        "reports. Sci Data 6, 317 (2019), doi 10.1038/s41597-019-0322-0; MIMIC-CXR Database 2.1.0 and "
        "MIMIC-CXR-JPG 2.1.0 (doi 10.13026/jsn5-t979), PhysioNet"
    )
    licence = "PhysioNet Credentialed Health Data License 1.5.0; data use agreement forbids sharing, also with APIs"
    roots: Mapping[str, Root] = {
        "reports": Root("the folder that holds files/p10/... with s########.txt, or mimic-cxr-reports.zip"),
        "images": Root("JPG, DICOM or resized tree: the folder that holds files/p10/...", required=True),
        "tables": Root(
            "folder or files of mimic-cxr-2.0.0-{split,metadata,chexpert,negbio}.csv(.gz) and the 2.1.0 one"
        ),
        "annotations": Root("JSON files of LLaVA-Rad, R2Gen or ReXrank, or folders that hold them"),
        "demographics": Root("MIMIC-IV: the folder that holds hosp/patients.csv.gz and hosp/admissions.csv.gz"),
    }
    options: Mapping[str, tuple[str, ...]] = {
        "form": ("physionet", *FORMS),
        "reports": ("all", "present"),
        "test_generate_method": (),
        "image_ext": (".jpg", ".jpeg", ".png", ".dcm"),
    }

    def recognise(self, path: Path) -> str | None:
        """Name the root a path looks like. A folder with reports and images is `reports`: give it as images too."""
        if path.is_file():
            return self._recognise_file(path)
        if not path.is_dir():
            return None
        if find_reports(path) is not None:
            return "reports"
        if any(image_extensions(base) for base in tree_bases(path)):
            return "images"
        if find_file((path,), "patients") is not None:
            return "demographics"
        if any(kind_of(each) for each in sorted(path.iterdir()) if is_csv(each)):
            return "tables"
        return "annotations" if any(sniff(each) for each in sorted(path.glob("*.json"))) else None

    def _recognise_file(self, path: Path) -> str | None:
        if is_csv(path):
            if find_file((path,), "patients") or find_file((path,), "admissions"):
                return "demographics"
            return "tables" if kind_of(path) else None
        if path.suffix == ".json":
            return "annotations" if sniff(path) else None
        return "reports" if find_reports(path) is not None else None

    def studies(self, roots: Roots, part: Slice, prepared: Path | None = None) -> Iterator[Study]:
        """Yield the studies of a split: by patient and study id, or in the order of a protocol's file."""
        form = self._form(part.options)
        if form != "physionet":
            return protocol_studies(roots, form, part.split, part.options)
        need_split(part.split)
        source = PhysioNet(roots, part.options)
        if prepared is not None and index_matches(prepared, roots, source):
            return map(source.accept, read_index(prepared, part.split))
        return source.studies(part.split)

    def check(self, roots: Roots) -> list[Check]:
        """What the roots hold; see mimic_check."""
        return check_roots(roots)

    def prepare(self, roots: Roots, out: Path, progress: Progress) -> list[Check]:
        """Build the index of the PhysioNet form. The protocols' files need none."""
        if not roots.get("reports") and roots.get("annotations"):
            return [Check("index", "note", "nothing to prepare: annotation files are read directly")]
        return prepare_checks(build_index(roots, out, progress), out)

    def index_in_use(self, roots: Roots, prepared: Path) -> bool:
        """Whether the PhysioNet form is read from the index in `prepared`."""
        return index_matches(prepared, roots, PhysioNet(roots, {}))

    def fingerprint(self, roots: Roots, part: Slice) -> str:
        """Hash over content of tables and annotations, section rules, and sizes of reports and images of the split.

        Places do not count, so two copies of the same data agree. Sizes are those of at most 4,096 reports and of
        256 images, evenly spaced: every report of validate and test, and enough images to tell a resized copy.
        """
        form = self._form(part.options)
        tables = find_tables(roots)
        hashes = {kind: content_hash(path) for kind, path in sorted(tables.items())}
        for stem in ("patients", "admissions"):
            path = find_file(roots.get("demographics", ()), stem)
            if path is not None:
                hashes[stem] = content_hash(path)
        parts: dict[str, Any] = {"form": form, "tables": hashes, "options": dict(sorted(part.options.items()))}
        if form == "physionet":
            parts |= {"rules": RULES_VERSION, **_sizes(PhysioNet(roots, part.options), part.split)}
        else:
            parts["annotations"] = [content_hash(path) for path in need_annotations(roots, form)]
            parts["images"] = image_sizes(roots, form, part.split, part.options, _IMAGES)
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def _form(self, options: Mapping[str, Any]) -> str:
        """The form a task asks for, with every option checked."""
        for name, value in options.items():
            if name not in self.options:
                raise CxrbenchError(
                    f"mimic-cxr has no option {name!r}{suggest(name, self.options)}", where="dataset.options"
                )
            allowed = self.options[name]
            if allowed and value not in allowed:
                raise CxrbenchError(
                    f"the option {name} of mimic-cxr cannot be {value!r}",
                    where="dataset.options",
                    fix=f"one of {', '.join(allowed)}",
                )
        return str(options.get("form", "physionet"))


def _sizes(source: PhysioNet, split: str) -> dict[str, list[int]]:
    """Sizes of reports and images of a split, evenly spaced in the order of ids."""
    frame = split_table(source.tables["split"])
    frame = frame[frame["split"] == need_split(split)].sort_values(["patient_id", "study_id", "image_id"])
    studies = frame.drop_duplicates("study_id")
    keys = list(zip(studies["patient_id"], studies["study_id"], strict=True))
    images = list(zip(frame["patient_id"], frame["study_id"], frame["image_id"], strict=True))
    return {
        "reports": source.reports.sizes(spaced(keys, _STATTED)),
        "images": [file_size(source.images.path(*each)) for each in spaced(images, _IMAGES)],
    }
