"""Slots give the tokens that plain generate() gives, whatever the decoder, the slots and the order."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from tiny_llava import POSITIONS, edit_json, edit_weights, make

from cxrbench.engines.base import Joined, join
from cxrbench.engines.slots import DECODERS, SlotsEngine, refuse_unproven
from cxrbench.engines.transformers import TransformersEngine
from cxrbench.errors import CxrbenchError
from cxrbench.models.base import ModelOptions
from cxrbench.models.hf import HuggingFace
from cxrbench.types import Generation, Image, Request, Sample
from tests.commands import answers, cli  # noqa: F401  (a fixture)
from tests.small_task import write_small

WORDS = ["pleural", "effusion", "fever", "cough", "the", "lungs", "are", "clear", "heart", "normal", "size", "left"]
GREEDY = Generation(max_new_tokens=24)
SAMPLED = replace(GREEDY, temperature=1.0, top_p=0.9, top_k=40)
COUNT = 64
WINDOW = 20
"""How far back the tiny Mistral looks: less than any prompt, so that the window is at work from the first token."""

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": POSITIONS,
    "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


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


def decoder(family: str, words: int):
    """Configuration of a tiny decoder with what is special about its family."""
    import transformers as stock

    if family == "llama":
        return stock.LlamaConfig(vocab_size=words, num_attention_heads=4, num_key_value_heads=4, **SIZES)
    if family == "mistral":
        return stock.MistralConfig(
            vocab_size=words, num_attention_heads=4, num_key_value_heads=2, sliding_window=WINDOW, **SIZES
        )
    if family == "phi":
        return stock.PhiConfig(vocab_size=words, num_attention_heads=2, partial_rotary_factor=0.5, **SIZES)
    return stock.GPTNeoXConfig(vocab_size=words, num_attention_heads=2, rotary_pct=0.25, **SIZES)


def make_with(folder, family: str):
    """A tiny LLaVA over a decoder of another family, with several end tokens, so that texts end early."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    make(folder, weights=False)
    config = LlavaConfig.from_pretrained(folder)
    config.text_config = decoder(family, config.text_config.vocab_size)
    config.tie_word_embeddings = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlavaForConditionalGeneration(config)
    model.save_pretrained(folder)
    ends = random.Random(5).sample(range(4, config.text_config.vocab_size), 12)
    settings = {"bos_token_id": 1, "eos_token_id": [2, *ends], "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint folder per family of decoders."""
    place = tmp_path_factory.mktemp("slots")
    return {family: make_with(place / family, family) for family in DECODERS}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, numbers = tmp_path_factory.mktemp("images"), np.random.default_rng(7)
    files = [folder / f"{number}.png" for number in range(12)]
    for number, file in enumerate(files):
        Picture.fromarray(numbers.integers(0, 256, (40 + 9 * number, 150 - 9 * number), dtype=np.uint8)).save(file)
    return files


def model_of(folder, engine=SlotsEngine, **extra) -> Joined:
    """A model whose texts are its token ids."""
    settings = {key: str(value) for key, value in extra.pop("extra", {}).items()}
    model = join(HuggingFace, engine, ModelOptions(argument=str(folder), device="cpu", extra=settings, **extra))
    model.adapter.decode = lambda tokens: " ".join(map(str, tokens))
    return model


def samples(images, count: int = COUNT) -> list[Sample]:
    """Prompts of many lengths; every ninth is text alone."""
    chosen = random.Random(11)
    made = []
    for number in range(count):
        words = " ".join(chosen.choices(WORDS, k=chosen.randrange(1, 30)))
        image = () if number % 9 == 8 else (Image("i", str(images[number % len(images)]), "PA"),)
        made.append(Sample(f"s{number}", "s", None, target="", images=image, sections={"indication": words}))
    return made


def requests(model: Joined, images, generation: Generation = GREEDY, count: int = COUNT) -> list[Request]:
    return [model.request(each, "generate", generation, 1000 + n) for n, each in enumerate(samples(images, count))]


def answer(model: Joined, wanted):
    return model.generate(0, [model.prepare(each) for each in wanted])


def found(model: Joined, wanted) -> dict[str, tuple]:
    """Tokens and ends by sample."""
    return {
        each.sample_id: (each.outcome, each.text, each.finish_reason, each.output_tokens)
        for each in answer(model, wanted).predictions
    }


@pytest.fixture(scope="module")
def expected(folders, images):
    """What engine transformers gives in batches, by family and settings; made once."""
    made: dict[tuple, dict[str, tuple]] = {}

    def of(family: str, generation: Generation = GREEDY) -> dict[str, tuple]:
        if (family, generation) not in made:
            model = model_of(folders[family], TransformersEngine)
            wanted = requests(model, images, generation)
            size = 8 if generation.repetition_penalty == 1 else 1  # transformers 5.17 penalises padding, too
            parts = [found(model, wanted[start : start + size]) for start in range(0, COUNT, size)]
            made[family, generation] = {key: value for part in parts for key, value in part.items()}
        return made[family, generation]

    return of


# Equality


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize(("slots", "chunk"), [(1, 2048), (7, 60), (16, 500), (64, 2048)])
def test_tokens_are_those_of_generate(folders, images, expected, family, slots, chunk):
    model = model_of(folders[family], extra={"slots": slots, "chunk": chunk})
    ours = found(model, requests(model, images))
    assert ours == expected(family)
    ends = [each[2] for each in ours.values()]
    assert min(ends.count("stop"), ends.count("length")) > 5, "texts must end early and late"
    assert len({each[3] for each in ours.values()}) > 5, "texts must end at many lengths"


def test_eager_attention_gives_the_same_tokens(folders, images, expected):
    model = model_of(folders["mistral"], extra={"slots": 8, "attention": "eager"})
    assert found(model, requests(model, images)) == expected("mistral")


def test_draws_are_those_of_the_sample(folders, images, expected):
    model = model_of(folders["llama"], extra={"slots": 7, "chunk": 300})
    ours = found(model, requests(model, images, SAMPLED))
    assert ours == expected("llama", SAMPLED)
    assert sum(ours[key] != expected("llama")[key] for key in ours) > COUNT // 2


@pytest.mark.parametrize("settings", [{"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}])
def test_penalties_are_those_of_generate(folders, images, expected, settings):
    model = model_of(folders["phi"], extra={"slots": 9})
    generation = replace(GREEDY, **settings)
    ours = found(model, requests(model, images, generation))
    assert ours == expected("phi", generation)
    assert ours != expected("phi")


def test_penalty_and_draw_go_together(folders, images, expected):
    generation = replace(SAMPLED, repetition_penalty=1.2)
    model = model_of(folders["llama"], extra={"slots": 9})
    assert found(model, requests(model, images, generation)) == expected("llama", generation)


@pytest.mark.parametrize(
    "rules",
    [
        {"suppress_tokens": list(range(40, 200))},
        {"begin_suppress_tokens": list(range(4, 300))},
        {"bad_words_ids": [[token] for token in range(4, 150)]},
        {"forced_eos_token_id": 2},
    ],
    ids=lambda rules: next(iter(rules)),
)
def test_token_rules_of_the_checkpoint_are_those_of_generate(folders, images, expected, tmp_path, rules):
    folder = make_with(tmp_path / "ruled", "llama")
    edit_json(folder / "generation_config.json", **rules)
    stock, ours = model_of(folder, TransformersEngine), model_of(folder, extra={"slots": 5})
    wanted = requests(ours, images, count=12)
    theirs = found(stock, wanted)
    assert found(ours, wanted) == theirs
    assert theirs != {key: expected("llama")[key] for key in theirs}


def test_order_and_company_do_not_matter(folders, images, expected):
    model = model_of(folders["gpt_neox"], extra={"slots": 6})
    wanted = requests(model, images)
    mixed = random.Random(2).sample(wanted, COUNT)
    assert found(model, mixed) == expected("gpt_neox")
    parts = [found(model, wanted[start:end]) for start, end in ((0, 3), (3, 4), (4, 40), (40, COUNT))]
    assert {key: value for part in parts for key, value in part.items()} == expected("gpt_neox")


class Coming:
    """Requests that are read one by one, when the engine asks; `asked` is how many it has asked for."""

    def __init__(self, model, wanted, broken_at: int | None = None) -> None:
        self.asked = 0
        self.model, self.wanted, self.broken_at = model, wanted, broken_at

    def __length_hint__(self) -> int:
        return len(self.wanted) - self.asked

    def __iter__(self):
        return self

    def __next__(self):
        if self.asked == len(self.wanted):
            raise StopIteration
        if self.asked == self.broken_at:
            raise MemoryError("reading an image")
        self.asked += 1
        return self.model.prepare(self.wanted[self.asked - 1])


@pytest.mark.parametrize(("slots", "chunk"), [(7, 60), (16, 500)])
def test_a_window_that_is_still_being_read_gives_the_same_calls(folders, images, monkeypatch, slots, chunk):
    """Equal prefills in equal order, begun before the last image is read; slots grow for longer prompts."""
    from cxrbench.engines.slots_cache import Pool

    calls, stock, begun = [], Pool.prefill, []

    def prefill(self, module, chosen, lengths, keep, inputs):
        calls.append((chosen.tolist(), inputs["input_ids"].tolist()))
        begun.append(coming.asked)
        return stock(self, module, chosen, lengths, keep, inputs)

    monkeypatch.setattr(Pool, "prefill", prefill)
    monkeypatch.setattr("cxrbench.engines.slots_cache.STEP", 1)
    made = []
    for streamed in (False, True):
        model = model_of(folders["phi"], extra={"slots": slots, "chunk": chunk})
        wanted = sorted(requests(model, images), key=model.cost)
        coming = Coming(model, wanted)
        given = coming if streamed else [model.prepare(each) for each in wanted]
        calls.clear()
        begun.clear()
        result = model.stream(0, given)
        assert [each.sample_id for each in result.predictions] == [each.sample_id for each in wanted]
        made.append(([each.text for each in result.predictions], list(calls), result.timing.parts))
    assert made[0] == made[1]
    assert made[1][2] == 1
    assert begun[0] < COUNT


def test_waiting_for_images_is_not_the_engines_time(folders, images, monkeypatch):
    model = model_of(folders["phi"])
    now = [0.0]
    monkeypatch.setattr("cxrbench.engines.device.Clock.now", lambda self: now[0])
    coming = Coming(model, requests(model, images, count=6))
    prepare = model.prepare

    def slow(request):
        now[0] += 10
        return prepare(request)

    monkeypatch.setattr(model, "prepare", slow)
    timing = model.stream(0, coming).timing
    assert now[0] == 60
    assert (timing.wall, timing.prefill, timing.decode) == (0, 0, 0)


def test_memory_that_runs_out_while_reading_is_not_the_slots(folders, images):
    model = model_of(folders["phi"], extra={"slots": 4, "chunk": 60})
    with pytest.raises(MemoryError, match="reading an image"):
        model.stream(0, Coming(model, requests(model, images), broken_at=20))
    assert model.engine._most is None


def test_two_settings_in_one_window_keep_apart(folders, images, expected):
    model = model_of(folders["llama"], extra={"slots": 4})
    greedy, drawn = requests(model, images)[:10], requests(model, images, SAMPLED)[10:20]
    ours = found(model, [each for pair in zip(greedy, drawn, strict=True) for each in pair])
    assert all(ours[f"s{n}"] == expected("llama", GREEDY if n < 10 else SAMPLED)[f"s{n}"] for n in range(20))


def test_the_global_random_state_is_left_alone(folders, images):
    state = torch.random.get_rng_state()
    model = model_of(folders["llama"])
    answer(model, requests(model, images, SAMPLED, count=4))
    assert torch.equal(torch.random.get_rng_state(), state)


# Ends


def test_one_new_token(folders, images):
    generation = replace(GREEDY, max_new_tokens=1)
    stock, ours = (model_of(folders["phi"], engine) for engine in (TransformersEngine, SlotsEngine))
    assert found(ours, requests(ours, images, generation)) == found(stock, requests(stock, images, generation))


def test_an_end_token_at_once_frees_the_slot(folders, images, expected, tmp_path):
    first = [int(each[1].split()[0]) for each in expected("llama").values()]
    common = max(set(first), key=first.count)
    folder = make_with(tmp_path / "ending", "llama")
    edit_json(folder / "generation_config.json", eos_token_id=[2, common])
    stock, ours = model_of(folder, TransformersEngine), model_of(folder, extra={"slots": 3})
    wanted = requests(ours, images)
    result = found(ours, wanted)
    assert result == found(stock, wanted)
    assert [each[3] for each in result.values()].count(1) == first.count(common)


def test_the_last_position_can_be_used_and_one_more_is_refused(folders, images):
    model = model_of(folders["llama"])
    [request] = requests(model, images, count=1)
    room = POSITIONS - model.prepare(request).payload.encoded.prompt_tokens
    longest = replace(request, generation=Generation(max_new_tokens=room))
    stock = model_of(folders["llama"], TransformersEngine)
    assert found(model, [longest]) == found(stock, [longest])
    too_long = model.prepare(replace(request, generation=Generation(max_new_tokens=room + 1)))
    assert too_long.failure[0] == "prompt_too_long"


# Refills


def watched(model: Joined, monkeypatch) -> list[tuple[str, int]]:
    """Every call of the network as ("prefill" or "step", rows)."""
    module, calls = model.engine.load().module, []
    forward = module.forward

    def seen(**inputs):
        calls.append(("step" if inputs.get("attention_mask") is not None else "prefill", len(inputs["input_ids"])))
        return forward(**inputs)

    monkeypatch.setattr(module, "forward", seen)
    return calls


def test_slots_are_refilled_while_others_go_on(folders, images, monkeypatch):
    model = model_of(folders["llama"], extra={"slots": 8})
    calls = watched(model, monkeypatch)
    ours = found(model, requests(model, images))
    last = max(place for place, (kind, _) in enumerate(calls) if kind == "prefill")
    before = [rows for kind, rows in calls[:last] if kind == "step"]
    assert sum(rows for kind, rows in calls if kind == "prefill") == COUNT
    assert max(rows for _, rows in calls) == 8
    assert np.mean(before) > 7, "slots must not stay empty while requests wait"
    tokens = sum(each[3] for each in ours.values())
    assert sum(rows for kind, rows in calls if kind == "step") == tokens - COUNT, "no step is spent on ended texts"


def test_chunks_keep_to_their_tokens(folders, images, monkeypatch):
    model = model_of(folders["llama"], extra={"slots": 16, "chunk": 300})
    module, sizes = model.engine.load().module, []
    forward = module.forward

    def seen(**inputs):
        if inputs.get("attention_mask") is None:
            sizes.append(tuple(inputs["input_ids"].shape))
        return forward(**inputs)

    monkeypatch.setattr(module, "forward", seen)
    answer(model, requests(model, images))
    assert all(rows == 1 or rows * tokens <= 300 for rows, tokens in sizes)
    assert max(rows for rows, _ in sizes) > 1


# Bad scores and memory


def test_bad_scores_touch_their_own_sample_alone_and_not_the_next_in_the_slot(folders, images, expected):
    model = model_of(folders["llama"], extra={"slots": 2})
    prepared = [model.prepare(each) for each in requests(model, images)]
    for number in (0, 3, 20):
        prepared[number].payload.encoded.tensors["pixel_values"].fill_(float("nan"))
    result = model.generate(0, prepared).predictions
    bad = {each.sample_id for each in result if each.outcome == "nan_logits"}
    assert bad == {"s0", "s3", "s20"}
    assert all(each.text is None and each.finish_reason == "error" for each in result if each.sample_id in bad)
    assert all(each.text == expected("llama")[each.sample_id][1] for each in result if each.sample_id not in bad)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_weights_are_an_outcome_of_every_sample(tmp_path, images, value):
    folder = make_with(tmp_path / "broken", "llama")
    edit_weights(folder, **{"multi_modal_projector.linear_1.bias": lambda bias: torch.full_like(bias, value)})
    model = model_of(folder, extra={"slots": 3})
    pictured = [each for each in requests(model, images, count=16) if each.images]
    assert {each.outcome for each in answer(model, pictured).predictions} == {"nan_logits"}


def limited(model: Joined, monkeypatch, rows: int) -> list[int]:
    """Make the network run out of memory above `rows` rows in one call; returns the sizes that were tried."""
    module, tried = model.engine.load().module, []
    forward = module.forward

    def short(**inputs):
        tried.append(len(inputs["input_ids"]))
        if tried[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(**inputs)

    monkeypatch.setattr(module, "forward", short)
    return tried


@pytest.mark.parametrize("generation", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_out_of_memory_halves_the_slots_and_is_recorded(folders, images, expected, monkeypatch, generation):
    model = model_of(folders["llama"], extra={"slots": 16, "chunk": 500})
    tried = limited(model, monkeypatch, rows=4)
    wanted = requests(model, images, generation)
    result = answer(model, wanted)
    assert [each.sample_id for each in result.predictions] == [each.sample_id for each in wanted]
    assert all(each.text == expected("llama", generation)[each.sample_id][1] for each in result.predictions)
    assert (result.timing.parts, result.timing.slots) == (3, 4)
    tried.clear()
    assert answer(model, wanted).timing.parts == 1
    assert max(tried) == 4, "what ran out of memory once is not tried again"


def test_running_out_of_memory_later_loses_nothing(folders, images, expected, monkeypatch):
    """The twentieth step fails: texts that ended before are kept, the others begin again."""
    model = model_of(folders["phi"], extra={"slots": 8})
    module, steps = model.engine.load().module, []
    forward = module.forward

    def once(**inputs):
        steps.append(1)
        if len(steps) == 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(**inputs)

    monkeypatch.setattr(module, "forward", once)
    ours = answer(model, requests(model, images))
    assert ours.timing.parts == 2
    assert all(each.text == expected("phi")[each.sample_id][1] for each in ours.predictions)


def test_one_sample_that_does_not_fit_is_an_outcome(folders, images, expected, monkeypatch):
    model = model_of(folders["llama"], extra={"slots": 4})
    module = model.engine.load().module
    forward = module.forward
    wanted = requests(model, images, count=8)
    [long] = [n for n in range(8) if n == 5]
    size = model.prepare(wanted[long]).payload.encoded.prompt_tokens
    assert sum(model.prepare(each).payload.encoded.prompt_tokens == size for each in wanted) == 1

    def short(**inputs):
        if (inputs["input_ids"][:, 0] != 1).any() or size in inputs["input_ids"].ne(0).sum(dim=1).tolist():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(**inputs)

    def prefills_only(**inputs):
        return forward(**inputs) if inputs.get("attention_mask") is not None else short(**inputs)

    monkeypatch.setattr(module, "forward", prefills_only)
    result = answer(model, wanted).predictions
    assert [each.outcome for each in result] == ["engine_error" if n == long else "ok" for n in range(8)]
    assert result[long].detail == "out of memory with one sample"
    assert all(each.text == expected("llama")[each.sample_id][1] for each in result if each.outcome == "ok")


def test_any_other_failure_of_the_network_ends_the_run(folders, images, monkeypatch):
    model = model_of(folders["llama"])
    monkeypatch.setattr(model.engine.load().module, "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        answer(model, requests(model, images, count=2))


# Times


READ, ENCODE, TOWER, CALL, DECODE = 0.5, 0.25, 8.0, 1.0, 0.125
"""Seconds of reading, making tensors, image tower, a call of the decoder and decoding a text on the tests' clock."""


def test_every_second_goes_to_the_stage_that_took_it(folders, images, monkeypatch):
    now = [100.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("cxrbench.engines.device.time", clock)
    monkeypatch.setattr("cxrbench.engines.transformers.time", clock)
    model = model_of(folders["llama"], extra={"slots": 2})
    network = model.engine.load()

    def taking(owner, name, seconds):
        work = getattr(owner, name)

        def done(*given, **named):
            result = work(*given, **named)
            now[0] += seconds
            return result

        monkeypatch.setattr(owner, name, done)

    for owner, name, seconds in (
        (model.engine, "read_image", READ), (model.adapter, "encode", ENCODE), (network.encoder, "forward", TOWER),
        (network.module.model.language_model, "forward", CALL), (model.adapter, "decode", DECODE),
    ):  # fmt: skip
        taking(owner, name, seconds)
    calls = watched(model, monkeypatch)
    wanted = requests(model, images, count=5)
    prepared = [model.prepare(each) for each in wanted]
    begin = now[0]
    result = model.generate(7, prepared)
    prefills = sum(kind == "prefill" for kind, _ in calls)
    steps = len(calls) - prefills
    timing = result.timing
    assert (timing.batch, timing.size, timing.parts, timing.slots, timing.peak_memory) == (7, 5, 1, 2, None)
    assert (timing.encode, timing.prefill, timing.decode) == (prefills * TOWER, prefills * CALL, steps * CALL)
    assert timing.wall == prefills * (TOWER + CALL) + steps * CALL + 5 * DECODE == now[0] - begin
    for place, each in enumerate(result.predictions):
        accepted = 100.0 + place * (READ + ENCODE)
        assert each.times["wait"] >= 4 * (READ + ENCODE) - place * (READ + ENCODE)
        assert each.times["latency"] <= now[0] - accepted
    latest = max(100.0 + n * (READ + ENCODE) + each.times["latency"] for n, each in enumerate(result.predictions))
    assert latest == now[0], "the last text ends the window"
    assert len({each.times["latency"] for each in result.predictions}) == 5
    assert result.predictions[0].times["wait"] < result.predictions[4].times["wait"], "others had the slots"


# Options, settings, refusals


def test_options_are_scored_as_by_the_other_engine(folders, images):
    wanted = [replace(each, options=(" clear", " pleural effusion")) for each in samples(images, 3)]
    scores = []
    for engine in (TransformersEngine, SlotsEngine):
        model = model_of(folders["phi"], engine)
        made = answer(model, [model.request(each, "score_options", GREEDY, 0) for each in wanted]).predictions
        scores.append([each.option_logprobs for each in made])
    assert scores[0] == scores[1]


def test_identity_names_the_engine_and_circumstances_how_it_was_set(folders):
    model = model_of(folders["llama"], extra={"slots": 3})
    identity = json.loads(json.dumps(model.identity()))
    assert (identity["engine"], identity["dtype"], identity["attention"]) == ("slots", "fp32", "sdpa")
    about = json.loads(json.dumps(model.circumstances()))
    assert (about["slots"], about["graphs"], about["preprocess"]) == (3, False, "threads")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"extra": {"slots": "0"}}, "whole number from 1"),
        ({"extra": {"chunk": "many"}}, "whole number from 1"),
        ({"extra": {"memory": "2"}}, "above 0 and up to 1"),
        ({"extra": {"graphs": "on"}}, "no CUDA graphs on the CPU"),
        ({"extra": {"graphs": "yes"}}, "on or off"),
        ({"extra": {"preprocess": "fork"}}, "threads or processes"),
        ({"extra": {"attention": "flex_attention"}}, "sdpa or eager"),
        ({"extra": {"device_map": "auto"}}, "no setting 'device_map'"),
        ({"generation": {"num_beams": 3}}, "does not search with 3 beams"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_loaded(folders, options, word):
    with pytest.raises(CxrbenchError, match=word):
        model_of(folders["llama"], **options)


def test_beams_of_a_task_are_refused(folders, images):
    model = model_of(folders["llama"])
    with pytest.raises(CxrbenchError, match="--engine transformers"):
        answer(model, requests(model, images, replace(GREEDY, num_beams=2), count=2))


def test_networks_that_were_not_proven_are_refused_with_the_reason():
    import transformers as stock

    refuse_unproven(stock.GPTNeoXConfig())
    for config, word in (
        (stock.Gemma3Config(), "'gemma3' model"),
        (stock.LlavaConfig(text_config=stock.Qwen2Config()), "'qwen2' decoder"),
        (stock.T5Config(), "encoder-decoder"),
    ):
        with pytest.raises(CxrbenchError, match=word):
            refuse_unproven(config)


def test_a_network_with_its_own_generate_is_refused(folders, images):
    model = model_of(folders["llama"])
    module = TransformersEngine.load(model.engine).module
    module.generate = lambda **_: None
    with pytest.raises(CxrbenchError, match="generate\\(\\) of its own"):
        model.circumstances()


def test_the_number_of_slots_is_found(folders, images):
    model = model_of(folders["llama"])
    answer(model, requests(model, images, count=3))
    assert model.engine._pool[0].slots == 3, "no more slots than requests"
    answer(model, requests(model, images))
    assert 3 < model.engine._pool[0].slots <= COUNT


def test_the_size_follows_memory_and_roofline():
    from cxrbench.engines.slots_size import Decoder, Machine, fitting, step_seconds, worth_having

    machine = Machine(bandwidth=1e12, flops=1e14, call=1e-5)
    large = Decoder(parameters=10**9, width=2, kv=10**5, layers=10)
    assert step_seconds(large, machine, 1, 1000, graphs=True) == pytest.approx(1e-5 + 2.1e-3)  # weights and one row
    assert step_seconds(large, machine, 100, 1000, graphs=True) == pytest.approx(1e-5 + 12e-3)  # mostly keys, values
    assert step_seconds(large, machine, 1, 1000, graphs=False) > step_seconds(large, machine, 1, 1000, graphs=True)
    bare = Decoder(parameters=10**9, width=2, kv=0, layers=10)
    assert step_seconds(bare, machine, 1000, 1, graphs=True) == pytest.approx(1e-5 + 2e-2)  # computing
    assert fitting(10**9, 0.5, room=100, decoder=large, working=10**8) == 40
    assert fitting(10**6, 0.5, room=100, decoder=large, working=10**8) == 1
    chosen = worth_having(lambda rows: step_seconds(large, machine, rows, 1000, graphs=True), 512)
    rate = {n: n / step_seconds(large, machine, n, 1000, graphs=True) for n in (chosen // 2, chosen, 512)}
    assert rate[chosen // 2] < 0.75 * rate[512] <= rate[chosen]


def test_recorded_steps_pad_their_rows_and_read_whole_slots(folders, images, expected, monkeypatch):
    """The bookkeeping around CUDA graphs, with a replay that computes; recording itself needs a GPU."""
    from cxrbench.engines.slots_steps import Recorded, Steps

    recorded: list[int] = []

    def record(self, rows):
        recorded.append(rows)
        logits = torch.empty(rows, self.module.config.text_config.vocab_size)
        step = self.pool.step
        graph = SimpleNamespace(replay=lambda: logits.copy_(step(self.module, rows, self.pool.room)))
        return Recorded(graph, logits)

    monkeypatch.setattr(Steps, "_record", record)
    model = model_of(folders["mistral"], extra={"slots": 13})
    model.engine.graphs = True
    assert found(model, requests(model, images)) == expected("mistral")
    assert set(recorded) <= {1, 2, 4, 8, 13}
    assert len(recorded) == len(set(recorded)) > 2


def test_what_an_empty_row_leaves_does_not_reach_the_next_text(folders, images, expected, monkeypatch):
    """A recorded step computes empty rows too; in fp16 the token behind an end may overflow there."""
    from cxrbench.engines.slots_loop import Loop
    from cxrbench.engines.slots_steps import Steps

    step = Loop._step

    def poisoned(self):
        step(self)
        rows = [*self._rows, *[None] * (self.pool.slots - len(self._rows))]
        for slot, place in enumerate(self.pool.positions[:, 0].tolist()):
            if rows[slot] is None:
                for layer in self.pool.layers:
                    layer.keys[slot, :, place] = torch.nan
                    layer.values[slot, :, place] = torch.nan

    monkeypatch.setattr(Loop, "_step", poisoned)
    monkeypatch.setattr(Steps, "__call__", lambda self, rows, _: self.pool.step(self.module, rows, self.pool.room))
    model = model_of(folders["mistral"], extra={"slots": 13})
    model.engine.graphs = True
    assert found(model, requests(model, images)) == expected("mistral")


def test_padding_that_overflows_in_fp16_stays_out_of_the_texts(tmp_path, images):
    folder = make_with(tmp_path / "padding", "llama")
    name = "language_model.model.embed_tokens.weight"

    def overflow(table):
        table[0] = torch.nan  # the padding token, which no prompt holds
        return table

    edit_weights(folder, **{name: overflow})
    ragged, alone = (model_of(folder, dtype="fp16", extra=each) for each in ({"slots": 8}, {"slots": 8, "chunk": 1}))
    wanted = requests(ragged, images, count=24)
    outcomes = [[each.outcome for each in answer(model, wanted).predictions] for model in (ragged, alone)]
    assert outcomes[0] == outcomes[1], "prompts that are prefilled one by one have no padding"
    assert outcomes[0].count("ok") > 12


def test_recordings_share_their_memory(monkeypatch):
    from contextlib import nullcontext

    from cxrbench.engines.slots_steps import Steps

    handles, used = iter(["first", "second"]), []
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "Stream": lambda device: stream,
        "current_stream": lambda device: stream,
        "stream": lambda side: nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
        "graph": lambda graph, pool: used.append(pool) or nullcontext(),
        "graph_pool_handle": lambda: next(handles),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    asked = []

    def step(module, rows, room):
        asked.append(rows)
        if rows == 8 and asked.count(8) == 4:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")
        return torch.zeros(rows, 5)

    pool = SimpleNamespace(slots=13, room=64, tokens=torch.zeros(13, 1), step=step)
    steps = Steps(torch.nn.Identity(), pool, graphs=True)
    assert [len(steps(rows, 9)) for rows in (1, 3)] == [1, 3]
    assert used == ["first", "first"]
    with pytest.raises(RuntimeError, match="ALLOC_FAILED"):  # memory ran out: the engine halves its slots
        steps(8, 9)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_runs(folders, images, dtype):
    half = model_of(folders["llama"], dtype=dtype)
    assert {each.outcome for each in answer(half, requests(half, images)).predictions} <= {"ok", "empty"}
    assert half.identity()["dtype"] == dtype


# Pre-processing in processes


def test_processes_make_the_same_tensors_and_failures(folders, images, tmp_path):
    with_threads = model_of(folders["llama"])
    other = model_of(folders["llama"], workers=1, extra={"preprocess": "processes"})
    wanted = requests(other, images, count=9)
    missing = replace(wanted[0], images=(Image("i", str(tmp_path / "none.png"), "PA"),))
    try:
        for request in wanted:
            mine, theirs = other.prepare(request), with_threads.prepare(request)
            assert mine.request == request
            ours, stock = mine.payload.encoded, theirs.payload.encoded
            assert (ours.sequence, ours.prompt_tokens, ours.image_tokens) == (
                stock.sequence, stock.prompt_tokens, stock.image_tokens
            )  # fmt: skip
            assert all(torch.equal(value, ours.tensors[name]) for name, value in stock.tensors.items())
            assert mine.payload.ready > mine.payload.accepted
        assert other.prepare(missing).failure[0] == "missing_image"
        assert found(other, wanted) == found(with_threads, wanted)
    finally:
        other.close()


def test_processes_that_read_ask_no_gpu(folders, monkeypatch):
    from cxrbench.engines import slots_workers

    made = []
    monkeypatch.setattr(slots_workers, "Workers", lambda recipe, count: made.append(recipe))
    model = model_of(folders["llama"], extra={"preprocess": "processes"})
    model.engine._options = replace(model.engine._options, device="cuda:0")
    model.engine._processes()
    assert made[0].arguments[1].device == "cpu"


def broken(*_):
    """What a child cannot build."""
    raise RuntimeError


def test_a_process_that_cannot_start_is_named():
    from cxrbench.engines.slots_workers import Recipe, Workers

    with pytest.raises(CxrbenchError, match="pre-processing process died"):
        Workers(Recipe(broken, ()), 1)


def test_what_cannot_be_sent_to_a_process_is_refused(folders, images):
    def reader(path: str):
        raise AssertionError

    model = model_of(folders["llama"], read_image=reader, extra={"preprocess": "processes"})
    with pytest.raises(CxrbenchError, match="cannot be sent to a process"):
        model.prepare(requests(model, images, count=1)[0])


# The command


SHORT = ("--set", "max_new_tokens=40", "--replicates", 0)
"""The task names no cap, and 300 new tokens do not fit behind the image of the demo model."""


@pytest.mark.slow
def test_the_command_gives_the_texts_of_the_other_engine_and_goes_on_after_a_kill(cli, tmp_path):
    words = ("run", "--model", "demo", "--task", write_small(tmp_path, test=10), *SHORT)
    runs = {}
    for engine, size in (("transformers", 8), ("slots", 8)):
        runs[engine] = tmp_path / engine
        code, _, err = cli(*words, "--engine", engine, "--batch-size", size, "--out", runs[engine])
        assert code == 0, err
    assert answers(runs["slots"]) == answers(runs["transformers"])
    ours = runs["slots"]
    manifest = json.loads((ours / "manifest.json").read_text())
    assert manifest["identity"]["model"]["engine"] == "slots"
    assert manifest["circumstances"][0]["slots"] == "auto"
    file = ours / "predictions/0000.jsonl"
    whole, lines = answers(ours), file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]))
    assert cli(*words, "--engine", "slots", "--batch-size", 8, "--out", ours)[0] == 0
    assert answers(ours) == whole
    code, _, err = cli(*words, "--engine", "slots", "--batch-size", 8, "--out", runs["transformers"])
    assert code == 2
    assert "engine" in err, "a run never goes on with another engine"


def test_a_dry_run_on_slots_estimates_and_leaves_nothing(cli, tmp_path):
    words = (
        "run",
        "--model",
        "demo",
        "--task",
        write_small(tmp_path, test=4),
        *SHORT,
        "--engine",
        "slots",
        "--dry-run",
    )
    code, out, err = cli(*words)
    assert code == 0, err
    assert "answering: about" in out
    assert not (tmp_path / "runs").exists()
