"""`llava-med`: LLaVA-Med v1.5 (Li et al. 2023, weights of May 2024), CLIP ViT-L/14-336 and Mistral-7B-Instruct-v0.2.

There are two models of this name. The checkpoint holds an image tower that was trained on; the released code leaves it
aside and loads OpenAI's CLIP instead (microsoft/LLaVA-Med issues 105 and 109). Which one is meant has to be said:
`--set tower=checkpoint` or `--set tower=openai`; the preset `reference` is the released code's, OpenAI's.

Read off microsoft/LLaVA-Med d406e3f (llava/eval/model_vqa.py, llava/model/builder.py, llava/mm_utils.py,
llava/conversation.py, README.md). Real weights have never been run here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.models import llava_shared as llava
from cxrbench.models.adapter import IMAGE
from cxrbench.models.base import ModelCard, ModelOptions
from cxrbench.models.generation import MATCHED, Preset
from cxrbench.models.instruction import PROMPTS, Instruction
from cxrbench.models.keys import Drop, Row, Source
from cxrbench.models.recognise import config_of
from cxrbench.models.released import CLIP, NEVER_RUN, PATH, Asked, Opened, ReleasedModel
from cxrbench.models.shards import Shards, Together, find_files
from cxrbench.models.tokens import around_images
from cxrbench.types import Generation, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOWERS = ("checkpoint", "openai")

PADDING: Mapping[str, tuple[int, ...]] = {"grey": (114,), "color": (122, 116, 104)}
"""Levels an image is padded to a square with: CLIP's mean over all channels where the file has one channel, as
MIMIC-CXR-JPG's have, else CLIP's mean colour (llava/mm_utils.py, process_images)."""

IMAGE_TOKEN = 0
"""<unk>: a row of the table that the byte-fallback tokenizer never gives, so the vocabulary stays the original's."""

OWN_TOWER = r"model\.vision_tower\.vision_tower\.vision_model\."

EVAL = "microsoft/LLaVA-Med d406e3f, llava/eval/model_vqa.py"


class LlavaMed(ReleasedModel):
    """See `cxrbench.models.released.ReleasedModel`."""

    name: ClassVar[str] = "llava-med"
    targets: ClassVar[tuple[str, ...]] = tuple(PROMPTS)
    settings: ClassVar[Mapping[str, str]] = {
        "tower": "checkpoint (the tower in the checkpoint) or openai (what the authors' code loads); no default",
        "padding": "what the square is filled with: grey (for one-channel files, the default) or color",
        "prompt": Instruction.settings["prompt"],
        "target": Instruction.settings["target"],
    }
    places: ClassVar[Mapping[str, str]] = {
        PATH: "the folder of the checkpoint, original or converted",
        CLIP: "the folder of openai/clip-vit-large-patch14-336",
    }
    CARD: ClassVar[ModelCard] = ModelCard(
        name="llava-med",
        about="LLaVA-Med v1.5, CLIP ViT-L/14-336 and Mistral-7B, 7.6 billion parameters",
        source="https://huggingface.co/microsoft/llava-med-v1.5-mistral-7b, code https://github.com/microsoft/LLaVA-Med",
        revision="91bb16c1 is the one others name; the revision you have is named by the hash of its weights",
        licence="research use only (README); its data CC BY-NC 4.0",
        citation="Li et al. 2023, LLaVA-Med, NeurIPS Datasets and Benchmarks, arXiv:2306.00890",
        trained_on=("PMC-15M figures and captions", "LLaVA-Med instructions"),
        targets=tuple(PROMPTS),
        inputs=("the key image", "the question", "every section the task offers (cxrbench's own words)"),
        published=("its tables are on VQA and chat; no report-generation figure of its authors was found",),
        notes=f"not trained to write reports: the instruction is cxrbench's, not the authors'; {NEVER_RUN}",
    )

    def __init__(self, options: ModelOptions) -> None:
        extra = {key: value for key, value in options.extra.items() if key in Instruction.settings}
        self.instruction = Instruction.of(extra)
        self.padding = _choice(options.extra.get("padding", "grey"), "padding", tuple(PADDING))
        super().__init__(options)

    @classmethod
    def trial(cls, places: Mapping[str, Path]) -> Mapping[str, str]:
        """OpenAI's tower where its folder is given, else the checkpoint's."""
        return {"tower": "openai" if CLIP in places else "checkpoint"}

    def network_class(self) -> Any:
        """Stock LLaVA; a projector of another depth than two is read too."""
        from cxrbench.models.llava_net import PublishedLlava

        return PublishedLlava

    def wanted(self) -> Mapping[str, str]:
        """The user's settings; the preset `reference` means OpenAI's tower unless they say otherwise."""
        implied = {"tower": "openai"} if self.options.preset == "reference" else {}
        return {**implied, **self.options.extra}

    def _tower(self, folder: Path) -> str:
        wanted = self.wanted().get("tower")
        if wanted is None:
            raise CxrbenchError(
                "there are two models of this name, and which image tower is meant has to be said",
                where=str(folder),
                fix="--set tower=checkpoint (the tower trained with it), or --set tower=openai (what the authors' code"
                " loads; `--preset reference` implies it)",
            )
        return _choice(wanted, "tower", TOWERS)

    def open_original(self, folder: Path) -> Opened:
        """`config.json` of a llava_mistral; the tower's sizes are read off its tensors."""
        file, body = config_of(folder, self.CARD.about, model_type="llava_mistral")
        llava.refuse_markers(body, file)
        tower = self._tower(folder)
        files = find_files(folder)
        clip = find_files(self.place(CLIP)) if tower == "openai" else ()
        own = Shards(files)
        kind = llava.need(body, ("mm_projector_type",), file)["mm_projector_type"]
        depth = llava.projector_depth(kind, file)
        vision = _own_tower(own) if tower == "checkpoint" else llava.clip_config(Shards(clip), "vision_model.")
        layer = llava.feature_layer(body, file)
        text = mistral_config(body, file)
        config = llava.llava_config(vision, text, IMAGE_TOKEN, vision_feature_layer=layer, projector_depth=depth)

        def source() -> Source:
            return Together({"lm/": Shards(files), "clip/": Shards(clip)}) if clip else Together({"lm/": Shards(files)})

        return Opened(config, rows(tower, depth), source, (*files, *clip), folder, {"tower": tower})

    def full_size(self) -> Opened:
        """The published sizes: 7.566 billion parameters."""
        text = mistral_config(MISTRAL_7B, "the published sizes")
        return Opened(llava.llava_config(llava.clip_large(336), text, IMAGE_TOKEN))

    @property
    def consumes(self) -> frozenset[str]:
        """The key image, the question, and the sections the instruction has room for."""
        return self.instruction.consumes

    @classmethod
    def reference(cls, target: str) -> Preset:
        """The command of the authors' README."""
        return Preset(
            name="reference",
            version=1,
            source="authors-eval",
            citation=EVAL,
            generation={**MATCHED.generation, "max_new_tokens": 1024},
            dtype="fp16",
            origin={
                "temperature": "README.md, Evaluation, step 4: --temperature 0.0 (the script alone samples at 0.2)",
                "num_beams": f"{EVAL}: --num_beams 1",
                "max_new_tokens": f"{EVAL}: generate(max_new_tokens=1024)",
                "dtype": "llava/model/builder.py: torch_dtype float16 (the weights are bf16)",
                "tower": "llava/model/builder.py, vision_tower.load_model(): OpenAI's CLIP (issues 105, 109)",
                "conversation": "README.md: --conv-mode mistral_instruct",
                "instruction": "cxrbench's: neither repository nor paper has one for reports",
            },
            quirks=(
                "the tower that was trained with the model is left aside for OpenAI's",
                "the original places a padded image at random, one pixel up or down; here always the upper place",
                "the square is filled with grey 114 around one-channel files and with CLIP's mean colour around others:"
                " --set padding=color",
            ),
        )

    def ask(self, sample: Sample) -> Asked | None:
        """The instruction of cxrbench, or the user's; the question of a VQA sample."""
        made = self.instruction.request(sample, "generate", Generation(), 0)
        used = [name for name in made.inputs if not name.startswith("image:")]
        return f"{IMAGE}\n{made.messages[0].text.replace(IMAGE, '')}", used

    def wrap(self, question: str) -> str:
        """Conversation `mistral_instruct`, whose system text is empty."""
        return f"[INST] {question} [/INST]"

    def prompt_identity(self) -> str:
        """The instruction, wrapped, and the padding."""
        return f"{self.wrap(f'{IMAGE}{chr(10)}{self.instruction.text}')} padding={self.padding}"

    def tokens(self, prompt: str) -> list[int]:
        """Pieces around the image, one BOS."""
        return around_images(self.tokenizer, prompt, self.image_token, self.image_tokens())

    def transform(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        """Padded to a square, then CLIP at 336 px (`image_aspect_ratio: pad`)."""
        return llava.clip_pixels(int(self.opened.config.vision_config.image_size), PADDING[self.padding])


MISTRAL_7B: Mapping[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "sliding_window": None,
}
"""Mistral-7B-Instruct-v0.2."""


def mistral_config(body: Mapping[str, Any], where: Path | str) -> Any:
    """The language model's configuration. `sliding_window` must be stated: the class's own default is not v0.2's."""
    from transformers import MistralConfig

    stated = llava.need(body, (*llava.LLAMA, "num_key_value_heads", "rope_theta", "sliding_window"), where)
    return MistralConfig(**{**llava.also(body, llava.LLAMA_MORE), **stated})


def _own_tower(source: Source) -> Any:
    """The configuration of the tower inside the checkpoint."""
    prefix = OWN_TOWER.replace("\\", "")
    if not any(name.startswith(prefix) for name in source.names()):
        raise CxrbenchError(
            "the checkpoint holds no image tower",
            where=source.where,
            fix="--set tower=openai, with --clip DIR remembered",
        )
    return llava.clip_config(source, prefix)


def rows(tower: str, depth: int) -> tuple[Row, ...]:
    """The key map, for either tower."""
    own = f"lm/{OWN_TOWER}"
    towers = (
        llava.clip_rows(own)
        if tower == "checkpoint"
        else (Drop(f"{own}.+", "the checkpoint's own image tower: tower=openai was chosen"), *llava.OPENAI_ROWS)
    )
    return (*llava.LLAMA_ROWS, *llava.projector_rows(r"lm/model\.mm_projector\.", depth), *towers)


def _choice(value: str, key: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise CxrbenchError(
            f"{key} must be {' or '.join(allowed)}, not {value!r}{suggest(value, allowed)}", where=f"--set {key}="
        )
    return value
