"""What models that embed have in common: a request for one vector, and a text cut to what its tower reads.

torch is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cxrbench.models.adapter import Encoded
from cxrbench.types import Generation, Message, Request, RequestKind


def embed_request(
    sample_id: str,
    kind: RequestKind,
    images: Sequence[Any],
    text: str,
    named: Sequence[str],
    generation: Generation,
    seed: int,
) -> Request:
    """A request for the vector of one picture or one text; without either it has no inputs (outcome `no_input`)."""
    return Request(
        sample_id,
        kind,
        messages=(Message("user", text),) if text else (),
        images=tuple(images),
        inputs=tuple(named),
        generation=generation,
        seed=seed,
    )


def encode_text(ids: Sequence[int], longest: int) -> Encoded:
    """A text to embed as tensors, of at most so many tokens, the last of which always ends it."""
    import torch

    kept = list(ids) if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]
    made = torch.tensor([kept])
    return Encoded(
        tensors={"input_ids": made, "attention_mask": torch.ones_like(made)},
        sequence=frozenset({"input_ids", "attention_mask"}),
        prompt_tokens=len(kept),
        image_tokens=0,
        cut=len(kept) < len(ids),
    )
