"""`biomedclip-cxr`: vectors as the recorded original's, through the engine, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cxrbench.engines.base import join
from cxrbench.engines.transformers import TransformersEngine
from cxrbench.errors import CxrbenchError
from cxrbench.models import network
from cxrbench.models.adapter import LoadSettings
from cxrbench.models.base import ModelOptions
from cxrbench.models.biomedclip_cxr import BiomedClipCxr
from cxrbench.types import Generation, Image, Sample
from tests import released
from tests.models import originals
from tests.released_more import grey
from tests.tiny_llava import TEXTS

CPU = LoadSettings(dtype="fp32", device="cpu")


def bert_tokenizer(folder):
    """Words of the tests as a BERT vocabulary."""
    words = sorted({word.strip(".,").lower() for text in TEXTS for word in text.split()} - {""})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", *words]))
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    return {"path": released.llava_rad(folder)["path"], "base": bert_tokenizer(folder / "bert")}


def towers(places, **options):
    return BiomedClipCxr(ModelOptions(places=places, **options))


@pytest.mark.parametrize("form", ["original", "converted"])
def test_vectors_are_those_of_the_original(places, tmp_path, form):
    golden, model = originals.load("llava-rad"), towers(places)
    if form == "converted":
        model.convert(tmp_path / "out")
        model = towers({"path": tmp_path / "out"})
    module = model.load(CPU).module
    ids = torch.from_numpy(golden.input("retrieval", "input_ids"))[None]
    pixels = torch.from_numpy(golden.input("retrieval", "pixel_values"))
    with torch.inference_mode():
        image = model.embed(module, {"pixel_values": pixels}, "embed_image")[0].numpy()
        mask = (ids != 0).long()
        text = model.embed(module, {"input_ids": ids, "attention_mask": mask}, "embed_text")[0].numpy()
    assert np.abs(image - golden.output("retrieval", "image_embedding")).max() < 1e-5
    assert np.abs(text - golden.output("retrieval", "text_embedding")).max() < 1e-5
    assert abs(np.linalg.norm(image) - 1) < 1e-5


def sides(name, text):
    picture = Image("a", "a" * (3 + len(name)), "PA")
    return (
        Sample(f"{name}/image", name, None, text, images=(picture,), key_image="a"),
        Sample(f"{name}/text", name, None, text, sections={"findings": text}),
    )


def test_the_engine_embeds_pictures_and_texts_of_one_batch_as_alone(places):
    made = join(
        BiomedClipCxr,
        TransformersEngine,
        ModelOptions(places=places, dtype="fp32", device="cpu", read_image=lambda path: grey(len(path))),
    )
    samples = [*sides("s1", TEXTS[0]), *sides("s22", f"{TEXTS[1]} {TEXTS[0]}")]
    kinds = ["embed_image", "embed_text"] * 2
    asked = [made.request(each, kind, Generation(), 0) for each, kind in zip(samples, kinds, strict=True)]
    prepared = [made.prepare(request) for request in asked]
    together = made.generate(0, prepared)
    assert [each.outcome for each in together.predictions] == ["ok"] * 4
    assert [each.inputs for each in together.predictions[:2]] == [("image:PA",), ("section:findings",)]
    assert [each.finish_reason for each in together.predictions] == ["stop"] * 4
    assert together.predictions[3].prompt_tokens > together.predictions[1].prompt_tokens > 2
    for each in prepared:
        name = each.request.sample_id
        vector = together.outputs[name]
        assert (vector.dtype, vector.shape) == (np.float32, (32,))
        assert np.abs(made.generate(0, [each]).outputs[name] - vector).max() < 1e-5
    assert made.identity()["vectors"] == "normalised"


def test_a_long_text_is_cut_and_says_so(places):
    model = towers(places)
    request = model.request(sides("s", "effusion " * 400)[1], "embed_text", Generation(), 0)
    encoded = model.encode(request, [])
    assert (encoded.prompt_tokens, encoded.cut) == (256, True)
    assert encoded.tensors["input_ids"][0, -1] == model.tokenizer.sep_token_id


def test_a_sample_without_a_text_has_no_input(places):
    made = join(BiomedClipCxr, TransformersEngine, ModelOptions(places=places, dtype="fp32", device="cpu"))
    request = made.request(Sample("s/text", "s", None, "x"), "embed_text", Generation(), 0)
    assert made.prepare(request).failure[0] == "no_input"


def test_the_full_size_is_that_of_its_parts():
    """DINOv2 B/14 at 518 px without its mask token, BiomedBERT without its pooler, and two projections."""
    module = BiomedClipCxr(ModelOptions(load_format="dummy")).build()
    assert network.count(module.image) == 86_580_480
    assert network.count(module.text) == 108_891_648
    assert network.count(module.image_head) + network.count(module.text_head) == 768 * 512 + 768 * 640 + 640 * 512


def test_what_is_refused(places, tmp_path):
    with pytest.raises(CxrbenchError, match="needs a folder with the tokenizer"):
        towers({"path": places["path"]})
    with pytest.raises(CxrbenchError, match="this is not LLaVA-Rad with its biomedclipcxr_518_checkpoint"):
        towers({"path": places["base"], "base": places["base"]})
    file = places["path"] / "biomedclipcxr_518.json"
    body = json.loads(file.read_text())
    changed = {**body, "text_cfg": {**body["text_cfg"], "hf_proj_type": "linear"}}
    try:
        file.write_text(json.dumps(changed))
        with pytest.raises(CxrbenchError, match="hf_proj_type=linear"):
            towers(places)
    finally:
        file.write_text(json.dumps(body))
    made = join(BiomedClipCxr, TransformersEngine, ModelOptions(places=places, dtype="fp32", device="cpu"))
    with pytest.raises(CxrbenchError, match="cannot answer 'generate': the model does not do it"):
        made.request(sides("s", "x")[0], "generate", Generation(), 0)
