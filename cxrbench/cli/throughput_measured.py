"""Carries out a speed experiment for `cxrbench throughput`, and writes what it found."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError

if TYPE_CHECKING:
    from cxrbench.throughput.experiment import ExperimentSpec
    from cxrbench.throughput.facts import Gpu


def measured(
    spec: ExperimentSpec,
    folder: Path,
    device: str,
    config: Path | None,
    output: Path | None = None,
    quality: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Measure, with what it was measured on; after every session `output` holds what there is so far."""
    from cxrbench.cli.progress import stages
    from cxrbench.engines import ceilings
    from cxrbench.engines.device import describe, pick_device
    from cxrbench.runner import machine
    from cxrbench.throughput.bench import Bench
    from cxrbench.throughput.conduct import Conductor
    from cxrbench.throughput.device_state import processor
    from cxrbench.throughput.images import pool
    from cxrbench.throughput.monitor import monitor_of

    place, known = pick_device(device), opt.load_config(config)
    found: dict[str, Any] = {}
    command = shlex.join(["cxrbench", *sys.argv[1:]])
    about = {**machine(), **describe(place), "processor": processor(), "command": command}

    def ceiling(dtype: str) -> Gpu:
        return _ceiling(place, dtype, found)

    with tempfile.TemporaryDirectory(prefix="cxrbench-") as images, stages("blocks") as report:
        monitor = monitor_of(place)
        idle_load = monitor.idle_load()
        samples = pool(spec.task, spec.images, known, Path(images))
        bench = Bench(samples, known, device=place, monitor=monitor, workers=spec.readers)
        for dtype in _precisions(spec, place):
            ceiling(dtype)

        def keep(result: dict[str, Any]) -> None:
            result["machine"] = about | {"ceilings": {key: value["found"] for key, value in found.items()}}
            write(result, output, quality)

        try:
            result = Conductor(
                spec, bench, ceiling, ceilings.all_bytes(place), idle_load, folder,
                lambda what, done, total: report(what, done, total), keep,
            ).run()  # fmt: skip
        finally:
            bench.close()
    keep(result)
    return result


def _precisions(spec: ExperimentSpec, device: str) -> Iterable[str]:
    """Precisions whose ceilings are measured at the start, before any model is in memory."""
    from cxrbench.engines.device import pick_dtype

    return dict.fromkeys(pick_dtype(each.dtype, device) for each in spec.configurations.values())


def _ceiling(device: str, dtype: str, measured: dict[str, Any]) -> Gpu:
    from cxrbench.engines.ceilings import measure_ceilings
    from cxrbench.throughput.facts import Gpu
    from cxrbench.throughput.roofline import RATE

    if dtype not in measured:
        found = measure_ceilings(device, dtype)
        gpu = Gpu("this device", found.bandwidth, found.flops / RATE[dtype], 0, found.how)
        measured[dtype] = {"gpu": gpu, "found": asdict(found)}
    made: Gpu = measured[dtype]["gpu"]
    return made


def quality_point(run: Path) -> dict[str, Any]:
    """A scored run as a point: its primary metric and its speed."""
    from cxrbench.store import find_run

    folder = find_run(str(run))
    file = folder.path / "summary.json"
    if not file.is_file():
        raise CxrbenchError("the run is not scored", where=str(run), fix=f"cxrbench score {run}")
    summary = json.loads(file.read_text(encoding="utf-8"))
    speed = summary.get("speed", {}).get("reports_per_s")
    primary = next(
        (
            (f"{key} {name}", entry["value"])
            for key, values in summary["metrics"].items()
            for name, entry in values.items()
            if entry["primary"] and entry["value"] is not None
        ),
        None,
    )
    if speed is None or primary is None:
        raise CxrbenchError("the run has no speed or no primary score", where=str(run))
    return {"model": summary["model"], "reports_per_s": speed, "metric": primary[0], "value": primary[1]}


def write(result: Mapping[str, Any], output: Path | None, quality: Sequence[dict[str, Any]]) -> None:
    """As a page or as JSON, by the file's ending."""
    if output is None:
        return
    from cxrbench.atomic import write_atomic
    from cxrbench.throughput.page import page

    html = output.suffix == ".html"
    text = page(result, quality) if html else json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    write_atomic(output, text.encode())
