"""Published cases of metrics: texts that may be shipped, and the figures their authors say these have.

One YAML file per case in baselines/metric_cases, with source, licence and evidence. Texts are shipped only where their
authors wrote them up or took them from the news; any other text may be a hospital's, whatever its licence: such a case
names the package that holds the texts, with a hash. Touches shipped files and errors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.shipped import shipped
from cxrbench.yaml_file import read_mapping


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CasePair(_Strict):
    """A prediction and its reference."""

    prediction: str
    reference: str


class PackageTexts(_Strict):
    """Where a package holds the texts: lists called `predictions` and `references` in a file of its source.

    `package` is what pip calls it. The file METADATA is its description: there the lists stand in blocks of Python, by
    themselves or as what a function is called with. `sha256` is that of both lists as JSON.
    """

    package: str
    file: str
    predictions: str
    references: str
    sha256: str

    def fit(self, predictions: Sequence[str], references: Sequence[str]) -> bool:
        """Whether these are the texts that the figures are for."""
        return hashlib.sha256(json.dumps([predictions, references]).encode()).hexdigest() == self.sha256


class Expected(_Strict):
    """Figures of the pairs under metrics that agree on them.

    `corpus`: value -> number. `per_pair`: value -> one number per pair. `entities`: of each prediction, what RadGraph
    finds. `evidence`: verified (recomputed by us with the reference), primary (stated by the authors), unverified.
    """

    metrics: tuple[str, ...]
    corpus: Mapping[str, float] = {}
    per_pair: Mapping[str, tuple[float, ...]] = {}
    entities: tuple[Mapping[str, Any], ...] = ()
    tolerance: float = 0.0
    evidence: Literal["verified", "primary", "unverified"]
    note: str = ""


class Case(_Strict):
    """One published case; either `pairs` or `texts`.

    `origin`: where the texts are from, as their authors say (`text_origin` has it in words).
    """

    name: str
    about: str
    source: str
    licence: str
    origin: Literal["invented", "news", "unstated"]
    text_origin: str
    pairs: tuple[CasePair, ...] = ()
    texts: PackageTexts | None = None
    expected: tuple[Expected, ...]

    @model_validator(mode="after")
    def _whole(self) -> Case:
        if bool(self.pairs) == (self.texts is not None):
            raise ValueError("a case has pairs, or says which package holds them")
        if self.pairs and self.origin == "unstated":
            raise ValueError(
                "texts are shipped only where their authors say that they made them up, or took them from the news"
            )
        for each in self.expected:
            for value, numbers in each.per_pair.items():
                if self.pairs and len(numbers) != len(self.pairs):
                    raise ValueError(f"{value}: {len(numbers)} figures for {len(self.pairs)} pairs")
        return self


def read_case(file: Path) -> Case:
    """A case from its file.

    Raises:
        CxrbenchError: it cannot be read or is no case; says why.
    """
    try:
        body = read_mapping(file, "a published case", "docs/verify.md")
        return Case.model_validate({"name": file.stem, **body})
    except CxrbenchError as error:
        raise _damaged(file, error.what) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(file, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _damaged(file: Path, why: str) -> CxrbenchError:
    return CxrbenchError(
        f"a published case cannot be read ({why})",
        where=str(file),
        fix="install cxrbench again",
        code=Exit.INFRASTRUCTURE,
    )


def cases(folder: Path | None = None) -> list[Case]:
    """All published cases, by name.

    Raises:
        CxrbenchError: as `read_case`; or this installation has none.
    """
    place = folder or shipped("baselines") / "metric_cases"
    files = sorted(place.glob("*.yaml"))
    if not files:
        raise _damaged(place, "there are none")
    return [read_case(file) for file in files]
