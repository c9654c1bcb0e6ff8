"""The text protocol most IU-Xray and MIMIC-CXR tables rest on: R2Gen's cleaning, its vocabulary and its cut.

R2Gen (Chen et al., EMNLP 2020) scores what comes back out of its own tokenizer, so every paper that built on its code
compares cleaned reports with cleaned, shortened references whose rare words are `<unk>`. This module states that rule
as tables; it touches the standard library only.

The rule, as read from the published protocol (cuhksz-nlp/R2Gen, `modules/tokenizers.py` and `modules/datasets.py`;
no code taken) and checked on the CvT2DistilGPT2 predictions, whose published table it reproduces:

1. replacements on the whole text, in order (`REPLACEMENTS`): doubled full stops, list numbers 1 to 5;
2. lower case, split into sentences at ". ";
3. in every sentence quotes and slashes vanish, then every character of `PUNCTUATION` (a range from `:` to `[` in the
   original also takes `<`, `=`, `>`, `@`); a decimal loses its point ("4.8 cm" becomes "48 cm"), hyphens stay;
4. sentences are joined by " . " and closed by " ."; empty ones stay, as two full stops.

What is scored comes out of a tokenizer, so `conventions.process` leaves single spaces where the rule left several.
There predictions are never cleaned: they are decoded tokens, `<unk>` among them. Here predictions are any text, so they
are cleaned by the same rule, except where they are such tokens already (`clean_prediction`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

Cleaner = Literal["iu", "mimic"]

LIST_NUMBERS = (
    ("1. ", "", 1),
    *((f". {number}. ", ". ", 1) for number in (2, 3, 4, 5)),
    *((f" {number}. ", ". ", 1) for number in (2, 3, 4, 5)),
)

REPLACEMENTS: dict[Cleaner, tuple[tuple[str, str, int], ...]] = {
    "iu": (("..", ".", 3), *LIST_NUMBERS),
    "mimic": (("\n", " ", 1), ("__", "_", 7), ("  ", " ", 6), ("..", ".", 8), *LIST_NUMBERS),
}
"""(what, by what, how many passes) in order. A pass halves a run, so long runs of full stops survive few passes."""

QUOTES = "\"/\\'"
PUNCTUATION = ".,?;*!%^&_+():<=>@[]{}"
UNKNOWN = "<unk>"

_NO_QUOTES = str.maketrans("", "", QUOTES)
_NO_PUNCTUATION = str.maketrans("", "", PUNCTUATION)


def clean(text: str, cleaner: Cleaner) -> str:
    """Return the cleaned report.

    >>> clean("1. The heart is 4.8 cm, enlarged.. 2. No effusion/edema.", "iu")
    'the heart is 48 cm enlarged . no effusionedema .'
    >>> clean("", "iu")
    ' .'
    """
    sentences = (part.translate(_NO_QUOTES).strip() for part in _sentences(text, cleaner))
    return " . ".join(part.translate(_NO_PUNCTUATION) for part in sentences) + " ."


def clean_prediction(text: str, cleaner: Cleaner) -> str:
    """Return a cleaned prediction, single-spaced, as the tokenizer of the protocol would have decoded it.

    The token `<unk>` stays whole: references carry it too, and a model of this protocol writes it. A text that such a
    model decoded stays as it is, also where a length limit cut it off: nothing in it is left to clean, and a " . " or
    an `<unk>` shows that it is no prose, so no full stop is added.

    >>> clean_prediction("Heart is <unk>, clear.", "iu")
    'heart is <unk> clear .'
    >>> clean_prediction("lungs are clear . there is no", "iu")
    'lungs are clear . there is no'
    """
    sentences = (
        UNKNOWN.join(piece.translate(_NO_QUOTES).translate(_NO_PUNCTUATION) for piece in part.split(UNKNOWN))
        for part in _sentences(text, cleaner)
    )
    cleaned = " ".join(" . ".join(sentences).split())
    given = " ".join(text.split())
    decoded = cleaned == given and (" . " in given or UNKNOWN in given.split())
    return given if decoded else " ".join(f"{cleaned} .".split())


def _sentences(text: str, cleaner: Cleaner) -> list[str]:
    """The sentences after the replacements, lower case."""
    for what, by, passes in REPLACEMENTS[cleaner]:
        for _ in range(passes):
            if what not in text:
                break
            text = text.replace(what, by)
    return text.strip().lower().split(". ")


def shorten(cleaned: str, vocabulary: frozenset[str], cut: int) -> str:
    """Return the first `cut` tokens of a cleaned reference, words outside `vocabulary` as `<unk>`.

    R2Gen's `max_seq_length` (60 IU, 100 MIMIC) counts a leading 0, so `cut` is one less.

    >>> shorten("the heart is large .", frozenset({"the", "heart", "is", "."}), 4)
    'the heart is <unk>'
    """
    return " ".join(word if word in vocabulary else UNKNOWN for word in cleaned.split()[:cut])


def vocabulary(train: Sequence[str], cleaner: Cleaner, min_count: int) -> frozenset[str]:
    """Return the words with at least `min_count` occurrences in the cleaned reports of the train split."""
    counts: Counter[str] = Counter()
    for text, times in Counter(train).items():
        for word, number in Counter(clean(text, cleaner).split()).items():
            counts[word] += number * times
    return frozenset(word for word, number in counts.items() if number >= min_count)
