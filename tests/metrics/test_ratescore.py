"""RaTEScore as arithmetic: against what the package gives for the same entities, and on the same tiny networks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench import registry
from cxrbench.config import cache_dir
from cxrbench.errors import CxrbenchError
from cxrbench.features.base import Pairs, Sides
from cxrbench.features.rate import KINDS, Entities
from cxrbench.metrics.base import Context, Corpus
from cxrbench.metrics.ratescore import AFFINITIES, FLIPS, RateScore, score
from cxrbench.scoring import Chosen
from cxrbench.scoring import score as score_all
from cxrbench.types import Prediction, Sample

FEATURES = Path(__file__).parents[1] / "features"
GOLDEN = json.loads((FEATURES / "golden_ratescore.json").read_text())
REPORTS = [case["text"] for case in GOLDEN["sentences"]]


def entities(kinds, vectors):
    return Entities(np.array([KINDS.index(each) for each in kinds], np.intp), np.arange(len(kinds)), vectors)


def recorded(case):
    """The entities of a recorded case: vectors are drawn again as tools/record_ratescore.py drew them."""
    rng = np.random.default_rng(case["seed"])
    sizes = [int(rng.integers(0 if case["seed"] % 10 == 0 else 1, 9)) for _ in range(2)]
    kinds = [[KINDS[i] for i in rng.integers(0, 5, size)] for size in sizes]
    shift = 0.0 if case["seed"] % 3 == 0 else 1.0
    vectors = [(rng.normal(size=(size, 8)) + shift).astype(np.float32) for size in sizes]
    assert (sizes, kinds) == (case["sizes"], case["kinds"])
    return [entities(*each) for each in zip(kinds, vectors, strict=True)]


@pytest.mark.parametrize("preset", AFFINITIES)
def test_scores_are_those_of_the_package(preset):
    for case in GOLDEN["scores"]:
        found = score(*recorded(case), AFFINITIES[preset])
        assert (0.5 if found is None else found) == pytest.approx(case[preset], rel=2e-5, abs=2e-6), case["seed"]
    assert any(0 in case["sizes"] for case in GOLDEN["scores"])
    assert any(case[preset] < 0 for case in GOLDEN["scores"])


def test_the_numbers_are_the_published_ones():
    assert (AFFINITIES["long"].negation, AFFINITIES["short"].negation) == (0.8716553966489615, 0.3611577852354489)
    at = KINDS.index
    assert AFFINITIES["long"].weights[at("DISEASE")][at("ANATOMY")] == 0.9950209388542061
    assert AFFINITIES["short"].weights[at("NON-DISEASE")][at("ABNORMALITY")] == 0.9555801066212176
    assert FLIPS.sum() == 8


VECTORS = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(size=(6, 4)))
SIDE = st.lists(st.sampled_from(KINDS), min_size=1, max_size=6)


@given(SIDE, SIDE, VECTORS, VECTORS)
def test_either_report_may_be_the_reference(one, two, a, b):
    sides = [entities(kinds, vectors[: len(kinds)]) for kinds, vectors in ((one, a), (two, b))]
    assert score(*sides, AFFINITIES["long"]) == pytest.approx(score(*sides[::-1], AFFINITIES["long"]), nan_ok=False)


@given(SIDE, VECTORS)
def test_a_report_is_wholly_like_itself(kinds, vectors):
    same = entities(kinds, vectors[: len(kinds)])
    assert score(same, same, AFFINITIES["short"]) == pytest.approx(1.0)


def test_denial_costs_what_the_preset_says():
    there, denied = (entities([kind], np.ones((1, 2))) for kind in ("DISEASE", "NON-DISEASE"))
    for affinity in AFFINITIES.values():
        assert score(there, denied, affinity) == pytest.approx(affinity.negation)


def test_nothing_in_common_is_0_and_no_entity_is_told_apart():
    across = [entities(["DISEASE"], np.array([vector])) for vector in ([1.0, 0.0], [0.0, 1.0])]
    assert score(*across, AFFINITIES["long"]) == 0.0
    assert score(across[0], entities([], np.zeros((0, 0))), AFFINITIES["long"]) is None


def test_of_equally_similar_entities_the_first_counts():
    one = entities(["DISEASE"], np.ones((1, 2)))
    two = [entities(kinds, np.ones((2, 2))) for kinds in (["DISEASE", "NON-DISEASE"], ["NON-DISEASE", "DISEASE"])]
    first, second = (score(one, each, AFFINITIES["short"]) for each in two)
    assert first > second


WEIGHTS = {"rate-ner": "1a2b3c4d", "biolord": "2a2b3c4d"}
CONTEXT = Context.of({asset: {"name": asset, "hash": each} for asset, each in WEIGHTS.items()})


def test_rows_and_values():
    cases = [case for case in GOLDEN["scores"] if case["seed"] < 11]
    sides = Sides(*zip(*(recorded(case) for case in cases), strict=True))
    pairs = Pairs([str(i) for i in range(len(cases))], ["p"] * len(cases), ["r"] * len(cases))
    metric = RateScore("short")
    made = metric.statistics(pairs, {metric.needs(CONTEXT)[0]: sides}, CONTEXT)
    assert made.rows.shape == (len(cases), 1, 3)
    values = metric.value(made.rows[:, 0].sum(axis=0))
    assert values["ratescore"] == pytest.approx(np.mean([case["short"] for case in cases]), rel=1e-5)
    assert values["without_entities"] == pytest.approx(np.mean([0 in case["sizes"] for case in cases]))
    assert np.isnan(metric.value(np.zeros(3))["ratescore"])


def test_the_signature_names_both_weights():
    assert RateScore().signature(CONTEXT, "none") == (
        "ratescore|preset:long|entities:rate.1|sentences:pyrush.1|weights:1a2b3c4d+2a2b3c4d|verified:no|txt:none|v:1"
    )


# Through the features


@pytest.fixture
def assets():
    for asset, folder in (("rate-ner", "ner"), ("biolord", "biolord")):
        shutil.copytree(FEATURES / "tiny_rate" / folder, cache_dir() / "assets" / asset)


def scored(predictions, references, dataset=None, preset="long"):
    """Statistics of texts as `cxrbench score` makes them."""
    ids = [str(i) for i in range(len(references))]
    samples = [
        Sample(sample_id=i, study_id=i, patient_id=i, target=text) for i, text in zip(ids, references, strict=True)
    ]
    said = {i: Prediction(sample_id=i, outcome="ok", text=text) for i, text in zip(ids, predictions, strict=True)}
    corpus = Corpus(references, dataset=dataset)
    return score_all(samples, said, [Chosen(RateScore(preset), required=True)], corpus, "none")[0]


def test_pairs_of_reports_score_as_in_the_package(assets):
    pairs = GOLDEN["whole"]["pairs"]
    found = scored(*([REPORTS[each["pair"][side]] for each in pairs] for side in (0, 1)))
    np.testing.assert_allclose(found.rows()[:, 1], [each["long"] for each in pairs], rtol=1e-5)


def test_a_report_without_a_usable_sentence_keeps_its_row(assets):
    """The package gives two scores for these three pairs, and the second belongs to no pair that was given."""
    nothing = next(case["text"] for case in GOLDEN["sentences"] if not case["sentences"])
    lost = GOLDEN["whole"]["lost"]
    found = scored([REPORTS[0], nothing, REPORTS[1]], [REPORTS[0], REPORTS[0], REPORTS[1]])
    assert (len(lost["scores"]), lost["given"], found.n) == (2, 3, 3)
    np.testing.assert_allclose(found.rows(), [[1, 1, 0], [1, 0.5, 1], [1, 1, 0]], atol=1e-6)
    assert lost["scores"][1] == pytest.approx(scored([REPORTS[1]], [REPORTS[0]]).rows()[0, 1], rel=1e-5)


def test_without_weights_it_says_what_to_type():
    found = scored(["Clear."], ["Clear."])
    assert found.statistics is None
    assert "cxrbench assets fetch rate-ner" in found.reason


def test_phantom_is_refused_in_one_sentence(assets):
    with pytest.raises(CxrbenchError, match="no embedded annotator has the shape of rate-ner"):
        RateScore().fit(Corpus([], dataset="phantom"))


def test_it_is_registered():
    assert registry.load("metrics", "ratescore") is RateScore
    assert {"rate-entities", "rate-embeddings"} <= set(registry.entries("features"))
