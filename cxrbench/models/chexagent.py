"""`chexagent`: CheXagent (Chen et al. 2024), the first of 8 billion parameters, BLIP-2 over Mistral.

Read off Stanford-AIMI/CheXagent e4f31e6 (demos/run_examples_old.py, data_chexinstruct/**/templates.py); the network
from the checkpoint's configuration and names. How two images are joined was read in another project's adapter
(hq0709/reading-is-not-writing-code 4701456, chexagent8.py), not in the authors' code. Real weights have never been run
here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.errors import CxrbenchError
from cxrbench.models import llava_shared as llava
from cxrbench.models.adapter import IMAGE
from cxrbench.models.base import ModelCard
from cxrbench.models.checkpoint import read_json
from cxrbench.models.generation import MATCHED, Preset, documented
from cxrbench.models.keys import Drop, Row, Source, same
from cxrbench.models.recognise import another
from cxrbench.models.released import NEVER_RUN, Asked, Opened, ReleasedModel
from cxrbench.models.shards import Shards, find_files
from cxrbench.models.sizes import MISTRAL_USUAL, grid_of_patches, layers, llama, shape
from cxrbench.types import Image, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORDS: Mapping[str, str] = {
    "findings": "Write an example findings section for the CXR",
    "impression": "Write an example impression section for the CXR",
}
"""The first of the wordings it was trained on (templates.py, [Findings Generation] and [Impression Generation])."""

PLACE = 'Describe "{anatomy}"'
ANATOMIES = (
    "Airway",
    "Breathing",
    "Cardiac",
    "Diaphragm",
    "Everything else (e.g., mediastinal contours, bones, soft tissues, tubes, valves, and pacemakers)",
)
"""The authors' demo asks for findings place by place (run_examples_old.py)."""

MOST_IMAGES = 2
IMAGE_TOKEN = 0
"""<unk>: a row the byte-fallback tokenizer never gives."""

DEMO = "Stanford-AIMI/CheXagent e4f31e6, demos/run_examples_old.py"
VISION = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
QUERIES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
MISTRAL = (*llava.LLAMA, "num_key_value_heads", "rope_theta", "sliding_window", "max_position_embeddings")

PIXELS: Mapping[str, Any] = {"image_processor_type": "BlipImageProcessor"}

ROWS: tuple[Row, ...] = (
    Drop(r".*\.(?:rotary_emb\.inv_freq|position_ids)", llava.WORKED_OUT),
    same(r"(?:query_tokens|vision_model\..+|qformer\..+|language_projection\..+|language_model\..+)"),
)
"""The authors kept BLIP-2's names."""


class CheXagent(ReleasedModel):
    """See `cxrbench.models.released.ReleasedModel`."""

    name: ClassVar[str] = "chexagent"
    targets: ClassVar[tuple[str, ...]] = ("findings", "impression")
    not_on: ClassVar[Mapping[str, str]] = {
        "slots": "a BLIP-2 hands embeddings to its language model instead of tokens, and equal texts were not proven"
    }
    settings: ClassVar[Mapping[str, str]] = {
        "target": "findings or impression",
        "images": "two (the first two of the study, the default) or key",
        "anatomy": "ask for one place as the authors' demo does: 1 to 5, or the place's own name",
    }
    CARD: ClassVar[ModelCard] = ModelCard(
        name="chexagent",
        about="CheXagent, a ViT of 40 layers at 448 px, 128 queries and Mistral-7B, 8.4 billion parameters",
        source="https://huggingface.co/StanfordAIMI/CheXagent-8b, code https://github.com/Stanford-AIMI/CheXagent",
        revision="the revision you have is named by the hash of its weights",
        licence="CC BY-NC-ND 4.0 (the code repository); the copy of the model page that was read states none",
        citation="Chen et al. 2024, CheXagent, arXiv:2401.12208",
        trained_on=("CheXinstruct: MIMIC-CXR, CheXpert, PadChest and some thirty other collections",),
        targets=("findings", "impression"),
        inputs=("the first two images of the study", "the question"),
        published=(
            "llavarad-mimic/CheXagent v1 8B",
            "its own tables on report generation were not found in any source that could be read",
        ),
        notes=f"superseded by chexagent-2, say its authors; {NEVER_RUN}",
    )

    def __init__(self, options: Any) -> None:
        self.images = options.extra.get("images", "two")
        if self.images not in ("two", "key"):
            raise CxrbenchError(f"images must be two or key, not {self.images!r}", where="--set images=")
        chosen = options.extra.get("anatomy")
        numbered = {str(number): name for number, name in enumerate(ANATOMIES, start=1)}
        self.anatomy = numbered.get(chosen, chosen) if chosen is not None else None
        super().__init__(options)

    def network_class(self) -> Any:
        """Stock BLIP-2 with several images to one set of queries."""
        from cxrbench.models.bridges_net import CheXagentNet

        return CheXagentNet

    def open_original(self, folder: Path) -> Opened:
        """`config.json` of a chexagent with its three parts."""
        file = folder / "config.json"
        body = read_json(file) if file.is_file() else {}
        if body.get("model_type") != "chexagent" or "qformer_config" not in body:
            raise another(folder, self.CARD.about)
        parts = llava.need(body, ("vision_config", "qformer_config", "text_config", "num_query_tokens"), file)
        files = find_files(folder)
        source = Shards(files)
        config = configuration(
            vision_sizes(source, parts["vision_config"]),
            query_sizes(source, parts["qformer_config"]),
            llama(source, "language_model.model.", parts["text_config"], MISTRAL_USUAL),
            int(parts["num_query_tokens"]),
        )
        return Opened(config, ROWS, lambda: Shards(files), files, folder)

    def full_size(self) -> Opened:
        """The published sizes: 8.362 billion parameters."""
        vision = dict(zip(VISION, (1408, 6144, 40, 16, 448, 14), strict=True))
        queries = {**dict(zip(QUERIES, (30523, 768, 3072, 12, 12), strict=True)), "encoder_hidden_size": 1408}
        text = dict(zip(MISTRAL, (32000, 4096, 14336, 32, 32, 1e-5, 8, 1e4, 4096, 32768), strict=True))
        return Opened(configuration(vision, queries, text, 128))

    def image_tokens(self) -> int:
        """The queries' answers, however many images they look at."""
        return int(self.opened.config.num_query_tokens)

    def image_places(self, images: int) -> int:
        """One set of answers for all images of a sample."""
        return self.image_tokens() if images else 0

    @property
    def consumes(self) -> frozenset[str]:
        """One or two images, and the question."""
        return frozenset({"images" if self.images == "two" else "image", "question"})

    @property
    def presets(self) -> Mapping[str, Preset]:
        """`matched`, and `documented`: the checkpoint's generation_config.json, as the authors' demo uses it."""
        own = self.reference(self.target)
        folder = self.opened.tokenizer
        file = folder / "generation_config.json" if folder is not None else None
        if file is not None and file.is_file():
            theirs = documented(read_json(file), own.citation)
            own = replace(own, generation=theirs.generation, unused=theirs.unused)
        return {MATCHED.name: MATCHED, own.name: own}

    @classmethod
    def reference(cls, target: str) -> Preset:
        """The authors' old demo, which refuses to run in favour of chexagent-2."""
        return Preset(
            name="documented",
            version=1,
            source="authors-demo",
            citation=DEMO,
            generation=dict(MATCHED.generation),
            dtype="fp16",
            origin={
                "generation": f"{DEMO}: GenerationConfig.from_pretrained; taken from the checkpoint's"
                " generation_config.json, greedy where there is none",
                "dtype": f"{DEMO}: torch.float16",
                "images": f"{DEMO}: the first two",
                "prompt": f"{DEMO}: ' USER: <s>{{prompt}} ASSISTANT: <s>'",
                "words": "data_chexinstruct/dataset_processors/templates.py: the first wording of its training",
            },
            quirks=(
                "the demo asks for findings in five answers, one place each (--set anatomy=1 to 5); here one answer",
                "image tokens stand in front of the whole prompt, also of its BOS",
                "BOS stands three times in the prompt: by the tokenizer, before the question, before the answer",
            ),
        )

    def pick(self, sample: Sample) -> tuple[Image, ...]:
        """The first two images the task offers, in its order."""
        return sample.images[:MOST_IMAGES] if self.images == "two" else super().pick(sample)

    def ask(self, sample: Sample) -> Asked | None:
        """The authors' words; a question takes their place."""
        marks = IMAGE * len(self.pick(sample))
        if sample.question is not None:
            return marks + llava.plain(sample.question).replace("<s>", "s"), ["question"]
        return marks + self._words(), []

    def _words(self) -> str:
        return WORDS[self.target] if self.anatomy is None else PLACE.format(anatomy=self.anatomy)

    def wrap(self, question: str) -> str:
        """The authors' frame, images in front of it."""
        marks = IMAGE * question.count(IMAGE)
        return f"{marks} USER: <s>{question.replace(IMAGE, '')} ASSISTANT: <s>"

    def prompt_identity(self) -> str:
        """The words, wrapped, and how many images."""
        return f"{self.wrap(IMAGE + self._words())} images={self.images}"

    def tokens(self, prompt: str) -> list[int]:
        """One set of image tokens, then the prompt with its BOS."""
        words = prompt.replace(IMAGE, "")
        return [self.image_token] * self.image_places(prompt.count(IMAGE)) + list(self.tokenizer(words)["input_ids"])

    def transform(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        """The checkpoint's preprocessor_config.json (BlipImageProcessor), 448 px where there is none."""
        folder = self.opened.tokenizer
        file = folder / "preprocessor_config.json" if folder is not None else Path("preprocessor_config.json")
        side = int(self.opened.config.vision_config.image_size)
        body = read_json(file) if file.is_file() else {"size": {"height": side, "width": side}}
        return llava.pixels_of({**PIXELS, **body}, where=str(file))

    def tensors(self, images: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
        """Pixel values (1, images, 3, h, w): the images of a sample belong together."""
        return {name: value[None] for name, value in super().tensors(images).items()}

    def find_encoder(self, module: Any) -> Any:
        """The image tower, to time it."""
        return module.vision_model


def vision_sizes(source: Source, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the tower: what config.json states over what the shapes show, 16 heads where it is silent."""
    embeddings, first = "vision_model.embeddings.", "vision_model.encoder.layers.0."
    found = {
        **grid_of_patches(source, f"{embeddings}patch_embedding.weight", f"{embeddings}position_embedding", 1),
        "intermediate_size": shape(source, f"{first}mlp.fc1.weight")[0],
        "num_hidden_layers": layers(source, r"vision_model\.encoder\.layers\.(\d+)\.mlp\.fc1\.weight"),
        "num_attention_heads": 16,
    }
    return {**found, **llava.also(stated, (*found, "hidden_act", "layer_norm_eps", "qkv_bias"))}


def query_sizes(source: Source, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the Q-Former, in the same way; BERT's 12 heads where config.json is silent."""
    first = "qformer.encoder.layer.0."
    found = {
        "hidden_size": shape(source, "qformer.layernorm.weight")[0],
        "intermediate_size": shape(source, f"{first}intermediate_query.dense.weight")[0],
        "encoder_hidden_size": shape(source, f"{first}crossattention.attention.key.weight")[1],
        "num_hidden_layers": layers(source, r"qformer\.encoder\.layer\.(\d+)\.output_query\.dense\.weight"),
        "num_attention_heads": 12,
    }
    more = ("vocab_size", "cross_attention_frequency", "hidden_act", "layer_norm_eps", "max_position_embeddings")
    return {**found, **llava.also(stated, (*found, *more))}


def configuration(vision: Mapping[str, Any], queries: Mapping[str, Any], text: Mapping[str, Any], count: int) -> Any:
    """The stock configuration of BLIP-2 over Mistral."""
    from transformers import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig, MistralConfig

    return Blip2Config(
        vision_config=Blip2VisionConfig(**vision),
        qformer_config=Blip2QFormerConfig(**queries),
        text_config=MistralConfig(**text),
        num_query_tokens=count,
        image_token_index=IMAGE_TOKEN,
    )
