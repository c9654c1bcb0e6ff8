"""`evaluate:FILE[#value][@config]`: a local metric module of the package evaluate, per report.

evaluate gives numbers and no statistics, so the module is asked for one report at a time and the mean is reported;
where a metric is defined on a corpus (sacrebleu, say) that is another number than the corpus's, and the name says so.
The module's file is code: it runs because the user named it, and no name is looked up on the hub.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cxrbench.errors import CxrbenchError
from cxrbench.metrics.base import (
    FAILED,
    SCORED,
    Context,
    FeatureRequest,
    Floats,
    Metric,
    Pairs,
    Statistics,
    Value,
    ratio,
)

_NAME = re.compile(r"^(?P<file>.+?)(@(?P<config>[^#@]+))?(#(?P<value>[^#@]+))?$")


class EvaluateModule(Metric):
    """The mean over reports of what a local evaluate module says of one; no report gives: not a number."""

    name = "evaluate"
    presets: ClassVar[Mapping[str, str]] = {"FILE": "a metric module of yours: FILE.py[@config][#value]"}
    default_preset = "FILE"
    values: ClassVar[Mapping[str, Value]] = {"mean": Value(None, (None, None), primary=True)}

    def __init__(self, preset: str | None = None) -> None:
        found = _NAME.match(preset or "")
        if found is None:
            raise CxrbenchError(
                "evaluate needs the file of a metric module",
                where="--metrics evaluate",
                fix="--metrics evaluate:FILE.py[@config][#value]",
            )
        self.preset = str(preset)
        self.file = Path(found["file"])
        self.config, self.key_wanted = found["config"], found["value"]
        if not self.file.is_file():
            raise CxrbenchError("there is no such file", where=f"--metrics evaluate:{self.file}")
        self._hash = hashlib.sha256(self.file.read_bytes()).hexdigest()[:8]
        self._module: Any = None

    def ready(self) -> str | None:
        """Whether the package is here.

        Raises:
            CxrbenchError: the file is no module that evaluate can load; a wrong file is refused before anything long.
        """
        from importlib.util import find_spec

        if not find_spec("evaluate"):
            return "needs the package evaluate: pip install 'cxrbench[evaluate]'"
        self._load()
        return None

    def settings(self) -> tuple[tuple[str, str], ...]:
        """The module's content, its configuration and which of its numbers is meant."""
        named = (("config", self.config), ("value", self.key_wanted))
        return (("module", self._hash), *((key, value) for key, value in named if value))

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        """Ask the module once per pair. A pair it breaks on or gives no finite number for is failed."""
        module = self._load()
        rows, status = np.zeros((len(pairs), 1, 2)), np.full((len(pairs), 1), SCORED, np.uint8)
        reasons = [""] * len(pairs)
        for at, (said, reference) in enumerate(zip(pairs.predictions, pairs.references, strict=True)):
            try:
                number = self._number(module.compute(predictions=[said], references=[reference]))
            except CxrbenchError:
                raise
            except Exception as error:  # the module is somebody's code: its message may quote the report
                status[at], reasons[at] = FAILED, f"the module failed with {type(error).__name__}"
                continue
            if not math.isfinite(number):
                status[at], reasons[at] = FAILED, "the module gave no finite number"
                continue
            rows[at, 0] = (1.0, number)
        return Statistics(rows, status, tuple(reasons))

    def _load(self) -> Any:
        """The module as evaluate makes it. No report was shown to it yet, so its message may be told."""
        if self._module is not None:
            return self._module
        import evaluate

        try:
            self._module = evaluate.load(str(self.file), self.config, keep_in_memory=True)
        except Exception as error:  # the module is somebody's code: it may break in any way
            said = " ".join(str(error).split())[:300]
            raise CxrbenchError(
                f"evaluate cannot load the module: {type(error).__name__}: {said}",
                where=f"--metrics evaluate:{self.preset}",
                fix="in the module one `import NAME` a line, as evaluate reads them, and nothing that is not installed",
            ) from error
        return self._module

    def _number(self, found: Mapping[str, Any]) -> float:
        """The one number that is meant."""
        numbers = {key: value for key, value in found.items() if isinstance(value, (int, float, np.number))}
        wanted = self.key_wanted or (next(iter(numbers)) if len(numbers) == 1 else None)
        if wanted is None or wanted not in numbers:
            raise CxrbenchError(
                f"the module gives {', '.join(numbers) or 'no number'}" + (f", not {wanted}" if wanted else ""),
                where=f"--metrics evaluate:{self.preset}",
                fix=f"--metrics 'evaluate:{self.file}#{next(iter(numbers), 'NAME')}'",
            )
        return float(numbers[wanted])

    def value(self, sums: Floats) -> dict[str, Floats]:
        return {"mean": ratio(sums[..., 1], sums[..., 0])}
