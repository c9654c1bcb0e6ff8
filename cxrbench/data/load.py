"""From a task to its samples: finds the data set, its roots and its studies. Never torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from cxrbench import registry
from cxrbench.config import Config, DataEntry
from cxrbench.data.base import Dataset, Roots, Slice
from cxrbench.data.grouping import VERBOSITY, named_groups
from cxrbench.data.samples import UNKNOWN, SampleSet, make_samples, mark_repeats
from cxrbench.errors import CxrbenchError, suggest
from cxrbench.spec import NO_GROUPS, SLICES
from cxrbench.types import Sample

if TYPE_CHECKING:
    from cxrbench.spec import Expected, ExpectedSplit, TaskSpec


def open_dataset(name: str) -> Dataset:
    """Construct the data set called `name`."""
    dataset: Dataset = registry.load("datasets", name)()
    return dataset


def merge_roots(entry: DataEntry, overrides: Roots) -> DataEntry:
    """Roots of the settings file with those of the command line on top; an override sets a prepared index aside."""
    if not overrides:
        return entry
    return replace(entry, roots={**entry.roots, **overrides}, prepared=None)


@dataclass(frozen=True)
class TaskData:
    """A task joined to its data on this machine."""

    spec: TaskSpec
    dataset: Dataset
    entry: DataEntry

    @classmethod
    def find(cls, spec: TaskSpec, config: Config, overrides: Roots | None = None) -> TaskData:
        """Join a task to the roots that are known for its data set.

        Raises:
            CxrbenchError: the task sets an option the data set does not have, or states a laxer access.
        """
        dataset = open_dataset(spec.dataset.name)
        _check_options(spec, dataset.options)
        _check_ages(spec, dataset)
        if spec.access == "open" and not dataset.may_be_open:
            raise CxrbenchError(
                f"{spec.dataset.name} is credentialed and no task can open it",
                where=f"task {spec.name}, key access",
                fix="access: credentialed",
            )
        entry = merge_roots(config.data.get(spec.dataset.name, DataEntry()), overrides or {})
        return cls(spec, dataset, entry)

    def part(self, split: str) -> Slice:
        """A split with the task's options."""
        return Slice(split, self.spec.dataset.options)

    def _make(self, split: str) -> SampleSet:
        return make_samples(self.spec, self.dataset.studies(self.entry.roots, self.part(split), self.entry.prepared))

    @cached_property
    def samples(self) -> SampleSet:
        """The task's samples, with the subgroups the task tabulates."""
        found = self._make(self.spec.dataset.split)
        if not found.samples:
            reasons = ", ".join(f"{count} {reason}" for reason, count in found.excluded.items())
            raise CxrbenchError(
                f"no sample of {self.spec.name} is left" + (f" ({reasons})" if reasons else ""),
                where=f"data set {self.spec.dataset.name}, split {self.spec.dataset.split}",
                fix=f"cxrbench data check {self.spec.dataset.name}",
            )
        check_slices(self.spec.slices, found.samples, f"task {self.spec.name}, key slices", SLICES)
        check_groups(self.spec, found.samples)
        wanted = set(self.spec.slices) & {"seen-in-train", "duplicate"}
        if not wanted:
            return found
        train = (s.target for s in self.pool) if "seen-in-train" in wanted and self.has_pool else None
        return replace(found, samples=mark_repeats(found.samples, train), walk=None, stored=None)

    def having(self, samples: SampleSet) -> TaskData:
        """The same data, whose samples are known already."""
        known = replace(self)
        known.__dict__["samples"] = samples
        return known

    @property
    def source(self) -> str:
        """The state of the files the samples come from: recorded per segment, to explain a difference later."""
        return self.dataset.fingerprint(self.entry.roots, self.part(self.spec.dataset.split))

    @property
    def has_pool(self) -> bool:
        """Whether the task names a train split."""
        return self.spec.dataset.pool_split is not None

    @cached_property
    def pool(self) -> Sequence[Sample]:
        """Samples of the train split, made by the same rules.

        Raises:
            CxrbenchError: the task names no train split.
        """
        split = self.spec.dataset.pool_split
        if split is None:
            raise CxrbenchError(
                f"the task {self.spec.name} names no train split",
                where="key dataset.pool_split",
                fix="set dataset.pool_split to the split to learn from (train) in a copy of the task, "
                "or use a model and metrics that need none",
            )
        return self._make(split).samples


def _check_options(spec: TaskSpec, known: Mapping[str, tuple[str, ...]]) -> None:
    for key, value in spec.dataset.options.items():
        if key not in known:
            raise CxrbenchError(
                f"the data set {spec.dataset.name} has no option {key!r}",
                where=f"task {spec.name}, key dataset.options.{key}",
                fix=f"one of: {', '.join(known) or 'none'}",
            )
        if known[key] and str(value) not in known[key]:
            raise CxrbenchError(
                f"the option {key!r} cannot be {value!r}",
                where=f"task {spec.name}, key dataset.options.{key}",
                fix=f"one of: {', '.join(known[key])}",
            )


def _check_ages(spec: TaskSpec, dataset: Dataset) -> None:
    """Refuse to part ages that the data set records as one: a band would hold other people than its name says."""
    first = getattr(dataset, "one_age_from", None)
    grouping = spec.groups.by.get("age") if spec.groups is not None else None
    over = [cut for cut in grouping.cuts if cut > first] if grouping is not None and first is not None else []
    if over:
        raise CxrbenchError(
            f"{spec.name} cuts ages at {over[0]:g}, and {dataset.name} records everybody of {first} or more as one",
            where=f"task {spec.name}, key groups.by.age.cuts",
            fix=f"no cut above {first}",
        )


def check_slices(names: Iterable[str], samples: Sequence[Sample], where: str, own: Iterable[str] = ()) -> None:
    """Refuse a slice that is neither a column of the samples nor one of cxrbench's `own`.

    Raises:
        CxrbenchError: no sample has the column; names the nearest.
    """
    names = set(names) - set(own)
    if not names:
        return
    columns = {name for sample in samples for name in sample.subgroups} | set(own)
    for name in sorted(names):
        if name not in columns:
            raise CxrbenchError(
                f"no sample has a column {name!r} to slice by{suggest(name, columns)}",
                where=where,
                fix=f"one of: {', '.join(sorted(columns))}" if columns else "a file with further columns",
            )


def check_groups(spec: TaskSpec, samples: Sequence[Sample]) -> None:
    """Refuse a grouping of which nothing is known, and gaps against a group that there is not.

    The first would tell of one group of everybody, the second of no gap at all.

    Raises:
        CxrbenchError: names the column, and what may bring it.
    """
    for name, grouping in spec.groups.by.items() if spec.groups is not None else ():
        _check_against(spec, name, named_groups(name, grouping) or {sample.subgroups[name] for sample in samples})
        if name != VERBOSITY and all(sample.subgroups[name] == UNKNOWN for sample in samples):
            raise CxrbenchError(
                f"{spec.name} tells of groups by {name}, and nothing is known of it for any sample",
                where=f"data set {spec.dataset.name}; task {spec.name}, key groups.by.{name}",
                fix=f"cxrbench data check {spec.dataset.name} says what the data lack; "
                "or a copy of the task without this key",
            )


def _check_against(spec: TaskSpec, column: str, groups: Iterable[str]) -> None:
    wanted = spec.groups.against.get(column) if spec.groups is not None else None
    known = sorted({*groups, *NO_GROUPS})
    if wanted is not None and wanted not in known:
        raise CxrbenchError(
            f"{spec.name} measures gaps by {column} against {wanted!r}, and there is no such group"
            f"{suggest(wanted, known)}",
            where=f"task {spec.name}, key groups.against.{column}",
            fix=f"one of: {', '.join(known)}",
        )


def pool_note(data: TaskData) -> str | None:
    """One line when the train split was read and is not whole; None otherwise."""
    expected = data.spec.expected.pool_n
    if expected is None or "pool" not in data.__dict__ or len(data.pool) == expected:
        return None
    return (
        f"the train split has {len(data.pool)} samples here, {expected} in full: what is learnt from it "
        "(seen-in-train, vocabularies, retrieval) differs from the full data set's"
    )


def check_count(spec: TaskSpec, found: SampleSet, *, allow_partial: bool) -> str | None:
    """Compare the samples, and the studies of the split they come from, with what the task states.

    Returns:
        None when they agree or nothing is stated, else one line to print and record.

    Raises:
        CxrbenchError: a verified count is contradicted and partial data were not allowed.
    """
    expected, split = spec.expected, spec.expected.split
    lines = []
    if expected.n is not None and expected.n != len(found.samples):
        here = f"{len(found.samples)} samples"
        if not allow_partial:
            _refuse_partial(spec, f"{spec.name} has {here}", "n", expected.n, expected)
        lines.append(f"{here}, {expected.n} expected ({expected.evidence}: {expected.source})")
    if split is not None and split.n != found.studies:
        name, here = f"the split {spec.dataset.split}", f"{found.studies} studies"
        if not allow_partial:
            _refuse_partial(spec, f"{name} of {spec.dataset.name} has {here}", "split.n", split.n, split)
        lines.append(f"{here} of {name}, {split.n} expected ({split.evidence}: {split.source})")
    return "; ".join(lines) or None


def _refuse_partial(spec: TaskSpec, found: str, key: str, full: int, about: Expected | ExpectedSplit) -> None:
    if about.evidence == "verified":
        raise CxrbenchError(
            f"{found} here, but {full} in full",
            where=f"expected.{key} is {about.evidence}: {about.source}",
            fix=f"cxrbench data check {spec.dataset.name}; --allow-partial scores what is there and records it",
        )
