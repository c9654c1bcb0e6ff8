"""Trials of runs with several workers: start the command, kill what it started, look at what the folder holds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

from cxrbench.features.store import FILE, keys_of
from cxrbench.parts import Parts
from cxrbench.workers.signs import signs_of
from tests.workers.sleeper import install

TASK = """\
name: asleep
version: 1
title: As many drawn studies as a trial needs
kind: findings
access: open
dataset:
  name: phantom
  split: test
  options: {{train: 1, validate: 1, test: {samples}, size: 64}}
include: {{sections: [findings], min_images: 1}}
images: {{offer: all, key: [PA, AP]}}
target: findings
text: whitespace:v1
metrics: {{required: [length]}}
citation: cxrbench
expected: {{n: {samples}, evidence: verified, source: the option above}}
"""

HANGS = 120.0
JUDGED = ("--metrics", "chexprompt", "--judge", "openai:m", "--judge-set", "backoff=0", "--judge-url")
ANSWER = ("outcome", "text", "finish_reason", "inputs", "batch")


class Trial:
    """A task of `samples` samples in a folder, answered by the sleeper; `seconds` is its time for a batch."""

    def __init__(self, place: Path, *, samples: int = 48, seconds: float = 0.02, batch: int = 1) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.place, self.samples = place, samples
        self.environment = install(place / "packages")
        self.environment["XDG_CONFIG_HOME"] = self.environment["XDG_CACHE_HOME"] = str(place / "xdg")
        task = place / "asleep.yaml"
        task.write_text(TASK.format(samples=samples))
        self.words = [
            "--model",
            f"sleeper:{seconds}",
            "--task",
            str(task),
            "--batch-size",
            str(batch),
            "--replicates",
            "0",
        ]

    def start(self, out: Path, *further: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """The command, in a session of its own, so that nothing it starts outlives the trial unseen."""
        command = [sys.executable, "-m", "cxrbench", "run", *self.words, "--out", str(out), *map(str, further)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.place, start_new_session=True,
            env={**self.environment, **(environment or {})},
        )  # fmt: skip

    def finish(self, out: Path, *further: str, environment: dict[str, str] | None = None) -> str:
        """The command to its end, which must be good; returns what it said on standard error."""
        code, said = end(self.start(out, *further, environment=environment))
        assert code == 0, said
        return said

    def answers(self, out: Path) -> dict[str, dict[str, object]]:
        """sample id -> answer, as readers of the folder see it."""
        from cxrbench.store import RunFolder

        return {key: {name: getattr(row, name) for name in ANSWER} for key, row in RunFolder(out).predictions().items()}


class Scoring:
    """A run that a `Trial` made, scored again and again: each `place` has a copy of it and a cache of its own.

    The command runs beside the copy and calls it `run`, so that summaries can be compared byte by byte. On a cluster
    that was started before, all places have one cache and one log (`shared`), which a new place finds empty.
    """

    def __init__(self, trial: Trial, made: Path, *, sleep: float = 0.01, shared: bool = False) -> None:
        self.trial, self.made, self.sleep, self.shared = trial, made, sleep, shared

    def place(self, name: str) -> Path:
        """A new copy."""
        place = self.trial.place / name
        if self.shared:
            shutil.rmtree(self.trial.place / "cache", ignore_errors=True)
            (self.trial.place / "cache").mkdir()
        shutil.copytree(self.made, place / "run")
        for file in ("summary.json", "scores", "contexts"):
            path = place / "run" / file
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for name in ("xdg", "log") if self.shared else ():
            (place / name).symlink_to(self.trial.place / "cache" / name)
        return place

    def start(
        self, place: Path, *further: object, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:  # fmt: skip
        """`cxrbench score run`, with the metric `slow` unless others are named."""
        named = [] if "--metrics" in further else ["--metrics", "slow"]
        words = ["score", "run", *named, "--replicates", "0", *map(str, further)]
        return subprocess.Popen(
            [sys.executable, "-m", "cxrbench", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place, start_new_session=True,
            env={**self.environment(place), **(environment or {})},
        )  # fmt: skip

    def environment(self, place: Path) -> dict[str, str]:
        return {
            **self.trial.environment,
            "XDG_CACHE_HOME": str(self.cache(place) / "xdg"),
            "TRIAL_SLEEP": str(self.sleep),
            "TRIAL_LOG": str(self.cache(place) / "log"),
        }

    def cache(self, place: Path) -> Path:
        return self.trial.place / "cache" if self.shared else place

    def finish(self, place: Path, *further: object, environment: dict[str, str] | None = None) -> str:
        """The command to its end, which must be good; returns what it said on standard error."""
        code, said = end(self.start(place, *further, environment=environment))
        assert code == 0, said
        return said


def parts_in(place: Path) -> Parts:
    return Parts(place / "xdg" / "cxrbench" / "features" / "phantom", place / "run")


def handed_over(place: Path) -> int:
    """Bytes of all parts, and of the store, that there are so far."""
    store = place / "xdg" / "cxrbench" / "features" / "phantom" / FILE
    size = store.stat().st_size if store.exists() else 0
    for file in parts_in(place).files():
        with suppress(FileNotFoundError):
            size += file.stat().st_size
    return size


def scorers_of(place: Path) -> list[int]:
    """Process numbers of the workers of a scoring whose process is there."""
    return [sign.place.pid for sign in signs_of(parts_in(place)) if sign.place.alive()]


def kept_keys(place: Path) -> set[bytes]:
    """What is kept of the annotations, in parts or in the store. A part is there until the store has its rows."""
    found: set[bytes] = set()
    for file in parts_in(place).files():
        with suppress(FileNotFoundError):
            found |= keys_of(file)
    store = place / "xdg" / "cxrbench" / "features" / "phantom" / FILE
    if store.exists():
        with closing(sqlite3.connect(store, timeout=60)) as base, suppress(sqlite3.OperationalError):
            found |= {key for (key,) in base.execute("SELECT key FROM feature")}
    return found


def annotated(place: Path) -> list[bytes]:
    """Keys of what was annotated, in the order of time, as often as it was."""
    log = place / "log"
    return [bytes.fromhex(line.split()[0]) for line in log.read_text().splitlines()] if log.exists() else []


def ends_when_asked(process: subprocess.Popen[str]) -> None:
    """Pre-emption: SIGTERM, then the process ends within five seconds and says that what was written is kept."""
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, said = end(process)
    assert time.monotonic() - asked < 5
    assert code == 4
    assert "stopped: the process was asked to end; what was written is kept" in said


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        _, said = process.communicate(timeout=HANGS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, said


def size(out: Path) -> int:
    """Bytes of predictions so far."""
    return sum(file.stat().st_size for file in (out / "predictions").glob("*.jsonl"))


def wait_for_bytes(out: Path, wanted: int, process: subprocess.Popen[str]) -> bool:
    """Whether the predictions reached a size while the process ran."""
    until = time.monotonic() + HANGS
    while process.poll() is None and time.monotonic() < until:
        if size(out) >= wanted:
            return True
        time.sleep(0.001)
    return False


def workers_of(out: Path) -> list[int]:
    """Process numbers of the workers of the epoch in force whose process is there."""
    from cxrbench.store import RunFolder

    claims = RunFolder(out).claims
    last = claims.last_epoch()
    return [claim.place.pid for claim in claims.claims() if last and claim.epoch == last.number and claim.place.alive()]


def bytes_of_shards(out: Path) -> dict[str, bytes]:
    """Every shard's whole rows."""
    found = {}
    for file in (out / "predictions").glob("*.jsonl"):
        body = file.read_bytes()
        found[file.name] = body[: body.rfind(b"\n") + 1]
    return found


def manifest(out: Path) -> dict[str, object]:
    return json.loads((out / "manifest.json").read_text())
