"""Write docs/tasks.md from tasks/*.yaml, so that the table and the files cannot tell two stories.

python tools/task_table.py            # writes docs/tasks.md
python tools/task_table.py --check    # exit 1 when docs/tasks.md is not what it would write
"""

from __future__ import annotations

import sys
from pathlib import Path

from cxrbench.spec import KEPT_APART, TaskSpec, read_task

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "tasks.md"

HEAD = """\
# Tasks

A task pairs a split of a data set with a rule of inclusion, a target, what the model is offered, and metrics. The
tables are made from tasks/*.yaml by `python tools/task_table.py`.

`n` is the number of samples in the full data set; "split" after it is the number of studies of the split before any
rule, where the samples themselves have not been counted. Evidence `verified`: counted on the data or stated by primary files
that were read; a data set here with another count is then an error unless `--allow-partial` is given (then both counts
stand in the run's notes). `primary`: the authors say so. `unverified`: hearsay; printed beside what was found.

"""

KEYS = """\
## Keys of a task file

A file `NAME.yaml` anywhere is a task: `cxrbench run --model M --task path/NAME.yaml`. A key that is not known, stands twice or has
a wrong value is an error that names file, line and key. Begin with a task that is there, and give it the name of the file:

    cxrbench list tasks --show custom-findings > my-task.yaml      # then name: my-task

| key | meaning |
|---|---|
| `name`, `version`, `title` | the file's name; goes up whenever a score could move; one line |
| `kind` | findings, impression, report, summarize, vqa, choice, retrieval, image-generation; the last two are answered with vectors and pictures ([tasks-beyond-findings.md](tasks-beyond-findings.md)) |
| `access` | open or credentialed; a task on your own data may say open, one on MIMIC-CXR may not. (`--access` is an option of `score FILE` only) |
| `dataset.name`, `.split`, `.pool_split`, `.options` | the data set, the split to answer, the train split (retrieval baselines, r2gen vocabularies, slice seen-in-train; read only where one of them is asked for), the data set's own options |
| `include.sections`, `.min_images`, `.views` | sections that must not be empty; least number of images; at least one image of these views. Studies left out are counted by the first rule they break |
| `unit` | study; image: one sample per image (with `include.views`: only images of those views); question: one per question (kinds vqa and choice) |
| `images.offer`, `images.key` | all, key or none; the order of views in which the key image is chosen, or `first` |
| `images.use` | key (the default) or all: what a model looks at that can look at one image or at several and has no way of its own (`--set images=` overrides) |
| `offer` | sections the model may see; the target can never be offered |
| `target` | findings, impression, or report (both) |
| `text` | named, versioned normalisation of target, offered sections and predictions: none, whitespace:v1, iu:v1 |
| `generation` | settings such as max_new_tokens |
| `metrics.required`, `.optional` | `name` or `name:preset`; a required one that cannot run makes the run incomplete (exit 3) |
| `variants` | every sample under each of these: original, jpeg-30, rotate-5, crop-90, contrast-70, window-90, redacted ([groups](groups.md)); `variant` among the `slices` shows them side by side |
| `slices` | subgroup tables: abnormal, seen-in-train, duplicate, sex, age, race, view, or any column of the data |
| `groups.by`, `.against`, `.min_patients` | groups told with gaps and intervals, each with its cut points (`age`, `reference-length`, `verbosity`) or its recorded values; the group that gaps are against; patients below which a cell is hidden, 10 or more ([groups.md](groups.md)) |
| `citation`, `expected`, `notes` | whom to cite; `{n, pool_n, evidence, source, split}` (pool_n: the train split's; split: `{n, evidence, source}`, the studies of the split before any rule); the data card |
"""


def included(spec: TaskSpec) -> str:
    """The rule of inclusion in words."""
    rules = [f"{section} not empty" for section in spec.include.sections]
    if spec.include.min_images:
        rules.append("an image" if spec.include.min_images == 1 else f"at least {spec.include.min_images} images")
    if spec.include.views:
        rules.append(f"a frontal image ({' or '.join(spec.include.views)})")
    options = [f"{key}: {value}" for key, value in spec.dataset.options.items()]
    where = f"{spec.dataset.name}, {spec.dataset.split}" + (f" ({', '.join(options)})" if options else "")
    return f"{where}; " + ("; ".join(rules) or "all studies")


def views(spec: TaskSpec) -> str:
    """Which images are offered and which is the key image."""
    if spec.images.offer == "none":
        return "none"
    if spec.kind == "image-generation":
        return "never shown: what the distance is measured to"
    order = "the first" if spec.images.key == "first" else ", else ".join(v or "view unknown" for v in spec.images.key)
    use = "; all together" if spec.images.use == "all" else ""
    return f"{spec.images.offer}{use}; key image: {order}"


def what(spec: TaskSpec) -> str:
    """The target, with the kind of task where the answer is no text."""
    return f"{spec.target} ({spec.kind})" if spec.form in KEPT_APART else spec.target


def row(spec: TaskSpec) -> str:
    """One line of the table."""
    n = "unknown" if spec.expected.n is None else f"{spec.expected.n:,}"
    source = f": {spec.expected.source}" if spec.expected.source else ""
    if (split := spec.expected.split) is not None:
        n += f"; split {split.n:,}"
        source += f"; split {split.evidence}: {split.source}"
    cells = [
        f"`{spec.name}` v{spec.version}", what(spec), included(spec), spec.unit, views(spec),
        ", ".join(spec.offer) or "-", n, f"{spec.expected.evidence}{source}",
    ]  # fmt: skip
    return "| " + " | ".join(" ".join(cell.split()) for cell in cells) + " |"


def page() -> str:
    """The whole page."""
    specs = [read_task(file) for file in sorted((ROOT / "tasks").glob("*.yaml"))]
    lines = [
        "| task | target | data and inclusion rule | sample | images | sections offered | n | evidence |",
        "|---|---|---|---|---|---|---|---|",
        *(row(spec) for spec in specs),
        "",
        "## Data cards",
        "",
    ]
    for spec in specs:
        metrics = ", ".join(spec.metrics.required) + (
            f"; optional {', '.join(spec.metrics.optional)}" if spec.metrics.optional else ""
        )
        lines += [f"### {spec.name}", "", f"{spec.title}. Metrics: {metrics}.", ""]
        if spec.notes:
            lines += [" ".join(spec.notes.split()).replace("<", "&lt;"), ""]  # what looks like a tag would vanish
        lines += [f"Cite: {' '.join(spec.citation.split())}", ""]
    return HEAD + "\n".join(lines) + "\n" + KEYS


if __name__ == "__main__":
    if "--check" in sys.argv:
        raise SystemExit(0 if TARGET.exists() and TARGET.read_text(encoding="utf-8") == page() else 1)
    TARGET.write_text(page(), encoding="utf-8")
