"""A 3-node Ray cluster on one machine: kill an actor, a node, the driver at random moments; is every sample there once?

    python -m benchmarks.kill_ray [--kills 30] [--seed 0]

The nodes are `ray.cluster_utils.Cluster`'s, each with two logical CPUs; `run --launcher ray --workers 4` is the
driver, a process of its own. A node that was removed is replaced, so that there is room again. A run whose driver was
killed goes on with the same command. In the end the predictions must be those of one process without Ray.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.workers.trial import Trial, bytes_of_shards, end, wait_for_bytes, workers_of

SAMPLES = 80
WORKERS = 4
KINDS = ("actor", "node", "driver")


def cluster_of_three() -> Any:
    """Three nodes with two logical CPUs each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=2)
    return made


def strike(cluster: Any, kind: str, out: Path, driver: Any, draw: random.Random) -> None:
    """Kill what is meant."""
    if kind == "driver":
        driver.kill()
    elif kind == "actor":
        os.kill(draw.choice(workers_of(out)), signal.SIGKILL)
    else:
        node = draw.choice([each for each in cluster.list_all_nodes() if not each.head])
        cluster.remove_node(node, allow_graceful=False)


def one(trial: Trial, cluster: Any, out: Path, kind: str, draw: random.Random, found: Counter[str]) -> None:
    """A run with one kill, to its end."""
    words = ("--launcher", "ray", "--workers", str(WORKERS), "--ray-address", cluster.address)
    driver = trial.start(out, *words)
    if not wait_for_bytes(out, draw.randrange(200, 5000), driver) or not workers_of(out):
        found["late"] += 1
        code, said = end(driver)
    else:
        strike(cluster, kind, out, driver, draw)
        found[f"kills of {kind}"] += 1
        found["kills"] += 1
        before = bytes_of_shards(out)
        code, said = end(driver)
        found["lost"] += sum(not bytes_of_shards(out)[name].startswith(rows) for name, rows in before.items())
    if code == -9:
        code, said = end(trial.start(out, *words))
        found["went on"] += 1
    if code:
        raise SystemExit(f"{kind}: the command exits {code}\n{said}")
    if kind == "node":
        cluster.add_node(num_cpus=2)
    whole, now = trial.answers(trial.place / "whole"), trial.answers(out)  # doubles are an error of reading
    found["missing"] += len(whole.keys() - now.keys())
    found["different"] += sum(now.get(key) != row for key, row in whole.items() if key in now)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    found: Counter[str] = Counter()
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        trial = Trial(Path(place), samples=SAMPLES, seconds=0.03)
        os.environ.update(trial.environment)  # of the nodes, and so of the actors
        trial.finish(trial.place / "whole")
        cluster = cluster_of_three()
        try:
            for number in range(given.kills):
                kind = KINDS[number % len(KINDS)]
                begun = time.monotonic()
                one(trial, cluster, Path(place) / f"run-{number}", kind, draw, found)
                seconds[kind].append(time.monotonic() - begun)
                print(f"  {number + 1}: {kind}, {seconds[kind][-1]:.1f} s", flush=True)
        finally:
            cluster.shutdown()
    for name in ("kills", *(f"kills of {kind}" for kind in KINDS), "late", "went on", "lost", "missing", "different"):
        print(f"{name:22} {found[name]}")
    for kind, each in seconds.items():
        if each:
            print(f"seconds, {kind:13} {sum(each) / len(each):.1f} on average")
    print("doubled rows           0 (reading refuses them)")
    if found["lost"] or found["missing"] or found["different"]:
        raise SystemExit("missed: something was lost, missing or different")


if __name__ == "__main__":
    main()
