"""`replay:FILE`: someone's predictions file becomes a run, scored and shown like any other.

Rows are matched by sample id alone. A sample without a row is the outcome `missing_prediction`; rows that belong to no
sample are counted. Speeds of such a run say nothing about the system that wrote the file, so no latency is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError
from cxrbench.models.base import ModelCard, ModelOptions, Prepared
from cxrbench.models.baselines import Lookup, refuse_settings
from cxrbench.predictions_file import ID_COLUMNS, TEXT, read_predictions
from cxrbench.spool import Ids
from cxrbench.types import FAILURES, MISSING, Generation, Prediction, Request, RequestKind, Sample


class Replay(Lookup):
    """Answers every sample with its row of the file. `argument` is the file.

    Raises:
        CxrbenchError: no file was named, or it cannot be read; see `read_predictions`.
    """

    def __init__(self, options: ModelOptions) -> None:
        if not options.argument:
            raise CxrbenchError(
                "replay needs a predictions file",
                where="--model replay",
                fix=f"--model replay:predictions.jsonl, with the columns {ID_COLUMNS[0]} and {TEXT}",
            )
        refuse_settings("replay", options, argument=True)
        self.file = read_predictions(Path(options.argument))
        self.card = ModelCard(
            f"replay:{self.file.path.name}",
            "predictions of a file",
            source=self.file.path.name,
            revision=self.file.sha256[:8],
            notes="speed not measured: the texts were written elsewhere",
        )
        self._texts = self.file.texts()
        self._asked = bytearray(len(self.file.rows))  # which rows were asked for
        self._matched = 0
        self._missing = Ids()

    def identity(self) -> dict[str, Any]:
        """The content of the file, not its name or place."""
        return {"name": "replay", "file_sha256": self.file.sha256}

    def circumstances(self) -> dict[str, Any]:
        """What the file holds, and how it meets the samples asked for so far (all of them, once a run is planned).

        Raises:
            CxrbenchError: not one row belongs to one of the samples.
        """
        coverage = self.file.met(self._matched, self._matched + len(self._missing))
        return {
            **super().circumstances(),
            "file": self.file.path.name,
            "format": self.file.format,
            "rows": len(self.file.rows),
            "matched": coverage.matched,
            "missing": coverage.missing,
            "surplus": coverage.surplus,
            "empty": self.file.empty,
            "null": self.file.nulls,
            "nothing_words": list(self.file.nothing_words),
            "further_columns": [*self.file.subgroup_columns, *self.file.ignored_columns],
        }

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """Note that the sample was asked for."""
        self._note(sample.sample_id)
        return super().request(sample, kind, generation, seed)

    def foresee(self, ids: Iterable[str]) -> None:
        """Learn which samples will be asked for; all cost the same."""
        for each in ids:
            self._note(each)

    def _note(self, sample_id: str) -> None:
        row = self.file.ids.place(sample_id)
        if row < 0:
            self._missing.add(sample_id)
        elif not self._asked[row]:
            self._asked[row] = True
            self._matched += 1

    def prepare(self, request: Request) -> Prepared:
        """Fail where the file has no row."""
        if request.sample_id not in self._texts:
            return Prepared(request, failure=(MISSING, FAILURES[MISSING]))
        return super().prepare(request)

    def text(self, request: Request) -> str:
        return self._texts[request.sample_id]

    def answers(self, samples: Sequence[Sample]) -> dict[str, Prediction]:
        """Predictions of all samples without a run folder, missing rows included.

        Raises:
            CxrbenchError: not one row belongs to one of the samples.
        """
        self.file.coverage(sample.sample_id for sample in samples)
        out = {}
        for sample in samples:
            prepared = self.prepare(Request(sample.sample_id, "generate"))
            if prepared.failure is not None:
                outcome, detail = prepared.failure
                out[sample.sample_id] = Prediction(sample.sample_id, outcome, finish_reason="error", detail=detail)
            else:
                out[sample.sample_id] = self._answer(prepared, 0)
        return out

    def _answer(self, prepared: Prepared, batch: int) -> Prediction:
        return replace(super()._answer(prepared, batch), times={})
