"""Pictures and vectors in a run folder: whole, named by their content, their owner's alone."""

import stat

import numpy as np
import pytest

from cxrbench.artifacts import keep, read_picture, read_vectors
from cxrbench.errors import CxrbenchError


def test_what_is_kept_is_read_again_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (9, 7), dtype=np.uint8)
    vectors = rng.normal(size=(3, 5)).astype(np.float32)
    found = keep(tmp_path, {"p": grey, "a": vectors[0], "b": vectors[1], "c": vectors[2]})
    assert np.array_equal(read_picture(tmp_path, found["p"]), grey)
    assert np.array_equal(read_vectors(tmp_path, [found["c"], found["a"]]), vectors[[2, 0]])
    assert len({found[name].partition("#")[0] for name in "abc"}) == 1
    assert read_vectors(tmp_path, []).shape == (0, 0)


def test_equal_answers_have_equal_references(tmp_path):
    grey = np.zeros((4, 4), np.uint8)
    first = keep(tmp_path / "one", {"p": grey})["p"]
    assert first == keep(tmp_path / "two", {"q": grey.copy()})["q"]
    assert first != keep(tmp_path / "one", {"p": grey + 1})["p"]


def test_artifacts_are_their_owners_alone(tmp_path):
    place = tmp_path / keep(tmp_path, {"p": np.zeros((4, 4, 3), np.uint8)})["p"]
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


def test_other_bytes_than_were_written_are_noticed(tmp_path):
    found = keep(tmp_path, {"p": np.zeros((4, 4), np.uint8), "v": np.ones(3, np.float32)})
    (tmp_path / found["p"]).write_bytes(b"no picture")
    with pytest.raises(CxrbenchError, match="not what the run wrote"):
        read_picture(tmp_path, found["p"])
    (tmp_path / found["v"].partition("#")[0]).unlink()
    with pytest.raises(CxrbenchError, match="cannot be read"):
        read_vectors(tmp_path, [found["v"]])
    with pytest.raises(CxrbenchError, match="names no artifact"):
        read_vectors(tmp_path, ["artifacts/../../secret.npy#0"])
    with pytest.raises(CxrbenchError, match="names no artifact"):
        read_picture(tmp_path, found["v"])
