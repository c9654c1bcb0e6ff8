"""Trials of runs with several workers: start the command, kill what it started, look at what the folder holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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
