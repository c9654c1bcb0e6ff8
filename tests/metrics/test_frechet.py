"""Fréchet distance against scipy's matrix square root, and what it is fitted on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from cxrbench.artifacts import Answered, keep, read_picture
from cxrbench.errors import CxrbenchError
from cxrbench.features.base import Resources
from cxrbench.features.encoders import centre, find, means
from cxrbench.features.pictures import PictureFeatures
from cxrbench.metrics.base import Context, Corpus, Pairs
from cxrbench.metrics.frechet import Frechet
from cxrbench.stats import Table, point


def independent(a, b, weights=None):
    """The textbook formula with a general matrix square root."""
    a = np.repeat(a, weights, axis=0) if weights is not None else a
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    apart = a.mean(axis=0) - b.mean(axis=0)
    return apart @ apart + np.trace(first + second - 2 * np.real(sqrtm(first @ second)))


def rows_of(generated, real):
    """Rows as the metric makes them of given features."""
    variances, axes = np.linalg.eigh(np.cov(real, rowvar=False))
    context = Context.of(
        {"encoder": "x", "mean": real.mean(axis=0).tolist(), "axes": axes.tolist(), "variances": variances.tolist()}
    )
    metric = Frechet()
    pairs = Pairs([str(i) for i in range(len(generated))], [""] * len(generated), [""] * len(generated))
    return metric, metric.statistics(pairs, {metric.needs(context)[0]: generated}, context).rows[:, 0]


@pytest.mark.parametrize(("n", "d", "shift"), [(300, 8, 0.0), (200, 64, 0.5), (90, 20, 3.0)])
def test_the_distance_is_scipys(n, d, shift):
    rng = np.random.default_rng(d)
    mix, other = rng.normal(size=(d, d)), rng.normal(size=(d, d))
    generated, real = rng.normal(size=(n, d)) @ mix + shift, rng.normal(size=(2 * n, d)) @ other
    metric, rows = rows_of(generated, real)
    expected = independent(generated, real)
    assert abs(point(Table(rows, metric))["distance"] - expected) < 1e-6 * max(1, expected)
    weights = rng.multinomial(n, np.full(n, 1 / n), 3)
    found = metric.value_weighted(rows, weights.astype(float))["distance"]
    for value, drawn in zip(found, weights, strict=True):
        assert abs(value - independent(generated, real, drawn)) < 1e-6 * max(1, expected)


def test_equal_pictures_have_no_distance_and_fewer_pictures_than_numbers_one():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(60, 12))
    metric, rows = rows_of(real, real)
    assert point(Table(rows, metric))["distance"] < 1e-9
    few = rng.normal(size=(5, 12))
    metric, rows = rows_of(few, real)
    found = point(Table(rows, metric))
    variances = np.linalg.eigvalsh(np.cov(real, rowvar=False))
    assert found["distance"] > found["mean_part"] > 0
    assert found["distance"] - found["mean_part"] < np.trace(np.cov(few, rowvar=False)) + variances.sum()
    assert np.isnan(metric.value_weighted(rows, np.array([[1.0, 0, 0, 0, 0]]))["distance"]).all()


def pictures(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 24, 20), dtype=np.uint8)


def test_real_pictures_are_those_of_the_full_test_set(tmp_path):
    real, made = pictures(40, 0), pictures(12, 1)
    metric = Frechet()
    corpus = Corpus([""] * 41, form="pictures", dataset="phantom", pictures=lambda: iter([*real, None]))
    context = metric.fit(corpus)
    assert (context.data["pictures"], context.data["unread"]) == (40, 1)
    references = keep(tmp_path, {str(i): picture for i, picture in enumerate(made)})
    answered = Answered(tmp_path, references, frozenset(references), frozenset())
    pairs = Pairs(list(references), [""] * 12, [""] * 12, artifacts=list(references.values()))
    (needed,) = metric.needs(context)
    features = PictureFeatures().extract(pairs, dict(needed.settings), Resources(answered=answered))
    stored = [read_picture(tmp_path, reference) for reference in references.values()]
    assert np.array_equal(features, means([centre(each) for each in stored]))
    rows = metric.statistics(pairs, {needed: features}, context).rows[:, 0]
    cut = [means([each[2:22] for each in both]) for both in (made, real)]
    expected = independent(*cut)
    assert abs(point(Table(rows, metric))["distance"] - expected) < 1e-6
    assert f"|encoder:pixels-1|real:40.{context.hash}|" in metric.signature(context, "none")


def test_pixels_are_area_means():
    block = np.kron(np.arange(64, dtype=np.uint8).reshape(8, 8), np.ones((3, 5), np.uint8))
    assert np.allclose(means([block])[0] * 255, np.arange(64))
    wide = np.hstack([np.zeros((24, 8), np.uint8), block[:, :24], np.zeros((24, 8), np.uint8)])
    assert np.array_equal(find("pixels", None).features([wide], "cpu"), means([block[:, :24]]))


def test_what_is_refused(tmp_path):
    real = Corpus([""], form="pictures", dataset="mimic-cxr", pictures=lambda: iter(pictures(3, 0)))
    with pytest.raises(CxrbenchError, match="has seen phantom only"):
        Frechet("demo-tower").fit(real)
    with pytest.raises(CxrbenchError, match="not at hand"):
        Frechet().fit(Corpus([""], form="pictures"))
    with pytest.raises(CxrbenchError, match="1 of 2 real pictures can be read"):
        Frechet().fit(Corpus(["", ""], form="pictures", pictures=lambda: iter([pictures(1, 0)[0], None])))
    assert "there is no folder 'nowhere'" in Frechet("nowhere").ready()
    assert Frechet("FOLDER").ready().startswith("needs an encoder: frechet:FOLDER")
    with pytest.raises(CxrbenchError, match="no weights"):
        Frechet(str(tmp_path)).fit(real)
