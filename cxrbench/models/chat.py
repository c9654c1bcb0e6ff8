"""A folder with a causal language model that answers conversations and sees no image: what a local judge is.

Stock transformers classes, the folder's own tokenizer and chat template, word for word what it is asked. It stands in
no list of models: engines/chat.py joins it to an engine. torch and transformers are imported inside functions.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.errors import CxrbenchError
from cxrbench.models import stock
from cxrbench.models.adapter import Encoded, Face, LoadSettings, Network
from cxrbench.models.base import ModelCard, ModelOptions
from cxrbench.models.checkpoint import hash_or_error, hash_small_files, open_folder
from cxrbench.models.generation import MATCHED, Preset
from cxrbench.types import Generation, Message, Request, RequestKind, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONVERSATION = "conversation"
"""What a request of it consumes."""


class ChatFolder:
    """Adapter for a causal language model; see `cxrbench.models.adapter.Adapter`."""

    kinds: ClassVar[frozenset[RequestKind]] = frozenset({"generate"})
    offers: ClassVar[frozenset[Face]] = frozenset({"network", "folder"})
    settings: ClassVar[Mapping[str, str]] = {}

    def __init__(self, options: ModelOptions) -> None:
        stock.require()
        self.checkpoint = open_folder(options.argument)
        self._lock = threading.Lock()
        self._tokenizer: Any = None

    @property
    def folder(self) -> Path:
        """Where the checkpoint lies."""
        return self.checkpoint.folder

    @property
    def card(self) -> ModelCard:
        """What can be told from the folder alone."""
        kind = str(self.checkpoint.config.get("model_type"))
        return ModelCard(self.folder.resolve().name, f"{kind} language model through stock transformers classes")

    @property
    def consumes(self) -> frozenset[str]:
        """The question of a sample."""
        return frozenset({"question"})

    @property
    def presets(self) -> Mapping[str, Preset]:
        """`matched` only: who asks says how the answer is searched."""
        return {MATCHED.name: MATCHED}

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        with stock._reading(self.folder, "configuration"):
            return AutoConfig.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)

    @property
    def context(self) -> int | None:
        """Positions of the decoder."""
        return stock.context_length(self._config)

    def identity(self) -> dict[str, Any]:
        """Hashes of the weights and of the small files: configuration, tokenizer, chat template."""
        return {
            "name": self.folder.resolve().name,
            "weights": hash_or_error(self.checkpoint),
            "files": hash_small_files(self.folder),
        }

    def circumstances(self) -> dict[str, Any]:
        """Where the checkpoint lies."""
        return {"checkpoint": str(self.folder.resolve())}

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """The sample's question as a conversation of one turn."""
        turns = (Message("user", sample.question or ""),)
        return conversation(sample.sample_id, turns, generation, seed)

    def cost(self, request: Request) -> int:
        """Words of the conversation."""
        return sum(len(message.text.split()) for message in request.messages)

    @property
    def tokenizer(self) -> Any:
        """The folder's tokenizer, read once.

        Raises:
            CxrbenchError: it cannot be read, or has no chat template.
        """
        from transformers import AutoTokenizer

        with self._lock:
            if self._tokenizer is None:
                with stock._reading(self.folder, "tokenizer"):
                    made = AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
                if made.chat_template is None:
                    raise CxrbenchError(
                        "the language model's tokenizer has no chat template, so its prompt format is not known",
                        where=str(self.folder),
                        fix="put chat_template.jinja, as its authors give it, into the folder",
                    )
                made("x")  # sets truncation and padding of the fast tokenizer once, before threads share it
                self._tokenizer = made
            return self._tokenizer

    def render(self, request: Request) -> str:
        """The conversation in the folder's chat template, up to where the answer begins."""
        turns = [{"role": message.role, "content": message.text} for message in request.messages]
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except CxrbenchError:
            raise
        except Exception as error:  # a template is a program of the checkpoint and may raise anything
            roles = ", ".join(message.role for message in request.messages)
            raise CxrbenchError(
                f"the chat template takes no conversation of the turns {roles} ({type(error).__name__})",
                where=str(self.folder),
                fix="--rubric FILE with turns this model knows (many know no system turn)",
            ) from error

    def encode(self, request: Request, images: Sequence[NDArray[np.uint8]]) -> Encoded:
        """The rendered conversation as tokens; there is nothing to be added, a template writes BOS itself."""
        import torch

        ids = self.tokenizer(self.render(request), add_special_tokens=False)["input_ids"]
        row = torch.tensor([ids])
        return Encoded(
            tensors={"input_ids": row, "attention_mask": torch.ones_like(row)},
            sequence=frozenset({"input_ids", "attention_mask"}),
            prompt_tokens=len(ids),
            image_tokens=0,
        )

    def encode_option(self, request: Request, option: str) -> tuple[int, ...]:
        """Token ids of `option` by itself."""
        return tuple(self.tokenizer(option, add_special_tokens=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of new tokens without special tokens and surrounding space."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def load(self, settings: LoadSettings) -> Network:
        """Bring the network up, in evaluation mode, with nothing of generation_config.json but its token rules.

        Raises:
            CxrbenchError: weights that are missing, left over or of another shape, or no token that ends a text.
        """
        import torch
        from transformers import AutoModelForCausalLM

        with stock._reading(self.folder, "weights"):
            module, info = AutoModelForCausalLM.from_pretrained(
                self.folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that all of them are listed below instead of the first
                dtype=getattr(torch, stock.DTYPES[settings.dtype]),
                attn_implementation=settings.attention,
            )
            module.to(settings.device)
        stock._refuse_odd_keys(info, self.folder)
        return stock.described(module, self.checkpoint, settings, self.tokenizer)


def conversation(name: str, turns: Sequence[Message], generation: Generation, seed: int) -> Request:
    """A request that is nothing but a conversation."""
    return Request(name, "generate", messages=tuple(turns), inputs=(CONVERSATION,), generation=generation, seed=seed)
