"""lm-eval's models as ours: `cxrbench run --model lm-eval:hf-multimodal,pretrained=DIR --task demo-findings`.

They are asked in our batches and every batch is on disk before the next begins, so a killed run goes on (lm-eval's own
response cache takes all studies of one prompt for the same request). lm-eval gives texts and nothing else: finish
reasons are unknown, and prompt tokens are counted where the model has a processor.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from cxrbench.bridges.lazy_image import rgb
from cxrbench.data.images import RULES, ImageFailure
from cxrbench.errors import CxrbenchError
from cxrbench.features.device import pick_device
from cxrbench.models.adapter import IMAGE
from cxrbench.models.base import BatchResult, ModelCard, ModelOptions, Prepared
from cxrbench.models.instruction import Instruction, rough_cost
from cxrbench.types import EMPTY, OK, BatchTiming, Generation, Prediction, Request, RequestKind, Sample

LOCAL = frozenset({"hf-multimodal", "vllm-vlm"})
"""Models of lm-eval that look at images and run in this process; the others may send what they are given."""

FROM_A_HUB = ("pretrained", "tokenizer", "peft", "delta", "lora_local_path")
"""Arguments of lm-eval's models that name a checkpoint, which lm-eval would fetch where it is no folder."""

DEFAULT_BATCH = 8


class LmEvalModel:
    """See `cxrbench.models.base.Model`. `argument` is `NAME,key=value,...` as lm-eval's --model and --model_args."""

    kinds: frozenset[RequestKind] = frozenset({"generate"})
    needs_pool = False
    batch_size = DEFAULT_BATCH

    def __init__(self, options: ModelOptions) -> None:
        self.name, _, self.arguments = options.argument.partition(",")
        if not self.name:
            raise CxrbenchError(
                "lm-eval needs the name of one of its models",
                where="--model lm-eval",
                fix="--model lm-eval:hf-multimodal,pretrained=DIR",
            )
        _check(options, self.name)
        _check_local(self.name, self.arguments)
        self.options = options
        self.instruction = Instruction.of(options.extra, options.images)
        self.generation = options.generation
        self.card = ModelCard(
            f"lm-eval:{self.name}",
            "a model as lm-eval runs it",
            source=self.arguments,
            notes="asked with cxrbench's instructions; lm-eval tells no finish reason and no token counts",
        )

    @property
    def consumes(self) -> frozenset[str]:
        """What the instruction has room for."""
        return self.instruction.consumes

    def identity(self) -> dict[str, Any]:
        """lm-eval's name and arguments, its version (its models change with it), the instruction and pixel rules."""
        from importlib.metadata import version

        return {
            "name": self.card.name,
            "arguments": self.arguments,
            "lm_eval": version("lm_eval"),
            "prompt": self.instruction.text,
            "images": self.instruction.images,
            "image_rules": RULES,
            "dtype": self.options.dtype,
        }

    def circumstances(self) -> dict[str, Any]:
        """Where it runs."""
        return {"device": str(getattr(self._lm, "device", self.options.device)), "engine": f"lm-eval:{self.name}"}

    def fit(self, pool: Callable[[], Iterable[Sample]]) -> None:
        """Look at nothing."""

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """The instruction of cxrbench, as `hf:` and `openai:` put it."""
        return self.instruction.request(sample, kind, generation, seed)

    def cost(self, request: Request) -> int:
        """Rough prompt length in tokens."""
        return rough_cost(request)

    def prepare(self, request: Request) -> Prepared:
        """Read the images; RGB, as lm-eval's models expect. Without an image they break, so such a sample fails."""
        if not request.images:
            return Prepared(request, failure=("no_input", "lm-eval's image models take no text alone"))
        begun = time.perf_counter()
        try:
            images = [rgb(self.options.read_image(image.path)) for image in request.images]
        except ImageFailure as error:
            return Prepared(request, failure=(error.outcome, error.detail))
        return Prepared(request, payload=(begun, images), times={"image_read": time.perf_counter() - begun})

    def generate(self, batch: int, prepared: Sequence[Prepared]) -> BatchResult:
        """Ask lm-eval for one batch."""
        begun = time.perf_counter()
        prompts = [self._prompt(each.request) for each in prepared]
        tokens = [self._tokens(prompt, each.payload[1]) for prompt, each in zip(prompts, prepared, strict=True)]
        room = [self._fits(each.request, count) for each, count in zip(prepared, tokens, strict=True)]
        asked = [self._instance(place, prompts[place], prepared[place]) for place, good in enumerate(room) if good]
        self._lm.batch_size_per_gpu = max(1, len(asked))  # batches are ours: lm-eval shall not cut them again
        texts = iter(self._lm.generate_until(asked, disable_tqdm=True) if asked else ())
        ended = time.perf_counter()
        predictions = []
        for each, count, good in zip(prepared, tokens, room, strict=True):
            text = next(texts) if good else None
            outcome = "prompt_too_long" if text is None else OK if text.strip() else EMPTY
            predictions.append(
                Prediction(
                    each.request.sample_id,
                    outcome,
                    text,
                    finish_reason="none" if good else "error",
                    prompt_tokens=count,
                    times={"latency": ended - each.payload[0]},
                    batch=batch,
                )
            )
        return BatchResult(tuple(predictions), BatchTiming(batch, len(prepared), ended - begun))

    def close(self) -> None:
        """Let the model go."""
        self.__dict__.pop("_lm", None)

    # ---- lm-eval

    @cached_property
    def _lm(self) -> Any:
        from lm_eval.api.registry import get_model

        from cxrbench.bridges.lm_eval_export import register

        register()
        settings = {"device": self._device, "batch_size": 1}
        if self.options.dtype != "auto":
            settings["dtype"] = DTYPES[self.options.dtype]
        try:
            with _no_hub():
                made = get_model(self.name).create_from_arg_string(self.arguments, settings)
        except (ValueError, OSError, TypeError) as error:  # OSError: it would have asked the hub; TypeError: arguments
            said = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise CxrbenchError(
                f"lm-eval cannot make {self.name!r} from what is on this machine: {said}", where="--model lm-eval"
            ) from error
        if not getattr(made, "MULTIMODAL", False):
            raise CxrbenchError(
                f"lm-eval's {self.name!r} looks at no images", where="--model lm-eval", fix="hf-multimodal, vllm-vlm"
            )
        return made

    @property
    def _device(self) -> str | None:
        """What lm-eval is told: unasked it takes CUDA, whether there is one or not. None: its own arguments say it."""
        if self.options.device != "auto":
            return self.options.device
        named = "device" in (each.partition("=")[0] for each in self.arguments.split(","))
        return pick_device("auto") if self.name == "hf-multimodal" and not named else None

    def _prompt(self, request: Request) -> str:
        """The turns through the model's chat template, where it has one. The template changes what it is given."""
        turns = [{"role": message.role, "content": message.text} for message in request.messages]
        processor = getattr(self._lm, "processor", None)
        if processor is None or not getattr(processor, "chat_template", None):
            return "\n".join(turn["content"] for turn in turns)
        return str(self._lm.apply_chat_template(copy.deepcopy(turns)))

    def _tokens(self, prompt: str, images: list[Any]) -> int | None:
        """Tokens of the prompt with its images, None where the model cannot say.

        Raises:
            CxrbenchError: the images leave no token in the prompt, so that nobody would look at them.
        """
        processor = getattr(self._lm, "processor", None)
        if processor is None:
            return None
        marker = self._lm.image_token
        text = prompt if getattr(self._lm, "chat_applied", False) else prompt.replace(IMAGE, marker)
        ids = list(processor(text=[text], images=images or None)["input_ids"][0])
        if images and self._lm.image_token_id not in ids:
            raise CxrbenchError(
                f"the prompt holds no image token ({marker}), so the model would not see the picture",
                where="--model lm-eval",
                fix="image_token_id=ID or image_string=TEXT among the arguments",
            )
        return len(ids)

    def _fits(self, request: Request, tokens: int | None) -> bool:
        """Whether lm-eval would leave the prompt whole; it cuts from the left, images first."""
        limit = getattr(self._lm, "max_length", None)
        return tokens is None or limit is None or tokens + request.generation.max_new_tokens <= limit

    def _instance(self, place: int, prompt: str, prepared: Prepared) -> Any:
        from lm_eval.api.instance import Instance

        request = prepared.request
        arguments = (prompt, _keywords(request.generation), {"visual": prepared.payload[1]})
        return Instance("generate_until", {"sample_id": request.sample_id}, arguments, 0, ("cxrbench", place, 1))


DTYPES: Mapping[str, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def _check(options: ModelOptions, name: str) -> None:
    """What lm-eval cannot take, and models of it that would send credentialed data away."""
    if options.access != "open" and name not in LOCAL:
        raise CxrbenchError(
            f"lm-eval's {name!r} may send what it is given to a server, and the data are credentialed",
            where="--model lm-eval",
            fix="--model openai:NAME --set url=..., which asks whether the host is trusted; here: "
            + ", ".join(sorted(LOCAL)),
        )
    for option, value, usual in (
        ("--preset", options.preset, (None,)),
        ("--load-format", options.load_format, ("auto",)),
        ("--dtype", options.dtype, ("auto", *DTYPES)),
    ):
        if value not in usual:
            raise CxrbenchError(
                f"lm-eval's models take no {option} {value}", where=option, fix="settings after the model's name"
            )


def _check_local(name: str, arguments: str) -> None:
    """Refuse a checkpoint that is not named, or is no folder here: lm-eval would fetch it, and nobody said it may.

    Raises:
        CxrbenchError: names the argument.
    """
    given = [each.partition("=") for each in arguments.split(",")]
    if name in LOCAL and "pretrained" not in [key.strip() for key, _, _ in given]:
        raise CxrbenchError(
            f"lm-eval's {name!r} needs a checkpoint, and `pretrained` is missing",
            where=f"--model lm-eval:{name}",
            fix=f"--model lm-eval:{name},pretrained=DIR",
        )
    for key, _, value in given:
        if key.strip() in FROM_A_HUB and not _is_folder(value.strip()):
            raise CxrbenchError(
                f"there is no folder {value!r}, and a run asks no hub for it",
                where=f"--model lm-eval:{name}, argument {key.strip()}",
                fix=f"{key.strip()}=DIR names a folder on this machine; fetch a checkpoint with "
                "`hf download REPO --local-dir DIR`",
            )


def _is_folder(name: str) -> bool:
    return os.path.isdir(name)  # noqa: PTH112 - Path.is_dir raises for a name that is too long


@contextmanager
def _no_hub() -> Iterator[None]:
    """While lm-eval loads, the hub is not asked either for what a folder names (a base model, remote code)."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _keywords(generation: Generation) -> dict[str, Any]:
    """Our generation settings in lm-eval's words; neutral ones are left to the model's own."""
    settings: dict[str, Any] = {"until": [], "max_gen_toks": generation.max_new_tokens}
    if generation.temperature > 0:
        settings |= {"do_sample": True, "temperature": generation.temperature, "top_p": generation.top_p}
        if generation.top_k:
            settings["top_k"] = generation.top_k
    else:
        settings |= {"do_sample": False, "temperature": 0.0}
    neutral = Generation()
    for key in ("num_beams", "repetition_penalty", "no_repeat_ngram_size"):
        if getattr(generation, key) != getattr(neutral, key):
            settings[key] = getattr(generation, key)
    return settings
