"""Answers of a network that are no text: a picture from the codes it wrote, a vector from its towers.

What an adapter that declares these kinds gives besides the rest of its contract:

    picture_codes(tokens) -> (found, wanted)      how many codes of a picture an answer holds, and how many make one
    paint(module, tokens) -> uint8 (H, W, 3)      the picture
    embed(module, inputs, kind) -> (n, d)         vectors of a batch; `inputs` are the collated tensors

torch is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrbench.types import OK, Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cxrbench.models.adapter import Network
    from cxrbench.models.base import Prepared


def painted(
    adapter: Any, network: Network, said: Prediction, tokens: Sequence[int]
) -> tuple[Prediction, NDArray[np.uint8] | None]:
    """The prediction of a request for a picture, from what the engine made of its tokens, and the picture.

    An answer that does not hold the codes of exactly one picture is the outcome `no_picture`.
    """
    found, wanted = adapter.picture_codes(tokens)
    if found != wanted:
        detail = f"the answer holds {found} codes, and a picture is {wanted}"
        return replace(said, outcome="no_picture", text=None, detail=detail), None
    return replace(said, outcome=OK, text=None), adapter.paint(network.module, tokens)


def vectors(
    adapter: Any, network: Network, part: Sequence[Prepared], inputs: dict[str, Any]
) -> list[NDArray[np.float32] | None]:
    """One vector per request of one kind, float32 (d,); None where it holds NaN or infinity."""
    made = adapter.embed(network.module, inputs, part[0].request.kind)
    rows = made.float().cpu().numpy()
    return [row if np.isfinite(row).all() else None for row in rows]


def embedded(prepared: Prepared, begin: float) -> Prediction:
    """The prediction beside a vector made just now, in a batch that started at `begin`.

    Finish reason `length`: the text was longer than its tower reads, and was cut as the authors cut it.
    """
    ready = prepared.payload
    return Prediction(
        sample_id=prepared.request.sample_id,
        outcome=OK,
        finish_reason="length" if ready.encoded.cut else "stop",
        prompt_tokens=ready.encoded.prompt_tokens,
        image_tokens=ready.encoded.image_tokens,
        inputs=prepared.request.inputs,
        times={**prepared.times, **ready.times(begin)},
    )
