"""What adapters of the LLaVA family share: sizes, key map rows, the Vicuna conversation, image transforms.

Sources: LLaVA's llava/mm_utils.py, llava/conversation.py, llava/model/multimodal_projector/builder.py and
llava/model/multimodal_encoder/clip_encoder.py, as they stand in microsoft/LLaVA-Med d406e3f, microsoft/LLaVA-Rad
1fc4409 and knowlab/SLaVA-CXR 81e4b09. torch and transformers are imported inside functions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbench.errors import CxrbenchError
from cxrbench.models.adapter import IMAGE
from cxrbench.models.keys import Drop, Row, Source, to
from cxrbench.types import Sample

if TYPE_CHECKING:
    from cxrbench.data.pixels import PixelTransform

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""System text of the conversation `vicuna_v1`, the same in SLaVA-CXR and LLaVA-Rad."""

# Conversations


def vicuna(question: str) -> str:
    r"""One turn of `vicuna_v1` up to where the assistant answers.

    >>> vicuna("<image>\nQ?")[-32:]
    'estions. USER: <image>\nQ? ASSISTANT:'
    """
    return f"{VICUNA} USER: {question} ASSISTANT:"


def plain(text: str) -> str:
    """A text of the data, without anything that would pass for an image."""
    return text.replace(IMAGE, "image").strip()


def question_of(sample: Sample) -> str:
    """The question of a VQA sample with its image in front."""
    return f"{IMAGE}\n{plain(sample.question or '')}"


# Sizes


def need(body: Mapping[str, Any], keys: Sequence[str], where: Path | str) -> dict[str, Any]:
    """Values of a configuration that must be stated: a default would be a guess.

    Raises:
        CxrbenchError: some are not there.
    """
    missing = [key for key in keys if key not in body]
    if missing:
        raise CxrbenchError(
            f"the configuration does not say {', '.join(missing)}", where=str(where), fix="copy config.json again"
        )
    return {key: body[key] for key in keys}


def also(body: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Values of a configuration that may be left out."""
    return {key: body[key] for key in keys if body.get(key) is not None}


LLAMA = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps")
"""Sizes of a LLaMA or Mistral a configuration must state."""

LLAMA_MORE = (
    "num_key_value_heads",
    "max_position_embeddings",
    "rope_theta",
    "hidden_act",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
)
"""Sizes whose defaults are the same in all versions of the class."""


def projector_depth(kind: str, where: Path | str) -> int:
    """Linear layers of `mm_projector_type`: "linear" has 1, "mlp2x_gelu" 2, and so on.

    Raises:
        CxrbenchError: another type.

    >>> projector_depth("linear", ""), projector_depth("mlp2x_gelu", "")
    (1, 2)
    """
    if kind == "linear":
        return 1
    found = re.fullmatch(r"mlp([1-9]\d*)x_gelu", kind)
    if found is None:
        raise CxrbenchError(
            f"the projector {kind!r} is not known", where=str(where), fix="linear, or mlpNx_gelu such as mlp2x_gelu"
        )
    return int(found[1])


def refuse_markers(body: Mapping[str, Any], where: Path | str) -> None:
    """Start and end marks around the image change the prompt; of these models none was published with them."""
    if body.get("mm_use_im_start_end"):
        raise CxrbenchError(
            "the checkpoint puts marks around the image (mm_use_im_start_end), which the published one does not",
            where=str(where),
            fix="use the published checkpoint",
        )


HEAD_WIDTH = 64
"""Width of an attention head in OpenAI's CLIP and in DINOv2, at all published sizes."""


def clip_config(source: Source, prefix: str) -> Any:
    """The configuration of a CLIP image tower, read off the shapes of its tensors (heads are 64 wide).

    Args:
        source: where the tensors are.
        prefix: what stands before `embeddings.` and `encoder.` in their names.
    """
    from transformers import CLIPVisionConfig

    patch = source.shape(f"{prefix}embeddings.patch_embedding.weight")
    places = source.shape(f"{prefix}embeddings.position_embedding.weight")[0]
    layers = sum(
        re.fullmatch(re.escape(prefix) + r"encoder\.layers\.\d+\.mlp\.fc1\.weight", name) is not None
        for name in source.names()
    )
    return CLIPVisionConfig(
        hidden_size=patch[0],
        intermediate_size=source.shape(f"{prefix}encoder.layers.0.mlp.fc1.weight")[0],
        num_hidden_layers=layers,
        num_attention_heads=patch[0] // HEAD_WIDTH,
        image_size=round((places - 1) ** 0.5) * patch[-1],
        patch_size=patch[-1],
    )


def clip_large(side: int) -> Any:
    """openai/clip-vit-large-patch14 (224 px) or -patch14-336."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=side,
        patch_size=14,
    )


def llava_config(vision: Any, text: Any, image_token: int, **more: Any) -> Any:
    """The stock configuration; `more` are vision_feature_layer, projector_depth, lm_head_bias, ..."""
    from transformers import LlavaConfig

    settings: dict[str, Any] = {
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        **more,
    }
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        **settings,
    )


def feature_layer(body: Mapping[str, Any], where: Path | str, feature: str = "mm_vision_select_feature") -> int:
    """Which hidden state of the tower goes on; the class token is left out, the only way any of them was published.

    Raises:
        CxrbenchError: the layer is not stated, or the class token is kept.
    """
    if body.get(feature, "patch") != "patch":
        raise CxrbenchError(f"the tower's class token is kept ({feature}), which is not known here", where=str(where))
    return int(need(body, ("mm_vision_select_layer",), where)["mm_vision_select_layer"])


# Key map rows

LANGUAGE = "model.language_model"
TOWER = "model.vision_tower"
PROJECTOR = "model.multi_modal_projector"

WORKED_OUT = "worked out from the configuration"


def projector_rows(prefix: str, depth: int) -> tuple[Row, ...]:
    """`mm_projector.weight` of one linear layer, or `mm_projector.{0,2,4,...}` of several with GELU between them."""
    if depth == 1:
        return (to(rf"{prefix}(?:0\.)?(weight|bias)", rf"{PROJECTOR}.linear_1.\1"),)
    return tuple(
        to(rf"{prefix}{2 * number}\.(weight|bias)", rf"{PROJECTOR}.linear_{number + 1}.\1") for number in range(depth)
    )


def clip_rows(prefix: str) -> tuple[Row, ...]:
    """The image tower under a prefix (a pattern) that ends in `vision_model.`; transformers 5 has no such level."""
    return (
        Drop(rf"{prefix}embeddings\.position_ids", WORKED_OUT),
        to(rf"{prefix}(.+)", rf"{TOWER}.\1"),
    )


OPENAI_ROWS: tuple[Row, ...] = (
    *clip_rows(r"clip/vision_model\."),
    Drop(
        r"clip/(text_model\..+|text_projection\.weight|visual_projection\.weight|logit_scale)",
        "CLIP's text side and joint space: the model uses the image tower alone",
    ),
)
"""A whole CLIP checkpoint of OpenAI, under `clip/`."""

LLAMA_ROWS: tuple[Row, ...] = (
    Drop(r".*\.rotary_emb\.inv_freq", WORKED_OUT),
    to(r"(?:lm/)?model\.((?:embed_tokens|layers|norm)\..+)", rf"{LANGUAGE}.\1"),
    to(r"(?:lm/)?(lm_head\.weight)", r"\1"),
)
"""LLaMA, Vicuna and Mistral, which have the same names."""

# Pixels


def clip_pixels(side: int, fills: Sequence[int] = ()) -> PixelTransform:
    """CLIPImageProcessor (PIL) at `side`: bicubic to the short side, centre crop, CLIP's mean and deviation.

    `fills` pads to a square first: one level per channel, or one for all.
    """
    return pixels_of(
        {
            "image_processor_type": "CLIPImageProcessorPil",
            "size": {"shortest_edge": side},
            "crop_size": {"height": side, "width": side},
        },
        fills,
    )


def pixels_of(
    settings: Mapping[str, Any], fills: Sequence[int] = (), where: str = "preprocessor_config.json"
) -> PixelTransform:
    """The transform a preprocessor_config.json stands for.

    Raises:
        CxrbenchError: one that is not known to give exactly the stock pixels.
    """
    from dataclasses import replace

    from cxrbench.data.pixels import transform_for

    made = transform_for(settings)
    if made is None:
        raise CxrbenchError(
            f"the image processor {settings.get('image_processor_type')!r} with these settings is not known",
            where=where,
            fix="copy the file of the published checkpoint",
        )
    return replace(made, fills=tuple(fills) if len(fills) == 3 else tuple(fills) * 3) if fills else made
