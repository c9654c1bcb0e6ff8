"""kill -9 at random moments of runs with several workers: is anything lost, doubled, corrupt or different?

    python -m benchmarks.kill_workers [--kills 200] [--launcher processes|ranks] [--seed 0]

A run is started with 2 to 4 workers (a model that sleeps 10 ms for each of 80 samples) and killed at a random moment of
its life, or when its predictions have reached a random size: a worker, the coordinator, or every process at once. The
same command goes on with another number of workers; after one to four kills it may finish. With `ranks` there is no
coordinator: every process is started by itself with RANK and WORLD_SIZE, as torchrun does it, and killed alone or with
the others. In the end every sample must be there once, equal to a run of one process, and each whole row that stood on
disk at a kill must stand there still and, where it counted then, count in the end.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from cxrbench.store import RunFolder
from tests.workers.trial import Trial, bytes_of_shards, end, size, workers_of

SAMPLES = 80
LIFE = 2.5
"""Seconds such a run takes, about: moments are drawn from them."""


def start(trial: Trial, out: Path, launcher: str, workers: int) -> list[subprocess.Popen[str]]:
    if launcher == "processes":
        return [trial.start(out, "--workers", str(workers))]
    return [
        trial.start(out, environment={"RANK": str(rank), "WORLD_SIZE": str(workers), "LOCAL_RANK": str(rank)})
        for rank in range(workers)
    ]


def wait(out: Path, processes: list[subprocess.Popen[str]], draw: random.Random) -> None:
    """Until a random moment, or a random size; the folder is watched without a pause that would matter."""
    until = time.monotonic() + LIFE
    moment, wanted = until + 60, size(out) + draw.randrange(1, 6000)
    if draw.random() < 0.5:
        moment, wanted = time.monotonic() + draw.uniform(0, LIFE), 1 << 40
    while any(each.poll() is None for each in processes) and time.monotonic() < moment and size(out) < wanted:
        time.sleep(0.001)


def kill(out: Path, processes: list[subprocess.Popen[str]], victim: str, draw: random.Random) -> bool:
    """Kill who is meant, as far as there is one; False: the run was over before."""
    alive = [each for each in processes if each.poll() is None]
    if not alive:
        return False
    coordinated = len(processes) == 1
    workers = workers_of(out) if (out / "manifest.json").exists() and coordinated else []
    doomed = {
        "worker": [draw.choice(workers)] if workers else [draw.choice(alive).pid],
        "coordinator": [draw.choice(alive).pid],
        "all": [*(each.pid for each in alive), *workers],
    }[victim]
    for pid in doomed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return True


def chain(trial: Trial, out: Path, launcher: str, draw: random.Random, found: Counter[str]) -> None:
    """One to four kills on one folder, then the end."""
    for _ in range(draw.randint(1, 4)):
        victim = draw.choice(["worker", "coordinator", "all"])
        processes = start(trial, out, launcher, draw.randint(2, 4))
        wait(out, processes, draw)
        if not kill(out, processes, victim, draw):
            found["late"] += 1
        else:
            found[f"kills of {victim}"] += 1
            found["kills"] += 1
        before = bytes_of_shards(out)
        counted = trial.answers(out) if (out / "manifest.json").exists() else {}
        said = [end(each) for each in processes]
        found["other ends"] += sum(code not in (0, -9) for code, _ in said)
        after = bytes_of_shards(out)
        found["lost"] += sum(not after.get(name, b"").startswith(rows) for name, rows in before.items())
        now = trial.answers(out) if (out / "manifest.json").exists() else {}
        found["lost"] += sum(now.get(key) != row for key, row in counted.items())
    for each in start(trial, out, launcher, draw.randint(1, 4)):
        code, said = end(each)
        if code:
            raise SystemExit(f"the last command on {out} exits {code}\n{said}")
    whole, now = trial.answers(trial.place / "whole"), trial.answers(out)  # doubles are an error of reading
    found["missing"] += len(whole.keys() - now.keys())
    found["different"] += sum(now.get(key) != row for key, row in whole.items() if key in now)
    found["torn shards"] += sum(
        not file.read_bytes().endswith(b"\n") for file in (out / "predictions").glob("*.jsonl") if file.stat().st_size
    )
    found["rows behind a seal"] += _behind(RunFolder(out))
    found["runs"] += 1


def _behind(run: RunFolder) -> int:
    rows = sum(body.count(b"\n") for body in bytes_of_shards(run.path).values())
    return rows - len(run.predictions())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--launcher", choices=["processes", "ranks"], default="processes")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    found: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        trial = Trial(Path(place), samples=SAMPLES, seconds=0.01)
        trial.finish(trial.place / "whole")
        while found["kills"] < given.kills:
            chain(trial, Path(place) / f"run-{found['runs']}", given.launcher, draw, found)
    for name in ("kills", "kills of worker", "kills of coordinator", "kills of all", "late", "runs", "torn shards",
                 "rows behind a seal", "other ends", "lost", "missing", "different"):  # fmt: skip
        print(f"{name:22} {found[name]}")
    print(f"{given.launcher}: {time.monotonic() - started:.0f} s; doubled rows: 0 (reading refuses them)")
    if found["lost"] or found["missing"] or found["different"]:
        raise SystemExit("missed: something was lost, missing or different")


if __name__ == "__main__":
    main()
