"""Which cells of subgroup tables are hidden: small ones, and further ones that would tell of them. numpy only.

A value and its count tell a sum, so whoever sees the total and all cells but one knows that one, and whoever sees two
groupings of the same samples may subtract across them. What must stay unknown is no combination of what is shown:
the small groups, and the few that are left where a group is taken from the total or from one that holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Cell = tuple[str, str]
"""(column, group)."""

_LEFT = 1e-6
"""A cell of which shown ones leave so little is their combination: masks are 0 and 1, what is left is rounding."""


def patients_of(mask: Mask, clusters: Sequence[str]) -> set[str]:
    """The patients of the samples in a mask."""
    return {clusters[int(i)] for i in np.flatnonzero(mask)}


def hidden_cells(
    columns: Mapping[str, Mapping[str, Mask]], total: Mask, clusters: Sequence[str], fewest: int
) -> dict[str, frozenset[str]]:
    """Column -> groups that are not shown, of tables that somebody sees together.

    Within a column: groups of fewer than `fewest` patients, and the next smallest until what is hidden is no single
    group and of enough patients together (the total and the others tell of all of them together). Across columns: the
    smallest shown group that takes part, as long as a set of too few patients is a combination of shown ones. Such sets
    are the groups, and what is left of the total or of a group without another group that lies within it.

    Args:
        columns: column -> group -> which of the n samples are in it and were scored.
        total: which of the n samples were scored; the value over all of them is known.
        clusters: n ids of patients.
        fewest: patients below which a group is hidden.
    """
    members = {
        column: {name: patients_of(mask, clusters) for name, mask in groups.items() if mask.any()}
        for column, groups in columns.items()
    }
    hidden = {column: _within(groups, frozenset(), fewest) for column, groups in members.items()}
    cells = {(c, name): mask for c, groups in columns.items() for name, mask in groups.items() if mask.any()}
    rows, kinds = _patterns(cells, total)
    few = _of_few(rows, kinds, np.array(clusters)[total], fewest)
    while (told := next((each for each in few if _combined(rows, each, _shown(rows, hidden))), None)) is not None:
        column, name = _next_hidden(rows, told, members, hidden, fewest)
        hidden[column] = _within(members[column], hidden[column] | {name}, fewest)
    return hidden


def _shown(rows: Mapping[Cell, NDArray[np.float64]], hidden: Mapping[str, frozenset[str]]) -> list[Cell]:
    return [cell for cell in rows if cell[1] not in hidden[cell[0]]]


def _next_hidden(
    rows: Mapping[Cell, NDArray[np.float64]],
    told: NDArray[np.float64],
    members: Mapping[str, Mapping[str, set[str]]],
    hidden: Mapping[str, frozenset[str]],
    fewest: int,
) -> Cell:
    """The smallest shown cell without which `told` is not told; where there is none, the smallest that takes part."""
    parts = _combined(rows, told, _shown(rows, hidden))
    by_size = sorted(parts, key=lambda cell: (len(members[cell[0]][cell[1]]), cell))
    for column, name in by_size:
        less = {**hidden, column: _within(members[column], hidden[column] | {name}, fewest)}
        if not _combined(rows, told, _shown(rows, less)):
            return column, name
    return by_size[0]


def _within(members: Mapping[str, set[str]], hidden: frozenset[str], fewest: int) -> frozenset[str]:
    """The hidden groups of one column, from those that are hidden already."""
    out = set(hidden)
    together: set[str] = {patient for name in hidden for patient in members[name]}
    for name in sorted(members, key=lambda name: (len(members[name]), name)):
        small = len(members[name]) < fewest
        if name not in out and (small or (out and (len(out) == 1 or len(together) < fewest))):
            out.add(name)
            together |= members[name]
    return frozenset(out)


def _patterns(cells: Mapping[Cell, Mask], total: Mask) -> tuple[dict[Cell, NDArray[np.float64]], NDArray[np.intp]]:
    """Cells as 0/1 rows over the kinds of scored samples (those in the same groups are one), and each sample's kind."""
    if not cells:
        return {}, np.zeros(0, np.intp)
    rows, kinds = np.unique(np.stack([*cells.values()])[:, total], axis=1, return_inverse=True)
    return {cell: row.astype(np.float64) for cell, row in zip(cells, rows, strict=True)}, kinds.reshape(-1)


def _of_few(
    rows: Mapping[Cell, NDArray[np.float64]], kinds: NDArray[np.intp], clusters: NDArray[np.str_], fewest: int
) -> list[NDArray[np.float64]]:
    """The sets of too few patients that nobody may work out, as rows of `_patterns`."""
    if not rows:
        return []
    groups = [*rows.values()]
    whole = [np.ones_like(groups[0]), *groups]
    left = [one - two for one in whole for two in groups if (one >= two).all() and (one > two).any()]
    sets = np.unique(np.stack([*groups, *left]), axis=0)
    patients = np.unique(clusters, return_inverse=True)[1]
    return [each for each in sets if np.count_nonzero(np.bincount(patients[each[kinds] > 0])) < fewest]


def _combined(
    rows: Mapping[Cell, NDArray[np.float64]], wanted: NDArray[np.float64], shown: Sequence[Cell]
) -> list[Cell]:
    """The shown cells that, added and subtracted with the total, give a wanted row; none where they cannot."""
    basis = np.stack([np.ones_like(wanted), *(rows[each] for each in shown)], axis=1)
    weights = np.linalg.lstsq(basis, wanted, rcond=None)[0]
    if float(np.abs(basis @ weights - wanted).max()) > _LEFT:
        return []
    return [each for each, weight in zip(shown, weights[1:], strict=True) if abs(weight) > _LEFT]
