"""`llava-med-v1`: LLaVA-Med of June 2023, CLIP ViT-L/14 (224 px, 256 image tokens) and LLaMA-7B, published as deltas.

    cxrbench models add llava-med-v1 --path DELTA --base LLAMA --clip CLIP

Read off microsoft/LLaVA-Med, tag v1.0.0 (llava/eval/model_vqa_med.py, llava/model/apply_delta.py, llava/model/llava.py,
llava/conversation.py). Real weights have never been run here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.errors import CxrbenchError
from cxrbench.models import llava_shared as llava
from cxrbench.models.adapter import IMAGE, Network
from cxrbench.models.base import ModelCard, ModelOptions
from cxrbench.models.checkpoint import read_json
from cxrbench.models.generation import MATCHED, Preset
from cxrbench.models.instruction import PROMPTS, Instruction
from cxrbench.models.keys import Row, Source
from cxrbench.models.recognise import another
from cxrbench.models.released import BASE, CLIP, NEVER_RUN, PATH, Asked, Opened, ReleasedModel
from cxrbench.models.shards import Deltas, Shards, Together, find_files
from cxrbench.types import Generation, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
STOP = "###"
GREETING = f"{STOP}Human: Hi!{STOP}Assistant: Hi there!  How can I help you today?\n{STOP}"
"""Conversation `simple`: every prompt begins with this exchange."""

PATCH, START, END = "<im_patch>", "<im_start>", "<im_end>"
IMAGE_TOKEN = 32001
"""<im_patch> in the published tokenizer: [PAD] 32000, <im_patch>, <im_start>, <im_end>."""

EVAL = "microsoft/LLaVA-Med v1.0.0, llava/eval/model_vqa_med.py"

ROWS: tuple[Row, ...] = (
    *llava.LLAMA_ROWS,
    *llava.projector_rows(r"lm/model\.mm_projector\.", 1),
    *llava.OPENAI_ROWS,
)


class LlavaMedV1(ReleasedModel):
    """See `cxrbench.models.released.ReleasedModel`."""

    name: ClassVar[str] = "llava-med-v1"
    targets: ClassVar[tuple[str, ...]] = tuple(PROMPTS)
    not_on: ClassVar[Mapping[str, str]] = {
        "slots": "its texts end at ###, which may be several tokens, and slots ends a text at an end token only"
    }
    settings: ClassVar[Mapping[str, str]] = {
        "prompt": Instruction.settings["prompt"],
        "target": Instruction.settings["target"],
    }
    places: ClassVar[Mapping[str, str]] = {
        PATH: "the folder of the deltas, or of the converted checkpoint",
        BASE: "the folder of LLaMA-7B in Hugging Face layout",
        CLIP: "the folder of openai/clip-vit-large-patch14",
    }
    needs: ClassVar[tuple[str, ...]] = (PATH, BASE, CLIP)
    CARD: ClassVar[ModelCard] = ModelCard(
        name="llava-med-v1",
        about="LLaVA-Med v1, CLIP ViT-L/14 and LLaMA-7B, published as deltas, 7.0 billion parameters",
        source="llava_med_in_text_60k_ckpt2_delta.zip (README of v1.0.0) or https://huggingface.co/microsoft/llava-med-7b-delta",
        revision="the one you have is named by the hash of deltas, base and CLIP",
        licence="Microsoft Research licence and LLaMA's terms, research use only",
        citation="Li et al. 2023, LLaVA-Med, NeurIPS Datasets and Benchmarks, arXiv:2306.00890",
        trained_on=("PMC-15M figures and captions", "LLaVA-Med instructions (60k, with inline mentions)"),
        targets=tuple(PROMPTS),
        inputs=("the key image", "the question", "every section the task offers (cxrbench's own words)"),
        published=("its tables are on VQA and chat; no report-generation figure of its authors was found",),
        notes=f"not trained to write reports: the instruction is cxrbench's, not the authors'; {NEVER_RUN}",
    )

    def __init__(self, options: ModelOptions) -> None:
        extra = {key: value for key, value in options.extra.items() if key in Instruction.settings}
        self.instruction = Instruction.of(extra)
        super().__init__(options)

    def network_class(self) -> Any:
        """Stock LLaVA with a projector of one layer."""
        from cxrbench.models.llava_net import PublishedLlava

        return PublishedLlava

    def open_original(self, folder: Path) -> Opened:
        """Deltas over a LLaMA, and OpenAI's CLIP, whose tower was frozen."""
        file = folder / "config.json"
        body = read_json(file) if file.is_file() else {}
        known = body.get("model_type") == "llava" and body.get("use_mm_proj") and "mm_projector_type" not in body
        if not known or "BiomedCLIP" in str(body.get("mm_vision_tower")):
            raise another(folder, self.CARD.about)
        if not body.get("mm_use_im_start_end"):
            raise CxrbenchError(
                "the checkpoint puts no marks around the image (mm_use_im_start_end), which the published one does",
                where=str(file),
                fix="use the published deltas",
            )
        files, base, clip = (find_files(each) for each in (folder, self.place(BASE), self.place(CLIP)))
        vision = llava.clip_config(Shards(clip), "vision_model.")
        layer = llava.feature_layer(body, file)
        config = llava.llava_config(
            vision, llama_config(body, file), IMAGE_TOKEN, vision_feature_layer=layer, projector_depth=1
        )

        def source() -> Source:
            merged = Deltas(
                Shards(files),
                Shards(base),
                alone=r"model\.mm_projector\.(weight|bias)",
                grows=r"model\.embed_tokens\.weight|lm_head\.weight",
                ignored=r".*\.rotary_emb\.inv_freq",
            )
            return Together({"lm/": merged, "clip/": Shards(clip)})

        return Opened(config, ROWS, source, (*files, *base, *clip), folder)

    def full_size(self) -> Opened:
        """The published sizes."""
        text = llama_config(LLAMA_7B, "the published sizes")
        return Opened(llava.llava_config(llava.clip_large(224), text, IMAGE_TOKEN, projector_depth=1))

    @property
    def consumes(self) -> frozenset[str]:
        """The key image, the question, and the sections the instruction has room for."""
        return self.instruction.consumes

    @classmethod
    def reference(cls, target: str) -> Preset:
        """The authors' evaluation."""
        return Preset(
            name="reference",
            version=1,
            source="authors-eval",
            citation=EVAL,
            generation={**MATCHED.generation, "temperature": 0.7, "top_k": 50, "max_new_tokens": 1024},
            dtype="fp16",
            origin={
                "temperature": f"{EVAL}: generate(do_sample=True, temperature=0.7)",
                "top_k": "not named there: 50 is what transformers samples from when nobody says otherwise",
                "max_new_tokens": f"{EVAL}: generate(max_new_tokens=1024)",
                "dtype": f"{EVAL}: torch_dtype float16",
                "conversation": f"{EVAL}: --conv-mode simple",
                "instruction": "cxrbench's: neither repository nor paper has one for reports",
            },
            quirks=(
                "every prompt begins with an exchange of greetings",
                "the prompt ends in ###, so the model writes 'Assistant:' itself; it is taken off here, not there",
                "a text ends where ### appears: the engine transformers stops there, slots refuses the model",
                "deltas are added in float32 and rounded once; the authors add in float16, which gives the same",
            ),
        )

    def ask(self, sample: Sample) -> Asked | None:
        """The instruction of cxrbench with the image after it; the question of a VQA sample."""
        made = self.instruction.request(sample, "generate", Generation(), 0)
        used = [name for name in made.inputs if not name.startswith("image:")]
        return f"{made.messages[0].text.replace(IMAGE, '')}\n{IMAGE}", used

    def wrap(self, question: str) -> str:
        """Conversation `simple`, up to where the model says who speaks."""
        return f"{SYSTEM}{GREETING}Human: {question}{STOP}"

    def prompt_identity(self) -> str:
        """The instruction, wrapped."""
        return self.wrap(f"{self.instruction.text}\n{IMAGE}")

    def tokens(self, prompt: str) -> list[int]:
        """The whole text at once: the marks and patches are words of the tokenizer."""
        count = self.image_tokens()
        if self.opened.tokenizer is None:  # the stand-in knows no such words
            first, second = (list(self.tokenizer(part)["input_ids"]) for part in prompt.split(IMAGE))
            return [*first, *([self.image_token] * count), *second]
        found = self.tokenizer.convert_tokens_to_ids(PATCH)
        if found != self.image_token:
            raise CxrbenchError(
                f"the tokenizer gives {PATCH} the id {found}, not {self.image_token}",
                where=str(self.opened.tokenizer),
                fix="copy the tokenizer files that come with the deltas (added_tokens.json)",
            )
        return list(self.tokenizer(prompt.replace(IMAGE, START + PATCH * count + END))["input_ids"])

    def transform(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        """CLIP at 224 px, no padding."""
        return llava.clip_pixels(int(self.opened.config.vision_config.image_size))

    def decode(self, tokens: Sequence[int]) -> str:
        """Up to ###, without the role name the model writes first."""
        text = super().decode(tokens)
        return text.partition(STOP)[0].strip().removeprefix("Assistant:").strip()

    def finish(self, made: Network) -> Network:
        """Let generate() end a text at ###, as the authors' stopping rule does."""
        from cxrbench.models.llava_net import stop_at

        stop_at(made.module, self.tokenizer, STOP)
        return made


LLAMA_7B: Mapping[str, Any] = {
    "vocab_size": 32004,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
}
"""LLaMA-7B with the four words LLaVA added."""


def llama_config(body: Mapping[str, Any], where: Path | str) -> Any:
    """The language model's configuration."""
    from transformers import LlamaConfig

    return LlamaConfig(**llava.need(body, llava.LLAMA, where), **llava.also(body, llava.LLAMA_MORE))
