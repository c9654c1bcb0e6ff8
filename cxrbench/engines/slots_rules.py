"""Penalties and token rules of one row: the stock processors, in the order generate() calls them. torch in functions.

generate() applies them to a padded batch, where an older transformers (5.17) also counts the padding as seen. Here a
row is on its own, so its text is what generate() gives for that prompt alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cxrbench.models.adapter import Network
from cxrbench.types import Generation

if TYPE_CHECKING:
    import torch


class Rules:
    """The processors of one row, and all its tokens so far."""

    def __init__(self, processors: Sequence[Any], prompt: torch.Tensor, room: int) -> None:
        self.processors = processors
        self._count = prompt.shape[1]
        self._tokens = prompt.new_zeros((1, self._count + room))
        self._tokens[:, : self._count] = prompt

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """New scores (vocabulary) for the next token."""
        row = scores[None]
        for processor in self.processors:
            row = processor(self._tokens[:, : self._count], row)
        return row[0]

    def append(self, token: int) -> None:
        """The next token was chosen."""
        self._tokens[0, self._count] = token
        self._count += 1


def rules_of(generation: Generation, network: Network, prompt: torch.Tensor) -> Rules | None:
    """The rules of a row with prompt (1, tokens); None where there are none, as in the preset `matched`."""
    import transformers as stock

    given, device, length = network.rules, prompt.device, prompt.shape[1]
    eos = list(network.eos)
    made: list[Any] = []
    if generation.repetition_penalty != 1:
        made.append(stock.RepetitionPenaltyLogitsProcessor(penalty=generation.repetition_penalty))
    if generation.no_repeat_ngram_size > 0:
        made.append(stock.NoRepeatNGramLogitsProcessor(generation.no_repeat_ngram_size))
    if given.get("bad_words_ids"):
        made.append(stock.NoBadWordsLogitsProcessor(given["bad_words_ids"], eos))
    if given.get("forced_bos_token_id") is not None:
        made.append(stock.ForcedBOSTokenLogitsProcessor(given["forced_bos_token_id"]))
    if given.get("forced_eos_token_id") is not None:
        last = length + generation.max_new_tokens
        made.append(stock.ForcedEOSTokenLogitsProcessor(last, given["forced_eos_token_id"], device=str(device)))
    if given.get("suppress_tokens"):
        made.append(stock.SuppressTokensLogitsProcessor(given["suppress_tokens"], device=str(device)))
    if given.get("begin_suppress_tokens"):
        made.append(
            stock.SuppressTokensAtBeginLogitsProcessor(given["begin_suppress_tokens"], length, device=str(device))
        )
    return Rules(made, prompt, generation.max_new_tokens) if made else None
