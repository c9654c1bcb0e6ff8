"""Studies become samples by the task's rules: inclusion, unit, views, offered inputs, target, subgroups.

Nothing is dropped silently: every study that is left out is counted under the reason that excluded it. Never torch.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Any

from cxrbench.data.grouping import regrouped
from cxrbench.data.questions import types_of
from cxrbench.data.text import normalise
from cxrbench.errors import CxrbenchError
from cxrbench.spec import KEPT_APART
from cxrbench.spool import Growing, Ids
from cxrbench.types import ClusterUnit, Image, Question, Sample, Study

if TYPE_CHECKING:
    from cxrbench.spec import TaskSpec

AGE_BANDS = ((0, 40, "0-39"), (40, 60, "40-59"), (60, 80, "60-79"), (80, 200, "80+"))
UNKNOWN = "unknown"


class _Walk:
    """What is known of samples once all were seen, gathered as they are made or in one pass."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self.ids = Ids()
        self.patients = Ids()
        self.named = True
        """Whether every sample names its patient."""
        self.images = False
        """Whether any sample offers an image."""
        self._digests = bytearray()
        self._fingerprint = ""
        for sample in samples:
            self.add(sample)

    def add(self, sample: Sample) -> bool:
        """Take note of a sample; False where there was one of this id."""
        if not self.ids.add(sample.sample_id):
            return False
        if sample.patient_id is None:
            self.named = False
        else:
            self.patients.add(sample.patient_id)
        self.images = self.images or bool(sample.images)
        parts = [sample.sample_id, sample.target, sample.key_image or ""]
        parts += [image.image_id for image in sample.images]
        parts += [f"{name}={text}" for name, text in sorted(sample.sections.items())]
        parts += [sample.question or "", *sample.options]
        if sample.question is not None:
            parts.append(types_of(sample.subgroups))
        self._digests += hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
        return True

    def fingerprint(self) -> str:
        """See `SampleSet.fingerprint`; nothing is added afterwards."""
        if not self._fingerprint:
            digest, size = hashlib.sha256(), hashlib.sha256().digest_size
            for place in sorted(range(len(self.ids)), key=self.ids.at):
                digest.update(self._digests[place * size : (place + 1) * size])
            self._fingerprint, self._digests = digest.hexdigest()[:16], bytearray()
        return self._fingerprint


@dataclass(frozen=True)
class SampleSet:
    """The samples of a task in data-set order, and what was left out. `studies` counts what the data set yielded."""

    samples: Sequence[Sample]
    studies: int
    excluded: Mapping[str, int] = field(default_factory=dict)
    walk: _Walk | None = field(default=None, repr=False, compare=False)
    """Of exactly these samples, where it was made with them."""
    stored: Path | None = None
    """The file of a run folder that they were taken from, where they were."""

    @cached_property
    def _walked(self) -> _Walk:
        return self.walk if self.walk is not None else _Walk(self.samples)

    @property
    def ids(self) -> Ids:
        """Ids of the samples, in their order."""
        return self._walked.ids

    @property
    def clusters(self) -> int:
        """Number of patients, or of studies where patients are not known."""
        return len(self._walked.patients) if self.has_patients else len(set(clusters_of(self.samples)))

    @property
    def has_patients(self) -> bool:
        """See `has_patients`."""
        return bool(self.samples) and self._walked.named

    @property
    def images(self) -> bool:
        """Whether any sample offers an image."""
        return self._walked.images

    @property
    def fingerprint(self) -> str:
        """16 hex digits over ids, targets, offered sections and image ids: equal wherever the same data are read."""
        return self._walked.fingerprint()


def clusters_of(samples: Sequence[Sample]) -> list[str]:
    """The unit that is resampled, per sample: its patient; where any patient is not known, its study.

    Images, questions and variants of one study are not independent of each other, whoever the patient is.
    """
    patients: list[str] = []
    for sample in samples:
        if sample.patient_id is None:
            return [intern(sample.study_id) for sample in samples]
        patients.append(intern(sample.patient_id))
    return patients


def has_patients(samples: Sequence[Sample]) -> bool:
    """Whether the patient of every sample is known, or what stands for it (`ClusterUnit`)."""
    return bool(samples) and all(sample.patient_id is not None for sample in samples)


def cluster_unit(samples: Sequence[Sample], named: ClusterUnit) -> ClusterUnit:
    """What the clusters are: what the data set's `patient_id` is `named`; samples where any sample has none."""
    return named if has_patients(samples) else "sample"


def age_band(age: float | None) -> str:
    """Name the band of an age in years.

    >>> age_band(59.9), age_band(None)
    ('40-59', 'unknown')
    """
    if age is None:
        return UNKNOWN
    return next((name for low, high, name in AGE_BANDS if low <= age < high), UNKNOWN)


def _target(spec: TaskSpec, study: Study) -> str:
    if spec.target == "report":
        return " ".join(study.sections[part] for part in ("findings", "impression") if study.sections.get(part))
    return study.sections.get(spec.target, "")


def _exclusion(spec: TaskSpec, study: Study) -> str | None:
    """The first rule a study breaks, in words that make a table row, or None."""
    for section in spec.include.sections:
        if not study.sections.get(section, "").strip():
            return f"no {section}"
    if len(study.images) < spec.include.min_images:
        count = spec.include.min_images
        return "no image" if count == 1 else f"fewer than {count} images"
    if spec.include.views and not any(image.view in spec.include.views for image in study.images):
        return f"no {' or '.join(spec.include.views)} image"
    return None


def key_image(spec: TaskSpec, images: Sequence[Image]) -> Image | None:
    """The image a single-image model should use: first in the task's order of views, None when no view matches."""
    if spec.images.key == "first":
        return images[0] if images else None
    for view in spec.images.key:
        for image in images:
            if image.view == view:
                return image
    return None


def _subgroups(study: Study, key: Image | None) -> dict[str, str]:
    who = study.demographics
    return {
        **study.columns,
        "sex": who.sex or UNKNOWN,
        "age": age_band(who.age),
        "race": who.race or UNKNOWN,
        "view": (key.view if key is not None else "") or UNKNOWN,
    }


def _sample(spec: TaskSpec, study: Study, sample_id: str, images: Sequence[Image], key: Image | None) -> Sample:
    offered = {"all": tuple(images), "key": (key,) if key is not None else (), "none": ()}[spec.images.offer]
    texts = {name: normalise(spec.text, study.sections.get(name, "")) for name in spec.offer}
    sections: dict[str, str] = {name: text for name, text in texts.items() if text}
    return Sample(
        sample_id=sample_id,
        study_id=study.study_id,
        patient_id=study.patient_id,
        target=normalise(spec.text, _target(spec, study)),
        images=offered,
        key_image=key.image_id if key is not None and spec.images.offer != "none" else None,
        sections=sections,
        subgroups=_subgroups(study, key),
        labels=study.labels,
    )


def _question(spec: TaskSpec, study: Study, asked: Question) -> Sample:
    sample = _sample(spec, study, f"{study.study_id}/{asked.question_id}", study.images, key_image(spec, study.images))
    return replace(
        sample,
        target=normalise(spec.text, asked.answer),
        question=asked.text,
        options=asked.options,
        subgroups={**sample.subgroups, **asked.columns},
        labels={**sample.labels, **asked.labels},
    )


def _samples_of(spec: TaskSpec, study: Study) -> Iterator[Sample]:
    if spec.unit == "question":
        yield from (_question(spec, study, asked) for asked in study.questions)
        return
    if spec.unit == "study":
        yield _sample(spec, study, study.study_id, study.images, key_image(spec, study.images))
        return
    for image in study.images:
        if not spec.include.views or image.view in spec.include.views:
            yield _sample(spec, study, f"{study.study_id}/{image.image_id}", (image,), image)


IMAGE_SIDE, TEXT_SIDE = "/image", "/text"
"""Ends of the sample ids of a retrieval task: a picture that looks for its text, and the text that looks for it."""


def _sides(spec: TaskSpec, sample: Sample) -> Iterator[Sample]:
    """What a model is asked about one picture and its text: about each of them, or for the picture of the text."""
    text: dict[str, str] = {spec.target: sample.target}
    if spec.kind == "retrieval":
        yield replace(sample, sample_id=sample.sample_id + IMAGE_SIDE)
        yield replace(sample, sample_id=sample.sample_id + TEXT_SIDE, images=(), key_image=None, sections=text)
    elif spec.kind == "image-generation":
        yield replace(sample, sections=text)
    else:
        yield sample


def _varied(spec: TaskSpec, sample: Sample) -> Iterator[Sample]:
    """The sample under every change the task names; the sample itself where it names none."""
    if not spec.variants:
        yield sample
        return
    from cxrbench.data.variants import vary

    yield from (vary(sample, name) for name in spec.variants)


def _grouped(spec: TaskSpec, study: Study, sample: Sample) -> Sample:
    """The sample in the groups that the task names."""
    if spec.groups is None:
        return sample
    groups = regrouped(spec.groups, sample.subgroups, study.demographics.age, sample.target)
    return replace(sample, subgroups=groups)


def make_samples(spec: TaskSpec, studies: Iterable[Study]) -> SampleSet:
    """Apply a task's rules to studies.

    Raises:
        CxrbenchError: two samples share an id, which would make pairing and resume ambiguous.
    """
    excluded: Counter[str] = Counter()
    gathered = Gathered()
    total = 0
    for study in studies:
        total += 1
        reason = _exclusion(spec, study)
        if reason is not None:
            excluded[reason] += 1
            continue
        for sample in _samples_of(spec, study):
            if not sample.target:
                excluded[f"{spec.target} empty after {spec.text}"] += 1
                continue
            if spec.form in KEPT_APART and not sample.images:
                excluded["no image of the views the task asks for"] += 1
                continue
            for side in _sides(spec, _grouped(spec, study, sample)):
                for each in _varied(spec, side):
                    if not gathered.add(each):
                        raise _same_id(spec, len(gathered) + 1)
    return gathered.finish(total, dict(excluded))


def _same_id(spec: TaskSpec, number: int) -> CxrbenchError:
    return CxrbenchError(
        "two studies of the data set share one id" if spec.unit == "study" else "two images share one id",
        where=f"data set {spec.dataset.name}, sample number {number}",
        fix=f"cxrbench data check {spec.dataset.name}",
    )


class Gathered:
    """Samples of a set as they come."""

    def __init__(self) -> None:
        self._samples, self._walk = growing(), _Walk()

    def add(self, sample: Sample) -> bool:
        """Add a sample; False where there is one of this id."""
        if not self._walk.add(sample):
            return False
        self._samples.append(sample)
        return True

    def __len__(self) -> int:
        return len(self._samples)

    def finish(self, studies: int, excluded: Mapping[str, int], stored: Path | None = None) -> SampleSet:
        """The set; see there."""
        return SampleSet(self._samples.finish(), studies, excluded, self._walk, stored)


def growing() -> Growing[Sample]:
    """Builds a sequence of samples, which leaves memory where there are many."""
    return Growing(_pack, _unpack)


def _pack(sample: Sample) -> tuple[Any, ...]:
    return (
        sample.sample_id, sample.study_id, sample.patient_id, sample.target,
        tuple([(image.image_id, image.path, image.view) for image in sample.images]), sample.key_image,
        dict(sample.sections), sample.question, tuple(sample.options), dict(sample.subgroups),
        {source: dict(labels) for source, labels in sample.labels.items()},
    )  # fmt: skip


def _unpack(kept: tuple[Any, ...]) -> Sample:
    sample_id, study_id, patient_id, target, images, *rest = kept
    return Sample(sample_id, study_id, patient_id, target, tuple([Image(*each) for each in images]), *rest)


def mark_repeats(samples: Sequence[Sample], train_targets: Iterable[str] | None) -> Sequence[Sample]:
    """Add the subgroups `duplicate` (first | repeat) and, when train is known, `seen-in-train` (yes | no).

    A reference counts as seen when its text occurs verbatim among the targets of the train split.
    """
    known = {_digest(text) for text in train_targets} if train_targets is not None else None
    first: set[bytes] = set()
    marked = growing()
    for sample in samples:
        target = _digest(sample.target)
        extra = {"duplicate": "repeat" if target in first else "first"}
        first.add(target)
        if known is not None:
            extra["seen-in-train"] = "yes" if target in known else "no"
        marked.append(replace(sample, subgroups={**sample.subgroups, **extra}))
    return marked.finish()


def _digest(text: str) -> bytes:
    """16 bytes for a text of any length: of a million texts two have the same with a chance of 1e-27."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def take(samples: Sequence[Sample], limit: int | None) -> Set[str]:
    """Ids of the samples a limit keeps: whole patients first, in the order of their hash, so that limits nest."""
    if limit is None or limit >= len(samples):
        return Ids(sample.sample_id for sample in samples)

    order = sorted(
        (hashlib.sha256(cluster.encode()).hexdigest(), sample.sample_id)
        for cluster, sample in zip(clusters_of(samples), samples, strict=True)
    )
    return Ids(sample_id for _, sample_id in order[:limit])
