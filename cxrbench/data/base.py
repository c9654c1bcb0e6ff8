"""What a data set is to the rest of cxrbench: roots, checks, and studies one by one. Never torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from cxrbench.types import Access, Study

Roots = Mapping[str, tuple[Path, ...]]
"""Root name (`reports`, `images`, `tables`, `annotations`, `demographics`) -> the paths the user gave for it."""

Progress = Callable[[int, int | None], None]
"""Called now and then with (done, total or None)."""


@dataclass(frozen=True, slots=True)
class Root:
    """One root a data set knows: what it may be, in words for `data add --help` and `data check`."""

    help: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `cxrbench data check`: what was looked at, how it stands, what was found, what to do."""

    item: str
    status: Literal["ok", "missing", "problem", "note"]
    found: str
    fix: str = ""


def idle_root(name: str, root: str, path: Path, kept: Sequence[Path], holds: str, hint: str) -> Check:
    """The line for a path that holds nothing of its root, and how to leave it out: `data add` replaces a whole root.

    `kept` are the root's other paths; where there is none, `hint` says what the path would have to be.
    """
    paths = " ".join(f"--{root} {shlex.quote(str(each))}" for each in kept) or f"--{root} {hint}"
    return Check(
        root, "problem", f"there is no {holds} in {path}", f"leave {path} out: cxrbench data add {name} {paths}"
    )


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of a data set a task asks for: a split, and the data set's own options from the task file."""

    split: str
    options: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Indexed(Protocol):
    """A data set whose `prepare` builds an index, and which can say whether that index is still used."""

    def index_in_use(self, roots: Roots, prepared: Path) -> bool:
        """Whether `studies` would read from the index in `prepared`: it was made from what lies there now.

        Raises:
            CxrbenchError: a root is missing, or the index is damaged.
        """


class Dataset(Protocol):
    """A data set. Construction is cheap and touches no file.

    `may_be_open` says whether a task may state that the data are open (one's own data may be, MIMIC-CXR never).
    `patient_ids` says whether patients are known (else samples are the clusters; a data set that has something else to
    resample by puts it into `Study.patient_id` and names it in an attribute `clusters`, `types.ClusterUnit`).
    Where everybody of some age or older is recorded under one age, an attribute `one_age_from` is that age in years.
    `options` maps each option a task
    file may set under `dataset.options` to its allowed values (empty tuple: any value).
    """

    name: str
    access: Access
    may_be_open: bool
    patient_ids: bool
    citation: str
    licence: str
    roots: Mapping[str, Root]
    options: Mapping[str, tuple[str, ...]]

    def recognise(self, path: Path) -> str | None:
        """Name the root `path` looks like (so that `data add NAME PATH` can sort paths), or None."""

    def studies(self, roots: Roots, part: Slice, prepared: Path | None = None) -> Iterator[Study]:
        """Yield the studies of a split in a fixed order. `prepared` is the folder `data prepare` filled, if any.

        Raises:
            CxrbenchError: a root is missing or not in a known form; names the root and the command to add it.
        """

    def check(self, roots: Roots) -> list[Check]:
        """Look at the roots without reading everything: what is there, what is missing, what to do."""

    def prepare(self, roots: Roots, out: Path, progress: Progress) -> list[Check]:
        """Build an index under `out` so that later runs need not walk the trees again; returns what was done."""

    def fingerprint(self, roots: Roots, part: Slice) -> str:
        """A short stable hash of what `studies` would yield from (sizes and names of the files, or their content)."""
