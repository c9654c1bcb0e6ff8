"""Small checkpoints in the layouts their authors publish, with tokenizers of the same schemes, for tests.

    from tests import released
    folders = released.slava(tmp_path)            # {"path": ...}
    folders = released.llava_rad(tmp_path)        # {"path": ..., "base": ...}

The weights are those of the recorded originals (tests/models/originals.py); the tokenizers are trained on a few
sentences: byte-level BPE without BOS as Phi-2's, SentencePiece-like BPE with byte fallback and BOS as LLaMA's.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tests.models import originals
from tests.tiny_llava import TEXTS

MORE = (
    "A chat between a curious user and an artificial intelligence assistant. USER: ASSISTANT: [INST] Human: Hi!",
    "Provide a description of the findings in the radiology image given the following indication: cough.",
)


@cache
def _phi() -> str:
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer()
    made.train_from_iterator([*TEXTS, *MORE], vocab_size=500, special_tokens=["<|endoftext|>"], show_progress=False)
    return str(made._tokenizer.to_str())


def phi_tokenizer(folder: Path) -> Path:
    """Write tokenizer.json and tokenizer_config.json of Phi-2's kind."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(_phi(), encoding="utf-8")
    end = "<|endoftext|>"
    body = {"tokenizer_class": "CodeGenTokenizer", "bos_token": end, "eos_token": end, "unk_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(body), encoding="utf-8")
    return folder


@cache
def _llama() -> Any:
    """LLaMA's table of 32,000, most of it fillers."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaTokenizer

    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    trained.train_from_iterator([*TEXTS, *MORE], trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = model["vocab"] | {f"<filler{number}>": number for number in range(len(model["vocab"]), 32000)}
    merges = [tuple(pair) for pair in model["merges"]]
    return LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)


def llama_tokenizer(folder: Path, added: tuple[str, ...] = ()) -> Path:
    """Write the tokenizer files of LLaMA's kind; `added` are special tokens from id 32000 on."""
    _llama().save_pretrained(folder)
    file = folder / "tokenizer.json"
    body = json.loads(file.read_text(encoding="utf-8"))
    plain = {"special": True, "normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
    body["added_tokens"] += [{"id": 32000 + number, "content": word, **plain} for number, word in enumerate(added)]
    file.write_text(json.dumps(body), encoding="utf-8")
    return folder


def slava(folder: Path) -> dict[str, Path]:
    """SLaVA-CXR: one folder."""
    root = originals.load("slava").materialise(folder)
    return {"path": phi_tokenizer(root / "model")}


def llava_med(folder: Path) -> dict[str, Path]:
    """LLaVA-Med v1.5, and OpenAI's CLIP."""
    root = originals.load("llava-med").materialise(folder)
    return {"path": llama_tokenizer(root / "model"), "clip": root / "tower"}


def llava_med_v1(folder: Path) -> dict[str, Path]:
    """LLaVA-Med v1: deltas, LLaMA, CLIP."""
    root = originals.load("llava-med-v1").materialise(folder)
    added = ("[PAD]", "<im_patch>", "<im_start>", "<im_end>")
    return {"path": llama_tokenizer(root / "delta", added), "base": root / "base", "clip": root / "tower"}


def llava_rad(folder: Path) -> dict[str, Path]:
    """LLaVA-Rad, and Vicuna."""
    root = originals.load("llava-rad").materialise(folder)
    return {"path": root / "model", "base": llama_tokenizer(root / "base")}


MAKERS = {"slava": slava, "llava-med": llava_med, "llava-med-v1": llava_med_v1, "llava-rad": llava_rad}
"""By adapter."""


def model(name: str, places: dict[str, Path], **options: Any) -> Any:
    """The adapter over these folders; for llava-med a tower is chosen where the test does not."""
    from cxrbench import registry
    from cxrbench.models.base import ModelOptions

    kind = registry.load("models", name)
    extra = {**kind.trial(places), **options.pop("extra", {})}
    return kind(ModelOptions(places=places, extra=extra, **options))


def logits(module: Any, golden: originals.Golden, case: str, image_token: int, count: int) -> Any:
    """What a network answers on a recorded input: (positions, vocabulary) as numpy."""
    import torch

    ids: list[int] = []
    for token in golden.input(case, "input_ids").reshape(-1).tolist():
        ids += [image_token] * count if token == -200 else [token]
    made = torch.tensor([ids])
    pixels = torch.from_numpy(golden.input(case, "pixel_values"))
    with torch.inference_mode():
        return module(input_ids=made, pixel_values=pixels, attention_mask=torch.ones_like(made)).logits[0].numpy()
