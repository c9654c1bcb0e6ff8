"""A reader study: blinded cases of runs as one offline form, and the key that says afterwards which report was whose.

The form holds neither names of models nor ids of samples. Which side a report stands on is drawn by an HMAC whose key
is made of the reference texts and the reports, so nobody who has only the form can work it out, and who makes the form
again gets the same bytes. Never torch.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cxrbench import __version__
from cxrbench.atomic import write_atomic
from cxrbench.data.samples import cluster_unit
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.hashed_ids import reference_key
from cxrbench.report import page
from cxrbench.report.explorer import BLOCK, LARGE, pictures_of
from cxrbench.report.explorer_data import Laid, lay
from cxrbench.report.explorer_images import Pictures, Progress, Thumbnails
from cxrbench.report.leaderboard import visible
from cxrbench.report.reader_study_terms import CHOICES, ERRORS, POINTS, SCALES, SIGNIFICANCE
from cxrbench.store import RunFolder, identity_hash

if TYPE_CHECKING:
    from cxrbench.config import Config
    from cxrbench.data.base import Roots

FORMAT = 1
KEY = "cxrbench reader study key"
RESPONSES = "cxrbench reader study responses"
REFERENCE = "reference"
"""The name of the reference where it is rated as one of the reports."""

Reference = Literal["shown", "hidden", "rated"]
Part = Literal["ratings", "errors", "preferences"]
PARTS: tuple[Part, ...] = ("ratings", "errors", "preferences")

ROOM = 24_000_000
"""Bytes of images in a form: few cases, so that they can be looked at closely."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a study asks: how many cases, how many of them once more with sides swapped, what is asked of each."""

    n: int
    repeats: int
    parts: tuple[Part, ...]
    reference: Reference = "shown"
    seed: int = 0
    pictures: Pictures = "all"


@dataclass(frozen=True, slots=True)
class Study:
    """A form and its key, not yet written. `left_out` counts samples that a run has no report of."""

    html: bytes
    key: Mapping[str, Any]
    cases: int
    repeats: int
    images: int
    left_out: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Draw:
    """Everything that is left to chance, from one secret: equal secrets draw alike."""

    secret: bytes

    def number(self, *parts: str) -> int:
        said = "\0".join(parts).encode("utf-8", "surrogatepass")
        return int.from_bytes(hmac.new(self.secret, said, hashlib.sha256).digest()[:8], "big")

    def shuffled(self, what: str, names: Sequence[str]) -> list[str]:
        return sorted(names, key=lambda name: (self.number(what, name), name))


def create(runs: Sequence[RunFolder], asked: Asked, config: Config, roots: Roots, progress: Progress) -> Study:
    """Draw the cases and make form and key.

    Raises:
        CxrbenchError: the runs do not belong side by side, too few samples, or nothing that can be asked.
    """
    laid = lay(runs)
    systems = [visible(side.name) for side in laid.sides] + ([REFERENCE] if asked.reference == "rated" else [])
    _check(asked, systems)
    draw = _Draw(_secret(laid, asked))
    usable = [
        at for at in range(len(laid.samples)) if all(side.said(laid.samples[at].sample_id) for side in laid.sides)
    ]
    if len(usable) < asked.n:
        raise CxrbenchError(
            f"{asked.n} cases were asked for, {len(usable)} samples have a report of every run",
            where="--n",
            fix=f"--n {len(usable)}" if usable else "runs with reports",
            code=Exit.UNDECIDED,
        )
    chosen = _cases(laid, usable, draw)[: asked.n]
    plan = _plan(chosen, laid, len(systems), asked, draw)
    drawn = pictures_of(_only(laid, chosen), config, roots, asked.pictures, progress, ROOM)
    name = hmac.new(draw.secret, b"study", hashlib.sha256).hexdigest()[:16]
    items = [_item(laid, drawn, asked, step) for step in plan]
    html = _html(laid, name, asked, items, drawn).encode()
    if len(html) > LARGE:
        raise CxrbenchError(
            f"the form would have {len(html) / 1e6:.0f} MB", fix="--n with fewer cases, or --pictures key"
        )
    return Study(
        html=html,
        key=_key(laid, name, asked, systems, plan),
        cases=len(chosen),
        repeats=sum(step.repeats is not None for step in plan),
        images=len(drawn.data),
        left_out=len(laid.samples) - len(usable),
        notes=drawn.notes,
    )


def _check(asked: Asked, systems: Sequence[str]) -> None:
    if len(set(systems)) < len(systems):
        raise CxrbenchError(f"a run has the name {REFERENCE!r}, which stands for the reference", where="--reference")
    if asked.n < 1 or not 0 <= asked.repeats <= asked.n:
        raise CxrbenchError("at least 1 case, and no more repeats than cases", where="--n, --repeats")
    if len(systems) < 2 and ("preferences" in asked.parts or asked.repeats):
        raise CxrbenchError(
            "one report of a case leaves nothing to prefer",
            where="--ask, --repeats",
            fix="name two runs, or --reference rated, or --ask ratings,errors",
        )
    if asked.repeats and "preferences" not in asked.parts:
        raise CxrbenchError(
            "repeats ask for a preference with the sides swapped",
            where="--repeats",
            fix="--ask preferences or --repeats 0",
        )


def _secret(laid: Laid, asked: Asked) -> bytes:
    """32 bytes that only holders of the references and the reports can make again."""
    digest = hashlib.sha256(b"cxrbench reader study v1\0" + reference_key(laid.samples))
    digest.update(f"{asked.n} {asked.repeats} {','.join(asked.parts)} {asked.reference} {asked.seed}".encode())
    for side in laid.sides:
        for sample in laid.samples:
            said = f"{sample.sample_id}\0{side.said(sample.sample_id)}"
            digest.update(hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest())
    return digest.digest()


def _cases(laid: Laid, usable: Sequence[int], draw: _Draw) -> list[int]:
    """Samples in the order in which they are taken: one of each patient before a second one of any."""
    by_patient: dict[str, list[int]] = defaultdict(list)
    for at in sorted(usable, key=lambda at: (draw.number("sample", laid.keys[at]), laid.keys[at])):
        by_patient[laid.patients[at]].append(at)
    ranked = [(turn, at) for some in by_patient.values() for turn, at in enumerate(some)]
    return [at for _, at in sorted(ranked, key=lambda each: (each[0], draw.number("sample", laid.keys[each[1]])))]


@dataclass(frozen=True, slots=True)
class _Step:
    """One screen: which sample, its systems from left to right, and which item it repeats with sides swapped."""

    name: str
    at: int
    order: tuple[int, ...]
    repeats: str | None = None


def _plan(chosen: Sequence[int], laid: Laid, systems: int, asked: Asked, draw: _Draw) -> list[_Step]:
    """Screens in order: every order of the systems equally often, repeats after all first readings."""
    orders = sorted(permutations(range(systems)))
    sides = draw.shuffled("sides", [laid.keys[at] for at in chosen])
    turn = {key: orders[number % len(orders)] for number, key in enumerate(sides)}
    reading = draw.shuffled("reading", [laid.keys[at] for at in chosen])
    place = {laid.keys[at]: at for at in chosen}
    steps = [_Step(f"c{number:04d}", place[key], turn[key]) for number, key in enumerate(reading, start=1)]
    by_key = {laid.keys[step.at]: step for step in steps}
    again = draw.shuffled("again", reading)[: asked.repeats]
    for number, key in enumerate(again, start=len(steps) + 1):
        first = by_key[key]
        steps.append(_Step(f"c{number:04d}", first.at, first.order[::-1], first.name))
    return steps


def _only(laid: Laid, chosen: Sequence[int]) -> Laid:
    """The same runs over the chosen samples."""
    return replace(laid, samples=tuple(laid.samples[at] for at in chosen))


def _item(laid: Laid, drawn: Thumbnails, asked: Asked, step: _Step) -> dict[str, Any]:
    """What the form shows of a screen."""
    sample = laid.samples[step.at]
    texts = [side.said(sample.sample_id) for side in laid.sides] + [sample.target]
    parts = ["preferences"] if step.repeats else list(asked.parts)
    return {
        "item": step.name,
        "parts": parts,
        "reports": [texts[number] for number in step.order],
        "reference": sample.target if asked.reference == "shown" else None,
        "sections": dict(sample.sections),
        "images": [list(image) for image in drawn.of.get(sample.sample_id, ())],
    }


def _key(laid: Laid, name: str, asked: Asked, systems: Sequence[str], plan: Sequence[_Step]) -> dict[str, Any]:
    runs = [identity_hash(side.run.manifest().identity) for side in laid.sides]
    runs += [""] * (len(systems) - len(runs))
    return {
        "what": KEY,
        "format": FORMAT,
        "study": name,
        "cxrbench": __version__,
        "task": str(laid.task["name"]),
        "access": laid.access,
        "cluster_unit": cluster_unit(laid.samples, laid.sides[0].run.manifest().cluster_unit),
        "parts": list(asked.parts),
        "reference": asked.reference,
        "seed": asked.seed,
        "systems": [{"name": system, "run": run} for system, run in zip(systems, runs, strict=True)],
        "items": {
            step.name: {
                "sample": laid.keys[step.at],
                "patient": laid.patients[step.at],
                "order": list(step.order),
                "repeats": step.repeats,
            }
            for step in plan
        },
    }


def _html(laid: Laid, name: str, asked: Asked, items: Sequence[Mapping[str, Any]], drawn: Thumbnails) -> str:
    app = page.text_of("explorer_text.js") + page.text_of("reader_study.js")
    blocks = [drawn.data[start : start + BLOCK] for start in range(0, len(drawn.data), BLOCK)]
    data = {
        "study": name,
        "format": FORMAT,
        "what": RESPONSES,
        "items": list(items),
        "points": list(POINTS),
        "scales": [[scale, *words] for scale, words in SCALES.items()],
        "errors": [[kind, words] for kind, words in ERRORS.items()],
        "significance": list(SIGNIFICANCE),
        "choices": list(CHOICES),
        "block": BLOCK,
    }
    return page.render(
        "reader_study.html.j2",
        policy=page.policy(app),
        title=visible(str(laid.task["title"])),
        study=name,
        access=laid.access,
        count=len(items),
        parts=asked.parts,
        shown=asked.reference == "shown",
        version=__version__,
        style=page.own("".join(page.text_of(each) for each in ("page.css", "explorer.css", "reader_study.css"))),
        app=page.own(app),
        data=page.data_json(data),
        blocks=[page.data_json(block) for block in blocks],
    )


def write_study(study: Study, form: Path, key: Path) -> None:
    """Write form and key, each its owner's alone.

    Raises:
        CxrbenchError: the key's place holds something else, such as the key of another study whose answers need it.
    """
    data = (json.dumps(study.key, indent=1, sort_keys=True) + "\n").encode()
    if form.resolve() == key.resolve():
        raise CxrbenchError("form and key cannot be one file", where=str(key), fix="--key with another name")
    if key.exists() and key.read_bytes() != data:
        raise CxrbenchError(
            "another file is there; were it the key of another study, its answers could never be read again",
            where=str(key),
            fix="--key with another name, or move the file away",
        )
    write_atomic(key, data)
    write_atomic(form, study.html)
