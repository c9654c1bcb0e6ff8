"""`--launcher ray` on three nodes of one machine: an actor, a node and the driver are killed; everything once."""

import os
import random
from collections import Counter

import pytest

pytest.importorskip("ray", reason="needs the extra `ray`")

from tests.workers.trial import Trial

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_kills_of_an_actor_a_node_and_the_driver_lose_nothing(tmp_path):
    from benchmarks.kill_ray import BAD, KINDS, SAMPLES, SECONDS, chain, cluster_of_three, stages_of

    before = dict(os.environ)
    found: Counter[str] = Counter()
    try:
        stages = stages_of(Trial(tmp_path, samples=SAMPLES, seconds=SECONDS), ["answer", "score"])
        cluster = cluster_of_three()
        try:
            for number, stage in enumerate(stages):
                chain(cluster, stage, stage.new(number), list(KINDS), random.Random(number), found)
        finally:
            cluster.shutdown()
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert found["kills"] >= 4
    assert {each: found[each] for each in BAD} == dict.fromkeys(BAD, 0)
