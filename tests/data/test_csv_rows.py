"""One set of rules for the CSV of every data set: the header, the length of a row, quotes."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench.data.csv_rows import open_rows
from cxrbench.errors import CxrbenchError


def read(text: str, *needed: str) -> list[tuple[int, list[str]]]:
    return list(open_rows(io.StringIO(text, newline=""), "t.csv", needed)[1])


def test_rows_come_with_the_line_they_end_on() -> None:
    assert read('a,b\n1,"x\ny"\n\n2,\r\n') == [(3, ["1", "x\ny"]), (5, ["2", ""])]


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("a,b\n1,2\n3\n", "the row has fewer cells than the header", "t.csv, line 3"),
        ("a,b\n1,2,secret\n", "the row has more cells than the header", "t.csv, line 2"),
        ("a,b,b\n1,2,3\n", "the table has the column 'b' twice", "t.csv, line 1"),
        ("a,a secret thing,a secret thing\n", "the table has the column '<14 characters>' twice", "t.csv, line 1"),
        ("aa,b\n1,2\n", "the table has no column 'a' (did you mean 'aa'?)", "t.csv, line 1"),
        ("", "the table has no column 'a'", "t.csv, line 1"),
        ("b;a\n1;secret\n", "the columns are separated by semicolons, not commas", "t.csv, line 1"),
        ('"a"\t"b"\n1\tsecret\n', "the columns are separated by tabs, not commas", "t.csv, line 1"),
        ("\ufeffa,b\n1,2\n", "the table begins with a byte order mark", "t.csv"),
        ('a,b\n1,"secret\n', "the table is damaged: unexpected end of data", "t.csv, line 2"),
        ('a,b\n1,"secret"x\n', "the table is damaged", "t.csv, line 2"),
    ],
)
def test_a_damaged_table_is_named_by_line_and_quotes_no_cell(text: str, what: str, where: str) -> None:
    with pytest.raises(CxrbenchError) as caught:
        read(text, "a")
    assert what in caught.value.what
    assert caught.value.where == where
    assert "secret" not in str(caught.value)


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"))


@given(st.lists(st.tuples(cells, cells)))
def test_what_is_written_is_read(rows: list[tuple[str, str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("a", "b"), *rows])
    assert [tuple(row) for _, row in read(text.getvalue(), "b")] == rows
