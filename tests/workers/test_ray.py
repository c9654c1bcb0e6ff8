"""`--launcher ray` on three nodes of one machine: an actor, a node and the driver are killed; every sample once."""

import os
import random
from collections import Counter

import pytest

pytest.importorskip("ray", reason="needs the extra `ray`")

from tests.workers.trial import Trial

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_kills_of_an_actor_a_node_and_the_driver_lose_nothing(tmp_path, monkeypatch):
    from benchmarks.kill_ray import KINDS, SAMPLES, cluster_of_three, one

    trial = Trial(tmp_path, samples=SAMPLES, seconds=0.03)
    for name, value in trial.environment.items():
        if os.environ.get(name) != value:
            monkeypatch.setenv(name, value)  # of the nodes, and so of the actors
    trial.finish(trial.place / "whole")
    cluster = cluster_of_three()
    found: Counter[str] = Counter()
    try:
        for kind in KINDS:
            one(trial, cluster, tmp_path / kind, kind, random.Random(kind), found)
    finally:
        cluster.shutdown()
    assert found["kills"] == 3
    assert (found["lost"], found["missing"], found["different"]) == (0, 0, 0)
