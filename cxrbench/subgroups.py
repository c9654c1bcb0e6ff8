"""Which samples are in which group, and the table of a gap. No torch, no texts.

Groups are columns of the samples (sex, race, age, view, abnormal, seen-in-train, a task's groupings, a data set's
own), and two that are made here: `label` (which findings the reference has; groups overlap) and `length` (thirds by
words of the reference).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrbench.data.samples import UNKNOWN
from cxrbench.errors import CxrbenchError, suggest
from cxrbench.metrics.base import Metric
from cxrbench.stats_tables import Floats, Table, Valued, Values
from cxrbench.types import Sample

MADE = ("label", "length")
"""Columns that every task has, made here."""

Mask = NDArray[np.bool_]
Groups = dict[str, Mask]


@dataclass(frozen=True, slots=True)
class _Gap:
    """Rows are a count, the columns of those in a group (zero for others), then the columns of all others."""

    metric: Valued
    width: int

    @property
    def additive(self) -> bool:
        return True

    def value(self, sums: Floats) -> Values:
        inside = self.metric.value(sums[..., 1 : 1 + self.width])
        outside = self.metric.value(sums[..., 1 + self.width :])
        return {name: inside[name] - outside[name] for name in inside}

    def value_weighted(self, rows: Floats, weights: Floats) -> Values:
        return self.value(weights @ rows)


def gap_table(table: Table, inside: Mask) -> Table:
    """The table whose values are those of a group minus those of all other samples."""
    group, rest = (np.where(mask[:, None], table.rows, 0.0) for mask in (inside, ~inside))
    count = (table.rows[:, :1] > 0).astype(np.float64)
    return Table(np.hstack([count, group, rest]), _Gap(table.metric, table.rows.shape[1]))


def groups_of(samples: Sequence[Sample], column: str) -> Groups:
    """Group name -> which samples are in it.

    Raises:
        CxrbenchError: there is no such column, or it says nothing about any sample.
    """
    if column == "label":
        found = _labels(samples)
    elif column == "length":
        found = _thirds(samples)
    else:
        found = _column(samples, column)
    if set(found) <= {UNKNOWN}:
        raise CxrbenchError(
            f"nothing is known of {column!r} for these samples", where=f"--by {column}", fix="another column"
        )
    return found


def columns_of(samples: Sequence[Sample]) -> list[str]:
    """Columns that can be asked for."""
    return sorted({name for sample in samples for name in sample.subgroups} | set(MADE))


def _column(samples: Sequence[Sample], column: str) -> Groups:
    known = columns_of(samples)
    if column not in known:
        more = "a task with variants (demo-robustness, say), or " if column == "variant" else ""
        raise CxrbenchError(
            f"the samples have no column {column!r}{suggest(column, known)}",
            where=f"--by {column}",
            fix=f"{more}one of: {', '.join(known)}",
        )
    members: dict[str, list[bool]] = {}
    values = [sample.subgroups.get(column, UNKNOWN) for sample in samples]
    for name in sorted(set(values)):
        members[name] = [value == name for value in values]
    return {name: np.array(mask) for name, mask in members.items()}


def _labels(samples: Sequence[Sample]) -> Groups:
    """Samples whose reference has a label (present) by any source that the data set ships."""
    members: dict[str, set[int]] = defaultdict(set)
    for i, sample in enumerate(samples):
        for labels in sample.labels.values():
            for label, state in labels.items():
                if state == 1:
                    members[label].add(i)
    return {label: np.isin(np.arange(len(samples)), sorted(inside)) for label, inside in sorted(members.items())}


def _thirds(samples: Sequence[Sample]) -> Groups:
    words = np.array([len(sample.target.split()) for sample in samples])
    edges = [int(edge) for edge in np.quantile(words, [1 / 3, 2 / 3], method="lower")]
    bounds = [(0, edges[0]), (edges[0] + 1, edges[1]), (edges[1] + 1, int(words.max()))]
    groups = {
        f"{max(low, int(words.min()))}-{high} words": (words >= low) & (words <= high)
        for low, high in bounds
        if low <= high
    }
    return {name: mask for name, mask in groups.items() if mask.any()}


def rests_on(metric: Metric, rows: Floats) -> list[Mask]:
    """Which samples the primary values of a metric rest on: those scored, and the parts that some of them count.

    Args:
        metric: of which a value may rest on a part of the scored samples (`Value.counted_by`: open questions, say).
        rows: (n, k) statistics of n samples.
    """
    scored = Table(rows, metric).scored
    counters = sorted({value.counted_by for value in metric.values.values() if value.primary and value.counted_by})
    counts = metric.value(rows) if counters else {}
    return [scored, *(scored & (counts[name] > 0) for name in counters)]


def only(table: Table, mask: Mask) -> Table:
    """The table with the rows of all other samples emptied: samples stay in their places."""
    return Table(np.where(mask[:, None], table.rows, 0.0), table.metric)
