"""What a run is, decided before anything is answered: its identity, its samples, its batches. No metric, no torch.

Everything that changes a text is in the identity, and nothing else: equal identities share a run folder. What may
change without changing a text (patients, labels, subgroups, slices, metrics) is renewed in the folder instead.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbench.data.images import RULES
from cxrbench.data.questions import types_of
from cxrbench.data.samples import clusters_of, take
from cxrbench.data.variants import file_of
from cxrbench.errors import CxrbenchError
from cxrbench.models.generation import refuse
from cxrbench.spec import KEPT_APART
from cxrbench.spool import LIMIT, Each, Ids
from cxrbench.types import ClusterUnit, Generation, Image, Manifest, Request, RequestKind, Sample

if TYPE_CHECKING:
    from cxrbench.data.load import TaskData
    from cxrbench.models.base import Model
    from cxrbench.spec import Form, TaskSpec


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What the caller decides about a run; everything else comes from the task and the model."""

    limit: int | None = None
    seed: int = 0
    inputs: str = "task"
    batch_size: int | None = None
    workers: int = 2
    generation: Mapping[str, Any] | None = None
    pixels: Mapping[str, Any] | None = None
    """What was done to the images before the model sees them (a reduced image cache), for the identity."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run before it starts: what it is, which samples it answers, in which batches."""

    manifest: Manifest
    samples: Sequence[Sample]
    selected: Set[str]
    batches: Sequence[Sequence[Request]]
    images: bool = True
    """Whether any sample may offer an image."""
    stored: Path | None = None
    """The file of a run folder that the samples were taken from, where they were."""
    source: str = ""
    """The fingerprint of the files the samples are made of; kept beside them."""

    @property
    def chosen(self) -> Sequence[Sample]:
        """The samples to answer, in data-set order."""
        if len(self.selected) == len(self.samples):
            return self.samples
        return tuple(sample for sample in self.samples if sample.sample_id in self.selected)


def sample_seed(seed: int, sample_id: str) -> int:
    """A 63-bit seed for one sample.

    >>> sample_seed(0, "s1") == sample_seed(0, "s1") != sample_seed(1, "s1")
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}\0{sample_id}".encode()).digest()[:8], "big") >> 1


def generation_settings(task: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> Generation:
    """The task's generation settings with those of the command line on top.

    Raises:
        CxrbenchError: a key that is not a generation setting, or a value that is no number.
    """
    merged = {**task, **(overrides or {})}
    known = Generation.__dataclass_fields__
    for key in merged:
        if key not in known:
            raise CxrbenchError(f"{key!r} is not a generation setting", fix=f"one of: {', '.join(known)}")
        kinds = (int,) if isinstance(known[key].default, int) else (int, float)
        if isinstance(merged[key], bool) or not isinstance(merged[key], kinds):
            wanted = "a whole number" if kinds == (int,) else "a number"
            raise CxrbenchError(f"{key} must be {wanted}, not {merged[key]!r}", where="generation settings")
    made = replace(Generation(), **merged)
    refuse(made)
    return made


REQUESTS: Mapping[str, tuple[RequestKind, ...]] = {
    "choice": ("score_options",),
    "retrieval": ("embed_image", "embed_text"),
    "image-generation": ("generate_image",),
}
"""What tasks of a kind ask of a model; of every other kind: `generate`."""


def request_kinds(task_kind: str) -> tuple[RequestKind, ...]:
    """What a task of this kind asks of a model."""
    return REQUESTS.get(task_kind, ("generate",))


def request_kind(task_kind: str) -> RequestKind:
    """What a task of this kind asks of a model, apart from the texts of a retrieval task."""
    return request_kinds(task_kind)[0]


def kind_for(task_kind: str, sample: Sample) -> RequestKind:
    """What is asked about one sample: in retrieval its picture is embedded, or its text where it has no picture."""
    kinds = request_kinds(task_kind)
    return kinds[0] if len(kinds) == 1 or sample.images else kinds[1]


def cut(requests: Sequence[Request], cost: Callable[[Request], int], size: int) -> tuple[tuple[Request, ...], ...]:
    """Sort by cost, longest first (what does not fit in memory fails early), ties by sample id, and cut."""
    ordered = sorted(requests, key=lambda each: (-cost(each), each.sample_id))
    return tuple(tuple(ordered[start : start + size]) for start in range(0, len(ordered), size))


class Batches(Each[Sequence[Request]]):
    """Batches of many samples, made when it is their turn. `ids_of` says at once whom a batch asks about."""

    def __init__(self, count: int, make: Callable[[int], Sequence[Request]], ids: Callable[[int], list[str]]) -> None:
        super().__init__(count, make)
        self.ids_of = ids


def ids_of(batches: Sequence[Sequence[Request]], number: int) -> list[str]:
    """The samples of a batch, in its order."""
    if isinstance(batches, Batches):
        return batches.ids_of(number)
    return [request.sample_id for request in batches[number]]


def _batches(
    samples: Sequence[Sample],
    selected: Set[str],
    ask: Callable[[Sample], Request],
    cost: Callable[[Request], int],
    size: int,
    foresee: Callable[[Iterable[str]], None] | None = None,
) -> Sequence[Sequence[Request]]:
    """What `cut` makes of the samples to answer. Requests of many are not kept, but made when it is their turn.

    `foresee`: all requests cost the same, and the model needs to know no more of them beforehand than their ids.
    """
    if len(selected) <= LIMIT:
        return cut([ask(sample) for sample in samples if sample.sample_id in selected], cost, size)
    everything = isinstance(selected, Ids) and len(selected) == len(samples)
    ids = selected if everything and isinstance(selected, Ids) else Ids()
    places, costs = array("I"), array("q")
    for place, sample in enumerate(samples) if not (everything and foresee) else ():
        if everything or sample.sample_id in selected:
            if not everything:
                places.append(place)
                ids.add(sample.sample_id)
            costs.append(-cost(ask(sample)))
    order = sorted(range(len(ids)), key=ids.at)
    if everything and foresee is not None:
        foresee(ids)
    else:
        order.sort(key=costs.__getitem__)
    turns = array("I", order)

    def part(batch: int) -> array[int]:
        return turns[batch * size : (batch + 1) * size]

    return Batches(
        -(-len(turns) // size),
        lambda batch: tuple(ask(samples[each if everything else places[each]]) for each in part(batch)),
        lambda batch: [ids.at(each) for each in part(batch)],
    )


def plan_run(data: TaskData, model: Model, settings: RunSettings) -> Plan:
    """Decide everything about a run without answering anything.

    Raises:
        CxrbenchError: the model cannot do what the task asks, or a setting is wrong.
    """
    spec = data.spec
    _check_fit(model, spec, settings.inputs)
    found = data.samples
    limit = settings.limit if settings.limit is not None and settings.limit < len(found.samples) else None
    _check_gallery(spec, model, limit, len(found.samples))
    selected = found.ids if limit is None else take(found.samples, limit)
    generation = generation_settings(spec.generation, settings.generation)

    def ask(sample: Sample) -> Request:
        offered, kind = _offered(sample, settings.inputs, spec.form), kind_for(spec.kind, sample)
        return model.request(offered, kind, generation, sample_seed(settings.seed, sample.sample_id))

    size = settings.batch_size or model.batch_size
    identity: dict[str, Any] = {
        "task": {"name": spec.name, "version": spec.version, "hash": spec.hash},
        "data": found.fingerprint,
        "model": model.identity(),
        "generation": asdict(generation),
        "inputs": settings.inputs,
        "seed": settings.seed,
        "limit": limit,
    }
    if model.consumes & {"image", "images"}:
        identity["images"] = {"rules": RULES, **(settings.pixels or {})}
    if model.needs_pool:
        looks = bool(model.consumes & {"image", "images"})
        identity["pool"] = pool_hash(data.pool, with_images=looks)
    unit: ClusterUnit = getattr(data.dataset, "clusters", "patient")
    manifest = Manifest(
        format=1,
        identity=identity,
        access=spec.access,
        n_expected=len(selected),
        clusters=found.clusters if limit is None else _clusters(found.samples, selected),
        patient_ids=found.has_patients and unit == "patient",
        cluster_unit=unit,
        batch_size=size,
        task=spec.model_dump(mode="json"),
        excluded=found.excluded,
    )
    batches = _batches(found.samples, selected, ask, model.cost, size, getattr(model, "foresee", None))
    return Plan(manifest, found.samples, selected, batches, found.images, found.stored)


def _clusters(samples: Sequence[Sample], selected: Set[str]) -> int:
    """How many clusters the selected samples are of."""
    return len({c for c, s in zip(clusters_of(samples), samples, strict=True) if s.sample_id in selected})


def _check_fit(model: Model, spec: TaskSpec, inputs: str) -> None:
    """Refuse a model that cannot do what the task asks, and inputs that the task does not offer."""
    for kind in request_kinds(spec.kind):
        if kind not in model.kinds:
            raise CxrbenchError(
                f"{model.card.name} cannot answer {kind!r}, which {spec.name} asks",
                fix=f"a task of another kind; {model.card.name} answers: {', '.join(sorted(model.kinds))}",
            )
    if inputs == "image" and spec.form in KEPT_APART:
        raise CxrbenchError(
            f"{spec.name} is of kind {spec.kind}, which asks about texts too",
            where="--inputs image",
            fix="--inputs task",
        )
    weighs = "options" in model.consumes and request_kind(spec.kind) == "score_options"
    if spec.unit == "question" and model.consumes and "question" not in model.consumes and not weighs:
        raise CxrbenchError(
            f"{model.card.name} has a prompt of its own and takes no questions, which {spec.name} asks",
            fix="a model that takes questions: hf:DIR, openai:NAME, lm-eval:NAME",
        )
    if inputs == "image" and spec.images.offer == "none":
        raise CxrbenchError(
            f"{spec.name} offers no image, so images alone are nothing", where="--inputs image", fix="--inputs task"
        )


def _check_gallery(spec: TaskSpec, model: Model, limit: int | None, samples: int) -> None:
    """Refuse a part of a gallery before anything is embedded: it could not be scored (metrics/ranks.py)."""
    if limit is not None and spec.kind == "retrieval" and model.identity().get("load_format") != "dummy":
        raise CxrbenchError(
            f"{spec.name} is answered whole: a rank is one in the full gallery of its {samples} samples",
            where=f"--limit {limit}",
            fix="leave --limit out",
        )


def images_note(spec: TaskSpec, model: Model, samples: Sequence[Sample]) -> str | None:
    """One line where a task means models to look at all images of a sample and this one looks at one of them."""
    if spec.images.use != "all" or "image" not in model.consumes:
        return None
    several = sum(len(sample.images) > 1 for sample in samples)
    return (
        f"{several} of {len(samples)} samples have several images, of which {model.card.name} sees one"
        if several
        else None
    )


def _offered(sample: Sample, inputs: str, form: Form) -> Sample:
    """`image`: every model alike gets the images and nothing else; `task`: what the task offers.

    Who is asked for a picture does not see the one there is.
    """
    if form == "pictures":
        return replace(sample, images=(), key_image=None)
    return replace(sample, sections={}) if inputs == "image" else sample


def pool_hash(pool: Sequence[Sample], *, with_images: bool) -> str:
    """16 hex digits over the train split's ids, texts, questions, and sizes of image files when a model looks at them.

    Sizes, not contents: a train split has hundreds of thousands of images, and a replaced set of images (another
    resolution, another format) changes nearly every size.
    """
    digest = hashlib.sha256()
    for sample in pool:
        sizes = [_size(image.path) for image in sample.images] if with_images else []
        asked = [] if sample.question is None else [sample.question, *sample.options, types_of(sample.subgroups)]
        digest.update(hashlib.sha256("\0".join([sample.sample_id, sample.target, *sizes, *asked]).encode()).digest())
    return digest.hexdigest()[:16]


def _size(path: str) -> str:
    try:
        return str(Path(path).stat().st_size)
    except OSError:
        return path if path.startswith("phantom:") else "missing"


ENDS = 4096
"""Bytes read at each end of an image file to name its content."""


def pixel_key(images: Sequence[Image]) -> str | None:
    """Name the content of image files: 16 hex digits over size, first and last 4 KiB of each; None without images.

    Two reads of a file that is about to be decoded anyway. Another resolution, format or export of the same picture
    differs in its header and in its last bytes. A missing file has a key of its own, so that its return is noticed.
    """
    if not images:
        return None
    digest = hashlib.sha256()
    for image in images:
        digest.update(hashlib.sha256(_ends(file_of(image.path))).digest())
    return digest.hexdigest()[:16]


def _ends(path: str) -> bytes:
    if path.startswith("phantom:"):
        return path.encode()
    try:
        with Path(path).open("rb") as file:
            head = file.read(ENDS)
            size = file.seek(0, 2)
            file.seek(max(0, size - ENDS))
            return str(size).encode() + head + file.read(ENDS)
    except OSError:
        return b"missing"
