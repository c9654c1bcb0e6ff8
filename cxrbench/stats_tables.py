"""Stored statistics, the clusters of their samples, and what is drawn of these. Touches numpy and errors only.

A metric leaves one row of sufficient statistics per sample. The corpus value is a function of their column sums, so a
bootstrap replicate is a weighted sum: all replicates of all metrics are one matrix product, replicates x patients times
patients x columns. Metrics that are no function of sums get the weights of the samples instead.

Randomness: the raw 64-bit output of PCG64(seed), which numpy guarantees never to change (its `Generator` methods may),
turned into indices and coins here. So an interval is the same on every machine and numpy, does not depend on the
chunk size, and a longer run begins with the replicates of a shorter one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cxrbench.errors import CxrbenchError, Exit

Floats = NDArray[np.float64]
Values = dict[str, Floats]

_CHUNK_WEIGHTS = 1 << 21


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
    if table.metric.additive:
        found = _values(table, table.rows.sum(axis=0, dtype=np.float64)[None])
    else:
        found = _weighted(table, np.ones((1, len(table.rows))))
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


def _values(table: Table, sums: Floats) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: np.asarray(value, np.float64) for name, value in table.metric.value(sums).items()}


def _weighted(table: Table, weights: Floats) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = table.metric.value_weighted(table.rows, weights)
    return {name: np.asarray(value, np.float64) for name, value in found.items()}
