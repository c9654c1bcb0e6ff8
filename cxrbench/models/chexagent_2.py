"""`chexagent-2`: CheXagent-2 (Chen et al. 2024), XraySigLIP ViT-L/16 at 512 px and a Phi-2-shaped language model.

Read off Stanford-AIMI/CheXagent e4f31e6 (evaluation_chexbench/**, data_chexinstruct/**/templates.py) and a copy of the
code in the checkpoint (modeling_chexagent.py, modeling_visual.py, tokenization_chexagent.py as 4-thkind/VERA holds
them). Real weights have never been run here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.errors import CxrbenchError
from cxrbench.models import llava_shared as llava
from cxrbench.models.adapter import IMAGE
from cxrbench.models.base import ModelCard
from cxrbench.models.generation import MATCHED, Preset
from cxrbench.models.keys import Drop, Row, Source, to
from cxrbench.models.published import PHI, PHI_MORE, cleans, sections_used
from cxrbench.models.published_pixels import square
from cxrbench.models.recognise import config_of
from cxrbench.models.released import NEVER_RUN, Asked, Opened, ReleasedModel
from cxrbench.models.shards import Shards, find_files
from cxrbench.models.sizes import grid_of_patches, layers
from cxrbench.models.tagged_bpe import read_tagged
from cxrbench.models.tokens import around_images, cleaned
from cxrbench.types import Image, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FINDINGS = 'Given the indication: "{indication}", write a structured findings section for the CXR.'
NO_INDICATION = "Write a structured findings section for the CXR."
IMPRESSION = "Summarize the following Findings: {findings}"
"""The authors' words: run_findings_generation.py, templates.py (training), run_findings_summarization.py."""

SYSTEM = "You are a helpful assistant."
END = "<|endoftext|>"
START_TAG, END_TAG, FILLER = "<|img|>", "<|/img|>", "<|imgpad|>"
TAGS = (
    *(START_TAG, END_TAG, FILLER, "<|ref|>", "<|/ref|>", "<|box|>", "<|/box|>", "<|quad|>", "<|/quad|>"),
    *(f"<|coord_{digit}|>" for digit in range(10)),
)
"""What the authors' tokenizer adds where its files do not hold it, in this order."""

MOST_IMAGES = 2
EVAL = "Stanford-AIMI/CheXagent e4f31e6, evaluation_chexbench/models/chexagent.py"
TOWER = r"model\.visual\.model\."


def rows() -> tuple[Row, ...]:
    """The key map."""
    bridge = llava.PROJECTOR
    return (
        Drop(r".*\.rotary_emb\.inv_freq", llava.WORKED_OUT),
        to(r"model\.((?:embed_tokens|layers|final_layernorm)\..+)", rf"{llava.LANGUAGE}.\1"),
        to(r"(lm_head\.(?:weight|bias))", r"\1"),
        to(r"model\.visual\.(pos_embed|proj)", rf"{bridge}.\1"),
        to(r"model\.visual\.attn_pool\.0\.(weight|bias)", rf"{bridge}.fc1.\1"),
        to(r"model\.visual\.attn_pool\.2\.(weight|bias)", rf"{bridge}.fc2.\1"),
        to(r"model\.visual\.(ln_post\.(?:weight|bias))", rf"{bridge}.\1"),
        Drop(rf"{TOWER}head\..+", "SigLIP's pooling head: the original computes it and does not use it"),
        Drop(rf"{TOWER}embeddings\.position_ids", llava.WORKED_OUT),
        to(rf"{TOWER}(.+)", rf"{llava.TOWER}.\1"),
    )


class CheXagent2(ReleasedModel):
    """See `cxrbench.models.released.ReleasedModel`."""

    name: ClassVar[str] = "chexagent-2"
    bos: ClassVar[bool] = False
    targets: ClassVar[tuple[str, ...]] = ("findings", "impression")
    settings: ClassVar[Mapping[str, str]] = {
        "target": "findings, or impression (from the findings, without images)",
        "images": "two (the first two of the study, the default) or key",
    }
    CARD: ClassVar[ModelCard] = ModelCard(
        name="chexagent-2",
        about="CheXagent-2, XraySigLIP ViT-L/16 at 512 px and a Phi-2-shaped language model, 3.1 billion parameters",
        source="https://huggingface.co/StanfordAIMI/CheXagent-2-3b, code https://github.com/Stanford-AIMI/CheXagent",
        revision="8f19b53a is the one others name; the revision you have is named by the hash of its weights",
        licence="CC BY-NC 4.0 (the hub page's tag)",
        citation="Chen et al. 2024, CheXagent, arXiv:2401.12208",
        trained_on=("CheXinstruct: MIMIC-CXR, CheXpert, PadChest and some thirty other collections",),
        targets=("findings", "impression"),
        inputs=(
            "the first two images of the study",
            "the indication",
            "for an impression: the findings of the reference report, and no image",
        ),
        published=("llavarad-mimic/CheXagent-2 3B",),
        notes=NEVER_RUN,
    )

    def __init__(self, options: Any) -> None:
        self.images = options.extra.get("images", "two")
        if self.images not in ("two", "key"):
            raise CxrbenchError(f"images must be two or key, not {self.images!r}", where="--set images=")
        super().__init__(options)

    def network_class(self) -> Any:
        """Stock LLaVA over SigLIP and Phi, with the authors' bridge and a bias in the output layer."""
        from cxrbench.models.bridges_net import CheXagent2Net

        return CheXagent2Net

    def open_original(self, folder: Path) -> Opened:
        """`config.json` for the language model; the tower's sizes are read off its tensors."""
        from transformers import PhiConfig

        file, body = config_of(folder, self.CARD.about, architectures=["CheXagentForCausalLM"])
        text = PhiConfig(**llava.need(body, PHI, file), **llava.also(body, PHI_MORE))
        visual = llava.need(body, ("visual",), file)["visual"]
        start = llava.need(visual, ("image_start_id",), file)["image_start_id"]
        files = find_files(folder)
        vision = siglip_config(Shards(files), TOWER.replace("\\", ""))
        return Opened(configuration(vision, text, int(start)), rows(), lambda: Shards(files), files, folder)

    def full_size(self) -> Opened:
        """The published sizes: 3.128 billion parameters, 3.141 with the pooling head that is left out."""
        from transformers import PhiConfig, SiglipVisionConfig

        text = PhiConfig(
            vocab_size=51200,
            hidden_size=2560,
            intermediate_size=10240,
            num_hidden_layers=32,
            num_attention_heads=32,
            partial_rotary_factor=0.4,
            max_position_embeddings=4096,
            bos_token_id=50256,
            eos_token_id=50256,
        )
        vision = SiglipVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=512,
            patch_size=16,
            vision_use_head=False,
        )
        return Opened(configuration(vision, text, 50295))

    @property
    def consumes(self) -> frozenset[str]:
        """Images and indication, or the findings alone."""
        if self.target == "impression":
            return frozenset({"findings", "question"})
        return frozenset({"images" if self.images == "two" else "image", "question", "indication"})

    @property
    def needs_image(self) -> bool:
        """An impression is written from text alone."""
        return self.target == "findings"

    @property
    def context(self) -> int | None:
        """No limit: positions are rotary, and the authors run two images of 1,024 tokens whatever the file says."""
        return None

    @classmethod
    def reference(cls, target: str) -> Preset:
        """The authors' evaluation."""
        return Preset(
            name="reference",
            version=1,
            source="authors-eval",
            citation=EVAL,
            generation={**MATCHED.generation, "max_new_tokens": 512},
            dtype="bf16",
            origin={
                "temperature": f"{EVAL}: do_sample=False",
                "num_beams": "evaluation_chexbench/axis_3_text_generation/*.py: num_beams=1",
                "max_new_tokens": f"{EVAL}: max_new_tokens=512",
                "dtype": f"{EVAL}: model.to(torch.bfloat16)",
                "images": "run_findings_generation.py: the first two of the study",
                "question without an indication": "data_chexinstruct/dataset_processors/templates.py (training)",
            },
            quirks=(
                "an impression is written from the findings of the reference report; no image is shown",
                "the original cuts off the last token, also where it is no end token; here no text is cut",
                "the original spells an image's path between its tags, which the network never sees: here filler",
                "the original runs batches of one: --batch-size 1",
            ),
        )

    def pick(self, sample: Sample) -> tuple[Image, ...]:
        """The first two images the task offers, in its order; none for an impression."""
        if self.target == "impression" and sample.question is None:
            return ()
        return sample.images[:MOST_IMAGES] if self.images == "two" else super().pick(sample)

    def ask(self, sample: Sample) -> Asked | None:
        """The authors' question; an impression needs findings."""
        marks = IMAGE * len(self.pick(sample))
        if sample.question is not None:
            return marks + plain(sample.question), ["question"]
        if self.target == "impression":
            given = sections_used(sample, ("findings",))
            asked = IMPRESSION.format(findings=plain(given["findings"])) if given else None
            return (asked, ["section:findings"]) if asked is not None else None
        given = sections_used(sample, ("indication",))
        if not given:
            return marks + NO_INDICATION, []
        return marks + FINDINGS.format(indication=plain(given["indication"])), ["section:indication"]

    def wrap(self, question: str) -> str:
        r"""The authors' chat template around numbered pictures and the words.

        tokenization_chexagent.py: DEFAULT_CHAT_TEMPLATE, from_list_format.
        """
        count = question.count(IMAGE)
        words = question.replace(IMAGE, "")
        pictures = "".join(f"Picture {number}:{START_TAG}{IMAGE}{END_TAG}\n" for number in range(1, count + 1))
        return f"<|system|>\n{SYSTEM}{END}\n<|user|>\n{pictures}{words}{END}\n<|assistant|>\n"

    def prompt_identity(self) -> str:
        """The authors' words, wrapped, and how many images."""
        words = {"findings": f"{IMAGE}{FINDINGS}|{NO_INDICATION}", "impression": IMPRESSION}
        return f"{self.wrap(words[self.target])} images={self.images}"

    def make_tokenizer(self, folder: Path) -> Any:
        """The authors' tokenizer is Phi-2's with tags; the ids of its files must be those of the configuration."""
        made = read_tagged(folder, TAGS, END, bos=self.bos)
        start = self.image_token - 2
        found = made.convert_tokens_to_ids([START_TAG, END_TAG, FILLER])
        if found != [start, start + 1, start + 2]:
            raise CxrbenchError(
                f"the image tags have the ids {found}, and config.json has them begin at {start}",
                where=str(folder),
                fix="copy config.json and the tokenizer files from one place",
            )
        return made

    def tokens(self, prompt: str) -> list[int]:
        """Pieces around the images; no BOS."""
        return around_images(self.tokenizer, prompt, self.image_token, self.image_tokens())

    def transform(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        """Squeezed to a square, SigLIP's mean and deviation (modeling_visual.py, image_transform)."""
        half = (0.5, 0.5, 0.5)
        return square(int(self.opened.config.vision_config.image_size), half, half)

    def decode(self, tokens: Sequence[int]) -> str:
        """As `decode` of transformers 4.40."""
        text = super().decode(tokens)
        return cleaned(text).strip() if cleans(self.opened.tokenizer) else text


def plain(text: str) -> str:
    """A text of the data, without anything that would pass for a tag."""
    return llava.plain(text).replace("<|", "< |")


def configuration(vision: Any, text: Any, start: int) -> Any:
    """The stock configuration; `start` is the id of the tag in front of an image, the filler comes two later."""
    return llava.llava_config(
        vision, text, start + 2, vision_feature_layer=-1, vision_feature_select_strategy="full", lm_head_bias=True
    )


def siglip_config(source: Source, prefix: str) -> Any:
    """The configuration of a SigLIP image tower, read off the shapes of its tensors (heads are 64 wide).

    Raises:
        CxrbenchError: there is no such tower.
    """
    from transformers import SiglipVisionConfig

    embeddings = f"{prefix}embeddings."
    seen = grid_of_patches(source, f"{embeddings}patch_embedding.weight", f"{embeddings}position_embedding.weight", 0)
    return SiglipVisionConfig(
        **seen,
        intermediate_size=source.shape(f"{prefix}encoder.layers.0.mlp.fc1.weight")[0],
        num_hidden_layers=layers(source, rf"{TOWER}encoder\.layers\.(\d+)\.mlp\.fc1\.weight"),
        num_attention_heads=seen["hidden_size"] // llava.HEAD_WIDTH,
        vision_use_head=False,
    )
