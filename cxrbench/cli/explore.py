"""`cxrbench explore`: read the samples of runs in one offline page."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cxrbench.cli import options as opt
from cxrbench.cli.judging import Rubrics


class PictureChoice(StrEnum):
    """Which images of a sample a page holds."""

    ALL = "all"
    KEY = "key"
    NONE = "none"


PagePictures = Annotated[
    PictureChoice, typer.Option("--pictures", help="Images in the page: all offered, the key image, or none.")
]


def explore(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one task, up to four.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.", show_default=False)],
    pictures: PagePictures = PictureChoice.ALL,
    rubrics: Rubrics = None,
    public: Annotated[
        bool, typer.Option("--public", help="Readable by others; refused for credentialed data.")
    ] = False,
    reports: opt.Reports = None,
    images: opt.Images = None,
    tables: opt.Tables = None,
    annotations: opt.Annotations = None,
    config: opt.ConfigFile = None,
) -> None:
    """Write one page with every sample of runs: images, reports side by side, errors. It needs no network.

    cxrbench explore runs/demo-findings/demo-* -o samples.html
    """
    from cxrbench.cli.progress import stages
    from cxrbench.report.explorer import explore as make_page
    from cxrbench.report.explorer import write_page
    from cxrbench.report.explorer_judges import read_rubrics
    from cxrbench.store import find_run

    folders = [find_run(str(path)) for path in runs]
    roots = opt.roots(reports, images, tables, annotations, None)
    with stages("samples") as report:
        made = make_page(
            folders,
            opt.load_config(config),
            roots,
            pictures.value,
            report,
            public=public,
            rubrics=read_rubrics(rubrics or []),
        )
    write_page(output, made.html, public=public)
    for note in made.notes:
        typer.echo(f"note: {note}", err=True)
    drawn = f", {made.images} images of up to {made.image_size} pixels" if made.images else ", no images"
    typer.echo(f"{output}: {made.samples} samples{drawn}, {len(made.html) / 1e6:.1f} MB")
    if made.access != "open":
        typer.echo("the page holds credentialed reports: it is readable by you alone; keep it where the data are kept")
