"""A judge on this machine: `local:DIR`, a folder with a causal language model. Touches features by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError
from cxrbench.features.causal_lm import PRECISION, CausalLM, Said, fingerprint
from cxrbench.features.device import resolved
from cxrbench.http_answer import TOO_LONG
from cxrbench.judges.ask import Answered, Prompt, Reply
from cxrbench.types import EMPTY, OK


class LocalJudge:
    """See `cxrbench.judges.ask.Asker`. Its identity holds a hash of the weights: other weights are another judge."""

    keeps = True

    def __init__(self, folder: Path, device: str) -> None:
        if not folder.is_dir():
            raise CxrbenchError("there is no such folder", where=f"--judge local:{folder}")
        self.folder = folder
        self.device = device

    @property
    def name(self) -> str:
        return f"local:{self.folder.name}"

    @cached_property
    def _device(self) -> str:
        return self.device if self.device == "cpu" else resolved(self.device)

    @cached_property
    def _identity(self) -> Mapping[str, Any]:
        kind = self._device.partition(":")[0]
        revision = fingerprint(self.folder)
        return {"endpoint": f"local {kind} {PRECISION[kind]}", "model": self.folder.name, "revision": revision}

    def identity(self) -> Mapping[str, Any]:
        return self._identity

    def stopped(self) -> str:
        return ""

    @cached_property
    def _model(self) -> CausalLM:
        return CausalLM(self.folder, self._device)

    def ask(self, prompts: Sequence[Prompt], answered: Answered) -> None:
        numbers = sorted(range(len(prompts)), key=lambda number: repr(prompts[number].settings))
        for _, group in groupby(numbers, key=lambda number: repr(prompts[number].settings)):
            alike = list(group)
            settings = prompts[alike[0]].settings

            def reply(place: int, said: Said | None, alike: Sequence[int] = alike) -> None:
                answered(alike[place], _reply(said))

            self._model.answer(
                [prompts[number].messages for number in alike],
                max_tokens=settings["max_tokens"],
                temperature=settings["temperature"],
                top_p=settings.get("top_p"),
                seed=settings["seed"],
                answered=reply,
            )


def _reply(said: Said | None) -> Reply:
    if said is None:
        return Reply(TOO_LONG, detail=f"{TOO_LONG}: the prompt and its answer are longer than the model's context")
    outcome = OK if said.text else EMPTY
    return Reply(outcome, said.text, said.finish_reason, said.prompt_tokens, said.output_tokens)
