"""Engine `openai`: one chat completion per sample from any OpenAI-compatible server (vLLM, SGLang, Ollama, commercial).

The guard is asked when the engine is built, before data are read. Images travel as PNG data URLs of the grey pixels
every other engine sees. A batch of the run is only what is under way together: an answer does not depend on it, so a
resumed run asks for the samples that have none. docs/openai.md is the user's page.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.engines.server_settings import SETTINGS, read_settings
from cxrbench.errors import CxrbenchError
from cxrbench.http import Call, Client, Server, encode
from cxrbench.http_answer import NO_ANSWER, Answer
from cxrbench.models.adapter import Adapter, Face
from cxrbench.models.base import BatchResult, ModelOptions, Prepared
from cxrbench.models.generation import Preset
from cxrbench.models.instruction import parts_of
from cxrbench.types import BatchTiming, Generation, Prediction, Request, RequestKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NO_SPACE = "chat servers give text, not vectors"
NEUTRAL: Mapping[str, Any] = {"num_beams": 1, "top_k": 0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
"""Generation settings the protocol has no word for; servers that do not know one pass it over without saying so."""

SEEDS = 2**31
"""Seeds are sent modulo this: JSON numbers above 2^53 are not safe everywhere."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A request as the bytes that are sent; when it was taken up, and when it was ready (`time.perf_counter`)."""

    call: Call
    accepted: float
    ready: float


class OpenAIEngine:
    """See `cxrbench.engines.base.Engine`."""

    name: ClassVar[str] = "openai"
    needs: ClassVar[Face] = "messages"
    serves: ClassVar[frozenset[RequestKind]] = frozenset({"generate"})
    refuses: ClassVar[Mapping[RequestKind, str]] = {
        "score_options": "it needs log-probabilities of given texts after a prompt, which chat servers do not give",
        "embed_image": NO_SPACE,
        "embed_text": NO_SPACE,
        "generate_image": "chat servers give text, not images",
    }
    settings: ClassVar[Mapping[str, str]] = SETTINGS
    independent: ClassVar[bool] = True
    remote: ClassVar[bool] = True

    def __init__(self, adapter: Adapter, options: ModelOptions, preset: Preset) -> None:
        self.adapter = adapter
        self.read_image = options.read_image
        self.server_settings = read_settings(options)
        _refuse_unsaid({**preset.generation, **options.generation})
        self._server: Server | None = None
        self._known: dict[str, Any] | None = None

    @property
    def batch_size(self) -> int:
        """Two rounds of what is under way together: little is lost to a kill, and few wait for the slowest."""
        return 2 * self.server_settings.policy.concurrency

    def identity(self) -> dict[str, Any]:
        """Which server, which of its models, and how images are sent."""
        settings = self.server_settings
        return {
            "engine": self.name,
            "endpoint": settings.endpoint.url,
            "served": settings.model,
            "max_side": settings.max_side,
        }

    def circumstances(self) -> dict[str, Any]:
        """How it is asked, under which agreement, and whether it lists the model; the server must be there."""
        if self._known is None:
            import httpx

            settings = self.server_settings
            with self._connect() as server:  # of its own: a plan that is only looked at leaves no connection behind
                listed = server.models()
            self._known = {
                "endpoint": settings.endpoint.url,
                "agreement": settings.endpoint.agreement,
                "listed": settings.model in listed if listed is not None else None,
                "concurrency": settings.policy.concurrency,
                "httpx": httpx.__version__,
            }
        return dict(self._known)

    def _connect(self) -> Server:
        settings = self.server_settings
        return Server(Client(settings.endpoint, settings.policy, settings.budget, settings.key))

    def _open(self) -> Server:
        if self._server is None:
            self._server = self._connect()
        return self._server

    def close(self) -> None:
        """Close all connections."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def prepare(self, request: Request) -> Prepared:
        """Read the images and make the bytes to send. Thread-safe; what is wrong with one sample is its `failure`."""
        from cxrbench.data.images import ImageFailure

        accepted = time.perf_counter()
        _refuse_unsaid({name: getattr(request.generation, name) for name in NEUTRAL})
        if not request.images and not request.inputs:
            return Prepared(request, failure=("no_input", "the sample offers no image and no text to this model"))
        try:
            greys = [self.read_image(image.path) for image in request.images]
        except ImageFailure as error:
            spent = {"image_read": time.perf_counter() - accepted}
            return Prepared(request, failure=(error.outcome, error.detail), times=spent)
        read = time.perf_counter()
        urls = [data_url(grey, self.server_settings.max_side) for grey in greys]
        call = Call(encode(self._body(request, urls)), self.adapter.cost(request), request.generation.max_new_tokens)
        ready = time.perf_counter()
        return Prepared(
            request, Ready(call, accepted, ready), times={"image_read": read - accepted, "preprocess": ready - read}
        )

    def _body(self, request: Request, urls: Sequence[str]) -> dict[str, Any]:
        settings, generation = self.server_settings, request.generation
        left = iter(urls)
        body = {
            "model": settings.model,
            "messages": [
                {"role": message.role, "content": _content(message.text, left)} for message in request.messages
            ],
            settings.limit_key: generation.max_new_tokens,
        }
        return body | _sampling(generation, request.seed)

    def generate(self, batch: int, prepared: Sequence[Prepared]) -> BatchResult:
        """Ask for all of a batch.

        Raises:
            CxrbenchError: nothing more can be asked (a wrong key, a lost server, a spent budget). A batch of which a
                part was answered before that is returned first, so that nothing paid for is lost.
        """
        server = self._open()
        begin = time.perf_counter()
        before = server.client.stopped
        if before is not None:
            raise before
        answers = server.ask_all([each.payload.call for each in prepared])
        after = server.client.stopped
        if after is not None and all(answer.outcome == NO_ANSWER for answer in answers):
            raise after
        made = tuple(_prediction(each, answer) for each, answer in zip(prepared, answers, strict=True))
        return BatchResult(made, BatchTiming(batch=batch, size=len(prepared), wall=time.perf_counter() - begin))


def _sampling(generation: Generation, seed: int) -> dict[str, Any]:
    if generation.temperature == 0:
        return {"temperature": 0}
    return {"temperature": generation.temperature, "top_p": generation.top_p, "seed": seed % SEEDS}


def _refuse_unsaid(generation: Mapping[str, Any]) -> None:
    for name, neutral in NEUTRAL.items():
        value = generation.get(name, neutral)
        if float(value) != neutral:
            raise CxrbenchError(
                f"a server cannot be told {name}={value}: the protocol has no such setting",
                where="--engine openai",
                fix=f"--set {name}={neutral:g}, or an engine that has the weights",
            )


def _content(text: str, urls: Any) -> str | list[dict[str, Any]]:
    """A message's content: plain text, or parts where it holds images."""
    parts = parts_of(text)
    if all(part["type"] == "text" for part in parts):
        return text
    return [
        {"type": "image_url", "image_url": {"url": next(urls)}} if part["type"] == "image" else part for part in parts
    ]


def data_url(grey: NDArray[np.uint8], max_side: int | None = None) -> str:
    """Grey pixels (H, W) as a PNG data URL; a longer side than `max_side` is brought down to it."""
    from PIL import Image as Picture

    picture = Picture.fromarray(grey)
    if max_side is not None and max(picture.size) > max_side:
        ratio = max_side / max(picture.size)
        width, height = (max(1, round(side * ratio)) for side in picture.size)
        picture = picture.resize((width, height), Picture.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)  # twice as fast as the default, and a tenth larger
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _prediction(prepared: Prepared, answer: Answer) -> Prediction:
    ready: Ready = prepared.payload
    times = dict(prepared.times)
    if answer.ended:
        times |= {
            "wait": answer.begun - ready.ready,
            "server": answer.ended - answer.begun,
            "latency": answer.ended - ready.accepted,
        }
    served = " ".join(part for part in (answer.model, answer.fingerprint) if part)
    return Prediction(
        sample_id=prepared.request.sample_id,
        outcome=answer.outcome,
        text=answer.text,
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        inputs=prepared.request.inputs,
        times=times,
        detail=answer.detail,
        served=served or None,
    )
