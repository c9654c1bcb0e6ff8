"""A chat model on this machine: a folder with a causal language model, for judges. torch and transformers inside.

Prompts are batched by length, the longest first, padded on the left, and answered greedily or by sampling, in the
folder's own chat template.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError, Exit

BATCH_TOKENS = 16_384
"""Tokens of a batch, answers included, beyond which it is closed."""
PRECISION = {"cpu": "float32", "cuda": "bfloat16"}

Turns = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Said:
    """An answer: its text, why it ended (stop, length), and token counts."""

    text: str
    finish_reason: str
    prompt_tokens: int
    output_tokens: int


def fingerprint(folder: Path) -> str:
    """First 8 hex digits of SHA-256 over the files that decide what the model says: weights, settings, tokenizer."""
    digest = hashlib.sha256()
    files = [file for file in sorted(folder.iterdir()) if file.suffix in (".json", ".safetensors", ".model", ".jinja")]
    if not any(file.suffix == ".safetensors" for file in files):
        raise CxrbenchError(
            "the folder holds no model (no .safetensors)", where=str(folder), fix="--judge local:DIR of a checkpoint"
        )
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while part := stream.read(1 << 22):
                digest.update(part)
    return digest.hexdigest()[:8]


class CausalLM:
    """The model of a folder, loaded when it is first asked.

    Args:
        folder: config.json, *.safetensors and a tokenizer with a chat template.
        device: cpu, cuda or cuda:N.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.folder = folder
        self.device = device
        self._loaded: tuple[Any, Any] | None = None

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            try:
                tokenizer = AutoTokenizer.from_pretrained(self.folder, padding_side="left", local_files_only=True)
                dtype = getattr(torch, PRECISION[self.device.partition(":")[0]])
                model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=dtype, local_files_only=True)
            except (OSError, ValueError, KeyError) as error:
                raise CxrbenchError(
                    f"the judge model cannot be loaded: {type(error).__name__}",
                    where=str(self.folder),
                    fix="a folder with config.json, *.safetensors and a tokenizer that transformers knows",
                ) from error
            if tokenizer.chat_template is None:
                raise CxrbenchError(
                    "the judge model's tokenizer has no chat template",
                    where=str(self.folder),
                    fix="put chat_template.jinja, as its authors give it, into the folder",
                )
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token
            self._loaded = tokenizer, model.to(self.device).eval()
        return self._loaded

    def answer(
        self,
        conversations: Sequence[Turns],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float | None,
        seed: int,
        answered: Callable[[int, Said | None], None],
    ) -> None:
        """Answer every conversation; `answered` gets its number, and None where it is longer than the model's context.

        Raises:
            CxrbenchError: the model cannot be loaded, or one conversation alone does not fit into memory.
        """
        tokenizer, model = self._load()
        prompts = [self._ids(tokenizer, turns) for turns in conversations]
        longest = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        fitting = [number for number, ids in enumerate(prompts) if len(ids) + max_tokens <= longest]
        for number in sorted(set(range(len(prompts))) - set(fitting)):
            answered(number, None)
        for batch in _batches(sorted(fitting, key=lambda number: -len(prompts[number])), prompts, max_tokens):
            said = self._generate(tokenizer, model, [prompts[i] for i in batch], max_tokens, temperature, top_p, seed)
            for number, each in zip(batch, said, strict=True):
                answered(number, each)

    @staticmethod
    def _ids(tokenizer: Any, turns: Turns) -> list[int]:
        messages = [{"role": role, "content": content} for role, content in turns]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _generate(
        self,
        tokenizer: Any,
        model: Any,
        prompts: Sequence[list[int]],
        max_tokens: int,
        temperature: float,
        top_p: float | None,
        seed: int,
    ) -> list[Said]:
        import torch

        width = max(map(len, prompts))
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(each)) + each for each in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts], device=self.device)
        how: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature > 0:
            how |= {"do_sample": True, "temperature": temperature, "top_p": top_p or 1.0, "top_k": 0}
        devices = [self.device] if self.device.startswith("cuda") else []
        try:
            with torch.inference_mode(), torch.random.fork_rng(devices):
                torch.manual_seed(seed)
                out = model.generate(
                    input_ids=ids, attention_mask=mask, max_new_tokens=max_tokens, num_beams=1, pad_token_id=pad, **how
                )
        except torch.OutOfMemoryError as error:
            raise CxrbenchError(
                f"{len(prompts)} prompts of up to {width} tokens do not fit into memory",
                where=str(self.folder),
                fix="a smaller judge, or a server: --judge openai:MODEL --judge-url ...",
                code=Exit.INFRASTRUCTURE,
            ) from error
        return [
            _said(tokenizer, model, row[width:].tolist(), len(each)) for row, each in zip(out, prompts, strict=True)
        ]


def _said(tokenizer: Any, model: Any, ids: list[int], prompt_tokens: int) -> Said:
    """The answer up to the first end token; without one it was cut off."""
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    stop = next((number for number, each in enumerate(ids) if each in ends), None)
    kept = ids[:stop]
    text = tokenizer.decode(kept, skip_special_tokens=True).strip()
    return Said(text, "length" if stop is None else "stop", prompt_tokens, len(kept))


def _batches(ordered: Sequence[int], prompts: Sequence[list[int]], max_tokens: int) -> list[list[int]]:
    """Batches of prompts, longest first, of about `BATCH_TOKENS` padded tokens."""
    batches: list[list[int]] = []
    for number in ordered:
        room = batches and (len(batches[-1]) + 1) * (len(prompts[batches[-1][0]]) + max_tokens) <= BATCH_TOKENS
        if room:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches
