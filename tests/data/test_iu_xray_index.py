"""check, prepare and fingerprint of iu-xray."""

from __future__ import annotations

import json

import iu_xray_tree as tree
import pytest

from cxrbench.data import iu_check, iu_collection
from cxrbench.data.base import Slice
from cxrbench.data.iu_xray import IuXray
from cxrbench.errors import CxrbenchError
from cxrbench.spec import Expected, find_task

OPENI = Slice("all", {"form": "openi"})
REXRANK = Slice("test", {"form": "rexrank"})
OPENI_TASKS = "iu-findings, iu-impression, iu-impression-given-findings"
PARTIAL = "needs --allow-partial, which is recorded"


@pytest.fixture
def roots(tmp_path):
    tree.openi_archive(tmp_path)
    tree.kaggle(tmp_path)
    tree.rexrank(tmp_path)
    return {"reports": (tmp_path,), "images": (tree.images(tmp_path / "images", "kaggle"),)}


def line(roots, item):
    return next(each for each in IuXray().check(roots) if each.item == item)


def test_an_index_gives_the_same_studies_without_parsing(tmp_path, roots, monkeypatch):
    data, calls = IuXray(), []
    fresh = [list(data.studies(roots, part)) for part in (OPENI, REXRANK)]
    (done,) = data.prepare(roots, tmp_path / "index", lambda done, total: calls.append((done, total)))
    assert (done.status, calls) == ("ok", [(0, 2), (1, 2), (2, 2)])
    monkeypatch.setattr(iu_collection, "read_reports", None)
    monkeypatch.setattr(iu_collection, "list_images", None)
    assert [list(data.studies(roots, part, tmp_path / "index")) for part in (OPENI, REXRANK)] == fresh


def test_an_index_is_not_used_once_its_sources_changed(tmp_path, roots):
    data, index = IuXray(), tmp_path / "index"
    data.prepare(roots, index, lambda done, total: None)
    found = tmp_path / "images" / "deep" / "kaggle" / "2_IM-0652-1001.dcm.png"
    found.rename(found.parent / "elsewhere.png")
    paths = [image.path for study in data.studies(roots, OPENI, index) for image in study.images]
    assert "not-found:CXR2_IM-0652-1001" in paths
    changed = {"ecgen-radiology/2.xml": tree.xml("CXR2").replace("Stable.", "Changed.").encode()}
    tree.tgz(tmp_path / "NLMCXR_reports.tgz", changed)
    (study,) = data.studies(roots, OPENI, index)
    assert study.sections == {"impression": "Changed."}


@pytest.mark.parametrize("body", ["{", "[]", '{"key": 1}', '{"key": "KEY", "images": {}, "reports": {}}'])
def test_a_damaged_index_is_named(tmp_path, roots, body):
    key = iu_collection.Collection(roots).index_key
    index = tmp_path / "index"
    index.mkdir()
    (index / "iu-xray.json").write_text(body.replace("KEY", key))
    if body == '{"key": 1}':  # made from something else: not used, not an error
        assert list(IuXray().studies(roots, OPENI, index))
        return
    with pytest.raises(CxrbenchError, match="index is damaged") as caught:
        list(IuXray().studies(roots, OPENI, index))
    assert caught.value.fix == "cxrbench data prepare iu-xray"


def test_the_fingerprint_is_of_the_data_not_of_the_place(tmp_path_factory, roots):
    data = IuXray()
    before = data.fingerprint(roots, OPENI)
    there = tmp_path_factory.mktemp("elsewhere")
    tree.openi_folder(there)  # a folder in place of the archive
    tree.kaggle(there)
    moved = {"tables": (there,), "images": (tree.images(there / "images", "kaggle"),)}
    assert data.fingerprint(moved, OPENI) == before
    image = there / "images" / "deep" / "kaggle" / "2_IM-0652-1001.dcm.png"
    image.write_bytes(image.read_bytes() + b"more")
    assert data.fingerprint(moved, OPENI) != before
    assert data.fingerprint(roots, OPENI) == before
    assert data.fingerprint(roots, REXRANK) != before


def test_check_says_what_is_there_and_what_to_do(tmp_path, roots):
    found = line(roots, "Open-i reports (XML)")
    assert found.status == "note"
    assert found.found.startswith(
        "4 (full: 3,955) reports; both sections 3, impression only 1, findings only 0, neither 0"
    )
    assert line(roots, "XML against Kaggle").found == "3 reports in both, every section equal"
    assert line(roots, "images").found.endswith("6 of the 6 images the XML names are there")
    assert line(roots, "iu-impression").found == f"3 samples here, 3,820 in full: {PARTIAL}"
    ready = line(roots, "iu-findings-rexrank")
    assert (ready.status, ready.found) == ("note", f"1 samples here, 590 in full: {PARTIAL}")
    missing = line(roots, "iu-findings-r2gen")
    assert (missing.status, missing.fix) == ("note", "cxrbench data add iu-xray --annotations PATH/annotation.json")


def test_check_of_nothing_says_how_to_begin():
    lines = IuXray().check({})
    assert [each.status for each in lines] == ["missing"] * 4 + ["note"]
    assert all(each.fix.startswith("cxrbench data add iu-xray --") for each in lines)


def kaggle_alone(root):
    return {"tables": tree.kaggle(root)}


def r2gen_alone(root):
    return {"annotations": (tree.r2gen(root),), "images": (tree.images(root / "images", "r2gen"),)}


def xml_alone(root):
    return {"reports": (tree.openi_archive(root),)}


@pytest.mark.parametrize(
    ("make", "ready"), [(kaggle_alone, OPENI_TASKS), (r2gen_alone, "iu-findings-r2gen"), (xml_alone, OPENI_TASKS)]
)
def test_a_form_one_does_not_have_is_a_note(tmp_path, make, ready):
    lines = IuXray().check(make(tmp_path))
    assert {each.status for each in lines} <= {"ok", "note"}
    tasks = {each.item: each for each in lines if each.item.startswith("iu-")}
    usable = [item for item, each in tasks.items() if not each.found.startswith("not ready")]
    assert ", ".join(usable) == ready
    assert all(
        each.fix.startswith("cxrbench data add iu-xray --") for item, each in tasks.items() if item not in usable
    )


def test_a_task_whose_full_size_is_here_is_ready_and_one_without_a_sample_is_not(tmp_path, monkeypatch):
    full = {"iu-findings": 2, "iu-impression": 3, "iu-impression-given-findings": 2}

    def with_size(name):
        spec = find_task(name)
        return spec.model_copy(update={"expected": Expected(n=full[name], evidence="verified", source="x")})

    monkeypatch.setattr(iu_check, "find_task", with_size)
    roots = kaggle_alone(tmp_path)
    assert [(each.status, each.found) for each in IuXray().check(roots) if each.item in full] == [("ok", "ready")] * 3
    reports, _ = roots["tables"]
    reports.write_text("\n".join(reports.read_text().splitlines()[:1]) + "\n")
    assert {each.found for each in IuXray().check(roots) if each.item in full} == {"not ready: no sample is left"}


@pytest.mark.parametrize("root", ["reports", "tables", "annotations"])
def test_a_path_that_holds_nothing_is_named_and_not_kept(tmp_path, roots, root):
    pictures = roots["images"][0]
    reports, _ = tree.kaggle(tmp_path / "tables")
    found = IuXray().check({"tables": (reports,), "images": (pictures,), root: (pictures, reports)})
    (problem,) = [each for each in found if each.status == "problem"]
    assert (problem.item, problem.found) == (root, f"there is no source of IU X-ray in {pictures}")
    assert problem.fix == f"leave {pictures} out: cxrbench data add iu-xray --{root} {reports}"
    assert not [each.fix for each in found if each is not problem and f" {pictures}" in each.fix]


def test_each_image_root_without_an_image_is_named(tmp_path, roots):
    (tmp_path / "empty").mkdir()
    (problem,) = [
        each
        for each in IuXray().check({**roots, "images": (*roots["images"], tmp_path / "empty")})
        if each.status == "problem"
    ]
    assert (problem.item, problem.found) == ("images", f"there is no image of IU X-ray in {tmp_path / 'empty'}")
    assert problem.fix.endswith(f"--images {roots['images'][0]}")
    alone = [each for each in IuXray().check({**roots, "images": (tmp_path / "empty",)}) if each.item == "images"]
    assert [each.status for each in alone] == ["problem"]


def test_a_table_with_semicolons_is_told_as_one(tmp_path):
    _, projections = tree.kaggle(tmp_path)
    projections.write_text(projections.read_text().replace(",", ";"))
    for given in (projections, tmp_path):
        (found,) = IuXray().check({"tables": (given,)})
        assert found.status == "problem"
        assert "the columns are separated by semicolons, not commas" in found.found
        assert f"{projections}, line 1" in found.found


def test_two_sources_of_one_kind_make_no_task_ready(tmp_path):
    roots = {"reports": (tree.openi_archive(tmp_path), tree.openi_folder(tmp_path)), "tables": tree.kaggle(tmp_path)}
    lines = {each.item: each for each in IuXray().check(roots)}
    assert lines["Open-i reports (XML)"].status == "problem"
    assert lines[OPENI_TASKS].status == "problem"
    assert lines[OPENI_TASKS].found.startswith("not ready: there are 2 sources for Open-i reports (XML)")


def test_reports_of_kaggle_without_projections_need_the_projections(tmp_path):
    reports, _ = tree.kaggle(tmp_path)
    roots = {"tables": (reports,)}
    found = line(roots, OPENI_TASKS)
    assert (found.status, found.fix) == (
        "missing",
        f"cxrbench data add iu-xray --tables {reports} --tables PATH/indiana_projections.csv",
    )
    assert "no Kaggle projections (CSV) was given" in found.found
    assert line({**roots, **r2gen_alone(tmp_path)}, OPENI_TASKS).status == "note"


def test_a_split_that_numbers_images_of_other_names_is_not_ready(tmp_path):
    roots = {**kaggle_alone(tmp_path), **r2gen_alone(tmp_path), "images": (tree.images(tmp_path / "k", "kaggle"),)}
    found = line(roots, "iu-findings-r2gen")
    assert (found.status, found.fix) == ("note", "cxrbench data add iu-xray --reports PATH/NLMCXR_reports.tgz")
    assert line(roots, "iu-findings").found == f"2 samples here, 3,337 in full: {PARTIAL}"
    with pytest.raises(CxrbenchError) as caught:
        list(IuXray().studies(roots, Slice("test", {"form": "r2gen"})))
    assert found.found == f"not ready: {caught.value.what}"


def test_an_image_that_is_not_there_goes_by_any_of_three_names(tmp_path):
    roots = xml_alone(tmp_path)
    folder = tree.images(tmp_path / "images", "r2gen", leave_out=("CXR1_1_IM-0001-4001",))
    found = line({**roots, "images": (folder,)}, "images")
    assert found.status == "note"
    names = "CXR1_1_IM-0001-4001.png, 1_IM-0001-4001.dcm.png or CXR1_1_IM-0001/1.png"
    assert f"5 of the 6 images the XML names are there; the first that is not: {names} (each would do)" in found.found


def test_a_file_of_another_split_is_told_which_forms_are_known(tmp_path):
    path = tmp_path / "annotation.json"
    path.write_text(json.dumps({"train": [{"id": "1", "report": "x"}]}))
    (found,) = IuXray().check({"annotations": (path,)})
    assert found.status == "problem"
    assert "ids of another split" in found.found
    assert "annotation.json" in found.fix
    assert "data check" not in found.fix


def test_check_finds_contradictions_and_goes_on_after_damage(tmp_path, roots):
    reports, _ = tree.kaggle(tmp_path, damaged=("CXR10",))
    text = reports.read_text().replace("Lungs clear.", "Lungs are clear.")
    reports.write_text(text)
    differ = line(roots, "XML against Kaggle")
    assert (differ.status, differ.found) == ("problem", "1 section(s) differ: CXR1 findings")
    assert line(roots, "Kaggle reports (CSV)").status == "note"  # harmless beside the XML
    record = tree.rexrank_record() | {"section_findings": "Other."}
    tree.rexrank(tmp_path, record)
    assert (
        line(roots, "splits against XML").found == "1 study(ies) differ from the XML or are not in it: CXR1_1_IM-0001"
    )
    tree.images(tmp_path / "images", "thumbnail")
    assert line(roots, "images").status == "problem"
    (tmp_path / "NLMCXR_reports.tgz").unlink()
    damage = line(roots, "Kaggle reports (CSV)")
    assert (damage.status, "line 3 (CXR10, findings)" in damage.found) == ("problem", True)


def test_check_names_a_damaged_source_once_and_looks_at_the_others(tmp_path, roots):
    path = tmp_path / "NLMCXR_reports.tgz"
    path.write_bytes(path.read_bytes()[:-200])
    problems = [each for each in IuXray().check(roots) if each.status == "problem"]
    assert [each.item for each in problems] == ["Open-i reports (XML)", OPENI_TASKS, "iu-findings-rexrank"]
    assert [str(path) in each.found for each in problems] == [True, False, False]
    assert line(roots, "Kaggle reports (CSV)").found == "3 (full: 3,851) reports"


def test_check_names_what_it_did_not_use(tmp_path, roots):
    (tmp_path / "index.csv").write_text("a,b\n")
    other = tmp_path / "mrg"
    other.mkdir()
    (other / "annotation.json").write_text(json.dumps({"train": [{"id": "1", "report": "x"}]}))
    assert line(roots, "other files").found.endswith(f"{tmp_path.name}/index.csv, mrg/annotation.json")
