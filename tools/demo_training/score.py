"""How training is watched: reports written from resized pictures, and the tower's own view of the same pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cxrbench.data.phantom_world import KINDS
from demo_training.figures import rates
from demo_training.net import IMAGE_TOKENS, Head, planes, see
from demo_training.pool import PLACES, Pool
from demo_training.words import EOS, PAD, prompt_ids

BATCH = 100


def write_reports(model: Any, tokenizer: Any, pixels: NDArray[np.uint8], tokens: int) -> list[str]:
    """Greedy findings of resized pictures (n, 160, 160), `tokens` long at most."""
    from transformers import GenerationConfig

    prompt = prompt_ids(tokenizer, "findings", IMAGE_TOKENS)
    settings = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=EOS, pad_token_id=PAD)
    was = model.training
    model.eval()
    reports: list[str] = []
    with torch.inference_mode():
        for start in range(0, len(pixels), BATCH):
            part = torch.from_numpy(pixels[start : start + BATCH])
            ids = torch.tensor([prompt] * len(part))
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=planes(part),
                generation_config=settings,
            )
            reports += [tokenizer.decode(row[len(prompt) :], skip_special_tokens=True).strip() for row in out]
    model.train(was)
    return reports


def head_f1(model: Any, head: Head, pool: Pool) -> Mapping[str, Any]:
    """The same figures for the tower alone: every place whose presence the temporary head holds for likely."""
    hits, alarms, misses = (np.zeros(len(PLACES), np.int64) for _ in range(3))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(pool), BATCH):
            logits = head(see(model, torch.from_numpy(pool.pixels[start : start + BATCH])))[1]
            likely = (logits[:, :, 0] > 0).numpy()
            true = pool.severity[start : start + BATCH] > 0
            hits += (likely & true).sum(0)
            alarms += (likely & ~true).sum(0)
            misses += (~likely & true).sum(0)
    kinds = [place.split("/")[0] for place in PLACES]
    by_kind = {
        kind: rates(
            *(int(sum(row[i] for i in range(len(PLACES)) if kinds[i] == kind)) for row in (hits, alarms, misses))
        )["f1"]
        for kind in KINDS
    }
    return {**rates(int(hits.sum()), int(alarms.sum()), int(misses.sum())), "kinds": by_kind}
