"""`cxrbench leaderboard`: a board of runs as one HTML file, and the aggregate summaries it can be made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxrbench.errors import CxrbenchError, suggest

if TYPE_CHECKING:
    from cxrbench.report.leaderboard import Board, Mode

app = typer.Typer(
    help="Boards of runs: one HTML file that needs no network.", no_args_is_help=True, rich_markup_mode=None
)

Public = Annotated[
    bool,
    typer.Option(
        "--public/--private",
        help="Public: small subgroups are hidden. Private: everything, with a watermark, for its owner alone.",
    ),
]
Replicates = Annotated[int, typer.Option("--replicates", min=100, help="Bootstrap replicates and exchanges.")]


@app.command("build")
def build(
    spec: Annotated[str, typer.Argument(help="A board (YAML), or the name of a shipped one (demo).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write.")],
    public: Public = True,
    replicates: Replicates = 10_000,
) -> None:
    """Build a leaderboard from run folders and aggregate summaries.

    cxrbench leaderboard build demo -o board.html
    """
    from cxrbench.report.leaderboard_page import html

    board = built(spec, "public" if public else "private", replicates)
    text = html(board).encode()
    write(output, text, public)
    runs = sum(len(task.entries) for task in board.tasks)
    tasks = len(board.tasks)
    typer.echo(
        f"{output}: {runs} runs, {tasks} task{'s' if tasks > 1 else ''}, {len(text) / 2**20:.1f} MiB, {board.mode}"
    )
    for task in board.tasks:
        for line in task.left_out:
            typer.echo(f"left out of {task.part.task}: {line}", err=True)


def built(spec: str, mode: Mode, replicates: int) -> Board:
    """Read a board and everything it names."""
    from cxrbench.cli.progress import stages
    from cxrbench.report.board_spec import find_board
    from cxrbench.report.leaderboard import make_board
    from cxrbench.summary import Confidence

    asked, file = find_board(spec)
    with stages() as progress:
        try:
            return make_board(asked, file, mode, Confidence(replicates=replicates), progress)
        except CxrbenchError as error:
            raise _nearly(error, [part.task for part in asked.tasks]) from error


def _nearly(error: CxrbenchError, tasks: list[str]) -> CxrbenchError:
    """The error, which says so where a task of the board is nearly called like a shipped one: a slip finds no run."""
    from cxrbench.spec import task_files

    known = task_files()
    told = [f"no shipped task is called {task!r}{suggest(task, known)}" for task in tasks if task not in known]
    slips = [line for line in told if line.endswith("?)")]
    fix = "; ".join(filter(None, (error.fix, *slips)))
    return CxrbenchError(error.what, where=error.where, fix=fix, code=error.code) if slips else error


def write(file: Path, data: bytes, public: bool) -> None:
    """Write a file; a public one may be read by everybody."""
    from cxrbench.atomic import write_atomic

    if file.is_dir():
        raise CxrbenchError("this is a folder", where=str(file), fix="-o FILE")
    write_atomic(file, data)
    if public:
        file.chmod(0o644)


@app.command("summarize")
def summarize(
    runs: Annotated[list[Path], typer.Argument(help="Scored run folders of one task.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The summary to write (JSON).")],
    public: Public = True,
    replicates: Replicates = 10_000,
) -> None:
    """Write what a board needs of runs, without texts or ids. Values, subgroups, speeds, every two runs tested.

    cxrbench leaderboard summarize runs/demo-findings/* -o demo-findings.json
    """
    from cxrbench.cli.progress import stages
    from cxrbench.report.aggregate import suppress, write_summary
    from cxrbench.report.gather import gather
    from cxrbench.store import find_run
    from cxrbench.summary import Confidence

    with stages() as progress:
        summary = gather([find_run(str(run)) for run in runs], Confidence(replicates=replicates), progress)
    write_summary(suppress(summary) if public else summary, output)
    typer.echo(
        f"{output}: {len(summary.runs)} runs of {summary.task.name}, {len(summary.pairs)} pairs tested with "
        f"{summary.exchanges} exchanges, {'public' if public else 'private'}"
    )
