"""`biomedclip-cxr`: LLaVA-Rad's two towers, BiomedCLIP-CXR: pictures and texts as vectors of one space, for retrieval.

    cxrbench models add biomedclip-cxr --path LLAVA-RAD --base BIOMEDBERT

LLAVA-RAD is the folder of microsoft/llava-rad (its biomedclipcxr_518_checkpoint.pt holds both towers, of which the
report generator `llava-rad` takes the picture's only), BIOMEDBERT one with the text tower's tokenizer. Read off
open_clip 2.23.0 and timm, whose embeddings the tests recorded. Real weights have never been run here.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.errors import CxrbenchError
from cxrbench.models import network, sizes
from cxrbench.models.adapter import Encoded, LoadSettings, Network
from cxrbench.models.base import ModelCard
from cxrbench.models.checkpoint import read_json
from cxrbench.models.embedding import embed_request, encode_text
from cxrbench.models.generation import MATCHED, Preset
from cxrbench.models.keys import Drop, Row, Source, Unset, to
from cxrbench.models.llava_rad import TOWER_FILE, dino_config, trunk_rows
from cxrbench.models.open_clip import eval_pixels
from cxrbench.models.recognise import another
from cxrbench.models.released import BASE, NEVER_RUN, PATH, Asked, Opened, ReleasedModel
from cxrbench.models.shards import Shards, Together
from cxrbench.models.tokens import StandIn, read_bert
from cxrbench.types import Generation, Request, RequestKind, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIG_FILE = "biomedclipcxr_518.json"
LONGEST = 256
"""Tokens the text tower was trained on (context_length); what follows is cut, as by the authors' tokenizer."""

BUILT: Mapping[str, Any] = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}
"""What of the configuration decides how the towers are put together."""

HEAD = 64
_TOWER = r"tower/(?:module\.)?"

FULL_TEXT: Mapping[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
FULL_VISION: Mapping[str, Any] = {
    "image_size": 518,
    "patch_size": 14,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
}


def rows() -> tuple[Row, ...]:
    """The key map: `tower/` is open_clip's model."""
    return (
        *trunk_rows("image"),
        to(rf"{_TOWER}visual\.head\.proj\.weight", "image_head.weight"),
        Drop(rf"{_TOWER}text\.transformer\.embeddings\.position_ids", "worked out from the configuration"),
        Drop(
            rf"{_TOWER}text\.transformer\.pooler\..+", "the authors' code removes it too (open_clip_encoder/utils.py)"
        ),
        to(rf"{_TOWER}text\.transformer\.(.+)", r"text.\1"),
        to(rf"{_TOWER}text\.proj\.(\d)\.weight", r"text_head.\1.weight"),
        Drop(rf"{_TOWER}logit_scale", "scales all similarities alike: ranks do not change"),
        Unset(r"image\.embeddings\.mask_token", "used in DINOv2's training only"),
    )


class BiomedClipCxr(ReleasedModel):
    """See `cxrbench.models.released.ReleasedModel`; it embeds, and writes nothing."""

    name: ClassVar[str] = "biomedclip-cxr"
    kinds: ClassVar[frozenset[RequestKind]] = frozenset({"embed_image", "embed_text"})
    settings: ClassVar[Mapping[str, str]] = {"target": "which section is embedded; the task says it"}
    targets: ClassVar[tuple[str, ...]] = ("findings", "impression")
    places: ClassVar[Mapping[str, str]] = {
        PATH: "the folder of microsoft/llava-rad, or of the converted towers",
        BASE: "a folder with the tokenizer of microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
    }
    needs: ClassVar[tuple[str, ...]] = (PATH, BASE)
    CARD: ClassVar[ModelCard] = ModelCard(
        name="biomedclip-cxr",
        about="BiomedCLIP-CXR, the two towers of LLaVA-Rad: DINOv2 ViT-B/14 at 518 px and BiomedBERT",
        source=f"https://huggingface.co/microsoft/llava-rad ({TOWER_FILE})",
        revision="dcdbc6ca is the one others name; the one you have is named by the hash of the file",
        licence="Microsoft Research licence, research use only",
        citation="Zambrano Chaves et al. 2025, Nature Communications 16:3108, doi:10.1038/s41467-025-58344-x",
        trained_on=("697 thousand pairs of chest radiographs and texts, MIMIC-CXR among them",),
        inputs=("the key image", "the text of the task's target"),
        published=("recall at k is in its paper's figures, which were not found in any source that could be read",),
        notes=NEVER_RUN,
    )

    def network_class(self) -> Any:
        """Stock DINOv2 and BERT with the two projections."""
        from cxrbench.models.two_towers_net import TwoTowers

        return TwoTowers

    def open_original(self, folder: Path) -> Opened:
        """The towers' file, and the sizes its tensors have."""
        from cxrbench.models.two_towers_net import TwoTowersConfig

        file = folder / TOWER_FILE
        if not file.is_file():
            raise another(folder, f"LLaVA-Rad with its {TOWER_FILE}")
        self._check_built(folder / CONFIG_FILE)

        def source() -> Source:
            return Together({"tower/": Shards((file,), "state_dict")})

        vision = {key: value for key, value in dino_config(Shards((file,), "state_dict")).to_diff_dict().items()}
        config = TwoTowersConfig(vision=_plain(vision), text=text_sizes(source()), space=space_of(source()))
        return Opened(config, rows(), source, (file,), self.place(BASE))

    def _check_built(self, file: Path) -> None:
        """The configuration beside the weights, where it is there, must be of the towers that are built here."""
        text = read_json(file).get("text_cfg", {}) if file.is_file() else {}
        odd = [f"{key}={text[key]}" for key, value in BUILT.items() if text.get(key, value) != value]
        if odd:
            raise CxrbenchError(
                f"the text tower is put together in another way than is read here: {', '.join(odd)}", where=str(file)
            )

    def full_size(self) -> Opened:
        """The published sizes."""
        from cxrbench.models.two_towers_net import TwoTowersConfig

        return Opened(TwoTowersConfig(vision=dict(FULL_VISION), text=dict(FULL_TEXT), space=512))

    @property
    def consumes(self) -> frozenset[str]:
        """The key image, and the text."""
        return frozenset({"image", *self.targets})

    @property
    def context(self) -> int | None:
        """Longer texts are cut, and the prediction says so."""
        return None

    def identity(self) -> dict[str, Any]:
        """As elsewhere, and what is done to the vectors."""
        return {**super().identity(), "vectors": "normalised", "longest": LONGEST}

    @classmethod
    def reference(cls, target: str) -> Preset:
        """The authors' code has no script that retrieves."""
        return Preset(
            name="documented",
            version=1,
            source="authors-demo",
            citation="open_clip 2.23.0 with biomedclipcxr_518.json",
            generation=MATCHED.generation,
            dtype="fp32",
            origin={"longest": "biomedclipcxr_518.json: context_length 256"},
            quirks=("ftfy is not applied to texts: it changes none of plain ASCII",),
        )

    # Requests

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """The key image, or the section the task is about."""
        images = self.pick(sample) if kind == "embed_image" else ()
        text = sample.sections.get(self.target, "") if kind == "embed_text" else ""
        named = [f"image:{image.view or 'unknown'}" for image in images] + ([f"section:{self.target}"] if text else [])
        return embed_request(sample.sample_id, kind, images, text, named, generation, seed)

    def ask(self, sample: Sample) -> Asked | None:
        """Nothing is asked in words."""
        return None

    def wrap(self, question: str) -> str:
        """A text stands for itself."""
        return question

    # Tensors

    def make_tokenizer(self, folder: Path) -> Any:
        """BERT's."""
        return read_bert(folder, "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract")

    def tokens(self, prompt: str) -> list[int]:
        """[CLS] text [SEP], with the text's spaces and HTML entities made plain as open_clip's tokenizer does."""
        return list(self.tokenizer(" ".join(html.unescape(html.unescape(prompt)).split()))["input_ids"])

    def transform(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        """open_clip's evaluation transform at the tower's size."""
        return eval_pixels(int(self.opened.config.vision["image_size"]))

    def encode(self, request: Request, images: Sequence[NDArray[np.uint8]]) -> Encoded:
        """Pixels, or the tokens of a text; one that is too long keeps its last token, [SEP]."""
        if request.kind == "embed_image":
            return Encoded(self.tensors(images), frozenset(), 0, 0)
        return encode_text(self.tokens(request.messages[0].text), LONGEST)

    def embed(self, module: Any, inputs: Mapping[str, Any], kind: RequestKind) -> Any:
        """Unit vectors (n, d)."""
        return module.embed_image(**inputs) if kind == "embed_image" else module.embed_text(**inputs)

    def load(self, settings: LoadSettings) -> Network:
        """Bring the towers up; nothing is generated, so no token ends a text."""
        pad = 0 if isinstance(self.tokenizer, StandIn) else int(self.tokenizer.pad_token_id)
        return network.ready(
            self.module(settings), eos=(), pad=pad, device=settings.device, find_encoder=self.find_encoder
        )

    def find_encoder(self, module: Any) -> Any:
        """The picture's tower."""
        return module.image


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a stock configuration, what the published sizes state."""
    return {key: settings[key] for key in FULL_VISION if key in settings}


def text_sizes(source: Source) -> dict[str, Any]:
    """The settings of the text tower, read off its tensors (heads are 64 wide).

    Raises:
        CxrbenchError: a tensor it cannot do without is missing.
    """
    prefix = next(
        (n.partition("text.transformer.")[0] for n in source.names() if "text.transformer.embeddings" in n), "tower/"
    )
    stem = f"{prefix}text.transformer."
    vocabulary, width = sizes.shape(source, f"{stem}embeddings.word_embeddings.weight")
    pattern = rf"{stem}encoder\.layer\.(\d+)\.attention\.self\.query\.weight".replace(
        "tower/module.", r"tower/module\."
    )
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": sizes.layers(source, pattern),
        "num_attention_heads": width // HEAD,
        "intermediate_size": sizes.shape(source, f"{stem}encoder.layer.0.intermediate.dense.weight")[0],
        "max_position_embeddings": sizes.shape(source, f"{stem}embeddings.position_embeddings.weight")[0],
    }


def space_of(source: Source) -> int:
    """Width of the joint space.

    Raises:
        CxrbenchError: the projection of pictures is missing.
    """
    name = next(
        (each for each in source.names() if each.endswith("visual.head.proj.weight")), "visual.head.proj.weight"
    )
    return sizes.shape(source, name)[0]
