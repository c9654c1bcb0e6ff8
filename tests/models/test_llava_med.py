"""`llava-med` and `llava-med-v1`: recorded originals, the two towers, deltas, prompts, pixels, stopping at ###."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from cxrbench.engines.base import join
from cxrbench.engines.transformers import TransformersEngine
from cxrbench.errors import CxrbenchError
from cxrbench.models.adapter import LoadSettings
from cxrbench.models.base import ModelOptions
from cxrbench.models.instruction import PROMPTS
from cxrbench.models.llava_med import LlavaMed
from cxrbench.models.llava_med_v1 import LlavaMedV1
from cxrbench.types import Generation, Image, Sample
from tests import released
from tests.models import originals
from tests.tiny_llava import edit_json

CPU = LoadSettings(dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Checkpoints the tests only read."""
    return released.llava_med(tmp_path_factory.mktemp("llava-med"))


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Deltas, base and CLIP the tests only read."""
    return released.llava_med_v1(tmp_path_factory.mktemp("llava-med-v1"))


def med(places, tower="checkpoint", **extra) -> LlavaMed:
    return LlavaMed(ModelOptions(places=places, extra={"tower": tower, **extra}))


def v1(places, **extra) -> LlavaMedV1:
    return LlavaMedV1(ModelOptions(places=places, extra=extra))


def ask(model, **changes):
    image = Image("a", "a.png", "AP")
    given = {"sample_id": "s", "study_id": "s", "patient_id": None, "target": "", "images": (image,)}
    return model.request(Sample(**given | changes), "generate", Generation(), 0)


def grey(seed: int = 0, shape: tuple[int, int] = (61, 47)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(CxrbenchError) as error:
        call(*arguments, **options)
    return str(error.value)


# Against the originals


@pytest.mark.parametrize("tower", ["checkpoint", "openai"])
@pytest.mark.parametrize("form", ["original", "converted"])
def test_logits_are_those_of_the_original(places, tmp_path, tower, form):
    golden, model = originals.load("llava-med"), med(places, tower)
    if form == "converted":
        model.convert(tmp_path / "out")
        model = LlavaMed(ModelOptions(places={"path": tmp_path / "out"}))
        assert model.opened.choices == {"tower": tower}
    module = model.load(CPU).module
    cases = [case for case in golden.cases if case.endswith(f"/{tower}-tower")]
    assert cases
    for case in cases:
        made = released.logits(module, golden, case, model.image_token, model.image_tokens())
        assert golden.logits_gap(case, made) < 1e-5
        assert made.shape[1] == 32000


@pytest.mark.parametrize("form", ["original", "converted"])
def test_merged_deltas_answer_as_the_original(old, tmp_path, form):
    golden, model = originals.load("llava-med-v1"), v1(old)
    if form == "converted":
        model.convert(tmp_path / "out")
        model = v1({"path": tmp_path / "out"})
    module = model.load(CPU).module
    for case in golden.cases:
        assert golden.logits_gap(case, released.logits(module, golden, case, model.image_token, 1)) < 1e-5


# The towers


def test_which_tower_is_meant_has_to_be_said(places):
    message = refusal(LlavaMed, ModelOptions(places=places))
    assert "has to be said" in message
    assert "--set tower=checkpoint" in message
    assert "did you mean 'openai'" in refusal(med, places, "openia")


def test_the_reference_preset_means_openais(places):
    model = LlavaMed(ModelOptions(places=places, preset="reference"))
    assert model.opened.choices == {"tower": "openai"}
    assert "OpenAI" in model.presets["reference"].origin["tower"]


def test_what_is_left_aside_is_told(places):
    model = med(places, "openai")
    model.load(CPU)
    told = model.circumstances()["left_out"]
    assert told["the checkpoint's own image tower: tower=openai was chosen"] == 55
    assert med(places).identity()["choices"] == {"tower": "checkpoint"}


def test_openais_tower_needs_its_folder(places, tmp_path):
    message = refusal(med, {"path": places["path"]}, "openai")
    assert "needs the folder of openai/clip-vit-large-patch14-336" in message
    assert "cxrbench models add llava-med --path DIR --clip DIR" in message
    assert "there is no folder" in refusal(med, {**places, "clip": tmp_path / "none"}, "openai")


def test_a_checkpoint_without_a_tower_cannot_be_asked_for_it(tmp_path):
    from safetensors.torch import load_file, save_file

    places = released.llava_med(tmp_path)
    index = places["path"] / "model.safetensors.index.json"
    table = json.loads(index.read_text())["weight_map"]
    for file in sorted(places["path"].glob("*.safetensors")):
        save_file({name: each for name, each in load_file(file).items() if "vision_tower" not in name}, file)
    kept = {name: file for name, file in table.items() if "vision_tower" not in name}
    index.write_text(json.dumps({"weight_map": kept}))
    assert "holds no image tower" in refusal(med, places)
    assert med(places, "openai").check()[1] > 0


def test_a_converted_checkpoint_keeps_its_tower(places, tmp_path):
    med(places, "openai").convert(tmp_path / "out")
    message = refusal(med, {"path": tmp_path / "out"}, "checkpoint")
    assert "was converted with tower=openai, not checkpoint" in message
    assert med({"path": tmp_path / "out"}, "openai").opened.form == "converted"
    med(places, "checkpoint").convert(tmp_path / "own")
    own = ModelOptions(places={"path": tmp_path / "own"}, preset="reference")
    assert "was converted with tower=checkpoint, not openai" in refusal(LlavaMed, own)


# Prompts


def test_the_prompt_of_v15_word_for_word(places):
    model = med(places)
    assert model.render(ask(model)) == f"[INST] <image>\n{PROMPTS['findings']} [/INST]"
    request = ask(model, sections={"indication": "cough"})
    assert model.render(request) == f"[INST] <image>\n{PROMPTS['findings']}\nIndication: cough [/INST]"
    assert request.inputs == ("image:AP", "section:indication")
    own = med(places, prompt="What is seen?")
    assert own.render(ask(own)) == "[INST] <image>\nWhat is seen? [/INST]"
    assert own.identity()["prompt"] != model.identity()["prompt"]


def test_the_prompt_of_v1_word_for_word(old):
    model = v1(old, target="impression")
    assert model.render(ask(model)) == (
        "A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions."
        "###Human: Hi!###Assistant: Hi there!  How can I help you today?\n"
        f"###Human: {PROMPTS['impression']}\n<image>###"
    )


# Tokens


def test_pieces_are_tokenized_apart_with_one_bos(places):
    model = med(places)
    prompt = model.render(ask(model))
    ids = model.tokens(prompt)
    before, after = (model.tokenizer(piece)["input_ids"] for piece in prompt.split("<image>"))
    assert before[0] == after[0] == model.tokenizer.bos_token_id == 1
    assert ids == [*before, *([0] * 16), *after[1:]]
    assert ids.count(1) == 1
    assert model.tokenizer.convert_ids_to_tokens(ids[len(before) + 16 :])[0].startswith("▁")


def test_marks_and_patches_are_words_of_the_old_tokenizer(old):
    model = v1(old)
    ids = model.tokens(model.render(ask(model)))
    assert ids[0] == 1
    first = ids.index(32001)
    assert ids[first - 1] == 32002
    assert ids[first : first + 16] == [32001] * 16
    assert ids[first + 16] == 32003
    made = model.encode(ask(model), [grey()])
    assert (made.image_tokens, made.prompt_tokens) == (16, len(ids))


def test_an_old_tokenizer_without_the_words_is_refused(tmp_path):
    places = released.llava_med_v1(tmp_path)
    released.llama_tokenizer(places["path"])
    model = v1(places)
    assert "added_tokens.json" in refusal(model.tokens, "<image>")


def test_a_text_that_would_pass_for_an_image_is_refused(places):
    model = med(places)
    with pytest.raises(ValueError, match="holds an image token"):
        model.encode(ask(model, sections={"indication": "<unk>"}), [grey()])


# Pixels


def squared(image: np.ndarray, padding: str) -> Picture.Image:
    """The authors' expand2square, said anew: levels around the image, which lies in the middle or one pixel higher."""
    side, (height, width) = max(image.shape), image.shape
    where = ((side - width) // 2, (side - height) // 2)
    if padding == "grey":
        out = Picture.new("L", (side, side), 114)
        out.paste(Picture.fromarray(image), where)
        return out.convert("RGB")
    out = Picture.new("RGB", (side, side), (122, 116, 104))
    out.paste(Picture.fromarray(image).convert("RGB"), where)
    return out


@pytest.mark.parametrize("padding", ["grey", "color"])
@pytest.mark.parametrize("shape", [(61, 47), (47, 61), (56, 56), (200, 131)])
def test_pixels_are_padded_to_a_square_and_then_the_pil_processors(places, padding, shape):
    from transformers import CLIPImageProcessorPil

    stock = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    expected = stock(squared(grey(2, shape), padding), return_tensors="pt")["pixel_values"]
    model = med(places, padding=padding)
    assert torch.equal(model.encode(ask(model), [grey(2, shape)]).tensors["pixel_values"], expected)


def test_the_mean_levels_are_worked_out_as_the_authors_do():
    from cxrbench.models.llava_med import PADDING
    from cxrbench.models.open_clip import MEAN

    assert PADDING["grey"] == (int(255 * sum(MEAN) / 3),)
    assert PADDING["color"] == tuple(int(each * 255) for each in MEAN)


def test_the_old_model_crops(old):
    from transformers import CLIPImageProcessorPil

    stock = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    expected = stock(Picture.fromarray(grey(2)).convert("RGB"), return_tensors="pt")["pixel_values"]
    model = v1(old)
    assert torch.equal(model.encode(ask(model), [grey(2)]).tensors["pixel_values"], expected)


# Deltas


def test_the_old_model_needs_its_base(old):
    message = refusal(v1, {"path": old["path"], "clip": old["clip"]})
    assert "needs the folder of LLaMA-7B" in message
    assert "--path DIR --base DIR --clip DIR" in message


def test_another_base_is_refused(old, tmp_path):
    other = released.llava_rad(tmp_path)["base"]
    (other / "pytorch_model-00002-of-00002.bin").unlink()
    assert "1 of 2 weight files are missing" in refusal(v1, {**old, "base": other})
    places = released.llava_med_v1(tmp_path / "v1")
    file = places["base"] / "pytorch_model-00002-of-00002.bin"
    tensors = torch.load(file, weights_only=True)
    torch.save({**tensors, "model.norm.weight": torch.ones(3)}, file)
    message = refusal(v1(places).module, CPU)
    assert "not the base the weights were made for" in message
    assert "model.norm.weight" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mm_use_im_start_end": False}, "puts no marks"),
        ({"mm_vision_tower": "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"}, "seems to be"),
        ({"rms_norm_eps": None}, "does not say rms_norm_eps"),
    ],
)
def test_other_deltas_are_refused(tmp_path, changes, words):
    places = released.llava_med_v1(tmp_path)
    edit_json(places["path"] / "config.json", **changes)
    assert words in refusal(v1, places)


# What is written


def test_a_text_ends_at_the_mark_and_loses_the_role(old):
    model = v1(old)
    ids = model.tokenizer("Assistant: The lungs are clear.###Human: Hi!")["input_ids"]
    assert model.decode(ids[1:]) == "The lungs are clear."


def test_generation_stops_at_the_mark(old, monkeypatch):
    """The network is made to write a fixed text: both rows stop at ###, wherever its tokens are cut."""
    options = ModelOptions(places=old, dtype="fp32", device="cpu", read_image=lambda path: grey())
    model = join(LlavaMedV1, TransformersEngine, options)
    network = model.engine.load()
    tokenizer = model.adapter.tokenizer
    tail = "###Human: zwölf Boxkämpfer jagen Viktor"
    texts = [f"Assistant: Clear lungs.{tail}", f"Assistant: Small left pleural effusion.{tail}"]
    wanted = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    prepared = [model.prepare(request_of(model, number)) for number in range(2)]
    stock = type(network.module).forward

    @functools.wraps(stock)  # generate() looks at the names
    def forward(self, *arguments, **inputs):
        made = stock(self, *arguments, **inputs)
        step = forward.step
        forward.step += 1
        made.logits[:, -1] = -1e9
        for row, tokens in enumerate(wanted):
            made.logits[row, -1, tokens[min(step, len(tokens) - 1)]] = 1e9
        return made

    forward.step = 0
    monkeypatch.setattr(type(network.module), "forward", forward)
    answers = model.generate(0, prepared).predictions
    assert [each.text for each in answers] == ["Clear lungs.", "Small left pleural effusion."]
    assert [each.finish_reason for each in answers] == ["stop", "stop"]
    spared = len(tokenizer(tail, add_special_tokens=False)["input_ids"]) - len("###") - 2  # the pad, a space mark
    assert [len(ids) - each.output_tokens for ids, each in zip(wanted, answers, strict=True)] == [spared, spared]
    assert spared > 9


def request_of(model, number):
    image = Image("a", "a.png", "AP")
    sample = Sample(f"s{number}", f"s{number}", None, "", images=(image,))
    return model.request(sample, "generate", Generation(max_new_tokens=200), 0)
