"""What a model without a prompt of its own is asked: cxrbench's instructions, or the user's, filled with the sample.

Used by the adapters `hf` and `openai`, so that a checkpoint asked here and behind a server gets the same words. Nothing
here imports torch.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.models.adapter import IMAGE
from cxrbench.types import SECTIONS, Generation, Image, Message, Request, RequestKind, Sample

PROMPTS: Mapping[str, str] = {
    "findings": "Write the findings section of the radiology report for this chest X-ray.",
    "impression": "Write the impression section of the radiology report for this chest X-ray.",
    "report": "Write the radiology report for this chest X-ray, findings first, then the impression.",
    "answer": "",
}
"""cxrbench's own instructions, by what the task asks for (`target`); a question is its own instruction."""

OF_THE_IMAGE = " for this chest X-ray"
"""Left out of the instruction where the task offers no image."""

GIVEN = ("indication", "history", "technique", "comparison", "findings")
"""Sections that are named after the instruction when the task offers them, in this order."""

CHARS_PER_TOKEN, TOKENS_PER_IMAGE = 4, 576
"""Rough sizes for sorting requests by length and for rates, nothing else."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """The one user turn: the images, then the instruction with what the task offers.

    `target` chooses a built-in instruction, which `prompt` replaces ({indication} and other section names are filled
    in); `images` is key (one) or all.
    """

    settings: ClassVar[Mapping[str, str]] = {
        "prompt": "the instruction; {indication} and other section names are filled in",
        "target": "which built-in instruction: findings, impression or report",
        "images": "key (one image) or all; as the task says by default",
    }

    target: str = "findings"
    prompt: str | None = None
    images: str = "key"
    fields: frozenset[str] = frozenset()

    @classmethod
    def of(cls, extra: Mapping[str, str], images: str = "key") -> Instruction:
        """Read the `--set` keys named in `settings`; `images` is what counts where that key is not set.

        Raises:
            CxrbenchError: a value that is not known, a prompt with an unknown section or a stray brace.
        """
        prompt = extra.get("prompt")
        used = _choice({"images": images, **extra}, "images", ("key", "all"))
        return cls(_choice(extra, "target", tuple(PROMPTS)), prompt, used, _fields(prompt))

    @property
    def text(self) -> str:
        """The words that are asked, before a sample fills them."""
        return self.prompt if self.prompt is not None else PROMPTS[self.target]

    @property
    def consumes(self) -> frozenset[str]:
        """One or all images, the question, and the sections the prompt has room for."""
        given = self.fields if self.prompt is not None else frozenset(GIVEN)
        return frozenset({"question", "images" if self.images == "all" else "image"}) | given

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """Make the one request for a sample."""
        images = self._images_of(sample)
        text, used = self._fill(sample)
        inputs = [f"image:{image.view or 'unknown'}" for image in images] + used
        return Request(
            sample_id=sample.sample_id,
            kind=kind,
            messages=(Message("user", IMAGE * len(images) + text),),
            images=images,
            options=sample.options,
            inputs=tuple(inputs),
            generation=generation,
            seed=seed,
        )

    def _images_of(self, sample: Sample) -> tuple[Image, ...]:
        if self.images == "all" or not sample.images:
            return sample.images
        wanted = sample.key_image or sample.images[0].image_id
        return tuple(image for image in sample.images if image.image_id == wanted)

    def _fill(self, sample: Sample) -> tuple[str, list[str]]:
        """The text after the images, and names of what was used."""
        sections = {name: _plain(text) for name, text in sample.sections.items() if text.strip()}
        if self.prompt is not None:
            text = self.prompt.format(**{name: sections.get(name, "not given") for name in self.fields})
            used = [f"section:{name}" for name in SECTIONS if name in self.fields and name in sections]
        else:
            lead = PROMPTS[self.target] if sample.question is None else ""
            lead = lead if sample.images else lead.replace(OF_THE_IMAGE, "")
            given = [name for name in GIVEN if name in sections]
            lines = [f"{name.capitalize()}: {sections[name]}" for name in given]
            text, used = "\n".join([lead, *lines] if lead else lines), [f"section:{name}" for name in given]
        if sample.question is not None:
            text, used = "\n".join(part for part in (text, _plain(sample.question)) if part), [*used, "question"]
        return text, used


def rough_cost(request: Request) -> int:
    """Rough length of the prompt in tokens."""
    letters = sum(len(message.text) for message in request.messages)
    return letters // CHARS_PER_TOKEN + TOKENS_PER_IMAGE * len(request.images)


def parts_of(text: str) -> list[dict[str, str]]:
    """Split a message at its image markers into {"type": "image"} and {"type": "text", "text": ...} parts."""
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(text.split(IMAGE)):
        if number:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def _choice(extra: Mapping[str, str], key: str, allowed: tuple[str, ...]) -> str:
    value = extra.get(key, allowed[0])
    if value not in allowed:
        raise CxrbenchError(
            f"{key} must be one of {', '.join(allowed)}, not {value!r}{suggest(value, allowed)}", where=f"--set {key}="
        )
    return value


def _fields(prompt: str | None) -> frozenset[str]:
    """The section names a prompt has room for; raises for an unknown name, a stray brace or an image marker."""
    where = "--set prompt="
    try:
        found = {name for _, name, _, _ in string.Formatter().parse(prompt or "") if name is not None}
    except ValueError as error:
        raise CxrbenchError(f"the prompt has a stray brace: {error}", where=where, fix="write {{ and }}") from error
    unknown = sorted(found - set(SECTIONS))
    if unknown:
        raise CxrbenchError(
            f"the prompt names {unknown[0]!r}, which is no section{suggest(unknown[0], SECTIONS)}",
            where=where,
            fix=f"one of: {', '.join(SECTIONS)}",
        )
    if IMAGE in (prompt or ""):
        raise CxrbenchError(
            f"the prompt holds {IMAGE}; images are always put in front", where=where, fix="leave it out"
        )
    return frozenset(found)


def _plain(text: str) -> str:
    """A section of the data, without anything that would pass for an image."""
    return text.replace(IMAGE, "image").strip()
