"""One set of rules for the JSON of every data set: what is refused, and where a message points."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench.data.strict_json import MAX_DIGITS, JsonError, parse, read
from cxrbench.errors import CxrbenchError

SECRET = "nobody may read this"

WRONG = [
    ('{\n "a": {"k": 1},\n "b": {"k": 1, "k": 2}}', "the key 'k' stands twice in one object", 3, 16),
    ('{"a": {"a": [{"a": 1}]}, "b": 1, "\\u0061": 2}', "the key 'a' stands twice", 1, 34),
    (f'{{"{SECRET}": 1, "{SECRET}": 2}}', "the key '<20 characters>' stands twice", 1, 29),
    ('["NaN",\nNaN]', "NaN is not JSON: leave the key out, or write null", 2, 1),
    ('["\\"NaN", -Infinity]', "-Infinity is not JSON", 1, 11),
    ("[1e999]", "a number is too large", 1, 2),
    (f"[\n-{'9' * (MAX_DIGITS + 1)}]", "a whole number has 4,301 digits (limit 4,300)", 2, 1),
    ('["ok",\n "\\ud83d"]', "an escape is half a surrogate pair", 2, 2),
    ('{"\\ude00": 1}', "an escape is half a surrogate pair", 1, 2),
    ("[" * 100_000, "nested too deeply", 1, 101),
    (f'{{"{SECRET}":\n}}', "not valid JSON: Expecting value", 2, 1),
    (f'["{SECRET}\n"]', "not valid JSON: Invalid control character", 1, 23),
    ("", "not valid JSON: Expecting value", 1, 1),
    ("\ufeff[]", "not valid JSON", 1, 1),
]


@pytest.mark.parametrize(("text", "what", "line", "column"), WRONG, ids=[what[:30] for _, what, _, _ in WRONG])
def test_what_is_wrong_is_named_by_line_and_column(text: str, what: str, line: int, column: int) -> None:
    with pytest.raises(JsonError) as caught:
        parse(text)
    assert what in caught.value.what
    assert (caught.value.line, caught.value.column) == (line, column)
    assert SECRET not in str(caught.value)


def test_what_looks_wrong_inside_a_string_is_text() -> None:
    text = '{"a": "NaN {\\" Infinity [", "b": "\\ud83d\\ude00", "c": "\\\\ud83d", "d": [{"a": 1}, {"a": 1}]}'
    assert parse(text) == {"a": 'NaN {" Infinity [', "b": "\U0001f600", "c": "\\ud83d", "d": [{"a": 1}, {"a": 1}]}
    assert parse("9" * MAX_DIGITS) == 10**MAX_DIGITS - 1


def test_a_file_is_read_with_or_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + '["é"]'.encode())
        assert read(path) == ["é"]


@pytest.mark.parametrize(
    ("raw", "what", "where"),
    [
        (b'{"a": 1,\n "a": 2}', "the JSON file cannot be used: the key 'a' stands twice", "line 2, column 2"),
        (b'["\xe9"]', "not UTF-8", "byte 2"),
        (b'\xef\xbb\xbf["\xe9"]', "not UTF-8", "byte 5"),
        ("[]".encode("utf-16"), "NUL byte", "byte 3"),
    ],
)
def test_a_damaged_file_is_named_with_its_place(tmp_path: Path, raw: bytes, what: str, where: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(raw)
    with pytest.raises(CxrbenchError) as caught:
        read(path)
    assert what in caught.value.what
    assert caught.value.where == f"{path}, {where}"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CxrbenchError, match="cannot be read: Is a directory"):
        read(tmp_path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values, st.booleans())
def test_what_json_writes_is_read(value: object, ascii_only: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=ascii_only)) == value


@given(st.text(alphabet='{}[]",:\\u d8319aNe+-.\n'))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        value = parse(text)
    except JsonError:
        return
    assert json.loads(text) == value
