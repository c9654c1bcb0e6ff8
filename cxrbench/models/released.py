"""`ReleasedModel`: the base of adapters for published checkpoints, original or converted. See keys.py for the whole.

    cxrbench models add slava --path DIR          # remembered
    cxrbench run --model slava --task iu-findings
    cxrbench run --model slava:DIR ...            # or named each time

A subclass gives

    name, CARD, reference(target)       what it is, and its authors' settings
    targets, settings                   what it writes, and the --set keys it knows
    places, needs                       which folders it takes, and which of them the original cannot do without
    network_class()                     the stock class, or a small subclass
    open_original(folder) -> Opened     configuration, key map and tensors of the authors' layout; reads headers only
    full_size() -> Opened               the same from the published sizes, for --load-format dummy without a checkpoint
    ask(sample)                         the question, and what of the sample went into it; None: something is missing
    wrap(question) -> str               the exact prompt, one <image> per image
    transform()                         grey pixels (H, W) -> float32 (3, h, w)

and may override `pick` (which images), `tokens` (how the prompt becomes ids), `tensors`, `decode`, `eos`, `finish`.
Real weights of these models have never been run where this is developed. torch is imported inside functions.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.models import converted, network, stock
from cxrbench.models.adapter import IMAGE, Encoded, Face, LoadSettings, Network
from cxrbench.models.base import ModelCard, ModelOptions
from cxrbench.models.checkpoint import Checkpoint, hash_or_error, hash_small_files, named_folder
from cxrbench.models.folders import BASE as BASE
from cxrbench.models.folders import CLIP as CLIP
from cxrbench.models.folders import PATH as PATH
from cxrbench.models.folders import Opened as Opened
from cxrbench.models.folders import needed, origins
from cxrbench.models.generation import MATCHED, Preset
from cxrbench.models.instruction import rough_cost
from cxrbench.models.keys import Plan
from cxrbench.models.released_forms import convert, open_checkpoint
from cxrbench.models.tokens import StandIn, read_tokenizer
from cxrbench.types import Generation, Image, Message, Request, RequestKind, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEVER_RUN = "real weights have never been run where cxrbench is developed: converters are tested on small random ones"

Asked = tuple[str, list[str]]
"""A question, and the names of what of the sample went into it."""


class ReleasedModel(ABC):
    """See the module, and `cxrbench.models.adapter.Adapter`."""

    name: ClassVar[str]
    CARD: ClassVar[ModelCard]
    version: ClassVar[int] = 1
    """Goes up when a prompt, a transform or a conversion changes."""
    kinds: ClassVar[frozenset[RequestKind]] = frozenset({"generate", "score_options"})
    offers: ClassVar[frozenset[Face]] = frozenset({"network"})
    not_on: ClassVar[Mapping[str, str]] = {}
    """Engines that cannot hold it, each with the reason."""
    settings: ClassVar[Mapping[str, str]] = {"target": "what to write; the task says it"}
    targets: ClassVar[tuple[str, ...]] = ("findings",)
    places: ClassVar[Mapping[str, str]] = {PATH: "the folder of the checkpoint, original or converted"}
    needs: ClassVar[tuple[str, ...]] = (PATH,)
    """Places the original layout cannot do without."""
    pickles: ClassVar[bool] = True
    """Weights may be pickles: they are opened with weights_only (shards.py)."""
    weight_files: ClassVar[tuple[str, ...]] = ()
    """Patterns of weight files of a hub repository that are called otherwise than transformers calls them."""
    bos: ClassVar[bool] = True
    """Whether a prompt begins with BOS."""

    def __init__(self, options: ModelOptions) -> None:
        stock.require()
        self.options = options
        self.dummy = options.load_format == "dummy"
        self.target = options.extra.get("target", self.targets[0])
        if self.target not in self.targets:
            raise CxrbenchError(
                f"{self.name} writes {' or '.join(self.targets)}, not {self.target!r}"
                + suggest(self.target, self.targets),
                where="the task's target, or --set target=",
                fix="a task of another target: cxrbench list tasks",
            )
        self.folders = {PATH: named_folder(options.argument)} if options.argument else {}
        self.folders = {**options.places, **self.folders}
        self.opened = open_checkpoint(self)
        self._lock = threading.Lock()
        self._tokenizer: Any = None
        self._left_out: dict[str, int] = {}

    # What a subclass gives.

    @classmethod
    @abstractmethod
    def reference(cls, target: str) -> Preset:
        """The authors' settings for a target: called `reference`, or `documented` where they have no script."""

    @classmethod
    def trial(cls, places: Mapping[str, Path]) -> Mapping[str, str]:
        """Settings to look at these folders with, for a model that has to be told what is meant."""
        return {}

    def wanted(self) -> Mapping[str, str]:
        """Settings a converted checkpoint must not contradict."""
        return self.options.extra

    @abstractmethod
    def network_class(self) -> Any:
        """The stock class, or a small subclass of it."""

    @abstractmethod
    def open_original(self, folder: Path) -> Opened:
        """Look at the authors' layout; `another` is the sentence for a folder that is not it."""

    @abstractmethod
    def full_size(self) -> Opened:
        """The published sizes."""

    @abstractmethod
    def ask(self, sample: Sample) -> Asked | None:
        """The question for a sample, and what went into it; None where the sample lacks what the model needs."""

    @abstractmethod
    def wrap(self, question: str) -> str:
        """The exact prompt for a question that holds one image marker per image."""

    @abstractmethod
    def transform(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        """Grey pixels (H, W) to what the network takes, (3, h, w)."""

    @property
    def image_token(self) -> int:
        """The id that stands for one patch of an image."""
        return int(self.opened.config.image_token_id)

    def image_tokens(self) -> int:
        """How many of them one image takes."""
        return int(self.opened.config.image_seq_length)

    def image_places(self, images: int) -> int:
        """How many so many images take together."""
        return self.image_tokens() * images

    # Folders.

    def place(self, key: str) -> Path:
        """A folder the model needs; see `folders.needed`."""
        return needed(self.name, key, self.folders, self.places, self.needs)

    def tokenizer_folder(self) -> Path | None:
        """Where the tokenizer files of the original layout lie."""
        return self.folders.get(PATH)

    # What it is.

    @property
    def card(self) -> ModelCard:
        """The published model's; random weights are named."""
        if not self.dummy:
            return self.CARD
        return replace(self.CARD, notes=f"random weights: for speed only, never scored; {self.CARD.notes}")

    @property
    def consumes(self) -> frozenset[str]:
        """The key image and the question; a subclass adds sections."""
        return frozenset({"image", "question"})

    @property
    def needs_image(self) -> bool:
        """Whether a sample without images is a sample it cannot answer."""
        return True

    @property
    def presets(self) -> Mapping[str, Preset]:
        """`matched`, and the authors' own."""
        own = self.reference(self.target)
        return {MATCHED.name: MATCHED, own.name: own}

    @property
    def context(self) -> int | None:
        """Positions of the decoder."""
        return stock.context_length(self.opened.config)

    @cached_property
    def _weights(self) -> str:
        if self.dummy:
            return "dummy"
        return hash_or_error(Checkpoint(self.folders[PATH], {}, weights=self.opened.files))

    def identity(self) -> dict[str, Any]:
        """Hashes of weights and small files, prompt, choices, pixel rules."""
        from cxrbench.data.images import RULES

        folders = dict.fromkeys(each for each in (self.folders.get(PATH), self.opened.tokenizer) if each is not None)
        return {
            "name": self.name,
            "adapter": self.version,
            "revision": "",
            "form": self.opened.form,
            "weights": self._weights,
            "files": [hash_small_files(folder) for folder in folders],
            "load_format": "dummy" if self.dummy else "auto",
            "prompt": self.prompt_identity(),
            "choices": dict(self.opened.choices),
            "tokenizer": "checkpoint" if self.opened.tokenizer is not None else "stand-in",
            "image_rules": RULES,
            "image_backend": "pil",
        }

    def prompt_identity(self) -> str:
        """The prompt with its gaps, and how it is wrapped."""
        return f"{self.target}: {self.wrap(IMAGE + '...')}"

    def circumstances(self) -> dict[str, Any]:
        """Where the folders lie, and which tensors of the checkpoint are left out and why."""
        return {
            **{f"checkpoint_{key}": str(folder.resolve()) for key, folder in self.folders.items()},
            **origins(self.folders),
            "left_out": dict(self._left_out),
        }

    # Requests.

    def pick(self, sample: Sample) -> tuple[Image, ...]:
        """The images of a sample that are shown: the key image, or the first."""
        wanted = sample.key_image or (sample.images[0].image_id if sample.images else "")
        return tuple(image for image in sample.images if image.image_id == wanted)

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """One user turn; without inputs where the sample lacks what the model needs (outcome `no_input`)."""
        images = self.pick(sample)
        asked = self.ask(sample) if images or not self.needs_image else None
        if asked is None:
            return Request(sample.sample_id, kind, options=sample.options, generation=generation, seed=seed)
        question, used = asked
        return Request(
            sample_id=sample.sample_id,
            kind=kind,
            messages=(Message("user", question),),
            images=images,
            options=sample.options,
            inputs=(*(f"image:{image.view or 'unknown'}" for image in images), *used),
            generation=generation,
            seed=seed,
        )

    def cost(self, request: Request) -> int:
        """Rough prompt length in tokens."""
        return rough_cost(request)

    def render(self, request: Request) -> str:
        """The exact prompt as text, one <image> per image."""
        return self.wrap(request.messages[0].text) if request.messages else ""

    # Tensors.

    @property
    def tokenizer(self) -> Any:
        """Read once."""
        with self._lock:
            if self._tokenizer is None:
                folder = self.opened.tokenizer
                made = self.make_tokenizer(folder) if folder is not None else StandIn.of(self.opened.config)
                made("x")  # sets truncation and padding of a fast tokenizer once, before threads share it
                self._tokenizer = made
            return self._tokenizer

    @cached_property
    def _transform(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        return self.transform()

    def make_tokenizer(self, folder: Path) -> Any:
        """The tokenizer of the checkpoint; overridden where its class is code in the checkpoint."""
        return read_tokenizer(folder, bos=self.bos)

    @abstractmethod
    def tokens(self, prompt: str) -> list[int]:
        """Token ids of a prompt, images expanded."""

    def tensors(self, images: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
        """Further arguments of the network: pixel values (n, 3, h, w)."""
        import numpy as np
        import torch

        if not images:
            return {}
        return {"pixel_values": torch.from_numpy(np.stack([self._transform(image) for image in images]))}

    def encode(self, request: Request, images: Sequence[NDArray[np.uint8]]) -> Encoded:
        """Prompt and grey images as unpadded tensors.

        Raises:
            ValueError: the text holds what would pass for an image.
        """
        import torch

        ids = self.tokens(self.render(request))
        found = ids.count(self.image_token)
        if found != self.image_places(len(images)):
            raise ValueError("the text of the sample holds an image token")
        made = torch.tensor([ids])
        return Encoded(
            tensors={"input_ids": made, "attention_mask": torch.ones_like(made), **self.tensors(images)},
            sequence=frozenset({"input_ids", "attention_mask"}),
            prompt_tokens=len(ids),
            image_tokens=found,
        )

    def encode_option(self, request: Request, option: str) -> tuple[int, ...]:
        """Token ids of an option after the prompt, with the space the model would write before it."""
        prompt = self.render(request)
        before, whole = self.tokens(prompt), self.tokens(f"{prompt} {option.strip()}")
        if whole[: len(before)] == before and len(whole) > len(before):
            return tuple(whole[len(before) :])
        return tuple(self.tokenizer(f" {option.strip()}", add_special_tokens=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of new tokens without special tokens and surrounding space."""
        return str(
            self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ).strip()

    # The network.

    def eos(self) -> tuple[int, ...]:
        """Ids that end a text: the tokenizer's own."""
        token = self.tokenizer.eos_token_id
        if token is None:
            raise CxrbenchError(
                "the tokenizer names no token that ends a text",
                where=str(self.opened.tokenizer),
                fix="set eos_token in tokenizer_config.json",
            )
        return (int(token),)

    def find_encoder(self, module: Any) -> Any:
        """The image tower, to time it."""
        encoder = module.get_encoder(modality="image")
        return encoder if encoder is not module and encoder is not module.base_model else None

    def build(self, dtype: str = "fp32", attention: str = "sdpa") -> Any:
        """The network on the meta device: shapes without memory."""
        with stock._reading(self.folders.get(PATH, Path(self.name)), "configuration"):
            return network.build(self.network_class(), self.opened.config, dtype, attention)

    def check(self) -> tuple[Plan | None, int]:
        """Hold names and shapes of the checkpoint against the stock class; the plan, and the number of parameters.

        Reads headers only. The plan is None for random weights.

        Raises:
            CxrbenchError: they do not fit.
        """
        module = self.build()
        made = network.steps(module, self.opened.source(), self.opened.rows) if self.opened.source else None
        return made, network.count(module)

    def check_words(self) -> None:
        """Read the tokenizer, so that a folder without one is refused before anything is remembered.

        Raises:
            CxrbenchError: its files are missing or damaged, or it is not the model's.
        """
        self.tokenizer.decode([])
        if "generate" in self.kinds:
            self.eos()

    def module(self, settings: LoadSettings) -> Any:
        """The network from the original or the converted form, or with random weights."""
        module = self.build(settings.dtype, settings.attention)
        if self.opened.source is None or settings.load_format == "dummy":
            network.randomise(module, settings.device, settings.seed)
        else:
            made = network.fill(module, self.opened.source(), self.opened.rows, settings)
            self._left_out = made.told()
        return module

    def load(self, settings: LoadSettings) -> Network:
        """Bring the network up, in evaluation mode."""
        eos, module = self.eos(), self.module(settings)
        return self.finish(
            network.ready(module, eos=eos, pad=eos[0], device=settings.device, find_encoder=self.find_encoder)
        )

    def finish(self, made: Network) -> Network:
        """A last word on the loaded network; most models have none."""
        return made

    def convert(self, out: Path, progress: converted.Progress | None = None) -> Plan:
        """Write the converted form; see converted.py.

        Raises:
            CxrbenchError: this is the converted form, or names, shapes or values do not fit.
        """
        return convert(self, out, self._weights, progress)
