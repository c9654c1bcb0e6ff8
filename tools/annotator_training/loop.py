"""The training loop all three share: AdamW, warm-up, cosine decay, one thread, fixed seeds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast: `studies` seeds the studies, `seed` the weights and the choice of variants."""

    steps: int
    batch: int
    rate: float
    seed: int
    studies: int
    warm_up: int = 200


def begin(plan: Plan) -> None:
    """Seed torch and take one thread, so that the same machine makes the same weights again."""
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)


def train(net: nn.Module, plan: Plan, loss_of: Callable[[], Tensor]) -> float:
    """Minimise what `loss_of` returns for its next batch; returns the seconds it took."""
    start = time.monotonic()
    decay = [p for p in net.parameters() if p.ndim > 1]
    other = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.01}, {"params": other, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    net.train()
    total = 0.0
    for step in range(plan.steps):
        warm = min(1.0, (step + 1) / plan.warm_up)
        rate = plan.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / plan.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        total += float(loss.detach())
        if (step + 1) % 250 == 0:
            print(
                f"  step {step + 1:>5} of {plan.steps}  loss {total / 250:.4f}  {time.monotonic() - start:.0f} s",
                flush=True,
            )
            total = 0.0
    net.eval()
    return time.monotonic() - start
