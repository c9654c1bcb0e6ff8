"""What `benchmarks.fuzz` and tests/security/test_fuzz.py feed with damaged input: every parser of other people's files.

A target reads bytes as a person's file would be read; only `CxrbenchError` (or the refusal its docstring names) may
come out. Seeds are whole, valid files in the real formats, with invented text.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Reader = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """A parser under attack.

    `make` imports what it needs and returns a reader that may use `folder` for scratch files; `seeds` are made by a
    function, so that listing targets costs nothing. `longest` bounds an input. `words` are the format's own tokens.
    """

    name: str
    reads: str
    make: Callable[[Path], Reader]
    seeds: Callable[[], Sequence[bytes]]
    words: tuple[str, ...] = ()
    longest: int = 600


REPORT = (
    " FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n INDICATION:  Cough for three days.\n \n"
    " FINDINGS: \n \n The lungs are clear.  No effusion.\n \n IMPRESSION: \n \n No acute process.\n"
)
_JSON = ("{", "}", "[", "]", ":", ",", '"', "null", "true", "NaN", "Infinity", "1e999", "-1", "\\ud800", "\\u0000")
_YAML = (
    "&a ",
    "*a",
    "<<: ",
    "!!python/object/apply:os.system ",
    "!!binary ",
    "? ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "|\n",
    ">-\n",
    "---\n",
    "2001-99-99",
    "0x",
    "1:60",
    ".inf",
    ".nan",
    "~",
    "%YAML 1.1\n",
)


def _in(folder: Path, name: str, read: Callable[[Path], object]) -> Reader:
    """A reader of a file of this name."""
    file = folder / name

    def write_and_read(data: bytes) -> object:
        file.write_bytes(data)
        return read(file)

    return write_and_read


def _by_first_byte(readers: Sequence[Reader]) -> Reader:
    """The first byte of the input chooses the reader."""
    return lambda data: readers[data[0] % len(readers)](data[1:]) if data else None


def _each(number: int, *files: bytes) -> list[bytes]:
    return [bytes([number]) + data for data in files]


# Reports


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

    def patients(file: Path) -> object:
        return read_patients((file.parent,), ["19999001"])

    return _by_first_byte(
        (
            _in(folder, "split.csv", tables.split_table),
            _in(folder, "metadata.csv", tables.metadata_table),
            _in(folder, "chexpert.csv", labels),
            _in(folder, "patients.csv", patients),
        )
    )


def _mimic_table_seeds() -> list[bytes]:
    image = "0a0a0a0a-0b0b0b0b-0c0c0c0c-0d0d0d0d-0e0e0e0e"
    return [
        *_each(0, f"dicom_id,study_id,subject_id,split\n{image},59999001,19999001,test\n".encode()),
        *_each(
            1, f'dicom_id,study_id,ViewPosition,StudyDate,StudyTime\n{image},59999001,"PA",21800506,213014.5\n'.encode()
        ),
        *_each(2, b"subject_id,study_id,Atelectasis,Pneumonia,No Finding\n19999001,59999001,1.0,-1.0,\n"),
        *_each(3, b"subject_id,gender,anchor_age,anchor_year,anchor_year_group\n19999001,F,52,2180,2014 - 2016\n"),
    ]


def _kaggle_tables(folder: Path) -> Reader:
    from cxrbench.data import iu_tables

    return _by_first_byte(
        (
            _in(folder, "indiana_reports.csv", iu_tables.read_kaggle_reports),
            _in(folder, "indiana_projections.csv", iu_tables.read_projections),
            _in(folder, "gold.csv", iu_tables.read_gold),
        )
    )


def _kaggle_seeds() -> list[bytes]:
    return [
        *_each(
            0,
            b'uid,MeSH,Problems,image,indication,comparison,findings,impression\n1,normal,normal,x,"Cough, dry",None.,Clear.,Normal.\n',  # noqa: E501
        ),
        *_each(1, b"uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n1,1_IM-0001-3001.dcm.png,Lateral\n"),
        *_each(2, b"filename,normal,Cardiomegaly\nCXR1,1,0\nCXR2,0,1\n"),
    ]


# JSON of data sets


def _annotation(folder: Path) -> Reader:
    from cxrbench.data import iu_protocols, mimic_protocols

    forms: list[Reader] = [
        _in(
            folder,
            f"{form}_test.json",
            lambda file, form=form: mimic_protocols.group(mimic_protocols.records(form, file)),
        )
        for form in ("llavarad", "r2gen", "rexrank")
    ]
    forms += [
        _in(folder, "iu_annotation.json", iu_protocols.read_r2gen),
        _in(folder, "iu_rexrank.json", lambda file: iu_protocols.read_rexrank((file,))),
    ]
    return _by_first_byte(forms)


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

    return _in(folder, "data.jsonl", read)


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
    return [(json.dumps(row) + "\n").encode(), b'{"study_id": 5, "sections": {"findings": "Clear."}}\n' * 2]


# YAML and TOML


def _yaml(reader: str, name: str) -> Callable[[Path], Reader]:
    """A target of a module's function that reads one YAML file of this name."""

    def make(folder: Path) -> Reader:
        from importlib import import_module

        module, function = reader.split(":")
        return _in(folder, name, getattr(import_module(module), function))

    return make


def _task_seeds() -> list[bytes]:
    return [
        b"name: t\nversion: 1\ntitle: T\nkind: findings\naccess: open\ndataset: {name: jsonl, split: test}\n"
        b"include: {sections: [findings], min_images: 1}\nimages: {offer: all, key: [PA, '']}\noffer: [indication]\n"
        b"target: findings\ntext: none\ngeneration: {max_new_tokens: 300}\nmetrics: {required: [bleu:raw]}\ncitation: c\n"  # noqa: E501
    ]


def _rubric_seeds() -> list[bytes]:
    return [
        b"name: r\nversion: 1\nparser: values\nrole: You count.\ntask: 'Reference: {reference} Candidate: {candidate}'\n"  # noqa: E501
        b"settings: {temperature: 0.0, max_tokens: 64}\ncategories:\n- {name: missed, about: x}\n"
        b"- {name: added, low: 0, high: 5}\nscore: max(0, 1 - 0.25 * (missed + added))\nwords: 80\n"
    ]


def _policy_seeds() -> list[bytes]:
    return [
        b'name: p\nalpha: 0.05\nmost: 3\nmetrics:\n- {metric: "bleu:raw", value: bleu_4, margin: 0.01}\n'
        b"length: {max_ratio: 1.25}\nspeed: {min_ratio: 0.9}\nmax_failed_share: 0.02\n"
    ]


def _board_seeds() -> list[bytes]:
    return [
        b"name: b\ntitle: B\nabout: >-\n  words\n  more\ntasks:\n- task: t\n  runs: [a.json, {path: b, label: B}]\n"
        b"  columns: &c\n  - bleu:raw/bleu_4\n- task: u\n  columns: *c\n"
    ]


def _board(file: Path) -> object:
    from cxrbench.report.board_spec import find_board

    return find_board(str(file))


def _config(folder: Path) -> Reader:
    from cxrbench.config import load_config

    return _in(folder, "cxrbench.toml", load_config)


def _config_seeds() -> list[bytes]:
    return [
        b'[data.jsonl]\nreports = "a.jsonl"\nimages = ["x", "../y"]\nprepared = "p"\n\n[models.hf]\npath = "m"\n\n'
        b'[assets]\nfolder = "w"\n[assets.paths]\nchexbert = "c"\n\n[trusted_endpoints]\n"llm.example" = "an agreement"\n'  # noqa: E501
    ]


# Predictions, runs and what is made of them


def _predictions(suffix: str) -> Callable[[Path], Reader]:
    def make(folder: Path) -> Reader:
        from cxrbench.predictions_file import read_predictions

        return _in(folder, f"predictions{suffix}", read_predictions)

    return make


def _parquet(columns: dict[str, list[object]], **how: object) -> bytes:
    import pyarrow
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pyarrow.table(columns), out, **how)
    return out.getvalue()


def _predictions_parquet_seeds() -> list[bytes]:
    columns: dict[str, list[object]] = {"sample_id": ["s1", "s2"], "prediction": ["Clear.", None], "site": ["a", "b"]}
    return [_parquet(columns, compression="none"), _parquet(columns, compression="zstd")]


def _run_folder(folder: Path) -> Reader:
    from cxrbench.scores import read_summary
    from cxrbench.store import RunFolder

    run = RunFolder(folder)
    for name in ("predictions", "batches"):
        (folder / name).mkdir(exist_ok=True)
    return _by_first_byte(
        (
            _in(folder, "manifest.json", lambda _: run.manifest()),
            _in(folder / "predictions", "0000.jsonl", lambda _: list(run.predictions().items())),
            _in(folder / "batches", "0000.jsonl", lambda _: run.batches()),
            _in(folder, "summary.json", lambda _: read_summary(run)),
        )
    )


def _run_folder_seeds() -> list[bytes]:
    manifest = {
        "format": 1,
        "identity": {"task": {"name": "t"}, "model": {"name": "m"}, "data": "0", "seed": 0},
        "access": "open",
        "n_expected": 2,
        "clusters": 2,
        "patient_ids": True,
        "batch_size": 8,
        "cxrbench": "0",
        "task": {},
        "excluded": {},
        "circumstances": [{"device": "cpu"}],
    }
    prediction = {
        "sample_id": "s1",
        "outcome": "ok",
        "text": "Clear.",
        "finish_reason": "stop",
        "output_tokens": 2,
        "inputs": ["a"],
        "times": {"latency": 0.1},
        "batch": 0,
    }
    failed = {"sample_id": "s2", "outcome": "missing_image", "detail": "a.png is not there"}
    batch = {"batch": 0, "size": 2, "wall": 0.5, "segment": 0, "ended": 0.5}
    summary = {"metrics": {}, "n_expected": 2, "outcomes": {}, "slices": {}, "task": "t"}
    return [
        *_each(0, json.dumps(manifest).encode()),
        *_each(1, "".join(json.dumps(row) + "\n" for row in (prediction, failed)).encode()),
        *_each(2, (json.dumps(batch) + "\n").encode()),
        *_each(3, json.dumps(summary).encode()),
    ]


def _run_tables(folder: Path) -> Reader:
    from cxrbench.gate_evidence import read_baseline
    from cxrbench.tables import read_samples, read_scores

    return _by_first_byte(
        (
            _in(folder, "samples.parquet", read_samples),
            _in(folder, "scores.parquet", read_scores),
            _in(folder, "baseline.parquet", read_baseline),
        )
    )


def _run_tables_seeds() -> list[bytes]:
    import tempfile

    import numpy as np

    from cxrbench.metrics.base import Statistics
    from cxrbench.tables import Scores, write_samples, write_scores
    from cxrbench.types import Image, Sample

    with tempfile.TemporaryDirectory() as folder:
        samples, scores = Path(folder, "a"), Path(folder, "b")
        write_samples(samples, [Sample("s1", "s1", "p", "Clear.", images=(Image("i", "", "PA"),))], frozenset({"s1"}))
        statistics = Statistics(np.ones((1, 1, 2)), np.zeros((1, 1), np.uint8), ("",))
        write_scores(scores, Scores(("s1",), statistics, {"signature": "x|v:1"}))
        return [*_each(0, samples.read_bytes()), *_each(1, scores.read_bytes()), *_each(2, scores.read_bytes())]


def _shared_files(folder: Path) -> Reader:
    from cxrbench.assets_lock import read_record
    from cxrbench.judge_study_data import radpref, table
    from cxrbench.judges.replay import ReplayJudge
    from cxrbench.report.aggregate import read_summary_file
    from cxrbench.report.reader_study_files import read_key

    return _by_first_byte(
        (
            _in(folder, "summary.json", read_summary_file),
            _in(folder, "key.json", read_key),
            _in(folder, "recorded.jsonl", ReplayJudge),
            _in(folder, "radpref.json", radpref),
            _in(folder, "table.csv", table),
            _in(folder, _lock_name(), lambda _: read_record(folder)),
        )
    )


def _lock_name() -> str:
    from cxrbench.assets_lock import RECORD

    return RECORD


def _shared_seeds() -> list[bytes]:
    task = {
        "name": "t",
        "version": 1,
        "hash": "0",
        "title": "T",
        "kind": "findings",
        "access": "open",
        "dataset": "d",
        "citation": "c",
        "n_full": None,
    }
    summary = {
        "format": 1,
        "what": "cxrbench leaderboard summary",
        "cxrbench": "0",
        "task": task,
        "question": {},
        "exchanges": 9,
        "runs": [],
    }
    key = {
        "what": "cxrbench reader study key",
        "format": 1,
        "study": "a",
        "cxrbench": "0",
        "task": "t",
        "access": "open",
        "cluster_unit": "patient",
        "parts": [],
        "reference": "hidden",
        "seed": 0,
        "systems": [{"name": "x", "run": "1"}, {"name": "y", "run": ""}],
        "items": {"i": {"sample": "s", "patient": "p", "order": [1, 0], "repeats": None}},
    }
    marks = {
        "rating": 4,
        "finding_errors": {"e": {"error_type": "attribute", "attributes": {"x": "significant"}}},
        "missing_findings": {},
    }
    rated = {
        "items": [
            {
                "id": "1",
                "C1_report": "a",
                "C2_report": "b",
                "ground_truth_report": "c",
                "radiologists": {"r": {"C1": marks, "C2": marks}},
            }
        ]
    }
    record = {
        "format": 1,
        "asset": "chexbert",
        "repository": "r",
        "revision": "main",
        "commit": "0" * 40,
        "endpoint": "",
        "fetched": "",
        "licence": "x",
        "terms": "y",
        "downloads": {},
        "files": {"a": {"size": 1, "sha256": "0"}},
    }
    return [
        *_each(0, json.dumps(summary).encode()),
        *_each(1, json.dumps(key).encode()),
        *_each(2, b'{"sample_id": "s1", "rubric": "green", "text": "x", "repeat": 1, "part": "ab"}\n'),
        *_each(3, json.dumps(rated).encode()),
        *_each(4, b"case,candidate,reference,errors:all,rating:overall\n1,a,b,2,4.5\n"),
        *_each(5, json.dumps(record).encode()),
    ]


# Judges and servers


def _judge_answers(folder: Path) -> Reader:
    from cxrbench.judges import parsers
    from cxrbench.judges.rubric import Category

    asked = tuple(Category(name=name) for name in ("missed", "added"))
    functions = [*map(parsers.bounded, parsers._PARSERS.values()), lambda text: parsers.values(text, asked)]

    def read(data: bytes) -> object:
        text = data[1:].decode("utf-8", "replace")
        try:
            return functions[data[0] % len(functions)](text) if data else None
        except parsers.Unreadable:  # the documented refusal: a failed call with a reason
            return None

    return read


def _judge_seeds() -> list[bytes]:
    six = {
        name: 0
        for name in (
            "false_positive_finding",
            "omission_finding",
            "incorrect_location",
            "incorrect_severity",
            "false_positive_comparison",
            "omission_comparison",
        )
    }
    crimson = {
        "reference_findings": [{"id": "R1", "clinical_significance": "urgent"}],
        "predicted_findings": [],
        "matched_findings": [{"ref_id": "R1", "pred_id": "P1"}],
        "errors": {
            "attribute_errors": [{"ref_id": "R1", "severity": "significant"}],
            "false_findings": ["P2"],
            "missing_findings": [{"id": "R2"}],
        },
    }
    green = (
        "[Explanation]:\nx\n\n[Clinically Significant Errors]:\n(a) False: 1. An effusion.\n(b) Missing: 0.\n\n"
        "[Clinically Insignificant Errors]:\nNo errors.\n\n[Matched Findings]:\n2. Clear lungs; normal heart.\n"
    )
    lines = (
        "clinically significant errors: [(A, 1), (B, 0), (C, 0), (D, 0), (E, 0), (F, 0)]\n"
        "clinically insignificant errors: [(A, 0), (B, 0), (C, 0), (D, 0), (E, 0), (F, 2)]"
    )
    texts = (
        '{"correctness": 4, "completeness": 3, "coherence": 5}',
        json.dumps({"clinically_significant": six, "clinically_insignificant": six}),
        json.dumps(crimson),
        green,
        '{"status": "neutral"}',
        '{"phrases_A_evidenced": [{"status": "entailment"}], "phrases_B_evidenced": []}',
        'Sure: ```{"sentence_list": [{"orig": "a", "new": ["b", "c"]}]}```',
        '{"better": "A"}',
        "**missed**: 2/5\nadded = 1\n",
    )
    return [*(bytes([number]) + text.encode() for number, text in enumerate(texts)), *_each(1, lines.encode())]


def _http_answer(folder: Path) -> Reader:
    from cxrbench.http_answer import model_names, read_response

    statuses = (200, 200, 200, 400, 413, 429, 500, 302, 401)

    def read(data: bytes) -> object:
        if len(data) < 2:
            return None
        cut = data[1]
        headers = {"retry-after": data[2 : 2 + cut % 32].decode("latin-1")}
        body = data[2 + cut % 32 :]
        return read_response(statuses[data[0] % len(statuses)], headers, body, 0.0), model_names(body)

    return read


def _http_seeds() -> list[bytes]:
    made = {
        "id": "1",
        "model": "m",
        "system_fingerprint": "f",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Clear."}, "finish_reason": "stop"}],
    }
    error = {"error": {"code": "context_length_exceeded", "type": "x", "innererror": {"code": "content_filter"}}}
    return [
        b"\0\0" + json.dumps(made).encode(),
        b"\3\0" + json.dumps(error).encode(),
        b"\5\x1d" + b"Wed, 21 Oct 2015 07:28:00 GMT" + json.dumps(error).encode(),
        b'\0\0{"data": [{"id": "m"}]}',
    ]


# Checkpoints


def _checkpoint(folder: Path) -> Reader:
    from cxrbench.models.checkpoint import _tensor_digests, open_folder
    from cxrbench.models.recognise import describe
    from cxrbench.models.shards import Shards, find_files

    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    (folder / "shard.safetensors").write_bytes(
        safetensors({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}})
    )
    (folder / "config.json").write_text('{"model_type": "llama"}')

    def read_index(data: bytes) -> object:
        single.unlink(missing_ok=True)
        index.write_bytes(data)
        open_folder(str(folder))
        return Shards(find_files(folder)).names()

    def read_file(data: bytes) -> object:
        index.unlink(missing_ok=True)
        single.write_bytes(data)
        found = open_folder(str(folder))
        Shards(find_files(folder)).names()
        return [digest for file in found.weights for digest in _tensor_digests(file)]

    def read_header(data: bytes) -> object:
        """A header of the right length before as many bytes as it speaks of, so that more than the length is tried."""
        return read_file(struct.pack("<Q", len(data)) + data + bytes(_said(data)))

    def read_config(data: bytes) -> object:
        single.unlink(missing_ok=True)
        index.write_text('{"weight_map": {"a": "shard.safetensors"}}')
        (folder / "config.json").write_bytes(data)
        try:
            return describe(folder), open_folder(str(folder))
        finally:
            (folder / "config.json").write_text('{"model_type": "llama"}')

    return _by_first_byte((read_index, read_file, read_header, read_config))


def safetensors(header: object) -> bytes:
    """A safetensors file with this header and zeros for data."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(_said(text))


def _said(header: bytes) -> int:
    """How many bytes of data a header speaks of, a few thousand at most."""
    try:
        ends = [body["data_offsets"][1] for name, body in json.loads(header).items() if name != "__metadata__"]
        return max(0, min(max(ends, default=0), 4096))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return 0


def _checkpoint_seeds() -> list[bytes]:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "U8", "shape": [4], "data_offsets": [16, 20]},
    }
    return [
        *_each(0, b'{"metadata": {"total_size": 2}, "weight_map": {"a": "shard.safetensors"}}'),
        *_each(1, safetensors(header)),
        *_each(2, json.dumps(header).encode()),
        *_each(3, b'{"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}'),
    ]


TARGETS = (
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
        "split, metadata, label and patient tables (CSV)",
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
    Target("annotation", "annotation.json of R2Gen, LLaVA-Rad, ReXrank", _annotation, _annotation_seeds, _JSON, 900),
    Target("jsonl", "own data (JSONL)", _jsonl, _jsonl_seeds, _JSON),
    Target("task-yaml", "task files", _yaml("cxrbench.spec:read_task", "t.yaml"), _task_seeds, _YAML),
    Target(
        "rubric-yaml",
        "rubrics and their score expressions",
        _yaml("cxrbench.judges.rubric:read_rubric", "r.yaml"),
        _rubric_seeds,
        (*_YAML, "max(", "abs(", "**", "lambda:", "__"),
    ),
    Target("policy-yaml", "gate policies", _yaml("cxrbench.gate_policy:read_policy", "p.yaml"), _policy_seeds, _YAML),
    Target("board-yaml", "leaderboards", _yaml("benchmarks._fuzz_targets:_board", "b.yaml"), _board_seeds, _YAML),
    Target("config-toml", "cxrbench.toml", _config, _config_seeds, ("[", "]", "=", '"""', "'''", "~", "\\u0000", "[[")),
    Target(
        "predictions-jsonl",
        "predictions (JSONL)",
        _predictions(".jsonl"),
        lambda: [b'{"sample_id": "s1", "prediction": "Clear.", "reference": "x", "patient_id": 5}\n'],
        _JSON,
    ),
    Target(
        "predictions-csv",
        "predictions (CSV)",
        _predictions(".csv"),
        lambda: [b'sample_id,prediction,site\ns1,"Clear, dry.",a\ns2,,b\n'],
        (",", '"', "\r\n", "\n", "#REF!", "1.0"),
    ),
    Target(
        "predictions-parquet", "predictions (Parquet)", _predictions(".parquet"), _predictions_parquet_seeds, (), 3000
    ),
    Target(
        "judge-answers",
        "answers of judges, every parser",
        _judge_answers,
        _judge_seeds,
        (*_JSON, "1e400", "clinically significant errors: [", "(A, 1)", "[Matched Findings]:"),
        1200,
    ),
    Target("http-answers", "responses of servers", _http_answer, _http_seeds, _JSON),
    Target(
        "checkpoint",
        "checkpoint index, safetensors header, config.json",
        _checkpoint,
        _checkpoint_seeds,
        (*_JSON, "../", "data_offsets", "dtype", "shape"),
    ),
    Target("run-folder", "manifest, prediction and batch shards, summary", _run_folder, _run_folder_seeds, _JSON),
    Target("run-tables", "samples, statistics and baselines (Parquet)", _run_tables, _run_tables_seeds, (), 6000),
    Target(
        "shared-files",
        "board summaries, reader-study keys, ratings, recorded answers, lock records",
        _shared_files,
        _shared_seeds,
        _JSON,
    ),
)
"""Every target, by the kind of its file."""


def target(name: str) -> Target:
    """The target of this name."""
    return next(each for each in TARGETS if each.name == name)
