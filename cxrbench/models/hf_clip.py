"""`hf:DIR` where DIR holds a CLIP (transformers' `CLIPModel`): pictures and texts as vectors of one space.

    cxrbench run --model hf:DIR --task demo-retrieval

Vectors are the checkpoint's own `image_embeds` and `text_embeds`: projected, of unit length. Texts are cut where its
positions end, as its tokenizer does. torch is imported inside functions only.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.errors import CxrbenchError
from cxrbench.models import network, stock
from cxrbench.models.adapter import Encoded, Face, LoadSettings, Network
from cxrbench.models.base import ModelCard, ModelOptions
from cxrbench.models.checkpoint import hash_or_error, hash_small_files, named_folder, open_folder, read_json
from cxrbench.models.embedding import embed_request, encode_text
from cxrbench.models.generation import MATCHED, Preset
from cxrbench.models.instruction import rough_cost
from cxrbench.models.towers import Towers, read_towers
from cxrbench.types import Generation, Request, RequestKind, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODEL_TYPE = "clip"


def is_clip(argument: str) -> bool:
    """Whether a folder's config.json says that it holds a CLIP; what cannot be read is none."""
    try:
        file = named_folder(argument) / "config.json"
        return bool(argument) and file.is_file() and read_json(file).get("model_type") == MODEL_TYPE
    except CxrbenchError:
        return False  # the adapter that takes every folder says what is wrong with it


class ClipFolder:
    """See `cxrbench.models.adapter.Adapter`; it embeds, and writes nothing."""

    kinds: ClassVar[frozenset[RequestKind]] = frozenset({"embed_image", "embed_text"})
    offers: ClassVar[frozenset[Face]] = frozenset({"network"})
    not_on: ClassVar[Mapping[str, str]] = {}
    depends: ClassVar[Mapping[str, str]] = {}
    settings: ClassVar[Mapping[str, str]] = {"target": "which section is embedded; the task says it"}
    targets: ClassVar[tuple[str, ...]] = ("findings", "impression")

    def __init__(self, options: ModelOptions) -> None:
        stock.require()
        self.dummy = options.load_format == "dummy"
        self.checkpoint = open_folder(options.argument, need_weights=not self.dummy)
        self.target = options.extra.get("target", "findings")
        self._lock = threading.Lock()
        self._towers: Towers | None = None

    @property
    def name(self) -> str:
        """`hf:` and the folder's name."""
        return f"hf:{self.checkpoint.folder.resolve().name}"

    @property
    def card(self) -> ModelCard:
        """What can be told from the folder alone."""
        return ModelCard(
            name=self.name,
            about="CLIP checkpoint through stock transformers classes; it embeds pictures and texts",
            source=str(self.checkpoint.folder),
            notes="random weights: for speed only, never scored" if self.dummy else "",
        )

    @property
    def consumes(self) -> frozenset[str]:
        """The key image, and the text."""
        return frozenset({"image", *self.targets})

    @property
    def presets(self) -> Mapping[str, Preset]:
        """`matched` alone: nothing is generated."""
        return {MATCHED.name: MATCHED}

    @property
    def context(self) -> int | None:
        """Longer texts are cut, and the prediction says so."""
        return None

    def identity(self) -> dict[str, Any]:
        """Hashes of weights and configuration, pixel rules, and what is done to texts and vectors."""
        from cxrbench.data.images import RULES

        return {
            "name": self.name,
            "revision": "",
            "weights": "dummy" if self.dummy else hash_or_error(self.checkpoint),
            "files": hash_small_files(self.checkpoint.folder),
            "load_format": "dummy" if self.dummy else "auto",
            "image_rules": RULES,
            "image_backend": "pil",
            "longest": self._longest,
            "vectors": "normalised",
        }

    def circumstances(self) -> dict[str, Any]:
        """Where the checkpoint lies."""
        return {"checkpoint": str(self.checkpoint.folder.resolve())}

    @property
    def towers(self) -> Towers:
        """Configuration, tokenizer and pixels, read once."""
        with self._lock:
            if self._towers is None:
                self._towers = read_towers(self.checkpoint)
                self._check_end(self._towers)
            return self._towers

    def _check_end(self, towers: Towers) -> None:
        """A text's vector is read at its end: the tokenizer must put the token there that the network looks for.

        Raises:
            CxrbenchError: it does not, or knows more tokens than the network.
        """
        text, ids = towers.config.text_config, list(towers.tokenizer("")["input_ids"])
        # Files older than transformers 4.29 say 2 and mean the largest id, as OpenAI's code does.
        end = max(ids) if text.eos_token_id == 2 else text.eos_token_id
        if len(towers.tokenizer) > text.vocab_size or end not in ids or ids.index(end) != len(ids) - 1:
            raise CxrbenchError(
                "the tokenizer is not the network's: a text does not end in the token its vector is read from, or it "
                f"has more tokens ({len(towers.tokenizer):,}) than the network knows ({text.vocab_size:,})",
                where=str(self.checkpoint.folder),
                fix="copy tokenizer.json (or vocab.json and merges.txt) and tokenizer_config.json of this model",
            )

    @property
    def _longest(self) -> int:
        """Tokens of a text, its ends included."""
        return int(self.towers.config.text_config.max_position_embeddings)

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """The key image, or the section the task is about."""
        image = next((each for each in sample.images if each.image_id == sample.key_image), None)
        images = (image,) if image is not None and kind == "embed_image" else ()
        text = sample.sections.get(self.target, "") if kind == "embed_text" else ""
        named = [f"image:{each.view or 'unknown'}" for each in images] + ([f"section:{self.target}"] if text else [])
        return embed_request(sample.sample_id, kind, images, text, named, generation, seed)

    def cost(self, request: Request) -> int:
        """Rough length in tokens."""
        return rough_cost(request)

    def render(self, request: Request) -> str:
        """A text stands for itself; a picture comes without words."""
        return request.messages[0].text if request.messages else ""

    def encode(self, request: Request, images: Sequence[NDArray[np.uint8]]) -> Encoded:
        """Pixels, or the tokens of a text; one that is too long keeps its last token, which its vector is read from."""
        import torch

        if request.kind == "embed_image":
            pixels = torch.from_numpy(self.towers.pixels(images[0])[None])
            return Encoded({"pixel_values": pixels}, frozenset(), 0, 0)
        ids = self.towers.tokenizer(request.messages[0].text, truncation=False, verbose=False)["input_ids"]
        return encode_text(ids, self._longest)

    def encode_option(self, request: Request, option: str) -> tuple[int, ...]:
        """Never asked: it scores nothing.

        Raises:
            CxrbenchError: always.
        """
        raise CxrbenchError(f"{self.name} embeds and scores no options", fix="a model that writes text")

    def decode(self, tokens: Sequence[int]) -> str:
        """Never asked: it writes nothing.

        Raises:
            CxrbenchError: always.
        """
        raise CxrbenchError(f"{self.name} embeds and writes no text", fix="a model that writes text")

    def embed(self, module: Any, inputs: Mapping[str, Any], kind: RequestKind) -> Any:
        """Unit vectors (n, d), as `CLIPModel.forward` makes them."""
        if kind == "embed_image":
            made = module.visual_projection(module.vision_model(**inputs).pooler_output)
        else:
            made = module.text_projection(module.text_model(**inputs).pooler_output)
        return made / made.norm(p=2, dim=-1, keepdim=True)

    def load(self, settings: LoadSettings) -> Network:
        """Bring the towers up; nothing is generated, so no token ends a text."""
        tokenizer = self.towers.tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        module = stock.load_module(self.checkpoint, settings, stock.EMBEDDER)
        return network.ready(
            module, eos=(), pad=int(pad), device=settings.device, find_encoder=lambda clip: clip.vision_model
        )
