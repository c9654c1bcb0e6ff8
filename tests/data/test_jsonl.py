"""The data set jsonl: what is read, and what is said about a file that is wrong. Invented text."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench.data import jsonl_survey
from cxrbench.data.base import Slice
from cxrbench.data.jsonl import SHOWN, Jsonl
from cxrbench.data.jsonl_rows import KEYS
from cxrbench.errors import CxrbenchError
from cxrbench.types import SECTIONS, Demographics, Image, Study

FULL = {
    "study_id": "s1",
    "patient_id": "p1",
    "split": "validate",
    "images": ["a/front.png", {"path": "a/side.png", "view": "lateral", "image_id": "side"}],
    "sections": {"findings": "Small left effusion.", "impression": "Effusion.", "comparison": None, "history": " "},
    "study_time": "2180-05-06T21:30:14",
    "sex": "F",
    "age": 59,
    "race": "unknown",
    "labels": {"readers": {"effusion": 1, "edema": 0, "nodule": -1, "fracture": None}},
    "priors": ["s0", 7],
    "abnormal": True,
    "site": "north",
    "dose": 0.5,
    "ward": None,
}
SECRET = "nobody-may-read-this"


def write(path: Path, *rows: object, end: str = "\n") -> Path:
    path.write_bytes("".join(json.dumps(row) + end for row in rows).encode())
    return path


def read(*files: Path, split: str = "test", images: tuple[Path, ...] = ()) -> list[Study]:
    return list(Jsonl().studies({"reports": files, "images": images}, Slice(split)))


def refusal(*files: Path) -> CxrbenchError:
    with pytest.raises(CxrbenchError) as caught:
        read(*files)
    return caught.value


def test_every_key_arrives(tmp_path: Path) -> None:
    file = write(tmp_path / "data.jsonl", FULL)
    (study,) = read(file, split="validate")
    assert study == Study(
        study_id="s1",
        patient_id="p1",
        split="validate",
        images=(
            Image("a/front.png", str(tmp_path / "a/front.png"), ""),
            Image("side", str(tmp_path / "a/side.png"), "LATERAL"),
        ),
        sections={"findings": "Small left effusion.", "impression": "Effusion."},
        time="2180-05-06T21:30:14",
        labels={"readers": {"effusion": 1.0, "edema": 0.0, "nodule": -1.0}},
        demographics=Demographics("F", 59.0, "unknown"),
        priors=("s0", "7"),
        columns={"abnormal": "yes", "site": "north", "dose": "0.5"},
    )


def test_only_the_study_id_is_required(tmp_path: Path) -> None:
    (study,) = read(write(tmp_path / "data.jsonl", {"study_id": 12}))
    assert study == Study("12", None, "test")


def test_images_root_and_absolute_paths(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (second / "b.png").touch()
    row = {"study_id": "s", "images": ["a.png", "b.png", "/elsewhere/c.png"]}
    (study,) = read(write(tmp_path / "data.jsonl", row), images=(first, second))
    assert [image.path for image in study.images] == [str(first / "a.png"), str(second / "b.png"), "/elsewhere/c.png"]


def test_several_files_in_order_and_their_fingerprint(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", {"study_id": "b", "split": "test"}, {"study_id": "x", "split": "train"})
    two = write(tmp_path / "two.jsonl", {"study_id": "a", "split": "test"})
    assert [study.study_id for study in read(one, two)] == ["b", "a"]
    prints = [Jsonl().fingerprint({"reports": files}, Slice("test")) for files in ((one, two), (two, one), (one,))]
    assert len(set(prints)) == 3
    moved = one.rename(tmp_path / "moved.jsonl")
    assert Jsonl().fingerprint({"reports": (moved, two)}, Slice("test")) == prints[0]


def test_the_fingerprint_is_of_what_was_read_and_a_changed_file_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"four")
    file = write(tmp_path / "data.jsonl", {"study_id": "a", "images": ["a.png", "none.png"]}, {"study_id": "b"})
    parsed: list[str] = []
    parse = jsonl_survey.parse_line
    monkeypatch.setattr(jsonl_survey, "parse_line", lambda text: parsed.append(text) or parse(text))
    data, roots = Jsonl(), {"reports": (file,)}
    assert len(list(data.studies(roots, Slice("test")))) == 2
    first = data.fingerprint(roots, Slice("test"))
    assert len(parsed) == 2
    content = hashlib.sha256(hashlib.sha256(file.read_bytes()).digest())
    content.update("".join(f"{name}\0{size}\0" for name, size in {"a.png": 4, "none.png": -1}.items()).encode())
    assert first == content.hexdigest()[:16] == Jsonl().fingerprint(roots, Slice("test"))
    write(file, {"study_id": "a", "images": ["a.png"]}, {"study_id": "b"})
    assert data.fingerprint(roots, Slice("test")) != first


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\n \t\n"])
def test_line_ends_blank_lines_mark_and_missing_last_line_end(tmp_path: Path, end: str) -> None:
    file = write(tmp_path / "data.jsonl", {"study_id": "a"}, {"study_id": "b"}, end=end)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes() + b'{"study_id": "c"}')
    assert [study.study_id for study in read(file)] == ["a", "b", "c"]


WRONG: list[tuple[dict[str, object], str]] = [
    ({"patient_id": "p"}, "key study_id: is missing: expected a non-empty string"),
    ({"study_id": " "}, "key study_id: expected a non-empty string without control characters, or a whole number"),
    ({"study_id": "a\nb"}, "key study_id: expected"),
    (
        {"study_id": True},
        "key study_id: expected a non-empty string without control characters, or a whole number, foun",
    ),
    ({"study_id": "s", "patient_id": 1.5}, "key patient_id: expected"),
    ({"study_id": "s", "split": 3}, "key split: expected a non-empty string, found a whole number"),
    *(
        ({"study_id": "s", "split": name}, f"key split: is none of train, validate, test{hint}")
        for name, hint in {
            "val": " (did you mean 'validate'?)",
            "valid": " (did you mean 'validate'?)",
            "dev": " (did you mean 'validate'?)",
            "Test": " (did you mean 'test'?)",
            "trian": " (did you mean 'train'?)",
            SECRET: "",
        }.items()
    ),
    ({"study_id": "s", "images": "a.png"}, "key images: expected a list, found a string"),
    ({"study_id": "s", "images": [3]}, "key images[0]: expected a path, or an object"),
    ({"study_id": "s", "images": ["a", {"path": "b", "file": "b"}]}, "key images[1].file: is not known"),
    (
        {"study_id": "s", "images": [{"path": ""}]},
        "key images[0].path: expected the path of an image file, found an em",
    ),
    ({"study_id": "s", "images": [{"path": "a", "view": 1}]}, "key images[0].view: expected a string"),
    ({"study_id": "s", "images": ["a", "a"]}, "key images[1]: has the image_id of an earlier image"),
    ({"study_id": "s", "sections": ["x"]}, "key sections: expected an object, found a list"),
    (
        {"study_id": "s", "sections": {"findngs": SECRET}},
        "key sections.findngs: is no section (did you mean 'findings'?)",
    ),
    (
        {"study_id": "s", "sections": {"findings": [SECRET]}},
        "key sections.findings: expected a string or null, found a",
    ),
    ({"study_id": "s", "sections": {f"{SECRET} {SECRET}": "x"}}, "key sections.<41 characters>: is no section"),
    ({"study_id": "s", "study_time": "06.05.2180"}, "key study_time: expected a date"),
    ({"study_id": "s", "study_time": "2180-05-06T01:02:03+01:00"}, "found one with a time zone"),
    ({"study_id": "s", "sex": ["F"]}, "key sex: expected a non-empty string, found a list"),
    ({"study_id": "s", "age": "59"}, "key age: expected years as a number, found a string"),
    ({"study_id": "s", "age": 900}, "key age: expected years from 0 to 130"),
    ({"study_id": "s", "labels": {"readers": ["edema"]}}, "key labels.readers: expected an object, found a list"),
    ({"study_id": "s", "labels": {"readers": {"edema": 2}}}, "key labels.readers.edema: expected 1 (present), 0 (abse"),
    ({"study_id": "s", "labels": {"readers": {"edema": True}}}, "key labels.readers.edema: expected 1 (present)"),
    ({"study_id": "s", "priors": ["s"]}, "key priors: holds the study itself"),
    ({"study_id": "s", "priors": "r"}, "key priors: expected a list, found a string"),
    ({"study_id": "s", "findings": SECRET}, "key findings: belongs into sections.findings"),
    ({"study_id": "s", "view": "PA"}, "key view: belongs into images[].view"),
    ({"study_id": "s", "patientID": "p"}, "key patientID: is not known; did you mean 'patient_id'?"),
    ({"study_id": "s", "section": {"findings": SECRET}}, "key section: is not known; did you mean 'sections'?"),
    (
        {"study_id": "s", "extra": {"a": SECRET}},
        "key extra: is not known: a column of your own holds a string or a numb",
    ),
]


@pytest.mark.parametrize(("row", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_wrong_row_is_named_by_line_and_key(tmp_path: Path, row: dict[str, object], message: str) -> None:
    file = write(tmp_path / "data.jsonl", {"study_id": "good"}, row)
    error = refusal(file)
    assert error.what == "the data cannot be used: one problem"
    assert error.where.startswith(f"{file}, line 2, key ")
    assert message in error.where
    assert SECRET not in str(error)


BROKEN: list[tuple[bytes, str]] = [
    (b'["s"]\n', "expected one JSON object, found a list"),
    (b'{"study_id": }\n', "not valid JSON: Expecting value at character 14"),
    (b'{"study_id": "s\n', "not valid JSON: Unterminated string at character 14"),
    (b'{"study_id": "s\t"}\n', "not valid JSON: Invalid control character at character 16"),
    (b'{"study_id": "s", "study_id": "t"}\n', "the key 'study_id' stands twice in one object"),
    (b'{"study_id": "s", "sections": {"findings": "a", "findings": "b"}}\n', "the key 'findings' stands twice"),
    (b'{"study_id": "s", "age": NaN}\n', "NaN is not JSON"),
    (b'{"study_id": "s", "age": -Infinity}\n', "-Infinity is not JSON"),
    (b'{"study_id": "s", "site": "\\ud83d"}\n', "an escape is half a surrogate pair"),
    (
        b'{"study_id": "s", "age": ' + b"9" * 5000 + b"}\n",
        "a whole number has 5,000 digits (limit 4,300) at character 26",
    ),
    (b'{"study_id": "s", "age": 1e999}\n', "a number is too large at character 26"),
    (b'{"study_id": "\xe4"}\n', "not UTF-8 at byte offset 35 of the file"),
    (b"[" * 100_000 + b"\n", "nested too deeply at character 101"),
    (
        b'{"study_id": "s", "sections": {"findings": "nobody-may-read',
        "the last line is cut off, or not valid JSON: Unt",
    ),
]


@pytest.mark.parametrize(("line", "message"), BROKEN, ids=[message[:40] for _, message in BROKEN])
def test_a_line_that_is_no_object(tmp_path: Path, line: bytes, message: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(b'{"study_id": "good"}' + b"\n" + line.replace(b"\\xe4", b"\xe4"))
    error = refusal(file)
    assert f"{file}, line 2: {message}" in error.where
    assert "nobody" not in str(error)


def test_byte_offset_counts_the_utf8_mark(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"study_id": "\xff"}\n')
    assert "byte offset 17" in refusal(file).where
    assert file.read_bytes()[17] == 0xFF


def test_ids_twice_across_files(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", {"study_id": "a"}, {"study_id": "b"})
    two = write(tmp_path / "two.jsonl", {"study_id": "c"}, {"study_id": "b"})
    assert f"{two}, line 2, key study_id: stands already in {one}, line 2" in refusal(one, two).where


def test_patient_ids_everywhere_or_nowhere(tmp_path: Path) -> None:
    rows = [{"study_id": "a", "patient_id": "p"}, {"study_id": "b"}, {"study_id": "c"}]
    error = refusal(write(tmp_path / "data.jsonl", *rows))
    assert "line 2, key patient_id: missing in 2 of 3 studies, first here" in error.where


def test_splits_everywhere_or_nowhere(tmp_path: Path) -> None:
    rows = [{"study_id": "a", "split": "test"}, {"study_id": "b"}, {"study_id": "c", "split": None}]
    error = refusal(write(tmp_path / "data.jsonl", *rows))
    assert "line 2, key split: missing in 2 of 3 studies, first here: a study without one would pass" in error.where
    assert [study.split for study in read(write(tmp_path / "none.jsonl", *rows[1:]))] == ["test", "test"]


def test_check_names_no_folder_below_the_images_root(tmp_path: Path) -> None:
    row = {"study_id": "s", "images": ["p19999001/s59999001/a.png", f"{tmp_path}/p19999001/b.png"]}
    roots = {"reports": (write(tmp_path / "data.jsonl", row),), "images": (tmp_path / "images",)}
    (line,) = [line for line in Jsonl().check(roots) if line.item == "images"]
    place = f"{roots['reports'][0]}, line 1, key images[0] (a.png)"
    assert line.found == f"2 images; 2 not there, the first in {place}; relative paths start at {tmp_path / 'images'}"
    assert "19999001" not in str(Jsonl().check(roots))


def test_some_images_that_are_not_there_are_no_matter_of_the_root(tmp_path: Path) -> None:
    rows = [{"study_id": name, "images": [f"{name}.png"]} for name in ("a", "b", "c")]
    file = write(tmp_path / "data.jsonl", *rows)
    (tmp_path / "a.png").touch()
    (line,) = [line for line in Jsonl().check({"reports": (file,)}) if line.item == "images"]
    assert "3 images; 2 not there, the first in" in line.found
    assert f"{file}, line 2, key images[0] (b.png)" in line.found
    assert "data add" not in line.fix
    assert "missing_image" in line.fix
    (tmp_path / "a.png").unlink()
    (line,) = [line for line in Jsonl().check({"reports": (file,)}) if line.item == "images"]
    assert "cxrbench data add jsonl --images" in line.fix
    absolute = write(tmp_path / "b.jsonl", {"study_id": "a", "images": ["/nowhere/a.png"]})
    (line,) = [line for line in Jsonl().check({"reports": (absolute,)}) if line.item == "images"]
    assert "data add" not in line.fix
    assert "relative" not in line.found


def test_each_path_that_holds_nothing_is_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "a.png").touch()
    file = write(tmp_path / "data.jsonl", {"study_id": "a", "images": ["a.png"], "sections": {"findings": "x"}})
    blank = tmp_path / "blank.jsonl"
    blank.write_text("\n")
    roots = {"reports": (file, blank), "images": (tmp_path / "one", tmp_path / "two")}
    problems = [line for line in Jsonl().check(roots) if line.status == "problem"]
    assert [(line.item, line.found) for line in problems] == [
        ("reports", f"there is no study in {blank}"),
        ("images", f"there is no image that a row names in {tmp_path / 'two'}"),
    ]
    assert problems[0].fix == f"leave {blank} out: cxrbench data add jsonl --reports {file}"
    assert problems[1].fix.endswith(f"--images {tmp_path / 'one'}")


def test_the_fingerprint_follows_the_images_of_the_split_and_not_their_place(tmp_path: Path) -> None:
    rows = [{"study_id": name, "split": name, "images": [f"{name}.png"]} for name in ("test", "train")]
    file = write(tmp_path / "data.jsonl", *rows)

    def seen(folder: str, **sizes: int) -> str:
        (tmp_path / folder).mkdir()
        for name, size in sizes.items():
            (tmp_path / folder / f"{name}.png").write_bytes(bytes(size))
        return Jsonl().fingerprint({"reports": (file,), "images": (tmp_path / folder,)}, Slice("test"))

    first = seen("a", test=8, train=8)
    assert seen("b", test=8, train=9) == first
    assert len({first, seen("c", test=9, train=8), seen("d", train=8)}) == 3


def test_all_problems_are_counted_and_the_first_shown(tmp_path: Path) -> None:
    error = refusal(write(tmp_path / "data.jsonl", *({"study_id": i, "age": "x"} for i in range(30))))
    assert error.what == "the data cannot be used: 30 problems"
    assert error.where.count("key age") == SHOWN
    assert "and 10 more" in error.where


def test_no_file_wrong_file_wrong_split(tmp_path: Path) -> None:
    with pytest.raises(CxrbenchError, match="needs a file"):
        list(Jsonl().studies({}, Slice("test")))
    assert refusal(tmp_path / "none.jsonl").what == "the file cannot be read: No such file or directory"
    file = write(tmp_path / "data.jsonl", {"study_id": "a", "split": "train"})
    assert refusal(file).where == "splits in the data: train (1)"
    wide = tmp_path / "wide.jsonl"
    wide.write_text('{"study_id": "a"}', encoding="utf-16")
    assert refusal(wide).what == "the file is UTF-16"


def test_recognise(tmp_path: Path) -> None:
    file = write(tmp_path / "data.jsonl", FULL)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.PNG").touch()
    (tmp_path / "empty").mkdir()
    named = [Jsonl().recognise(path) for path in (file, tmp_path / "images", tmp_path / "empty", tmp_path / "none")]
    assert named == ["reports", "images", None, None]


def test_check_says_what_was_found_and_what_is_missing(tmp_path: Path) -> None:
    file = write(tmp_path / "data.jsonl", FULL, {**FULL, "study_id": "s2", "split": "test", "images": ["b.png"]})
    (tmp_path / "b.png").touch()
    found = {check.item: (check.status, check.found) for check in Jsonl().check({"reports": (file,)})}
    assert found == {
        "reports": ("ok", "2 studies: validate 1, test 1"),
        "patients": ("ok", "1 patients"),
        "sections": ("ok", "findings 2, impression 2"),
        "images": ("missing", f"3 images; 2 not there, the first in {file}, line 1, key images[0] (front.png)"),
        "labels": ("note", "readers 2"),
        "columns": ("note", "abnormal 2, site 2, dose 2"),
    }
    assert [check.status for check in Jsonl().check({})] == ["missing"]
    (check,) = Jsonl().check({"reports": (write(tmp_path / "bad.jsonl", {}),)})
    assert (check.status, "line 1, key study_id" in check.found) == ("problem", True)
    assert Jsonl().prepare({"reports": (file,)}, tmp_path, lambda done, total: None)[0].item == "index"


def test_the_rows_in_the_documentation_are_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data-jsonl.md").read_text(encoding="utf-8")
    shown = [json.loads(block) for block in re.findall(r"```json\n(.*?)\n```", page, re.S)]
    assert set(KEYS) < set(shown[0])
    for row in shown:
        assert len(read(write(tmp_path / "data.jsonl", row))) == 1


words = st.text(min_size=1).filter(lambda text: text.strip() != "" and text.isprintable())
rows = st.fixed_dictionaries(
    {"study_id": words, "split": st.just("test")},
    optional={
        "sections": st.dictionaries(st.sampled_from(SECTIONS), st.text()),
        "images": st.lists(words, unique=True),
        "age": st.floats(0, 130),
        "labels": st.dictionaries(words, st.dictionaries(words, st.sampled_from([1, 0, -1]))),
        "site": st.text(),
    },
)


@given(st.lists(rows, max_size=4, unique_by=lambda row: row["study_id"]))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]) -> None:
    file = write(tmp_path_factory.getbasetemp() / "rows.jsonl", {"study_id": "the first one", "split": "test"}, *rows)
    for row, study in zip(rows, read(file)[1:], strict=True):
        sections = row.get("sections", {})
        assert isinstance(sections, dict)
        assert study.study_id == row["study_id"]
        assert study.sections == {name: text for name, text in sections.items() if text.strip()}
        assert [image.image_id for image in study.images] == row.get("images", [])
        assert study.demographics.age == row.get("age")
        assert study.labels == row.get("labels", {})
        assert study.columns.get("site") == row.get("site")


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.jsonl"
    file.write_bytes(data)
    try:
        studies = read(file)  # sixty bytes may be a whole file: {"study_id":5}
    except CxrbenchError:
        assert refusal(file).fix
    else:
        assert all(study.study_id for study in studies)
