"""The roofline against the printed tables of the research note: R.2 to R.6, cell by cell.

One of some 140 cells differs: the note prints 86 reports/s for SLaVA at batch 64 on the H200, where the formulas give
85.47 (85.5 rounded once more is 86). The note gives that GPU's rate as "about 790" TFLOP/s; with 790.4 every other cell
comes out as printed, with 790.0 four do not. `test_the_cell_that_differs` holds how far it is apart.
"""

import subprocess
import sys

import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.models.shapes import SHAPES, find_shape
from cxrbench.throughput import paper
from cxrbench.throughput import roofline as roof
from cxrbench.throughput.facts import GPUS, Gpu

SLAVA, MED, VICUNA, RAD = (SHAPES[name] for name in ("slava", "llava-med", "vicuna-576", "llava-rad"))
OTHERS = (MED, VICUNA, RAD)
BOTH = (GPUS["A100-80"], GPUS["H200"])


def cells(block):
    return {row[0]: list(row[1:]) for row in block.rows}


def test_constants_r2():
    assert list(cells(paper.constants()).values()) == [
        ["2.780 B", "2.649 B = 5.30 GB", "6.17 GB", "320 KiB", "3.65 T (ViT 0.38)"],
        ["7.242 B", "7.111 B = 14.22 GB", "15.09 GB", "128 KiB", "9.37 T (ViT 0.38)"],
        ["6.738 B", "6.607 B = 13.21 GB", "14.08 GB", "512 KiB", "8.73 T (ViT 0.38)"],
        ["6.738 B", "6.607 B = 13.21 GB", "13.65 GB", "512 KiB", "19.62 T (ViT 0.30)"],
    ]


FLOORS = {  # step ms; prefill ms: V100, A100, H200
    "slava": ("5.89 2.60 1.23", "29 11.7 4.6"),
    "llava-med": ("15.80 6.97 3.31", "75 30.0 11.9"),
    "vicuna-576": ("14.68 6.48 3.07", "70 28.0 11.0"),
    "llava-rad": ("14.68 6.48 3.07", "157 62.9 24.8"),
}


@pytest.mark.parametrize("name", FLOORS)
def test_floors_r3(name):
    gpus = [GPUS[each] for each in ("V100-32", "A100-80", "H200")]
    steps = " ".join(f"{1000 * roof.floor_step(SHAPES[name], gpu):.2f}" for gpu in gpus)
    times = [1000 * roof.prefill_flops(SHAPES[name]) / gpu.flops for gpu in gpus]
    assert (steps, f"{times[0]:.0f} {times[1]:.1f} {times[2]:.1f}") == FLOORS[name]


CEILINGS = {
    ("slava", "A100-80"): "3.6 18 33 38 41 42",
    ("slava", "H200"): "7.6 40 74 85 93 97",
    ("llava-med", "A100-80"): "1.4 8.3 18 22 25 27",
    ("llava-med", "H200"): "2.9 18 41 53 61 66",
    ("vicuna-576", "A100-80"): "1.5 8.0 15 18 20 OOM",
    ("vicuna-576", "H200"): "3.1 17 35 42 46 49",
    ("llava-rad", "A100-80"): "1.3 5.5 8.3 9.0 OOM OOM",
    ("llava-rad", "H200"): "2.9 12 19 21 22 OOM",
}


@pytest.mark.parametrize(("name", "gpu"), CEILINGS)
def test_reports_per_second_r3(name, gpu):
    found = " ".join(paper.ceiling(SHAPES[name], GPUS[gpu], batch) for batch in paper.BATCHES)
    assert found == CEILINGS[name, gpu]


def test_largest_batches_r3():
    found = {row[0]: [row[2], row[4], row[5]] for row in paper.largest().rows}
    assert list(found.values()) == [
        ["93", "272", "531"],
        ["142", "589", "1235"],
        ["38", "150", "311"],
        ["18", "71", "148"],
    ]


def test_speed_ups_r4():
    assert [list(row[1:]) for row in paper.speed_ups().rows] == [
        ["2.59", "2.20", "1.83", "1.70", "1.62", "2.57"],
        ["2.59", "2.19", "1.78", "1.63", "1.53", "2.57"],
        ["2.46", "2.29", "2.14", "2.08", "2.05", "2.39"],
        ["2.46", "2.29", "2.12", "2.06", "2.02", "2.39"],
        ["2.65", "3.31", "3.95", "4.17", "4.31*", "5.37"],
        ["2.63", "3.23", "3.85", "4.07", "4.21", "5.37"],
    ]


def test_the_cell_that_differs():
    found = roof.reports_per_second(SLAVA, GPUS["H200"], 64)
    assert f"{found:.1f}" == "85.5"  # the note's 86 is this figure rounded twice


def test_longer_answers_r5():
    alone = {shape.name: [roof.longer_for(6, SLAVA, shape, gpu, 1) for gpu in BOTH] for shape in OTHERS}
    assert f"{alone['llava-med'][1]:.2f}" == "2.35"
    assert paper.span(alone["vicuna-576"], 1) == "2.5"
    assert paper.span(alone["llava-rad"]) == "2.36"
    tokens = [-(-100 * max(values) // 1) for values in alone.values()]  # whole tokens, 236 to 249 beside 100
    assert (min(tokens), max(tokens)) == (236, 249)
    together = [paper.span([roof.longer_for(6, SLAVA, shape, gpu, 64) for gpu in BOTH], 1) for shape in OTHERS]
    assert together == ["7.1-7.5", "4.0-4.2", "1.9-2.0"]


@pytest.mark.parametrize("gpu", BOTH)
def test_caps_and_precision_r5(gpu):
    assert [f"{roof.speed_up(SLAVA, s, gpu, 1, other=roof.Load(256)):.1f}" for s in (MED, RAD)] == ["6.5", "6.5"]
    assert f"{roof.speed_up(SLAVA, MED, gpu, 1, other=roof.Load(1024)):.0f}" == "26"
    fp32 = [roof.speed_up(SLAVA, shape, gpu, 1, other=paper.FP32) for shape in OTHERS]
    assert paper.span(fp32, 1) == "4.9-5.3"
    released = [roof.speed_up(SLAVA, shape, gpu, 1, paper.FP32, roof.STANDARD) for shape in OTHERS]
    assert paper.span(released, 1) == "1.2-1.3"


def test_batches_lengths_and_memory_r5():
    assert f"{roof.speed_up(SLAVA, RAD, GPUS['H200'], 8, other=paper.FP32):.1f}" == "6.5"
    assert paper.span([paper.released_batches(RAD, gpu) for gpu in BOTH]) == "0.61-0.65"
    assert f"{roof.speed_up(SLAVA, RAD, GPUS['A100-80'], 64, roof.Load(20)):.1f}" == "5.0"
    assert f"{roof.speed_up(SLAVA, RAD, GPUS['H200'], 64, roof.Load(200)):.1f}" == "3.7"
    rows = cells(paper.routes())
    found = {name: cell[2] for name, cell in rows.items() if name.startswith("each at its own")}
    assert list(found.values()) == ["4.5x", "4.7x", "5.0x", "5.4x", "6.6x", "does not fit"]
    assert paper.span([paper.beams(VICUNA, gpu, 1) for gpu in BOTH], 1) == "1.2"
    assert all(paper.beams(shape, gpu, 256) < 4 for shape in OTHERS for gpu in BOTH)


def test_as_released_six_times_takes_about_four_and_a_half_times_the_tokens_or_more_r5():
    """The note divides 6 by the ratio (~4.5); with the keys and values of the longer answer it is a little more."""
    divided = 6 / roof.speed_up(SLAVA, RAD, GPUS["A100-80"], 1, paper.FP32, roof.STANDARD)
    assert f"{divided:.1f}" == "4.5"
    assert all(4.5 < roof.longer_for(6, SLAVA, shape, gpu, 1, paper.FP32) < 5 for shape in OTHERS for gpu in BOTH)


def test_whole_test_set_r6():
    rows = cells(paper.whole_test_set())
    assert rows["H200, floor, B up to 256"] == ["40 s", "59 s", "79 s", "174 s"]
    assert rows["H200, MFU 50 %, MBU 60 %"] == ["72 s", "113 s", "146 s", "321 s"]
    assert rows["H200, floor, B=1"] == ["508 s", "1,317 s", "1,248 s", "1,339 s"]
    assert rows["A100-80, floor, B up to 256"] == ["91 s", "143 s", "192 s", "425 s"]
    assert rows["V100-32, floor, B up to 256"] == ["232 s", "370 s", "570 s", "1,251 s"]


def test_bandwidth_and_operations_used_are_one_at_the_floor():
    gpu = Gpu("fast memory", 1e12, 1e18, 80e9)
    moved = roof.decode_bytes(RAD, 99, 4 * 99 * (RAD.prompt + 50), "bf16")
    seconds = 99 * roof.step_seconds(RAD, gpu, 4, RAD.prompt + 50)
    assert roof.mbu(moved, seconds, gpu) == pytest.approx(1)
    slow = Gpu("slow processor", 1e18, 1e12, 80e9)
    assert roof.mfu(roof.prefill_flops(RAD), roof.prefill_seconds(RAD, slow, 1), slow) == pytest.approx(1)


def test_a_batch_that_fits_has_its_bytes_below_the_share():
    for shape in SHAPES.values():
        for gpu in GPUS.values():
            size = roof.largest_batch(shape, gpu.memory)
            assert roof.memory_bytes(shape, size) <= 0.9 * gpu.memory or size == 0
            assert roof.memory_bytes(shape, size + 1) > 0.9 * gpu.memory


def test_other_numbers_of_image_tokens():
    assert SLAVA.with_image_tokens(1369).tower.side == 518
    assert RAD.with_image_tokens(576).tower.side == 336
    with pytest.raises(CxrbenchError, match="600 image tokens are no square"):
        SLAVA.with_image_tokens(600)
    with pytest.raises(CxrbenchError, match="did you mean 'llava-rad'"):
        find_shape("llava-rda")


def test_the_roofline_needs_no_torch():
    code = "import sys, cxrbench.throughput.paper as p; p.tables(); assert not {'torch','numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
