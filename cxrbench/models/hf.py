"""`hf:DIR`: any image-text-to-text checkpoint folder through stock transformers classes.

The checkpoint's own processor and chat template make the prompt; the instruction is cxrbench's (instruction.py) unless
`--set prompt=...` gives another. docs/models-hf.md is the user's page. torch is imported inside functions only.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.errors import CxrbenchError
from cxrbench.models import stock
from cxrbench.models.adapter import IMAGE, Adapter, Encoded, Face, LoadSettings, Network
from cxrbench.models.base import ModelCard, ModelOptions
from cxrbench.models.checkpoint import hash_or_error, hash_small_files, open_folder
from cxrbench.models.generation import MATCHED, Preset, documented
from cxrbench.models.instruction import Instruction, parts_of, rough_cost
from cxrbench.types import Generation, Request, RequestKind, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class HuggingFace:
    """Adapter for a checkpoint folder; see `cxrbench.models.adapter.Adapter`."""

    kinds: ClassVar[frozenset[RequestKind]] = frozenset({"generate", "score_options"})
    offers: ClassVar[frozenset[Face]] = frozenset({"network", "folder", "messages"})
    not_on: ClassVar[Mapping[str, str]] = {}
    depends: ClassVar[Mapping[str, str]] = {
        "slots": "Llama, Mistral, Phi and GPT-NeoX, alone or inside LLaVA, were proven to give equal texts; any other"
        " checkpoint is refused when it is loaded",
        "vllm": "vLLM itself decides which architectures it loads",
    }
    settings: ClassVar[Mapping[str, str]] = Instruction.settings

    def __init__(self, options: ModelOptions) -> None:
        stock.require()
        self.dummy = options.load_format == "dummy"
        self.checkpoint = open_folder(options.argument, need_weights=not self.dummy)
        self.config = stock.read_config(self.checkpoint)
        self.instruction = Instruction.of(options.extra, options.images)
        self._lock = threading.Lock()
        self._processing: stock.Processing | None = None

    @classmethod
    def adapter_for(cls, options: ModelOptions) -> type[Adapter]:
        """The adapter of a folder: a CLIP embeds and writes nothing, everything else is asked for text."""
        from cxrbench.models.hf_clip import ClipFolder, is_clip

        return ClipFolder if is_clip(options.argument) else cls

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
        return self.instruction.consumes

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
            "prompt": self.instruction.text,
            "images": self.instruction.images,
            "image_rules": RULES,
            "image_backend": "pil",
        }

    def circumstances(self) -> dict[str, Any]:
        """Where the checkpoint lies and which of the two bit-equal pixel paths is taken."""
        fast = self._processing is not None and self._processing.transform is not None
        return {"checkpoint": str(self.checkpoint.folder.resolve()), "pixels": "fast" if fast else "stock"}

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """One user turn: the images, then the instruction with what the task offers."""
        return self.instruction.request(sample, kind, generation, seed)

    def cost(self, request: Request) -> int:
        """Rough prompt length in tokens."""
        return rough_cost(request)

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
        turns = [{"role": message.role, "content": parts_of(message.text)} for message in request.messages]
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
        """Prompt and grey images as unpadded tensors.

        Raises:
            ValueError: the stock processor refuses them, or the text of the sample holds what would pass for an image.
        """
        marks = stock.image_marks(self.processing)
        if any(mark in message.text.replace(IMAGE, "") for message in request.messages for mark in marks):
            raise ValueError("the text of the sample holds an image token")
        return stock.encode(self.processing, self.render(request), images)

    def encode_option(self, request: Request, option: str) -> tuple[int, ...]:
        """Token ids of `option` after the prompt.

        A space goes before the option where the prompt ends in a word ("ASSISTANT:"), as models write it there. Prompt
        and option are tokenized together, so that the option gets the tokens the model would write; where the
        tokenizer merges across the border, the option is tokenized alone.
        """
        tokenizer, prompt = self.processing.tokenizer, self.render(request)
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        apart = prompt[-1:].isspace() or option[:1].isspace() or not before
        if not apart and before[-1] not in tokenizer.all_special_ids:
            option = f" {option}"
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
