"""Our tasks in lm-eval: documents, prompts, lazily opened images, and the same numbers as `cxrbench score`.

lm-eval calls `process_results` for one document at a time, which is no way to run a labeler; so all responses go
through a filter, which sees them together, becomes the statistics of every metric, and hands each document its rows.
An aggregation then sums rows and asks the metric for its value. The facts on lm-eval 0.4.13 stand in docs/lm-eval.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrbench.config import load_config
from cxrbench.data.load import TaskData
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.base import Resources
from cxrbench.metrics.base import SCORED, Corpus, Metric
from cxrbench.models.instruction import Instruction
from cxrbench.plan import generation_settings, request_kind
from cxrbench.scores import with_store
from cxrbench.scoring import choose, score
from cxrbench.spec import TaskSpec, find_task
from cxrbench.types import EMPTY, OK, Image, Prediction, Sample

if TYPE_CHECKING:
    import datasets
    import PIL.Image

PREFIX = "cxrbench_"
FILTER = "cxrbench"
OUTCOME = "outcome"
"""Key of a filtered response that holds no rows but why the sample has no answer; sample logs show it."""

SPLIT = "test"

SENDS = ("wandb_args", "wandb_config_args", "trackio_args", "hf_hub_log_args")
"""Options of lm-eval that send results, and with --log_samples reports, to a service."""

KEEPS = ("cache_requests",)
"""Options of lm-eval that write documents into a cache of its own."""


def given(words: Sequence[str], options: Sequence[str]) -> str | None:
    """The first of lm-eval's `options` that stands on its command line, shortened or not, or in its --config file."""
    for word, follows in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if not name.startswith("-") or name == "--":
            continue
        for option in options:
            if len(name) > len("--x") and f"--{option}".startswith(name):
                return f"--{option}"
        if name == "-C" or (len(name) > len("--x") and "--config".startswith(name)):
            body = read_config(Path(value if equals else follows))
            found = next((option for option in options if body.get(option)), None)
            if found is not None:
                return f"{found} in {value if equals else follows}"
    return None


def read_config(file: Path) -> Mapping[str, Any]:
    """The settings in a --config file of lm-eval; nothing where it cannot be read, which lm-eval itself will say."""
    import yaml

    try:
        body = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return body if isinstance(body, dict) else {}


class FailedAnswer(str):
    """What a model of cxrbench hands to lm-eval for a sample it could not answer: no text, and an outcome."""

    outcome: str

    def __new__(cls, outcome: str) -> FailedAnswer:
        made = super().__new__(cls, "")
        made.outcome = outcome
        return made


@dataclass(frozen=True)
class TaskView:
    """One of our tasks as lm-eval sees it.

    `source`: its name, or the place of its file, by which a document names its task; `images`: key (one) or all are
    offered; `values`: the primary numbers of each metric, or all; `max_side`: longest side in pixels that images are
    reduced to (None: as they are).
    """

    spec: TaskSpec
    source: str
    images: str = "key"
    values: str = "primary"
    max_side: int | None = None

    @classmethod
    def find(cls, task: str, **options: Any) -> TaskView:
        """The view of the task called `task` (or of a task file).

        Raises:
            CxrbenchError: no such task, or it asks something else than a text.
        """
        spec = find_task(task)
        if request_kind(spec.kind) != "generate":
            raise CxrbenchError(
                f"{spec.name} asks for {request_kind(spec.kind)}, and lm-eval's image tasks give text",
                fix="a task of kind findings, impression, report, summarize or vqa",
            )
        source = str(Path(task).resolve()) if task.endswith((".yaml", ".yml")) else task
        return cls(spec, source, **{"images": spec.images.use, **options})

    @property
    def name(self) -> str:
        """`cxrbench_` and the task's name, which lm-eval lists it by."""
        return PREFIX + self.spec.name

    @cached_property
    def data(self) -> TaskData:
        """The task joined to its data on this machine."""
        return TaskData.find(self.spec, load_config())

    @cached_property
    def samples(self) -> Mapping[str, Sample]:
        """The task's samples by id, in the data set's order."""
        return {sample.sample_id: sample for sample in self.data.samples.samples}

    @cached_property
    def instruction(self) -> Instruction:
        """What a model without a prompt of its own is asked, as `--model hf:` and `openai:` do."""
        return Instruction.of({"target": self.spec.target, "images": self.images})

    @cached_property
    def generation_kwargs(self) -> dict[str, Any]:
        """The task's generation settings in lm-eval's words; `until` is empty, or a report ends at a blank line."""
        settings = generation_settings(self.spec.generation, None)
        return {"until": [], "do_sample": False, "max_gen_toks": settings.max_new_tokens}

    def dataset(self, **_: Any) -> dict[str, datasets.Dataset]:
        """The documents; lm-eval passes keywords of its own, which mean nothing here."""
        import datasets

        self._guard()
        rows = [self._document(sample) for sample in self.samples.values()]
        return {SPLIT: datasets.Dataset.from_list(rows)}

    def _guard(self) -> None:
        """Refuse documents of credentialed data to an lm-eval that sends or keeps them, whoever started it."""
        if self.spec.access == "open":
            return
        for options, fate in ((SENDS, "its results are sent to no service"), (KEEPS, "lm-eval caches no documents")):
            if option := given(sys.argv[1:], options):
                raise CxrbenchError(f"{self.spec.name} is credentialed, and {fate}", where=option, fix="leave it out")

    def _document(self, sample: Sample) -> dict[str, Any]:
        request = self.instruction.request(sample, "generate", generation_settings({}, None), 0)
        return {
            "cxrbench": self.source,
            "sample_id": sample.sample_id,
            "target": sample.target,
            "prompt": "".join(message.text for message in request.messages),
            "images": json.dumps([asdict(image) for image in request.images]),
        }

    def pictures(self, document: Mapping[str, Any]) -> list[PIL.Image.Image]:
        """The images of a document, in the order of its prompt; each is read when it is first looked at."""
        from cxrbench.bridges.lazy_image import lazy_image

        return [lazy_image(Image(**each), self.max_side) for each in json.loads(document["images"])]

    # ---- scoring

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The task's metrics that can run here, by key; a required one that cannot is an error."""
        found: dict[str, Metric] = {}
        for each in choose((), self.spec.metrics.required, self.spec.metrics.optional):
            reason = each.metric.ready()
            if reason is None and not each.metric.judge:
                found[each.metric.key] = each.metric
            elif each.required:
                raise CxrbenchError(f"{each.metric.key} cannot run here: {reason}", fix="cxrbench doctor")
        return found

    def numbers(self) -> dict[str, tuple[Metric, str]]:
        """Every number lm-eval is told of: `bleu:raw/bleu_4` -> the metric and the name of its value."""
        return {
            f"{key}/{name}": (metric, name)
            for key, metric in self.metrics.items()
            for name, about in metric.values.items()
            if self.values == "all" or about.primary
        }

    def rows(self, responses: Sequence[Sequence[str]], documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The filter: all responses at once -> for each document its rows by metric key (None: not scored).

        Raises:
            CxrbenchError: a document of another task, a metric that cannot be computed.
        """
        answers = {
            doc["sample_id"]: answer(doc["sample_id"], said) for doc, said in zip(documents, responses, strict=True)
        }
        samples = [self.samples[doc["sample_id"]] for doc in documents]
        corpus = Corpus(
            references=[sample.target for sample in self.samples.values()],
            train=(lambda: [sample.target for sample in self.data.pool]) if self.data.has_pool else None,
            dataset=self.spec.dataset.name,
            config=load_config(),
        )
        chosen = [
            each
            for each in choose((), self.spec.metrics.required, self.spec.metrics.optional)
            if each.metric.key in self.metrics
        ]
        resources = with_store(Resources(config=corpus.config), corpus.dataset)
        results = score(samples, answers, chosen, corpus, self.spec.text, resources=resources)
        found: list[dict[str, Any]] = [{} for _ in documents]
        for each in results:
            if each.statistics is None:
                if each.required:
                    raise CxrbenchError(f"{each.metric.key} was not scored: {each.reason}", code=Exit.UNDECIDED)
                continue
            good = (each.statistics.status == SCORED).all(axis=1)
            for row, ok, into in zip(each.rows(), good, found, strict=True):
                into[each.metric.key] = [float(number) for number in row] if ok else None
        for doc, into in zip(documents, found, strict=True):
            if answers[doc["sample_id"]].failed:
                into[OUTCOME] = answers[doc["sample_id"]].outcome
        return found

    def process_results(self, document: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        """A document's rows under the names of `numbers`, and whether it was scored at all."""
        (rows,) = results
        if not isinstance(rows, Mapping):
            raise CxrbenchError(
                "lm-eval handed over a text where the rows of the filter `cxrbench` belong",
                where=f"task {self.name}",
                fix="leave the task's filter_list as it is exported",
            )
        given = {number: rows.get(metric.key) for number, (metric, _) in self.numbers().items()}
        return {**given, "scored": float(any(rows.get(key) is not None for key in self.metrics))}

    def aggregation(self, number: str) -> Callable[[Sequence[Any]], float]:
        """How the rows of all documents become the number called `number`."""
        metric, name = self.numbers()[number]

        def value(items: Sequence[Sequence[float] | None]) -> float:
            rows = np.array([row for row in items if row is not None], dtype=np.float64)
            if not len(rows):
                return float("nan")
            weights = np.ones((1, len(rows)))
            found = metric.value(rows.sum(axis=0)) if metric.additive else metric.value_weighted(rows, weights)
            return float(np.asarray(found[name]).reshape(-1)[0])

        return value

    def config(self) -> dict[str, Any]:
        """The whole task as lm-eval's inline configuration: `simple_evaluate(tasks=[view.config()])`."""
        numbers = self.numbers()
        return {
            "task": self.name,
            "custom_dataset": self.dataset,
            "test_split": SPLIT,
            "output_type": "generate_until",
            "doc_to_text": "prompt",
            "doc_to_image": self.pictures,
            "doc_to_target": "target",
            "process_results": self.process_results,
            "filter_list": [{"name": FILTER, "filter": [{"function": "custom", "filter_fn": self.rows}]}],
            "generation_kwargs": self.generation_kwargs,
            "metric_list": [
                *(
                    {
                        "metric": number,
                        "aggregation": self.aggregation(number),
                        "higher_is_better": metric.values[name].higher_is_better is not False,
                    }
                    for number, (metric, name) in numbers.items()
                ),
                {"metric": "scored", "aggregation": sum, "higher_is_better": True},
            ],
            "metadata": {"version": self.spec.version},
        }


@lru_cache(maxsize=16)
def shared_view(task: str, images: str = "key", values: str = "primary", max_side: int | None = None) -> TaskView:
    """The view an exported task file names: one for all its functions, each of which lm-eval imports anew."""
    return TaskView.find(task, images=images, values=values, max_side=max_side)


def answer(sample_id: str, responses: Sequence[str]) -> Prediction:
    """What lm-eval holds for a sample, as a prediction: the first response; further ones are repeats of it."""
    said = responses[0]
    if isinstance(said, FailedAnswer):
        return Prediction(sample_id, said.outcome, finish_reason="error")
    return Prediction(sample_id, OK if said.strip() else EMPTY, said)
