"""Checkpoints of strangers: their code is never run, headers that lie cost nothing, an index stays in its folder."""

import json
import os
import pickle
import struct

import pytest

from benchmarks._fuzz_targets import safetensors
from cxrbench.errors import CxrbenchError
from cxrbench.models.checkpoint import hash_weights, open_folder, read_header, read_json
from cxrbench.models.recognise import describe
from cxrbench.models.shards import Shards, find_files
from tests.security.limits import within

TENSOR = {"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}


class Bomb:
    """What a pickle runs when it is opened: it leaves a file behind."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "checkpoint"
    made.mkdir()
    (made / "config.json").write_text('{"model_type": "llava"}')
    return made


def framed(header):
    return struct.pack("<Q", len(header)) + header


def test_the_clock_of_these_tests_stops_a_loop():
    with pytest.raises(AssertionError, match=r"more than 0\.05 s"), within(0.05):
        while True:
            pass


@pytest.mark.parametrize("form", ["plain", "zip", "as-safetensors"])
def test_a_pickle_runs_no_code(folder, form):
    import torch

    mark = folder / "ran"
    if form == "zip":
        torch.save({"weight": torch.ones(1), "x": Bomb(mark)}, folder / "pytorch_model.bin")
    else:
        name = "model.safetensors" if form == "as-safetensors" else "pytorch_model.bin"
        (folder / name).write_bytes(pickle.dumps({"x": Bomb(mark)}, protocol=2))
    with pytest.raises(CxrbenchError):
        open_folder(str(folder))  # hf: reads no pickle at all
    with pytest.raises(CxrbenchError):
        Shards(find_files(folder))  # adapters of published pickles read tensors alone
    assert not mark.exists()


def test_the_pickle_of_the_last_test_would_have_run(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_code_that_a_checkpoint_brings_is_not_imported(folder):
    from cxrbench.models import stock

    mark = folder / "ran"
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass C: pass\nclass M: pass\n")
    code = {"AutoConfig": "evil.C", "AutoModelForImageTextToText": "evil.M", "AutoProcessor": "evil.C"}
    for kind in ("llava", "brand-new"):
        (folder / "config.json").write_text(json.dumps({"model_type": kind, "auto_map": code}))
        (folder / "processor_config.json").write_text(json.dumps({"processor_class": "C", "auto_map": code}))
        (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.C", None]}}))
        (folder / "preprocessor_config.json").write_text(json.dumps({"auto_map": {"AutoImageProcessor": "evil.C"}}))
        (folder / "model.safetensors").write_bytes(safetensors(TENSOR))
        checkpoint = open_folder(str(folder))
        with pytest.raises(CxrbenchError):
            stock.read_processing(checkpoint, stock.read_config(checkpoint))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../outside.safetensors", "sub/../../outside.safetensors", "/absolute", "./../x"])
def test_an_index_names_files_of_its_own_folder_only(folder, name):
    outside = folder.parent / "outside.safetensors"
    outside.write_bytes(safetensors(TENSOR))
    name = (
        str(outside) if name == "/absolute" else name.replace("x", "outside.safetensors") if name[-1] == "x" else name
    )
    (folder / "sub").mkdir()
    for stem in ("model.safetensors", "pytorch_model.bin"):
        (folder / f"{stem}.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(CxrbenchError, match="outside its folder"):
            find_files(folder)
        with pytest.raises(CxrbenchError):
            open_folder(str(folder))
        (folder / f"{stem}.index.json").unlink()


def test_a_cache_of_links_is_still_read(folder):
    """The hub's cache keeps the files of a checkpoint as links: these are followed, as docs say."""
    blob = folder.parent / "blob"
    blob.write_bytes(safetensors(TENSOR))
    (folder / "model-00001.safetensors").symlink_to(blob)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001.safetensors"}}')
    assert open_folder(str(folder)).weights == (folder / "model-00001.safetensors",)


def test_a_header_is_not_read_before_its_length_is_believable(folder):
    file = folder / "model.safetensors"
    with file.open("wb") as out:
        out.write(struct.pack("<Q", 512 << 20))
        out.truncate(8 + (512 << 20))  # sparse: nothing on disk
    with within(megabytes=32), pytest.raises(CxrbenchError, match="header"):
        read_header(file)
    file.write_bytes(struct.pack("<Q", 2**63))
    with within(), pytest.raises(CxrbenchError):
        read_header(file)


@pytest.mark.parametrize(
    "header",
    [
        {
            "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "U8", "shape": [2], "data_offsets": [6, 2]},
        },
        {
            "a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]},
            "b": {"dtype": "U8", "shape": [2], "data_offsets": [-4, 2]},
        },
        {
            "a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]},
            "b": {"dtype": "U8", "shape": [2], "data_offsets": [0, 0.5]},
        },
        {
            "a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]},
            "b": {"dtype": "U8", "shape": [2], "data_offsets": [99, 1]},
        },
        {"a": {"data_offsets": [0, 8]}},
        {"a": {"dtype": "U8", "shape": 5, "data_offsets": [0, 8]}},
        {"a": {"dtype": "U8", "shape": [-5], "data_offsets": [0, 8]}},
        {"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, "8"]}},
        {"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, True]}},
    ],
)
def test_offsets_that_lie_neither_hang_nor_crash(folder, header):
    file = folder / "model.safetensors"
    file.write_bytes(framed(json.dumps(header).encode()) + bytes(8))
    with within(), pytest.raises(CxrbenchError, match="damaged"):
        Shards((file,))
        hash_weights([file], folder / "memory.json")


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff", b"[]"])
def test_json_made_to_overwhelm_is_refused(folder, body):
    (folder / "config.json").write_bytes(body)
    with within(), pytest.raises(CxrbenchError):
        open_folder(str(folder))
    with within():
        assert describe(folder)
    (folder / "model.safetensors").write_bytes(framed(body))
    with within(), pytest.raises(CxrbenchError):
        read_header(folder / "model.safetensors")


def test_a_configuration_of_gigabytes_is_not_read(folder):
    with (folder / "config.json").open("wb") as out:
        out.truncate(1 << 30)
    with within(megabytes=16), pytest.raises(CxrbenchError, match="bytes"):
        read_json(folder / "config.json")


def test_a_pipe_in_a_checkpoint_is_not_waited_for(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with within(), pytest.raises(CxrbenchError, match=r"no config\.json"):
        open_folder(str(folder))


def test_a_chat_template_cannot_reach_python(folder):
    from transformers.utils.chat_template_utils import render_jinja_template

    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(Exception, match="unsafe"):
        render_jinja_template([[{"role": "user", "content": "x"}]], chat_template=template)
