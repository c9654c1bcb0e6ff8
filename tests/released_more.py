"""Small checkpoints of the models beyond the LLaVA family, in their authors' layouts, with tokenizers of their schemes.

    from tests import released_more
    folders = released_more.chexagent_2(tmp_path)      # {"path": ...}

Weights are those of the recorded originals where there are any; see tests/released.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.models import originals
from tests.released import llama_tokenizer, phi_tokenizer
from tests.tiny_llava import TEXTS

TEMPLATE = (
    "You are an expert radiology assistant tasked with interpreting a chest X-ray study. "
    "{% for message in messages %} USER:  {% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<image>{% else %}{{ item['text'] }}{% endif %}{% endfor %}  {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
"""A chat template that renders as MAIRA-2's is described to render."""


def add_tokens(folder: Path, tokens: Mapping[str, int]) -> None:
    """Put special tokens with their ids into a tokenizer.json, whose vocabulary is filled up with words no text holds.

    The tokenizers library numbers added tokens from the end of the vocabulary, whatever the file says.
    """
    file = folder / "tokenizer.json"
    body = json.loads(file.read_text(encoding="utf-8"))
    vocab = body["model"]["vocab"]
    used = set(vocab.values()) | {entry["id"] for entry in body["added_tokens"]} | set(tokens.values())
    vocab |= {f"\u0120filler{place}": place for place in range(max(tokens.values())) if place not in used}
    vocab |= tokens
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    body["added_tokens"] += [{"id": place, "content": text, **flags} for text, place in tokens.items()]
    file.write_text(json.dumps(body), encoding="utf-8")


def say(folder: Path, **settings: Any) -> None:
    """Add settings to a tokenizer_config.json."""
    file = folder / "tokenizer_config.json"
    body = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(body | settings), encoding="utf-8")


def neox_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of GPT-NeoX's kind, to which `image` is one token."""
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer()
    texts = [*TEXTS, *["<image>"] * 50]
    made.train_from_iterator(texts, vocab_size=500, special_tokens=["<|endoftext|>"], show_progress=False)
    (folder / "tokenizer.json").write_text(made._tokenizer.to_str(), encoding="utf-8")
    end = "<|endoftext|>"
    say(folder, tokenizer_class="GPTNeoXTokenizer", bos_token=end, eos_token=end, unk_token=end)
    return folder


def chexagent_2(folder: Path) -> dict[str, Path]:
    """CheXagent-2: Phi-2's tokenizer with its tags."""
    path = phi_tokenizer(originals.load("chexagent-2").materialise(folder) / "model")
    add_tokens(path, {"<|img|>": 50295, "<|/img|>": 50296, "<|imgpad|>": 50297})
    return {"path": path}


def chexagent(folder: Path) -> dict[str, Path]:
    """CheXagent (8B): LLaMA's tokenizer."""
    return {"path": llama_tokenizer(originals.load("chexagent").materialise(folder) / "model")}


def llm_cxr(folder: Path) -> dict[str, Path]:
    """LLM-CXR: one folder with both archives."""
    root = originals.load("llm-cxr").materialise(folder)
    path = neox_tokenizer(root / "llm")
    add_tokens(path, {"### End": 50277, "### Instruction:": 50278, "### Response:\n": 50279})
    return {"path": root}


def maira_2(folder: Path) -> dict[str, Path]:
    """MAIRA-2: LLaMA's tokenizer with its tokens for boxes, and a chat template."""
    root = originals.load("maira-2").materialise(folder)
    path = llama_tokenizer(root / "model")
    add_tokens(path, {"<image>": 32204})
    say(path, chat_template=TEMPLATE)
    return {"path": path}


MAKERS = {"chexagent-2": chexagent_2, "chexagent": chexagent, "llm-cxr": llm_cxr, "maira-2": maira_2}
"""By adapter."""


def model(name: str, places: Mapping[str, Path], **options: Any) -> Any:
    """The adapter over these folders."""
    from cxrbench import registry
    from cxrbench.models.base import ModelOptions

    return registry.load("models", name)(ModelOptions(places=dict(places), **options))


def sample(**changes: Any) -> Any:
    """A sample with a lateral and a frontal image, the frontal one being the key."""
    from cxrbench.types import Image, Sample

    images = (Image("a", "a.png", "LATERAL"), Image("b", "b.png", "PA"))
    given = {"sample_id": "s", "study_id": "s", "patient_id": None, "target": "", "images": images, "key_image": "b"}
    return Sample(**given | changes)


def ask(adapter: Any, seed: int = 0, kind: str = "generate", **changes: Any) -> Any:
    """The request for `sample(**changes)`."""
    from cxrbench.types import Generation

    return adapter.request(sample(**changes), kind, Generation(), seed)


def grey(seed: int = 0, shape: tuple[int, int] = (61, 47)) -> Any:
    """A picture of noise."""
    import numpy as np

    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def through_engine(kind: Any, samples: Any, words: int = 5, **options: Any) -> Any:
    """Joined to engine `transformers`, prepared without failure: (model, prepared)."""
    from cxrbench.engines.base import join
    from cxrbench.engines.transformers import TransformersEngine
    from cxrbench.models.base import ModelOptions
    from cxrbench.types import Generation

    settings = ModelOptions(dtype="fp32", device="cpu", read_image=lambda path: grey(len(path)), **options)
    made = join(kind, TransformersEngine, settings)
    requests = [made.request(each, "generate", Generation(max_new_tokens=words), 0) for each in samples]
    prepared = [made.prepare(request) for request in requests]
    assert [each.failure for each in prepared] == [None] * len(prepared)
    return made, prepared


def together_as_alone(monkeypatch: Any, kind: Any, samples: Any, **options: Any) -> list[str]:
    """The token ids of each answer in one batch, which must be those each sample gets alone."""
    monkeypatch.setattr(kind, "decode", lambda self, tokens: str(list(tokens)))
    made, prepared = through_engine(kind, samples, **options)
    together = [each.text for each in made.generate(0, prepared).predictions]
    assert together == [made.generate(0, [each]).predictions[0].text for each in prepared]
    return together


def pixels_are_recorded(transform: Any, name: str) -> None:
    """A transform gives the recorded tensor of the grey picture, bit for bit."""
    import hashlib

    import numpy as np

    golden = originals.load("pixels")
    made = np.ascontiguousarray(transform(originals.picture("wide-grey")), dtype="<f4")
    kept = golden.cases[f"{name}/wide-grey"]["outputs"]["pixel_values"]
    assert list(made.shape) == kept["shape"]
    assert golden.sampled_gap(f"{name}/wide-grey", "pixel_values", made) == 0
    assert hashlib.sha256(made.tobytes()).hexdigest() == kept["sha256"]


GEMMA_TEMPLATE = (
    "{{ bos_token }}{% set first = messages[0]['content'][0]['text'] + '\\n\\n' %}{% for message in messages[1:] %}"
    "<start_of_turn>{{ message['role'] }}\n{{ first if loop.first }}{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<start_of_image>{% else %}{{ item['text'] | trim }}{% endif %}{% endfor %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Renders as Gemma 3's chat template does for a system text and one turn."""

GEMMA_SPECIAL = (
    *("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
)


def medgemma(folder: Path) -> dict[str, Path]:
    """MedGemma: a tiny Gemma 3 with random weights, its processor and chat template, saved by stock code."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3Processor,
        GenerationConfig,
        PreTrainedTokenizerFast,
    )
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXTS, vocab_size=400, special_tokens=list(GEMMA_SPECIAL), show_progress=False)
    image = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=image,
        padding_side="left",
    )
    pixels = Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    Gemma3Processor(pixels, tokenizer, chat_template=GEMMA_TEMPLATE, image_seq_length=4).save_pretrained(folder)
    text = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3, "sliding_window": 64}
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 56, "patch_size": 14, "vision_use_head": False}
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        boi_token_index=5,
        eoi_token_index=6,
        image_token_index=7,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Gemma3ForConditionalGeneration(config)
    made.generation_config = GenerationConfig(eos_token_id=[1, 4], pad_token_id=0, bos_token_id=2)
    made.save_pretrained(folder)
    return {"path": folder}


def chexpert_plus(folder: Path) -> dict[str, Path]:
    """CheXpert Plus: a tiny Swinv2 with a BERT decoder, random weights, saved by stock code."""
    import torch
    from transformers import BertConfig, Swinv2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *["the", "heart", "is", "normal", "no", "effusion", "clear", "lungs"],
        ".",
        ",",
    ]
    vision = Swinv2Config(image_size=32, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, patch_size=4)
    vision.initializer_range = 0.3
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    more = {"initializer_range": 0.5, "is_decoder": True, "add_cross_attention": True}
    text = BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes, **more)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    config.decoder_start_token_id, config.bos_token_id, config.eos_token_id, config.pad_token_id = 2, 2, 3, 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        VisionEncoderDecoderModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    say(folder, tokenizer_class="BertTokenizer", do_lower_case=True)
    pixels = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels), encoding="utf-8")
    return {"path": folder}
