"""Runs under a real Slurm: is every sample answered once, as by one process, and scored by exactly one task?

    python -m benchmarks.slurm_trial [--cuts 40] [--seed 0] [--place DIR]

starts  arrays (from 0, from 1, with a step, two at a time, one number, a list), steps, steps and torchrun in arrays,
        torchrun in a step, jobs without `srun`: each starts a run, which must come to its end in the first command
cuts    a task of an array is cancelled, killed or queued again at a random moment; then the array, a smaller one, one
        job or `srun` goes on, until the run is complete

It needs `sbatch` and `srun` that take jobs of up to four tasks at once, and a folder that nodes see under the same path
(--place). All else is the sleeping model of tests/workers.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.workers.trial import Trial, size, workers_of

SAMPLES = 120
RANKS = r"note: .* made this share (\d+) of (\d+)"
SCORED = re.compile(rf"^scored {SAMPLES} of {SAMPLES} ", re.MULTILINE)
TORCHRUN = f"{sys.executable} -m torch.distributed.run --no-python --standalone --nproc-per-node 2 "
STARTS = {
    "an array": (["--array=0-3"], "{run}", 4),
    "an array from 1, two at a time": (["--array=1-4%2"], "{run}", 4),
    "an array with a step": (["--array=0-6:2"], "{run}", 4),
    "one number of an array": (["--array=2"], "{run}", 0),
    "a job of three tasks without srun": (["-n", "3"], "{run}", 0),
    "the same, --workers 2": (["-n", "3"], "{run} --workers 2", 0),
    "a step": (["-n", "3"], "srun {run}", 3),
    "a step of one task, --workers 2": (["-n", "2"], "srun -n 1 {run} --workers 2", 0),
    "steps in an array": (["--array=0-1", "-n", "2"], "srun {run}", 4),
    "torchrun in a step of one task": (["-n", "2"], "srun -n 1 " + TORCHRUN + "{run}", 2),
    "torchrun in each task of a step": (["-n", "2"], "srun " + TORCHRUN + "{run}", 4),
    "torchrun in an array": (["--array=0-1", "-n", "2"], TORCHRUN + "{run}", 4),
}
"""What is started: options of sbatch, the command, and how many ranks there must be."""

CUTS = {
    "requeued": ["scontrol", "requeue"],
    "cancelled": ["scancel"],
    "asked to end": ["scancel", "--full", "--signal=TERM"],
}


class Slurm:
    """Jobs of a trial, and what their tasks said."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def _do(self, *words: str) -> str:
        where: dict[str, Any] = {"cwd": self.trial.place, "env": self.trial.environment}
        return subprocess.run(words, **where, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    def submit(self, out: Path, options: list[str], command: str, model: str = "sleeper:0.02") -> str:
        """Queue a job that answers into `out`; returns its number."""
        words = [sys.executable, "-m", "cxrbench", "run", *self.trial.words, "--model", model, "--out", str(out)]
        log = out.with_suffix(".log")
        log.mkdir(exist_ok=True)
        more = ["--parsable", "--open-mode=append", f"--output={log}/%A-%a.out"]
        return self._do("sbatch", *more, *options, "--wrap", command.format(run=shlex.join(words)))

    def tasks(self, job: str, state: str) -> list[str]:
        """The tasks in a state, as scancel and scontrol name them."""
        return self._do("squeue", "-h", "-r", "-t", state, "-j", job, "-o", "%i").split()

    def wait(self, job: str, out: Path, wanted: float = float("inf")) -> None:
        """Until the job has left the queue, or so many bytes are written."""
        while self.tasks(job, "pending,running,completing") and size(out) < wanted:
            time.sleep(0.2)

    def said(self, out: Path) -> str:
        return "\n".join(file.read_text() for file in sorted(out.with_suffix(".log").iterdir()))

    def different(self, out: Path) -> int:
        """Samples that are missing or have another answer than one process gives; reading refuses two."""
        wanted = self.trial.answers(self.trial.place / "whole")
        found = self.trial.answers(out) if out.exists() else {}
        return sum(found.get(each) != answer for each, answer in wanted.items())


def starts(slurm: Slurm, found: Counter[str]) -> None:
    for number, (name, (options, command, ranks)) in enumerate(STARTS.items()):
        out = slurm.trial.place / f"start-{number}"
        slurm.wait(slurm.submit(out, options, command), out)
        said = slurm.said(out)
        shares = {tuple(map(int, each)) for each in re.findall(RANKS, said)}
        scorings = len(SCORED.findall(said))
        found["starts"] += 1
        if slurm.different(out) or scorings != 1 or shares != {(rank, ranks) for rank in range(ranks)}:
            found["bad starts"] += 1
            print(
                f"{name}: {slurm.different(out)} different, {scorings} scorings, {sorted(shares)}\n{said}", flush=True
            )
    out = slurm.trial.place / "list"
    slurm.wait(slurm.submit(out, ["--array=1,3,6"], "{run}"), out)
    found["starts"] += 1
    found["bad starts"] += out.exists() or slurm.said(out).count("error: the Slurm array is a list (3 numbers") != 3


def chain(slurm: Slurm, out: Path, commands: int, draw: random.Random, found: Counter[str]) -> None:
    """A run that is cut in so many commands, then brought to its end."""
    ways = [(["--array=0-2"], "{run}"), (["--array=1-4"], "{run}"), (["-n", "3"], "srun {run}"), ([], "{run}")]
    options, command = ways[0]
    for _ in range(commands):
        job = slurm.submit(out, options, command, "sleeper:0.05")
        slurm.wait(job, out, size(out) + draw.randrange(1, 5000))
        for task in slurm.tasks(job, "running")[: draw.choice([1, 1, 9])]:
            how = draw.choice(list(CUTS))
            ended = subprocess.run([*CUTS[how], task], capture_output=True).returncode  # a moment before, by itself
            found.update([] if ended else ["cuts", how])
        for pid in workers_of(out)[: draw.choice([0, 0, 1])]:  # of this machine; Slurm itself always asks first
            os.kill(pid, signal.SIGKILL)
            found.update(["cuts", "killed"])
        slurm.wait(job, out)
        if not slurm.different(out):
            break
        options, command = draw.choice(ways)
    if slurm.different(out) or not (out / "summary.json").exists():
        slurm.wait(slurm.submit(out, ["--array=0-1"], "{run}"), out)
    found["chains"] += 1
    found["different"] += slurm.different(out)
    found["not scored"] += not (out / "summary.json").exists()
    found["other errors"] += len(
        re.findall(r"^error: (?!stopped: the process was asked)", slurm.said(out), re.MULTILINE)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--place", type=Path, help="a folder that nodes see; a temporary one by default")
    given = parser.parse_args()
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode:
        raise SystemExit("there is no Slurm here, or it does not answer `sinfo`: nothing was tried")
    found: Counter[str] = Counter()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory(dir=given.place) as folder:
        trial = Trial(Path(folder), samples=SAMPLES)
        trial.finish(trial.place / "whole", "--launcher", "none")
        slurm = Slurm(trial)
        starts(slurm, found)
        while found["cuts"] < given.cuts:
            chain(slurm, trial.place / f"chain-{found['chains']}", draw.randint(2, 4), draw, found)
    version = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(version, ", ".join(f"{name} {count}" for name, count in found.items()))
    if found["bad starts"] or found["different"] or found["not scored"]:
        raise SystemExit("missed: see above")


if __name__ == "__main__":
    main()
