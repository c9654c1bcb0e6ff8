"""`cxrbench cite`: the methods sentence of a run, its signatures, and the licences of what it used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def cite(run: Annotated[Path, typer.Argument(help="A scored run folder.")]) -> None:
    """Print what a paper must say of a run: a methods sentence, every signature, citations and licences."""
    from cxrbench.data.load import open_dataset
    from cxrbench.score_run import read_summary
    from cxrbench.store import find_run

    folder = find_run(str(run))
    manifest, summary = folder.manifest(), read_summary(folder)
    dataset = open_dataset(manifest.task["dataset"]["name"])
    typer.echo(_methods(manifest.identity, summary, manifest.cxrbench))
    for note in summary["notes"]:
        typer.echo(f"Note: {note}.")
    typer.echo("\nSignatures")
    for values in summary["metrics"].values():
        typer.echo(f"  {next(iter(values.values()))['signature']}")
    typer.echo("\nTask and data")
    for citation in dict.fromkeys(" ".join(text.split()) for text in (manifest.task["citation"], dataset.citation)):
        typer.echo(f"  {citation}")
    typer.echo(f"  licence: {dataset.licence}")
    for line in _model_lines(manifest.identity["model"]):
        typer.echo(line)


def _methods(identity: Any, summary: Any, version: str) -> str:
    from cxrbench.cli.show import part_of

    task = identity["task"]
    unit = "patients" if summary["cluster_unit"] == "patient" else "samples (the data have no patient ids)"
    intervals = (
        f" Intervals are {summary['ci_level']:.0%} {summary['ci_method']} over {unit}, "
        f"{summary['replicates']} replicates."
        if summary["ci_level"]
        else ""
    )
    return (
        f"{identity['model']['name']} was evaluated on {task['name']} version {task['version']} (hash {task['hash']}, "
        f"data {identity['data']}) with cxrbench {version} (scored with {summary['cxrbench']}): "
        f"{summary['n']} of {summary['n_expected']} samples scored{part_of(summary)}, "
        f"inputs as by '{identity['inputs']}', seed {identity['seed']}.{intervals}"
    )


def _model_lines(identity: Any) -> list[str]:
    from cxrbench import registry
    from cxrbench.errors import CxrbenchError

    lines = ["\nModel"] + [f"  {key}: {value}" for key, value in identity.items() if isinstance(value, str | int)]
    try:
        card = getattr(registry.load("models", str(identity.get("name", "")).split(":")[0]), "card", None)
    except CxrbenchError:
        card = None
    for field in ("source", "licence", "citation"):
        text = getattr(card, field, "")
        if isinstance(text, str) and text:
            lines.append(f"  {field}: {text}")
    return lines
