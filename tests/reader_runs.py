"""Runs to look at: small real ones, and one whose reports, references and ids mean harm."""

import json
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import click

from cxrbench.cli import main
from cxrbench.data.chexpert import LABELS
from cxrbench.report.explorer_data import Marked
from cxrbench.report.explorer_marks import Stored
from cxrbench.store import RunFolder
from cxrbench.tables import read_samples, write_samples
from tests.chat_server import ChatServer, answer
from tests.judges.answers import candidate_of, chexprompt_answer, green_answer
from tests.small_task import write_small

BIDI = "\u202e\u2066\u200f"
HOSTILE = (
    "</script><script>window.hit = 1</script> No effusion.",
    '<img src=x onerror="window.hit = 2"> <svg onload=window.hit=3>',
    f"Heart {BIDI}normal in size.\u2028 {{{{ 7 * 7 }}}} {{% raw %}}",
    "a\0b \x1b[31m &lt;b&gt; &amp; <!-- -->",
    "<a href='javascript:window.hit=4'>see</a><style>body{display:none}</style><base href='http://example.invalid/'>",
    "lung " * 200_000,
    "half of a character: \ud83d alone",
    "<iframe srcdoc='<script>parent.hit=5</script>'></iframe><link rel=stylesheet href=//example.invalid/a.css>",
)


def command(*words):
    """A command as it is typed, in this process."""
    main.app([str(word) for word in words], standalone_mode=False)


def make_runs(folder, *, test=24, access="open", models=("random-report", "nearest-image"), metrics=None):
    """Scored runs of one small task, one of each model; made once and copied."""
    folder.mkdir(parents=True, exist_ok=True)
    for model in models:
        made = Path(_made(test, access, model, metrics).name)
        shutil.copytree(made / "run", folder / model)
        shutil.copyfile(made / "small.yaml", folder / "small.yaml")
    return [RunFolder(folder / model) for model in models]


@cache
def _made(test, access, model, metrics):
    place = TemporaryDirectory(prefix="cxrbench-tests-")
    task = write_small(Path(place.name), test=test, access=access)
    more = ("--metrics", metrics) if metrics else ()
    command("run", "--model", model, "--task", task, "--replicates", 0, "--out", Path(place.name) / "run", *more)
    return place


def poison(run):
    """Put harm into a run: predictions, references, sections, subgroups, and the names of its samples and model."""
    stored = read_samples(run.samples_file)
    names = {s.sample_id: f"{s.sample_id}<b>{i}</b>{BIDI}" for i, s in enumerate(stored.samples)}
    samples = [
        replace(
            sample,
            sample_id=names[sample.sample_id],
            target=HOSTILE[i % len(HOSTILE)].replace("\ud83d", "?"),  # Parquet holds whole characters only
            sections={"indication": HOSTILE[(i + 1) % 5]},
            subgroups={**sample.subgroups, "sex": "<script>window.hit = 6</script>"},
        )
        for i, sample in enumerate(stored.samples)
    ]
    write_samples(run.samples_file, samples, frozenset(names[each] for each in stored.selected))
    shard = run.shard_file("predictions")
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    for i, row in enumerate(rows):
        row |= {"sample_id": names[row["sample_id"]], "text": HOSTILE[i % len(HOSTILE)]}
    shard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = json.loads(run.manifest_file.read_text())
    manifest["identity"]["model"]["name"] = "</script><b>model</b>" + BIDI
    manifest["task"]["title"] = "<script>window.hit = 7</script>"
    run.manifest_file.write_text(json.dumps(manifest))
    (run.path / "summary.json").unlink()
    return run


def judged_by(heard):
    """A judge of the tests: what it says follows from the candidate, which it quotes; a fifth is unreadable."""
    text = heard.asked["messages"][-1]["content"]
    if '"status"' in text or "entail" in text:
        return answer('{"status": "entailment"}')
    if "Candidate report:" not in text:
        return answer(json.dumps({"phrases": [text.split()[-1]]}))
    said, number = candidate_of(heard.asked), len(candidate_of(heard.asked))
    counts = (number % 2, number % 3, 0, 0, 0, 0)
    if "[Explanation]" in text:
        return answer(green_answer(counts, matched=number % 4).replace("Short.", f"On: {said}"))
    return answer(f"On: {said}\n" + (chexprompt_answer(counts) if number % 5 else "no counts"))


def judge(runs, metrics="chexprompt,green", *further):
    """Let a judge behind a server of this machine score runs."""
    with ChatServer(judged_by) as server:
        for run in runs:
            words = ("--metrics", metrics, "--judge", "openai:m", "--judge-url", server.url, "--replicates", 0)
            with suppress(SystemExit, click.exceptions.Exit):  # incomplete: some answers are not readable
                command("score", run.path, *words, *further)


FINDINGS = {
    "Cardiomegaly": ("heart", "cardiomegaly"), "Edema": ("edema",), "Consolidation": ("consolidation",),
    "Pneumonia": ("pneumonia",), "Atelectasis": ("atelectasis",), "Pneumothorax": ("pneumothorax",),
    "Pleural Effusion": ("effusion",), "Fracture": ("fracture",), "Support Devices": ("catheter", "tube", "pacemaker"),
}  # fmt: skip
"""Words that the annotator below knows, by label."""


def annotated(laid, config):
    """Annotations of every text of a page by a reader who knows some words, in the shape of stored ones; no torch."""
    texts = {s.target for s in laid.samples} | {side.said(s.sample_id) for side in laid.sides for s in laid.samples}
    return Marked(
        Stored("words", {text: SimpleNamespace(classes=_classes(text)) for text in texts}),
        Stored("words", {text: _entities(text) for text in texts}),
    )


def _classes(text):
    """1 where a sentence names the finding, 2 where it begins with "No", 0 where none does."""
    found = dict.fromkeys(LABELS, 0)
    for sentence in text.lower().split("."):
        for label, names in FINDINGS.items():
            if any(name in sentence for name in names):
                found[label] = 2 if sentence.strip().startswith("no ") else 1
    return list(found.values())


def _entities(text):
    words = re.findall(r"\w+|[^\w\s]", text)
    known = {name for names in FINDINGS.values() for name in names}
    places = [at for at, word in enumerate(words) if word.lower() in known]
    kind = "Observation::definitely present"
    entities = {
        str(at): {"tokens": words[at], "label": kind, "start_ix": at, "end_ix": at, "relations": []} for at in places
    }
    return {"text": " ".join(words), "entities": entities}
