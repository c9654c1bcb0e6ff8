"""VQA-RAD, SLAKE, Rad-ReStruct and CheXbench: small files in their layouts with invented text, and the real ones."""

import json
from pathlib import Path

import pytest

from cxrbench.data.base import Slice
from cxrbench.data.chexbench import CheXbench, with_letters
from cxrbench.data.rad_restruct import RadRestruct
from cxrbench.data.slake import Slake
from cxrbench.data.vqa_rad import VqaRad
from cxrbench.errors import CxrbenchError


def rad(number, **changed):
    row = {
        "qid": number,
        "phrase_type": "test_freeform",
        "image_case_url": f"https://medpix.nlm.nih.gov/case?id=case-{number % 2}",
        "image_name": f"synpic{number % 3}.jpg",
        "image_organ": "CHEST",
        "question": f"Is number {number} enlarged?",
        "question_type": "SIZE, ABN",
        "answer": "Yes",
        "answer_type": "CLOSED ",
    }
    return {**row, **changed}


def written(tmp_path, rows, name="rows.json"):
    (tmp_path / name).write_text(json.dumps(rows))
    return {"annotations": (tmp_path / name,), "images": (tmp_path,)}


def test_vqa_rad_groups_questions_by_image_and_cases_are_clusters(tmp_path):
    rows = [rad(n) for n in range(6)] + [rad(7, phrase_type="freeform"), rad(8, image_organ="HEAD", answer=3)]
    roots = written(tmp_path, rows)
    test = list(VqaRad().studies(roots, Slice("test", {"organ": "chest"})))
    assert [(s.study_id, s.patient_id, len(s.questions)) for s in test] == [
        ("synpic0.jpg", "case-1", 2), ("synpic1.jpg", "case-0", 2), ("synpic2.jpg", "case-1", 2)
    ]  # fmt: skip
    asked = test[0].questions[0]
    assert (asked.question_id, asked.answer) == ("0", "Yes")
    assert asked.labels == {"question": {"closed": 1.0}}
    assert asked.columns == {"answer-type": "closed", "question-type": "SIZE"}
    assert sum(len(s.questions) for s in VqaRad().studies(roots, Slice("train", {}))) == 1
    assert any(q.answer == "3" for s in VqaRad().studies(roots, Slice("test", {})) for q in s.questions)


def test_slake_takes_a_language_and_the_files_name_is_the_split(tmp_path):
    row = {
        "qid": 1, "img_name": "xmlab1/source.jpg", "question": "Where?", "answer": "Left", "q_lang": "en",
        "location": "Lung", "modality": "X-Ray", "answer_type": "OPEN", "content_type": "Position",
    }  # fmt: skip
    rows = [row, {**row, "qid": 2, "q_lang": "zh"}, {**row, "qid": 3, "modality": "CT"}]
    written(tmp_path, rows, "test.json")
    written(tmp_path, [{**row, "qid": 9}], "train.json")
    roots = {"annotations": (tmp_path,), "images": (tmp_path / "imgs",)}
    (study,) = Slake().studies(roots, Slice("test", {"language": "en", "organ": "chest-x-ray"}))
    assert [q.question_id for q in study.questions] == ["1"]
    assert study.images[0].path == str(tmp_path / "imgs/xmlab1/source.jpg")
    (everything,) = Slake().studies(roots, Slice("test", {}))
    assert [q.question_id for q in everything.questions] == ["1", "3"]
    assert [s.questions[0].question_id for s in Slake().studies(roots, Slice("train", {}))] == ["9"]


def test_a_file_that_is_no_split_of_slake_is_refused(tmp_path):
    written(tmp_path, [], "vqa_rad_questions.json")
    with pytest.raises(CxrbenchError, match="none of the files is called as SLAKE calls its splits"):
        list(Slake().studies({"annotations": (tmp_path / "vqa_rad_questions.json",)}, Slice("test", {})))


def restruct(**changed):
    about = {"answer_type": "single_choice", "options": ["yes", "no"], "path": "lung_signs"}
    many = {"answer_type": "multi_choice", "options": ["left", "right"], "path": "lung_side"}
    row = {
        "report_id": "12",
        "split": "val",
        "frontal_images": ["a", "b"],
        "qa_pairs": [["Any signs?", ["no"], [], about], ["Where?", ["right", "left"], [["Any?", ["no"]]], many]],
    }
    return {**row, **changed}


def test_rad_restruct_joins_answers_and_offers_no_history(tmp_path):
    (tmp_path / "qa_pairs.jsonl").write_text(json.dumps(restruct()) + "\n")
    roots = {"annotations": (tmp_path / "qa_pairs.jsonl",), "images": (tmp_path,)}
    (study,) = RadRestruct().studies(roots, Slice("validate", {}))
    assert [q.answer for q in study.questions] == ["no", "left, right"]
    assert [q.columns["answer-type"] for q in study.questions] == ["closed", "open"]
    assert [image.image_id for image in study.images] == ["a.png", "b.png"]


def choice(**changed):
    row = {
        "question": "Which view is it?", "option_0": "PA", "option_1": "AP", "option_2": None, "option_3": None,
        "answer": 1, "image_path": "a.jpg", "data_source": "Invented", "slice": "x",
    }  # fmt: skip
    return {**row, **changed}


def bench(tmp_path, **tasks):
    (tmp_path / "data.json").write_text(json.dumps(tasks))
    return {"annotations": (tmp_path / "data.json",), "images": (tmp_path,)}


def test_chexbench_has_two_protocols(tmp_path):
    rows = [choice(), choice(image_path=["a.jpg", "b.jpg"], answer=0)]
    roots = bench(tmp_path, **{"View Classification": rows, "Findings Summarization": []})
    likelihood = list(CheXbench().studies(roots, Slice("test", {"task": "view", "protocol": "likelihood"})))
    generation = list(CheXbench().studies(roots, Slice("test", {"task": "view", "protocol": "generation"})))
    assert [s.questions[0].answer for s in likelihood] == ["AP", "PA"]
    assert likelihood[0].questions[0].text == "Which view is it?"
    assert generation[0].questions[0].text == with_letters("Which view is it?", ["PA", "AP"])
    assert likelihood[0].questions[0].labels == {"choice": {"answer": 1.0, "options": 2.0}}
    assert likelihood[0].patient_id == likelihood[1].patient_id == "a.jpg"
    assert likelihood[1].columns == {"source": "Invented", "slice": "x"}


def test_chexbench_joins_several_images_in_one_text_as_its_script_splits_them(tmp_path):
    roots = bench(tmp_path, **{"Temporal Classification": [choice(image_path="a.jpg|b.jpg")]})
    (study,) = CheXbench().studies(roots, Slice("test", {"task": "temporal"}))
    assert [image.image_id for image in study.images] == ["a.jpg", "b.jpg"]


def test_rows_of_chexbench_that_share_any_image_are_one_cluster(tmp_path):
    """The image to compare with of one row may be the image itself of another."""
    shown = ["c|d", "b|c", "x", "a|b", "y|x", "z"]
    roots = bench(tmp_path, **{"Temporal Classification": [choice(image_path=names) for names in shown]})
    clusters = [study.patient_id for study in CheXbench().studies(roots, Slice("test", {"task": "temporal"}))]
    assert clusters[0] == clusters[1] == clusters[3]
    assert clusters[2] == clusters[4]
    assert len({clusters[0], clusters[2], clusters[5]}) == 3


def test_every_task_of_chexbench_is_checked(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    texts = [{"image_path": ["a.jpg", "lost.jpg"], "section_findings": "Clear."}]
    roots = bench(tmp_path, **{"View Classification": [choice()] * 3, "Findings Generation": texts, "Else": [choice()]})
    lines = [(line.item, line.status, line.found) for line in CheXbench().check(roots)]
    assert ("view", "ok", "3 questions on 1 images") in lines
    assert ("findings", "ok", "1 texts on 2 images") in lines
    assert ("findings", "missing", "1 images are not there") in lines
    assert any(what == "reasoning" and status == "note" for what, status, _ in lines)
    assert ("Else", "note", "a task that is not known here") in lines


def test_chexbench_reads_its_text_tasks(tmp_path):
    row = {"image_path": "a.jpg", "section_findings": "Clear.", "section_impression": "Normal.", "data_source": "x"}
    roots = bench(tmp_path, **{"Findings Summarization": [row]})
    (study,) = CheXbench().studies(roots, Slice("test", {"task": "summarization"}))
    assert study.sections == {"findings": "Clear.", "impression": "Normal."}
    with pytest.raises(CxrbenchError, match="no task 'Findings Generation'"):
        list(CheXbench().studies(roots, Slice("test", {"task": "findings"})))


BAD = [
    (VqaRad, [rad(1, answer_type="MAYBE")], "OPEN or CLOSED"),
    (VqaRad, [rad(1, question=None)], "'question' holds no text"),
    (VqaRad, {"rows": []}, "no list of questions"),
    (VqaRad, ["text"], "holds no text"),
    (RadRestruct, [restruct(split="dev")], "train, val or test"),
    (RadRestruct, [restruct(split="test", qa_pairs=[["a"]])], "question 1 is not"),
    (RadRestruct, [restruct(split="test", qa_pairs=None)], "are lists"),
    (CheXbench, {"View Classification": [choice(answer=2)]}, "the index of one of"),
    (CheXbench, {"View Classification": [choice(answer=True)]}, "the index of one of"),
    (CheXbench, {"View Classification": [choice(option_0=" ")]}, "an option is an empty text"),
    (CheXbench, {"View Classification": [choice(image_path=7)]}, "a path or a list"),
    (CheXbench, {"View Classification": {}}, "object of lists"),
    (CheXbench, [], "object of lists"),
]


@pytest.mark.parametrize(("kind", "body", "said"), BAD)
def test_what_is_wrong_is_named_with_its_place(tmp_path, kind, body, said):
    with pytest.raises(CxrbenchError, match=said) as caught:
        list(kind().studies(written(tmp_path, body), Slice("test", {})))
    assert "rows.json" in str(caught.value)


@pytest.mark.parametrize("body", ["[", b"\xff\xfe", "[" * 100_000, '["\\ud800"]'])
def test_what_is_no_json_is_named(tmp_path, body):
    (tmp_path / "rows.json").write_bytes(body if isinstance(body, bytes) else body.encode())
    with pytest.raises(CxrbenchError, match="no JSON"):
        list(VqaRad().studies({"annotations": (tmp_path / "rows.json",)}, Slice("test", {})))
    with pytest.raises(CxrbenchError, match="not known"):
        list(VqaRad().studies({}, Slice("test", {})))


@pytest.mark.real_data
def test_the_real_chest_questions_of_vqa_rad(real_data):
    roots = {"annotations": (real_data / "vqa_rad/vqa_rad_chest_questions.json",)}
    found = {split: list(VqaRad().studies(roots, Slice(split, {"organ": "chest"}))) for split in ("train", "test")}
    counts = {split: sum(len(study.questions) for study in studies) for split, studies in found.items()}
    assert counts == {"train": 424, "test": 121}
    lines = VqaRad().check(roots)
    assert any("121 questions" in line.found for line in lines)
    assert any(line.status == "missing" for line in lines)


@pytest.mark.real_data
def test_the_real_questions_of_rad_restruct(real_data):
    roots = {"annotations": (Path(real_data) / "iu_xray/rad_restruct/qa_pairs.jsonl",)}
    studies = [s for split in ("train", "validate", "test") for s in RadRestruct().studies(roots, Slice(split, {}))]
    assert len(studies) == 114
    assert sum(len(study.questions) for study in studies) == 5576
