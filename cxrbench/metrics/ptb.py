"""The PTB tokenizer of COCO caption evaluation: Stanford CoreNLP 3.4.1 from pycocoevalcap, lower case.

The same program as in pycocoevalcap's wrapper, and the same tokens but for two kinds of texts:

- A text with a character CoreNLP takes for a line end shifts all later texts by one line in the wrapper; here that
  character counts as a space.
- A text that ends in a single letter and a full stop ("hepatitis C."): CoreNLP keeps that full stop unless the next
  text starts with a word like "The", so in the wrapper the tokens depend on the text that follows. Here they depend on
  the text alone: the line between two texts holds a word after which the full stop is always kept, and is thrown away.

Texts go through pipes; the wrapper writes a file into its package folder, which fails where that is read-only. Touches
the standard library and java.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.metrics import java

DROPPED = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)
"""The 17 tokens on pycocoevalcap's list; 13 are really dropped. The four brackets are in capitals there, and the tokens
are not, so brackets stay."""

CHUNK = 50_000
"""Texts one Java process is given."""

_LINE_ENDS = str.maketrans(dict.fromkeys("\n\r\v\f\u2028\u2029", " "))
"""Characters after which CoreNLP starts a new line (U+0085 is none: it reads that as an ellipsis)."""

_BETWEEN = "x"

_PATIENCE = 600.0
"""Seconds until a Java process that has not finished a chunk (two seconds as a rule) is given up."""


def ready() -> str | None:
    """None when texts can be tokenized here, else one sentence of what is needed."""
    return java.ready(java.CORENLP_JAR)


def tokenize(texts: Sequence[str]) -> list[str]:
    """Return each text as lower-case PTB tokens joined by single spaces, punctuation dropped.

    Raises:
        CxrbenchError: Java or pycocoevalcap is not there, or CoreNLP fails.
    """
    tokenized: list[str] = []
    for start in range(0, len(texts), CHUNK):
        tokenized += _lines(texts[start : start + CHUNK])
    return tokenized


def _lines(texts: Sequence[str]) -> Iterator[str]:
    """Tokens of texts, one Java process."""
    lines = _run("".join(f"{text.translate(_LINE_ENDS)}\n{_BETWEEN}\n" for text in texts)).split("\n")
    if len(lines) != 2 * len(texts) + 1:
        raise CxrbenchError(
            f"the PTB tokenizer returned {len(lines)} lines for {len(texts)} texts",
            where="CoreNLP in pycocoevalcap",
            fix="use the preset raw, which needs no PTB tokens",
            code=_CODE,
        )
    for line in lines[:-1:2]:
        yield " ".join(token for token in line.rstrip().split(" ") if token not in DROPPED)


def _run(text: str) -> str:
    """What CoreNLP makes of a text; its error stream (a word count, and warnings that quote characters) is dropped."""
    java_, (jar,) = java.require(java.CORENLP_JAR)
    options = ("-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase")
    try:
        done = subprocess.run(  # noqa: S603  (a fixed argument list, no shell)
            java.command(java_, *options, heap="512m"),
            input=text.encode("utf-8", "replace"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            env=java.environment(),
        )
    except subprocess.TimeoutExpired:
        reason = f"it did not finish within {_PATIENCE:g} s"
    except OSError as error:
        reason = f"Java does not start: {error.strerror}"
    else:
        if done.returncode == 0:
            return done.stdout.decode("utf-8")
        reason = f"Java ended with exit code {done.returncode}"
    raise CxrbenchError(f"the PTB tokenizer failed: {reason}", where=java_, fix="cxrbench doctor", code=_CODE)


_CODE = Exit.INFRASTRUCTURE
