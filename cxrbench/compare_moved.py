"""The samples that moved most between two runs, by the value of each sample by itself. No torch, no texts.

Samples of credentialed data are named by an HMAC that only holders of the data can link back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cxrbench.compare import SAME, Paired, Shared, sample_values
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.hashed_ids import hashed_id, reference_key
from cxrbench.tables import read_samples


def moved(paired: Paired, count: int) -> dict[str, Any]:
    """The `count` samples that lost most and gained most under the first metric that has a value of a sample.

    Raises:
        CxrbenchError: no compared metric has one.
    """
    found = _first(paired)
    if found is None:
        raise CxrbenchError(
            "no compared metric has a value of a single sample that can be better or worse",
            where="--moved",
            fix="--metrics with one such as rouge-l",
            code=Exit.UNDECIDED,
        )
    shared, name = found
    sides = sample_values(shared, name)
    assert sides is not None, "_first takes metrics that are functions of sums"
    sign = 1 if shared.metric.values[name].higher_is_better else -1
    change = sign * (sides[1] - sides[0])
    order = [int(i) for i in np.argsort(change, kind="stable") if not np.isnan(change[i])]
    names = _names(paired)

    def entry(i: int) -> dict[str, Any]:
        return {
            "sample": names[i],
            "baseline": float(sides[0][i]),
            "candidate": float(sides[1][i]),
            "difference": float(sides[1][i] - sides[0][i]),
        }

    return {
        "moved": {
            "metric": shared.metric.key,
            "value": name,
            "higher_is_better": shared.metric.values[name].higher_is_better,
            "worse": [entry(i) for i in order[:count] if change[i] < -SAME],
            "better": [entry(i) for i in order[::-1][:count] if change[i] > SAME],
        }
    }


def _first(paired: Paired) -> tuple[Shared, str] | None:
    for each in paired.shared:
        for name, value in each.metric.values.items():
            if each.metric.additive and value.primary and value.higher_is_better is not None:
                return each, name
    return None


def _names(paired: Paired) -> list[str]:
    """Sample ids of open data; HMACs of credentialed data."""
    ids = [sample.sample_id for sample in paired.samples]
    if paired.baseline.manifest().access == "open":
        return ids
    key = reference_key(read_samples(paired.baseline.samples_file).samples)
    return [hashed_id(key, "sample", name) for name in ids]
