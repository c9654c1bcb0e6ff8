"""The `cxrbench` program: puts the command groups together and turns errors into sentences and exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cxrbench.cli import (
    assets,
    bridges,
    cache,
    cite,
    compare,
    data,
    doctor,
    explore,
    gate,
    groups,
    judge_study,
    leaderboard,
    listing,
    models,
    publish,
    reader_study,
    reproduce,
    run_command,
    runs,
    score,
    status,
    throughput,
    verify,
)
from cxrbench.cli.plain_output import plain_output
from cxrbench.errors import CxrbenchError, Exit

PIPE_CLOSED = 128 + 13
"""Exit code when the reader of the output has gone: what a shell reports for a program ended by SIGPIPE."""


class Program(TyperGroup):
    """The commands. Ctrl-C is met here: further out Typer makes an exit code of its own of it and says nothing."""

    def invoke(self, ctx: Any) -> Any:
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
            return done
        except BrokenPipeError:
            # Who read the output has gone (`| head`): nothing is wrong, and nothing more can be written.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(PIPE_CLOSED) from None
        except KeyboardInterrupt:
            raise CxrbenchError(
                "stopped; what was written is kept",
                fix="the same command goes on from there",
                code=Exit.INFRASTRUCTURE,
            ) from None
        except (typer.Abort, EOFError):
            raise CxrbenchError("stopped; the question was not answered", fix="--yes answers it") from None


app = typer.Typer(
    name="cxrbench",
    cls=Program,
    help="Measure chest-X-ray report generators: how good their reports are and how fast they write them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.command("run")(run_command.run)
app.command("score")(score.score)
app.command("compare")(compare.compare)
app.command("groups")(groups.groups)
app.command("judge-study")(judge_study.judge_study)
app.command("throughput")(throughput.throughput)
app.add_typer(gate.app, name="gate")
app.add_typer(leaderboard.app, name="leaderboard")
app.command("explore")(explore.explore)
app.add_typer(reader_study.app, name="reader-study")
app.command("publish")(publish.publish)
app.add_typer(runs.app, name="runs")
app.command("status")(status.status)
app.command("list")(listing.list_known)
app.command("doctor")(doctor.doctor)
app.command("cite")(cite.cite)
app.add_typer(assets.app, name="assets")
app.add_typer(cache.app, name="cache")
app.add_typer(verify.app, name="verify")
app.command("reproduce")(reproduce.reproduce)
app.command("lm-eval", context_settings=bridges.LM_EVAL)(bridges.lm_eval)
app.add_typer(bridges.export, name="export")
app.add_typer(bridges.bring, name="import")


def _version(wanted: bool) -> None:
    if wanted:
        from cxrbench import __version__

        typer.echo(f"cxrbench {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Measure chest-X-ray report generators: how good their reports are and how fast they write them."""


def run() -> None:
    """Run the program; every error leaves as one of the documented exit codes."""
    with plain_output():
        _run()


def _run() -> None:
    debug = "--debug" in sys.argv
    try:
        app()
    except CxrbenchError as error:
        if debug:
            traceback.print_exc()
        else:
            typer.echo(f"error: {error}", err=True)
        sys.exit(error.code)
    except Exception as error:
        if debug:
            traceback.print_exc()
            sys.exit(Exit.INFRASTRUCTURE)
        # The message of a foreign exception may quote report text: only its type and place are shown.
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "unknown place"
        typer.echo(f"error: a defect of cxrbench or of a package it uses: {type(error).__name__}", err=True)
        typer.echo(f"  where: {place}\n  to do: repeat with `cxrbench --debug ...` and report what it shows", err=True)
        sys.exit(Exit.INFRASTRUCTURE)
