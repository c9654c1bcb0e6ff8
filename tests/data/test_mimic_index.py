"""The prepared index, `data check`, demographics and times of MIMIC-CXR."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import mimic_tree as tree
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench.data.base import Slice
from cxrbench.data.mimic_cxr import MimicCxr
from cxrbench.data.mimic_demographics import age_at, one_race
from cxrbench.data.mimic_exams import Exam, Moment, moment, with_priors
from cxrbench.errors import CxrbenchError

DATA = MimicCxr()


def silent(done: int, total: int | None) -> None:
    """No progress is shown."""


def rewrite_unseen(path: Path) -> None:
    """Change a report so that neither its size nor its time tells: only reading it would."""
    before = path.stat()
    path.write_bytes(b"#" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def roots(tmp_path: Path) -> tree.Roots:
    return {**tree.build(tmp_path), "demographics": (tree.write_mimic_iv(tmp_path / "iv"),)}


@pytest.mark.parametrize("split", ["train", "validate", "test"])
def test_the_index_yields_what_direct_reading_yields(roots: tree.Roots, tmp_path: Path, split: str) -> None:
    direct = list(DATA.studies(roots, Slice(split)))
    calls: list[tuple[int, int | None]] = []
    DATA.prepare(roots, tmp_path / "index", lambda done, total: calls.append((done, total)))
    for path in (roots["reports"][0] / "files").rglob("*.txt"):
        rewrite_unseen(path)
    assert list(DATA.studies(roots, Slice(split), tmp_path / "index")) == direct
    assert calls[-1] == (8, 8)


def test_the_index_is_private(roots: tree.Roots, tmp_path: Path) -> None:
    out = tmp_path / "index"
    out.mkdir(mode=0o755)
    DATA.prepare(roots, out, silent)
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert len(list(out.iterdir())) == 5
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in out.iterdir())


def test_an_index_of_other_tables_or_roots_is_not_used(roots: tree.Roots, tmp_path: Path) -> None:
    out = tmp_path / "index"
    DATA.prepare(roots, out, silent)
    path = roots["reports"][0] / "files" / f"{tree.cases()[0].folder}.txt"
    path.write_text(" x\n FINDINGS: read from the tree\n")
    table = roots["tables"][0] / "mimic-cxr-2.0.0-split.csv.gz"
    os.utime(table, ns=(1, 1))
    first = next(iter(DATA.studies(roots, Slice("test"), out)))
    assert first.sections["findings"] == "read from the tree"
    DATA.prepare(roots, out, silent)
    rewrite_unseen(path)
    first = next(iter(DATA.studies(roots, Slice("test"), out)))
    assert first.sections["findings"] == "read from the tree"
    other = tree.write_images(tmp_path / "other", tree.cases(), ".png")
    first = next(iter(DATA.studies({**roots, "images": (other,)}, Slice("test"), out)))
    assert "findings" not in first.sections
    assert first.images[0].path.endswith(".png")


def test_a_report_that_changed_is_noticed(roots: tree.Roots, tmp_path: Path) -> None:
    out = tmp_path / "index"
    DATA.prepare(roots, out, silent)
    assert DATA.index_in_use(roots, out)
    path = roots["reports"][0] / "files" / f"{tree.cases()[0].folder}.txt"
    path.write_text(" x\n FINDINGS: edited since\n")
    assert not DATA.index_in_use(roots, out)
    first = next(iter(DATA.studies(roots, Slice("test"), out)))
    assert first.sections["findings"] == "edited since"


@pytest.mark.parametrize("given", ["file", "folder"])
def test_another_archive_of_reports_is_noticed(roots: tree.Roots, tmp_path: Path, given: str) -> None:
    archive = tree.write_zip(tmp_path / "zip" / "mimic-cxr-reports.zip", tree.cases())
    roots = {**roots, "reports": (archive if given == "file" else archive.parent,)}
    DATA.prepare(roots, tmp_path / "index", silent)
    assert DATA.index_in_use(roots, tmp_path / "index")
    os.utime(archive, ns=(1, 1))
    assert not DATA.index_in_use(roots, tmp_path / "index")


def test_an_index_is_not_built_among_other_files(roots: tree.Roots) -> None:
    (folder,) = roots["reports"]
    folder.chmod(0o755)
    with pytest.raises(CxrbenchError, match="holds other files"):
        DATA.prepare(roots, folder, silent)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_an_unfinished_index_is_not_used_and_a_damaged_one_is_refused(roots: tree.Roots, tmp_path: Path) -> None:
    out = tmp_path / "index"
    DATA.prepare(roots, out, silent)
    (out / "mimic-index-test.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(CxrbenchError, match="index is damaged"):
        list(DATA.studies(roots, Slice("test"), out))
    (out / "mimic-index.json").unlink()
    assert len(list(DATA.studies(roots, Slice("test"), out))) == 6


def test_prepare_counts_what_is_missing_and_the_task_refuses_it(tmp_path: Path) -> None:
    items = tree.cases()
    items[1] = replace(items[1], text=None)
    items[6] = replace(items[6], text=b"\xff")
    roots = tree.build(tmp_path, items)
    next(iter((roots["images"][0] / "files").rglob("*.jpg"))).unlink()
    out = tmp_path / "index"
    lines = DATA.prepare(roots, out, silent)
    assert [(line.item, line.status, line.found.split()[0]) for line in lines] == [
        ("index", "ok", "8"),
        ("prior studies", "note", "2"),
        ("reports", "missing", "1"),
        ("reports", "problem", "1"),
        ("images", "missing", "1"),
    ]
    for split, complaint in (("test", "is missing"), ("validate", "not UTF-8")):
        with pytest.raises(CxrbenchError, match=complaint):
            list(DATA.studies(roots, Slice(split), out))
    assert len(list(DATA.studies(roots, Slice("test", {"reports": "present"}), out))) == 6


def test_prepare_in_a_folder_that_cannot_be_written(roots: tree.Roots, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CxrbenchError, match="cannot be written"):
        DATA.prepare(roots, tmp_path / "file" / "index", silent)


def test_only_annotations_need_no_index(tmp_path: Path) -> None:
    path = tree.r2gen(tmp_path / "annotation.json", tree.cases())
    (line,) = DATA.prepare({"annotations": (path,)}, tmp_path / "index", silent)
    assert "nothing to prepare" in line.found


def test_check_of_a_whole_installation(roots: tree.Roots, tmp_path: Path) -> None:
    tree.llavarad(tmp_path / "json" / "chat_test.json", tree.cases())
    tree.r2gen(tmp_path / "json" / "annotation.json", tree.cases())
    lines = DATA.check({**roots, "annotations": (tmp_path / "json",)})
    assert not [line for line in lines if line.status in ("missing", "problem")]
    by_item = {line.item: line.found for line in lines}
    assert by_item["split test"] == "6 studies, 10 images, 3 patients; the official split has 3,269 studies"
    assert "v2.1.0" in by_item["tables"]
    assert by_item["views"].startswith("PA 4, AP 3, LATERAL 2")
    assert "empty 1" in by_item["views"]
    assert "8 of 8 studies looked for" in by_item["reports"]
    assert "12 of 12 images looked for" in by_item["images"]
    assert by_item["annotations llavarad"] == "chat_test.json: 12 test; test rule-based 12"
    assert by_item["annotations r2gen"] == "annotation.json: 1 train, 1 validate, 10 test"
    assert by_item["demographics"].startswith(
        "linked 3, unlinked 2, race known 1, race conflicting 1, race unknown 3 of 5 patients"
    )
    assert not any(word in line.found + line.fix for line in lines for word in ("19999", "59999", "Heart"))


def test_check_of_nothing_says_what_to_add() -> None:
    lines = DATA.check({})
    fixes = " ".join(line.fix for line in lines if line.status == "missing")
    assert all(f"--{root}" in fixes for root in ("reports", "images", "tables"))


def test_beside_the_file_of_a_protocol_the_physionet_form_is_a_note(roots: tree.Roots, tmp_path: Path) -> None:
    protocol = {"annotations": (tree.r2gen(tmp_path / "json" / "annotation.json", tree.cases()),)}
    lines = DATA.check({**protocol, "images": roots["images"]})
    assert {line.status for line in lines} == {"ok", "note"}
    notes = {line.item for line in lines if line.status == "note"}
    assert {"split table", "metadata table", "reports"} <= notes
    assert [line.item for line in DATA.check(protocol) if line.status == "missing"] == ["images"]


def test_images_of_which_some_are_there_are_a_note_and_none_are_not(roots: tree.Roots) -> None:
    files = sorted(path for path in roots["images"][0].rglob("*.jpg"))
    files[-1].unlink()
    (line,) = [line for line in DATA.check(roots) if line.item == "images"]
    assert (line.status, "11 of 12 images" in line.found) == ("note", True)
    wrong = {**roots, "reports": roots["images"]}
    assert [line.status for line in DATA.check(wrong) if line.item == "reports"] == ["problem"]


def test_check_goes_on_behind_a_damaged_table(roots: tree.Roots) -> None:
    (roots["tables"][0] / "mimic-cxr-2.0.0-split.csv.gz").write_bytes(b"dicom_id,study_id,subject_id,split")
    (roots["tables"][0] / "mimic-cxr-2.0.0-split.csv").write_text("dicom_id,study_id,subject_id,split\na,1,2,test\n")
    lines = DATA.check(roots)
    assert any(line.status == "problem" for line in lines)
    assert any(line.item == "images" and line.status == "ok" for line in lines)


def test_check_names_a_strange_view_and_wrong_roots(tmp_path: Path) -> None:
    case = replace(tree.cases()[0], views=("PA", "UPSIDE DOWN"))
    roots = tree.build(tmp_path, [case])
    (tmp_path / "empty").mkdir()
    lines = DATA.check(
        {**roots, "images": (*roots["images"], tmp_path / "empty"), "annotations": (tmp_path / "empty",)}
    )
    notes = {line.item: (line.status, line.found) for line in lines}
    assert notes["views"][0] == "note"
    assert "1 images have a ViewPosition" in notes["views"][1]
    assert any(line.item == "images" and line.status == "problem" for line in lines)
    assert notes["annotations"][0] == "problem"


def test_demographics_at_the_study(roots: tree.Roots) -> None:
    found = {study.study_id: study.demographics for study in DATA.studies(roots, Slice("test"))}
    assert [(found[study].sex, found[study].age) for study in ("59999001", "59999002", "59999003")] == [
        ("F", 62.0),
        ("F", 63.0),
        ("F", 61.0),
    ]
    assert found["59999001"].race == "WHITE"
    assert (found["59999004"].age, found["59999004"].race) == (91.0, "conflicting")
    assert (found["59999006"].sex, found["59999006"].age, found["59999006"].race) == (None, None, None)


def test_demographics_root_without_patients(roots: tree.Roots, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CxrbenchError, match=r"no patients\.csv"):
        list(DATA.studies({**roots, "demographics": (tmp_path / "empty",)}, Slice("test")))


@given(st.integers(18, 91), st.integers(2100, 2200), st.integers(-12, 12))
def test_age_moves_with_the_year_and_stops_at_91(anchor: int, year: int, passed: int) -> None:
    age = age_at(anchor, year, f"{year + passed}-06-01T00:00:00")
    if anchor > 89:
        assert age == (91.0 if passed >= 0 else None)
    else:
        assert age == (91.0 if anchor + passed > 89 else float(anchor + passed))


def test_race_that_is_not_told_does_not_conflict() -> None:
    assert one_race(["UNABLE TO OBTAIN", "ASIAN"]) == "ASIAN"
    assert one_race([]) is None


@pytest.mark.parametrize(
    ("day", "time", "expected"),
    [
        ("21800506", "213014.53100000002", "2180-05-06T21:30:14"),
        ("21800506", "0", "2180-05-06T00:00:00"),
        ("2180-05-06", "5", "2180-05-06T00:00:05"),
        ("21800506.0", "", "2180-05-06"),
        ("21800506", "250000", "2180-05-06"),
        ("21800506", "morning", "2180-05-06"),
        ("21801306", "101010", None),
        ("2180", "101010", None),
        ("", "", None),
    ],
)
def test_dates_and_times_as_the_tables_write_them(day: str, time: str, expected: str | None) -> None:
    found = moment(day, time)
    assert (found.iso if found is not None else None) == expected


DAYS = st.sampled_from(["21800101", "21800102", "21800103"])
MOMENTS = st.one_of(st.none(), st.builds(Moment, DAYS, st.sampled_from([-1.0, 1.0, 2.0])))


@given(st.lists(MOMENTS, min_size=1, max_size=6))
def test_priors_are_strictly_earlier_and_ordered(moments: list[Moment | None]) -> None:
    exams = [Exam("19999001", str(59999001 + number), "test", (), each) for number, each in enumerate(moments)]
    when = {exam.study_id: exam.moment for exam in exams}
    for exam in with_priors(exams):
        assert exam.study_id not in exam.priors
        times = [when[prior] for prior in exam.priors]
        assert times == sorted(times, reverse=True)  # type: ignore[type-var]
        for then in times:
            assert exam.moment is not None
            assert then is not None
            assert then.day < exam.moment.day or (0 <= then.time < exam.moment.time)
        if exam.order == "no":
            assert not exam.priors
            assert all(each is not None for each in moments)
        if exam.order == "yes":
            assert exam.priors
