"""The words between the engine and whoever answers: a prompt, a reply, an asker. Touches rubric and errors only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from cxrbench.judges.rubric import Messages, Rubric

PENDING = "not judged yet"
"""How the reason of a pair begins that the same command will ask for again."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to a judge.

    `sample_ids` are the samples it is asked for: several where their texts are equal. `part` names the question where
    a rubric is asked several times per sample (`phrases`, `candidate/3`).
    """

    rubric: Rubric
    messages: Messages
    repeat: int = 0
    part: str = ""
    sample_ids: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """Generation settings as they are sent; every repeat has a seed of its own."""
        given = self.rubric.settings.model_dump(exclude_none=True)
        return given | {"seed": given["seed"] + self.repeat}

    def key(self, who: Mapping[str, Any]) -> bytes:
        """16 bytes of BLAKE2b over all that could change the answer; `who` is the asker's identity."""
        asked = {
            "rubric": self.rubric.hash,
            "who": dict(who),
            "settings": self.settings,
            "messages": self.messages,
            "repeat": self.repeat,
            "part": self.part,
        }
        text = json.dumps(asked, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one prompt: a text, or an `outcome` of types.FAILURES with a `detail` in our own words."""

    outcome: str
    text: str | None = None
    finish_reason: str = "none"
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    seconds: float = 0.0
    attempts: int = 1
    model: str | None = None
    fingerprint: str | None = None
    body: bytes | None = None
    detail: str = ""
    who: Mapping[str, Any] | None = None
    """As whom the judge answered, if that was found out only now; see `Choosing`."""


Answered = Callable[[int, Reply], None]


class Asker(Protocol):
    """Who answers: a server, a model on this machine, a file of recorded responses."""

    @property
    def name(self) -> str:
        """As the user wrote it: `openai:MODEL`, `local:DIR`, `replay:FILE`."""

    @property
    def keeps(self) -> bool:
        """Whether its answers are worth keeping."""

    def identity(self) -> Mapping[str, Any]:
        """All that tells this judge from another: part of every key."""

    def ask(self, prompts: Sequence[Prompt], answered: Answered) -> None:
        """Ask all; `answered` is called once for each with its number, as the replies come."""

    def stopped(self) -> str:
        """Why no further prompt would be asked, or what to do about it ("" while that is not so)."""


@runtime_checkable
class Choosing(Protocol):
    """An asker that may ask in more ways than one and finds out which is possible: a server with or without a schema.

    Answers to two ways of asking are answers to two questions, so the way is part of the identity.
    """

    def ways(self, rubric: Rubric) -> Sequence[Mapping[str, Any]]:
        """Identities it may answer by this rubric as, the preferred one first; one, once that is known."""

    def settle(self, rubric: Rubric, who: Mapping[str, Any]) -> None:
        """From now on ask by this rubric as one of `ways`: answers of that kind are there already."""


@runtime_checkable
class Divisible(Protocol):
    """An asker whose limits (connections, rates) are those of all workers together."""

    def workers(self, most: int) -> int:
        """How many of `most` workers may ask side by side; 0: one process has to ask everything."""

    def divided(self, rank: int, world: int) -> Asker:
        """The asker of worker `rank` of so many, with its part of the limits."""


@dataclass(slots=True)
class Usage:
    """What answers took, those of the store included; `asked` counts those asked for now, `failures` failed calls.

    Tokens and cost are of all completions that came, `lost` of which were neither read nor are asked for now.
    """

    used: int = 0
    asked: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    uncounted: int = 0
    cost: float = 0.0
    priced: int = 0
    lost: int = 0
    structured: int = 0
    seconds: list[float] = field(default_factory=list)
    served: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
