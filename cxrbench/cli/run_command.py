"""`cxrbench run`: generate, time, score: one run folder."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrbench.cli import annotating, launching
from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError

if TYPE_CHECKING:
    from cxrbench.data.load import TaskData
    from cxrbench.features.base import Resources
    from cxrbench.models.base import Model, ReadImage
    from cxrbench.plan import Plan
    from cxrbench.spec import TaskSpec
    from cxrbench.store import RunFolder


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user typed, as settings."""

    spec: TaskSpec
    data: TaskData
    model: Model
    model_text: str
    settings: Any
    allow_partial: bool
    reader: ReadImage


def run(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="name[:argument]; `cxrbench list models`.", show_default=False)
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="A task's name or its YAML file.", show_default=False)
    ] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="How output is produced.", show_default=False)] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="Generation settings: matched, or one of the model's own.", show_default=False),
    ] = None,
    inputs: Annotated[str, typer.Option("--inputs", help="task: what it offers; image: images alone.")] = "task",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, bf16, fp16, fp32.")] = "auto",
    device: Annotated[
        str, typer.Option("--device", help="Of the model and of annotators: auto, cpu, cuda, cuda:N.")
    ] = "auto",
    load_format: Annotated[
        str, typer.Option("--load-format", help="dummy: random weights, for speed only; never scored.")
    ] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", min=1, help="Samples answered at a time (default: the model's).", show_default=False
        ),
    ] = None,
    readers: Annotated[int, typer.Option("--readers", min=1, help="Images read at a time, ahead of the model.")] = 2,
    workers: launching.Workers = None,
    launcher: launching.Launcher = "auto",
    ray_address: launching.RayAddress = None,
    as_worker: launching.AsWorker = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="N samples, patients in a fixed shuffled order.", show_default=False),
    ] = None,
    seed: opt.Seed = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder (default runs/TASK/MODEL-HASH).", show_default=False)
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", help="Go on with this run folder; its own command is repeated.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show prompts, counts, what is missing, an estimate; answer nothing.")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for model or generation.", show_default=False)
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Accept fewer samples than the task has in full; recorded.")
    ] = False,
    metrics: opt.Metrics = None,
    vocabulary: Annotated[
        Path | None, typer.Option("--vocabulary", help="Word list for r2gen presets.", show_default=False)
    ] = None,
    replicates: opt.Replicates = 10_000,
    precision: opt.Precision = "fp32",
    json_output: opt.Json = False,
    reports: opt.Reports = None,
    images: opt.Images = None,
    tables: opt.Tables = None,
    annotations: opt.Annotations = None,
    demographics: opt.DemographicsRoot = None,
    config: opt.ConfigFile = None,
) -> None:
    """Generate reports for a task, time them and score them.

    The same command goes on where a killed one stopped. Example:

        cxrbench run --model nearest-image --task demo-findings
    """
    if model is None or task is None:
        if resume is not None and model is None and task is None:
            _again(resume)
            return
        missing = "--model" if model is None else "--task"
        raise CxrbenchError(
            f"{missing} is missing",
            fix=f"cxrbench list {missing[2:]}s; `cxrbench run --resume RUN` alone goes on with a run",
        )
    way = launching.way_of(launcher, workers, as_worker, ray_address)
    if inputs not in ("task", "image"):
        raise CxrbenchError(f"--inputs cannot be {inputs!r}", fix="task or image")
    roots = opt.roots(reports, images, tables, annotations, demographics)
    resources = opt.resources(config, device, precision)
    changed = opt.key_values(settings)
    wanted = _wanted(
        (model, task, engine), roots, config, changed,
        launching.with_device(way, _model_fields(preset, dtype, device, load_format, readers, seed)),
        _run_fields(limit, seed, inputs, batch_size, readers), allow_partial,
    )  # fmt: skip
    names = opt.metric_names(metrics)
    opt.check_scoring(names or [*wanted.spec.metrics.required, *wanted.spec.metrics.optional], replicates)
    words = opt.read_vocabulary(vocabulary) if vocabulary else None
    wanted, plan, notes, folder = _planned(wanted, out, resume, way)
    if dry_run:
        from cxrbench.cli.dry_run import show_plan

        pool = wanted.data.pool if wanted.model.needs_pool else ()
        show_plan(wanted.spec, plan, wanted.model, folder, notes, readers, pool=pool, named=names)
        return
    scored = annotating.last_scored(folder) if way.rank is not None else None
    if not _execute(folder, plan, wanted, notes, readers, way):
        return
    if load_format == "dummy":
        _show_speed(folder, json_output=json_output)
        return
    options = {
        "--metrics": metrics, "--vocabulary": vocabulary, "--device": device if device != "auto" else None,
        "--precision": precision, "--config": config,
    }  # fmt: skip
    scoring = annotating.score_words(folder.path, options, roots)
    with launching.unless_another_scores(way):
        _score(folder, wanted, names, words, replicates, resources, (way, scoring, scored), json_output=json_output)


def _again(resume: Path) -> None:
    """`run --resume RUN` alone: the command that began the run, with the words of this call after its own."""
    from typer.main import get_command

    from cxrbench.cli.main import app
    from cxrbench.store import find_run

    begun = find_run(str(resume)).manifest().circumstances
    words = shlex.split(str(begun[0].get("command", ""))) if begun else []
    if words[:2] != ["cxrbench", "run"]:
        raise CxrbenchError(
            "the run does not say which command began it",
            where=str(resume),
            fix="repeat that command, or give --model and --task as then",
        )
    now = sys.argv[sys.argv.index("run") + 1 :]
    get_command(app).main(["run", *_without_out(words[2:]), *now], prog_name="cxrbench", standalone_mode=False)


def _without_out(words: list[str]) -> list[str]:
    """The words of a command without --out and its folder."""
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and word != "--out" and not word.startswith("--out="):
            kept.append(word)
        skip = not skip and word == "--out"
    return kept


def _show_speed(folder: RunFolder, *, json_output: bool) -> None:
    from cxrbench.cli.show import show_speed
    from cxrbench.score_run import speed_summary

    summary = speed_summary(folder)
    if json_output:
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    show_speed(summary)
    typer.echo(f"\nrun folder: {folder.path}")


def _model_fields(
    preset: str | None, dtype: str, device: str, load_format: str, workers: int, seed: int
) -> dict[str, Any]:
    return {
        "preset": preset,
        "dtype": dtype,
        "device": device,
        "load_format": load_format,
        "workers": workers,
        "seed": seed,
    }


def _run_fields(limit: int | None, seed: int, inputs: str, batch_size: int | None, workers: int) -> dict[str, Any]:
    return {"limit": limit, "seed": seed, "inputs": inputs, "batch_size": batch_size, "workers": workers}


def _wanted(
    names: tuple[str, str, str | None],
    roots: Mapping[str, tuple[Path, ...]],
    config: Path | None,
    changed: Mapping[str, str],
    model_fields: Mapping[str, Any],
    run_fields: Mapping[str, Any],
    allow_partial: bool,
) -> Wanted:
    """Read the task, join it to its data, build the model."""
    from cxrbench.data.confined import Confined
    from cxrbench.data.load import TaskData
    from cxrbench.data.variants import Varied
    from cxrbench.engines.build import make_model, split_name
    from cxrbench.models.base import ModelOptions
    from cxrbench.plan import RunSettings, request_kinds
    from cxrbench.spec import find_task
    from cxrbench.types import Generation

    model_text, task, engine = names
    spec = find_task(task)
    name, argument = split_name(model_text)
    generation = {k: opt.as_number(v) for k, v in changed.items() if k in Generation.__dataclass_fields__}
    extra = {k: v for k, v in changed.items() if k not in generation}
    known = opt.load_config(config)
    data = TaskData.find(spec, known, roots)
    reader, pixels = _reader(data, model_fields["workers"])
    options = ModelOptions(
        argument=argument,
        generation=generation,
        extra={"target": spec.target, **extra},
        read_image=Varied(Confined(reader, data.entry.roots)),
        access=spec.access,
        trusted_endpoints=known.trusted_endpoints,
        places=known.models.get(name, {}),
        asks=frozenset(request_kinds(spec.kind)),
        images=spec.images.use,
        **model_fields,
    )
    model = make_model(name, options, engine)
    # Defaults < task < the model's preset < what the user typed; a model without presets has none of the third.
    settled = getattr(model, "generation", generation)
    run_settings = RunSettings(generation=settled, pixels=pixels, **run_fields)
    return Wanted(spec, data, model, model_text, run_settings, allow_partial, reader)


def _reader(data: TaskData, workers: int) -> tuple[ReadImage, Mapping[str, Any]]:
    """How images are read, and what that does to their pixels: from the files, or from a prepared cache."""
    from cxrbench.data.image_cache import CachedReader
    from cxrbench.data.image_processes import reader

    if data.entry.image_cache is None:
        return reader(workers), {}
    cached = CachedReader(data.entry.image_cache)
    return cached, cached.identity


def _planned(
    wanted: Wanted, out: Path | None, resume: Path | None, way: launching.Way
) -> tuple[Wanted, Plan, list[str], RunFolder]:
    """What is wanted, planned, and its folder; whoever goes on with a run takes the samples that it keeps."""
    from cxrbench.kept_samples import taken_up
    from cxrbench.store import RunFolder, run_folders

    named, name = out or resume, wanted.model.card.name
    runs = [RunFolder(named)] if named is not None else run_folders(Path("runs"), wanted.spec.name, name)
    data, source = taken_up(wanted.data, runs)
    planned = _planned_with(replace(wanted, data=data), out, resume, way)
    folder = planned[-1]
    if source is None or source.path == folder.path:
        return planned
    data, _ = taken_up(wanted.data, [folder])  # never what another run keeps: its folder's own, else the data set
    return _planned_with(replace(wanted, data=data), out, resume, way)


def _planned_with(
    wanted: Wanted, out: Path | None, resume: Path | None, way: launching.Way
) -> tuple[Wanted, Plan, list[str], RunFolder]:
    plan, notes = _plan(wanted, way)
    return wanted, plan, notes, _folder(plan, wanted, out, resume)


def _plan(wanted: Wanted, way: launching.Way) -> tuple[Plan, list[str]]:
    """Read the data and decide everything; notes are lines to print and to keep."""
    from cxrbench.cli.score import surplus_note, words_note
    from cxrbench.data.image_processes import ImageProcesses
    from cxrbench.data.load import check_count, pool_note
    from cxrbench.plan import images_note, plan_run

    line = check_count(wanted.spec, wanted.data.samples, allow_partial=wanted.allow_partial)
    notes = [line] if line else []
    if wanted.model.needs_pool:
        wanted.model.fit(lambda: wanted.data.pool)
    plan = plan_run(wanted.data, wanted.model, wanted.settings)
    if (
        not way.starts_workers
        and isinstance(wanted.reader, ImageProcesses)
        and plan.images
        and any(each.images for batch in plan.batches for each in batch)
    ):
        wanted.reader.start()  # they come up while the model is loaded
    # Whoever starts workers needs no network of its own: what there is to note, the adapter knows.
    about = (getattr(wanted.model, "adapter", wanted.model) if way.starts_workers else wanted.model).circumstances()
    file = wanted.model_text.partition(":")[2]
    surplus = surplus_note(about.get("surplus", 0), file)
    words = words_note((about.get("nothing_words", (0,))[0], 0), file)
    elsewhere = about["note"] if about.get("made_for", wanted.spec.dataset.name) != wanted.spec.dataset.name else None
    single = images_note(wanted.spec, wanted.model, plan.samples)
    unused = getattr(getattr(wanted.model, "preset", None), "unused", "")
    notes += [line for line in (pool_note(wanted.data), surplus, words, elsewhere, single, unused) if line]
    task = {**plan.manifest.task, "run_notes": notes}
    return replace(plan, manifest=replace(plan.manifest, task=task)), notes


def _folder(plan: Plan, wanted: Wanted, out: Path | None, resume: Path | None) -> RunFolder:
    from cxrbench.store import RunFolder, find_run, run_folder

    if out is not None and resume is not None:
        raise CxrbenchError("--out and --resume cannot both be given", fix="--resume RUN goes on with that folder")
    if resume is not None:
        return find_run(str(resume))
    if out is not None:
        folder = RunFolder(out)
        folder.refuse_foreign()
        return folder
    return run_folder(Path("runs"), wanted.spec.name, wanted.model.card.name, plan.manifest.identity)


def _execute(folder: RunFolder, plan: Plan, wanted: Wanted, notes: list[str], readers: int, way: launching.Way) -> bool:
    """Answer what is open; False where others still have work, so that there is nothing to score yet."""
    from cxrbench.cli.progress import stages
    from cxrbench.models.base import Watched
    from cxrbench.runner import machine

    for line in notes:
        typer.echo(f"note: {line}", err=True)
    if way.rank is not None:
        typer.echo(f"note: {way.rank.source} made this share {way.rank.rank} of {way.rank.world}", err=True)
    plan = replace(plan, source=wanted.data.source)
    circumstances = {
        **machine(),
        "readers": readers,
        "source": plan.source,
        "command": shlex.join(["cxrbench", *launching.own_words(sys.argv[1:])]),
    }
    try:
        what = f"{wanted.model.card.name} on {wanted.spec.name}"
        with stages("samples") as report:
            if isinstance(wanted.model, Watched):
                wanted.model.watch(report)
            work = launching.Work(folder, plan, wanted.model, circumstances, readers, report, what)
            answered = launching.answer(way, work)
        if answered == 0:
            typer.echo("note: every sample was answered before; nothing was generated or timed now", err=True)
    finally:
        wanted.model.close()
    if answered is None and way.rank is not None:
        typer.echo(f"share {way.rank.rank} is answered; others have work left (cxrbench status {folder.path})")
    return answered is not None


def _score(
    folder: RunFolder,
    wanted: Wanted,
    named: list[str],
    words: frozenset[str] | None,
    replicates: int,
    resources: Resources,
    shared: tuple[launching.Way, list[str], tuple[int, int] | None],
    *,
    json_output: bool,
) -> None:
    """Score; `shared`: the way, the command of workers it starts, and how the run was scored when this one began."""
    from cxrbench.cli.score import finish
    from cxrbench.data.task_pictures import pictures_of
    from cxrbench.scores import Sources

    data = wanted.data
    train = (lambda: [sample.target for sample in data.pool]) if data.has_pool else None
    pictures = pictures_of(lambda: data, lambda _: wanted.reader) if wanted.spec.form == "pictures" else None
    sources = Sources(train, words, at_hand=True, resources=resources, pictures=pictures)
    way, command, scored = shared
    if way.starts_workers:
        sources = annotating.with_workers(way, folder, sources, command)
    elif way.rank is not None:
        sources = annotating.unless_scored_since(scored, folder, sources)
    finish(folder, named, sources, replicates, json_output=json_output)
