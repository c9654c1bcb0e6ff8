"""Which cells of subgroup tables are hidden: small ones, and further ones that would tell of them. numpy only.

A value and its count tell a sum, so whoever sees the total and all cells but one knows that one, and whoever sees two
groupings of the same samples may subtract across them. What must stay unknown is no combination of what is shown:
the small groups, and the few that are left where a group is taken from the total or from one that holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Numbers = NDArray[np.intp]
Row = NDArray[np.float64]
Cell = tuple[str, str]
"""(column, group)."""

Rows = Mapping[Cell, Row]
WHOLE: Cell = ("", "")
"""Stands for all samples that were scored, among the cells."""

_LEFT = 1e-6
"""A cell of which shown ones leave so little is their combination: masks are 0 and 1, what is left is rounding."""


def patients_of(mask: Mask, clusters: Sequence[str]) -> set[str]:
    """The patients of the samples in a mask."""
    return {clusters[int(i)] for i in np.flatnonzero(mask)}


def hidden_on_any(
    columns: Mapping[str, Mapping[str, Mask]], bases: Iterable[Mask], clusters: Sequence[str], fewest: int
) -> dict[str, frozenset[str]]:
    """Column -> groups that are not shown, where a cell tells several numbers that do not all rest on the same samples.

    A cell is hidden as a whole, and so wherever one of its numbers has to be. Numbers of patients stand beside them: no
    sum and difference of those may count a hidden group either.

    Args:
        columns: column -> group -> which of the n samples are in it.
        bases: which of the n samples a number rests on, each once or more; one of none tells nothing.
        clusters: n ids of patients.
        fewest: patients below which a group is hidden.
    """
    who = _numbered(clusters)
    hidden = dict.fromkeys(columns, frozenset[str]())
    for basis in {basis.tobytes(): basis for basis in bases if basis.any()}.values():
        held = {c: {name: mask & basis for name, mask in groups.items()} for c, groups in columns.items()}
        heads = {c: {name: _heads(mask, who) for name, mask in groups.items()} for c, groups in held.items()}
        counted = _heads(basis, who)
        for found in (
            _hidden(held, basis, who, fewest),
            _hidden(heads, counted, np.arange(len(counted)), fewest, remainders=False),
        ):
            hidden = {c: names | found[c] for c, names in hidden.items()}
    return hidden


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
    return _hidden(columns, total, _numbered(clusters), fewest)


def _numbered(clusters: Sequence[str]) -> Numbers:
    return np.unique(np.array(clusters), return_inverse=True)[1]


def _heads(mask: Mask, who: Numbers) -> Mask:
    """Which patients have a sample in a mask."""
    return np.bincount(who[mask], minlength=int(who.max(initial=-1)) + 1) > 0


def _hidden(
    columns: Mapping[str, Mapping[str, Mask]], total: Mask, who: Numbers, fewest: int, *, remainders: bool = True
) -> dict[str, frozenset[str]]:
    """`hidden_cells` of numbered patients. `remainders` False: what groups leave of others is not protected."""
    cells = {(c, name): mask for c, groups in columns.items() for name, mask in groups.items() if mask.any()}
    members: dict[str, dict[str, Mask]] = {column: {} for column in columns}
    for (column, name), mask in cells.items():
        members[column][name] = _heads(mask, who)
    hidden = {column: _within(groups, frozenset(), fewest) for column, groups in members.items()}
    if not cells:
        return hidden
    rows, few = _spanned(*_patterns(cells, total), who[total], fewest, remainders)
    for told in few:
        while _combined(rows, told, _shown(rows, hidden)):
            column, name = _next_hidden(rows, told, members, hidden, fewest)
            hidden[column] = _within(members[column], hidden[column] | {name}, fewest)
    return hidden


def _shown(rows: Rows, hidden: Mapping[str, frozenset[str]]) -> list[Cell]:
    return [cell for cell in rows if cell is not WHOLE and cell[1] not in hidden[cell[0]]]


def _next_hidden(
    rows: Rows,
    told: Row,
    members: Mapping[str, Mapping[str, Mask]],
    hidden: Mapping[str, frozenset[str]],
    fewest: int,
) -> Cell:
    """The smallest shown cell without which `told` is not told; where there is none, the smallest that takes part."""
    parts = _combined(rows, told, _shown(rows, hidden))
    by_size = sorted(parts, key=lambda cell: (int(members[cell[0]][cell[1]].sum()), cell))
    for column, name in by_size:
        less = {**hidden, column: _within(members[column], hidden[column] | {name}, fewest)}
        if not _combined(rows, told, _shown(rows, less)):
            return column, name
    return by_size[0]


def _within(members: Mapping[str, Mask], hidden: frozenset[str], fewest: int) -> frozenset[str]:
    """The hidden groups of one column, from those that are hidden already."""
    out = set(hidden)
    together = np.any([members[name] for name in hidden], axis=0) if hidden else np.zeros(1, bool)
    sizes = {name: int(heads.sum()) for name, heads in members.items()}
    for name in sorted(members, key=lambda name: (sizes[name], name)):
        small = sizes[name] < fewest
        if name not in out and (small or (out and (len(out) == 1 or together.sum() < fewest))):
            out.add(name)
            together = together | members[name]
    return frozenset(out)


def _patterns(cells: Mapping[Cell, Mask], total: Mask) -> tuple[Rows, Numbers]:
    """Cells and the total as 0/1 rows over kinds of scored samples (those in the same groups), and each one's kind."""
    masks = np.stack([total, *cells.values()])[:, total]
    packed = np.ascontiguousarray(np.packbits(masks, axis=0).T)
    _, first, kinds = np.unique(
        packed.view(np.dtype((np.void, packed.shape[1]))).ravel(), return_index=True, return_inverse=True
    )
    return dict(zip((WHOLE, *cells), masks[:, first].astype(np.float64), strict=True)), kinds


def _spanned(rows: Rows, kinds: Numbers, who: Numbers, fewest: int, remainders: bool) -> tuple[Rows, list[Row]]:
    """Rows of `_patterns` and the sets of too few patients that nobody may work out, in the fewest numbers.

    Sets are the groups and, with `remainders`, what is left of the total or of a group without a group within it. Where
    none is of too few, nothing has to be worked out, and both are empty.
    """
    known = np.stack([*rows.values()])
    shared = known @ known.T
    size = shared.diagonal()
    wider, within = np.nonzero((shared == size) & (size[:, None] > size))  # all of the second is in the first
    left = known[wider] - known[within] if remainders else known[:0]
    sets = np.unique(np.vstack([known[1:], left]), axis=0)
    few = [each for each in sets if np.count_nonzero(np.bincount(who[each[kinds] > 0])) < fewest]
    if not few:
        return {}, []
    axes = np.linalg.qr(known.T)[0]
    return {cell: row @ axes for cell, row in rows.items()}, [each @ axes for each in few]


def _combined(rows: Rows, wanted: Row, shown: Sequence[Cell]) -> list[Cell]:
    """The shown cells that, added and subtracted with the total, give a wanted row; none where they cannot."""
    basis = np.stack([rows[WHOLE], *(rows[each] for each in shown)], axis=1)
    weights = np.linalg.lstsq(basis, wanted, rcond=None)[0]
    if float(np.linalg.norm(basis @ weights - wanted)) > _LEFT:
        return []
    return [each for each, weight in zip(shown, weights[1:], strict=True) if abs(weight) > _LEFT]
