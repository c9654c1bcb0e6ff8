"""An invented CheXpert Plus in its layout: 27 columns, images under their paths, labels a line each."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

COLUMNS = """path_to_image path_to_dcm frontal_lateral ap_pa deid_patient_id patient_report_date_order report
section_narrative section_clinical_history section_history section_comparison section_technique
section_procedure_comments section_findings section_impression section_end_of_impression section_summary
section_accession_number age sex race ethnicity interpreter_needed insurance_type recent_bmi deceased split""".split()  # noqa: SIM905 - the header of the table, as its schema has it


def row(path: str, **more: Any) -> dict[str, Any]:
    split, patient = path.split("/")[:2]
    side = "Lateral" if "lateral" in path else "Frontal"
    told = {
        "path_to_image": path, "path_to_dcm": path.replace(".jpg", ".dcm"), "frontal_lateral": side,
        "ap_pa": "AP" if side == "Frontal" else "", "deid_patient_id": patient, "patient_report_date_order": 1,
        "section_impression": "Invented, and\nof two lines.", "section_clinical_history": "Invented cough.",
        "age": 61, "sex": "Female", "race": "White, non-Hispanic", "ethnicity": "Non-Hispanic/Non-Latino",
        "insurance_type": "Medicare", "split": split,
    }  # fmt: skip
    return {**dict.fromkeys(COLUMNS, ""), **told, **more}


ROWS = [
    row("valid/patient64541/study1/view1_frontal.jpg"),
    row("train/patient00001/study1/view1_frontal.jpg", section_findings="Invented.", age=20),
    row("valid/patient64541/study1/view2_lateral.jpg"),
    row("valid/patient64542/study2/view1_frontal.jpg", ap_pa="PA", sex="Male", age="", race="Unknown", ethnicity=""),
    row("valid/patient64543/study1/view1_frontal.jpg", ap_pa="", race="Patient Refused", section_clinical_history="",
        section_history="Invented history.", sex="Unknown"),
]  # fmt: skip


def write(root: Path, rows: Sequence[dict[str, Any]] = ROWS, ending: str = ".png") -> dict[str, tuple[Path, ...]]:
    root.mkdir(parents=True, exist_ok=True)
    table = root / "df_chexpert_plus_240401.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    for each in rows:
        path = (root / "PNG" / each["path_to_image"]).with_suffix(ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 100).save(path)
    lines = [
        {"path_to_image": each["path_to_image"], "Edema": 1.0, "Fracture": None, "No Finding": -1.0} for each in rows
    ]
    (root / "CheXpert_Labels").mkdir(exist_ok=True)
    (root / "CheXpert_Labels" / "impression_fixed.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"tables": (table,), "images": (root,), "annotations": (root / "CheXpert_Labels",)}
