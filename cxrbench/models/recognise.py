"""What a checkpoint folder seems to be, so that the wrong one is refused in one sentence. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError
from cxrbench.models.checkpoint import read_json
from cxrbench.models.converted import CARD_FILE

SIGNS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("SLaVA-CXR or another LLaVA-Phi (adapter slava)", {"model_type": "llava_phi"}),
    ("LLaVA-Med v1.5 (adapter llava-med)", {"model_type": "llava_mistral"}),
    ("LLaVA-Rad (adapter llava-rad)", {"mm_vision_tower": "biomedclip_cxr_518"}),
    ("LLaVA-Med v1 or another LLaVA v0 (adapter llava-med-v1)", {"model_type": "llava", "use_mm_proj": True}),
    ("a LLaVA in the layout of its authors", {"model_type": "llava_llama"}),
    ("a LLaVA in stock layout (hf:DIR)", {"architectures": ["LlavaForConditionalGeneration"]}),
    ("CheXagent-2 (adapter chexagent-2)", {"architectures": ["CheXagentForCausalLM"]}),
    ("a CheXagent of 8 billion parameters (adapter chexagent)", {"model_type": "chexagent"}),
    ("MAIRA-2 (adapter maira-2)", {"model_type": "maira2"}),
    ("a Gemma 3 such as MedGemma (adapter medgemma)", {"model_type": "gemma3"}),
    ("a GPT-NeoX, the language model of LLM-CXR (adapter llm-cxr)", {"model_type": "gpt_neox"}),
    ("a LLaMA-shaped language model without an image tower (a base such as Vicuna)", {"model_type": "llama"}),
    ("a Mistral language model without an image tower", {"model_type": "mistral"}),
    ("a Phi language model without an image tower", {"model_type": "phi"}),
    ("an OpenAI CLIP", {"model_type": "clip"}),
    (
        "an image encoder with a text decoder, as CheXpert Plus's (adapter chexpert-plus)",
        {"model_type": "vision-encoder-decoder"},
    ),
)
"""What it is, and the keys of config.json that say so; the first row whose keys are all there wins."""


def describe(folder: Path) -> str:
    """One phrase: what the folder seems to be."""
    for name in (CARD_FILE, "config.json"):
        if (folder / name).is_file():
            try:
                body = read_json(folder / name)
            except CxrbenchError:
                return f"its {name} cannot be read"
            return f"the converted form of {body.get('model')}" if name == CARD_FILE else _by_config(body)
    if (folder / "adapter_config.json").is_file():
        return "low-rank updates (LoRA) without the configuration of their model"
    return "no model folder: it has no config.json"


def _by_config(body: Mapping[str, Any]) -> str:
    for what, keys in SIGNS:
        if all(body.get(key) == value for key, value in keys.items()):
            return what
    kind = body.get("model_type")
    return f"a checkpoint of type {kind!r}" if kind else "a configuration that names no model type"


def another(folder: Path, wanted: str) -> CxrbenchError:
    """The sentence for a folder that is not what an adapter reads."""
    if not folder.is_dir():
        return CxrbenchError(
            f"there is no folder {str(folder)!r}",
            where="the checkpoint",
            fix="name a folder on this machine; fetch a checkpoint with `hf download REPO --local-dir DIR`",
        )
    return CxrbenchError(
        f"this is not {wanted}; it seems to be {describe(folder)}",
        where=str(folder),
        fix=f"name the folder of {wanted}; `cxrbench list models` names what can be read",
    )


def config_of(folder: Path, wanted: str, **signs: Any) -> tuple[Path, dict[str, Any]]:
    """config.json of a folder whose `signs` are all as they should be, and its body.

    Raises:
        CxrbenchError: the folder is another's, or has none.
    """
    file = folder / "config.json"
    body = read_json(file) if file.is_file() else {}
    if any(body.get(key) != value for key, value in signs.items()):
        raise another(folder, wanted)
    return file, body
