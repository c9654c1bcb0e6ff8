"""`cxrbench gate check` on two runs of 2,347 samples: 30 blocking metrics, 10,000 resamples and exchanges, no torch.

    python -m benchmarks.gate_speed

The runs are real ones of `random-report` on drawn studies, scored by every text metric that needs no Java and by the
embedded annotators. What is timed is the whole command as it is typed, interpreter start and reading of the run
folder included, beside a loop over resamples (what sacrebleu does, on 50 resamples, scaled). Memory is the peak of the
process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._large_task import large_task
from cxrbench.gate_evidence import Evidence, evidence_of
from cxrbench.stats import Clusters, resample_weights
from cxrbench.store import find_run

SAMPLES, METRICS, REPLICATES, LOOPED = 2_347, 30, 10_000, 50
LIMIT_SECONDS, LIMIT_BYTES = 5.0, 1e9
KEYS = (
    "bleu:raw", "bleu:r2gen", "bleu:r2gen-mimic", "bleu:radeval", "rouge-l:raw", "rouge-l:r2gen", "rouge-l:r2gen-mimic",
    "rouge-l:rouge-score", "rouge-l:radeval", "cider:raw", "cider:r2gen", "cider:r2gen-mimic", "label-f1:phantom",
    "label-f1:chexbert-tiny", "chexbert-f1:miura", "chexbert-f1:llava-rad", "chexbert-f1:llava-rad+",
    "chexbert-f1:r2gen-ce", "chexbert-f1:nicolson-example", "chexbert-f1:rgrg", "radgraph-f1:partial",
    "radgraph-f1:partial-folded", "radgraph-f1:simple", "radgraph-f1:simple-folded", "radgraph-f1:complete",
    "radgraph-f1:complete-folded", "semb-score:chexbert", "bertscore:tiny", "radcliq:v1", "radcliq:v0",
    "bleu:sacrebleu",
)  # fmt: skip
COMMAND = "import sys; from cxrbench.cli.main import app; app(standalone_mode=False); assert 'torch' not in sys.modules"


def make_runs(folder: Path) -> list[Path]:
    """Two runs of 2,347 random reports, scored by all metrics."""
    (folder / "large.yaml").write_text(large_task(SAMPLES, 64, "required: [length]"))
    out = []
    for seed in (1, 2):
        out.append(folder / f"run{seed}")
        words = ["run", "--model", "random-report", "--task", "large.yaml", "--seed", str(seed), "--replicates", "0"]
        words += ["--metrics", ",".join((*KEYS, "length")), "--out", str(out[-1])]
        subprocess.run([sys.executable, "-m", "cxrbench", *words], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return out


def write_policy(folder: Path, evidence: Evidence) -> int:
    """The first primary value of 30 metrics blocks; returns how many there are."""
    lines = []
    for key in KEYS:
        values = evidence.columns[key].metric.values if key in evidence.columns else {}
        named = [name for name, value in values.items() if value.interval and value.higher_is_better is not None]
        if named and len(lines) < METRICS:
            best = next((name for name in named if values[name].primary), named[0])
            lines.append(f'  - {{metric: "{key}", value: {best}, margin: 0.01}}')
    text = "name: thirty\nmetrics:\n" + "\n".join(lines) + "\nlength: {max_ratio: 1.25}\n"
    (folder / "policy.yaml").write_text(text)
    return len(lines)


def loop_seconds(evidence: Evidence) -> float:
    """One resample after the other, all metrics of one run: pick the rows of the drawn patients, add up, compute."""
    groups = Clusters.of(evidence.clusters)
    members = [np.flatnonzero(groups.index == number) for number in range(groups.count)]
    weights = np.vstack([*resample_weights(groups.count, LOOPED, 0)]).astype(int)
    started = time.perf_counter()
    for counts in weights:
        picked = np.concatenate([np.tile(members[number], times) for number, times in enumerate(counts) if times])
        for key in KEYS[:METRICS]:
            column = evidence.columns[key]
            with np.errstate(divide="ignore", invalid="ignore"):
                column.metric.value(column.rows[picked].sum(axis=0))
    return (time.perf_counter() - started) * REPLICATES / LOOPED


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, second = make_runs(folder)
        words = [sys.executable, "-m", "cxrbench", "gate", "baseline", str(first), "-o", "baseline.parquet"]
        subprocess.run(words, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        evidence = evidence_of(find_run(str(first)))
        count = write_policy(folder, evidence)
        columns = sum(column.rows.shape[1] for column in evidence.columns.values())
        size = f"{len(evidence.ids)} samples, {len(set(evidence.clusters))} patients"
        print(f"{size}, {count} metrics, {columns} columns")
        if count < METRICS:
            raise SystemExit(f"missed: only {count} metrics could be scored here, {METRICS} are needed")
        check = ["gate", "check", str(second), "--baseline", "baseline.parquet", "--policy", "policy.yaml"]
        check += ["--replicates", str(REPLICATES), "--junit", "gate.xml", "--markdown", "gate.md"]
        best, peak = float("inf"), 0
        for _ in range(3):
            started = time.perf_counter()
            child = subprocess.Popen([sys.executable, "-c", COMMAND, *check], cwd=folder, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            best, peak = min(best, time.perf_counter() - started), max(peak, usage.ru_maxrss * 1024)
            if child.returncode not in (0, 1, 3) or not (folder / "gate.xml").exists():
                raise SystemExit(f"missed: the gate ended with {child.returncode}")
        print(f"cxrbench gate check, the whole command   {best:8.2f} s   (limit {LIMIT_SECONDS:.0f} s)")
        slow = loop_seconds(evidence)
        print(f"loop over resamples, intervals of one run {slow:7.1f} s   scaled from {LOOPED}; {slow / best:.0f}x")
        print(f"peak memory of the process               {peak / 1e6:8.0f} MB  (limit {LIMIT_BYTES / 1e6:.0f} MB)")
    if best > LIMIT_SECONDS or peak > LIMIT_BYTES:
        raise SystemExit("missed: time or memory")


if __name__ == "__main__":
    main()
