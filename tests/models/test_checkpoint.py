"""A folder is checked before anything is loaded; the weights' name does not depend on how they are cut into files."""

from __future__ import annotations

import json
import os
import stat
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_llava import edit_weights, make, shard

from cxrbench.errors import CxrbenchError
from cxrbench.models.checkpoint import hash_small_files, hash_weights, open_folder, read_header


@pytest.fixture
def tiny(tmp_path):
    return make(tmp_path / "tiny")


def refusal(folder, **options) -> str:
    with pytest.raises(CxrbenchError) as error:
        open_folder(str(folder), **options)
    return str(error.value)


def test_what_is_not_a_model_folder_is_refused(tmp_path):
    assert "needs a checkpoint folder" in refusal("")
    assert "hf download" in refusal("microsoft/llava-rad")
    assert "no config.json" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    assert "not a JSON object" in refusal(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    assert "cannot be read" in refusal(tmp_path)


def test_missing_weights_are_named(tiny):
    files = shard(tiny)
    files[1].unlink()
    message = refusal(tiny)
    assert "1 of 2 weight files are missing" in message
    assert files[1].name in message
    files[0].unlink()
    (tiny / "model.safetensors.index.json").unlink()
    assert "no weights" in refusal(tiny)
    assert open_folder(str(tiny), need_weights=False).weights == ()


def test_pickles_are_refused_with_the_way_out(tiny):
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")
    assert "save_pretrained" in refusal(tiny)


def test_a_file_cut_short_is_refused_with_its_sizes(tiny):
    file = tiny / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as handle:
        handle.truncate(size - 1)
    message = refusal(tiny)
    assert "cut short" in message
    assert f"{size:,}" in message


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_header_or_an_error(tmp_path_factory, body, framed):
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    file.write_bytes(struct.pack("<Q", len(body)) + body if framed else body)
    try:
        tensors, start = read_header(file)
    except CxrbenchError:
        return
    assert tensors == {}  # nothing hypothesis makes here names data that are really in the file
    assert start == file.stat().st_size


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_json_header_is_whole_or_an_error(tmp_path_factory, body):
    file = tmp_path_factory.getbasetemp() / "json.safetensors"
    text = json.dumps(body).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    try:
        tensors, _ = read_header(file)
    except CxrbenchError:
        return
    assert tensors == {}


def test_the_hash_names_the_tensors_not_the_files(tiny, tmp_path):
    cache = tmp_path / "cache.json"
    whole = hash_weights([tiny / "model.safetensors"], cache)
    assert hash_weights(shard(tiny), cache) == whole


def test_one_changed_value_changes_the_hash(tiny, tmp_path):
    cache = tmp_path / "cache.json"
    before = hash_weights([tiny / "model.safetensors"], cache)
    edit_weights(tiny, **{"multi_modal_projector.linear_1.bias": lambda bias: bias + 1e-3})
    assert hash_weights([tiny / "model.safetensors"], cache) != before


def test_a_hash_is_remembered_until_the_file_changes(tiny, tmp_path):
    file, cache = tiny / "model.safetensors", tmp_path / "deep" / "cache.json"
    first = hash_weights([file], cache)
    [key] = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: "remembered"}))
    assert hash_weights([file], cache) == "remembered"
    os.utime(file, ns=(1, 1))
    assert hash_weights([file], cache) == first


@pytest.mark.parametrize("state", ["damaged", "a folder"])
def test_a_useless_cache_costs_time_only(tiny, tmp_path, state):
    cache = tmp_path / "cache.json"
    expected = hash_weights([tiny / "model.safetensors"], cache)
    cache.unlink()
    if state == "damaged":
        cache.write_text("{")
    else:
        cache.mkdir()
    assert hash_weights([tiny / "model.safetensors"], cache) == expected


def test_the_remembered_hashes_are_their_owners_alone(tiny, tmp_path):
    hash_weights([tiny / "model.safetensors"], tmp_path / "cache.json")
    assert stat.S_IMODE((tmp_path / "cache.json").stat().st_mode) == 0o600


def test_the_small_files_have_a_hash_of_their_own(tiny):
    before = hash_small_files(tiny)
    (tiny / "README.md").write_text("words")
    assert hash_small_files(tiny) == before
    template = tiny / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert hash_small_files(tiny) != before
