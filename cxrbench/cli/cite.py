"""`cxrbench cite`: the methods sentence of a run, its signatures, and the licences of what it used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrbench.errors import Exit
from cxrbench.types import CLUSTERS

if TYPE_CHECKING:
    from cxrbench.types import Manifest


def cite(run: Annotated[Path, typer.Argument(help="A scored run folder.")]) -> None:
    """Print what a paper must say of a run: methods, signatures, papers, licences."""
    from cxrbench.data.load import open_dataset
    from cxrbench.scores import read_summary
    from cxrbench.store import find_run
    from cxrbench.summary import incomplete

    folder = find_run(str(run))
    manifest, summary = folder.manifest(), read_summary(folder)
    dataset = open_dataset(manifest.task["dataset"]["name"])
    typer.echo(_methods(manifest, summary))
    for note in summary["notes"]:
        typer.echo(f"Note: {note}.")
    typer.echo("\nSignatures")
    for values in summary["metrics"].values():
        typer.echo(f"  {next(iter(values.values()))['signature']}")
    for line in _metric_lines(summary):
        typer.echo(line)
    typer.echo("\nTask and data")
    for citation in dict.fromkeys(" ".join(text.split()) for text in (manifest.task["citation"], dataset.citation)):
        typer.echo(f"  {citation}")
    typer.echo(f"  licence: {dataset.licence}")
    for line in (*_model_lines(manifest.identity["model"]), *_weights_lines(summary)):
        typer.echo(line)
    missing = incomplete(summary)
    if missing:
        for line in missing:
            typer.echo(f"incomplete: {line}", err=True)
        raise typer.Exit(Exit.UNDECIDED)


METHODS = {"bca": "bias-corrected and accelerated (BCa)", "percentile": "percentile"}
INPUTS = {"task": "the inputs the task offers", "image": "images alone"}


def _methods(manifest: Manifest, summary: Mapping[str, Any]) -> str:
    """The sentence for a paper's methods section."""
    from cxrbench.cli.show import part_of, scored_line
    from cxrbench.summary import scored_of

    identity, task = manifest.identity, manifest.identity["task"]
    unit = CLUSTERS[summary["cluster_unit"]]
    unit += "" if summary["cluster_unit"] == "patient" else " (the data have no patient ids)"
    method = METHODS.get(summary["ci_method"].partition(",")[0], summary["ci_method"])
    intervals = (
        f" Intervals are {summary['ci_level']:.0%} {method} cluster bootstrap intervals over {unit} with "
        f"{summary['replicates']:,} replicates."
        if summary["ci_level"]
        else ""
    )
    name, source = identity["model"]["name"], _file_of(manifest)
    scored = "" if summary["cxrbench"] == manifest.cxrbench else f" (scored with {summary['cxrbench']})"
    count = scored_line(scored_of(summary).values(), summary["n_expected"])
    return (
        f"{name}{f' ({source})' if source else ''} was evaluated on {task['name']} version {task['version']} (hash "
        f"{task['hash']}, data {identity['data']}) with cxrbench {manifest.cxrbench}{scored}: {count} "
        f"samples scored{part_of(summary)}, given {INPUTS[identity['inputs']]}, seed "
        f"{identity['seed']}.{intervals}"
    )


def _file_of(manifest: Manifest) -> str:
    """The file whose texts a replayed run holds."""
    return str(manifest.circumstances[-1].get("file", "")) if manifest.circumstances else ""


def _metric_lines(summary: Mapping[str, Any]) -> list[str]:
    """Whom to cite for the scores: each paper once, with the metrics it stands for."""
    from cxrbench.errors import CxrbenchError
    from cxrbench.scoring import make_metric

    papers: dict[str, list[str]] = {}
    for key in summary["metrics"]:
        try:
            citation = make_metric(key).citation
        except CxrbenchError:  # a metric of a package that is not installed here
            citation = ()
        for paper in citation:
            papers.setdefault(paper, []).append(key)
    lines = [f"  {paper} ({', '.join(keys)})" for paper, keys in papers.items()]
    return ["\nMetrics", *lines] if lines else []


def _weights_lines(summary: Mapping[str, Any]) -> list[str]:
    """Licences of the weights that metrics were computed with."""
    from cxrbench.assets import needed_by

    signatures = {key: next(iter(values.values()))["signature"] for key, values in summary["metrics"].items()}
    own = [key for key, signature in signatures.items() if "embedded-" in signature]
    used = {asset.name: asset for key in summary["metrics"] if key not in own for asset in needed_by(key)}
    lines = [f"  {asset.name} ({asset.repository}): {asset.licence}; {asset.terms}" for asset in used.values()]
    lines += [f"  embedded annotators ({', '.join(own)}): Apache-2.0, as cxrbench; of no clinical use"] if own else []
    return ["\nWeights of metrics", *lines] if lines else []


def _model_lines(identity: Any) -> list[str]:
    from cxrbench import registry
    from cxrbench.errors import CxrbenchError

    given = {key: value for key, value in identity.items() if isinstance(value, str | int) and value != ""}
    lines = ["\nModel"] + [f"  {key}: {value}" for key, value in given.items()]
    try:
        made = registry.load("models", str(identity.get("name", "")).split(":")[0])
        card = getattr(made, "CARD", getattr(made, "card", None))
    except CxrbenchError:
        card = None
    for field in ("source", "licence", "citation"):
        text = getattr(card, field, "")
        if isinstance(text, str) and text:
            lines.append(f"  {field}: {text}")
    return lines
