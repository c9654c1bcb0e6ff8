"""A 3-node Ray cluster on one machine: kill an actor, a node, the driver at random moments; is everything there once?

    python -m benchmarks.kill_ray [--kills 30] [--stage all|answer|score] [--seed 0]

The nodes are `ray.cluster_utils.Cluster`'s, each with two logical CPUs; the driver is the command with `--launcher ray
--workers 4`, a process of its own: `run` (a model that sleeps) or `score` (annotators that sleep). A killed actor is
started again by the driver, a node that was removed is replaced, and a command whose driver was killed is typed again;
two to five kills fall on one run or scoring. What must hold in the end is that of benchmarks.kill_workers.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.kill_workers import BAD, Annotating, Answering, Stage
from tests.workers.trial import Scoring, Trial, end

SAMPLES = 120
SECONDS = 0.04
WORKERS = 4
KINDS = ("actor", "node", "driver")

CHECKS = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
"""Ray's own settings: a node that does not answer three times in three seconds is gone (usually after fifteen)."""


def cluster_of_three() -> Any:
    """Three nodes with two logical CPUs each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "include_dashboard": False, "_system_config": CHECKS}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(num_cpus=2)
    return made


def stages_of(trial: Trial, names: list[str]) -> list[Stage]:
    """Those with these names; runs and scorings of one process, with which they are compared, are made here."""
    os.environ.update(trial.environment)  # of the nodes, and so of the actors
    answering = Answering(trial)
    made: list[Stage] = [answering] if "answer" in names else []
    if "score" in names:
        # An actor has the environment of its node: one cache for all, and so one scoring at a time in it.
        scoring = Scoring(trial, trial.place / "whole", sleep=0.05, shared=True)
        os.environ.update(scoring.environment(trial.place))
        made.append(Annotating(scoring))
    return made


def strike(cluster: Any, kind: str, stage: Stage, place: Path, driver: Any, draw: random.Random) -> str:
    """Kill what is meant; what is killed in the end: where no actor is at work (yet), the driver."""
    at_work = stage.workers(place)
    if kind == "actor" and at_work:
        with suppress(ProcessLookupError):
            os.kill(draw.choice(at_work), signal.SIGKILL)
        return kind
    if kind == "node":
        node = draw.choice([each for each in cluster.list_all_nodes() if not each.head])
        cluster.remove_node(node, allow_graceful=False)
        return kind
    driver.kill()
    return "driver"


def wait(stage: Stage, place: Path, driver: Any, draw: random.Random) -> bool:
    """Until something has been written, a random amount of it; False: the command was over before."""
    wanted, until = stage.size(place) + draw.randrange(1, stage.most // 5), time.monotonic() + 60
    while driver.poll() is None and time.monotonic() < until:
        if stage.size(place) >= wanted:
            return True
        time.sleep(0.005)
    return driver.poll() is None


def chain(cluster: Any, stage: Stage, place: Path, kinds: list[str], draw: random.Random, found: Counter[str]) -> None:
    """The kills of these kinds on one folder, as far as the command lives that long, then the end."""
    words = ("--launcher", "ray", "--workers", str(WORKERS), "--ray-address", cluster.address)
    states, code, said = [], 1, ""
    while code:
        driver = stage.start(place, *words)
        while kinds:
            if not wait(stage, place, driver, draw):
                found["late"] += 1
                break
            kind = strike(cluster, kinds.pop(), stage, place, driver, draw)
            states.append(stage.state(place))
            found["kills"] += 1
            found[f"kills of {kind}"] += 1
            if kind == "node":
                cluster.add_node(num_cpus=2)
            if kind == "driver":
                break
        code, said = end(driver)
        if code not in (0, -9) and "died 3 times" not in said:
            raise SystemExit(f"the command exits {code}\n{said}")
        found["went on"] += code != 0
    stage.check(place, states, found)
    found["chains"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--stage", choices=["all", "answer", "score"], default="all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    found: Counter[str] = Counter()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        trial = Trial(Path(folder), samples=SAMPLES, seconds=SECONDS)
        made = stages_of(trial, ["answer", "score"] if given.stage == "all" else [given.stage])
        cluster = cluster_of_three()
        try:
            number = 0
            while found["kills"] < given.kills:
                kinds = [KINDS[(number + each) % 3] for each in range(draw.randint(2, 5))]
                stage, started, before = made[number % len(made)], time.monotonic(), found["kills"]
                chain(cluster, stage, stage.new(number), kinds, draw, found)
                number += 1
                took, kills = time.monotonic() - started, found["kills"] - before
                print(f"  {stage.name} {number}: {kills} kills, {took:.1f} s", flush=True)
        finally:
            cluster.shutdown()
    kinds = [f"kills of {kind}" for kind in KINDS]
    for name in ("kills", *kinds, "late", "chains", "went on", "annotated twice", *BAD):
        print(f"{name:22} {found[name]}")
    print(f"{found['kills']} kills in {time.monotonic() - begun:.0f} s; doubled rows: 0 (reading refuses them)")
    if any(found[each] for each in BAD):
        raise SystemExit("missed: something was lost, doubled, missing, different or left")


if __name__ == "__main__":
    main()
