r"""Text in: strict decoding of files, and the named, versioned normalisations a task may ask for.

Pure functions over strings and bytes; touches errors only. A normalisation's version goes up whenever its output could
change, because its name is part of a task's hash and of every score's signature.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from cxrbench.errors import CxrbenchError, suggest

BOM = b"\xef\xbb\xbf"


def decode(data: bytes, where: str, *, skip_mark: bool = False) -> str:
    """Return `data` as text, or name the first byte that cannot be meant.

    Args:
        data: the whole content of a file, which must be UTF-8 without NUL bytes and without a byte order mark.
        where: the file (and archive member) for the message.
        skip_mark: pass over a byte order mark at the start, as JSON may have one.

    Raises:
        CxrbenchError: with the byte position; never with the text itself, which may be credentialed.
    """
    if data.startswith(BOM) and not skip_mark:
        raise CxrbenchError(
            "the file begins with a byte order mark: a spreadsheet or editor has rewritten it",
            where=f"{where}, byte 0",
            fix="use the file as it was downloaded, or save it as UTF-8 without a byte order mark",
        )
    nul = data.find(b"\0")
    if nul >= 0:
        raise CxrbenchError(
            "the file holds a NUL byte: it is damaged, or not a text file, or not UTF-8",
            where=f"{where}, byte {nul:,}",
            fix="get the file again, or convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)",
        )
    try:
        return data.decode("utf-8").removeprefix("\ufeff" if skip_mark else "")
    except UnicodeDecodeError as error:
        raise CxrbenchError(
            f"the file is not UTF-8: byte 0x{data[error.start]:02x} cannot stand there",
            where=f"{where}, byte {error.start:,}",
            fix="get the file again, or convert it to UTF-8 (iconv -f WINDOWS-1252 -t UTF-8)",
        ) from None


def unchanged(text: str) -> str:
    """Return the text as it is."""
    return text


def whitespace_v1(text: str) -> str:
    r"""Collapse every run of whitespace (line breaks too) to one blank and strip both ends.

    >>> whitespace_v1(" The heart is\n normal. ")
    'The heart is normal.'
    """
    return " ".join(text.split())


_MASKED_RAY = re.compile(r"(?<![^\W_])([xX])-X{4,}")
_MASK = r"""(?:\(\s*X{4,}\s*\)|<\s*X{4,}\s*>|"\s*X{4,}\s*"|X{4,}(?:'s\b)?)"""
_STRETCH = re.compile(rf"(?P<lead>[\s,;:/-]*){_MASK}(?:[\s,;:.!?/-]*{_MASK})*(?P<tail>[\s,;:.!?/-]*)")


def iu_v1(text: str) -> str:
    """`whitespace:v1`, then the de-identification mark XXXX of the Indiana collection taken out.

    The mark (a run of four or more capital X) hides a word that no reader of the image can know, also inside words.
    A text without a mark is exactly `whitespace:v1` of it, and no output holds a mark. In this order:

    1. `x-XXXX` is read as `x-ray` (the de-identifier took "ray" for a name), `X-XXXX` as `X-ray`.
    2. A stretch of marks, with the blanks, commas, slashes and hyphens that tied it to its neighbours, goes as a whole:
       `XXXX-year-old` leaves `year-old`, `pneumonia/XXXX.` leaves `pneumonia.`, `XXXX XXXX` leaves nothing;
       brackets or quotes around nothing but a mark go with it, and so does a possessive `'s`.
    3. Of the punctuation in the stretch the strongest (`.` `!` `?`, then `;`, `:`, `,`) stays behind the word before
       it. At the start of a text or sentence nothing stays, and at the end of a text only what ends a sentence.

    >>> iu_v1("Chest x-XXXX, XXXX. XXXX XXXX are clear. There are no XXXX of effusion.")
    'Chest x-ray. are clear. There are no of effusion.'
    """
    text = _MASKED_RAY.sub(r"\1-ray", whitespace_v1(text))
    return _STRETCH.sub(_without_marks, text).strip()


def _without_marks(stretch: re.Match[str]) -> str:
    """What stays in place of a stretch of marks, by rules 2 and 3 of `iu_v1`."""
    before, after = stretch.string[: stretch.start()][-1:], stretch.string[stretch.end() :][:1]
    matched = stretch.group()
    if before and after and not set(matched) & set(' .!?;:,(<"'):
        joints = [part[:1] for part in (stretch["lead"], stretch["tail"])]
        return joints[0] or joints[1]
    blank = "" if not before or before in "([<" or after in ")]>" else " "
    if not before or before in ".!?([<":
        return blank
    mark = next((char for group in (".!?", ";", ":", ",") for char in matched if char in group), "")
    if not after and mark not in ".!?":
        return ""
    return mark + blank


NORMALISATIONS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"none": unchanged, "whitespace:v1": whitespace_v1, "iu:v1": iu_v1}
)
"""Every normalisation a task file may name under `text`."""


def normalise(name: str, text: str) -> str:
    """Return `text` under the normalisation called `name`.

    Raises:
        CxrbenchError: there is no normalisation of that name.

    >>> normalise("whitespace:v1", "a  b")
    'a b'
    """
    try:
        function = NORMALISATIONS[name]
    except KeyError:
        raise CxrbenchError(
            f"there is no text normalisation called {name!r}{suggest(name, NORMALISATIONS)}",
            where="key `text` of the task",
            fix=f"use one of: {', '.join(NORMALISATIONS)}",
        ) from None
    return function(text)
