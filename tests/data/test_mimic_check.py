"""What `data check mimic-cxr` says of paths that hold nothing, of damage, of dates and of tables that are not there."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import mimic_tree as tree
import pytest

from cxrbench.data.base import Check, Slice
from cxrbench.data.mimic_cxr import MimicCxr
from cxrbench.errors import CxrbenchError

DATA = MimicCxr()


@pytest.fixture
def roots(tmp_path: Path) -> tree.Roots:
    return tree.build(tmp_path)


def lines(roots: tree.Roots, status: str) -> list[Check]:
    return [line for line in DATA.check(roots) if line.status == status]


@pytest.mark.parametrize("root", ["reports", "tables", "annotations", "demographics"])
def test_each_path_that_holds_nothing_of_its_root_is_named(roots: tree.Roots, tmp_path: Path, root: str) -> None:
    tree.write_mimic_iv(tmp_path / "iv")
    tree.r2gen(tmp_path / "json" / "annotation.json", tree.cases())
    good = {**roots, "annotations": (tmp_path / "json",), "demographics": (tmp_path / "iv",)}
    assert lines(good, "problem") == []
    pictures = tree.write_images(tmp_path / "pictures", tree.cases(), ".png")
    (problem,) = lines({**good, root: (pictures, *good[root])}, "problem")
    assert problem.item == root
    assert str(pictures) in problem.found
    assert f"leave {pictures} out" in problem.fix


def test_a_command_that_adds_a_table_keeps_the_folder_of_the_others(roots: tree.Roots) -> None:
    (folder,) = roots["tables"]
    (folder / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    (line,) = [line for line in DATA.check(roots) if line.item == "metadata table"]
    assert line.fix.startswith(f"cxrbench data add mimic-cxr --tables {folder} --tables DIR")


def test_reports_are_read_from_one_root_and_the_others_are_named(roots: tree.Roots, tmp_path: Path) -> None:
    second = tree.write_zip(tmp_path / "zip" / "mimic-cxr-reports.zip", tree.cases())
    found = [line.found for line in lines({**roots, "reports": (*roots["reports"], second)}, "note")]
    assert f"{second} is not used: reports are read from the first root that has them" in found


@pytest.mark.parametrize("given", ["file", "folder"])
def test_a_cut_off_archive_is_called_damaged(roots: tree.Roots, tmp_path: Path, given: str) -> None:
    archive = tree.write_zip(tmp_path / "zip" / "mimic-cxr-reports.zip", tree.cases())
    archive.write_bytes(archive.read_bytes()[:600])
    broken = {**roots, "reports": (archive if given == "file" else archive.parent,)}
    (problem,) = lines(broken, "problem")
    assert "the archive of reports is cut off or damaged" in problem.found
    assert str(archive) in problem.found
    with pytest.raises(CxrbenchError, match="cut off or damaged"):
        list(DATA.studies(broken, Slice("test")))
    with pytest.raises(CxrbenchError, match="cut off or damaged"):
        DATA.recognise(archive)


def test_the_command_that_finds_a_report_with_a_strange_byte_finds_it(tmp_path: Path) -> None:
    items = tree.cases()
    items[1] = replace(items[1], text=b" x\n FINDINGS: Heart \xe9\n")
    roots = tree.build(tmp_path / "a copy", items)
    with pytest.raises(CxrbenchError, match="not UTF-8") as caught:
        list(DATA.studies(roots, Slice("test")))
    command = caught.value.fix.removeprefix("find it with: ").removesuffix("; and download it again")
    utf8 = {**os.environ, "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8"}
    found = subprocess.run(command, shell=True, capture_output=True, text=True, env=utf8)
    assert [Path(line).name for line in found.stdout.splitlines()] == ["s59999002.txt"], found.stderr


def test_a_strange_byte_in_an_archive_has_another_remedy(tmp_path: Path) -> None:
    items = tree.cases()
    items[1] = replace(items[1], text=b" x\n FINDINGS: Heart \xe9\n")
    archive = tree.write_zip(tmp_path / "zip" / "mimic-cxr-reports.zip", items)
    with pytest.raises(CxrbenchError, match="not UTF-8") as caught:
        list(DATA.studies({**tree.build(tmp_path), "reports": (archive,)}, Slice("test")))
    assert caught.value.fix == "download the archive again"


@pytest.mark.parametrize("date", ["20x00530", "21800532", "2180"])
def test_a_date_that_is_no_date_is_not_called_missing(tmp_path: Path, date: str) -> None:
    items = [replace(case, date=date) if case.study == 59999002 else case for case in tree.cases()]
    roots = tree.build(tmp_path, items)
    found = {study.study_id: study.columns["prior"] for study in DATA.studies(roots, Slice("test"))}
    assert {found[study] for study in ("59999001", "59999002", "59999003")} == {"invalid"}
    assert found["59999006"] == "undated"
    (line,) = [line for line in DATA.check(roots) if line.item == "prior studies"]
    assert line.status == "note"
    assert "3: this or another study of the patient has a StudyDate that is no date" in line.found
    line = DATA.prepare(roots, tmp_path / "index", lambda *_: None)[1]
    assert "1 of a patient with a study without a date, 3 with one whose StudyDate is no date" in line.found


def test_a_date_that_is_no_date_is_told_even_where_another_image_has_one(tmp_path: Path) -> None:
    case = replace(tree.cases()[0], views=("PA", "LATERAL"))
    roots = tree.build(tmp_path, [case], packed=False)
    table = roots["tables"][0] / "mimic-cxr-2.0.0-metadata.csv"
    table.write_text(table.read_text().replace("21800506", "21800532", 1))
    (study,) = DATA.studies(roots, Slice("test"))
    assert (study.time, study.columns["prior"]) == ("2180-05-06T09:30:14", "invalid")


def test_what_label_tables_that_are_not_there_would_give(roots: tree.Roots) -> None:
    (folder,) = roots["tables"]
    assert not [line for line in DATA.check(roots) if "no table" in line.found]
    for kind in ("chexpert", "negbio", "test-set-labeled"):
        for path in folder.glob(f"*{kind}*"):
            path.unlink()
    found = {line.item: line.found for line in lines(roots, "note") if "no table" in line.found}
    assert found == {
        "labels chexpert": "no table: the slice abnormal is unknown for every study",
        "labels negbio": "no table: no task needs it",
        "labels mimic-test-labeled": "no table: no task needs it",
    }


def test_a_split_of_another_size_says_what_a_run_needs(roots: tree.Roots) -> None:
    (line,) = [line for line in DATA.check(roots) if line.item == "split test"]
    assert line.found == "6 studies, 10 images, 3 patients; the official split has 3,269 studies"
    assert "--allow-partial" in line.fix


def test_a_table_with_semicolons_is_told_as_one(tmp_path: Path) -> None:
    roots = tree.build(tmp_path, packed=False)
    table = roots["tables"][0] / "mimic-cxr-2.0.0-split.csv"
    table.write_text(table.read_text().replace(",", ";"))
    (problem,) = lines(roots, "problem")
    assert "the columns are separated by semicolons, not commas" in problem.found
    assert f"{table}, line 1" in problem.found
