"""Engine `vllm` against a FAKE of vLLM's interface: it proves what we hand over and how results are read, no more."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from cxrbench.engines.base import join
from cxrbench.engines.vllm import QUIET, VllmEngine, sampling
from cxrbench.errors import CxrbenchError
from cxrbench.models.base import ModelCard, ModelOptions
from cxrbench.models.generation import MATCHED
from cxrbench.types import Generation, Image, Message, Request


class Folder:
    """An adapter that offers its folder."""

    kinds = frozenset({"generate"})
    offers = frozenset({"folder"})
    settings = {}
    card = ModelCard("folder", "")
    consumes = frozenset({"image"})
    presets = {"matched": MATCHED}
    context = None
    checkpoint = SimpleNamespace(folder="/models/x")

    def __init__(self, options):
        self.options = options

    def identity(self):
        return {"name": "folder"}

    def circumstances(self):
        return {}

    def render(self, request):
        return f"USER: {request.messages[0].text} ASSISTANT:"


class FakeLLM:
    """What of vLLM's offline interface is used; `ends` says how each text ends, `leads` whether BOS is added."""

    made = []
    ends = ()
    leads = False

    def __init__(self, **settings):
        self.settings = settings
        self.asked = []
        FakeLLM.made.append(self)

    def get_tokenizer(self):
        ids = {"x": [1, 7] if self.leads else [7]}
        return SimpleNamespace(bos_token="USER", bos_token_id=1, encode=ids.__getitem__)

    def generate(self, prompts, params, *, use_tqdm):
        if any(setting.max_tokens == 999 for setting in params):
            raise ValueError("The decoder prompt (length 700) is longer than the maximum model length of 512.")
        if any(setting.max_tokens == 998 for setting in params):
            raise ValueError("no such setting")
        self.asked += zip(prompts, params, strict=True)
        ends = self.ends or ["stop"] * len(prompts)
        return [
            SimpleNamespace(
                prompt_token_ids=[1, 2, 3],
                outputs=[SimpleNamespace(text=f" text {number} ", token_ids=[4, 5], finish_reason=end)],
            )
            for number, end in enumerate(ends)
        ]


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(FakeLLM, "made", [])
    monkeypatch.setattr(FakeLLM, "ends", ())
    for name in QUIET:
        monkeypatch.setenv(name, "to be set")
    module = SimpleNamespace(LLM=FakeLLM, SamplingParams=SimpleNamespace, __version__="0.0.fake")
    monkeypatch.setitem(sys.modules, "vllm", module)
    return FakeLLM


def ready(**changes):
    options = ModelOptions(read_image=lambda _: np.zeros((4, 3), np.uint8), **changes)
    return join(Folder, VllmEngine, options)


def request(number=0, images=1, **generation):
    return Request(
        f"s{number}", "generate", (Message("user", "<image>Write."),),
        tuple(Image(f"i{n}", "x.png") for n in range(images)), inputs=("image:PA",),
        generation=Generation(**generation), seed=2**40 + 1,
    )  # fmt: skip


def test_prompt_pictures_and_settings_are_handed_over(fake, monkeypatch):
    model = ready(dtype="bf16")
    assert model.circumstances() == {"vllm": "0.0.fake"}
    found = model.generate(2, [model.prepare(request(n, max_new_tokens=7)) for n in range(2)])
    (llm,) = fake.made
    assert llm.settings == {
        "model": "/models/x",
        "dtype": "bfloat16",
        "seed": 0,
        "load_format": "auto",
        "trust_remote_code": False,
        "limit_mm_per_prompt": {"image": 8},
    }
    prompt, params = llm.asked[0]
    assert prompt["prompt"] == "USER: <image>Write. ASSISTANT:"
    (picture,) = prompt["multi_modal_data"]["image"]
    assert (picture.size, picture.mode) == ((3, 4), "RGB")
    assert (params.max_tokens, params.temperature, params.top_k, params.seed, params.n) == (7, 0.0, -1, 1, 1)
    assert [(row.sample_id, row.text, row.outcome) for row in found.predictions] == [
        ("s0", "text 0", "ok"),
        ("s1", "text 1", "ok"),
    ]
    assert (found.predictions[0].prompt_tokens, found.predictions[0].output_tokens) == (3, 2)
    import os

    assert {name: os.environ[name] for name in QUIET} == dict(QUIET)


def test_a_prompt_begins_with_bos_once(fake, monkeypatch):
    """vLLM tokenizes a text as its tokenizer does, which may put BOS before what the template wrote."""
    monkeypatch.setattr(fake, "leads", True)
    model = ready()
    model.generate(0, [model.prepare(request())])
    prompt, _ = fake.made[0].asked[0]
    assert prompt["prompt"] == ": <image>Write. ASSISTANT:"


def test_a_prompt_that_is_too_long_fails_alone(fake):
    model = ready()
    asked = [model.prepare(request(number, max_new_tokens=tokens)) for number, tokens in enumerate((7, 999, 998, 7))]
    found = model.generate(0, asked).predictions
    assert [row.outcome for row in found] == ["ok", "prompt_too_long", "engine_error", "ok"]
    assert [row.text for row in found] == ["text 0", None, None, "text 0"]


def test_ends_of_a_text(fake, monkeypatch):
    monkeypatch.setattr(fake, "ends", ("stop", "length", "abort"))
    model = ready()
    rows = model.generate(0, [model.prepare(request(n)) for n in range(3)]).predictions
    assert [(row.outcome, row.finish_reason) for row in rows] == [
        ("ok", "stop"), ("ok", "length"), ("engine_error", "error"),
    ]  # fmt: skip
    assert rows[2].text is None


def test_too_many_images_are_that_samples_failure(fake):
    assert ready().prepare(request(images=9)).failure[0] == "engine_error"


def test_what_it_does_not_have():
    for settings in ({"num_beams": 2}, {"no_repeat_ngram_size": 3}):
        with pytest.raises(CxrbenchError, match="no beams"):
            sampling(Generation(**settings), 0)
    with pytest.raises(CxrbenchError, match="is no precision"):
        ready(dtype="int8")


def test_without_the_package(monkeypatch):
    for name in QUIET:
        monkeypatch.setenv(name, "to be set")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(CxrbenchError, match="needs the package vllm"):
        ready().circumstances()
