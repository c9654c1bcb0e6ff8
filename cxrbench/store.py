"""The run folder: manifest, samples, predictions, scores; append, fsync, resume. Touches types, privacy and atomic.

    manifest.json            what the run is (identity) and each segment's circumstances
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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from cxrbench.atomic import disk_error, sync_folder, unfinished, write_atomic
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import close_tree, private_file, private_folder
from cxrbench.types import BatchTiming, Manifest, Prediction

FORMAT = 1
_FOLDERS = ("predictions", "batches", "scores")

_Row = TypeVar("_Row", Prediction, BatchTiming)


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
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= BRIEF else f"{text[:BRIEF]}... ({len(text)} characters)"


class RunFolder:
    """One run on disk. Reading never changes it; `writing` holds the lock that lets one process append."""

    def __init__(self, path: Path) -> None:
        self.path = path

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
        """Read the manifest.

        Raises:
            CxrbenchError: there is none, it is damaged, or another version of cxrbench wrote it.
        """
        try:
            body = json.loads(self.manifest_file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CxrbenchError("there is no run here", where=str(self.path), fix="cxrbench runs list") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise self._damaged() from error
        except OSError as error:
            raise CxrbenchError(
                f"the manifest cannot be read: {error.strerror}", where=str(self.manifest_file)
            ) from error
        if not isinstance(body, dict):
            raise self._damaged()
        if body.get("format") != FORMAT:
            raise CxrbenchError(
                f"the run has format {body.get('format')}, this cxrbench reads format {FORMAT}",
                where=str(self.manifest_file),
                fix="use the version of cxrbench named in the manifest",
            )
        try:
            return Manifest(**{**body, "circumstances": tuple(body["circumstances"])})
        except (TypeError, KeyError) as error:
            raise self._damaged() from error

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
            old = self.manifest()
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
        manifest = self.manifest()
        self.write_manifest(replace(manifest, circumstances=(*manifest.circumstances, dict(circumstances))))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make the folder if need be and hold its lock; the system gives it back however the process dies.

        Raises:
            CxrbenchError: another process is writing here, the folder holds other files, or it cannot be written.
        """
        import fcntl

        path = self.path / "lock"
        try:
            private_folder(self.path)
            self.refuse_foreign()
            file = open(path, "ab+", buffering=0, opener=private_file)  # noqa: SIM115 - closed below
        except OSError as error:
            raise disk_error(error, self.path) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise CxrbenchError(
                    f"another process ({file.read().decode().strip() or 'unknown'}) is writing this run",
                    where=str(self.path),
                    fix="wait for it, or stop it and repeat the command",
                    code=Exit.INFRASTRUCTURE,
                ) from error
            try:
                file.truncate(0)
                file.write(f"pid {os.getpid()}".encode())
            except OSError as error:
                raise disk_error(error, path) from error
            yield

    def predictions(self) -> dict[str, Prediction]:
        """All complete rows of all shards by sample id.

        A sample that failed and was asked again has a later row, which counts. A truncated last line (a killed
        process) is passed over; damage anywhere else, or a row after an answer, is an error, because then the file is
        not what cxrbench wrote.
        """
        found: dict[str, Prediction] = {}
        for file in sorted((self.path / "predictions").glob("*.jsonl")):
            for number, body in _rows(file):
                row = _prediction(body, file, number)
                if row.sample_id in found and not found[row.sample_id].failed:
                    raise CxrbenchError(
                        "a sample has two rows", where=f"{file}, line {number}", code=Exit.INFRASTRUCTURE
                    )
                found[row.sample_id] = row
        return found

    def batches(self) -> list[BatchTiming]:
        """Wall times of all batches, in the order they were made."""
        files = sorted((self.path / "batches").glob("*.jsonl"))
        return [_made(BatchTiming, body, file, number) for file in files for number, body in _rows(file)]


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                body = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise _damaged_row(file, number) from error
            if not isinstance(body, dict):
                raise _damaged_row(file, number)
            yield number, body


def _damaged_row(file: Path, number: int) -> CxrbenchError:
    return CxrbenchError(
        "a row is damaged",
        where=f"{file}, line {number}",
        fix="delete that line; the same `cxrbench run` then goes on from what is left",
        code=Exit.INFRASTRUCTURE,
    )


_TUPLES = ("option_logprobs", "option_tokens", "inputs")


def _prediction(body: dict[str, Any], file: Path, number: int) -> Prediction:
    body = {k: tuple(v) if k in _TUPLES and isinstance(v, list) else v for k, v in body.items()}
    return _made(Prediction, body, file, number)


def _made(kind: type[_Row], body: dict[str, Any], file: Path, number: int) -> _Row:
    if body.keys() - {field.name for field in fields(kind)}:
        raise CxrbenchError("a row has keys this cxrbench does not know", where=f"{file}, line {number}")
    try:
        return kind(**body)
    except TypeError as error:
        raise _damaged_row(file, number) from error


def prediction_row(prediction: Prediction) -> dict[str, Any]:
    """The row of a prediction: fields that carry nothing are left out, the sample id and outcome never."""
    row = asdict(prediction)
    return {k: v for k, v in row.items() if k in ("sample_id", "outcome") or (v is not None and v not in ((), {}))}


class Appender:
    """Appends JSON lines to one file; after `write` returns they are on disk.

    A write that fails half-way (full disk) is taken back, so that the file always ends in a whole row. Opening cuts
    off a truncated last line left by a killed process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            private_folder(path.parent)
            new = not path.exists()
            self._file = open(path, "ab", buffering=0, opener=private_file)  # noqa: SIM115 - see close
            if new:
                sync_folder(path.parent)
            self._cut_torn_line()
        except OSError as error:
            raise disk_error(error, path) from error

    def _cut_torn_line(self) -> None:
        size = self._path.stat().st_size
        if size == 0:
            return
        with self._path.open("rb") as handle:
            end = size
            while end > 0:
                start = max(0, end - 65536)
                handle.seek(start)
                cut = handle.read(end - start).rfind(b"\n")
                if cut >= 0:
                    end = start + cut + 1
                    break
                end = start
        if end != size:
            self._file.truncate(end)
            os.fsync(self._file.fileno())

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows and force them to disk.

        Raises:
            CxrbenchError: the disk is full or refuses; the file is as it was before the call.
        """
        data = "".join(json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n" for row in rows).encode()
        before = self._file.seek(0, os.SEEK_END)
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(before)
            raise disk_error(error, self._path) from error

    def close(self) -> None:
        """Close the file; nothing is left in a buffer by then."""
        self._file.close()


def run_folder(root: Path, task: str, model: str, identity: Mapping[str, Any]) -> RunFolder:
    """The default folder of a run: `root/<task>/<model>-<hash8>/`, so that the same command continues it."""
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in model).strip("-.")[:60] or "model"
    return RunFolder(root / task / f"{safe}-{identity_hash(identity)}")


def find_run(text: str) -> RunFolder:
    """A run folder by its path."""
    run = RunFolder(Path(text))
    if not run.exists():
        raise CxrbenchError("there is no run here", where=text, fix="cxrbench runs list")
    return run


def list_runs(root: Path) -> list[RunFolder]:
    """All runs under a folder, in order of their path."""
    return [RunFolder(file.parent) for file in sorted(root.glob("**/manifest.json"))]
