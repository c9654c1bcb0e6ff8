"""`cxrbench throughput`: speed under a protocol, the roofline beside it, speed-ups taken apart."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError

if TYPE_CHECKING:
    from cxrbench.throughput.experiment import ExperimentSpec
    from cxrbench.throughput.facts import Gpu


FROM_FILE = (
    "batch_sizes", "lengths", "tokens", "chars", "trace", "scenario", "preset", "engine", "dtype", "load_format",
    "task", "images", "blocks", "block_seconds", "seconds", "energy", "price", "settings",
)  # fmt: skip
"""Options that an experiment file decides."""


def throughput(
    ctx: typer.Context,
    models: Annotated[
        str | None, typer.Option("--models", help="A,B,...: the first is compared with the others.", show_default=False)
    ] = None,
    experiment: Annotated[
        Path | None, typer.Option("--experiment", help="A YAML file, or slava-6x or small-cpu.", show_default=False)
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="The roofline of the published models; no GPU.")] = False,
    load_format: Annotated[str, typer.Option("--load-format", help="dummy: random weights.")] = "auto",
    batch_sizes: Annotated[str, typer.Option("--batch-sizes", help="1,8,32,... or max.")] = "1",
    lengths: Annotated[
        str, typer.Option("--lengths", help="equal-tokens, equal-chars, natural or trace.")
    ] = "equal-tokens",
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Of each text, with equal-tokens.")] = 100,
    chars: Annotated[
        int | None, typer.Option("--chars", min=1, help="Of each text, with equal-chars.", show_default=False)
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="A run whose lengths are replayed.", show_default=False)
    ] = None,
    scenario: Annotated[str, typer.Option("--scenario", help="offline or single-stream.")] = "offline",
    preset: Annotated[str, typer.Option("--preset", help="matched, reference or documented.")] = "matched",
    engine: Annotated[str, typer.Option("--engine", help="How output is produced.")] = "transformers",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, bf16, fp16, fp32.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N.")] = "auto",
    task: Annotated[str, typer.Option("--task", help="Whose images are read.")] = "demo-findings",
    images: Annotated[int, typer.Option("--images", min=1, help="The pool; none comes twice in a window.")] = 64,
    blocks: Annotated[int, typer.Option("--blocks", min=2, help="Of each configuration.")] = 10,
    block_seconds: Annotated[float, typer.Option("--block-seconds", help="A block lasts about this long.")] = 2.0,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="Measured at least, per configuration.")] = 60.0,
    energy: Annotated[bool, typer.Option("--energy", help="Joules per report; fails without a counter.")] = False,
    price: Annotated[
        float | None, typer.Option("--price-per-hour", help="Of the device, for cost per report.", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for model or engine.", show_default=False)
    ] = None,
    runs: Annotated[
        list[Path] | None, typer.Option("--run", help="A scored run, for quality against speed.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="FILE.html or FILE.json.", show_default=False)
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print everything that was measured.")] = False,
    config: opt.ConfigFile = None,
) -> None:
    """Measure reports per second so that nobody can argue, and take a speed-up apart.

    Example: cxrbench throughput --models demo,demo-verbose --batch-sizes 1,8 --tokens 40 -o speed.html
    """
    if paper:
        _paper(json_output=json_output)
        return
    if output is not None and output.suffix not in (".html", ".json"):
        raise CxrbenchError(f"{output.name} is neither .html nor .json", where="-o", fix="-o speed.html")
    if (models is None) == (experiment is None):
        raise CxrbenchError(
            "what is to be measured?" if models is None else "--models and --experiment cannot both be given",
            fix="--models A,B,... or --experiment FILE, or --paper",
        )
    if experiment is not None:
        from cxrbench.throughput.experiment import find_experiment, read_experiment

        _refuse_both(ctx)
        experiment = find_experiment(experiment)
        spec, folder = read_experiment(experiment), experiment.parent
    else:
        common: dict[str, Any] = {
            "engine": engine,
            "preset": preset,
            "dtype": dtype,
            "lengths": lengths,
            "tokens": tokens,
            "chars": chars,
            "trace": {"file": trace} if trace is not None else None,
            "load_format": load_format,
            "settings": opt.key_values(settings),
        }
        rules = {"blocks": blocks, "seconds": seconds, "block_seconds": block_seconds}
        whole = {"task": task, "images": images, "rules": rules, "energy": energy, "price_per_hour": price}
        spec = _from_options(str(models), batch_sizes, scenario, common, whole)
        folder = Path()
    quality = [_quality(run) for run in runs or ()]
    result = _measured(spec, folder, device, config)
    _write(result, output, quality)
    if json_output:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    from cxrbench.cli.show_throughput import show_result

    show_result(result)


def _refuse_both(ctx: typer.Context) -> None:
    """What the file decides cannot be given beside it: one of the two would be passed over."""
    given = [name for name in FROM_FILE if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if given:
        option = "--" + {"price": "price-per-hour", "settings": "set"}.get(given[0], given[0]).replace("_", "-")
        raise CxrbenchError(f"the experiment's file decides {option}", where=option, fix="change the file")


def _paper(*, json_output: bool) -> None:
    if json_output:
        from cxrbench.throughput.paper import tables

        typer.echo(json.dumps([asdict(block) for block in tables()], indent=2, ensure_ascii=False))
        return
    from cxrbench.cli.show_throughput import show_paper

    show_paper()


def _from_options(
    models: str, batch_sizes: str, scenario: str, common: dict[str, Any], whole: dict[str, Any]
) -> ExperimentSpec:
    """The experiment that the options describe."""
    from pydantic import ValidationError

    from cxrbench.throughput.experiment import ExperimentSpec

    names = [name.strip() for name in models.split(",") if name.strip()]
    labels = _labels(names)
    sizes = _sizes(batch_sizes)
    configurations = {
        label: {**common, "model": name, "batch": "max" if sizes is None else 1}
        for label, name in zip(labels, names, strict=True)
    }
    mode = {"name": "sweep", "configurations": labels, "batches": sizes or (), "scenario": scenario}
    if scenario == "single-stream" and sizes != (1,):
        raise CxrbenchError("single-stream is one report at a time", where="--batch-sizes", fix="--batch-sizes 1")
    try:
        return ExperimentSpec.model_validate(
            {"name": "throughput", "about": models, "configurations": configurations, "modes": [mode], **whole}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise CxrbenchError(
            f"{first['loc'][-1]}: {first['msg']}", where=f"--{str(first['loc'][-1]).replace('_', '-')}"
        ) from error


def _labels(names: list[str]) -> list[str]:
    """Names of configurations; a model named twice (A against A) is numbered."""
    return [
        f"{name}#{names[: place + 1].count(name)}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def _sizes(text: str) -> tuple[int, ...] | None:
    if text == "max":
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise CxrbenchError(f"{text!r} are no batch sizes", where="--batch-sizes", fix="1,8,32 or max")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _measured(spec: ExperimentSpec, folder: Path, device: str, config: Path | None) -> dict[str, Any]:
    """Measure, with what it was measured on."""
    from cxrbench.cli.progress import stages
    from cxrbench.engines import ceilings
    from cxrbench.engines.device import describe, pick_device
    from cxrbench.runner import machine
    from cxrbench.throughput.bench import Bench, monitor_of
    from cxrbench.throughput.conduct import Conductor
    from cxrbench.throughput.device_state import processor
    from cxrbench.throughput.images import pool

    place, known = pick_device(device), opt.load_config(config)
    measured: dict[str, Any] = {}

    def ceiling(dtype: str) -> Gpu:
        return _ceiling(place, dtype, measured)

    with tempfile.TemporaryDirectory(prefix="cxrbench-") as images, stages("blocks") as report:
        monitor = monitor_of(place)
        idle_load = monitor.idle_load()
        samples = pool(spec.task, spec.images, known, Path(images))
        bench = Bench(samples, known, device=place, monitor=monitor)
        for dtype in _precisions(spec, place):
            ceiling(dtype)
        try:
            result = Conductor(
                spec, bench, ceiling, ceilings.all_bytes(place), idle_load, folder,
                lambda what, done, total: report(what, done, total),
            ).run()  # fmt: skip
        finally:
            bench.close()
    result["machine"] = {
        **machine(),
        **describe(place),
        "processor": processor(),
        "command": shlex.join(["cxrbench", *sys.argv[1:]]),
        "ceilings": {key: value["found"] for key, value in measured.items()},
    }
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


def _quality(run: Path) -> dict[str, Any]:
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


def _write(result: dict[str, Any], output: Path | None, quality: list[dict[str, Any]]) -> None:
    if output is None:
        return
    from cxrbench.atomic import write_atomic
    from cxrbench.throughput.page import page

    html = output.suffix == ".html"
    text = page(result, quality) if html else json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    write_atomic(output, text.encode())
