"""The published figures, each with its formula. Rates are over whole windows of all valid blocks. No torch.

What is not here: ITL, the list of gaps between tokens, since no engine reports single tokens; goodput, since no
scenario has arrivals. Offline and single-stream figures are never divided by one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from cxrbench.throughput import roofline as roof
from cxrbench.throughput.block import STAGES, Block
from cxrbench.throughput.facts import Gpu
from cxrbench.throughput.ratio import percentile

SHARES = (0.5, 0.9, 0.99)


def reports_per_second(blocks: Sequence[Block]) -> float:
    """reports/s, end to end = completed reports / sum of the windows, first image read to last text decoded."""
    return sum(each.reports for each in blocks) / sum(each.seconds for each in blocks)


def engine_reports_per_second(blocks: Sequence[Block]) -> float:
    """reports/s, engine only = completed reports / sum of the batches' wall times: no reading, no pre-processing."""
    return sum(each.reports for each in blocks) / sum(each.engine_seconds for each in blocks)


def chars_per_second(blocks: Sequence[Block]) -> float:
    """chars/s = characters of the produced texts / sum of the windows."""
    return sum(each.chars for each in blocks) / sum(each.seconds for each in blocks)


def words_per_second(blocks: Sequence[Block]) -> float:
    """words/s = words of the produced texts, by white space / sum of the windows."""
    return sum(each.words for each in blocks) / sum(each.seconds for each in blocks)


def tokens_per_second(blocks: Sequence[Block]) -> float:
    """tokens/s = tokens of the produced texts / sum of the windows; comparable within one tokenizer only."""
    return sum(each.output_tokens for each in blocks) / sum(each.seconds for each in blocks)


def stage_seconds(blocks: Sequence[Block], stage: str) -> float | None:
    """Seconds of a stage per report = its sum over the blocks / reports; None where the engine cannot see it.

    image_read and preprocess run in other threads and overlap with the engine: the stages do not add up to a window.
    """
    values = [each.stages.get(stage) for each in blocks]
    known = [value for value in values if value is not None]
    return sum(known) / sum(each.reports for each in blocks) if len(known) == len(values) else None


def step_seconds(blocks: Sequence[Block]) -> float | None:
    """Seconds of a decoding step = decode / the fewest steps that could write these texts (Block.steps).

    Equal to a step of a full batch where all texts are equally long, and an upper bound where they are not.
    """
    decode = [each.stages.get("decode") for each in blocks]
    known, steps = [value for value in decode if value is not None], sum(each.steps for each in blocks)
    return sum(known) / steps if len(known) == len(decode) and steps else None


def memory(blocks: Sequence[Block]) -> dict[str, int | None] | None:
    """The most bytes of the blocks: weights, keys and values, workspace of the configuration, and those beside it."""
    parts = [each.memory for each in blocks if each.memory is not None]
    if not parts:
        return None
    return {
        name: max((value for each in parts if (value := getattr(each, name)) is not None), default=None)
        for name in ("weights", "kv", "workspace", "others")
    }


def device(blocks: Sequence[Block]) -> dict[str, Any] | None:
    """What the device did while the blocks ran; `throttle` counts the blocks in which a reason was seen."""
    states = [state for each in blocks for state in (each.before, each.after)]
    within = [each.during for each in blocks if each.during is not None]
    if not within:
        return None
    reasons = [{*(each.before.throttle or ()), *(each.after.throttle or ())} for each in blocks]
    reasons = [
        seen | set(each.during.throttle if each.during else ()) for seen, each in zip(reasons, blocks, strict=True)
    ]
    clocks = [state.sm_mhz for state in states] + [each.sm_mhz_min for each in within]
    warmth = [state.celsius for state in states] + [each.celsius_max for each in within]
    watts = [each.watts_mean for each in within if each.watts_mean is not None]
    return {
        "readings": sum(each.samples for each in within),
        "sm_mhz_min": min((value for value in clocks if value is not None), default=None),
        "celsius_max": max((value for value in warmth if value is not None), default=None),
        "watts_mean": fmean(watts) if watts else None,
        "throttle": {name: sum(name in seen for seen in reasons) for name in sorted(set().union(*reasons))},
    }


def latencies(blocks: Sequence[Block]) -> dict[str, Any] | None:
    """Latency = first image byte read to text decoded, per report alone (single-stream); percentiles or none.

    A percentile stands with its order-statistic interval (ratio.percentile); with too few reports it is left out.
    """
    return _spread([value for each in blocks for value in each.latencies])


def first_tokens(blocks: Sequence[Block]) -> dict[str, Any] | None:
    """TTFT = latency - decode: taken up to first scores on the host, image read, resize, tower and prefill included."""
    return _spread([value for each in blocks for value in each.first_tokens])


def per_token(blocks: Sequence[Block]) -> dict[str, Any] | None:
    """TPOT = decode / (n - 1) per report: the first token, which prefill gives, is not counted."""
    return _spread([value for each in blocks for value in each.per_token])


def _spread(values: Sequence[float]) -> dict[str, Any] | None:
    if not values:
        return None
    made: dict[str, Any] = {"n": len(values), "mean": fmean(values)}
    for share in SHARES:
        found = percentile(values, share)
        name = f"p{round(100 * share)}"
        made[name] = None if found is None else found.value
        made[f"{name}_ci"] = None if found is None else [found.low, found.high]
    return made


def used(blocks: Sequence[Block], shape: Any, gpu: Gpu, dtype: str) -> dict[str, float | None]:
    """MBU and MFU against one device's figures.

    MBU = bytes of weights and of keys and values that decoding must have read / decode seconds / bandwidth: the weights
    once per step, in the fewest steps that could write these texts (Block.steps), the keys and values of each text as
    long as it was written. MFU = FLOPs of tower and prefill / their seconds / FLOPs per second.
    """
    decode = [each.stages.get("decode") for each in blocks]
    filling = [[each.stages.get(stage) for stage in ("encode", "prefill")] for each in blocks]
    moved = sum(roof.decode_bytes(shape, each.steps, each.positions, dtype) for each in blocks)
    done = sum(
        each.reports * roof.prefill_flops(shape, roof.Load(prompt=round(each.prompt_tokens / each.reports)))
        for each in blocks
    )
    spent = [value for value in decode if value]
    filled = [value for pair in filling for value in pair if value]
    return {
        "mbu": roof.mbu(moved, sum(spent), gpu) if len(spent) == len(blocks) and moved else None,
        "mfu": roof.mfu(done, sum(filled), gpu) if len(filled) == 2 * len(blocks) else None,
    }


def figures(blocks: Sequence[Block]) -> dict[str, Any]:
    """All figures of one configuration from its valid blocks; values unrounded, seconds and bytes."""
    single = bool(blocks and blocks[0].latencies)
    used_bytes = [state.used_bytes for each in blocks for state in (each.before, each.after) if state.used_bytes]
    peaks = [each.peak_memory for each in blocks if each.peak_memory]
    reports = sum(each.reports for each in blocks)
    return {
        "blocks": len(blocks),
        "reports": reports,
        "seconds": sum(each.seconds for each in blocks),
        "reports_per_s": reports_per_second(blocks),
        "engine_reports_per_s": engine_reports_per_second(blocks),
        "chars_per_s": chars_per_second(blocks),
        "words_per_s": words_per_second(blocks),
        "tokens_per_s": tokens_per_second(blocks),
        "tokens_per_report": sum(each.output_tokens for each in blocks) / reports,
        "prompt_tokens": sum(each.prompt_tokens for each in blocks) / reports,
        "image_tokens": sum(each.image_tokens for each in blocks) / reports,
        "stages_per_report": {stage: stage_seconds(blocks, stage) for stage in STAGES},
        "latency": latencies(blocks) if single else None,
        "ttft": first_tokens(blocks) if single else None,
        "tpot": per_token(blocks) if single else None,
        "step_seconds": step_seconds(blocks),
        "peak_memory": max(peaks, default=None),
        "memory": memory(blocks),
        "device_used": max(used_bytes, default=None),
        "device": device(blocks),
    }
