"""What the manifest and the summary of a run may hold: kinds of values, looked at before anybody reckons with them.

A run folder may come from somebody else, or have been edited by hand. Further keys are let through: later versions add
some, and earlier ones had fewer. Touches types and pydantic.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from cxrbench.types import Access, ClusterUnit, Manifest

Count = Annotated[int, Field(ge=0, lt=2**53)]


class _Shape(BaseModel):
    # Built when one is looked at: most commands import this, and some read no run.
    model_config = ConfigDict(strict=True, extra="ignore", defer_build=True)


class _Value(_Shape):
    value: float | None
    ci: list[float | None] | None
    ci_method: str = ""
    n: Count = 0
    failed: Count = 0
    rests_on: Count | None = None
    note: str = ""
    primary: bool = False
    unit: str = ""
    higher_is_better: bool | None = None
    replicates: Count = 0


class _Whole(_Value):
    signature: str


class _Group(_Shape):
    n: Count
    clusters: Count
    metrics: dict[str, dict[str, _Value]]


class _NotScored(_Shape):
    reason: str
    required: bool = False
    broken: bool = False


class _Summary(_Shape):
    task: str
    n_expected: Count
    outcomes: dict[str, Count]
    metrics: dict[str, dict[str, _Whole]]
    slices: dict[str, dict[str, _Group]]
    model: str = ""
    run: str = ""
    cxrbench: str = ""
    n: Count = 0
    n_task: Count = 0
    n_full: Count | None = None
    limit: Count | None = None
    clusters: Count = 0
    cluster_unit: ClusterUnit = "patient"
    kind: str = ""
    access: Access = "open"
    ci_level: float | None = None
    ci_method: str = ""
    replicates: Count = 0
    truncated_share: float | None = None
    distinct: dict[str, Count] | None = None
    not_scored: dict[str, _NotScored] = {}
    required: list[str] = []
    excluded: dict[str, Count] = {}
    notes: list[str] = []
    speed: dict[str, Any] = {}


class _Task(_Shape):
    name: str = ""
    version: int = 0
    hash: str = ""
    title: str = ""
    kind: str = ""
    text: str = ""
    metrics: dict[str, list[str]] = {}
    dataset: dict[str, Any] = {}
    expected: dict[str, Any] = {}


class _Model(_Shape):
    name: str = ""
    engine: str = ""
    dtype: str = ""


class _Identity(_Shape):
    task: _Task
    model: _Model
    limit: Count | None = None
    seed: int | None = None


class _Manifest(_Shape):
    identity: _Identity
    access: Access
    n_expected: Count
    clusters: Count
    patient_ids: bool
    batch_size: Count
    cxrbench: str
    task: _Task
    excluded: dict[str, Count]
    circumstances: tuple[dict[str, Any], ...]
    cluster_unit: ClusterUnit


def check_summary(body: Any) -> None:
    """Look at a summary.

    Raises:
        ValueError: a value is of another kind than `score` writes.
    """
    _Summary.model_validate(body)


def check_manifest(manifest: Manifest) -> None:
    """Look at a manifest.

    Raises:
        ValueError: a value is of another kind than `run` writes.
    """
    _Manifest.model_validate({name: getattr(manifest, name) for name in _Manifest.model_fields})
