"""Models that weigh statements about drawn studies, against chance, wording alone and other patients' pictures.

    python -m benchmarks.questions               about four minutes on two cores that are free
    python -m benchmarks.questions --limit 200   quicker, and less certain

Every line is a run of demo-choice-likelihood: accuracy by the mean log-probability of an option's tokens, with a 95 %
interval over patients. `another's picture` shows each question the picture of the study half the set away, which is
another patient's: what is left is the wording. A difference is paired, over the same patients.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._promises import ABOVE_ZERO, NO_LIMIT, Row
from cxrbench.compare import compare
from cxrbench.config import load_config
from cxrbench.data.images import read_grey
from cxrbench.data.load import TaskData
from cxrbench.engines.build import make_model
from cxrbench.models.base import ModelOptions, ReadImage
from cxrbench.plan import RunSettings, plan_run
from cxrbench.runner import execute
from cxrbench.score_run import score_run
from cxrbench.scores import Sources
from cxrbench.spec import find_task
from cxrbench.store import RunFolder
from cxrbench.summary import Confidence

TASK = "demo-choice-likelihood"
METRIC, VALUE = "choice:likelihood", "accuracy"
KINDS = ("presence", "finding", "side", "severity")


class Case(NamedTuple):
    """A model, and whether it gets another patient's picture."""

    name: str
    model: str
    swapped: bool = False


CASES = (
    Case("demo", "demo"),
    Case("demo-regressed", "demo-regressed"),
    Case("demo-verbose", "demo-verbose"),
    Case("frequent-answer", "frequent-answer"),
    Case("demo, another's picture", "demo", swapped=True),
)


def swapped(data: TaskData) -> ReadImage:
    """Every study gets the picture of the study half the set away."""
    paths = list(dict.fromkeys(sample.images[0].path for sample in data.samples.samples))
    other = dict(zip(paths, paths[len(paths) // 2 :] + paths[: len(paths) // 2], strict=True))
    return lambda path: read_grey(other[path])


def measured(case: Case, folder: Path, limit: int | None) -> tuple[RunFolder, Mapping[str, Any]]:
    """The run of a case and its summary."""
    spec = find_task(TASK)
    data = TaskData.find(spec, load_config())
    options = ModelOptions(
        extra={"target": "answer"},
        asks=frozenset({"score_options"}),
        read_image=swapped(data) if case.swapped else read_grey,
    )
    model = make_model(case.model, options)
    if model.needs_pool:
        model.fit(lambda: data.pool)
    plan = plan_run(data, model, RunSettings(limit=limit, generation=getattr(model, "generation", None)))
    run = RunFolder(folder / case.name.replace(", ", "-").replace("'s ", "-"))
    execute(run, plan, model, {}, 2, lambda done, total: None)
    model.close()
    return run, score_run(run, (), Sources(), Confidence(), lambda stage, done, total: None)


def line(name: str, summary: Mapping[str, Any]) -> str:
    """Accuracy over all questions with its interval, and within each type of question."""
    body = summary["metrics"][METRIC][VALUE]
    groups = summary["slices"]["question-type"]
    within = "".join(f"{groups[kind]['metrics'][METRIC][VALUE]['value']:>10.3f}" for kind in KINDS)
    return f"  {name:<26}{body['value']:.3f} [{body['ci'][0]:.3f}, {body['ci'][1]:.3f}]{within}"


def over(candidate: RunFolder, baseline: RunFolder) -> tuple[float, float]:
    """The paired difference in accuracy and the low end of its interval."""
    pair = compare([baseline, candidate], (), Confidence(replicates=2000))["comparisons"][0]
    found = pair["metrics"][METRIC]["values"][VALUE]
    return found["difference"], found["ci"][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=int, help="questions")
    limit = parser.parse_args().limit
    with tempfile.TemporaryDirectory() as place:
        made = {case.name: measured(case, Path(place), limit) for case in CASES}
        runs = {name: run for name, (run, _) in made.items()}
        rows = []
        for name in ("frequent-answer", "demo, another's picture", "demo-regressed"):
            difference, low = over(runs["demo"], runs[name])
            rows.append(Row(f"demo over {name}: {difference:+.3f}, low end", ABOVE_ZERO, NO_LIMIT, low))
    summaries = {name: summary for name, (_, summary) in made.items()}
    chance = summaries["demo"]["metrics"][METRIC]["chance"]["value"]
    ends = {name: summary["metrics"][METRIC][VALUE]["ci"] for name, summary in summaries.items()}
    rows.insert(0, Row("demo: low end of the interval over chance", 0.1, NO_LIMIT, ends["demo"][0] - chance))
    rows.append(
        Row("another's picture: high end over frequent-answer's", -NO_LIMIT, 0.1,
            ends["demo, another's picture"][1] - ends["frequent-answer"][1])
    )  # fmt: skip
    print(f"{TASK}, {summaries['demo']['n']} questions; chance {chance:.3f}")
    print(f"  {'':<26}{'all, 95 % interval':<20}" + "".join(f"{kind:>10}" for kind in KINDS))
    for name, summary in summaries.items():
        print(line(name, summary))
    print(f"  {'':<72}{'required':>9}{'found':>9}")
    for row in rows:
        print(row)
    missed = [row.what for row in rows if not row.kept]
    if missed:
        raise SystemExit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
