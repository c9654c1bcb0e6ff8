"""`llm-cxr`: codes and pictures as the original's, exact prompts, drawn wordings, and runs through the engine."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from cxrbench.engines.base import join
from cxrbench.engines.transformers import TransformersEngine
from cxrbench.errors import CxrbenchError
from cxrbench.models import network
from cxrbench.models.adapter import LoadSettings
from cxrbench.models.base import ModelOptions
from cxrbench.models.llm_cxr import LlmCxr
from cxrbench.models.llm_cxr_words import FROM_IMAGE, TO_IMAGE
from cxrbench.models.published_pixels import CentreSquare
from cxrbench.types import Generation
from tests import released_more as more
from tests.models import originals
from tests.tiny_llava import edit_json

CPU = LoadSettings(dtype="fp32", device="cpu")
INTRO = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return more.llm_cxr(tmp_path_factory.mktemp("llm-cxr"))


def llm_cxr(places, **options):
    return more.model("llm-cxr", places, **options)


# Against the originals


@pytest.mark.parametrize("form", ["original", "converted"])
def test_codes_pictures_and_logits_are_those_of_the_original(places, tmp_path, form):
    golden, model = originals.load("llm-cxr"), llm_cxr(places)
    if form == "converted":
        model.convert(tmp_path / "out")
        model = llm_cxr({"path": tmp_path / "out"})
    module = model.load(CPU).module
    with torch.inference_mode():
        pixels = torch.from_numpy(golden.input("encode", "pixel_values"))
        latent, codes = module.vqgan.latent(pixels), module.vqgan.encode(pixels)
        picture = module.vqgan.decode(torch.from_numpy(golden.input("decode", "codes"))[None])
        ids = torch.from_numpy(golden.input("report", "input_ids"))[None]
        logits = module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    assert golden.sampled_gap("encode", "latent", latent.numpy()) < 1e-5
    assert codes[0].tolist() == golden.cases["encode"]["outputs"]["codes"]
    assert golden.sampled_gap("decode", "image", picture.numpy()) < 1e-5
    assert golden.logits_gap("report", logits.numpy()) < 1e-5


def test_levels_become_codes_inside_the_network(places):
    module, model = llm_cxr(places).load(CPU).module, llm_cxr(places)
    encoded = model.encode(more.ask(model), [more.grey()])
    levels = encoded.tensors["pixel_values"]
    assert (levels.dtype, tuple(levels.shape)) == (torch.uint8, (1, 1, 64, 64))
    with torch.inference_mode():
        values = torch.from_numpy(model.transform()(more.grey()))[None]
        codes = module.vqgan.encode(values) + 50281
        assert torch.equal(module.codes(levels), codes)
        ids = encoded.tensors["input_ids"]
        by_hand = ids.masked_scatter(ids == 50281, codes)
        mask = torch.ones_like(ids)
        made = module(input_ids=ids, pixel_values=levels, attention_mask=mask).logits
        assert torch.equal(made, module(input_ids=by_hand, attention_mask=mask).logits)


def test_the_vqgan_stays_in_float32(places):
    wide = llm_cxr(places).load(CPU).module
    half = llm_cxr(places).load(LoadSettings(dtype="bf16", device="cpu")).module
    assert half.dtype == torch.bfloat16
    for name, value in wide.vqgan.state_dict().items():
        assert torch.equal(value, half.vqgan.state_dict()[name])
    random = llm_cxr({}, load_format="dummy")
    assert random.opened.config.vqgan["resolution"] == 256


# Prompts


def test_the_prompt_word_for_word(places):
    model = llm_cxr(places, extra={"instruction": "1"})
    request = more.ask(model)
    assert model.render(request) == (
        f"{INTRO}\n\n### Instruction:\nGenerate free-text radiology reports for the entered chest X-ray images.\n\n"
        "Input:\n<image>\n\n### Response:\n"
    )
    assert [image.image_id for image in request.images] == ["b"]
    assert "Instruction:\nEffusion?\n\nInput:\n<image>" in model.render(more.ask(model, question="Effusion?"))


def test_wordings_are_drawn_by_the_samples_seed(places):
    model = llm_cxr(places)
    drawn = [more.ask(model, seed=seed).messages[0].text.split("\n")[0] for seed in range(40)]
    assert drawn == [more.ask(model, seed=seed).messages[0].text.split("\n")[0] for seed in range(40)]
    assert set(drawn) == set(FROM_IMAGE)
    assert len(FROM_IMAGE) == len(TO_IMAGE) == 10
    with pytest.raises(CxrbenchError, match="instruction must be 1 to 10"):
        llm_cxr(places, extra={"instruction": "11"})


def test_codes_take_the_place_of_the_word_between_the_brackets(places):
    model = llm_cxr(places)
    prompt = model.render(more.ask(model))
    ids = model.tokens(prompt)
    first = ids.index(50281)
    assert ids.count(50281) == 256
    before, after = model.tokenizer.decode(ids[:first]), model.tokenizer.decode(ids[first + 256 :])
    assert before + "image" + after == prompt
    assert (before[-1], after[0]) == ("<", ">")
    assert model.eos() == (model.tokenizer.convert_tokens_to_ids("### End"),) == (50277,)


def test_codes_in_an_answer_are_no_words(places):
    model = llm_cxr(places)
    words = model.tokenizer("The heart is normal")["input_ids"]
    assert model.decode([*words, 50300, 51304, 50277]) == "The heart is normal"


# Pictures


def test_a_picture_is_asked_for_with_the_report(places):
    model = llm_cxr(places, extra={"instruction": "2"})
    request = more.ask(model, kind="generate_image", sections={"impression": "Left effusion.", "findings": "x"})
    assert model.render(request) == (
        f"{INTRO}\n\n### Instruction:\nUse the free-text radiology reports for the chest X-ray image to produce a"
        " corresponding chest X-ray image.\n\nInput:\nLeft effusion.\n\n### Response:\n"
    )
    assert (request.kind, request.images, request.inputs) == ("generate_image", (), ("section:impression",))
    encoded = model.encode(request, [])
    assert encoded.image_tokens == 0
    assert "pixel_values" not in encoded.tensors
    assert more.ask(model, kind="generate_image").inputs == ()


def test_a_text_of_256_codes_is_a_picture(places):
    model = llm_cxr(places)
    module = model.load(CPU).module
    golden = originals.load("llm-cxr")
    codes = golden.input("decode", "codes")
    picture = model.paint(module, [*(codes + 50281).tolist(), 50277])
    with torch.inference_mode():
        values = module.vqgan.decode(torch.from_numpy(codes)[None])[0].clamp(-1, 1).permute(1, 2, 0).numpy()
    assert (picture.shape, picture.dtype) == ((64, 64, 3), np.uint8)
    assert np.abs((values + 1) / 2 * 255 - picture).max() <= 0.51
    assert model.paint(module, [50281] * 255) is None


def writing(monkeypatch, made, answers):
    """Let generate() write these tokens, whatever the small random network would: what the trained one has learnt."""

    def generate(self, input_ids, **_):
        self(input_ids=input_ids)  # one real step, for what watches the scores and the time of the first token
        rows = torch.zeros((len(input_ids), max(map(len, answers))), dtype=torch.int64)
        for row, answer in zip(rows, answers, strict=True):
            row[: len(answer)] = torch.tensor(answer)
        return torch.cat([input_ids, rows], dim=1)

    monkeypatch.setattr(type(made.engine.load().module), "generate", generate)


def codes(seed, count=256):
    return [*(50281 + np.random.default_rng(seed).integers(0, 1024, count)).tolist(), 50277]


def painter(places, **options):
    settings = ModelOptions(places=places, dtype="fp32", device="cpu", asks=frozenset({"generate_image"}), **options)
    return join(LlmCxr, TransformersEngine, settings)


def drawn(made, samples, **generation):
    settings = Generation(**{"max_new_tokens": 260} | generation)
    requests = [made.request(each, "generate_image", settings, seed) for seed, each in enumerate(samples)]
    prepared = [made.prepare(request) for request in requests]
    assert [each.failure for each in prepared] == [None] * len(samples)
    return made.generate(0, prepared)


REPORTS = ({"impression": "Clear."}, {"impression": "A large left pleural effusion, and nothing else."})


def test_the_engine_draws_what_the_codes_say(places, monkeypatch):
    made = painter(places)
    samples = [more.sample(sample_id=str(i), sections=given) for i, given in enumerate(REPORTS)]
    writing(monkeypatch, made, [codes(0), codes(1)])
    result = drawn(made, samples)
    for seed, answer in enumerate(result.predictions):
        assert (answer.outcome, answer.text, answer.finish_reason) == ("ok", None, "stop")
        assert (answer.output_tokens, answer.image_tokens) == (257, 0)
        assert answer.inputs == ("section:impression",)
        assert {"latency", "wait", "preprocess"} <= set(answer.times)
        picture = made.adapter.paint(made.engine.load().module, codes(seed))
        assert np.array_equal(result.outputs[answer.sample_id], picture)
        assert picture.shape == (64, 64, 3)
    assert result.timing.decode is not None


@pytest.mark.parametrize("count", [0, 255, 257])
def test_another_number_of_codes_is_no_picture(places, monkeypatch, count):
    made = painter(places)
    writing(monkeypatch, made, [codes(0, count)])
    result = drawn(made, [more.sample(sections=REPORTS[0])])
    (answer,) = result.predictions
    assert (answer.outcome, answer.finish_reason, dict(result.outputs)) == ("no_picture", "stop", {})
    assert answer.failed
    assert answer.detail == f"the answer holds {count} codes, and a picture is 256"


def test_words_are_no_picture_and_a_cap_is_told(places):
    result = drawn(painter(places), [more.sample(sections=REPORTS[0])], max_new_tokens=4)
    assert [(each.outcome, each.finish_reason) for each in result.predictions] == [("no_picture", "length")]


@pytest.mark.slow
def test_a_picture_is_drawn_again_by_its_seed(places, monkeypatch):
    from cxrbench.engines import transformers as engine

    def codes_only(input_ids, scores):
        return scores.masked_fill(torch.arange(scores.shape[-1]) < 50281, -float("inf"))

    stock = engine._sampler

    def sampler(part, device):
        made = stock(part, device)
        made.insert(0, codes_only)
        return made

    monkeypatch.setattr(engine, "_sampler", sampler)
    made = painter(places)
    samples = [more.sample(sample_id=str(i), sections=given) for i, given in enumerate(REPORTS)]
    first, second = (drawn(made, samples, temperature=1.0, top_p=0.92, max_new_tokens=256) for _ in range(2))
    assert [each.outcome for each in first.predictions] == ["ok", "ok"]
    assert [each.finish_reason for each in first.predictions] == ["length", "length"]
    assert all(np.array_equal(first.outputs[name], second.outputs[name]) for name in "01")
    assert not np.array_equal(first.outputs["0"], first.outputs["1"])


def test_a_picture_has_the_authors_cap_and_prompts_of_its_own(places):
    made = painter(places, preset="reference")
    assert made.generation["max_new_tokens"] == 300
    report = join(LlmCxr, TransformersEngine, ModelOptions(places=places, preset="reference", device="cpu"))
    assert report.generation["max_new_tokens"] == 128
    assert made.identity()["prompt"] != report.identity()["prompt"]
    assert painter(places, generation={"max_new_tokens": 280}).generation["max_new_tokens"] == 280


def test_a_prompt_and_a_picture_must_fit_into_the_context(places):
    made = painter(places)
    request = made.request(more.sample(sections=REPORTS[0]), "generate_image", Generation(max_new_tokens=4000), 0)
    assert made.prepare(request).failure[0] == "prompt_too_long"


# Pixels, presets, sizes


@pytest.mark.parametrize("shape", [(301, 417), (300, 200), (128, 128), (513, 257)])
def test_pixels_are_those_of_the_authors_pipeline(shape):
    from PIL import Image

    more.pixels_are_recorded(CentreSquare(256), "vqgan-256")
    grey = more.grey(0, shape)
    scale = 256 / min(shape)
    resized = Image.fromarray(grey).resize((round(scale * shape[1]), round(scale * shape[0])), Image.Resampling.LANCZOS)
    top, left = round((resized.height - 256) / 2), round((resized.width - 256) / 2)
    levels = np.asarray(resized.crop((left, top, left + 256, top + 256)))
    expected = torch.from_numpy(levels.copy()).float().div(255) * 2 - 1
    assert np.array_equal(CentreSquare(256)(grey)[0], expected.numpy())


def test_the_reference_preset_is_the_authors_evaluation(places):
    preset = llm_cxr(places).presets["reference"]
    found = [preset.generation[key] for key in ("temperature", "top_p", "top_k", "max_new_tokens")]
    assert (found, preset.dtype, preset.source) == ([1.0, 0.92, 0, 128], "bf16", "authors-eval")


def test_the_full_size_is_the_published_one():
    module = llm_cxr({}, load_format="dummy").build("bf16")
    full = json.loads((originals.FOLDER / "full-size.json").read_text())["models"]["llm-cxr"]
    picture = network.count(module.vqgan)
    assert picture == full["vqgan"]["parameters"] == 72_141_699
    assert network.count(module) - picture == full["llm"]["parameters"] == 2_780_334_080


def test_random_weights_at_full_shape_need_no_files():
    model = llm_cxr({}, load_format="dummy")
    assert model.tokens(model.render(more.ask(model))).count(model.image_token) == 256
    assert model.eos() == (0,)


# What is refused


def refusal(places, call=llm_cxr) -> str:
    with pytest.raises(CxrbenchError) as error:
        call(places)
    return str(error.value)


def test_both_archives_are_needed_once(tmp_path):
    places = more.llm_cxr(tmp_path / "both")
    assert "one VQ-GAN (*.ckpt), and there is none" in refusal({"path": places["path"] / "llm"})
    assert "this is not LLM-CXR" in refusal({"path": places["path"] / "vqgan"})
    shutil.copytree(places["path"] / "vqgan", places["path"] / "old")
    assert "2 of them" in refusal(places)


def test_a_language_model_of_another_vocabulary(tmp_path):
    places = more.llm_cxr(tmp_path)
    edit_json(places["path"] / "llm" / "config.json", vocab_size=50432)
    assert "50,281 words and 1,024 codes make 51,305" in refusal(places)


def test_a_configuration_that_is_no_yaml_or_not_whole(tmp_path):
    places = more.llm_cxr(tmp_path)
    file = next((places["path"] / "vqgan").glob("*.yaml"))
    file.write_text("model: {params: {n_embed: 1024, embed_dim: 16, ddconfig: {ch: 32}}}")
    assert "does not say ch_mult" in refusal(places)
    file.write_text("{")
    assert "cannot be read" in refusal(places)


def test_the_tokenizer_of_another_model(tmp_path):
    places = more.llm_cxr(tmp_path)
    more.add_tokens(places["path"] / "llm", {"<far>": 51000})
    assert "its ids reach 51,000" in refusal(places, lambda given: llm_cxr(given).tokenizer)


# Through the engine


def test_ragged_prompts_in_one_batch_answer_as_alone(places, monkeypatch):
    samples = [
        more.sample(sample_id="1", question="Is there a small left pleural effusion with adjacent atelectasis?"),
        more.sample(sample_id="2"),
        more.sample(sample_id="3", question="Why?"),
    ]
    texts = more.together_as_alone(monkeypatch, LlmCxr, samples, places=places)
    assert all(text.count(",") == 4 for text in texts)
