"""Question files and other harnesses' answers from strangers: no path leads out, no row breaks or fills a reader."""

import contextlib
import json
import os

import numpy as np
import pytest
from PIL import Image

from benchmarks._fuzz_targets import target
from cxrbench.bridges.lm_eval_export import LONGEST, import_log
from cxrbench.bridges.run_tables import import_rexrank
from cxrbench.data import questions
from cxrbench.data.base import Slice
from cxrbench.data.confined import Confined
from cxrbench.data.images import ImageFailure, read_grey
from cxrbench.data.load import open_dataset
from cxrbench.errors import CxrbenchError
from tests.security.limits import blocked_is_caught, within

FILES = {"vqa-rad": "rows.json", "slake": "test.json", "rad-restruct": "qa_pairs.jsonl", "chexbench": "data.json"}


def seed(name):
    """A whole file of a data set, as text."""
    return target(name).seeds()[0][1:].decode()


def roots(name, folder):
    return {"annotations": (folder / FILES[name],), "images": (folder / "images",)}


def studies(name, folder):
    return list(open_dataset(name).studies(roots(name, folder), Slice("test", {})))


def check(name, folder, text):
    """Every reading of a file with this text."""
    (folder / FILES[name]).write_text(text)
    open_dataset(name).check(roots(name, folder))
    return studies(name, folder)


@pytest.fixture
def data(tmp_path):
    """A folder of data with one image, and an image outside of it that a link inside leads to."""
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    for place in ("data/images/a.png", "home/secret.png"):
        Image.fromarray(np.full((8, 8), 99, np.uint8)).save(tmp_path / place)
    (tmp_path / "data/images/link.png").symlink_to(tmp_path / "home/secret.png")
    (tmp_path / "data/images/folder").symlink_to(tmp_path / "home")
    return tmp_path / "data"


@pytest.mark.parametrize("path", ["../../home/secret", "{0}/../home/secret", "link", "folder/secret", "x/../link"])
@pytest.mark.parametrize("name", FILES)
def test_no_path_of_a_question_file_leads_out_of_its_folder(data, name, path):
    own = "a" if name == "rad-restruct" else "a.png"
    other = path.format(data) + own.removeprefix("a")
    text = seed(name).replace(f'"{own}"', json.dumps(other))
    assert other in text
    read = Confined(read_grey, roots(name, data))
    (data / "images/x").mkdir()
    shown = [image.path for study in check(name, data, text) for image in study.images]
    out = [place for place in shown if place.endswith(("secret.png", "link.png"))]
    assert out
    for place in out:
        with pytest.raises(ImageFailure, match="leads out of the data set's folders"):
            read(place)
    assert read(str(data / "images/a.png")).max() == 99


DEEP = 960
"""Levels that the parser may still take, and a later walk over the value not."""

VALUES = {
    "long-name": json.dumps("n" * 5000),
    "nul": '"a\\u0000b"',
    "controls": '"\\u001b[2J\\u202e"',
    "half-surrogate": '"\\ud800"',
    "endless": "1e999",
    "no-number": "NaN",
    "digits": "9" * 5000,
    "list": "[[]]",
    "object": "{}",
    "true": "true",
    "null": "null",
    "deep": "[" * DEEP + "]" * DEEP,
    "deeper": "[" * 100_000,
}


@pytest.mark.parametrize("name", FILES)
def test_values_made_to_break_a_reader_of_questions_are_refused(data, name):
    """Every value of a whole file in turn is put in place of another; a text may be any text."""
    text = seed(name)
    places = _places(text)
    assert len(places) > 10
    with blocked_is_caught(60):
        for at, end in places:
            for value in VALUES.values():
                with contextlib.suppress(CxrbenchError):
                    check(name, data, text[:at] + value + text[end:])


def _places(text):
    """Where each text and number of a JSON text begins and ends, keys left out."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        if text[at] in '"-0123456789':
            _, end = decoder.raw_decode(text, at)
            if not text[end:].lstrip().startswith(":"):
                found.append((at, end))
            at = end
        else:
            at += 1
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_key_that_stands_twice_is_refused(data, name):
    key = {"chexbench": '"View Classification"', "rad-restruct": '"split"'}.get(name, '"answer"')
    text = seed(name).replace(key + ":", f"{key}: [], {key}:", 1)
    with pytest.raises(CxrbenchError, match="a key twice"):
        check(name, data, text)


@pytest.mark.parametrize("change", [{"option_0": None}, {"option_1": float("nan")}, {"option_0": [1]}])
def test_options_with_a_gap_are_not_counted_anew(data, change):
    """An option that was passed over would make another one the right answer."""
    row = {**json.loads(seed("chexbench"))["View Classification"][0], "option_2": "LATERAL", **change}
    with pytest.raises(CxrbenchError, match="row 1"):
        check("chexbench", data, json.dumps({"View Classification": [row]}))


def test_what_stands_for_nothing_is_no_answer_and_what_looks_like_a_line_break_is_none(data):
    text = seed("vqa-rad").replace('"Yes"', "NaN")
    with pytest.raises(CxrbenchError, match="'answer' holds no text"):
        check("vqa-rad", data, text)
    row = {**json.loads(seed("chexbench"))["View Classification"][0], "option_2": float("nan"), "data_source": None}
    (study,) = check("chexbench", data, json.dumps({"View Classification": [row]}))
    assert study.questions[0].options == ("PA", "AP")
    (study,) = check("rad-restruct", data, seed("rad-restruct").replace('"12"', '"1\u2028\u00852"'))
    assert study.study_id == "1\u2028\u00852"


@pytest.mark.parametrize("name", FILES)
def test_a_question_file_that_is_huge_a_pipe_or_a_device_is_not_read(data, name):
    file = data / FILES[name]
    with file.open("wb") as out:
        out.truncate(questions.LARGEST + 1)
    for read in (studies, lambda name, folder: open_dataset(name).fingerprint(roots(name, folder), Slice("test", {}))):
        with within(megabytes=8), pytest.raises(CxrbenchError, match="bytes"):
            read(name, data)
    file.unlink()
    os.mkfifo(file)
    with blocked_is_caught(), pytest.raises(CxrbenchError):
        studies(name, data)
    file.unlink()
    file.symlink_to("/dev/zero")
    with within(), blocked_is_caught(), pytest.raises(CxrbenchError):
        studies(name, data)


RECORD = '{{"s1": {{"model_prediction": {0}, "report": {1}}}}}'
LINE = '{{"doc": {{"sample_id": {0}, "id": 1}}, "target": {2}, "resps": [[{1}]], "filtered_resps": {3}}}\n'


@pytest.mark.parametrize("kind", [each for each in VALUES if each not in ("long-name", "nul", "controls")])
def test_files_of_other_harnesses_become_predictions_or_are_refused(tmp_path, kind):
    out, value, text = tmp_path / "made.jsonl", VALUES[kind], '"Clear."'
    (tmp_path / "rexrank.json").write_text(RECORD.format(text, value))
    with within(1.0, 64), pytest.raises(CxrbenchError):
        import_rexrank(tmp_path / "rexrank.json", out, "report")
    assert not out.exists()
    for place in range(2):
        parts = ['"s1"', text, text, "[]"]
        parts[place] = value
        (tmp_path / "samples.jsonl").write_text(LINE.format(*parts))
        with within(1.0, 64), pytest.raises(CxrbenchError):
            import_log(tmp_path / "samples.jsonl", out)
    assert not out.exists()


def test_a_log_that_is_a_pipe_a_device_or_one_line_is_not_read(tmp_path):
    file, out = tmp_path / "samples.jsonl", tmp_path / "made.jsonl"
    with file.open("wb") as made:
        made.truncate(64 * LONGEST)
    with within(2.0, 3 * LONGEST >> 20), pytest.raises(CxrbenchError, match="a line of the log"):
        import_log(file, out)
    file.unlink()
    os.mkfifo(file)
    with blocked_is_caught(), pytest.raises(CxrbenchError, match="regular"):
        import_log(file, out)
    file.unlink()
    with pytest.raises(CxrbenchError, match="cannot be read"):
        import_log(file, out)
    assert not out.exists()
