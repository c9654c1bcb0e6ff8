"""What a gate asks: which metrics block, by which margins, and what else must hold. A policy is a YAML file.

A metric blocks only where a policy names it, with a margin that somebody chose. Touches errors and shipped files only.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cxrbench.errors import CxrbenchError
from cxrbench.shipped import shipped
from cxrbench.yaml_file import read_yaml

_FIX = "docs/gate.md of the repository lists every key"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Check(_Part):
    """One value of one metric and how much worse it may be (in the metric's own unit, always positive).

    `blocking` None: it blocks, unless the metric is an LLM judge.
    """

    metric: str = Field(pattern=r"^[^:\s]+:[^:\s]+$")
    value: str
    margin: float = Field(gt=0, allow_inf_nan=False)
    blocking: bool | None = None

    @property
    def name(self) -> str:
        """`metric:preset value`, as tables write it."""
        return f"{self.metric} {self.value}"


class LengthGuard(_Part):
    """Words the candidate writes over words the baseline writes, over the same samples."""

    max_ratio: float | None = Field(default=None, gt=1, allow_inf_nan=False)
    min_ratio: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _says_something(self) -> LengthGuard:
        if self.max_ratio is None and self.min_ratio is None:
            raise ValueError("needs max_ratio or min_ratio, or both")
        return self


class SpeedGuard(_Part):
    """Reports per second of the candidate over those of the baseline: at least this."""

    min_ratio: float = Field(gt=0, allow_inf_nan=False)


class MemoryGuard(_Part):
    """Peak memory of the candidate over that of the baseline: at most this."""

    max_ratio: float = Field(gt=0, allow_inf_nan=False)


class Policy(_Part):
    """A gate policy, as the file states it; docs/gate.md explains every key.

    `most`: only the first so many of `metrics` that the baseline holds block (the default policy: three), the others
    are left out. None: all block, and one that the baseline lacks leaves the gate undecided.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    alpha: float = Field(default=0.05, gt=0, le=0.5)
    metrics: tuple[Check, ...] = ()
    most: int | None = Field(default=None, ge=1)
    advisory: tuple[Check, ...] = ()
    length: LengthGuard | None = None
    speed: SpeedGuard | None = None
    memory: MemoryGuard | None = None
    max_failed_share: float = Field(default=0.02, ge=0, le=1)

    @model_validator(mode="after")
    def _asks_once(self) -> Policy:
        names = [check.name for check in (*self.metrics, *self.advisory)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is named twice")
        if any(check.blocking for check in self.advisory):
            raise ValueError("what stands under advisory cannot be blocking")
        if not (self.metrics or self.length or self.speed or self.memory):
            raise ValueError("names nothing that could block: metrics, length, speed or memory")
        return self


def read_policy(file: Path) -> Policy:
    """Read a policy file.

    Raises:
        CxrbenchError: with file, line and key of the first thing that is wrong.
    """
    return read_yaml(file, Policy, "a gate policy", _FIX)


def gates_folder() -> Path:
    """Where baselines and policies that travel with cxrbench lie."""
    return shipped("baselines") / "gates"


def find_policy(file: Path | None, baseline_name: str | None) -> tuple[Policy, str]:
    """The policy in force and where it comes from: the file given, that of a shipped baseline, else the default one.

    Raises:
        CxrbenchError: it cannot be read.
    """
    if file is not None:
        return read_policy(file), str(file)
    if baseline_name is not None:
        own = gates_folder() / f"{baseline_name}.yaml"
        if own.is_file():
            return read_policy(own), f"shipped with the baseline {baseline_name}"
    default = gates_folder() / "default.yaml"
    if not default.is_file():
        raise CxrbenchError("the default policy is missing from the installation", where=str(default), fix="reinstall")
    return read_policy(default), "default"
