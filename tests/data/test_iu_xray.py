"""The data set iu-xray over small trees of every form and every image naming."""

from __future__ import annotations

import shutil
from pathlib import Path

import iu_xray_tree as tree
import pytest

from cxrbench.data.base import Slice
from cxrbench.data.images import ImageFailure, read_grey
from cxrbench.data.iu_xray import IuXray
from cxrbench.errors import CxrbenchError

OPENI = Slice("all", {"form": "openi"})
R2GEN = Slice("test", {"form": "r2gen"})
REXRANK = Slice("test", {"form": "rexrank"})
NAMINGS = ("openi", "kaggle", "thumbnail", "r2gen")


def studies(part, **roots):
    given = {name: tuple(paths) if isinstance(paths, list) else (paths,) for name, paths in roots.items()}
    return {study.study_id: study for study in IuXray().studies(given, part)}


def names(study):
    return ["/".join(Path(image.path).parts[-2:]) for image in study.images]


def views(study):
    return [image.view for image in study.images]


@pytest.mark.parametrize("make", [tree.openi_folder, tree.openi_archive])
def test_openi_from_folder_and_archive(tmp_path, make):
    found = studies(OPENI, reports=make(tmp_path))
    assert list(found) == ["CXR1", "CXR2", "CXR10", "CXR77"]  # by number, not by spelling
    first = found["CXR1"]
    assert first.sections == {
        "comparison": "None.",
        "indication": "Cough",
        "findings": "Lungs clear.",
        "impression": "Normal x-XXXX.",
    }
    assert [image.image_id for image in first.images] == ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"]
    assert (first.patient_id, first.split, views(first)) == (None, "all", ["", ""])
    assert found["CXR10"].sections["findings"] == "Left effusion,\n 4.8 cm."  # verbatim
    assert found["CXR77"].images == ()


def test_abnormal_is_said_only_where_it_was_coded(tmp_path):
    found = studies(OPENI, reports=tree.openi_folder(tmp_path))
    assert {uid: study.columns.get("abnormal") for uid, study in found.items()} == {
        "CXR1": "no",
        "CXR10": "yes",
        "CXR2": None,
        "CXR77": None,
    }
    assert found["CXR10"].columns == {"uid": "CXR10", "mesh": "Pleural Effusion/left;Cardiomegaly", "abnormal": "yes"}


def test_kaggle_alone_gives_the_same_texts_and_image_ids(tmp_path):
    from_xml = studies(OPENI, reports=tree.openi_folder(tmp_path))
    reports, projections = tree.kaggle(tmp_path / "kaggle")
    found = studies(OPENI, tables=[reports, projections])
    assert list(found) == ["CXR1", "CXR2", "CXR10"]  # Kaggle has no study without an image
    for uid, study in found.items():
        assert study.sections == from_xml[uid].sections
        assert study.columns == from_xml[uid].columns
        assert {image.image_id for image in study.images} == {image.image_id for image in from_xml[uid].images}
    assert views(found["CXR1"]) == ["FRONTAL", "LATERAL"]  # Kaggle's order


def test_xml_and_kaggle_merge_texts_order_and_views(tmp_path):
    tree.openi_folder(tmp_path)
    tree.kaggle(tmp_path)
    tree.gold(tmp_path)
    found = studies(OPENI, reports=tmp_path)
    assert views(found["CXR1"]) == ["LATERAL", "FRONTAL"]  # the XML's order
    assert found["CXR1"].labels == {"openi-gold": {"Cardiomegaly": 0.0, "normal": 1.0}}
    assert found["CXR10"].labels == {}


def test_a_table_counts_under_whichever_root_it_was_given(tmp_path):
    reports, projections = tree.kaggle(tmp_path)
    assert list(studies(OPENI, reports=[reports], annotations=[projections])) == ["CXR1", "CXR2", "CXR10"]


@pytest.mark.parametrize("naming", NAMINGS)
def test_images_are_found_under_every_name_from_one_root(tmp_path, naming):
    reports = tree.openi_folder(tmp_path / "xml")
    root = tree.images(tmp_path / "images", naming)
    for study in studies(OPENI, reports=reports, images=root).values():
        for image in study.images:
            assert Path(image.path).is_absolute()
            assert image.path.endswith(tree.image_name(image.image_id, naming))
            assert Path(image.path).is_file()


@pytest.mark.parametrize("naming", NAMINGS)
def test_r2gen_numbers_mean_the_order_of_the_xml(tmp_path, naming):
    tree.openi_archive(tmp_path)
    tree.kaggle(tmp_path)
    root = tree.images(tmp_path / "images", naming)
    found = studies(R2GEN, reports=tmp_path, annotations=tree.r2gen(tmp_path), images=root)
    assert list(found) == ["CXR1_1_IM-0001"]
    study = found["CXR1_1_IM-0001"]
    assert [image.image_id for image in study.images] == ["CXR1_1_IM-0001/0", "CXR1_1_IM-0001/1"]
    wanted = [tree.image_name(image, naming) for image in ("CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001")]
    assert all(image.path.endswith(name) for image, name in zip(study.images, wanted, strict=True))
    assert views(study) == ["LATERAL", "FRONTAL"]
    assert study.sections == {"findings": "Lungs clear."}
    assert study.columns["abnormal"] == "no"


def test_r2gen_alone_needs_nothing_else(tmp_path):
    root = tree.images(tmp_path / "images", "r2gen")
    found = studies(R2GEN, annotations=tree.r2gen(tmp_path), images=root)["CXR1_1_IM-0001"]
    assert names(found) == ["CXR1_1_IM-0001/0.png", "CXR1_1_IM-0001/1.png"]
    assert (views(found), found.columns) == (["", ""], {"uid": "CXR1"})
    nowhere = studies(R2GEN, annotations=tree.r2gen(tmp_path))["CXR1_1_IM-0001"]
    assert nowhere.images[1].path == "no-images-root:CXR1_1_IM-0001_1"
    train = Slice("train", {"form": "r2gen"})
    assert [study.split for study in studies(train, annotations=tmp_path).values()] == ["train"]


@pytest.mark.parametrize("naming", ["openi", "kaggle"])
def test_r2gen_on_other_image_names_asks_for_the_xml(tmp_path, naming):
    root = tree.images(tmp_path / "images", naming)
    with pytest.raises(CxrbenchError, match="known from Open-i's XML only") as caught:
        studies(R2GEN, annotations=tree.r2gen(tmp_path), images=root)
    assert caught.value.fix == "cxrbench data add iu-xray --reports PATH/NLMCXR_reports.tgz"


def test_kaggle_texts_on_r2gen_image_names_ask_for_the_xml(tmp_path):
    tree.kaggle(tmp_path)
    root = tree.images(tmp_path / "images", "r2gen")
    with pytest.raises(CxrbenchError, match="known from Open-i's XML only"):
        studies(OPENI, tables=tmp_path, images=root)


def test_rexrank_sections_and_key_image_first(tmp_path):
    found = studies(REXRANK, annotations=tree.rexrank(tmp_path))["CXR1_1_IM-0001"]
    assert found.sections == {
        "findings": "Lungs clear.",
        "impression": "Normal x-XXXX.",
        "indication": "Cough",
        "comparison": "None.",
    }
    assert [image.image_id for image in found.images] == ["CXR1_1_IM-0001/1", "CXR1_1_IM-0001/0"]
    assert views(found) == ["FRONTAL", "LATERAL"]


def test_rexrank_views_that_do_not_fit_the_images_are_not_used(tmp_path):
    record = tree.rexrank_record() | {"frontal_lateral": ["Lateral", "Frontal", "Frontal"]}
    path = tree.rexrank(tmp_path, record)
    assert views(studies(REXRANK, annotations=path)["CXR1_1_IM-0001"]) == ["", ""]
    tree.openi_folder(tmp_path)
    tree.kaggle(tmp_path)
    assert views(studies(REXRANK, reports=tmp_path)["CXR1_1_IM-0001"]) == ["FRONTAL", "LATERAL"]


def test_projections_overrule_the_views_of_rexrank(tmp_path):
    tree.rexrank(tmp_path, tree.rexrank_record() | {"frontal_lateral": ["Frontal", "Frontal"]})
    tree.openi_folder(tmp_path)
    tree.kaggle(tmp_path)
    assert views(studies(REXRANK, reports=tmp_path)["CXR1_1_IM-0001"]) == ["FRONTAL", "LATERAL"]


def test_a_missing_file_goes_by_the_name_of_the_source_that_lists_it(tmp_path):
    reports = tree.openi_folder(tmp_path / "xml")
    root = tree.images(tmp_path / "images", "kaggle", leave_out=("CXR2_IM-0652-1001",))
    (image,) = studies(OPENI, reports=reports, images=root)["CXR2"].images
    assert image.path == "not-found:CXR2_IM-0652-1001"
    (image,) = studies(OPENI, reports=reports)["CXR2"].images
    assert image.path == "no-images-root:CXR2_IM-0652-1001"
    (tmp_path / "empty").mkdir()
    listed = studies(R2GEN, reports=reports, annotations=tree.r2gen(tmp_path), images=tmp_path / "empty")
    paths = [image.path for image in listed["CXR1_1_IM-0001"].images]
    assert paths == ["not-found:CXR1_1_IM-0001/0.png", "not-found:CXR1_1_IM-0001/1.png"]
    with pytest.raises(ImageFailure) as caught:
        read_grey(paths[0])
    assert caught.value.outcome == "missing_image"


def test_two_files_for_one_image_are_refused(tmp_path):
    reports = tree.openi_folder(tmp_path / "xml")
    tree.images(tmp_path / "images", "kaggle")
    root = tree.images(tmp_path / "images", "thumbnail")
    with pytest.raises(CxrbenchError, match=r"6 image\(s\) are there twice"):
        studies(OPENI, reports=reports, images=root)
    assert studies(OPENI, reports=reports, images=[root / "deep" / "kaggle", root / "deep" / "kaggle"])


@pytest.mark.parametrize(
    ("part", "needs", "command"),
    [
        (OPENI, "neither Open-i's XML nor Kaggle's tables", "--reports PATH/NLMCXR_reports.tgz"),
        (R2GEN, r"no R2Gen split \(JSON\) was given", "--annotations PATH/annotation.json"),
        (REXRANK, r"no ReXrank split \(JSON\) was given", "--annotations PATH/ReXRank_IUXray_test.json"),
    ],
)
def test_a_missing_form_says_what_to_type(part, needs, command):
    with pytest.raises(CxrbenchError, match=needs) as caught:
        studies(part)
    assert f"cxrbench data add iu-xray {command}" in caught.value.fix


def test_kaggle_reports_without_projections_say_what_to_type(tmp_path):
    reports, _ = tree.kaggle(tmp_path)
    with pytest.raises(CxrbenchError, match="which images") as caught:
        studies(OPENI, tables=reports)
    # `data add` replaces a root, so the command names what the root has already
    assert caught.value.fix == (f"cxrbench data add iu-xray --tables {reports} --tables PATH/indiana_projections.csv")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Slice("all"), "the task names none"),
        (Slice("all", {"form": "open-i"}), r"did you mean 'openi'"),
        (Slice("tests", {"form": "r2gen"}), r"has no split 'tests' \(did you mean 'test'\?\)"),
        (Slice("train", {"form": "rexrank"}), "has no split 'train'"),
    ],
)
def test_an_unknown_form_or_split_is_refused(tmp_path, part, message):
    tree.r2gen(tmp_path)
    with pytest.raises(CxrbenchError, match=message):
        studies(part, annotations=tmp_path)


def test_spreadsheet_damage_is_named_with_its_rows(tmp_path):
    tree.kaggle(tmp_path, damaged=("CXR10", "CXR2"))
    with pytest.raises(CxrbenchError, match=r"destroyed 2 cell\(s\)") as caught:
        studies(OPENI, tables=tmp_path)
    # the record of CXR10 ends on line 3 (header, CXR1, CXR10), that of CXR2 on line 4
    assert caught.value.where.endswith("line 3 (CXR10, findings); line 4 (CXR2, findings)")
    assert "--reports NLMCXR_reports.tgz" in caught.value.fix
    tree.openi_folder(tmp_path)
    assert studies(OPENI, tables=tmp_path)["CXR10"].sections["findings"] == "Left effusion,\n 4.8 cm."


def test_another_published_split_is_not_taken_for_r2gen(tmp_path):
    path = tmp_path / "annotation.json"
    path.write_text('{"train": [{"id": "3321", "report": "Clear.", "image_path": ["a.png"], "split": "train"}]}')
    with pytest.raises(CxrbenchError, match="ids of another split"):
        studies(R2GEN, annotations=path)


def test_two_sources_of_one_kind_are_refused(tmp_path):
    tree.openi_folder(tmp_path)
    tree.openi_archive(tmp_path)
    with pytest.raises(CxrbenchError, match=r"2 sources for Open-i reports \(XML\)") as caught:
        studies(OPENI, reports=tmp_path)
    assert "NLMCXR_reports.tgz" in caught.value.where
    assert "ecgen-radiology" in caught.value.where


def test_a_root_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CxrbenchError, match="no such file") as caught:
        studies(OPENI, reports=tmp_path / "gone")
    assert caught.value.where == str(tmp_path / "gone")
    with pytest.raises(CxrbenchError, match="not a folder"):
        studies(OPENI, reports=tree.openi_folder(tmp_path), images=tmp_path / "gone")


def test_recognise_sorts_paths_by_content(tmp_path):
    data = IuXray()
    folder = tree.openi_folder(tmp_path / "a")
    assert data.recognise(folder) == "reports"
    assert data.recognise(folder.parent) == "reports"
    renamed = shutil.copy(tree.openi_archive(tmp_path), tmp_path / "x.tgz")
    assert data.recognise(Path(renamed)) == "reports"
    (tmp_path / "k").mkdir()
    assert [data.recognise(path) for path in tree.kaggle(tmp_path / "k")] == ["tables", "tables"]
    assert data.recognise(tree.gold(tmp_path)) == "tables"
    assert data.recognise(tree.r2gen(tmp_path)) == "annotations"
    assert data.recognise(tree.rexrank(tmp_path)) == "annotations"
    assert {data.recognise(tree.images(tmp_path / f"i-{naming}", naming)) for naming in NAMINGS} == {"images"}
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.csv").write_text("a,b\n1,2\n")
    assert [data.recognise(other), data.recognise(other / "notes.csv"), data.recognise(tmp_path / "no")] == [None] * 3
