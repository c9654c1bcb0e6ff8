"""Counts in a file are those that a dictionary would hold, whatever is collected and asked for."""

import hashlib
import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrbench import counts
from cxrbench.counts import RECORD, Counting, Counts
from cxrbench.errors import CxrbenchError

KEYS = st.integers(0, 9) | st.integers(0, 2**64 - 1)
TABLES = st.lists(st.dictionaries(KEYS, st.integers(1, 2**20)), max_size=5)


def collected(tables, least=1):
    counting = Counting()
    for table in tables:
        keys = sorted(table)
        counting.add(np.array(keys, np.uint64), np.array([table[key] for key in keys], np.int64))
    return counting.finish(least)


def as_dict(made):
    return {int(key): int(number) for keys, numbers in made.blocks() for key, number in zip(keys, numbers, strict=True)}


@settings(max_examples=40)
@given(TABLES, st.integers(1, 3), st.lists(KEYS), st.sampled_from([1, 3, 1 << 16]), st.sampled_from([1, 4, 1 << 20]))
def test_counts_are_the_sums_of_all_tables(tables, least, others, block, together):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counts, "BLOCK", block)
        patch.setattr(counts, "TOGETHER", together)
        patch.setattr(counts, "IN_MEMORY", 24)  # bytes: most of these go to the disk
        made = collected(tables, least)
        expected = {key: number for key, number in sum(map(Counter, tables), Counter()).items() if number >= least}
        assert as_dict(made) == expected
        assert list(as_dict(made)) == sorted(expected)
        asked = [*others, *expected, *others]
        assert made.look_up(np.array(asked, np.uint64)).tolist() == [expected.get(key, 0) for key in asked]
        assert len(made) == len(expected)


def test_the_same_counts_have_the_same_digest_however_they_were_collected(tmp_path):
    one = collected([{5: 1, 9: 2}, {5: 1}])
    assert one == collected([{9: 2}, {5: 2}])
    assert one != collected([{9: 2}, {5: 3}])
    one.save(tmp_path / "counts")
    again = Counts.open(tmp_path / "counts", one.digest)
    assert (again, as_dict(again)) == (one, {5: 2, 9: 2})
    assert (tmp_path / "counts").stat().st_mode & 0o777 == 0o600


def written(tmp_path, rows):
    body = np.array(rows, RECORD).tobytes()
    (tmp_path / "counts").write_bytes(body)
    return tmp_path / "counts", hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("rows", [[(5, 2), (5, 2)], [(9, 2), (5, 2)], [(1, 2), (2, 2), (4, 2), (3, 2)]])
def test_keys_that_do_not_ascend_are_refused(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(counts, "BLOCK", 3)
    with pytest.raises(ValueError, match="ascend"):
        Counts.open(*written(tmp_path, rows))


def test_other_bytes_and_other_files_are_refused(tmp_path):
    path, digest = written(tmp_path, [(5, 2)])
    for body in (b"", path.read_bytes() + b"\0", path.read_bytes() * 2, b"x" * 12):
        path.write_bytes(body)
        with pytest.raises(ValueError, match=r"ascend|other bytes"):
            Counts.open(path, digest)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        Counts.open(tmp_path / "pipe", digest)


def test_a_file_that_is_cut_while_it_is_read_is_an_error_and_no_number(tmp_path):
    path, digest = written(tmp_path, [(5, 2), (6, 2)])
    made = Counts.open(path, digest)
    path.write_bytes(b"")
    with pytest.raises(CxrbenchError, match="shorter"):
        made.look_up(np.array([5], np.uint64))


def test_a_full_disk_of_temporary_files_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(counts, "IN_MEMORY", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(CxrbenchError, match="there is no room for temporary files") as caught:
        collected([{5: 1}])
    assert "TMPDIR" in caught.value.fix
