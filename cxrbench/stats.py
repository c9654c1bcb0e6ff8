"""Intervals for stored statistics: resample patients, never samples. Touches numpy and errors only.

A metric leaves one row of sufficient statistics per sample. The corpus value is a function of their column sums, so a
bootstrap replicate is a weighted sum: all replicates of all metrics are one matrix product, replicates x patients times
patients x columns. Metrics that are no function of sums get the weights of the samples instead.

The tests built on the same sums (randomisation, non-inferiority, ...) are in `stats_tests`; docs/statistics.md has the
reasons, the formulas and their sources.

Randomness: the raw 64-bit output of PCG64(seed), which numpy guarantees never to change (its `Generator` methods may),
turned into indices and coins here. So an interval is the same on every machine and numpy, does not depend on the
chunk size, and a longer run begins with the replicates of a shorter one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cxrbench.errors import CxrbenchError, Exit

Floats = NDArray[np.float64]
Method = Literal["bca", "percentile"]
Values = dict[str, Floats]

MAX_UNDEFINED = 0.01
"""No interval when more than this share of replicates is 0/0: leaving out a share u can move an end by u of the
distribution. A label that five patients have is missing from 0.7 % of replicates (exp(-5)), one that four have from
1.8 %."""

FEW_CLUSTERS = 10
"""Below this many clusters an interval is given with a warning in its note: it covers less than it says."""

JACKKNIFE_LIMIT = 5_000
"""A metric that is no function of sums is not jackknifed over more clusters than this (quadratic in them)."""

_CHUNK_WEIGHTS = 1 << 21
_SAME = 1e-12


class Valued(Protocol):
    """What is needed of a metric (`cxrbench.metrics.base.Metric` is one): how statistics become numbers."""

    @property
    def additive(self) -> bool:
        """Whether the value is a function of column sums."""

    def value(self, sums: Floats) -> Values:
        """Sums (..., k) -> name -> (...)."""

    def value_weighted(self, rows: Floats, weights: Floats) -> Values:
        """Rows (n, k), weights (b, n) -> name -> (b,)."""


@dataclass(frozen=True, slots=True)
class Table:
    """The stored statistics of one metric: `rows` (n, k), count in column 0, zero rows where nothing was scored."""

    rows: Floats
    metric: Valued

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which samples were scored, (n,)."""
        return np.asarray(self.rows[:, 0] > 0)

    def take(self, mask: NDArray[np.bool_]) -> Table:
        """The same table over a part of the samples (a subgroup, or those scored in both runs)."""
        return Table(self.rows[mask], self.metric)


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and where it may lie. `low` and `high` are None when there is no interval; `note` then says why.

    `method` is the one used, which may be "percentile" where BCa was asked for; `note` says why. `undefined` is the
    share of replicates that were 0/0. `clusters` counts clusters with a scored sample: only these are resampled.
    """

    value: float
    low: float | None
    high: float | None
    method: Literal["bca", "percentile", "none"]
    level: float
    replicates: int
    clusters: int
    undefined: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Which cluster each sample is in: `index` (n,) in 0..count-1. Ids are sorted, so sample order changes nothing."""

    index: NDArray[np.intp]
    count: int

    @classmethod
    def of(cls, ids: Sequence[Hashable]) -> Clusters:
        """Number the distinct ids in sorted order of type and text.

        >>> Clusters.of(["p2", "p1", "p2"])
        Clusters(index=array([1, 0, 1]), count=2)
        """
        names = {name: number for number, name in enumerate(sorted(set(ids), key=_type_and_text))}
        return cls(np.fromiter((names[name] for name in ids), np.intp, len(ids)), len(names))

    @classmethod
    def singles(cls, n: int) -> Clusters:
        """Every sample its own cluster."""
        return cls(np.arange(n), n)

    def sums(self, rows: Floats) -> Floats:
        """Add up the rows of each cluster: (n, k) -> (count, k)."""
        total = np.zeros((self.count, rows.shape[1]))
        for column in range(rows.shape[1]):
            total[:, column] = np.bincount(self.index, weights=rows[:, column], minlength=self.count)
        return total


def _type_and_text(name: Hashable) -> tuple[str, str]:
    return type(name).__name__, str(name)


def by_scored(tables: Mapping[str, Table], clusters: Sequence[Hashable]) -> list[tuple[dict[str, Table], Clusters]]:
    """The tables over their scored samples, and the clusters of these; tables with the same samples together.

    A cluster without a scored sample is no evidence: were it drawn, the number of those that are would be left to
    chance. Tables whose scored samples differ, but not their clusters, still see the same draws.
    """
    together: dict[bytes, list[str]] = {}
    for name, table in tables.items():
        together.setdefault(table.scored.tobytes(), []).append(name)
    out = []
    for names in together.values():
        scored = tables[names[0]].scored
        ids = [name for name, use in zip(clusters, scored, strict=True) if use]
        whole = bool(scored.all())
        out.append(({name: tables[name] if whole else tables[name].take(scored) for name in names}, Clusters.of(ids)))
    return out


def cluster_sums(rows: Floats, clusters: Sequence[Hashable]) -> Floats:
    """Add up rows (n, k) by cluster id; (G, k) in sorted order of the ids.

    >>> cluster_sums(np.array([[1.0, 5.0], [1.0, 2.0], [1.0, 1.0]]), ["b", "a", "b"])
    array([[1., 2.],
           [2., 6.]])
    """
    return Clusters.of(clusters).sums(rows)


def chunks(total: int, width: int, chunk: int | None = None) -> Iterator[int]:
    """Cut `total` replicates into pieces; by default as many as keep one (piece, width) matrix at 16 MB."""
    size = chunk if chunk is not None else max(1, _CHUNK_WEIGHTS // max(1, width))
    for start in range(0, total, size):
        yield min(size, total - start)


def resample_weights(n_clusters: int, replicates: int, seed: int, chunk: int | None = None) -> Iterator[Floats]:
    """Yield how often each cluster is drawn, (b, n_clusters) per chunk; every row sums to `n_clusters`.

    Replicate r uses ceil(G/2) words of the raw stream, two 32-bit numbers x in each (low half first); cluster
    floor(x G / 2^32) is drawn. No cluster's chance is off by more than a share of G / 2^32.
    """
    stream = np.random.PCG64(seed)
    words = (n_clusters + 1) // 2
    for size in chunks(replicates, n_clusters, chunk):
        raw = np.asarray(stream.random_raw(size * words), dtype="<u8").view("<u4").reshape(size, 2 * words)
        drawn = raw[:, :n_clusters].astype(np.int64)
        drawn *= n_clusters
        drawn >>= 32
        drawn += (np.arange(size) * n_clusters)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n_clusters)
        yield counts.reshape(size, n_clusters).astype(np.float64)


def coins(width: int, flips: int, seed: int, chunk: int | None = None) -> Iterator[Floats]:
    """Yield rows of fair coins, 0.0 or 1.0, (b, width) per chunk: bits of the raw stream, lowest first."""
    stream = np.random.PCG64(seed)
    words = (width + 63) // 64
    for size in chunks(flips, width, chunk):
        raw = np.asarray(stream.random_raw(size * words), dtype="<u8").view(np.uint8).reshape(size, 8 * words)
        yield np.unpackbits(raw, axis=1, count=width, bitorder="little").astype(np.float64)


def point(table: Table) -> dict[str, float]:
    """The values over all samples."""
    ones = np.ones((1, len(table.rows)))
    found = _values(table, table.rows.sum(axis=0)[None]) if table.metric.additive else _weighted(table, ones)
    return {name: float(value[0]) for name, value in found.items()}


def replicate(tables: Mapping[str, Table], clusters: Clusters, weights: Iterable[Floats]) -> dict[str, Values]:
    """Values of all tables under weights of the clusters, (b, G) per block: table -> value name -> (sum of b,)."""
    check_tables(tables, clusters.index)
    summed = {name: clusters.sums(table.rows) for name, table in tables.items() if table.metric.additive}
    stacked = np.hstack([*summed.values()]) if summed else np.zeros((clusters.count, 0))
    ends = np.cumsum([part.shape[1] for part in summed.values()])[:-1]
    products: list[Floats] = []
    blocks: dict[str, list[Values]] = {name: [] for name in tables if name not in summed}
    for block in weights:
        products.append(block @ stacked)
        for name, parts in blocks.items():
            parts.append(_weighted(tables[name], block[:, clusters.index]))
    out: dict[str, Values] = {}
    for name, sums in zip(summed, np.split(np.vstack(products), ends, axis=1), strict=bool(summed)):
        out[name] = _values(tables[name], sums)
    for name, parts in blocks.items():
        out[name] = {value: np.concatenate([part[value] for part in parts]) for value in parts[0]}
    return {name: out[name] for name in tables}


def jackknife(table: Table, clusters: Clusters) -> Values:
    """Values with one cluster left out at a time: name -> (G,)."""
    if table.metric.additive:
        sums = clusters.sums(table.rows)
        return _values(table, sums.sum(axis=0) - sums)
    blocks = []
    start = 0
    for size in chunks(clusters.count, len(table.rows)):
        left_out = np.arange(start, start + size)[:, None]
        blocks.append(_weighted(table, (clusters.index[None, :] != left_out).astype(np.float64)))
        start += size
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def bootstrap(
    tables: Mapping[str, Table],
    clusters: Sequence[Hashable],
    *,
    method: Method = "bca",
    level: float = 0.95,
    replicates: int = 10_000,
    seed: int = 0,
    max_undefined: float = MAX_UNDEFINED,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Interval]]:
    """Cluster-bootstrap intervals of all values of all tables, from the same resamples of the clusters scored.

    Args:
        tables: metric key -> statistics; all over the same n samples in the same order.
        clusters: n cluster ids (patients).
        method: "bca" (bias-corrected and accelerated) or "percentile".
        level: two-sided coverage.
        replicates: number of resamples; at least 100.
        seed: of the random stream; equal seeds and clusters give equal resamples in every call.
        max_undefined: no interval when more than this share of replicates is 0/0.
        progress: called with the number of replicates that are done, and of all; tables that were scored on different
            samples have replicates of their own.

    Raises:
        CxrbenchError: a setting makes no sense, or statistics hold NaN or infinity.
    """
    _check_settings(level, replicates)
    check_tables(tables, clusters)
    parts = by_scored(tables, clusters)
    out: dict[str, dict[str, Interval]] = {}
    for number, (kept, groups) in enumerate(parts):
        weights = resample_weights(groups.count, replicates, seed)
        if progress is not None:
            weights = _watched(weights, number * replicates, len(parts) * replicates, progress)
        draws = replicate(kept, groups, weights)
        for name, table in kept.items():
            out[name] = _intervals(table, groups, draws[name], method, level, max_undefined)
    return {name: out[name] for name in tables}


def _intervals(
    table: Table, groups: Clusters, draws: Values, method: Method, level: float, max_undefined: float
) -> dict[str, Interval]:
    """Intervals of all values of one table, every sample of which was scored."""
    left_out, why = _left_out(table, groups) if method == "bca" and groups.count > 1 else (None, "")
    return {
        value: interval(
            number, draws[value], left_out[value] if left_out else None, level, groups.count, max_undefined, why
        )
        for value, number in point(table).items()
    }


def _watched(
    weights: Iterable[Floats], done: int, total: int, progress: Callable[[int, int], None]
) -> Iterator[Floats]:
    """Hand on blocks of weights and say how many of all replicates are worked off."""
    for block in weights:
        progress(done, total)
        yield block
        done += len(block)
    progress(done, total)


def interval(
    value: float,
    draws: Floats,
    left_out: Floats | None,
    level: float,
    clusters: int,
    max_undefined: float = MAX_UNDEFINED,
    why: str = "",
) -> Interval:
    """Make an interval of a value from its replicates and, for BCa, its jackknife values (None: percentile).

    `why` is the reason why there are no jackknife values although BCa was asked for.
    """
    total, undefined = len(draws), float(np.mean(np.isnan(draws)))

    def none(note: str) -> Interval:
        return Interval(value, None, None, "none", level, total, clusters, undefined, note)

    if np.isnan(value):
        return none("the value is undefined (0/0)")
    if clusters < 2:
        return none("needs at least two clusters")
    if undefined > max_undefined:
        return none(f"undefined (0/0) in {undefined:.1%} of replicates, more than {max_undefined:.1%}")
    draws = draws[~np.isnan(draws)]
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    adjusted, reason = (None, why) if left_out is None else _bca_tails(value, draws, left_out, tails)
    low, high = np.quantile(draws, tails if adjusted is None else adjusted)
    notes = [reason] if reason else []
    if clusters < FEW_CLUSTERS:
        notes.append(f"only {clusters} clusters: covers less than stated")
    used: Method = "percentile" if adjusted is None else "bca"
    return Interval(value, float(low), float(high), used, level, total, clusters, undefined, "; ".join(notes))


def difference(baseline: Table, candidate: Table) -> Table:
    """A table whose values are candidate minus baseline: with it every interval here is a paired one.

    Raises:
        CxrbenchError: the two runs were not scored on the same samples.
    """
    if baseline.rows.shape != candidate.rows.shape:
        raise ValueError(f"tables of different shape: {baseline.rows.shape} and {candidate.rows.shape}")
    only_first = int(np.count_nonzero(baseline.scored & ~candidate.scored))
    only_second = int(np.count_nonzero(candidate.scored & ~baseline.scored))
    if only_first or only_second:
        raise CxrbenchError(
            "the two runs were not scored on the same samples",
            where=f"{only_first} scored in the baseline only, {only_second} in the candidate only",
            fix="compare the samples both have",
            code=Exit.UNDECIDED,
        )
    return Table(np.hstack([baseline.rows, candidate.rows]), _Difference(baseline.metric, baseline.rows.shape[1]))


@dataclass(frozen=True, slots=True)
class _Difference:
    """The metric behind `difference`: rows are the baseline's columns, then the candidate's."""

    metric: Valued
    width: int

    @property
    def additive(self) -> bool:
        return self.metric.additive

    def value(self, sums: Floats) -> Values:
        first, second = self.metric.value(sums[..., : self.width]), self.metric.value(sums[..., self.width :])
        return {name: second[name] - first[name] for name in first}

    def value_weighted(self, rows: Floats, weights: Floats) -> Values:
        first = self.metric.value_weighted(rows[:, : self.width], weights)
        second = self.metric.value_weighted(rows[:, self.width :], weights)
        return {name: second[name] - first[name] for name in first}


def check_tables(tables: Mapping[str, Table], clusters: Sized) -> None:
    """Refuse tables of another length than the clusters, and statistics that are not finite (they would spread)."""
    for name, table in tables.items():
        if len(table.rows) != len(clusters):
            raise ValueError(f"{name}: {len(table.rows)} rows but {len(clusters)} cluster ids")
        broken = int(np.count_nonzero(~np.isfinite(table.rows).all(axis=1)))
        if broken:
            raise CxrbenchError(
                f"the statistics of {name} hold NaN or infinity for {broken} of {len(table.rows)} samples",
                where=name,
                fix="score the run again; a metric marks what it cannot score as failed, with a row of zeros",
                code=Exit.INFRASTRUCTURE,
            )


def _check_settings(level: float, replicates: int) -> None:
    if not 0.5 <= level < 1:
        raise CxrbenchError(f"a confidence level of {level} makes no sense", fix="give a level from 0.5 to 0.999")
    if replicates < 100:
        raise CxrbenchError(f"{replicates} replicates cannot carry an interval", fix="give at least 100, or 10000")


def _values(table: Table, sums: Floats) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: np.asarray(value, np.float64) for name, value in table.metric.value(sums).items()}


def _weighted(table: Table, weights: Floats) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = table.metric.value_weighted(table.rows, weights)
    return {name: np.asarray(value, np.float64) for name, value in found.items()}


def _left_out(table: Table, clusters: Clusters) -> tuple[Values | None, str]:
    if not table.metric.additive and clusters.count > JACKKNIFE_LIMIT:
        return None, f"percentile: no jackknife of this metric over more than {JACKKNIFE_LIMIT} clusters"
    return jackknife(table, clusters), ""


def _bca_tails(value: float, draws: Floats, left_out: Floats, tails: Floats) -> tuple[Floats | None, str]:
    """Tail probabilities of the BCa interval (Efron 1987), or None and the reason why there are none."""
    slack = _SAME * abs(value)
    if np.isnan(left_out).any():
        return None, "percentile: the value is undefined (0/0) without one of the clusters"
    centred = left_out.mean() - left_out
    if np.abs(centred).max() <= slack:
        return None, "percentile: the value does not change when a cluster is left out"
    below = np.mean((draws < value - slack) + 0.5 * (np.abs(draws - value) <= slack))
    if not 0 < below < 1:
        return None, "percentile: all replicates lie on one side of the value"
    normal = NormalDist()
    bias = normal.inv_cdf(float(below))
    acceleration = float((centred**3).sum() / (6 * (centred**2).sum() ** 1.5))
    reach = bias + np.array([normal.inv_cdf(float(tail)) for tail in tails])
    scale = 1 - acceleration * reach
    if (scale <= 0).any():
        return None, "percentile: the acceleration is too large for BCa"
    return np.array([normal.cdf(float(z)) for z in bias + reach / scale]), ""
