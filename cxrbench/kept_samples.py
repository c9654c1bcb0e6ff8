"""Samples that a run folder keeps, taken up again by whoever goes on with the run: reading the data set takes longest.

They are taken only where nothing could make them different now: the same version of cxrbench, the same task to the last
key, files whose bytes are the same, and texts whose fingerprint is that of the run. What is not stored with them (where
images lie) or comes from elsewhere (the train split) is reason enough to read the data set again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from cxrbench import __version__
from cxrbench.data.samples import Gathered, SampleSet
from cxrbench.errors import CxrbenchError
from cxrbench.store import RunFolder
from cxrbench.tables import made_of, stored_samples

if TYPE_CHECKING:
    from cxrbench.data.load import TaskData
    from cxrbench.types import Manifest, Sample


def taken_up(data: TaskData, runs: Iterable[RunFolder]) -> tuple[TaskData, RunFolder | None]:
    """The data with the samples of the first of these runs that keeps exactly them, and that run.

    As they are, and None, where none does. What the fingerprint does not hold (labels, subgroups, patients) is that of
    the run's folder, so only this very run may go on with them.
    """
    for run in runs:
        found = kept_samples(run, data)
        if found is not None:
            return data.having(found), run
    return data, None


def kept_samples(run: RunFolder, data: TaskData) -> SampleSet | None:
    """The samples of the task's data as a run keeps them; None where they have to be made of the data set."""
    holds = getattr(data.dataset, "holds", None)
    if holds is None or not run.exists():
        return None
    try:
        manifest = run.manifest()
        source, version = made_of(run.samples_file)
        if version != __version__ or not source or not _same_task(manifest, data):
            return None
        if not holds(data.entry.roots, data.part(data.spec.dataset.split), source):
            return None
        gathered = Gathered()
        for sample, _ in stored_samples(run.samples_file):
            if sample.images or not gathered.add(_in_order(sample, data.spec.offer)):
                return None
    except CxrbenchError:
        return None  # whoever reads the data set, or goes on in the folder, says what is wrong
    excluded = dict(manifest.excluded)
    found = gathered.finish(len(gathered) + sum(excluded.values()), excluded, run.samples_file)
    return found if found.fingerprint == manifest.identity.get("data") else None


def _same_task(manifest: Manifest, data: TaskData) -> bool:
    """Whether the run is of this very task, and one whose samples come from the files of their split alone."""
    spec = data.spec
    task = {key: value for key, value in manifest.task.items() if key != "run_notes"}
    elsewhere = "seen-in-train" in spec.slices or spec.expected.split is not None or spec.unit != "study"
    return task == spec.model_dump(mode="json") and not elsewhere


def _in_order(sample: Sample, offer: Iterable[str]) -> Sample:
    """The sample with its sections in the order the task offers them, which files do not keep."""
    if len(sample.sections) < 2:
        return sample
    return replace(sample, sections={name: sample.sections[name] for name in offer if name in sample.sections})
