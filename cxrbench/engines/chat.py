"""A language model of a folder on an engine, answering conversations: what stands behind a local judge.

    chat = Chat(Path("GREEN"), "slots", "auto")
    chat.answer([(("user", "..."),)], Generation(max_new_tokens=400), 0, lambda number, prediction: ...)

Answers are those of the engine for a model: greedy ones do not depend on what else is asked in fp32, and draws belong
to the conversation, so that an interrupted scoring goes on as if it had not been interrupted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cxrbench import registry
from cxrbench.engines.base import Engine, join
from cxrbench.errors import CxrbenchError, suggest
from cxrbench.models.base import ModelOptions
from cxrbench.models.chat import ChatFolder, conversation
from cxrbench.types import Generation, Message, Prediction, Request

ENGINES = ("transformers", "slots", "vllm")
OWN: Mapping[str, Mapping[str, str]] = {"slots": {"preprocess": "threads"}}
"""Settings of an engine for requests that have no image: there is nothing to read in processes."""

Turns = Sequence[tuple[str, str]]
"""(role, content) of each turn."""


class Chat:
    """Loaded when it is first asked.

    Args:
        folder: config.json, *.safetensors and a tokenizer with a chat template.
        engine: one of `ENGINES`.
        device: auto, cpu, cuda or cuda:N; the precision is the device's own (docs/engines.md).

    Raises:
        CxrbenchError: the folder is not that of a model, or the engine is none of these or cannot hold it.
    """

    def __init__(self, folder: Path, engine: str, device: str) -> None:
        if engine not in ENGINES:
            raise CxrbenchError(
                f"there is no engine {engine!r} for a judge{suggest(engine, ENGINES)}",
                where="--judge-set engine=",
                fix=f"one of: {', '.join(ENGINES)}; a judge behind a server is --judge openai:MODEL",
            )
        options = ModelOptions(argument=str(folder), device=device, extra=OWN.get(engine, {}))
        self._joined = join(ChatFolder, cast(type[Engine], registry.load("engines", engine)), options)

    def identity(self) -> Mapping[str, Any]:
        """Hashes of weights and small files, engine, precision: all that could change an answer."""
        return {**self._joined.adapter.identity(), **self._joined.engine.identity()}

    def answer(
        self,
        conversations: Sequence[Turns],
        generation: Generation,
        seed: int,
        answered: Callable[[int, Prediction], None],
    ) -> None:
        """Answer every conversation, the longest first; `answered` gets its number, batch by batch.

        A conversation that cannot be answered (longer than the model's context) is a prediction with that outcome.

        Raises:
            CxrbenchError: the model cannot be loaded, or its template takes no such conversation.
        """
        requests = [
            conversation(str(number), [_message(*turn) for turn in turns], generation, _seed(seed, turns))
            for number, turns in enumerate(conversations)
        ]
        requests.sort(key=lambda request: -self._joined.cost(request))
        size = self._joined.batch_size
        for batch, start in enumerate(range(0, len(requests), size)):
            for prediction in self._batch(batch, requests[start : start + size]):
                answered(int(prediction.sample_id), prediction)

    def _batch(self, batch: int, requests: Sequence[Request]) -> list[Prediction]:
        prepared = [self._joined.prepare(request) for request in requests]
        found = [
            Prediction(each.request.sample_id, each.failure[0], detail=each.failure[1])
            for each in prepared
            if each.failure is not None
        ]
        whole = [each for each in prepared if each.failure is None]
        return [*found, *(self._joined.generate(batch, whole).predictions if whole else ())]


def _seed(seed: int, turns: Turns) -> int:
    """A seed of its own for each conversation: with one for all, equal draws would decide alike about all of them."""
    text = json.dumps([seed, *turns], ensure_ascii=True).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")


def _message(role: str, content: str) -> Message:
    if role not in ("system", "user", "assistant"):
        raise CxrbenchError(f"a conversation has no role {role!r}", fix="system, user or assistant")
    return Message(cast(Any, role), content)
