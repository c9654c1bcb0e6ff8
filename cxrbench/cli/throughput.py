"""`cxrbench throughput`: speed under a protocol, the roofline beside it, speed-ups taken apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError

if TYPE_CHECKING:
    from cxrbench.throughput.experiment import ExperimentSpec


FROM_FILE = (
    "batch_sizes", "lengths", "tokens", "chars", "trace", "scenario", "preset", "engine", "dtype", "load_format",
    "task", "settings",
)  # fmt: skip
"""Options that an experiment file decides."""

OVER_FILE = {
    "blocks": "blocks", "seconds": "seconds", "block_seconds": "block_seconds",
    "images": "images", "readers": "readers", "energy": "energy", "price": "price_per_hour",
}  # fmt: skip
"""Options that may be given beside a file, and the key they stand for: how long and what besides, never what."""


BESIDE = {"paper": ("json_output",), "recorded": ("output", "json_output", "runs")}
"""What may stand beside an option that shows what is known already."""

OF_A_MEASUREMENT = ("output", "json_output", "runs", "device")
"""What has no use where nothing is measured, with `--plan`."""


def throughput(
    ctx: typer.Context,
    models: Annotated[
        str | None, typer.Option("--models", help="A,B,...: the first is compared with the others.", show_default=False)
    ] = None,
    experiment: Annotated[
        Path | None, typer.Option("--experiment", help="A YAML file, or slava-6x, steps, ...", show_default=False)
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", help="A mode or anatomy of the experiment, by name; may come again.", show_default=False
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", help="A GPU (H200, H100-80, ...): memory and minutes there; measures nothing."),
    ] = None,
    recorded: Annotated[
        list[Path] | None,
        typer.Option("--from", help="Show a FILE.json of before; several parts of one experiment.", show_default=False),
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
    readers: Annotated[int, typer.Option("--readers", min=1, help="Images read at a time, ahead of the model.")] = 2,
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

    cxrbench throughput --models demo,demo-verbose --batch-sizes 1,8 --tokens 40 -o speed.html
    """
    _refuse_unused(ctx)
    if paper:
        _paper(json_output=json_output)
        return
    _check_output(output)
    given = [
        name for name, value in (("--models", models), ("--experiment", experiment), ("--from", recorded)) if value
    ]
    if len(given) != 1:
        raise CxrbenchError(
            f"{' and '.join(given)} cannot both be given" if given else "what is to be measured?",
            fix="--models A,B,... or --experiment FILE, --from FILE.json, or --paper",
        )
    if only and experiment is None:
        raise CxrbenchError("only an experiment has modes and anatomies to choose from", where="--only")
    if recorded:
        _again(recorded, output, [_point(run) for run in runs or ()], json_output=json_output)
        return
    if experiment is not None:
        from cxrbench.throughput.experiment import find_experiment

        _refuse_both(ctx)
        experiment = find_experiment(experiment)
        spec, folder = _from_file(ctx, experiment, only or ()), experiment.parent
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
        whole = {"task": task, "images": images, "readers": readers, "rules": rules}
        whole |= {"energy": energy, "price_per_hour": price}
        spec = _from_options(str(models), batch_sizes, scenario, common, whole)
        folder = Path()
    if plan is not None:
        _plan(spec, folder, plan, config)
        return
    from cxrbench.cli.throughput_measured import measured

    result = measured(spec, folder, device, config, output, [_point(run) for run in runs or ()])
    _show(result, json_output=json_output)


def _check_output(output: Path | None) -> None:
    """What cannot be written is refused before minutes are spent on it."""
    if output is None:
        return
    if output.suffix not in (".html", ".json"):
        raise CxrbenchError(f"{output.name} is neither .html nor .json", where="-o", fix="-o speed.html")
    if not output.parent.is_dir():
        raise CxrbenchError(f"there is no folder {output.parent}", where="-o", fix=f"mkdir -p {output.parent}")
    if output.suffix == ".html":
        from cxrbench.throughput.page import check_plots

        check_plots()


def _show(result: dict[str, Any], *, json_output: bool) -> None:
    if json_output:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    from cxrbench.cli.show_throughput import show_result

    show_result(result)


def _point(run: Path) -> dict[str, Any]:
    from cxrbench.cli.throughput_measured import quality_point

    return quality_point(run)


def _again(files: list[Path], output: Path | None, quality: list[dict[str, Any]], *, json_output: bool) -> None:
    """Show what was measured before, the parts of one experiment as one."""
    from cxrbench.cli.throughput_measured import write
    from cxrbench.throughput.recorded import joined, read_result

    result = joined([read_result(file) for file in files])
    write(result, output, quality)
    _show(result, json_output=json_output)


def _plan(spec: ExperimentSpec, folder: Path, gpu: str, config: Path | None) -> None:
    """What it would take elsewhere; nothing is measured."""
    from cxrbench.cli.show_throughput import show_plan
    from cxrbench.throughput.bench import Bench
    from cxrbench.throughput.facts import find_gpu
    from cxrbench.throughput.plan import plan

    found = find_gpu(gpu)
    bench = Bench((), opt.load_config(config))
    show_plan(spec, found, plan(spec, found, bench.shape, folder))


def _from_file(ctx: typer.Context, file: Path, only: Sequence[str]) -> ExperimentSpec:
    """The experiment, the modes that are wanted, and the options that may be given beside the file."""
    from cxrbench.throughput import experiment as experiments

    spec = experiments.read_experiment(file)
    if only:
        spec = experiments.only(spec, only)
    over = {key: ctx.params[name] for name, key in OVER_FILE.items() if _given(ctx, name)}
    rules = {key: over.pop(key) for key in ("blocks", "seconds", "block_seconds") if key in over}
    return _checked(
        experiments.ExperimentSpec, {**spec.model_dump(), **over, "rules": {**spec.rules.model_dump(), **rules}}
    )


def _given(ctx: typer.Context, name: str) -> bool:
    return getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"


def _refuse_unused(ctx: typer.Context) -> None:
    """What is only shown or planned has no use for options of a measurement; they would be passed over."""
    words = {each.name: each.opts[-1] for each in ctx.command.params if each.name}
    for name in filter(lambda name: _given(ctx, name), (*BESIDE, "plan")):
        may_stand = (name, "config", *BESIDE[name]) if name in BESIDE else set(words) - {*OF_A_MEASUREMENT}
        unused = [word for other, word in words.items() if other not in may_stand and _given(ctx, other)]
        if unused:
            raise CxrbenchError(
                f"nothing is measured with {words[name]}, so {', '.join(unused)} would be passed over",
                where=f"cxrbench throughput {words[name]}",
                fix=f"leave {', '.join(unused)} out",
            )


def _refuse_both(ctx: typer.Context) -> None:
    """What the file decides cannot be given beside it: one of the two would be passed over."""
    given = [name for name in FROM_FILE if _given(ctx, name)]
    if given:
        option = "--" + {"settings": "set"}.get(given[0], given[0]).replace("_", "-")
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
    made = {"name": "throughput", "about": models, "configurations": configurations, "modes": [mode], **whole}
    return _checked(ExperimentSpec, made)


def _checked(kind: type[ExperimentSpec], values: dict[str, Any]) -> ExperimentSpec:
    """The experiment; what is wrong is named by its option."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(values)
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
