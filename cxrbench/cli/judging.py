"""The options of every command that asks a judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError

if TYPE_CHECKING:
    from cxrbench.features.base import Resources
    from cxrbench.judges.build import Wish
    from cxrbench.judges.engine import Judge
    from cxrbench.types import Access

JudgeName = Annotated[
    str | None,
    typer.Option("--judge", help="Who judges: openai:MODEL, local:DIR, replay:FILE.", show_default=False),
]
JudgeUrl = Annotated[str | None, typer.Option("--judge-url", help="Server of an openai: judge.", show_default=False)]
JudgeRepeats = Annotated[int, typer.Option("--judge-repeats", min=1, help="Ask so often; their spread is reported.")]
JudgeSet = Annotated[
    list[str] | None,
    typer.Option("--judge-set", help="key=value of the judge, docs/judges.md; repeatable.", show_default=False),
]
Rubrics = Annotated[
    list[Path] | None,
    typer.Option("--rubric", help="A rubric in place of the built-in one of its name; repeatable.", show_default=False),
]
MaxRequests = Annotated[
    int | None, typer.Option("--max-requests", min=1, help="Stop after so many requests.", show_default=False)
]
MaxCost = Annotated[
    float | None, typer.Option("--max-cost", help="Stop before more is spent; needs prices.", show_default=False)
]


def wish_of(
    name: str | None,
    url: str | None,
    repeats: int,
    rubrics: list[Path] | None,
    max_requests: int | None,
    max_cost: float | None,
    settings: list[str] | None,
) -> Wish | None:
    """What the options say of a judge; None where none is named.

    Raises:
        CxrbenchError: an option of a judge without one.
    """
    from cxrbench.judges.build import FORMS, Wish

    if name is not None:
        made = opt.key_values(settings)
        return Wish(name, url, repeats, tuple(rubrics or ()), max_requests, max_cost, made)
    given: dict[str, object] = {
        "--judge-url": url,
        "--rubric": rubrics,
        "--max-requests": max_requests,
        "--max-cost": max_cost,
    }
    given |= {"--judge-set": settings, "--judge-repeats": repeats if repeats != 1 else None}
    for flag, value in given.items():
        if value is not None:
            raise CxrbenchError(f"{flag} needs a judge", where=flag, fix=f"--judge: {FORMS}")
    return None


def judge_of(wish: Wish | None, access: Access, resources: Resources) -> Judge | None:
    """The judge, with the guard asked for the access of these data; None where none is named."""
    if wish is None:
        return None
    from cxrbench.engines.chat import Chat
    from cxrbench.judges.build import build

    trusted = resources.config.trusted_endpoints if resources.config is not None else {}
    return build(wish, access, trusted, resources.device, Chat)


def with_judge(resources: Resources, wish: Wish | None, access: Access) -> Resources:
    """The same resources with the judge that was asked for."""
    return replace(resources, judge=judge_of(wish, access, resources))
