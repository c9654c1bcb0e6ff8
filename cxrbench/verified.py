"""What `cxrbench verify` has found on this machine, remembered: a small file per metric, code and weights.

`verified:yes` in a signature says that these weights, read by this code with this torch and transformers on this kind
of device, gave the published figures or what the reference package gave, on this machine or by this user. The files lie
in `$XDG_CACHE_HOME/cxrbench/verified`, their owner's alone; they hold names, hashes and outcomes, never a text. Touches
config, errors, privacy and the store's file writing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cxrbench.atomic import disk_error, write_atomic
from cxrbench.config import cache_dir
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import hold, private_folder
from cxrbench.store import canonical

FORMAT = 2
"""Version of the file. A record of another version is refused, never read as something it is not."""

EMBEDDED = "embedded-"
"""How the tag of embedded weights begins. No figure was ever published for them, so nothing can verify them."""


def software() -> str:
    """What computes besides cxrbench, to the minor version: `torch-2.13+transformers-5.23`."""
    return "+".join(f"{name}-{_minor(name)}" for name in ("torch", "transformers"))


def _minor(name: str) -> str:
    try:
        return ".".join(version(name).split(".")[:2])
    except PackageNotFoundError:
        return "none"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is verified: a metric, the code that reads its weights (`radgraph.1`), the tag of the weights.

    And what they are read on and with: `device` is `cpu` or `cuda`, `software` as `software()` has it.
    """

    metric: str
    code: str
    weights: str
    device: str = "cpu"
    software: str = field(default_factory=software)

    @property
    def file(self) -> Path:
        """Where it is remembered."""
        name = hashlib.sha256(canonical([getattr(self, each) for each in _OF]).encode()).hexdigest()[:16]
        return cache_dir() / "verified" / f"{self.metric}.{name}.json"

    @property
    def embedded(self) -> bool:
        """Whether a part of the weights is embedded."""
        return EMBEDDED in self.weights


_OF = ("metric", "code", "weights", "device", "software")
"""What a record is of."""

_DEVICE: ContextVar[Callable[[], str]] = ContextVar("device", default=lambda: "cpu")


@contextmanager
def scored_on(kind: Callable[[], str]) -> Iterator[None]:
    """Signatures that are made in this block are of numbers computed on a kind of device, `cpu` or `cuda`.

    A metric does not know where its annotators run. `kind` is asked only once there are weights to tell of, because the
    answer may need torch.
    """
    before = _DEVICE.set(kind)
    try:
        yield
    finally:
        _DEVICE.reset(before)


def passed(subject: Subject) -> bool:
    """Whether every check that was made last of its name passed on the device scored on; False where none was made.

    Raises:
        CxrbenchError: there is a record and it cannot be read, or it is not what cxrbench wrote.
    """
    checks = {} if subject.embedded else recall(replace(subject, device=_DEVICE.get()()))
    return bool(checks) and all(checks.values())


def recall(subject: Subject) -> dict[str, bool]:
    """Outcome by name of each check that was made; {} where none was.

    Raises:
        CxrbenchError: as `passed`.
    """
    try:
        text = subject.file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise _damaged(subject, f"cannot be read: {said}") from error
    try:
        body = json.loads(text)
    except ValueError as error:
        raise _damaged(subject, "is no JSON") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise _damaged(subject, f"is not of version {FORMAT}")
    told = body.pop("sum", None)
    if told != _sum(body):
        raise _damaged(subject, "was changed after it was written")
    if [body.get(key) for key in _OF] != [getattr(subject, key) for key in _OF]:
        raise _damaged(subject, "is that of another metric, code, weights or machine")
    checks = body.get("checks")
    if not isinstance(checks, dict) or not all(isinstance(value, bool) for value in checks.values()):
        raise _damaged(subject, "holds no outcomes")
    return checks


def remember(subject: Subject, checks: Mapping[str, bool], about: Mapping[str, str]) -> None:
    """Write down the outcomes of checks, beside those of other names that were made before.

    A check that failed stays failed until the same one passes. `about` (versions, date) is for a reader of the file.
    Of two processes that remember at once, one waits for the other, so that neither takes an outcome back.

    Raises:
        CxrbenchError: nothing can verify embedded weights; the record there is damaged; the disk is full or refuses.
    """
    if subject.embedded:
        raise CxrbenchError(f"no figure is published for the weights {subject.weights}, so they cannot be verified")
    with _alone(subject.file.parent):
        body: dict[str, Any] = {
            "format": FORMAT,
            **{key: getattr(subject, key) for key in _OF},
            "checks": {**recall(subject), **checks},
            "about": dict(about),
        }
        write_atomic(subject.file, (json.dumps({**body, "sum": _sum(body)}, indent=2) + "\n").encode())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder of the records; where a file system has no locks, nobody is kept out."""
    try:
        handle = os.open(private_folder(folder), os.O_RDONLY)
    except OSError as error:
        raise disk_error(error, folder) from error
    try:
        hold(handle)
        yield
    finally:
        os.close(handle)


def _sum(body: Mapping[str, Any]) -> str:
    """Finds damage and a careless edit; it is no signature."""
    return hashlib.sha256(canonical(body).encode()).hexdigest()[:16]


def _damaged(subject: Subject, what: str) -> CxrbenchError:
    return CxrbenchError(
        f"the record that says whether {subject.metric} was verified {what}",
        fix=f"delete {subject.file}, then `cxrbench verify metric {subject.metric}` makes a new one",
        code=Exit.INFRASTRUCTURE,
    )
