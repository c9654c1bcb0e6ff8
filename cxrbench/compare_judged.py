"""Pair-scoped judging in a comparison: which of two runs' reports is better, sample by sample. No torch.

What a judge said is kept in the store of judges' answers of the data set, so the same comparison costs nothing again.
"""

from __future__ import annotations

from typing import Any

from cxrbench.compare import Paired
from cxrbench.config import cache_dir
from cxrbench.data.text import normalise
from cxrbench.judges.engine import Judge
from cxrbench.judges.pairwise import Duel, fight, rates
from cxrbench.summary import Confidence
from cxrbench.types import Prediction


def judged(paired: Paired, judge: Judge, confidence: Confidence) -> dict[str, Any]:
    """`pairwise` of a comparison: rates of the candidate over the samples both runs answered.

    Raises:
        CxrbenchError: not one pair could be judged.
    """
    manifest = paired.baseline.manifest()
    judge = judge.at(cache_dir() / "judges" / str(manifest.task["dataset"]["name"]))
    text = str(manifest.task["text"])
    one, two = paired.baseline.predictions(), paired.candidate.predictions()
    both = [
        (number, sample)
        for number, sample in enumerate(paired.samples)
        if _answered(one.get(sample.sample_id)) and _answered(two.get(sample.sample_id))
    ]
    duels = [
        Duel(
            sample.sample_id,
            normalise(text, one[sample.sample_id].text or ""),
            normalise(text, two[sample.sample_id].text or ""),
            sample.target,
        )
        for _, sample in both
    ]
    found = rates(
        fight(duels, judge),
        [paired.clusters[number] for number, _ in both],
        level=confidence.level,
        replicates=confidence.replicates,
        seed=confidence.seed,
    )
    rubric = judge.rubric("pairwise")
    return {
        "pairwise": found
        | {
            "unanswered": len(paired.samples) - len(both),
            "judge": judge.asker.name,
            "rubric": rubric.tag,
            "repeats": judge.repeats,
            "notes": judge.told(rubric.tag),
        }
    }


def _answered(row: Prediction | None) -> bool:
    return row is not None and not row.failed
