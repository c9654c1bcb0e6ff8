"""Signs of life of the workers of a scoring: how far each is, for whoever waits for it or looks at the run.

They lie beside what the workers hand over (parts.py) and decide nothing: one that is damaged, another user's or not
there is none. Touches parts and claims.
"""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict

from cxrbench.claims import BEAT, EXACT, MOST, Place, renew
from cxrbench.parts import Parts, exactly, read_own
from cxrbench.reading import SMALL

State = Literal["working", "done", "stopped", "failed"]
"""Of a worker; one that stopped was asked to."""


@dataclass(frozen=True, slots=True)
class Sign:
    """The last sign of life of a worker: `done` of `total` of its share, `made` of them by itself.

    `stage` is the annotator it is at (empty before the first), `note` what it could not do. `clock` is monotonic
    time on its machine, `wall` the time of day, both in seconds.
    """

    __pydantic_config__: ClassVar[ConfigDict] = EXACT
    rank: int
    world: int
    place: Place
    state: State
    stage: str
    done: int
    made: int
    total: int
    count: int
    clock: float
    wall: float
    note: str = ""


def signs_of(parts: Parts) -> list[Sign]:
    """The last sign of life of each worker, by share.

    Raises:
        CxrbenchError: as `Parts.exists`.
    """
    files = sorted(parts.folder.glob("r*.sign")) if parts.exists() else []
    return [sign for file in files if (sign := _read(file)) is not None]


def _read(file: Path) -> Sign | None:
    """A sign of life; None where it has just been removed, or is none."""
    try:
        sign: Sign = exactly(Sign).validate_json(read_own(file, SMALL))
    except (OSError, ValueError):
        return None
    counted = min(sign.done, sign.made, sign.total, sign.count) >= 0 and sign.place.pid >= 1
    return sign if counted and 0 <= sign.rank < sign.world <= MOST else None


class Life:
    """Shows that a worker lives and how far it is, every `BEAT` seconds and whenever its state changes.

    A disk that refuses a sign will refuse the rows, which says it better: nothing is raised.
    """

    def __init__(self, parts: Parts, rank: int, world: int) -> None:
        self._file, self._rank, self._world = parts.sign_file(rank), rank, world
        self._place, self._count = Place.here(), 0
        self._ended, self._showing = threading.Event(), threading.Lock()
        self.stage, self.note = "", ""
        self.done = self.made = self.total = 0
        self.show("working")
        self._thread = threading.Thread(target=self._keep_on, name="cxrbench-pulse", daemon=True)
        self._thread.start()

    def _keep_on(self) -> None:
        while not self._ended.wait(BEAT):
            self.show("working")

    def show(self, state: State) -> None:
        """Renew the sign."""
        with self._showing:
            self._count += 1
            sign = Sign(
                self._rank, self._world, self._place, state, self.stage, self.done, self.made, self.total,
                self._count, time.monotonic(), time.time(), self.note,
            )  # fmt: skip
            renew(self._file, asdict(sign))

    def end(self, state: State) -> None:
        """The last sign."""
        self._ended.set()
        self._thread.join()
        self.show(state)
