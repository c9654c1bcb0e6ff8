"""What surrounds the network of RadGraph: how a report becomes words, and how spans become RadGraph's JSON form.

Both follow the package radgraph 0.1.18, oddities included, since the words decide what can match. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

Annotation = dict[str, Any]
"""`{"text": words joined by blanks, "entities": {"1": {"tokens", "label", "start_ix", "end_ix", "relations"}}}`."""

EMPTY = "None"
"""What an empty report is annotated as."""

_SPLIT = re.compile("(?<! )(?=[/,-,:,.,!?()])|(?<=[/,-,:,.,!?()])(?! )")
"""Where model type `radgraph` puts a blank. `,-,` is a range from comma to comma, so a hyphen does not split."""

_WORD_OR_MARKS = re.compile(r"\w+|[^\w\s]+")
_ESCAPES = (("\\n", "  "), ("\\f", "  "), ("\\u2122", " " * 6), ("\n", " "), ('\\"', "``"))
"""Written-out escapes (a backslash and a letter) that model type `radgraph-xl` replaces first."""
_APART = ((").", ") ."), ("%.", "% ."), (".'", ". '"), ("%,", "% ,"), ("%)", "% )"))


def words(report: str, kind: str) -> list[str]:
    """Split a report into words as a model type does; an empty one is the word `None`, as in the package.

    >>> words("Clear. X-ray/CT (PA).", "radgraph")
    ['Clear', '.', 'X-ray', '/', 'CT', '(', 'PA', ')', '.']
    >>> words("Clear. X-ray (PA).", "radgraph-xl")
    ['Clear', '.', 'X', '-', 'ray', '(', 'PA', ')', '.']
    """
    text = report or EMPTY
    if kind == "radgraph":
        return _SPLIT.sub(" ", text).split()
    for old, new in _ESCAPES:
        text = text.replace(old, new)
    text = " ".join(_WORD_OR_MARKS.findall(text))
    for old, new in _APART:
        text = text.replace(old, new)
    return text.split()


def as_token(word: str) -> str:
    """What is embedded for a word: `/.` and `/?` lose their slash."""
    return word[1:] if word in ("/.", "/?") else word


def annotation(
    said: Sequence[str], spans: Sequence[tuple[int, int, str]], relations: Sequence[tuple[int, int, str]]
) -> Annotation:
    """RadGraph's JSON form.

    `said`: the words; `spans`: first word, last word (included), label of each entity, in order; `relations`: index of
    the entity it starts from, index of the one it points to, label.
    """
    starting: list[list[list[str]]] = [[] for _ in spans]
    for source, target, label in relations:
        starting[source].append([label, str(target + 1)])
    return {
        "text": " ".join(said),
        "entities": {
            str(number): {
                "tokens": " ".join(said[start : end + 1]),
                "label": label,
                "start_ix": start,
                "end_ix": end,
                "relations": starting[number - 1],
            }
            for number, (start, end, label) in enumerate(spans, 1)
        },
    }
