"""Several tasks at once: what a change of the model gains on some and costs on others. No torch, no texts.

A suite file names pairs of runs and the metrics to average; the result is the table by which a training step is judged
that should improve one task and must not spoil the others: difference per task, mean relative change, output length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from cxrbench.compare import Paired, Shared, compare_pair, pair_runs
from cxrbench.errors import CxrbenchError
from cxrbench.lengths import LENGTH_KEY, length_ratio
from cxrbench.stats import Clusters, Floats, Table, Values, bootstrap, replicate, resample_weights
from cxrbench.stats_tests import holm
from cxrbench.store import RunFolder, find_run
from cxrbench.summary import Confidence, number
from cxrbench.yaml_file import read_yaml

_FIX = "docs/compare.md of the repository shows one"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SuiteTask(_Part):
    """One task: two run folders, relative to the suite file; a pattern must match exactly one folder."""

    baseline: str
    candidate: str
    name: str | None = None


class Suite(_Part):
    """A suite file."""

    name: str
    metrics: tuple[str, ...] = Field(min_length=1)
    tasks: tuple[SuiteTask, ...] = Field(min_length=1)

    @field_validator("metrics")
    @classmethod
    def _metric_and_value(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for text in metrics:
            if len(text.split()) != 2 or ":" not in text.split()[0]:
                raise ValueError(f"{text!r} is not `metric:preset value`, such as `rouge-l:raw rouge_l`")
        return tuple(" ".join(text.split()) for text in metrics)


@dataclass(frozen=True, slots=True)
class _Relative:
    """Rows are the baseline's columns, then the candidate's; the value is the change relative to the baseline.

    Turned so that more is better, whatever the metric's direction.
    """

    shared: Shared
    name: str

    @property
    def additive(self) -> bool:
        return self.shared.metric.additive

    def value(self, sums: Floats) -> Values:
        width = sums.shape[-1] // 2
        return self._relative(self.shared.metric.value(sums[..., :width]), self.shared.metric.value(sums[..., width:]))

    def value_weighted(self, rows: Floats, weights: Floats) -> Values:
        width = rows.shape[1] // 2
        value = self.shared.metric.value_weighted
        return self._relative(value(rows[:, :width], weights), value(rows[:, width:], weights))

    def _relative(self, first: Values, second: Values) -> Values:
        sign = 1 if self.shared.metric.values[self.name].higher_is_better else -1
        one, two = first[self.name], second[self.name]
        return {"": sign * (two - one) / np.where(one == 0, np.nan, np.abs(one))}


def read_suite(file: Path) -> Suite:
    """Read a suite file.

    Raises:
        CxrbenchError: with file, line and key of the first thing that is wrong.
    """
    return read_yaml(file, Suite, "a suite of comparisons", _FIX)


def compare_suite(file: Path, confidence: Confidence) -> dict[str, Any]:
    """All tasks of a suite: per task and metric the difference, interval, p, Holm over all, and the means.

    `missing` lists what a task does not have; such a suite is incomplete.

    Raises:
        CxrbenchError: a pair of runs cannot be compared, or a value has no direction.
    """
    suite = read_suite(file)
    tasks, missing, draws = [], [], []
    for entry in suite.tasks:
        runs = [_run(file, text) for text in (entry.baseline, entry.candidate)]
        paired = pair_runs(runs[0], runs[1], ())
        name = entry.name or str(runs[0].manifest().identity["task"]["name"])
        body, drawn = _task(paired, suite, confidence)
        missing += [f"{metric} in {name}" for metric in suite.metrics if metric not in body["values"]]
        tasks.append({"name": name, **body})
        draws += drawn
    _adjust(tasks)
    known = [value["relative"] for task in tasks for value in task["values"].values()]
    return {
        "suite": suite.name,
        "ci_level": confidence.level,
        "tests": len(known),
        "tasks": tasks,
        "mean_relative_change": _mean(known, draws, confidence.level),
        "missing": missing,
    }


def _run(file: Path, text: str) -> RunFolder:
    found = sorted(file.parent.glob(text)) if not Path(text).is_absolute() else [Path(text)]
    if len(found) != 1:
        raise CxrbenchError(
            f"{len(found)} folders match {text!r}, not one",
            where=str(file),
            fix="name one run folder (relative to the file)",
        )
    return find_run(str(found[0]))


def _task(paired: Paired, suite: Suite, confidence: Confidence) -> tuple[dict[str, Any], list[Floats]]:
    """One task: its numbers, and the draws of the relative change of each of its values."""
    wanted = {metric.split()[0] for metric in suite.metrics}
    by_key = {each.metric.key: each for each in paired.shared}
    chosen = tuple(each for key, each in by_key.items() if key in wanted)
    made = compare_pair(replace(paired, shared=chosen), confidence)
    compared = made["metrics"]
    values: dict[str, Any] = {}
    draws = []
    for metric in suite.metrics:
        key, name = metric.split()
        if key not in compared:
            continue
        _require(by_key[key], name)
        drawn = _relative_draws(by_key[key], name, paired.clusters, confidence)
        cell = compared[key]["values"][name]
        values[metric] = {
            **{
                part: cell[part]
                for part in ("baseline", "candidate", "difference", "ci", "p", "mde", "higher_is_better")
            },
            "n": compared[key]["n"],
            "clusters": compared[key]["clusters"],
            "signature": compared[key]["signature"],
            "relative": drawn[0],
        }
        draws.append(drawn[1])
    body = {part: made[part] for part in ("runs", "baseline", "candidate")}
    return {**body, "values": values, "length_ratio": _length(by_key.get(LENGTH_KEY), paired, confidence)}, draws


def _require(shared: Shared, name: str) -> None:
    about = shared.metric.values.get(name)
    if about is None or about.higher_is_better is None or not about.interval:
        raise CxrbenchError(
            f"{shared.metric.key} has no value {name!r} that can be better or worse",
            where="the suite's metrics",
            fix=f"one of: {', '.join(n for n, v in shared.metric.values.items() if v.higher_is_better is not None)}",
        )


def _relative_draws(
    shared: Shared, name: str, clusters: Sequence[str], confidence: Confidence
) -> tuple[float | None, Floats]:
    """The relative change and its bootstrap draws. Tasks of the same patients see the same resamples of them."""
    rows = np.hstack([shared.one.rows, shared.two.rows])[shared.both]
    table = Table(rows, _Relative(shared, name))
    groups = Clusters.of([cluster for cluster, kept in zip(clusters, shared.both, strict=True) if kept])
    known = sorted({cluster for cluster, kept in zip(clusters, shared.both, strict=True) if kept})
    digest = hashlib.sha256("\0".join([str(confidence.seed), *known]).encode()).digest()
    weights = resample_weights(groups.count, confidence.replicates, int.from_bytes(digest[:6], "big"))
    drawn = replicate({"": table}, groups, weights)[""][""]
    value = replicate({"": table}, groups, [np.ones((1, groups.count))])[""][""][0]
    return number(float(value)), drawn


def _length(shared: Shared | None, paired: Paired, confidence: Confidence) -> dict[str, Any] | None:
    if shared is None:
        return None
    table = length_ratio(shared.one.rows, shared.two.rows)
    found = bootstrap(
        {"": table}, paired.clusters, level=confidence.level, replicates=confidence.replicates, seed=confidence.seed
    )[""]["ratio"]
    return {"value": number(found.value), "ci": [found.low, found.high] if found.low is not None else None}


def _adjust(tasks: Sequence[Mapping[str, Any]]) -> None:
    """Holm over every test of the suite."""
    tested = {
        f"{at}\0{metric}": value["p"]
        for at, task in enumerate(tasks)
        for metric, value in task["values"].items()
        if value["p"] is not None
    }
    for where, adjusted in holm(tested).items():
        at, metric = where.split("\0")
        tasks[int(at)]["values"][metric]["p_holm"] = number(adjusted)


def _mean(values: Sequence[float | None], draws: Sequence[Floats], level: float) -> dict[str, Any]:
    """Mean of the relative changes with a percentile interval; undefined where one of them is."""
    if not values or any(value is None for value in values):
        return {"value": None, "ci": None, "of": len(values)}
    together = np.mean(np.stack(draws), axis=0)
    together = together[~np.isnan(together)]
    low, high = np.quantile(together, [(1 - level) / 2, (1 + level) / 2]) if len(together) else (np.nan, np.nan)
    ci = [float(low), float(high)] if len(together) > 0.99 * len(draws[0]) else None
    return {"value": float(np.mean([value for value in values if value is not None])), "ci": ci, "of": len(values)}
