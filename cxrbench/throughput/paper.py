"""The roofline of the published models, as tables: `cxrbench throughput --paper`. Standard library only.

Every cell follows from shapes.py and facts.py by roofline.py; nothing is measured and nothing is typed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxrbench.models.shapes import SHAPES, Shape
from cxrbench.throughput import roofline as roof
from cxrbench.throughput.facts import GPUS, SIXTEEN_GB, Gpu

NAMES: Mapping[str, str] = {
    "slava": "SLaVA (Phi-2)",
    "llava-med": "LLaVA-Med 1.5 (Mistral)",
    "vicuna-576": "Vicuna-7B, 576 tokens",
    "llava-rad": "LLaVA-Rad (Vicuna, 1,369)",
}
"""The published models, as the tables call them."""

SHORT = ("SLaVA", "LLaVA-Med", "Vicuna-576", "LLaVA-Rad")
"""The same, where columns are narrow."""

BATCHES = (1, 8, 32, 64, 128, 256)
FP32 = roof.Load(dtype="fp32")
OWN_BATCH = ("H200", "A100-80", "A100-40", "V100-32", "A10-24")
"""GPUs on which each model is given its own largest batch."""


@dataclass(frozen=True, slots=True)
class Block:
    """A table: its title, headings and rows of text."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def two(value: float) -> str:
    """Two digits, as rates are printed: 3.6, 42.

    >>> two(3.58), two(42.3), two(9.66)
    ('3.6', '42', '9.7')
    """
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def constants() -> Block:
    """What each model reads, keeps and computes."""
    rows = []
    for key, name in NAMES.items():
        shape = SHAPES[key]
        rows.append(
            (
                name,
                f"{shape.decoder.parameters / 1e9:.3f} B",
                f"{shape.decoder.read / 1e9:.3f} B = {roof.read_bytes(shape) / 1e9:.2f} GB",
                f"{roof.weight_bytes(shape) / 1e9:.2f} GB",
                f"{roof.kv_bytes(shape) / 1024:.0f} KiB",
                f"{roof.prefill_flops(shape) / 1e12:.2f} T (ViT {roof.tower_flops(shape.tower) / 1e12:.2f})",
            )
        )
    head = ("bf16", "parameters", "read per step", "with ViT", "KV/token", "prefill FLOPs")
    return Block("What a report costs", head, tuple(rows))


def floors() -> Block:
    """Step and prefill at batch 1, in milliseconds."""
    gpus = [GPUS[name] for name in ("V100-32", "A100-80", "H200")]
    rows = [
        (
            name,
            *(
                f"{1000 * roof.floor_step(SHAPES[key], gpu):.2f}"
                f" / {1000 * roof.prefill_flops(SHAPES[key]) / gpu.flops:.1f}"
                for gpu in gpus
            ),
        )
        for key, name in NAMES.items()
    ]
    return Block("Least time of a step / of a prefill, ms, batch 1", ("", *(gpu.name for gpu in gpus)), tuple(rows))


def ceiling(shape: Shape, gpu: Gpu, batch: int) -> str:
    """Most reports per second, or that the batch does not fit."""
    if batch > roof.largest_batch(shape, gpu.memory):
        return "OOM"
    return two(roof.reports_per_second(shape, gpu, batch))


def ceilings() -> Block:
    """Most reports per second by batch."""
    rows = [
        (f"{name}, {gpu}", *(ceiling(SHAPES[key], GPUS[gpu], batch) for batch in BATCHES))
        for key, name in NAMES.items()
        for gpu in ("A100-80", "H200")
    ]
    return Block(
        "Most reports per second, 100 new tokens, by batch", ("", *(f"B={size}" for size in BATCHES)), tuple(rows)
    )


def largest() -> Block:
    """Largest batch that fits."""
    gpus = [GPUS[name] for name in ("A10-24", "V100-32", "A100-40", "A100-80", "H200")]
    rows = [(name, *(str(roof.largest_batch(SHAPES[key], gpu.memory)) for gpu in gpus)) for key, name in NAMES.items()]
    return Block(
        "Largest batch by memory (90 % of the device, 100 new tokens)", ("", *(gpu.name for gpu in gpus)), tuple(rows)
    )


def speed_ups() -> Block:
    """Speed-up of SLaVA at equal batch, tokens and precision."""
    slava, rows = SHAPES["slava"], []
    for key, name in list(NAMES.items())[1:]:
        other = SHAPES[key]
        for gpu in (GPUS["A100-80"], GPUS["H200"]):
            fits = roof.largest_batch(other, gpu.memory)
            ratios = [
                f"{roof.speed_up(slava, other, gpu, batch):.2f}" + ("*" if batch > fits else "")
                for batch in BATCHES[:-1]
            ]
            limit = f"{roof.prefill_flops(other) / roof.prefill_flops(slava):.2f}"
            rows.append((f"{name}, {gpu.name}", *ratios, limit))
    head = ("SLaVA against", *(f"B={size}" for size in BATCHES[:-1]), "prefill only")
    return Block("Speed-up at equal batch, equal 100 tokens, bf16 (* beyond memory)", head, tuple(rows))


def span(values: Sequence[float], places: int = 2) -> str:
    """Smallest to largest, once where they are printed alike.

    >>> span([2.357, 2.348], 1), span([0.614, 0.648])
    ('2.4', '0.61-0.65')
    """
    low, high = (f"{value:.{places}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low}-{high}"


def _over(key: str, figure: object) -> list[float]:
    """A figure of a model on both GPUs."""
    assert callable(figure)
    return [float(figure(SHAPES[key], GPUS[gpu])) for gpu in ("A100-80", "H200")]


def routes() -> Block:
    """Where a factor of six can come from: one row per route, one column per model."""
    slava = SHAPES["slava"]
    others = list(NAMES)[1:]

    def row(title: str, figure: object, places: int = 1, unit: str = "x") -> tuple[str, ...]:
        return (title, *(span(_over(key, figure), places) + unit for key in others))

    def own(shape: Shape, gpu: Gpu) -> str:
        sizes = [roof.largest_batch(each, gpu.memory) for each in (slava, shape)]
        if not all(sizes):
            return "does not fit"
        rates = [roof.reports_per_second(each, gpu, size) for each, size in zip((slava, shape), sizes, strict=True)]
        return f"{rates[0] / rates[1]:.1f}x"

    small = Gpu("16 GB", 0.3e12, 65e12, SIXTEEN_GB)
    rows = [
        row("6x by longer answers of the 7B, B=1", lambda s, g: roof.longer_for(6, slava, s, g, 1), 2),
        row("6x by longer answers of the 7B, B=64", lambda s, g: roof.longer_for(6, slava, s, g, 64)),
        row("7B runs to 256 tokens, SLaVA 100, B=1", lambda s, g: roof.speed_up(slava, s, g, 1, other=roof.Load(256))),
        row("7B runs to 1,024, SLaVA 100, B=1", lambda s, g: roof.speed_up(slava, s, g, 1, other=roof.Load(1024)), 0),
        row("7B in fp32, SLaVA bf16, B=1", lambda s, g: roof.speed_up(slava, s, g, 1, other=FP32)),
        row("7B in fp32, SLaVA bf16, B=8", lambda s, g: roof.speed_up(slava, s, g, 8, other=FP32)),
        row("as released: SLaVA fp32, 7B fp16, B=1", lambda s, g: roof.speed_up(slava, s, g, 1, FP32, roof.STANDARD)),
        row("  6x then by longer answers", lambda s, g: roof.longer_for(6, slava, s, g, 1, FP32)),
        row("7B at batch 8, SLaVA at batch 1", released_batches, 2),
        row("7B with 4 beams, B=1", lambda s, g: beams(s, g, 1)),
        row("7B with 4 beams, B=64", lambda s, g: beams(s, g, 64)),
        row("20 new tokens, B=64", lambda s, g: roof.speed_up(slava, s, g, 64, roof.Load(20))),
        row("200 new tokens, B=64", lambda s, g: roof.speed_up(slava, s, g, 64, roof.Load(200))),
        *(
            (f"each at its own largest batch, {gpu.name}", *(own(SHAPES[key], gpu) for key in others))
            for gpu in (*(GPUS[name] for name in OWN_BATCH), small)
        ),
    ]
    return Block("Where 6x can come from (A100-80 and H200 unless named)", ("", *SHORT[1:]), tuple(rows))


def released_batches(shape: Shape, gpu: Gpu) -> float:
    """SLaVA one report at a time beside the other in batches of eight."""
    return roof.reports_per_second(SHAPES["slava"], gpu, 1) / roof.reports_per_second(shape, gpu, 8)


def beams(shape: Shape, gpu: Gpu, batch: int, count: int = 4) -> float:
    """How many times slower `count` beams are than one; tower and prefill are computed for every beam."""
    many = roof.report_seconds(shape, gpu, batch, roof.Load(beams=count))
    return many / roof.report_seconds(shape, gpu, batch)


def whole_test_set(reports: int = 3858) -> Block:
    """Seconds for the MIMIC-CXR test split."""
    rows = []
    for name in ("H200", "A100-80", "V100-32"):
        gpu = GPUS[name]
        slower = Gpu(name, 0.6 * gpu.bandwidth, 0.5 * gpu.flops, gpu.memory)
        for title, device, most in (
            ("floor, B up to 256", gpu, 256),
            ("MFU 50 %, MBU 60 %", slower, 256),
            ("floor, B=1", gpu, 1),
        ):
            cells = []
            for key in NAMES:
                batch = min(most, roof.largest_batch(SHAPES[key], gpu.memory))
                cells.append(f"{reports / roof.reports_per_second(SHAPES[key], device, batch):,.0f} s")
            rows.append((f"{name}, {title}", *cells))
    return Block(f"{reports:,} images (MIMIC-CXR test)", ("", *SHORT), tuple(rows))


def tables() -> tuple[Block, ...]:
    """All of them, in reading order."""
    return (constants(), floors(), ceilings(), largest(), speed_ups(), routes(), whole_test_set())
