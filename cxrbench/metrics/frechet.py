"""Fréchet distance between generated and real pictures, over the features of a chosen encoder.

    |m - m'|^2 + tr(C + C' - 2 (C'^1/2 C C'^1/2)^1/2)

with means m, m' and covariances C, C' (divided by n - 1) of generated and real pictures (Dowson and Landau 1982; as
"FID" Heusel et al. 2017, arXiv:1706.08500). The real ones are those of the task's full test set, whatever part was
generated. The encoder decides the number: two encoders' distances are two metrics, and a smaller one over `pixels` says
nothing about findings. Touches features by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features import encoders
from cxrbench.metrics.base import Context, Corpus, FeatureRequest, Floats, Metric, Pairs, Statistics, Value

LEAST = 2
"""Pictures of each kind without which there is no covariance."""

PICTURES = "picture-features"


class Frechet(Metric):
    """Statistics per sample: count, the features of its picture in the real pictures' own axes, and their variances.

    Axes are the eigenvectors of C' with m' in the origin, so that the distance needs the rows alone: the variances
    along the axes, the same in every row, are the eigenvalues of C'. A value needs two pictures.

    It has no interval: a resample repeats pictures, which makes C smaller and the distance larger than that of the
    sample (docs/tasks-beyond-findings.md shows by how much), and a small sample's distance is too large by itself.
    """

    name = "frechet"
    presets: ClassVar[Mapping[str, str]] = {
        **encoders.PRESETS,
        "FOLDER": "an image encoder of yours, a stock checkpoint",
    }
    default_preset = "pixels"
    values: ClassVar[Mapping[str, Value]] = {
        "distance": Value(False, (0.0, None), primary=True, interval=False),
        "mean_part": Value(False, (0.0, None), interval=False),
    }
    citation = ("arXiv:1706.08500",)
    additive = False
    form = "pictures"

    def __init__(self, preset: str | None = None) -> None:
        folder = preset if preset not in (None, *encoders.PRESETS) else None
        super().__init__(preset if folder is None else "FOLDER")
        if folder is not None:
            self.preset = folder

    def ready(self) -> str | None:
        if self.preset in encoders.PRESETS or Path(self.preset).is_dir():
            return encoders.missing(self.preset)
        return "needs an encoder: frechet:FOLDER, a stock image checkpoint" + (
            "" if self.preset == "FOLDER" else f"; there is no folder {self.preset!r}"
        )

    def fit(self, corpus: Corpus) -> Context:
        """Mean and covariance of the real pictures' features.

        Raises:
            CxrbenchError: the pictures are not at hand, fewer than two can be read, or the encoder knows phantom only.
        """
        encoder = encoders.find(self.preset, corpus.dataset)
        if corpus.pictures is None:
            raise CxrbenchError(
                "the real pictures are not at hand",
                fix="repeat the `cxrbench run` that made the run",
                code=Exit.UNDECIDED,
            )
        every = list(corpus.pictures())
        real = [picture for picture in every if picture is not None]
        if len(real) < LEAST:
            raise CxrbenchError(f"{len(real)} of {len(every)} real pictures can be read", code=Exit.UNDECIDED)
        features = encoder.features(real, "cpu")
        mean, covariance = features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))
        variances, axes = np.linalg.eigh(covariance)
        return Context.of(
            {
                "encoder": encoder.tag,
                "pictures": len(real),
                "unread": len(every) - len(real),
                "mean": mean.tolist(),
                "axes": axes.tolist(),
                "variances": np.maximum(variances, 0).tolist(),
            }
        )

    def needs(self, context: Context) -> tuple[FeatureRequest, ...]:
        return (self._request(context),)

    def _request(self, context: Context) -> FeatureRequest:
        return FeatureRequest(PICTURES, (("encoder", self.preset), ("tag", context.data["encoder"])))

    def fitted(self, context: Context) -> tuple[tuple[str, str], ...]:
        if not context.hash:
            return ()
        return (("encoder", context.data["encoder"]), ("real", f"{context.data['pictures']}.{context.hash}"))

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        mean, axes, variances = (np.array(context.data[key]) for key in ("mean", "axes", "variances"))
        made = (features[self._request(context)] - mean) @ axes
        return Statistics.scored(np.hstack([np.ones((len(pairs), 1)), made, np.tile(variances, (len(pairs), 1))]))

    def value_weighted(self, rows: Floats, weights: Floats) -> dict[str, Floats]:
        """The distance of each weighting: rows (n, 1 + 2 d), weights (b, n) -> (b,)."""
        width = (rows.shape[1] - 1) // 2
        points = rows[:, 1 : 1 + width]
        variances = rows[np.argmax(rows[:, 0]), 1 + width :]
        found = np.array([_distance(points, variances, weight * rows[:, 0]) for weight in weights]).reshape(-1, 2)
        return {"distance": found[:, 0], "mean_part": found[:, 1]}


def _distance(points: Floats, variances: Floats, weights: Floats) -> tuple[float, float]:
    """Distance of weighted points from a normal distribution around 0 with these variances, and its first part."""
    total = weights.sum()
    if total < LEAST:
        return float("nan"), float("nan")
    mean = weights @ points / total
    apart = (points - mean) * np.sqrt(weights)[:, None]
    root = np.sqrt(variances)
    # tr (C'^1/2 C C'^1/2)^1/2 is the sum of the singular values of the scaled points: no square root of a matrix that
    # is only nearly positive, whose error is the root of the rounding.
    scaled = apart * root / np.sqrt(total - 1)
    crossed = np.linalg.svd(scaled, compute_uv=False).sum()
    first = float(mean @ mean)
    spread = (apart * apart).sum() / (total - 1) + variances.sum() - 2 * crossed
    return first + max(float(spread), 0.0), first
