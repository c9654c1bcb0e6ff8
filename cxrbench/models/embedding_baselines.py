"""`random-embedding` and `ridge-embedding`: what retrieval is worth without a network.

docs/tasks-beyond-findings.md is the user's page.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.models.base import ModelCard, ModelOptions
from cxrbench.models.nearest import PIXELS, SIDE, key_image, shrink
from cxrbench.models.outputs_base import Grey, Outputs
from cxrbench.models.words import WIDTH, bag, bags, rarity, unit
from cxrbench.types import Generation, Message, Request, RequestKind, Sample

EMBEDS: frozenset[RequestKind] = frozenset({"embed_image", "embed_text"})

RANDOM_WIDTH = 32
RIDGE = 3.0
"""In units of a thumbnail's mean variance. Chosen on phantom's split validate for the smallest median rank, of 0.03 to
100 in steps of about 3 (docs/tasks-beyond-findings.md)."""


class RandomEmbedding(Outputs):
    """A vector drawn by the sample's seed: what chance finds in a gallery of this size."""

    card = ModelCard("random-embedding", "a random vector for every picture and text", revision="1", notes="chance")
    kinds = EMBEDS

    def output(self, request: Request, grey: Grey | None) -> NDArray[Any]:
        raw = np.random.PCG64(request.seed).random_raw(RANDOM_WIDTH)
        return (np.asarray(raw, np.float64) / 2.0**63 - 1).astype(np.float32)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "width": RANDOM_WIDTH}


class RidgeEmbedding(Outputs):
    """Linear regression, fitted on the train split, from a picture's thumbnail to its text's bag of words.

    A text is its bag of hashed words and pairs of words, each weighted by its rarity in the train split, less the
    mean, at unit length; a picture is what the regression expects its text to be. A thumbnail is that of
    `nearest-image`, mean-free at unit length, less the mean.
    """

    card = ModelCard(
        "ridge-embedding",
        "linear regression from a thumbnail to a bag of words",
        revision="1",
        trained_on=("the task's train split",),
        notes="what retrieval is worth without a network",
    )
    kinds = EMBEDS
    consumes = frozenset({"image", "findings", "impression"})
    needs_pool = True

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options)
        self.target = options.extra.get("target", "findings")

    def identity(self) -> dict[str, Any]:
        return {
            **super().identity(),
            "thumbnail": f"{SIDE}x{SIDE} area mean",
            "words": f"{WIDTH} places, words and pairs, log rarity",
            "ridge": RIDGE,
            "vectors": "not normalised",
        }

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        image = key_image(sample) if kind == "embed_image" else None
        text = sample.sections.get(self.target, "") if kind == "embed_text" else ""
        named = [f"image:{image.view or 'unknown'}"] if image else [f"section:{self.target}"] if text else []
        return Request(
            sample.sample_id,
            kind,
            messages=(Message("user", text),) if text else (),
            images=(image,) if image is not None else (),
            inputs=tuple(named),
            generation=generation,
            seed=seed,
        )

    def circumstances(self) -> dict[str, Any]:
        """How many train pictures it was fitted on; reads them, if that has not been done."""
        return {**super().circumstances(), "fitted_on": self.fitted[4]}

    @cached_property
    def fitted(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], int]:
        """Weights (1024, 1024), mean of thumbnails, rarity and mean of bags, and the number of train pictures.

        Raises:
            CxrbenchError: no train image can be read.
        """
        found = [(sample.target, made) for sample, made in self.read_pool(seen)]
        if not found:
            raise CxrbenchError(
                "no train image can be used",
                where=f"model {self.card.name}",
                fix="cxrbench data check DATASET",
                code=Exit.UNDECIDED,
            )
        words = bags([text for text, _ in found])
        weight = rarity(words)
        texts = unit(words * weight)
        pictures = np.stack([made for _, made in found])
        middle, mean = pictures.mean(axis=0), texts.mean(axis=0)
        left, right = pictures - middle, texts - mean
        spread = left.T @ left / len(found) + np.eye(PIXELS) * RIDGE / PIXELS
        solved = np.linalg.solve(spread, left.T @ right / len(found))
        return solved, middle, weight, mean, len(found)

    def output(self, request: Request, grey: Grey | None) -> NDArray[Any]:
        solved, middle, weight, mean, _ = self.fitted
        if grey is not None:
            return np.asarray((seen(grey) - middle) @ solved, np.float32)
        return np.asarray(unit(bag(request.messages[0].text) * weight) - mean, np.float32)

    def close(self) -> None:
        """Let go of what was learnt."""
        super().close()
        self.__dict__.pop("fitted", None)


def seen(grey: Grey) -> NDArray[np.float64]:
    """The thumbnail of an image, mean-free, at unit length: (1024,); zeros for a blank one."""
    values = shrink(grey).astype(np.float64)
    return unit(values - values.mean())
