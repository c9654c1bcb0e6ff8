"""Which cells of subgroup tables are hidden: small ones, and further ones that would tell of them. numpy only.

A value and its count tell a sum, so whoever sees the total and all cells but one knows that one, and whoever sees two
groupings of the same samples may subtract across them. What must stay unknown is no combination of what is shown:
the small groups, and the few that are left where a group is taken from the total or from one that holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrbench.spans import Ints, Span, products

Mask = NDArray[np.bool_]
Numbers = NDArray[np.intp]
Cell = tuple[str, str]
"""(column, group)."""


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
            _hidden(held, heads, basis, who, fewest),
            _hidden(heads, heads, counted, np.arange(len(counted)), fewest, remainders=False),
        ):
            hidden = {c: names | found[c] for c, names in hidden.items()}
    return hidden


def _numbered(clusters: Sequence[str]) -> Numbers:
    return np.unique(np.array(clusters), return_inverse=True)[1]


def _heads(mask: Mask, who: Numbers) -> Mask:
    """Which patients have a sample in a mask."""
    return np.bincount(who[mask], minlength=int(who.max(initial=-1)) + 1) > 0


def _hidden(
    columns: Mapping[str, Mapping[str, Mask]],
    heads: Mapping[str, Mapping[str, Mask]],
    total: Mask,
    who: Numbers,
    fewest: int,
    *,
    remainders: bool = True,
) -> dict[str, frozenset[str]]:
    """Column -> groups that are not shown, of tables of one number that somebody sees together.

    Within a column: groups of fewer than `fewest` patients, and the next smallest until what is hidden is no single
    group and of enough patients together (the total and the others tell of all of them together). Across columns: the
    smallest shown group that takes part, as long as a set of too few patients is a combination of shown ones. Such sets
    are the groups, and what is left of the total or of a group without another group that lies within it.

    Args:
        columns: column -> group -> which of the n samples are in it and were scored.
        heads: the same of patients.
        total: which of the n samples were scored; the value over all of them is known.
        who: (n,) numbers of their patients.
        fewest: patients below which a group is hidden.
        remainders: False where what groups leave of others is not protected.
    """
    cells = {(c, name): mask for c, groups in columns.items() for name, mask in groups.items() if mask.any()}
    members = {
        c: _Column.of({name: mask for name, mask in groups.items() if mask.any()}) for c, groups in heads.items()
    }
    hidden = {column: groups.hidden_with(frozenset(), fewest) for column, groups in members.items()}
    # The whole comes first; the last stands for nothing, which leaves all of a set.
    rows = np.stack([total, *cells.values(), np.zeros_like(total)])[:, total]
    shared = products(rows)
    few = _few(rows, shared, who[total], fewest, remainders)
    if not len(few):
        return hidden
    span = Span.of(shared, range(len(rows)))
    while shown := {cell: at for at, cell in enumerate(cells, 1) if cell[1] not in hidden[cell[0]]}:
        span = Span.of(span.reduced, [0, *shown.values()])
        told = few[span.gives(few)]
        if not len(told):
            break
        column, name = _next_hidden(span, told[0], [*shown], members, hidden, fewest)
        hidden[column] = members[column].hidden_with(hidden[column] | {name}, fewest)
    return hidden


def _next_hidden(
    span: Span,
    told: Ints,
    shown: Sequence[Cell],
    members: Mapping[str, _Column],
    hidden: Mapping[str, frozenset[str]],
    fewest: int,
) -> Cell:
    """The smallest shown cell without which `told` is not told; where there is none, the smallest that takes part.

    `span` is made of the total and the shown cells, in their order.
    """
    parts: list[Cell] = [shown[place - 1] for place in span.parts(told).tolist() if place]
    by_size = sorted(parts, key=lambda cell: (members[cell[0]].sizes[cell[1]], cell))
    for column, name in by_size:
        less = members[column].hidden_with(hidden[column] | {name}, fewest)
        gone = [place for place, cell in enumerate(shown, 1) if cell[0] == column and cell[1] in less]
        if not span.gives_without(told, gone):
            return column, name
    return by_size[0]


@dataclass(frozen=True, slots=True)
class _Column:
    """The groups of one column that are not empty: which patients are in them, and how many."""

    heads: Mapping[str, Mask]
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, heads: Mapping[str, Mask]) -> _Column:
        return cls(heads, {name: int(np.count_nonzero(mask)) for name, mask in heads.items()})

    def hidden_with(self, hidden: frozenset[str], fewest: int) -> frozenset[str]:
        """The hidden groups, from those that are hidden already."""
        out = set(hidden)
        for name in sorted(self.sizes, key=lambda name: (self.sizes[name], name)):
            if self.sizes[name] >= fewest and (not out or (len(out) > 1 and self._enough(out, fewest))):
                break  # as are all that follow
            out.add(name)
        return frozenset(out)

    def _enough(self, names: Set[str], fewest: int) -> bool:
        """Whether groups are of enough patients together."""
        if any(self.sizes[name] >= fewest for name in names):
            return True
        return int(np.count_nonzero(np.any([self.heads[name] for name in names], axis=0))) >= fewest


def _few(rows: NDArray[np.bool_], shared: Ints, who: Numbers, fewest: int, remainders: bool) -> Ints:
    """(t, 2) sets of too few patients that nobody may work out, each as a row and one that is taken from it.

    Sets are the groups and, with `remainders`, what is left of the total or of a group without a group within it.
    """
    size = shared.diagonal()
    pairs = np.argwhere((shared == size) & (size[:, None] > size))  # all of the second is in the first
    if not remainders:
        pairs = pairs[pairs[:, 1] == len(rows) - 1]
    at_most = np.sort(np.bincount(who))[::-1][: max(0, fewest - 1)].sum()  # samples that so few patients have
    pairs = pairs[size[pairs[:, 0]] - size[pairs[:, 1]] <= at_most]
    found = []
    for one, other in pairs.tolist():
        inside = np.flatnonzero(rows[one] & ~rows[other])
        if len(np.unique(who[inside])) < fewest:
            found.append(((one, other), inside))
    keys = _order(rows, [inside for _, inside in found])
    different = {key: pair for key, (pair, _) in zip(keys, found, strict=True)}
    return np.array([different[key] for key in sorted(different)], np.int64).reshape(-1, 2)


def _order(rows: NDArray[np.bool_], sets: Sequence[Numbers]) -> list[tuple[int, ...]]:
    """What to sort sets by, the same for the same samples: which kinds of samples (those in the same rows) are in them.

    The order is that of these as binary numbers, whatever the order of samples is.
    """
    touched = np.unique(np.concatenate([*sets, np.zeros(0, np.intp)]))
    packed = np.ascontiguousarray(np.packbits(rows[:, touched], axis=0).T)
    kinds = np.unique(packed.view(np.dtype((np.void, packed.shape[1]))).ravel(), return_inverse=True)[1]
    return [tuple(-np.unique(kinds[np.searchsorted(touched, inside)])) for inside in sets]
