"""What a run says of its speed: the figures, and how they were measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cxrbench.cli.show import speed_lines
from cxrbench.summary import measured_entry, speed_entry
from cxrbench.types import BatchTiming, Manifest, Prediction

MODEL = {"name": "demo", "engine": "slots", "dtype": "fp32"}


def manifest(*parts: dict) -> Manifest:
    return Manifest(
        format=1, identity={"model": MODEL}, access="open", n_expected=6, clusters=6, patient_ids=True, batch_size=3,
        circumstances=parts,
    )  # fmt: skip


def rows() -> list[Prediction]:
    return [
        Prediction(f"s{n}", "ok", text="clear lungs", output_tokens=3, batch=n // 3, times={"latency": 0.5})
        for n in range(6)
    ]


FIRST = BatchTiming(0, 3, wall=1.0, slots=2, segment=0, ended=2.0)
SECOND = replace(FIRST, batch=1, ended=3.0)


def entry(batches, *parts):
    return speed_entry(rows(), batches, parts[-1], measured_entry(manifest(*parts), batches))


def test_a_speed_says_how_it_was_measured():
    here = {"device": "cuda:0", "gpu": "H200", "cpus": 16, "readers": 2}
    found = entry([FIRST, SECOND], here)
    assert found["reports_per_s"] == 6 / 3.0
    assert found["engine_reports_per_s"] == 6 / 2.0  # without waiting for images and for the disk
    assert found["measured"] == {
        "scope": "end to end: first image read to last text written; engine_reports_per_s without reading",
        "engine": "slots", "dtype": "fp32", "device": "H200", "cpus": "16", "batch": "3", "slots": "2", "readers": "2",
        "lengths": "natural", "warm_up": "included: the first batch counts; loading the model does not", "parts": "1",
    }  # fmt: skip
    lines = speed_lines(found)
    assert "measured: slots fp32, batches of 3 on 2 slots, H200, 16 processors" in lines[1]
    assert lines[2].strip() == (
        "end to end, natural lengths, first batch included, loading not; engine alone 3 reports/s"
    )


def test_a_resumed_run_says_so_and_names_every_machine():
    later = replace(SECOND, segment=1, ended=1.0, slots=4)
    found = entry([FIRST, later], {"device": "cpu", "cpus": 2}, {"device": "cuda:0", "gpu": "H200", "cpus": 16})
    assert found["seconds"] == 3.0
    measured = found["measured"]
    assert measured["parts"] == "2: interrupted and resumed, each with its own warm-up"
    assert (measured["device"], measured["cpus"], measured["slots"]) == ("cpu, H200", "2, 16", "2 to 4")
    assert "parts: 2: interrupted and resumed" in speed_lines(found)[3]
    assert max(map(len, speed_lines(found))) <= 100


def test_of_several_workers_the_engine_is_told_per_worker():
    """Batches of two workers lie beside each other: reports over their wall times together is what one worker does."""
    parts = [{"device": "cpu", "cpus": 2, "rank": rank, "world": 2} for rank in range(2)]
    together = [replace(FIRST, segment=-1), replace(SECOND, segment=-1, ended=2.0)]
    found = entry(together, *parts)
    assert (found["reports_per_s"], found["engine_reports_per_s"]) == (6 / 2.0, 6 / 2.0)
    assert found["measured"]["workers"] == "2"
    assert found["measured"]["scope"].endswith("engine_reports_per_s without reading, per worker")
    lines = speed_lines(found | {"peak_rss": 2**30})
    assert lines[1].endswith("2 processors, 2 workers")
    assert lines[2].endswith("loading not; engine alone 3/s per worker")
    assert lines[-1].strip() == "peak memory 1.0 GiB per worker"
    assert max(map(len, lines)) <= 100
    resumed = entry([*together, replace(FIRST, segment=0)], {"device": "cpu", "cpus": 2}, *parts)
    assert resumed["measured"]["workers"] == "1, 2"
    assert all("worker" not in line for line in speed_lines(entry([FIRST, SECOND], {"device": "cpu"})))


def test_a_run_scored_before_this_was_kept_is_still_shown():
    found = entry([FIRST, SECOND], {"device": "cpu"})
    del found["measured"]
    assert speed_lines(found)[0].startswith("speed: 2 ")
    assert not any("measured" in line for line in speed_lines(found))


@pytest.mark.parametrize("batches", [[], [replace(FIRST, ended=None)]])
def test_without_a_window_there_is_no_rate(batches):
    assert "reports_per_s" not in entry(batches, {"device": "cpu"})
