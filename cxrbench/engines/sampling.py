"""Sampling whose draws belong to the sample, and a watch over time and NaN.

`generate()` is always asked for greedy search (or beams). Sampling is the Gumbel-max trick: for Gumbel noise g,
argmax(log p + g) is a draw from p (Gumbel 1954; Maddison, Tarlow and Minka 2014, section 2), so noise on the warped
scores makes a greedy step a draw. Each row has its own generator, seeded by `Request.seed`: what is drawn does not
depend on the other rows, on their order, or on where a run was interrupted. torch is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cxrbench.engines.device import Clock
from cxrbench.types import Generation

if TYPE_CHECKING:
    import torch


def warp(scores: torch.Tensor, generation: Generation) -> torch.Tensor:
    """Temperature, then top-k, then top-p, as stock sampling orders them; what is cut becomes -inf.

    Args:
        scores: (rows, vocabulary), finite or -inf.
        generation: `temperature` must be positive.
    """
    import torch

    scores = scores / generation.temperature
    if 0 < generation.top_k < scores.shape[-1]:
        least = scores.topk(generation.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if generation.top_p < 1:
        ordered, order = scores.sort(dim=-1, descending=True)
        shares = ordered.softmax(dim=-1)
        before = shares.cumsum(dim=-1) - shares
        beyond = before >= generation.top_p
        beyond[:, 0] = False  # the likeliest token stays even where rounding says otherwise
        scores = scores.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
    return scores


class SeededSampler:
    """Turns a greedy step into a draw from the warped distribution, one generator per row."""

    def __init__(self, generation: Generation, seeds: Sequence[int], device: Any) -> None:
        import torch

        self.generation = generation
        self.generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Add noise to scores (rows, vocabulary)."""
        import torch

        warped = warp(scores, self.generation)
        noise = torch.empty_like(warped)
        for row, generator in enumerate(self.generators):
            noise[row].exponential_(generator=generator)
        return warped - noise.log()  # -log of an exponential variable is a Gumbel variable


class Watch:
    """Sees every step of a network: when the first scores were there, and at which steps a row was bad.

    A row is bad where its largest score, as the network gives it, is NaN or infinite; -inf elsewhere is a token that
    may not be chosen. Two small kernels a step; everything else waits until the batch is done. A forward hook, since
    `generate()` looks up the signature of every logits processor at every step, which costs more than the watch.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.first: float | None = None
        self._largest: list[torch.Tensor] = []

    @contextmanager
    def over(self, network: torch.nn.Module) -> Iterator[None]:
        """Watch the calls of `network` inside the `with` block."""
        hook = network.register_forward_hook(lambda _module, _inputs, output: self.see(output.logits))
        try:
            yield
        finally:
            hook.remove()

    def see(self, logits: torch.Tensor) -> None:
        """Look at the last position of logits (rows, positions, vocabulary)."""
        if self.first is None:
            self.first = self.clock.now()
        self._largest.append(logits[:, -1].amax(dim=-1))

    def bad_before(self, lengths: Sequence[int]) -> list[bool]:
        """For every row of the batch, whether it was bad before its text ended after `lengths[row]` tokens.

        With beam search a row has several candidates; one bad candidate is enough.
        """
        import torch

        bad = ~torch.stack(self._largest).isfinite().cpu()
        steps = bad.view(len(bad), len(lengths), -1).any(dim=-1)
        return [bool(steps[:length, row].any()) for row, length in enumerate(lengths)]
