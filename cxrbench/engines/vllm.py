"""Engine `vllm`: a checkpoint folder through vLLM's offline interface. NEVER RUN here: tested against a fake of it.

Written to the interface of vllm 0.18 and later: `LLM(model=..., ...)`, `SamplingParams(...)`, `LLM.get_tokenizer()` and
`LLM.generate(prompts, params)`, whose results have `prompt_token_ids` and `outputs[0]` with text, token_ids and
finish_reason. The prompt is the adapter's own rendering, so that vLLM's chat template plays no part. vLLM is imported
when the model is loaded, and its usage telemetry is switched off before that.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.models.adapter import Adapter, Face
from cxrbench.models.base import BatchResult, ModelOptions, Prepared
from cxrbench.models.generation import Preset
from cxrbench.types import EMPTY, OK, BatchTiming, Generation, Prediction, Request, RequestKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUIET: Mapping[str, str] = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
"""Set before vLLM is imported: no telemetry, no hub. Its processes inherit them."""

DTYPES = {"auto": "auto", "bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


class _Checkpoint(Protocol):
    folder: Path


class _HasFolder(Protocol):
    checkpoint: _Checkpoint


@dataclass(frozen=True, slots=True)
class Ready:
    """A request as vLLM takes it; when it was taken up, and when it was ready."""

    prompt: str
    images: tuple[NDArray[np.uint8], ...]
    accepted: float
    ready: float


class VllmEngine:
    """See `cxrbench.engines.base.Engine`."""

    name: ClassVar[str] = "vllm"
    needs: ClassVar[Face] = "folder"
    serves: ClassVar[frozenset[RequestKind]] = frozenset({"generate"})
    refuses: ClassVar[Mapping[RequestKind, str]] = {
        "score_options": "scoring with vllm has not been built; use engine transformers",
        "embed_image": "vllm gives text here, not vectors",
        "embed_text": "vllm gives text here, not vectors",
        "generate_image": "vllm gives text here, not images",
    }
    settings: ClassVar[Mapping[str, str]] = {"images_per_prompt": "most images of one sample (8)"}

    def __init__(self, adapter: Adapter, options: ModelOptions, preset: Preset) -> None:
        dtype = options.dtype if options.dtype != "auto" else preset.dtype
        if dtype not in DTYPES:
            raise CxrbenchError(f"{dtype!r} is no precision", where="--dtype", fix=f"one of: {', '.join(DTYPES)}")
        if options.device not in ("auto", "cuda"):
            raise CxrbenchError("vllm chooses its own device", where="--device", fix="leave it out")
        images = options.extra.get("images_per_prompt", "8")
        if not images.isdecimal() or int(images) < 1:
            raise CxrbenchError(f"images_per_prompt must be a whole number, not {images!r}", where="--set")
        self.adapter = adapter
        self.read_image = options.read_image
        self.dtype, self.seed, self.images = dtype, options.seed, int(images)
        self.load_format = options.load_format
        self._loaded: tuple[Any, Any] | None = None
        self._lock = threading.Lock()

    @property
    def batch_size(self) -> int:
        """Many at once: vLLM schedules inside a batch."""
        return 128

    def identity(self) -> dict[str, Any]:
        """What of the engine changes the text."""
        return {"engine": self.name, "dtype": self.dtype}

    def circumstances(self) -> dict[str, Any]:
        """Brings vLLM up."""
        _, module = self._load()
        return {"vllm": str(module.__version__)}

    def _load(self) -> tuple[Any, Any]:
        """(LLM, the module), loaded by the first caller."""
        with self._lock:
            if self._loaded is None:
                module = _import_vllm()
                checkpoint: Any = self.adapter  # offers "folder": see models/adapter.py
                holder: _HasFolder = checkpoint
                llm = module.LLM(
                    model=str(holder.checkpoint.folder),
                    dtype=DTYPES[self.dtype],
                    seed=self.seed,
                    load_format=self.load_format,
                    trust_remote_code=False,
                    limit_mm_per_prompt={"image": self.images},
                )
                self._loaded = (llm, module)
            return self._loaded

    def close(self) -> None:
        """Drop vLLM; its processes end with it."""
        with self._lock:
            self._loaded = None

    def prepare(self, request: Request) -> Prepared:
        """Read the images and render the prompt. Thread-safe; what is wrong with one sample is its `failure`."""
        from cxrbench.data.images import ImageFailure

        accepted = time.perf_counter()
        if not request.images and not request.inputs:
            return Prepared(request, failure=("no_input", "the sample offers no image and no text to this model"))
        if len(request.images) > self.images:
            detail = f"{len(request.images)} images, and vllm was loaded for {self.images}"
            return Prepared(request, failure=("engine_error", detail))
        try:
            greys = tuple(self.read_image(image.path) for image in request.images)
        except ImageFailure as error:
            return Prepared(request, failure=(error.outcome, error.detail))
        read = time.perf_counter()
        ready = Ready(self.adapter.render(request), greys, accepted, time.perf_counter())
        return Prepared(request, ready, times={"image_read": read - accepted, "preprocess": ready.ready - read})

    def generate(self, batch: int, prepared: Sequence[Prepared]) -> BatchResult:
        """Answer a batch in one call of vLLM."""
        from PIL import Image as Picture

        llm, module = self._load()
        begin = time.perf_counter()
        prompts, params = [], []
        for each in prepared:
            pictures = [Picture.fromarray(grey).convert("RGB") for grey in each.payload.images]
            data = {"multi_modal_data": {"image": pictures}} if pictures else {}
            prompts.append({"prompt": _led_once(each.payload.prompt, llm.get_tokenizer()), **data})
            params.append(module.SamplingParams(**sampling(each.request.generation, each.request.seed)))
        results = _ask(llm, prompts, params)
        made = tuple(_prediction(each, result, begin) for each, result in zip(prepared, results, strict=True))
        return BatchResult(made, BatchTiming(batch=batch, size=len(prepared), wall=time.perf_counter() - begin))


def _ask(llm: Any, prompts: Sequence[Any], params: Sequence[Any]) -> list[Any]:
    """Results of vLLM; an outcome in the place of each it refuses.

    It refuses a whole call with a ValueError where one prompt is longer than its context, so what was refused is asked
    one by one: a prompt is never cut, and takes no other sample with it.
    """
    try:
        return list(llm.generate(prompts, params, use_tqdm=False))
    except ValueError as error:
        if len(prompts) == 1:
            said = str(error).lower()
            return ["prompt_too_long" if "longer than" in said or "max_model_len" in said else "engine_error"]
        return [each for pair in zip(prompts, params, strict=True) for each in _ask(llm, [pair[0]], [pair[1]])]


def _led_once(prompt: str, tokenizer: Any) -> str:
    """The prompt without a BOS that the template wrote, where vLLM's tokenizer puts one before every text itself."""
    bos = getattr(tokenizer, "bos_token", None)
    if not bos or not prompt.startswith(bos) or list(tokenizer.encode("x"))[:1] != [tokenizer.bos_token_id]:
        return prompt
    return prompt.removeprefix(bos)


def sampling(generation: Generation, seed: int) -> dict[str, Any]:
    """Our settings in vLLM's terms.

    Raises:
        CxrbenchError: beams or n-gram bans, which vLLM's sampler does not have.
    """
    if generation.num_beams != 1 or generation.no_repeat_ngram_size != 0:
        raise CxrbenchError(
            "vllm has no beams and no n-gram bans",
            where="--engine vllm",
            fix="--engine transformers, or leave them out",
        )
    return {
        "n": 1,
        "max_tokens": generation.max_new_tokens,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "top_k": generation.top_k or -1,
        "repetition_penalty": generation.repetition_penalty,
        "seed": seed % 2**31,
    }


def _prediction(prepared: Prepared, result: Any, begin: float) -> Prediction:
    ready: Ready = prepared.payload
    if isinstance(result, str):
        told = {"prompt_too_long": "vLLM says that prompt and images do not fit its context"}
        return Prediction(
            prepared.request.sample_id, result, finish_reason="error", inputs=prepared.request.inputs,
            times=dict(prepared.times), detail=told.get(result, "vLLM refused the request"),
        )  # fmt: skip
    output = result.outputs[0]
    known = output.finish_reason in ("stop", "length")
    text = str(output.text).strip()
    return Prediction(
        sample_id=prepared.request.sample_id,
        outcome=("engine_error" if not known else OK if text else EMPTY),
        text=text if known else None,
        finish_reason=output.finish_reason if known else "error",
        prompt_tokens=len(result.prompt_token_ids or ()) or None,
        output_tokens=len(output.token_ids),
        inputs=prepared.request.inputs,
        times={**prepared.times, "wait": begin - ready.ready, "latency": time.perf_counter() - ready.accepted},
        detail=None if known else "vllm ended the text for another reason than stop or length",
    )


def _import_vllm() -> Any:
    os.environ.update(QUIET)
    try:
        import vllm
    except ImportError as error:
        raise CxrbenchError(
            "engine vllm needs the package vllm", fix="pip install 'cxrbench[vllm]'", code=Exit.INFRASTRUCTURE
        ) from error
    return vllm
