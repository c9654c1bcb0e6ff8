"""The files of LLaVA-Rad, R2Gen and ReXrank for MIMIC-CXR: recognised, split, joined with tables, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mimic_tree as tree
import pytest

from cxrbench.data.base import Slice
from cxrbench.data.mimic_cxr import MimicCxr
from cxrbench.data.mimic_protocols import sniff
from cxrbench.errors import CxrbenchError
from cxrbench.types import Study

DATA = MimicCxr()
CONTEXT = "Age:60-70.Gender:F.Indication: ___-year-old with invented dyspnea.Comparison: Invented prior."


def of_split(split: str = "test") -> list[tree.Case]:
    return [case for case in tree.cases() if case.split == split]


def read(roots: tree.Roots, form: str, split: str = "test", **options: object) -> list[Study]:
    return list(DATA.studies(roots, Slice(split, {"form": form, **options})))


@pytest.fixture
def roots(tmp_path: Path) -> tree.Roots:
    """Images only: the protocols need neither reports nor tables."""
    return {"images": (tree.write_images(tmp_path / "images", tree.cases()),), "annotations": (tmp_path / "json",)}


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, ...]:
    return (tree.write_tables(tmp_path / "tables", tree.cases()),)


def test_llavarad_keeps_its_text_and_views(roots: tree.Roots, tmp_path: Path) -> None:
    tree.llavarad(tmp_path / "json" / "chat_test_MIMIC_CXR_all_gpt4extract_rulebased_v1.json", of_split())
    found = read(roots, "llavarad")
    assert [study.study_id for study in found] == [str(case.study) for case in of_split()]
    first = found[0]
    assert first.patient_id == "19999001"
    assert dict(first.sections) == {"findings": "Invented findings.", "indication": "Invented\nreason."}
    assert [image.view for image in first.images] == ["LATERAL", "PA"]
    assert all(Path(image.path).is_file() for study in found for image in study.images)
    assert first.columns["prior"] == "unknown"


def test_llavarad_test_keeps_the_rule_based_entries_when_asked(roots: tree.Roots, tmp_path: Path) -> None:
    items = of_split()
    path = tmp_path / "json" / "chat_test_MIMIC.json"
    tree.llavarad(path, items)
    body = json.loads(path.read_text())
    body[0]["generate_method"] = "gpt4"
    path.write_text(json.dumps(body))
    kept = read(roots, "llavarad", test_generate_method="rule-based")
    assert sum(len(study.images) for study in kept) == len(body) - 1
    assert {study.columns["generate_method"] for study in kept} == {"rule-based"}
    everything = read(roots, "llavarad")
    assert sum(len(study.images) for study in everything) == len(body)


def test_the_rule_for_test_does_not_touch_the_other_splits(roots: tree.Roots, tmp_path: Path) -> None:
    tree.llavarad(tmp_path / "json" / "chat_train_MIMIC.json", tree.cases()[-1:], method="gpt4")
    assert len(read(roots, "llavarad", "train", test_generate_method="rule-based")) == 1


@pytest.mark.parametrize("findings", [None, 3.5, "", "  \n"])
def test_llavarad_findings_must_be_text(roots: tree.Roots, tmp_path: Path, findings: object) -> None:
    tree.llavarad(tmp_path / "json" / "chat_dev_MIMIC.json", of_split("validate"), findings=findings)
    (study,) = read(roots, "llavarad", "validate")
    assert "findings" not in study.sections


def test_r2gen_has_one_text_for_all_images_of_a_study(roots: tree.Roots, tmp_path: Path) -> None:
    tree.r2gen(tmp_path / "json" / "annotation.json", tree.cases())
    found = read(roots, "r2gen")
    assert sum(len(study.images) for study in found) == sum(len(case.views) for case in of_split())
    assert dict(found[0].sections) == {"findings": "invented 59999001 ."}
    assert {image.view for study in found for image in study.images} == {""}
    assert [study.study_id for study in read(roots, "r2gen", "val")] == ["59999007"]
    assert [study.study_id for study in read(roots, "r2gen", "train")] == ["59999008"]


def test_tables_add_views_times_priors_and_labels(roots: tree.Roots, tables: tuple[Path, ...], tmp_path: Path) -> None:
    tree.r2gen(tmp_path / "json" / "annotation.json", tree.cases())
    found = {study.study_id: study for study in read({**roots, "tables": tables}, "r2gen")}
    assert [image.view for image in found["59999001"].images] == ["LATERAL", "PA"]
    assert found["59999002"].priors == ("59999001", "59999003")
    assert found["59999002"].time == "2181-01-01T00:00:01"
    assert found["59999001"].labels["mimic-test-labeled"]["Lung Opacity"] == 0.0
    assert dict(found["59999001"].sections) == {"findings": "invented 59999001 ."}


def test_images_of_a_study_with_different_texts_stay_apart(roots: tree.Roots, tmp_path: Path) -> None:
    path = tree.r2gen(tmp_path / "json" / "annotation.json", tree.cases())
    body = json.loads(path.read_text())
    body["test"][1]["report"] = "another text ."
    path.write_text(json.dumps(body))
    same = [study for study in read(roots, "r2gen") if study.study_id == "59999001"]
    assert [len(study.images) for study in same] == [1, 1]
    assert [study.sections["findings"] for study in same] == ["invented 59999001 .", "another text ."]
    (note,) = [line for line in DATA.check(roots) if line.item == "annotations r2gen" and line.status == "note"]
    assert note.found.startswith("annotation.json: 1 groups")


def test_rexrank_puts_the_key_image_first_and_reads_the_context(roots: tree.Roots, tmp_path: Path) -> None:
    tree.rexrank(tmp_path / "json" / "ReXRank_MIMICCXR_test.json", of_split(), CONTEXT)
    found = read(roots, "rexrank")
    first = found[0]
    assert [image.image_id for image in first.images] == [tree.dicom_id(59999001, 1), tree.dicom_id(59999001, 0)]
    assert [image.view for image in first.images] == ["FRONTAL", "LATERAL"]
    assert dict(first.sections) == {
        "findings": "Invented findings.",
        "indication": "___-year-old with invented dyspnea.",
        "comparison": "Invented prior.",
    }
    assert (first.demographics.sex, first.demographics.age, first.columns["age_range"]) == ("F", None, "60-70")
    (line,) = [line for line in DATA.check(roots) if line.item == "annotations rexrank"]
    partial = "2,347 test in full: mimic-findings-rexrank needs --allow-partial, which is recorded"
    assert line.found.endswith(f"6 test; 0 without an indication; {partial}")


def test_rexrank_views_come_from_the_table_where_it_has_them(
    roots: tree.Roots, tables: tuple[Path, ...], tmp_path: Path
) -> None:
    tree.rexrank(tmp_path / "json" / "test.json", of_split(), CONTEXT)
    found = {study.study_id: study for study in read({**roots, "tables": tables}, "rexrank")}
    assert [image.view for image in found["59999001"].images] == ["PA", "LATERAL"]
    # An empty ViewPosition is filled by what the record states.
    assert [image.view for image in found["59999004"].images] == ["LATERAL", "FRONTAL"]


def test_rexrank_views_that_do_not_fit_the_images_are_not_used(roots: tree.Roots, tmp_path: Path) -> None:
    path = tree.rexrank(tmp_path / "json" / "test.json", of_split()[:1], CONTEXT)
    body = json.loads(path.read_text())
    for entry in body.values():
        entry["frontal_lateral"] = ["Frontal"]
    path.write_text(json.dumps(body))
    assert [image.view for image in read(roots, "rexrank")[0].images] == ["", ""]


def changed(path: Path, **change: object) -> None:
    """Replace keys of the second record of a ReXrank file; a value of ... takes the key out."""
    body = json.loads(path.read_text())
    entry = list(body.values())[1]
    entry.update(change)
    for key in [key for key, value in change.items() if value is ...]:
        del entry[key]
    path.write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"context": "History: invented"}, "begins with none of Age:, Gender:, Indication: and Comparison:"),
        ({"context": ["Indication: invented"]}, "a context that is no text"),
        ({"context": "Age:60-70.History: invented"}, "an age that is no number and no range"),
        ({"context": "Gender:F.History: invented"}, "a gender that is neither F nor M"),
        ({"section_findings": ["invented"]}, "a section_findings that is no text"),
        ({"section_impression": 3}, "a section_impression that is no text"),
        ({"section_findings": ...}, "lacks the key 'section_findings'"),
        ({"key_image_path": "p19/p19999001/s59999002/00000000-00000000-aaaaaaaa-bbbbbbbb-cccccccc.jpg"}, "a key image"),
        ({"split": "holdout"}, "no split"),
        ({"split": 3}, "a split that is no text"),
    ],
)
def test_a_rexrank_record_of_another_form_is_refused(
    roots: tree.Roots, tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    changed(tree.rexrank(tmp_path / "json" / "test.json", of_split(), CONTEXT), **change)
    with pytest.raises(CxrbenchError, match="record 2 ") as caught:
        read(roots, "rexrank")
    assert complaint in caught.value.what
    assert "invented" not in str(caught.value)


def test_a_rexrank_record_without_a_split_takes_that_of_the_files_name(roots: tree.Roots, tmp_path: Path) -> None:
    path = tree.rexrank(tmp_path / "json" / "ReXRank_MIMICCXR_test.json", of_split(), CONTEXT)
    changed(path, split=...)
    assert len(read(roots, "rexrank")) == len(of_split())
    path.rename(path.with_name("mine.json"))
    with pytest.raises(CxrbenchError, match="record 2 has no split: neither the record nor the file's name says"):
        read(roots, "rexrank")


def test_a_rexrank_record_without_context_or_impression_has_none(roots: tree.Roots, tmp_path: Path) -> None:
    path = tree.rexrank(tmp_path / "json" / "test.json", of_split(), CONTEXT)
    changed(path, context="Age:nan.Gender:nan.Indication:nanComparison: nan", section_impression=None)
    study = read(roots, "rexrank")[1]
    assert set(study.sections) == {"findings"}
    assert "age_range" not in study.columns
    (line,) = [line for line in DATA.check(roots) if line.item == "annotations rexrank"]
    assert "6 test; 1 without an indication" in line.found


@pytest.mark.parametrize("image", ["../../x", "CXR1", "0392eac6-aaaaaaaa-bbbbbbbb-cccccccc-dddddddd.jpg\n"])
@pytest.mark.parametrize("form", ["llavarad", "r2gen"])
def test_an_image_id_of_another_form_is_refused(roots: tree.Roots, tmp_path: Path, form: str, image: str) -> None:
    path = {"llavarad": tree.llavarad, "r2gen": tree.r2gen}[form](tmp_path / "json" / "chat_test.json", of_split())
    body = json.loads(path.read_text())
    (body if form == "llavarad" else body["test"])[1].update(
        {"image": f"p19/p19999001/s59999001/{image}"}
        if form == "llavarad"
        else {"image_path": [f"p19/p19999001/s59999001/{image}"]}
    )
    path.write_text(json.dumps(body))
    with pytest.raises(CxrbenchError, match="record 2 has image paths that are not"):
        read(roots, form)


@pytest.mark.parametrize(("form", "key"), [("llavarad", "reason"), ("llavarad", "view"), ("r2gen", "report")])
def test_a_text_that_is_a_list_is_refused(roots: tree.Roots, tmp_path: Path, form: str, key: str) -> None:
    path = {"llavarad": tree.llavarad, "r2gen": tree.r2gen}[form](tmp_path / "json" / "chat_test.json", of_split())
    body = json.loads(path.read_text())
    (body if form == "llavarad" else body["test"])[1][key] = ["invented"]
    path.write_text(json.dumps(body))
    with pytest.raises(CxrbenchError, match=f"record 2 has a {key} that is no text"):
        read(roots, form)


def test_forms_are_told_apart_by_content(tmp_path: Path) -> None:
    paths = {
        "llavarad": tree.llavarad(tmp_path / "a.json", of_split()),
        "r2gen": tree.r2gen(tmp_path / "b.json", of_split()),
        "rexrank": tree.rexrank(tmp_path / "c.json", of_split(), CONTEXT),
        None: tree.write_json(
            tmp_path / "iu.json", {"test": [{"id": "CXR1", "report": "x", "image_path": ["CXR1/0.png"]}]}
        ),
    }
    assert {form: sniff(path) for form, path in paths.items()} == {form: form for form in paths}


@pytest.mark.parametrize("form", ["llavarad", "r2gen", "rexrank"])
def test_a_missing_file_names_the_published_one(roots: tree.Roots, form: str) -> None:
    with pytest.raises(CxrbenchError, match=f"no annotation file of the form {form}") as caught:
        read(roots, form)
    assert "--annotations" in caught.value.fix


def test_a_split_the_files_do_not_have(roots: tree.Roots, tmp_path: Path) -> None:
    tree.rexrank(tmp_path / "json" / "test.json", of_split(), CONTEXT)
    with pytest.raises(CxrbenchError, match="hold no train split"):
        read(roots, "rexrank", "train")


def _damage(path: Path, form: str, how: str) -> None:
    body = json.loads(path.read_text())
    entry = body["test"][1] if form == "r2gen" else body[1] if form == "llavarad" else list(body.values())[1]
    if how == "path":
        entry["image" if form == "llavarad" else "image_path"] = "somewhere.jpg" if form == "llavarad" else ["x.jpg"]
    else:
        del entry[{"llavarad": "conversations", "r2gen": "report", "rexrank": "image_path"}[form]]
    path.write_text(json.dumps(body))


@pytest.mark.parametrize("form", ["llavarad", "r2gen", "rexrank"])
@pytest.mark.parametrize("how", ["path", "key"])
def test_a_broken_record_is_named_by_its_number(roots: tree.Roots, tmp_path: Path, form: str, how: str) -> None:
    path = tmp_path / "json" / "chat_test.json"
    {"llavarad": tree.llavarad, "r2gen": tree.r2gen}.get(form, lambda *args: tree.rexrank(*args, CONTEXT))(
        path, of_split()
    )
    _damage(path, form, how)
    with pytest.raises(CxrbenchError, match="record 2 ") as caught:
        read(roots, form)
    assert "nvented" not in str(caught.value)
    assert "59999" not in str(caught.value)


def test_a_file_of_no_split_is_refused(roots: tree.Roots, tmp_path: Path) -> None:
    tree.llavarad(tmp_path / "json" / "my_copy.json", of_split())
    with pytest.raises(CxrbenchError, match="no split"):
        read(roots, "llavarad")


@pytest.mark.parametrize(
    ("raw", "complaint"), [(b"[1,", "not valid JSON"), (b"\xff\xfe", "not UTF-8"), (b'], "a": NaN}', "NaN is not JSON")]
)
def test_damaged_json(roots: tree.Roots, tmp_path: Path, raw: bytes, complaint: str) -> None:
    path = tree.r2gen(tmp_path / "json" / "annotation.json", of_split())
    path.write_bytes(path.read_bytes()[:-2] + raw)
    with pytest.raises(CxrbenchError, match=complaint):
        read(roots, "r2gen")


def test_the_fingerprint_follows_annotations_and_images(roots: tree.Roots, tmp_path: Path) -> None:
    path = tree.r2gen(tmp_path / "json" / "annotation.json", tree.cases())
    part = Slice("test", {"form": "r2gen"})
    first = DATA.fingerprint(roots, part)
    larger = tree.write_images(tmp_path / "large", tree.cases(), size=64)
    assert DATA.fingerprint({**roots, "images": (larger,)}, part) != first
    path.write_text(path.read_text() + " ")
    assert DATA.fingerprint(roots, part) != first


def test_demographics_join_by_patient(roots: tree.Roots, tables: tuple[Path, ...], tmp_path: Path) -> None:
    tree.rexrank(tmp_path / "json" / "test.json", of_split(), "Age:33.Gender:M.Indication: x")
    known = {**roots, "tables": tables, "demographics": (tree.write_mimic_iv(tmp_path / "iv"),)}
    found = {study.study_id: study.demographics for study in read(known, "rexrank")}
    assert (found["59999001"].sex, found["59999001"].age, found["59999001"].race) == ("F", 62.0, "WHITE")
    assert (found["59999006"].sex, found["59999006"].age, found["59999006"].race) == ("M", 33.0, None)


def test_a_study_of_the_tables_keeps_the_protocols_split(roots: tree.Roots, tmp_path: Path) -> None:
    moved = [replace(case, split="train") for case in tree.cases()]
    tables = (tree.write_tables(tmp_path / "tables", moved),)
    tree.r2gen(tmp_path / "json" / "annotation.json", tree.cases())
    assert {study.split for study in read({**roots, "tables": tables}, "r2gen")} == {"test"}
