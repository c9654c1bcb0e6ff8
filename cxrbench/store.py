"""The run folder: manifest, samples, predictions, scores; append, fsync, resume. Touches types, privacy, rows.

    manifest.json            what the run is (identity) and each segment's circumstances
    workers/                 who wrote which shard, where there were several writers: see claims.py
    samples.parquet          ids, references, subgroups: scoring needs nothing else
    predictions/0000.jsonl   one row per sample, append + fsync per batch; shards from day one, one writer each
    batches/0000.jsonl       wall times per batch
    contexts/<metric>.json   what a metric learnt from the full reference set or the train split
    scores/<metric>@<sig8>.parquet   sufficient statistics per sample
    summary.json             what `--json` prints

A killed run loses at most the batch in flight: a truncated last line is cut off when the run goes on. Every file and
folder is made for its owner alone; what others may see of an open run is its owner's to say (chmod).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cxrbench.atomic import disk_error, unfinished, write_atomic
from cxrbench.claims import Claim, Claims, shard_name
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.lock import OccupiedError as OccupiedError
from cxrbench.lock import holding
from cxrbench.privacy import close_tree, private_folder
from cxrbench.rows import Appender as Appender
from cxrbench.rows import StoredPredictions, read_batch, row_ids, whole_lines
from cxrbench.rows import prediction_row as prediction_row
from cxrbench.run_shapes import check_manifest
from cxrbench.types import BatchTiming, Manifest, Prediction

FORMAT = 1
_FOLDERS = ("predictions", "batches", "scores")


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal settings give equal text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def identity_hash(identity: Mapping[str, Any]) -> str:
    """First 8 hex digits of SHA-256 over the identity: the end of the run folder's name."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:8]


def _pretty(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n").encode()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: old -> new` for every difference of two nested mappings."""
    lines: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {_brief(a)} -> {_brief(b)}")
    return lines


BRIEF = 60
"""Characters of a value that a difference shows."""


def _brief(value: Any) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= BRIEF else f"{text[:BRIEF]}... ({len(text)} characters)"


_READ = ("predictions", "batches", "workers", "contexts", "scores")
"""Folders within a run folder, but for `artifacts`, whose files are looked at one by one."""


def _waits(path: str) -> bool:
    """Whether a file is one that may never end, or never begin."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


class RunFolder:
    """One run on disk. Reading never changes it; `writing` holds the lock that lets one process append."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def claims(self) -> Claims:
        """Who writes which shard, where several processes do."""
        return Claims(self.path)

    @property
    def manifest_file(self) -> Path:
        return self.path / "manifest.json"

    @property
    def samples_file(self) -> Path:
        return self.path / "samples.parquet"

    def shard_file(self, kind: str, shard: int = 0) -> Path:
        """The file of a shard of `predictions` or `batches`."""
        return self.path / kind / f"{shard:04d}.jsonl"

    def exists(self) -> bool:
        """Whether there is a run here."""
        return self.manifest_file.is_file()

    def manifest(self) -> Manifest:
        """The manifest, with the circumstances of all workers after those of the run's single process.

        Raises:
            CxrbenchError: there is none, it is damaged, or another version of cxrbench wrote it.
        """
        kept = self._stored_manifest()
        workers = tuple(claim.circumstances for claim in self.claims.claims())
        return replace(kept, circumstances=(*kept.circumstances, *workers)) if workers else kept

    def _stored_manifest(self) -> Manifest:
        """Read manifest.json.

        Raises:
            CxrbenchError: there is none, it is damaged, or another version of cxrbench wrote it; or a file of the run
                is a pipe or a device.
        """
        self.refuse_pipes()
        try:
            body = json.loads(self.manifest_file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CxrbenchError("there is no run here", where=str(self.path), fix="cxrbench runs list") from error
        except (ValueError, RecursionError) as error:
            raise self._damaged() from error
        except OSError as error:
            raise CxrbenchError(
                f"the manifest cannot be read: {error.strerror}", where=str(self.manifest_file)
            ) from error
        if not isinstance(body, dict) or not isinstance(body.get("identity", {}), dict):
            raise self._damaged()
        if body.get("format") != FORMAT:
            raise CxrbenchError(
                f"the run has format {body.get('format')}, this cxrbench reads format {FORMAT}",
                where=str(self.manifest_file),
                fix="use the version of cxrbench named in the manifest",
            )
        try:
            made = Manifest(**{**body, "circumstances": tuple(body["circumstances"])})
            check_manifest(made)
            return made
        except (TypeError, KeyError, ValueError) as error:
            raise self._damaged() from error

    def refuse_pipes(self) -> None:
        """A run folder may come from somebody else, and no reader of it shall wait for a pipe.

        What cannot be looked at is left to whoever opens it.

        Raises:
            CxrbenchError: a file of the run is a pipe or a device, or a link to one.
        """
        for folder in (self.path, *(self.path / name for name in _READ)):
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False) and _waits(entry.path):
                        raise CxrbenchError(
                            "a file of the run is a pipe or a device",
                            where=entry.path,
                            fix="remove it, or take the run from its source again",
                            code=Exit.INFRASTRUCTURE,
                        )

    def _damaged(self) -> CxrbenchError:
        return CxrbenchError(
            "the manifest is damaged",
            where=str(self.manifest_file),
            fix="restore it from a copy, or start again with --out DIR",
            code=Exit.INFRASTRUCTURE,
        )

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest in one step."""
        from cxrbench import __version__

        write_atomic(self.manifest_file, _pretty(asdict(replace(manifest, cxrbench=__version__))))

    def begin(self, manifest: Manifest) -> Manifest:
        """Create the folder, or check that what is there is the same run; returns the manifest in force.

        What is not identity (patients, exclusions, the task's metrics and slices) is renewed; circumstances and the
        batch size stay those of the first segment.

        Raises:
            CxrbenchError: the identity differs (each difference is listed), or the folder cannot be written.
        """
        if self.exists():
            old = self._stored_manifest()
            changed = differences(old.identity, json.loads(canonical(manifest.identity)))
            if changed:
                raise CxrbenchError(
                    "the folder holds another run:\n    " + "\n    ".join(changed),
                    where=str(self.path),
                    fix="--out DIR for a new folder, or repeat the settings of the run there",
                )
            self._make_folders(manifest)
            renewed = replace(manifest, circumstances=old.circumstances, batch_size=old.batch_size)
            if canonical(asdict(renewed)) != canonical(asdict(replace(old, cxrbench=renewed.cxrbench))):
                self.write_manifest(renewed)
            return renewed
        self._make_folders(manifest)
        self.write_manifest(manifest)
        return manifest

    def _make_folders(self, manifest: Manifest) -> None:
        """Make what is not there; take from others what an earlier hand or version left them of credentialed data."""
        try:
            for folder in (self.path, *(self.path / name for name in _FOLDERS)):
                private_folder(folder)
            if manifest.access == "credentialed":
                close_tree(self.path)
        except OSError as error:
            raise disk_error(error, self.path) from error

    def refuse_foreign(self) -> None:
        """Leave a folder alone that holds files and no run.

        Raises:
            CxrbenchError: such a folder; what a run killed before its manifest leaves is none.
        """
        if not self.path.is_dir():
            return
        names = {
            entry.name
            for entry in self.path.iterdir()
            if entry.name not in _FOLDERS or not entry.is_dir() or any(entry.iterdir())
        }
        left = {"lock", *(file.name for file in unfinished(self.manifest_file))}
        if names - left and not self.exists():  # looked at last: a run that begins meanwhile has its manifest by then
            raise CxrbenchError(
                "the folder holds other files and no run",
                where=str(self.path),
                fix="--out DIR with a new or an empty folder",
            )

    def add_segment(self, circumstances: Mapping[str, Any]) -> None:
        """Record on what, when and with which versions this part of the run is made."""
        manifest = self._stored_manifest()
        self.write_manifest(replace(manifest, circumstances=(*manifest.circumstances, dict(circumstances))))

    @contextmanager
    def writing(self, *, shared: bool = False) -> Iterator[bool]:
        """Make the folder if need be and hold it until the block ends or the process dies, however it dies.

        Yields whether somebody on another machine may still be writing, and held the folder alone: nobody else goes on
        in a shard of theirs. `shared`: beside other workers that hold it so too, each with a shard of its own.

        Raises:
            CxrbenchError: another process is writing here, the folder holds other files, or it cannot be written.
        """
        try:
            private_folder(self.path)
            self.refuse_foreign()
        except OSError as error:
            raise disk_error(error, self.path) from error
        with holding(self.path / "lock", shared=shared) as strangers:
            yield strangers

    def predictions(self, sealing: Mapping[str, int] | None = None) -> Mapping[str, Prediction]:
        """All complete rows of all shards by sample id, read from disk as they are asked for.

        A sample that failed and was asked again has a later row, which counts. A truncated last line (a killed
        process) is passed over, and so is what a worker wrote after another took over its share (claims.py); damage
        anywhere else, or a row after an answer, is an error, because then the file is not what cxrbench wrote.
        `sealing`: what the caller is about to seal.
        """
        return StoredPredictions(self.shards("predictions"), {**self.claims.seals(), **(sealing or {})})

    def answered_ids(self) -> set[str]:
        """Samples that have a row, without reading the rows."""
        seals = self.claims.seals()
        return {each for file in self.shards("predictions") for each in row_ids(file, seals.get(file.stem))}

    def shards(self, kind: str) -> list[Path]:
        """The files of `predictions` or `batches`, in the order of their numbers, which is the order of writing."""
        return sorted((self.path / kind).glob("*.jsonl"), key=lambda file: (len(file.stem), file.stem))

    def batches(self) -> list[BatchTiming]:
        """Wall times of all batches, by shard, in the order they were made.

        Workers of one epoch ran side by side: their rows share a segment (below zero), and `ended` counts from the
        first of them to begin.
        """
        claims = {shard_name(claim.shard): claim for claim in self.claims.claims()}
        late = started_after(claims.values())
        found = []
        for file in self.shards("batches"):
            claim = claims.get(file.stem)
            for number, _, line in whole_lines(file):
                row = read_batch(line, file, number)
                if claim is not None:
                    row = replace(row, segment=-claim.epoch, ended=(row.ended or 0.0) + late[claim.shard])
                found.append(row)
        return found


def started_after(claims: Iterable[Claim]) -> dict[int, float]:
    """By shard, how many seconds after the first worker of its epoch a worker began.

    On one machine by its monotonic clock; between machines by the time of day, which their clocks must share.
    """
    found: dict[int, float] = {}
    claims = list(claims)
    for epoch in {claim.epoch for claim in claims}:
        team = [claim.place for claim in claims if claim.epoch == epoch]
        together = len({place.machine for place in team}) == 1
        begun = min(place.clock if together else place.wall for place in team)
        for claim in claims:
            if claim.epoch == epoch:
                found[claim.shard] = (claim.place.clock if together else claim.place.wall) - begun
    return found


def run_folder(root: Path, task: str, model: str, identity: Mapping[str, Any]) -> RunFolder:
    """The default folder of a run: `root/<task>/<model>-<hash8>/`, so that the same command continues it."""
    return RunFolder(root / task / f"{_safe(model)}-{identity_hash(identity)}")


def run_folders(root: Path, task: str, model: str) -> list[RunFolder]:
    """The default folders of all runs of a model on a task."""
    ends = re.compile(re.escape(_safe(model)) + "-[0-9a-f]{8}")
    found = sorted((root / task).glob("*/manifest.json"))
    return [RunFolder(file.parent) for file in found if ends.fullmatch(file.parent.name)]


def _safe(model: str) -> str:
    """The name of a model as part of a folder's."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in model).strip("-.")[:60] or "model"


def find_run(text: str) -> RunFolder:
    """A run folder by its path.

    Raises:
        CxrbenchError: there is no run in it; a folder that `export run` wrote for the package datasets is named as one.
    """
    run = RunFolder(Path(text))
    if (run.path / "dataset_info.json").is_file():
        raise CxrbenchError(
            "this is a table for the package datasets, not a run",
            where=text,
            fix="the run it was made of, or cxrbench export run RUN -o FILE.parquet for a file",
        )
    if not run.exists():
        raise CxrbenchError("there is no run here", where=text, fix="cxrbench runs list")
    run.refuse_pipes()
    return run


def list_runs(root: Path) -> list[RunFolder]:
    """All runs under a folder, in order of their path."""
    return [RunFolder(file.parent) for file in sorted(root.glob("**/manifest.json"))]
