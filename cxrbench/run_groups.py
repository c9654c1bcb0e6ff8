"""One run within subgroups: the fairness, robustness and length tables. No torch, no texts.

group_values.py has the numbers, small_cells.py says which cells are hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cxrbench.data.grouping import VERBOSITY
from cxrbench.data.samples import cluster_unit, clusters_of
from cxrbench.errors import CxrbenchError, Exit, suggest
from cxrbench.group_values import LENGTH_KEY, columns_of_task, group_tables, not_told, told, verbosity
from cxrbench.scores import load_scores
from cxrbench.scoring import Scored
from cxrbench.spec import FEWEST, GroupsPart
from cxrbench.store import RunFolder
from cxrbench.subgroups import Groups, groups_of
from cxrbench.summary import Confidence
from cxrbench.tables import read_samples
from cxrbench.types import Sample


def run_groups(
    run: RunFolder,
    columns: Sequence[str],
    confidence: Confidence,
    *,
    metrics: Sequence[str] = (),
    against: str | None = None,
    fewest: int | None = None,
) -> dict[str, Any]:
    """The tables of groups of a run, with what they rest on.

    Args:
        run: a scored run.
        columns: subgroup columns, `label`, `length` or `verbosity`, which every task has; none: those of the task.
        confidence: of percentile intervals; a table of groups is for orientation.
        metrics: metric keys; all that were scored by default.
        against: a group that gaps are measured against; all other samples by default.
        fewest: a cell of fewer patients is hidden; by default as the task says, or `FEWEST`.

    Raises:
        CxrbenchError: no such column, group or metric, or nothing was scored.
    """
    manifest = run.manifest()
    stored = read_samples(run.samples_file).chosen
    found = load_scores(run, metrics)
    if not any(told(each) for each in found):
        why = "; ".join(f"{key}: {reason}" for key, reason in not_told(found).items())
        raise CxrbenchError(
            f"no metric was scored that can be told by groups{f' ({why})' if why else ''}", where=str(run.path),
            fix="cxrbench score RUN", code=Exit.UNDECIDED,
        )  # fmt: skip
    kept = manifest.task.get("groups")
    part = GroupsPart.model_validate(kept) if kept else None
    named = list(columns) or (list(part.by) if part else [])
    if not named:
        raise CxrbenchError("no column is named, and the task groups by none", where="--by", fix="--by sex,race,age")
    with_length = found
    if VERBOSITY in named and not any(each.metric.key == LENGTH_KEY for each in found):
        with_length = [*found, *load_scores(run, [LENGTH_KEY])]
    groups = {name: _groups(name, stored, with_length, part) for name in named}
    for name, made in groups.items():
        if against is not None and against not in made:
            raise CxrbenchError(
                f"{name!r} has no group {against!r}{suggest(against, made)}",
                where="--against", fix=f"one of: {', '.join(made)}",
            )  # fmt: skip
    of_task = {name: part.against[name] for name in groups if name in part.against} if part else {}
    by_column = of_task if against is None else dict.fromkeys(groups, against)
    fewest = fewest if fewest is not None else part.min_patients if part else FEWEST
    return {
        "task": manifest.identity["task"]["name"],
        "model": manifest.identity["model"].get("name", ""),
        "n": len(stored),
        "clusters": len(set(clusters_of(stored))),
        "cluster_unit": cluster_unit(stored, manifest.cluster_unit),
        **group_tables(stored, found, groups, confidence, against=by_column, fewest=fewest),
    }


def _groups(name: str, samples: Sequence[Sample], found: Sequence[Scored], part: GroupsPart | None) -> Groups:
    """The groups of one column, as the task has them where it names the column."""
    if part is not None and name in part.by:
        return columns_of_task(samples, found, GroupsPart(by={name: part.by[name]}))[name]
    return verbosity(found) if name == VERBOSITY else groups_of(samples, name)
