"""Runs to look at: small real ones, and one whose reports, references and ids mean harm."""

import json
from dataclasses import replace

from cxrbench.cli import main
from cxrbench.store import RunFolder
from cxrbench.tables import read_samples, write_samples
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
    """Scored runs of one small task, one of each model."""
    folder.mkdir(parents=True, exist_ok=True)
    task = write_small(folder, test=test, access=access)
    more = ("--metrics", metrics) if metrics else ()
    for model in models:
        command("run", "--model", model, "--task", task, "--replicates", 0, "--out", folder / model, *more)
    return [RunFolder(folder / model) for model in models]


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
