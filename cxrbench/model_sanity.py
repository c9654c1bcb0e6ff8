"""What can be checked of a checkpoint without any data: names, number of parameters, exact prompts, image tokens.

Nothing is loaded: the network is built without memory, only headers of the weights are read, and every byte once for
their hash. torch inside functions of the adapter only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cxrbench.anchors import Anchors, Prompt
from cxrbench.assets_lock import RECORD, Record, damage, read_record
from cxrbench.errors import CxrbenchError
from cxrbench.types import Generation, Image, Request, Sample

SIDE = 512
"""Pixels of the picture that prompts are encoded with."""

Open = Callable[[Mapping[str, str]], Any]
"""Makes the adapter over the folders that are here, with these `--set` settings."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `noted` where there is nothing to compare with."""

    what: str
    verdict: Literal["agrees", "differs", "noted"]
    told: str


def look(known: Anchors, folders: Mapping[str, Path], open_with: Open) -> Iterator[Finding]:
    """All checks of a checkpoint. What cannot even be opened is a single finding.

    Raises:
        CxrbenchError: only for a defect of the anchors themselves.
    """
    for place, folder in folders.items():
        yield from _fetched(place, folder)
    try:
        model = open_with({})
        plan, count = model.check()
    except CxrbenchError as error:
        yield Finding("names and shapes", "differs", _sentence(error))
        return
    if plan is None:
        yield Finding("names and shapes", "noted", "stock layout: compared when it is loaded")
    else:
        left = "; ".join(f"left out: {number} ({why})" for why, number in plan.told().items())
        yield Finding("names and shapes", "agrees", f"{len(plan.steps)} weights fit" + (f"; {left}" if left else ""))
    yield _parameters(known, count)
    yield Finding("weights", "noted", f"{model.identity()['weights']}; no hash of the published ones is known")
    for prompt in known.prompts:
        yield from _prompt(prompt, known.image_tokens, open_with)


def variant(known: Anchors, count: int | None) -> str:
    """Which of several published checkpoints has so many parameters; '' where that is not known."""
    return next((each.of for each in known.parameters if each.count == count), "")


def _sentence(error: CxrbenchError) -> str:
    return error.what + (f" (to do: {error.fix})" if error.fix else "")


def _fetched(place: str, folder: Path) -> Iterator[Finding]:
    """Whether a folder that was fetched from the hub still is what was fetched."""
    if not (folder / RECORD).is_file():
        return
    what = f"--{place} as fetched"
    try:
        record = read_record(folder)
    except CxrbenchError as error:
        yield Finding(what, "differs", _sentence(error))
        return
    lines = damage(folder, record, lambda *_: None)
    yield Finding(what, "differs" if lines else "agrees", "; ".join(lines) or _origin(record))


def _origin(record: Record) -> str:
    return f"{len(record.files)} files of {record.repository} at commit {record.commit}"


def _parameters(known: Anchors, count: int) -> Finding:
    if not known.parameters:
        return Finding("parameters", "noted", f"{count:,}; how many the published checkpoint has is not known")
    found = variant(known, count)
    if found:
        source = next(each.source for each in known.parameters if each.of == found)
        return Finding("parameters", "agrees", f"{count:,}, those of {found} ({source})")
    wanted = " or ".join(f"{each.count:,} ({each.of})" for each in known.parameters)
    return Finding("parameters", "differs", f"{count:,}, not {wanted}")


def _prompt(prompt: Prompt, tokens: int, open_with: Open) -> Iterator[Finding]:
    """The prompt letter by letter, and how many tokens its images take."""
    what = f"prompt, {prompt.target}"
    try:
        model = open_with({"target": prompt.target, **prompt.settings})
        request = _request(model, prompt)
        made = model.render(request)
        encoded = model.encode(request, [_picture() for _ in request.images])
    except CxrbenchError as error:
        yield Finding(what, "differs", _sentence(error))
        return
    except ValueError as error:  # the made-up sample holds nothing private, but the tokenizer's words may be long
        yield Finding(what, "differs", f"{type(error).__name__} while the processor made tensors")
        return
    if made == prompt.prompt:
        yield Finding(what, "agrees", f"letter by letter ({prompt.source})")
    else:
        yield Finding(what, "differs", _first_difference(prompt.prompt, made))
    if request.images:
        each = encoded.image_tokens / len(request.images)
        verdict: Literal["agrees", "differs"] = "agrees" if each == tokens else "differs"
        yield Finding(
            f"image tokens, {prompt.target}",
            verdict,
            f"{each:g} per image" + ("" if each == tokens else f", not {tokens}"),
        )


def _request(model: Any, prompt: Prompt) -> Request:
    images = tuple(Image(f"image-{view}", f"{view}.png", view) for view in prompt.views)
    sample = Sample("made-up", "made-up", None, "", images, images[0].image_id, dict(prompt.sections))
    request: Request = model.request(sample, "generate", Generation(), 0)
    return request


def _picture() -> NDArray[np.uint8]:
    """A grey slope: no model answers it, but every processor takes it."""
    line = np.linspace(0, 255, SIDE)
    return ((line[:, None] + line[None, :]) / 2).astype(np.uint8)


def _first_difference(wanted: str, made: str) -> str:
    """Where two texts part, with a few letters of each."""
    place = next((n for n, (a, b) in enumerate(zip(wanted, made, strict=False)) if a != b), min(len(wanted), len(made)))
    start = max(0, place - 10)
    return f"from letter {place + 1} on: {made[start : place + 20]!r}, not {wanted[start : place + 20]!r}"
