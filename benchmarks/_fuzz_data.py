"""What `benchmarks.fuzz` feeds with damaged input: reports, tables and JSON of data sets."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks._fuzz_base import JSON, Reader, Target, by_first_byte, each, in_file

REPORT = (
    " FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n INDICATION:  Cough for three days.\n \n"
    " FINDINGS: \n \n The lungs are clear.  No effusion.\n \n IMPRESSION: \n \n No acute process.\n"
)


def _mimic_report(folder: Path) -> Reader:
    from cxrbench.data.mimic_files import decode_report
    from cxrbench.data.mimic_section_rules import FORCED_RANGES, FORCED_SECTIONS
    from cxrbench.data.sections import study_sections

    ids = ("59999000", min(FORCED_SECTIONS), min(FORCED_RANGES), max(FORCED_RANGES))

    def read(data: bytes) -> object:
        try:
            text = decode_report(data[1:])
        except UnicodeDecodeError:  # the documented refusal; its caller counts the report
            return None
        return study_sections(ids[data[0] % len(ids)], text) if data else None

    return read


def _openi(folder: Path) -> Reader:
    from cxrbench.data.iu_reports import parse_report

    return lambda data: parse_report(data, "a report")


OPENI = (
    b'<?xml version="1.0" encoding="utf-8"?>\n<eCitation><uId id="CXR7"/><MedlineCitation><Article><Abstract>'
    b'<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="FINDINGS">Clear &amp; dry.'
    b'</AbstractText><AbstractText Label="IMPRESSION">Normal.</AbstractText></Abstract></Article></MedlineCitation>'
    b'<MeSH><major>normal</major></MeSH><parentImage id="CXR7_IM-2263-1001"><figureId>F1</figureId></parentImage>'
    b"</eCitation>"
)


def _texts(folder: Path) -> Reader:
    from cxrbench.data.rexrank_context import ContextError, read_context
    from cxrbench.data.text import NORMALISATIONS, decode, normalise

    def read(data: bytes) -> object:
        text = decode(data, "a text")
        for name in NORMALISATIONS:
            normalise(name, text)
        try:
            return read_context(text)
        except ContextError:  # the documented refusal; its caller names the record
            return None

    return read


# Tables


def _mimic_tables(folder: Path) -> Reader:
    from cxrbench.data import mimic_tables as tables
    from cxrbench.data.mimic_demographics import read_patients

    def labels(file: Path) -> object:
        return tables.kind_of(file), tables.label_table("chexpert", file)

    known, races = folder / "known", folder / "races"
    for place in (known, races):
        place.mkdir()
    (races / "patients.csv").write_bytes(_PATIENTS)

    def patients(file: Path) -> object:
        return read_patients((file.parent,), ["19999001"])

    return by_first_byte(
        (
            in_file(folder, "split.csv", tables.split_table),
            in_file(folder, "metadata.csv", tables.metadata_table),
            in_file(folder, "chexpert.csv", labels),
            in_file(known, "patients.csv", patients),
            in_file(races, "admissions.csv", patients),
        )
    )


_PATIENTS = b"subject_id,gender,anchor_age,anchor_year,anchor_year_group\n19999001,F,52,2180,2014 - 2016\n"


def _mimic_table_seeds() -> list[bytes]:
    image = "0a0a0a0a-0b0b0b0b-0c0c0c0c-0d0d0d0d-0e0e0e0e"
    return [
        *each(0, f"dicom_id,study_id,subject_id,split\n{image},59999001,19999001,test\n".encode()),
        *each(
            1, f'dicom_id,study_id,ViewPosition,StudyDate,StudyTime\n{image},59999001,"PA",21800506,213014.5\n'.encode()
        ),
        *each(2, b"subject_id,study_id,Atelectasis,Pneumonia,No Finding\n19999001,59999001,1.0,-1.0,\n"),
        *each(3, _PATIENTS),
        *each(4, b"subject_id,hadm_id,race\n19999001,1,WHITE\n19999001,2,UNKNOWN\n"),
    ]


def _kaggle_tables(folder: Path) -> Reader:
    from cxrbench.data import iu_tables

    return by_first_byte(
        (
            in_file(folder, "indiana_reports.csv", iu_tables.read_kaggle_reports),
            in_file(folder, "indiana_projections.csv", iu_tables.read_projections),
            in_file(folder, "gold.csv", iu_tables.read_gold),
        )
    )


def _kaggle_seeds() -> list[bytes]:
    return [
        *each(
            0,
            b'uid,MeSH,Problems,image,indication,comparison,findings,impression\n1,normal,normal,x,"Cough, dry",None.,Clear.,Normal.\n',  # noqa: E501
        ),
        *each(1, b"uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n1,1_IM-0001-3001.dcm.png,Lateral\n"),
        *each(2, b"filename,normal,Cardiomegaly\nCXR1,1,0\nCXR2,0,1\n"),
    ]


# JSON of data sets


def _annotation(folder: Path) -> Reader:
    from cxrbench.data import iu_protocols, mimic_protocols

    forms: list[Reader] = [
        in_file(
            folder,
            f"{form}_test.json",
            lambda file, form=form: mimic_protocols.group(mimic_protocols.records(form, file)),
        )
        for form in ("llavarad", "r2gen", "rexrank")
    ]
    forms += [
        in_file(folder, "iu_annotation.json", iu_protocols.read_r2gen),
        in_file(folder, "iu_rexrank.json", lambda file: iu_protocols.read_rexrank((file,))),
    ]
    return by_first_byte(forms)


def _annotation_seeds() -> list[bytes]:
    image = "p19/p19999001/s59999001/0a0a0a0a-0b0b0b0b-0c0c0c0c-0d0d0d0d-0e0e0e0e.jpg"
    llavarad = [
        {
            "image": f"mimic/{image}",
            "generate_method": "gpt4",
            "reason": "Cough.",
            "view": "AP",
            "split": "test",
            "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "Clear."}],
        }
    ]
    r2gen = {
        "train": [],
        "val": [],
        "test": [
            {
                "id": "a",
                "study_id": 59999001,
                "subject_id": 19999001,
                "report": "Clear.",
                "image_path": [image],
                "split": "test",
            }
        ],
    }
    rexrank = {
        "p1s1": {
            "id": "x",
            "image_path": [image],
            "frontal_lateral": ["Frontal"],
            "key_image_path": image,
            "context": "Age:60-70.Gender:F.Indication: cough.Comparison: None.",
            "section_findings": "Clear.",
            "section_impression": "Normal.",
            "split": "test",
        }
    }
    iu = {
        "train": [],
        "val": [],
        "test": [
            {
                "id": "CXR7_IM-2263",
                "report": "Clear.",
                "image_path": ["CXR7_IM-2263/0.png", "CXR7_IM-2263/1.png"],
                "split": "test",
            }
        ],
    }
    iu_rexrank = {
        "CXR7_IM-2263": {
            "image_path": ["CXR7_IM-2263/0.png"],
            "frontal_lateral": ["Frontal"],
            "key_image_path": "CXR7_IM-2263/0.png",
            "context": "Indication: cough.Comparison: None.",
            "section_findings": "Clear.",
            "section_impression": "Normal.",
            "split": "test",
        }
    }
    bodies = (llavarad, r2gen, rexrank, iu, iu_rexrank)
    return [bytes([number]) + json.dumps(body).encode() for number, body in enumerate(bodies)]


def _jsonl(folder: Path) -> Reader:
    from cxrbench.data.base import Slice
    from cxrbench.data.jsonl import Jsonl

    data = Jsonl()

    def read(file: Path) -> object:
        roots = {"reports": (file,), "images": (folder,)}
        return [*data.check(roots)], [*data.studies(roots, Slice("test", {}))]

    return in_file(folder, "data.jsonl", read)


def _jsonl_seeds() -> list[bytes]:
    row = {
        "study_id": "s1",
        "patient_id": 7,
        "split": "test",
        "images": [{"path": "a.png", "view": "PA"}, "b.png"],
        "sections": {"findings": "Clear.", "indication": "Cough."},
        "study_time": "2180-05-06T21:30:14",
        "sex": "F",
        "age": 61,
        "labels": {"chexpert": {"Edema": 1, "Fracture": None}},
        "priors": ["s0"],
        "site": "b",
    }
    return [(json.dumps(row) + "\n").encode(), b'{"study_id": 5}\n\n{"study_id": 6, "sections": {}}\n']


DATA = (
    Target(
        "mimic-report",
        "MIMIC report text and section rules",
        _mimic_report,
        lambda: [bytes([number]) + REPORT.encode() for number in range(4)],
        ("\n FINDINGS:\n", "\n IMPRESSION: ", "\n \n"),
        2000,
    ),
    Target(
        "openi-xml",
        "Open-i XML",
        _openi,
        lambda: [OPENI],
        ("<!DOCTYPE", "<!ENTITY", "<![CDATA[", "]]>", "&#0;", "&lt;", "<AbstractText", "xmlns:", "<?", "\xff"),
        1200,
    ),
    Target(
        "texts",
        "decoding, text normalisations, ReXrank's context",
        _texts,
        lambda: [b"Age:60-70.Gender:F.Indication: cough.Comparison: None.", b"x-XXXX (XXXX), XXXX's XXXX. Clear XXXX."],
        ("XXXX", "Gender:", "Comparison:"),
        800,
    ),
    Target(
        "mimic-tables",
        "split, metadata, label, patient and admission tables (CSV)",
        _mimic_tables,
        _mimic_table_seeds,
        (",", '"', "\r\n", "\n", "nan", "1.0", "\ufeff", ";"),
    ),
    Target(
        "kaggle-tables",
        "Kaggle's IU reports, projections, gold labels (CSV)",
        _kaggle_tables,
        _kaggle_seeds,
        (",", '"', "\n", "#NAME?", "\ufeff", ";", ".dcm.png"),
    ),
    Target("annotation", "annotation.json of R2Gen, LLaVA-Rad, ReXrank", _annotation, _annotation_seeds, JSON, 900),
    Target("jsonl", "own data (JSONL)", _jsonl, _jsonl_seeds, JSON),
)
