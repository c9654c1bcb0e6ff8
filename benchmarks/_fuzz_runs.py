"""What `benchmarks.fuzz` feeds with damaged input: predictions, runs and what is made of them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

from benchmarks._fuzz_base import JSON, Reader, Target, by_first_byte, each, in_file


def _predictions(suffix: str) -> Callable[[Path], Reader]:
    def make(folder: Path) -> Reader:
        from cxrbench.predictions_file import read_predictions

        return in_file(folder, f"predictions{suffix}", read_predictions)

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
    return by_first_byte(
        (
            in_file(folder, "manifest.json", lambda _: run.manifest()),
            in_file(folder / "predictions", "0000.jsonl", lambda _: list(run.predictions().items())),
            in_file(folder / "batches", "0000.jsonl", lambda _: run.batches()),
            in_file(folder, "summary.json", lambda _: read_summary(run)),
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
        *each(0, json.dumps(manifest).encode()),
        *each(1, "".join(json.dumps(row) + "\n" for row in (prediction, failed)).encode()),
        *each(2, (json.dumps(batch) + "\n").encode()),
        *each(3, json.dumps(summary).encode()),
    ]


def _run_workers(folder: Path) -> Reader:
    from cxrbench.claims import Claims
    from cxrbench.store import RunFolder

    claims, run = Claims(folder), RunFolder(folder)
    for name in ("workers", "predictions", "batches"):
        (folder / name).mkdir()
    records = {"epoch-0001.json": _EPOCH, "0001.json": _CLAIM, "0001.beat": _BEAT}
    valid = {name: json.dumps(body).encode() for name, body in records.items()}
    for name, body in valid.items():
        (folder / "workers" / name).write_bytes(body)
    (folder / "predictions" / "0001.jsonl").write_text('{"sample_id": "s1", "outcome": "ok", "text": "Clear."}\n')
    (folder / "batches" / "0001.jsonl").write_text('{"batch": 0, "size": 1, "wall": 0.5, "segment": 0, "ended": 0.5}\n')

    def read(name: str) -> Reader:
        def read_one(_: Path) -> object:
            try:
                beat = claims.beat(1) if name.endswith("beat") else None
                epoch = claims.last_epoch()
                shares = [epoch.share(rank) for rank in range(min(epoch.world, 9))] if epoch is not None else []
                alive = [claim.place.alive() for claim in claims.claims()]
                return shares, beat, alive, list(run.predictions()), run.batches(), claims.to_seal(["0001", "0002"])
            finally:
                (folder / "workers" / name).write_bytes(valid[name])

        return in_file(folder / "workers", name, read_one)

    return by_first_byte([read(name) for name in valid])


_PLACE = {"host": "h", "machine": "m", "pid": 7, "started": "5", "clock": 1.5, "wall": 2.5}
_EPOCH = {
    "number": 1,
    "world": 2,
    "launcher": "local",
    "coordinated": True,
    "plan": "0a",
    "batches": [[0, 4], [7, 7]],
    "again": ["s1"],
    "sealed": {"0000": 10},
    "place": _PLACE,
}
_CLAIM = {
    "shard": 1,
    "epoch": 1,
    "rank": 0,
    "world": 2,
    "sealed": {},
    "place": _PLACE,
    "circumstances": {"device": "cpu"},
}
_BEAT = {
    "count": 3,
    "state": "failed",
    "samples": 5,
    "answered": 2,
    "failed": 1,
    "clock": 9.5,
    "wall": 9.5,
    "error": {"what": "x", "code": 4},
}


def _run_workers_seeds() -> list[bytes]:
    return [bytes([number]) + json.dumps(body).encode() for number, body in enumerate((_EPOCH, _CLAIM, _BEAT))]


def _artifacts(folder: Path) -> Reader:
    """Artifacts that are named as the run would have named them, so that what is tried is not the name."""
    from hashlib import sha256

    from cxrbench.artifacts import read_picture, read_vectors

    (folder / "artifacts").mkdir()

    def read(kind: str, use: Callable[[str], object]) -> Reader:
        def read_one(data: bytes) -> object:
            file = folder / "artifacts" / f"{sha256(data).hexdigest()[:16]}.{kind}"
            file.write_bytes(data)
            try:
                return use(f"artifacts/{file.name}")
            finally:
                file.unlink()

        return read_one

    def vectors(name: str) -> object:
        return read_vectors(folder, [f"{name}#0", f"{name}#1"])

    return by_first_byte([read("png", lambda name: read_picture(folder, name)), read("npy", vectors)])


def _artifacts_seeds() -> list[bytes]:
    import tempfile

    import numpy as np

    from cxrbench.artifacts import keep

    kept = {"p": np.arange(12, dtype=np.uint8).reshape(3, 4), "c": np.zeros((2, 2, 3), np.uint8)}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        places = keep(run, {**kept, "a": np.ones(3, np.float32), "b": np.zeros(3, np.float32)})
        read = {name: (run / place.partition("#")[0]).read_bytes() for name, place in places.items()}
        return [*each(0, read["p"], read["c"]), *each(1, read["a"])]


def _run_tables(folder: Path) -> Reader:
    from cxrbench.gate_evidence import read_baseline
    from cxrbench.tables import read_samples, read_scores

    return by_first_byte(
        (
            in_file(folder, "samples.parquet", read_samples),
            in_file(folder, "scores.parquet", read_scores),
            in_file(folder, "baseline.parquet", read_baseline),
        )
    )


def _run_tables_seeds() -> list[bytes]:
    import tempfile

    import numpy as np

    from cxrbench.gate_evidence import Column, Evidence, write_baseline
    from cxrbench.metrics.base import Statistics
    from cxrbench.scoring import make_metric
    from cxrbench.tables import Scores, write_samples, write_scores
    from cxrbench.types import Image, Sample

    with tempfile.TemporaryDirectory() as folder:
        samples, scores, baseline = Path(folder, "a"), Path(folder, "b"), Path(folder, "c")
        write_samples(samples, [Sample("s1", "s1", "p", "Clear.", images=(Image("i", "", "PA"),))], frozenset({"s1"}))
        statistics = Statistics(np.ones((1, 1, 2)), np.zeros((1, 1), np.uint8), ("",))
        write_scores(scores, Scores(("s1",), statistics, {"signature": "x|v:1"}))
        column = Column(make_metric("length"), "x|v:1", np.ones((1, 1)), np.zeros(1, bool))
        write_baseline(Evidence(("s1",), ("p",), {"length": column}, {"cluster_unit": "patient"}, "x"), baseline)
        return [*each(0, samples.read_bytes()), *each(1, scores.read_bytes()), *each(2, baseline.read_bytes())]


def _shared_files(folder: Path) -> Reader:
    from cxrbench.assets_lock import read_record
    from cxrbench.cli.options import read_vocabulary
    from cxrbench.judge_study_data import radpref, table
    from cxrbench.judges.replay import ReplayJudge
    from cxrbench.report.aggregate import read_summary_file
    from cxrbench.report.reader_study_files import Key, read_key, read_responses

    key = Key.model_validate(_KEY)

    return by_first_byte(
        (
            in_file(folder, "summary.json", read_summary_file),
            in_file(folder, "key.json", read_key),
            in_file(folder, "recorded.jsonl", ReplayJudge),
            in_file(folder, "radpref.json", radpref),
            in_file(folder, "table.csv", table),
            in_file(folder, _lock_name(), lambda _: read_record(folder)),
            in_file(folder, "answers.json", lambda file: read_responses([file], key)),
            in_file(folder, "words.txt", read_vocabulary),
        )
    )


def _lock_name() -> str:
    from cxrbench.assets_lock import RECORD

    return RECORD


_KEY = {
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
_ANSWERS = {
    "what": "cxrbench reader study responses",
    "format": 1,
    "study": "a",
    "reader": "r",
    "items": {
        "i": {
            "ratings": [{"correctness": 4}, {}],
            "errors": [{"missed_finding": [1, 0]}, None],
            "preferences": {"0-1": "equal"},
            "done": True,
        }
    },
}


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
        *each(0, json.dumps(summary).encode()),
        *each(1, json.dumps(_KEY).encode()),
        *each(2, b'{"sample_id": "s1", "rubric": "green", "text": "x", "repeat": 1, "part": "ab"}\n'),
        *each(3, json.dumps(rated).encode()),
        *each(4, b"case,candidate,reference,errors:all,rating:overall\n1,a,b,2,4.5\n"),
        *each(5, json.dumps(record).encode()),
        *each(6, json.dumps(_ANSWERS).encode()),
        *each(7, b"clear\neffusion\n", b'["clear", "effusion"]'),
    ]


RUNS = (
    Target(
        "predictions-jsonl",
        "predictions (JSONL)",
        _predictions(".jsonl"),
        lambda: [b'{"sample_id": "s1", "prediction": "Clear.", "reference": "x", "patient_id": 5}\n'],
        JSON,
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
    Target("run-folder", "manifest, prediction and batch shards, summary", _run_folder, _run_folder_seeds, JSON),
    Target(
        "run-workers",
        "epochs, claims and heartbeats of a run's workers",
        _run_workers,
        _run_workers_seeds,
        (*JSON, "99999999999999999999", "0.5"),
    ),
    Target(
        "run-artifacts",
        "pictures and vectors of a run (PNG, NumPy)",
        _artifacts,
        _artifacts_seeds,
        ("IHDR", "IDAT", "PLTE", "tRNS", "zTXt", "eXIf", "IEND", "(999999999, 999999999)", "|O", "<f8", "True"),
    ),
    Target("run-tables", "samples, statistics and baselines (Parquet)", _run_tables, _run_tables_seeds, (), 6000),
    Target(
        "shared-files",
        "board summaries, reader-study keys and answers, ratings, recorded answers, lock records, word lists",
        _shared_files,
        _shared_seeds,
        JSON,
    ),
)
