"""The vectors of a whole run, for metrics that look beyond a pair: a retrieval gallery is the full test set."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrbench.artifacts import read_vectors
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.base import ALONE, Feature, Pairs, Resources


@dataclass(frozen=True, slots=True)
class RunVectors:
    """`rows` (n, d) float32 and the place of each sample id in them; which samples were asked, which are open yet."""

    rows: NDArray[np.float32]
    places: Mapping[str, int]
    asked: frozenset[str]
    open: frozenset[str]


class AnswerVectors(Feature):
    """The vectors of every sample of the run that has one, the same for every batch of pairs."""

    name = "answer-vectors"

    def extract(self, pairs: Pairs, settings: Mapping[str, Hashable], resources: Resources = ALONE) -> RunVectors:
        """Read them; `pairs` and `settings` have no meaning here.

        Raises:
            CxrbenchError: there is no run with vectors, or a file of it is damaged.
        """
        answered = resources.answered
        if answered is None:
            raise CxrbenchError("there are no vectors here: a run folder has them", code=Exit.UNDECIDED)
        names = sorted(answered.references)
        rows = read_vectors(answered.run, [answered.references[name] for name in names])
        return RunVectors(rows, {name: i for i, name in enumerate(names)}, answered.asked, answered.open)
