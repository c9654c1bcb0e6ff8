"""The engine gives what plain generate() gives, whatever the batch, and says what happened to every sample."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import wraps
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from tiny_llava import IMAGE_TOKENS, POSITIONS, edit_json, edit_weights, make

from cxrbench.engines.base import Joined, join
from cxrbench.engines.transformers import TransformersEngine
from cxrbench.errors import CxrbenchError
from cxrbench.models.base import ModelOptions
from cxrbench.models.hf import HuggingFace
from cxrbench.plan import generation_settings
from cxrbench.types import Generation, Image, Request, Sample

WORDS = ["pleural", "effusion", "fever", "cough", "the", "lungs", "are", "clear", "heart", "normal", "size", "left"]
SHORT = Generation(max_new_tokens=16)
SAMPLED = replace(SHORT, temperature=1.0, top_p=0.9, top_k=40)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Several threads on such small matrices wait for each other more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make(tmp_path_factory.mktemp("engine") / "tiny")


@pytest.fixture
def fresh(tmp_path):
    return make(tmp_path / "tiny")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Seven grey pictures of seven sizes."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(7)
    files = [folder / f"{number}.png" for number in range(7)]
    for number, file in enumerate(files):
        Picture.fromarray(random.integers(0, 256, (40 + 9 * number, 70 - 5 * number), dtype=np.uint8)).save(file)
    return files


def model_of(folder, **options) -> Joined:
    return join(HuggingFace, TransformersEngine, ModelOptions(argument=str(folder), **options))


@pytest.fixture(scope="module")
def model(tiny):
    return model_of(tiny)


def samples(images) -> list[Sample]:
    """Prompts of seven lengths: the indication grows by two words a sample."""
    return [
        Sample(
            f"s{number}",
            f"s{number}",
            None,
            target="",
            images=(Image("i", str(file), "PA"),),
            sections={"indication": " ".join(WORDS[: 2 * number])} if number else {},
        )
        for number, file in enumerate(images)
    ]


def requests(model: Joined, images, generation: Generation = SHORT) -> list[Request]:
    return [model.request(each, "generate", generation, 1000 + n) for n, each in enumerate(samples(images))]


def answer(model: Joined, wanted, batch: int = 0):
    return model.generate(batch, [model.prepare(each) for each in wanted])


def texts(model: Joined, wanted) -> dict[str, str]:
    return {each.sample_id: each.text for each in answer(model, wanted).predictions}


# Equality


def test_a_batch_of_ragged_prompts_equals_one_by_one(model, images):
    wanted = requests(model, images)
    together = answer(model, wanted)
    alone = [answer(model, [each]).predictions[0] for each in wanted]
    assert len({each.prompt_tokens for each in together.predictions}) == len(wanted)
    assert len({each.text for each in alone}) > 4
    for one, other in zip(together.predictions, alone, strict=True):
        assert (one.sample_id, one.text, one.output_tokens) == (other.sample_id, other.text, other.output_tokens)


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_beams": 3}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}],
    ids=["greedy", "beams", "penalty", "ngrams"],
)
def test_text_equals_that_of_a_plain_stock_loop(tiny, model, images, settings):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    stock = AutoModelForImageTextToText.from_pretrained(tiny).eval()
    processor = AutoProcessor.from_pretrained(tiny)
    wanted = requests(model, images, replace(SHORT, **settings))
    for request, ours in zip(wanted, answer(model, wanted).predictions, strict=True):
        picture = Picture.open(request.images[0].path).convert("RGB")
        content = [{"type": "image", "image": picture}, {"type": "text", "text": request.messages[0].text[7:]}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        row = stock.generate(**inputs, do_sample=False, max_new_tokens=16, **settings)[
            0, inputs["input_ids"].shape[1] :
        ]
        assert ours.text == processor.decode(row, skip_special_tokens=True).strip()


def test_a_draw_belongs_to_the_sample_not_to_its_batch(model, images):
    wanted = requests(model, images, SAMPLED)
    whole = texts(model, wanted)
    greedy = texts(model, requests(model, images))
    assert sum(whole[key] != greedy[key] for key in whole) > 4
    assert texts(model, wanted[::-1]) == whole
    assert texts(model, wanted[2:5]) | texts(model, wanted[:2]) | texts(model, wanted[5:]) == whole
    other = [replace(each, seed=each.seed + 1) for each in wanted]
    assert sum(texts(model, other)[key] != whole[key] for key in whole) > 4


def test_a_draw_leaves_the_global_random_state_alone(model, images):
    state = torch.random.get_rng_state()
    answer(model, requests(model, images[:2], SAMPLED))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_settings_of_the_checkpoint_do_not_leak_into_matched(fresh, model, images):
    edit_json(
        fresh / "generation_config.json",
        do_sample=True, temperature=1.5, repetition_penalty=9.0, max_new_tokens=3, num_beams=2, no_repeat_ngram_size=1,
    )  # fmt: skip
    other = model_of(fresh)
    assert texts(other, requests(other, images)) == texts(model, requests(model, images))
    documented = model_of(fresh, preset="documented", generation={"num_beams": 1})
    assert generation_settings({}, documented.generation).repetition_penalty == 9.0


def test_token_rules_of_the_checkpoint_stay(fresh, model, images):
    [first] = answer(model, requests(model, images)[2:3]).predictions
    tokenizer = model.adapter.processing.tokenizer
    tokens = tokenizer(first.text, add_special_tokens=False)["input_ids"]
    edit_json(fresh / "generation_config.json", suppress_tokens=[tokens[0]])
    other = model_of(fresh)
    [second] = answer(other, requests(other, images)[2:3]).predictions
    assert second.text != first.text


@pytest.mark.parametrize("extra", [{"device_map": "auto"}, {"attention": "eager"}])
def test_placement_and_attention_do_not_change_fp32_text(tiny, model, images, extra):
    other = model_of(tiny, extra=extra, device="cpu")
    wanted = requests(other, images)
    assert texts(other, wanted) == texts(model, requests(model, images))
    assert other.circumstances()["attention"] == extra.get("attention", "sdpa")


# Outcomes


def test_stop_at_any_of_several_end_tokens_and_length_otherwise(fresh, model, images):
    full = answer(model, requests(model, images)).predictions
    assert {each.finish_reason for each in full if each.output_tokens == 16} == {"length"}
    stopper = model.adapter.processing.tokenizer
    row = next(n for n, each in enumerate(full) if each.output_tokens == 16)
    third = generated(model, requests(model, images)[row])[2]
    edit_json(fresh / "generation_config.json", eos_token_id=[stopper.eos_token_id, third])
    other = model_of(fresh)
    tokens = generated(model, requests(model, images)[row])
    [stopped] = answer(other, requests(other, images)[row : row + 1]).predictions
    assert stopped.finish_reason == "stop"
    assert stopped.output_tokens == tokens.index(third) + 1


def generated(model: Joined, request: Request) -> list[int]:
    """New token ids of one request."""
    found: list[list[int]] = []
    decode = model.adapter.decode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.adapter, "decode", lambda tokens: found.append(list(tokens)) or decode(tokens))
        answer(model, [request])
    return found[0]


def test_an_answer_of_nothing_but_an_end_token_is_empty(fresh, model, images):
    first = generated(model, requests(model, images)[2])[0]
    edit_json(fresh / "generation_config.json", eos_token_id=first)
    edit_json(fresh / "tokenizer_config.json", eos_token=model.adapter.processing.tokenizer.decode([first]))
    other = model_of(fresh)
    [empty] = answer(other, requests(other, images)[2:3]).predictions
    assert (empty.outcome, empty.text, empty.finish_reason, empty.output_tokens) == ("empty", "", "stop", 1)


def test_counts_and_inputs_are_recorded(model, images):
    [one] = answer(model, requests(model, images)[1:2]).predictions
    assert one.image_tokens == IMAGE_TOKENS
    assert one.inputs == ("image:PA", "section:indication")
    rendered = model.render(requests(model, images)[1])
    tokens = model.adapter.processing.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert one.prompt_tokens == len(tokens) - 1 + IMAGE_TOKENS


def test_a_prompt_that_does_not_fit_is_an_outcome_with_the_numbers(model, images):
    [request] = requests(model, images[:1])
    fits = model.prepare(request)
    room = POSITIONS - fits.payload.encoded.prompt_tokens
    assert model.prepare(replace(request, generation=Generation(max_new_tokens=room))).failure is None
    outcome, detail = model.prepare(replace(request, generation=Generation(max_new_tokens=room + 1))).failure
    assert outcome == "prompt_too_long"
    assert str(POSITIONS) in detail


def test_the_last_position_can_be_used(model, images):
    [request] = requests(model, images[:1])
    room = POSITIONS - model.prepare(request).payload.encoded.prompt_tokens
    [prediction] = answer(model, [replace(request, generation=Generation(max_new_tokens=room))]).predictions
    assert prediction.outcome == "ok"


def test_broken_and_missing_images_are_outcomes(model, images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:60])
    first, second = requests(model, [broken, tmp_path / "none.png"])
    assert model.prepare(first).failure[0] == "broken_image"
    assert model.prepare(second).failure[0] == "missing_image"
    assert "image_read" in model.prepare(first).times


def test_a_sample_that_offers_nothing_is_an_outcome(model):
    request = model.request(Sample("s", "s", None, target=""), "generate", SHORT, 0)
    assert model.prepare(request).failure[0] == "no_input"


def test_text_alone_is_answered(model):
    request = model.request(Sample("s", "s", None, target="", sections={"findings": "clear"}), "generate", SHORT, 0)
    [prediction] = answer(model, [request]).predictions
    assert prediction.outcome == "ok"
    assert prediction.image_tokens == 0


def test_text_and_images_in_one_batch_run_apart(model, images):
    plain = model.request(Sample("t", "t", None, target="", sections={"findings": "clear"}), "generate", SHORT, 0)
    wanted = [requests(model, images)[1], plain, requests(model, images)[2]]
    result = answer(model, wanted)
    assert [each.sample_id for each in result.predictions] == ["s1", "t", "s2"]
    assert result.timing.parts == 2
    assert [each.text for each in result.predictions] == [answer(model, [each]).predictions[0].text for each in wanted]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_weights_are_an_outcome_of_every_sample(fresh, images, value):
    edit_weights(fresh, **{"multi_modal_projector.linear_1.bias": lambda bias: torch.full_like(bias, value)})
    broken = model_of(fresh)
    found = answer(broken, requests(broken, images)).predictions
    assert {each.outcome for each in found} == {"nan_logits"}
    assert {each.text for each in found} == {None}
    assert {each.finish_reason for each in found} == {"error"}


def test_bad_scores_touch_their_own_sample_alone(model, images):
    prepared = [model.prepare(each) for each in requests(model, images)]
    prepared[3].payload.encoded.tensors["pixel_values"].fill_(float("nan"))
    found = model.generate(0, prepared).predictions
    assert [each.outcome == "nan_logits" for each in found] == [n == 3 for n in range(7)]
    expected = texts(model, requests(model, images))
    assert all(each.text == expected[each.sample_id] for each in found if each.outcome != "nan_logits")


def test_per_token_tensors_of_unknown_padding_meet_only_at_one_length():
    from cxrbench.engines.batching import collate, shape_key
    from cxrbench.models.adapter import Encoded

    def row(length: int, value: int) -> Encoded:
        tensors = {name: torch.full((1, length), value) for name in ("input_ids", "attention_mask", "odd_ids")}
        return Encoded(tensors, frozenset(tensors), length, 0)

    assert shape_key(row(3, 1)) == shape_key(row(3, 2)) != shape_key(row(4, 1))
    made = collate([row(3, 1), row(3, 2)], 0, "left", "cpu", torch.float32)
    assert made["odd_ids"].tolist() == [[1] * 3, [2] * 3]


# Memory


def limited(model: Joined, monkeypatch, rows: int) -> list[int]:
    """Make generate() run out of memory above `rows`; returns the list of sizes that were tried."""
    module = model.engine.load().module
    stock, tried = module.generate, []

    def generate(**inputs):
        tried.append(len(inputs["input_ids"]))
        if tried[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stock(**inputs)

    monkeypatch.setattr(module, "generate", generate)
    return tried


def test_out_of_memory_halves_the_batch_and_is_recorded(tiny, model, images, monkeypatch):
    expected = texts(model, requests(model, images, SAMPLED))
    small = model_of(tiny)
    tried = limited(small, monkeypatch, rows=2)
    wanted = requests(small, images, SAMPLED)
    result = answer(small, wanted)
    assert [each.sample_id for each in result.predictions] == [each.sample_id for each in wanted]
    assert {each.sample_id: each.text for each in result.predictions} == expected
    assert tried == [7, 4, 2, 2, 3, 2, 1]
    assert result.timing.parts == 4
    tried.clear()
    answer(small, wanted, batch=1)
    assert 7 not in tried, "what ran out of memory once is not tried again"


@pytest.mark.parametrize(
    ("said", "is_memory"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: out of memory\nCUDA kernel errors might be reported later", True),
        ("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried 9 bytes", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_what_is_said_where_memory_runs_out(said, is_memory):
    from cxrbench.engines.device import is_out_of_memory

    assert is_out_of_memory(RuntimeError(said)) is is_memory
    assert not is_out_of_memory(ValueError(said))


def test_one_sample_that_does_not_fit_is_an_outcome(tiny, images, monkeypatch):
    small = model_of(tiny)
    limited(small, monkeypatch, rows=0)
    found = answer(small, requests(small, images[:3])).predictions
    assert {each.outcome for each in found} == {"engine_error"}
    assert {each.detail for each in found} == {"out of memory with one sample"}


def test_any_other_failure_of_the_network_ends_the_run(tiny, images, monkeypatch):
    other = model_of(tiny)
    monkeypatch.setattr(other.engine.load().module, "generate", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        answer(other, requests(other, images[:1]))


# Times


READ, ENCODE, TOWER, STEP, DECODE = 0.5, 0.25, 8.0, 1.0, 0.125
"""Seconds that reading an image, making tensors, the image tower, a step of the decoder and decoding a text take on the
clock of these tests. No other work takes any; sums of such numbers are exact."""


@pytest.fixture
def timed(tiny, monkeypatch) -> Joined:
    """A model whose time passes only while it works, however fast the machine is."""
    now = [100.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("cxrbench.engines.device.time", clock)
    monkeypatch.setattr("cxrbench.engines.transformers.time", clock)
    model = model_of(tiny)
    network = model.engine.load()
    takes = [
        (model.engine, "read_image", READ),
        (model.adapter, "encode", ENCODE),
        (network.encoder, "forward", TOWER),
        (network.module.model.language_model, "forward", STEP),
        (model.adapter, "decode", DECODE),
    ]
    for owner, name, seconds in takes:
        monkeypatch.setattr(owner, name, taking(now, seconds, getattr(owner, name)))
    return model


def taking(now, seconds, work):
    """The same work, which moves the clock on before it ends."""

    @wraps(work)
    def done(*given, **named):
        result = work(*given, **named)
        now[0] += seconds
        return result

    return done


def test_every_second_of_a_batch_goes_to_the_stage_that_took_it(timed, images):
    result = answer(timed, requests(timed, images))
    steps = max(each.output_tokens for each in result.predictions)
    timing = result.timing
    assert (timing.encode, timing.prefill, timing.decode) == (TOWER, STEP, (steps - 1) * STEP)
    assert timing.wall == TOWER + steps * STEP + 7 * DECODE
    assert (timing.size, timing.parts, timing.peak_memory) == (7, 1, None)
    for place, each in enumerate(result.predictions):
        made_later = (6 - place) * (READ + ENCODE)
        decoded = TOWER + steps * STEP + (place + 1) * DECODE
        latency = READ + ENCODE + made_later + decoded
        expected = {"image_read": READ, "preprocess": ENCODE, "wait": made_later, "latency": latency}
        assert each.times == expected


def test_on_the_real_clock_no_stage_is_empty_and_their_sum_is_within_the_wall_time(model, images):
    timing = answer(model, requests(model, images)).timing
    assert min(timing.encode, timing.prefill, timing.decode) > 0
    assert timing.encode + timing.prefill + timing.decode <= timing.wall


def test_more_new_tokens_are_decode_time_not_prefill(timed, images):
    for n in (1, 60):
        result = answer(timed, requests(timed, images, replace(SHORT, max_new_tokens=n)))
        assert max(each.output_tokens for each in result.predictions) == n
        timing = result.timing
        assert (timing.encode, timing.prefill, timing.decode) == (TOWER, STEP, (n - 1) * STEP)


# Options


def test_option_scores_are_the_log_probabilities_of_their_tokens(model, images):
    from cxrbench.engines.batching import collate, extend

    [image] = samples(images)[1:2]
    options = (" pleural effusion", " clear", " the heart is normal")
    request = model.request(replace(image, options=options), "score_options", SHORT, 0)
    [found] = answer(model, [request]).predictions
    network, prompt = model.engine.load(), model.prepare(request).payload.encoded
    for option, score, count in zip(options, found.option_logprobs, found.option_tokens, strict=True):
        tokens = model.adapter.encode_option(request, option)
        assert count == len(tokens)
        total = 0.0
        for place, token in enumerate(tokens):
            row = extend(prompt, tokens[:place]) if place else prompt
            inputs = collate([row], network.pad, "left", "cpu", torch.float32)
            with torch.inference_mode():
                total += network.module(**inputs).logits[0, -1].log_softmax(-1)[token].item()
        assert score == pytest.approx(total, abs=1e-4)
    assert found.text == options[int(np.argmax(found.option_logprobs))]


def test_a_batch_of_options_is_timed_without_decode(model, images):
    wanted = [
        model.request(replace(each, options=("yes", "no")), "score_options", SHORT, 0) for each in samples(images)[:2]
    ]
    timing = answer(model, wanted).timing
    assert timing.decode is None
    assert timing.encode > 0


# Settings and identity


def test_identity_and_circumstances_are_plain_json_and_say_what_became_of_auto(model):
    identity = json.loads(json.dumps(model.identity()))
    assert (identity["dtype"], identity["attention"], identity["engine"]) == ("fp32", "sdpa", "transformers")
    assert identity["preset"] == {"name": "matched", "version": 1, "source": "ours"}
    circumstances = json.loads(json.dumps(model.circumstances()))
    assert circumstances["device"] == "cpu"
    assert circumstances["pixels"] == "fast"
    assert not set(circumstances) & {"dtype", "weights"}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"extra": {"attenton": "eager"}}, "did you mean 'attention'"),
        ({"extra": {"device_map": "auto"}, "load_format": "dummy"}, "one device"),
        ({"preset": "reference"}, "no preset 'reference'"),
        ({"generation": {"temperature": 1, "num_beams": 2}}, "cannot be combined"),
        ({"dtype": "float16"}, "no precision"),
        ({"device": "gpu"}, "no device"),
        ({"device": "mps"}, "not supported"),
        ({"load_format": "dumy"}, "no load format"),
        ({"extra": {"threads": "0"}}, "whole number from 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_loaded(tiny, options, word):
    with pytest.raises(CxrbenchError, match=word):
        model_of(tiny, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_refused(tiny):
    with pytest.raises(CxrbenchError, match="sees 0 GPUs"):
        model_of(tiny, device="cuda")


def test_an_attention_the_model_cannot_do_is_refused_when_it_is_loaded(tiny):
    with pytest.raises(CxrbenchError, match="cannot load the weights"):
        model_of(tiny, extra={"attention": "nonsense"}).circumstances()


def test_dummy_weights_run_and_say_so(tmp_path, images):
    model = model_of(make(tmp_path / "bare", weights=False), load_format="dummy", seed=1)
    assert model.identity()["load_format"] == "dummy"
    assert len(texts(model, requests(model, images))) == 7


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_runs(tiny, images, dtype):
    half = model_of(tiny, dtype=dtype)
    assert {each.outcome for each in answer(half, requests(half, images)).predictions} <= {"ok", "empty"}
    assert half.identity()["dtype"] == dtype


def test_threads_are_set_and_recorded(tiny):
    before = torch.get_num_threads()
    try:
        assert model_of(tiny, extra={"threads": "2"}).circumstances()["threads"] == 2
    finally:
        torch.set_num_threads(before)


def test_closing_gives_the_network_back_and_the_next_call_brings_it_up_again(tiny, images):
    model = model_of(tiny)
    before = texts(model, requests(model, images[:1]))
    model.close()
    assert texts(model, requests(model, images[:1])) == before


def test_prepare_may_be_called_from_many_threads(tiny, model, images):
    from concurrent.futures import ThreadPoolExecutor

    other = model_of(tiny)
    wanted = requests(other, images) * 8
    with ThreadPoolExecutor(8) as pool:
        prepared = list(pool.map(other.prepare, wanted))
    for request, each in zip(wanted, prepared, strict=True):
        mine = model.prepare(request).payload.encoded.tensors
        assert all(torch.equal(value, mine[name]) for name, value in each.payload.encoded.tensors.items())
