"""Prepared requests become the tensors of one call. torch is imported inside functions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal

from cxrbench.models.adapter import Encoded

PADDED = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
"""Per-token tensors whose padding is known: the pad token for `input_ids`, 0 for the others."""


def shape_key(encoded: Encoded) -> Hashable:
    """Requests with equal keys fit into one call: the same tensors, of one shape apart from their first axis.

    A per-token tensor whose padding is not known counts with its length, so only prompts of one length meet.
    """
    padded = encoded.sequence & PADDED
    rest = ((name, tuple(value.shape[1:])) for name, value in encoded.tensors.items() if name not in padded)
    return padded, tuple(sorted(rest))


def collate(
    rows: Sequence[Encoded], pad: int, side: Literal["left", "right"], device: Any, dtype: Any
) -> dict[str, Any]:
    """Pad per-token tensors to the longest row and join the others along their first axis.

    Args:
        rows: requests of one `shape_key`.
        pad: token id that fills `input_ids`; all other per-token tensors are filled with 0.
        side: left for generation, right for scoring (positions then count from 0 without a mask).
        device: where the tensors go.
        dtype: what floating tensors (pixels) become; token tensors stay int64.
    """
    import torch

    longest = max(row.prompt_tokens for row in rows)
    made: dict[str, Any] = {}
    for name, first in rows[0].tensors.items():
        if name in rows[0].sequence & PADDED:
            value = torch.full((len(rows), longest), pad if name == "input_ids" else 0, dtype=first.dtype)
            for number, row in enumerate(rows):
                place = slice(longest - row.prompt_tokens, None) if side == "left" else slice(0, row.prompt_tokens)
                value[number, place] = row.tensors[name][0]
        else:
            value = torch.cat([row.tensors[name] for row in rows])
        made[name] = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    return made


def extend(encoded: Encoded, tokens: Sequence[int]) -> Encoded:
    """The same request with further text tokens after the prompt."""
    import torch

    tail = {
        "input_ids": torch.tensor([list(tokens)]),
        "attention_mask": torch.ones((1, len(tokens)), dtype=torch.int64),
    }
    tensors = dict(encoded.tensors)
    for name in encoded.sequence:
        more = tail.get(name, torch.zeros((1, len(tokens)), dtype=torch.int64))
        tensors[name] = torch.cat([tensors[name], more.to(tensors[name].dtype)], dim=1)
    return Encoded(tensors, encoded.sequence, encoded.prompt_tokens + len(tokens), encoded.image_tokens)
