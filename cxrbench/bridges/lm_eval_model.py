"""A model of cxrbench inside lm-eval: `--model cxrbench --model_args model=demo --tasks cxrbench_demo-findings`.

On a task of ours the model gets what `cxrbench run` gives it (its own prompt, pixels, batches, seeds), so the answers
are the same; with `out=DIR` they go into a run folder and a killed evaluation goes on there. On any other task the
prompt of lm-eval is put as the question, which a model must be able to take.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import LM

from cxrbench import registry
from cxrbench.bridges.lm_eval_task import FailedAnswer, TaskView, shared_view
from cxrbench.config import load_config
from cxrbench.data.load import TaskData
from cxrbench.engines.build import make_model, split_name
from cxrbench.errors import CxrbenchError
from cxrbench.models.adapter import IMAGE
from cxrbench.models.base import ModelOptions
from cxrbench.plan import Plan, RunSettings, cut, plan_run
from cxrbench.runner import execute, machine
from cxrbench.store import RunFolder
from cxrbench.types import Generation, Image, Prediction, Request, Sample

if TYPE_CHECKING:
    import numpy as np
    from lm_eval.api.instance import Instance
    from numpy.typing import NDArray

    from cxrbench.models.base import Model

LOG = logging.getLogger(__name__)

DEFAULT_DEVICE = "cuda:0"

OURS = ("model", "engine", "preset", "dtype", "load_format", "workers", "seed", "inputs", "out", "batch")
"""Keys of --model_args that cxrbench reads; the others are settings of the model, as `--set` gives them."""

AS_OURS: Mapping[str, str] = {"max_gen_toks": "max_new_tokens"}
"""lm-eval's names of generation settings where ours differ."""


class CxrbenchLM(LM):  # type: ignore[misc]  # lm-eval has no types here
    """See `lm_eval.api.model.LM`. Texts only: likelihoods of given texts are scored by `cxrbench run` itself.

    Args:
        model: `name[:argument]`, as `cxrbench run --model` takes it.
        batch_size: as there; None for the model's own.
        device: as there.
        arguments: further keys of `OURS`, and settings of the model.
    """

    MULTIMODAL = True

    def __init__(
        self,
        model: str = "",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        if not model:
            raise CxrbenchError(
                "lm-eval was not told which model", where="--model_args", fix="--model_args model=demo,dtype=fp32"
            )
        registry.find("models", split_name(model)[0])  # before lm-eval reads and asks about anything
        if arguments.get("engine") is not None:
            registry.find("engines", str(arguments["engine"]))
        self.model_text = model
        # lm-eval's command line says cuda:0 where nobody said anything, on machines without a GPU too.
        self.device_name = "auto" if device in (None, "", DEFAULT_DEVICE) else device
        # lm-eval's own default is 1, which nobody asked for; a size that was meant stands in --model_args.
        self.size = int(arguments.pop("batch", 0)) or None
        self.arguments = arguments

    # ---- lm-eval's contract

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One text per request, in order; a sample that could not be answered is an empty `FailedAnswer`, and told."""
        found: list[str] = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for position, instance in enumerate(requests):
            groups.setdefault(str(instance.doc.get("cxrbench", "")), []).append(position)
        for task, positions in groups.items():
            asked = [requests[position] for position in positions]
            said = self._ours(task, asked) if task else self._foreign(asked)
            for position, text in zip(positions, said, strict=True):
                found[position] = text
        failed = [text.outcome for text in found if isinstance(text, FailedAnswer)]
        if failed:
            LOG.warning("%d of %d samples have no answer: %s", len(failed), len(found), ", ".join(sorted(set(failed))))
        return found

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refused: cxrbench scores options in tasks of kind `choice`, with their own protocols."""
        raise CxrbenchError("the model cxrbench gives lm-eval texts only", fix="cxrbench run --task TASK for choices")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Refused, as `loglikelihood` is."""
        raise CxrbenchError("the model cxrbench gives lm-eval texts only")

    # ---- tasks of ours

    def _ours(self, task: str, asked: Sequence[Instance]) -> list[str]:
        view = shared_view(task)
        for instance in asked:
            _pictures(instance)
        wanted = [str(instance.doc["sample_id"]) for instance in asked]
        generation = _changed(asked[0], view)
        model = self._model(view, generation)
        try:
            if model.needs_pool:
                model.fit(lambda: view.data.pool)
            plan = _only(self._plan(view.data, model, generation), model, set(wanted))
            answers = self._answer(plan, model)
        finally:
            model.close()
        return [_text(answers[sample_id]) for sample_id in wanted]

    def _plan(self, data: TaskData, model: Model, generation: Mapping[str, Any]) -> Plan:
        settled = getattr(model, "generation", generation)
        settings = RunSettings(
            seed=int(self.arguments.get("seed", 0)),
            inputs=str(self.arguments.get("inputs", "task")),
            batch_size=self.size,
            workers=int(self.arguments.get("workers", 2)),
            generation=settled,
        )
        return plan_run(data, model, settings)

    def _answer(self, plan: Plan, model: Model) -> Mapping[str, Prediction]:
        """Answer the plan in the run folder `out`, or in one that is thrown away."""
        out = self.arguments.get("out")
        workers = int(self.arguments.get("workers", 2))
        with tempfile.TemporaryDirectory(prefix="cxrbench-lm-eval-") as folder:
            run = RunFolder(Path(str(out)) if out else Path(folder) / "run")
            if out:
                run.refuse_foreign()
            circumstances = {**machine(), "workers": workers, "command": "lm_eval --model cxrbench"}
            execute(run, plan, model, circumstances, workers, lambda done, total: None)
            return dict(run.predictions())  # read now: the folder may be gone in a moment

    def _model(self, view: TaskView, generation: Mapping[str, Any]) -> Model:
        return self._make(
            generation, {"target": view.spec.target}, access=view.spec.access, trusted=load_config().trusted_endpoints,
            images=view.spec.images.use,
        )  # fmt: skip

    def _make(
        self, generation: Mapping[str, Any], extra: Mapping[str, str], *, access: Any, trusted: Mapping[str, str],
        **more: Any,
    ) -> Model:  # fmt: skip
        name, argument = split_name(self.model_text)
        own = {key: str(value) for key, value in self.arguments.items() if key not in OURS}
        options = ModelOptions(
            argument=argument,
            preset=self.arguments.get("preset"),
            dtype=str(self.arguments.get("dtype", "auto")),
            # lm-eval always names a device; a model without a network would refuse one.
            device=self.device_name if hasattr(registry.load("models", name), "offers") else "auto",
            load_format=str(self.arguments.get("load_format", "auto")),
            generation=generation,
            workers=int(self.arguments.get("workers", 2)),
            seed=int(self.arguments.get("seed", 0)),
            extra={**extra, **own},
            access=access,
            trusted_endpoints=trusted,
            places=load_config().models.get(name, {}),
            **more,
        )
        return make_model(name, options, self.arguments.get("engine"))

    # ---- tasks of others

    def _foreign(self, asked: Sequence[Instance]) -> list[str]:
        """lm-eval's prompt as the question, its pictures as images; batches in the order of the requests.

        What a foreign document holds counts as credentialed: nothing says otherwise.
        """
        pictures: dict[str, Any] = {}
        samples = [_foreign_sample(number, instance, pictures) for number, instance in enumerate(asked)]
        generation = _generation(asked[0])
        if any(_generation(instance) != generation for instance in asked):
            raise CxrbenchError("one call of lm-eval mixes generation settings", fix="one task at a time")

        def read(path: str) -> NDArray[np.uint8]:
            import numpy as np

            return np.asarray(pictures[path].convert("L"))

        model = self._make(
            generation, {}, access="credentialed", trusted=load_config().trusted_endpoints, read_image=read
        )
        try:
            if "question" not in model.consumes:
                raise CxrbenchError(
                    f"{model.card.name} has prompts of its own and cannot take lm-eval's",
                    where=f"task {asked[0].task_name}",
                    fix="a model that takes questions (hf:DIR, openai:NAME), or a task of cxrbench (cxrbench_...)",
                )
            settled = replace(Generation(), **getattr(model, "generation", generation))
            requests = [model.request(each, "generate", settled, 0) for each in samples]
            answers = {p.sample_id: p for p in _batches(model, requests, self.size or model.batch_size)}
        finally:
            model.close()
        stops = [tuple(_settings(instance).get("until") or ()) for instance in asked]
        texts = [_text(answers[sample.sample_id]) for sample in samples]
        return [
            text if isinstance(text, FailedAnswer) else _until(text, ends)
            for text, ends in zip(texts, stops, strict=True)
        ]


def _batches(model: Model, requests: Sequence[Request], size: int) -> Iterable[Prediction]:
    for number, batch in enumerate(cut(requests, model.cost, size)):
        prepared = [model.prepare(request) for request in batch]
        for each in prepared:
            if each.failure is not None:
                yield Prediction(each.request.sample_id, each.failure[0], finish_reason="error", batch=number)
        good = [each for each in prepared if each.failure is None]
        if good:
            yield from model.generate(number, good).predictions


def _only(plan: Plan, model: Model, wanted: set[str]) -> Plan:
    """The plan without what lm-eval did not ask for (`--limit`); the whole of it keeps its batches."""
    if wanted == plan.selected:
        return plan
    requests = [request for batch in plan.batches for request in batch if request.sample_id in wanted]
    which = hashlib.sha256("\0".join(sorted(wanted)).encode()).hexdigest()[:8]
    identity = {**plan.manifest.identity, "limit": f"lm-eval's {len(wanted)} documents {which}"}
    manifest = replace(plan.manifest, identity=identity, n_expected=len(wanted))
    batches = cut(requests, model.cost, plan.manifest.batch_size)
    return replace(plan, manifest=manifest, selected=frozenset(wanted), batches=batches)


def _text(prediction: Prediction) -> str:
    return FailedAnswer(prediction.outcome) if prediction.failed else prediction.text or ""


def _until(text: str, ends: Iterable[str]) -> str:
    """The text before the first of lm-eval's stop strings."""
    for end in ends:
        text = text.split(end)[0] if end else text
    return text


def _settings(instance: Instance) -> dict[str, Any]:
    return dict(instance.args[1])


def _pictures(instance: Instance) -> list[Any]:
    """The images of a request, wherever this release of lm-eval keeps them.

    Raises:
        CxrbenchError: the prompt has room for more or fewer images than came: a text-only answer would look like one
            to the picture.
    """
    arguments = instance.args
    found = arguments[2] if len(arguments) > 2 else getattr(instance, "additional_args", None) or {}
    pictures = list(found.get("visual") or ())
    if len(pictures) != str(arguments[0]).count(IMAGE):
        raise CxrbenchError(
            f"a request names {str(arguments[0]).count(IMAGE)} images and carries {len(pictures)}",
            where=f"task {instance.task_name}, document {instance.doc_id}",
            fix="lm-eval >= 0.4.13, < 0.5; later previews lose the images of a request",
        )
    return pictures


def _generation(instance: Instance) -> dict[str, Any]:
    """lm-eval's generation settings in our words: what it leaves open stays as the model has it.

    Raises:
        CxrbenchError: a setting that no engine here has.
    """
    given = {AS_OURS.get(key, key): value for key, value in _settings(instance).items() if key != "until"}
    sampled = given.pop("do_sample", None)
    if sampled is False:
        given["temperature"] = 0.0
    known = Generation.__dataclass_fields__
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise CxrbenchError(
            f"{unknown[0]!r} is not a generation setting here",
            where="generation_kwargs",
            fix=f"one of: {', '.join(known)}",
        )
    return given


def _changed(instance: Instance, view: TaskView) -> dict[str, Any]:
    """Settings the user changed with `--gen_kwargs`; the task's own come to the model by the way `run` takes them."""
    given = _settings(instance)
    if given == view.generation_kwargs:
        return {}
    if given.get("until"):
        raise CxrbenchError("a task of cxrbench has no stop strings", where="--gen_kwargs until", fix="leave it out")
    now, then = (
        _generation(instance),
        {**view.generation_kwargs, "max_new_tokens": view.generation_kwargs["max_gen_toks"]},
    )
    return {key: value for key, value in now.items() if then.get(key) != value and (key, value) != ("temperature", 0.0)}


def _foreign_sample(number: int, instance: Instance, pictures: dict[str, Any]) -> Sample:
    """A request of another task as a sample: its text is the question."""
    images = []
    for place, picture in enumerate(_pictures(instance)):
        path = f"lm-eval:{number}/{place}"
        pictures[path] = picture
        images.append(Image(f"{number}/{place}", path))
    question = str(instance.args[0]).replace(IMAGE, "").strip()
    return Sample(
        f"{number}", f"{number}", None, "", tuple(images), images[0].image_id if images else None, question=question
    )
