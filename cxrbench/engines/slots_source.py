"""The requests of a window, taken up while the images of later ones are still being read. No torch.

A window of 128 is answered from its first chunk on instead of after its last image. What is taken when depends on the
order and the sizes of the requests alone, never on how fast a disk was: where the next one is not there yet, the loop
waits for it, so a window gives the same calls, bit by bit, however it arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import length_hint

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.models.base import Prepared


class Source:
    """Requests in order; `waited` is the seconds spent waiting for them, which are not the engine's.

    A sequence is there as a whole; anything else is pulled one by one, and `length_hint` says how many may come.
    `arrived` are all there have been, in order; `broken` is what reading failed with.
    """

    def __init__(self, requests: Iterable[Prepared], now: Callable[[], float]) -> None:
        there = isinstance(requests, Sequence)
        self.waited = 0.0
        self.arrived: list[Prepared] = []
        self._now = now
        self._most = length_hint(requests)
        self._coming: Iterator[Prepared] = iter(requests)
        self._seen: list[Prepared] = []
        self._kind: str | None = None
        self.broken: BaseException | None = None
        if there:
            self.wait_for_all()

    def __iter__(self) -> Iterator[Prepared]:
        """Those that wait, in order, pulling further ones as far as the caller looks; nothing is taken."""
        place = 0
        while place < len(self._seen) or self._pull():
            yield self._seen[place]
            place += 1

    @property
    def first(self) -> Prepared | None:
        """The next one; None at the end."""
        return next(iter(self), None)

    @property
    def here(self) -> Sequence[Prepared]:
        """Those that wait and have been seen."""
        return self._seen

    @property
    def most(self) -> int:
        """How many there may be still."""
        return max(len(self._seen), self._most - len(self.arrived) + len(self._seen))

    def take(self, chosen: Sequence[Prepared]) -> None:
        """These are being answered."""
        gone = {id(each) for each in chosen}
        self._seen = [each for each in self._seen if id(each) not in gone]

    def give_back(self, unanswered: Sequence[Prepared]) -> None:
        """These begin again, before all others."""
        self._seen = [*unanswered, *self._seen]

    def wait_for_all(self) -> None:
        """Pull what is left."""
        while self._pull():
            pass

    def _pull(self) -> bool:
        begun = self._now()
        try:
            each = next(self._coming, None)
        except Exception as error:
            self.broken = error  # reading failed, not the network: memory that ran out there is not the slots'
            raise
        finally:
            self.waited += self._now() - begun
        if each is None:
            return False
        self._kind = self._kind or each.request.kind
        if each.request.kind != self._kind:
            raise CxrbenchError(
                f"a batch holds requests of several kinds: {each.request.kind}, {self._kind}", code=Exit.INFRASTRUCTURE
            )
        self._seen.append(each)
        self.arrived.append(each)
        return True
