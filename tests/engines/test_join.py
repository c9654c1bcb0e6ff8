"""A pair that cannot work is refused with the reason, before the adapter reads anything."""

from __future__ import annotations

from typing import ClassVar

import pytest

from cxrbench.engines.base import join
from cxrbench.errors import CxrbenchError
from cxrbench.models.adapter import Adapter
from cxrbench.models.base import ModelCard, ModelOptions, Prepared
from cxrbench.models.generation import MATCHED
from cxrbench.plan import generation_settings
from cxrbench.types import REQUEST_KINDS, Generation, Sample


class Plain:
    """The smallest adapter: reads nothing, offers its messages."""

    kinds = frozenset({"generate", "embed_image"})
    offers = frozenset({"messages"})
    settings: ClassVar = {"prompt": "words"}
    card = ModelCard("plain", "")
    consumes = frozenset({"image"})
    presets: ClassVar = {"matched": MATCHED}
    context = None

    def __init__(self, options):
        self.options = options

    def identity(self):
        return {"name": "plain"}


class Server:
    """The smallest engine."""

    name = "server"
    needs = "messages"
    serves = frozenset({"generate"})
    refuses: ClassVar = {kind: "it only chats" for kind in REQUEST_KINDS if kind != "generate"}
    settings: ClassVar = {}
    batch_size = 1

    def __init__(self, adapter: Adapter, options, preset):
        self.adapter = adapter

    def identity(self):
        return {"engine": "server"}

    def prepare(self, request):
        return Prepared(request)


class Network(Server):
    name, needs = "network", "network"


class Embedder(Server):
    name, serves = "embedder", frozenset({"embed_text"})
    refuses: ClassVar = {"generate": "it writes no text", "embed_image": "it sees no images"}


def refusal(*pair, **options) -> str:
    with pytest.raises(CxrbenchError) as error:
        join(*pair, ModelOptions(**options))
    return str(error.value)


def test_an_engine_that_cannot_hold_the_adapter():
    assert "needs a model's network, and Plain offers messages" in refusal(Plain, Network)


def test_a_pair_without_a_common_kind():
    assert "cannot answer 'embed_image': it sees no images" in refusal(Plain, Embedder)


def test_a_kind_only_one_of_the_two_can_do():
    model = join(Plain, Server, ModelOptions())
    assert model.kinds == {"generate"}
    for kind, reason in (("embed_image", "it only chats"), ("embed_text", "the model does not do it")):
        with pytest.raises(CxrbenchError, match=reason):
            model.request(Sample("s", "s", None, ""), kind, Generation(), 0)


def test_settings_of_both_are_known_and_others_are_not():
    assert join(Plain, Server, ModelOptions(extra={"prompt": "x"})).adapter.options.extra == {"prompt": "x"}
    assert "did you mean 'prompt'" in refusal(Plain, Server, extra={"promt": "x"})


def test_identity_joins_model_preset_and_engine():
    model = join(Plain, Server, ModelOptions(generation={"max_new_tokens": 5}))
    assert model.identity() == {
        "name": "plain",
        "preset": {"name": "matched", "version": 1, "source": "ours"},
        "engine": "server",
    }
    assert generation_settings({"max_new_tokens": 9}, model.generation).max_new_tokens == 5
    assert model.generation["max_new_tokens"] == 5
