"""`random-image`, `mean-image` and `nearest-text`: what pictures generated from reports should be compared with.

All of them give pictures of the task's train split. docs/tasks-beyond-findings.md is the user's page.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbench.data.images import ImageFailure
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.models.base import ModelCard, ModelOptions
from cxrbench.models.baselines import draw
from cxrbench.models.nearest import key_image
from cxrbench.models.outputs_base import Grey, Outputs
from cxrbench.models.published_pixels import CentreSquare
from cxrbench.models.words import bag, bags, rarity, unit
from cxrbench.types import Generation, Message, Request, RequestKind, Sample

SIDE = 256
"""Pixels along a side, as LLM-CXR's pictures: the short side of the train picture, its centre cut out."""

PAINTS: frozenset[RequestKind] = frozenset({"generate_image"})
TRAIN = ("the task's train split",)


class TrainPicture(Outputs):
    """A baseline that shows pictures of the train split; `pick` says which."""

    kinds = PAINTS
    needs_pool = True

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "side": SIDE}

    def shown(self, sample: Sample) -> Grey:
        """The picture of a train sample.

        Raises:
            CxrbenchError: it cannot be read; the whole train split must be there.
        """
        image = key_image(sample)
        try:
            if image is not None:
                return CentreSquare(SIDE).levels(self.read_image(image.path))
            reason = "it has no key image"
        except ImageFailure as failure:
            reason = failure.detail
        raise CxrbenchError(
            f"a train picture cannot be shown: {reason}",
            where=f"model {self.card.name}",
            fix="cxrbench data check DATASET",
            code=Exit.UNDECIDED,
        )


class RandomImage(TrainPicture):
    """The picture of a train study drawn by the sample's seed: real pictures that know nothing of the text."""

    card = ModelCard(
        "random-image",
        "a random train picture",
        revision="1",
        trained_on=TRAIN,
        notes="real pictures with the wrong findings: the Fréchet distance cannot tell",
    )

    def output(self, request: Request, grey: Grey | None) -> NDArray[Any]:
        pool = self.need_pool()
        return self.shown(pool[draw(request.seed, len(pool))])


class MeanImage(TrainPicture):
    """The mean of all train pictures, the same for every text."""

    card = ModelCard("mean-image", "the mean of the train pictures", revision="1", trained_on=TRAIN)

    def circumstances(self) -> dict[str, Any]:
        """How many pictures the mean is of; reads them, if that has not been done."""
        return {**super().circumstances(), "mean_of": self.mean[1]}

    @cached_property
    def mean(self) -> tuple[Grey, int]:
        """The picture, and of how many it is the mean.

        Raises:
            CxrbenchError: no train picture can be read.
        """
        total, count = np.zeros((SIDE, SIDE), np.int64), 0
        for _, picture in self.read_pool(CentreSquare(SIDE).levels):
            total, count = total + picture, count + 1
        if not count:
            raise CxrbenchError(
                "no train picture can be read",
                where=f"model {self.card.name}",
                fix="cxrbench data check DATASET",
                code=Exit.UNDECIDED,
            )
        return np.round(total / count).astype(np.uint8), count

    def output(self, request: Request, grey: Grey | None) -> NDArray[Any]:
        return self.mean[0]


class NearestText(TrainPicture):
    """The picture of the train study whose text is most alike: `nearest-image` the other way round.

    Alike means the cosine of two bags of hashed words and pairs of words, each weighted by its rarity in the train
    split; of equals the smallest study id. Never a study of the same patient where patients are known.
    """

    card = ModelCard(
        "nearest-text",
        "the train picture whose report is most alike",
        revision="1",
        trained_on=TRAIN,
        notes="retrieval without learning; never a study of the same patient where patients are known",
    )
    consumes = frozenset({"findings", "impression"})

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options)
        self.target = options.extra.get("target", "findings")
        self._patients: dict[str, str | None] = {}

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        text = sample.sections.get(self.target, "")
        self._patients[sample.sample_id] = sample.patient_id
        return Request(
            sample.sample_id,
            kind,
            messages=(Message("user", text),) if text else (),
            inputs=(f"section:{self.target}",) if text else (),
            generation=generation,
            seed=seed,
        )

    @cached_property
    def known(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Bags of the train texts (n, 1024) at unit length, the rarity of each place, and the patients."""
        pool = self.need_pool()
        words = bags([sample.target for sample in pool])
        weight = rarity(words)
        return unit(words * weight), weight, np.array([sample.patient_id for sample in pool], object)

    def output(self, request: Request, grey: Grey | None) -> NDArray[Any]:
        words, weight, patients = self.known
        alike = words @ unit(bag(request.messages[0].text) * weight)
        patient = self._patients[request.sample_id]
        if patient is not None and not (patients == patient).all():
            alike = np.where(patients == patient, -np.inf, alike)
        return self.shown(self.need_pool()[int(np.argmax(alike))])

    def close(self) -> None:
        """Let go of the train split."""
        super().close()
        self._patients = {}
        self.__dict__.pop("known", None)
