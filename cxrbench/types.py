"""The nouns of cxrbench: Study, Sample, Request, Prediction, Manifest, Verdict.

Frozen dataclasses, standard library only. Every room speaks these words; none of them knows torch, pandas or a file
format. `sample_id` is the only key of requests, predictions, statistics, pairing and resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Access = Literal["open", "credentialed"]
ClusterUnit = Literal["patient", "sample", "study", "image", "case"]
RequestKind = Literal["generate", "score_options", "embed_image", "embed_text", "generate_image"]

REQUEST_KINDS: tuple[RequestKind, ...] = ("generate", "score_options", "embed_image", "embed_text", "generate_image")
"""Everything a task may ask of a model."""

COUNTED = frozenset({"count", "reports", "questions"})
"""Units of metrics' values that are whole numbers."""

CLUSTERS: Mapping[ClusterUnit, str] = {
    "patient": "patients",
    "sample": "samples",
    "study": "studies",
    "image": "images",
    "case": "cases",
}
"""What is resampled together, one and many of it: patients; where they are not known, what a data set groups by."""

SECTIONS: tuple[str, ...] = ("findings", "impression", "indication", "comparison", "technique", "history")
"""Report sections a study may carry, by the names the field uses."""

OK = "ok"
EMPTY = "empty"
"""Outcome of a model that answered with no text: it is scored as an empty report and counted."""

FAILURES: Mapping[str, str] = {
    "missing_image": "an image file named by the data set is not there",
    "broken_image": "an image file is there but cannot be decoded",
    "no_decoder": "the image's transfer syntax needs a decoder that is not installed",
    "image_too_large": "the image has more pixels than the limit against decompression bombs",
    "no_input": "the sample offers nothing this model can use",
    "prompt_too_long": "prompt and image tokens do not fit the model's context",
    "nan_logits": "the model produced NaN or infinite logits",
    "missing_prediction": "the predictions file has no row for this sample",
    "engine_error": "the engine failed on this sample",
    "refused": "the model declined, or the server's content filter withheld the answer",
    "no_answer": "the server gave no usable answer, after all attempts",
    "no_picture": "the answer is no picture: it does not hold the codes of exactly one",
}
"""Outcomes that are not a report. They are never scored and always counted."""

MISSING = "missing_prediction"
"""The one of them that nobody tried to answer: a result with such samples is not complete."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a study, not yet decoded.

    `path` is absolute, or `scheme:key` for data sets that draw their images (phantom). `view` is the data set's own
    value in capitals (PA, AP, LATERAL, LL, ...; FRONTAL where only that is known), empty when unknown.
    """

    image_id: str
    path: str
    view: str = ""


@dataclass(frozen=True, slots=True)
class Demographics:
    """What is known of the patient at the study; None means not known. `age` in years. `race` as recorded."""

    sex: str | None = None
    age: float | None = None
    race: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a study, and the data set's answer.

    `options` are the answers offered, where the data set offers any; `answer` is one of them then. `labels` and
    `columns` are of the question, as those of a study are of the study.
    """

    question_id: str
    text: str
    answer: str
    options: tuple[str, ...] = ()
    labels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Study:
    """One examination as a data set has it.

    `patient_id` is None where the data set has none (then samples are the clusters, and every table says so).
    `time` is an ISO string that sorts (`2180-05-06T21:30:14`); `sections` holds non-empty sections only;
    `labels` maps a source ("chexpert", "phantom", ...) to label -> 1 present, 0 absent, -1 uncertain (missing keys:
    not mentioned). `priors` are earlier study ids of the same patient, newest first. `columns` are further
    string columns of the data set (subgroups, extraction method, ...). `questions` are asked about it one by one.
    """

    study_id: str
    patient_id: str | None
    split: str
    images: tuple[Image, ...] = ()
    sections: Mapping[str, str] = field(default_factory=dict)
    time: str | None = None
    labels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    demographics: Demographics = Demographics()
    priors: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """What a task makes of a study and a model answers once.

    `images` and `sections` are what the task *offers*; `key_image` is the image id a single-image model should use.
    `target` is the reference text, already normalised by the task. `subgroups` are string columns for tables.
    """

    sample_id: str
    study_id: str
    patient_id: str | None
    target: str
    images: tuple[Image, ...] = ()
    key_image: str | None = None
    sections: Mapping[str, str] = field(default_factory=dict)
    question: str | None = None
    options: tuple[str, ...] = ()
    subgroups: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a prompt. `text` holds one `<image>` per image, in order."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Generation:
    """How text is produced. `temperature` 0 means greedy; penalties at their neutral values mean none."""

    max_new_tokens: int = 300
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    num_beams: int = 1
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a model: what an adapter made of a sample.

    `inputs` names what the adapter consumed ("image:PA", "section:indication", ...), recorded per sample.
    `seed` is derived from (run seed, sample_id), so a resumed run equals an uninterrupted one.
    """

    sample_id: str
    kind: RequestKind
    messages: tuple[Message, ...] = ()
    images: tuple[Image, ...] = ()
    options: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    generation: Generation = Generation()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer to one sample, always with an outcome.

    `outcome` is `ok`, `empty` or a key of `FAILURES`; `finish_reason` is stop, length, none or error.
    Token counts are the model's own tokens, None where a model has none. `times` in seconds: `image_read`,
    `preprocess`, `latency` (end to end: first image byte read to text decoded). `detail` explains a failure and
    holds no report text. `artifact` is a picture or a vector in the run folder (artifacts.py). `pixels` names the
    content of the image files that were read (`plan.pixel_key`). `served` is what a server called the model that
    answered, with its fingerprint.
    """

    sample_id: str
    outcome: str
    text: str | None = None
    finish_reason: str = "none"
    prompt_tokens: int | None = None
    image_tokens: int | None = None
    output_tokens: int | None = None
    option_logprobs: tuple[float, ...] | None = None
    option_tokens: tuple[int, ...] | None = None
    artifact: str | None = None
    inputs: tuple[str, ...] = ()
    times: Mapping[str, float] = field(default_factory=dict)
    batch: int | None = None
    detail: str | None = None
    pixels: str | None = None
    served: str | None = None

    @property
    def failed(self) -> bool:
        """Whether there is no report to score."""
        return self.outcome not in (OK, EMPTY)


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """Wall times of one batch in seconds; never divided into latencies of its samples.

    None where a stage does not exist or the engine cannot see it. `peak_memory` in bytes: the device allocator's
    peak on a GPU, None on the CPU. The runner adds `segment` (which part of an interrupted run), `ended` (seconds
    from the segment's first image read to this batch's last text) and `peak_rss` (peak resident bytes of the process).
    `parts` is the number of pieces the batch ran in, one after another: more than one after running out of memory, or
    where its tensors differ in shape. `slots` is how many texts engine slots wrote at a time at the end.
    """

    batch: int
    size: int
    wall: float
    encode: float | None = None
    prefill: float | None = None
    decode: float | None = None
    peak_memory: int | None = None
    parts: int = 1
    slots: int | None = None
    segment: int = 0
    ended: float | None = None
    peak_rss: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run is. `identity` may never change within a run folder; `circumstances` has one entry per segment.

    `n_expected` samples are to be answered, of `clusters` patients (where `patient_ids` is False: of what
    `cluster_unit` names, or samples where it says patient). Batches of
    `batch_size` are cut from the whole sample list, so it is fixed with the first segment. `cxrbench` is the
    version that last wrote here. `task` is the task as it was read; `excluded` counts studies left out by reason.
    """

    format: int
    identity: Mapping[str, Any]
    access: Access
    n_expected: int
    clusters: int
    patient_ids: bool
    batch_size: int
    cxrbench: str = ""
    task: Mapping[str, Any] = field(default_factory=dict)
    excluded: Mapping[str, int] = field(default_factory=dict)
    circumstances: tuple[Mapping[str, Any], ...] = ()
    cluster_unit: ClusterUnit = "patient"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says: pass, fail or undecided, with one reason per metric."""

    status: Literal["pass", "fail", "undecided"]
    reasons: tuple[str, ...] = ()
