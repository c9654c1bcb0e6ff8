"""Which annotations and questions of a scoring are whose: shares of the keys under which they are found.

A key is a hash and alone decides, so that workers need no list, no lock and no clock. Touches claims and errors only.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import ConfigDict

from cxrbench.claims import EXACT, MOST
from cxrbench.errors import CxrbenchError, Exit

KEY = 16
"""Bytes of a key."""

SPACE = 1 << 64


def place(key: bytes) -> int:
    """Where a key of 16 bytes lies among all keys, from 0 to SPACE; keys are hashes and lie evenly."""
    return int.from_bytes(key[:8], "big")


def even(world: int) -> tuple[int, ...]:
    """Where each of so many shares begins, if all are equally wide.

    >>> even(2) == (0, SPACE // 2)
    True
    """
    return tuple(SPACE * rank // world for rank in range(world))


def fair(keys: Iterable[bytes], world: int) -> tuple[int, ...]:
    """Where each of so many shares begins, if all have equally many of these keys (or one less)."""
    places = sorted(map(place, keys))
    return (0, *(places[len(places) * rank // world] for rank in range(1, world))) if places else even(world)


@dataclass(slots=True)
class Share:
    """Which keys of a scoring are whose: worker `rank` has those from where its share begins to where the next does.

    The key alone decides: workers need no list, no lock and no clock, and one that starts late, or again, has the same
    share, whatever the stores hold by then. `held` are keys some worker has handed over already. A `dry` share
    annotates nothing and counts in `open` what it would; without a rank it counts for all.
    """

    rank: int | None = None
    begins: Sequence[int] = (0,)
    held: set[bytes] = field(default_factory=set)
    dry: bool = False
    open: set[bytes] = field(default_factory=set)

    def wants(self, key: bytes) -> bool:
        """Whether this process is to make what is found under a key of 16 bytes."""
        if self.rank is not None and owner(key, self.begins) != self.rank:
            return False
        if self.dry:
            self.open.add(key)
            return False
        return key not in self.held


def owner(key: bytes, begins: Sequence[int]) -> int:
    """Whose a key is. Of shares that begin at the same place the last has it, and the others have none."""
    return bisect_right(begins, place(key)) - 1


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the shares of the texts begin, and those of the questions to a judge (fewer, where it has few connections).

    A coordinator makes it so that all have as much to do; ranks, which have none, have equally wide shares. `failed`
    are questions (hexadecimal) that came to nothing earlier in this scoring: nobody asks them again.
    """

    __pydantic_config__: ClassVar[ConfigDict] = EXACT
    texts: tuple[int, ...]
    questions: tuple[int, ...]
    failed: tuple[str, ...] = ()

    def whole(self) -> bool:
        """Whether its shares have all keys between them."""
        return all(_divides(begins) for begins in (self.texts, self.questions))

    def failed_questions(self) -> list[bytes]:
        """The keys of `failed`.

        Raises:
            ValueError: one is none.
        """
        return [key_of(each) for each in self.failed]


def _divides(begins: Sequence[int]) -> bool:
    return 1 <= len(begins) <= MOST and begins[0] == 0 and all(a <= b <= SPACE for a, b in pairwise(begins))


class ElsewhereError(CxrbenchError):
    """What was asked for is being made by other workers; raised only in workers, after their own share of it."""

    def __init__(self) -> None:
        super().__init__("the rest of these texts is the share of other workers", code=Exit.INFRASTRUCTURE)


def key_of(text: Any) -> bytes:
    """The 16 bytes of a key in hexadecimal.

    Raises:
        ValueError: it is none.
    """
    key = bytes.fromhex(text) if isinstance(text, str) and len(text) == 2 * KEY else b""
    if len(key) != KEY:
        raise ValueError("no key")
    return key
