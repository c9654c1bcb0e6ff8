"""`cxrbench status RUN`: how far a run is, who is at work, who has died, what to type to go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxrbench.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxrbench.workers.view import RunView, ShardView, ShareView

SHOWN = 40
"""Shards in the table: those at work or dead first; the others are counted."""


def status(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print an object, values unrounded.")] = False,
) -> None:
    """Show how far a run is, who is at work or dead, and what to type to go on. By shard, with rates and heartbeats.

    Exit code 3 where samples are left and nobody is at work. Example:

        cxrbench status runs/demo-findings/demo-1a2b3c4d
    """
    from cxrbench.parts import Parts
    from cxrbench.scores import feature_folder
    from cxrbench.store import find_run
    from cxrbench.workers.view import look

    found = find_run(str(run))
    view = look(found, Parts(feature_folder(found.manifest().task["dataset"]["name"]), found.path))
    if json_output:
        typer.echo(json.dumps(view.as_json(), indent=2, ensure_ascii=False))
    else:
        _show(view)
    if view.left and not view.workers and view.holder is None and not view.elsewhere:
        raise typer.Exit(Exit.UNDECIDED)


def _show(view: RunView) -> None:
    from cxrbench.cli.layout import console, table

    typer.echo(f"{view.model} on {view.task}")
    pace = f", {view.rate:.1f}/s, about {view.seconds_left:.0f} s left" if view.seconds_left is not None else ""
    typer.echo(
        f"{view.answered} of {view.n_expected} answered, {view.failed} of them without a report, {view.left} left{pace}"
    )
    if view.dead:
        typer.echo(f"{view.dead} {'worker is' if view.dead == 1 else 'workers are'} gone and left work behind")
    if view.late:
        typer.echo(f"{view.late} rows came after their share was taken over and do not count")
    order = {"working": 0, "loading": 0, "dead": 1, "silent": 1, "failed": 1, "stopped": 1}
    shards = sorted(view.shards, key=lambda each: order.get(each.state, 2))[:SHOWN]
    if shards:
        made = table(["shard", "share", "where", "state", "answered", "failed", "left", "per s", "heartbeat"])
        for each in sorted(shards, key=lambda each: each.shard):
            made.add_row(*_cells(each))
        console().print(made)
    if len(view.shards) > len(shards):
        typer.echo(f"{len(view.shards) - len(shards)} further shards are complete")
    for each in shards:
        if each.error:
            typer.echo(f"shard {each.shard}: {each.error}")
    if view.scoring:
        _show_scoring(view.scoring)
    typer.echo(f"to do: {view.todo}")


def _show_scoring(scoring: Sequence[ShareView]) -> None:
    from cxrbench.cli.layout import console, table

    done, total = sum(each.done for each in scoring), sum(each.total for each in scoring)
    working = [each for each in scoring if each.state in ("working", "loading")]
    rate = sum(each.rate or 0.0 for each in working)
    pace = f", {rate:.1f}/s, about {(total - done) / rate:.0f} s left" if rate else ""
    typer.echo(f"scoring: {done} of {total} annotations, {len(working)} workers at work{pace}")
    made = table(["share", "where", "state", "annotator", "done", "of", "per s", "heartbeat"])
    for each in scoring:
        made.add_row(
            f"{each.rank} of {each.world}", f"{each.host} {each.pid}"[-26:], each.state, each.stage or "-",
            str(each.done), str(each.total), "-" if each.rate is None else f"{each.rate:.1f}", f"{each.beat:.0f} s ago",
        )  # fmt: skip
    console().print(made)
    for each in scoring:
        if each.note:
            typer.echo(f"share {each.rank}: {each.note}")


def _cells(shard: ShardView) -> list[str]:
    return [
        shard.shard,
        "-" if shard.rank is None else f"{shard.rank} ({shard.epoch})",
        f"{shard.host} {shard.pid or ''}".strip()[-26:] or "-",
        shard.state,
        str(shard.answered),
        str(shard.failed),
        "-" if shard.left is None else str(shard.left),
        "-" if shard.rate is None else f"{shard.rate:.1f}",
        "-" if shard.beat is None else f"{shard.beat:.0f} s ago",
    ]
