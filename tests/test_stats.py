"""Statistics against scipy, against naive loops, and against what they promise (coverage, false alarms)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.stats import (
    MAX_UNDEFINED,
    Clusters,
    Interval,
    Table,
    bootstrap,
    cluster_sums,
    coins,
    difference,
    interval,
    jackknife,
    point,
    replicate,
    resample_weights,
)
from cxrbench.stats_tests import (
    aa_check,
    detectable,
    holm,
    minimum_detectable_effect,
    non_inferiority,
    paired_bootstrap,
    paired_randomisation,
)


class Ratio:
    """Sum of column 1 over sum of the last column: a mean with rows (1, x), a corpus metric with rows (1, hit, all)."""

    additive = True

    def value(self, sums):
        total = sums[..., 2 if sums.shape[-1] == 3 else 0]
        return {"ratio": sums[..., 1] / np.where(total == 0, np.nan, total)}

    def value_weighted(self, rows, weights):
        return self.value(weights @ rows)


class Weighted(Ratio):
    """The same number by way of sample weights, as a metric has it that is no function of sums."""

    additive = False

    def value(self, sums):
        raise NotImplementedError

    def value_weighted(self, rows, weights):
        return Ratio().value(weights @ rows)


class Total:
    """Sum of column 1."""

    additive = True

    def value(self, sums):
        return {"total": sums[..., 1]}


def mean_table(values, metric=None) -> Table:
    values = np.asarray(values, float)
    return Table(np.column_stack([np.ones(len(values)), values]), metric or Ratio())


def clustered_values(rng, clusters: int, size: int, icc: float) -> tuple[np.ndarray, np.ndarray]:
    """Values with unit variance of which `icc` is between clusters; and their cluster numbers."""
    ids = np.repeat(np.arange(clusters), size)
    shared = rng.normal(0, np.sqrt(icc), clusters)[ids]
    return shared + rng.normal(0, np.sqrt(1 - icc), clusters * size), ids


# --- the random stream and the sums --------------------------------------------------------------------------------


def naive_draws(n_clusters: int, replicates: int, seed: int) -> list[list[int]]:
    """The documented stream in Python integers, one number at a time."""
    stream = np.random.PCG64(seed)
    out = []
    for _ in range(replicates):
        halves: list[int] = []
        for _ in range((n_clusters + 1) // 2):
            word = int(stream.random_raw())
            halves += [word & 0xFFFFFFFF, word >> 32]
        out.append([half * n_clusters >> 32 for half in halves[:n_clusters]])
    return out


@pytest.mark.parametrize("n_clusters", [1, 2, 7, 64])
def test_weights_are_the_documented_stream(n_clusters):
    weights = np.vstack([*resample_weights(n_clusters, 20, 5)])
    expected = [np.bincount(drawn, minlength=n_clusters) for drawn in naive_draws(n_clusters, 20, 5)]
    assert weights.tolist() == np.array(expected).tolist()


def test_the_stream_is_pinned():
    # PCG64's raw output is promised never to change (NEP 19); if this moves, every stored interval moves. By hand:
    # the first words are a30febcfd9c2825f 4510bdf882d9d721 0a7d3da94ecde8b8, whose halves over 2^32, times 5, are
    # 4.25 3.18 2.56 1.35 1.54; the lowest bits of the first are 1 1 1 1 1 0 (5f).
    assert next(resample_weights(5, 2, 0)).tolist() == [[0.0, 2.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, 1.0, 1.0]]
    assert next(coins(6, 2, 0)).tolist() == [[1.0, 1.0, 1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]]


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32))
def test_chunks_and_length_do_not_change_the_stream(n_clusters, replicates, chunk, seed):
    whole = np.vstack([*resample_weights(n_clusters, replicates, seed)])
    cut = np.vstack([*resample_weights(n_clusters, replicates, seed, chunk)])
    longer = np.vstack([*resample_weights(n_clusters, replicates + 3, seed)])
    assert (whole == cut).all()
    assert (whole == longer[:replicates]).all()
    assert (whole.sum(axis=1) == n_clusters).all()
    flips = np.vstack([*coins(n_clusters, replicates, seed, chunk)])
    assert (flips == np.vstack([*coins(n_clusters, replicates, seed)])).all()


def test_draws_and_coins_are_even():
    weights = np.vstack([*resample_weights(7, 20_000, 1)])
    assert np.abs(weights.mean(axis=0) - 1).max() < 0.03  # sd of a mean of 20,000 Poisson-like counts: 0.0066
    flips = np.vstack([*coins(70, 20_000, 1)])
    assert np.abs(flips.mean(axis=0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(flips.T) - np.eye(70)).max() < 0.05


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-9, 9)), min_size=1, max_size=30))
def test_cluster_sums_equal_a_dictionary(pairs):
    rows = np.array([[1.0, value] for _, value in pairs])
    expected: dict[str, list[float]] = {}
    for name, value in pairs:
        count, total = expected.get(name, [0.0, 0.0])
        expected[name] = [count + 1, total + value]
    assert cluster_sums(rows, [name for name, _ in pairs]).tolist() == [expected[name] for name in sorted(expected)]


# --- the bootstrap -------------------------------------------------------------------------------------------------


def test_matrix_path_equals_a_naive_loop():
    rng = np.random.default_rng(1)
    rows = np.column_stack([np.ones(40), rng.integers(0, 5, 40), rng.integers(5, 9, 40)]).astype(float)
    ids = rng.integers(0, 9, 40).tolist()
    members = {name: [i for i in range(40) if ids[i] == name] for name in sorted(set(ids))}
    names = list(members)
    naive = []
    for drawn in naive_draws(len(names), 200, 3):
        picked = [i for cluster in drawn for i in members[names[cluster]]]
        naive.append(rows[picked, 1].sum() / rows[picked, 2].sum())
    groups = Clusters.of(ids)
    ours = replicate({"m": Table(rows, Ratio())}, groups, resample_weights(groups.count, 200, 3))["m"]["ratio"]
    np.testing.assert_allclose(ours, naive, rtol=1e-14)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_bca_and_percentile_equal_scipy_on_the_same_replicates(level):
    rng = np.random.default_rng(2)
    values = rng.lognormal(0, 1, 35)
    ids = list(range(35))
    table = mean_table(values)
    draws = replicate({"m": table}, Clusters.of(ids), resample_weights(35, 2000, 4))["m"]["ratio"]
    given_draws = reference.bootstrap((values,), np.mean, n_resamples=2, method="percentile")
    given_draws.bootstrap_distribution = draws
    for name in ("bca", "percentile"):
        expected = reference.bootstrap(
            (values,),
            np.mean,
            n_resamples=0,
            bootstrap_result=given_draws,
            method="BCa" if name == "bca" else name,
            confidence_level=level,
        ).confidence_interval
        ours = bootstrap({"m": table}, ids, method=name, level=level, replicates=2000, seed=4)["m"]["ratio"]
        assert ours.method == name
        assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_percentile_agrees_with_scipys_own_resampling():
    values = np.random.default_rng(3).normal(5, 2, 60)
    expected = reference.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    ours = bootstrap({"m": mean_table(values)}, list(range(60)), method="percentile", replicates=20_000)["m"]["ratio"]
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=0.02)  # both have sd ~0.006


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_order_of_samples_changes_nothing(seed, shuffle):
    rng = np.random.default_rng(seed)
    rows = np.column_stack([np.ones(20), rng.integers(0, 50, 20)]).astype(float)
    ids = [f"p{i}" for i in rng.integers(0, 6, 20)]
    order = list(range(20))
    shuffle.shuffle(order)
    first = bootstrap({"m": Table(rows, Ratio())}, ids, replicates=100)
    second = bootstrap({"m": Table(rows[order], Ratio())}, [ids[i] for i in order], replicates=100)
    assert first == second


def test_weights_path_equals_sums_path():
    rng = np.random.default_rng(5)
    values, ids = clustered_values(rng, 12, 4, 0.3)
    both = {"sums": mean_table(values), "weights": mean_table(values, Weighted())}
    found = bootstrap(both, ids.tolist(), replicates=500)
    assert found["weights"]["ratio"].method == "bca"
    for end in ("value", "low", "high"):
        assert getattr(found["sums"]["ratio"], end) == pytest.approx(getattr(found["weights"]["ratio"], end), rel=1e-12)


def test_metrics_of_one_call_and_of_two_see_the_same_resamples():
    values, ids = clustered_values(np.random.default_rng(6), 20, 3, 0.2)
    together = bootstrap({"a": mean_table(values), "b": mean_table(2 * values)}, ids.tolist(), replicates=300)
    alone = bootstrap({"b": mean_table(2 * values)}, ids.tolist(), replicates=300)
    assert together["b"] == alone["b"]
    assert together["b"]["ratio"].low == pytest.approx(2 * together["a"]["ratio"].low)


def test_jackknife_leaves_out_clusters():
    values = np.array([1.0, 2.0, 3.0, 10.0])
    found = jackknife(mean_table(values), Clusters.of(["a", "a", "b", "c"]))["ratio"]
    assert found.tolist() == [6.5, 13 / 3, 2.0]


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_coverage_on_clustered_skewed_data(method):
    # 40 clusters of 1..5, lognormal cluster effect of mean exp(.18); nominal 95 %, 300 trials: sd of the share 1.3 %.
    rng = np.random.default_rng(7)
    covered = naive_covered = 0
    truth = float(np.exp(0.18))
    for trial in range(300):
        sizes = rng.integers(1, 6, 40)
        ids = np.repeat(np.arange(40), sizes)
        values = rng.lognormal(0, 0.6, 40)[ids] * rng.uniform(0.9, 1.1, len(ids))
        ours = bootstrap({"m": mean_table(values)}, ids.tolist(), method=method, replicates=400, seed=trial)
        naive = bootstrap({"m": mean_table(values)}, list(range(len(ids))), method=method, replicates=400, seed=trial)
        covered += ours["m"]["ratio"].low <= truth <= ours["m"]["ratio"].high
        naive_covered += naive["m"]["ratio"].low <= truth <= naive["m"]["ratio"].high
    assert 0.89 <= covered / 300 <= 0.98
    assert naive_covered / 300 < 0.80  # what treating reports of one patient as independent costs


def test_one_cluster_has_no_interval():
    found = bootstrap({"m": mean_table([1.0, 2.0])}, ["p", "p"])["m"]["ratio"]
    assert (found.value, found.low, found.high, found.method) == (1.5, None, None, "none")
    assert found.note == "needs at least two clusters"


def test_few_clusters_are_noted_and_many_are_not():
    values = np.arange(12.0)
    assert "only 6 clusters" in bootstrap({"m": mean_table(values[:6])}, list(range(6)))["m"]["ratio"].note
    assert bootstrap({"m": mean_table(values)}, list(range(12)))["m"]["ratio"].note == ""


def test_clusters_without_a_scored_sample_are_not_counted():
    rows = np.array([[1.0, 3.0], [0.0, 0.0], [1.0, 5.0]])
    found = bootstrap({"m": Table(rows, Ratio())}, ["a", "b", "c"])["m"]["ratio"]
    assert (found.value, found.clusters) == (4.0, 2)


def padded(table: Table, before: int, after: int) -> Table:
    """The same statistics among samples that were not scored."""
    rows = table.rows
    return Table(np.vstack([np.zeros((before, rows.shape[1])), rows, np.zeros((after, rows.shape[1]))]), table.metric)


@pytest.mark.parametrize("metric", [Ratio(), Weighted()])
@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_few_scored_patients_among_many_have_the_interval_of_the_few_alone(metric, method):
    # Were all 300 drawn, a resample would hold about 5 of the scored ones, but anything from 0 to 15.
    values = np.random.default_rng(31).lognormal(0, 1, 12)
    ids = [f"p{i % 5}" for i in range(12)]
    alone = bootstrap({"m": mean_table(values, metric)}, ids, method=method, replicates=500)
    among = {"m": padded(mean_table(values, metric), 200, 95)}
    names = [*(f"a{i}" for i in range(200)), *ids, *(f"z{i}" for i in range(95))]
    assert bootstrap(among, names, method=method, replicates=500) == alone
    assert alone["m"]["ratio"].clusters == 5
    pairs = {"m": (among["m"], padded(mean_table(values + 0.5, metric), 200, 95))}
    assert (
        paired_bootstrap(pairs, names, method=method, replicates=500)
        == paired_bootstrap(
            {"m": (mean_table(values, metric), mean_table(values + 0.5, metric))}, ids, method=method, replicates=500
        )
    )  # fmt: skip


@pytest.mark.parametrize("metric", [Ratio(), Weighted()])
def test_exchanges_are_all_looked_at_when_few_patients_were_scored(metric):
    first, second = np.random.default_rng(32).normal(0, 1, (2, 10))
    ids = [f"p{i % 5}" for i in range(10)]
    names = [*(f"a{i}" for i in range(40)), *ids]
    alone = paired_randomisation({"m": (mean_table(first, metric), mean_table(second, metric))}, ids)
    among = {"m": (padded(mean_table(first, metric), 40, 0), padded(mean_table(second, metric), 40, 0))}
    assert paired_randomisation(among, names) == alone
    assert (alone["m"]["ratio"].exact, alone["m"]["ratio"].permutations) == (True, 32)


def test_each_table_is_resampled_over_its_own_scored_samples():
    values, ids = clustered_values(np.random.default_rng(33), 30, 3, 0.2)
    names = ids.tolist()
    some = mean_table(values)
    some.rows[:20] = 0
    tables = {"all": mean_table(values), "some": some, "none": Table(np.zeros((90, 2)), Weighted()), "twice": some}
    seen: list[tuple[int, int]] = []
    found = bootstrap(tables, names, replicates=200, progress=lambda done, total: seen.append((done, total)))
    assert list(found) == list(tables)
    assert found["all"] == bootstrap({"m": mean_table(values)}, names, replicates=200)["m"]
    assert found["some"] == found["twice"] == bootstrap({"m": some.take(some.scored)}, names[20:], replicates=200)["m"]
    assert found["none"]["ratio"].note == "the value is undefined (0/0)"
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == ((0, 600), (600, 600))  # three sets of samples, 200 replicates each


def test_tables_scored_on_the_same_patients_see_the_same_resamples():
    # One report of a patient with three failed: the patients drawn are the same, so that differences stay paired.
    values, ids = clustered_values(np.random.default_rng(34), 30, 3, 0.2)
    values = values - values[0] + 0.0  # the failed report has the value 0
    values[0] = 0
    whole, some = mean_table(values, Total()), mean_table(values, Total())
    some.rows[0] = 0
    found = bootstrap({"whole": whole, "some": some}, ids.tolist(), replicates=300)
    assert (found["whole"]["total"].low, found["whole"]["total"].high) == pytest.approx(
        (found["some"]["total"].low, found["some"]["total"].high)
    )


@given(st.permutations([1, "1", 1, "p", 2.5, None, ("1",)]))
def test_numbering_of_clusters_does_not_depend_on_order(ids):
    numbers = {(type(name), name): int(at) for name, at in zip(ids, Clusters.of(ids).index, strict=True)}
    assert numbers == {
        (type(None), None): 0, (float, 2.5): 1, (int, 1): 2, (str, "1"): 3, (str, "p"): 4, (tuple, ("1",)): 5
    }  # fmt: skip


@pytest.mark.parametrize(("bearers", "given"), [(4, False), (8, True)])
def test_undefined_replicates_are_counted_and_refused_above_the_limit(bearers, given):
    # A label that `bearers` of 200 patients have is in no resample with probability (1 - bearers/200)^200.
    rows = np.zeros((200, 3))
    rows[:, 0] = 1
    rows[:bearers, 2] = 2
    rows[:bearers:2, 1] = 1
    found = bootstrap({"m": Table(rows, Ratio())}, list(range(200)), replicates=20_000)["m"]["ratio"]
    share = (1 - bearers / 200) ** 200
    assert found.undefined == pytest.approx(share, rel=0.5, abs=2e-4)
    assert (found.low is not None) == given == (share <= MAX_UNDEFINED)
    assert given or "undefined (0/0)" in found.note


def test_undefined_value_has_no_interval():
    found = bootstrap({"m": Table(np.zeros((30, 2)), Ratio())}, list(range(30)))["m"]["ratio"]
    assert np.isnan(found.value)
    assert found.low is None
    assert "undefined" in found.note


@pytest.mark.parametrize(
    ("left_out", "draws", "reason"),
    [
        ([1.0, 1.0, 1.0], [0.9, 1.0, 1.1], "does not change when a cluster is left out"),
        ([0.9, np.nan, 1.1], [0.9, 1.0, 1.1], "undefined (0/0) without one of the clusters"),
        ([0.9, 1.0, 1.1], [1.1, 1.2, 1.3], "one side of the value"),
        # bias 4.1 from one draw in 40,000, acceleration near its largest possible 1/6, quantile 3.3
        ([0.0] + [1.0] * 400, [0.5] * 40_000 + [1.5], "acceleration is too large"),
    ],
)
def test_bca_falls_back_by_name(left_out, draws, reason):
    found = interval(1.0, np.array(draws), np.array(left_out), 0.999, 20)
    assert found.method == "percentile"
    assert reason in found.note
    plain = interval(1.0, np.array(draws), None, 0.999, 20)
    assert (found.low, found.high) == (plain.low, plain.high)
    assert plain.note == ""


def test_nan_statistics_are_refused_with_their_number():
    rows = np.ones((4, 2))
    rows[2, 1] = np.nan
    with pytest.raises(CxrbenchError, match="NaN or infinity for 1 of 4 samples") as caught:
        bootstrap({"bleu:raw": Table(rows, Ratio())}, list("abcd"))
    assert caught.value.where == "bleu:raw"


@pytest.mark.parametrize("change", [{"level": 1.0}, {"level": 95}, {"replicates": 50}])
def test_settings_without_sense_are_refused(change):
    with pytest.raises(CxrbenchError):
        bootstrap({"m": mean_table([1.0, 2.0])}, ["a", "b"], **change)


# --- paired comparison ---------------------------------------------------------------------------------------------


def pair_of(first, second):
    return {"m": (mean_table(first), mean_table(second))}


def test_exact_randomisation_equals_scipy():
    rng = np.random.default_rng(8)
    first, second = rng.normal(0, 1, 9), rng.normal(0.6, 1, 9)
    ours = paired_randomisation(pair_of(first, second), list(range(9)))["m"]["ratio"]
    assert ours.exact
    assert ours.permutations == 2**9
    for side, p in (("two-sided", ours.p), ("greater", ours.p_greater), ("less", ours.p_less)):
        expected = reference.permutation_test(
            (second, first),
            lambda a, b, axis: np.mean(a, axis=axis) - np.mean(b, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
            alternative=side,
        )
        assert p == pytest.approx(expected.pvalue, rel=1e-12)


def test_exact_randomisation_by_cluster_equals_scipy_on_cluster_sums():
    rng = np.random.default_rng(9)
    ids = np.repeat(np.arange(8), 3)
    first, second = rng.normal(0, 1, 24), rng.normal(0.4, 1, 24)
    ours = paired_randomisation(pair_of(first, second), ids.tolist())["m"]["ratio"]
    sums = [np.bincount(ids, weights=part) for part in (second, first)]
    expected = reference.permutation_test(
        sums,
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert ours.p == pytest.approx(expected.pvalue, rel=1e-12)


def test_sampled_randomisation_equals_a_naive_loop_on_a_ratio():
    rng = np.random.default_rng(10)
    rows = [
        np.column_stack([np.ones(30), rng.integers(0, 5, 30) + shift, rng.integers(5, 9, 30)]).astype(float)
        for shift in (0, 1)
    ]
    ids = np.arange(30) % 15  # below in letters, whose order as text is that of the numbers
    ours = paired_randomisation(
        {"m": (Table(rows[0], Ratio()), Table(rows[1], Ratio()))}, [chr(97 + i) for i in ids], permutations=500, seed=2
    )["m"]["ratio"]

    def gap(a, b):
        return b[:, 1].sum() / b[:, 2].sum() - a[:, 1].sum() / a[:, 2].sum()

    def both(a, b):
        """The difference, and the sum of the clusters' own ones, which orders ties."""
        return round(gap(a, b), 10), round(sum(gap(a[ids == i], b[ids == i]) for i in range(15)), 10)

    observed = both(*rows)
    found = []
    for flips in np.vstack([*coins(15, 500, 2)]):
        swap = flips[ids][:, None] > 0
        found.append(both(np.where(swap, rows[1], rows[0]), np.where(swap, rows[0], rows[1])))
    assert len({first for first, _ in found}) < 450, "there are ties to order"
    assert observed[0] > 0
    assert not ours.exact
    assert ours.difference == pytest.approx(observed[0])
    assert ours.p_greater == (sum(each >= observed for each in found) + 1) / 501
    assert ours.p_less == (sum(each <= observed for each in found) + 1) / 501
    turned = [each if each[0] > 0 else (-each[0], -each[1]) for each in found]
    assert ours.p == (sum(each >= observed for each in turned) + 1) / 501


def test_sampled_p_is_near_the_exact_one_and_never_zero():
    rng = np.random.default_rng(11)
    first = rng.normal(0, 1, 13)
    second = first + rng.normal(0.5, 0.8, 13)
    exact = paired_randomisation(pair_of(first, second), list(range(13)))["m"]["ratio"]
    sampled = paired_randomisation(pair_of(first, second), list(range(13)), permutations=8_000)["m"]["ratio"]
    assert exact.exact
    assert not sampled.exact
    assert sampled.p == pytest.approx(exact.p, abs=0.01)
    far = paired_randomisation(pair_of(np.zeros(50), np.ones(50)), list(range(50)), permutations=999)["m"]["ratio"]
    assert far.p == 0.001


def exchanged_pairs(seed, clusters=8):
    """A recall of few cases: patients with 1 to 4 positives each, of which two runs find other numbers; and patients
    who do not differ. Every exchange of it as a pair of its own, so that levels can be counted instead of estimated."""
    rng = np.random.default_rng(seed)
    positives = rng.integers(1, 5, clusters)
    hits = rng.integers(0, positives + 1, (2, clusters))
    hits[1, :2] = hits[0, :2]
    for number in range(2**clusters):
        swap = (number >> np.arange(clusters)) & 1 > 0
        sides = np.where(swap, hits[1], hits[0]), np.where(swap, hits[0], hits[1])
        yield tuple(
            Table(np.column_stack([np.ones(clusters), side, positives]).astype(float), Ratio()) for side in sides
        )


def plain_p_less(pair):
    """The share of all exchanges with as small a difference, every tie counted."""
    first, second = (table.rows for table in pair)
    gaps = second[:, 1] - first[:, 1]
    signs = 1 - 2 * ((np.arange(2 ** len(gaps))[:, None] >> np.arange(len(gaps))) & 1)
    return np.mean(signs @ gaps <= gaps.sum())


@pytest.mark.parametrize("seed", range(4))
def test_ordering_ties_keeps_the_level_and_wastes_less_of_it(seed):
    pairs = list(exchanged_pairs(seed))
    found = [paired_randomisation({"m": pair}, list(range(8)))["m"]["ratio"] for pair in pairs]
    assert all(each.exact for each in found)
    for side in ("p", "p_less", "p_greater"):
        p = np.array([getattr(each, side) for each in found])
        for alpha in np.unique(p):
            assert np.mean(p <= alpha) <= alpha + 1e-12, side
    plain = np.array([plain_p_less(pair) for pair in pairs])
    ours = np.array([each.p_less for each in found])
    assert (ours <= plain + 1e-12).all()
    assert ours.mean() < plain.mean()


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_the_size_of_a_test_is_how_often_it_claims_something(alpha):
    found = [
        paired_randomisation({"m": pair}, list(range(8)), alpha=alpha)["m"]["ratio"] for pair in exchanged_pairs(5)
    ]
    sizes = {round(each.size, 12) for each in found}
    for side in ("p_less", "p_greater"):
        assert sizes == {np.mean([getattr(each, side) <= alpha for each in found])}


@pytest.mark.parametrize(("differing", "size"), [(0, 0.0), (2, 0.0), (4, 0.0), (5, 1 / 32), (6, 3 / 64)])
@pytest.mark.parametrize("metric", [Ratio(), Weighted()])
def test_few_discordant_patients_cannot_reach_a_level(differing, size, metric):
    """4 patients have 16 exchanges, so no p is below 1/16; 6 of different weight have 64, of which 3 are within 5 %."""
    first = np.random.default_rng(0).normal(0, 1, 60)
    second = first.copy()
    second[:differing] += 2.0 ** np.arange(differing)
    pair = mean_table(first, metric), mean_table(second, metric)
    found = paired_randomisation({"m": pair}, list(range(60)), permutations=8_000)["m"]["ratio"]
    assert found.discordant == differing
    assert found.size == pytest.approx(size, abs=0.006)
    assert (found.size == 0) == (size == 0)


def test_a_difference_of_zero_has_p_one():
    """Also where patients' own values would order the ties: nobody should read a p of 0.9 beside no difference."""
    rows = [
        np.column_stack([np.ones(6), hits, [4, 2, 1, 1, 1, 1]]) for hits in ([2, 0, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0])
    ]
    pair = Table(rows[0].astype(float), Ratio()), Table(rows[1].astype(float), Ratio())
    found = paired_randomisation({"m": pair}, list(range(6)), permutations=100)["m"]["ratio"]
    assert found.difference == 0
    assert found.p == 1


def test_randomisation_by_weights_equals_by_sums():
    rng = np.random.default_rng(12)
    first, second = rng.normal(0, 1, 40), rng.normal(0.3, 1, 40)
    ids = (np.arange(40) % 20).tolist()
    sums = paired_randomisation(pair_of(first, second), ids)["m"]["ratio"]
    weights = paired_randomisation({"m": (mean_table(first, Weighted()), mean_table(second, Weighted()))}, ids)
    assert weights["m"]["ratio"].p == sums.p


def test_equal_runs_give_p_one_and_an_interval_of_zero():
    values = np.random.default_rng(13).normal(0, 1, 30)
    same = pair_of(values, values)
    assert paired_randomisation(same, list(range(30)))["m"]["ratio"].p == 1.0
    found = paired_bootstrap(same, list(range(30)))["m"]["ratio"]
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_swapping_the_systems_mirrors_everything():
    rng = np.random.default_rng(14)
    first, second = rng.normal(0, 1, 60), rng.normal(0.2, 1, 60)
    ids = list(range(60))
    there = paired_randomisation(pair_of(first, second), ids)["m"]["ratio"]
    back = paired_randomisation(pair_of(second, first), ids)["m"]["ratio"]
    assert there.difference == -back.difference
    assert there.p == back.p
    assert there.p_greater == back.p_less
    here, mirrored = (paired_bootstrap(p, ids)["m"]["ratio"] for p in (pair_of(first, second), pair_of(second, first)))
    assert (here.low, here.high) == pytest.approx((-mirrored.high, -mirrored.low), rel=1e-9)


def test_pairing_removes_shared_difficulty():
    rng = np.random.default_rng(15)
    hard = rng.normal(0, 1, 100)
    first, second = hard + rng.normal(0, 0.1, 100), hard + rng.normal(0, 0.1, 100)
    paired = paired_bootstrap(pair_of(first, second), list(range(100)))["m"]["ratio"]
    single = bootstrap({"m": mean_table(first)}, list(range(100)))["m"]["ratio"]
    assert paired.high - paired.low < 0.3 * (single.high - single.low)


def test_runs_scored_on_different_samples_are_refused():
    first, second = np.ones((5, 2)), np.ones((5, 2))
    second[3] = 0
    with pytest.raises(CxrbenchError, match="not scored on the same samples") as caught:
        difference(Table(first, Ratio()), Table(second, Ratio()))
    assert caught.value.where == "1 scored in the baseline only, 0 in the candidate only"
    assert caught.value.code == Exit.UNDECIDED
    both = Table(first, Ratio()).scored & Table(second, Ratio()).scored
    assert len(difference(Table(first, Ratio()).take(both), Table(second, Ratio()).take(both)).rows) == 4


def test_undefined_exchanges_count_against_the_claim():
    # Patient a carries the label in the baseline, d in the candidate. In 8 of 16 exchanges one system is left without
    # any (0/0), in 4 the difference stays 1, in 4 it is -1.
    first = np.array([[1.0, 0.0, 1.0]] + [[1.0, 0.0, 0.0]] * 3)
    second = np.array([[1.0, 0.0, 0.0]] * 3 + [[1.0, 1.0, 1.0]])
    found = paired_randomisation({"m": (Table(first, Ratio()), Table(second, Ratio()))}, list("abcd"))["m"]["ratio"]
    assert (found.difference, found.undefined) == (1.0, 0.5)
    assert (found.p_greater, found.p_less, found.p) == (12 / 16, 1.0, 1.0)


def false_alarms(icc: float, trials: int) -> tuple[float, float]:
    """Share of trials without a true difference in which the test by patient, and by report, says p <= 0.05."""
    rng = np.random.default_rng(16)
    by_patient = by_report = 0
    for trial in range(trials):
        gaps, ids = clustered_values(rng, 60, 8, icc)
        pair = pair_of(np.zeros(len(gaps)), gaps)
        kwargs = {"permutations": 399, "seed": trial}
        by_patient += paired_randomisation(pair, ids.tolist(), **kwargs)["m"]["ratio"].p <= 0.05
        by_report += paired_randomisation(pair, list(range(len(gaps))), **kwargs)["m"]["ratio"].p <= 0.05
    return by_patient / trials, by_report / trials


def test_false_alarms_by_patient_and_by_report():
    # Design effect 1 + 7 * 0.15 = 2.05, so the naive test alarms in P(|z| > 1.96 / 1.43) = 17 %.
    # 400 trials: standard deviations 1.1 % and 1.9 %.
    by_patient, by_report = false_alarms(0.15, 400)
    assert by_patient == pytest.approx(0.05, abs=0.035)
    assert by_report == pytest.approx(0.17, abs=0.06)


# --- Holm, non-inferiority, detectable effect, A/A -----------------------------------------------------------------


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 1), min_size=1))
def test_holm_properties(p_values):
    adjusted = holm(p_values)
    assert list(adjusted) == list(p_values)
    for name, p in p_values.items():
        assert p <= adjusted[name] <= min(1.0, p * len(p_values)) + 1e-15
    ordered = sorted(p_values, key=lambda name: p_values[name])
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(ordered))


def test_holm_by_its_definition():
    # Rejected at alpha exactly when every smaller p_(i) is at most alpha / (m - i + 1), walked by hand.
    p_values = {"a": 0.001, "b": 0.012, "c": 0.02, "d": 0.03, "e": 0.6}
    assert holm(p_values) == pytest.approx({"a": 0.005, "b": 0.048, "c": 0.06, "d": 0.06, "e": 0.6})
    with pytest.raises(ValueError, match="no p-value"):
        holm({"a": 1.5})


def test_holm_does_not_count_tests_that_could_not_be_made():
    found = holm({"a": 0.02, "b": float("nan"), "c": 0.5})
    assert (found["a"], found["c"]) == (0.04, 0.5)
    assert np.isnan(found["b"])
    assert holm({}) == {}


def test_no_tables_no_intervals():
    assert bootstrap({}, ["a", "b"]) == {}


def between(low, high) -> Interval:
    value = None if low is None else (low + high) / 2
    return Interval(value or 0.0, low, high, "bca" if low is not None else "none", 0.9, 10_000, 50, note="too few")


@pytest.mark.parametrize(
    ("low", "high", "status", "words"),
    [
        (-0.005, 0.004, "pass", "not worse than the margin allows"),
        (-0.008, -0.001, "pass", "worse, but within the margin"),
        (0.001, 0.02, "pass", "not worse"),
        (-0.010, 0.004, "undecided", "not ruled out"),
        (-0.030, 0.010, "undecided", "not ruled out"),
        (-0.030, -0.012, "fail", "worse"),
        (-0.030, -0.001, "fail", "worse"),
        (None, None, "undecided", "no interval: too few"),
    ],
)
def test_non_inferiority(low, high, status, words):
    found = non_inferiority(between(low, high), 0.01)
    assert (found.status, found.margin) == (status, 0.01)
    assert words in found.reason
    if low is not None:
        assert "95.0%" in found.reason
        mirrored = non_inferiority(between(-high, -low), 0.01, higher_is_better=False)
        assert (mirrored.status, mirrored.reason) == (found.status, found.reason)


@pytest.mark.parametrize("margin", [0.0, -0.01, float("nan"), float("inf")])
def test_a_margin_must_be_positive(margin):
    with pytest.raises(CxrbenchError, match="margin"):
        non_inferiority(between(-0.1, 0.1), margin)


@pytest.mark.parametrize(
    ("sd", "n", "expected"),
    [(0.10, 100, 0.025), (0.20, 100, 0.050), (0.30, 200, 0.053), (0.15, 590, 0.015), (0.30, 2347, 0.015)],
)
def test_detectable_effect_by_hand(sd, n, expected):
    # (1.64485 + 0.84162) sd / sqrt(n), to three digits
    assert round(detectable(sd, n), 3) == expected
    assert detectable(sd, n, 2.0) == pytest.approx(detectable(sd, n) * 2**0.5)


def test_minimum_detectable_effect_of_a_mean():
    rng = np.random.default_rng(17)
    gaps = rng.normal(0, 0.2, 400)
    table = difference(mean_table(np.zeros(400)), mean_table(gaps))
    found = minimum_detectable_effect(table, list(range(400)))["ratio"]
    assert found.standard_error == pytest.approx(gaps.std(ddof=1) / 20, rel=1e-9)
    assert found.design_effect == pytest.approx(1.0)
    assert found.effect == pytest.approx(detectable(gaps.std(ddof=1), 400), rel=1e-9)


def test_minimum_detectable_effect_of_clustered_data():
    # Equal clusters: the standard error is that of the cluster means; the design effect is near 1 + 7 icc.
    gaps, ids = clustered_values(np.random.default_rng(18), 300, 8, 0.15)
    table = difference(mean_table(np.zeros(len(gaps))), mean_table(gaps))
    found = minimum_detectable_effect(table, ids.tolist())["ratio"]
    means = gaps.reshape(300, 8).mean(axis=1)
    assert found.standard_error == pytest.approx(means.std(ddof=1) / np.sqrt(300), rel=1e-9)
    assert found.design_effect == pytest.approx(2.05, abs=0.35)
    assert (found.samples, found.clusters, found.note) == (2400, 300, "")


def test_minimum_detectable_effect_says_why_it_is_unknown():
    table = difference(mean_table(np.zeros(4)), mean_table(np.arange(4.0)))
    assert minimum_detectable_effect(table, ["p"] * 4)["ratio"].effect is None
    few = minimum_detectable_effect(table, list(range(4)))["ratio"]
    assert few.note == "only 4 clusters: optimistic"


def test_the_detectable_effect_is_detected_with_its_power():
    # At the detectable effect a one-sided 5 % test should succeed in 80 % of trials; 200 trials: sd 2.8 %.
    rng = np.random.default_rng(19)
    effect = detectable(1.0, 480, 1 + 7 * 0.15)
    hits = 0
    for trial in range(200):
        gaps, ids = clustered_values(rng, 60, 8, 0.15)
        pair = pair_of(np.zeros(480), gaps + effect)
        hits += paired_randomisation(pair, ids.tolist(), permutations=399, seed=trial)["m"]["ratio"].p_greater <= 0.05
    assert 0.70 <= hits / 200 <= 0.89


def test_a_two_sided_test_needs_a_larger_effect():
    # (1.95996 + 0.84162) 0.2 / sqrt(100) and (2.57583 + 1.28155) 0.2 / sqrt(100), to four digits
    assert round(detectable(0.2, 100, sides=2), 4) == 0.0560
    assert round(detectable(0.2, 100, alpha=0.01, sides=2, power=0.9), 4) == 0.0771
    table = difference(mean_table(np.zeros(50)), mean_table(np.random.default_rng(35).normal(0, 1, 50)))
    one, two = (minimum_detectable_effect(table, list(range(50)), sides=sides)["ratio"] for sides in (1, 2))
    assert (one.sides, two.sides) == (1, 2)
    assert two.effect / one.effect == pytest.approx((1.959964 + 0.841621) / (1.644854 + 0.841621), rel=1e-6)
    assert one == minimum_detectable_effect(table, list(range(50)))["ratio"]


@pytest.mark.parametrize("change", [{"sides": 3}, {"alpha": 0.0}, {"alpha": 5}, {"power": 1.0}])
def test_a_test_without_sense_has_no_detectable_effect(change):
    with pytest.raises(CxrbenchError):
        detectable(0.2, 100, **change)


@pytest.mark.parametrize("metric", [Ratio(), Weighted()])
def test_aa_check_shows_what_ignoring_patients_costs(metric):
    values, ids = clustered_values(np.random.default_rng(20), 150, 8, 0.3)
    found = aa_check(mean_table(values, metric), ids.tolist(), splits=1000)["ratio"]
    assert found.clustered == pytest.approx(0.05, abs=0.025)
    assert found.naive > 0.15  # design effect about 3: P(|z| > 1.96 / 1.76) = 0.27
    assert (found.splits, found.clusters) == (1000, 150)


def test_aa_check_of_independent_samples_needs_no_clusters():
    values = np.random.default_rng(21).normal(0, 1, 500)
    found = aa_check(mean_table(values), list(range(500)), splits=1000)["ratio"]
    assert found.clustered == found.naive == pytest.approx(0.05, abs=0.025)
    assert found.design_effect == pytest.approx(1.0)


def test_unscored_samples_change_neither_effect_nor_check():
    values, ids = clustered_values(np.random.default_rng(22), 40, 4, 0.2)
    more = np.vstack([mean_table(values).rows, np.zeros((7, 2))])
    padded, names = Table(more, Ratio()), [*ids.tolist(), *range(1000, 1007)]
    assert minimum_detectable_effect(padded, names) == minimum_detectable_effect(mean_table(values), ids.tolist())
    assert aa_check(padded, names, splits=100) == aa_check(mean_table(values), ids.tolist(), splits=100)
    assert point(padded) == point(mean_table(values))
