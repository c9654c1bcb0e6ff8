"""Presets, and the rules generation settings must keep; plan.py lays the layers over each other.

Touches types and errors only.

Layers, the later one wins: the defaults of `Generation` < the task's `generation` < the preset < what the user set.
`matched` therefore fixes how text is searched but leaves the length cap to the task (300 where it says nothing).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.types import Generation

Source = Literal["authors-eval", "authors-demo", "third-party", "ours"]

FIELDS: Mapping[str, type] = {each.name: type(each.default) for each in fields(Generation)}
"""Names and types of generation settings: what `--set KEY=VALUE` may set besides an adapter's and engine's own."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A named set of generation settings and where it comes from.

    `generation` holds fields of `Generation`; `dtype` is used where the user leaves it at auto; `source` says whose
    settings these are, `citation` where they can be read. `origin` says so setting by setting where they have several
    origins, and `quirks` names what a reader would not expect of the original and what differs here. `pictures` are
    the settings that are others where a picture is asked for. `unused` names what the source asks for and nothing here
    does: one sentence that every run is told.
    """

    name: str
    version: int
    source: Source
    citation: str
    generation: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    origin: Mapping[str, str] = field(default_factory=dict)
    quirks: tuple[str, ...] = ()
    pictures: Mapping[str, Any] = field(default_factory=dict)
    unused: str = ""


MATCHED = Preset(
    name="matched",
    version=1,
    source="ours",
    citation="docs/models-hf.md",
    generation={
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
    },
)
"""The same decoding for every model: greedy, one beam, no penalties."""


def pick(presets: Mapping[str, Preset], name: str | None, model: str) -> Preset:
    """Return the preset called `name`, `matched` when it is None.

    Raises:
        CxrbenchError: the model has no such preset.
    """
    wanted = name or MATCHED.name
    if wanted not in presets:
        raise CxrbenchError(
            f"{model} has no preset {wanted!r}{suggest(wanted, presets)}",
            where="--preset",
            fix=f"one of: {', '.join(sorted(presets))}",
        )
    return presets[wanted]


def _value(name: str, value: Any, where: str) -> Any:
    kind = FIELDS[name]
    try:
        number = float(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError):
        number = None
    if number is None or (kind is int and not number.is_integer()):
        wanted = "a whole number" if kind is int else "a number"
        raise CxrbenchError(f"{name} must be {wanted}, not {value!r}", where=where)
    return kind(number)


def _layer(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    for name in settings:
        if name not in FIELDS:
            raise CxrbenchError(
                f"there is no generation setting {name!r}{suggest(name, FIELDS)}",
                where=where,
                fix=f"one of: {', '.join(FIELDS)}",
            )
    return {name: _value(name, value, where) for name, value in settings.items()}


def refuse(made: Generation) -> None:
    """Raise for values generate() would reject late, or would ignore without a word."""
    rules = (
        (made.max_new_tokens >= 1, "max_new_tokens must be at least 1", ""),
        (0 <= made.temperature < float("inf"), "temperature must be 0 (greedy) or a positive number", ""),
        (0 < made.top_p <= 1, "top_p must lie in (0, 1]", ""),
        (made.top_k >= 0, "top_k must be 0 (off) or more", ""),
        (made.num_beams >= 1, "num_beams must be at least 1", ""),
        (0 < made.repetition_penalty < float("inf"), "repetition_penalty must be positive (1 is none)", ""),
        (made.no_repeat_ngram_size >= 0, "no_repeat_ngram_size must be 0 (off) or more", ""),
        (
            made.temperature > 0 or (made.top_p == 1 and made.top_k == 0),
            "top_p and top_k do nothing without sampling",
            "--set temperature=1, or leave them out",
        ),
        (
            made.temperature == 0 or made.num_beams == 1,
            "sampling and beam search cannot be combined: a row's draws would depend on its beams",
            "--set temperature=0 or --set num_beams=1",
        ),
    )
    for holds, what, fix in rules:
        if not holds:
            raise CxrbenchError(what, where="generation settings", fix=fix)


def resolve(task: Mapping[str, Any], preset: Preset, overrides: Mapping[str, Any]) -> Generation:
    """Merge the layers and check the result; values may be numbers or their text.

    Raises:
        CxrbenchError: an unknown name, a value of the wrong kind or range, or a pair that cannot go together.

    >>> resolve({"max_new_tokens": 128}, MATCHED, {"temperature": "0.7"})
    Generation(max_new_tokens=128, temperature=0.7, top_p=1.0, top_k=0, num_beams=1, repetition_penalty=1.0, \
no_repeat_ngram_size=0)
    """
    made = Generation()
    for settings, where in ((task, "the task's generation"), (preset.generation, f"preset {preset.name}")):
        made = replace(made, **_layer(settings, where))
    made = replace(made, **_layer(overrides, "--set"))
    refuse(made)
    return made


_NEUTRAL: Mapping[str, Any] = {
    "max_length": 20, "min_length": 0, "min_new_tokens": 0, "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0, "guidance_scale": 1.0, "penalty_alpha": 0.0, "max_time": None,
}  # fmt: skip
"""Entries of a generation_config.json that change texts and have no counterpart here, with the value that does nothing
(transformers' GenerationConfig)."""

_NEUTRAL_BEAMS: Mapping[str, Any] = {
    "length_penalty": 1.0, "early_stopping": False, "num_beam_groups": 1, "diversity_penalty": 0.0,
}  # fmt: skip
"""The same, of entries that only beam search reads."""

_NEUTRAL_DRAWS: Mapping[str, Any] = {
    "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "top_h": 0.0,
}  # fmt: skip
"""The same, of entries that only sampling reads."""


def _unused(body: Mapping[str, Any]) -> str:
    """What of a generation_config.json would change texts and is not done here; empty where there is nothing."""
    neutral = {
        **_NEUTRAL,
        **(_NEUTRAL_BEAMS if (body.get("num_beams") or 1) != 1 else {}),
        **(_NEUTRAL_DRAWS if body.get("do_sample") else {}),
    }
    if body.get("max_new_tokens") is not None:
        del neutral["max_length"]  # transformers passes it over, too
    asked = [f"{name} {body[name]!r}" for name, nothing in neutral.items() if body.get(name) not in (None, nothing)]
    if not asked:
        return ""
    cap = "; --set max_new_tokens=N caps a text" if "max_length" in neutral and "max_length" in body else ""
    return f"the checkpoint's generation_config.json asks for {', '.join(asked)}, which cxrbench does not do{cap}"


def documented(body: Mapping[str, Any], citation: str) -> Preset:
    """The preset a checkpoint's own generation_config.json stands for.

    Its file counts as the authors' demo settings: what `generate()` does when nobody says otherwise. With
    `do_sample`, unnamed values are the library's defaults (temperature 1, top-p 1, top-k 50); without it the sampling
    values in the file have no effect there and are left out here. What has no counterpart here is named in `unused`.
    """
    names = ["max_new_tokens", "num_beams", "repetition_penalty", "no_repeat_ngram_size"]
    settings: dict[str, Any] = dict(MATCHED.generation)
    if body.get("do_sample"):
        settings |= {"temperature": 1.0, "top_p": 1.0, "top_k": 50}
        names += ["temperature", "top_p", "top_k"]
    settings |= {name: body[name] for name in names if body.get(name) is not None}
    return Preset("documented", 1, "authors-demo", citation, settings, unused=_unused(body))
