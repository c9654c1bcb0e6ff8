"""`llava-rad`: LLaVA-Rad (Zambrano Chaves et al. 2025), BiomedCLIP-CXR (DINOv2 B/14, 518 px) and Vicuna-7B with LoRA.

    cxrbench models add llava-rad --path LLAVA-RAD --base VICUNA-7B-V1.5

Read off microsoft/LLaVA-Rad 1fc4409 (llava/eval/model_mimic_cxr.py, llava/utils.py, llava/model/builder.py,
llava/model/multimodal_encoder/open_clip_encoder/**, scripts/eval.sh), timm 0.9.12 and open_clip 2.23.0. The checkpoint
also holds a text tower for retrieval, no part of the report generator; a conversion keeps it beside the weights.
Real weights have never been run here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.errors import CxrbenchError
from cxrbench.models import llava_shared as llava
from cxrbench.models.adapter import IMAGE
from cxrbench.models.base import ModelCard
from cxrbench.models.checkpoint import read_json
from cxrbench.models.generation import MATCHED, Preset
from cxrbench.models.keys import Drop, Row, Source, Unset, thirds, to
from cxrbench.models.open_clip import eval_pixels
from cxrbench.models.published import dinov2_attention
from cxrbench.models.recognise import config_of
from cxrbench.models.released import BASE, NEVER_RUN, PATH, Asked, Opened, ReleasedModel
from cxrbench.models.shards import LoraMerged, Shards, Together, find_files
from cxrbench.models.tokens import around_images
from cxrbench.types import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUESTION = "Provide a description of the findings in the radiology image."
WITH_REASON = "Provide a description of the findings in the radiology image given the following indication: {reason}"
"""The authors' words (llava/utils.py, data_loader_mimic_reason_findings)."""

IMAGE_TOKEN = 0
"""<unk>: a row of the table that the byte-fallback tokenizer never gives, so the vocabulary stays the original's."""

TOWER_FILE, PROJECTOR_FILE, LORA_CONFIG = (
    "biomedclipcxr_518_checkpoint.pt",
    "non_lora_trainables.bin",
    "adapter_config.json",
)
KEPT_FILE = "retrieval.safetensors"

EVAL = "microsoft/LLaVA-Rad 1fc4409, llava/eval/model_mimic_cxr.py"

_TRUNK = r"tower/(?:module\.)?visual\.trunk\."
_BLOCK = rf"{_TRUNK}blocks\.(\d+)\."


def trunk_rows(tower: str) -> tuple[Row, ...]:
    """The key map of BiomedCLIP-CXR's picture tower, timm's DINOv2, to the stock one called `tower`."""
    names, layer = dinov2_attention(), rf"{tower}.encoder.layer.\1"
    attention = tuple(rf"{layer}.{names[part]}.\2" for part in ("query", "key", "value"))
    return (
        to(rf"{_TRUNK}cls_token", f"{tower}.embeddings.cls_token"),
        to(rf"{_TRUNK}pos_embed", f"{tower}.embeddings.position_embeddings"),
        to(rf"{_TRUNK}patch_embed\.proj\.(.+)", rf"{tower}.embeddings.patch_embeddings.projection.\1"),
        to(rf"{_BLOCK}attn\.qkv\.(weight|bias)", *attention, change=thirds),
        to(rf"{_BLOCK}attn\.proj\.(.+)", rf"{layer}.{names['output']}.\2"),
        to(rf"{_BLOCK}ls(1|2)\.gamma", rf"{layer}.layer_scale\2.lambda1"),
        to(rf"{_BLOCK}((?:norm1|norm2|mlp\.fc1|mlp\.fc2)\..+)", rf"{layer}.\2"),
        to(rf"{_TRUNK}norm\.(.+)", rf"{tower}.layernorm.\1"),
    )


def rows(depth: int) -> tuple[Row, ...]:
    """The key map: `lm/` is Vicuna with its updates merged, `bridge/` the projector, `tower/` BiomedCLIP-CXR."""
    return (
        *llava.LLAMA_ROWS,
        *llava.projector_rows(r"bridge/(?:base_model\.model\.)?model\.mm_projector\.", depth),
        *trunk_rows(llava.TOWER),
        Unset(rf"{llava.TOWER}\.embeddings\.mask_token", "used in DINOv2's training only"),
        Drop(
            r"tower/(?:module\.)?(?:text\..+|visual\.head\..+|logit_scale)",
            "BiomedCLIP-CXR's text tower and joint space: for retrieval, no part of the report generator",
            keep=KEPT_FILE,
        ),
    )


class LlavaRad(ReleasedModel):
    """See `cxrbench.models.released.ReleasedModel`."""

    name: ClassVar[str] = "llava-rad"
    settings: ClassVar[Mapping[str, str]] = {"target": "findings"}
    weight_files: ClassVar[tuple[str, ...]] = ("adapter_model.*", PROJECTOR_FILE, TOWER_FILE)
    places: ClassVar[Mapping[str, str]] = {
        PATH: "the folder of microsoft/llava-rad, or of the converted checkpoint",
        BASE: "the folder of lmsys/vicuna-7b-v1.5",
    }
    needs: ClassVar[tuple[str, ...]] = (PATH, BASE)
    CARD: ClassVar[ModelCard] = ModelCard(
        name="llava-rad",
        about="LLaVA-Rad, BiomedCLIP-CXR (DINOv2 ViT-B/14, 518 px) and Vicuna-7B with LoRA, 6.8 billion parameters",
        source="https://huggingface.co/microsoft/llava-rad over lmsys/vicuna-7b-v1.5, code https://github.com/microsoft/LLaVA-Rad",
        revision="dcdbc6ca is the one others name; the one you have is named by the hash of updates, base and tower",
        licence="Microsoft Research licence and the terms of LLaMA and Vicuna, research use only",
        citation="Zambrano Chaves et al. 2025, Nature Communications 16:3108, doi:10.1038/s41467-025-58344-x",
        trained_on=(
            "MIMIC-CXR train with findings extracted by GPT-4",
            "BiomedCLIP-CXR: 697 thousand image-text pairs",
        ),
        targets=("findings",),
        inputs=("the key image", "the indication"),
        published=("llavarad-mimic/LLaVA-Rad", "llavarad-rougel-mimic/LLaVA-Rad"),
        notes=NEVER_RUN,
    )

    def network_class(self) -> Any:
        """Stock LLaVA; a projector of another depth than two is read too."""
        from cxrbench.models.llava_net import PublishedLlava

        return PublishedLlava

    def open_original(self, folder: Path) -> Opened:
        """The updates, the projector and the tower, over the base the user names."""
        file, body = config_of(folder, self.CARD.about, mm_vision_tower="biomedclip_cxr_518")
        llava.refuse_markers(body, file)
        missing = [name for name in (TOWER_FILE, PROJECTOR_FILE, LORA_CONFIG) if not (folder / name).is_file()]
        if missing:
            raise CxrbenchError(
                f"files of the checkpoint are missing: {', '.join(missing)}",
                where=str(folder),
                fix="hf download microsoft/llava-rad --local-dir DIR",
            )
        _check_base(self.place(BASE), body)
        base, updates = find_files(self.place(BASE)), find_files(folder, ("adapter_model",))
        scale = lora_scale(read_json(folder / LORA_CONFIG), folder / LORA_CONFIG)
        kind = llava.need(body, ("mm_projector_type",), file)["mm_projector_type"]
        depth = llava.projector_depth(kind, file)
        vision = dino_config(Shards((folder / TOWER_FILE,), "state_dict"))
        layer = llava.feature_layer(body, file)
        config = llava.llava_config(
            vision, llama_config(body, file), IMAGE_TOKEN, vision_feature_layer=layer, projector_depth=depth
        )

        def source() -> Source:
            return Together(
                {
                    "lm/": LoraMerged(Shards(base), Shards(updates), scale),
                    "bridge/": Shards((folder / PROJECTOR_FILE,)),
                    "tower/": Shards((folder / TOWER_FILE,), "state_dict"),
                }
            )

        files = (*updates, folder / PROJECTOR_FILE, folder / TOWER_FILE, *base)
        return Opened(config, rows(depth), source, files, self.tokenizer_folder())

    def tokenizer_folder(self) -> Path | None:
        """The base's, as in the authors' loader."""
        return self.folders.get(BASE)

    def full_size(self) -> Opened:
        """The published sizes: 6.845 billion parameters."""
        from transformers import Dinov2Config

        vision = Dinov2Config(
            image_size=518, patch_size=14, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, mlp_ratio=4
        )
        text = llama_config(VICUNA_7B, "the published sizes")
        return Opened(llava.llava_config(vision, text, IMAGE_TOKEN))

    @property
    def consumes(self) -> frozenset[str]:
        """The key image, the indication, the question."""
        return super().consumes | {"indication"}

    @classmethod
    def reference(cls, target: str) -> Preset:
        """The authors' evaluation."""
        return Preset(
            name="reference",
            version=1,
            source="authors-eval",
            citation=EVAL,
            generation={**MATCHED.generation, "max_new_tokens": 256},
            dtype="fp16",
            origin={
                "temperature": "scripts/eval.sh: --temperature 0 (the script alone samples at 0.2)",
                "num_beams": f"{EVAL}: num_beams=1",
                "max_new_tokens": f"{EVAL}: generate(max_new_tokens=256)",
                "dtype": "llava/model/builder.py: torch_dtype float16",
                "conversation": "scripts/eval.sh: conv_mode v1",
            },
            quirks=(
                "images are cropped to a square at the centre, not padded",
                "the original batches eight prompts of one length: --batch-size 8",
                "updates are merged in float32 and rounded once; the authors merge in float16",
            ),
        )

    def ask(self, sample: Sample) -> Asked | None:
        """The authors' question, with the indication on one line where there is one."""
        if sample.question is not None:
            return llava.question_of(sample), ["question"]
        reason = llava.plain(sample.sections.get("indication", "")).replace("\n", " ")
        if not reason:
            return f"{IMAGE}\n{QUESTION}", []
        return f"{IMAGE}\n{WITH_REASON.format(reason=reason)}", ["section:indication"]

    def wrap(self, question: str) -> str:
        """Conversation `v1` (Vicuna)."""
        return llava.vicuna(question)

    def prompt_identity(self) -> str:
        """The authors' two questions, wrapped."""
        return self.wrap(f"{IMAGE}\n{QUESTION}|{WITH_REASON}")

    def tokens(self, prompt: str) -> list[int]:
        """Pieces around the image, one BOS."""
        return around_images(self.tokenizer, prompt, self.image_token, self.image_tokens())

    def transform(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        """open_clip's evaluation transform at the tower's size."""
        return eval_pixels(int(self.opened.config.vision_config.image_size))


VICUNA_7B: Mapping[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
}
"""vicuna-7b-v1.5."""


def llama_config(body: Mapping[str, Any], where: Path | str) -> Any:
    """The language model's configuration."""
    from transformers import LlamaConfig

    return LlamaConfig(**llava.need(body, llava.LLAMA, where), **llava.also(body, llava.LLAMA_MORE))


def dino_config(source: Source) -> Any:
    """The configuration of the DINOv2 tower, read off the shapes of its tensors (heads are 64 wide)."""
    import re

    from transformers import Dinov2Config

    first = next((name for name in source.names() if name.endswith("visual.trunk.patch_embed.proj.weight")), None)
    if first is None:
        raise CxrbenchError(
            "the file holds no timm image tower", where=source.where, fix="copy biomedclipcxr_518_checkpoint.pt again"
        )
    prefix = first.removesuffix("patch_embed.proj.weight")
    width, _, _, patch = source.shape(first)
    layers = {found[1] for name in source.names() if (found := re.match(re.escape(prefix) + r"blocks\.(\d+)\.", name))}
    places = source.shape(f"{prefix}pos_embed")[1]
    return Dinov2Config(
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=width // llava.HEAD_WIDTH,
        mlp_ratio=source.shape(f"{prefix}blocks.0.mlp.fc1.weight")[0] // width,
        image_size=round((places - 1) ** 0.5) * patch,
        patch_size=patch,
    )


def lora_scale(body: Mapping[str, Any], where: Path) -> float:
    """Read alpha / r of an adapter_config.json.

    Raises:
        CxrbenchError: another kind of update than plain low-rank ones.
    """
    stated = llava.need(body, ("peft_type", "r", "lora_alpha"), where)
    odd = [key for key in ("fan_in_fan_out", "modules_to_save", "use_dora", "use_rslora") if body.get(key)]
    if stated["peft_type"] != "LORA" or body.get("bias", "none") != "none" or odd:
        raise CxrbenchError(
            f"the updates are of a kind that is not merged here: {', '.join(odd) or body.get('peft_type')}",
            where=str(where),
            fix="use the published checkpoint",
        )
    return float(stated["lora_alpha"]) / float(stated["r"])


def _check_base(folder: Path, body: Mapping[str, Any]) -> None:
    """Refuse a base that says it is another network than the one the updates are of; one without a config is tried.

    Raises:
        CxrbenchError: another architecture or other sizes.
    """
    file = folder / "config.json"
    if not file.is_file():
        return
    own = read_json(file)
    wanted = {"model_type": "llama", **{key: body[key] for key in ("hidden_size", "num_hidden_layers") if key in body}}
    other = [f"{key} {own.get(key)}, not {value}" for key, value in wanted.items() if own.get(key) != value]
    if other:
        raise CxrbenchError(
            f"the base is not the one the updates are of: {', '.join(other)}",
            where=str(file),
            fix="cxrbench models add llava-rad --path LLAVA-RAD --base VICUNA-7B-V1.5",
        )
