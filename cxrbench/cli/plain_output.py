r"""What is printed steers no terminal: names and texts of other people's files may hold escape sequences.

Control characters and marks of writing direction leave as `\u001b` and the like, which means the same inside JSON.
Colours and the movements of a progress bar stay, on a terminal only; elsewhere a bar is its last line.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_HARMLESS = re.compile(r"\x1b\[(?:[0-9;]*m|2K|1A|\?25[lh])|\r")
"""What rich writes on a terminal: colours; for a bar the beginning of the line, erase it, up one, hide the cursor."""

_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    r"""A text in which nothing but its characters is left.

    >>> plain("a\x1b[2Jb\tc")
    'a\\u001b[2Jb\tc'
    """
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class _Plain:
    """A stream that writes plain texts; all else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._bar = ""

    def write(self, text: str) -> int:
        if not self._stream.isatty():
            if text.startswith("\r") and "\n" not in text:
                # A bar that is drawn again over itself: what it said before would be gone on a terminal too.
                self._bar = plain(text.strip("\r"))
                return len(text)
            if text:
                self.end_bar("" if text.startswith("\n") else "\n")
            text = text.removeprefix("\r").replace("\r\n", "\n")
        if _STEERING.search(text):
            kept = _HARMLESS.findall(text) if self._stream.isatty() else []
            parts = _HARMLESS.split(text) if kept else [text]
            text = "".join(plain(part) + mark for part, mark in zip(parts, [*kept, ""], strict=True))
        return int(self._stream.write(text))

    def end_bar(self, end: str = "\n") -> None:
        """Write the bar's last line, if there is one."""
        bar, self._bar = self._bar, ""
        if bar.strip():
            self._stream.write(bar + end)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def plain_output() -> Iterator[None]:
    """Print nothing but plain texts until the block ends, on both streams."""
    before = sys.stdout, sys.stderr
    made = _Plain(sys.stdout), _Plain(sys.stderr)
    sys.stdout, sys.stderr = made
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        with suppress(BrokenPipeError):  # who read the output has gone, and a bar is nothing to fail for
            for each in made:
                each.end_bar()
