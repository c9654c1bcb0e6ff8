"""What `cxrbench verify` has found on this machine, remembered: a small file per metric, code and weights.

`verified:yes` in a signature says that these weights, read by this code, gave the published figures or what the
reference package gave, on this machine or by this user. The files lie in `$XDG_CACHE_HOME/cxrbench/verified`, their
owner's alone; they hold names, hashes and outcomes, never a text. Touches config, errors and the store's file writing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrbench.atomic import write_atomic
from cxrbench.config import cache_dir
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.store import canonical

FORMAT = 1
"""Version of the file. A record of another version is refused, never read as something it is not."""

EMBEDDED = "embedded-"
"""How the tag of embedded weights begins. No figure was ever published for them, so nothing can verify them."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is verified: a metric, the code that reads its weights (`radgraph.1`), the tag of the weights."""

    metric: str
    code: str
    weights: str

    @property
    def file(self) -> Path:
        """Where it is remembered."""
        name = hashlib.sha256(canonical([self.metric, self.code, self.weights]).encode()).hexdigest()[:16]
        return cache_dir() / "verified" / f"{self.metric}.{name}.json"

    @property
    def embedded(self) -> bool:
        """Whether a part of the weights is embedded."""
        return EMBEDDED in self.weights


def passed(subject: Subject) -> bool:
    """Whether every check that was made last of its name passed; False where none was made.

    Raises:
        CxrbenchError: there is a record and it cannot be read, or it is not what cxrbench wrote.
    """
    checks = {} if subject.embedded else recall(subject)
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
    if [body.get(key) for key in _OF] != [subject.metric, subject.code, subject.weights]:
        raise _damaged(subject, "is that of another metric, code or weights")
    checks = body.get("checks")
    if not isinstance(checks, dict) or not all(isinstance(value, bool) for value in checks.values()):
        raise _damaged(subject, "holds no outcomes")
    return checks


_OF = ("metric", "code", "weights")


def remember(subject: Subject, checks: Mapping[str, bool], about: Mapping[str, str]) -> None:
    """Write down the outcomes of checks, beside those of other names that were made before.

    A check that failed stays failed until the same one passes. `about` (versions, date) is for a reader of the file.

    Raises:
        CxrbenchError: nothing can verify embedded weights; the record there is damaged; the disk is full or refuses.
    """
    if subject.embedded:
        raise CxrbenchError(f"no figure is published for the weights {subject.weights}, so they cannot be verified")
    body: dict[str, Any] = {
        "format": FORMAT,
        **dict(zip(_OF, (subject.metric, subject.code, subject.weights), strict=True)),
        "checks": {**recall(subject), **checks},
        "about": dict(about),
    }
    write_atomic(subject.file, (json.dumps({**body, "sum": _sum(body)}, indent=2) + "\n").encode())


def _sum(body: Mapping[str, Any]) -> str:
    """Finds damage and a careless edit; it is no signature."""
    return hashlib.sha256(canonical(body).encode()).hexdigest()[:16]


def _damaged(subject: Subject, what: str) -> CxrbenchError:
    return CxrbenchError(
        f"the record that says whether {subject.metric} was verified {what}",
        where=str(subject.file),
        fix=f"delete it, then `cxrbench verify metric {subject.metric}` makes a new one",
        code=Exit.INFRASTRUCTURE,
    )
