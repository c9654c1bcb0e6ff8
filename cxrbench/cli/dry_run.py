"""`cxrbench run --dry-run`: everything about a run but the answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cxrbench.data.variants import file_of
from cxrbench.types import CLUSTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cxrbench.models.base import Model, Prepared
    from cxrbench.plan import Plan
    from cxrbench.spec import TaskSpec
    from cxrbench.store import RunFolder
    from cxrbench.types import Sample

SHOWN = 3
"""Prompts shown and images read for real."""


def show_plan(
    spec: TaskSpec,
    plan: Plan,
    model: Model,
    folder: RunFolder,
    notes: list[str],
    workers: int,
    *,
    pool: Sequence[Sample],
    named: list[str],
) -> None:
    """Print prompts, counts, what is missing, and an estimate of memory and time.

    `pool` are the train samples the model learns from, `named` the metrics the user named instead of the task's.
    """
    from cxrbench.cli.layout import many

    manifest = plan.manifest
    unit = "studies" if manifest.cluster_unit == "patient" else CLUSTERS[manifest.cluster_unit]
    no_ids = f"clusters (no patient ids: {unit} are the clusters)"
    who = many(manifest.clusters, "patient") if manifest.patient_ids else f"{manifest.clusters} {no_ids}"
    typer.echo(f"{spec.name} v{spec.version} · {model.card.name}")
    typer.echo(
        f"  {many(manifest.n_expected, 'sample')} of {who}, {many(len(plan.batches), 'batch')} of {manifest.batch_size}"
    )
    for reason, count in manifest.excluded.items():
        typer.echo(f"  left out: {count} {reason}")
    for line in notes:
        typer.echo(f"  note: {line}")
    typer.echo(f"  run folder: {folder.path}" + _state(folder, plan, model, workers))
    typer.echo("\nThe first prompts, as the model would get them")
    by_id = {request.sample_id: request for batch in plan.batches for request in batch}
    prepared = []
    for sample in plan.chosen[:SHOWN]:
        request = by_id[sample.sample_id]
        made = model.prepare(request)
        prepared.append(made)
        typer.echo(f"\n  sample {sample.sample_id}; inputs: {', '.join(request.inputs) or 'none'}")
        for image in request.images:
            typer.echo(f"    image {image.image_id} ({image.view or 'view unknown'}): {image.path}")
        for line in rendered(model, request).splitlines():
            typer.echo(f"    | {line}")
        if made.failure is not None:
            typer.echo(f"    {made.failure[0]}: {made.failure[1]}")
    typer.echo(f"\n{files_line(plan)}")
    if pool and model.consumes & {"image", "images"}:
        typer.echo(_pool_line(pool))
    _estimate(plan, model, prepared, workers)
    _metrics(spec, named)


def _state(folder: RunFolder, plan: Plan, model: Model, workers: int) -> str:
    """How far a run that is there already has come, and what the command would do with it."""
    from cxrbench.errors import CxrbenchError
    from cxrbench.runner import reopened

    if not folder.exists():
        return ""
    answered = folder.predictions()
    try:
        again = len(reopened(folder, plan, answered, model, workers))
    except CxrbenchError as error:
        return f" (would stop: {error.what})"
    open_ = plan.manifest.n_expected - len(answered) + again
    return f" (goes on: {open_} samples open)" if open_ else " (complete: nothing would be generated)"


def rendered(model: Model, request: Any) -> str:
    """The prompt as text: the model's own rendering where it has one, else its messages."""
    render = getattr(model, "render", None)
    if callable(render) and request.messages:
        return str(render(request))
    return "\n".join(f"{message.role}: {message.text}" for message in request.messages) or "(no prompt)"


def _absent(paths: Iterable[str]) -> int:
    files = (file_of(path) for path in paths)
    return sum(not Path(file).is_file() for file in files if not file.startswith("phantom:"))


def _pool_line(pool: Sequence[Sample]) -> str:
    """How many train samples have no image file at all."""
    without = sum(_absent([image.path for image in sample.images]) == len(sample.images) for sample in pool)
    if not without:
        return f"All {len(pool)} train samples have an image file."
    last = ": the run would stop" if without == len(pool) else ""
    return f"Train samples without an image file: {without} of {len(pool)}{last}"


def files_line(plan: Plan) -> str:
    """How many image files of the run are not where the data set says."""
    paths = {image.path for batch in plan.batches for request in batch for image in request.images}
    if not paths:
        return "This model looks at no image."
    missing = _absent(paths)
    return f"Image files that are missing: {missing} of {len(paths)}" if missing else "All image files are there."


def _estimate(plan: Plan, model: Model, prepared: list[Prepared], workers: int) -> None:
    from cxrbench.cli.layout import many, size
    from cxrbench.runner import peak_rss

    read = [sum(each.times.values()) for each in prepared if each.times]
    per_sample = sum(read) / len(read) / workers if read else 0.0
    typer.echo("\nEstimate")
    typer.echo(
        f"  reading and pre-processing: about {plan.manifest.n_expected * per_sample:.1f} s with {workers} threads"
    )
    good = [each for each in prepared if each.failure is None]
    if getattr(model, "remote", False):
        typer.echo("  answering: not measured, a dry run asks nothing of a server")
    elif good:
        first, second = (_seconds(model, good) for _ in range(2))
        typer.echo(f"  getting ready (once): about {max(0.0, first - second):.1f} s")
        per_run = second / len(good) * plan.manifest.n_expected
        typer.echo(f"  answering: about {per_run:.1f} s (measured on {many(len(good), 'sample')})")
    else:
        typer.echo(f"  answering: not known, none of the first {len(prepared)} samples can be answered")
    typer.echo(f"  memory: about {size(peak_rss())}, as this dry run")


def _seconds(model: Model, prepared: list[Prepared]) -> float:
    begun = time.perf_counter()
    model.generate(0, prepared)
    return time.perf_counter() - begun


def _metrics(spec: TaskSpec, named: list[str]) -> None:
    from cxrbench.cli.doctor import lacking
    from cxrbench.config import load_config
    from cxrbench.data.phantom import Phantom
    from cxrbench.scoring import make_metric

    typer.echo("\nMetrics")
    of_task = ((spec.metrics.required, "required"), (spec.metrics.optional, "optional"))
    for names, kind in ((named, "required"),) if named else of_task:
        for name in names:
            metric = make_metric(name)
            reason = metric.ready() or (
                None if spec.dataset.name == Phantom.name else lacking(metric.key, load_config())
            )
            typer.echo(f"  {name} ({kind})" + (f": {reason}" if reason else ""))
