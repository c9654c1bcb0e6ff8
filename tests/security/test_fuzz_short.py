"""The targets of benchmarks/fuzz.py for a second each: valid files with a few changes; only refusals may come out.

Millions of inputs with coverage: benchmarks/fuzz.py, counted in benchmarks/fuzz-results.md. Inputs that once broke a
parser are kept here for good.
"""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks._fuzz_targets import TARGETS, target
from cxrbench.errors import CxrbenchError
from tests.security.limits import within

FOUND = {
    "annotation": [b'\x02{"p1s1": {"pplit": 1e999e0e'],
    "jsonl": [b'{"study_id": 1e999e', b'{"study_id": "\\ud800", "age": 1e999}', b'{"a": -1e999x'],
    "vqa-rad": [b'\x00[{"phrase_type": "test", "image_name": "' + b"n" * 300 + b'"}]', b"\x01" + b"[" * 500],
    "slake": [b'\x00[{"qid": 1e999}]', b'\x00[{"q_lang": "en", "q_lang": "zh"}]'],
    "rad-restruct": [
        b'\x00{"report_id": 1, "split": "test", "frontal_images": [[]], "qa_pairs": []}',
        b'\x01{"report_id": "a\xe2\x80\xa8b", "split": "test", "frontal_images": [], "qa_pairs": [[]]}',
    ],
    "chexbench": [
        b'\x00{"View Classification": [{"question": "a", "option_0": 1, "option_2": "b", "answer": 1}]}',
        b'\x02{"Findings Generation": [{"data_source": ' + b"[" * 200 + b"]" * 200 + b"}]}",
    ],
    "rexrank-import": [b'\x03{"s1": {"model_prediction": "x", "report": [1]}}', b"\x00{}"],
    "lm-eval-log": [
        b"\x00" + b"[" * 500,
        b'\x00{"doc": {"sample_id": []}, "resps": [["x"]]}',
        b'\x00{"doc": {"sample_id": "\\ud800"}, "resps": [["x"]]}',
    ],
    "run-artifacts": [
        b"\x00",
        b"\x00\x89PNG\r\n\x1a\n",
        b"\x01\x93NUMPY\x01\x00",
        b"\x01\x93NUMPY\x01\x00\x08\x00{'a' 1 }",
        b"\x01\x93NUMPY\x01\x00\x08\x00{'a': (1",
    ],
    "run-workers": [b'\x00{"world": 0}', b"\x01" + b"[" * 500, b'\x02{"count": 1e999}', b"\x01{}"],
    "board-yaml": [b"name: 2001-99-99", b"? [a]\n: b", b"a: &a [*a]", b"a: !!bool x"],
    "task-yaml": [b"name: 2001-99-99", b"name: !!int x", b"name: !!timestamp x"],
    "plans-yaml": [
        target("plans-yaml").seeds()[0].replace(b"cv: 1", b"cv: .inf"),
        target("plans-yaml").seeds()[0].replace(b"mean: 9", b"mean: 1e400"),
    ],
    "rubric-yaml": [b"name: 2001-99-99\n", b"name: !!float x"],
    "mimic-tables": [b'\x02a,"b', b"\x00dicom_id,study_id,subject_id,split\n\n" + b'"' * 3],
    "judge-answers": [
        b'\x01{"clinically_significant": {"false_positive_finding": 1e999}}',
        b'\x08{"missed": 1e999, "added": NaN}',
        b"\x08missed: " + b"9" * 400,
    ],
    "checkpoint": [
        b'\x02{"a": {"data_offsets": [0, 2]}}',
        b'\x02{"a": {"dtype": "U8", "shape": 5, "data_offsets": [0, 2]}}',
        b'\x02{"a": {"dtype": "U8", "shape": [1], "data_offsets": [9, 2]}}',
        b'\x02{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 2, 3]}}',
        b'\x02{"a": {"dtype": "U8", "shape": [1], "data_offsets": "02"}}',
        b'\x02{"a": {"dtype": "\\ud800U8", "shape": [2], "data_offsets": [0, 2]}}',
        b'\x02{"\\ud800": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}',
        b'\x00{"weight_map": {"a": "../shard.safetensors"}}',
        b"\x03" + b"[" * 500,
    ],
    "run-folder": [b'\x01{"sample_id": [1], "outcome": "ok"}\n', b"\x00" + b"[" * 599, b'\x01{"sample_id": 1}\n'],
    "run-tables": [
        b"\x02PAR1PAR1",
        target("run-tables").seeds()[0].replace(b"key_image", b"key_imagf"),
        target("run-tables").seeds()[0].replace(b"selected", b"selecte\xff"),
    ],
    "shared-files": [
        b"\x04case,candidate,reference,errors:all\n1,a,b,2,3\n",
        b"\x02" + b"[" * 500,
        b"\x03" + b"[" * 500,
    ],
    "config-toml": [b"a" + b".a" * 280 + b" = 1", b"a = " + b"[" * 590],
}


def read(made, folder, data):
    with within(1.0, 256), contextlib.suppress(CxrbenchError):
        made.make(folder)(data)


@pytest.mark.parametrize("name", [each.name for each in TARGETS])
def test_whole_files_are_read(name, tmp_path):
    made = target(name)
    reader, readable = made.make(tmp_path), 0
    for seed in made.seeds():
        assert len(seed) <= made.longest
        try:
            reader(seed)
            readable += 1
        except CxrbenchError:
            continue
    assert readable  # else the target tries nothing


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, all_ in FOUND.items() for data in all_])
def test_what_once_broke_a_parser_is_refused(name, data, tmp_path):
    read(target(name), tmp_path, data)


changes = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), st.one_of(st.binary(max_size=4), st.integers(0, 30))),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("name", [each.name for each in TARGETS])
def test_damaged_input_is_refused(name, tmp_path_factory):
    made = target(name)
    reader, seeds = made.make(tmp_path_factory.mktemp(name)), made.seeds()

    @settings(max_examples=8)
    @given(st.integers(0, len(seeds) - 1), changes)
    def attack(number, edits):
        data = seeds[number]
        for place, width, new in edits:
            at = int(place * len(data))
            word = new if isinstance(new, bytes) else made.words[new % len(made.words)].encode() if made.words else b""
            data = data[:at] + word + data[at + width :]
        with contextlib.suppress(CxrbenchError):
            reader(data[: made.longest])

    attack()
