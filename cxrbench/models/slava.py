"""`slava`: SLaVA-CXR (Wu et al. 2024), CLIP ViT-L/14-336 and Phi-2, findings and impressions.

Read off knowlab/SLaVA-CXR 81e4b09 (llava_phi/eval/model_vqa_slava_cxr.py, llava_phi/model/**,
llava_phi/conversation.py, iuxray_sample_*.jsonl) and transformers 4.36.2, models/phi/modeling_phi.py. Real weights have
never been run here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.models import llava_shared as llava
from cxrbench.models.adapter import IMAGE
from cxrbench.models.base import ModelCard
from cxrbench.models.checkpoint import read_json
from cxrbench.models.generation import MATCHED, Preset
from cxrbench.models.keys import Drop, Row, heads_apart, to
from cxrbench.models.recognise import config_of
from cxrbench.models.released import NEVER_RUN, Asked, Opened, ReleasedModel
from cxrbench.models.shards import Shards, find_files
from cxrbench.models.tokens import around_images, cleaned
from cxrbench.types import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUESTIONS: Mapping[str, str] = {
    "findings": "Write a findings report of this image:",
    "impression": (
        "Write a impression summary of this image and the findings report. \n##Findings: {findings} \n##Impression:"
    ),
}
"""The authors' words, by target (iuxray_sample_findings.jsonl, iuxray_sample_impression.jsonl)."""

MAX_NEW_TOKENS: Mapping[str, int] = {"findings": 512, "impression": 256}

IMAGE_TOKEN = 50295
"""The first row of Phi-2's table of 51,200 that its tokenizer of 50,295 tokens does not use."""

EVAL = "knowlab/SLaVA-CXR 81e4b09, llava_phi/eval/model_vqa_slava_cxr.py"

PHI = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "partial_rotary_factor",
    "max_position_embeddings",
)


def rows(heads: int, depth: int) -> tuple[Row, ...]:
    """The key map: transformers 4.36.2's Phi has one fused query_key_value, interleaved by head."""
    layer, stock = r"model\.(layers\.\d+)", rf"{llava.LANGUAGE}.\1"
    apart = tuple(rf"{stock}.self_attn.{part}_proj.\2" for part in "qkv")
    return (
        Drop(r".*\.rotary_emb\.inv_freq", llava.WORKED_OUT),
        to(rf"{layer}\.self_attn\.query_key_value\.(weight|bias)", *apart, change=heads_apart(heads)),
        to(rf"{layer}\.(self_attn\.(?:dense|q_layernorm|k_layernorm)\..+)", rf"{stock}.\2"),
        to(rf"{layer}\.((?:mlp|input_layernorm)\..+)", rf"{stock}.\2"),
        to(r"model\.((?:embed_tokens|final_layernorm)\..+)", rf"{llava.LANGUAGE}.\1"),
        to(r"(lm_head\.(?:weight|bias))", r"\1"),
        *llava.projector_rows(r"model\.mm_projector\.", depth),
        *llava.clip_rows(r"model\.vision_tower\.vision_model\."),
    )


class Slava(ReleasedModel):
    """See `cxrbench.models.released.ReleasedModel`."""

    name: ClassVar[str] = "slava"
    targets: ClassVar[tuple[str, ...]] = ("findings", "impression")
    bos: ClassVar[bool] = False
    settings: ClassVar[Mapping[str, str]] = {"target": "findings, or impression (which reads the findings)"}
    CARD: ClassVar[ModelCard] = ModelCard(
        name="slava",
        about="SLaVA-CXR, CLIP ViT-L/14-336 and Phi-2, 3.1 billion parameters",
        source="https://huggingface.co/bluesky333/SLaVA-CXR, code https://github.com/knowlab/SLaVA-CXR",
        revision="uploaded 2024-11-13; the revision you have is named by the hash of its weights",
        licence="MIT (the hub page's tag); the code repository has no licence file",
        citation="Wu et al. 2024, SLaVA-CXR, arXiv:2409.13321",
        trained_on=("RADEX, made by the authors from reports and model outputs; not released",),
        targets=("findings", "impression"),
        inputs=("the key image", "for an impression: the findings of the reference report"),
        published=("slava-mimic/SLaVA-CXR 2.7B", "slava-iu/SLaVA-CXR 2.7B"),
        notes=NEVER_RUN,
    )

    def network_class(self) -> Any:
        """Stock LLaVA with a bias in the output layer, which Phi-2 has and the stock class would lose."""
        from cxrbench.models.llava_net import PublishedLlava

        return PublishedLlava

    def open_original(self, folder: Path) -> Opened:
        """`config.json` of a LLaVA-Phi; everything else follows from it."""
        from transformers import CLIPVisionConfig, PhiConfig

        file, body = config_of(folder, self.CARD.about, model_type="llava_phi")
        llava.refuse_markers(body, file)
        parts = llava.need(body, ("vision_config",), file)["vision_config"]
        tower, bridge = (llava.need(parts, (key,), file)[key] for key in ("vision_tower", "mm_projector"))
        sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size")
        vision = CLIPVisionConfig(
            **llava.need(tower, (*sizes, "patch_size"), file), **llava.also(tower, ("hidden_act", "layer_norm_eps"))
        )
        text = PhiConfig(
            **llava.need(body, PHI, file),
            **llava.also(body, ("num_key_value_heads", "rope_theta", "qk_layernorm", "bos_token_id", "eos_token_id")),
        )
        kind = llava.need(bridge, ("mm_projector_type",), file)["mm_projector_type"]
        depth = llava.projector_depth(kind, file)
        layer = llava.feature_layer(tower, file)
        config = llava.llava_config(
            vision, text, IMAGE_TOKEN, vision_feature_layer=layer, projector_depth=depth, lm_head_bias=True
        )
        files = find_files(folder)
        key_map = rows(text.num_attention_heads, depth)
        return Opened(config, key_map, lambda: Shards(files), files, folder)

    def full_size(self) -> Opened:
        """The published sizes: 3.092 billion parameters."""
        from transformers import PhiConfig

        text = PhiConfig(
            vocab_size=51200,
            hidden_size=2560,
            intermediate_size=10240,
            num_hidden_layers=32,
            num_attention_heads=32,
            partial_rotary_factor=0.4,
            bos_token_id=50256,
            eos_token_id=50256,
        )
        return Opened(llava.llava_config(llava.clip_large(336), text, IMAGE_TOKEN, lm_head_bias=True))

    @property
    def consumes(self) -> frozenset[str]:
        """The key image; for an impression the findings too."""
        return super().consumes | ({"findings"} if self.target == "impression" else frozenset())

    @classmethod
    def reference(cls, target: str) -> Preset:
        """The authors' evaluation."""
        return Preset(
            name="reference",
            version=1,
            source="authors-eval",
            citation=EVAL,
            generation={
                **MATCHED.generation,
                "no_repeat_ngram_size": 3,
                "max_new_tokens": MAX_NEW_TOKENS[target],
            },
            dtype="fp32",
            origin={
                "temperature": f"{EVAL}: --temperature 0",
                "num_beams": f"{EVAL}: --num_beams 1",
                "no_repeat_ngram_size": f"{EVAL}: generate(no_repeat_ngram_size=3)",
                "max_new_tokens": "README.md, Evaluation: --max_new_tokens 512 (findings), 256 (impression)",
                "dtype": "llava_phi/model/builder.py: no torch_dtype is passed, which loads fp32; fp16 gave NaN",
            },
            quirks=(
                "an impression is written from the image and the findings of the reference report",
                "the ban on repeated trigrams reaches into the prompt, so no three words of the findings come back",
                "images are cropped to the centre, while training padded them to a square",
                "the original runs eager attention at batch size 1: --set attention=eager --batch-size 1",
            ),
        )

    def ask(self, sample: Sample) -> Asked | None:
        """The authors' question, or that of a VQA sample; an impression needs findings."""
        if sample.question is not None:
            return llava.question_of(sample), ["question"]
        if self.target == "findings":
            return f"{IMAGE}\n{QUESTIONS['findings']}", []
        findings = llava.plain(sample.sections.get("findings", ""))
        if not findings:
            return None
        return f"{IMAGE}\n{QUESTIONS['impression'].format(findings=findings)}", ["section:findings"]

    def wrap(self, question: str) -> str:
        """Conversation `default` of the authors: the words of vicuna_v1."""
        return llava.vicuna(question)

    def prompt_identity(self) -> str:
        """The authors' question, wrapped."""
        return self.wrap(f"{IMAGE}\n{QUESTIONS[self.target]}")

    def tokens(self, prompt: str) -> list[int]:
        """Pieces around the image; Phi-2's tokenizer adds no BOS."""
        return around_images(self.tokenizer, prompt, self.image_token, self.image_tokens())

    def transform(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        """The checkpoint's preprocessor_config.json, CLIP's at 336 px where there is none; no padding."""
        folder = self.opened.tokenizer
        file = folder / "preprocessor_config.json" if folder is not None else Path("preprocessor_config.json")
        if not file.is_file():
            return llava.clip_pixels(int(self.opened.config.vision_config.image_size))
        return llava.pixels_of({"image_processor_type": "CLIPImageProcessor", **read_json(file)}, where=str(file))

    @cached_property
    def _cleans(self) -> bool:
        """Whether `batch_decode` took spaces before punctuation away: yes unless the tokenizer says no."""
        folder = self.opened.tokenizer
        file = folder / "tokenizer_config.json" if folder is not None else None
        said = read_json(file) if file is not None and file.is_file() else {}
        return bool(said.get("clean_up_tokenization_spaces", True))

    def decode(self, tokens: Sequence[int]) -> str:
        """As `batch_decode` of transformers 4.36.2."""
        text = super().decode(tokens)
        return cleaned(text).strip() if self._cleans else text
