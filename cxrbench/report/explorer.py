"""The sample explorer: one file with every sample of one to four runs of a task. No network, no torch.

A page of credentialed data is itself credentialed: its file is its owner's alone, it says on every screen what it is,
and it is never made public.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbench import __version__
from cxrbench.atomic import write_atomic
from cxrbench.data.chexpert import LABELS
from cxrbench.errors import CxrbenchError
from cxrbench.report import page
from cxrbench.report.explorer_data import Laid, coverage, lay, marked, page_columns, page_samples
from cxrbench.report.explorer_images import Pictures, Progress, Thumbnails, find_samples, thumbnails
from cxrbench.report.explorer_judges import heard
from cxrbench.report.leaderboard import visible
from cxrbench.types import Access

if TYPE_CHECKING:
    from cxrbench.config import Config
    from cxrbench.data.base import Roots
    from cxrbench.judges.rubric import Rubric
    from cxrbench.store import RunFolder

LARGE = 50_000_000
"""Bytes above which a page is refused: browsers open such a file slowly or not at all."""

BLOCK = 64
"""Images in one element of the page: what is read when a sample comes into sight."""


@dataclass(frozen=True, slots=True)
class Explorer:
    """A page, and what the command line tells of it."""

    html: bytes
    samples: int
    images: int
    image_size: int
    coverage: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]
    access: Access
    answers: Mapping[str, int]
    """Reports with an answer of a judge, by judged metric."""


def check_public(access: Access) -> None:
    """Refuse to make reports or images of credentialed data public.

    Raises:
        CxrbenchError: the data are credentialed.
    """
    if access != "open":
        raise CxrbenchError(
            "reports and images of credentialed data cannot become public",
            where="--public",
            fix="leave --public out: the page is then for those who may see the data; "
            "`cxrbench leaderboard build` makes a page of aggregates",
        )


def explore(
    runs: Sequence[RunFolder],
    config: Config,
    roots: Roots,
    pictures: Pictures,
    progress: Progress,
    *,
    public: bool,
    rubrics: Sequence[Rubric] = (),
) -> Explorer:
    """Make the page of runs. `rubrics` are those that judges were asked by in place of the built-in ones.

    Raises:
        CxrbenchError: the runs do not belong side by side, their data are not at hand, or `public` may not be.
    """
    laid = lay(runs)
    if public:
        check_public(laid.access)
    progress("reading annotations", 0, len(laid.samples))
    found = marked(laid, config)
    drawn = pictures_of(laid, config, roots, pictures, progress)
    about = coverage(laid, found)
    samples, kinds = page_samples(laid, found)
    judged = heard(laid, rubrics)
    for row in samples:
        row["images"] = [list(image) for image in drawn.of.get(row["id"], ())]
        for at, run in enumerate(row["runs"]):
            run["judged"] = [each.said[at].get(row["id"]) for each in judged]
    notes = (*_notes(laid, about), *(note for each in judged for note in each.notes), *drawn.notes)
    data = {
        "columns": [{"key": key, "better": better} for key, better in page_columns(laid)],
        "runs": [visible(side.name) for side in laid.sides],
        "labels": list(LABELS),
        "kinds": kinds,
        "judged": [
            {
                "metric": visible(each.metric),
                "judges": [visible(name) for name in each.judges],
                "categories": [visible(name.replace("_", " ")) for name in each.categories],
            }
            for each in judged
        ],
        "samples": samples,
        "block": BLOCK,
        "stored": {name: bool(each["stored"]) for name, each in about.items()},
    }
    html = _html(laid, data, drawn, notes).encode()
    if len(html) > LARGE:
        raise CxrbenchError(
            f"the page would have {len(html) / 1e6:.0f} MB, more than browsers open well ({LARGE // 1_000_000} MB)",
            fix="name fewer runs, --pictures key for one image of each sample, or runs made with --limit",
        )
    answers = {each.metric: each.answered for each in judged}
    return Explorer(html, len(samples), len(drawn.data), drawn.size, about, notes, laid.access, answers)


def pictures_of(
    laid: Laid, config: Config, roots: Roots, pictures: Pictures, progress: Progress, room: int | None = None
) -> Thumbnails:
    """The thumbnails of the samples of runs; none where none is wanted or the task offers none.

    Raises:
        CxrbenchError: the data are not at hand, or not those of the runs.
    """
    if pictures == "none" or not any(sample.images for sample in laid.samples):
        return Thumbnails()
    known, read = find_samples(laid.sides[0].run, config, roots)
    here = [known[sample.sample_id] for sample in laid.samples]
    return thumbnails(here, read, pictures, progress, **({} if room is None else {"room": room}))


def _notes(laid: Laid, about: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader of the page must know of how it came about."""
    notes = []
    if laid.left_out:
        notes.append(f"{laid.left_out} samples are left out: not every run was to answer them")
    unscored = [side.name for side in laid.sides if not side.columns]
    if unscored:
        notes.append(f"no values: {', '.join(unscored)} has not been scored")
    for name, what in (("chexbert", "labels"), ("radgraph", "entities")):
        stored = about[name]
        if not stored["stored"]:
            notes.append(f"no {what} are marked: nothing is stored of {name} for these reports; words are aligned")
        elif stored["stored"] < stored["texts"]:
            notes.append(f"{what} of {name}: stored for {stored['stored']} of {stored['texts']} texts")
    return notes


def _html(laid: Laid, data: Mapping[str, Any], drawn: Thumbnails, notes: Sequence[str]) -> str:
    app = page.text_of("explorer_text.js") + page.text_of("explorer.js")
    blocks = [drawn.data[start : start + BLOCK] for start in range(0, len(drawn.data), BLOCK)]
    return page.render(
        "explorer.html.j2",
        policy=page.policy(app),
        title=visible(str(laid.task["title"])),
        task=visible(f"{laid.task['name']} v{laid.task['version']}"),
        access=laid.access,
        runs=[visible(side.name) for side in laid.sides],
        notes=[visible(note) for note in notes],
        version=__version__,
        style=page.own(page.text_of("page.css") + page.text_of("explorer.css")),
        app=page.own(app),
        data=page.data_json(data),
        blocks=[page.data_json(block) for block in blocks],
    )


def write_page(file: Path, html: bytes, *, public: bool) -> None:
    """Write a page whole: its owner's alone, or with the rights the system gives new files where it is public.

    Raises:
        CxrbenchError: the disk is full or refuses.
    """
    write_atomic(file, html)
    if public:
        file.chmod(0o644)
