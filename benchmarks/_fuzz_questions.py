"""What `benchmarks.fuzz` feeds with damaged input: questions about images, and what comes from other harnesses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks._fuzz_base import JSON, ROWS, Reader, Target, by_first_byte, each_of, in_file


def _questions(name: str, tasks: Sequence[str], file: str) -> Callable[[Path], Reader]:
    """A target of a data set of questions: `data check`, the state of its files, and the samples of these tasks."""

    def make(folder: Path) -> Reader:
        from cxrbench.data.base import Slice
        from cxrbench.data.load import open_dataset
        from cxrbench.data.samples import make_samples
        from cxrbench.spec import TaskSpec, find_task

        data, roots = open_dataset(name), {"annotations": (folder / file,), "images": (folder,)}
        (folder / "a.png").touch()

        def samples(spec: TaskSpec) -> Callable[[Path], object]:
            part = Slice(spec.dataset.split, spec.dataset.options)
            return lambda _: make_samples(spec, data.studies(roots, part))

        def check(_: Path) -> object:
            return data.check(roots), data.fingerprint(roots, Slice("test", {}))

        return by_first_byte([in_file(folder, file, read) for read in (*(samples(find_task(t)) for t in tasks), check)])

    return make


def _vqa_rad_seeds() -> list[bytes]:
    row = {
        "qid": 7,
        "phrase_type": "test_freeform",
        "image_case_url": "https://medpix.nlm.nih.gov/case?id=c1",
        "image_name": "a.png",
        "image_organ": "CHEST",
        "question": "Is it large?",
        "question_type": "SIZE, ABN",
        "answer": "Yes",
        "answer_type": "CLOSED ",
    }
    return each_of(2, json.dumps([row, {**row, "qid": 8, "answer_type": "OPEN", "answer": 3}]).encode())


def _slake_seeds() -> list[bytes]:
    row = {
        "qid": 1,
        "img_name": "a.png",
        "question": "Where?",
        "answer": "Left",
        "q_lang": "en",
        "location": "Lung",
        "modality": "X-Ray",
        "answer_type": "OPEN",
        "content_type": "Position",
    }
    return each_of(2, json.dumps([row, {**row, "qid": 2, "q_lang": "zh"}]).encode())


def _rad_restruct_seeds() -> list[bytes]:
    one = {"answer_type": "single_choice", "options": ["yes", "no"], "path": "lung"}
    pairs = [["Any?", ["no"], [], one], ["Where?", ["l", "r"], [["Any?", ["no"]]], {**one, "answer_type": "multi"}]]
    row = {"report_id": "12", "split": "test", "frontal_images": ["a", "b"], "qa_pairs": pairs}
    return each_of(2, (json.dumps(row) + "\n" + json.dumps({**row, "report_id": 3, "split": "val"}) + "\n").encode())


CHEXBENCH = ("view-likelihood", "vqa-generation", "findings", "summarization")
"""Tasks of CheXbench that read every form of its rows."""


def _chexbench_seeds() -> list[bytes]:
    choice = {
        "question": "Which view?",
        "option_0": "PA",
        "option_1": "AP",
        "option_2": None,
        "answer": 1,
        "image_path": "a.png",
        "data_source": "x",
        "slice": "y",
    }
    text = {"image_path": ["a.png", "b.png"], "section_findings": "Clear.", "section_impression": "Normal."}
    body = {
        "View Classification": [choice],
        "Visual Question Answering": [{**choice, "image_path": "a.png|b.png", "option_3": float("nan")}],
        "Findings Generation": [text],
        "Findings Summarization": [text],
    }
    return each_of(len(CHEXBENCH) + 1, json.dumps(body).encode())


def _rexrank_import(folder: Path) -> Reader:
    from cxrbench.bridges.run_tables import TEXTS, import_rexrank
    from cxrbench.predictions_file import read_predictions

    out = folder / "made.jsonl"

    def read(reference: str | None) -> Callable[[Path], object]:
        return lambda file: (import_rexrank(file, out, reference), read_predictions(out))

    return by_first_byte([in_file(folder, "rexrank.json", read(reference)) for reference in (None, *TEXTS)])


def _rexrank_import_seeds() -> list[bytes]:
    record = {"model_prediction": "Clear.", "section_findings": "No effusion.", "report": "A. B.", "image_path": ["a"]}
    return each_of(4, json.dumps({"s1": record, "s2": {**record, "section_impression": "Dry."}}).encode())


def _lm_eval_log(folder: Path) -> Reader:
    from cxrbench.bridges.lm_eval_export import import_log
    from cxrbench.predictions_file import read_predictions

    out = folder / "made.jsonl"

    def read(id_key: str | None) -> Callable[[Path], object]:
        return lambda file: (import_log(file, out, id_key), read_predictions(out))

    return by_first_byte([in_file(folder, "samples_t.jsonl", read(id_key)) for id_key in (None, "id")])


def _lm_eval_log_seeds() -> list[bytes]:
    row = {"doc_id": 0, "doc": {"sample_id": "s1", "id": 4}, "target": "Dry.", "resps": [["Clear."]]}
    row["filtered_resps"] = ["Clear."]
    failed = {"doc": {"sample_id": "s2", "id": 5}, "resps": [[""]], "filtered_resps": [{"outcome": "missing_image"}]}
    return each_of(2, (json.dumps(row) + "\n" + json.dumps(failed) + "\n").encode())


QUESTIONS = (
    Target("vqa-rad", "VQA-RAD (JSON)", _questions("vqa-rad", ("vqa-rad",), "rows.json"), _vqa_rad_seeds, ROWS, 900),
    Target("slake", "SLAKE (JSON)", _questions("slake", ("slake",), "test.json"), _slake_seeds, ROWS),
    Target(
        "rad-restruct",
        "Rad-ReStruct (JSONL)",
        _questions("rad-restruct", ("rad-restruct",), "qa_pairs.jsonl"),
        _rad_restruct_seeds,
        ROWS,
        800,
    ),
    Target(
        "chexbench",
        "CheXbench's choices and texts (JSON)",
        _questions("chexbench", [f"chexbench-{task}" for task in CHEXBENCH], "data.json"),
        _chexbench_seeds,
        (*ROWS, "a.png|b.png"),
        900,
    ),
    Target("rexrank-import", "a submission of ReXrank (JSON)", _rexrank_import, _rexrank_import_seeds, JSON),
    Target("lm-eval-log", "a sample log of lm-eval (JSONL)", _lm_eval_log, _lm_eval_log_seeds, JSON),
)
