"""Our metrics as `evaluate` modules: `evaluate.load(module_file(), "bleu:raw")`, no hub.

The numbers are those of `cxrbench score FILE` on the same texts: what a metric fits it fits on the references given,
or on those of a task that is named. evaluate's own cache of texts on disk is not used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import evaluate

from cxrbench.config import load_config
from cxrbench.data.load import TaskData
from cxrbench.data.text import normalise
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.base import Resources
from cxrbench.metrics.base import Corpus, Metric
from cxrbench.scores import with_store
from cxrbench.scoring import Chosen, make_metric, score
from cxrbench.spec import find_task
from cxrbench.stats import Table, point
from cxrbench.types import EMPTY, OK, Prediction, Sample


def module_file() -> str:
    """The file that `evaluate.load` takes in place of a name; the metric is its second argument."""
    return str(Path(__file__).with_name("cxrbench_metric.py"))


class CxrbenchMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types here
    """One metric of cxrbench; `config_name` is `name` or `name:preset`."""

    def __init__(self, config_name: str | None = None, **options: Any) -> None:
        if not config_name or config_name == "default":
            raise CxrbenchError(
                "which metric is meant was not said",
                where="evaluate.load",
                fix='a second argument, "bleu:raw"; `cxrbench list metrics` shows all',
            )
        # evaluate would write the texts into a cache in the user's home, readable as the umask has it.
        super().__init__(config_name=config_name, **{**options, "keep_in_memory": True})

    def _info(self) -> evaluate.MetricInfo:
        metric = make_metric(self.config_name)
        about = "\n".join(f"    {name}: {_direction(metric, name)}" for name in metric.values)
        return evaluate.MetricInfo(
            description=f"{metric.key}: {metric.presets.get(metric.preset, 'a file of yours')}",
            citation="\n".join(metric.citation),
            inputs_description=f"Args:\n    predictions, references: texts.\nReturns:\n{about}",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(
        self, predictions: list[str], references: list[str], task: str | None = None, text: str = "none"
    ) -> dict[str, Any]:
        """Numbers of the corpus, how many pairs were scored, and the signature.

        Args:
            predictions: one text per sample.
            references: as many.
            task: a task whose full reference set and train split the metric is fitted on.
            text: normalisation of both texts (data/text.py).
        """
        metric = make_metric(self.config_name)
        if metric.judge:
            raise CxrbenchError(f"{metric.key} needs a judge", fix="cxrbench score FILE --judge ...")
        samples = [
            Sample(f"{number}", f"{number}", None, normalise(text, reference))
            for number, reference in enumerate(references)
        ]
        answers = {
            sample.sample_id: Prediction(sample.sample_id, OK if said.strip() else EMPTY, said)
            for sample, said in zip(samples, predictions, strict=True)
        }
        corpus = _corpus(task, [sample.target for sample in samples])
        resources = with_store(Resources(config=corpus.config), corpus.dataset)
        (result,) = score(samples, answers, [Chosen(metric, True)], corpus, text, resources=resources)
        if result.statistics is None:
            raise CxrbenchError(f"{metric.key} was not scored: {result.reason}", code=Exit.UNDECIDED)
        table = Table(result.rows(), metric)
        return {
            **point(table.take(table.scored)),
            "n": result.n,
            "n_expected": len(samples),
            "signature": result.signature,
        }


def _corpus(task: str | None, references: list[str]) -> Corpus:
    if task is None:
        return Corpus(references, config=load_config())
    data = TaskData.find(find_task(task), load_config())
    train = (lambda: [sample.target for sample in data.pool]) if data.has_pool else None
    own = [sample.target for sample in data.samples.samples]
    return Corpus(own, train, dataset=data.spec.dataset.name, config=load_config())


def _direction(metric: Metric, name: str) -> str:
    better = metric.values[name].higher_is_better
    said = "neither is better" if better is None else "higher is better" if better else "lower is better"
    return f"{said}{', ' + metric.values[name].unit if metric.values[name].unit else ''}"
