"""`medgemma`: MedGemma (Sellergren et al. 2025), Gemma 3 with a medical SigLIP: 4B, 27B multimodal, and 1.5 4B.

Stock classes, the checkpoint's own processor and chat template; only the words are chosen here. Its authors published
no prompt for reports: the system text, the order of text and image and the length are those of the model card's
example, the instruction is cxrbench's. Real weights have never been run here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.models import network, stock
from cxrbench.models.adapter import IMAGE, Encoded, LoadSettings, Network
from cxrbench.models.base import ModelCard, ModelOptions
from cxrbench.models.checkpoint import named_folder
from cxrbench.models.folders import gone, origins
from cxrbench.models.generation import MATCHED, Preset
from cxrbench.models.hf import HuggingFace
from cxrbench.models.instruction import PROMPTS, Instruction
from cxrbench.models.recognise import config_of
from cxrbench.models.released import NEVER_RUN, PATH
from cxrbench.models.tokens import StandIn
from cxrbench.types import Generation, Message, Request, RequestKind, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SYSTEM = "You are an expert radiologist."
"""The model card's example; its user says "Describe this X-ray"."""

CARD_EXAMPLE = "google/medgemma-4b-it, README.md (model card, read in public copies), how to use"

SIZES: Mapping[str, Mapping[str, int]] = {
    "4b": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 1024,
    },
    "27b": {
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "query_pre_attn_scalar": 168,
        "sliding_window": 1024,
    },
}
"""Of the language models; 1.5 exists as 4B only and has the sizes of 4B."""


class MedGemma(HuggingFace):
    """See `cxrbench.models.adapter.Adapter`; `hf` with words, presets and a card."""

    not_on: ClassVar[Mapping[str, str]] = {
        "slots": "Gemma 3 lets the tokens of an image see each other and looks back over a window in most layers, and"
        " equal texts were not proven"
    }
    depends: ClassVar[Mapping[str, str]] = {}
    targets: ClassVar[tuple[str, ...]] = tuple(PROMPTS)
    settings: ClassVar[Mapping[str, str]] = {
        **Instruction.settings,
        "size": "4b (the default) or 27b: what random weights are made in the shape of, where there is no folder",
    }
    places: ClassVar[Mapping[str, str]] = {PATH: "the folder of google/medgemma-4b-it, -27b-it or -1.5-4b-it"}
    CARD: ClassVar[ModelCard] = ModelCard(
        name="medgemma",
        about="MedGemma, Gemma 3 with MedSigLIP at 896 px; 4B and 27B multimodal, 1.5 4B",
        source="https://huggingface.co/google/medgemma-4b-it, -27b-it, -1.5-4b-it",
        revision="the revision you have is named by the hash of its weights",
        licence="Health AI Developer Foundations terms (HAI-DEF)",
        citation="Sellergren et al. 2025, MedGemma, arXiv:2507.05201",
        trained_on=("MIMIC-CXR train among many medical collections, licensed and private",),
        targets=tuple(PROMPTS),
        inputs=("the key image, or all", "the question", "every section the task offers (cxrbench's own words)"),
        published=(
            "medgemma-mimic/MedGemma 4B instruction-tuned",
            "medgemma-mimic/MedGemma 27B multimodal instruction-tuned",
            "medgemma-mimic/MedGemma 1.5 4B",
        ),
        notes=f"no prompt for reports was published: the instruction is cxrbench's; {NEVER_RUN}",
    )

    def __init__(self, options: ModelOptions) -> None:
        folder = options.argument or str(options.places.get(PATH, ""))
        self.size = options.extra.get("size", "4b")
        if self.size not in SIZES:
            raise CxrbenchError(
                f"size must be {' or '.join(SIZES)}, not {self.size!r}{suggest(self.size, SIZES)}", where="--set size="
            )
        self.shape_only = not folder and options.load_format == "dummy"
        if self.shape_only:
            self._of_published_size(options)
            return
        if not folder:
            raise CxrbenchError(
                "medgemma needs its checkpoint, and no folder is known",
                where="--model medgemma",
                fix="cxrbench models add medgemma --path DIR (remembered), or --model medgemma:DIR",
            )
        if not named_folder(folder).is_dir():
            raise CxrbenchError(
                f"there is no folder {folder!r}",
                where="--model medgemma",
                fix=gone("medgemma", PATH, Path(folder)),
            )
        extra = {key: value for key, value in options.extra.items() if key in Instruction.settings}
        config_of(named_folder(folder), self.CARD.about, model_type="gemma3")
        super().__init__(replace(options, argument=folder, extra=extra))

    def _of_published_size(self, options: ModelOptions) -> None:
        import threading

        stock.require()
        self.dummy = True
        self.config = configuration(self.size)
        self.instruction = Instruction.of(
            {key: value for key, value in options.extra.items() if key in Instruction.settings}, options.images
        )
        self._lock = threading.Lock()
        self._processing = None

    @classmethod
    def trial(cls, places: Mapping[str, Path]) -> Mapping[str, str]:
        """Nothing has to be said to look at a folder."""
        return {}

    @property
    def name(self) -> str:
        """The registered name."""
        return "medgemma"

    @property
    def card(self) -> ModelCard:
        """The published model's; random weights are named."""
        if not self.dummy:
            return self.CARD
        return replace(self.CARD, notes=f"random weights: for speed only, never scored; {self.CARD.notes}")

    @classmethod
    def reference(cls, target: str) -> Preset:
        """`documented`: the model card's example, whatever the target."""
        return Preset(
            name="documented",
            version=1,
            source="authors-demo",
            citation=CARD_EXAMPLE,
            generation={**MATCHED.generation, "max_new_tokens": 200},
            dtype="bf16",
            origin={
                "temperature": f"{CARD_EXAMPLE}: do_sample=False",
                "max_new_tokens": f"{CARD_EXAMPLE}: max_new_tokens=200",
                "dtype": f"{CARD_EXAMPLE}: torch_dtype=torch.bfloat16",
                "system": f"{CARD_EXAMPLE}: {SYSTEM!r}; text before the image",
                "instruction": "cxrbench's: the example asks only to describe the X-ray",
            },
            quirks=("pan and scan is off, as in the published processor",),
        )

    @cached_property
    def presets(self) -> Mapping[str, Preset]:
        """`matched`, and `documented`."""
        own = self.reference(self.instruction.target)
        return {MATCHED.name: MATCHED, own.name: own}

    def check(self) -> tuple[None, int]:
        """Look at a folder: its configuration gives the number of parameters, its weight files are whole."""
        from transformers import Gemma3ForConditionalGeneration

        return None, network.count(network.build(Gemma3ForConditionalGeneration, self.config, "bf16"))

    def check_words(self) -> None:
        """Read processor, tokenizer and chat template; see `ReleasedModel.check_words`."""
        self.processing.tokenizer.decode([])

    def convert(self, out: Path, progress: Any = None) -> Any:
        """Refuse: the published form is the stock one.

        Raises:
            CxrbenchError: always.
        """
        raise CxrbenchError("medgemma is published in stock layout", where=str(out), fix="use its folder as it is")

    def identity(self) -> dict[str, Any]:
        """As `hf`; without a folder the shape."""
        if not self.shape_only:
            return {**super().identity(), "system": SYSTEM}
        from cxrbench.data.images import RULES

        return {
            "name": self.name,
            "revision": "",
            "weights": "dummy",
            "files": self.size,
            "load_format": "dummy",
            "prompt": self.instruction.text,
            "system": SYSTEM,
            "images": self.instruction.images,
            "image_rules": RULES,
            "image_backend": "pil",
            "tokenizer": "stand-in",
        }

    def circumstances(self) -> dict[str, Any]:
        """As `hf`; nothing of a folder where there is none."""
        if self.shape_only:
            return {"pixels": "fast"}
        return {**super().circumstances(), **origins({PATH: self.checkpoint.folder})}

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """The system text, then one user turn: the words before the images, as in the model card's example."""
        made = super().request(sample, kind, generation, seed)
        turn = made.messages[0].text.replace(IMAGE, "") + IMAGE * len(made.images)
        return replace(made, messages=(Message("system", SYSTEM), Message("user", turn)))

    # Random weights without a folder: the published template and image places by hand.

    def render(self, request: Request) -> str:
        """The chat template of the checkpoint; without one, Gemma's as it is published."""
        if not self.shape_only:
            return super().render(request)
        system, turn = (message.text for message in request.messages)
        return f"<bos><start_of_turn>user\n{system}\n\n{turn}<end_of_turn>\n<start_of_turn>model\n"

    @cached_property
    def _stand_in(self) -> StandIn:
        return StandIn.of(self.config)

    def encode(self, request: Request, images: Sequence[NDArray[np.uint8]]) -> Encoded:
        """As `hf`; without a folder, stand-in tokens of about the same number around real image places."""
        if not self.shape_only:
            return super().encode(request, images)
        import numpy as np
        import torch

        first, *others = (self._stand_in(piece)["input_ids"] for piece in self.render(request).split(IMAGE))
        count, token = self.config.mm_tokens_per_image, self.config.image_token_id
        ids = list(first)
        for piece in others:
            ids += [self.config.boi_token_id, *[token] * count, self.config.eoi_token_id, *piece]
        made = torch.tensor([ids])
        tensors = {
            "input_ids": made,
            "attention_mask": torch.ones_like(made),
            "token_type_ids": (made == token).long(),
        }
        if images:
            pixels = np.stack([_pixels()(image) for image in images])
            tensors["pixel_values"] = torch.from_numpy(pixels)
        return Encoded(tensors, frozenset(tensors) - {"pixel_values"}, len(ids), count * len(images))

    def encode_option(self, request: Request, option: str) -> tuple[int, ...]:
        """As `hf`; stand-in tokens without a folder."""
        if not self.shape_only:
            return super().encode_option(request, option)
        return tuple(self._stand_in(option)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """As `hf`; numbers in words' places without a folder."""
        return super().decode(tokens) if not self.shape_only else self._stand_in.decode(tokens)

    def load(self, settings: LoadSettings) -> Network:
        """As `hf`; random weights of the published size without a folder."""
        if not self.shape_only:
            return super().load(settings)
        from transformers import Gemma3ForConditionalGeneration

        module = network.build(Gemma3ForConditionalGeneration, self.config, settings.dtype, settings.attention)
        network.randomise(module, settings.device, settings.seed)
        text = self.config.text_config
        return network.ready(
            module,
            eos=(text.eos_token_id,),
            pad=text.pad_token_id,
            device=settings.device,
            find_encoder=lambda made: made.model.vision_tower,
        )


def _pixels() -> Any:
    """Gemma3ImageProcessor at 896 px: squeezed to a square, bilinear, halves as mean and deviation."""
    from cxrbench.data.pixels import transform_for

    return transform_for(
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 896, "width": 896}, "resample": 2}
    )


def configuration(size: str) -> Any:
    """The stock configuration at a published size."""
    from transformers import Gemma3Config, Gemma3TextConfig, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=896,
        patch_size=14,
        vision_use_head=False,
    )
    return Gemma3Config(text_config=Gemma3TextConfig(**SIZES[size]), vision_config=vision)
