"""Every `cxrbench ...` command of the README and of docs/ runs, page by page, in a small world (docs_world.py).

Only sizes are cut (`CUT`). What cannot run here at all is in `PARSED`, with the reason; its options are checked like
everybody's. A command in a sentence that has no arguments, or a placeholder, is a name: it is parsed, not run.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer

from cxrbench.cli.main import app
from tests import commands, docs_world, test_docs_code
from tests.docs_commands import Command, pages
from tests.docs_commands import commands as commands_of
from tests.small_hub import FIRST

torch = pytest.importorskip("torch")

cli = commands.cli
declared = test_docs_code.declared
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

PARSED = {
    "verify metric": "needs the reference package in an environment of its own (tox -e parity), or the real weights",
    "throughput --models slava,llava-med,llava-rad": "networks of 3 and 7 billion parameters",
    "throughput --experiment": "the same, and a GPU",
}
"""Commands that are parsed only, by how they begin, and why."""

CUT = {
    "run --model ridge-embedding": "--replicates 0",
    "run --model nearest-text": "--replicates 0",
    "run --model replay:theirs.jsonl": "--replicates 0",
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
    "--model M ": "--model always-normal ",
    "--model MODEL --task TASK": "--model always-normal --task demo-findings",
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


W = docs_world
PAGES = {
    "README.md": Page(
        (W.mimic, W.checkpoint, W.iu_predictions, W.runs),
        {"gate check": 1, "score predictions": 3, "run --model replay": 3},
    ),
    "add-a-metric.md": Page(),
    "add-a-model.md": Page((W.checkpoint,)),
    "add-a-task.md": Page((W.own_task,)),
    "air-gapped.md": Page((W.fetched,)),
    "annotators.md": Page(),
    "assets.md": Page(),
    "baselines.md": Page((W.iu_predictions,), {"run": 3}),  # one train report: R2Gen's vocabulary is empty
    "bridges.md": Page((W.checkpoint, W.runs, W.pairs)),
    "compare.md": Page((W.suite,)),
    "data-iu-xray.md": Page((W.iu,)),
    "data-jsonl.md": Page((W.own_studies,)),
    "data-mimic-cxr.md": Page((W.physionet,)),
    "demo.md": Page((W.demo_folder,)),
    "engines.md": Page(),
    "explorer.md": Page((W.demo_folders,)),
    "first-mimic.md": Page((W.mimic, W.checkpoint, W.runs)),
    "first-run.md": Page(codes={"gate check": 3}),  # 8 samples are not the 300 of the baseline
    "gate.md": Page((W.mimic_known, W.checkpoint, W.runs), {"gate check": 3}),  # the same
    "groups.md": Page((W.robustness_run,), {"compare": 3}),  # scored with two of the task's metrics
    "judges.md": Page((W.ratings, W.weights)),
    "leaderboard.md": Page((W.board,)),
    "metrics-bertscore.md": Page((W.mimic_run,)),
    "metrics-clinical.md": Page((W.mimic_run, W.weights)),
    "metrics-ratescore.md": Page(),
    "models-hf.md": Page((W.checkpoint,)),
    "models-more.md": Page((W.mimic_known, W.maira), {"run": 3}),  # its small text model has no room for the prompt
    "models.md": Page((W.iu_known, W.slava_folder, W.rad_known)),
    "openai.md": Page(),
    "phantom.md": Page(),
    "questions.md": Page((W.vqa_rad, W.checkpoint)),
    "reader-study.md": Page((W.runs,), after={"reader-study create": W.rater}),
    "reproduce.md": Page(codes={"reproduce slava": 3, "reproduce llava": 3}),  # no run of them is here
    "scale-out.md": Page((W.demo_folders,)),
    "tasks-beyond-findings.md": Page(),
    "tasks.md": Page(),
    "throughput.md": Page(),
    # The checkpoints are small, so their counts are not those of the published ones; and 6 studies are not MIMIC-CXR.
    "verify.md": Page(
        (W.mimic_known, W.slava_known, W.rad_known, W.chexagent_known),
        {"verify model chexagent-2": 2, "verify model": 1},
    ),
}


SLOW = """
first-mimic data-jsonl models-more
README add-a-model annotators bridges compare demo engines explorer first-run gate groups judges leaderboard models
models-hf openai phantom reader-study scale-out tasks-beyond-findings throughput verify
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
    """In a sentence, without arguments or with a placeholder: a name, not a command to type."""
    holds = set(re.findall(r"(?<!\w)[A-Z][A-Z_]*\b", command.text)) - {"RUN", "DIR"}
    return command.inline and (bool(holds) or not arguments(command.words)[1])


def arguments(words: list[str]) -> tuple[list[str], list[str]]:
    """The names of the (sub)command, and the rest."""
    found, at = typer.main.get_command(app), 0
    while hasattr(found, "commands") and at < len(words) and words[at] in found.commands:
        found, at = found.commands[words[at]], at + 1
    return words[:at], words[at:]


def parse(command: Command) -> None:
    """Fails where the program has no such command or option, or an argument is missing or of the wrong kind."""
    names, rest = arguments(command.words)
    found = typer.main.get_command(app)
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
    return [each for each in ALL[page] if not is_name(each) and not begun(each.words, *PARSED)]


def test_every_page_with_commands_has_a_world():
    assert {page for page in ALL if to_run(page)} == set(PAGES)
    assert all(any(begun(each.words, begins) for found in ALL.values() for each in found) for begins in PARSED)


@pytest.mark.parametrize(
    "page",
    [pytest.param(name, marks=pytest.mark.slow) if Path(name).stem in SLOW.split() else name for name in PAGES],
)
def test_every_command_of_a_page_runs(page, cli, declared, tmp_path, store):
    if page in ("add-a-model.md", "add-a-metric.md"):
        declared(page)
    with docs_world.server() as server:
        world = World(PAGES[page], tmp_path, cli, store)
        world.words |= {"http://127.0.0.1:8000/v1": server.url}
        failed = [world.run(command) for command in to_run(page)]
    assert not any(failed), "\n".join(filter(None, failed))
