"""Checkpoints in stock transformers layout: processor, tokenizer and network from a folder, nothing else.

Used by `hf` and by adapters that convert to stock classes. Always offline (`local_files_only`), never remote code,
image processors always of the PIL kind (the torchvision kind gives other pixels). torch and transformers are imported
inside functions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbench.errors import CxrbenchError
from cxrbench.models.adapter import Encoded, LoadSettings, Network
from cxrbench.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cxrbench.data.pixels import PixelTransform

TOKEN_RULES = (
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
)
"""Entries of generation_config.json that belong to the model's vocabulary. All others are settings of a run."""

DTYPES: Mapping[str, str] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Names of the command line and of torch."""


def require() -> None:
    """Raise unless torch and transformers can be imported, and torchvision where it is installed.

    torchvision is not used, but transformers imports it when it is there, and one built for another torch breaks every
    model class with a message that does not name it.
    """
    from importlib import import_module
    from importlib.util import find_spec

    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise CxrbenchError(
            f"running a network needs the extra `models`: {error}", fix="pip install 'cxrbench[models]'"
        ) from error
    if find_spec("torchvision") is None:
        return
    try:
        import_module("torchvision")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise CxrbenchError(
            f"the torchvision that is installed does not fit torch {torch.__version__}: {error}",
            fix="pip uninstall torchvision (cxrbench does not use it), or install the build that fits",
        ) from error


@contextlib.contextmanager
def _reading(folder: Path, part: str) -> Iterator[None]:
    """Turn what stock loading raises into one sentence, and keep its progress bars off the terminal."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except (
        OSError,
        ValueError,
        RuntimeError,
        ImportError,
        KeyError,
        TypeError,
        AttributeError,
        SafetensorError,
    ) as error:
        if "trust_remote_code" in str(error):
            raise _remote_code(folder) from error
        first = str(error).strip().split("\n")[0][:300]
        raise CxrbenchError(
            f"transformers cannot load the {part}: {first or type(error).__name__}",
            where=str(folder),
            fix="check that the folder is complete; `--debug` shows where it failed",
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()


def _remote_code(folder: Path) -> CxrbenchError:
    return CxrbenchError(
        "the checkpoint needs Python code of its own, and code from a checkpoint is never run",
        where=str(folder),
        fix="convert it to a stock transformers class, or use a model that has an adapter: cxrbench list models",
    )


def read_config(checkpoint: Checkpoint) -> Any:
    """The transformers configuration of a checkpoint.

    Raises:
        CxrbenchError: code of its own is needed, or the class is not one that takes images and writes text.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    folder, kind = checkpoint.folder, str(checkpoint.config.get("model_type", ""))
    if kind not in CONFIG_MAPPING_NAMES:
        if checkpoint.config.get("auto_map"):
            raise _remote_code(folder)
        raise CxrbenchError(
            f"transformers has no model type {kind!r}",
            where=str(folder / "config.json"),
            fix="update transformers, or check that this is a Hugging Face checkpoint",
        )
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise CxrbenchError(
            f"a {kind!r} model does not write text from images",
            where=str(folder / "config.json"),
            fix="name a checkpoint of an image-text-to-text class",
        )
    with _reading(folder, "configuration"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if config.is_encoder_decoder:
        raise CxrbenchError(
            f"{kind!r} is an encoder-decoder, which has no chat prompt",
            where=str(folder / "config.json"),
            fix="it needs an adapter of its own: cxrbench list models",
        )
    return config


def context_length(config: Any) -> int | None:
    """Positions of the decoder, None where the configuration states no limit."""
    limit = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return int(limit) if limit else None


class Precomputed:
    """Stands in for an image processor whose work is already done: takes pixel arrays (3, h, w), returns them stacked.

    Everything else (sizes, keyword arguments it knows) is answered by the stock processor it replaces, so that the
    text side of a stock processor counts the same image tokens.
    """

    def __init__(self, stock: Any) -> None:
        self.stock = stock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stock, name)

    def __call__(self, images: Sequence[NDArray[np.float32]], **_: Any) -> Any:
        import numpy as np
        from transformers.feature_extraction_utils import BatchFeature

        return BatchFeature({"pixel_values": np.stack(images)})


@dataclass(frozen=True, slots=True)
class Processing:
    """Text and image side of a checkpoint. `transform` is the fast, bit-exact pixel path, None where stock is used."""

    processor: Any
    tokenizer: Any
    template: str
    image_token_id: int | None
    transform: PixelTransform | None


def read_processing(checkpoint: Checkpoint, config: Any) -> Processing:
    """Load the processor, pin its image side to PIL, and find the chat template.

    Raises:
        CxrbenchError: incomplete, without chat template, or with an image processor that exists for torchvision only.
    """
    from transformers import AutoProcessor
    from transformers.models.auto.image_processing_auto import (
        AutoImageProcessor,
    )  # 5.17 exports it with torchvision only

    folder = checkpoint.folder
    with _reading(folder, "processor"):
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        stock = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, backend="pil"
        )
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or not hasattr(processor, "image_processor"):
        raise CxrbenchError(
            f"{type(processor).__name__} does not handle both text and images",
            where=str(folder),
            fix="copy processor_config.json (or preprocessor_config.json) and the tokenizer files into the folder",
        )
    _refuse_torchvision(stock, folder)
    transform = _fast_transform(stock)
    processor.image_processor = stock if transform is None else Precomputed(stock)
    tokenizer.padding_side = "left"
    tokenizer("x")  # sets truncation and padding of the fast tokenizer once, before threads share it
    token = getattr(config, "image_token_id", None)
    return Processing(
        processor=processor,
        tokenizer=tokenizer,
        template=_template(processor, tokenizer, folder),
        image_token_id=token if token is not None else getattr(config, "image_token_index", None),
        transform=transform,
    )


def _template(processor: Any, tokenizer: Any, folder: Path) -> str:
    found = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    if isinstance(found, dict):
        found = found.get("default")
    if not found:
        raise CxrbenchError(
            "the checkpoint has no chat template, so its prompt format is not known",
            where=str(folder),
            fix="put the model's own chat_template.jinja into the folder (docs/models-hf.md of the repository)",
        )
    return str(found)


def _fast_transform(stock: Any) -> PixelTransform | None:
    """The fast pixel path for this image processor, if there is one and it gives the same bits on a trial picture."""
    import numpy as np
    from PIL import Image

    from cxrbench.data.pixels import transform_for

    transform = transform_for(stock.to_dict())
    if transform is None:
        return None
    trial = ((np.arange(97)[:, None] * 7 + np.arange(131)[None, :] * 5) % 256).astype(np.uint8)
    expected = np.asarray(stock(images=Image.fromarray(trial).convert("RGB"))["pixel_values"][0])
    made = transform(trial)
    return transform if made.shape == expected.shape and np.array_equal(made, expected) else None


def _refuse_torchvision(stock: Any, folder: Path) -> None:
    """Raise where an image processor is not of the PIL kind."""
    if getattr(stock, "backend", "pil") != "pil":
        raise CxrbenchError(
            f"{type(stock).__name__} has no PIL version, and torchvision's pixels depend on what is installed",
            where=str(folder),
        )


def image_marks(processing: Processing) -> frozenset[str]:
    """How this checkpoint writes an image: what its template puts into the prompt, and the token of a patch."""
    marks = {getattr(processing.processor, "image_token", None)}
    if processing.image_token_id is not None:
        marks.add(processing.tokenizer.convert_ids_to_tokens(processing.image_token_id))
    return frozenset(mark for mark in marks if mark)


def encode(processing: Processing, text: str, images: Sequence[NDArray[np.uint8]]) -> Encoded:
    """Rendered prompt and grey images (H, W) as unpadded tensors; see `Encoded`.

    Raises:
        ValueError: the stock processor refuses the sample.
    """
    from PIL import Image

    pixels: list[Any] = []
    if processing.transform is not None:
        pixels = [processing.transform(image) for image in images]
    else:
        pixels = [Image.fromarray(image).convert("RGB") for image in images]
    bos = processing.tokenizer.bos_token
    made = processing.processor(
        images=pixels or None,
        text=[text],
        return_tensors="pt",
        add_special_tokens=not (bos and text.startswith(bos)),
    )
    ids = made["input_ids"]
    length = int(ids.shape[1])
    token = processing.image_token_id
    return Encoded(
        tensors=dict(made),
        sequence=frozenset(name for name, value in made.items() if tuple(value.shape) == (1, length)),
        prompt_tokens=length,
        image_tokens=int((ids == token).sum()) if token is not None else 0,
    )


def load_network(checkpoint: Checkpoint, settings: LoadSettings, tokenizer: Any) -> Network:
    """Bring the network up in evaluation mode.

    Raises:
        CxrbenchError: weights that are missing, left over or of another shape, or settings it cannot be loaded with.
    """
    return described(load_module(checkpoint, settings, WRITER), checkpoint, settings, tokenizer)


WRITER, EMBEDDER = "AutoModelForImageTextToText", "AutoModel"
"""Classes of transformers that choose the network's class by its configuration."""


def load_module(checkpoint: Checkpoint, settings: LoadSettings, kind: str) -> Any:
    """The network of a folder by one of the classes that choose, with its weights or random ones.

    Raises:
        CxrbenchError: as `load_network`.
    """
    make = _dummy if settings.load_format == "dummy" else _weighted
    return make(checkpoint, settings, kind)


def described(module: Any, checkpoint: Checkpoint, settings: LoadSettings, tokenizer: Any) -> Network:
    """Switch a loaded stock module to evaluation and find what ends its texts.

    Raises:
        CxrbenchError: nothing does.
    """
    from transformers import GenerationConfig

    module.eval()
    module.requires_grad_(False)
    generation = module.generation_config
    text = module.config.get_text_config(decoder=True)
    eos = _ids(generation.eos_token_id) or _ids(getattr(text, "eos_token_id", None)) or _ids(tokenizer.eos_token_id)
    if not eos:
        raise CxrbenchError(
            "the checkpoint names no token that ends a text",
            where=str(checkpoint.folder),
            fix="set eos_token_id in generation_config.json",
        )
    pad = (*_ids(generation.pad_token_id), *_ids(tokenizer.pad_token_id), *eos)[0]
    rules = {name: value for name in TOKEN_RULES if (value := getattr(generation, name, None)) is not None}
    module.generation_config = GenerationConfig(bos_token_id=generation.bos_token_id)
    encoder = module.get_encoder(modality="image")
    return Network(
        module=module,
        encoder=encoder if encoder is not module and encoder is not module.base_model else None,
        eos=eos,
        pad=pad,
        attention=str(module.config._attn_implementation),
        entry=next((str(each.device) for each in module.parameters() if each.device.type != "meta"), settings.device),
        rules=rules,
    )


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(each) for each in value) if isinstance(value, (list, tuple)) else (int(value),)


def _weighted(checkpoint: Checkpoint, settings: LoadSettings, kind: str) -> Any:
    import torch
    import transformers

    with _reading(checkpoint.folder, "weights"):
        module, info = getattr(transformers, kind).from_pretrained(
            checkpoint.folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that all of them are listed below instead of the first
            dtype=getattr(torch, DTYPES[settings.dtype]),
            attn_implementation=settings.attention,
            device_map=settings.device_map,
        )
        if settings.device_map is None:
            module.to(settings.device)
    _refuse_odd_keys(info, checkpoint.folder)
    return module


def _refuse_odd_keys(info: Mapping[str, Any], folder: Path) -> None:
    """Stock loading fills missing weights at random and drops unknown ones; a benchmark must not."""
    kinds = {
        "missing_keys": "are missing and would be random",
        "unexpected_keys": "are in the files but not in the model",
        "mismatched_keys": "have another shape than the model's",
    }
    for kind, what in kinds.items():
        names = sorted(str(each[0] if isinstance(each, tuple) else each) for each in info.get(kind) or ())
        if names:
            raise CxrbenchError(
                f"{len(names)} weights {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}",
                where=str(folder),
                fix="config.json and the weights are not of the same model; copy both from one place",
            )


def _dummy(checkpoint: Checkpoint, settings: LoadSettings, kind: str) -> Any:
    """Random weights of real scale, drawn on the device itself from a seed; the global random state stays as it was."""
    import torch
    import transformers
    from transformers import AutoConfig

    device = torch.device(settings.device)
    with _reading(checkpoint.folder, "configuration"):
        config = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            module = getattr(transformers, kind).from_config(
                config,
                trust_remote_code=False,
                dtype=getattr(torch, DTYPES[settings.dtype]),
                attn_implementation=settings.attention,
            )
        module.to_empty(device=device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(settings.seed)
            module.initialize_weights()
        module.tie_weights()
    return module
