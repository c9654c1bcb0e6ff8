"""Answer options scored by a network: the log-probability of each option after the prompt. torch inside functions."""

from __future__ import annotations

from collections.abc import Sequence

from cxrbench.engines.batching import collate, extend
from cxrbench.models.adapter import Encoded, Network


def score_options(network: Network, prompt: Encoded, options: Sequence[Sequence[int]]) -> list[float]:
    """Sum of log p(token | prompt, tokens before) over the tokens of each option, natural logarithm.

    One call with a row per option, padded on the right (a causal decoder does not see what follows). The score is
    not divided by the number of tokens: that choice is the metric's, which gets the counts beside the scores.

    Args:
        network: a loaded decoder.
        prompt: the encoded prompt with its images, which every row repeats.
        options: token ids of each option, not empty.

    Raises:
        ValueError: an option without tokens.
    """
    import torch

    if not options or not all(options):
        raise ValueError("every option needs at least one token")
    rows = [extend(prompt, tokens) for tokens in options]
    inputs = collate(rows, network.pad, "right", network.entry, network.module.dtype)
    logits = network.module(**inputs, use_cache=False).logits
    scores = []
    for row, tokens in enumerate(options):
        place = slice(prompt.prompt_tokens - 1, prompt.prompt_tokens - 1 + len(tokens))
        shares = logits[row, place].float().log_softmax(dim=-1)
        wanted = torch.tensor(tokens, device=shares.device)[:, None]
        scores.append(float(shares.gather(1, wanted).sum()))
    return scores
