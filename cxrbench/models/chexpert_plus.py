"""`chexpert-plus`: the baselines of CheXpert Plus (Chambon et al. 2024), Swinv2 and a BERT decoder of two layers.

Six checkpoints of one shape, by training data and section. Read off Stanford-AIMI/chexpert-plus 48b99aa,
tutorials/RRG/INDEX.md. Stock classes; there is no prompt. Real weights have never been run here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.models import llava_shared as llava
from cxrbench.models import network, stock
from cxrbench.models.adapter import Network
from cxrbench.models.base import ModelCard
from cxrbench.models.checkpoint import read_json
from cxrbench.models.generation import MATCHED, Preset
from cxrbench.models.keys import Drop, Row, same
from cxrbench.models.published import cleans
from cxrbench.models.recognise import another
from cxrbench.models.released import NEVER_RUN, Asked, Opened, ReleasedModel
from cxrbench.models.shards import Shards, find_files
from cxrbench.models.tokens import StandIn, cleaned, read_bert
from cxrbench.types import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PAGE = "Stanford-AIMI/chexpert-plus 48b99aa, tutorials/RRG/INDEX.md"
FAMILY = "IAMJB/{mimic-cxr,chexpert,chexpert-mimic-cxr}-{findings,impression}-baseline"


def rows(tied: Sequence[str]) -> tuple[Row, ...]:
    """The key map: stock names, less what is worked out and what shares another's weight."""
    shared = "|".join(re.escape(name) for name in tied)
    return (
        Drop(r".*\.(?:position_ids|relative_position_index|relative_coords_table)", llava.WORKED_OUT),
        *((Drop(shared, "the same weight under another name"),) if tied else ()),
        same(),
    )


class CheXpertPlus(ReleasedModel):
    """See `cxrbench.models.released.ReleasedModel`."""

    name: ClassVar[str] = "chexpert-plus"
    targets: ClassVar[tuple[str, ...]] = ("findings", "impression")
    not_on: ClassVar[Mapping[str, str]] = {
        "slots": "an encoder-decoder keeps other keys and values than those of its own text, and equal texts were not"
        " proven"
    }
    settings: ClassVar[Mapping[str, str]] = {"target": "findings or impression: what the checkpoint was trained on"}
    CARD: ClassVar[ModelCard] = ModelCard(
        name="chexpert-plus",
        about="a baseline of CheXpert Plus, Swinv2 and a BERT decoder of two layers",
        source=f"https://huggingface.co: {FAMILY}",
        revision="the one you have is named by the hash of its weights",
        licence="not stated on the page that was read",
        citation="Chambon et al. 2024, CheXpert Plus, arXiv:2405.19538",
        trained_on=("MIMIC-CXR, CheXpert Plus, or both: the checkpoint's name says so",),
        targets=("findings", "impression"),
        inputs=("the key image",),
        published=(
            "chexpertplus-mimic/CheXpert Plus Swinv2 mimic-findings",
            "chexpertplus-mimic-impression/CheXpert Plus Swinv2 mimic-impression",
        ),
        notes=f"target=findings or impression must be that of its training: the folder does not say; {NEVER_RUN}",
    )

    def network_class(self) -> Any:
        """Stock image encoder with a text decoder."""
        from cxrbench.models.chexpert_plus_net import ReportDecoder

        return ReportDecoder

    def open_original(self, folder: Path) -> Opened:
        """`config.json` of a vision-encoder-decoder over Swinv2."""
        from transformers import VisionEncoderDecoderConfig

        file = folder / "config.json"
        body = read_json(file) if file.is_file() else {}
        encoder = body.get("encoder")
        swinv2 = isinstance(encoder, dict) and encoder.get("model_type") == "swinv2"
        if body.get("model_type") != "vision-encoder-decoder" or not swinv2:
            raise another(folder, self.CARD.about)
        with stock._reading(folder, "configuration"):
            config = VisionEncoderDecoderConfig.from_pretrained(folder, local_files_only=True)
        tied = sorted(network.build(self.network_class(), config).all_tied_weights_keys or ())
        files = find_files(folder)
        return Opened(config, rows(tied), lambda: Shards(files), files, folder)

    def full_size(self) -> Opened:
        """Swinv2-base at 256 px and a BERT of two layers: the published sizes are in files that could not be read."""
        from transformers import BertConfig, Swinv2Config, VisionEncoderDecoderConfig

        vision = Swinv2Config(
            image_size=256,
            embed_dim=128,
            depths=[2, 2, 18, 2],
            num_heads=[4, 8, 16, 32],
            window_size=8,
            drop_path_rate=0.0,
        )
        text = BertConfig(num_hidden_layers=2, is_decoder=True, add_cross_attention=True)
        text.bos_token_id, text.eos_token_id, text.pad_token_id = 101, 102, 0
        return Opened(VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text))

    @property
    def image_token(self) -> int:
        """None of its tokens stands for an image: the decoder looks at the encoder."""
        return -1

    def image_tokens(self) -> int:
        """None."""
        return 0

    @property
    def consumes(self) -> frozenset[str]:
        """The key image."""
        return frozenset({"image"})

    @classmethod
    def reference(cls, target: str) -> Preset:
        """The example on the authors' page, which stands above their table of results."""
        return Preset(
            name="documented",
            version=1,
            source="authors-demo",
            citation=PAGE,
            generation={**MATCHED.generation, "max_new_tokens": 127},
            dtype="fp32",
            origin={
                "max_new_tokens": f"{PAGE}: max_length=128, of which the start token is one",
                "num_beams": f"{PAGE}: nothing that generate() knows",
                "dtype": f"{PAGE}: no torch_dtype is passed",
            },
            quirks=("the example sets beam_width=2, which generate() does not know: the search is greedy",),
        )

    def ask(self, sample: Sample) -> Asked | None:
        """Nothing is said; a question cannot be answered."""
        return ("", []) if sample.question is None else None

    def wrap(self, question: str) -> str:
        """The decoder begins with one token and no words."""
        return "[CLS]"

    def prompt_identity(self) -> str:
        """The start token, and what is written."""
        return f"{self.target}: [CLS]"

    def make_tokenizer(self, folder: Path) -> Any:
        """BERT's: tokenizer.json, or vocab.txt."""
        return read_bert(folder, "the checkpoint")

    def _special(self, name: str, stand_in: int) -> int:
        made = self.tokenizer
        return stand_in if isinstance(made, StandIn) else int(getattr(made, name))

    def eos(self) -> tuple[int, ...]:
        """The end token of config.json, BERT's [SEP] where it states none."""
        stated = getattr(self.opened.config, "eos_token_id", None)
        return (int(stated) if stated is not None else self._special("sep_token_id", 102),)

    def finish(self, made: Network) -> Network:
        """Rows that have ended are filled with [PAD], which is not the end token here."""
        return replace(made, pad=self._special("pad_token_id", 0))

    def tokens(self, prompt: str) -> list[int]:
        """The start token: [CLS]."""
        return [self._special("cls_token_id", 101)]

    def encode_option(self, request: Any, option: str) -> tuple[int, ...]:
        """Token ids of an option."""
        return tuple(self.tokenizer(option, add_special_tokens=False)["input_ids"])

    def transform(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        """The checkpoint's preprocessor_config.json (ViTImageProcessor)."""
        folder = self.opened.tokenizer
        file = folder / "preprocessor_config.json" if folder is not None else Path("preprocessor_config.json")
        side = int(self.opened.config.encoder.image_size)
        body = read_json(file) if file.is_file() else {"size": {"height": side, "width": side}}
        return llava.pixels_of({"image_processor_type": "ViTImageProcessor", **body}, where=str(file))

    def decode(self, tokens: Sequence[int]) -> str:
        """As `batch_decode` of transformers 4."""
        text = super().decode(tokens)
        return cleaned(text).strip() if cleans(self.opened.tokenizer) else text

    def find_encoder(self, module: Any) -> Any:
        """The image encoder, to time it."""
        return module.encoder
