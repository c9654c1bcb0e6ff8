"""A judge on this machine: `local:DIR`, a folder with a causal language model on an engine. Touches ask and types.

The model itself lies above this room (engines/chat.py): whoever builds a judge hands over what opens it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from cxrbench.errors import CxrbenchError
from cxrbench.judges.ask import Answered, Prompt, Reply
from cxrbench.types import EMPTY, OK, Generation, Prediction


class Conversing(Protocol):
    """A language model on an engine; `engines.chat.Chat` is one."""

    def identity(self) -> Mapping[str, Any]:
        """All that could change an answer."""

    def answer(
        self,
        conversations: Sequence[Sequence[tuple[str, str]]],
        generation: Generation,
        seed: int,
        answered: Callable[[int, Prediction], None],
    ) -> None:
        """Answer each; `answered` gets its number."""


Opener = Callable[[Path, str, str], Conversing]
"""Opens a folder on an engine and a device; nothing is loaded yet."""


class LocalJudge:
    """See `cxrbench.judges.ask.Asker`. Its identity holds a hash of the weights: other weights are another judge."""

    keeps = True

    def __init__(self, folder: Path, engine: str, device: str, opener: Opener) -> None:
        if not folder.is_dir():
            raise CxrbenchError("there is no such folder", where=f"--judge local:{folder}")
        self.folder = folder
        self._model = opener(folder, engine, device)

    @property
    def name(self) -> str:
        return f"local:{self.folder.resolve().name}"

    @cached_property
    def _identity(self) -> Mapping[str, Any]:
        found = dict(self._model.identity())
        revision = f"{found.pop('weights')[:8]}.{found.pop('files')[:8]}"
        name = found.pop("name")
        first = [str(found.pop("engine")), str(found.pop("dtype"))]
        return {
            "endpoint": "local",
            "engine": ".".join([*first, *(str(found[key]) for key in sorted(found))]),
            "model": name,
            "revision": revision,
        }

    def identity(self) -> Mapping[str, Any]:
        return self._identity

    def stopped(self) -> str:
        return ""

    def ask(self, prompts: Sequence[Prompt], answered: Answered) -> None:
        def how(number: int) -> tuple[Generation, int]:
            given = prompts[number].settings
            sampled = given["temperature"] > 0
            generation = Generation(
                max_new_tokens=given["max_tokens"],
                temperature=given["temperature"],
                top_p=given.get("top_p", 1.0) if sampled else 1.0,
            )
            return generation, given["seed"]

        numbers = sorted(range(len(prompts)), key=lambda number: repr(how(number)))
        for (generation, seed), group in groupby(numbers, key=how):
            alike = list(group)

            def reply(place: int, said: Prediction, alike: Sequence[int] = alike) -> None:
                answered(alike[place], _reply(said))

            self._model.answer([prompts[number].messages for number in alike], generation, seed, reply)


def _reply(said: Prediction) -> Reply:
    told = f"{said.outcome}: {said.detail}" if said.detail else said.outcome
    return Reply(
        outcome=said.outcome,
        text=said.text if said.outcome in (OK, EMPTY) else None,
        finish_reason=said.finish_reason,
        prompt_tokens=said.prompt_tokens,
        output_tokens=said.output_tokens,
        seconds=said.times.get("latency", 0.0),
        detail=told,
    )
