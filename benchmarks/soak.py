"""400,000 small samples with a replay model: memory by stage, start of a resumed run, files, kills on the way.

    python -m benchmarks.soak [--samples 400000] [--small 20000] [--kills 10] [--labels 0]

Two runs are made of invented reports, a small and a large one. Reports are those of benchmarks.score_200k, which have
few phrases, with 24 words of 8,000 behind them, some seldom, as in any language: 3,200 of them have 244,000 distinct
n-grams, of which 25,500 occur in two or more; as many findings of IU-Xray have 67,000 and 19,000. The same commands are
measured on both, in processes of their own, by what the kernel says of the finished process: what a stage needs more
for the large one is its growth. The large run is killed with SIGKILL `--kills` times at random sizes; of every start
after it, the seconds until the first new row are taken. Then the run must hold every sample once, with the text of the
file.
`--labels N`: label F1 on a run of N samples. Making as many phantom studies takes minutes for each command that
reads them, so 2,000 are made and answered by `cxrbench run`, and its folder is multiplied to N samples under new ids
before it is scored as any other.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from benchmarks._large_task import large_task
from benchmarks.score_200k import report as plain_report

LIMIT_MB, LIMIT_SECONDS = 200.0, 20.0
TASK = """\
name: large
version: 1
title: As many small studies as the largest public data sets have
kind: findings
access: open
dataset: {{name: jsonl, split: test}}
include: {{sections: [findings]}}
images: {{offer: none}}
target: findings
text: whitespace:v1
metrics: {{required: [length]}}
citation: cxrbench
expected: {{n: {samples}, evidence: verified, source: the generator}}
"""
METRICS = ("bleu:raw", "rouge-l:raw", "cider:raw")


WORDS = [f"w{number}" for number in range(8_000)]
OFTEN = list(accumulate(1 / (number + 2.7) for number in range(len(WORDS))))
"""Zipf's law as Mandelbrot corrected it, which word frequencies of natural languages follow."""


def report(draw: random.Random) -> str:
    """An invented report of about 78 words, with more different n-grams than a real one."""
    return f"{plain_report(draw)} {' '.join(draw.choices(WORDS, cum_weights=OFTEN, k=24))} ."


def write(place: Path, samples: int) -> None:
    """Studies and predictions, nearly all distinct."""
    draw = random.Random(0)
    place.mkdir()
    (place / "large.yaml").write_text(TASK.format(samples=samples))
    with (place / "studies.jsonl").open("w") as studies, (place / "predictions.jsonl").open("w") as predictions:
        for number in range(samples):
            who = {"study_id": f"s{number:07d}", "patient_id": f"p{draw.randrange(max(1, samples // 3)):06d}"}
            studies.write(json.dumps({**who, "sections": {"findings": report(draw)}}) + "\n")
            predictions.write(json.dumps({"sample_id": who["study_id"], "prediction": report(draw)}) + "\n")


def program(place: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "cxrbench", *words], cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def run_words(place: Path, data: bool = True) -> tuple[str, ...]:
    reports = ("--reports", "studies.jsonl") if data else ()
    return ("run", "--model", "replay:predictions.jsonl", "--task", "large.yaml", *reports, "--out", "run",
            "--replicates", "0")  # fmt: skip


def finish(child: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Peak megabytes and processor seconds of a process that must end well."""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"a command exits {child.returncode}: {child.args}")
    return usage.ru_maxrss * 1024 / 1e6, usage.ru_utime + usage.ru_stime


def rows_size(place: Path) -> int:
    return sum(file.stat().st_size for file in (place / "run" / "predictions").glob("*.jsonl"))


def killed(place: Path, kills: int, whole: int) -> list[float]:
    """Kill the run at random sizes on its way; seconds from each start to its first new row."""
    draw = random.Random(1)
    starts = []
    for wanted in sorted(draw.randrange(1, whole * 9 // 10) for _ in range(kills + 1)):
        before, started = rows_size(place), time.monotonic()
        child = program(place, *run_words(place))
        first = None
        while child.poll() is None and (rows_size(place) < wanted or first is None):
            if first is None and rows_size(place) > before:
                first = time.monotonic() - started
            time.sleep(0.02)
        child.kill()
        child.wait()
        if first is not None:
            starts.append(first)
            print(f"  killed at {rows_size(place) / 1e6:.0f} MB of rows; it had begun after {first:.1f} s", flush=True)
    return starts[1:]  # the first one follows no kill: it reads the data set


def check(place: Path, samples: int) -> None:
    """Every sample once (reading refuses doubles), with the text of the file."""
    from cxrbench.store import RunFolder

    found = RunFolder(place / "run").predictions()
    assert len(found) == samples, f"{len(found)} of {samples} samples have a row"
    with (place / "predictions.jsonl").open() as file:
        for line in file:
            row = json.loads(line)
            assert found[row["sample_id"]].text == row["prediction"], row["sample_id"]


def stages(place: Path, samples: int, kills: int) -> tuple[dict[str, tuple[float, float]], list[float]]:
    """Peak and processor seconds of each stage, and the starts after kills."""
    if not place.exists():
        write(place, samples)
    starts = killed(place, kills, (place / "predictions.jsonl").stat().st_size) if kills else []
    found = {"run": finish(program(place, *run_words(place)))}
    print(f"  {samples} run: {found['run'][0]:.0f} MB, {found['run'][1]:.0f} s of processor", flush=True)
    check(place, samples)
    for metric in METRICS:
        found[metric] = finish(program(place, "score", "run", "--metrics", metric, "--replicates", "0"))
        print(f"  {samples} {metric}: {found[metric][0]:.0f} MB, {found[metric][1]:.0f} s of processor", flush=True)
    print(f"  {samples}: {sum(1 for each in (place / 'run').rglob('*') if each.is_file())} files", flush=True)
    return found, starts


DRAWN = 2_000
"""Phantom studies that are made for label F1."""


def labels(place: Path, samples: int) -> float:
    """Peak of scoring label F1 on drawn studies, multiplied."""
    from cxrbench.config import load_config
    from cxrbench.data.load import TaskData
    from cxrbench.spec import find_task

    place.mkdir()
    (place / "large.yaml").write_text(large_task(DRAWN, 64, "required: [length]"))
    found = TaskData.find(find_task(str(place / "large.yaml")), load_config(None), {}).samples.samples
    with (place / "predictions.jsonl").open("w") as file:
        last = found[-1].target
        for sample in found:
            file.write(json.dumps({"sample_id": sample.sample_id, "prediction": last}) + "\n")
            last = sample.target
    finish(program(place, *run_words(place, data=False)))
    multiply(place / "run", samples // DRAWN)
    peak, seconds = finish(program(place, "score", "run", "--metrics", "label-f1", "--replicates", "0"))
    print(f"  {samples} label-f1: {peak:.0f} MB, {seconds:.0f} s of processor", flush=True)
    return peak


def multiply(folder: Path, times: int) -> None:
    """Make a run of so many times its samples: patients, studies and samples under new ids, each with its answer."""
    from cxrbench.data.samples import growing
    from cxrbench.spool import Ids
    from cxrbench.store import RunFolder
    from cxrbench.tables import read_samples, write_samples

    run = RunFolder(folder)
    samples, ids = growing(), Ids()
    rows = [json.loads(line) for line in run.shard_file("predictions").read_text().splitlines()]
    stored = read_samples(run.samples_file).samples
    with run.shard_file("predictions").open("w") as file:
        for turn in range(times):
            for sample in stored:
                names = {key: f"{getattr(sample, key)}~{turn}" for key in ("sample_id", "study_id", "patient_id")}
                samples.append(replace(sample, **names))
                ids.add(names["sample_id"])
            file.writelines(json.dumps({**row, "sample_id": f"{row['sample_id']}~{turn}"}) + "\n" for row in rows)
    write_samples(run.samples_file, samples.finish(), ids)
    manifest = run.manifest()
    run.write_manifest(replace(manifest, n_expected=len(ids), clusters=manifest.clusters * times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=400_000)
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--labels", type=int, default=0)
    given = parser.parse_args()
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        small, _ = stages(Path(folder) / "small", given.small, 0)
        large, starts = stages(Path(folder) / "large", given.samples, given.kills)
        grown = {name: large[name][0] - small[name][0] for name in large}
        if given.labels:
            grown["label-f1"] = labels(Path(folder) / "l", given.labels) - labels(Path(folder) / "s", given.small)
    print(f"\ngrowth of the peak from {given.small} to {given.samples} samples (asked: < {LIMIT_MB:.0f} MB each)")
    for name, megabytes in grown.items():
        print(f"  {name:14} {megabytes:+7.0f} MB")
        missed += [name] if megabytes > LIMIT_MB else []
    if starts:
        print(f"start after a kill: {max(starts):.1f} s at most, of {len(starts)} (asked: < {LIMIT_SECONDS:.0f} s)")
        missed += ["start"] if max(starts) > LIMIT_SECONDS else []
    if missed:
        raise SystemExit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
