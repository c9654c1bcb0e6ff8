"""MIMIC-CXR in PhysioNet's forms: trees, archive, tables of both versions, splits, priors, faults."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import mimic_tree as tree
import pytest

from cxrbench.data.base import Slice
from cxrbench.data.mimic_cxr import MimicCxr
from cxrbench.data.mimic_tables import KNOWN_VIEWS
from cxrbench.errors import CxrbenchError
from cxrbench.types import Study

DATA = MimicCxr()
SECRET = ("Heart", "19999", "59999", "nodule")


def read(roots: tree.Roots, split: str = "test", **options: object) -> dict[str, Study]:
    return {study.study_id: study for study in DATA.studies(roots, Slice(split, options))}


def refuse(roots: tree.Roots, split: str = "test", **options: object) -> CxrbenchError:
    """The error of reading everything; it may hold nothing that identifies or quotes."""
    with pytest.raises(CxrbenchError) as caught:
        list(DATA.studies(roots, Slice(split, options)))
    error = caught.value
    assert not any(word in error.what + error.fix for word in SECRET), error.what
    assert error.fix or error.where
    return error


@pytest.fixture
def roots(tmp_path: Path) -> tree.Roots:
    return tree.build(tmp_path)


def test_a_study_has_everything_the_tables_and_the_report_say(roots: tree.Roots) -> None:
    study = read(roots)["59999001"]
    assert study.patient_id == "19999001"
    assert study.time == "2180-05-06T09:30:14"
    assert dict(study.sections) == {
        "findings": "Heart is large.",
        "impression": "Big heart.",
        "indication": "Invented cough.",
        "comparison": "None.",
        "technique": "Invented technique.",
    }
    assert [image.view for image in study.images] == ["LATERAL", "PA"]
    assert [image.image_id for image in study.images] == [tree.dicom_id(59999001, 0), tree.dicom_id(59999001, 1)]
    assert all(Path(image.path).is_file() and Path(image.path).is_absolute() for image in study.images)
    assert study.labels["chexpert"] == {"Cardiomegaly": 1.0, "Edema": -1.0, "Fracture": 0.0}
    assert study.labels["chexpert"] == study.labels["negbio"]
    assert study.labels["mimic-test-labeled"] == {"Cardiomegaly": 1.0, "Lung Opacity": 0.0}
    assert study.columns["report"] == "by-rule"
    assert study.columns["abnormal"] == "yes"
    assert study.columns["view_code"] == "lateral; pa"


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("test", ["59999001", "59999002", "59999003", "59999004", "59999005", "59999006"]),
        ("validate", ["59999007"]),
        ("train", ["59999008"]),
    ],
)
def test_splits_are_the_official_ones(roots: tree.Roots, split: str, expected: list[str]) -> None:
    assert list(read(roots, split)) == expected


def test_other_names_of_splits_are_refused(roots: tree.Roots) -> None:
    assert "did you mean 'validate'" in refuse(roots, "valid").what


def test_prior_studies_are_newest_first_and_doubts_are_named(roots: tree.Roots) -> None:
    found = read(roots)
    assert found["59999002"].priors == ("59999001", "59999003")
    assert found["59999001"].priors == ("59999003",)
    assert found["59999003"].priors == ()
    names = {study: each.columns["prior"] for study, each in found.items()}
    assert names == {
        "59999001": "yes",
        "59999002": "yes",
        "59999003": "no",
        "59999004": "tie",
        "59999005": "tie",
        "59999006": "undated",
    }
    assert found["59999006"].time is None


def test_abnormal_follows_the_chexpert_table(roots: tree.Roots) -> None:
    found = read(roots)
    assert {study: each.columns["abnormal"] for study, each in found.items()} == {
        "59999001": "yes",
        "59999002": "yes",
        "59999003": "no",
        "59999004": "no",
        "59999005": "no",
        "59999006": "yes",
    }
    assert "abnormal" not in read(roots, "validate")["59999007"].columns


@pytest.mark.parametrize("shape", ["files", "parent", "zip", "folder of the zip", "zip without prefix"])
def test_reports_are_found_in_every_form(roots: tree.Roots, tmp_path: Path, shape: str) -> None:
    expected = read(roots)
    base = roots["reports"][0]
    given = {
        "files": lambda: base / "files",
        "parent": lambda: shutil.copytree(base, tmp_path / "physionet.org" / "files" / "mimic-cxr" / "2.1.0").parents[
            1
        ],
        "zip": lambda: tree.write_zip(tmp_path / "other" / "mimic-cxr-reports.zip", tree.cases()),
        "folder of the zip": lambda: tree.write_zip(tmp_path / "z" / "mimic-cxr-reports.zip", tree.cases()).parent,
        "zip without prefix": lambda: tree.write_zip(tmp_path / "y" / "reports.zip", tree.cases(), prefix="files/"),
    }[shape]()
    assert read({**roots, "reports": (given,)}) == expected
    assert DATA.recognise(given) == "reports"


@pytest.mark.parametrize("extension", [".jpg", ".png", ".dcm"])
def test_images_are_found_in_every_form(roots: tree.Roots, tmp_path: Path, extension: str) -> None:
    if extension == ".dcm":
        pytest.importorskip("pydicom", reason="needs the extra `dicom`")
    root = tree.write_images(tmp_path / "elsewhere", tree.cases(), extension)
    found = read({**roots, "images": (root / "files",)})
    paths = [Path(image.path) for study in found.values() for image in study.images]
    assert {path.suffix for path in paths} == {extension}
    assert all(path.is_file() for path in paths)
    assert DATA.recognise(root) == "images"


def test_the_first_root_wins_and_the_next_one_fills_its_gaps(roots: tree.Roots, tmp_path: Path) -> None:
    small = tree.write_images(tmp_path / "small", tree.cases()[:1], ".png", size=4)
    found = read({**roots, "images": (small, *roots["images"])})
    assert {Path(image.path).suffix for image in found["59999001"].images} == {".png"}
    assert {Path(image.path).suffix for image in found["59999002"].images} == {".jpg"}
    forced = read({**roots, "images": (small, *roots["images"])}, image_ext=".jpg")
    assert {Path(image.path).suffix for image in forced["59999001"].images} == {".jpg"}


def test_reports_and_dicom_in_one_download(roots: tree.Roots) -> None:
    pytest.importorskip("pydicom", reason="needs the extra `dicom`")
    both = tree.write_images(roots["reports"][0], tree.cases(), ".dcm")
    found = read({**roots, "images": (both,)})
    assert all(image.path.endswith(".dcm") for study in found.values() for image in study.images)


def test_one_folder_with_all_of_physionets_downloads(roots: tree.Roots, tmp_path: Path) -> None:
    expected = read(roots)
    host = tmp_path / "all" / "physionet.org" / "files"
    shutil.copytree(roots["reports"][0], host / "mimic-cxr" / "2.1.0")
    jpg = shutil.copytree(roots["images"][0], host / "mimic-cxr-jpg" / "2.1.0")
    shutil.copytree(roots["tables"][0], jpg, dirs_exist_ok=True)
    found = read(dict.fromkeys(("reports", "images", "tables"), (tmp_path / "all",)))
    assert {study: each.sections for study, each in found.items()} == {
        study: each.sections for study, each in expected.items()
    }
    assert all(Path(image.path).is_file() for study in found.values() for image in study.images)
    assert found["59999001"].labels == expected["59999001"].labels


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("version", ["2.0.0", "2.1.0"])
def test_tables_of_both_versions_packed_and_not(tmp_path: Path, packed: bool, version: str) -> None:
    found = read(tree.build(tmp_path, packed=packed, version=version))
    assert len(found) == 6
    assert ("mimic-test-labeled" in found["59999001"].labels) == (version == "2.1.0")


def test_tables_may_lie_in_several_folders_or_beside_the_images(roots: tree.Roots, tmp_path: Path) -> None:
    expected = read(roots)
    tables = roots["tables"][0]
    (tmp_path / "more").mkdir()
    shutil.move(tables / "mimic-cxr-2.0.0-metadata.csv.gz", tmp_path / "more")
    assert read({**roots, "tables": (tables, tmp_path / "more")}) == expected
    assert read({**roots, "tables": (tables, tmp_path / "more" / "mimic-cxr-2.0.0-metadata.csv.gz")}) == expected
    for path in [*tables.iterdir(), *(tmp_path / "more").iterdir()]:
        shutil.move(path, roots["images"][0])
    assert read({name: roots[name] for name in ("reports", "images")}) == expected


def test_a_table_packed_and_unpacked_counts_once_and_two_different_ones_are_refused(roots: tree.Roots) -> None:
    tables = roots["tables"][0]
    split = tables / "mimic-cxr-2.0.0-split.csv.gz"
    split.with_suffix("").write_bytes(gzip.decompress(split.read_bytes()))
    assert len(read(roots)) == 6
    (tables / "my-split.csv").write_bytes(gzip.decompress(split.read_bytes()))
    assert "two split tables" in refuse(roots).what


def test_every_known_view_is_passed_on(tmp_path: Path) -> None:
    views = tuple(sorted(KNOWN_VIEWS))
    case = replace(tree.cases()[0], views=views)
    found = read(tree.build(tmp_path, [case]))
    assert tuple(image.view for image in found["59999001"].images) == views


def test_a_study_treated_by_hand_has_findings(tmp_path: Path) -> None:
    case = replace(tree.cases()[0], study=51966317, text=" x\n INDICATION: The lungs are clear.\n COMPARISON: None.\n")
    study = read(tree.build(tmp_path, [case]))["51966317"]
    assert dict(study.sections) == {"findings": "The lungs are clear.", "comparison": "None."}
    assert study.columns["report"] == "by-hand"


def test_windows_line_ends_count_as_one_character(tmp_path: Path) -> None:
    text = tree.cases()[0].text
    assert isinstance(text, str)
    case = replace(tree.cases()[0], text=text.replace("\n", "\r\n").encode())
    assert read(tree.build(tmp_path / "a", [case]))["59999001"].sections["findings"] == "Heart is large."


def test_a_report_that_is_not_text_is_an_error_without_its_name(tmp_path: Path) -> None:
    items = tree.cases()
    items[1] = replace(items[1], text=b" x\n FINDINGS: Heart \xe9\n")
    error = refuse(tree.build(tmp_path, items))
    assert "not UTF-8" in error.what
    assert "grep" in error.fix


def test_a_missing_report_is_an_error_unless_a_partial_copy_is_allowed(tmp_path: Path) -> None:
    items = tree.cases()
    items[1] = replace(items[1], text=None)
    roots = tree.build(tmp_path, items)
    assert "is missing" in refuse(roots).what
    found = read(roots, reports="present")
    assert found["59999002"].columns["report"] == "missing"
    assert found["59999002"].sections == {}


def test_a_damaged_archive_is_an_error_without_the_name_of_a_member(roots: tree.Roots, tmp_path: Path) -> None:
    path = tree.write_zip(tmp_path / "z" / "mimic-cxr-reports.zip", tree.cases())
    raw = bytearray(path.read_bytes())
    raw[80:110] = bytes(30)
    path.write_bytes(raw)
    assert "damaged" in refuse({**roots, "reports": (path,)}).what


def test_a_report_that_cannot_be_read_is_an_error_without_its_name(roots: tree.Roots) -> None:
    path = roots["reports"][0] / "files" / f"{tree.cases()[1].folder}.txt"
    path.unlink()
    path.mkdir()
    error = refuse(roots)
    assert "cannot be read" in error.what
    assert "19999001" not in error.where


def test_the_name_in_messages_depends_on_the_data(tmp_path: Path) -> None:
    items = tree.cases()
    items[1] = replace(items[1], text=None)
    one, two = (refuse(tree.build(tmp_path / name, items)).what for name in ("a", "b"))
    other = refuse(tree.build(tmp_path / "c", [*items, replace(items[0], subject=19999077, study=59999077)])).what
    assert one == two
    assert one != other


@pytest.mark.parametrize("root", ["reports", "images", "tables"])
def test_a_missing_root_names_the_command(roots: tree.Roots, root: str) -> None:
    error = refuse({name: paths for name, paths in roots.items() if name != root})
    assert f"cxrbench data add mimic-cxr --{root}" in error.fix


@pytest.mark.parametrize("root", ["reports", "images", "tables"])
def test_a_root_of_another_form_is_refused(roots: tree.Roots, tmp_path: Path, root: str) -> None:
    (tmp_path / "empty").mkdir()
    error = refuse({**roots, root: (tmp_path / "empty",)})
    assert f"--{root}" in error.fix


@pytest.mark.parametrize(
    ("kind", "old", "new", "complaint"),
    [
        ("split", b"validate", b"val", "not train, validate or test"),
        ("split", b"59999001", b"5999900", "not 8 digits"),
        ("split", b"19999001", "1999900\u0661".encode(), "not 8 digits"),
        ("split", b"-aaaaaaaa-bbbbbbbb-cccccccc,59999001", b"/../../x,59999001", "not five groups of eight hex digits"),
        ("split", b"dicom_id,study_id", b"dicom_id,study_id,study_id", "the column 'study_id' twice"),
        ("metadata", b",Erect\n", b"\n", "fewer cells than the header"),
        ("metadata", b",Erect\n", b",Erect,\n", "more cells than the header"),
        ("metadata", b"lateral", b"l\xe4teral", "cannot be read (UnicodeDecodeError)"),
        ("metadata", b"StudyDate", b"Date", "no column 'StudyDate'"),
        ("chexpert", b"-1.0", b"-2.0", "none of 1, 0, -1"),
        ("chexpert", b"-1.0", b"maybe", "not a number"),
    ],
)
def test_damaged_tables_are_refused(roots: tree.Roots, kind: str, old: bytes, new: bytes, complaint: str) -> None:
    path = roots["tables"][0] / f"mimic-cxr-2.0.0-{kind}.csv.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(old, new)))
    assert complaint in refuse(roots).what


def metadata_lines(roots: tree.Roots) -> tuple[Path, list[bytes]]:
    path = roots["tables"][0] / "mimic-cxr-2.0.0-metadata.csv.gz"
    return path, gzip.decompress(path.read_bytes()).splitlines(keepends=True)


def test_a_metadata_table_that_lacks_an_image_is_refused(roots: tree.Roots) -> None:
    path, lines = metadata_lines(roots)
    path.write_bytes(gzip.compress(b"".join(lines[:4])))
    assert "metadata table lacks 7 of 10 images of the split table" in refuse(roots).what
    (problem,) = [line for line in DATA.check(roots) if line.status == "problem"]
    assert "lacks 9 of 12 images" in problem.found
    # The patients of validate are whole: what another split lacks is not their concern.
    path.write_bytes(gzip.compress(b"".join([lines[0], *(line for line in lines if b"59999007" in line)])))
    assert list(read(roots, "validate")) == ["59999007"]


def test_a_metadata_table_of_other_studies_is_refused(roots: tree.Roots) -> None:
    path, lines = metadata_lines(roots)
    lines[1] = lines[1].replace(b",59999001,", b",59999002,")
    path.write_bytes(gzip.compress(b"".join(lines)))
    assert "metadata table puts into another study 1 of 10 images" in refuse(roots).what


def test_a_cut_off_download_is_refused(roots: tree.Roots) -> None:
    path = roots["tables"][0] / "mimic-cxr-2.0.0-chexpert.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    assert "cannot be read" in refuse(roots).what


def test_an_image_named_twice_is_refused(tmp_path: Path) -> None:
    items = tree.cases()
    assert "names an image twice" in refuse(tree.build(tmp_path, [*items, items[0]])).what


def test_metadata_that_names_an_image_twice_is_refused(roots: tree.Roots) -> None:
    path = roots["tables"][0] / "mimic-cxr-2.0.0-metadata.csv.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join([*lines, lines[1]])))
    assert "metadata table names an image twice" in refuse(roots).what


def test_options_are_checked(roots: tree.Roots) -> None:
    assert "no option 'from' (did you mean 'form'?)" in refuse(roots, **{"from": "r2gen"}).what
    assert "cannot be 'r2'" in refuse(roots, form="r2").what


@pytest.mark.parametrize(
    ("part", "root"),
    [
        ("tables", "tables"),
        ("tables/mimic-cxr-2.0.0-split.csv.gz", "tables"),
        ("mimic-iv", "demographics"),
        ("mimic-iv/hosp", "demographics"),
        ("mimic-iv/hosp/admissions.csv.gz", "demographics"),
        ("json/annotation.json", "annotations"),
        ("json", "annotations"),
        ("mimic-cxr-jpg", "images"),
        ("mimic-cxr", "reports"),
        ("notes.txt", None),
        ("nowhere", None),
    ],
)
def test_paths_are_sorted_into_roots(roots: tree.Roots, tmp_path: Path, part: str, root: str | None) -> None:
    tree.write_mimic_iv(tmp_path / "mimic-iv")
    tree.r2gen(tmp_path / "json" / "annotation.json", tree.cases())
    (tmp_path / "notes.txt").write_text("x")
    assert DATA.recognise(tmp_path / part) == root


def test_the_fingerprint_follows_the_data_and_not_their_place(roots: tree.Roots, tmp_path: Path) -> None:
    first = DATA.fingerprint(roots, Slice("test"))
    assert DATA.fingerprint(tree.build(tmp_path / "copy", packed=False), Slice("test")) == first
    assert DATA.fingerprint(roots, Slice("train")) != first
    larger = tree.write_images(tmp_path / "large", tree.cases(), size=64)
    assert DATA.fingerprint({**roots, "images": (larger,)}, Slice("test")) != first
    report = roots["reports"][0] / "files" / f"{tree.cases()[0].folder}.txt"
    report.write_bytes(report.read_bytes() + b" Heart.")
    assert DATA.fingerprint(roots, Slice("test")) != first
