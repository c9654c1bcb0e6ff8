"""The truth behind phantom studies: streams, patients over time, and what may stand together."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrbench.data.phantom_rng import Stream, fold, mix, random_bytes
from cxrbench.data.phantom_world import DEVICES, GRADED, KINDS, SIDED, case

seeds = st.integers(0, 2**40)
indices = st.integers(0, 5000)
some = settings(max_examples=60)


def test_splitmix64_gives_its_published_values():
    # The first outputs of splitmix64 with the seed 1234567, as in the reference C code by Sebastiano Vigna (2015).
    golden, state, out = 0x9E3779B97F4A7C15, 1234567, []
    for _ in range(3):
        state = (state + golden) % 2**64
        out.append(mix(state))
    assert out == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_bytes_are_the_little_endian_outputs_of_the_same_generator():
    raw = random_bytes(1234567, 24)
    expected = b"".join(
        v.to_bytes(8, "little") for v in (6457827717110365317, 3203168211198807973, 9817491932198370423)
    )
    assert raw.tobytes() == expected


def test_streams_differ_by_key_and_order():
    assert len({fold(a, b) for a in range(50) for b in range(50)}) == 2500
    assert Stream(1, 2).bits() != Stream(2, 1).bits()


def test_draws_cover_their_range_evenly():
    s = Stream(5)
    counts = Counter(s.between(3, 7) for _ in range(10_000))
    assert set(counts) == {3, 4, 5, 6, 7}
    assert min(counts.values()) > 1800
    assert abs(np.mean([s.around(10, 4) for _ in range(4000)]) - 10) < 0.2
    weighted = Counter(s.weighted({"a": 3, "b": 1}) for _ in range(8000))
    assert 2.6 < weighted["a"] / weighted["b"] < 3.4
    assert sorted(s.shuffled(range(9))) == list(range(9))


@some
@given(seeds, indices)
def test_a_case_is_possible(seed, index):
    found = case(seed, "train", index)
    assert len(found.findings) <= 4
    places = [f.place for f in found.findings]
    assert len(set(places)) == len(places)
    assert sum(f.kind in DEVICES for f in found.findings) <= 3
    for finding in (*found.findings, *found.resolved):
        assert finding.kind in KINDS
        assert (finding.side != "") == (finding.kind in SIDED)
        assert (finding.severity > 0) == (finding.kind in GRADED)
        assert not finding.hedged or finding.severity == 1
    assert all(f.change for f in found.findings) == (found.visit > 0) or not found.findings
    assert not {f.place for f in found.resolved} & set(places)
    assert 18 <= found.age <= 115


@some
@given(seeds, st.integers(0, 300))
def test_change_is_true_to_the_prior(seed, index):
    now = case(seed, "test", index)
    if not now.visit:
        assert now.prior is None
        return
    before = case(seed, "test", index - 1)
    assert before.patient == now.patient
    assert before.time == now.prior < now.time
    was = {f.place: f for f in before.findings}
    for finding in now.findings:
        old = was.get(finding.place)
        if old is None:
            assert finding.change == "new"
        else:
            step = finding.severity - old.severity
            assert finding.change == {0: "unchanged", 1: "worse", -1: "improved"}[step]
            assert (finding.zone, finding.shape) == (old.zone, old.shape)
    assert {f.place for f in now.resolved} == set(was) - {f.place for f in now.findings}


def test_many_patients_with_several_studies():
    cases = [case(0, "test", i) for i in range(300)]
    visits = Counter(c.patient.number for c in cases)
    assert len(visits) == 150
    assert set(visits.values()) == {1, 2, 3, 4}
    assert {c.patient.sex for c in cases} == {"F", "M"}
    assert len({c.patient.race for c in cases}) == 5
    assert Counter(len(c.findings) for c in cases).keys() == {0, 1, 2, 3, 4}


def test_every_finding_is_common_enough_and_none_too_common():
    cases = [case(0, "train", i) for i in range(1200)]
    shares = {kind: sum(any(f.kind == kind for f in c.findings) for c in cases) / len(cases) for kind in KINDS}
    assert min(shares.values()) > 0.05
    assert max(shares.values()) < 0.30
    changes = Counter(f.change for c in cases for f in c.findings)
    assert min(changes[c] for c in ("new", "unchanged", "worse", "improved")) > 40


def test_splits_and_seeds_do_not_meet():
    keys = [case(seed, split, i).key for seed in (0, 1) for split in ("train", "validate", "test") for i in range(200)]
    assert len(set(keys)) == len(keys)
    bodies = {case(seed, split, i).patient.body for seed in (0, 1) for split in ("train", "test") for i in range(200)}
    assert len(bodies) == 400  # two studies per patient on average


def test_importing_draws_nothing_and_needs_no_torch_or_pillow():
    code = "import sys, cxrbench.data.phantom_draw; sys.exit(bool({'torch', 'PIL', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("split", ["train", "validate", "test"])
def test_a_study_does_not_depend_on_what_was_asked_before(split):
    straight = [case(3, split, i) for i in range(30)]
    assert [case(3, split, i) for i in reversed(range(30))] == straight[::-1]
