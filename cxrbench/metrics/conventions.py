"""Conventions: what is done to a report before its words are counted, as one table.

Papers print BLEU, ROUGE-L, METEOR and CIDEr under the same names for differently prepared texts, and the preparation
moves BLEU-4 by more than most published gains. Here each preparation has a name; metrics name one in their presets and
take the processed texts from `process` (or, shared between metrics, from the feature `tokens`). A processed text is a
string whose tokens are separated by whitespace. Touches metrics.base and, when one is asked for, the PTB tokenizer.

    data = conventions.fit("r2gen", corpus)                          # what must be learnt: {} or {"vocabulary": [...]}
    predictions, references = conventions.process("r2gen", predictions, references, conventions.words(data))
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from cxrbench.errors import CxrbenchError
from cxrbench.metrics import java, r2gen
from cxrbench.metrics.base import Corpus

Lexer = Literal["none", "ptb", "13a", "alphanumeric", "alphanumeric-porter"]


@dataclass(frozen=True, slots=True)
class Convention:
    """One way to prepare texts.

    lexer: how words are found; "none" leaves the text as it is. case: "kept" or "lower". cleaner: R2Gen's rule, if any;
    then references also lose their words with fewer than `min_count` occurrences in the train split (`<unk>`) and end
    after `cut` tokens, and `refuses` names the data set it must not be used on with the preset that fits there.
    `version` goes up whenever a processed text could change.
    """

    about: str
    lexer: Lexer = "none"
    case: Literal["kept", "lower"] = "kept"
    cleaner: r2gen.Cleaner | None = None
    min_count: int = 0
    cut: int = 0
    refuses: tuple[str, str] | None = None
    version: int = 1

    def settings(self) -> tuple[tuple[str, str], ...]:
        """The convention as `key:value` parts of a signature, with the identity of what others wrote and runs here."""
        if self.cleaner is None:
            tokens = "whitespace" if self.lexer == "none" else self.lexer
            return (("tokens", tokens), ("case", self.case), *_tools(self.lexer))
        return (("tokens", f"r2gen-{self.cleaner}.{self.version}"), ("case", "lower"), ("cut", str(self.cut)))


def _tools(lexer: Lexer) -> tuple[tuple[str, str], ...]:
    """Which CoreNLP, which nltk; "absent" where there is none (then nothing is scored either)."""
    if lexer == "ptb":
        return (("corenlp", java.identity(java.CORENLP_JAR)),)
    if lexer == "alphanumeric-porter":
        try:
            return (("nltk", importlib.metadata.version("nltk")),)
        except importlib.metadata.PackageNotFoundError:
            return (("nltk", "absent"),)
    return ()


CONVENTIONS: Mapping[str, Convention] = {
    "raw": Convention("texts as they are, case kept, split at whitespace"),
    "coco": Convention(
        "Stanford PTB tokens, lower case, punctuation tokens dropped (13: brackets stay)", "ptb", "lower"
    ),
    "r2gen": Convention(
        "R2Gen's IU cleaner on both sides; references: words seen < 3 times in train are <unk>, cut at 59 tokens",
        case="lower",
        cleaner="iu",
        min_count=3,
        cut=59,
        refuses=("mimic-cxr", "r2gen-mimic"),
        version=2,
    ),
    "r2gen-mimic": Convention(
        "R2Gen's MIMIC cleaner on both sides; references: words seen < 10 times in train are <unk>, cut at 99 tokens",
        case="lower",
        cleaner="mimic",
        min_count=10,
        cut=99,
        refuses=("iu-xray", "r2gen"),
        version=2,
    ),
    "sacrebleu": Convention("mteval-v13a tokens, case kept", "13a"),
    "rouge-score": Convention("runs of a-z and 0-9, lower case", "alphanumeric", "lower"),
    "rouge-score-porter": Convention(
        "runs of a-z and 0-9, lower case, Porter stems of words longer than 3", "alphanumeric-porter", "lower"
    ),
}


def find(name: str) -> Convention:
    """Return the convention called `name`."""
    if name not in CONVENTIONS:
        raise CxrbenchError(f"there is no text convention {name!r}", fix=f"one of: {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def ready(name: str) -> str | None:
    """None when texts can be processed here, else one sentence of what is needed."""
    lexer = find(name).lexer
    if lexer == "ptb":
        from cxrbench.metrics import ptb

        return ptb.ready()
    if lexer == "alphanumeric-porter":
        from importlib.util import find_spec  # importing nltk itself takes half a second

        if find_spec("nltk") is None:
            return "needs the Porter stemmer of nltk: pip install rouge-score"
    return None


def fit(name: str, corpus: Corpus) -> dict[str, Any]:
    """Return what a convention learns from the corpus, as JSON data: `{}` or `{"vocabulary": [sorted words]}`.

    Raises:
        CxrbenchError: the convention belongs to another data set, there is no vocabulary and no train split, or the
            vocabulary is empty.
    """
    convention = find(name)
    if convention.refuses is not None and corpus.dataset == convention.refuses[0]:
        raise CxrbenchError(
            f"the preset {name} is R2Gen's protocol for another data set, not for {corpus.dataset}",
            where=f"preset {name}",
            fix=f"use the preset {convention.refuses[1]}",
        )
    if convention.cleaner is None:
        return {}
    if corpus.vocabulary is not None:
        if not corpus.vocabulary:
            raise _no_vocabulary(name, "the given vocabulary is empty")
        return {"vocabulary": sorted(corpus.vocabulary)}
    if corpus.train is None:
        raise _no_vocabulary(name, "there is no train split here")
    learnt = _learn(corpus.train, convention.cleaner, convention.min_count)
    if not learnt:
        seen = f"none occurs {convention.min_count} times in the {len(corpus.train())} training report(s)"
        raise _no_vocabulary(name, seen)
    return {"vocabulary": list(learnt)}


@lru_cache(maxsize=2)
def _learn(train: Callable[[], Sequence[str]], cleaner: r2gen.Cleaner, min_count: int) -> tuple[str, ...]:
    """Return the sorted vocabulary of a train split; kept, as four metrics ask for that of one and the same split."""
    return tuple(sorted(r2gen.vocabulary(train(), cleaner, min_count)))


def _no_vocabulary(name: str, why: str) -> CxrbenchError:
    return CxrbenchError(
        f"the preset {name} needs the words of the training reports, and {why}",
        where=f"preset {name}",
        fix="add --vocabulary FILE (one word per line), or --task NAME for a task with a train split",
    )


def words(data: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the vocabulary in the data of a context (what `fit` made, possibly with more beside it), or None."""
    return frozenset(data["vocabulary"]) if "vocabulary" in data else None


def process(
    name: str, predictions: Sequence[str], references: Sequence[str], vocabulary: frozenset[str] | None = None
) -> tuple[list[str], list[str]]:
    """Return the processed predictions and references, in order. Equal texts are processed once.

    Args:
        name: a key of `CONVENTIONS`.
        predictions: any number of texts.
        references: any number of texts.
        vocabulary: for the R2Gen conventions, the words that are not `<unk>` (see `words`); others ignore it.

    Raises:
        CxrbenchError: an R2Gen convention without a vocabulary.
    """
    convention = find(name)
    if convention.cleaner is not None and vocabulary is None:
        raise _no_vocabulary(name, "none were given")
    if convention.lexer == "none" and convention.cleaner is None:
        return list(predictions), list(references)
    if convention.cleaner is not None and vocabulary is not None:
        return _r2gen(convention.cleaner, convention.cut, predictions, references, vocabulary)
    distinct = list(dict.fromkeys((*predictions, *references)))
    done = dict(zip(distinct, _lex(convention)(distinct), strict=True))
    return [done[text] for text in predictions], [done[text] for text in references]


def _r2gen(
    cleaner: r2gen.Cleaner, cut: int, predictions: Sequence[str], references: Sequence[str], known: frozenset[str]
) -> tuple[list[str], list[str]]:
    """Both sides as the tokenizer of the protocol would have decoded them."""
    left = {text: r2gen.clean_prediction(text, cleaner) for text in dict.fromkeys(predictions)}
    right = {text: r2gen.shorten(r2gen.clean(text, cleaner), known, cut) for text in dict.fromkeys(references)}
    return [left[text] for text in predictions], [right[text] for text in references]


def _lex(convention: Convention) -> Callable[[list[str]], list[str]]:
    if convention.lexer == "ptb":
        from cxrbench.metrics import ptb

        return ptb.tokenize
    return {"13a": _each(mteval_13a), "alphanumeric": _each(alphanumeric), "alphanumeric-porter": _porter}[
        convention.lexer
    ]


def _each(one: Callable[[str], str]) -> Callable[[list[str]], list[str]]:
    return lambda texts: [one(text) for text in texts]


_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_SYMBOL = re.compile(r"([!-&(-+/:-@\[-`{-~])")
_STOP_AFTER_OTHER = re.compile(r"([^0-9])([.,])")
_STOP_BEFORE_OTHER = re.compile(r"([.,])([^0-9])")
_DASH_AFTER_DIGIT = re.compile(r"([0-9])(-)")


def mteval_13a(text: str) -> str:
    """Tokenize as NIST's mteval-v13a does, the default of sacrebleu.

    ASCII symbols other than apostrophe, hyphen, full stop and comma stand alone; full stop and comma do unless between
    digits; a hyphen does after a digit.

    >>> mteval_13a("Heart: 4.8 cm, enlarged (mild).")
    'Heart : 4.8 cm , enlarged ( mild ) .'
    """
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = _SYMBOL.sub(r" \1 ", f" {text} ")
    text = _STOP_AFTER_OTHER.sub(r"\1 \2 ", text)
    text = _STOP_BEFORE_OTHER.sub(r" \1 \2", text)
    return " ".join(_DASH_AFTER_DIGIT.sub(r"\1 \2 ", text).split())


_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")


def alphanumeric(text: str) -> str:
    """Return lower-case runs of a-z and 0-9 separated by one space, the words of the package rouge_score.

    >>> alphanumeric("No effusion/edema. T9-level")
    'no effusion edema t9 level'
    """
    return _NOT_ALPHANUMERIC.sub(" ", text.lower()).strip()


def _porter(texts: list[str]) -> list[str]:
    from nltk.stem.porter import PorterStemmer

    stem = lru_cache(maxsize=None)(PorterStemmer().stem)
    return [" ".join(stem(word) if len(word) > 3 else word for word in alphanumeric(text).split()) for text in texts]
