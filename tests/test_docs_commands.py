"""Every `cxrbench ...` command of the README and of docs/ runs, page by page, in a small world (docs_world.py).

Only sizes are cut (`CUT`). What cannot run here at all is in `PARSED`, with the reason; its options are checked like
everybody's. A command in a sentence that has no arguments, or a placeholder, is a name: it is parsed, not run.
"""

from __future__ import annotations

import glob
import io
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import typer

from cxrbench.cli.main import app
from tests import commands, docs_checkpoints, docs_world, test_docs_code
from tests.docs_commands import Command, pages
from tests.docs_commands import commands as commands_of
from tests.small_hub import FIRST

torch = pytest.importorskip("torch")

cli = commands.cli
declared = test_docs_code.declared
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

PARSED = {
    "throughput --models slava,llava-med,llava-rad": "networks of 3 and 7 billion parameters: 70 GB of random weights",
    "throughput --experiment slava-6x -o": "the same, and a GPU",
}
"""Commands that are parsed only, by how they begin, and why."""

NAMES = ("run", "score", "compare", "gate", "throughput", "verify metric", "verify model", "assets fetch")
"""What a sentence says where it speaks of a command and types none; each is typed in full elsewhere."""

CUT = {
    "run --model ridge-embedding": "--replicates 0",
    "run --model hf:CLIP": "--replicates 0",
    "run --model nearest-text": "--replicates 0",
    "run --model replay:theirs.jsonl": "--replicates 0",
    "run --resume": "--replicates 0",
    "run": "--limit 8 --replicates 0",
    "score": "--replicates 0",
    "compare": "--replicates 100",
    "groups": "--replicates 100",
    "gate check": "--replicates 100",
    "leaderboard build": "--replicates 100",
    "leaderboard summarize": "--replicates 100",
    "publish": "--replicates 100",
    "reader-study analyze": "--replicates 100",
    "judge-study": "--replicates 0",
    "lm-eval run": "--limit 4 --batch_size 1",
    "throughput --models": "--blocks 2 --block-seconds 0.1 --seconds 0 --images 2",
}
"""What is appended, by how a command begins; `--allow-partial` too where the data set is not the whole."""

SAID = {
    "--judge ...": "--judge openai:MODEL --judge-url http://127.0.0.1:8000/v1",
    "--judge-url ...": "--judge-url http://127.0.0.1:8000/v1",
    "--metrics ...": "--metrics bleu:raw",
    "@COMMIT": f"@{FIRST}",
    "--task T ": "--task demo-findings ",
    "--model M ": "--model always-normal ",
    "--model MODEL --task TASK": "--model always-normal --task demo-findings",
    "--model NAME --task TASK": "--model always-normal --task demo-findings",
    "--workers N": "--workers 2",
    "path/NAME.yaml": "my-findings.yaml",
    "ORG/NAME": "bluesky333/SLaVA-CXR",
    "models --show NAME": "models --show slava",
    "verify model NAME": "verify model slava",
    "verify metric NAME": "verify metric bleu",
    "reproduce PAPER": "reproduce slava-cxr",
    "publish DIR --board BOARD": "publish published --board my-board.yaml",
    "purge --dataset NAME": "purge --dataset mimic-cxr",
    "purge --dataset DATASET": "purge --dataset phantom",
    "prepare NAME --task TASK": "prepare iu-xray --task iu-findings",
    "score FILE": "score pairs.csv",
    "SHORT_SIDE": "64",
    "runs/TASK/*": "made/*",
    "baselines/demo/TASK.json": "TASK.json",
    "$RUNNER_TEMP": "temporary",
}
"""What stands for what a reader puts in."""

HUB = ("assets fetch", "models add slava --path bluesky333/")
"""Commands that ask the hub: typed in a process that takes a server of this machine for it."""


@dataclass(frozen=True)
class Page:
    """How a page's commands are run: what lies in the folder, exit codes other than 0, which files come when."""

    places: tuple[Callable[..., None], ...] = ()
    codes: Mapping[str, int] = field(default_factory=dict)
    after: Mapping[str, Callable[..., None]] = field(default_factory=dict)
    whole: bool = False
    """Whether runs of drawn studies are not cut: what the page says of them is seen on all."""


W, C = docs_world, docs_checkpoints
PAGES = {
    "README.md": Page(
        (W.mimic, C.checkpoint, W.runs, W.oracle, W.iu_predictions),
        {"gate check": 1, "score predictions": 3, "run --model replay": 3, "verify metric": 1},
    ),
    "add-a-metric.md": Page(),
    "add-a-model.md": Page((C.checkpoint,)),
    "add-a-task.md": Page((W.own_task,)),
    "air-gapped.md": Page((W.fetched,)),
    "annotators.md": Page(),
    "assets.md": Page(),
    # One train report: R2Gen's vocabulary is empty.
    "baselines.md": Page((W.iu_predictions,), {"run --model NAME": 0, "run": 3}),
    "bridges.md": Page((C.checkpoint, W.runs, W.pairs)),
    "compare.md": Page((W.suite,)),
    "data-chexpert-plus.md": Page((W.chexpert_plus,)),
    "data-iu-xray.md": Page((W.iu,)),
    "data-jsonl.md": Page((W.own_studies,)),
    "data-mimic-cxr.md": Page((W.physionet,)),
    "demo.md": Page((W.demo_folder,)),
    "engines.md": Page(),
    "explorer.md": Page((W.demo_folders,)),
    "first-mimic.md": Page((W.mimic, C.checkpoint, W.runs)),
    "first-run.md": Page(codes={"gate check": 1}, whole=True),
    "gate.md": Page((W.mimic_known, C.checkpoint, W.runs), {"gate check": 1}, whole=True),
    "images.md": Page((W.iu_known,)),
    "groups.md": Page((W.robustness_run,), {"compare": 3}),  # scored with two of the task's metrics
    "judges.md": Page((W.ratings, W.weights)),
    "leaderboard.md": Page((W.board,)),
    "metrics-bertscore.md": Page((W.mimic_run,)),
    "metrics-clinical.md": Page((W.mimic_run, W.weights)),
    "metrics-ratescore.md": Page(),
    "models-hf.md": Page((C.checkpoint, C.clip)),
    "models-more.md": Page((W.mimic_known, C.maira), {"run": 3}),  # its small text model has no room for the prompt
    "models.md": Page((W.iu_known, C.slava_folder, C.rad_known), {"verify model": 1}),  # its counts are small
    "not-run.md": Page((C.slava_known,), {"verify model": 1}),
    "openai.md": Page(),
    "phantom.md": Page(),
    "privacy.md": Page((W.annotated_run,)),
    "questions.md": Page((W.vqa_rad, C.checkpoint)),
    "reader-study.md": Page((W.runs,), after={"reader-study create": W.rater}),
    "reproduce.md": Page(codes={"reproduce slava": 3, "reproduce llava": 3}),  # no run of them is here
    "scale-out.md": Page((W.demo_folders,)),
    "tasks-beyond-findings.md": Page((C.towers,)),
    "tasks.md": Page((W.own_task,)),
    "throughput.md": Page((W.recorded_speed,)),
    # The checkpoints are small, so their counts are not those of the published ones; and 6 studies are not MIMIC-CXR.
    "verify.md": Page(
        (W.mimic_known, W.oracle, C.slava_known, C.rad_known, C.chexagent_known),
        {"verify model chexagent-2": 2, "verify model": 1, "verify metric": 1},
    ),
    "which-number.md": Page(codes={"reproduce": 3}),
}


SLOW = """
assets baselines first-mimic data-jsonl data-mimic-cxr data-chexpert-plus models-more
README add-a-model annotators bridges compare demo engines explorer first-run gate groups judges leaderboard models
models-hf openai phantom reader-study scale-out tasks-beyond-findings throughput verify questions
"""
"""Pages that take more than a few seconds: `pytest -m slow tests/test_docs_commands.py`."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = docs_world.Store(tmp_path_factory.mktemp("docs"))
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class World:
    """A page's folder: types its commands there as a reader would, with what they name in it."""

    def __init__(self, page: Page, folder: Path, cli: Callable[..., tuple[int, str, str]], store: docs_world.Store):
        self.page, self.folder, self.cli, self.store = page, folder, cli, store
        self.words: dict[str, str] = {}
        for place in page.places:
            place(self)

    def must(self, *words: object) -> None:
        code, out, err = self.cli(*words)
        assert code == 0, (words, out[-2000:], err)

    def typed(self, command: Command) -> list[str]:
        """The words, with files of this folder in the place of those the page names, and sizes cut."""
        text = command.text
        for said, meant in {**SAID, **self.words}.items():
            text = text.replace(said, meant)
        words = Command(command.page, command.line, text, command.inline).words
        words = [re.sub(r"(?<![\w.~])/(models|data)/", rf"{self.folder}/\1/", word) for word in words]
        found = iter(("made/random-report", "made/always-normal"))
        words = [next(found) if word == "RUN" else word for word in words]
        words = [each for word in words for each in self._matched(word)]
        if not (self.page.whole and "demo-findings" in words):
            words += next((more.split() for begins, more in CUT.items() if begun(words, begins)), [])
        partial = words[0] in ("run", "score") and re.search(r"--task (mimic|iu)-", text)
        return [*words, "--allow-partial"] if partial else words

    def _matched(self, word: str) -> list[str]:
        if not set(word) & {"*", "?"}:
            return [word]
        names = sorted(glob.glob(word, root_dir=self.folder))
        assert names, f"nothing here matches {word}"
        return names

    def run(self, command: Command) -> str | None:
        """Type it; returns what went wrong."""
        words = self.typed(command)
        hub = begun(words, *HUB)
        call = (lambda *given: self.store.program(self.folder, *given)) if hub else self.cli
        code, out, err = call(*words)
        if command.target:
            (self.folder / command.target).write_text(out.replace("name: custom-findings", "name: my-task"))
        for begins, come in self.page.after.items():
            if command.text.startswith(begins):
                come(self)
        wanted = next((code for begins, code in self.page.codes.items() if command.text.startswith(begins)), 0)
        return None if code == wanted else f"{command}\n  {' '.join(words)}\n  exit {code}: {out[-1500:]}{err}"


def begun(words: list[str], *begins: str) -> bool:
    return any(" ".join(map(str, words)).startswith(each) for each in begins)


def is_name(command: Command) -> bool:
    """In a sentence, without saying of what: a name, not a command to type."""
    return command.inline and command.text in NAMES


PROGRAM = typer.main.get_command(app)


def arguments(words: list[str]) -> tuple[list[str], list[str]]:
    """The names of the (sub)command, and the rest."""
    found, at = PROGRAM, 0
    while hasattr(found, "commands") and at < len(words) and words[at] in found.commands:
        found, at = found.commands[words[at]], at + 1
    return words[:at], words[at:]


def parse(command: Command) -> None:
    """Fails where the program has no such command or option, or an argument is missing or of the wrong kind."""
    names, rest = arguments(command.words)
    found = PROGRAM
    context = None
    for name in ("cxrbench", *names):
        found = found if name == "cxrbench" and context is None else found.commands[name]
        context = found.context_class(found, info_name=name, parent=context, **found.context_settings)
    if hasattr(found, "commands"):
        assert (command.inline, bool(names), rest) == (True, True, []), f"{command}: no such command"
        return
    context.resilient_parsing = is_name(command) and not rest
    try:
        found.parse_args(context, ["2" if word == "N" else word for word in rest])
    except typer.BadParameter as bad:
        if "does not exist" not in bad.message:  # files are the worlds' business
            raise


ALL = {page.name: commands_of(page) for page in pages()}


@pytest.mark.parametrize("page", [name for name, found in ALL.items() if found])
def test_every_command_is_one_of_the_program(page):
    for command in ALL[page]:
        parse(command)


def to_run(page):
    found = [each for each in ALL[page] if not is_name(each) and not begun(each.words, *PARSED)]
    return [one for each in found for one in alternatives(each)]


def alternatives(command: Command) -> list[Command]:
    """A command that says A|B, once with each."""
    found = None if command.inline is False else re.search(r"(?<=\s)([\w-]+)\|([\w-]+)", command.text)
    return (
        [replace(command, text=command.text.replace(found[0], one)) for one in found.groups()] if found else [command]
    )


def test_every_page_with_commands_has_a_world():
    assert {page for page in ALL if to_run(page)} == set(PAGES)
    assert all(any(begun(each.words, begins) for found in ALL.values() for each in found) for begins in PARSED)
    typed = [each for found in ALL for each in to_run(found)]
    assert all(any(begun(each.words, name + " ") for each in typed) for name in NAMES)


@pytest.mark.parametrize(
    "page",
    [pytest.param(name, marks=pytest.mark.slow) if Path(name).stem in SLOW.split() else name for name in PAGES],
)
def test_every_command_of_a_page_runs(page, cli, declared, tmp_path, store, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 10))  # to what is asked before something is deleted
    if page in ("add-a-model.md", "add-a-metric.md"):
        declared(page)
    with docs_world.server() as server:
        world = World(PAGES[page], tmp_path, cli, store)
        world.words |= {"http://127.0.0.1:8000/v1": server.url}
        failed = [world.run(command) for command in to_run(page)]
    assert not any(failed), "\n".join(filter(None, failed))
