"""Writes small copies of IU X-ray with invented text, in exactly the layouts people have on disk."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

REPORTS = {
    # uid: (sections, mesh, image ids in XML order)
    "CXR1": (
        {"COMPARISON": "None.", "INDICATION": "Cough", "FINDINGS": "Lungs clear.", "IMPRESSION": "Normal x-XXXX."},
        ["normal"],
        ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"],
    ),
    "CXR10": (
        {"INDICATION": "XXXX", "FINDINGS": "Left effusion,\n 4.8 cm.", "IMPRESSION": "Effusion."},
        ["Pleural Effusion/left", "Cardiomegaly"],
        ["CXR10_IM-0002-1001-0001", "CXR10_IM-0002-1001-0002", "CXR10_IM-0002-2001"],
    ),
    "CXR2": ({"IMPRESSION": "Stable."}, ["No Indexing"], ["CXR2_IM-0652-1001"]),
    "CXR77": ({"FINDINGS": "Clear.", "IMPRESSION": "Nothing acute."}, [], []),
}
VIEWS = {
    "CXR1_1_IM-0001-4001": "Frontal",
    "CXR1_1_IM-0001-3001": "Lateral",
    "CXR10_IM-0002-1001-0001": "Frontal",
    "CXR10_IM-0002-1001-0002": "Frontal",
    "CXR10_IM-0002-2001": "Lateral",
    "CXR2_IM-0652-1001": "Frontal",
}


def xml(uid: str) -> str:
    sections, mesh, images = REPORTS[uid]
    texts = "\n".join(
        f'<AbstractText Label="{label}">{sections.get(label, "")}</AbstractText>'
        for label in ("COMPARISON", "INDICATION", "FINDINGS", "IMPRESSION")
    )
    majors = "".join(f"<major>{term}</major>" for term in mesh)
    parents = "".join(f'<parentImage id="{image}"><figureId>F1</figureId></parentImage>' for image in images)
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<eCitation>\n<meta type="rr"/>\n<uId id="{uid}"/>\n'
        f"<MedlineCitation><Article><Abstract>{texts}</Abstract></Article></MedlineCitation>\n"
        f"<MeSH>{majors}<automatic>effusion</automatic></MeSH>\n{parents}</eCitation>"
    )


def openi_folder(root: Path) -> Path:
    folder = root / "ecgen-radiology"
    folder.mkdir(parents=True)
    for uid in REPORTS:
        (folder / f"{uid[3:]}.xml").write_text(xml(uid), encoding="utf-8")
    return folder


def tgz(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def openi_archive(root: Path) -> Path:
    return tgz(root / "NLMCXR_reports.tgz", {f"ecgen-radiology/{uid[3:]}.xml": xml(uid).encode() for uid in REPORTS})


def kaggle_name(image_id: str) -> str:
    return image_id.removeprefix("CXR").removeprefix("1_" if image_id.startswith("CXR1_1_") else "") + ".dcm.png"


def _csv(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def kaggle(root: Path, damaged: tuple[str, ...] = ()) -> tuple[Path, Path]:
    """The two tables; Kaggle has only studies with an image. `damaged` uids get `#NAME?` for their findings."""
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for uid, (sections, mesh, images) in REPORTS.items():
        if images:
            low = {name.lower(): text for name, text in sections.items()}
            findings = "#NAME?" if uid in damaged else low.get("findings", "")
            rest = [low.get("indication", ""), low.get("comparison", ""), findings, low.get("impression", "")]
            rows.append([uid[3:], ";".join(mesh), ";".join(mesh), "Xray Chest PA and Lateral", *rest])
    header = ["uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression"]
    reports = _csv(root / "indiana_reports.csv", header, rows)
    views = [[image[3:].split("_")[0], kaggle_name(image), view] for image, view in VIEWS.items()]
    return reports, _csv(root / "indiana_projections.csv", ["uid", "filename", "projection"], views)


def gold(root: Path) -> Path:
    return _csv(root / "openi_gld_std14.csv", ["filename", "Cardiomegaly", "normal"], [["CXR1", "0", "1"]])


R2GEN = {
    "train": [("CXR10_IM-0002-1001", "Left effusion,\n 4.8 cm.")],
    "val": [],
    "test": [("CXR1_1_IM-0001", "Lungs clear.")],
}


def r2gen_records() -> dict[str, list[dict[str, object]]]:
    return {
        split: [
            {"id": name, "report": text, "image_path": [f"{name}/0.png", f"{name}/1.png"], "split": split}
            for name, text in records
        ]
        for split, records in R2GEN.items()
    }


def r2gen(root: Path) -> Path:
    path = root / "annotation.json"
    path.write_text(json.dumps(r2gen_records()), encoding="utf-8")
    return path


def rexrank_record() -> dict[str, object]:
    return {
        "key_image_path": "CXR1_1_IM-0001/1.png",
        "image_path": ["CXR1_1_IM-0001/0.png", "CXR1_1_IM-0001/1.png"],
        "report": "Findings: Lungs clear. Impression: Normal x-XXXX.",
        "section_findings": "Lungs clear.",
        "section_impression": "Normal x-XXXX.",
        "split": "test",
        "frontal_lateral": ["Lateral", "Frontal"],
        "context": "Indication: Cough Comparison: None.",
    }


def rexrank(root: Path, record: dict[str, object] | None = None) -> Path:
    path = root / "ReXRank_IUXray_test.json"
    body = {"CXR1_1_IM-0001": record if record is not None else rexrank_record()}
    path.write_text(json.dumps(body, indent=4), encoding="utf-8")
    return path


def image_name(image_id: str, naming: str) -> str:
    """The file of an image under one of the four namings."""
    if naming == "r2gen":
        images = next(images for _, _, images in REPORTS.values() if image_id in images)
        return f"{images[0].rsplit('-', 1)[0]}/{images.index(image_id)}.png"
    return {
        "openi": f"{image_id}.png",
        "kaggle": kaggle_name(image_id),
        "thumbnail": kaggle_name(image_id).replace(".png", ".jpg"),
    }[naming]


def images(root: Path, naming: str, leave_out: tuple[str, ...] = ()) -> Path:
    """Real (tiny, one grey value each) image files, two folders down."""
    from PIL import Image

    folder = root / "deep" / naming
    for number, image_id in enumerate(VIEWS):
        if image_id not in leave_out:
            path = folder / image_name(image_id, naming)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 20 * number).save(path)
    return root
