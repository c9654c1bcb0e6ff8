"""Builds small trees in exactly MIMIC-CXR's layouts, with invented patients and invented text.

Patients are 19999xxx, studies 59999xxx; dicom ids are made from both. Nothing here comes from MIMIC-CXR.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from cxrbench.data.chexpert import LABELS

Roots = dict[str, tuple[Path, ...]]

METADATA_COLUMNS = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip


def report(
    findings: str | None = None, impression: str | None = None, indication: str | None = "Invented cough."
) -> str:
    """A report in the layout of MIMIC-CXR: headers after one space, blank lines of one space."""
    parts = ["                                 FINAL REPORT", " EXAMINATION:  CHEST (PA AND LAT)"]
    if indication is not None:
        parts.append(f" INDICATION:  {indication}")
    parts += [" TECHNIQUE:  Invented technique.", " COMPARISON:  None."]
    if findings is not None:
        parts.append(f" FINDINGS: \n \n {findings}")
    if impression is not None:
        parts.append(f" IMPRESSION: \n \n {impression}")
    return "\n \n".join(parts) + "\n"


def dicom_id(study: int, number: int) -> str:
    """An image id of the published form: five groups of eight hex digits."""
    return f"{study:08x}-{number:08x}-aaaaaaaa-bbbbbbbb-cccccccc"


@dataclass(frozen=True)
class Case:
    """One invented study. `views` has one entry per image; `date` and `time` as the metadata table writes them."""

    subject: int
    study: int
    split: str
    text: str | bytes | None
    views: tuple[str, ...] = ("PA", "LATERAL")
    date: str = "21800506"
    time: str = "213014.531000"
    labels: Mapping[str, float] = field(default_factory=dict)
    expert: Mapping[str, float] | None = None

    @property
    def folder(self) -> str:
        return f"p{self.subject // 1_000_000}/p{self.subject}/s{self.study}"

    @property
    def image_ids(self) -> tuple[str, ...]:
        return tuple(dicom_id(self.study, number) for number in range(len(self.views)))


def cases() -> list[Case]:
    """Eight studies of five patients: every split, several views, priors, a tie, an undated one, no findings."""
    normal = {"No Finding": 1.0}
    return [
        Case(19999001, 59999001, "test", report("Heart is large.", "Big heart."), ("LATERAL", "PA"), "21800506",
             "93014.531", {"Cardiomegaly": 1.0, "Edema": -1.0, "Fracture": 0.0},
             {"Cardiomegaly": 1.0, "Airspace Opacity": 0.0}),
        Case(19999001, 59999002, "test", report("Heart is larger.", "Bigger heart."), ("AP",), "21810101", "000001.000",
             {"Cardiomegaly": 1.0}),
        Case(19999001, 59999003, "test", report(None, "No change.", None), ("AP", "LL"), "21790101", "120000", normal),
        Case(19999002, 59999004, "test", report("Clear lungs.", None), ("", "LATERAL"), "21500101", "101010", normal),
        Case(19999002, 59999005, "test", report("Clear lungs again.", "Normal."), ("AP AXIAL", "PA"), "21500101",
             "101010.0", normal),
        Case(19999003, 59999006, "test", report("A nodule.", "Nodule."), ("PA",), "", "", {"Lung Lesion": 1.0}),
        Case(19999004, 59999007, "validate", report("Small effusion.", "Effusion."), ("PA",), "21600101", "080000"),
        Case(18999005, 59999008, "train", report("Tube in place.", "Tube."), ("AP",), "21700101", "080000",
             {"Support Devices": 1.0}),
    ]  # fmt: skip


def write_reports(root: Path, items: Sequence[Case]) -> Path:
    """files/pNN/pNNNNNNNN/sNNNNNNNN.txt below `root`."""
    for case in items:
        if case.text is None:
            continue
        path = root / "files" / f"{case.folder}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(case.text if isinstance(case.text, bytes) else case.text.encode("ascii"))
    return root


def write_zip(path: Path, items: Sequence[Case], prefix: str = "mimic-cxr-reports/files/") -> Path:
    """mimic-cxr-reports.zip with the same members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for case in items:
            if case.text is not None:
                archive.writestr(f"{prefix}{case.folder}.txt", case.text)
    return path


def write_images(root: Path, items: Sequence[Case], extension: str = ".jpg", size: int = 8) -> Path:
    """files/pNN/pNNNNNNNN/sNNNNNNNN/<dicom id><extension>: real pictures, all grey."""
    for case in items:
        for image_id in case.image_ids:
            path = root / "files" / case.folder / f"{image_id}{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if extension == ".dcm":
                write_dicom(path, size)
            else:
                Image.new("L", (size, size), 128).save(path)
    return root


def write_dicom(path: Path, size: int) -> None:
    """A small valid DICOM file."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = ComputedRadiographyImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=[path.stem])
    data.Rows = data.Columns = size
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = bytes(2 * size * size)
    data.save_as(path, enforce_file_format=True)


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """A table, gzipped when its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    raw = text.getvalue().encode()
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)
    return path


def write_tables(root: Path, items: Sequence[Case], packed: bool = True, version: str = "2.1.0") -> Path:
    """split, metadata, chexpert, negbio and, for 2.1.0, the test-set-labeled table, as MIMIC-CXR-JPG has them."""
    end = ".csv.gz" if packed else ".csv"
    images = [(case, number, image) for case in items for number, image in enumerate(case.image_ids)]
    write_csv(
        root / f"mimic-cxr-2.0.0-split{end}",
        ("dicom_id", "study_id", "subject_id", "split"),
        [(image, case.study, case.subject, case.split) for case, _, image in images],
    )
    write_csv(
        root / f"mimic-cxr-2.0.0-metadata{end}",
        METADATA_COLUMNS,
        [
            (image, case.subject, case.study, "CHEST (PA AND LAT)", case.views[number], 8, 8, case.date, case.time,
             "CHEST", case.views[number].lower(), "Erect")
            for case, number, image in images
        ],
    )  # fmt: skip
    columns = sorted(LABELS)  # as the published tables have them
    rows = [
        (case.subject, case.study, *(case.labels.get(name, "") for name in columns)) for case in items if case.labels
    ]
    for source in ("chexpert", "negbio"):
        write_csv(root / f"mimic-cxr-2.0.0-{source}{end}", ("subject_id", "study_id", *columns), rows)
    if version == "2.1.0":
        names = ["Airspace Opacity" if name == "Lung Opacity" else name for name in columns]
        expert = [(case.study, *(case.expert.get(name, "") for name in names)) for case in items if case.expert]
        write_csv(root / "mimic-cxr-2.1.0-test-set-labeled.csv", ("study_id", *names), expert)
    return root


def write_mimic_iv(root: Path) -> Path:
    """hosp/patients and hosp/admissions of MIMIC-IV: one plain, one over 89, one with conflicting race."""
    write_csv(
        root / "hosp" / "patients.csv.gz",
        ("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"),
        [(19999001, "F", 60, 2178, "2011 - 2013", ""), (19999002, "M", 91, 2149, "2011 - 2013", ""),
         (19999004, "F", 40, 2160, "2014 - 2016", "")],
    )  # fmt: skip
    write_csv(
        root / "hosp" / "admissions.csv.gz",
        ("subject_id", "hadm_id", "admittime", "race"),
        [(19999001, 1, "", "WHITE"), (19999001, 2, "", "UNKNOWN"), (19999002, 3, "", "ASIAN"),
         (19999002, 4, "", "WHITE"), (19999004, 5, "", "UNABLE TO OBTAIN")],
    )  # fmt: skip
    return root


def build(root: Path, items: Sequence[Case] | None = None, **tables: Any) -> Roots:
    """A whole installation: reports, images and tables each in a folder of their own."""
    items = cases() if items is None else items
    return {
        "reports": (write_reports(root / "mimic-cxr", items),),
        "images": (write_images(root / "mimic-cxr-jpg", items),),
        "tables": (write_tables(root / "tables", items, **tables),),
    }


def write_json(path: Path, body: Any) -> Path:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body), encoding="utf-8")
    return path


def llavarad(
    path: Path, items: Sequence[Case], method: str = "rule-based", findings: Any = "Invented findings."
) -> Path:
    """LLaVA-Rad's file: a list with one entry per image."""
    return write_json(
        path,
        [
            {
                "id": image, "image": f"mimic/{case.folder}/{image}.jpg", "generate_method": method, "view": view,
                "reason": "Invented\nreason.",
                "conversations": [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": findings}],
            }
            for case in items
            for image, view in zip(case.image_ids, case.views, strict=True)
        ],
    )  # fmt: skip


def r2gen(path: Path, items: Sequence[Case]) -> Path:
    """R2Gen's annotation.json for MIMIC-CXR: per split a list with one entry per image."""
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    for case in items:
        name = "val" if case.split == "validate" else case.split
        splits[name] += [
            {"id": image, "study_id": case.study, "subject_id": case.subject, "report": f"invented {case.study} .",
             "image_path": [f"{case.folder}/{image}.jpg"], "split": name}
            for image in case.image_ids
        ]  # fmt: skip
    return write_json(path, splits)


def rexrank(path: Path, items: Sequence[Case], context: str) -> Path:
    """ReXrank's MIMIC file: a mapping of studies; the key image is the last one here."""
    return write_json(
        path,
        {
            f"p{case.subject}_s{case.study}": {
                "image_path": [f"{case.folder}/{image}.jpg" for image in case.image_ids],
                "key_image_path": f"{case.folder}/{case.image_ids[-1]}.jpg",
                "frontal_lateral": ["Lateral" if view in ("LATERAL", "LL") else "Frontal" for view in case.views],
                "section_findings": "Invented findings.",
                "section_impression": "",
                "report": "Findings: Invented findings. Impression: ",
                "context": context,
                "split": "test",
            }
            for case in items
        },
    )
