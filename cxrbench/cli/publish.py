"""`cxrbench publish`: a folder that a static host can serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def publish(
    folder: Annotated[Path, typer.Argument(help="The folder to fill: new, empty, or an earlier publication.")],
    board: Annotated[str, typer.Option("--board", help="A board (YAML), or the name of a shipped one (demo).")],
    beside: Annotated[
        list[Path] | None,
        typer.Option("--with", help="Gate baselines of open tasks to publish too.", show_default=False),
    ] = None,
    replicates: Annotated[int, typer.Option("--replicates", min=100, help="Bootstrap replicates.")] = 10_000,
) -> None:
    """Write a board, the aggregate summaries it is made of, and checksums. What may not become public is refused.

    cxrbench publish public/ --board demo
    """
    from cxrbench.cli.leaderboard import built
    from cxrbench.report.publication import publish as publish_board

    made = publish_board(folder, built(board, "public", replicates), beside or [])
    for name in made:
        typer.echo(f"{folder / name}")
