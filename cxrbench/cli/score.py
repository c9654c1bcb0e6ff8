"""`cxrbench score`: score a run folder, or a predictions file, as often as wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrbench.cli import annotating, judging, launching
from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError, Exit

if TYPE_CHECKING:
    from cxrbench.scores import Sources
    from cxrbench.store import RunFolder
    from cxrbench.types import Prediction, Sample


def score(
    what: Annotated[Path, typer.Argument(help="A run folder, or a predictions file (JSONL, CSV, Parquet).")],
    task: Annotated[
        str | None,
        typer.Option("--task", "-t", help="Take references and patients from this task.", show_default=False),
    ] = None,
    metrics: opt.Metrics = None,
    vocabulary: Annotated[
        Path | None, typer.Option("--vocabulary", help="Word list for r2gen presets.", show_default=False)
    ] = None,
    access: Annotated[
        str | None,
        typer.Option("--access", help="open, or credentialed: what a bare file counts as.", show_default=False),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", help="Normalisation of a bare file's texts (default none).", show_default=False),
    ] = None,
    slices: Annotated[
        str | None, typer.Option("--slices", help="Columns of a file to tabulate: a,b,...", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the summary here too.", show_default=False)] = None,
    replicates: opt.Replicates = 10_000,
    device: Annotated[str, typer.Option("--device", help="Of annotators: auto, cpu, cuda, cuda:N.")] = "auto",
    precision: opt.Precision = "fp32",
    workers: launching.Workers = None,
    launcher: launching.Launcher = "auto",
    ray_address: launching.RayAddress = None,
    as_worker: launching.AsWorker = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Accept fewer samples than the task has in full; recorded.")
    ] = False,
    json_output: opt.Json = False,
    judge: judging.JudgeName = None,
    judge_url: judging.JudgeUrl = None,
    judge_repeats: judging.JudgeRepeats = 1,
    judge_set: judging.JudgeSet = None,
    rubric: judging.Rubrics = None,
    max_requests: judging.MaxRequests = None,
    max_cost: judging.MaxCost = None,
    reports: opt.Reports = None,
    images: opt.Images = None,
    tables: opt.Tables = None,
    annotations: opt.Annotations = None,
    demographics: opt.DemographicsRoot = None,
    config: opt.ConfigFile = None,
) -> None:
    """Score what was generated before.

    cxrbench score runs/demo-findings/nearest-image-1a2b3c4d --metrics bleu:raw,meteor:raw

    cxrbench score predictions.csv --task iu-findings-r2gen

    cxrbench score predictions.jsonl --metrics bleu:r2gen --vocabulary words.txt --access open

    cxrbench score RUN --metrics chexprompt --judge local:DIR

    cxrbench score RUN --metrics chexbert-f1,radgraph-f1 --workers 4
    """
    from cxrbench.scores import Sources

    words = opt.read_vocabulary(vocabulary) if vocabulary else None
    named = opt.metric_names(metrics)
    opt.check_scoring(named, replicates)
    way = launching.way_of(launcher, workers, as_worker, ray_address)
    roots = opt.roots(reports, images, tables, annotations, demographics)
    resources = opt.resources(config, launching.with_device(way, {"device": device})["device"], precision)
    wish = judging.wish_of(judge, judge_url, judge_repeats, rubric, max_requests, max_cost, judge_set)
    if what.is_dir():
        from cxrbench.store import find_run

        refused = {
            "--task": task,
            "--text": text,
            "--access": access,
            "--allow-partial": allow_partial or None,
            "--slices": slices,
        }
        for flag, value in refused.items():
            if value is not None:
                raise CxrbenchError(f"{flag} is for predictions files; a run folder knows its own", where=flag)
        check_out(out)
        run = find_run(str(what))
        resources = judging.with_judge(resources, wish, run.manifest().access)
        train, pictures = _data_of(run, config, roots)
        given = Sources(train, words, resources=resources, pictures=pictures)
        annotating.score_as(
            way, run, named, given,
            lambda sources: finish(run, named, sources, replicates, json_output=json_output, out=out),
        )  # fmt: skip
        return
    if not what.exists():
        raise opt.not_there(str(what))
    annotating.refuse_for_files(way, launcher)
    check_out(out, what)
    if task is not None:
        if access is not None or text is not None:
            raise CxrbenchError("--access and --text come from the task", where=f"--task {task}", fix="leave them out")
        samples, predictions, extra = _against_task(what, task, config, roots, allow_partial=allow_partial)
    else:
        _refuse_unused(
            {"--allow-partial": allow_partial or None, **{f"--{name}": paths for name, paths in roots.items()}}
        )
        samples, predictions, extra = _bare(what, text or "none", access or "credentialed")
    if slices:
        from cxrbench.data.load import check_slices

        extra["slices"] = opt.metric_names(slices)
        check_slices(extra["slices"], samples, f"--slices {slices}")
    resources = judging.with_judge(resources, wish, extra["access"])
    sources = Sources(extra.pop("train"), words, resources=resources)
    summary = _score_texts(samples, predictions, named, sources, replicates, extra)
    _print(summary, out, named, json_output=json_output)
    _exit_code(summary, named, json_output=json_output)


def _refuse_unused(flags: Mapping[str, Any]) -> None:
    """A flag that a bare file has no use for would otherwise be swallowed."""
    for flag, value in flags.items():
        if value is not None:
            raise CxrbenchError(f"{flag} needs a task to belong to", where=flag, fix="--task TASK, or leave it out")


def check_out(out: Path | None, given: Path | None = None) -> None:
    """Refuse, before anything long begins, a place where the summary would destroy something.

    Raises:
        CxrbenchError: the file is the input, a folder, or holds something that is no summary; or it has no folder.
    """
    if out is None:
        return
    where = f"--out {out}"
    if given is not None and out.exists() and out.samefile(given):
        raise CxrbenchError("the summary would replace the predictions", where=where, fix="another file name")
    if out.is_dir():
        raise CxrbenchError("this is a folder", where=where, fix=f"--out {out / 'summary.json'}")
    if not out.parent.is_dir():
        raise CxrbenchError("there is no such folder", where=str(out.parent), fix=f"mkdir -p {out.parent}")
    if out.exists() and not _is_summary(out):
        raise CxrbenchError(
            "the file is there already and holds no summary of cxrbench", where=where, fix="another file name"
        )


def _is_summary(file: Path) -> bool:
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(body, dict) and {"metrics", "n_expected", "outcomes"} <= set(body)


def finish(
    run: RunFolder,
    named: list[str],
    sources: Sources,
    replicates: int,
    *,
    json_output: bool,
    out: Path | None = None,
) -> None:
    """Score a run folder, print, and exit 3 when something required is missing."""
    from cxrbench.cli.progress import stages
    from cxrbench.score_run import score_run
    from cxrbench.summary import Confidence

    with stages() as report:
        summary = score_run(run, named, sources, Confidence(replicates=replicates), report)
    _print(summary, out, named, json_output=json_output)
    if not json_output:
        typer.echo(f"\nrun folder: {run.path}")
    _exit_code(summary, named, json_output=json_output)


def _named_only(summary: Mapping[str, Any], named: list[str]) -> dict[str, Any]:
    """The summary with the metrics that were asked for now, and their notes; what was scored earlier is named."""
    from cxrbench.scoring import make_metric

    keys = {make_metric(name).key for name in named} or set(summary["metrics"])
    earlier = [key for key in summary["metrics"] if key not in keys]
    slices = {
        name: {
            group: {**entry, "metrics": {key: found for key, found in entry["metrics"].items() if key in keys}}
            for group, entry in groups.items()
        }
        for name, groups in summary["slices"].items()
    }
    metrics = {key: values for key, values in summary["metrics"].items() if key in keys}
    missing = {key: why for key, why in summary["not_scored"].items() if not named or key in keys}
    if named:  # what somebody asks for by name is not optional
        missing = {key: {**why, "required": True} for key, why in missing.items()}
    notes = [note for note in summary["notes"] if not note.startswith(tuple(f"{key}: " for key in earlier))]
    notes += [f"scored earlier, in summary.json: {', '.join(earlier)}"] if earlier else []
    return {
        **summary,
        "metrics": metrics,
        "not_scored": missing,
        "slices": slices,
        "notes": notes,
    }


def _print(summary: Mapping[str, Any], out: Path | None, named: list[str], *, json_output: bool) -> None:
    if out is not None:
        from cxrbench.atomic import write_atomic

        write_atomic(out, (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())
    if json_output:
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    from cxrbench.cli.show import show_summary

    show_summary(_named_only(summary, named))


def _exit_code(summary: Mapping[str, Any], named: list[str], *, json_output: bool) -> None:
    """Exit 3 (4 where the machine is to blame) when something that was asked for is missing.

    The reasons stand below the table; only where that was not printed are they repeated.
    """
    from cxrbench.scoring import make_metric
    from cxrbench.summary import incomplete

    keys = {make_metric(name).key for name in named}
    missing = incomplete(summary, keys)
    if missing:
        asked = keys or set(summary["required"])
        told = {} if json_output else {key: why for key, why in summary["not_scored"].items() if key in asked}
        if told:
            typer.echo(f"incomplete: {', '.join(told)}: not scored, see above", err=True)
        for line in missing:
            if line not in {f"{key}: {why['reason']}" for key, why in told.items()}:
                typer.echo(f"incomplete: {line}", err=True)
        broken = any(why["broken"] and key in asked for key, why in summary["not_scored"].items())
        raise typer.Exit(Exit.INFRASTRUCTURE if broken else Exit.UNDECIDED)


def _data_of(run: RunFolder, config: Path | None, roots: Mapping[str, tuple[Path, ...]]) -> tuple[Any, Any]:
    """Texts of the train split of the run's task, and its real pictures: read only if a metric asks."""
    from cxrbench.data.images import read_grey
    from cxrbench.data.load import TaskData
    from cxrbench.data.task_pictures import pictures_of
    from cxrbench.spec import TaskSpec

    body = {key: value for key, value in run.manifest().task.items() if key != "run_notes"}
    spec = TaskSpec.model_validate(body)

    def data() -> TaskData:
        return TaskData.find(spec, opt.load_config(config), roots)

    def train() -> list[str]:
        return [sample.target for sample in data().pool]

    pictures = pictures_of(data, lambda _: read_grey) if spec.form == "pictures" else None
    return train if spec.dataset.pool_split is not None else None, pictures


def _against_task(
    file: Path, task: str, config: Path | None, roots: Mapping[str, tuple[Path, ...]], *, allow_partial: bool
) -> tuple[list[Sample], dict[str, Prediction], dict[str, Any]]:
    """References, patients and subgroups from a task; every sample of it must be answered or is counted."""
    from cxrbench.data.load import TaskData, check_count, pool_note
    from cxrbench.models.base import ModelOptions
    from cxrbench.models.replay import Replay
    from cxrbench.spec import find_task

    spec = find_task(task)
    if spec.form != "text":
        raise CxrbenchError(
            f"a predictions file holds texts, and the answers of {task} are {spec.form}",
            where=str(file),
            fix=f"cxrbench run --task {task}, whose run folder `cxrbench score RUN` scores",
        )
    data = TaskData.find(spec, opt.load_config(config), roots)
    note = check_count(spec, data.samples, allow_partial=allow_partial)
    replay = Replay(ModelOptions(argument=str(file)))
    columns = {row.sample_id: row.subgroups for row in replay.file.rows}
    # A column that the data set has too is the data set's: its values are the reference.
    samples = [
        replace(sample, subgroups={**columns.get(sample.sample_id, {}), **sample.subgroups})
        for sample in data.samples.samples
    ]
    predictions = replay.answers(samples)
    coverage = replay.file.coverage([sample.sample_id for sample in samples])
    words = words_note((replay.file.nothing_words[0], 0), file.name)
    notes = [line for line in (note, surplus_note(coverage.surplus, file.name), words) if line]
    train = (lambda: [sample.target for sample in data.pool]) if data.has_pool else None
    extra = {
        "train": train, "access": spec.access, "dataset": spec.dataset.name, "text": spec.text, "task": spec.name,
        "model": f"replay:{file.name}", "notes": notes, "excluded": dict(data.samples.excluded),
        "kind": spec.kind, "clusters": getattr(data.dataset, "clusters", "patient"),
        "default": spec.metrics.required, "optional": spec.metrics.optional, "slices": spec.slices,
        "n_task": len(samples), "n_full": spec.expected.n, "pool_note": lambda: pool_note(data),
    }  # fmt: skip
    return samples, predictions, extra


def surplus_note(surplus: int, name: str) -> str | None:
    """A line about rows that no sample of the task asked for."""
    if not surplus:
        return None
    rows = "row belongs" if surplus == 1 else "rows belong"
    return f"{surplus} {rows} to no sample of the task, in {name}"


def words_note(count: Sequence[int], name: str) -> str | None:
    """A line about predictions and references that say NaN and the like: texts as they stand, but hardly meant."""
    kinds = [
        f"{n} {kind}{'' if n == 1 else 's'}" for n, kind in zip(count, ("prediction", "reference"), strict=True) if n
    ]
    if not kinds:
        return None
    return (
        f"{' and '.join(kinds)} in {name} hold nothing but a word such as NaN, None, null or NA: taken as text; "
        "write an empty cell where there is no report"
    )


def _bare(file: Path, text: str, access: str) -> tuple[list[Sample], dict[str, Prediction], dict[str, Any]]:
    """References and patients from the file itself; rows without a reference are left out and counted."""
    from cxrbench.data.text import normalise
    from cxrbench.predictions_file import read_predictions
    from cxrbench.types import Sample

    if access not in ("open", "credentialed"):
        raise CxrbenchError(f"--access cannot be {access!r}", fix="open or credentialed")
    given = read_predictions(file)
    if not given.has_references:
        raise CxrbenchError(
            "the file has no references", where=str(file),
            fix="add a column `reference`, or --task TASK to take references from a task",
        )  # fmt: skip
    samples, predictions, empty = [], {}, 0
    for row in given.rows:
        reference = normalise(text, row.reference or "")
        if not reference.strip():
            empty += 1
            continue
        study = row.study_id or row.sample_id
        samples.append(Sample(row.sample_id, study, row.patient_id, reference, subgroups=dict(row.subgroups)))
        predictions[row.sample_id] = _answer(row.sample_id, row.prediction)
    extra: dict[str, Any] = {
        "train": None,
        "access": access,
        "dataset": None,
        "text": text,
        "model": file.name,
        "notes": [line for line in (words_note(given.nothing_words, file.name),) if line],
        "excluded": {"no reference": empty} if empty else {},
    }
    return samples, predictions, extra


def _answer(sample_id: str, text: str) -> Prediction:
    from cxrbench.types import EMPTY, OK, Prediction

    return Prediction(sample_id, OK if text.strip() else EMPTY, text)


def _score_texts(
    samples: list[Sample],
    predictions: dict[str, Prediction],
    named: list[str],
    sources: Sources,
    replicates: int,
    extra: dict[str, Any],
) -> dict[str, Any]:
    from cxrbench.cli.progress import stages
    from cxrbench.score_run import score_pairs
    from cxrbench.summary import Confidence

    with stages() as report:
        summary = score_pairs(
            samples, predictions, named or list(extra.get("default", ())), sources, Confidence(replicates=replicates),
            report, access=extra["access"], dataset=extra["dataset"], text=extra["text"],
            optional=() if named else extra.get("optional", ()), slices=extra.get("slices", ()),
            kind=extra.get("kind", ""), named_clusters=extra.get("clusters", "patient"),
        )  # fmt: skip
    head: dict[str, Any] = {key: extra[key] for key in ("task", "model", "n_task", "n_full") if key in extra}
    partial = extra["pool_note"]() if "pool_note" in extra else None  # known once a metric or a slice has read train
    notes = [*extra["notes"], *([partial] if partial else []), *summary["notes"]]
    return {**head, **summary, "excluded": extra["excluded"], "notes": notes}
