"""Which hidden state stands for a word piece where RadGraph's tokenizer puts no marks around a row. No torch.

Archives whose tokenizer is of transformers' generic fast class, as ModernBERT's is, go through the package radgraph in
an odd way: it counts a mark of start and one of end around every row, but that class adds none. So every word gets the
states of the pieces behind its own, the last piece has none, and a cut between two rows costs one more on either side.
The published figures of modern-radgraph-xl were made like that, so it is part of the annotator.
"""

from __future__ import annotations

GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Tokenizer classes that put no marks around the rows the package cuts."""


def states_of_pieces(pieces: int, longest: int) -> list[int | None]:
    """For each of `pieces` word pieces of a report the number of the state that stands for it, or None for no state.

    States are numbered through the rows of `longest` pieces each.

    >>> states_of_pieces(5, 8)
    [1, 2, 3, 4, None]
    >>> states_of_pieces(10, 6)
    [1, 2, 3, 4, 7, 8, 9, None, None, None]
    """
    rows = -(-pieces // longest)
    left = pieces - 2 * (rows - 1)
    inner = [row * longest + at for row in range(rows) for at in range(1, longest - 1)]
    # What is left of a report: its first state, the inner states of every row, and its last state in the last place.
    kept = [0, *inner[: left - 2], pieces - 1] if left > 1 else [0]
    return [kept[piece + 1] if piece + 1 < left else None for piece in range(pieces)]
