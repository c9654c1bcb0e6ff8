"""`hf:DIR`: any image-text-to-text checkpoint folder through stock transformers classes.

The checkpoint's own processor and chat template make the prompt; the instruction is cxrbench's (PROMPTS) unless
`--set prompt=...` gives another. docs/models-hf.md is the user's page. torch is imported inside functions only.
"""

from __future__ import annotations

import string
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.models import stock
from cxrbench.models.adapter import IMAGE, Encoded, Face, LoadSettings, Network
from cxrbench.models.base import ModelCard, ModelOptions
from cxrbench.models.checkpoint import hash_or_error, hash_small_files, open_folder
from cxrbench.models.generation import MATCHED, Preset, documented
from cxrbench.types import SECTIONS, Generation, Image, Message, Request, RequestKind, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROMPTS: Mapping[str, str] = {
    "findings": "Write the findings section of the radiology report for this chest X-ray.",
    "impression": "Write the impression section of the radiology report for this chest X-ray.",
    "report": "Write the radiology report for this chest X-ray, findings first, then the impression.",
}
"""cxrbench's own instructions, by what the task asks for (`target`)."""

OF_THE_IMAGE = " for this chest X-ray"
"""Left out of the instruction where the task offers no image."""

GIVEN = ("indication", "history", "technique", "comparison", "findings")
"""Sections that are named after the instruction when the task offers them, in this order."""

CHARS_PER_TOKEN, TOKENS_PER_IMAGE = 4, 576
"""Rough sizes for sorting requests by length, nothing else."""


class HuggingFace:
    """Adapter for a checkpoint folder; see `cxrbench.models.adapter.Adapter`."""

    kinds: ClassVar[frozenset[RequestKind]] = frozenset({"generate", "score_options"})
    offers: ClassVar[frozenset[Face]] = frozenset({"network", "folder", "messages"})
    settings: ClassVar[Mapping[str, str]] = {
        "prompt": "the instruction; {indication} and other section names are filled in",
        "target": "which built-in instruction: findings, impression or report",
        "images": "key (one image, the default) or all",
    }

    def __init__(self, options: ModelOptions) -> None:
        stock.require()
        self.dummy = options.load_format == "dummy"
        self.checkpoint = open_folder(options.argument, need_weights=not self.dummy)
        self.config = stock.read_config(self.checkpoint)
        self.images = _choice(options.extra, "images", ("key", "all"))
        self.target = _choice(options.extra, "target", tuple(PROMPTS))
        self.prompt = options.extra.get("prompt")
        self._fields = _fields(self.prompt)
        self._lock = threading.Lock()
        self._processing: stock.Processing | None = None

    @property
    def name(self) -> str:
        """`hf:` and the folder's name."""
        return f"hf:{self.checkpoint.folder.resolve().name}"

    @property
    def card(self) -> ModelCard:
        """What can be told from the folder alone."""
        kind = str(self.checkpoint.config.get("model_type"))
        return ModelCard(
            name=self.name,
            about=f"{kind} checkpoint through stock transformers classes",
            source=str(self.checkpoint.folder),
            notes="random weights: for speed only, never scored" if self.dummy else "",
        )

    @property
    def consumes(self) -> frozenset[str]:
        """One or all images, the question, and the sections the prompt has room for."""
        given = self._fields if self.prompt is not None else frozenset(GIVEN)
        return frozenset({"question", "images" if self.images == "all" else "image"}) | given

    @cached_property
    def presets(self) -> Mapping[str, Preset]:
        """`matched`, and `documented`: the checkpoint's generation_config.json."""
        found = {MATCHED.name: MATCHED}
        if self.checkpoint.generation:
            found["documented"] = documented(self.checkpoint.generation, f"generation_config.json of {self.name}")
        return found

    @property
    def context(self) -> int | None:
        """Positions of the decoder."""
        return stock.context_length(self.config)

    @cached_property
    def _weights(self) -> str:
        return "dummy" if self.dummy else hash_or_error(self.checkpoint)

    def identity(self) -> dict[str, Any]:
        """Hashes of weights and configuration, the instruction, the image policy and pixel rules."""
        from cxrbench.data.images import RULES

        return {
            "name": self.name,
            "revision": "",
            "weights": self._weights,
            "files": hash_small_files(self.checkpoint.folder),
            "load_format": "dummy" if self.dummy else "auto",
            "prompt": self.prompt if self.prompt is not None else PROMPTS[self.target],
            "images": self.images,
            "image_rules": RULES,
            "image_backend": "pil",
        }

    def circumstances(self) -> dict[str, Any]:
        """Where the checkpoint lies and which of the two bit-equal pixel paths is taken."""
        fast = self._processing is not None and self._processing.transform is not None
        return {"checkpoint": str(self.checkpoint.folder.resolve()), "pixels": "fast" if fast else "stock"}

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """One user turn: the images, then the instruction with what the task offers."""
        images = self._images_of(sample)
        text, used = self._instruction(sample)
        inputs = [f"image:{image.view or 'unknown'}" for image in images] + used
        return Request(
            sample_id=sample.sample_id,
            kind=kind,
            messages=(Message("user", IMAGE * len(images) + text),),
            images=images,
            options=sample.options,
            inputs=tuple(inputs),
            generation=generation,
            seed=seed,
        )

    def _images_of(self, sample: Sample) -> tuple[Image, ...]:
        if self.images == "all" or not sample.images:
            return sample.images
        wanted = sample.key_image or sample.images[0].image_id
        return tuple(image for image in sample.images if image.image_id == wanted)

    def _instruction(self, sample: Sample) -> tuple[str, list[str]]:
        """The text after the images, and names of what was used."""
        sections = {name: _plain(text) for name, text in sample.sections.items() if text.strip()}
        if self.prompt is not None:
            text = self.prompt.format(**{name: sections.get(name, "not given") for name in self._fields})
            used = [f"section:{name}" for name in SECTIONS if name in self._fields and name in sections]
        else:
            lead = PROMPTS[self.target] if sample.question is None else ""
            lead = lead if sample.images else lead.replace(OF_THE_IMAGE, "")
            given = [name for name in GIVEN if name in sections]
            lines = [f"{name.capitalize()}: {sections[name]}" for name in given]
            text, used = "\n".join([lead, *lines] if lead else lines), [f"section:{name}" for name in given]
        if sample.question is not None:
            text, used = "\n".join(part for part in (text, _plain(sample.question)) if part), [*used, "question"]
        return text, used

    def cost(self, request: Request) -> int:
        """Rough prompt length in tokens."""
        letters = sum(len(message.text) for message in request.messages)
        return letters // CHARS_PER_TOKEN + TOKENS_PER_IMAGE * len(request.images)

    @property
    def processing(self) -> stock.Processing:
        """Processor, tokenizer and chat template, read once."""
        with self._lock:
            if self._processing is None:
                self._processing = stock.read_processing(self.checkpoint, self.config)
            return self._processing

    def render(self, request: Request) -> str:
        """The exact prompt as text, one image token per image."""
        parts = self.processing
        turns = [{"role": message.role, "content": _content(message.text)} for message in request.messages]
        try:
            text = str(
                parts.processor.apply_chat_template(
                    turns, chat_template=parts.template, add_generation_prompt=True, tokenize=False
                )
            )
        except Exception as error:  # a template is a program of the checkpoint and may raise anything
            raise CxrbenchError(
                f"the chat template cannot be rendered: {type(error).__name__}",
                where=str(self.checkpoint.folder),
                fix="put the model's own chat_template.jinja into the folder (docs/models-hf.md of the repository)",
            ) from error
        token = getattr(parts.processor, "image_token", None)
        if token is not None and text.count(token) < len(request.images):
            raise CxrbenchError(
                f"the chat template places {text.count(token)} image tokens for {len(request.images)} images",
                where=str(self.checkpoint.folder),
                fix='the template must write the image token for every {"type": "image"} part',
            )
        return text

    def encode(self, request: Request, images: Sequence[NDArray[np.uint8]]) -> Encoded:
        """Prompt and grey images as unpadded tensors; ValueError where the stock processor refuses them."""
        return stock.encode(self.processing, self.render(request), images)

    def encode_option(self, request: Request, option: str) -> tuple[int, ...]:
        """Token ids of `option` after the prompt.

        Prompt and option are tokenized together, so that the option gets the tokens the model would write; where
        the tokenizer merges across the border, the option is tokenized alone.
        """
        tokenizer, prompt = self.processing.tokenizer, self.render(request)
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        whole = tokenizer(prompt + option, add_special_tokens=False)["input_ids"]
        if whole[: len(before)] == before and len(whole) > len(before):
            return tuple(whole[len(before) :])
        return tuple(tokenizer(option, add_special_tokens=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of new tokens without special tokens and surrounding space."""
        return str(self.processing.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def load(self, settings: LoadSettings) -> Network:
        """Bring the network up; see `stock.load_network`."""
        return stock.load_network(self.checkpoint, settings, self.processing.tokenizer)


def _choice(extra: Mapping[str, str], key: str, allowed: tuple[str, ...]) -> str:
    value = extra.get(key, allowed[0])
    if value not in allowed:
        raise CxrbenchError(
            f"{key} must be one of {', '.join(allowed)}, not {value!r}{suggest(value, allowed)}", where=f"--set {key}="
        )
    return value


def _fields(prompt: str | None) -> frozenset[str]:
    """The section names a prompt has room for; raises for an unknown name, a stray brace or an image marker."""
    where = "--set prompt="
    try:
        found = {name for _, name, _, _ in string.Formatter().parse(prompt or "") if name is not None}
    except ValueError as error:
        raise CxrbenchError(f"the prompt has a stray brace: {error}", where=where, fix="write {{ and }}") from error
    unknown = sorted(found - set(SECTIONS))
    if unknown:
        raise CxrbenchError(
            f"the prompt names {unknown[0]!r}, which is no section{suggest(unknown[0], SECTIONS)}",
            where=where,
            fix=f"one of: {', '.join(SECTIONS)}",
        )
    if IMAGE in (prompt or ""):
        raise CxrbenchError(
            f"the prompt holds {IMAGE}; images are always put in front", where=where, fix="leave it out"
        )
    return frozenset(found)


def _plain(text: str) -> str:
    """A section of the data, without anything that would pass for an image."""
    return text.replace(IMAGE, "image").strip()


def _content(text: str) -> list[dict[str, str]]:
    """Split a message at its image markers into the parts chat templates expect."""
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(text.split(IMAGE)):
        if number:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts
